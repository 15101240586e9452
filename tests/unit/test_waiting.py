"""A stage that waits: what is stored, when it is over, and that nothing else gets in between."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provisioner.errors import FINAL_ERROR, ErrorType, ProvisioningError, failure
from provisioner.jobs.definition import (
    LONGEST_RUN_SECONDS,
    JobDefinition,
    JobDefinitions,
    Stage,
)
from provisioner.jobs.execution import job_input
from provisioner.jobs.failure import CleanupRequest, FailurePolicy, FailureRecorder
from provisioner.jobs.in_process import InProcessRun
from provisioner.jobs.messages import JobQueue
from provisioner.jobs.models import (
    HistoryEntry,
    Job,
    JobStatus,
    StageRecord,
    StageStatus,
    StoredError,
    lease_wait,
)
from provisioner.jobs.reconciler import Reconciler
from provisioner.jobs.records import NewJob
from provisioner.jobs.retries import (
    POLL_SECONDS,
    SERVICE_RETRY,
    STAGE_RETRY,
    THROTTLE_RETRY,
    WAITING_ERROR,
    waiting_retry,
)
from provisioner.jobs.stage import Completion, StageOutcome, Waiting
from provisioner.jobs.stage_run import RECORD_FAILURE, StageRunner, StageWaiting
from provisioner.jobs.store import BadEnd
from provisioner.provisioning.functions import LIFECYCLE
from provisioner.provisioning.job_types import clean_up_project
from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
from provisioner.runtime.observability import metrics
from support.core import Core, LogLines, aws_error, deployment, meanwhile
from support.reconciler import executions, head, sent, start_execution

WAITS_SECONDS = 600
MS = timedelta(milliseconds=1)
NO_ROOM = "No cluster has room for one more database."
SLOW = "The new cluster is being made."

#: How a stage ends, in the order in which it is run.
type Ends = Iterable[StageOutcome | Waiting | Exception]


def _stage(name: str, waits_seconds: int = 0) -> Stage:
    return Stage(
        name,
        "It is there.",
        function=LIFECYCLE,
        code="nowhere:at_all",
        own_error=ErrorType.DATABASE_CREATION_FAILED,
        waits_seconds=waits_seconds,
    )


PLACING, MAKING, LAST = _stage("PLACING", WAITS_SECONDS), _stage("MAKING"), _stage("LAST")

#: Stands in for the job type whose name the deployment of the tests knows.
DEFINITION = JobDefinition(
    name="provision_project",
    meaning="Waits.",
    payload_model=ProvisionProjectPayload,
    steps=(PLACING, MAKING, LAST),
    example={},
)
DEFINITIONS = {DEFINITION.name: DEFINITION}


class World:
    """A job of that type, of which a test runs the functions itself."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.ran: list[str] = []
        self.is_cleaned_up = False
        self.asked = CleanupRequest({"project_id": "shop", "job_id": "job-1"}, hand_over=[])
        policy = FailurePolicy(
            describe_cleanup=lambda _job, _id: self.asked if self.is_cleaned_up else None,
            cleanup_job_type=clean_up_project.JOB_TYPE,
        )
        self.policies = {DEFINITION.name: policy}
        core.jobs.create(
            NewJob("job-1", DEFINITION.name, {"project_id": "shop"}, DEFINITION.stages)
        )
        start_execution(core)
        core.calls.clear()

    def job(self) -> Job:
        return self.core.jobs.get("job-1")

    def stage(self, name: str = PLACING) -> StageRecord:
        found = self.core.jobs.get("job-1").stage(name)
        assert found is not None
        return found

    def history(self, status: str, of: str = PLACING) -> list[HistoryEntry]:
        return [e for e in self.job().history if (e.subject, e.status) == (of, status)]

    def event(self, stage: str, retry_count: int, **more: Any) -> dict[str, Any]:
        job = self.job()
        of_job = {
            "job_id": "job-1",
            "job_type": job.job_type,
            "payload": job.payload,
            "attempt": job.attempt,
        }
        return {"job": of_job, "stage": stage, "retry_count": retry_count, **more}

    def run(
        self,
        end: StageOutcome | Waiting | Exception,
        retry_count: int = 0,
        stage: str = PLACING,
        *,
        definitions: JobDefinitions = DEFINITIONS,
    ) -> Any:
        """Run a stage as its function does, which ends so; return its answer, or what it raises."""
        metrics.clear_metrics()

        def code(_job: Any) -> StageOutcome | Waiting:
            self.ran.append(stage)
            if isinstance(end, Exception):
                raise end
            return end

        runner = StageRunner(
            self.core.jobs, {DEFINITION.name: {stage: code}}, definitions=definitions
        )
        try:
            return runner(self.event(stage, retry_count))
        except (ProvisioningError, StageWaiting) as raised:
            return raised

    def wait(self, text: str = NO_ROOM, retry_count: int = 0, *, after: float = 60) -> None:
        """Let PLACING be run and wait, some time after the last."""
        self.core.clock.advance(after)
        raised = self.run(Waiting(text), retry_count)
        assert (type(raised), str(raised)) == (StageWaiting, text)

    def lose(self, retry_count: int, stage: str = PLACING) -> datetime:
        """Let a run start that never records its end; return until when it may be at work."""
        held = self.core.jobs.start(self.job(), stage, retry_count)
        assert held is not None
        assert held.lease_until is not None
        return held.lease_until

    def ends(self, stage: str, retry_count: int = 0) -> Any:
        """Let a step that ends the job run; return its answer, or the wait that it raises."""
        metrics.clear_metrics()
        if stage != RECORD_FAILURE:
            return self.run(StageOutcome(completion=Completion({"made": 1})), retry_count, stage)
        try:
            return self.record_failure("CONFLICT", retry_count=retry_count)
        except StageWaiting as raised:
            return raised

    def record_failure(self, name: str, cause: str = "", retry_count: int = 0) -> Any:
        """Record the failure of the job as the state machine does, which met such an error."""
        branch = {"ok": False, "stage": str(PLACING), "error": {"Error": name, "Cause": cause}}
        recorder = FailureRecorder(self.core.jobs, self.policies)
        return recorder(self.event(RECORD_FAILURE, retry_count, branches=[branch]))

    def reconcile(self) -> Job:
        """Let the reconciler look at the job."""
        Reconciler(
            store=self.core.jobs,
            queue=JobQueue(self.core.client("sqs"), self.core.queue_url),
            executions=executions(self.core),
            policies=self.policies,
            release_abandoned=lambda _job_id: [],
            queued_limit=timedelta(minutes=15),
        ).reconcile("job-1")
        return self.job()

    def cancel(self) -> Job:
        self.core.jobs.request_cancel(self.job())
        return self.reconcile()


