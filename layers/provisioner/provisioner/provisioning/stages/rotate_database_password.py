"""ROTATING_DATABASE_PASSWORD: a new password of the app role, in the secret and in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.drivers.secrets import (
    ensure_version,
    find_secret,
    make_current,
    read_secret,
    version_id,
)
from provisioner.errors import ErrorType, failure
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.database_access import Engines, admin_connection, ways_in
from provisioner.provisioning.engine import login_secret, new_password
from provisioner.provisioning.job_types.rotate_database_password import (
    RotateDatabasePasswordPayload,
)
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.placement import known_cluster_of
from provisioner.provisioning.projects import ProjectStore

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient

_FINAL = ErrorType.DATABASE_CHANGE_FAILED


def ensure_password_rotated(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    engines: Engines,
    naming: Naming,
) -> StageOutcome:
    """Keep the new login as a version that nobody reads, then let secret and database change.

    The secret's label moves within the transaction that changes the password, as its last step: an
    error before the commit leaves the old password in force, and until the label has moved, in the
    secret too. Only between the two, for the one statement that commits, does the secret hold what
    the server does not take yet. A run that dies there leaves it so; the next one, of whatever
    attempt or job, begins with what the secret holds, so that `AWSPREVIOUS`, of which there is only
    one, is always the login that works. A second run in the same attempt finds the version that the
    first has written, and ends what it began.

    Raises:
        PROJECT_NOT_FOUND: the project is gone.
        CONFLICT: the secret or the role is not the project's.
        DATABASE_CHANGE_FAILED: the secret or the role is not there; and what `DatabaseEngine` and
            `translated` raise.
    """
    payload = validate_payload(RotateDatabasePasswordPayload, job.payload)
    project = projects.get(payload.project_id)
    if project is None:
        raise failure(
            ErrorType.PROJECT_NOT_FOUND,
            f"project_id: there is no project {payload.project_id} any more.",
        )
    cluster = known_cluster_of(project, catalogue, _FINAL)
    tenant = naming.names(payload.project_id).tenants[cluster.engine]
    secret_name = naming.names(payload.project_id).database_secret
    owner = naming.owner(payload.project_id, job.job_id)
    secret = find_secret(secrets_manager, name=secret_name, owner=owner, final=_FINAL)
    if secret is None:
        raise failure(
            _FINAL,
            "The secret with the database login of the project is not there.",
            f"secret {secret_name}: no such secret",
        )
    version = version_id(secret_name, f"{job.job_id}/{job.attempt}")
    login = ensure_version(
        secrets_manager,
        secret,
        version=version,
        stage="AWSPENDING",
        make=lambda: login_secret(cluster, tenant, new_password()),
        final=_FINAL,
    )
    password = str(login["password"])
    ways = ways_in(engines, cluster, admin_connection(secrets_manager, cluster, _FINAL))
    ways[0].change_password(
        tenant,
        password,
        owner,
        current=lambda: read_secret(secrets_manager, secret.arn, final=_FINAL).get("password"),
        before_commit=lambda: make_current(secrets_manager, secret, version=version, final=_FINAL),
    )
    checks = [way.check_password(tenant, password) for way in ways]
    return StageOutcome(
        output={"secret_arn": secret.arn, "secret_version_id": version},
        check=checks[-1],
    )
