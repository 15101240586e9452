"""What the payloads and results of the job types have in common.

Results hold no secret: secrets are named by their ARNs.
"""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

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


#: The last part of the name of the parameter that describes a cluster. Source: AWS Systems Manager
#: API Reference, PutParameter, Name.
ClusterId = Annotated[
    str,
    Field(
        strict=True,
        pattern=r"^[A-Za-z0-9_.-]{1,128}$",
        description="The last part of the name of the cluster's parameter.",
    ),
]

#: 2 to 10 lower-case letters and digits, first a letter.
ApiKeyPrefix = Annotated[str, Field(strict=True, pattern=r"^[a-z][a-z0-9]{1,9}$")]

DEFAULT_API_KEY_PREFIX = "nm"

#: An instance class of Amazon RDS, such as db.t4g.micro.
InstanceSize = Annotated[str, Field(strict=True, pattern=r"^[a-z0-9][a-z0-9.-]{0,31}$")]

#: Gibibytes of an instance, 1 to 65,536.
StorageGb = Annotated[int, Field(ge=1, le=65_536, strict=True)]


class Payload(BaseModel):
    """Refuses fields that are not part of the contract."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NewProject(Payload):
    """A project before it is provisioned."""

    project_id: ProjectId
    owner_id: PartyId | None = None
    organization_id: PartyId | None = None


class ProjectReference(BaseModel):
    """What the payloads of all job types have in common."""

    model_config = ConfigDict(frozen=True)

    project_id: ProjectId


class SnapshotReference(Payload):
    """Which snapshot is meant."""

    project_id: ProjectId
    #: Its key or job, or a unique beginning of one; the newest one without it.
    snapshot: Annotated[str, Field(min_length=1, max_length=1024)] | None = None


class DumpReference(SnapshotReference):
    """Which dump is restored where."""

    #: A connection URL; the project's own database without it.
    into: str | None = None


class InstanceSnapshotReference(SnapshotReference):
    """Which snapshot of Amazon RDS becomes an instance of which size."""

    #: That of the project's last instance without it.
    size: InstanceSize | None = None
    #: The larger of the operator's word and the snapshot's without it.
    storage_gb: StorageGb | None = None


class Result(BaseModel):
    """Says what a job has ended with."""

    # Most functions load it and none of them validates by it: it is built when it is first used.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class ApiKeyResult(Result):
    """What may be shown of one API key."""

    key_id: str
    key_prefix: str
    created_at: datetime
