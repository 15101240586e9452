"""The table of faults at the stages: which kinds there are, and at which calls of which stages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pytest
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.jobs.definition import JobDefinition, Parallel
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types import (
    JOB_TYPES,
    clean_up_project,
    deprovision_project,
    provision_project,
    repair_project,
    rotate_cluster_login,
)
from support.calls import (
    CONNECT,
    SQL,
    Act,
    At,
    Call,
    Within,
    dropped,
    first_call,
    first_change,
    first_statement,
    forbidden,
    operation,
    throttled,
    unanswered,
    unreadable,
    unwell,
)
from support.changes import ended, new_change
from support.workflow import Fault, FunctionEnded, Point, Workflow

CLEANUP = "clean_up_project"

#: The stages that run for a project that shares a cluster, by job type.
#: Optional ones are those of an instance of the project's own, below: nothing of them is entered.
STAGES: dict[str, tuple[str, ...]] = {
    name: tuple(stage for stage in definition.stages if not stage.runs_if)
    for name, definition in JOB_TYPES.items()
}
#: The stages that run only for a project with an instance of its own, by job type.
OF_INSTANCES: dict[str, tuple[str, ...]] = {
    name: tuple(stage for stage in definition.stages if stage.runs_if)
    for name, definition in JOB_TYPES.items()
}
#: The job types that tests of tests/faults run by name: what they need, or leave, is their own.
OF_THEIR_OWN = (CLEANUP, "deprovision_project", "provision_project", "rotate_cluster_login")


def _changes_a_project(definition: JobDefinition[Any]) -> bool:
    """Whether a job is about a project that is there and stays, and makes nothing to be removed."""
    names_project = "project_id" in definition.payload_model.model_fields
    return names_project and not definition.on_failure.cleanup_job_type


#: The job types that are met by the faults without a word of theirs: a job of a type's example, or
#: what `support.changes` makes instead, runs for a project that is provisioned without services.
CHANGES = tuple(
    name
    for name, definition in JOB_TYPES.items()
    if name not in OF_THEIR_OWN and _changes_a_project(definition)
)
#: Those that hold the project meanwhile: they have a lock to give back when they fail.
HOLDING = tuple(name for name in CHANGES if JOB_TYPES[name].on_failure.release)

#: The stages whose effect, or the last part of it, is the end of the job.
_LAST = {f"{name}/{definition.last}" for name, definition in JOB_TYPES.items()}

#: Stages with statements of a database, of the job types that are not in CHANGES.
_OF_DATABASES = {
    provision_project.CREATING_DATABASE,
    provision_project.CREATING_SCHEMA,
    clean_up_project.REMOVING_DATABASE,
    deprovision_project.TAKING_SNAPSHOT,
    rotate_cluster_login.ROTATING_LOGIN,
}

#: Stages of the same that change nothing themselves: FINALIZING hands its change on.
_ONLY_LOOKING = {
    f"provision_project/{provision_project.FINALIZING}",
    f"deprovision_project/{deprovision_project.FINALIZING}",
    f"deprovision_project/{deprovision_project.CHECKING_SERVICES}",
    f"deprovision_project/{deprovision_project.CHECKING_DATA}",
    # The project has no instance.
    f"{CLEANUP}/{clean_up_project.REMOVING_INSTANCE}",
    f"{CLEANUP}/{clean_up_project.FINALIZING}",
    # Its job has handed the project over to it.
    f"{CLEANUP}/{clean_up_project.INITIALIZING}",
}

#: What the stages of an instance ask Amazon RDS for, to have their effect.
_EFFECTS_ON_INSTANCES = {
    f"provision_project/{provision_project.CREATING_INSTANCE}": "CreateDBInstance",
    f"repair_project/{repair_project.REPAIRING_INSTANCE}": "ModifyDBInstance",
    f"deprovision_project/{deprovision_project.TAKING_INSTANCE_SNAPSHOT}": "CreateDBSnapshot",
    f"deprovision_project/{deprovision_project.REMOVING_INSTANCE}": "DeleteDBInstance",
}

#: How a job of each type in CHANGES ends that met no fault, by engine, where a project has no
#: services.
_ends: dict[tuple[Engine, str], Any] = {}

#: At which call, beside its first, each stage of those meets one: at that of its effect. It is the
#: same on every engine.
_later_calls: dict[str, At] = {}


def undisturbed(workflow: Workflow, job_type: str, project_id: str) -> Any:
    """Return how a job of a project without services ends that meets no fault.

    The first run shows what its stages call.
    """
    assert not (api.get_project(project_id).result or {}).get("services"), "has services"
    end = workflow.engine, job_type
    if end not in _ends:
        calls: dict[str, list[Call]] = {stage: [] for stage in STAGES[job_type]}
        workflow.faults |= {stage: Fault(_noted(found)) for stage, found in calls.items()}
        job = workflow.execute(new_change(workflow, job_type, project_id))
        workflow.faults.clear()
        assert job.status is api.JobStatus.COMPLETED, _cannot_run(job)
        assert set(calls) == {record.stage for record in job.stages if record.attempt}, job_type
        _later_calls.update({f"{job_type}/{s}": _call_of_effect(c) for s, c in calls.items()})
        _ends[end] = ended(job)
    return _ends[end]


def _noted(calls: list[Call]) -> Within:
    """Let the calls of a stage meet nothing, and list them."""

    def note(call: Call) -> bool:
        calls.append(call)
        return False

    return Within(note, unwell)


def _call_of_effect(calls: Sequence[Call]) -> At:
    changes = [call for call in calls if call.is_change]
    if any(call.engine is not None for call in changes):
        return first_statement
    return first_change if changes else first_call


def _cannot_run(job: api.Job) -> str:
    met = f" {job.error.stage}: {job.error.message}" if job.error is not None else ""
    return (
        f"{job.job_type}: no fault can be put in, since a job of its example is {job.status}.{met} "
        "Let `new_change` of tests/support/changes.py make one that completes for a project "
        "without services; or name the job type in OF_THEIR_OWN of tests/support/places.py, and "
        "write its tests in tests/faults."
    )


def places(*jobs: str, without: Iterable[str] = ()) -> tuple[str, ...]:
    """Name the stages of jobs as the fault table does."""
    left_out = set(without)
    return tuple(f"{job}/{s}" for job in jobs for s in STAGES[job] if s not in left_out)


def places_of_instances(*jobs: str) -> tuple[str, ...]:
    """Name the stages of jobs that run only for an instance; of all jobs where none is named."""
    return tuple(f"{job}/{s}" for job in jobs or OF_INSTANCES for s in OF_INSTANCES[job])


def together(where: Sequence[str]) -> Iterator[list[str]]:
    """Yield those of a job type's places that can fail in one job of it, for branches all settle.

    Of places of several job types, it yields those of each in turn.
    """
    for name, definition in JOB_TYPES.items():
        for step in definition.steps:
            branches = step.branches if isinstance(step, Parallel) else ((step,),)
            for stages in zip_longest(*branches):
                meeting = [place for stage in stages if (place := f"{name}/{stage}") in where]
                if meeting:
                    yield meeting


def later_call(place: str) -> At:
    """Return the call, beside its first, at which a stage meets a fault: that of its effect."""
    if place in _EFFECTS_ON_INSTANCES:
        return operation(_EFFECTS_ON_INSTANCES[place])
    if place.partition("/")[0] in CHANGES:
        return _later_calls[place]
    if place in _ONLY_LOOKING:
        return first_call
    return first_statement if place.partition("/")[2] in _OF_DATABASES else first_change


#: The stages that meet faults of MySQL's own as well, by place: those at work at a database. That
#: of a cluster's login is about no project; its own tests put them in.
AT_DATABASES = tuple(
    f"{job}/{stage}"
    for job, stages in STAGES.items()
    for stage in stages
    if stage
    in {
        *(_OF_DATABASES - {rotate_cluster_login.ROTATING_LOGIN}),
        deprovision_project.CHECKING_DATA,
        *("REPAIRING_DATABASE", "REPAIRING_SCHEMA", "ROTATING_DATABASE_PASSWORD"),
    }
)

#: Of those that change nothing on the server, what a statement of MySQL's holds that is in the
#: middle of their work.
_READING_MYSQL: dict[str, str] = {
    deprovision_project.CHECKING_DATA: "`resource`",
    # The stage before it has put right all that there is.
    "REPAIRING_SCHEMA": "`resource`",
    deprovision_project.TAKING_SNAPSHOT: "START TRANSACTION",
}


def at_mysql(place: str) -> At:
    """Return the statement at which a stage meets a fault of MySQL's."""
    reading = _READING_MYSQL.get(place.partition("/")[2])
    return first_statement if reading is None else operation(SQL, reading)


