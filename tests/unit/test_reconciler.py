"""The reconciler: what it ends, sends again, cleans up or gives back, and what it leaves alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from boto3.dynamodb.conditions import Attr
from botocore.exceptions import ClientError
from provisioner.composition.in_process import SNAPSHOT_SECONDS
from provisioner.drivers import dynamodb
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.execution import (
    Execution,
    ExecutionStatus,
    execution_name,
    job_id_of_execution,
    job_input,
)
from provisioner.jobs.failure import FailureRecorder
from provisioner.jobs.models import Job, JobStatus, StageStatus, StoredError
from provisioner.jobs.records import NewJob
from provisioner.jobs.slots import SLOTS
from provisioner.jobs.store import BadEnd
from provisioner.provisioning.job_types import clean_up_project, provision_project
from provisioner.provisioning.projects import ProjectStatus
from provisioner.runtime.observability import metrics
from support.core import (
    STATE_MACHINE_ARN_PREFIX,
    Core,
    LogLines,
    aws_error,
    new_job,
    times,
)
from support.core import meanwhile as at_call
from support.project import longest_run
from support.reconciler import (
    NETWORK_ERROR,
    QUEUED_LIMIT,
    cleanup_of,
    client,
    end_cleanup,
    ended,
    executions,
    head,
    history,
    policies,
    reconciler,
    running,
    sent,
    start_execution,
    sweep,
    unchanged,
    waiting,
)

CONFLICT = StoredError(
    ErrorType.CONFLICT, provision_project.INITIALIZING, 1, "It is not ours.", "tags"
)
LIMIT_SECONDS = QUEUED_LIMIT.total_seconds()


@pytest.fixture(autouse=True)
def _prepared(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    core.make_state_machine("clean_up_project")
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "ProjectProvisioner")
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "project-provisioner")


def reconcile(core: Core, told: Execution | None = None) -> Job:
    reconciler(core).reconcile("job-1", told)
    return core.jobs.get("job-1")


def record_failure(core: Core) -> dict[str, Any]:
    """Run the state machine's own step, which says that INITIALIZING met a CONFLICT."""
    metrics.clear_metrics()
    job = head(core)
    of_job = {"job_id": "job-1", "job_type": job.job_type, "payload": job.payload}
    branch = {"ok": False, "stage": provision_project.INITIALIZING, "error": {"Error": "CONFLICT"}}
    failures = FailureRecorder(core.jobs, policies(core))
    return failures({"job": of_job, "stage": "RECORD_FAILURE", "branches": [branch]})


def meanwhile(core: Core, happen: Callable[[], object]) -> None:
    """Let something happen right before the next write."""

    def first(_parameters: Mapping[str, Any]) -> None:
        core.answers.clear()
        happen()

    core.answers["dynamodb.TransactWriteItems"] = first


def set_project(core: Core, **values: str) -> None:
    """Write attributes of the project."""
    is_there = Attr("project_id").exists()
    update = dynamodb.build_update("ProjectsTable", {"project_id": "shop"}, values, is_there)
    dynamodb.transact(core.client("dynamodb"), [update])


def expire(core: Core) -> None:
    """Delete all that is stored of the job, as DynamoDB does some day."""
    for item in core.scan("JobsTable"):
        if item["job_id"] == "job-1":
            key = dynamodb.to_item({name: item[name] for name in ("job_id", "record")})
            core.client("dynamodb").delete_item(TableName="JobsTable", Key=key)


def error_of(job: Job) -> StoredError:
    assert job.error is not None
    return job.error


# --- An execution that ended without telling ------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error_type", "message"),
    [
        (
            ExecutionStatus.TIMED_OUT,
            ErrorType.TIMEOUT,
            "The job did not end in the time that it had.",
        ),
        (
            ExecutionStatus.ABORTED,
            ErrorType.UNKNOWN_ERROR,
            "The job was stopped by hand before it had ended.",
        ),
        (ExecutionStatus.FAILED, ErrorType.UNKNOWN_ERROR, "The job ended without saying why."),
        (ExecutionStatus.SUCCEEDED, ErrorType.UNKNOWN_ERROR, "The job ended without a result."),
    ],
)
def test_a_job_whose_execution_ended_without_telling_ends_with_the_reason(
    core: Core, status: ExecutionStatus, error_type: ErrorType, message: str
) -> None:
    waiting(core)

    job = reconcile(core, ended(core, status, "States.Runtime", "No such path."))

    assert job.status is JobStatus.FAILED
    cause = f"{status}: States.Runtime: No such path."
    assert job.error == StoredError(error_type, "", 0, message, cause)
    assert job.other_errors == (NETWORK_ERROR,)
    assert (job.stages[0].status, job.stages[0].error) == (StageStatus.FAILED, NETWORK_ERROR)
    cleanup = cleanup_of(core)
    assert (cleanup.status, cleanup.parent_id) == (JobStatus.QUEUED, "job-1")
    assert cleanup.payload["job_id"] == "job-1"
    # Nobody else starts it.
    assert sent(core) == [job_input(cleanup, attempt=1)]
    assert core.projects.lock_holders() == [cleanup.job_id]
    (repair,) = history(core, "REPAIRED")
    assert repair == f"Nobody had told of its end: its execution was {status}."


def test_what_step_functions_says_counts_where_no_event_told(core: Core) -> None:
    waiting(core)
    core.client("stepfunctions").stop_execution(executionArn=executions(core).arn(head(core)))

    assert error_of(reconcile(core)).message == "The job was stopped by hand before it had ended."


