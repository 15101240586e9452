"""provision_project: gives a project its database, auth, realtime, storage and API keys."""

import json
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from provisioner.errors import ErrorType
from provisioner.jobs.definition import FailureHandling, JobDefinition, Parallel, Stage
from provisioner.jobs.registry import TOO_DEEP, find_obstacle
from provisioner.provisioning.common_stages import first_stage, instance_stage, last_stage
from provisioner.provisioning.contract import (
    DEFAULT_API_KEY_PREFIX,
    ApiKeyPrefix,
    ApiKeyResult,
    InstanceSize,
    PartyId,
    Payload,
    ProjectId,
    Region,
    Result,
    StorageGb,
)
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.functions import (
    API_KEYS,
    DATABASE,
    INSTANCE_SECONDS,
    SERVICES,
)

#: Bytes of metadata, as JSON in UTF-8.
MAX_METADATA_BYTES = 16 * 1024


def _bounded_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    if find_obstacle(metadata) == TOO_DEEP:
        raise ValueError(TOO_DEEP)
    try:
        size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError):
        # Their texts repeat values; a payload from Python can hold what JSON cannot.
        raise ValueError("must be an object that JSON can hold") from None
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"must be at most {MAX_METADATA_BYTES} bytes of JSON")
    return metadata


#: Why a field needs an instance of the project's own.
_NEEDS_SIZE = {
    "storage_gb": "projects share the storage of a shared cluster",
    "snapshot": "it becomes an instance of the project's own",
}


class DatabaseRequest(Payload):
    """Which database the project gets: on a cluster that projects share, or on its own instance."""

    engine: Engine = Engine.POSTGRESQL
    #: Such as 18, or 8.4: of a cluster of this version, or an instance of it; any without it.
    version: (
        Annotated[str, Field(strict=True, pattern=r"^[0-9]{1,2}(\.[0-9]{1,2}){0,2}$")] | None
    ) = None
    #: An instance class, such as db.t4g.micro: the project then has an instance of its own.
    size: InstanceSize | None = None
    #: Gibibytes of the project's own instance, 1 to 65,536; only with `size`.
    storage_gb: StorageGb | None = None
    #: A snapshot of Amazon RDS of the project's, as RDS names it: the project's own instance is
    #: made of it; only with `size`.
    snapshot: (
        Annotated[str, Field(strict=True, pattern=r"^[a-z](-?[a-z0-9])*$", max_length=255)] | None
    ) = None

    @field_validator("storage_gb", "snapshot")
    @classmethod
    def _is_of_an_instance[Value](cls, value: Value, info: ValidationInfo) -> Value:
        # Where size is wrong itself, that is what is said.
        if value is not None and info.data.get("size", value) is None:
            raise ValueError(f"needs database.size: {_NEEDS_SIZE[str(info.field_name)]}")
        return value


class ServicesRequest(Payload):
    """Which services the project gets."""

    auth: Annotated[bool, Field(strict=True)] = True
    realtime: Annotated[bool, Field(strict=True)] = True
    storage: Annotated[bool, Field(strict=True)] = True


class ApiKeysRequest(Payload):
    """Which API keys the project gets."""

    count: Annotated[int, Field(ge=1, le=20, strict=True)] = 2
    prefix: ApiKeyPrefix = DEFAULT_API_KEY_PREFIX


class OnFailure(StrEnum):
    """What becomes of what a job has made when it fails."""

    #: It is removed: nothing that the job made is left.
    ROLLBACK = "rollback"
    #: It stays; the next job of the project takes it up.
    KEEP = "keep"


class ProvisionProjectPayload(Payload):
    """What a provision_project job is asked to do."""

    project_id: ProjectId
    region: Region
    database: DatabaseRequest = DatabaseRequest()
    services: ServicesRequest = ServicesRequest()
    api_keys: ApiKeysRequest = ApiKeysRequest()
    owner_id: PartyId | None = None
    organization_id: PartyId | None = None
    on_failure: OnFailure = OnFailure.ROLLBACK
    #: Free-form; kept with the job, at most 16 KiB of JSON. Not a place for secrets.
    metadata: Annotated[dict[str, Any], AfterValidator(_bounded_metadata)] = Field(
        default_factory=dict
    )


class InstanceResult(Result):
    """The project's own database instance."""

    identifier: str
    size: str
    storage_gb: int


class DatabaseResult(Result):
    """The tenant database."""

    engine: Engine
    #: Of the server, such as 18.1.
    version: str
    host: str
    port: int
    database_name: str
    schema_name: str
    #: Without a password; the secret holds the complete one.
    connection_string: str
    secret_arn: str
    #: Left out where the project shares a cluster.
    instance: InstanceResult | None = None


class ServiceResult(Result):
    """One registered service."""

    enabled: bool
    #: The service's own id of what was made for the project.
    tenant_id: str
    endpoint: str


