"""The stages of the job types: their public names, their order, and what runs beside what."""

from enum import StrEnum

from provisioner.errors import ErrorType
from provisioner.jobs.plan import Plan
from provisioner.provisioning.job_type import JobType


class Stage(StrEnum):
    """The progress of a job as everyone sees it, in this order."""

    #: The payload, the project, the region and the quota are right, and the project is ours to do.
    INITIALIZING = "INITIALIZING"
    #: The tenant database, its roles and privileges, and the secret with the app role's login.
    CREATING_DATABASE = "CREATING_DATABASE"
    #: The tenant schema, its grants and the schema-version table.
    CREATING_SCHEMA = "CREATING_SCHEMA"
    #: The Cognito user pool and its app client.
    REGISTERING_AUTH = "REGISTERING_AUTH"
    #: The AppSync Event API and its channel namespace.
    REGISTERING_REALTIME = "REGISTERING_REALTIME"
    #: The S3 bucket.
    REGISTERING_STORAGE = "REGISTERING_STORAGE"
    #: The API keys, their digests, and the secret that hands them over once.
    GENERATING_API_KEYS = "GENERATING_API_KEYS"
    #: The project is ACTIVE and the job COMPLETED, in one transaction.
    FINALIZING = "FINALIZING"


class CleanupStage(StrEnum):
    """The stages that remove what a job has made, in this order: the reverse of the making."""

    #: The API keys and the secret that hands them over.
    REMOVING_API_KEYS = "REMOVING_API_KEYS"
    #: The S3 bucket, if it is empty.
    REMOVING_STORAGE = "REMOVING_STORAGE"
    #: The AppSync Event API with its channel namespace.
    REMOVING_REALTIME = "REMOVING_REALTIME"
    #: The Cognito user pool with its app client.
    REMOVING_AUTH = "REMOVING_AUTH"
    #: The tenant database with its schema, its roles, the secret with the login, the place on the
    #: cluster.
    REMOVING_DATABASE = "REMOVING_DATABASE"


class DeprovisionStage(StrEnum):
    """The progress of a deprovision_project job as everyone sees it, in this order."""

    #: The project is not protected and is ours to remove; its API keys do not verify any more.
    INITIALIZING = "INITIALIZING"
    #: What stands in the way of removing the bucket and the user pool is known.
    CHECKING_SERVICES = "CHECKING_SERVICES"
    #: Nothing that can be known beforehand stands in the way of the removal: no data that is to
    #: stay, no lock, no protection, nothing in the database. Else all of it is named at once.
    CHECKING_DATA = "CHECKING_DATA"
    #: A dump of the tenant database is in the bucket of snapshots.
    TAKING_SNAPSHOT = "TAKING_SNAPSHOT"
    #: The AppSync Event API with its channel namespace.
    REMOVING_REALTIME = "REMOVING_REALTIME"
    #: The Cognito user pool with its app client.
    REMOVING_AUTH = "REMOVING_AUTH"
    #: The S3 bucket, with its objects if the payload asks for that.
    REMOVING_STORAGE = "REMOVING_STORAGE"
    #: The tenant database, its roles, the secret with the login, the place on the cluster.
    REMOVING_DATABASE = "REMOVING_DATABASE"
    #: The API keys, and the secret that hands them over.
    REMOVING_API_KEYS = "REMOVING_API_KEYS"
    #: Nothing is left: the project is DEPROVISIONED and the job COMPLETED, in one transaction.
    FINALIZING = "FINALIZING"


#: The stages of deprovision_project that remove something. Once one has begun, the project can only
#: be removed further.
REMOVING: tuple[DeprovisionStage, ...] = (
    DeprovisionStage.REMOVING_REALTIME,
    DeprovisionStage.REMOVING_AUTH,
    DeprovisionStage.REMOVING_STORAGE,
    DeprovisionStage.REMOVING_DATABASE,
    DeprovisionStage.REMOVING_API_KEYS,
)


class RotateApiKeysStage(StrEnum):
    """The progress of a rotate_api_keys job as everyone sees it, in this order."""

    #: The project is ACTIVE and ours to change.
    INITIALIZING = "INITIALIZING"
    #: The new API keys, the secret that hands them over once, and the end of the old ones.
    ROTATING_API_KEYS = "ROTATING_API_KEYS"
    #: The project is let go of and the job COMPLETED, in one transaction.
    FINALIZING = "FINALIZING"


class RevokeApiKeyStage(StrEnum):
    """The progress of a revoke_api_key job as everyone sees it, in this order."""

    #: The project is there; nobody's lock is asked for.
    INITIALIZING = "INITIALIZING"
    #: The API key stops verifying.
    REVOKING_API_KEY = "REVOKING_API_KEY"
    #: The job is COMPLETED.
    FINALIZING = "FINALIZING"


class RotateDatabasePasswordStage(StrEnum):
    """The progress of a rotate_database_password job as everyone sees it, in this order."""

    #: The project is ACTIVE and ours to change.
    INITIALIZING = "INITIALIZING"
    #: The new password of the app role, in the secret and in the database.
    ROTATING_DATABASE_PASSWORD = "ROTATING_DATABASE_PASSWORD"  # noqa: S105  # a stage's name  # nosec B105
    #: The project is let go of and the job COMPLETED, in one transaction.
    FINALIZING = "FINALIZING"