def test_the_stage_that_failed_is_the_reason_where_its_record_was_lost(core: Core) -> None:
    waiting(core)
    core.jobs.start_stage(head(core), provision_project.CREATING_DATABASE, 0)
    failed = StoredError(
        ErrorType.CONFLICT, provision_project.CREATING_DATABASE, 1, "Not ours.", "tags"
    )
    core.jobs.stage_failed("job-1", failed, retry_count=0, retryable=False)

    job = reconcile(core, ended(core, ExecutionStatus.FAILED, "UNKNOWN_ERROR"))

    assert job.error == failed
    assert job.other_errors == (NETWORK_ERROR,)


def test_a_stage_that_failed_is_not_the_reason_of_another_end(core: Core) -> None:
    waiting(core)
    core.jobs.start_stage(head(core), provision_project.CREATING_DATABASE, 0)
    failed = StoredError(
        ErrorType.CONFLICT, provision_project.CREATING_DATABASE, 1, "Not ours.", "tags"
    )
    core.jobs.stage_failed("job-1", failed, retry_count=0, retryable=False)

    job = reconcile(core, ended(core, ExecutionStatus.TIMED_OUT))

    assert error_of(job).type is ErrorType.TIMEOUT
    assert job.other_errors == (failed, NETWORK_ERROR)


def test_a_stage_that_only_waits_is_not_the_reason_of_a_failure(core: Core) -> None:
    waiting(core)

    job = reconcile(core, ended(core, ExecutionStatus.FAILED, "States.DataLimitExceeded"))

    assert "States.DataLimitExceeded" in error_of(job).cause
    assert job.other_errors == (NETWORK_ERROR,)


def test_a_cause_leaves_out_what_the_execution_did_not_say(core: Core) -> None:
    waiting(core)

    assert error_of(reconcile(core, ended(core, ExecutionStatus.ABORTED))).cause == "ABORTED"


def test_a_long_cause_is_cut(core: Core) -> None:
    waiting(core)

    job = reconcile(core, ended(core, ExecutionStatus.FAILED, cause="x" * 32_000))

    assert len(error_of(job).cause) == 1000


def test_a_job_is_not_ended_while_a_stage_may_run(core: Core) -> None:
    running(core)
    core.clock.advance(provision_project.INITIALIZING.seconds - 2)
    told = ended(core)
    with unchanged(core):
        reconcile(core, told)
    core.clock.advance(1)

    job = reconcile(core, told)

    assert job.status is JobStatus.FAILED
    (silent,) = job.other_errors
    assert (silent.type, silent.stage) == (ErrorType.UNKNOWN_ERROR, provision_project.INITIALIZING)


def superseded(core: Core, stage: str, job_id: str = "job-1") -> int:
    """Let a stage fail for good in its second attempt; return until when the first may be at work.

    The first never said how it ended.
    """
    job = core.jobs.get(job_id)
    core.jobs.start_stage(job, stage, 0)
    core.clock.advance(2)
    core.jobs.start_stage(core.jobs.get(job_id), stage, 1)
    error = StoredError(ErrorType.CONFLICT, stage, 2, "It is not ours.", "")
    core.jobs.stage_failed(job_id, error, retry_count=1, retryable=False)
    return longest_run(job.job_type, stage) - 2


def begun(core: Core, on_failure: str) -> None:
    """Let a job begin that holds its project."""
    project = core.new_project()
    core.new_job(on_failure=on_failure)
    core.projects.lock(project, "job-1", quota="owner#ada", default_limit=5)


def test_a_job_is_not_ended_while_an_attempt_may_run_that_was_superseded(core: Core) -> None:
    begun(core, "keep")
    core.clock.advance(superseded(core, provision_project.INITIALIZING) - 1)
    with unchanged(core):
        reconcile(core, ended(core))
    core.clock.advance(1)

    job = reconcile(core, ended(core))

    assert job.status is JobStatus.FAILED
    assert core.projects.lock_holders() == []


def test_a_job_is_ended_beside_such_an_attempt_where_its_cleanup_waits_for_it(core: Core) -> None:
    begun(core, "rollback")
    superseded(core, provision_project.INITIALIZING)

    job = reconcile(core, ended(core))

    assert job.status is JobStatus.FAILED
    assert core.projects.lock_holders() == [job.cleanup_job_id]


def test_a_job_that_never_began_ends_with_its_execution(core: Core) -> None:
    core.new_project()
    core.new_job()
    start_execution(core)

    job = reconcile(core, ended(core))

    assert job.status is JobStatus.FAILED
    assert job.cleanup_job_id == ""
    assert sent(core) == []


def test_a_job_whose_execution_runs_is_left_alone(core: Core) -> None:
    waiting(core)
    with unchanged(core):
        reconcile(core)


def test_a_job_that_was_being_cancelled_ends_cancelled_and_that_is_no_repair(core: Core) -> None:
    waiting(core)
    core.jobs.request_cancel(head(core))

    job = reconcile(core, ended(core))

    assert job.status is JobStatus.CANCELLED
    assert error_of(job).type is ErrorType.JOB_CANCELLED
    assert job.other_errors == (NETWORK_ERROR,)
    assert history(core, "REPAIRED") == []
    assert [message["job_id"] for message in sent(core)] == [job.cleanup_job_id]


def test_a_job_that_keeps_what_it_made_gives_back_what_it_held(core: Core) -> None:
    project = core.new_project()
    core.new_job(on_failure="keep")
    core.projects.lock(project, "job-1", quota="owner#ada", default_limit=5)
    core.jobs.start_stage(head(core), provision_project.INITIALIZING, 0)
    core.jobs.stage_failed("job-1", NETWORK_ERROR, retry_count=0, retryable=True)

    job = reconcile(core, ended(core))

    assert (job.status, job.cleanup_job_id) == (JobStatus.FAILED, "")
    assert core.projects.lock_holders() == []
    assert core.projects.quotas.used("owner#ada") == 0