@pytest.fixture
def world(core: Core) -> World:
    return World(core)


def error_of(job: Job) -> StoredError:
    assert job.error is not None
    return job.error


# --- Waiting --------------------------------------------------------------------------------------


def test_what_a_stage_waits_for_is_stored_once(world: World, logged: LogLines) -> None:
    began = world.core.clock.at + timedelta(seconds=60)
    world.wait()
    assert set(metrics.metric_set) == {"StageWaits"}
    stored = world.stage()
    assert (stored.status, stored.waiting_for, stored.attempt) == (StageStatus.WAITING, NO_ROOM, 1)
    assert (stored.waiting_since, stored.waits_until) == (
        began,
        began + timedelta(seconds=WAITS_SECONDS),
    )
    world.core.calls.clear()

    for retry_count in range(1, 9):
        world.wait(retry_count=retry_count)
        assert metrics.metric_set == {}

    # Each reads the job, as this test has done for its event, begins, and has ended.
    assert len(world.core.calls_of("dynamodb.Query")) == 16
    assert world.core.changes() == ["dynamodb.TransactWriteItems"] * 16
    assert world.stage() == replace(stored, retry_count=8)
    assert len(world.ran) == 9
    (entry,) = world.history("WAITING")
    assert (entry.note, entry.attempt, entry.waits_until) == (NO_ROOM, 1, stored.waits_until)
    line = logged()[-1]
    assert (line["message"], line["waiting_for"]) == ("stage waits", NO_ROOM)


def test_what_it_waits_for_is_stored_anew_when_that_changes(world: World) -> None:
    world.wait()
    first = world.stage()
    world.wait(SLOW, 1)
    # It is one wait, whatever for.
    assert metrics.metric_set == {}
    world.wait(SLOW, 2)

    stored = world.stage()

    assert (stored.waiting_for, stored.attempt) == (SLOW, 1)
    # It waits since it began to, and no longer than it may in all.
    assert (stored.waiting_since, stored.waits_until) == (first.waiting_since, first.waits_until)
    assert [entry.note for entry in world.history("WAITING")] == [NO_ROOM, SLOW]


