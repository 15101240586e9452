"""What a job stands on fails: DynamoDB throttles, Secrets Manager is down, a server restarts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError, EndpointConnectionError
from provision_cli.local.database_servers import PLATFORM_ROLE
from provision_cli.local.ports import choose_port
from provision_cli.local.postgresql_server import PostgresqlServer
from provisioner import api
from provisioner.composition.reconciler import reconciler
from provisioner.drivers.database_engine import AdminConnection
from provisioner.drivers.mysql.snapshot import MysqlDump
from provisioner.drivers.postgresql.snapshot import PgDump
from provisioner.errors import ErrorType
from provisioner.jobs.stage import JobInput
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.functions import DATABASE
from provisioner.provisioning.job_types import JOB_TYPES, provision_project
from support.calls import SQL, Call, Within, operation
from support.changes import check_changed, ended, logs_in, new_change, plainly_provisioned
from support.cluster_login import ROTATION, own_login
from support.effects import Attempt, Effect, effects
from support.mysql import own_mysql
from support.places import CHANGES, CLEANUP, STAGES, later_call, places, undisturbed
from support.postgresql import PreparedCluster
from support.removal import end_of, provisioned
from support.tenant_server import OnMysql, OnPostgresql, TenantServer, restart, run_as_tenant
from support.undoing import (
    OWNER,
    assert_nothing_is_left,
    assert_undone,
    cleanup_of,
    fail,
    repeated_to_its_end,
)
from support.workflow import NO_SERVICES, Deploy, Fault, Workflow, deployed

# DynamoDB.

_DYNAMODB = {"BatchGetItem", "DeleteItem", "GetItem", "PutItem", "Query", "Scan"} | {
    "TransactGetItems",
    "TransactWriteItems",
    "UpdateItem",
}


class Throttling:
    """DynamoDB throttles one call of each stage's first attempt, and the next one of its second."""

    def __init__(self, number: int) -> None:
        self._number = number
        #: The job types and stages that met it.
        self.met: set[tuple[str, str]] = set()

    def __call__(self, effect: Effect, attempt: Attempt) -> None:
        if effect.name not in _DYNAMODB:
            return
        count = sum(before.name in _DYNAMODB for before in attempt.effects)
        if effect.retry_count < 2 and count == self._number + effect.retry_count:
            self.met.add((effect.job_type, effect.stage))
            raise ClientError(
                {"Error": {"Code": "ProvisionedThroughputExceededException"}}, effect.name
            )


#: Runs a job to its end in a deployment of its own, and returns what is left.
type Ending = Callable[[Workflow], Any]


#: Fewer resources and keys: each is one more call to throttle, and none of another kind.
_ONE_KEY = {"count": 1}


def _provisioned(workflow: Workflow) -> Any:
    project_id = workflow.new_project(**OWNER)
    job = workflow.execute(workflow.new_job(project_id, api_keys=_ONE_KEY))
    return workflow.snapshot(job)


def _cleaned_up(workflow: Workflow) -> Any:
    fail(workflow)
    project_id = workflow.new_project(**OWNER)
    job = workflow.execute(workflow.new_job(project_id, services=NO_SERVICES, api_keys=_ONE_KEY))
    assert_undone(workflow, job)
    return cleanup_of(job).status


def _deprovisioned(workflow: Workflow) -> Any:
    project_id = plainly_provisioned(workflow, keys=1)
    return end_of(workflow, workflow.execute(workflow.new_deprovision_job(project_id)))


def _changed(workflow: Workflow) -> Any:
    project_id = plainly_provisioned(workflow, keys=1)
    jobs = [workflow.execute(new_change(workflow, change, project_id)) for change in CHANGES]
    for job in jobs:
        check_changed(workflow, job)
    return [ended(job) for job in jobs]


def _login_rotated(workflow: Workflow) -> Any:
    with own_login(workflow) as login:
        job = workflow.execute(login.new_job())
        login.check_rotated(job)
    return ended(job)


