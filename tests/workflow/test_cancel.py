"""Jobs that are cancelled, or whose execution ends without telling, on the real state machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from provisioner import api
from provisioner.composition.reconciler import reconciler
from provisioner.errors import ErrorType, failure
from provisioner.jobs.models import JobStatus, StageStatus
from provisioner.jobs.stage import JobInput
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types import clean_up_project, provision_project
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.stages.clean_up import remaining
from provisioner.runtime import aws
from support.undoing import CLEANUP, cleanup_of, unremoved
from support.workflow import SHARED_STAGES, Fault, Point, Workflow

#: Seconds in which what another thread does is done.
_DEADLINE = 30.0


def run(workflow: Workflow, job: api.Job, *, reconciled: bool = False) -> api.Job:
    """Run a job to the end of its execution, let it be reconciled, and run its clean-up."""
    workflow.ended(workflow.start(job))
    if reconciled:
        assert reconciler(workflow.settings).reconcile(job.job_id).repair
    ended = workflow.jobs.get(job.job_id)
    if ended.cleanup_job_id and reconciled:
        run_sent(workflow, cleanup_of(ended))
    elif ended.cleanup_job_id:
        workflow.ended(workflow.cleanup_execution(cleanup_of(ended)))
    return workflow.jobs.get(job.job_id)


def run_sent(workflow: Workflow, cleanup: api.Job) -> None:
    """Run the clean-up whose message the reconciler has sent, since no execution started it."""
    received = aws.client("sqs").receive_message(QueueUrl=workflow.settings.queue_url)
    (body,) = (json.loads(message["Body"]) for message in received["Messages"])
    assert (body["job_id"], body["job_type"]) == (cleanup.job_id, CLEANUP)
    workflow.ended(workflow.start(cleanup))


def cleanup_arn(workflow: Workflow, job: api.Job) -> str:
    return workflow.execution_arn(CLEANUP, cleanup_of(job).job_id)


def once(act: Callable[[], object]) -> Callable[[], None]:
    """Let something happen at the first call alone."""
    left = iter([act])

    def first() -> None:
        for happen in left:
            happen()

    return first


def cancel_in(workflow: Workflow, job: api.Job, stage: str) -> None:
    """Let the job be cancelled while a stage of it runs."""

    def observe(running: JobInput, its_stage: str) -> None:
        if (running.job_id, its_stage) == (job.job_id, stage):
            cancelled = api.cancel_job(job.job_id)
            assert cancelled.status is JobStatus.RUNNING

    workflow.observers.append(observe)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_is_named(workflow: Workflow, cleanup: api.Job) -> None:
    """See that a clean-up names what its stages that have not ended well were to remove."""
    naming = Naming(workflow.settings.resource_prefix, workflow.settings.resource_namespace)
    assert cleanup.remaining == tuple(
        name for stage in unremoved(cleanup) for name in remaining(cleanup, stage, naming=naming)
    )


def stop(workflow: Workflow, job: api.Job) -> None:
    """Stop a job's execution by hand."""
    arn = workflow.execution_arn(job.job_type, job.job_id)
    aws.client("stepfunctions").stop_execution(executionArn=arn)


def assert_nothing_is_left(workflow: Workflow, job: api.Job) -> None:
    """Look for everything that a job makes or holds."""
    names = workflow.names(job.project_id)
    tenant = workflow.server.snapshot(workflow.tenant(job.project_id))
    assert not any(tenant.values())
    assert set(map(str, workflow._services().values())) == {"[]"}
    assert workflow._secrets(names, tenant) == {}
    assert workflow._api_keys(names) == []
    project = workflow.projects.get(job.project_id)
    assert project is not None
    assert (project.locked_by, project.quota, project.cluster_id) == (None, None, None)
    assert [quota["used"] for quota in workflow._scan(workflow.settings.quotas_table)] in (
        [],
        [{"N": "0"}],
        [{"N": "0"}, {"N": "0"}],
    )
    assert list(workflow.jobs.list_unfinished()) == []
    assert not reconciler(workflow.settings).reconcile(job.job_id).repair


def assert_is_undone(workflow: Workflow, job: api.Job) -> None:
    cleanup = cleanup_of(job)
    assert (cleanup.status, cleanup.remaining) == (JobStatus.COMPLETED, ())
    assert_nothing_is_left(workflow, job)


