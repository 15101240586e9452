"""The S3 bucket: REGISTERING_STORAGE, REPAIRING_STORAGE, REMOVING_STORAGE."""

from collections.abc import Callable

from provisioner.aws_types import S3Client
from provisioner.drivers.partition import dns_suffix
from provisioner.drivers.s3 import (
    Settling,
    check_bucket,
    empty_bucket,
    ensure_bucket,
    remove_bucket,
    repair_bucket,
)
from provisioner.drivers.s3_obstacles import look_at_bucket
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.removal import remove_or_explain
from provisioner.provisioning.stages.find_project import locate, read_project, service_of
from provisioner.provisioning.stages.repair import report, skip


def ensure_storage(job: JobInput, *, s3: Callable[[str], S3Client], naming: Naming) -> StageOutcome:
    """Make the bucket, unless the payload does without.

    Args:
        job: the job.
        s3: gives the client of a region.
        naming: the deployment's names.

    Raises:
        CONFLICT: a bucket of that name is not the project's.
        TIMEOUT: S3 does not show yet what was just written.
        SERVICE_REGISTRATION_FAILED, and what `translate_errors` raises.
    """
    payload = job.payload_as(ProvisionProjectPayload)
    if not payload.services.storage:
        return StageOutcome(skipped=True, check="the payload does without storage")
    client = s3(payload.region)
    bucket = naming.bucket(payload.project_id, payload.region)
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
        SERVICE_REGISTRATION_FAILED: the bucket is not there; and what `translate_errors` raises.
    """
    project = read_project(job, projects)
    storage = service_of(project, "storage")
    if storage is None:
        return skip("storage")
    region = str(project.region)
    return report(
        repair_bucket(
            s3(region),
            name=storage["bucket_name"],
            region=region,
            owner=naming.owner(project.project_id, job.job_id),
            settling=Settling(),
        )
    )


def remove_storage(
    job: JobInput,
    *,
    s3: Callable[[str], S3Client],
    projects: ProjectReader,
    naming: Naming,
    seconds: float,
    only_this_job: bool,
) -> StageOutcome:
    """Remove the bucket, after its objects if the payload asks for that.

    One that is not there is as good as removed. A clean-up deletes no objects.

    Args:
        job: the job.
        s3: gives the client of a region.
        projects: says where the project is.
        naming: the deployment's names.
        seconds: for the objects; what is left then is deleted by the next attempt.
        only_this_job: whether what other jobs of the project made stays.

    Raises:
        TIMEOUT: there are objects left.
        REMOVAL_FAILED: the bucket is still there; the message names what stands in the way.
        ProvisioningError: as `translate_errors` says.
    """
    location = locate(job, projects, naming)
    client, name = s3(location.region), location.bucket
    claim = location.owner.claim(only_this_job=only_this_job)

    def remove() -> str:
        if job.payload.get("delete_data") is True and not only_this_job:
            empty_bucket(client, name=name, claim=claim, seconds=seconds)
        return remove_bucket(client, name=name, claim=claim)

    return StageOutcome(
        check=remove_or_explain(
            job,
            remove,
            lambda: look_at_bucket(client, name=name, claim=claim).obstacles,
            is_cleanup=only_this_job,
        )
    )
