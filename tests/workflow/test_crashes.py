"""A function dies, meets an error or another run, at any point of its work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.jobs.models import StageStatus
from provisioner.jobs.store import JobStore
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types import provision_project
from support.calls import DRIVER_ERRORS, SQL
from support.effects import Attempt, Effect, aside, effects
from support.workflow import SHARED_STAGES, FunctionEnded, Run, Workflow, each_way

#: No stage changes AWS more often in one attempt; a test below sees to it.
MOST_CALLS = 6

each_call = pytest.mark.parametrize("number", range(1, MOST_CALLS + 1))

STAGE_NAMES: list[str] = list(provision_project.JOB_TYPE.stages)


def test_the_tests_below_go_through_every_call(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    with effects(workflow, monkeypatch, lambda _effect, _attempt: None) as attempts:
        job = workflow.execute(workflow.new_job(workflow.new_project()))
    assert job.status is api.JobStatus.COMPLETED
    assert {attempt.stage for attempt in attempts} == set(SHARED_STAGES)
    assert max(len(attempt.calls) for attempt in attempts) == MOST_CALLS
    # At the least, a stage records its start and its end.
    assert min(len(attempt.calls) for attempt in attempts) >= 2


#: What AWS and the way to it raise, and what passes.
ERRORS: tuple[Callable[[str], Exception], ...] = (
    lambda _: EndpointConnectionError(endpoint_url="https://aws.invalid"),
    lambda _: ReadTimeoutError(endpoint_url="https://aws.invalid"),
    lambda operation: ClientError({"Error": {"Code": "ThrottlingException"}}, operation),
    lambda operation: ClientError({"Error": {"Code": "InternalFailure"}}, operation),
)


@each_way
@each_call
def test_every_stage_may_meet_an_error_and_die_at_any_call(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, number: int, run: Run
) -> None:
    """At its n-th call the first attempt meets an error; the second dies at its own n-th."""

    def go_wrong(effect: Effect, _attempt: Attempt) -> None:
        if effect.name == SQL or effect.number != number:
            return
        if effect.retry_count == 0:
            raise ERRORS[(number + STAGE_NAMES.index(effect.stage)) % 4](effect.name)
        if effect.retry_count == 1:
            raise FunctionEnded("Runtime.ExitError")

    with effects(workflow, monkeypatch, go_wrong):
        job = run(workflow, workflow.new_job(workflow.new_project()))
    assert workflow.waits
    assert workflow.snapshot(job) == workflow.reference()


@each_way
@pytest.mark.parametrize(
    ("engine", "number"),
    [(Engine.POSTGRESQL, 1), (Engine.POSTGRESQL, 13), (Engine.MYSQL, 2)],
)
def test_a_statement_may_meet_an_error_and_a_crash(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, number: int, run: Run
) -> None:
    """The engine's own tests go through every statement."""
    met: list[int] = []

    def go_wrong(effect: Effect, _attempt: Attempt) -> None:
        if effect.name != SQL or effect.number != number:
            return
        met.append(effect.retry_count)
        if effect.retry_count == 0:
            raise DRIVER_ERRORS[workflow.engine].lost()
        if effect.retry_count == 1:
            raise FunctionEnded("Runtime.ExitError")

    with effects(workflow, monkeypatch, go_wrong):
        job = run(workflow, workflow.new_job(workflow.new_project()))
    assert {0, 1} <= set(met)
    assert workflow.snapshot(job) == workflow.reference()


