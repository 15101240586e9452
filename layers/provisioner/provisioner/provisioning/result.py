"""What the results of the job types have in common.

They hold no secret: secrets are named by their ARNs.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class Result(BaseModel):
    """Says what a job has ended with."""

    # Most functions load it and none of them validates by it: it is built when it is first used.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class ApiKeyResult(Result):
    """What may be shown of one API key."""

    key_id: str
    key_prefix: str
    created_at: datetime
