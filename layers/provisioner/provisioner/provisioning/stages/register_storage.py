"""REGISTERING_STORAGE: an S3 bucket."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers.partition import dns_suffix
from provisioner.drivers.s3 import Settling, check_bucket, ensure_bucket
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
from provisioner.provisioning.naming import Naming

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


def ensure_storage(job: JobInput, *, s3: Callable[[str], S3Client], naming: Naming) -> StageOutcome:
    """Make the bucket, unless the payload does without.

    Args:
        job: the job.
        s3: gives the client of a region.
        naming: the deployment's names.

    Raises:
        CONFLICT: a bucket of that name is not the project's.
        TIMEOUT: S3 does not show yet what was just written.
        SERVICE_REGISTRATION_FAILED, and what `translated` raises.
    """
    payload = validate_payload(ProvisionProjectPayload, job.payload)
    if not payload.services.storage:
        return StageOutcome(skipped=True, check="the payload does without storage")
    client = s3(payload.region)
    bucket = naming.names(payload.project_id).bucket
    owner = naming.owner(payload.project_id, job.job_id)
    settling = Settling()
    ensure_bucket(client, name=bucket, region=payload.region, owner=owner, settling=settling)
    check = check_bucket(client, bucket, owner, settling)
    return StageOutcome(
        output={
            "enabled": True,
            "tenant_id": bucket,
            "endpoint": f"https://{bucket}.s3.{payload.region}.{dns_suffix(client)}",
            "bucket_name": bucket,
        },
        check=check,
    )