@pytest.mark.parametrize(
    ("engine", "number"),
    [
        *((Engine.POSTGRESQL, number) for number in range(1, MOST_CALLS + 1)),
        # Before it makes the secret.
        (Engine.MYSQL, 2),
    ],
)
def test_a_run_that_was_given_up_may_go_on_beside_the_next(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Before its n-th call, every stage is superseded by its repetition."""
    superseded: set[str] = set()

    def be_superseded(effect: Effect, attempt: Attempt) -> None:
        if effect.name == SQL or effect.number != number or effect.stage in superseded:
            return
        superseded.add(effect.stage)
        with aside():
            workflow.run_stage({**attempt.event, "retry_count": 1})

    with effects(workflow, monkeypatch, be_superseded):
        job = workflow.execute(workflow.new_job(workflow.new_project()))
    assert superseded
    assert workflow.snapshot(job) == workflow.reference()


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        (provision_project.INITIALIZING, 1),
        (provision_project.INITIALIZING, 2),
        (provision_project.INITIALIZING, 3),
        (provision_project.GENERATING_API_KEYS, 2),
        (provision_project.FINALIZING, 2),
    ],
)
def test_another_job_of_the_project_may_come_before_any_call(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, stage: str, number: int
) -> None:
    project_id = workflow.new_project()
    first, second = workflow.new_job(project_id), workflow.new_job(project_id)
    came: list[api.Job] = []

    def come(effect: Effect, attempt: Attempt) -> None:
        here = (effect.stage, effect.number) == (stage, number) and effect.name != SQL
        if here and not came and attempt.event["job"]["job_id"] == first.job_id:
            with aside():
                came.append(workflow.execute_in_process(second))

    with effects(workflow, monkeypatch, come):
        workflow.execute(first)
    jobs = [workflow.jobs.get(job.job_id) for job in (first, second)]
    # Who holds the project when the other comes does the work.
    does = jobs[1] if stage is provision_project.INITIALIZING and number <= 2 else jobs[0]
    other = jobs[0] if does is jobs[1] else jobs[1]
    assert workflow.snapshot(does) == workflow.reference()
    if (stage, number) == (provision_project.INITIALIZING, 1):
        assert other.result == does.result
    else:
        assert other.error is not None
        assert other.error.type is ErrorType.PROJECT_BUSY


def _may_not(effect: Effect, _attempt: Attempt) -> None:
    if effect.name == "CreateBucket":
        raise ClientError({"Error": {"Code": "AccessDenied"}}, effect.name)


#: How the step that records a failure goes wrong, and passes.
PASSING: dict[str, Callable[[], BaseException]] = {
    "dies": lambda: FunctionEnded("Lambda.Unknown"),
    "times_out": lambda: FunctionEnded("Sandbox.Timedout"),
    "is_throttled": lambda: ClientError({"Error": {"Code": "ThrottlingException"}}, "Query"),
}


@each_way
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", PASSING.values(), ids=PASSING)
def test_the_step_that_records_a_failure_is_tried_again(
    workflow: Workflow,
    monkeypatch: pytest.MonkeyPatch,
    after: bool,  # noqa: FBT001  # a parameter of the test
    error: Callable[[], BaseException],
    run: Run,
) -> None:
    project_id = workflow.new_project(owner_id="ada")
    asked: list[int] = []

    fail = JobStore.fail

    def fail_wrongly(store: JobStore, *job: Any, **options: Any) -> None:
        asked.append(1)
        if len(asked) > 1:
            fail(store, *job, **options)
            return
        if after:
            fail(store, *job, **options)
        raise error()

    monkeypatch.setattr(JobStore, "fail", fail_wrongly)
    with effects(workflow, monkeypatch, _may_not):
        job = run(workflow, workflow.new_job(project_id))
    assert len(workflow.waits) == 1
    assert job.error is not None
    assert (job.status, job.error.type, job.error.stage) == (
        api.JobStatus.FAILED,
        ErrorType.INSUFFICIENT_PERMISSIONS,
        provision_project.REGISTERING_STORAGE,
    )
    failed = {record.stage for record in job.stages if record.status is StageStatus.FAILED}
    assert failed == {provision_project.REGISTERING_STORAGE}
    project = api.get_project(project_id)
    assert (project.status, project.locked_by, project.quota) == (
        api.ProjectStatus.FAILED,
        None,
        None,
    )
