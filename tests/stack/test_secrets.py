"""No secret is left anywhere that a job writes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest
from provision_cli.local.stack import RunningStack
from support.leaks import leaks, traces
from support.stack_jobs import provisioned, result_of, secret


def _secrets_of(stack: RunningStack, project_id: str) -> list[str]:
    result = result_of(provisioned(stack, project_id))
    login = secret(stack, result.database.secret_arn)
    admin = secret(stack, stack.admin_secret_name("postgresql"))
    keys = secret(stack, result.api_keys_secret_arn)["api_keys"]
    return [login["password"], login["connection_string"], admin["password"], *keys]


def test_a_job_leaves_no_secret_behind(deployment: RunningStack) -> None:
    secrets = _secrets_of(deployment, "discreet")
    found = list(traces(deployment, deployment.directory))

    for kind in ("execution", "history", "table", "log", "file"):
        assert any(place.startswith(kind) and "discreet" in text for place, text in found), kind
    assert leaks(secrets, found) == []


@contextmanager
def _in_table(stack: RunningStack, text: str) -> Iterator[None]:
    tables = stack.client("dynamodb")
    table = stack.outputs["JobsTableName"]
    key = {"job_id": {"S": "planted"}, "record": {"S": "PLANTED"}}
    tables.put_item(TableName=table, Item=key | {"note": {"S": text}})
    yield
    tables.delete_item(TableName=table, Key=key)


@contextmanager
def _in_log(stack: RunningStack, text: str) -> Iterator[None]:
    logs = stack.client("logs")
    logs.create_log_group(logGroupName="planted")
    logs.create_log_stream(logGroupName="planted", logStreamName="planted")
    logs.put_log_events(
        logGroupName="planted",
        logStreamName="planted",
        logEvents=[{"timestamp": 1_800_000_000_000, "message": text}],
    )
    yield
    logs.delete_log_group(logGroupName="planted")


@contextmanager
def _in_queue(stack: RunningStack, text: str) -> Iterator[None]:
    queues = stack.client("sqs")
    url = queues.create_queue(QueueName="planted")["QueueUrl"]
    queues.send_message(QueueUrl=url, MessageBody=text)
    yield
    queues.delete_queue(QueueUrl=url)


@contextmanager
def _in_history(stack: RunningStack, text: str) -> Iterator[None]:
    machines = stack.client("stepfunctions")
    arn = machines.create_state_machine(
        name="planted",
        definition='{"StartAt": "Done", "States": {"Done": {"Type": "Succeed"}}}',
        roleArn="arn:aws:iam::000000000000:role/planted",
    )["stateMachineArn"]
    machines.start_execution(stateMachineArn=arn, input=f'{{"note": "{text}"}}')
    yield
    machines.delete_state_machine(stateMachineArn=arn)


#: By the beginning of what `traces` calls the place.
PLACES: dict[str, Callable[[RunningStack, str], AbstractContextManager[None]]] = {
    "table": _in_table,
    "log": _in_log,
    "queue": _in_queue,
    "history": _in_history,
}


def test_a_planted_secret_is_found_wherever_it_stands(deployment: RunningStack) -> None:
    planted = {place: f"nm_planted{place}" for place in PLACES}
    with ExitStack() as planting:
        for place, plant in PLACES.items():
            planting.enter_context(plant(deployment, f"here is {planted[place]} in clear"))
        found = list(traces(deployment, deployment.directory))

    for place, secret_text in planted.items():
        assert [at for at in leaks([secret_text], found) if at.startswith(place)], place
    assert leaks(["nm_never_planted"], found) == []


def test_looking_for_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        leaks([], [("place", "text")])
