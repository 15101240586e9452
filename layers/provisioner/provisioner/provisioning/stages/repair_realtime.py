"""REPAIRING_REALTIME: the settings of the AppSync Event API and its channel namespace."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers.appsync import repair_event_api
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.stages.repair_report import (
    outcome,
    region_of,
    repaired_project,
    service,
    skipped,
)

if TYPE_CHECKING:
    from mypy_boto3_appsync.client import AppSyncClient


def ensure_realtime_repaired(
    job: JobInput,
    *,
    appsync: Callable[[str], AppSyncClient],
    projects: ProjectReader,
    naming: Naming,
) -> StageOutcome:
    """Put right what has drifted of the Event API, unless the project does without.

    Args:
        job: the job.
        appsync: gives the client of a region.
        projects: says what the project has.
        naming: the deployment's names.

    Raises:
        PROJECT_NOT_FOUND: the project is gone.
        CONFLICT: the API is not the project's.
        SERVICE_REGISTRATION_FAILED: the API is not there; and what `translated` raises.
    """
    project = repaired_project(job, projects)
    realtime = service(project, "realtime")
    if realtime is None:
        return skipped("realtime")
    return outcome(
        repair_event_api(
            appsync(region_of(project)),
            api_id=realtime["tenant_id"],
            namespace=naming.names(project.project_id).channel_namespace,
            owner=naming.owner(project.project_id, job.job_id),
        )
    )
