"""The stages of an instance of the project's own meet the faults that every stage meets.

What passes is met in the life of one project: it is provisioned, repaired and deprovisioned, while
Amazon RDS takes its time, so that the fault comes before a wait or in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from provisioner import api
from provisioner.errors import ErrorType, failure
from provisioner.jobs.stage import JobInput
from provisioner.jobs.stage_run import StageWaiting
from provisioner.provisioning.job_types import (
    clean_up_project,
    deprovision_project,
    provision_project,
    repair_project,
)
from provisioner.runtime import aws
from support.calls import Act, At, Call, Within, dropped, operation, throttled, unreadable
from support.changes import logs_in
from support.dedicated import Rds, allow, new_job, parameter
from support.places import (
    CLEANUP,
    LASTING,
    PASSING,
    Lasting,
    assert_fails_so,
    later_call,
    places_of_instances,
    put_in,
)
from support.undoing import assert_nothing_is_left, cleanup_of, repeated_to_its_end
from support.workflow import REGION, Fault, FunctionEnded, Point, Run, Workflow

_CREATING = f"{'provision_project'}/{provision_project.CREATING_INSTANCE}"
_REPAIRING = f"{'repair_project'}/{repair_project.REPAIRING_INSTANCE}"
_SNAPSHOT = f"{'deprovision_project'}/{deprovision_project.TAKING_INSTANCE_SNAPSHOT}"
_REMOVING = f"{'deprovision_project'}/{deprovision_project.REMOVING_INSTANCE}"
_CLEANING_UP = f"{CLEANUP}/{clean_up_project.REMOVING_INSTANCE}"


def modify(rds: Rds, **settings: Any) -> None:
    """Modify the instance by hand."""
    (instance,) = rds.instances()
    aws.client("rds", REGION).modify_db_instance(
        DBInstanceIdentifier=instance["DBInstanceIdentifier"], **settings
    )


# Faults that pass.


def live(rds: Rds) -> list[api.Job]:
    """Let a project have its life, in which RDS takes a minute for each thing."""
    workflow = rds.workflow
    rds.minutes = dict.fromkeys(["creating", "snapshot", "deleting"], 1)
    provisioned = workflow.execute_in_process(new_job(workflow))
    project_id = provisioned.project_id
    modify(rds, PubliclyAccessible=True, BackupRetentionPeriod=1)
    repaired = workflow.execute_in_process(workflow.new_change("repair_project", project_id))
    (instance,) = rds.instances()
    assert (instance["PubliclyAccessible"], instance["BackupRetentionPeriod"]) == (False, 7)
    assert logs_in(workflow, project_id)
    removed = workflow.execute_in_process(workflow.new_deprovision_job(project_id))
    return [provisioned, repaired, removed]


def assert_lived(rds: Rds, jobs: list[api.Job]) -> None:
    """See that each job has completed, and that the last snapshot is all that is left."""
    for job in jobs:
        assert (job.status, job.error) == (api.JobStatus.COMPLETED, None)
        assert all(record.check for record in job.stages)
    provisioned, repaired, removed = (job.result or {} for job in jobs)
    assert provisioned["database"]["instance"]["size"] == "db.t4g.micro"
    assert repaired["remaining"] == []
    assert removed["snapshot"]["identifier"] in {
        snapshot["DBSnapshotIdentifier"] for snapshot in rds.snapshots()
    }
    assert rds.instances() == []
    assert_nothing_is_left(rds.workflow, jobs[0].project_id)


def _at_effect(act: Act) -> Callable[[str], Fault]:
    return lambda place: Fault(Within(later_call(place), act))


def _throttle_dynamodb(place: str) -> Fault:
    """Let a stage's own first call of DynamoDB be throttled, and its last: the other stages show
    that each call is which they begin and end with.
    """
    last = {
        _CREATING: operation("TransactWriteItems", "'host'"),
        _REPAIRING: operation("Query"),
        _SNAPSHOT: operation("GetItem"),
        _REMOVING: operation("TransactWriteItems"),
    }[place]
    return Fault(Within(operation("GetItem"), throttled), then=Fault(Within(last, throttled)))


#: Faults that a stage meets one after the other, and how often it is tried then.
_PASSING: dict[str, tuple[list[tuple[str, Callable[[str], Fault]]], int]] = {
    "around": ([(k.name, k.make) for k in (PASSING["before"], PASSING["after"])], 3),
    "doubled": (
        [
            ("wrong answer", _at_effect(unreadable)),
            *((k.name, k.make) for k in (PASSING["died"], PASSING["twice"])),
        ],
        3,
    ),
    "timed_out": ([(PASSING["timed_out"].name, PASSING["timed_out"].make)], 3),
    "unheard": (
        [("throttle", _at_effect(throttled)), ("connection dropped", _at_effect(dropped))],
        3,
    ),
    "dynamodb": ([("DynamoDB throttling", _throttle_dynamodb)], 3),
}


def each_passing(test: Any) -> Any:
    """Let a test put in each of them at every stage of an instance."""
    parameters = []
    for case, (faults, attempts) in _PASSING.items():
        marks = [pytest.mark.fault(name, where=places_of_instances()) for name, _ in faults]
        makes = [make for _, make in faults]
        parameters.append(pytest.param(makes, attempts, id=case, marks=marks))
    return pytest.mark.parametrize(("makes", "attempts"), parameters)(test)


@each_passing
def test_a_project_has_its_life(
    rds: Rds, makes: list[Callable[[str], Fault]], attempts: int
) -> None:
    for place in places_of_instances():
        first, *others = (make(place) for make in makes)
        rds.workflow.faults[place.partition("/")[2]] = first
        for before, then in pairwise([first, *others]):
            before.then = then
    jobs = live(rds)
    assert not rds.workflow.faults
    assert_lived(rds, jobs)
    assert len(rds.snapshots()) == 1
    tried = {
        f"{job.job_type}/{record.stage}": record.attempt for job in jobs for record in job.stages
    }
    assert [tried[place] for place in places_of_instances()] == [attempts] * 4


@pytest.mark.fault("Secrets Manager down", where=[_CREATING, _REPAIRING, _REMOVING])
def test_secrets_manager_is_down_for_one_attempt_of_each_stage(rds: Rds) -> None:
    def go_down(_call: Call) -> None:
        raise EndpointConnectionError(endpoint_url="https://secretsmanager.invalid")

    first_of_secrets = Within(lambda call: "Secret" in call.operation, go_down)
    places = (_CREATING, _REPAIRING, _REMOVING)
    rds.workflow.faults = {place.partition("/")[2]: Fault(first_of_secrets) for place in places}
    jobs = live(rds)
    assert not rds.workflow.faults
    assert_lived(rds, jobs)
    retried = [f"{j.job_type}/{r.stage}" for j in jobs for r in j.stages if r.attempt == 2]
    assert retried == list(places)


# Faults that last.


def _tell_of_another(call: Call) -> Any:
    """Tell of another instance, or snapshot, than was asked for."""
    name = call.operation.removeprefix("Describe")
    return {name: [{f"{name.removesuffix('s')}Identifier": "another"}]}


#: Those with an effect come last: after them there is an instance, or it is being deleted.
_LASTING = (
    LASTING["throttled"],
    LASTING["forbidden"],
    LASTING["dropped"],
    Lasting(
        "wrong answer",
        lambda _: Fault(
            Within(lambda call: call.operation.startswith("DescribeDB"), _tell_of_another), times=3
        ),
        ErrorType.NETWORK_ERROR,
        "an answer of another",
    ),
    LASTING["before"],
    LASTING["after"],
    LASTING["died"],
    LASTING["timed_out"],
)


def meets_each_lasting(*where: str) -> Callable[[Any], Any]:
    """Say of a test that it puts each fault that lasts in at some places."""

    def mark(test: Any) -> Any:
        for kind in _LASTING:
            test = pytest.mark.fault(kind.name, where=where, lasting=True)(test)
        return test

    return mark


def failed(workflow: Workflow, job: api.Job, kind: Lasting, place: str) -> api.Job:
    """Run a job that meets a fault at a place, and see that it fails by it."""
    put_in(workflow, kind, [place])
    # In one process nobody can tell how a function ended.
    dies = kind in (LASTING["died"], LASTING["timed_out"])
    ended = workflow.execute(job) if dies else workflow.execute_in_process(job)
    assert not workflow.faults, (kind.name, place)
    assert ended.status is api.JobStatus.FAILED
    assert ended.error is not None
    assert f"{ended.job_type}/{ended.error.stage}" == place
    assert_fails_so(kind, place, ended.error)
    return ended


@meets_each_lasting(_CREATING)
def test_no_instance_is_made_and_nothing_is_left(rds: Rds) -> None:
    for kind in _LASTING:
        job = failed(rds.workflow, new_job(rds.workflow), kind, _CREATING)
        assert cleanup_of(job).status is api.JobStatus.COMPLETED
        assert rds.instances() == []
        assert_nothing_is_left(rds.workflow, job.project_id)


@meets_each_lasting(_REPAIRING, _SNAPSHOT, _REMOVING)
def test_a_project_is_as_it_was_until_something_is_removed_and_then_goes_only_on(rds: Rds) -> None:
    workflow = rds.workflow
    project_id = workflow.execute_in_process(new_job(workflow)).project_id
    before = api.get_project(project_id)
    for kind in _LASTING:
        modify(rds, PubliclyAccessible=True)
        failed(workflow, workflow.new_change("repair_project", project_id), kind, _REPAIRING)
        failed(workflow, workflow.new_deprovision_job(project_id), kind, _SNAPSHOT)
        assert api.get_project(project_id) == before, kind.name
        assert logs_in(workflow, project_id), kind.name
    # It is begun to be deleted, and there for a long time yet.
    rds.minutes["deleting"] = 1000
    for kind in _LASTING:
        job = workflow.new_deprovision_job(project_id, final_snapshot=False)
        failed(workflow, job, kind, _REMOVING)
        project = api.get_project(project_id)
        assert (project.status, project.locked_by) == (api.ProjectStatus.DEPROVISIONING, None)
    workflow.passed += timedelta(minutes=1000)
    completed = workflow.execute(workflow.new_deprovision_job(project_id))
    assert (completed.status, completed.error) == (api.JobStatus.COMPLETED, None)
    assert rds.instances() == []
    assert_nothing_is_left(workflow, project_id)


def _fail_early(workflow: Workflow) -> None:
    """Let a job fail once its instance is there."""
    workflow.faults[provision_project.CREATING_DATABASE] = Fault(
        Point.BEFORE, lambda: failure(ErrorType.CONFLICT, "Injected.")
    )


@pytest.mark.fault("permission denied", where=_CLEANING_UP, lasting=True)
@pytest.mark.fault("after the effect, the process killed", where=_CLEANING_UP, lasting=True)
def test_what_could_not_be_removed_is_named_and_goes_once_it_can(rds: Rds) -> None:
    """The other faults the clean-up meets where there is no instance."""
    workflow = rds.workflow
    _fail_early(workflow)
    denied, died = LASTING["forbidden"], LASTING["died"]
    put_in(workflow, denied, [_CLEANING_UP])
    job = workflow.execute(new_job(workflow))
    names = workflow.names(job.project_id)
    for run, (kind, then) in enumerate([(denied, died), (died, None)], 2):
        cleanup = cleanup_of(job)
        assert not workflow.faults
        assert cleanup.status is api.JobStatus.FAILED
        assert cleanup.remaining == (
            f"database instance {names.instance}",
            f"secret {names.instance_secret}",
        )
        assert_fails_so(kind, _CLEANING_UP, cleanup.error)
        if then is not None:
            put_in(workflow, then, [_CLEANING_UP])
        repeated_to_its_end(workflow, job, run)
    assert cleanup_of(job).status is api.JobStatus.COMPLETED
    assert rds.instances() == []
    assert_nothing_is_left(workflow, job.project_id)


# A function that dies, or is superseded, at each of its effects.


#: What each stage changes, in its order, and whether it writes where the instance is reached.
_EFFECTS = {
    _CREATING: [
        ("TransactWriteItems", False),
        ("CreateSecret", False),
        ("CreateDBInstance", False),
        ("TransactWriteItems", True),
    ],
    _REPAIRING: [("ModifyDBInstance", False)],
    _SNAPSHOT: [("CreateDBSnapshot", False)],
    _REMOVING: [
        ("ModifyDBInstance", False),
        ("DeleteDBInstance", False),
        ("DeleteSecret", False),
        ("TransactWriteItems", False),
    ],
}


type Effects = dict[str, list[tuple[str, bool]]]


def at_effects(rds: Rds, wanted: Effects, act: Callable[[str, Call], Any]) -> Effects:
    """Let something happen once at effects of each stage of an instance; list where it has."""
    met: Effects = {place: [] for place in wanted}

    def is_new(place: str) -> At:
        def at(call: Call) -> bool:
            effect = call.operation, "'host'" in call.text
            is_first = effect in wanted[place] and effect not in met[place]
            if is_first:
                met[place].append(effect)
            return is_first

        return at

    rds.workflow.faults |= {
        place.partition("/")[2]: Fault(Within(is_new(place), partial(act, place)), times=99)
        for place in wanted
    }
    return met


@pytest.mark.fault("after the effect, the process killed", where=places_of_instances())
def test_a_function_dies_before_each_effect(rds: Rds, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS Lambda invokes it again each time; what it did before stands, and nobody was told."""

    def die(_place: str, _call: Call) -> None:
        raise FunctionEnded("Runtime.ExitError")

    run_stage = rds.workflow.run_stage

    def run_until_it_ends(event: Mapping[str, Any]) -> dict[str, Any]:
        while True:
            with suppress(FunctionEnded):
                return run_stage(event)

    met = at_effects(rds, _EFFECTS, die)
    monkeypatch.setattr(rds.workflow, "run_stage", run_until_it_ends)
    assert_lived(rds, live(rds))
    assert met == _EFFECTS
    assert rds.asked.count("CreateDBInstance") == 1
    assert len(rds.snapshots()) == 1


