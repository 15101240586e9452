"""REPAIRING_INSTANCE: the settings of the project's own database instance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from provisioner.drivers import rds as driver
from provisioner.drivers.drift import Drift
from provisioner.drivers.rds import RdsState
from provisioner.drivers.secrets import read_secret
from provisioner.errors import ErrorType
from provisioner.jobs.outcome import StageOutcome, Waiting
from provisioner.jobs.stage_run import JobInput
from provisioner.jobs.store import JobStore
from provisioner.provisioning.job_types import repair_project
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.stages.create_instance import description
from provisioner.provisioning.stages.repair_report import outcome, repaired_project, skipped

if TYPE_CHECKING:
    from mypy_boto3_rds.client import RDSClient
    from mypy_boto3_secretsmanager.client import SecretsManagerClient

_FINAL = ErrorType.DATABASE_CHANGE_FAILED


def ensure_instance_repaired(
    job: JobInput,
    *,
    jobs: JobStore,
    projects: ProjectReader,
    secrets_manager: SecretsManagerClient,
    rds: Callable[[str], RDSClient],
    naming: Naming,
) -> StageOutcome | Waiting:
    """Put right what has drifted of the instance; one that was stopped is started and waited for.

    Raises:
        PROJECT_NOT_FOUND: the project is gone.
        CONFLICT: the instance does not have the project's tags.
        DATABASE_CHANGE_FAILED: the instance or its secret is not there, or it has failed; and what
            `translated` raises.
    """
    project = repaired_project(job, projects)
    instance = project.instance
    if instance is None:
        return skipped("an instance of its own")
    login = read_secret(secrets_manager, instance.admin_secret, final=_FINAL)
    found, repairs = driver.repair_instance(
        rds(instance.region),
        description(instance, str(login["password"])),
        naming.owner(project.project_id, job.job_id),
        final=_FINAL,
    )
    started = f"the database instance {instance.identifier}, which was stopped, starts"
    record = jobs.stage(job.job_id, repair_project.REPAIRING_INSTANCE)
    was_stopped = record is not None and record.waiting_for == started
    if not found.is_ready:
        is_started = was_stopped or found.state is RdsState.STOPPED or bool(repairs.repaired)
        pending = f"the database instance {instance.identifier} is {found.status}"
        return Waiting(started if is_started else pending)
    if was_stopped:
        # What was done before the wait is told with the rest.
        drift = Drift(f"database instance {instance.identifier}", "was stopped")
        repairs = replace(repairs, repaired=(drift, *repairs.repaired))
    return outcome(repairs)