def test_a_poll_that_comes_after_a_later_one_has_written_does_not_run(world: World) -> None:
    world.wait()
    world.wait(SLOW, 1)
    before, ran = world.job(), len(world.ran)

    raised = world.run(StageOutcome(), 0)

    assert (raised.type, len(world.ran)) == (ErrorType.TIMEOUT, ran)
    assert raised.message == "Another attempt of the stage began before this one."
    assert world.job() == before


def test_what_has_come_ends_the_stage_well_as_the_same_attempt(world: World) -> None:
    world.wait()
    world.wait(retry_count=1)

    answer = world.run(StageOutcome({"host": "db"}, "it answers"), 2)

    assert (answer["status"], answer["output"]) == ("SUCCEEDED", {"host": "db"})
    stored = world.stage()
    assert (stored.status, stored.attempt, stored.failures) == (StageStatus.SUCCEEDED, 1, 0)
    assert (stored.waiting_for, stored.waiting_since, stored.waits_until) == ("", None, None)
    assert metrics.metric_set["StageWaitDuration"]["Value"] == [60_000]
    assert world.job().waits == ()


def test_a_stage_that_waits_too_long_has_failed_for_good(world: World) -> None:
    world.wait()
    world.wait(retry_count=1, after=WAITS_SECONDS - 1)
    world.core.clock.advance()

    raised = world.run(Waiting(SLOW), 2)

    told = f"The stage waited for {WAITS_SECONDS} seconds in vain: {SLOW}"
    error = StoredError(ErrorType.TIMEOUT, str(PLACING), 1, told, "")
    assert (world.stage().status, world.stage().error) == (StageStatus.FAILED, error)
    assert metrics.metric_set["StageWaitDuration"]["Value"] == [WAITS_SECONDS * 1000]
    # No retrier names it, nor what is raised where the answer got lost.
    again = world.run(AssertionError(), 3)
    for one in (raised, again):
        assert (type(one).__name__, one.type, str(one)) == (FINAL_ERROR, ErrorType.TIMEOUT, told)
    assert FINAL_ERROR not in {*STAGE_RETRY.error_names, *SERVICE_RETRY.error_names, WAITING_ERROR}

    world.record_failure(FINAL_ERROR)

    job = world.job()
    assert (job.status, job.error, job.other_errors) == (JobStatus.FAILED, error, ())


def test_what_has_come_in_the_last_moment_is_taken(world: World) -> None:
    world.wait()
    world.core.clock.advance(WAITS_SECONDS + 60)
    assert world.run(StageOutcome(), 1)["status"] == "SUCCEEDED"


def test_a_retrier_lasts_for_as_long_as_a_stage_may_wait() -> None:
    assert StageWaiting.__name__ == WAITING_ERROR
    for seconds in (1, 60, 61, WAITS_SECONDS, LONGEST_RUN_SECONDS, 3600):
        policy = waiting_retry(seconds)
        assert policy.longest_delay(1) == policy.longest_delay(policy.max_attempts) == POLL_SECONDS
        # However often the others have repeated the Task, its polls last as long.
        others = (SERVICE_RETRY, THROTTLE_RETRY, STAGE_RETRY)
        polls = policy.max_attempts - sum(other.max_attempts for other in others)
        assert seconds <= polls * POLL_SECONDS < seconds + POLL_SECONDS
    # Three events of the execution's history each, of 25,000. Source: AWS Step Functions Developer
    # Guide, "Quotas".
    assert 3 * waiting_retry(3600).max_attempts < 350


@pytest.mark.parametrize("name", [WAITING_ERROR, FINAL_ERROR])
def test_a_stage_that_is_polled_no_more_has_waited_in_vain(world: World, name: str) -> None:
    """The retrier was used up, or the end of the wait could not be stored."""
    world.wait()
    world.core.clock.advance(90)

    world.record_failure(name, '{"errorMessage": "x"}')

    job = world.job()
    told = f"The stage waited for 90 seconds in vain: {NO_ROOM}"
    assert error_of(job) == StoredError(ErrorType.TIMEOUT, str(PLACING), 1, told, "")
    assert (job.stages[0].status, job.stages[0].error) == (StageStatus.FAILED, job.error)