@pytest.mark.fault("duplicate delivery", where=places_of_instances())
@pytest.mark.parametrize("number", [1, 2])
def test_a_run_that_was_given_up_goes_on_beside_the_next(
    rds: Rds, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Before one of its effects, each stage is superseded by its repetition."""
    events: dict[str, Mapping[str, Any]] = {}
    run_stage = rds.workflow.run_stage

    def run_known(event: Mapping[str, Any]) -> dict[str, Any]:
        events[event["stage"]] = event
        return run_stage(event)

    def be_superseded(place: str, call: Call) -> Any:
        event = events[place.partition("/")[2]]
        with suppress(StageWaiting):
            run_stage({**event, "retry_count": event["retry_count"] + 1})
        return call.make()

    there = {place: [effects[min(number, len(effects) - 1)]] for place, effects in _EFFECTS.items()}
    met = at_effects(rds, there, be_superseded)
    monkeypatch.setattr(rds.workflow, "run_stage", run_known)
    assert_lived(rds, live(rds))
    assert met == there
    assert len(rds.snapshots()) == 1


# Jobs that are cancelled, and jobs that come.


@pytest.mark.fault("cancel at every stage", where=[_REPAIRING, _SNAPSHOT, _REMOVING])
def test_a_wait_is_cancelled_at_each_look(rds: Rds) -> None:
    workflow = rds.workflow
    project_id = workflow.execute_in_process(new_job(workflow)).project_id
    before = api.get_project(project_id)
    rds.minutes = dict.fromkeys(["starting", "snapshot", "deleting"], 5)

    def cancelled(job: api.Job, place: str, look: int) -> None:
        ended, seen = watched(workflow, job, place, look, lambda: api.cancel_job(job.job_id))
        assert (ended.status, ended.cleanup_job_id, seen) == (api.JobStatus.CANCELLED, "", look), (
            place
        )
        assert api.get_project(project_id).locked_by is None

    for look in (1, 2):
        workflow.passed += timedelta(hours=1)
        stop(rds)
        cancelled(workflow.new_change("repair_project", project_id), _REPAIRING, look)
        workflow.passed += timedelta(hours=1)
        cancelled(workflow.new_deprovision_job(project_id), _SNAPSHOT, look)
        assert api.get_project(project_id) == before
        # What RDS has begun it ends, and the list of snapshots tells of it.
        assert len(rds.snapshots()) == look
    for look in (1, 2):
        job = workflow.new_deprovision_job(project_id, final_snapshot=False)
        cancelled(job, _REMOVING, look)
        assert api.get_project(project_id).status is api.ProjectStatus.DEPROVISIONING
    completed = workflow.execute(workflow.new_deprovision_job(project_id))
    assert (completed.status, completed.error) == (api.JobStatus.COMPLETED, None)
    assert rds.instances() == []
    assert_nothing_is_left(workflow, project_id)


def stop(rds: Rds) -> None:
    """Stop the instance by hand."""
    (instance,) = rds.instances()
    aws.client("rds", REGION).stop_db_instance(
        DBInstanceIdentifier=instance["DBInstanceIdentifier"]
    )


def watched(
    workflow: Workflow,
    job: api.Job,
    place: str,
    look: int,
    act: Callable[[], object],
    *,
    run: Run = Workflow.execute_in_process,
) -> tuple[api.Job, int]:
    """Let something happen before the n-th look of a stage; say how often it has looked."""
    seen = 0

    def observe(running: JobInput, stage: str) -> None:
        nonlocal seen
        if place == f"{running.job_type}/{stage}":
            seen += 1
            if seen == look:
                act()

    workflow.observers.append(observe)
    ended = run(workflow, job)
    workflow.observers.remove(observe)
    return ended, seen


@pytest.mark.fault("cancel at every stage", where=_CLEANING_UP)
def test_a_clean_up_that_waits_says_that_nothing_is_to_be_cancelled(rds: Rds) -> None:
    workflow = rds.workflow
    _fail_early(workflow)
    rds.minutes["deleting"] = 2
    job = new_job(workflow)

    def cancel() -> None:
        failed = workflow.jobs.get(job.job_id)
        with pytest.raises(api.JobStateError, match="is FAILED"):
            api.cancel_job(failed.job_id)
        with pytest.raises(api.JobStateError, match="is a clean-up, which is not cancelled"):
            api.cancel_job(failed.cleanup_job_id)

    ended, seen = watched(workflow, job, _CLEANING_UP, 2, cancel, run=Workflow.execute)
    assert (cleanup_of(ended).status, seen) == (api.JobStatus.COMPLETED, 3)
    assert rds.instances() == []
    assert_nothing_is_left(workflow, job.project_id)


@pytest.mark.fault("two jobs at once for one project", where=places_of_instances())
@pytest.mark.fault("deprovision during provision", where=_CREATING)
@pytest.mark.fault(
    "the operator's parameter changed between two stages",
    where=[_REPAIRING, _SNAPSHOT, _REMOVING],
)
def test_nobody_disturbs_what_has_begun(rds: Rds) -> None:
    """Other jobs come at each stage, and the operator allows no instance any more."""
    workflow = rds.workflow
    others: dict[str, list[api.Job]] = {}

    def come(running: JobInput, stage: str) -> None:
        place = f"{running.job_type}/{stage}"
        if place not in _EFFECTS or place in others:
            return
        others[place] = []
        for new in (workflow.new_deprovision_job, partial(new_job, workflow)):
            others[place].append(workflow.execute_in_process(new(running.payload["project_id"])))
        if place == _CREATING:
            # What the instance is to be is settled by the time of the next look.
            workflow.on_pause = disallow

    workflow.observers.append(come)
    assert_lived(rds, live(rds))
    assert list(others) == list(_EFFECTS)
    for place, jobs in others.items():
        deprovision, provision = (job.error and job.error.type for job in jobs)
        assert deprovision is ErrorType.PROJECT_BUSY, place
        # A project that is repaired is provisioned.
        done = None if place == _REPAIRING else ErrorType.PROJECT_BUSY
        assert provision is done, place


def disallow() -> None:
    """Take away what operators allow, if it is there."""
    with suppress(aws.client("ssm").exceptions.ParameterNotFound):
        aws.client("ssm").delete_parameter(Name=parameter())


@pytest.mark.fault("two projects for the last instance", where=_CREATING)
def test_two_projects_ask_for_the_last_instance(rds: Rds) -> None:
    """The second comes once the first has found that there is room, and gets it."""
    workflow = rds.workflow
    allow(maximum=1)
    first, second = new_job(workflow), new_job(workflow)

    def be_superseded(_place: str, call: Call) -> Any:
        assert workflow.execute_in_process(second).status is api.JobStatus.COMPLETED
        return call.make()

    at_effects(rds, {_CREATING: [("TransactWriteItems", False)]}, be_superseded)
    failed = workflow.execute_in_process(first)
    assert failed.error is not None
    assert (failed.error.stage, failed.error.type) == (
        provision_project.CREATING_INSTANCE,
        ErrorType.QUOTA_EXCEEDED,
    )
    assert "has reached its limit of 1 postgresql instances" in failed.error.message
    assert len(rds.instances()) == 1
    removed = workflow.execute_in_process(
        workflow.new_deprovision_job(second.project_id, final_snapshot=False)
    )
    assert removed.status is api.JobStatus.COMPLETED
    for job in (first, second):
        assert_nothing_is_left(workflow, job.project_id)