def test_a_job_that_runs_in_someone_s_process_is_left_alone_until_that_is_gone(core: Core) -> None:
    project = core.new_project()
    core.new_job()
    core.projects.lock(project, "job-1", quota=None, default_limit=5)
    core.jobs.start_stage(head(core), provision_project.INITIALIZING, 0)
    core.clock.advance(3600)
    with unchanged(core):
        reconcile(core)
    core.clock.advance(1)

    job = reconcile(core)

    assert (
        error_of(job).message
        == "The job has no execution any more, and no process says that it runs it."
    )
    assert history(core, "REPAIRED") == ["Nobody had told of its end: its execution was gone."]
    assert [message["job_id"] for message in sent(core)] == [job.cleanup_job_id]


def test_a_dump_in_someone_s_process_ends_before_that_is_taken_for_gone(core: Core) -> None:
    core.new_project()
    core.new_job()
    core.jobs.start_stage(head(core), provision_project.INITIALIZING, 0)
    # And has time to say so.
    core.clock.advance(SNAPSHOT_SECONDS + 300)
    with unchanged(core):
        reconcile(core)


# --- Races with the state machine and with itself -------------------------------------------------


def test_a_failure_that_was_recorded_is_left_alone(core: Core) -> None:
    waiting(core)
    record_failure(core)
    with unchanged(core):
        reconcile(core, ended(core, ExecutionStatus.FAILED))


def test_a_failure_that_is_recorded_meanwhile_is_left_alone(core: Core) -> None:
    waiting(core)
    meanwhile(core, lambda: record_failure(core))

    job = reconcile(core, ended(core))

    assert error_of(job).type is ErrorType.CONFLICT
    assert history(core, "REPAIRED") == []


def test_a_failure_that_is_recorded_after_the_reconciler_changes_nothing(core: Core) -> None:
    waiting(core)
    before = reconcile(core, ended(core))

    answer = record_failure(core)

    cleanup = cleanup_of(core)
    of_cleanup = {
        "job_id": cleanup.job_id,
        "job_type": "clean_up_project",
        "payload": cleanup.payload,
        "attempt": 1,
    }
    assert answer == {
        "error_type": "UNKNOWN_ERROR",
        "message": "The job was stopped by hand before it had ended.",
        "has_cleanup": True,
        "cleanup": {"name": cleanup.job_id, "input": {"job": of_cleanup}},
    }
    assert core.jobs.get("job-1") == before


def test_a_job_that_completes_meanwhile_is_completed(core: Core) -> None:
    waiting(core)
    core.jobs.start_stage(head(core), provision_project.FINALIZING, 0)
    core.clock.advance(provision_project.FINALIZING.seconds)
    also = core.projects.build_activation("shop", "job-1", {}, {})
    meanwhile(
        core,
        lambda: core.jobs.complete(
            "job-1", provision_project.FINALIZING, output={}, check="x", result={}, also=also
        ),
    )

    assert reconcile(core, ended(core)).status is JobStatus.COMPLETED
    assert history(core, "REPAIRED") == []


@pytest.mark.parametrize(
    ("stage", "retry_count"),
    [(provision_project.INITIALIZING, 1), (provision_project.FINALIZING, 0)],
)
def test_a_stage_that_starts_meanwhile_keeps_its_job_from_ending(
    core: Core, stage: str, retry_count: int
) -> None:
    waiting(core)
    meanwhile(core, lambda: core.jobs.start_stage(head(core), stage, retry_count))

    job = reconcile(core, ended(core))

    assert (job.status, job.cleanup_job_id) == (JobStatus.RUNNING, "")
    assert sent(core) == []


def test_a_first_stage_that_starts_meanwhile_keeps_its_job_from_ending(core: Core) -> None:
    core.new_job()
    meanwhile(core, lambda: core.jobs.start_stage(head(core), provision_project.INITIALIZING, 0))

    assert reconcile(core, ended(core)).status is JobStatus.RUNNING


def test_a_job_that_keeps_changing_is_reconciled_again_by_the_next(core: Core) -> None:
    waiting(core)
    core.answers["dynamodb.TransactWriteItems"] = aws_error(
        "TransactionCanceledException", reasons=("ConditionalCheckFailed",)
    )

    with pytest.raises(ProvisioningError) as raised:
        reconcile(core, ended(core))

    assert raised.value.type is ErrorType.TIMEOUT


def test_reconciled_twice_is_as_good_as_once(core: Core) -> None:
    waiting(core)
    told = ended(core)
    reconcile(core, told)
    core.clock.advance()
    with unchanged(core):
        reconcile(core, told)


def test_two_at_once_repair_once(core: Core) -> None:
    waiting(core)
    told = ended(core)
    meanwhile(core, lambda: reconcile(core, told))

    assert not reconciler(core).reconcile("job-1", told).repair
    assert len(history(core, "REPAIRED")) == 1
    assert len(sent(core)) == 1


def test_an_event_that_comes_after_a_retry_changes_nothing(core: Core) -> None:
    waiting(core)
    told = ended(core)
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([CONFLICT]))
    client(core).retry("job-1")
    start_execution(core)
    core.jobs.start_stage(head(core), provision_project.INITIALIZING, 0)
    core.jobs.stage_failed("job-1", NETWORK_ERROR, retry_count=0, retryable=True)
    with unchanged(core):
        reconcile(core, told)


def test_an_event_of_a_cleanup_says_nothing_of_its_job_s_next_attempt(core: Core) -> None:
    clean_up(core)
    told = cleanup_ended(core)
    end_cleanup(core)
    client(core).retry("job-1")
    with unchanged(core):
        reconcile(core, told)


