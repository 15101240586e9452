"""A job that is wrapped in something is refused with what to do, and never unwrapped."""

from __future__ import annotations

import base64
import json
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.messages import job_id_of_message, parse_message

#: A job in what services and people put around it, and what is said; none of it is ever unwrapped.
_JOB = json.dumps(
    {"job_type": "provision_project", "payload": {"project_id": "shop", "region": "eu-central-1"}}
)
WRAPPED: dict[str, tuple[object, str]] = {
    "by SNS": (
        {
            "Type": "Notification",
            "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": "arn:aws:sns:eu-central-1:123456789012:jobs",
            "Message": _JOB,
            "Timestamp": "2026-11-27T12:00:00.000Z",
            "SignatureVersion": "1",
            "Signature": "EXAMPLE",
        },
        "is wrapped by Amazon SNS; switch on raw message delivery",
    ),
    "by SNS, in short": ({"Type": "Notification", "Message": _JOB}, "raw message delivery"),
    "a topic's question": (
        {"Type": "SubscriptionConfirmation", "Token": "a", "TopicArn": "b", "Message": "c"},
        "raw message delivery",
    ),
    "by EventBridge": (
        {
            "version": "0",
            "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
            "detail-type": "signup",
            "source": "shop",
            "account": "123456789012",
            "time": "2026-11-27T12:00:00Z",
            "region": "eu-central-1",
            "resources": [],
            "detail": json.loads(_JOB),
        },
        "is wrapped by Amazon EventBridge; let the rule pass on the job alone",
    ),
    "a notification of S3": (
        {"Records": [{"eventVersion": "2.1", "eventSource": "aws:s3", "s3": {}}]},
        "end a notification of S3 to this queue",
    ),
    "a test event of S3": (
        {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "shop", "RequestId": "a"},
        "is the test event of a notification of Amazon S3",
    ),
    "an event of SQS": (
        {"Records": [{"messageId": "a", "body": _JOB, "eventSource": "aws:sqs"}]},
        "is an event with Records, as of Amazon SQS, SNS or S3, and no job; send each job",
    ),
    "an event of nothing": ({"Records": None}, "is an event with Records"),
    "a record": ({"messageId": "a", "receiptHandle": "b", "body": _JOB}, "send its body alone"),
    "a message": ({"MessageId": "a", "ReceiptHandle": "b", "Body": _JOB}, "send its Body alone"),
    "a request": ({"QueueUrl": "https://a", "MessageBody": _JOB}, "send its MessageBody alone"),
    "a proxy's request": (
        {"resource": "/", "httpMethod": "POST", "headers": {}, "body": _JOB},
        "is a whole HTTP request; send its body alone",
    ),
    "a proxy's request of version 2": (
        {"version": "2.0", "requestContext": {"http": {}}, "body": _JOB},
        "is a whole request to Amazon API Gateway",
    ),
    "a CloudEvent": (
        {"specversion": "1.0", "type": "a", "source": "/b", "id": "c", "data": json.loads(_JOB)},
        "is wrapped as a CloudEvent; send its data alone",
    ),
    "behind a byte order mark": ("\ufeff" + _JOB, "begins with a byte order mark"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_job_that_is_wrapped_is_refused_with_what_to_do(name: str) -> None:
    body, said = WRAPPED[name]
    text = body if isinstance(body, str) else json.dumps(body)

    with pytest.raises(ProvisioningError) as caught:
        parse_message(text)

    assert caught.value.type is ErrorType.INVALID_PAYLOAD
    message = caught.value.message
    assert message.startswith("message: ")
    assert said in message
    assert message.endswith(".")
    assert message.isprintable()
    assert "shop" not in message
    assert job_id_of_message(text, "its-own") == "its-own"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{not json", "message: Invalid JSON"),
        (" \n", "message: Invalid JSON: EOF"),
        (base64.b64encode(_JOB.encode()).decode(), "message: Invalid JSON"),
        (urllib.parse.quote(_JOB), "message: Invalid JSON"),
        (str(json.loads(_JOB)), "message: Invalid JSON: key must be a string"),
        (f"{_JOB}\n{_JOB}\n", "message: Invalid JSON: trailing characters at line 2"),
        (f"[{_JOB}]", "message: Input should be an object"),
        ("7", "message: Input should be an object"),
        (json.dumps(_JOB), "message: Input should be an object"),
        ('{"job_type": {"S": "x"}, "payload": {}}', "job_type: Input should be a valid string"),
        ('{"job_type": "provision_project"}', "payload: Field required"),
        ('{"job_type": "provision_project", "payload": "x"}', "payload: Input should be an object"),
    ],
)
def test_what_is_not_wrapped_is_told_by_its_own_problem(body: str, said: str) -> None:
    with pytest.raises(ProvisioningError) as caught:
        parse_message(body)
    message = caught.value.message
    assert message.startswith(said)
    assert message.endswith("; send a JSON object with job_type and payload.")


@given(
    st.text()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["Records", "Type", "Message", "job_type", "S"]), inner
            )
        ),
    ).map(json.dumps)
)
def test_whatever_a_body_is_it_is_refused_in_a_printable_sentence(body: str) -> None:
    with pytest.raises(ProvisioningError) as caught:
        parse_message(body)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"a":' * 100_000, "A" * 1_000_000, "{}" * 300_000]
)
def test_a_body_that_is_made_to_cost_much_does_not(body: str) -> None:
    with pytest.raises(ProvisioningError):
        parse_message(body)
