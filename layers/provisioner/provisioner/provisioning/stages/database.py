"""The tenant database, its schema, and the secret with its login.

CREATING_DATABASE, CREATING_SCHEMA, REPAIRING_DATABASE, REPAIRING_SCHEMA,
ROTATING_DATABASE_PASSWORD, REMOVING_DATABASE.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from provisioner.aws_types import SecretsManagerClient
from provisioner.drivers.database_engine import DatabaseEngine, TenantNames
from provisioner.drivers.drift import Drift, Remaining
from provisioner.drivers.secrets import (
    Secret,
    ensure_secret,
    ensure_version,
    find_secret,
    make_current,
    read_secret,
    remove_secret,
    replace_secret_value,
    version_id,
)
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.ownership import Ownership
from provisioner.provisioning.clusters import Cluster, ClusterCatalogue
from provisioner.provisioning.database_access import Servers
from provisioner.provisioning.engine import connection_string, login_secret, new_password
from provisioner.provisioning.first_run import may_exist
from provisioner.provisioning.job_types.provision_project import (
    CREATING_DATABASE,
    ProvisionProjectPayload,
)
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.placement import cluster_of, ensure_placed, known_cluster_of
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.removal import remove_or_explain
from provisioner.provisioning.stages.find_project import locate, read_project
from provisioner.provisioning.stages.repair import report

#: What is said of a secret that tells of the cluster as it was.
_STALE = (
    "The cluster is described otherwise by now, and a repair writes no secret; "
    "rotate the database password, which does."
)

_CREATION, _CHANGE = ErrorType.DATABASE_CREATION_FAILED, ErrorType.DATABASE_CHANGE_FAILED


def ensure_database(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    kms_key_arn: str | None,
    servers: Servers[DatabaseEngine],
    naming: Naming,
) -> StageOutcome:
    """Place the project on a cluster, write its secret, and make the database agree with it.

    The secret comes first and is the truth: whatever a crash leaves, the next run reads the
    password from it.

    Raises:
        QUOTA_EXCEEDED: no cluster has room.
        CONFLICT: a database, role or secret of that name is not the project's.
        DATABASE_CREATION_FAILED, and what `DatabaseEngine` raises.
    """
    payload = job.payload_as(ProvisionProjectPayload)
    names, owner = naming.names(payload.project_id), naming.owner(payload.project_id, job.job_id)
    tenant = names.tenants[payload.database.engine]
    cluster = ensure_placed(
        payload,
        projects=projects,
        catalogue=catalogue,
        # An instance of its own is where the project's item says.
        may_be_placed=payload.database.size is not None or may_exist(job),
    )
    secret = _ensure_login(
        secrets_manager, tenant, cluster, owner, name=names.database_secret, kms_key_arn=kms_key_arn
    )
    password = partial(_read_password, secrets_manager, secret)
    ways = servers.ways_in(cluster, _CREATION, may_be_kept=True)
    if cluster.is_dedicated:
        ways[0].prepare_server()
    ways[0].ensure_database(tenant, password, owner)
    seen = [way.check_database(tenant, password()) for way in ways]
    output = {
        "cluster_id": cluster.cluster_id,
        "engine": str(cluster.engine),
        "version": seen[0].server_version,
        "database_name": tenant.database,
        "schema_name": tenant.schema,
        "secret_arn": secret.arn,
    }
    return StageOutcome(output=output | _address(cluster, tenant), check=seen[-1].check)


def _address(cluster: Cluster, tenant: TenantNames) -> dict[str, Any]:
    """Return where customers reach a tenant's database."""
    return {
        "host": cluster.endpoint.host,
        "port": cluster.endpoint.port,
        "connection_string": connection_string(cluster, tenant),
    }


def _ensure_login(
    secrets_manager: SecretsManagerClient,
    tenant: TenantNames,
    cluster: Cluster,
    owner: Ownership,
    *,
    name: str,
    kms_key_arn: str | None,
) -> Secret:
    login = partial(login_secret, cluster, tenant)
    secret = ensure_secret(
        secrets_manager,
        name=name,
        owner=owner,
        make=lambda: login(new_password()),
        kms_key_arn=kms_key_arn,
        final=_CREATION,
    )
    right = login(str(secret.value["password"]))
    if secret.value != right:
        # The cluster's description has changed since the secret was written.
        replace_secret_value(secrets_manager, secret, right, final=_CREATION)
    return secret