@pytest.mark.parametrize("text", [NO_ROOM, ""])
def test_only_a_stage_that_is_given_time_may_wait_and_says_what_for(
    world: World, text: str
) -> None:
    stage = MAKING if text else PLACING

    raised = world.run(Waiting(text), stage=stage)

    assert raised.type is ErrorType.DATABASE_CREATION_FAILED
    assert "waits_seconds" in raised.message
    assert world.stage(stage).status is StageStatus.FAILED


# --- What else may happen -------------------------------------------------------------------------


def test_an_attempt_that_fails_while_it_waits_is_one_attempt(world: World) -> None:
    world.wait()
    first = world.stage()
    world.wait(retry_count=1)

    raised = world.run(failure(ErrorType.NETWORK_ERROR, "No answer."), 2)

    assert raised.type is ErrorType.NETWORK_ERROR
    stored = world.stage()
    assert (stored.status, stored.attempt, stored.failures) == (StageStatus.RETRYING, 1, 1)
    assert stored.waiting_for == ""
    # One that was late to begin finds itself superseded.
    assert world.run(AssertionError(), 1).type is ErrorType.TIMEOUT

    world.wait(SLOW, 3, after=100)

    stored = world.stage()
    assert (stored.status, stored.attempt, stored.failures) == (StageStatus.WAITING, 2, 1)
    # It waits anew, and in all no longer than it may.
    assert stored.waiting_since == world.core.clock.at
    assert stored.waits_until == first.waits_until


def test_a_poll_that_died_counts_no_attempt(world: World) -> None:
    """The state machine repeats it as it repeats one of every stage."""
    world.wait()
    world.wait(retry_count=2, after=300)
    assert (world.stage().status, world.stage().attempt) == (StageStatus.WAITING, 1)
    assert [entry.attempt for entry in world.history("RUNNING")] == [1]

    # It died once more, and none is left.
    world.record_failure("Lambda.Unknown")

    assert error_of(world.job()).message == "The stage ended without saying why."
    assert world.job().stages[0].status is StageStatus.FAILED


def test_a_poll_that_comes_after_the_wait_changes_nothing(world: World) -> None:
    world.wait()
    first = world.run(StageOutcome({"host": "db"}), 2)
    before = world.job()

    assert world.run(Waiting(SLOW), 1) == world.run(AssertionError(), 1) == first
    assert world.job() == before


def test_two_polls_at_once_store_a_change_once(world: World) -> None:
    world.wait()
    world.core.clock.advance()

    def another() -> None:
        world.core.answers.clear()
        world.core.clock.advance()
        world.run(Waiting(SLOW), 1)

    world.core.answers["dynamodb.TransactWriteItems"] = meanwhile(another)
    assert type(world.run(Waiting(SLOW), 1)) is StageWaiting

    assert [entry.note for entry in world.history("WAITING")] == [NO_ROOM, SLOW]


def test_a_poll_that_another_has_superseded_says_nothing_any_more(world: World) -> None:
    world.wait()
    world.core.clock.advance()

    def another() -> None:
        world.core.answers.clear()
        world.core.clock.advance()
        world.run(Waiting(SLOW), 2)

    # The first transaction stores the start.
    world.core.answers["dynamodb.TransactWriteItems"] = meanwhile(another, before=2)
    world.run(Waiting("Something else."), 1)
    assert world.stage().waiting_for == SLOW

    # Nor does the word of one that fails.
    def fails() -> None:
        world.core.answers.clear()
        world.run(failure(ErrorType.NETWORK_ERROR, "No answer."), 4)

    world.core.answers["dynamodb.TransactWriteItems"] = meanwhile(fails, before=2)
    world.run(failure(ErrorType.CONFLICT, "It is not ours."), 3)
    assert world.stage().status is StageStatus.RETRYING


def test_a_wait_that_cannot_be_stored_is_an_error_that_passes(world: World) -> None:
    world.core.answers["dynamodb.TransactWriteItems"] = lambda parameters: (
        aws_error("InternalServerError", 500)(parameters)
        if ":waiting_for" in str(parameters)
        else None
    )
    assert world.run(Waiting(NO_ROOM)).type is ErrorType.NETWORK_ERROR
    assert world.stage().status is StageStatus.RETRYING


