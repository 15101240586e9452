"""Says what a message is wrapped in that holds a job and is none, and how to send it plain.

Sources of the forms: Amazon SNS Developer Guide, "Amazon SNS raw message delivery"; Amazon
EventBridge User Guide, "AWS service event structure"; Amazon S3 User Guide, "Event message
structure"; AWS Lambda Developer Guide, "Using Lambda with Amazon SQS"; Amazon API Gateway Developer
Guide, "Input format of a Lambda function for proxy integration"; CloudEvents 1.0, "JSON Event
Format"; Amazon DynamoDB Developer Guide, "DynamoDB low-level API".
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

#: What is told by which fields: what it is, and what to do. The first whose fields are all there.
_OBJECTS: dict[tuple[str, ...], str] = {
    ("Type", "Message"): (
        "is wrapped by Amazon SNS; switch on raw message delivery for the queue's subscription to "
        "the topic (RawMessageDelivery)"
    ),
    ("detail-type", "detail"): (
        "is wrapped by Amazon EventBridge; let the rule pass on the job alone, by the target's "
        "input path $.detail"
    ),
    ("Service", "Event"): (
        "is the test event of a notification of Amazon S3, and no job; end that notification to "
        "this queue"
    ),
    ("requestContext",): (
        "is a whole request to Amazon API Gateway, or to a function's URL; send its body alone"
    ),
    ("httpMethod", "body"): "is a whole HTTP request; send its body alone",
    ("receiptHandle", "body"): "is a whole record of Amazon SQS; send its body alone",
    ("ReceiptHandle", "Body"): "is a whole message of Amazon SQS; send its Body alone",
    ("MessageBody",): "is a whole request to Amazon SQS; send its MessageBody alone",
    ("specversion", "data"): "is wrapped as a CloudEvent; send its data alone",
}

#: Records of a function's event, by the service that they are of.
_RECORDS = {
    "aws:s3": "is a notification of Amazon S3, and no job; end that notification to this queue",
    "aws:sqs": "is a whole event of Amazon SQS; send the body of each of its Records by itself",
    "aws:sns": "is a whole event of Amazon SNS; send the Message of each of its Records by itself",
}
_OTHER_RECORDS = "is an event with Records, and no job; send each job as a message of its own"

#: A text of at least a short job in Base64, or its variant for URLs, whatever its lines are.
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{24,}={0,2}")


def what_wraps(body: str) -> str | None:
    """Say what is in the place of a job, and what to do; None where it is none of the known forms.

    No part of the message is repeated.
    """
    if body.startswith("\ufeff"):
        return "begins with a byte order mark; encode it as UTF-8 without one"
    text = body.strip()
    match _parsed(text):
        case dict() as value:
            return _of_object(value)
        case [dict(), *_]:
            return "is a list; send each job as a message of its own"
        case str() as inner if isinstance(_parsed(inner), dict):
            return "is JSON within JSON, a text in quotes; encode the job once"
        case None:
            return _of_text(text)
    return None


def _of_object(value: Mapping[str, Any]) -> str | None:
    if "Records" in value:
        return _of_records(value["Records"])
    for fields, said in _OBJECTS.items():
        if value.keys() >= set(fields):
            return said
    if _is_typed(value.get("job_type")):
        return "is written in DynamoDB's own JSON, with types; send plain JSON"
    payload = value.get("payload")
    if isinstance(payload, str) and isinstance(_parsed(payload), dict):
        return "has a payload that is JSON within JSON, a text in quotes; send it as an object"
    return None


def _of_records(records: object) -> str:
    first = records[0] if isinstance(records, list) and records else None
    if not isinstance(first, dict):
        return _OTHER_RECORDS
    source = first.get("eventSource", first.get("EventSource"))
    return _RECORDS.get(source, _OTHER_RECORDS) if isinstance(source, str) else _OTHER_RECORDS


def _is_typed(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"S"}


def _of_text(text: str) -> str | None:
    """Say what a text is that is no JSON."""
    if not text:
        return "is empty; send a JSON object with job_type and payload"
    if text.startswith("{'"):
        return "is a dict as Python prints it; send JSON, by json.dumps"
    if text.lower().startswith("%7b"):
        return "is encoded for a URL; send it as plain JSON"
    if isinstance(_first_of(text), dict):
        return "is more than one JSON object; send each job as a message of its own"
    joined = "".join(text.split())
    if _BASE64.fullmatch(joined) and _holds_object(joined):
        return "is encoded in Base64; send it as plain JSON"
    return None


def _holds_object(text: str) -> bool:
    padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
    try:
        decoded = base64.b64decode(padded, altchars=b"-_" if {"-", "_"} & set(text) else None)
    except ValueError:
        return False
    # Of what is compressed, gzip's first bytes. Source: RFC 1952, section 2.3.1.
    return decoded.startswith(b"\x1f\x8b") or isinstance(
        _parsed(decoded.decode("utf-8", "replace")), dict
    )


def _first_of(text: str) -> Any:
    """Return the first of several JSON values; None where there are none."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
        json.JSONDecoder().raw_decode(text[end:].lstrip(" \t\r\n,"))
    except (ValueError, RecursionError):
        return None
    return value


def _parsed(text: str) -> Any:
    """Return what a text is as JSON; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