def _read_password(secrets_manager: SecretsManagerClient, secret: Secret) -> str:
    """Return the password of a login as it is now."""
    value = secret.value
    if not secret.is_new:
        value = read_secret(secrets_manager, secret.arn, final=_CREATION)
    return str(value["password"])


def ensure_schema(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    servers: Servers[DatabaseEngine],
    naming: Naming,
) -> StageOutcome:
    """Make the schema in the database that CREATING_DATABASE has made.

    Raises:
        CONFLICT: a schema of that name is not the project's.
        SCHEMA_CREATION_FAILED, and what `DatabaseEngine` raises.
    """
    payload = job.payload_as(ProvisionProjectPayload)
    tenant = naming.names(payload.project_id).tenants[payload.database.engine]
    cluster = _placed_before(job, payload, catalogue) or ensure_placed(
        payload, projects=projects, catalogue=catalogue
    )
    login = read_secret(
        secrets_manager,
        naming.names(payload.project_id).database_secret,
        final=ErrorType.SCHEMA_CREATION_FAILED,
    )
    ways = servers.ways_in(cluster, _CREATION, may_be_kept=True)
    ways[0].ensure_schema(tenant, naming.owner(payload.project_id, job.job_id))
    checks = [way.check_schema(tenant, str(login["password"])) for way in ways]
    return StageOutcome(output={"schema_name": tenant.schema}, check=checks[-1])


def _placed_before(
    job: JobInput, payload: ProvisionProjectPayload, catalogue: ClusterCatalogue
) -> Cluster | None:
    """Return the shared cluster that CREATING_DATABASE has just used, if it is still known here."""
    cluster_id = job.outputs.get(CREATING_DATABASE, {}).get("cluster_id")
    if not job.is_first or cluster_id is None or payload.database.size is not None:
        return None
    return catalogue.kept_cluster(payload.region, payload.database.engine, cluster_id)


def ensure_database_repaired(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    servers: Servers[DatabaseEngine],
    naming: Naming,
) -> StageOutcome:
    """Put right what has drifted of the database; its password and its secret stay as they are.

    Raises:
        PROJECT_NOT_FOUND, CONFLICT: the project is gone; the database or a role is not its own.
        DATABASE_CHANGE_FAILED: something is not there; and what `DatabaseEngine` raises.
    """
    project = read_project(job, projects)
    cluster = known_cluster_of(project, catalogue, _CHANGE)
    names = naming.names(project.project_id)
    tenant = names.tenants[cluster.engine]
    login: dict[str, Any] = {}

    def password() -> str:
        login.update(_read_login(secrets_manager, names.database_secret))
        return str(login["password"])

    repairs = servers.connect(cluster, _CHANGE).repair_database(
        tenant, password, naming.owner(project.project_id, job.job_id)
    )
    now, right = _address(cluster, tenant), login_secret(cluster, tenant, str(login["password"]))
    moved = [
        Drift("result of the project", f"database.{name}")
        for name in _find_changes((project.result or {}).get("database", {}), now)
    ]
    stale = [
        Remaining(
            f"secret {names.database_secret}",
            name,
            _STALE,
        )
        for name in _find_changes(login, right)
    ]
    repaired, remaining = (*repairs.repaired, *moved), (*repairs.remaining, *stale)
    return report(
        replace(repairs, repaired=repaired, remaining=remaining), {"database": now} if moved else {}
    )


