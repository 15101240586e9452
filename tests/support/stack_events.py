"""Listens to the events of a deployed stack."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from provision_cli.local.stack import RunningStack
from support.stack_jobs import eventually

#: Waits for so many events of the job, and returns all that have come, in order.
type Heard = Callable[[int], list[dict[str, Any]]]


@contextmanager
def listening(stack: RunningStack, *projects_or_jobs: str) -> Iterator[Heard]:
    """Hear the events of these projects or jobs, in the order in which the bus delivers them."""
    queues, bus = stack.client("sqs"), stack.client("events")
    name = f"listener-{uuid.uuid4().hex[:12]}"
    url = queues.create_queue(QueueName=f"{name}.fifo", Attributes={"FifoQueue": "true"})[
        "QueueUrl"
    ]
    arn = queues.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    rule = {"Name": name, "EventBusName": stack.outputs["EventBusName"]}
    wanted = list(projects_or_jobs)
    bus.put_rule(
        **rule,
        EventPattern=json.dumps(
            {
                "source": ["project-provisioner"],
                "$or": [{"detail": {"job_id": wanted}}, {"detail": {"project_id": wanted}}],
            }
        ),
    )
    bus.put_targets(
        Rule=name,
        EventBusName=rule["EventBusName"],
        Targets=[{"Id": "1", "Arn": arn["QueueArn"], "SqsParameters": {"MessageGroupId": "all"}}],
    )
    heard: list[dict[str, Any]] = []

    def hear(number: int) -> list[dict[str, Any]]:
        def received() -> bool:
            for message in queues.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get(
                "Messages", []
            ):
                heard.append(json.loads(message["Body"]))
                queues.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            return len(heard) >= number

        eventually(received)
        return heard

    try:
        yield hear
    finally:
        bus.remove_targets(Rule=name, EventBusName=rule["EventBusName"], Ids=["1"])
        bus.delete_rule(**rule)
        queues.delete_queue(QueueUrl=url)
