"""Messages on the deployed queue: good ones, poison, and what is delivered twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from provision_cli.local.stack import RunningStack
from provisioner import api
from provisioner.errors import ErrorType
from support.leaks import messages
from support.stack_jobs import eventually, finished


def _body(project_id: str, region: str) -> str:
    payload = {
        "project_id": project_id,
        "region": region,
        "services": {"auth": False, "realtime": False, "storage": False},
        "api_keys": {"count": 1},
    }
    return json.dumps({"job_type": "provision_project", "payload": payload})


def _dead_letters(stack: RunningStack, job_ids: set[str]) -> list[dict[str, Any]]:
    found = messages(stack, stack.outputs["DeadLetterQueueUrl"])
    return [m for m in found if m["MessageAttributes"]["job_id"]["StringValue"] in job_ids]


def _executions(stack: RunningStack, job_ids: set[str]) -> list[str]:
    pages = (
        stack.client("stepfunctions")
        .get_paginator("list_executions")
        .paginate(stateMachineArn=stack.outputs["StateMachineArn"])
    )
    return [e["name"] for page in pages for e in page["executions"] if e["name"] in job_ids]


def _delivered_again(stack: RunningStack, bodies: dict[str, str]) -> dict[str, Any]:
    """Hand a batch to the dispatcher as AWS Lambda does when it delivers it once more."""
    records = [
        {
            "messageId": message_id,
            "receiptHandle": message_id,
            "body": body,
            "attributes": {
                "ApproximateReceiveCount": "2",
                "SentTimestamp": "0",
                "SenderId": "test",
                "ApproximateFirstReceiveTimestamp": "0",
            },
            "messageAttributes": {},
            "md5OfBody": "",
            "eventSource": "aws:sqs",
            "eventSourceARN": f"arn:aws:sqs:{stack.region}:000000000000:jobs",
            "awsRegion": stack.region,
        }
        for message_id, body in bodies.items()
    ]
    answer = stack.client("lambda").invoke(
        FunctionName=stack.outputs["DispatcherFunctionName"],
        Payload=json.dumps({"Records": records}).encode(),
    )
    assert "FunctionError" not in answer
    response: dict[str, Any] = json.loads(answer["Payload"].read())
    return response


def test_one_poison_message_of_ten_is_rejected_once_and_the_others_run_once(
    deployment: RunningStack,
) -> None:
    projects = [f"batch-{number}" for number in range(1, 10)]
    for project in projects:
        api.create_project(project)
    bodies = [_body(project, deployment.region) for project in projects]
    bodies.insert(4, _body("batch-poison'; DROP TABLE", deployment.region))
    sent = deployment.client("sqs").send_message_batch(
        QueueUrl=deployment.outputs["QueueUrl"],
        Entries=[{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies)],
    )["Successful"]
    by_id = {entry["MessageId"]: bodies[int(entry["Id"])] for entry in sent}
    assert len(by_id) == 10
    (poison,) = (job_id for job_id, body in by_id.items() if "poison" in body)

    ended = {job_id: finished(job_id) for job_id in by_id}

    good = [job for job_id, job in ended.items() if job_id != poison]
    assert [job.status for job in good] == [api.JobStatus.COMPLETED] * 9
    error = ended[poison].error
    assert ended[poison].status is api.JobStatus.FAILED
    assert error is not None
    assert error.type is ErrorType.INVALID_PAYLOAD
    assert "project_id" in error.message
    assert sorted(_executions(deployment, set(by_id))) == sorted(set(by_id) - {poison})
    (letter,) = eventually(lambda: _dead_letters(deployment, set(by_id)))
    assert letter["Body"] == by_id[poison]
    assert letter["MessageAttributes"]["error_type"]["StringValue"] == ErrorType.INVALID_PAYLOAD
    assert "project_id" in letter["MessageAttributes"]["reason"]["StringValue"]

    assert _delivered_again(deployment, by_id) == {"batchItemFailures": []}

    assert {job_id: api.get_job(job_id) for job_id in by_id} == ended
    assert len(_executions(deployment, set(by_id))) == 9
    assert len(eventually(lambda: _dead_letters(deployment, set(by_id)))) == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("not JSON", "send a JSON object with job_type and payload"),
        ('{"job_type": "paint_project", "payload": {}}', "no handler is registered"),
    ],
)
def test_a_message_that_can_never_work_is_a_dead_letter_with_its_reason(
    deployment: RunningStack, body: str, reason: str
) -> None:
    message_id = deployment.client("sqs").send_message(
        QueueUrl=deployment.outputs["QueueUrl"], MessageBody=body
    )["MessageId"]

    (letter,) = eventually(lambda: _dead_letters(deployment, {message_id}))

    assert letter["Body"] == body
    assert reason in letter["MessageAttributes"]["reason"]["StringValue"]


def test_an_idempotency_key_gives_the_same_job_and_one_execution(
    deployment: RunningStack,
) -> None:
    api.create_project("same-key")
    payload = {"project_id": "same-key", "region": deployment.region}

    first = api.enqueue_job("provision_project", payload, idempotency_key="same")
    second = api.enqueue_job("provision_project", payload, idempotency_key="same")

    assert first.job_id == second.job_id
    assert finished(first.job_id).status is api.JobStatus.COMPLETED
    assert api.enqueue_job("provision_project", payload, idempotency_key="same").job_id == (
        first.job_id
    )
    assert _executions(deployment, {first.job_id}) == [first.job_id]
    with pytest.raises(api.IdempotencyConflictError, match="idempotency_key"):
        api.enqueue_job(
            "provision_project", payload | {"metadata": {"other": True}}, idempotency_key="same"
        )
