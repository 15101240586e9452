"""REMOVING_DATABASE: the tenant database, its roles, its secret, and its place on the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.drivers.secrets import remove_secret
from provisioner.errors import ErrorType
from provisioner.jobs.stage_run import JobInput, StageOutcome
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.location import cluster_at, location_of
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.stages.create_database import EngineFactory, admin_connection

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient


def remove_database(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    engine: EngineFactory,
    naming: Naming,
    only_this_job: bool,
) -> StageOutcome:
    """Remove the database and its roles, then the secret with its login, then give up the place.

    The secret goes after what it opens: a crash in between leaves a secret without a database, and
    never a database whose password nobody knows. What is not there is as good as removed.

    Raises:
        REMOVAL_FAILED: something is still there, or the project's cluster is described no more;
            and what `DatabaseEngine` and `translated` raise.
    """
    location = location_of(job, projects)
    names = naming.names(location.project_id)
    claim = naming.owner(location.project_id, job.job_id).claim(only_this_job=only_this_job)
    cluster = cluster_at(location, catalogue, ErrorType.REMOVAL_FAILED)
    is_still_there = False
    if cluster is not None:
        database = engine(admin_connection(secrets_manager, cluster))
        is_still_there = database.remove_database(names.tenant, claim)
    remove_secret(
        secrets_manager, name=names.database_secret, claim=claim, final=ErrorType.REMOVAL_FAILED
    )
    # What another job of the project made keeps the place; what is not the project's never had it.
    if cluster is not None and not (is_still_there and only_this_job):
        projects.unplace(location.project_id, cluster.cluster_id)
    return StageOutcome(check=f"no database named {names.tenant.database} is left to remove")
