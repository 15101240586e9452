"""REMOVING_STORAGE: the S3 bucket, if it is empty, or with its objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers.s3 import empty_bucket, remove_bucket
from provisioner.drivers.s3_obstacles import look_at_bucket
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.job_types.deprovision_project import DeprovisionProjectPayload
from provisioner.provisioning.location import location_of
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.removal import explained

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


def remove_storage(
    job: JobInput,
    *,
    s3: Callable[[str], S3Client],
    projects: ProjectReader,
    naming: Naming,
    only_this_job: bool,
) -> StageOutcome:
    """Remove the bucket; one that is not there is as good as removed.

    Args:
        job: the job.
        s3: gives the client of a region.
        projects: says where the project is.
        naming: the deployment's names.
        only_this_job: whether what other jobs of the project made stays.

    Raises:
        REMOVAL_FAILED: it is still there; the message names what stands in the way.
        ProvisioningError: as `translated` says.
    """
    return _removed(
        job, s3=s3, projects=projects, naming=naming, only_this_job=only_this_job, seconds=None
    )


def remove_storage_with_data(
    job: JobInput,
    *,
    s3: Callable[[str], S3Client],
    projects: ProjectReader,
    naming: Naming,
    seconds: float,
) -> StageOutcome:
    """Delete the bucket's objects if the payload asks for that, then the bucket.

    Args:
        job: the job.
        s3: gives the client of a region.
        projects: says where the project is.
        naming: the deployment's names.
        seconds: for the objects; what is left then is deleted by the next attempt.

    Raises:
        TIMEOUT: there are objects left.
        REMOVAL_FAILED: the bucket is still there; the message names what stands in the way.
        ProvisioningError: as `translated` says.
    """
    payload = validate_payload(DeprovisionProjectPayload, job.payload)
    return _removed(
        job,
        s3=s3,
        projects=projects,
        naming=naming,
        only_this_job=False,
        seconds=seconds if payload.delete_data else None,
    )


def _removed(
    job: JobInput,
    *,
    s3: Callable[[str], S3Client],
    projects: ProjectReader,
    naming: Naming,
    only_this_job: bool,
    seconds: float | None,
) -> StageOutcome:
    """Remove the bucket, after its objects where there are seconds for them."""
    location = location_of(job, projects)
    client, name = s3(location.region), naming.names(location.project_id).bucket
    claim = naming.owner(location.project_id, location.job_id).claim(only_this_job=only_this_job)

    def remove() -> str:
        if seconds is not None:
            empty_bucket(client, name=name, claim=claim, seconds=seconds)
        return remove_bucket(client, name=name, claim=claim)

    return StageOutcome(
        check=explained(
            job,
            remove,
            lambda: look_at_bucket(client, name=name, claim=claim).obstacles,
            is_cleanup=only_this_job,
        )
    )