def test_a_retry_of_the_job_waits_anew(world: World) -> None:
    world.wait()
    world.record_failure(WAITING_ERROR)
    world.core.jobs.retry(world.job())
    assert world.job().waits == ()

    world.wait(after=5000)

    assert world.stage().attempt == 1
    assert world.stage().waits_until == world.core.clock.at + timedelta(seconds=WAITS_SECONDS)


# --- Cancelled, or ended from outside -------------------------------------------------------------


@pytest.mark.parametrize("is_cleaned_up", [True, False])
def test_a_job_that_waits_is_cancelled_at_once(world: World, *, is_cleaned_up: bool) -> None:
    world.is_cleaned_up = is_cleaned_up
    world.wait()
    world.wait(retry_count=1)

    job = world.cancel()

    assert (job.status, error_of(job).type) == (JobStatus.CANCELLED, ErrorType.JOB_CANCELLED)
    (other,) = job.other_errors
    assert (other.type, other.stage) == (ErrorType.JOB_CANCELLED, PLACING)
    assert other.message == f"The job was cancelled while the stage waited: {NO_ROOM}"
    assert (job.stages[0].status, job.stages[0].error) == (StageStatus.FAILED, other)
    assert job.waits == ()
    assert bool(job.cleanup_job_id) == is_cleaned_up
    assert len(sent(world.core)) == is_cleaned_up
    before = world.job()

    # A poll that was on its way finds that, and so does its answer.
    assert isinstance(world.run(AssertionError(), 2), ProvisioningError)
    assert world.job() == before


def test_what_a_job_holds_is_kept_from_one_that_is_polled(world: World) -> None:
    world.wait()
    over_at = world.lose(1)

    assert world.cancel().status is JobStatus.RUNNING
    world.core.clock.at = over_at - timedelta(seconds=1)
    assert world.reconcile().status is JobStatus.RUNNING
    world.core.clock.advance()
    assert world.reconcile().status is JobStatus.CANCELLED


def test_a_poll_finds_that_its_job_is_cancelled(world: World) -> None:
    world.wait()
    world.core.jobs.request_cancel(world.job())

    assert world.run(AssertionError(), 1).type is ErrorType.JOB_CANCELLED
    world.record_failure("JOB_CANCELLED")

    assert world.job().status is JobStatus.CANCELLED
    assert (world.stage().status, world.stage().attempt) == (StageStatus.FAILED, 1)
    assert len(world.ran) == 1


def test_who_cancels_and_who_begins_to_wait_do_not_miss_each_other(world: World) -> None:
    """Where the stage still ran as the job was cancelled, its record that it waits ends it."""

    def cancel() -> None:
        world.core.answers.clear()
        assert world.cancel().status is JobStatus.RUNNING

    # The first transaction stores the start.
    world.core.answers["dynamodb.TransactWriteItems"] = meanwhile(cancel, before=2)
    assert world.run(Waiting(NO_ROOM)).type is ErrorType.JOB_CANCELLED
    assert world.stage().status is StageStatus.FAILED


def end_execution(core: Core) -> None:
    arn = executions(core).arn(head(core))
    core.client("stepfunctions").stop_execution(executionArn=arn)


def test_a_job_whose_execution_died_while_it_waited_ends_with_that(world: World) -> None:
    world.wait()
    world.core.clock.advance(90)
    end_execution(world.core)

    job = world.reconcile()

    assert job.status is JobStatus.FAILED
    (other,) = job.other_errors
    told = f"The stage waited for 90 seconds in vain: {NO_ROOM}"
    assert (other.type, other.message) == (ErrorType.TIMEOUT, told)
    assert job.stages[0].error == other


def test_its_end_waits_for_a_poll_that_may_be_at_work(world: World) -> None:
    world.wait()
    world.core.clock.advance(90)
    until = world.lose(1)
    end_execution(world.core)

    for _ in range(2):
        job = world.reconcile()
        assert job.status is JobStatus.RUNNING
        stage, end = job.waits
        assert (stage.stage, end.stage, end.until) == (PLACING, "", until)
        assert end.waiting_for == "An earlier attempt of PLACING may still be at work."
        world.core.clock.advance()
    world.core.clock.at = until

    assert world.reconcile().status is JobStatus.FAILED
    assert [entry.note for entry in world.history("WAITING", "JOB")] == [end.waiting_for]