@pytest.mark.parametrize(
    ("end", "jobs"),
    [
        pytest.param(
            end,
            jobs,
            id=jobs[0],
            marks=pytest.mark.fault("DynamoDB throttling", where=places(*jobs)),
        )
        for end, jobs in (
            (_provisioned, ["provision_project"]),
            (_cleaned_up, [CLEANUP]),
            (_deprovisioned, ["deprovision_project"]),
            (_changed, CHANGES),
            (_login_rotated, [ROTATION]),
        )
    ],
)
def test_dynamodb_throttles_each_call_in_turn(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, end: Ending, jobs: Sequence[str]
) -> None:
    with deploy() as workflow:
        expected = end(workflow)
    expected_places = {(p.split("/")[0], p.split("/")[1]) for p in places(*jobs)}
    met: set[tuple[str, str]] = set()
    number = 1
    while True:
        throttling = Throttling(number)
        with deploy() as workflow, effects(workflow, monkeypatch, throttling, reading=True):
            assert end(workflow) == expected, number
        here = throttling.met & expected_places
        if not here:
            break
        met |= here
        number += 2
    assert met == expected_places


@pytest.mark.fault(
    "DynamoDB throttling",
    where=f"{'provision_project'}/{provision_project.REGISTERING_AUTH}",
    lasting=True,
)
def test_a_job_that_cannot_even_be_written_failed_is_repaired_once_dynamodb_is_back(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_throttled = False

    def throttle(effect: Effect, _attempt: Attempt) -> None:
        nonlocal is_throttled
        is_throttled |= (
            effect.stage == provision_project.REGISTERING_AUTH and effect.name == "CreateUserPool"
        )
        if is_throttled and effect.name in _DYNAMODB:
            raise ClientError({"Error": {"Code": "ThrottlingException"}}, effect.name)

    job = workflow.new_job(workflow.new_project(**OWNER))
    with effects(workflow, monkeypatch, throttle, reading=True):
        assert workflow.ended(workflow.start(job)) == "FAILED"
    assert workflow.jobs.get(job.job_id).status is api.JobStatus.RUNNING
    # What ran when it began has been ended by its time-out by then.
    later = workflow.jobs.now() + timedelta(hours=1)
    found = reconciler(workflow.settings)
    found = replace(found, store=replace(found.store, now=lambda: later))
    assert found.reconcile(job.job_id).repair

    repaired = workflow.jobs.get(job.job_id)
    assert repaired.status is api.JobStatus.FAILED
    workflow.ended(workflow.start(cleanup_of(repaired)))
    assert cleanup_of(repaired).status is api.JobStatus.COMPLETED
    assert_nothing_is_left(workflow, job.project_id)


# Secrets Manager.


@contextmanager
def secrets_manager_down(is_down: Callable[[], bool]) -> Iterator[None]:
    """Let every call of Secrets Manager fail while it is down."""
    call = vars(BaseClient)["_make_api_call"]

    def call_aws(client: BaseClient, name: str, parameters: Mapping[str, Any]) -> Any:
        if client.meta.service_model.service_name == "secretsmanager" and is_down():
            raise EndpointConnectionError(endpoint_url="https://secretsmanager.invalid")
        return call(client, name, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", call_aws)
        yield


#: The stages that read or write a secret.
_WITH_SECRETS: dict[str, set[str]] = {
    "provision_project": {"CREATING_DATABASE", "CREATING_SCHEMA", "GENERATING_API_KEYS"},
    CLEANUP: {"REMOVING_API_KEYS", "REMOVING_DATABASE"},
    "deprovision_project": {
        "CHECKING_DATA",
        "TAKING_SNAPSHOT",
        "REMOVING_DATABASE",
        "REMOVING_API_KEYS",
    },
    "repair_project": {"REPAIRING_DATABASE", "REPAIRING_SCHEMA"},
    "rotate_api_keys": {"ROTATING_API_KEYS"},
    "rotate_database_password": {"ROTATING_DATABASE_PASSWORD"},
}


_ROTATING_LOGIN = f"{ROTATION}/ROTATING_LOGIN"


def _with_secrets(*jobs: str) -> list[str]:
    return [f"{job}/{stage}" for job in jobs for stage in sorted(_WITH_SECRETS[job])]


def _retried(job: str, records: Sequence[api.StageRecord]) -> set[str]:
    return {f"{job}/{record.stage}" for record in records if record.attempt > 1}


@pytest.mark.fault("Secrets Manager down", where=_with_secrets(*_WITH_SECRETS))
def test_secrets_manager_is_down_for_one_attempt_of_each_stage(workflow: Workflow) -> None:
    runs: Counter[tuple[str, str]] = Counter()
    now: list[tuple[str, str]] = []

    def begin(job: JobInput, stage: str) -> None:
        now[:] = [(job.job_id, stage)]
        runs.update(now)

    workflow.observers.append(begin)
    retried: set[str] = set()
    with secrets_manager_down(lambda: bool(now) and runs[now[0]] == 1):
        failed = _failing(workflow)
        now.clear()
        assert_undone(workflow, failed)
        retried |= _retried(CLEANUP, cleanup_of(failed).stages)
        project_id = failed.project_id
        jobs: list[Callable[[], api.Job]] = [lambda: workflow.new_job(project_id)]
        jobs += [partial(new_change, workflow, change, project_id) for change in CHANGES]
        jobs.append(lambda: workflow.new_deprovision_job(project_id))
        for new_job in jobs:
            now.clear()
            job = workflow.execute(new_job())
            assert job.status is api.JobStatus.COMPLETED, job.error
            retried |= _retried(job.job_type, job.stages)
    differing = sorted(retried ^ set(_with_secrets(*_WITH_SECRETS)))
    assert differing == [], "say in _WITH_SECRETS whether they read or write a secret"


def _failing(workflow: Workflow, **payload: Any) -> api.Job:
    fail(workflow)
    return workflow.execute(workflow.new_job(workflow.new_project(**OWNER), **payload))


@pytest.mark.fault(
    "Secrets Manager down", where=_with_secrets("provision_project", CLEANUP), lasting=True
)
def test_secrets_manager_stays_down_while_a_project_is_provisioned(workflow: Workflow) -> None:
    job = workflow.new_job(workflow.new_project(**OWNER))

    def go_down(_job: JobInput, stage: str) -> None:
        if stage in _WITH_SECRETS["provision_project"]:
            down.append(stage)

    down: list[str] = []
    workflow.observers.append(go_down)
    with secrets_manager_down(lambda: bool(down)):
        job = workflow.execute(job)
    assert job.error is not None
    errors = (job.error, *job.other_errors)
    assert [(e.stage, e.type, e.attempt, e.cause) for e in errors] == [
        (stage, ErrorType.NETWORK_ERROR, 3, "EndpointConnectionError")
        for stage in ("CREATING_DATABASE", "GENERATING_API_KEYS")
    ]
    cleanup = cleanup_of(job)
    assert cleanup.status is api.JobStatus.FAILED
    assert _retried(CLEANUP, cleanup.stages) == set(_with_secrets(CLEANUP))

    done = repeated_to_its_end(workflow, job, 2)
    assert done.status is api.JobStatus.COMPLETED
    assert_nothing_is_left(workflow, job.project_id)


@pytest.mark.fault(
    "Secrets Manager down",
    where=[
        *_with_secrets("rotate_api_keys", "rotate_database_password"),
        f"{'repair_project'}/REPAIRING_DATABASE",
        f"{'deprovision_project'}/CHECKING_DATA",
    ],
    lasting=True,
)
def test_secrets_manager_stays_down_while_a_project_is_changed_or_removed(
    workflow: Workflow,
) -> None:
    project_id = provisioned(workflow).project_id
    jobs = [
        new_change(workflow, "rotate_api_keys", project_id),
        new_change(workflow, "rotate_database_password", project_id),
        new_change(workflow, "repair_project", project_id),
        workflow.new_deprovision_job(project_id),
    ]
    before = api.get_project(project_id)
    for job in jobs:
        with secrets_manager_down(lambda: True):
            failed = workflow.execute(job)
        assert failed.error is not None
        assert (failed.error.type, failed.error.attempt) == (ErrorType.NETWORK_ERROR, 3)
        assert failed.error.stage in _WITH_SECRETS[job.job_type]
        assert api.get_project(project_id) == before, job.job_type
        assert logs_in(workflow, project_id), job.job_type
    for job in jobs:
        workflow.jobs.retry(workflow.jobs.get(job.job_id))
        completed = workflow.execute(workflow.jobs.get(job.job_id))
        assert completed.status is api.JobStatus.COMPLETED, completed.error


@pytest.mark.fault("Secrets Manager down", where=_ROTATING_LOGIN)
def test_secrets_manager_is_down_while_a_login_is_rotated(workflow: Workflow) -> None:
    runs: list[str] = []
    workflow.observers.append(lambda _job, stage: runs.append(stage))
    with own_login(workflow) as login, secrets_manager_down(lambda: len(runs) == 1):
        job = workflow.execute(login.new_job())
        assert _retried(ROTATION, job.stages) == {_ROTATING_LOGIN}
        login.check_rotated(job)


@pytest.mark.fault("Secrets Manager down", where=_ROTATING_LOGIN, lasting=True)
def test_secrets_manager_stays_down_once_a_login_is_changed(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is locked out: the version that is not the current one yet is tried."""
    changed: list[Effect] = []

    def go_down(effect: Effect, _attempt: Attempt) -> None:
        if effect.name == SQL:
            changed.append(effect)

    with own_login(workflow) as login:
        job = login.new_job()
        with (
            effects(workflow, monkeypatch, go_down),
            secrets_manager_down(lambda: bool(changed)),
        ):
            failed = workflow.execute(job)
        assert failed.error is not None
        assert (failed.error.type, failed.error.attempt) == (ErrorType.NETWORK_ERROR, 3)
        assert login.opening() == {"AWSPENDING"}
        plainly_provisioned(workflow, keys=1)
        workflow.jobs.retry(failed)
        login.check_rotated(workflow.execute(workflow.jobs.get(job.job_id)))


# The servers of the tenants.


@contextmanager
def own_server(
    engine: Engine, request: pytest.FixtureRequest, directory: Path
) -> Iterator[TenantServer]:
    """Start a server that no other test uses."""
    if engine is Engine.MYSQL:
        with own_mysql(request.getfixturevalue("mysql_server")) as mysql:
            yield OnMysql(mysql)
        return
    port = choose_port()
    server = PostgresqlServer(directory / "server", port)
    try:
        server.start()
        password = server.prepare_cluster()
        admin = AdminConnection("127.0.0.1", port, PLATFORM_ROLE, password, sslmode="disable")
        yield OnPostgresql(PreparedCluster(server, admin))
    finally:
        server.stop()


#: The statement before which the server restarts, by stage: each in the middle of its work.
_IN_THE_MIDDLE = {
    Engine.POSTGRESQL: {
        "provision_project/CREATING_DATABASE": "GRANT CONNECT",
        "provision_project/CREATING_SCHEMA": "CREATE TABLE",
        f"{CLEANUP}/REMOVING_DATABASE": "DROP ROLE",
        "deprovision_project/CHECKING_DATA": "pg_replication_slots",
        "deprovision_project/REMOVING_DATABASE": "DROP ROLE",
    },
    Engine.MYSQL: {
        "provision_project/CREATING_DATABASE": "CREATE USER",
        "provision_project/CREATING_SCHEMA": "CREATE TEMPORARY TABLE",
        f"{CLEANUP}/REMOVING_DATABASE": "DROP USER",
        "deprovision_project/CHECKING_DATA": "INNODB_TRX",
        "deprovision_project/REMOVING_DATABASE": "DROP USER",
    },
}

#: What hands out a snapshot as it is made.
_DUMPS: dict[Engine, type[PgDump | MysqlDump]] = {
    Engine.POSTGRESQL: PgDump,
    Engine.MYSQL: MysqlDump,
}

#: Stages of the job types that change a project: it restarts before they change something first.
_CHANGING_DATABASES = [
    f"{change}/{stage}"
    for change in CHANGES
    for stage in JOB_TYPES[change].stages
    if stage.function == DATABASE
]


def _change(
    workflow: Workflow, change: str, project_id: str, act: Callable[[str, Call], Any]
) -> None:
    """Change a project while something happens at each stage that is at work at its database."""
    undisturbed(workflow, change, project_id)
    for stage in STAGES[change]:
        place = f"{change}/{stage}"
        if place in _CHANGING_DATABASES:
            workflow.faults[stage] = Fault(Within(later_call(place), partial(act, place)))
    check_changed(workflow, workflow.execute(new_change(workflow, change, project_id)))


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(
            engine,
            marks=pytest.mark.fault(
                fault,
                where=[
                    *_IN_THE_MIDDLE[engine],
                    *_CHANGING_DATABASES,
                    "deprovision_project/TAKING_SNAPSHOT",
                    _ROTATING_LOGIN,
                ],
            ),
        )
        for engine, fault in (
            (Engine.POSTGRESQL, "PostgreSQL restarted in the middle"),
            (Engine.MYSQL, "MariaDB killed in the middle"),
        )
    ],
    ids=str,
)
def test_a_server_restarts_in_the_middle_of_each_stage(
    engine: Engine,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    restarts: list[str] = []
    locks: list[Any] = []

    def put_in(job: str) -> None:
        for place, text in _IN_THE_MIDDLE[engine].items():
            of, _, stage = place.partition("/")
            if of == job:
                workflow.faults[stage] = Fault(Within(operation(SQL, text), partial(act, place)))

    def act(place: str, call: Call) -> Any:
        restarts.append(place)
        restart(server)
        if place.endswith("/CHECKING_DATA") and engine is Engine.POSTGRESQL:
            # pg_dump waits for the table until the server restarts again.
            locks.append(psycopg.connect(login["connection_string"]))
            locks[0].execute("LOCK TABLE note")
        return call.make()

    with (
        own_server(engine, request, tmp_path) as server,
        deployed(server, monkeypatch) as workflow,
    ):
        unharmed = workflow.execute(workflow.new_job(workflow.new_project(**OWNER)))
        expected = workflow.snapshot(unharmed)["tenant"]
        workflow.execute(workflow.new_deprovision_job(unharmed.project_id))

        put_in(CLEANUP)
        project_id = _failing(workflow, services=NO_SERVICES).project_id
        assert not any(server.snapshot(workflow.tenant(project_id)).values())

        put_in("provision_project")
        job = workflow.execute(workflow.new_job(project_id, services=NO_SERVICES))
        assert job.status is api.JobStatus.COMPLETED, job.error
        assert workflow.snapshot(job)["tenant"] == expected

        for change in dict.fromkeys(place.partition("/")[0] for place in _CHANGING_DATABASES):
            _change(workflow, change, project_id, act)

        put_in("deprovision_project")
        dump = _DUMPS[engine]
        read = dump.read

        def read_after_restart(dumped: Any, size: int = -1) -> bytes:
            if "TAKING_SNAPSHOT" not in restarts:
                restarts.append("TAKING_SNAPSHOT")
                restart(server)
            return read(dumped, size)

        monkeypatch.setattr(dump, "read", read_after_restart)
        login = workflow.login(project_id)
        run_as_tenant(server, login, "CREATE TABLE note (id integer)")
        job = workflow.execute(workflow.new_deprovision_job(project_id))
        for lock in locks:
            lock.close()
        assert job.status is api.JobStatus.COMPLETED, job.error
        (snapshot,) = (r for r in job.stages if r.stage == "TAKING_SNAPSHOT")
        assert snapshot.attempt == 2
        assert not any(server.snapshot(workflow.tenant(project_id)).values())

        change_login = later_call(_ROTATING_LOGIN)
        workflow.faults[_ROTATING_LOGIN] = Fault(
            Within(change_login, partial(act, _ROTATING_LOGIN))
        )
        with own_login(workflow) as own:
            own.check_rotated(workflow.execute(own.new_job()))
        assert not workflow.faults
    assert restarts == [
        f"{CLEANUP}/REMOVING_DATABASE",
        "provision_project/CREATING_DATABASE",
        "provision_project/CREATING_SCHEMA",
        *_CHANGING_DATABASES,
        "deprovision_project/CHECKING_DATA",
        "TAKING_SNAPSHOT",
        "deprovision_project/REMOVING_DATABASE",
        _ROTATING_LOGIN,
    ]