def _find_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name what is not any more as it was, in order."""
    return sorted(name for name in now if before.get(name) != now[name])


def _read_login(secrets_manager: SecretsManagerClient, name: str) -> dict[str, Any]:
    try:
        return read_secret(secrets_manager, name, final=_CHANGE)
    except ProvisioningError as error:
        if error.type is not _CHANGE:
            raise
        raise failure(
            _CHANGE,
            f"The secret {name} with the database login of the project is not there; restore it in "
            "Secrets Manager, and send the job again.",
            error.cause,
        ) from None


def ensure_schema_repaired(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    servers: Servers[DatabaseEngine],
    naming: Naming,
) -> StageOutcome:
    """Put right what has drifted of the schema, in the database that REPAIRING_DATABASE found.

    Raises:
        PROJECT_NOT_FOUND: the project is gone.
        CONFLICT: a schema of that name is not the project's.
        DATABASE_CHANGE_FAILED, and what `DatabaseEngine` raises.
    """
    project = read_project(job, projects)
    cluster = known_cluster_of(project, catalogue, _CHANGE)
    return report(
        servers.connect(cluster, _CHANGE).repair_schema(
            naming.names(project.project_id).tenants[cluster.engine],
            naming.owner(project.project_id, job.job_id),
        )
    )


# Longer than other functions by what it says of a crash between its steps.
def ensure_password_rotated(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    servers: Servers[DatabaseEngine],
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
            `translate_errors` raise.
    """
    project = read_project(job, projects)
    cluster = known_cluster_of(project, catalogue, _CHANGE)
    names, owner = naming.names(project.project_id), naming.owner(project.project_id, job.job_id)
    tenant = names.tenants[cluster.engine]
    secret = _require_secret(secrets_manager, names.database_secret, owner)
    version = version_id(names.database_secret, f"{job.job_id}/{job.attempt}")
    login = ensure_version(
        secrets_manager,
        secret,
        version=version,
        stage="AWSPENDING",
        make=lambda: login_secret(cluster, tenant, new_password()),
        final=_CHANGE,
    )
    password = str(login["password"])
    ways = servers.ways_in(cluster, _CHANGE)
    ways[0].change_password(
        tenant,
        password,
        owner,
        current=lambda: read_secret(secrets_manager, secret.arn, final=_CHANGE).get("password"),
        before_commit=lambda: make_current(secrets_manager, secret, version=version, final=_CHANGE),
    )
    checks = [way.check_password(tenant, password) for way in ways]
    return StageOutcome(
        output={"secret_arn": secret.arn, "secret_version_id": version},
        check=checks[-1],
    )


def _require_secret(secrets_manager: SecretsManagerClient, name: str, owner: Ownership) -> Secret:
    secret = find_secret(secrets_manager, name=name, owner=owner, final=_CHANGE)
    if secret is None:
        raise failure(
            _CHANGE,
            "The secret with the database login of the project is not there.",
            f"secret {name}: no such secret",
        )
    return secret


# Longer than other functions as one order holds: the server, then the secret, then the place.
def remove_database(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    servers: Servers[DatabaseEngine],
    naming: Naming,
    only_this_job: bool,
) -> StageOutcome:
    """Remove the database and its roles, then the secret with its login, then give up the place.

    The secret goes after what it opens: a crash in between leaves a secret without a database, and
    never a database whose password nobody knows. What is not there is as good as removed. A project
    of which another job's part is left keeps its place, so that the next job finds it.

    Raises:
        TIMEOUT: the database is in use in a way that can pass.
        REMOVAL_FAILED: something is still there, and the message names what keeps it, if that is
            known; or nobody knows where the database is, since the project is gone or its cluster
            is described no more.
        ProvisioningError: as `DatabaseEngine` and `translate_errors` say.
    """
    location = locate(job, projects, naming)
    tenant = location.names.tenants[location.engine]
    claim = location.owner.claim(only_this_job=only_this_job)
    if location.project is None:
        raise failure(
            ErrorType.REMOVAL_FAILED,
            f"The project {location.project_id} is gone, and with it where its database is.",
        )
    instance = location.project.instance
    cluster = cluster_of(location.project, catalogue, ErrorType.REMOVAL_FAILED)
    # What is in an instance that goes too needs no server that answers.
    goes_with_instance = instance is not None and (
        not only_this_job or instance.job_id == location.owner.job_id
    )
    is_needed = False
    if cluster is not None and not goes_with_instance:
        server = servers.connect(cluster, ErrorType.REMOVAL_FAILED)
        is_needed = remove_or_explain(
            job,
            lambda: server.remove_database(tenant, location.owner, only_this_job=only_this_job),
            lambda: server.find_obstacles(tenant, claim, with_dump=False),
            is_cleanup=only_this_job,
        )
    secret = location.names.database_secret
    remove_secret(secrets_manager, name=secret, claim=claim, final=ErrorType.REMOVAL_FAILED)
    if cluster is not None and instance is None and not is_needed:
        projects.places.unplace(location.project_id, cluster.cluster_id, cluster.quota, job.job_id)
    check = (
        f"the database {tenant.database} goes with its instance"
        if goes_with_instance
        else f"no database named {tenant.database} is left to remove"
    )
    return StageOutcome(output={"is_dedicated": instance is not None}, check=check)