@dataclass(frozen=True, slots=True)
class Passing:
    """A fault that passes: each stage meets it, and the job completes."""

    #: Of the fault table.
    name: str
    #: Makes the faults of a stage, by its place.
    make: Callable[[str], Fault]
    #: How often a stage is tried then, and how often the last, whose effect ends the job.
    attempts: int
    attempts_of_last: int


def _at_two_calls(act: Act) -> Callable[[str], Fault]:
    return lambda place: Fault(Within(first_call, act), then=Fault(Within(later_call(place), act)))


#: How a fault passes. Where it is at calls, one attempt meets it at the first, the next at a later.
PASSING = {
    "before": Passing("before the effect", lambda _: Fault(Point.BEFORE), 2, 2),
    "after": Passing("after the effect", lambda _: Fault(Point.AFTER), 2, 1),
    "died": Passing("after the effect, the process killed", lambda _: Fault(Point.DIED), 2, 1),
    "timed_out": Passing(
        "time-out",
        lambda place: Fault(Within(later_call(place), unanswered), then=Fault(Point.TIMED_OUT)),
        3,
        2,
    ),
    "throttled": Passing("throttle", _at_two_calls(throttled), 3, 3),
    "dropped": Passing("connection dropped", _at_two_calls(dropped), 3, 3),
    "unreadable": Passing("wrong answer", _at_two_calls(unreadable), 3, 3),
    "twice": Passing("duplicate delivery", lambda _: Fault(Point.TWICE), 1, 1),
    "invoked_twice": Passing("duplicate delivery", lambda _: Fault(Point.INVOKED_TWICE), 1, 1),
}


