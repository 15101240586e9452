"""The rotation of the platform's own login meets faults: nobody is ever locked out.

It has one stage, which is the first and the last of its job. A fault is put in at the statement
that changes the password, or at a call of AWS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types.rotate_cluster_login import ROTATING_LOGIN
from support.calls import CONNECT, SQL, Call, Within, empty, operation
from support.changes import check_changed, new_change, plainly_provisioned
from support.cluster_login import ROTATION, OwnLogin
from support.effects import Attempt, Effect, aside, effects
from support.places import (
    PASSING,
    PASSING_AT_MYSQL,
    Lasting,
    Passing,
    assert_fails_so,
    assert_met,
    each_lasting,
    each_passing,
    places,
    put_in,
)
from support.tenant_server import each_engine
from support.workflow import Fault, FunctionEnded, Run, Workflow, each_way

PLACE = f"{ROTATION}/{ROTATING_LOGIN}"


@each_engine
@each_way
@each_passing(ROTATION)
def test_a_login_is_rotated(workflow: Workflow, login: OwnLogin, kind: Passing, run: Run) -> None:
    put_in(workflow, kind, places(ROTATION))
    job = run(workflow, login.new_job())
    login.check_rotated(job)
    assert_met(workflow, ROTATION, kind, job.stages)
    assert not login.takes(login.first_password)


#: At the first login to the server, and then at the statement. What psycopg has connected is not
#: given up by it.
_AT_LOGINS = [
    (engine, kind)
    for engine in Engine
    for name, kind in PASSING_AT_MYSQL.items()
    if name in {"throttled", "dropped"} or (name, engine) == ("unreadable", Engine.MYSQL)
]


@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        pytest.param(
            engine,
            kind,
            id=f"{kind.name}-{engine}",
            marks=pytest.mark.fault(kind.name, where=PLACE),
        )
        for engine, kind in _AT_LOGINS
    ],
)
def test_a_login_is_rotated_although_the_server_was_out_of_reach(
    workflow: Workflow, login: OwnLogin, kind: Passing
) -> None:
    put_in(workflow, kind, [PLACE])
    job = workflow.execute(login.new_job())
    login.check_rotated(job)
    assert_met(workflow, ROTATION, PASSING["throttled"], job.stages)


@each_engine
@each_lasting(places(ROTATION))
def test_a_login_works_after_a_rotation_that_failed(
    workflow: Workflow, login: OwnLogin, kind: Lasting, where: list[str]
) -> None:
    for place in where:
        put_in(workflow, kind, [place])
        job = workflow.execute(login.new_job())
        assert not workflow.faults
        assert job.status is api.JobStatus.FAILED
        assert_fails_so(kind, place, job.error)
        assert login.opening() & {"AWSCURRENT", "AWSPENDING"}
        # Whatever it has left, other jobs log in, and so does its retry.
        plainly_provisioned(workflow, keys=1)
        workflow.jobs.retry(job)
        login.check_rotated(workflow.execute(workflow.jobs.get(job.job_id)))


@pytest.mark.fault("wrong answer", where=PLACE, lasting=True)
def test_nothing_is_rotated_by_a_wrong_answer(workflow: Workflow, login: OwnLogin) -> None:
    for name, error_type in {
        "GetParameter": ErrorType.DATABASE_CHANGE_FAILED,
        "DescribeSecret": ErrorType.DATABASE_CHANGE_FAILED,
        "GetSecretValue": ErrorType.DATABASE_CHANGE_FAILED,
    }.items():
        workflow.faults[PLACE] = Fault(Within(operation(name), empty), times=3)
        job = workflow.execute(login.new_job())
        workflow.faults.clear()
        assert job.error is not None, name
        assert job.error.type is error_type, name
        assert set(login.versions()) == {"AWSCURRENT", "AWSPREVIOUS"}
        assert login.takes(login.first_password), name


@each_engine
@pytest.mark.fault("wrong answer", where=PLACE, lasting=True)
def test_no_label_moves_where_the_server_has_not_changed_the_password(
    workflow: Workflow, login: OwnLogin
) -> None:
    """MariaDB does so with `ALTER USER CURRENT_USER()`."""

    def undo(call: Call) -> Any:
        answered = call.make()
        pending = login.versions()["AWSPENDING"]["password"]
        login.driver(pending).change_admin_password(login.first_password)
        return answered

    workflow.faults[PLACE] = Fault(Within(operation(SQL, "ALTER"), undo))
    job = workflow.execute(login.new_job())
    assert job.error is not None
    assert job.error.type is ErrorType.INSUFFICIENT_PERMISSIONS
    assert login.opening() == {"AWSCURRENT"}
    assert login.versions()["AWSCURRENT"]["password"] == login.first_password


def _is_start(_effect: Effect, attempt: Attempt) -> bool:
    return len(attempt.effects) == 1


def _is_end(_effect: Effect, attempt: Attempt) -> bool:
    return [effect.name for effect in attempt.effects[-2:]] == [_RELABELLING, "TransactWriteItems"]


def _named(name: str) -> Callable[[Effect, Attempt], bool]:
    return lambda effect, _attempt: effect.name == name


_STORING, _CHANGING, _RELABELLING = "PutSecretValue", "SQL", "UpdateSecretVersionStage"

#: Just before an effect of the stage: those of AWS are numbered by how quickly it gets a slot.
_MOMENTS: dict[str, Callable[[Effect, Attempt], bool]] = {
    "the start": _is_start,
    _STORING: _named(_STORING),
    _CHANGING: _named(_CHANGING),
    _RELABELLING: _named(_RELABELLING),
    "the end": _is_end,
}


@each_engine
@pytest.mark.fault("after the effect, the process killed", where=PLACE)
def test_it_may_die_before_any_effect_and_the_next_attempt_goes_on(
    workflow: Workflow, login: OwnLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening: list[set[str]] = []
    workflow.on_wait = lambda: opening.append(login.opening())
    for moment, is_now in _MOMENTS.items():
        opening.clear()

        def die(effect: Effect, attempt: Attempt, is_now: Any = is_now) -> None:
            if effect.retry_count == 0 and is_now(effect, attempt):
                raise FunctionEnded("Runtime.ExitError")

        with effects(workflow, monkeypatch, die):
            job = workflow.execute(login.new_job())
        login.check_rotated(job)
        assert [record.attempt for record in job.stages] == [1 if moment == "the start" else 2]
        # From the change of the password until the label moves, the pending one alone works.
        (labels,) = opening
        assert ("AWSCURRENT" in labels) == (moment != _RELABELLING), moment
        assert moment != _RELABELLING or labels == {"AWSPENDING"}


@each_engine
@pytest.mark.fault("after the effect, the process killed", where=PLACE)
def test_two_jobs_may_die_anywhere_and_no_password_is_lost(
    workflow: Workflow, login: OwnLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second finds what the first has left, and may leave something itself."""
    #: The effect of each attempt before which it dies; all attempts of a job die there.
    at = _STORING

    def die(effect: Effect, _attempt: Attempt) -> None:
        if effect.name == at and effect.stage == ROTATING_LOGIN:
            raise FunctionEnded("Runtime.ExitError")

    names = (_STORING, _CHANGING, _RELABELLING)
    for first in names:
        for second in names:
            for at in (first, second):  # noqa: B007  # `die` reads it
                with effects(workflow, monkeypatch, die):
                    job = workflow.execute(login.new_job())
                assert job.status is api.JobStatus.FAILED
                assert login.opening() & {"AWSCURRENT", "AWSPENDING"}, (first, second)
            login.check_rotated(workflow.execute(login.new_job()))


