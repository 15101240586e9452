"""CREATING_DATABASE: the tenant database and the secret with its login."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from provisioner.drivers.database_engine import TenantNames
from provisioner.drivers.secrets import (
    Secret,
    ensure_secret,
    read_secret,
    replace_secret_value,
)
from provisioner.errors import ErrorType
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.ownership import Ownership
from provisioner.provisioning.clusters import Cluster, ClusterCatalogue
from provisioner.provisioning.database_access import AdminLogins, Engines, ways_in
from provisioner.provisioning.engine import connection_string, login_secret, new_password
from provisioner.provisioning.first_run import may_exist
from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.placement import ensure_placed
from provisioner.provisioning.projects import ProjectStore

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient


def ensure_database(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    logins: AdminLogins,
    engines: Engines,
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
    tenant = naming.names(payload.project_id).tenants[payload.database.engine]
    owner = naming.owner(payload.project_id, job.job_id)
    cluster = ensure_placed(
        payload,
        projects=projects,
        catalogue=catalogue,
        # An instance of its own is where the project's item says.
        may_be_placed=payload.database.size is not None or may_exist(job),
    )
    secret = _ensure_login(
        secrets_manager, naming.names(payload.project_id).database_secret, tenant, cluster, owner
    )

    def password() -> str:
        final = ErrorType.DATABASE_CREATION_FAILED
        value = secret.value
        if not secret.is_new:
            value = read_secret(secrets_manager, secret.arn, final=final)
        return str(value["password"])

    ways = ways_in(engines, cluster, logins.connection(cluster))
    if cluster.is_dedicated:
        ways[0].prepare_server()
    ways[0].ensure_database(tenant, password, owner)
    seen = [way.check_database(tenant, password()) for way in ways]
    return StageOutcome(
        output={
            "cluster_id": cluster.cluster_id,
            "engine": str(cluster.engine),
            "version": seen[0].server_version,
            "host": cluster.endpoint.host,
            "port": cluster.endpoint.port,
            "database_name": tenant.database,
            "schema_name": tenant.schema,
            "connection_string": connection_string(cluster, tenant),
            "secret_arn": secret.arn,
        },
        check=seen[-1].check,
    )


def _ensure_login(
    secrets_manager: SecretsManagerClient,
    name: str,
    tenant: TenantNames,
    cluster: Cluster,
    owner: Ownership,
) -> Secret:
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
    return secret
