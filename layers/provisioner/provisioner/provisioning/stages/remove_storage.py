"""REMOVING_STORAGE: the S3 bucket, if it is empty."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers.s3 import remove_bucket
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput, StageOutcome
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.payload import ProvisionProjectPayload

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


def remove_storage(
    job: JobInput,
    *,
    s3: Callable[[str], S3Client],
    naming: Naming,
    only_this_job: bool,
) -> StageOutcome:
    """Remove the bucket; one that is not there is as good as removed.

    Args:
        job: the job.
        s3: gives the client of a region.
        naming: the deployment's names.
        only_this_job: whether what other jobs of the project made stays.

    Raises:
        REMOVAL_FAILED: it is still there; and what `translated` raises.
    """
    payload = validate_payload(ProvisionProjectPayload, job.payload)
    owner = naming.owner(payload.project_id, job.job_id)
    return StageOutcome(
        check=remove_bucket(
            s3(payload.region),
            name=naming.names(payload.project_id).bucket,
            claim=owner.claim(only_this_job=only_this_job),
        )
    )
