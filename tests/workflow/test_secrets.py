"""No secret is left anywhere, whatever goes wrong on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from botocore.exceptions import ClientError
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.provisioning.job_types import provision_project
from provisioner.runtime import aws
from support.calls import DRIVER_ERRORS, SQL
from support.effects import Attempt, Effect, effects
from support.leaks import Trace, leaks
from support.tenant_server import each_engine
from support.workflow import REGION, Fault, Point, Workflow


class _Left:
    """What a job leaves behind, and its secrets."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow
        #: What the functions log and print.
        self.log: Callable[[], str] = lambda: ""
        self.jobs: list[api.Job] = []

    def secrets(self) -> list[str]:
        found = [self.workflow.server.admin.password]
        for job in self.jobs:
            names = self.workflow.names(job.project_id)
            found.append(self.workflow.secret(names.database_secret)["password"])
            found += self.workflow.secret(names.api_keys_secret)["api_keys"]
        return found

    def traces(self) -> Iterator[Trace]:
        for execution in aws.client("stepfunctions").list_executions(
            stateMachineArn=self.workflow.state_machines["provision_project"]
        )["executions"]:
            described = aws.client("stepfunctions").describe_execution(
                executionArn=execution["executionArn"]
            )
            yield "execution", json.dumps(described, default=str)
        for job in self.jobs:
            for event in self.workflow.history(job):
                yield "history", json.dumps(event, default=str)
        tables = aws.client("dynamodb")
        for table in tables.list_tables()["TableNames"]:
            for item in tables.scan(TableName=table)["Items"]:
                yield "table", json.dumps(item)
        for message in (
            aws.client("sqs")
            .receive_message(
                QueueUrl=self.workflow.settings.queue_url,
                MaxNumberOfMessages=10,
                VisibilityTimeout=0,
            )
            .get("Messages", [])
        ):
            yield "message", json.dumps(message)
        yield "log", self.log()
        yield "server log", self.workflow.server.log.read_text()


@pytest.fixture
def left(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> _Left:
    """Return what a job leaves that met errors everywhere and one that failed."""
    left = _Left(workflow)

    def go_wrong(effect: Effect, _attempt: Attempt) -> None:
        if effect.retry_count == 0 and effect.number == 2:
            if effect.name == SQL:
                raise DRIVER_ERRORS[workflow.engine].lost()
            raise ClientError({"Error": {"Code": "ThrottlingException"}}, effect.name)

    with workflow.logged() as log, effects(workflow, monkeypatch, go_wrong):
        project_id = workflow.new_project()
        enqueued = api.enqueue_job(
            "provision_project",
            {"project_id": project_id, "region": REGION, "database": {"engine": workflow.engine}},
        )
        left.jobs.append(workflow.execute(enqueued))
        workflow.faults[provision_project.CREATING_SCHEMA] = Fault(
            Point.AFTER, DRIVER_ERRORS[workflow.engine].forbidden, times=3
        )
        failing = workflow.new_job(workflow.new_project(), on_failure="keep")
        left.jobs.append(workflow.execute(failing))
    assert [job.status for job in left.jobs] == [api.JobStatus.COMPLETED, api.JobStatus.FAILED]
    printed: list[str] = []

    def read_log() -> str:
        printed.extend(capfd.readouterr())
        return log.getvalue() + "".join(printed)

    left.log = read_log
    return left


@each_engine
def test_jobs_that_meet_errors_leave_no_secret(left: _Left) -> None:
    found = list(left.traces())
    for place in ("execution", "history", "table", "message", "log", "server log"):
        assert any(at == place and text for at, text in found), place
    assert len(left.secrets()) == 7
    assert leaks(left.secrets(), found) == []


PLACES: dict[str, Callable[[_Left, str], object]] = {
    "execution": lambda left, text: aws.client("stepfunctions").start_execution(
        stateMachineArn=left.workflow.state_machines["provision_project"],
        name="planted",
        input=json.dumps({"job": {}, "planted": text}),
    ),
    "table": lambda left, text: aws.client("dynamodb").put_item(
        TableName=left.workflow.settings.jobs_table,
        Item={"job_id": {"S": "planted"}, "record": {"S": "JOB"}, "result": {"S": text}},
    ),
    "message": lambda left, text: aws.client("sqs").send_message(
        QueueUrl=left.workflow.settings.queue_url, MessageBody=text
    ),
    "log": lambda _, text: print(text),  # noqa: T201  # planted
}


def test_a_planted_secret_is_found_wherever_it_stands(left: _Left) -> None:
    for number, (place, plant) in enumerate(PLACES.items()):
        plant(left, left.secrets()[number])
        assert set(leaks(left.secrets(), left.traces())) == set(list(PLACES)[: number + 1]), place


def test_an_error_that_tells_a_secret_is_not_passed_on(
    workflow: Workflow, capfd: pytest.CaptureFixture[str]
) -> None:
    left = _Left(workflow)
    job = workflow.new_job(workflow.new_project(), on_failure="keep")
    left.jobs.append(job)
    names = workflow.names(job.project_id)

    def telling(secret: str) -> Callable[[], BaseException]:
        return lambda: RuntimeError(json.dumps(workflow.secret(secret)))

    for stage, secret in (
        (provision_project.CREATING_DATABASE, names.database_secret),
        (provision_project.GENERATING_API_KEYS, names.api_keys_secret),
    ):
        workflow.faults[stage] = Fault(Point.AFTER, telling(secret))
    with workflow.logged() as log:
        failed = workflow.execute(job)
    left.log = lambda: log.getvalue() + "".join(capfd.readouterr())
    assert failed.error is not None
    assert [error.type for error in (failed.error, *failed.other_errors)] == [
        ErrorType.DATABASE_CREATION_FAILED,
        ErrorType.API_KEY_GENERATION_FAILED,
    ]
    assert all("RuntimeError at" in e.cause for e in (failed.error, *failed.other_errors))
    assert leaks(left.secrets(), left.traces()) == []
