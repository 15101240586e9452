"""CHECKING_DATA: no data is lost that the payload does not ask to be deleted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers.s3 import holds_objects
from provisioner.errors import ErrorType, failure
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput, StageOutcome
from provisioner.provisioning.location import location_of
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.payload import DeprovisionProjectPayload
from provisioner.provisioning.projects import ProjectReader

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


def ensure_no_data_is_lost(
    job: JobInput, *, s3: Callable[[str], S3Client], projects: ProjectReader, naming: Naming
) -> StageOutcome:
    """Refuse to go on where the bucket holds anything, unless the payload asks to delete it.

    Args:
        job: the job.
        s3: gives the client of a region.
        projects: says where the project is.
        naming: the deployment's names.

    Raises:
        DATA_NOT_EMPTY: the bucket holds objects, versions of them or delete markers.
        ProvisioningError: as `translated` says.
    """
    payload = validate_payload(DeprovisionProjectPayload, job.payload)
    if payload.delete_data:
        return StageOutcome(skipped=True, check="the payload asks for the data to be deleted")
    location = location_of(job, projects)
    bucket = naming.names(payload.project_id).bucket
    claim = naming.owner(payload.project_id, job.job_id).claim(only_this_job=False)
    if holds_objects(s3(location.region), name=bucket, claim=claim):
        raise failure(
            ErrorType.DATA_NOT_EMPTY,
            f"delete_data: the bucket {bucket} is not empty; "
            "empty it (with all versions), or send the job with delete_data.",
        )
    return StageOutcome(check=f"no bucket named {bucket} holds an object")