def test_a_process_that_waits_is_not_taken_for_gone(world: World) -> None:
    core = world.core
    core.client("stepfunctions").delete_state_machine(
        stateMachineArn=executions(core)
        .arn(world.job())
        .rpartition(":")[0]
        .replace(":execution:", ":stateMachine:")
    )
    world.wait()
    core.clock.advance(3700)
    assert world.reconcile().status is JobStatus.RUNNING


# --- The end of a job -----------------------------------------------------------------------------

AT_WORK = "An earlier attempt of MAKING may still be at work."


def superseded(world: World) -> datetime:
    """Let an attempt of MAKING never say how it ended; return when it has ended in any case."""
    quiet_at = world.lose(0, MAKING)
    world.core.clock.advance()
    assert world.run(StageOutcome(), 1, MAKING)["status"] == "SUCCEEDED"
    return quiet_at


def test_the_last_stage_waits_and_says_what_for(world: World) -> None:
    quiet_at = superseded(world)

    for retry_count in range(2):
        assert str(world.ends(LAST, retry_count)) == AT_WORK
        assert set(metrics.metric_set) == (set() if retry_count else {"StageWaits"})
        world.core.clock.advance(POLL_SECONDS / 2)

    stored = world.stage(LAST)
    assert (stored.status, stored.attempt, stored.waiting_for) == (StageStatus.WAITING, 1, AT_WORK)
    assert stored.waits_until == quiet_at
    (entry,) = world.history("WAITING", LAST)
    assert (entry.note, entry.attempt) == (AT_WORK, 1)

    world.core.clock.at = quiet_at
    assert world.ends(LAST, 2)["status"] == "SUCCEEDED"
    assert "StageWaitDuration" in metrics.metric_set
    stored = world.stage(LAST)
    assert (stored.attempt, stored.waiting_for, stored.waits_until) == (1, "", None)
    assert (world.job().status, world.job().result) == (JobStatus.COMPLETED, {"made": 1})


def test_the_record_of_a_failure_waits_and_says_what_for(world: World) -> None:
    quiet_at = superseded(world)

    for retry_count in range(2):
        assert str(world.ends(RECORD_FAILURE, retry_count)) == AT_WORK
        world.core.clock.advance(POLL_SECONDS / 2)

    (wait,) = world.job().waits
    assert (wait.stage, wait.waiting_for, wait.until) == ("", AT_WORK, quiet_at)
    assert [entry.note for entry in world.history("WAITING", "JOB")] == [AT_WORK]

    world.core.clock.at = quiet_at
    assert world.ends(RECORD_FAILURE, 2)["error_type"] == "CONFLICT"
    assert world.job().waits == ()
    assert metrics.metric_set["StageWaitDuration"]["Value"] == [(quiet_at - wait.since) / MS]


@pytest.mark.parametrize("end", [LAST, RECORD_FAILURE])
def test_the_end_of_a_job_goes_on_once_its_polls_have_lasted_long_enough(
    world: World, end: str
) -> None:
    """So it does where each wait is shortened, and the clock would not let it."""
    superseded(world)
    most = waiting_retry(LONGEST_RUN_SECONDS).max_attempts
    assert isinstance(world.ends(end), StageWaiting)
    assert isinstance(world.ends(end, most - 1), StageWaiting)
    assert not isinstance(world.ends(end, most), StageWaiting)
    assert world.job().status.is_terminal


def test_a_failure_that_a_clean_up_follows_is_recorded_at_once(world: World) -> None:
    world.is_cleaned_up = True
    superseded(world)
    assert world.ends(RECORD_FAILURE)["has_cleanup"]


def test_a_last_stage_that_waits_is_cancelled_at_once(world: World) -> None:
    world.is_cleaned_up = True
    superseded(world)
    assert isinstance(world.ends(LAST), StageWaiting)

    job = world.cancel()

    assert job.status is JobStatus.CANCELLED
    assert (job.stages[-1].status, job.stages[-1].attempt) == (StageStatus.FAILED, 1)


def test_a_last_stage_whose_job_is_cancelled_does_not_wait(world: World) -> None:
    superseded(world)
    assert isinstance(world.ends(LAST), StageWaiting)
    world.core.jobs.request_cancel(world.job())

    assert world.ends(LAST, 1).type is ErrorType.JOB_CANCELLED


