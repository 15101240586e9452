"""What the tests of the drivers of AWS share."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.ownership import JOB_TAG, MANAGED_BY_TAG, PROJECT_TAG, Ownership
from support.core import Answer, aws_error

OWNER = Ownership("test-123456789012", "shop", "job-1")

#: A later job of the same project.
LATER = Ownership("test-123456789012", "shop", "job-2")

#: The tags of what is not the project's.
FOREIGN: dict[str, dict[str, str]] = {
    "unmarked": {},
    "of_another_project": {**OWNER.tags(), PROJECT_TAG: "other"},
    "of_another_deployment": {**OWNER.tags(), MANAGED_BY_TAG: "other-123456789012"},
    "of_half_a_marker": {PROJECT_TAG: "shop", JOB_TAG: "job-1"},
}
each_foreign = pytest.mark.parametrize("tags", FOREIGN.values(), ids=FOREIGN)


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as the services want them that take a list."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


@contextmanager
def told_only(client: Any, operation: str, items: str, *members: str) -> Iterator[None]:
    """Let an operation's answer tell these members alone of each thing that it lists.

    Args:
        client: the service's client.
        operation: the operation, such as `ListApis`.
        items: the member of the answer that is a list.
        members: what is told of each entry.
    """

    def strip(parsed: dict[str, Any], **_details: Any) -> None:
        parsed[items] = [{n: entry[n] for n in members} for entry in parsed.get(items, [])]

    event = f"after-call.{client.meta.service_model.service_id.hyphenize()}.{operation}"
    client.meta.events.register(event, strip)
    try:
        yield
    finally:
        client.meta.events.unregister(event, strip)


def _raises(error: Exception) -> Answer:
    def answer(_parameters: Mapping[str, Any]) -> None:
        raise error

    return answer


def errors(own: ErrorType) -> dict[str, tuple[Answer, ErrorType]]:
    """Return what any call can meet, and what it is for the job.

    Args:
        own: the type of the causes of the driver that stay.
    """
    return {
        "throttled": (aws_error("ThrottlingException"), ErrorType.NETWORK_ERROR),
        "not well": (aws_error("Unheard", 503), ErrorType.NETWORK_ERROR),
        "no way to it": (
            _raises(EndpointConnectionError(endpoint_url="https://aws.invalid")),
            ErrorType.NETWORK_ERROR,
        ),
        "no answer": (
            _raises(ReadTimeoutError(endpoint_url="https://aws.invalid")),
            ErrorType.TIMEOUT,
        ),
        "at work": (aws_error("OperationAborted", 409), ErrorType.TIMEOUT),
        "forbidden": (
            aws_error("AccessDeniedException"),
            ErrorType.INSUFFICIENT_PERMISSIONS,
        ),
        "no room": (aws_error("LimitExceededException"), ErrorType.QUOTA_EXCEEDED),
        "refused": (aws_error("InvalidParameterException"), own),
        "unheard of": (aws_error("Unheard"), ErrorType.UNKNOWN_ERROR),
    }


def refused(act: Callable[[], object]) -> ProvisioningError:
    """Return the error that something ends with."""
    with pytest.raises(ProvisioningError) as raised:
        act()
    return raised.value


def text_of(error: BaseException) -> str:
    """Return everything that an exception tells."""
    told = [str(error), repr(error), repr(error.args), repr(vars(error))]
    return "\n".join([*told, *traceback.format_exception(error)])
