"""CHECKING_SERVICES: what stands in the way of removing the bucket and the user pool."""

from collections.abc import Callable

from provisioner.aws_types import CognitoIdentityProviderClient, S3Client
from provisioner.drivers.cognito import look_at_pools
from provisioner.drivers.obstacles import Obstacles
from provisioner.drivers.s3 import holds_objects
from provisioner.drivers.s3_obstacles import BucketLook, look_at_bucket
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.provisioning.first_run import known_id
from provisioner.provisioning.job_types.deprovision_project import DeprovisionProjectPayload
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.stages.find_project import locate


def ensure_services_are_looked_at(
    job: JobInput,
    *,
    s3: Callable[[str], S3Client],
    cognito: Callable[[str], CognitoIdentityProviderClient],
    projects: ProjectReader,
    naming: Naming,
) -> StageOutcome:
    """Look what keeps the bucket and the user pool, and hand it on to CHECKING_DATA.

    That stage refuses, so that what it finds itself is named in the same message.

    Raises:
        ProvisioningError: a look failed, other than by being denied, as `translate_errors` says.
    """
    location = locate(job, projects, naming)
    name, pool, claim = location.bucket, location.names.user_pool, location.owner.owns
    bucket = _unless_denied(
        lambda: look_at_bucket(s3(location.region), name=name, claim=claim),
        lambda unseen: BucketLook(obstacles=unseen),
        f"bucket {name}",
    )
    pools = _unless_denied(
        lambda: look_at_pools(
            cognito(location.region), name=pool, claim=claim, known=known_id(job, "auth")
        ),
        lambda unseen: unseen,
        f"user pool {pool}",
    )
    found = bucket.obstacles + pools
    is_data = bucket.holds_objects and not job.payload_as(DeprovisionProjectPayload).delete_data
    number = len(found.staying) + len(found.unseen) + is_data
    checks = [
        f"bucket {name} and user pool {pool} were looked at",
        f"obstacles found: {number}" if number else "no obstacle found",
        bucket.beyond,
    ]
    return StageOutcome(
        output={
            "data": _not_empty(name) if is_data else "",
            "staying": list(found.staying),
            "unseen": list(found.unseen),
        },
        check="; ".join(filter(None, checks)),
    )


def ensure_no_data_is_lost(
    job: JobInput, *, s3: Callable[[str], S3Client], projects: ProjectReader, naming: Naming
) -> None:
    """Refuse to go on where the bucket holds anything, unless the payload asks to delete it.

    Raises:
        DATA_NOT_EMPTY: the bucket holds objects, versions of them or delete markers.
        ProvisioningError: as `translate_errors` says.
    """
    if job.payload_as(DeprovisionProjectPayload).delete_data:
        return
    location = locate(job, projects, naming)
    claim = location.owner.owns
    if holds_objects(s3(location.region), name=location.bucket, claim=claim):
        raise failure(ErrorType.DATA_NOT_EMPTY, _not_empty(location.bucket))


def _not_empty(bucket: str) -> str:
    return (
        f"delete_data: the bucket {bucket} is not empty; "
        "empty it (with all versions), or send the job with delete_data."
    )


def _unless_denied[Result](
    look: Callable[[], Result], unseen: Callable[[Obstacles], Result], what: str
) -> Result:
    """Look; where that is denied, return that it was not seen."""
    try:
        return look()
    except ProvisioningError as error:
        if error.type is not ErrorType.INSUFFICIENT_PERMISSIONS:
            raise
        operation = error.cause.partition(":")[0]
        return unseen(Obstacles(unseen=(f"{what}: let the platform look at it ({operation})",)))