# --- Clean-ups ------------------------------------------------------------------------------------


def clean_up(core: Core) -> Job:
    """Let the job fail, and return its clean-up, which nobody has sent."""
    running(core)
    core.jobs.stage_failed("job-1", CONFLICT, retry_count=0, retryable=False)
    core.clock.advance()
    record_failure(core)
    return cleanup_of(core)


@pytest.fixture
def cleaning(core: Core) -> Job:
    """Return the clean-up of a job that has failed; it holds the project."""
    cleanup = clean_up(core)
    core.clock.advance()
    return cleanup


def cleanup_ended(core: Core, status: ExecutionStatus = ExecutionStatus.ABORTED) -> Execution:
    return Execution(executions(core).arn(cleanup_of(core)), status)


def reconcile_cleanup(core: Core, told: Execution | None = None) -> Job:
    reconciler(core).reconcile(head(core).cleanup_job_id, told)
    return cleanup_of(core)


def repairs(job: Job) -> list[str]:
    return [entry.note for entry in job.history if entry.status == "REPAIRED"]


def remove(core: Core, stage: str, status: StageStatus = StageStatus.SUCCEEDED) -> None:
    """Let a stage of the clean-up begin, and end unless it is to run on."""
    cleanup = cleanup_of(core)
    core.jobs.start_stage(cleanup, stage, 0)
    if status.is_terminal:
        core.jobs.end_stage(cleanup.job_id, stage, status, output={}, check="x")


@pytest.mark.usefixtures("cleaning")
def test_a_cleanup_that_was_not_started_is_sent_and_given_up_as_any_job(core: Core) -> None:
    core.clock.advance(LIMIT_SECONDS - 2)
    with unchanged(core):
        reconcile_cleanup(core)
    core.clock.advance(1)

    cleanup = reconcile_cleanup(core)

    assert (cleanup.status, cleanup.resent_at) == (JobStatus.QUEUED, core.clock.at)
    assert [message["job_id"] for message in sent(core)] == [cleanup.job_id]
    core.clock.advance(LIMIT_SECONDS)

    cleanup = reconcile_cleanup(core)

    assert (cleanup.status, error_of(cleanup).type) == (JobStatus.FAILED, ErrorType.TIMEOUT)
    # Nothing was removed; a person runs it again.
    assert {left.partition(" ")[0] for left in cleanup.remaining} >= {"bucket", "user", "database"}
    assert core.projects.lock_holders() == []
    assert core.projects.quotas.used("owner#ada") == 0
    with unchanged(core):
        reconcile_cleanup(core)
        reconcile(core)


def test_a_cleanup_that_could_not_be_sent_is_sent_once_it_is_late(core: Core) -> None:
    waiting(core)
    core.answers["sqs.SendMessage"] = times(1, aws_error("ServiceUnavailable", 503))
    with pytest.raises(ClientError):
        reconcile(core, ended(core))
    job = head(core)
    assert (job.status, cleanup_of(core).status) == (JobStatus.FAILED, JobStatus.QUEUED)
    core.clock.advance(LIMIT_SECONDS)

    assert handle(core, SWEEP) == {"reconciled": 1, "repaired": 1}

    assert [message["job_id"] for message in sent(core)] == [job.cleanup_job_id]


@pytest.mark.usefixtures("cleaning")
def test_a_cleanup_that_is_started_meanwhile_is_not_sent(core: Core) -> None:
    core.client("stepfunctions").start_execution(
        stateMachineArn=f"{STATE_MACHINE_ARN_PREFIX}clean_up_project",
        name=cleanup_of(core).job_id,
        input="{}",
    )
    core.clock.advance(2 * LIMIT_SECONDS)
    with unchanged(core):
        reconcile_cleanup(core)


@pytest.mark.usefixtures("cleaning")
def test_a_cleanup_that_ended_without_telling_has_failed_with_what_is_left(core: Core) -> None:
    remove(core, clean_up_project.INITIALIZING)
    remove(core, clean_up_project.REMOVING_API_KEYS)
    remove(core, clean_up_project.REMOVING_STORAGE, StageStatus.SKIPPED)
    remove(core, clean_up_project.REMOVING_REALTIME, StageStatus.RUNNING)
    core.clock.advance(clean_up_project.REMOVING_REALTIME.seconds - 1)
    with unchanged(core):
        reconcile_cleanup(core, cleanup_ended(core))
    core.clock.advance(1)

    cleanup = reconcile_cleanup(core, cleanup_ended(core))

    assert cleanup.status is JobStatus.FAILED
    assert [left.partition(" nm")[0] for left in cleanup.remaining] == [
        "Event API",
        "user pool",
        *("database", "role", "role", "secret"),
    ]
    # A clean-up has none of its own.
    assert (cleanup.cleanup_job_id, sent(core)) == ("", [])
    assert core.projects.lock_holders() == []
    assert core.projects.quotas.used("owner#ada") == 0
    assert repairs(cleanup) == ["Nobody had told of its end: its execution was ABORTED."]
    assert core.unfinished() == []


@pytest.mark.usefixtures("cleaning")
def test_a_cleanup_is_not_ended_while_a_removal_may_run_that_was_superseded(core: Core) -> None:
    job_id = head(core).cleanup_job_id
    stage = clean_up_project.REMOVING_DATABASE
    longest = superseded(core, stage, job_id)
    core.clock.advance(longest - 1)
    with unchanged(core):
        reconcile_cleanup(core, cleanup_ended(core))
    core.clock.advance(1)

    cleanup = reconcile_cleanup(core, cleanup_ended(core))

    assert cleanup.status is JobStatus.FAILED
    assert core.projects.lock_holders() == []


