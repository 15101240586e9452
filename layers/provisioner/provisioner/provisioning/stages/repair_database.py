"""REPAIRING_DATABASE: the roles, limits and privileges of the tenant database."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from provisioner.drivers.drift import Drift, Remaining
from provisioner.drivers.secrets import read_secret
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.database_access import Engines, admin_connection, ways_in
from provisioner.provisioning.engine import connection_string, login_secret
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.placement import known_cluster_of
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.stages.repair_report import outcome, repaired_project

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient

_FINAL = ErrorType.DATABASE_CHANGE_FAILED


def ensure_database_repaired(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    engines: Engines,
    naming: Naming,
) -> StageOutcome:
    """Put right what has drifted of the database; its password and its secret stay as they are.

    Raises:
        PROJECT_NOT_FOUND: the project is gone.
        CONFLICT: the database or a role is not the project's.
        DATABASE_CHANGE_FAILED: the database, a role or the secret is not there; and what
            `DatabaseEngine` raises.
    """
    project = repaired_project(job, projects)
    cluster = known_cluster_of(project, catalogue, _FINAL)
    tenant = naming.names(project.project_id).tenants[cluster.engine]
    secret_name = naming.names(project.project_id).database_secret
    login: dict[str, Any] = {}

    def password() -> str:
        login.update(_read_login(secrets_manager, secret_name))
        return str(login["password"])

    ways = ways_in(engines, cluster, admin_connection(secrets_manager, cluster, _FINAL))
    repairs = ways[0].repair_database(
        tenant, password, naming.owner(project.project_id, job.job_id)
    )
    right = login_secret(cluster, tenant, str(login["password"]))
    stale = sorted(name for name in right if login.get(name) != right[name])
    shown = (project.result or {}).get("database", {})
    now = {
        "host": cluster.endpoint.host,
        "port": cluster.endpoint.port,
        "connection_string": connection_string(cluster, tenant),
    }
    moved = sorted(name for name, value in now.items() if shown.get(name) != value)
    return outcome(
        replace(
            repairs,
            repaired=(
                *repairs.repaired,
                *(Drift("result of the project", f"database.{name}") for name in moved),
            ),
            remaining=(
                *repairs.remaining,
                *(
                    Remaining(
                        f"secret {secret_name}",
                        name,
                        "The cluster is described otherwise by now, and a repair writes no secret; "
                        "rotate the database password, which does.",
                    )
                    for name in stale
                ),
            ),
        ),
        {"database": now} if moved else None,
    )


def _read_login(secrets_manager: SecretsManagerClient, name: str) -> dict[str, Any]:
    try:
        return read_secret(secrets_manager, name, final=_FINAL)
    except ProvisioningError as error:
        if error.type is not _FINAL:
            raise
        raise failure(
            _FINAL,
            f"The secret {name} with the database login of the project is not there; restore it in "
            "Secrets Manager, and send the job again.",
            error.cause,
        ) from None