@each_engine
def test_a_run_that_was_given_up_may_go_on_beside_the_next(
    workflow: Workflow, login: OwnLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for moment, is_now in _MOMENTS.items():
        superseded: list[str] = []

        def be_superseded(
            effect: Effect,
            attempt: Attempt,
            is_now: Any = is_now,
            superseded: list[str] = superseded,
        ) -> None:
            if effect.retry_count == 0 and not superseded and is_now(effect, attempt):
                superseded.append(effect.name)
                with aside():
                    workflow.run_stage({**attempt.event, "retry_count": 1})

        with effects(workflow, monkeypatch, be_superseded):
            job = workflow.execute(login.new_job())
        assert superseded, moment
        login.check_rotated(job)


@each_engine
def test_another_run_may_set_the_password_between_the_look_and_the_change(
    workflow: Workflow, login: OwnLogin
) -> None:
    connected: list[str] = []

    def is_to_change(call: Call) -> bool:
        connected.extend([call.operation] if call.operation == CONNECT else [])
        return len(connected) == 2

    def set_it(call: Call) -> Any:
        pending = login.versions()["AWSPENDING"]["password"]
        login.driver(login.first_password).change_admin_password(pending)
        return call.make()

    workflow.faults[PLACE] = Fault(Within(is_to_change, set_it))
    job = workflow.execute(login.new_job())
    login.check_rotated(job)
    assert [record.attempt for record in job.stages] == [1]


@each_engine
def test_other_jobs_of_the_cluster_go_on_meanwhile(
    workflow: Workflow, login: OwnLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each effect: with the old password, with the new one, and with what was kept."""
    project_id = plainly_provisioned(workflow, keys=1)
    done: list[str] = []

    def let_others_run(effect: Effect, attempt: Attempt) -> None:
        if effect.stage != ROTATING_LOGIN or attempt.job_type != ROTATION:
            return
        with aside():
            change = new_change(workflow, "rotate_database_password", project_id)
            changed = workflow.execute_in_process(change)
            check_changed(workflow, changed)
            # This one begins with the login that it has kept.
            plainly_provisioned(workflow, keys=1)
            assert {record.attempt for record in changed.stages} == {1}
            done.append(effect.name)

    with effects(workflow, monkeypatch, let_others_run):
        job = workflow.execute(login.new_job())
    login.check_rotated(job)
    assert {_STORING, _CHANGING, _RELABELLING} <= set(done)
    assert [record.attempt for record in job.stages] == [1]
    plainly_provisioned(workflow, keys=1)


def test_a_second_rotation_is_refused_until_the_first_has_ended(
    workflow: Workflow, login: OwnLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[Any] = []

    def rotate_too(effect: Effect, attempt: Attempt) -> None:
        # Until it has the lock, it is the other that is first.
        names = {before.name for before in attempt.effects}
        if effect.stage == ROTATING_LOGIN and _STORING in names:
            with aside():
                second = workflow.execute_in_process(login.new_job())
            assert second.error is not None
            refused.append((second.error.type, attempt.event["job"]["job_id"]))
            assert refused[-1][1] in second.error.message

    with effects(workflow, monkeypatch, rotate_too):
        job = workflow.execute(login.new_job())
    login.check_rotated(job)
    assert set(refused) == {(ErrorType.PROJECT_BUSY, job.job_id)}
    assert len(refused) >= 3
    login.check_rotated(workflow.execute(login.new_job()))


def test_a_retry_waits_for_the_job_that_has_the_lock_by_now(
    workflow: Workflow, login: OwnLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow.faults[PLACE] = Fault(Within(operation(CONNECT), _refuse))
    failed = workflow.execute(login.new_job())
    assert failed.status is api.JobStatus.FAILED
    retried: list[api.Job] = []

    def retry(effect: Effect, _attempt: Attempt) -> None:
        if effect.name == _STORING:
            with aside():
                workflow.jobs.retry(failed)
                retried.append(workflow.execute_in_process(workflow.jobs.get(failed.job_id)))

    with effects(workflow, monkeypatch, retry):
        job = workflow.execute(login.new_job())
    login.check_rotated(job)
    assert [one.error and one.error.type for one in retried] == [ErrorType.PROJECT_BUSY]
    workflow.jobs.retry(workflow.jobs.get(failed.job_id))
    login.check_rotated(workflow.execute(workflow.jobs.get(failed.job_id)))


def _refuse(_call: Any) -> Any:
    raise RuntimeError("no way in")