@pytest.mark.usefixtures("cleaning")
@pytest.mark.parametrize(
    "stage", [clean_up_project.REMOVING_API_KEYS, clean_up_project.REMOVING_DATABASE]
)
def test_a_removal_that_starts_meanwhile_keeps_its_cleanup_from_ending(
    core: Core, stage: str
) -> None:
    cleanup = cleanup_of(core)
    core.jobs.start_stage(cleanup, clean_up_project.REMOVING_API_KEYS, 0)
    error = StoredError(ErrorType.NETWORK_ERROR, clean_up_project.REMOVING_API_KEYS, 1, "No.", "")
    core.jobs.stage_failed(cleanup.job_id, error, retry_count=0, retryable=True)
    meanwhile(core, lambda: core.jobs.start_stage(cleanup_of(core), stage, 1))

    cleanup = reconcile_cleanup(core, cleanup_ended(core))

    assert cleanup.status is JobStatus.RUNNING
    assert core.projects.lock_holders() == [cleanup.job_id]


@pytest.mark.usefixtures("cleaning")
def test_a_cleanup_of_which_everything_is_removed_fails_and_names_nothing(core: Core) -> None:
    for stage in clean_up_project.JOB_TYPE.stages:
        if stage is not clean_up_project.FINALIZING:
            remove(core, stage)

    cleanup = reconcile_cleanup(core, cleanup_ended(core, ExecutionStatus.FAILED))

    assert (cleanup.status, cleanup.remaining) == (JobStatus.FAILED, ())
    assert core.projects.lock_holders() == []
    assert client(core).retry_cleanup("job-1").status is JobStatus.QUEUED


# --- Jobs that do not begin -----------------------------------------------------------------------


def test_the_message_of_a_job_that_does_not_begin_is_sent_again_once(core: Core) -> None:
    core.new_job()
    core.clock.advance(LIMIT_SECONDS - 1)
    with unchanged(core):
        reconcile(core)
    core.clock.advance(1)

    job = reconcile(core)

    assert (job.status, job.resent_at) == (JobStatus.QUEUED, core.clock.at)
    (message,) = core.messages(core.queue_url)
    assert json.loads(message["Body"]) == {
        "job_id": "job-1",
        "job_type": "provision_project",
        "payload": job.payload,
        "attempt": 1,
    }
    core.clock.advance(LIMIT_SECONDS - 1)
    with unchanged(core):
        reconcile(core)
    core.clock.advance(1)

    job = reconcile(core)

    assert job.status is JobStatus.FAILED
    assert error_of(job) == StoredError(
        ErrorType.TIMEOUT, "", 0, "The job did not begin in the time that it had.", ""
    )
    assert history(core, "REPAIRED") == [
        "It had not begun for long: its message was sent again.",
        "It had not begun, though its message was sent again.",
    ]
    assert core.unfinished() == []


def test_a_message_that_is_held_back_is_not_late(core: Core) -> None:
    core.jobs.create(new_job(), delay_seconds=900)
    core.clock.advance(900 + LIMIT_SECONDS - 1)
    with unchanged(core):
        reconcile(core)
    core.clock.advance(1)
    assert reconcile(core).resent_at is not None


def test_a_retried_job_that_does_not_begin_is_sent_again_as_that_attempt(core: Core) -> None:
    running(core)
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([CONFLICT]))
    core.jobs.retry(head(core))
    core.clock.advance(LIMIT_SECONDS)

    reconcile(core)

    (message,) = sent(core, "provision_project")
    assert message["attempt"] == 2
    core.clock.advance(LIMIT_SECONDS)
    assert reconcile(core).status is JobStatus.FAILED


def test_a_retry_counts_anew(core: Core) -> None:
    core.new_job()
    for _ in range(2):
        core.clock.advance(LIMIT_SECONDS)
        reconcile(core)
    client(core).retry("job-1")
    core.clock.advance(LIMIT_SECONDS)

    assert (reconcile(core).status, head(core).attempt) == (JobStatus.QUEUED, 2)
    assert head(core).resent_at == core.clock.at


def test_a_job_whose_execution_has_not_come_to_its_first_stage_is_not_sent_again(
    core: Core,
) -> None:
    core.new_job()
    start_execution(core)
    core.clock.advance(LIMIT_SECONDS)
    with unchanged(core):
        reconcile(core)


def test_a_job_that_begins_while_it_is_given_up_goes_on(core: Core) -> None:
    core.new_job()
    core.clock.advance(LIMIT_SECONDS)
    reconcile(core)
    core.clock.advance(LIMIT_SECONDS)
    meanwhile(core, lambda: core.jobs.start_stage(head(core), provision_project.INITIALIZING, 0))

    assert reconcile(core).status is JobStatus.RUNNING
    assert len(history(core, "REPAIRED")) == 1


def test_a_job_that_begins_while_it_is_sent_again_goes_on(core: Core) -> None:
    core.new_job()
    core.clock.advance(LIMIT_SECONDS)
    meanwhile(core, lambda: core.jobs.start_stage(head(core), provision_project.INITIALIZING, 0))

    assert reconcile(core).status is JobStatus.RUNNING
    assert history(core, "REPAIRED") == []


def test_a_job_that_is_sent_again_by_another_meanwhile_counts_once(core: Core) -> None:
    core.new_job()
    core.clock.advance(LIMIT_SECONDS)

    def sent_by_another() -> None:
        core.clock.advance()
        reconcile(core)

    meanwhile(core, sent_by_another)

    assert not reconciler(core).reconcile("job-1").repair
    assert len(history(core, "REPAIRED")) == 1


