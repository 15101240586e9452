"""A local stack that is killed, disturbed and stopped; it is no other test's."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from provision_cli.local.stack import (
    LocalStack,
    LocalStackNotRunningError,
    LocalStackSettings,
    RunningStack,
)
from provisioner import api
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.plan import Stage
from provisioner.runtime import aws
from support.local_stack import connect
from support.stack_jobs import (
    NO_SERVICES,
    cleaned_up,
    current_database,
    eventually,
    finished,
    provisioned,
    result_of,
    secret,
    slow_retries,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own") / "stack"


@pytest.fixture(scope="module")
def stack(directory: Path) -> Iterator[LocalStack]:
    """Return a stack that each test finds as another has left it: running, or stopped."""
    stack = LocalStack(
        LocalStackSettings(
            directory=directory, preferred_aws_port=None, preferred_postgresql_port=None
        )
    )
    yield stack
    stack.down()


@pytest.fixture
def running(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningStack]:
    """Let the public API talk to the stack, and return it."""
    running = stack.up()
    connect(running, monkeypatch)
    yield running
    aws.reset()


def _superuser(stack: LocalStack, running: RunningStack) -> psycopg.Connection[tuple[Any, ...]]:
    return stack._postgresql(running.postgresql_port).connect()


@contextmanager
def _job_at_its_database(
    stack: LocalStack,
    running: RunningStack,
    project_id: str,
    services: dict[str, bool] = NO_SERVICES,
) -> Iterator[api.Job]:
    """Give a job whose CREATING_DATABASE is at work all the while, unless its server is killed."""
    settings = api.current_settings()
    names = Naming(settings.resource_prefix, settings.resource_namespace).names(project_id)
    api.create_project(project_id)
    with _superuser(stack, running) as holder:
        holder.execute(
            "SELECT pg_advisory_lock(hashtextextended(%s, 0))",
            ("provisioner:" + names.tenant.database,),
        )
        job = api.enqueue_job(
            api.JobType.PROVISION_PROJECT,
            {"project_id": project_id, "region": running.region, "services": services},
        )
        eventually(
            lambda: (
                holder.execute(
                    "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                ).rowcount
            ),
            within=60,
        )
        yield job


def _kill(process_id: int) -> None:
    os.kill(process_id, signal.SIGKILL)
    eventually(lambda: not _command(process_id))


def _command(process_id: int) -> str:
    """Return the command of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{process_id}/cmdline").read_text()
    except OSError:
        return ""


def _processes_of(directory: Path) -> dict[int, str]:
    """Return the commands of the processes that know a folder, by their ids."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
                environment = (entry / "environ").read_bytes()
            except OSError:  # it ended meanwhile
                continue
            if str(directory).encode() in command + environment:
                found[int(entry.name)] = command.decode()
    return found


@pytest.mark.fault("the local stack killed and started again", where="PostgreSQL")
def test_a_job_completes_once_a_killed_postgresql_is_up_again(
    stack: LocalStack, running: RunningStack
) -> None:
    server = stack._postgresql(running.postgresql_port)
    # Half a second, as usual here, would be over before the server is up again.
    with slow_retries(running, 6), _job_at_its_database(stack, running, "goes-on") as job:
        process_id = server._process_id()
        assert process_id is not None
        _kill(process_id)
        with pytest.raises(LocalStackNotRunningError, match="start it with `provision up`"):
            stack.running()
        steps: list[str] = []

        again = stack.up(steps.append)

        assert steps == ["Starting PostgreSQL again"]
        assert again == running
        ended = finished(job.job_id)

    assert (ended.status, ended.error) == (api.JobStatus.COMPLETED, None)
    assert _stage(job, Stage.CREATING_DATABASE).attempt > 1
    result = result_of(ended)
    login = secret(running, result.database.secret_arn)["connection_string"]
    assert current_database(login) == result.database.database_name


@pytest.mark.fault("the local stack killed and started again", where="local AWS")
def test_nothing_is_left_of_a_stack_whose_aws_was_killed(
    stack: LocalStack,
    running: RunningStack,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with _job_at_its_database(stack, running, "begins-anew") as job:
        old = _processes_of(directory)
        servers = [process_id for process_id, command in old.items() if "ministack" in command]
        functions = [p for p, command in old.items() if "awslambdaric" in command]
        for process_id in servers:
            _kill(process_id)
        # They live on, and one of them is at work.
        assert servers
        assert [p for p in functions if _command(p)]
        steps: list[str] = []

        again = stack.up(steps.append)

    assert steps == ["Starting the local AWS", "Starting PostgreSQL", "Deploying the template"]
    assert not [p for p, command in old.items() if _command(p) == command]
    connect(again, monkeypatch)
    with pytest.raises(api.JobNotFoundError):
        api.get_job(job.job_id)
    with pytest.raises(api.ProjectNotFoundError):
        api.get_project("begins-anew")
    with _superuser(stack, again) as connection:
        databases = connection.execute(
            "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"
        ).fetchall()
    assert databases == []
    result = result_of(provisioned(again, "begins-anew", services=NO_SERVICES))
    login = secret(again, result.database.secret_arn)["connection_string"]
    assert current_database(login) == result.database.database_name


@contextmanager
def _without_s3(running: RunningStack) -> Iterator[None]:
    """Let the functions that register services find nobody where S3 is."""
    functions, name = running.client("lambda"), running.outputs["ServicesFunctionName"]
    found = functions.get_function_configuration(FunctionName=name)
    variables = found["Environment"]["Variables"]
    functions.update_function_configuration(
        FunctionName=name,
        Environment={"Variables": variables | {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}},
    )
    try:
        yield
    finally:
        functions.update_function_configuration(
            FunctionName=name, Environment={"Variables": variables}
        )


def test_a_cancelled_job_that_waits_ends_with_the_stage_that_was_at_work(
    stack: LocalStack, running: RunningStack
) -> None:
    services = NO_SERVICES | {"storage": True}
    with ExitStack() as disturbance:
        disturbance.enter_context(_without_s3(running))
        disturbance.enter_context(slow_retries(running))
        with _job_at_its_database(stack, running, "ends-early", services) as job:
            eventually(lambda: _stage(job, Stage.REGISTERING_STORAGE).next_attempt_before)
            disturbance.close()
            assert not api.cancel_job(job.job_id).status.is_terminal
    # Its storage waits for half a minute; that the other stage has ended, the bus tells.
    eventually(lambda: api.get_job(job.job_id).status.is_terminal, within=20)

    ended = cleaned_up(job.job_id)
    assert ended.status is api.JobStatus.CANCELLED
    assert _stage(job, Stage.REGISTERING_STORAGE).attempt == 1
    execution = running.outputs["StateMachineArn"].replace(":stateMachine:", ":execution:")
    described = running.client("stepfunctions").describe_execution(
        executionArn=f"{execution}:{job.job_id}"
    )
    assert described["status"] == "ABORTED"


def _stage(job: api.Job, stage: Stage) -> api.StageRecord:
    (found,) = (record for record in api.get_job(job.job_id).stages if record.stage == stage)
    return found


def test_down_leaves_nothing_running(
    stack: LocalStack, running: RunningStack, directory: Path
) -> None:
    # A function that has run stays, waiting for its next call.
    answer = running.client("lambda").invoke(
        FunctionName=running.outputs["DispatcherFunctionName"], Payload=b'{"Records": []}'
    )
    assert answer["StatusCode"] == 200
    assert len(_processes_of(directory)) > 2

    assert stack.down() is True

    assert _processes_of(directory) == {}
    assert stack.down() is False