#: What runs side by side once INITIALIZING has ended; each branch in sequence.
BRANCHES: tuple[tuple[Stage, ...], ...] = (
    (Stage.CREATING_DATABASE, Stage.CREATING_SCHEMA),
    (Stage.REGISTERING_AUTH,),
    (Stage.REGISTERING_REALTIME,),
    (Stage.REGISTERING_STORAGE,),
    (Stage.GENERATING_API_KEYS,),
)

#: The plan of provision_project.
PROVISION_PROJECT = Plan(
    first=Stage.INITIALIZING,
    branches=BRANCHES,
    last=Stage.FINALIZING,
    cleanup=tuple(CleanupStage),
    ends_with_first=lambda output: bool(output["already_provisioned"]),
)

#: The plan of deprovision_project.
DEPROVISION_PROJECT = Plan(
    first=DeprovisionStage.INITIALIZING,
    branches=(
        (
            DeprovisionStage.CHECKING_SERVICES,
            DeprovisionStage.CHECKING_DATA,
            DeprovisionStage.TAKING_SNAPSHOT,
            *REMOVING,
        ),
    ),
    last=DeprovisionStage.FINALIZING,
    ends_with_first=lambda output: bool(output["already_deprovisioned"]),
)

#: The plans by job type.
PLANS: dict[str, Plan] = {
    JobType.PROVISION_PROJECT: PROVISION_PROJECT,
    JobType.DEPROVISION_PROJECT: DEPROVISION_PROJECT,
    JobType.ROTATE_API_KEYS: Plan(
        first=RotateApiKeysStage.INITIALIZING,
        branches=((RotateApiKeysStage.ROTATING_API_KEYS,),),
        last=RotateApiKeysStage.FINALIZING,
    ),
    JobType.REVOKE_API_KEY: Plan(
        first=RevokeApiKeyStage.INITIALIZING,
        branches=((RevokeApiKeyStage.REVOKING_API_KEY,),),
        last=RevokeApiKeyStage.FINALIZING,
    ),
    JobType.ROTATE_DATABASE_PASSWORD: Plan(
        first=RotateDatabasePasswordStage.INITIALIZING,
        branches=((RotateDatabasePasswordStage.ROTATING_DATABASE_PASSWORD,),),
        last=RotateDatabasePasswordStage.FINALIZING,
    ),
}

#: The error type of a stage for causes of its own that stay.
OWN_ERRORS: dict[str, ErrorType] = {
    Stage.CREATING_DATABASE: ErrorType.DATABASE_CREATION_FAILED,
    Stage.CREATING_SCHEMA: ErrorType.SCHEMA_CREATION_FAILED,
    Stage.REGISTERING_AUTH: ErrorType.SERVICE_REGISTRATION_FAILED,
    Stage.REGISTERING_REALTIME: ErrorType.SERVICE_REGISTRATION_FAILED,
    Stage.REGISTERING_STORAGE: ErrorType.SERVICE_REGISTRATION_FAILED,
    Stage.GENERATING_API_KEYS: ErrorType.API_KEY_GENERATION_FAILED,
    DeprovisionStage.CHECKING_SERVICES: ErrorType.REMOVAL_FAILED,
    DeprovisionStage.CHECKING_DATA: ErrorType.REMOVAL_FAILED,
    DeprovisionStage.TAKING_SNAPSHOT: ErrorType.SNAPSHOT_FAILED,
    # The clean-up's and deprovision_project's are of the same names.
    **dict.fromkeys(CleanupStage, ErrorType.REMOVAL_FAILED),
    RotateApiKeysStage.ROTATING_API_KEYS: ErrorType.API_KEY_GENERATION_FAILED,
    RevokeApiKeyStage.REVOKING_API_KEY: ErrorType.API_KEY_GENERATION_FAILED,
    RotateDatabasePasswordStage.ROTATING_DATABASE_PASSWORD: ErrorType.DATABASE_CHANGE_FAILED,
}

#: Seconds after its start in which an attempt of a stage may still be at work: the time-out of its
#: Task, which is a little longer than its function's own. Stages of one name are one function's.
RUN_LIMITS: dict[str, int] = {
    **dict.fromkeys((Stage.INITIALIZING, Stage.FINALIZING), 70),
    **dict.fromkeys(
        (
            Stage.REGISTERING_AUTH,
            Stage.REGISTERING_REALTIME,
            Stage.REGISTERING_STORAGE,
            DeprovisionStage.CHECKING_SERVICES,
            CleanupStage.REMOVING_STORAGE,
            CleanupStage.REMOVING_REALTIME,
            CleanupStage.REMOVING_AUTH,
            Stage.GENERATING_API_KEYS,
            RotateApiKeysStage.ROTATING_API_KEYS,
            RevokeApiKeyStage.REVOKING_API_KEY,
            CleanupStage.REMOVING_API_KEYS,
        ),
        130,
    ),
    **dict.fromkeys(
        (
            Stage.CREATING_DATABASE,
            Stage.CREATING_SCHEMA,
            RotateDatabasePasswordStage.ROTATING_DATABASE_PASSWORD,
            DeprovisionStage.CHECKING_DATA,
            CleanupStage.REMOVING_DATABASE,
        ),
        190,
    ),
    DeprovisionStage.TAKING_SNAPSHOT: 910,
}