def _at_two_statements(act: Act) -> Callable[[str], Fault]:
    login = operation(CONNECT)
    return lambda place: Fault(Within(login, act), then=Fault(Within(at_mysql(place), act)))


#: Those that are another thing for each engine, at its logins and statements. By the first of them
#: a stage is run again that has had its effect.
PASSING_AT_MYSQL = {
    "timed_out": Passing(
        "time-out",
        lambda place: Fault(Within(at_mysql(place), unanswered), then=Fault(Point.TIMED_OUT)),
        3,
        3,
    ),
    "throttled": Passing("throttle", _at_two_statements(throttled), 3, 3),
    "dropped": Passing("connection dropped", _at_two_statements(dropped), 3, 3),
    "unreadable": Passing("wrong answer", _at_two_statements(unreadable), 3, 3),
}


def each_passing(*jobs: str) -> pytest.MarkDecorator:
    """Let a test put each fault that passes in at every stage of some jobs."""
    return pytest.mark.parametrize(
        "kind",
        [
            pytest.param(kind, id=name, marks=pytest.mark.fault(kind.name, where=places(*jobs)))
            for name, kind in PASSING.items()
        ],
    )


each_passing_at_mysql = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, id=name, marks=pytest.mark.fault(kind.name, where=AT_DATABASES))
        for name, kind in PASSING_AT_MYSQL.items()
    ],
)


def put_in(workflow: Workflow, kind: Passing | Lasting, where: Iterable[str]) -> None:
    """Let the stages at some places meet a fault."""
    workflow.faults |= {place: kind.make(place) for place in where}


def attempts(job: str, kind: Passing) -> dict[str, int]:
    """Return how often each stage of a job is tried where it meets a fault that passes."""
    return {
        place: kind.attempts_of_last if place in _LAST else kind.attempts for place in places(job)
    }


