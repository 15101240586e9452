"""REMOVING_REALTIME: the AppSync Event API with its channel namespace."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers.appsync import remove_event_api
from provisioner.jobs.stage_run import JobInput, StageOutcome
from provisioner.provisioning.location import location_of
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader

if TYPE_CHECKING:
    from mypy_boto3_appsync.client import AppSyncClient


def remove_realtime(
    job: JobInput,
    *,
    appsync: Callable[[str], AppSyncClient],
    projects: ProjectReader,
    naming: Naming,
    only_this_job: bool,
) -> StageOutcome:
    """Remove the Event API; one that is not there is as good as removed.

    Args:
        job: the job.
        appsync: gives the client of a region.
        projects: says where the project is.
        naming: the deployment's names.
        only_this_job: whether what other jobs of the project made stays.

    Raises:
        REMOVAL_FAILED: it is still there; and what `translated` raises.
    """
    location = location_of(job, projects)
    owner = naming.owner(location.project_id, job.job_id)
    return StageOutcome(
        check=remove_event_api(
            appsync(location.region),
            name=naming.names(location.project_id).event_api,
            claim=owner.claim(only_this_job=only_this_job),
        )
    )