def test_the_last_stage_may_wait_by_itself(world: World) -> None:
    """What it waits for is asked of its code, and the end of the job is none of its concern."""
    definition = replace(DEFINITION, steps=(_stage("LAST", WAITS_SECONDS),))
    run = partial(world.run, stage=LAST, definitions={DEFINITION.name: definition})
    assert type(run(Waiting(NO_ROOM))) is StageWaiting
    assert run(StageOutcome(completion=Completion(result={})), 1)["status"] == "SUCCEEDED"
    assert world.job().status is JobStatus.COMPLETED
    assert world.stage(LAST).attempt == 1


#: What the next run of a stage does, how long after the last, and whether the same start began it.
RUNS = st.lists(
    st.tuples(st.sampled_from(("lost", "WAITING", "RETRYING")), st.integers(1, 60), st.booleans()),
    min_size=1,
    max_size=6,
)


@settings(max_examples=20, deadline=None)
@given(RUNS, st.booleans())
def test_no_run_is_at_work_once_no_lease_is_open(
    runs: list[tuple[str, int, bool]],
    is_retried: bool,  # noqa: FBT001
) -> None:
    """Whatever runs there were, each of which the word got lost is over after the wait."""
    with deployment() as core:
        core.make_state_machine("provision_project")
        world = World(core)
        lost: list[datetime] = []
        number = 0
        for end, after, is_again in runs:
            core.clock.advance(after)
            if end == "lost":
                held = core.jobs.start(world.job(), PLACING, number)
                if held is not None and held.lease_until is not None:
                    lost.append(held.lease_until)
            else:
                is_wait = end == "WAITING"
                world.run(
                    Waiting(NO_ROOM) if is_wait else failure(ErrorType.NETWORK_ERROR, "No."), number
                )
            number += not is_again
        if is_retried:
            error = StoredError(ErrorType.CONFLICT, "", 0, "It is not ours.", "")
            core.jobs.fail(world.job(), BadEnd([error]))
            core.clock.advance()
            core.jobs.retry(world.job())
        now = core.clock.at
        lease = lease_wait(world.job(), now)
        quiet_at = now if lease is None else lease.until
        assert all(over_at <= quiet_at for over_at in lost)
        # And nobody waits for longer than one that began last may take.
        assert quiet_at <= max([now, *lost])


# --- In one's own process -------------------------------------------------------------------------


class Process:
    """Runs a job in this process; a minute of its sleep is one."""

    def __init__(self, world: World, ends: Ends) -> None:
        self.slept: list[float] = []
        self._world = world
        self._ends = iter(ends)

    def __call__(self) -> Job:
        world = self._world

        def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            world.core.clock.advance(seconds)

        def step(event: Any) -> dict[str, Any]:
            world.core.clock.advance()
            end: Any = StageOutcome()
            if event["stage"] == PLACING:
                end = next(self._ends)
            answer = world.run(end, event["retry_count"], event["stage"])
            if isinstance(answer, Exception):
                raise answer
            return dict(answer)

        recorder = FailureRecorder(world.core.jobs, world.policies)
        InProcessRun(DEFINITIONS, step, recorder, sleep=sleep)(job_input(world.job(), 1))
        return world.job()


def test_a_stage_waits_in_ones_own_process_too(world: World) -> None:
    error = failure(ErrorType.NETWORK_ERROR, "No answer.")
    ends = [Waiting(NO_ROOM)] * 3 + [error] + [Waiting(SLOW)] * 2 + [StageOutcome()]
    run = Process(world, ends)

    job = run()

    assert job.status is JobStatus.COMPLETED
    assert job.stages[0].attempt == 2
    assert [seconds == POLL_SECONDS for seconds in run.slept] == [True] * 3 + [False] + [True] * 2


def test_it_waits_there_no_longer_than_it_may(world: World) -> None:
    run = Process(world, itertools.repeat(Waiting(NO_ROOM)))

    job = run()

    assert (job.status, error_of(job).type) == (JobStatus.FAILED, ErrorType.TIMEOUT)
    assert WAITS_SECONDS <= sum(run.slept) <= WAITS_SECONDS + POLL_SECONDS


def test_it_waits_there_no_longer_though_the_clock_stands_still(world: World) -> None:
    run = Process(world, itertools.repeat(Waiting(NO_ROOM)))
    world.core.clock.advance = lambda *_: None  # type: ignore[method-assign]

    job = run()

    assert (job.status, error_of(job).type) == (JobStatus.FAILED, ErrorType.TIMEOUT)
    assert len(run.slept) == waiting_retry(WAITS_SECONDS).max_attempts
