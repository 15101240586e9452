"""One session a process, one client per service and region."""

from __future__ import annotations

from functools import cache
from typing import Any

import boto3
from botocore.config import Config

from provisioner.runtime import answers

#: Within the time-outs of the functions: a call that hangs is given up and repeated in time.
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
        region: where it is called; the session's region when left out.
    """
    make: Any = session().client  # its stubs list the literal name of every service
    made = make(service, region_name=region, config=_CONFIG)
    answers.watch(made)
    return made


def reset() -> None:
    """Forget the session and its clients, so that the next call reads the environment anew."""
    session.cache_clear()
    client.cache_clear()
