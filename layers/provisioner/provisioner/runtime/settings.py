"""Settings: environment variables, parsed once into typed values.

A function declares in the template exactly the variables that its class reads.
"""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError


class SettingsError(RuntimeError):
    """An environment variable is missing or wrong."""


#: What no deployment may begin its names with. The template refuses it before anything is made;
#: with each the stack would be made, and its jobs fail.
RESERVED_PREFIXES = frozenset(
    {
        # A role of PostgreSQL must not begin with pg_. Source: PostgreSQL documentation, "CREATE
        # ROLE".
        "pg",
        # A bucket must not begin with sthree-, nor with amzn-s3-demo-, to which a project's id may
        # lead; nor with xn--, from which one hyphen would keep ours. Source: Amazon S3 User Guide,
        # "General purpose bucket naming rules".
        *("sthree", "amzn", "xn"),
    }
)

_PREFIX = re.compile("[a-z][a-z0-9]{1,9}")


def check_resource_prefix(value: str) -> str:
    """Return what all names of a deployment begin with.

    Raises:
        ValueError: nothing can begin with it; the template's parameter says the same.
    """
    if _PREFIX.fullmatch(value) is None or value in RESERVED_PREFIXES:
        raise ValueError("must be 2 to 10 lower-case letters and digits, and of no other service")
    return value


def _job_types(value: str) -> str:
    parts = [part.strip() for part in value.split(",")]
    if not all(parts):
        raise ValueError("must be job types separated by commas")
    return ",".join(parts)


class Settings(BaseModel):
    """The base of all settings: field `jobs_table` is the variable `JOBS_TABLE`."""

    # A process reads one class of settings: the validators of the others are never built.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the settings.

        Raises:
            SettingsError: naming the variables that are missing or wrong.
        """
        values = {
            name: environment[name.upper()]
            for name in cls.model_fields
            if name.upper() in environment
        }
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            names = ", ".join(str(e["loc"][0]).upper() for e in error.errors(include_input=False))
            raise SettingsError(
                f"{names}: set these environment variables as the template does."
            ) from None


class JobSettings(Settings):
    """What every process that writes jobs needs."""

    jobs_table: str
    #: Days that a finished job is kept. Step Functions keeps the name of an execution, and so that
    #: of a job, for 90. Source: AWS Step Functions API Reference, StartExecution.
    job_retention_days: Annotated[int, Field(ge=91, le=3650)] = 91
    #: The slots of jobs that run at once.
    maximum_running_jobs: Annotated[int, Field(ge=1, le=1000)] = 30


class DeadLettersSettings(JobSettings):
    """The dead_letters function's."""

    dead_letter_queue_url: str


class DispatcherSettings(DeadLettersSettings):
    """The dispatcher's."""

    #: Where a message is sent again that is held back.
    queue_url: str
    #: The ARN of a job type's state machine is this followed by the job type.
    state_machine_arn_prefix: str
    #: Job types that must have a handler before the first message is taken, comma-separated.
    required_job_types: Annotated[str, AfterValidator(_job_types)]


class ProjectReaderSettings(JobSettings):
    """What reads projects, and names and marks their resources."""

    projects_table: str
    resource_prefix: Annotated[str, AfterValidator(check_resource_prefix)]
    #: The deployment, as it stands in the marker of every resource: `<stack>-<account id>`.
    resource_namespace: Annotated[str, Field(pattern=r"^.+-[0-9]{12}$")]
    #: Where the names of new buckets are unique: in the account and region, or among all accounts.
    bucket_namespace: Literal["account-regional", "global"] = "account-regional"


class ProjectSettings(ProjectReaderSettings):
    """What reads or writes projects and quotas."""

    quotas_table: str


class ClusterSettings(Settings):
    """What reads the description of the database clusters."""

    #: The SSM parameter of a cluster is `<prefix>/<region>/<engine>/<cluster id>`.
    cluster_parameter_prefix: str


class LifecycleSettings(ProjectSettings, ClusterSettings):
    """The lifecycle function's."""

    #: Projects that an owner or organization may have, where its own limit is not set.
    default_project_quota: Annotated[int, Field(ge=0)]


class KeySettings(Settings):
    """What makes secrets."""

    #: The key of AWS KMS that encrypts new secrets; Secrets Manager's own where it is left out.
    kms_key_arn: str | None = None


class ServerSettings(Settings):
    """What connects to database servers."""

    #: The file of the certificates that their authorities have, which libpq reads by this variable.
    pgsslrootcert: str | None = None


class DatabaseSettings(ProjectSettings, ClusterSettings, KeySettings, ServerSettings):
    """The database function's."""


class InstancesSettings(ProjectSettings, ClusterSettings, KeySettings):
    """The instances function's."""


class ServicesSettings(ProjectReaderSettings):
    """The services function's."""


class SnapshotSettings(ProjectReaderSettings, ClusterSettings, ServerSettings):
    """The snapshot function's."""

    snapshots_bucket: str


class ApiKeysSettings(ProjectReaderSettings, KeySettings):
    """The API-keys function's."""

    api_keys_table: str


class ReconcilerSettings(ProjectSettings):
    """The reconciler's."""

    #: The ARN of a state machine is this followed by its name.
    state_machine_arn_prefix: str
    #: Where jobs are sent.
    queue_url: str
    #: Minutes that a job may be QUEUED before its message is sent again, and then before it has
    #: failed. No fewer: an alarm on the queue is to come before.
    queued_minutes: Annotated[int, Field(ge=15, le=1440)] = 15


class EventsSettings(JobSettings):
    """The events function's."""

    event_bus_name: str
