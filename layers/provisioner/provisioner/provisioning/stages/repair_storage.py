"""REPAIRING_STORAGE: the settings of the S3 bucket."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers.s3 import Settling, repair_bucket
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
    from mypy_boto3_s3.client import S3Client


def ensure_storage_repaired(
    job: JobInput, *, s3: Callable[[str], S3Client], projects: ProjectReader, naming: Naming
) -> StageOutcome:
    """Put right what has drifted of the bucket, unless the project does without.

    Args:
        job: the job.
        s3: gives the client of a region.
        projects: says what the project has.
        naming: the deployment's names.

    Raises:
        PROJECT_NOT_FOUND: the project is gone.
        CONFLICT: the bucket is not the project's.
        TIMEOUT: S3 does not show yet what was put right.
        SERVICE_REGISTRATION_FAILED: the bucket is not there; and what `translated` raises.
    """
    project = repaired_project(job, projects)
    storage = service(project, "storage")
    if storage is None:
        return skipped("storage")
    region = region_of(project)
    return outcome(
        repair_bucket(
            s3(region),
            name=storage["bucket_name"],
            region=region,
            owner=naming.owner(project.project_id, job.job_id),
            settling=Settling(),
        )
    )