# --- Cancelling -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "stage"),
    [
        pytest.param(
            engine,
            stage,
            id=f"{stage}-{engine}",
            marks=pytest.mark.fault("cancel at every stage", where=f"provision_project/{stage}"),
        )
        for engine, stage in (
            *((Engine.POSTGRESQL, stage) for stage in SHARED_STAGES),
            (Engine.MYSQL, provision_project.CREATING_DATABASE),
        )
    ],
)
def test_a_job_is_cancelled_at_the_end_of_the_stage_that_runs(
    workflow: Workflow, stage: str
) -> None:
    job = workflow.new_job(workflow.new_project(owner_id="ada"))
    cancel_in(workflow, job, stage)

    job = run(workflow, job)

    assert job.status is JobStatus.CANCELLED
    assert job.error is not None
    assert job.error.type is ErrorType.JOB_CANCELLED
    assert job.other_errors == () or stage is not provision_project.INITIALIZING
    statuses = {record.stage: record.status for record in job.stages}
    # It was allowed to finish; what completes the job alone is not.
    ended = StageStatus.FAILED if stage is provision_project.FINALIZING else StageStatus.SUCCEEDED
    assert statuses[stage] is ended
    if stage is provision_project.INITIALIZING:
        # With its end it has said that this one is not asked for.
        assert statuses.pop(provision_project.CREATING_INSTANCE) is StageStatus.SKIPPED
        assert {s for name, s in statuses.items() if name != stage} == {StageStatus.PENDING}
    if stage is provision_project.CREATING_DATABASE:
        assert statuses[provision_project.CREATING_SCHEMA] is StageStatus.PENDING
    assert workflow.waits == []
    assert_is_undone(workflow, job)


def test_a_job_that_is_cancelled_before_it_begins_makes_nothing(workflow: Workflow) -> None:
    job = workflow.new_job(workflow.new_project(owner_id="ada"))
    assert api.cancel_job(job.job_id).status is JobStatus.CANCELLED

    ended = run(workflow, job)

    assert ended == workflow.jobs.get(job.job_id)
    assert {record.status for record in ended.stages} == {StageStatus.PENDING}
    assert_nothing_is_left(workflow, ended)


def test_a_job_that_waits_for_its_next_attempt_is_cancelled_at_once(workflow: Workflow) -> None:
    job = workflow.new_job(workflow.new_project(owner_id="ada"))
    workflow.faults[provision_project.INITIALIZING] = Fault(Point.AFTER, times=3)
    statuses: list[JobStatus] = []
    workflow.on_wait = once(lambda: statuses.append(api.cancel_job(job.job_id).status))

    arn = workflow.start(job)

    assert workflow.ended(arn) == "ABORTED"
    assert statuses == [JobStatus.CANCELLED]
    assert len(workflow.waits) == 1
    ended = workflow.jobs.get(job.job_id)
    run_sent(workflow, cleanup_of(ended))
    assert [error.type for error in ended.other_errors] == [ErrorType.NETWORK_ERROR]
    assert ended.stages[0].attempt == 1
    assert_is_undone(workflow, ended)


@pytest.mark.parametrize(
    "branch", provision_project.RESOURCES.branches, ids=lambda branch: branch[0]
)
def test_a_branch_that_waits_keeps_no_cancel_waiting_once_the_others_have_ended(
    workflow: Workflow, branch: tuple[str, ...]
) -> None:
    job = workflow.new_job(workflow.new_project(owner_id="ada"))
    workflow.faults[branch[0]] = Fault(Point.AFTER, times=3)

    def cancel() -> None:
        api.cancel_job(job.job_id)

        # As the reconciler does when it is told of the stages that end meanwhile.
        def is_cancelled() -> bool:
            reconciler(workflow.settings).reconcile(job.job_id)
            return workflow.jobs.get(job.job_id).status.is_terminal

        until(is_cancelled)

    workflow.on_wait = once(cancel)

    ended = run(workflow, job)

    assert ended.status is JobStatus.CANCELLED
    assert ErrorType.NETWORK_ERROR in {error.type for error in ended.other_errors}
    assert len(workflow.waits) == 1
    assert_is_undone(workflow, ended)


def test_a_cancelled_job_that_is_retried_completes_as_its_second_attempt(
    workflow: Workflow,
) -> None:
    job = workflow.new_job(workflow.new_project())
    cancel_in(workflow, job, provision_project.GENERATING_API_KEYS)
    cancelled = run(workflow, job)
    workflow.observers.clear()

    retried = api.retry_job(job.job_id)
    assert api.retry_job(job.job_id).attempt == retried.attempt == 2
    ended = run(workflow, retried)

    assert (ended.status, ended.attempt) == (JobStatus.COMPLETED, 2)
    assert ended.history[: len(cancelled.history)] == cancelled.history
    assert workflow.snapshot(ended) == workflow.reference()
    with pytest.raises(api.JobStateError, match="is COMPLETED"):
        api.cancel_job(job.job_id)


def test_a_job_that_is_cancelled_twice_at_once_is_cancelled(workflow: Workflow) -> None:
    job = workflow.new_job(workflow.new_project(owner_id="ada"))
    workflow.faults[provision_project.INITIALIZING] = Fault(Point.AFTER, times=3)
    returned: list[api.Job] = []

    def cancel_twice() -> None:
        cancels = [
            threading.Thread(target=lambda: returned.append(api.cancel_job(job.job_id)))
            for _ in range(2)
        ]
        for cancel in cancels:
            cancel.start()
        for cancel in cancels:
            cancel.join()

    workflow.on_wait = once(cancel_twice)

    ended = run(workflow, job)

    assert [seen.status for seen in returned] == [JobStatus.CANCELLED] * 2
    assert sum(entry.status == "CANCELLED" for entry in ended.history) == 1
    assert_is_undone(workflow, ended)


