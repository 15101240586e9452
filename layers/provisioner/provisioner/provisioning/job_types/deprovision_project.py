"""deprovision_project: removes all that a project has, after a final snapshot of its database."""

from dataclasses import replace
from datetime import date, datetime
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from provisioner.errors import ErrorType
from provisioner.jobs.definition import FailureHandling, JobDefinition, Stage
from provisioner.provisioning.common_stages import (
    first_stage,
    instance_stage,
    last_stage,
    removal_stage,
)
from provisioner.provisioning.contract import Payload, ProjectId, Result
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.functions import (
    DATABASE,
    INSTANCE_SNAPSHOT_SECONDS,
    SERVICES,
    SNAPSHOT,
)


class DeprovisionProjectPayload(Payload):
    """What a deprovision_project job is asked to do."""

    project_id: ProjectId
    #: So that nobody removes a project by a slip.
    confirm: Annotated[str, Field(strict=True, description="The project id again.")]
    delete_data: Annotated[
        bool,
        Field(
            strict=True,
            description="Delete the objects in its bucket; if not, the bucket must be empty.",
        ),
    ] = False
    final_snapshot: Annotated[
        bool, Field(strict=True, description="Keep a snapshot of its database.")
    ] = True

    @field_validator("confirm")
    @classmethod
    def _is_the_project_id(cls, confirm: str, info: ValidationInfo) -> str:
        # Where project_id is wrong itself, that is what is said.
        if confirm != info.data.get("project_id", confirm):
            raise ValueError("must be the project_id again")
        return confirm


class SnapshotResult(Result):
    """The final snapshot: an archive in pg_dump's custom format."""

    bucket: str
    key: str
    size_bytes: int
    #: The version of the server that it was taken of, such as 18.6.
    server_version: str


class InstanceSnapshotResult(Result):
    """The final snapshot of a project's own instance: a snapshot of Amazon RDS."""

    region: str
    #: The snapshot's in RDS.
    identifier: str
    engine: Engine
    #: The class of the instance that it was taken of.
    size: str
    #: The instance that is made of it needs as much.
    storage_gb: int
    #: The version of the server that it was taken of, such as 18.1.
    server_version: str
    #: The last day on which it is kept; left out where somebody has taken its tag from it.
    kept_until: date | None = None


class DeprovisionProjectResult(Result):
    """What is left of a project once it is deprovisioned."""

    project_id: str
    #: Left out where none was asked for, or there was no database.
    snapshot: SnapshotResult | InstanceSnapshotResult | None = None
    #: What does not exist any more, one text a resource.
    removed: list[str]
    deprovisioned_at: datetime


INITIALIZING = first_stage(
    "The project is not protected and is ours to remove; its API keys do not verify any more.",
    "deprovision:ensure_removal_begun",
    ends_job_if="already_deprovisioned",
)

CHECKING_SERVICES = Stage(
    "CHECKING_SERVICES",
    "What stands in the way of removing the bucket and the user pool is known.",
    function=SERVICES,
    code="provisioner.provisioning.stages.check_services:ensure_services_are_looked_at",
    own_error=ErrorType.REMOVAL_FAILED,
    state="CheckServices",
)

CHECKING_DATA = Stage(
    "CHECKING_DATA",
    "Nothing that can be known beforehand stands in the way of the removal; else all is named.",
    function=DATABASE,
    code="provisioner.provisioning.stages.check_data:ensure_removal_is_possible",
    own_error=ErrorType.REMOVAL_FAILED,
    state="CheckData",
)

TAKING_SNAPSHOT = Stage(
    "TAKING_SNAPSHOT",
    "A dump of the tenant database is in the bucket of snapshots.",
    function=SNAPSHOT,
    code="provisioner.provisioning.stages.take_snapshot:ensure_snapshot",
    own_error=ErrorType.SNAPSHOT_FAILED,
    state="TakeSnapshot",
)

TAKING_INSTANCE_SNAPSHOT = instance_stage(
    "TAKING_INSTANCE_SNAPSHOT",
    "A snapshot of the project's own database instance can be restored.",
    "ensure_instance_snapshot",
    own_error=ErrorType.SNAPSHOT_FAILED,
    state="TakeInstanceSnapshot",
    waits_seconds=INSTANCE_SNAPSHOT_SECONDS,
)

REMOVING_REALTIME = replace(
    removal_stage("realtime", only_this_job=False),
    code="provisioner.provisioning.stages.realtime:remove_realtime_before_storage",
    arguments={},
)

REMOVING_AUTH = removal_stage("auth", only_this_job=False)

REMOVING_STORAGE = replace(
    removal_stage("storage", only_this_job=False),
    meaning="The S3 bucket is gone, with its objects if the payload asks for that.",
)

REMOVING_DATABASE = removal_stage("database", only_this_job=False)

REMOVING_INSTANCE = removal_stage("instance", only_this_job=False, runs_if="is_dedicated")

REMOVING_API_KEYS = removal_stage("api_keys", only_this_job=False)

FINALIZING = last_stage(
    "Nothing is left: the project is DEPROVISIONED and the job COMPLETED, in one transaction.",
    "deprovision:ensure_deprovisioned",
)

#: The stages that remove something. Once one has begun, the project can only be removed further.
REMOVING = (
    REMOVING_REALTIME,
    REMOVING_AUTH,
    REMOVING_STORAGE,
    REMOVING_DATABASE,
    REMOVING_INSTANCE,
    REMOVING_API_KEYS,
)

JOB_TYPE = JobDefinition(
    name="deprovision_project",
    meaning="Removes all that a project has, after a final snapshot of its database.",
    payload_model=DeprovisionProjectPayload,
    result_model=DeprovisionProjectResult,
    steps=(
        INITIALIZING,
        CHECKING_SERVICES,
        CHECKING_DATA,
        TAKING_SNAPSHOT,
        TAKING_INSTANCE_SNAPSHOT,
        *REMOVING,
        FINALIZING,
    ),
    on_failure=FailureHandling(
        release="provisioner.provisioning.stages.deprovision:release_after_failed_removal"
    ),
    example={"project_id": "shop", "confirm": "shop"},
    command=("deprovision",),
)
