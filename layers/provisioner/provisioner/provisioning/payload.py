"""The payloads of the job types: every field with its bounds."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from provisioner.jobs.registry import TOO_DEEP, is_too_deep

#: Bytes of metadata, as JSON in UTF-8.
MAX_METADATA_BYTES = 16 * 1024

#: Letters, digits, hyphens and underscores, first and last a letter or digit; 3 to 64 characters.
PROJECT_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{1,62}[A-Za-z0-9]$"

ProjectId = Annotated[
    str,
    Field(
        strict=True,
        pattern=PROJECT_ID_PATTERN,
        description="3 to 64 letters, digits, hyphens and underscores; "
        "the first and the last are letters or digits.",
    ),
]

#: An owner or organization: also a MessageGroupId, so without spaces. 1 to 128 characters.
PartyId = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@:-]{0,127}$")]

Region = Annotated[
    str,
    Field(
        strict=True,
        pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]{1,2}$",
        max_length=32,
        description="An AWS region.",
    ),
]


#: 2 to 10 lower-case letters and digits, first a letter.
ApiKeyPrefix = Annotated[str, Field(strict=True, pattern=r"^[a-z][a-z0-9]{1,9}$")]

DEFAULT_API_KEY_PREFIX = "nm"


def _bounded_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    if is_too_deep(metadata):
        raise ValueError(TOO_DEEP)
    try:
        size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError):
        # Their texts repeat values; a payload from Python can hold what JSON cannot.
        raise ValueError("must be an object that JSON can hold") from None
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"must be at most {MAX_METADATA_BYTES} bytes of JSON")
    return metadata


class _Strict(BaseModel):
    """Refuses fields that are not part of the contract."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Engine(StrEnum):
    """The technology of the tenant database."""

    #: What is supported today.
    POSTGRESQL = "postgresql"
    #: Part of the contract; refused in INITIALIZING.
    MYSQL = "mysql"


class DatabaseRequest(_Strict):
    """Which database the project gets."""

    engine: Engine = Engine.POSTGRESQL
    #: A major version, such as 18; refused in INITIALIZING: the cluster decides it.
    version: (
        Annotated[str, Field(strict=True, pattern=r"^[0-9]{1,2}(\.[0-9]{1,2}){0,2}$")] | None
    ) = None
    #: An instance size; refused in INITIALIZING: tenants share a cluster.
    size: Annotated[str, Field(strict=True, pattern=r"^[a-z0-9][a-z0-9.-]{0,31}$")] | None = None
    #: Gibibytes, 1 to 65,536; refused in INITIALIZING: tenants share a cluster's storage.
    storage_gb: Annotated[int, Field(ge=1, le=65_536, strict=True)] | None = None


class ServicesRequest(_Strict):
    """Which services the project gets."""

    auth: Annotated[bool, Field(strict=True)] = True
    realtime: Annotated[bool, Field(strict=True)] = True
    storage: Annotated[bool, Field(strict=True)] = True


class ApiKeysRequest(_Strict):
    """Which API keys the project gets."""

    count: Annotated[int, Field(ge=1, le=20, strict=True)] = 2
    prefix: ApiKeyPrefix = DEFAULT_API_KEY_PREFIX


class OnFailure(StrEnum):
    """What becomes of what a job has made when it fails."""

    #: It is removed: nothing that the job made is left.
    ROLLBACK = "rollback"
    #: It stays; the next job of the project takes it up.
    KEEP = "keep"


class ProvisionProjectPayload(_Strict):
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
    metadata: Annotated[dict[str, Any], AfterValidator(_bounded_metadata)] = {}


class NewProject(_Strict):
    """A project before it is provisioned."""

    project_id: ProjectId
    owner_id: PartyId | None = None
    organization_id: PartyId | None = None


class DeprovisionProjectPayload(_Strict):
    """What a deprovision_project job is asked to do."""

    project_id: ProjectId
    #: The project id again, so that nobody removes a project by a slip.
    confirm: Annotated[str, Field(strict=True)]
    #: Whether the objects in the project's bucket are deleted; if not, the bucket must be empty.
    delete_data: Annotated[bool, Field(strict=True)] = False
    #: Whether a dump of the database is kept.
    final_snapshot: Annotated[bool, Field(strict=True)] = True

    @field_validator("confirm")
    @classmethod
    def _is_the_project_id(cls, confirm: str, info: ValidationInfo) -> str:
        # Where project_id is wrong itself, that is what is said.
        if confirm != info.data.get("project_id", confirm):
            raise ValueError("must be the project_id again")
        return confirm


class ProjectReference(BaseModel):
    """What the payloads of all job types have in common."""

    model_config = ConfigDict(frozen=True)

    project_id: ProjectId


class SnapshotReference(_Strict):
    """Which snapshot is restored where."""

    project_id: ProjectId
    #: Its key or job, or a unique beginning of one; the newest one without it.
    snapshot: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    #: A PostgreSQL connection URL; the project's own database without it.
    into: str | None = None


class RotateApiKeysPayload(_Strict):
    """What a rotate_api_keys job is asked to do."""

    project_id: ProjectId
    #: New keys, 1 to 20.
    count: Annotated[int, Field(ge=1, le=20, strict=True)] = 2
    #: Of the new keys; the newest key's that verifies where it is left out.
    prefix: ApiKeyPrefix | None = None
    #: Hours that the old keys verify beside the new ones, 0 to 720.
    overlap_hours: Annotated[int, Field(ge=0, le=720, strict=True)] = 24


class RevokeApiKeyPayload(_Strict):
    """What a revoke_api_key job is asked to do."""

    project_id: ProjectId
    key_id: Annotated[str, Field(strict=True, pattern=r"^key_[0-9a-f]{20}$")]


class RotateDatabasePasswordPayload(_Strict):
    """What a rotate_database_password job is asked to do."""

    project_id: ProjectId
