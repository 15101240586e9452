"""repair_project: puts right what has drifted of a project, and tells what it was."""

from dataclasses import replace

from provisioner.errors import ErrorType
from provisioner.jobs.definition import FailureHandling, JobDefinition, Parallel, Stage
from provisioner.provisioning.common_stages import ACQUIRING, RELEASE, instance_stage, last_stage
from provisioner.provisioning.contract import Payload, ProjectId, Result
from provisioner.provisioning.functions import (
    DATABASE,
    INSTANCE_SECONDS,
    SERVICES,
)


class RepairProjectPayload(Payload):
    """What a repair_project job is asked to do."""

    project_id: ProjectId


class RepairedResult(Result):
    """One thing that was not as it must be, and that was found right after it was put right."""

    #: Such as `user pool eu-central-1_Ab12`.
    resource: str
    #: What of it, such as `Policies` or `CONNECTION LIMIT`; never a value.
    what: str


class RemainingResult(RepairedResult):
    """One thing that is not as it must be, and that the platform cannot put right."""

    #: Why not, and what to do.
    why: str


class RepairProjectResult(Result):
    """What was put right of a project, and what was not."""

    project_id: str
    repaired: list[RepairedResult]
    remaining: list[RemainingResult]
    #: What answered, or was not there to be asked: one sentence a stage.
    checked: list[str]


INITIALIZING = replace(ACQUIRING, arguments={"asks_for_instance": True})

REPAIRING_INSTANCE = instance_stage(
    "REPAIRING_INSTANCE",
    "The project's own database instance runs, and its settings are as they must be.",
    "ensure_instance_repaired",
    own_error=ErrorType.DATABASE_CHANGE_FAILED,
    state="RepairInstance",
    waits_seconds=INSTANCE_SECONDS,
)

REPAIRING_DATABASE = Stage(
    "REPAIRING_DATABASE",
    "The roles, limits and privileges of the tenant database are as they must be.",
    function=DATABASE,
    code="provisioner.provisioning.stages.database:ensure_database_repaired",
    own_error=ErrorType.DATABASE_CHANGE_FAILED,
    state="RepairDatabase",
)

REPAIRING_SCHEMA = Stage(
    "REPAIRING_SCHEMA",
    "The tenant schema, its grants and the schema-version table are as they must be.",
    function=DATABASE,
    code="provisioner.provisioning.stages.database:ensure_schema_repaired",
    own_error=ErrorType.DATABASE_CHANGE_FAILED,
    state="RepairSchema",
)

REPAIRING_AUTH = Stage(
    "REPAIRING_AUTH",
    "The settings of the Cognito user pool and its app client are as they must be.",
    function=SERVICES,
    code="provisioner.provisioning.stages.auth:ensure_auth_repaired",
    own_error=ErrorType.SERVICE_REGISTRATION_FAILED,
    state="RepairAuth",
)

REPAIRING_REALTIME = Stage(
    "REPAIRING_REALTIME",
    "The settings of the AppSync Event API and its channel namespace are as they must be.",
    function=SERVICES,
    code="provisioner.provisioning.stages.realtime:ensure_realtime_repaired",
    own_error=ErrorType.SERVICE_REGISTRATION_FAILED,
    state="RepairRealtime",
)

REPAIRING_STORAGE = Stage(
    "REPAIRING_STORAGE",
    "The settings of the S3 bucket are as they must be.",
    function=SERVICES,
    code="provisioner.provisioning.stages.storage:ensure_storage_repaired",
    own_error=ErrorType.SERVICE_REGISTRATION_FAILED,
    state="RepairStorage",
)

FINALIZING = last_stage(
    "The project is released and the job COMPLETED, in one transaction.",
    "repair:ensure_repair_ended",
)

JOB_TYPE = JobDefinition(
    name="repair_project",
    meaning="Puts right what has drifted of a project, and tells what it was.",
    payload_model=RepairProjectPayload,
    result_model=RepairProjectResult,
    steps=(
        INITIALIZING,
        REPAIRING_INSTANCE,
        Parallel(
            "RepairResources",
            (
                (REPAIRING_DATABASE, REPAIRING_SCHEMA),
                (REPAIRING_AUTH,),
                (REPAIRING_REALTIME,),
                (REPAIRING_STORAGE,),
            ),
        ),
        FINALIZING,
    ),
    on_failure=FailureHandling(release=RELEASE),
    example={"project_id": "shop"},
    command=("project", "repair"),
)
