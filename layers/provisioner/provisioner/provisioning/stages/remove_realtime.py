"""REMOVING_REALTIME: the AppSync Event API with its channel namespace."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers.appsync import remove_event_api
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.location import location_of
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.stages.check_services import ensure_no_data_is_lost

if TYPE_CHECKING:
    from mypy_boto3_appsync.client import AppSyncClient
    from mypy_boto3_s3.client import S3Client


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
    owner = naming.owner(location.project_id, location.job_id)
    return StageOutcome(
        check=remove_event_api(
            appsync(location.region),
            name=naming.names(location.project_id).event_api,
            claim=owner.claim(only_this_job=only_this_job),
        )
    )


def remove_realtime_before_storage(
    job: JobInput,
    *,
    appsync: Callable[[str], AppSyncClient],
    s3: Callable[[str], S3Client],
    projects: ProjectReader,
    naming: Naming,
) -> StageOutcome:
    """Remove the project's Event API, unless the bucket holds data that is to stay.

    This is the first removal. The snapshot may have taken minutes since CHECKING_DATA; an object
    that came meanwhile still ends the job before anything is removed.

    Args:
        job: the job.
        appsync: gives the client of a region.
        s3: likewise.
        projects: says where the project is.
        naming: the deployment's names.

    Raises:
        DATA_NOT_EMPTY: the bucket holds objects, and the payload does not ask for them to go.
        REMOVAL_FAILED: it is still there; and what `translated` raises.
    """
    ensure_no_data_is_lost(job, s3=s3, projects=projects, naming=naming)
    return remove_realtime(
        job, appsync=appsync, projects=projects, naming=naming, only_this_job=False
    )
