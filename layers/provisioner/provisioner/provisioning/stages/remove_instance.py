"""REMOVING_INSTANCE: the project's own database instance, its secret, and its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers import rds as driver
from provisioner.drivers.secrets import remove_secret
from provisioner.errors import ErrorType
from provisioner.jobs.outcome import StageOutcome, Waiting
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.location import location_of
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectStore

if TYPE_CHECKING:
    from mypy_boto3_rds.client import RDSClient
    from mypy_boto3_secretsmanager.client import SecretsManagerClient

_FINAL = ErrorType.REMOVAL_FAILED


def remove_instance(
    job: JobInput,
    *,
    projects: ProjectStore,
    secrets_manager: SecretsManagerClient,
    rds: Callable[[str], RDSClient],
    naming: Naming,
    only_this_job: bool,
) -> StageOutcome | Waiting:
    """Have the instance deleted, wait until it is gone, then remove its secret and its place.

    One that AWS is still creating cannot be deleted yet: the stage waits for that too. The secret
    goes after what it opens, and the place last: a crash in between leaves nothing that nobody
    finds. A project whose item is gone says by its payload whether it may have an instance.

    Raises:
        PROJECT_NOT_FOUND: nobody knows in which region it is.
        REMOVAL_FAILED: AWS refuses, for a reason that stays; and what `translated` raises.
    """
    location = location_of(job, projects)
    project, project_id = location.project, location.project_id
    instance = None if project is None else project.instance
    is_asked_for = bool(job.payload.get("is_dedicated"))
    if instance is None and (project is not None or not is_asked_for):
        return StageOutcome(skipped=True, check="the project has no instance of its own")
    names = naming.names(project_id)
    owner = naming.owner(project_id, location.job_id)
    claim = owner.claim(only_this_job=only_this_job)
    client = rds(location.region)
    left = driver.remove_instance(client, names.instance, claim=claim, final=_FINAL)
    if left is not None:
        return Waiting(f"the database instance {left.identifier} is {left.status}")
    remove_secret(secrets_manager, name=names.instance_secret, claim=claim, final=_FINAL)
    is_another_s = driver.find_instance(client, names.instance, claim=owner.owns, final=_FINAL)
    if instance is not None and is_another_s is None:
        projects.unplace(project_id, instance.identifier, instance.quota, job.job_id)
    return StageOutcome(check=f"no database instance named {names.instance} is left to remove")
