"""Tells an answer of AWS from one of something on the way: a proxy, a portal, another server.

botocore reads a web page with status 200, or nothing, as an answer without fields: DynamoDB's
"there is no such item", or SQS's "it is sent". So every answer is looked at before botocore reads
it. AWS names its request in each: without that, it is not AWS's.

Sources: AWS SDKs and Tools Reference Guide, "Request ID"; Amazon S3 User Guide, "Getting Amazon S3
request IDs for AWS Support"; Smithy, "AWS JSON protocols", on what a body is.
"""

import json
import xml.etree.ElementTree as ET  # botocore has read it already  # nosec B405
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import HTTPClientError
from botocore.model import OperationModel, Shape

#: One of these names the request in every answer of AWS.
_REQUEST_IDS = ("x-amzn-requestid", "x-amz-request-id", "x-amz-id-2")

#: Protocols by what a body is.
_JSON = frozenset({"json", "rest-json"})
_XML = frozenset({"query", "rest-xml"})

#: Who wants a login before there is an answer.
#: Sources: RFC 9110, section 15.5.8; RFC 6585, section 6.
_LOGINS: dict[int, str] = {
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: "a proxy",
    HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED: "a network",
}

#: What is asked for credentials, by the names of botocore's events.
_LOGIN_SERVICES = ("sts", "sso", "sso-oidc", "signin")

#: The error that an answer which botocore has read becomes, where it is not AWS's.
_PROBLEM = "NotAws"

_ADVICE = (
    "Check the proxy (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), whether the network wants a login in a "
    "browser first, and the endpoint (AWS_ENDPOINT_URL)"
)


class NotAwsError(HTTPClientError):
    """What answered was not AWS, or not all of its answer arrived.

    A kin of what botocore raises where nothing answers: whether the request reached AWS is unknown.
    """

    fmt = f"That was not AWS: {{address}} answered {{operation}} with {{what}}. {_ADVICE}."


def watch(client: Any) -> None:
    """Let a client raise NotAwsError where what answers is not AWS."""
    address = _address(client.meta.endpoint_url)
    events = client.meta.events
    # Handlers by wildcards come before those by names, among them botocore's own that takes a page
    # in the place of an answer of Amazon S3 for an error 500.
    events.register("before-parse.*.*", partial(_refuse_foreign, address))
    events.register("after-call.*.*", partial(_refuse_after_the_last_attempt, address))


def watch_logins(session: boto3.Session) -> None:
    """Let what a session asks for credentials raise NotAwsError alike: AWS STS and the sign-in.

    Only what cannot be AWS is refused: of these services no document says that each names requests.
    """
    for service in _LOGIN_SERVICES:
        session.events.register(f"before-parse.{service}.*", _refuse_page)


def _refuse_page(operation_model: OperationModel, response_dict: dict[str, Any], **_: Any) -> None:
    status, headers = int(response_dict["status_code"]), response_dict["headers"]
    body = response_dict["body"]
    is_page = _is_web_page(headers) or status in _LOGINS or headers.get("location") or not body
    if is_page and not _is_named(headers):
        what = _what(status, headers, body)
        raise NotAwsError(address="something", operation=operation_model.name, what=what)


def _refuse_foreign(
    address: str,
    operation_model: OperationModel,
    response_dict: dict[str, Any],
    customized_response_dict: dict[str, Any],
    **_: Any,
) -> None:
    status = int(response_dict["status_code"])
    problem = _problem(operation_model, status, response_dict["headers"], response_dict["body"])
    if problem is None:
        return
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        raise NotAwsError(address=address, operation=operation_model.name, what=problem)
    # It may pass: botocore tries again, for which it must be able to read the body.
    response_dict["body"] = b""
    customized_response_dict[_PROBLEM] = problem


def _refuse_after_the_last_attempt(
    address: str, model: OperationModel, parsed: Mapping[str, Any], **_: Any
) -> None:
    if _PROBLEM in parsed:
        raise NotAwsError(address=address, operation=model.name, what=parsed[_PROBLEM])


def _problem(
    operation: OperationModel, status: int, headers: Mapping[str, str], body: Any
) -> str | None:
    """Return what there is in the place of an answer of AWS; None where it is one."""
    # A file, which is read later, may be a web page; no answer is.
    is_file = not isinstance(body, bytes)
    if not _is_named(headers) or status in _LOGINS or (_is_web_page(headers) and not is_file):
        return _what(status, headers, body)
    if is_file or operation.http.get("method") == "HEAD":
        return None
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) != len(body):
        return f"{len(body)} of its {length} bytes"
    is_error = status >= HTTPStatus.MULTIPLE_CHOICES
    if not (is_error or _has_fields_in_its_body(operation.output_shape)):
        return None
    return _form_problem(operation, body, is_error=is_error)


def _form_problem(operation: OperationModel, body: bytes, *, is_error: bool) -> str | None:
    if not body:
        return None if is_error else "nothing"
    protocol = operation.service_model.resolved_protocol
    try:
        if protocol in _JSON and not isinstance(json.loads(body), dict):
            return "JSON that is no object"
        if protocol in _XML:
            ET.fromstring(body)  # noqa: S314  # as botocore does next  # nosec B314
    except (ValueError, ET.ParseError):
        return "something that breaks off, or was changed on the way"
    return None


def _has_fields_in_its_body(shape: Shape | None) -> bool:
    """Whether an answer says anything by JSON or XML: not by its headers, or a file, alone."""
    if shape is None:
        return False
    members = getattr(shape, "members", {})
    payload = shape.serialization.get("payload")
    if payload is not None:
        return str(members[payload].type_name) == "structure"
    return any("location" not in member.serialization for member in members.values())


def _is_named(headers: Mapping[str, str]) -> bool:
    return any(headers.get(name) for name in _REQUEST_IDS)


def _is_web_page(headers: Mapping[str, str]) -> bool:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in {"text/html", "application/xhtml+xml"}


def _what(status: int, headers: Mapping[str, str], body: Any) -> str:
    """Describe what answered; nothing that it says itself is told, for it may say anything."""
    if status in _LOGINS:
        return f"{status}: {_LOGINS[status]} wants a login"
    if headers.get("location"):
        return f"{status}: a redirect to {_address(headers['location']) or 'another page'}"
    if body == b"":
        return f"{status} and nothing"
    return f"{status} and {'a web page' if _is_web_page(headers) else 'no request id of AWS'}"


def _address(url: str) -> str:
    """Return a URL's scheme, host and port: not its login, nor what else stands in it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" if host and host.isprintable() else ""
