"""A local stack that is killed, disturbed and stopped; it is no other test's."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from provision_cli.local.instance_servers import Instance
from provision_cli.local.ports import choose_port
from provision_cli.local.postgresql_server import PostgresqlServer
from provision_cli.local.stack import (
    LocalStack,
    LocalStackNotRunningError,
    RunningStack,
)
from provisioner import api
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types import provision_project
from provisioner.provisioning.naming import Naming
from provisioner.runtime import aws
from support.desk import DESK
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

_PROGRAM = Path(sys.executable).with_name("provision")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own") / "stack"


@pytest.fixture(scope="module")
def stack(directory: Path) -> Iterator[LocalStack]:
    """Return a stack that each test finds as another has left it: running, or stopped."""
    stack = LocalStack(directory, has_usual_ports=False)
    yield stack
    stack.down()


@pytest.fixture
def running(stack: LocalStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningStack]:
    """Let the public API talk to the stack, and return it."""
    running = stack.up()
    connect(running, monkeypatch)
    yield running
    aws.reset()


@contextmanager
def _up(directory: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Start `provision up` as a process, on any free ports."""
    directory.mkdir(exist_ok=True)
    # As if a stack before this one had listened there.
    ports = {"aws": choose_port(), "postgresql": choose_port()}
    (directory / "ports.json").write_text(json.dumps(ports))
    with subprocess.Popen(
        [_PROGRAM, "up"],
        env={**os.environ, **variables, "PROVISION_LOCAL_DIRECTORY": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        yield process


def test_a_desk_with_settings_for_other_things_brings_the_stack_up(
    stack: LocalStack, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.down()
    # Python itself does not start with another one's modules.
    desk = {name: value for name, value in DESK.items() if not name.startswith("PYTHON")}

    with _up(directory, **desk) as process:
        said, _ = process.communicate(timeout=300)

    assert process.returncode == 0, said
    running = stack.running()
    assert f"http://127.0.0.1:{running.ports['aws']}" in said
    connect(running, monkeypatch)
    assert provisioned(running, "at-a-desk").status is api.JobStatus.COMPLETED
    # Each program of the stack, and each function, is without them.
    for process_id in _processes_of(directory):
        environment = Path(f"/proc/{process_id}/environ").read_text(errors="replace").split("\0")
        assert not {f"{name}={value}" for name, value in DESK.items()} & set(environment)
    assert stack.down()
    assert json.loads((directory / "ports.json").read_text()) == running.ports


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("Starting the local AWS", signal.SIGTERM),
        ("Starting the local AWS", signal.SIGKILL),
        ("Starting PostgreSQL", signal.SIGHUP),
        ("Starting PostgreSQL", signal.SIGKILL),
    ],
)
def test_an_up_that_is_ended_leaves_nothing(
    tmp_path: Path, step: str, number: signal.Signals
) -> None:
    directory = tmp_path / "stack"
    with _up(directory) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if step in line:
                break
        process.send_signal(number)
        process.wait(timeout=120)
    stack = LocalStack(directory)

    if number is signal.SIGKILL:
        # It could do nothing for itself.
        stack.down()
    else:
        assert process.returncode == 128 + number

    assert _processes_of(directory) == {}
    assert not stack.down()


def _postgresql(stack: LocalStack, running: RunningStack) -> PostgresqlServer:
    server = stack._servers(running.ports)["postgresql"]
    assert isinstance(server, PostgresqlServer)
    return server


def _superuser(stack: LocalStack, running: RunningStack) -> psycopg.Connection[tuple[Any, ...]]:
    return _postgresql(stack, running).connect()


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
            ("provisioner:" + names.tenants[Engine.POSTGRESQL].database,),
        )
        job = api.enqueue_job(
            "provision_project",
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


def _server_of_instance(stack: LocalStack, name: str) -> PostgresqlServer:
    """Start the server of an instance; that it does so when one appears, is another test's."""
    port = choose_port()
    instance = Instance(f"db-{name}", name, "postgres", port)
    stack._instances.start(instance, user="instance_admin", password="p" * 40)
    server = stack._instances._server(stack._instances._instances / f"db-{name}", instance)
    assert isinstance(server, PostgresqlServer)
    return server


def _kill(process_id: int) -> None:
    os.kill(process_id, signal.SIGKILL)
    eventually(lambda: _has_ended(process_id))


def _has_ended(process_id: int) -> bool:
    """Whether a process is gone, or waits for its parent alone; its command goes some time before.

    Source: proc_pid_stat(5); the name, in parentheses, may hold anything.
    """
    try:
        status = Path(f"/proc/{process_id}/stat").read_text(errors="replace")
    except OSError:
        return True
    return status.rpartition(") ")[2][0] in "ZX"


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
    server = _postgresql(stack, running)
    of_instance = _server_of_instance(stack, "goes-on")
    # Half a second, as usual here, would be over before the server is up again.
    with slow_retries(running, 6), _job_at_its_database(stack, running, "goes-on") as job:
        process_id = server.process_id()
        assert process_id is not None
        _kill(process_id)
        _kill(of_instance.process_id() or 0)
        with pytest.raises(LocalStackNotRunningError, match="start it with `provision up`"):
            stack.running()
        steps: list[str] = []

        again = stack.up(steps.append)

        assert steps == [
            "Starting PostgreSQL again",
            "Starting the server of the instance goes-on again",
        ]
        assert again == running
        assert of_instance.is_running()
        ended = finished(job.job_id)

    assert (ended.status, ended.error) == (api.JobStatus.COMPLETED, None)
    assert _stage(job, provision_project.CREATING_DATABASE).attempt > 1
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
    for _, instance in list(stack._instances.all()):
        stack._instances.remove(instance)
    of_instance = _server_of_instance(stack, "ends")
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

    assert steps == [
        "Starting the local AWS",
        "Starting PostgreSQL",
        # Of a machine that has one.
        *(["Starting MariaDB"] if "mysql" in again.ports else []),
        "Deploying the template",
    ]
    assert not of_instance.is_running()
    assert not of_instance.has_data()
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
def _variables(running: RunningStack, output: str, **changed: str) -> Iterator[None]:
    """Let a function, by the output that names it, have other variables in its environment."""
    functions, name = running.client("lambda"), running.outputs[output]
    found = functions.get_function_configuration(FunctionName=name)
    own = found["Environment"]["Variables"]
    functions.update_function_configuration(
        FunctionName=name, Environment={"Variables": own | changed}
    )
    try:
        yield
    finally:
        functions.update_function_configuration(FunctionName=name, Environment={"Variables": own})


def _without_s3(running: RunningStack) -> AbstractContextManager[None]:
    """Let the functions that register services find nobody where S3 is."""
    nobody = {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}
    return _variables(running, "ServicesFunctionName", **nobody)


def test_a_cancelled_job_that_waits_ends_with_the_stage_that_was_at_work(
    stack: LocalStack, running: RunningStack
) -> None:
    services = NO_SERVICES | {"storage": True}
    # The stage says that it waits before its wait begins, which is slow until the job has ended.
    with slow_retries(running, 180), ExitStack() as disturbance:
        disturbance.enter_context(_without_s3(running))
        with _job_at_its_database(stack, running, "ends-early", services) as job:
            eventually(
                lambda: _stage(job, provision_project.REGISTERING_STORAGE).next_attempt_before
            )
            disturbance.close()
            assert not api.cancel_job(job.job_id).status.is_terminal
        # Its storage waits for three minutes; that the other stage has ended, the bus tells. That
        # is best effort: what it misses, the sweep finds.
        with suppress(TimeoutError):
            eventually(lambda: api.get_job(job.job_id).status.is_terminal, within=60)
        sweep = running.client("lambda").invoke(
            FunctionName=running.outputs["ReconcilerFunctionName"],
            Payload=json.dumps({"detail-type": "Scheduled Event"}),
        )
        assert json.load(sweep["Payload"]).keys() == {"reconciled", "repaired"}
        eventually(lambda: api.get_job(job.job_id).status.is_terminal, within=60)

    assert cleaned_up(job.job_id).status is api.JobStatus.COMPLETED
    assert api.get_job(job.job_id).status is api.JobStatus.CANCELLED
    assert _stage(job, provision_project.REGISTERING_STORAGE).attempt == 1
    execution = running.outputs["StateMachineArn"].replace(":stateMachine:", ":execution:")
    described = running.client("stepfunctions").describe_execution(
        executionArn=f"{execution}:{job.job_id}"
    )
    assert described["status"] == "ABORTED"


def _stage(job: api.Job, stage: str) -> api.StageRecord:
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
    answer["Payload"].close()
    assert len(_processes_of(directory)) > 2
    of_instance = _server_of_instance(stack, "goes-down")

    assert stack.down() is True

    assert _processes_of(directory) == {}
    assert not of_instance.has_data()
    assert stack.down() is False


# --- Slots ----------------------------------------------------------------------------------------

#: A hundred jobs with five slots were run by hand.
JOBS, SLOTS = 7, 2


def _enqueue(running: RunningStack, number: int) -> str:
    project_id, owner_id = f"burst-{number}", f"owner-{number % 12}"
    api.create_project(project_id, owner_id=owner_id)
    payload = {"project_id": project_id, "region": running.region, "services": NO_SERVICES}
    return api.enqueue_job("provision_project", payload | {"owner_id": owner_id}).job_id


def _most_at_once(jobs: list[api.Job]) -> int:
    """Return how many jobs ran at once at the most."""
    changes = []
    for job in jobs:
        assert job.started_at is not None
        assert job.finished_at is not None
        # One that ends makes room for one that begins at the same time.
        changes += [(job.started_at, 1), (job.finished_at, -1)]
    return max(itertools.accumulate(change for _, change in sorted(changes)))


def test_a_burst_of_jobs_waits_for_its_slots(running: RunningStack) -> None:
    maximum = {"MAXIMUM_RUNNING_JOBS": str(SLOTS)}
    few = _variables(running, "LifecycleFunctionName", **maximum)
    with few, slow_retries(running, 3):
        job_ids = [_enqueue(running, number) for number in range(JOBS)]

        def waiting() -> list[api.Job]:
            return [job for job in api.list_jobs() if job.job_id in job_ids and job.waits]

        shown = eventually(waiting, within=60)
        jobs = [finished(job_id) for job_id in job_ids]

    assert {job.status for job in shown} == {api.JobStatus.QUEUED}
    assert {wait.stage for job in shown for wait in job.waits} == {"INITIALIZING"}
    assert {job.status for job in jobs} == {api.JobStatus.COMPLETED}
    assert _most_at_once(jobs) == SLOTS
