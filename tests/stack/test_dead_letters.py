"""A message that cannot be dispatched: from the queue that gives it up to its next attempt."""

from __future__ import annotations

import json
import urllib.request
import uuid
from collections.abc import Iterator

import pytest
from provision_cli.local.stack import RunningStack
from provisioner import api
from provisioner.errors import ErrorType
from support.stack_events import listening
from support.stack_jobs import eventually, finished


@pytest.fixture
def failing_intake(deployment: RunningStack) -> Iterator[str]:
    """Return a queue like the stack's, whose dispatcher does not reach Step Functions.

    Its messages come again after a second, and go where the stack's own go after five deliveries.
    """
    queues, functions = deployment.client("sqs"), deployment.client("lambda")
    name = f"failing-{uuid.uuid4().hex[:12]}"
    redrive = json.loads(
        queues.get_queue_attributes(
            QueueUrl=deployment.outputs["QueueUrl"], AttributeNames=["RedrivePolicy"]
        )["Attributes"]["RedrivePolicy"]
    )
    url = queues.create_queue(
        QueueName=name,
        Attributes={"VisibilityTimeout": "1", "RedrivePolicy": json.dumps(redrive)},
    )["QueueUrl"]
    arn = queues.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    dispatcher = functions.get_function(FunctionName=deployment.outputs["DispatcherFunctionName"])
    configuration = dispatcher["Configuration"]
    variables = configuration["Environment"]["Variables"]
    with urllib.request.urlopen(dispatcher["Code"]["Location"]) as code:  # the local stack's  # nosec B310
        functions.create_function(
            FunctionName=name,
            Runtime=configuration["Runtime"],
            Handler=configuration["Handler"],
            Role=configuration["Role"],
            Timeout=configuration["Timeout"],
            Code={"ZipFile": code.read()},
            Environment={
                # Where nobody listens.
                "Variables": variables | {"AWS_ENDPOINT_URL_SFN": "http://127.0.0.1:1"}
            },
        )
    mapping = functions.create_event_source_mapping(
        EventSourceArn=arn["QueueArn"],
        FunctionName=name,
        FunctionResponseTypes=["ReportBatchItemFailures"],
    )
    yield url
    functions.delete_event_source_mapping(UUID=mapping["UUID"])
    functions.delete_function(FunctionName=name)
    queues.delete_queue(QueueUrl=url)


def test_a_message_that_cannot_be_dispatched_fails_its_job_and_is_sent_back_by_people(
    deployment: RunningStack, failing_intake: str
) -> None:
    api.create_project("given-up")
    payload = {"project_id": "given-up", "region": deployment.region}
    body = json.dumps({"job_type": "provision_project", "payload": payload})

    with listening(deployment, "given-up") as heard:
        job_id = deployment.client("sqs").send_message(QueueUrl=failing_intake, MessageBody=body)[
            "MessageId"
        ]
        job = finished(job_id)
        assert [event["detail-type"] for event in heard(2)] == ["job.queued", "job.failed"]

    assert job.status is api.JobStatus.FAILED
    assert job.error is not None
    assert (job.error.type, job.error.cause) == (
        ErrorType.UNKNOWN_ERROR,
        "EndpointConnectionError",
    )
    (letter,) = eventually(lambda: [one for one in api.list_dead_letters() if one.job_id == job_id])
    assert (letter.body, letter.error_type, letter.reason, letter.cause) == (
        body,
        "UNKNOWN_ERROR",
        job.error.message,
        job.error.cause,
    )

    (stays,) = api.redrive_dead_letters(job_id)
    assert not stays.is_sent
    (runs,) = api.redrive_dead_letters(job_id, again=True)
    assert runs.is_sent

    again = finished(job_id)
    assert (again.status, again.attempt) == (api.JobStatus.COMPLETED, 2)
    assert [one for one in api.list_dead_letters() if one.job_id == job_id] == []
