"""Cancelling a job: what is cancelled at once, what is asked to stop, and who wins a race."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from provisioner import api
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.client import JobStateError
from provisioner.jobs.failure import FailureRecorder
from provisioner.jobs.models import (
    CANCELLED_MESSAGE,
    PROCESS_LEASE,
    Job,
    JobStatus,
    StageStatus,
)
from provisioner.jobs.stage import Completion, JobInput, StageOutcome
from provisioner.jobs.stage_run import StageRunner
from provisioner.jobs.store import BadEnd, JobNotFoundError, utc_now
from provisioner.provisioning.job_types import JOB_TYPES, clean_up_project, provision_project
from provisioner.runtime import aws
from provisioner.runtime.observability import metrics
from provisioner.runtime.platform import PlatformSettings
from support.core import Core, aws_error, meanwhile, provisioned_result
from support.reconciler import (
    NETWORK_ERROR,
    cleanup_of,
    client,
    end_cleanup,
    executions,
    head,
    history,
    policies,
    reconciler,
    running,
    sent,
    start_execution,
    unchanged,
    waiting,
)


def cancel(core: Core) -> Job:
    """Cancel the job as the public API does."""
    job = client(core).cancel("job-1")
    if not job.status.is_terminal:
        reconciler(core).reconcile("job-1")
    return core.jobs.get("job-1")


def stopped(core: Core) -> list[str]:
    return [call["executionArn"] for call in core.calls_of("sfn.StopExecution")]


def run_stage(core: Core, function: Callable[[JobInput], StageOutcome]) -> dict[str, Any]:
    """Run INITIALIZING as a function does."""
    metrics.clear_metrics()
    job = core.jobs.get("job-1")
    runner = StageRunner(
        core.jobs, {job.job_type: {provision_project.INITIALIZING: function}}, definitions=JOB_TYPES
    )
    of_job = {"job_id": "job-1", "job_type": job.job_type, "payload": job.payload}
    return runner({"job": of_job, "stage": provision_project.INITIALIZING})


# --- What is cancelled at once --------------------------------------------------------------------


def test_a_queued_job_is_cancelled_at_once(core: Core) -> None:
    core.new_job()

    job = cancel(core)

    assert job.status is JobStatus.CANCELLED
    assert job.error is not None
    assert (job.error.type, job.error.message) == (ErrorType.JOB_CANCELLED, CANCELLED_MESSAGE)
    assert core.unfinished() == []


def test_a_job_that_waits_for_its_next_attempt_is_cancelled_at_once(core: Core) -> None:
    arn = executions(core).arn(waiting(core))

    job = cancel(core)

    assert job.status is JobStatus.CANCELLED
    assert job.error is not None
    assert job.error.type is ErrorType.JOB_CANCELLED
    assert job.other_errors == (NETWORK_ERROR,)
    assert (job.stages[0].status, job.stages[0].error) == (StageStatus.FAILED, NETWORK_ERROR)
    assert {record.status for record in job.stages[1:]} == {StageStatus.PENDING}
    assert stopped(core) == [arn]
    assert cleanup_of(core).status is JobStatus.QUEUED
    assert [message["job_id"] for message in sent(core)] == [job.cleanup_job_id]
    assert history(core, "REPAIRED") == []


def test_a_stage_that_died_without_a_word_is_waited_for_no_longer_than_it_can_run(
    core: Core,
) -> None:
    running(core)
    assert cancel(core).status is JobStatus.RUNNING
    core.clock.advance(provision_project.INITIALIZING.seconds - 2)
    with unchanged(core):
        reconciler(core).reconcile("job-1")
    core.clock.advance(1)

    reconciler(core).reconcile("job-1")

    job = core.jobs.get("job-1")
    assert job.status is JobStatus.CANCELLED
    (died,) = job.other_errors
    assert (died.type, died.stage, died.attempt) == (
        ErrorType.UNKNOWN_ERROR,
        provision_project.INITIALIZING,
        1,
    )


def test_a_stage_in_someone_s_process_is_bound_by_no_function_s_time_out(core: Core) -> None:
    core.new_project()
    core.new_job()
    core.jobs.start(head(core), provision_project.INITIALIZING, lease=PROCESS_LEASE)
    core.clock.advance(provision_project.INITIALIZING.seconds)

    assert cancel(core).status is JobStatus.RUNNING

    core.clock.advance(PROCESS_LEASE.total_seconds())
    assert cancel(core).status is JobStatus.CANCELLED


def test_a_stage_that_died_in_a_later_attempt_says_nothing_of_the_one_before(core: Core) -> None:
    waiting(core)
    core.jobs.start_stage(head(core), provision_project.INITIALIZING, 1)
    core.clock.advance(provision_project.INITIALIZING.seconds)

    (died,) = cancel(core).other_errors

    assert (died.type, died.attempt) == (ErrorType.UNKNOWN_ERROR, 2)


# --- What is asked to stop ------------------------------------------------------------------------


def test_a_stage_that_runs_may_finish_and_none_starts_after_it(core: Core) -> None:
    running(core)

    job = cancel(core)

    assert job.status is JobStatus.RUNNING
    assert job.cancel_requested_at == core.clock.at
    assert stopped(core) == []
    assert history(core, "CANCEL_REQUESTED") == [""]


def test_a_stage_that_runs_beside_one_that_waits_may_finish(core: Core) -> None:
    waiting(core)
    core.jobs.start_stage(head(core), provision_project.CREATING_DATABASE, 0)

    assert cancel(core).status is JobStatus.RUNNING
    assert stopped(core) == []

    core.jobs.end_stage(
        "job-1", provision_project.CREATING_DATABASE, StageStatus.SUCCEEDED, output={}, check="x"
    )
    reconciler(core).reconcile("job-1")
    assert head(core).status is JobStatus.CANCELLED


def test_between_two_stages_the_state_machine_comes_to_the_boundary_itself(core: Core) -> None:
    running(core)
    core.jobs.end_stage(
        "job-1", provision_project.INITIALIZING, StageStatus.SUCCEEDED, output={}, check="x"
    )

    assert cancel(core).status is JobStatus.RUNNING
    assert stopped(core) == []


def test_a_stage_without_an_attempt_left_is_the_state_machine_s_to_close(core: Core) -> None:
    running(core)
    for retry_count in (0, 1, 2):
        core.jobs.start_stage(head(core), provision_project.INITIALIZING, retry_count)
        core.clock.advance()
        error = replace(NETWORK_ERROR, attempt=retry_count + 1)
        core.jobs.stage_failed("job-1", error, retry_count=retry_count, retryable=True)

    assert cancel(core).status is JobStatus.RUNNING
    assert stopped(core) == []


def test_attempts_whose_answers_got_lost_leave_those_that_the_retry_table_gives(
    core: Core,
) -> None:
    running(core)
    start_execution(core)
    for retry_count in (1, 2):
        core.jobs.start_stage(head(core), provision_project.INITIALIZING, retry_count)
    core.jobs.stage_failed(
        "job-1", replace(NETWORK_ERROR, attempt=3), retry_count=2, retryable=True
    )

    record = core.jobs.get("job-1").stages[0]
    assert (record.attempt, record.max_attempts) == (3, 4)
    assert record.next_attempt_before == core.clock.at + timedelta(seconds=600)
    assert cancel(core).status is JobStatus.CANCELLED


# --- Twice, and too late --------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Core.new_job, waiting], ids=["queued", "waiting"])
def test_a_cancelled_job_is_returned_as_it_is(core: Core, make: Callable[[Core], Job]) -> None:
    make(core)
    first = cancel(core)
    core.clock.advance()

    with unchanged(core):
        assert cancel(core) == first


def test_a_cancel_that_was_asked_for_is_not_asked_for_again(core: Core) -> None:
    running(core)
    first = cancel(core)
    core.clock.advance()

    with unchanged(core):
        assert cancel(core) == first


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED])
def test_a_job_that_has_ended_is_not_cancelled(core: Core, status: JobStatus) -> None:
    running(core)
    if status is JobStatus.COMPLETED:
        core.jobs.complete("job-1", provision_project.INITIALIZING, output={}, check="x", result={})
    else:
        core.jobs.fail(core.jobs.get("job-1"), BadEnd([NETWORK_ERROR]))
    with unchanged(core), pytest.raises(JobStateError, match=f"job job-1: is {status};"):
        cancel(core)


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.FAILED])
def test_a_cleanup_is_not_cancelled(core: Core, status: JobStatus) -> None:
    waiting(core)
    cancel(core)
    cleanup = cleanup_of(core)
    if status is JobStatus.RUNNING:
        core.jobs.start_stage(cleanup, clean_up_project.INITIALIZING, 0)
    elif status is JobStatus.FAILED:
        end_cleanup(core, "a bucket")
    told = "is FAILED" if status is JobStatus.FAILED else "is a clean-up, which is not cancelled"
    with unchanged(core), pytest.raises(JobStateError, match=f"job {cleanup.job_id}: {told}"):
        client(core).cancel(cleanup.job_id)


def test_a_job_that_is_not_there_is_not_cancelled(core: Core) -> None:
    with pytest.raises(JobNotFoundError, match="job-1"):
        cancel(core)


# --- Races ----------------------------------------------------------------------------------------


def test_a_job_that_begins_while_it_is_cancelled_is_asked_to_stop(core: Core) -> None:
    core.new_job()

    def begins(_call: Any) -> None:
        core.answers.clear()
        core.jobs.start_stage(head(core), provision_project.INITIALIZING, 0)

    core.answers["dynamodb.TransactWriteItems"] = begins

    job = client(core).cancel("job-1")

    assert job.status is JobStatus.RUNNING
    assert job.cancel_requested_at is not None


def test_a_job_that_completes_while_it_is_cancelled_is_completed(core: Core) -> None:
    running(core)

    def completes(_call: Any) -> None:
        core.answers.clear()
        core.jobs.complete("job-1", provision_project.INITIALIZING, output={}, check="x", result={})

    core.answers["dynamodb.TransactWriteItems"] = completes

    with pytest.raises(JobStateError, match="is COMPLETED"):
        client(core).cancel("job-1")


def test_a_job_whose_cancel_is_stored_never_completes(core: Core) -> None:
    core.new_job()

    def cancelled_meanwhile(_job: JobInput) -> StageOutcome:
        client(core).cancel("job-1")
        return StageOutcome(completion=Completion(result=provisioned_result()))

    with pytest.raises(ProvisioningError) as raised:
        run_stage(core, cancelled_meanwhile)

    assert raised.value.type is ErrorType.JOB_CANCELLED
    assert (head(core).status, head(core).result) == (JobStatus.RUNNING, None)


def test_a_cancel_that_crosses_the_record_of_a_failure_goes_before_it(core: Core) -> None:
    running(core)

    def cancelled_meanwhile(_call: Any) -> None:
        core.answers.clear()
        core.jobs.request_cancel(head(core))

    core.answers["dynamodb.TransactWriteItems"] = cancelled_meanwhile
    failures = FailureRecorder(core.jobs, policies(core))
    branch = {"ok": False, "stage": provision_project.INITIALIZING, "error": {"Error": "CONFLICT"}}
    job = head(core)

    failures(
        {
            "job": {"job_id": "job-1", "job_type": job.job_type, "payload": job.payload},
            "stage": "RECORD_FAILURE",
            "branches": [branch],
        }
    )

    job = core.jobs.get("job-1")
    assert job.status is JobStatus.CANCELLED
    assert [error.type for error in job.other_errors] == [ErrorType.CONFLICT]


@pytest.mark.parametrize(
    ("stage", "retry_count"),
    [(provision_project.INITIALIZING, 1), (provision_project.CREATING_DATABASE, 0)],
)
def test_no_stage_starts_under_the_end_of_a_job_that_is_cancelled(
    core: Core, stage: str, retry_count: int
) -> None:
    waiting(core)
    client(core).cancel("job-1")

    def starts() -> None:
        with pytest.raises(ProvisioningError, match="The job was cancelled"):
            core.jobs.start(head(core), stage, retry_count)

    core.answers["dynamodb.TransactWriteItems"] = meanwhile(starts)

    reconciler(core).reconcile("job-1")

    assert head(core).status is JobStatus.CANCELLED


@pytest.mark.parametrize("code", ["ValidationException", "ExecutionDoesNotExist"])
def test_an_execution_that_has_just_ended_is_not_stopped_and_that_is_well(
    core: Core, code: str
) -> None:
    waiting(core)
    core.answers["sfn.StopExecution"] = aws_error(code)

    assert cancel(core).status is JobStatus.CANCELLED
    assert len(sent(core)) == 1


def test_an_execution_that_could_not_be_stopped_finds_its_job_ended(core: Core) -> None:
    waiting(core)
    core.answers["sfn.StopExecution"] = aws_error("ThrottlingException")

    with pytest.raises(ClientError):
        cancel(core)

    before = core.jobs.get("job-1")
    assert before.status is JobStatus.CANCELLED
    with pytest.raises(ProvisioningError):
        run_stage(core, lambda _job: pytest.fail("the stage must not run"))
    assert core.jobs.get("job-1") == before


# --- Retrying what was cancelled ------------------------------------------------------------------


def test_a_cancelled_job_is_retried_once_its_cleanup_has_ended(core: Core) -> None:
    waiting(core)
    cancel(core)
    with unchanged(core), pytest.raises(JobStateError, match="clean-up is under way"):
        client(core).retry("job-1")
    end_cleanup(core)

    job = client(core).retry("job-1")

    assert (job.status, job.attempt, job.cancel_requested_at) == (JobStatus.QUEUED, 2, None)
    assert core.unfinished() == ["job-1"]
    arn = start_execution(core)
    assert arn.endswith(":job-1-attempt-2")
    core.jobs.start_stage(head(core), provision_project.INITIALIZING, 0)
    assert cancel(core).cancel_requested_at is not None


# --- The public API -------------------------------------------------------------------------------


def test_the_public_api_cancels_and_retries(core: Core, connected: PlatformSettings) -> None:
    assert connected.queue_url == core.queue_url
    core.clock.at = utc_now()
    waiting(core)

    job = api.cancel_job("job-1")

    assert job.status is JobStatus.CANCELLED
    assert [message["job_id"] for message in sent(core)] == [job.cleanup_job_id]
    with pytest.raises(api.JobStateError, match="clean-up is under way"):
        api.retry_job("job-1")
    end_cleanup(core)
    assert api.retry_job("job-1").attempt == 2
    assert api.cancel_job("job-1").status is JobStatus.CANCELLED


@pytest.mark.usefixtures("connected")
def test_a_cancel_that_is_stored_is_answered_though_the_job_keeps_changing(core: Core) -> None:
    core.clock.at = utc_now()  # the public API's own
    waiting(core)
    refused = [1, 1, 1]
    reasons = ("ConditionalCheckFailed",)
    _, body = aws_error("TransactionCanceledException", reasons=reasons)({}) or (0, {})

    def change_under_it(model: object, params: dict[str, Any], **_details: object) -> Any:
        del model
        if b'"CANCELLED"' not in params["body"] or not refused:
            return None
        refused.pop()
        response = type("Response", (), {"status_code": 400, "headers": {}, "content": b""})()
        return response, body | {"ResponseMetadata": {"HTTPStatusCode": 400}}

    events = aws.client("dynamodb").meta.events
    events.register("before-call.dynamodb.TransactWriteItems", change_under_it)

    job = api.cancel_job("job-1")

    assert job.status is JobStatus.RUNNING
    assert job.cancel_requested_at is not None
    assert refused == []
    reconciler(core).reconcile("job-1")
    assert core.jobs.get("job-1").status is JobStatus.CANCELLED


@pytest.mark.usefixtures("connected")
def test_the_public_api_leaves_no_metrics_and_logs_nothing(
    core: Core, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting(core)
    metrics.clear_metrics()

    api.cancel_job("job-1")

    assert capsys.readouterr().out == ""
    assert metrics.provider.metric_set == {}


def test_the_store_refuses_to_complete_what_is_cancelled(core: Core) -> None:
    running(core)
    core.jobs.request_cancel(head(core))
    with pytest.raises(ProvisioningError, match="The job was cancelled"):
        core.jobs.complete("job-1", provision_project.INITIALIZING, output={}, check="x", result={})