def assert_met(
    workflow: Workflow, job: str, kind: Passing, records: Sequence[api.StageRecord]
) -> None:
    """See that every stage has met the fault, and was tried as often as that asks for."""
    assert not workflow.faults, f"met no {kind.name}: {set(workflow.faults)}"
    tried = {f"{job}/{record.stage}": record.attempt for record in records if record.attempt}
    assert tried == attempts(job, kind)


@dataclass(frozen=True, slots=True)
class Lasting:
    """A fault that lasts through all attempts, or is final at once: the job fails."""

    #: Of the fault table.
    name: str
    #: Makes the faults of a stage, by its place.
    make: Callable[[str], Fault]
    error_type: ErrorType
    #: What the cause holds that operators read, as a regular expression.
    cause: str
    #: Attempts of the stage.
    attempts: int = 3
    #: Whether the stage has had its effect each time: that of the last is the end of the job.
    has_effect: bool = False


def _ended(point: Point, name: str) -> Callable[[str], Fault]:
    """Let the function end without a word; that of the last stage before its effect."""

    def make(place: str) -> Fault:
        if place in _LAST:
            return Fault(Point.BEFORE, lambda: FunctionEnded(name), times=3)
        return Fault(point, times=3)

    return make


LASTING = {
    "before": Lasting(
        "before the effect",
        lambda _: Fault(Point.BEFORE, times=3),
        ErrorType.NETWORK_ERROR,
        r"^$",
    ),
    "after": Lasting(
        "after the effect",
        lambda _: Fault(Point.AFTER, times=3),
        ErrorType.NETWORK_ERROR,
        r"^$",
        has_effect=True,
    ),
    "died": Lasting(
        "after the effect, the process killed",
        _ended(Point.DIED, "Runtime.ExitError"),
        ErrorType.UNKNOWN_ERROR,
        "Runtime.ExitError",
    ),
    "timed_out": Lasting(
        "time-out",
        _ended(Point.TIMED_OUT, "Sandbox.Timedout"),
        ErrorType.TIMEOUT,
        "Sandbox.Timedout",
    ),
    "throttled": Lasting(
        "throttle",
        lambda place: Fault(Within(later_call(place), throttled), times=3),
        ErrorType.NETWORK_ERROR,
        "ThrottlingException|53300|1040",
    ),
    "forbidden": Lasting(
        "permission denied",
        lambda place: Fault(Within(later_call(place), forbidden)),
        ErrorType.INSUFFICIENT_PERMISSIONS,
        "AccessDeniedException|42501|1142",
        attempts=1,
    ),
    "dropped": Lasting(
        "connection dropped",
        lambda _: Fault(Within(first_call, dropped), times=3),
        ErrorType.NETWORK_ERROR,
        "EndpointConnectionError|ConnectionClosedError",
    ),
}


#: The one that no attempt after it hides, at the statements of MySQL.
FORBIDDEN_AT_MYSQL = Lasting(
    "permission denied",
    lambda place: Fault(Within(at_mysql(place), forbidden)),
    ErrorType.INSUFFICIENT_PERMISSIONS,
    "error 1142: CREATE command denied",
    attempts=1,
)


def each_lasting(*groups: Iterable[str]) -> pytest.MarkDecorator:
    """Let a test put each fault that lasts in at each group of places."""
    parameters = []
    for name, kind in LASTING.items():
        for group in groups:
            where = [p for p in group if not (kind.has_effect and p in _LAST)]
            if where:
                mark = pytest.mark.fault(kind.name, where=where, lasting=True)
                parameters.append(pytest.param(kind, where, id=f"{name}-{where[0]}", marks=mark))
    return pytest.mark.parametrize(("kind", "where"), parameters)


def assert_fails_so(kind: Lasting, place: str, error: api.StoredError | None) -> None:
    """See that an error is the one that a stage at that place ends with."""
    assert error is not None, place
    assert (error.type, error.attempt) == (kind.error_type, kind.attempts), place
    assert re.search(kind.cause, error.cause), (place, error.cause)