def test_a_message_that_could_not_be_sent_again_is_sent_by_the_next(core: Core) -> None:
    core.new_job()
    core.clock.advance(LIMIT_SECONDS)
    core.answers["sqs.SendMessage"] = times(1, aws_error("ServiceUnavailable", 503))
    with pytest.raises(ClientError):
        reconcile(core)
    assert head(core).resent_at is None

    reconcile(core)

    assert len(core.messages(core.queue_url)) == 1


# --- What ended jobs still hold -------------------------------------------------------------------


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED])
def test_what_an_ended_job_still_holds_is_given_back(core: Core, status: JobStatus) -> None:
    running(core)
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([CONFLICT], status=status))

    reconcile(core)

    project = core.projects.get("shop")
    assert project is not None
    assert (project.status, project.locked_by, project.quota) == (ProjectStatus.FAILED, None, None)
    assert core.projects.quotas.used("owner#ada") == 0
    assert history(core, "REPAIRED") == ["It still held what it should have given back."]
    with unchanged(core):
        reconcile(core)


@pytest.mark.usefixtures("cleaning")
def test_what_a_cleanup_holds_is_not_given_back_with_its_job(core: Core) -> None:
    with unchanged(core):
        reconcile(core)
    assert core.projects.lock_holders() == [head(core).cleanup_job_id]


@pytest.mark.usefixtures("cleaning")
def test_what_a_cleanup_still_holds_that_has_failed_is_given_back(core: Core) -> None:
    core.jobs.fail(cleanup_of(core), BadEnd([CONFLICT]))

    ended_cleanup = reconcile_cleanup(core)

    assert ended_cleanup.status is JobStatus.FAILED
    assert core.projects.lock_holders() == []
    assert core.projects.quotas.used("owner#ada") == 0
    assert repairs(ended_cleanup) == ["It still held what it should have given back."]


def test_what_a_retry_holds_is_not_given_back(core: Core) -> None:
    running(core)
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([CONFLICT]))
    meanwhile(core, lambda: core.jobs.retry(head(core)))

    reconcile(core)

    assert core.projects.lock_holders() == ["job-1"]
    assert history(core, "REPAIRED") == []


def test_what_a_cleanup_that_is_run_again_holds_is_not_given_back(core: Core) -> None:
    clean_up(core)
    end_cleanup(core, "a bucket")
    core.clock.advance()
    meanwhile(core, lambda: core.jobs.retry(cleanup_of(core)))

    cleanup = reconcile_cleanup(core)

    assert core.projects.lock_holders() == [cleanup.job_id]
    assert repairs(cleanup) == []


def test_a_job_that_was_refused_holds_nothing(core: Core) -> None:
    core.jobs.create_failed(NewJob("job-1", "unheard_of", {"project_id": "shop"}, ()), CONFLICT)
    with unchanged(core):
        reconcile(core)


@pytest.mark.parametrize(
    ("status", "released", "used"),
    [
        (ProjectStatus.PROVISIONING, ProjectStatus.FAILED, 0),
        (ProjectStatus.ACTIVE, ProjectStatus.ACTIVE, 1),
        (ProjectStatus.FAILED, ProjectStatus.FAILED, 1),
        (ProjectStatus.DEPROVISIONING, ProjectStatus.DEPROVISIONING, 1),
    ],
)
def test_what_a_job_holds_that_is_stored_no_more_is_given_back(
    core: Core, logged: LogLines, status: ProjectStatus, released: ProjectStatus, used: int
) -> None:
    running(core)
    (slot,) = core.jobs.slots().holders
    set_project(core, status=status)
    core.new_project("other")
    core.new_job("job-2", "other")
    expire(core)

    assert handle(core, SWEEP) == {"reconciled": 2, "repaired": 1}

    project = core.projects.get("shop")
    assert project is not None
    assert (project.status, project.locked_by) == (released, None)
    assert project.quota == (None if used == 0 else "owner#ada")
    assert core.projects.quotas.used("owner#ada") == used
    assert counted() == {"Repairs": [1.0], "SweepsCompleted": [1.0], "SweepRoundAge": [0.0]}
    (line,) = (line for line in logged() if line["job_id"] == "job-1")
    held = f"shop, slot {slot}"
    assert line["repair"] == f"It is stored no more and still held {held}: that was given back."
    with unchanged(core):
        handle(core, SWEEP)


def test_a_project_that_another_job_takes_meanwhile_is_not_given_back(core: Core) -> None:
    running(core)
    expire(core)
    meanwhile(core, lambda: set_project(core, locked_by="job-2"))

    assert handle(core, SWEEP)["repaired"] == 1
    assert core.projects.lock_holders() == ["job-2"]
    assert core.projects.quotas.used("owner#ada") == 1


# --- Events and sweeps ----------------------------------------------------------------------------


def execution_event(core: Core, **changes: Any) -> dict[str, Any]:
    """Return the event of the job's execution, as EventBridge delivers it."""
    arn = executions(core).arn(head(core))
    detail = {
        "executionArn": arn,
        "stateMachineArn": f"{STATE_MACHINE_ARN_PREFIX}provision_project",
        "name": "job-1",
        "status": "TIMED_OUT",
        "input": "{}",
        "inputDetails": {"included": True},
        "error": None,
        "cause": None,
    }
    return {
        "source": "aws.states",
        "detail-type": "Step Functions Execution Status Change",
        "detail": detail | changes,
    }


SWEEP = {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}


def handle(core: Core, event: dict[str, Any]) -> dict[str, Any]:
    metrics.clear_metrics()
    return sweep(core)(lambda: 1.0) if event is SWEEP else reconciler(core)(event)


def counted() -> dict[str, list[float]]:
    return {name: metric["Value"] for name, metric in metrics.provider.metric_set.items()}


