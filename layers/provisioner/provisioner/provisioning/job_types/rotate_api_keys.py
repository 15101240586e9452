"""rotate_api_keys: gives a project new API keys; its old ones verify until an overlap ends."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from provisioner.errors import ErrorType
from provisioner.jobs.definition import FailureHandling, JobDefinition, Stage
from provisioner.provisioning.common_stages import ACQUIRING, RELEASE, RELEASING
from provisioner.provisioning.contract import ApiKeyPrefix, ApiKeyResult, Payload, ProjectId, Result
from provisioner.provisioning.functions import API_KEYS


class RotateApiKeysPayload(Payload):
    """What a rotate_api_keys job is asked to do."""

    project_id: ProjectId
    count: Annotated[int, Field(ge=1, le=20, strict=True, description="New keys.")] = 2
    prefix: Annotated[
        ApiKeyPrefix | None,
        Field(description="What the new keys begin with; else what the newest that verifies does."),
    ] = None
    overlap_hours: Annotated[
        int,
        Field(ge=0, le=720, strict=True, description="Hours that the old keys verify from now on."),
    ] = 24


class RotateApiKeysResult(Result):
    """The new API keys of a project."""

    project_id: str
    api_keys: list[ApiKeyResult]
    #: The secret that hands over the keys once; left out where they have been claimed already.
    api_keys_secret_arn: str | None = None
    #: When that secret is deleted if nobody has claimed the keys; left out likewise.
    api_keys_claim_before: datetime | None = None
    #: Until when the old keys verify.
    old_keys_expire_at: datetime


ROTATING_API_KEYS = Stage(
    "ROTATING_API_KEYS",
    "The new API keys, the secret that hands them over once, and the end of the old ones.",
    function=API_KEYS,
    code="provisioner.provisioning.stages.api_keys:ensure_api_keys_rotated",
    own_error=ErrorType.API_KEY_GENERATION_FAILED,
    state="RotateApiKeys",
)

JOB_TYPE = JobDefinition(
    name="rotate_api_keys",
    meaning="Gives a project new API keys; its old ones verify until an overlap ends.",
    payload_model=RotateApiKeysPayload,
    result_model=RotateApiKeysResult,
    steps=(ACQUIRING, ROTATING_API_KEYS, RELEASING),
    on_failure=FailureHandling(release=RELEASE),
    example={"project_id": "shop"},
    command=("keys", "rotate"),
)
