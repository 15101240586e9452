"""One session a process, one client per service and region."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

if TYPE_CHECKING:
    from botocore.client import BaseClient

#: Within the time-outs of the functions: a call that hangs is given up and retried in time.
#: Source: botocore documentation, "Retries", mode standard.
_CONFIG = Config(
    connect_timeout=3,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 4},
    user_agent_extra="project-provisioner",
)


@cache
def session() -> boto3.Session:
    """Return the session that every client of this process shares."""
    return boto3.Session()


@cache
def client(service: str, region: str | None = None) -> Any:
    """Return the client of a service.

    Args:
        service: botocore's name of the service.
        region: where it is called; the process's own region when left out.
    """
    made: BaseClient = session().client(service, region_name=region, config=_CONFIG)  # type: ignore[call-overload]  # the stubs list literal names only
    return made
