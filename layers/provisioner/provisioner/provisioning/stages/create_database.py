"""CREATING_DATABASE: the tenant database and the secret with its login."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from provisioner.drivers.database_engine import AdminConnection, DatabaseEngine, TenantNames
from provisioner.drivers.secrets import ensure_secret, read_secret, replace_secret_value
from provisioner.errors import ErrorType
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput, StageOutcome
from provisioner.ownership import Ownership
from provisioner.provisioning.clusters import Cluster, ClusterCatalogue
from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.placement import ensure_placed
from provisioner.provisioning.projects import ProjectStore

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient

#: Makes the engine of a cluster from the platform's login on it.
type EngineFactory = Callable[[AdminConnection], DatabaseEngine]

#: Letters and digits only, so that a password needs no escaping in a URL; 43 of them are 256 bits.
_PASSWORD_ALPHABET = string.ascii_letters + string.digits
_PASSWORD_LENGTH = 43


def ensure_database(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    engine: EngineFactory,
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
    payload = validate_payload(ProvisionProjectPayload, job.payload)
    names = naming.names(payload.project_id)
    owner = naming.owner(payload.project_id, job.job_id)
    cluster = ensure_placed(payload, projects=projects, catalogue=catalogue)
    secret_arn = _ensure_login(secrets_manager, names.database_secret, names.tenant, cluster, owner)

    def password() -> str:
        final = ErrorType.DATABASE_CREATION_FAILED
        return str(read_secret(secrets_manager, secret_arn, final=final)["password"])

    database = engine(admin_connection(secrets_manager, cluster))
    database.ensure_database(names.tenant, password, owner)
    check = database.check_database(names.tenant, password())
    return StageOutcome(
        output={
            "cluster_id": cluster.cluster_id,
            "host": cluster.host,
            "port": cluster.port,
            "database_name": names.tenant.database,
            "schema_name": names.tenant.schema,
            "connection_string": connection_string(cluster, names.tenant),
            "secret_arn": secret_arn,
        },
        check=check,
    )


def admin_connection(
    secrets_manager: SecretsManagerClient,
    cluster: Cluster,
    final: ErrorType = ErrorType.DATABASE_CREATION_FAILED,
) -> AdminConnection:
    """Read how the platform reaches a cluster.

    Args:
        secrets_manager: Secrets Manager.
        cluster: the cluster.
        final: the error type of an admin secret that is not there, or not what it must be.
    """
    value = read_secret(secrets_manager, cluster.admin_secret_arn, final=final)
    return AdminConnection(
        host=cluster.host,
        port=cluster.port,
        user=str(value["username"]),
        password=str(value["password"]),
        sslmode=cluster.sslmode,
    )


def connection_string(cluster: Cluster, tenant: TenantNames, password: str | None = None) -> str:
    """Write the URL of the tenant database; without a password unless one is given.

    Source: PostgreSQL documentation, "Connection URIs".
    """
    login = tenant.app_role if password is None else f"{tenant.app_role}:{password}"
    return (
        f"postgresql://{login}@{cluster.host}:{cluster.port}/{tenant.database}"
        f"?sslmode={cluster.sslmode}"
    )


def new_password() -> str:
    """Make a password from the operating system's cryptographic generator."""
    return "".join(secrets.choice(_PASSWORD_ALPHABET) for _ in range(_PASSWORD_LENGTH))


def login_secret(cluster: Cluster, tenant: TenantNames, password: str) -> dict[str, Any]:
    """Return what the secret with the app role's login holds."""
    return {
        "engine": "postgresql",
        "host": cluster.host,
        "port": cluster.port,
        "dbname": tenant.database,
        "schema": tenant.schema,
        "username": tenant.app_role,
        "password": password,
        "connection_string": connection_string(cluster, tenant, password),
    }


def _ensure_login(
    secrets_manager: SecretsManagerClient,
    name: str,
    tenant: TenantNames,
    cluster: Cluster,
    owner: Ownership,
) -> str:
    login = partial(login_secret, cluster, tenant)
    secret = ensure_secret(
        secrets_manager,
        name=name,
        owner=owner,
        make=lambda: login(new_password()),
        final=ErrorType.DATABASE_CREATION_FAILED,
    )
    right = login(str(secret.value["password"]))
    if secret.value != right:
        # The cluster's description has changed since the secret was written.
        replace_secret_value(
            secrets_manager, secret, right, final=ErrorType.DATABASE_CREATION_FAILED
        )
    return secret.arn
