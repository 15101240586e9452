"""rotate_database_password: gives a project's database login a new password."""

from provisioner.errors import ErrorType
from provisioner.jobs.definition import FailureHandling, JobDefinition, Stage
from provisioner.provisioning.common_stages import ACQUIRING, RELEASE, RELEASING
from provisioner.provisioning.contract import Payload, ProjectId, Result
from provisioner.provisioning.functions import DATABASE


class RotateDatabasePasswordPayload(Payload):
    """What a rotate_database_password job is asked to do."""

    project_id: ProjectId


class RotateDatabasePasswordResult(Result):
    """Where the new password of a project's database login is."""

    project_id: str
    #: The secret with the login.
    secret_arn: str
    #: The version of the secret that holds the new password.
    secret_version_id: str


ROTATING_DATABASE_PASSWORD = Stage(
    "ROTATING_DATABASE_PASSWORD",
    "The new password of the app role, in the secret and in the database.",
    function=DATABASE,
    code="provisioner.provisioning.stages.database:ensure_password_rotated",
    own_error=ErrorType.DATABASE_CHANGE_FAILED,
    state="RotateDatabasePassword",
)

JOB_TYPE = JobDefinition(
    name="rotate_database_password",
    meaning="Gives a project's database login a new password.",
    payload_model=RotateDatabasePasswordPayload,
    result_model=RotateDatabasePasswordResult,
    steps=(ACQUIRING, ROTATING_DATABASE_PASSWORD, RELEASING),
    on_failure=FailureHandling(release=RELEASE),
    example={"project_id": "shop"},
    command=("password", "rotate"),
)
