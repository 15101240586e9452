"""Looks for secrets wherever a job leaves traces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from provision_cli.local.stack import RunningStack

#: A place and what stands there.
type Trace = tuple[str, str]


def leaks(secrets: Iterable[str], traces: Iterable[Trace]) -> list[str]:
    """Return the places at which a secret stands."""
    wanted = list(secrets)
    if not wanted or not all(wanted):
        raise ValueError("an empty secret stands everywhere; none stands nowhere")
    return [place for place, text in traces if any(secret in text for secret in wanted)]


def traces(stack: RunningStack, directory: Path) -> Iterator[Trace]:
    """Read everything that the jobs of a local stack have left."""
    yield from _executions(stack)
    yield from _tables(stack)
    yield from _queues(stack)
    yield from _logs(stack)
    for log in sorted(directory.rglob("*.log")):
        yield f"file {log.name}", log.read_text(errors="replace")


def _executions(stack: RunningStack) -> Iterator[Trace]:
    machines = stack.client("stepfunctions")
    for machine in machines.list_state_machines()["stateMachines"]:
        pages = machines.get_paginator("list_executions").paginate(
            stateMachineArn=machine["stateMachineArn"]
        )
        for execution in (e for page in pages for e in page["executions"]):
            arn = execution["executionArn"]
            yield f"execution {arn}", _text(machines.describe_execution(executionArn=arn))
            history = machines.get_paginator("get_execution_history").paginate(executionArn=arn)
            for event in (e for page in history for e in page["events"]):
                yield f"history {arn} {event['id']}", _text(event)


def _tables(stack: RunningStack) -> Iterator[Trace]:
    tables = stack.client("dynamodb")
    for table in tables.list_tables()["TableNames"]:
        for page in tables.get_paginator("scan").paginate(TableName=table):
            for item in page["Items"]:
                yield f"table {table}", _text(item)


def _queues(stack: RunningStack) -> Iterator[Trace]:
    queues = stack.client("sqs")
    for url in queues.list_queues().get("QueueUrls", []):
        for message in messages(stack, url):
            yield f"queue {url}", _text(message)


def _logs(stack: RunningStack) -> Iterator[Trace]:
    logs = stack.client("logs")
    for group in logs.describe_log_groups()["logGroups"]:
        name = group["logGroupName"]
        for page in logs.get_paginator("filter_log_events").paginate(logGroupName=name):
            for event in page["events"]:
                yield f"log {name}", event["message"]


def messages(stack: RunningStack, url: str) -> list[dict[str, Any]]:
    """Return the messages that wait in a queue, and leave them there."""
    queues = stack.client("sqs")
    found: dict[str, dict[str, Any]] = {}
    while batch := queues.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=10,
        VisibilityTimeout=10,
        MessageAttributeNames=["All"],
    ).get("Messages", []):
        found.update({message["MessageId"]: message for message in batch})
    for message in found.values():
        queues.change_message_visibility(
            QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
        )
    return list(found.values())


def _text(value: Any) -> str:
    return json.dumps(value, default=str)