# --- Executions that end without telling ----------------------------------------------------------


@pytest.mark.parametrize(
    "stage",
    [
        provision_project.INITIALIZING,
        provision_project.CREATING_SCHEMA,
        provision_project.FINALIZING,
    ],
)
def test_a_job_whose_execution_is_stopped_by_hand_is_failed_and_undone(
    workflow: Workflow, stage: str
) -> None:
    job = workflow.new_job(workflow.new_project(owner_id="ada"))
    # The effect of FINALIZING would be the end of the job.
    point = Point.BEFORE if stage is provision_project.FINALIZING else Point.AFTER
    workflow.faults[stage] = Fault(point, times=3)

    def stop_once_alone() -> None:
        until(lambda: len(workflow.jobs.get(job.job_id).running_stages) == 1)
        stop(workflow, job)

    workflow.on_wait = once(stop_once_alone)

    ended = run(workflow, job, reconciled=True)

    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert (ended.error.type, ended.error.stage) == (ErrorType.UNKNOWN_ERROR, "")
    assert ended.error.message == "The job was stopped by hand before it had ended."
    assert [(error.type, error.stage) for error in ended.other_errors] == [
        (ErrorType.NETWORK_ERROR, stage)
    ]
    assert_is_undone(workflow, ended)


def test_a_job_whose_execution_takes_too_long_is_failed_and_undone(workflow: Workflow) -> None:
    machines = aws.client("stepfunctions")
    arn = workflow.state_machines["provision_project"]
    definition = machines.describe_state_machine(stateMachineArn=arn)["definition"]
    whole = json.loads(definition)
    shorter = json.dumps({**whole, "TimeoutSeconds": 2})
    machines.update_state_machine(stateMachineArn=arn, definition=shorter)
    job = workflow.new_job(workflow.new_project(owner_id="ada"))
    workflow.faults[provision_project.INITIALIZING] = Fault(Point.AFTER, times=3)
    execution = workflow.execution_arn(job.job_type, job.job_id)
    workflow.on_wait = once(lambda: workflow.ended(execution))

    ended = run(workflow, job, reconciled=True)

    assert workflow.ended(execution) == "TIMED_OUT"
    assert ended.error is not None
    assert (ended.error.type, ended.error.message) == (
        ErrorType.TIMEOUT,
        "The job did not end in the time that it had.",
    )
    assert_is_undone(workflow, ended)


def test_a_failure_whose_record_was_lost_is_recorded_and_undone(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_event: Mapping[str, Any]) -> dict[str, Any]:
        raise failure(ErrorType.INSUFFICIENT_PERMISSIONS, "Injected.")

    monkeypatch.setattr(workflow, "record_failure", refuse)
    job = workflow.new_job(workflow.new_project(owner_id="ada"))
    workflow.faults[provision_project.REGISTERING_AUTH] = Fault(
        Point.AFTER, lambda: failure(ErrorType.CONFLICT, "Not ours.")
    )

    ended = run(workflow, job, reconciled=True)

    assert ended.error is not None
    assert (ended.error.type, ended.error.stage, ended.error.message) == (
        ErrorType.CONFLICT,
        provision_project.REGISTERING_AUTH,
        "Not ours.",
    )
    assert_is_undone(workflow, ended)


def test_a_cleanup_that_is_stopped_by_hand_names_what_may_be_left(workflow: Workflow) -> None:
    job = workflow.new_job(workflow.new_project(owner_id="ada"))
    workflow.faults[provision_project.CREATING_SCHEMA] = Fault(
        Point.BEFORE, lambda: failure(ErrorType.CONFLICT, "Not ours.")
    )
    workflow.faults[clean_up_project.REMOVING_AUTH] = Fault(Point.BEFORE, times=3)
    workflow.on_wait = once(
        lambda: aws.client("stepfunctions").stop_execution(
            executionArn=cleanup_arn(workflow, workflow.jobs.get(job.job_id))
        )
    )
    stopped = cleanup_of(run(workflow, job))
    assert stopped.status is JobStatus.RUNNING
    # What ran when it was stopped has been ended by its time-out by then.
    workflow.passed += timedelta(hours=1)

    assert reconciler(workflow.settings).reconcile(stopped.job_id).repair

    cleanup = cleanup_of(workflow.jobs.get(job.job_id))
    assert cleanup.status is JobStatus.FAILED
    # What was removed beside it by then is not named.
    assert f"user pool {workflow.names(job.project_id).user_pool}" in cleanup.remaining
    assert_is_named(workflow, cleanup)
    project = workflow.projects.get(job.project_id)
    assert project is not None
    assert project.locked_by is None
