"""The platform's own login on a cluster that projects share, and the secret that holds it.

ROTATING_LOGIN. Server and secret cannot change in one transaction. So the new password is kept as
`AWSPENDING` before the server gets it, and that version is tried by whoever finds `AWSCURRENT`
refused: by this stage, and by all that log in as the platform (`Servers`).
"""

from provisioner.aws_types import SecretsManagerClient
from provisioner.drivers.database_engine import DatabaseEngine
from provisioner.drivers.secrets import (
    CURRENT,
    PENDING,
    Secret,
    SharedSecret,
    Version,
    describe_secret,
    ensure_version,
    find_version,
    make_current,
    version_id,
)
from provisioner.errors import ErrorType, failure
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.jobs.store import JobStore
from provisioner.provisioning.clusters import Cluster, ClusterCatalogue
from provisioner.provisioning.database_access import Servers
from provisioner.provisioning.engine import new_password
from provisioner.provisioning.job_types.rotate_cluster_login import RotateClusterLoginPayload
from provisioner.provisioning.login_locks import LoginLocks

_CHANGE = ErrorType.DATABASE_CHANGE_FAILED

#: As docs/cluster-mysql.sql asks for; 41 letters and digits are 244 bits.
_PASSWORD_LENGTH = 41


def ensure_login_rotated(
    job: JobInput,
    *,
    jobs: JobStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    servers: Servers[DatabaseEngine],
    login_locks: LoginLocks,
) -> StageOutcome:
    """Store a new password, give it to the server, log in with it, and make it the current one.

    It begins with the login that the server takes, so a run that dies anywhere is taken up by the
    next, of whatever attempt or job. Two runs of one attempt make the same version.

    Raises:
        INVALID_PAYLOAD: there is no such cluster, or its secret is not the platform's to rotate.
        PROJECT_BUSY: another job rotates it.
        INSUFFICIENT_PERMISSIONS: the server takes no login that the secret holds.
        DATABASE_CREATION_FAILED: the cluster's parameter is wrong.
        DATABASE_CHANGE_FAILED, and what `DatabaseEngine` and `translate_errors` raise.
    """
    cluster = _find_cluster(job.payload_as(RotateClusterLoginPayload), catalogue)
    described = describe_secret(secrets_manager, cluster.admin_secret_arn, final=_CHANGE)
    _refuse_foreign(cluster, described, catalogue)
    login_locks.acquire(described.arn, job, jobs)
    version = version_id(described.name, f"{job.job_id}/{job.attempt}")
    in_force = _settle(cluster, described, secrets_manager, servers)
    if in_force.version_id != version:
        secret = Secret(described.arn, in_force.value)
        login = ensure_version(
            secrets_manager,
            secret,
            version=version,
            stage=PENDING,
            make=lambda: in_force.value | {"password": new_password(_PASSWORD_LENGTH)},
            final=_CHANGE,
        )
        # With the new one where another run of this attempt has set it a moment ago.
        engine = servers.connect_with(cluster, in_force.value, or_with=login)
        engine.change_admin_password(str(login["password"]))
        if not servers.connect_with(cluster, login).accepts_admin():
            raise failure(
                ErrorType.INSUFFICIENT_PERMISSIONS,
                "The database server does not let us log in with the new password of the "
                "platform's login.",
                f"login {login['username']}: the password that was just set is wrong",
            )
        make_current(secrets_manager, secret, version=version, final=_CHANGE)
    return StageOutcome(
        output={
            "region": cluster.region,
            "cluster_id": cluster.cluster_id,
            "engine": str(cluster.engine),
            "secret_arn": described.arn,
            "secret_version_id": version,
        },
        check=f"the server took the new password of {in_force.value['username']}",
    )


def _find_cluster(payload: RotateClusterLoginPayload, catalogue: ClusterCatalogue) -> Cluster:
    cluster = catalogue.cluster(payload.region, payload.engine, payload.cluster_id)
    if cluster is None:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"cluster_id: no {payload.engine} cluster {payload.cluster_id} of {payload.region} is "
            "described; name one that has a parameter.",
        )
    return cluster


def _refuse_foreign(cluster: Cluster, secret: SharedSecret, catalogue: ClusterCatalogue) -> None:
    """Refuse a secret that something else rotates, or that opens another server as well.

    Raises:
        INVALID_PAYLOAD: the message says what to do.
    """
    why = ""
    if secret.managed_by:
        why = f"is managed by {secret.managed_by}; let that service rotate it"
    elif secret.is_rotated:
        why = (
            "is rotated by Secrets Manager itself; use `aws secretsmanager rotate-secret`, or end "
            "that with `aws secretsmanager cancel-rotate-secret` and send the job again"
        )
    else:
        here = cluster.host, cluster.port
        for other in catalogue.all_clusters():
            if other.admin_secret_arn in secret.ids and (other.host, other.port) != here:
                why = (
                    f"is that of the cluster {other.cluster_id} of {other.region} as well, which "
                    "is another server; give each a secret of its own and send the job again"
                )
    if why:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"cluster_id: the admin secret of {cluster.cluster_id}, {secret.name}, {why}.",
        )


def _settle(
    cluster: Cluster,
    secret: SharedSecret,
    secrets_manager: SecretsManagerClient,
    servers: Servers[DatabaseEngine],
) -> Version:
    """Return the version of the secret whose login the server takes, once it is the current one.

    It is the pending one where a run has died after it had changed the password.

    Raises:
        INSUFFICIENT_PERMISSIONS: the server takes neither.
    """
    for label in (CURRENT, PENDING):
        found = find_version(secrets_manager, secret.arn, label=label, final=_CHANGE)
        if found is not None and servers.connect_with(cluster, found.value).accepts_admin():
            if label == PENDING:
                kept = Secret(secret.arn, found.value)
                make_current(secrets_manager, kept, version=found.version_id, final=_CHANGE)
            return found
    raise failure(
        ErrorType.INSUFFICIENT_PERMISSIONS,
        f"The database server takes neither the current nor the pending password of the secret "
        f"{secret.name}; as the server's master user give the login the current one, and send the "
        "job again.",
        f"secret {secret.name}: neither {CURRENT} nor {PENDING} is taken",
    )
