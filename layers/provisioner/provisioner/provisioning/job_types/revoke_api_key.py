"""revoke_api_key: lets one API key stop verifying at once."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from provisioner.errors import ErrorType
from provisioner.jobs.definition import JobDefinition, Stage
from provisioner.provisioning.common_stages import CONCLUDING, FINDING
from provisioner.provisioning.contract import Payload, ProjectId, Result
from provisioner.provisioning.functions import API_KEYS


class RevokeApiKeyPayload(Payload):
    """What a revoke_api_key job is asked to do."""

    project_id: ProjectId
    key_id: Annotated[str, Field(strict=True, pattern=r"^key_[0-9a-f]{20}$")]


class RevokeApiKeyResult(Result):
    """The API key that does not verify any more."""

    project_id: str
    key_id: str
    revoked_at: datetime


REVOKING_API_KEY = Stage(
    "REVOKING_API_KEY",
    "The API key does not verify any more.",
    function=API_KEYS,
    code="provisioner.provisioning.stages.api_keys:ensure_api_key_revoked",
    own_error=ErrorType.API_KEY_GENERATION_FAILED,
    state="RevokeApiKey",
)

JOB_TYPE = JobDefinition(
    name="revoke_api_key",
    meaning="Lets one API key stop verifying at once.",
    payload_model=RevokeApiKeyPayload,
    result_model=RevokeApiKeyResult,
    steps=(FINDING, REVOKING_API_KEY, CONCLUDING),
    example={"project_id": "shop", "key_id": "key_0123456789abcdef0123"},
)