def test_an_event_of_an_execution_has_its_job_reconciled(
    core: Core, logged: LogLines, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting(core)

    assert handle(core, execution_event(core)) == {"reconciled": 1, "repaired": 1}

    assert error_of(head(core)).type is ErrorType.TIMEOUT
    assert counted() == {"JobsFailed": [1.0], "Repairs": [1.0]}
    (emitted,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (emitted["JobsFailed"], emitted["error_type"]) == ([1.0], "TIMEOUT")
    failed, repaired = logged()
    assert (failed["job_id"], failed["error_type"], failed["level"]) == (
        "job-1",
        "TIMEOUT",
        "ERROR",
    )
    assert "TIMED_OUT" in repaired["repair"]


def test_an_event_that_leaves_out_the_input_tells_as_much(core: Core) -> None:
    waiting(core)
    event = execution_event(core, input=None, inputDetails={"included": False})

    assert handle(core, event)["reconciled"] == 1
    assert head(core).status is JobStatus.FAILED


def test_an_end_that_its_job_has_told_needs_no_repair(core: Core) -> None:
    waiting(core)
    record_failure(core)

    assert handle(core, execution_event(core, status="FAILED")) == {"reconciled": 1, "repaired": 0}
    assert counted() == {}


def test_an_event_that_a_job_is_being_cancelled_has_it_reconciled(
    core: Core, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting(core)
    core.jobs.request_cancel(head(core))
    detail = {"job_id": "job-1", "cancelling": True}

    answer = handle(core, {"source": "jobs", "detail-type": "job.retrying", "detail": detail})

    assert answer == {"reconciled": 1, "repaired": 0}
    assert head(core).status is JobStatus.CANCELLED
    (emitted,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert emitted["JobsCancelled"] == [1.0]


def test_an_execution_of_no_job_is_left_alone(core: Core) -> None:
    waiting(core)
    event = execution_event(core, executionArn=f"{executions(core).arn(head(core))}x")
    with unchanged(core):
        assert handle(core, event)["repaired"] == 0


@pytest.mark.parametrize("event", [{}, {"detail": {}}, {"detail": {"job_id": None}}])
def test_an_event_of_nothing_is_left_alone(core: Core, event: dict[str, Any]) -> None:
    assert handle(core, event) == {"reconciled": 0, "repaired": 0}


def test_a_job_that_is_not_stored_is_left_alone(core: Core) -> None:
    detail = {"job_id": "nobody", "cancelling": True}
    assert handle(core, {"detail": detail}) == {"reconciled": 1, "repaired": 0}


def test_an_event_is_delivered_again_where_its_job_could_not_be_reconciled(core: Core) -> None:
    waiting(core)
    core.answers["dynamodb.Query"] = times(1, aws_error("InternalServerError", 500))
    with pytest.raises(ClientError):
        handle(core, execution_event(core))

    assert handle(core, execution_event(core))["repaired"] == 1


@pytest.mark.parametrize("attempt", [1, 2, 9999])
def test_a_job_is_known_by_the_name_of_its_execution(attempt: int) -> None:
    name = execution_name("a-2-attempt-x", attempt)
    assert job_id_of_execution(f"{STATE_MACHINE_ARN_PREFIX}any:{name}") == "a-2-attempt-x"


def test_a_sweep_reconciles_what_is_unfinished_or_held_and_nothing_else(
    core: Core, logged: LogLines
) -> None:
    waiting(core)
    core.client("stepfunctions").stop_execution(executionArn=executions(core).arn(head(core)))
    core.new_job("queued")
    core.new_project("other")
    holder = core.new_job("holder", "other")
    project = core.projects.get("other")
    assert project is not None
    core.projects.lock(project, "holder", quota=None, default_limit=1)
    core.jobs.fail(holder, BadEnd([CONFLICT]))
    core.new_job("ended", "elsewhere")
    core.jobs.fail(core.jobs.get("ended"), BadEnd([CONFLICT]))
    core.calls.clear()

    assert handle(core, SWEEP) == {"reconciled": 3, "repaired": 2}

    assert counted() == {
        "JobsFailed": [1.0],
        "Repairs": [1.0, 1.0],
        "SweepsCompleted": [1.0],
        "SweepRoundAge": [0.0],
    }
    assert head(core).status is JobStatus.FAILED
    assert core.projects.lock_holders() == [head(core).cleanup_job_id]
    assert {line["job_id"] for line in logged()} == {"job-1", "holder"}
    assert not [call for call in core.calls_of("dynamodb.Scan") if "IndexName" not in call]


def test_a_job_that_cannot_be_reconciled_keeps_no_other_from_it(
    core: Core, logged: LogLines
) -> None:
    core.new_job("first")
    core.clock.advance()
    core.new_job("second")
    core.clock.advance(LIMIT_SECONDS)
    is_refused = {"executionArn": executions(core).arn(core.jobs.get("first"))}
    refuse = aws_error("AccessDeniedException")
    core.answers["sfn.DescribeExecution"] = lambda asked: (
        refuse(asked) if asked == is_refused else None
    )

    assert handle(core, SWEEP) == {"reconciled": 2, "repaired": 1}

    (message,) = core.messages(core.queue_url)
    assert json.loads(message["Body"])["job_id"] == "second"
    (failed,) = (line for line in logged() if line["job_id"] == "first")
    assert "AccessDeniedException" in failed["cause"]
    # Nor does such a sweep count: an alarm tells of a job that is never reconciled.
    assert counted() == {"Repairs": [1.0], "SweepRoundAge": [0.0]}


def test_a_job_of_a_type_that_this_code_does_not_define_is_one_warning_of_a_sweep(
    core: Core, logged: LogLines
) -> None:
    unknown = NewJob("of-older-code", "gone", {"project_id": "shop"}, ("DOING",))
    core.jobs.create(unknown)
    core.jobs.start_stage(core.jobs.get("of-older-code"), "DOING", 0)
    core.clock.advance()
    core.new_job("known")
    core.clock.advance(2 * LIMIT_SECONDS)

    assert handle(core, SWEEP) == {"reconciled": 2, "repaired": 1}

    (message,) = core.messages(core.queue_url)
    assert json.loads(message["Body"])["job_id"] == "known"
    (warning,) = [line for line in logged() if line["job_id"] == "of-older-code"]
    assert (warning["level"], warning["message"]) == ("WARNING", "job of an unknown job type")
    assert "its job type gone is not defined in this version" in warning["cause"]
    # Waiting does not help it: the alarm is about sweeps that do not end.
    assert counted() == {"Repairs": [1.0], "SweepsCompleted": [1.0], "SweepRoundAge": [0.0]}
    assert core.jobs.get("of-older-code").status is JobStatus.RUNNING


def test_an_event_of_such_a_job_is_not_handed_over_again(core: Core) -> None:
    core.jobs.create(NewJob("of-older-code", "gone", {"project_id": "shop"}, ("DOING",)))
    event = {"source": "project-provisioner", "detail": {"job_id": "of-older-code"}}

    assert handle(core, event) == {"reconciled": 1, "repaired": 0}


def test_a_job_that_nobody_can_read_keeps_a_sweep_from_no_other(
    core: Core, logged: LogLines
) -> None:
    core.new_job("first")
    core.clock.advance()
    core.new_job("second")
    core.clock.advance(LIMIT_SECONDS)
    core.client("dynamodb").update_item(
        TableName="JobsTable",
        Key=dynamodb.to_item({"job_id": "first", "record": "PAYLOAD"}),
        UpdateExpression="SET payload = :damaged",
        ExpressionAttributeValues={":damaged": {"S": "{"}},
    )

    assert handle(core, SWEEP) == {"reconciled": 2, "repaired": 1}

    (message,) = core.messages(core.queue_url)
    assert json.loads(message["Body"])["job_id"] == "second"
    (warning,) = [line for line in logged() if line["job_id"] == "first"]
    assert warning["message"] == "job not reconciled"
    # Its text may hold a part of the payload.
    assert re.fullmatch(r"JSONDecodeError at \S+:\d+", warning["cause"])
    assert counted() == {"Repairs": [1.0], "SweepRoundAge": [0.0]}


@pytest.mark.usefixtures("cleaning")
def test_a_cleanup_that_failed_is_counted_as_one_that_says_so_itself(core: Core) -> None:
    cleanup = cleanup_of(core)
    detail = {
        "executionArn": executions(core).arn(cleanup),
        "name": cleanup.job_id,
        "status": "ABORTED",
    }

    handle(core, execution_event(core, **detail))

    assert cleanup_of(core).status is JobStatus.FAILED

    assert counted() == {"CleanupsFailed": [1.0], "Repairs": [1.0]}


# --- The index of unfinished jobs -----------------------------------------------------------------


def test_a_job_is_in_the_index_as_long_as_something_is_left_to_be_done(core: Core) -> None:
    def is_unfinished() -> bool:
        core.clock.advance()
        return core.unfinished() == ["job-1"]

    core.new_job()
    assert is_unfinished()
    core.jobs.cancel_queued(head(core))
    assert not is_unfinished()
    core.jobs.retry(head(core))
    assert is_unfinished()
    core.jobs.fail_queued("job-1", CONFLICT, attempt=2)
    assert not is_unfinished()
    core.jobs.retry(head(core))
    core.jobs.start_stage(head(core), provision_project.INITIALIZING, 0)
    core.jobs.request_cancel(head(core))
    assert is_unfinished()
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([CONFLICT], status=JobStatus.CANCELLED))
    assert not is_unfinished()
    core.jobs.retry(head(core))
    core.jobs.start_stage(head(core), provision_project.INITIALIZING, 0)
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([CONFLICT]))
    assert not is_unfinished()
    core.jobs.retry(head(core))
    core.jobs.start_stage(head(core), provision_project.INITIALIZING, 0)
    assert is_unfinished()
    core.jobs.complete(
        "job-1", provision_project.INITIALIZING, attempt=5, output={}, check="", result={}
    )
    assert not is_unfinished()


def test_a_job_that_is_refused_is_not_unfinished(core: Core) -> None:
    core.jobs.create_failed(new_job(), CONFLICT)
    assert core.unfinished() == []


# --- Slots ----------------------------------------------------------------------------------------


def complete(core: Core) -> None:
    also = core.projects.build_activation("shop", "job-1", {}, {})
    core.jobs.complete("job-1", "INITIALIZING", output={}, check="x", result={}, also=also)


def test_a_slot_that_a_job_kept_beyond_its_end_is_released(core: Core) -> None:
    running(core)
    complete(core)
    key = {"job_id": SLOTS, "record": "SLOT#0007"}
    item = dynamodb.to_item({**key, "holder": "job-1"})
    core.client("dynamodb").put_item(TableName="JobsTable", Item=item)

    assert handle(core, SWEEP)["repaired"] == 1

    assert core.jobs.slots().holders == {}
    assert len(history(core, "REPAIRED")) == 1
    with unchanged(core):
        handle(core, SWEEP)


def test_a_slot_that_its_job_releases_during_the_sweep_is_nobody_s_repair(core: Core) -> None:
    running(core)
    assert list(core.jobs.slots().holders.values()) == ["job-1"]
    core.answers["dynamodb.Query"] = at_call(lambda: complete(core), before=2)

    assert handle(core, SWEEP)["repaired"] == 0
    assert core.jobs.slots().holders == {}
