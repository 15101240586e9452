"""A job's attempts: what cancels one, what begins the next, what a late word of one is worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from provisioner.drivers import dynamodb
from provisioner.drivers.dynamodb import ConditionFailedError
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.client import JobStateError
from provisioner.jobs.failure import cleanup_job_id
from provisioner.jobs.messages import JobId
from provisioner.jobs.models import CANCELLED_ERROR, Job, JobStatus, StageStatus, StoredError
from provisioner.jobs.records import NewJob
from provisioner.jobs.registry import UnknownJobTypeError
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.jobs.stage_run import StageRunner
from provisioner.jobs.stage_store import StageStore
from provisioner.jobs.store import BadEnd, JobNotFoundError
from provisioner.provisioning.job_types import JOB_TYPES
from provisioner.runtime.observability import metrics
from pydantic import TypeAdapter
from support.core import Core, meanwhile, new_cleanup
from support.reconciler import cleanup_of, client, end_cleanup, head, sent

ERROR = StoredError(ErrorType.CONFLICT, "INITIALIZING", 1, "It is not ours.", "tags")


def begun(core: Core) -> Job:
    """Return a job of which one stage runs."""
    core.new_job()
    core.jobs.start_stage(head(core), "INITIALIZING", 0)
    return core.jobs.get("job-1")


def failed(core: Core) -> Job:
    """Return a job that has failed, and that nothing is to be removed of."""
    begun(core)
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([ERROR]))
    return core.jobs.get("job-1")


def cleaning(core: Core) -> Job:
    """Return a job that has failed, and whose clean-up is QUEUED."""
    job = begun(core)
    end = BadEnd([ERROR], cleanup=new_cleanup(job))
    core.jobs.fail(job, end)
    return core.jobs.get("job-1")


def run_stage(
    core: Core, function: Callable[[JobInput], StageOutcome], *, attempt: int = 1
) -> dict[str, Any]:
    """Run INITIALIZING as a function does."""
    metrics.clear_metrics()
    job = core.jobs.get("job-1")
    runner = StageRunner(
        core.jobs, {job.job_type: {"INITIALIZING": function}}, definitions=JOB_TYPES
    )
    return runner(
        {
            "job": {
                "job_id": "job-1",
                "job_type": job.job_type,
                "payload": job.payload,
                "attempt": attempt,
            },
            "stage": "INITIALIZING",
        }
    )


def error_type(core: Core, function: Callable[[JobInput], StageOutcome], **of: Any) -> ErrorType:
    with pytest.raises(ProvisioningError) as raised:
        run_stage(core, function, **of)
    return raised.value.type


def ends_well(_job: JobInput) -> StageOutcome:
    return StageOutcome(output={"made": 1}, check="it answers")


def must_not_run(_job: JobInput) -> StageOutcome:
    raise AssertionError("the stage must not run")


# --- Cancelling -----------------------------------------------------------------------------------


def test_a_queued_job_is_cancelled_at_once_and_none_of_its_stages_starts(core: Core) -> None:
    core.new_job()
    core.jobs.cancel_queued(head(core))
    assert (head(core).status, head(core).error) == (JobStatus.CANCELLED, CANCELLED_ERROR)
    assert error_type(core, must_not_run) is ErrorType.INVALID_PAYLOAD
    assert head(core).status is JobStatus.CANCELLED


def test_a_job_that_has_begun_is_not_cancelled_as_if_it_had_not(core: Core) -> None:
    begun(core)
    with pytest.raises(ConditionFailedError):
        core.jobs.cancel_queued(head(core))


def test_no_stage_starts_once_a_cancel_is_stored(core: Core) -> None:
    core.new_job()
    core.jobs.start_stage(head(core), "CREATING_DATABASE", 0)
    core.jobs.request_cancel(head(core))
    assert error_type(core, must_not_run) is ErrorType.JOB_CANCELLED
    record = core.jobs.held("job-1", "INITIALIZING")
    assert (record.status, record.attempt) == (StageStatus.PENDING, 0)


def test_a_stage_whose_start_crosses_a_cancel_does_not_run(core: Core) -> None:
    core.new_job()
    core.jobs.start_stage(head(core), "CREATING_DATABASE", 0)
    core.answers["dynamodb.TransactWriteItems"] = meanwhile(
        lambda: core.jobs.request_cancel(head(core))
    )
    assert error_type(core, must_not_run) is ErrorType.JOB_CANCELLED
    record = core.jobs.held("job-1", "INITIALIZING")
    assert (record.status, record.attempt) == (StageStatus.PENDING, 0)


def test_a_stage_that_runs_may_finish_after_a_cancel(core: Core) -> None:
    core.new_job()

    def cancelled_meanwhile(job: JobInput) -> StageOutcome:
        core.jobs.request_cancel(head(core))
        return ends_well(job)

    assert run_stage(core, cancelled_meanwhile)["status"] == StageStatus.SUCCEEDED


def test_an_error_that_would_be_waited_out_ends_a_cancelled_job(core: Core) -> None:
    core.new_job()

    def cancelled_meanwhile(_job: JobInput) -> StageOutcome:
        core.jobs.request_cancel(head(core))
        raise TimeoutError

    assert error_type(core, cancelled_meanwhile) is ErrorType.JOB_CANCELLED
    record = core.jobs.get("job-1").stage("INITIALIZING")
    assert record is not None
    assert record.status is StageStatus.FAILED
    assert record.error is not None
    assert "UNKNOWN_ERROR" in record.error.cause


def test_a_cancel_is_asked_for_once(core: Core) -> None:
    asked = head_after_cancel(core)
    with pytest.raises(ConditionFailedError):
        core.jobs.request_cancel(head(core))
    assert head(core) == asked


def head_after_cancel(core: Core) -> Job:
    begun(core)
    core.jobs.request_cancel(head(core))
    return head(core)


# --- Retrying -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_retry_begins_the_next_attempt_and_keeps_the_history(
    core: Core, status: JobStatus
) -> None:
    begun(core)
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([ERROR], status=status))
    before = core.jobs.get("job-1")
    core.clock.advance()
    job = client(core).retry("job-1")
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 2)
    assert (job.error, job.finished_at, job.started_at) == (None, None, None)
    assert {record.status for record in job.stages} == {StageStatus.PENDING}
    assert job.history[: len(before.history)] == before.history
    assert (job.history[-1].status, job.history[-1].attempt) == (JobStatus.QUEUED, 2)
    (item,) = [item for item in core.scan("JobsTable") if item["record"] == "JOB"]
    assert "expires_at" not in item
    (message,) = core.messages(core.queue_url)
    assert '"attempt":2' in message["Body"]


def test_a_retry_may_be_asked_for_twice(core: Core) -> None:
    failed(core)
    client(core).retry("job-1")
    assert client(core).retry("job-1").attempt == 2
    assert len(core.messages(core.queue_url)) == 2


def test_a_second_retry_finds_the_attempt_under_way_and_changes_nothing(core: Core) -> None:
    failed(core)
    core.clock.advance()
    core.jobs.start_stage(client(core).retry("job-1"), "INITIALIZING", 0)
    before = core.jobs.get("job-1")
    assert before.status is JobStatus.RUNNING

    assert client(core).retry("job-1") == before

    assert core.jobs.get("job-1") == before
    assert len(core.messages(core.queue_url)) == 1


@pytest.mark.parametrize(
    ("job_type", "payload", "error"),
    [
        ("provision_project", {"project_id": "shop"}, ProvisioningError),
        ("send_mail", {}, UnknownJobTypeError),
    ],
)
def test_a_job_that_could_not_be_sent_any_more_is_not_changed_by_a_retry(
    core: Core, job_type: str, payload: dict[str, Any], error: type[Exception]
) -> None:
    core.jobs.create(NewJob("job-1", job_type, payload, ("INITIALIZING",)))
    core.jobs.fail_queued("job-1", ERROR)
    before = core.jobs.get("job-1")

    with pytest.raises(error, match=r"region: Field required|no handler"):
        client(core).retry("job-1")

    assert core.jobs.get("job-1") == before
    assert core.messages(core.queue_url) == []


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.COMPLETED])
def test_only_a_failed_or_cancelled_job_is_retried(core: Core, status: JobStatus) -> None:
    core.new_job()
    if status is not JobStatus.QUEUED:
        core.jobs.start_stage(head(core), "INITIALIZING", 0)
    if status is JobStatus.COMPLETED:
        core.jobs.complete("job-1", "INITIALIZING", output={}, check="x", result={})
    with pytest.raises(JobStateError, match=f"job job-1: is {status}"):
        client(core).retry("job-1")
    assert core.messages(core.queue_url) == []


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING])
def test_a_job_is_not_retried_while_its_cleanup_is_under_way(core: Core, status: JobStatus) -> None:
    job = cleaning(core)
    if status is JobStatus.RUNNING:
        core.jobs.start_stage(cleanup_of(core), "INITIALIZING", 0)
    with pytest.raises(JobStateError, match="clean-up is under way"):
        client(core).retry("job-1")
    assert core.jobs.get("job-1") == job
    assert core.messages(core.queue_url) == []
    end_cleanup(core)
    assert client(core).retry("job-1").attempt == 2


def test_a_job_is_retried_whose_cleanup_is_stored_no_more(core: Core) -> None:
    job = cleaning(core)
    for item in core.scan("JobsTable"):
        if item["job_id"] == job.cleanup_job_id:
            key = dynamodb.to_item({name: item[name] for name in ("job_id", "record")})
            core.client("dynamodb").delete_item(TableName="JobsTable", Key=key)
    core.clock.advance()

    assert client(core).retry("job-1").attempt == 2


def retried_with_something_left(core: Core) -> Job:
    """Return a job at its second attempt, whose first has left a bucket."""
    cleaning(core)
    end_cleanup(core, "bucket")
    core.clock.advance()
    return client(core).retry("job-1")


def test_what_was_left_stays_named_where_the_next_attempt_never_begins(core: Core) -> None:
    retried_with_something_left(core)
    core.clock.advance()

    cancelled = client(core).cancel("job-1")

    assert cancelled.status is JobStatus.CANCELLED
    cleanup = cleanup_of(core)
    assert (cleanup.parent_id, cleanup.remaining) == ("job-1", ("bucket",))
    core.clock.advance()
    again = client(core).retry_cleanup("job-1")
    assert (again.job_id, again.status, again.attempt) == (cleanup.job_id, JobStatus.QUEUED, 2)
    assert again.remaining == ()


def test_the_clean_up_of_the_next_attempt_takes_the_place_of_the_last(core: Core) -> None:
    job = retried_with_something_left(core)
    first = cleanup_of(core)
    core.jobs.start_stage(job, "INITIALIZING", 0)
    core.clock.advance()
    job = core.jobs.get("job-1")
    core.jobs.fail(job, BadEnd([ERROR], cleanup=new_cleanup(job)))

    cleanup = cleanup_of(core)

    assert cleanup.job_id != first.job_id
    assert (cleanup.status, cleanup.attempt, cleanup.remaining) == (JobStatus.QUEUED, 1, ())
    assert core.jobs.get(first.job_id) == first


def test_a_job_that_completes_after_all_has_left_nothing(core: Core) -> None:
    job = retried_with_something_left(core)
    core.jobs.start_stage(job, "INITIALIZING", 0)
    core.jobs.complete("job-1", "INITIALIZING", attempt=2, output={}, check="x", result={})
    completed = head(core)
    assert (completed.status, completed.cleanup_job_id) == (JobStatus.COMPLETED, "")
    with pytest.raises(JobStateError, match="is COMPLETED and has no clean-up"):
        client(core).retry_cleanup("job-1")


def test_a_job_that_was_refused_as_it_came_is_not_retried(core: Core) -> None:
    core.jobs.create_failed(NewJob("refused", "provision_project", {}, ()), ERROR)
    with pytest.raises(JobStateError, match="was refused"):
        client(core).retry("refused")


def test_the_next_attempt_runs_its_stages_anew(core: Core) -> None:
    begun(core)
    run_stage(core, ends_well)
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([ERROR]))
    core.clock.advance()
    client(core).retry("job-1")
    ran = run_stage(core, lambda _job: StageOutcome(output={"made": 2}, check="yes"), attempt=2)
    assert ran["output"] == {"made": 2}
    record = core.jobs.get("job-1").stages[0]
    assert (record.job_attempt, record.attempt, record.output) == (2, 1, {"made": 2})


def test_a_late_word_of_an_attempt_changes_nothing_in_the_next(core: Core) -> None:
    begun(core)
    held = core.jobs.held("job-1", "INITIALIZING")
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([ERROR]))
    core.clock.advance()
    client(core).retry("job-1")
    core.jobs.start_stage(head(core), "INITIALIZING", 0)
    before = core.jobs.get("job-1")
    of_the_first = replace(before, attempt=1)
    progress = StageStore(core.jobs)
    assert error_type(core, must_not_run, attempt=1) is ErrorType.INVALID_PAYLOAD
    with pytest.raises(ProvisioningError, match="this job has ended"):
        core.jobs.start(of_the_first, "INITIALIZING", 1)
    for said in (
        progress.end("job-1", held, StageOutcome(check="late")),
        progress.fail("job-1", held, ERROR, retryable=False),
        progress.complete(
            "job-1", held, StageOutcome(check="late"), [held.stage], asks_leases=True
        ),
    ):
        assert not said.is_written
        assert said.record == before.stages[0]
    for cleanup in (None, new_cleanup(of_the_first)):
        with pytest.raises(ConditionFailedError):
            core.jobs.fail(of_the_first, BadEnd([ERROR], cleanup=cleanup))
    assert core.jobs.get("job-1") == before
    assert core.unfinished() == ["job-1"]


# --- The clean-up ---------------------------------------------------------------------------------


def test_the_cleanup_of_an_attempt_has_one_id_however_often_that_fails(core: Core) -> None:
    job = begun(core)
    ids = [cleanup_job_id(job.job_id, attempt) for attempt in (1, 1, 2)]
    assert ids[0] == ids[1] != ids[2]
    assert cleanup_job_id("job-2", 1) != ids[0]
    # A message may name it: a person runs it again by its own id.
    assert TypeAdapter(JobId).validate_python(ids[0]) == ids[0]


@pytest.mark.parametrize("by_its_own_id", [False, True])
def test_a_cleanup_that_failed_is_retried(core: Core, *, by_its_own_id: bool) -> None:
    parent = cleaning(core)
    end_cleanup(core, "bucket nm-shop")
    core.clock.advance(86_400)
    job_id = parent.cleanup_job_id if by_its_own_id else "job-1"

    again = client(core).retry_cleanup(job_id)

    assert (again.job_id, again.status, again.attempt) == (
        parent.cleanup_job_id,
        JobStatus.QUEUED,
        2,
    )
    assert (again.remaining, again.error) == ((), None)
    assert {record.status for record in again.stages} == {StageStatus.PENDING}
    assert sent(core) == [
        {
            "job_id": again.job_id,
            "job_type": "clean_up_project",
            "payload": again.payload,
            "attempt": 2,
        }
    ]
    assert core.jobs.get("job-1") == parent
    # It acquires the project again, so that it must not expire under way.
    assert not [
        item
        for item in core.scan("JobsTable")
        if (item["job_id"], item["record"]) == (again.job_id, "JOB") and "expires_at" in item
    ]
    with pytest.raises(ConditionFailedError):
        core.jobs.fail(replace(again, attempt=1), BadEnd([ERROR]))


def test_a_cleanup_is_retried_twice_as_well_as_once(core: Core) -> None:
    cleaning(core)
    end_cleanup(core, "bucket")
    core.clock.advance()
    queued = client(core).retry_cleanup("job-1")

    assert client(core).retry_cleanup("job-1") == queued
    core.jobs.start_stage(queued, "INITIALIZING", 0)
    core.messages(core.queue_url)
    begun_again = client(core).retry_cleanup("job-1")

    assert (begun_again.status, begun_again.attempt) == (JobStatus.RUNNING, 2)
    assert len(sent(core)) == 0


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING])
def test_a_cleanup_that_is_under_way_is_left_alone_by_a_retry(
    core: Core, status: JobStatus
) -> None:
    cleaning(core)
    if status is JobStatus.RUNNING:
        core.jobs.start_stage(cleanup_of(core), "INITIALIZING", 0)
    before = cleanup_of(core)

    assert client(core).retry_cleanup("job-1") == before

    assert cleanup_of(core) == before
    assert sent(core) == []


def test_a_cleanup_that_has_left_nothing_is_not_retried(core: Core) -> None:
    parent = cleaning(core)
    end_cleanup(core)
    before = cleanup_of(core)
    for job_id in ("job-1", parent.cleanup_job_id):
        with pytest.raises(JobStateError, match=f"job {job_id}: its clean-up has left nothing"):
            client(core).retry_cleanup(job_id)
    assert cleanup_of(core) == before


def test_a_job_without_a_cleanup_has_none_to_retry(core: Core) -> None:
    failed(core)
    with pytest.raises(JobStateError, match="job job-1: is FAILED and has no clean-up"):
        client(core).retry_cleanup("job-1")
    with pytest.raises(JobNotFoundError):
        client(core).retry_cleanup("job-2")
