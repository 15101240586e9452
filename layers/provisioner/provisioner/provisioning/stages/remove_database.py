"""REMOVING_DATABASE: the tenant database, its roles, its secret, and its place on the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.drivers.secrets import remove_secret
from provisioner.errors import ErrorType, failure
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.database_access import Engines, admin_connection
from provisioner.provisioning.location import location_of
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.placement import cluster_of
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.removal import explained
from provisioner.provisioning.stages.check_data import DatabaseLooks

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient


def remove_database(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    engines: Engines,
    looks: DatabaseLooks,
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
        ProvisioningError: as `DatabaseEngine` and `translated` say.
    """
    location = location_of(job, projects)
    tenant = naming.names(location.project_id).tenants[location.engine]
    owner = naming.owner(location.project_id, location.job_id)
    claim = owner.claim(only_this_job=only_this_job)
    if location.project is None:
        raise failure(
            ErrorType.REMOVAL_FAILED,
            f"The project {location.project_id} is gone, and with it where its database is.",
        )
    instance = location.project.instance
    cluster = cluster_of(location.project, catalogue, ErrorType.REMOVAL_FAILED)
    # What is in an instance that goes too needs no server that answers.
    goes_with_instance = instance is not None and (
        not only_this_job or instance.job_id == location.job_id
    )
    is_needed = False
    if cluster is not None and not goes_with_instance:
        admin = admin_connection(secrets_manager, cluster, ErrorType.REMOVAL_FAILED)
        is_needed = explained(
            job,
            lambda: engines[cluster.engine](admin).remove_database(
                tenant, owner, only_this_job=only_this_job
            ),
            lambda: looks[cluster.engine](admin, tenant, claim, with_dump=False),
            is_cleanup=only_this_job,
        )
    remove_secret(
        secrets_manager,
        name=naming.names(location.project_id).database_secret,
        claim=claim,
        final=ErrorType.REMOVAL_FAILED,
    )
    if cluster is not None and instance is None and not is_needed:
        projects.unplace(location.project_id, cluster.cluster_id, cluster.quota, job.job_id)
    if goes_with_instance:
        check = f"the database {tenant.database} goes with its instance"
    else:
        check = f"no database named {tenant.database} is left to remove"
    return StageOutcome(output={"is_dedicated": instance is not None}, check=check)