class AuthResult(ServiceResult):
    """The user pool."""

    #: The app client, with which the customer's users sign in. It has no secret.
    client_id: str


class StorageResult(ServiceResult):
    """The bucket."""

    bucket_name: str


class ServicesResult(Result):
    """The services that the payload asked for; the others are left out."""

    auth: AuthResult | None = None
    realtime: ServiceResult | None = None
    storage: StorageResult | None = None


class ResultMetadata(Result):
    """When, where and for whom."""

    provisioned_at: datetime
    region: str
    owner_id: str | None = None
    organization_id: str | None = None


class ProvisionProjectResult(Result):
    """What a project has once it is provisioned."""

    project_id: str
    database: DatabaseResult
    services: ServicesResult
    api_keys: list[ApiKeyResult]
    #: The secret that hands over the keys once; claiming them deletes it.
    api_keys_secret_arn: str
    #: When that secret is deleted if nobody has claimed the keys.
    api_keys_claim_before: datetime
    metadata: ResultMetadata


INITIALIZING = first_stage(
    "The payload, the project, the region and the quota are right; the project is ours to do.",
    "initialize:ensure_initialized",
    ends_job_if="already_provisioned",
)

CREATING_INSTANCE = instance_stage(
    "CREATING_INSTANCE",
    "The project's own database instance, if it asks for one, and its master user's secret.",
    "ensure_instance",
    own_error=ErrorType.DATABASE_CREATION_FAILED,
    state="CreateInstance",
    waits_seconds=INSTANCE_SECONDS,
)

CREATING_DATABASE = Stage(
    "CREATING_DATABASE",
    "The tenant database, its roles and privileges, and the secret with the app role's login.",
    function=DATABASE,
    code="provisioner.provisioning.stages.database:ensure_database",
    own_error=ErrorType.DATABASE_CREATION_FAILED,
    state="CreateDatabase",
)

CREATING_SCHEMA = Stage(
    "CREATING_SCHEMA",
    "The tenant schema, its grants and the schema-version table.",
    function=DATABASE,
    code="provisioner.provisioning.stages.database:ensure_schema",
    own_error=ErrorType.SCHEMA_CREATION_FAILED,
    state="CreateSchema",
)

REGISTERING_AUTH = Stage(
    "REGISTERING_AUTH",
    "The Cognito user pool and its app client.",
    function=SERVICES,
    code="provisioner.provisioning.stages.auth:ensure_auth",
    own_error=ErrorType.SERVICE_REGISTRATION_FAILED,
    state="RegisterAuth",
)

REGISTERING_REALTIME = Stage(
    "REGISTERING_REALTIME",
    "The AppSync Event API and its channel namespace.",
    function=SERVICES,
    code="provisioner.provisioning.stages.realtime:ensure_realtime",
    own_error=ErrorType.SERVICE_REGISTRATION_FAILED,
    state="RegisterRealtime",
)

REGISTERING_STORAGE = Stage(
    "REGISTERING_STORAGE",
    "The S3 bucket.",
    function=SERVICES,
    code="provisioner.provisioning.stages.storage:ensure_storage",
    own_error=ErrorType.SERVICE_REGISTRATION_FAILED,
    state="RegisterStorage",
)

GENERATING_API_KEYS = Stage(
    "GENERATING_API_KEYS",
    "The API keys, their digests, and the secret that hands them over once.",
    function=API_KEYS,
    code="provisioner.provisioning.stages.api_keys:ensure_api_keys",
    own_error=ErrorType.API_KEY_GENERATION_FAILED,
    state="GenerateApiKeys",
)

FINALIZING = last_stage(
    "The project is ACTIVE and the job COMPLETED, in one transaction.",
    "provision:ensure_active",
)

#: What does not depend on one another.
RESOURCES = Parallel(
    "ProvisionResources",
    (
        (CREATING_DATABASE, CREATING_SCHEMA),
        (REGISTERING_AUTH,),
        (REGISTERING_REALTIME,),
        (REGISTERING_STORAGE,),
        (GENERATING_API_KEYS,),
    ),
)


def _organization_or_owner(payload: ProvisionProjectPayload) -> str | None:
    return payload.organization_id or payload.owner_id


JOB_TYPE = JobDefinition(
    name="provision_project",
    meaning="Gives a project its database, auth, realtime, storage and API keys.",
    payload_model=ProvisionProjectPayload,
    result_model=ProvisionProjectResult,
    steps=(
        INITIALIZING,
        CREATING_INSTANCE,
        RESOURCES,
        FINALIZING,
    ),
    on_failure=FailureHandling(
        release="provisioner.provisioning.stages.provision:release_after_failure",
        cleanup_job_type="clean_up_project",
        describe_cleanup="provisioner.provisioning.stages.provision:describe_cleanup",
    ),
    message_group=_organization_or_owner,
    example={"project_id": "shop", "region": "eu-central-1"},
)
