"""What a job, its stages and its history are, and how far it has come.

Which status may follow which is said here too; every write of a status is conditional on that.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from provisioner.errors import ErrorType
from provisioner.jobs.retries import STAGE_RETRY

#: The message of a job that someone cancelled.
CANCELLED_MESSAGE = "The job was cancelled."


def waited_in_vain(waiting_for: str, seconds: float) -> str:
    """Say that what a stage has waited for so long has not come."""
    return f"The stage waited for {max(0, round(seconds))} seconds in vain: {waiting_for}"


class JobStatus(StrEnum):
    """Where a job as a whole stands."""

    #: Stored; its message is on the way, or it waits for a slot, and no stage has started.
    QUEUED = "QUEUED"
    #: Its first stage has started.
    RUNNING = "RUNNING"
    #: Terminal: everything that it makes answered.
    COMPLETED = "COMPLETED"
    #: Terminal: the job's error says which stage failed and why.
    FAILED = "FAILED"
    #: Terminal: someone cancelled it before it was completed.
    CANCELLED = "CANCELLED"

    @property
    def is_terminal(self) -> bool:
        """Whether its attempt has ended: only a retry, which begins the next one, changes it."""
        return self in {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}


class StageStatus(StrEnum):
    """Where one stage of a job stands."""

    #: Not started.
    PENDING = "PENDING"
    #: An attempt is under way, or its process died without saying how it ended.
    RUNNING = "RUNNING"
    #: The last attempt failed with a retryable error; the next starts by `next_attempt_before`,
    #: or, where that is empty, none is left and the stage waits to be closed.
    RETRYING = "RETRYING"
    #: It waits for what `waiting_for` says and is asked again and again, which counts no attempt;
    #: where it has not come by `waits_until`, the stage fails with TIMEOUT.
    WAITING = "WAITING"
    #: Terminal: it ended well and its check answered.
    SUCCEEDED = "SUCCEEDED"
    #: Terminal: the payload does not ask for it, or there was nothing left to do.
    SKIPPED = "SKIPPED"
    #: Terminal: it failed for good.
    FAILED = "FAILED"

    @property
    def is_terminal(self) -> bool:
        """Whether no write may change it any more."""
        return self in {StageStatus.SUCCEEDED, StageStatus.SKIPPED, StageStatus.FAILED}

    @property
    def is_done(self) -> bool:
        """Whether it has ended well."""
        return self in {StageStatus.SUCCEEDED, StageStatus.SKIPPED}


#: From each status of a job, the statuses that may follow within one attempt of it.
JOB_TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    # FAILED without RUNNING: the dispatcher refused the job, or its message got lost.
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}

#: The statuses that end an attempt of a job.
ENDS: tuple[JobStatus, ...] = tuple(s for s in JobStatus if s.is_terminal)

#: From which statuses a retry makes a job QUEUED again. It is the only way out of a terminal
#: status, and it counts the job's attempt: what an attempt before says from then on finds its
#: condition false.
RETRY_SOURCES: tuple[JobStatus, ...] = (JobStatus.FAILED, JobStatus.CANCELLED)

#: From each status of a stage, the statuses that may follow within one attempt of its job. RUNNING
#: follows RUNNING when an attempt died and the next one starts. WAITING follows
#: itself with each poll; before the first attempt, it is for a slot.
STAGE_TRANSITIONS: dict[StageStatus, frozenset[StageStatus]] = {
    StageStatus.PENDING: frozenset(
        {StageStatus.RUNNING, StageStatus.WAITING, StageStatus.FAILED, StageStatus.SKIPPED}
    ),
    StageStatus.RUNNING: frozenset(set(StageStatus) - {StageStatus.PENDING}),
    StageStatus.RETRYING: frozenset({StageStatus.RUNNING, StageStatus.FAILED}),
    StageStatus.WAITING: frozenset(set(StageStatus) - {StageStatus.PENDING}),
    StageStatus.SUCCEEDED: frozenset(),
    StageStatus.SKIPPED: frozenset(),
    StageStatus.FAILED: frozenset(),
}

#: The statuses of a stage that has not ended.
OPEN_STAGE: tuple[StageStatus, ...] = tuple(s for s in StageStatus if not s.is_terminal)


def job_sources(target: JobStatus) -> tuple[JobStatus, ...]:
    """Return the statuses from which a job may become `target`."""
    return tuple(source for source, targets in JOB_TRANSITIONS.items() if target in targets)


class StageClosed(StrEnum):
    """Why no run of a stage starts any more."""

    #: Someone has asked for the job to be cancelled: what runs may finish.
    JOB_CANCELLED = "JOB_CANCELLED"
    #: The job's attempt has ended.
    ENDED = "ENDED"


@dataclass(frozen=True, slots=True)
class StoredError:
    """An error as the job keeps it."""

    type: ErrorType
    #: The stage that raised it; empty where the job failed before its first stage.
    stage: str
    #: The attempt of the stage that raised it, from 1; 0 where no attempt had started.
    attempt: int
    #: One sentence that is safe to show a customer.
    message: str
    #: The technical cause, for operators.
    cause: str


#: What a job ends with that someone cancelled.
CANCELLED_ERROR = StoredError(ErrorType.JOB_CANCELLED, "", 0, CANCELLED_MESSAGE, "")


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage of a job.

    What counts, where the job waits for a slot, and the stage then fails once and waits once:

    | event | status | attempt | failures | retry_count | retries_before |
    | --- | --- | --- | --- | --- | --- |
    | no slot is free | WAITING | 0 | 0 | 0 | 0 |
    | a slot is, at the next look | RUNNING | 1 | 0 | 1 | 1 |
    | the attempt fails | RETRYING | 1 | 1 | 1 | 1 |
    | the next one begins | RUNNING | 2 | 1 | 2 | 1 |
    | it waits for something | WAITING | 2 | 1 | 2 | 1 |
    | it is polled, and ends well | SUCCEEDED | 2 | 1 | 3 | 1 |
    """

    stage: str
    status: StageStatus = StageStatus.PENDING
    #: The job's attempt that the record belongs to.
    job_attempt: int = 1
    #: Why nothing of it starts any more in this attempt of the job.
    closed: StageClosed | None = None
    #: Attempts that have started.
    attempt: int = 0
    #: Attempts that have said that they failed.
    failures: int = 0
    #: How often the state machine had repeated the stage when its last run started: it tells the
    #: runs of a stage apart, attempts and polls alike.
    retry_count: int = 0
    #: Until when the last run may be at work, unless it has recorded its end.
    lease_until: datetime | None = None
    #: Until when one may be at work that another run followed before it recorded its end.
    superseded_until: datetime | None = None
    #: How often the state machine had repeated the stage when its first attempt began: the job had
    #: waited for a slot, or AWS Lambda had not run it. These are neither attempts nor polls.
    retries_before: int = 0
    #: When the last attempt started.
    started_at: datetime | None = None
    #: When the stage reached a terminal status.
    finished_at: datetime | None = None
    #: The latest time at which the next attempt starts (the wait is drawn between zero and this).
    next_attempt_before: datetime | None = None
    #: What it is WAITING for, in one sentence; empty where it does not wait.
    waiting_for: str = ""
    #: Since when it is WAITING.
    waiting_since: datetime | None = None
    #: When the wait ends at the latest; of the first wait of the job's attempt, however often it
    #: waits.
    waits_until: datetime | None = None
    #: What the stage made, without secrets.
    output: dict[str, Any] = field(default_factory=dict)
    #: What answered, in one sentence.
    check: str = ""
    #: The last attempt's error.
    error: StoredError | None = None
    #: Whether the call that returned it has stored the start of its attempt; it is not kept.
    is_start_stored: bool = field(default=False, compare=False)

    @property
    def max_attempts(self) -> int:
        """Attempts that the stage has in all; more than the retries say, where answers got lost."""
        is_next_known = self.next_attempt_before is not None
        return max(STAGE_RETRY.attempts_in_all, self.attempt + is_next_known)


#: What changes of a stage that waits no more. Until when it may wait in all is kept.
NO_WAIT: dict[str, Any] = {"waiting_for": "", "waiting_since": None}


def cancelled_while_waiting(record: StageRecord) -> StoredError:
    """Return the error of a stage that waits for what is wanted no more."""
    message = f"The job was cancelled while the stage waited: {record.waiting_for}"
    return StoredError(ErrorType.JOB_CANCELLED, record.stage, record.attempt, message, "")


#: The subject of a change of the job itself.
JOB_SUBJECT = "JOB"

#: What a job's history says of it beside its statuses: someone asked for it to be cancelled; its
#: end waits; the reconciler put something right.
CANCEL_REQUESTED = "CANCEL_REQUESTED"
JOB_WAITS = "WAITING"
REPAIRED = "REPAIRED"

#: The subject of what a job's history says later of something that the job has made; the status is
#: the notice's name.
NOTICE_SUBJECT = "NOTICE"


def place_in_transaction(subject: str, status: str) -> int:
    """Return where a change belongs among those that were written together.

    A job starts before its first stage, and ends after the stages that end with it. A stage is
    skipped after the one that does not ask for it.
    """
    if subject != JOB_SUBJECT:
        return 2 if status == StageStatus.SKIPPED else 1
    return 3 if status in ENDS else 0


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of a job or a stage; entries are only ever added."""

    #: Changes that were written together have the same time, and stand in order all the same.
    at: datetime
    #: The stage, or `JOB`, or `NOTICE`.
    subject: str
    status: str
    #: Of the subject; 0 where a stage has ended well.
    attempt: int = 0
    note: str = ""
    #: Why, where the change is a failure.
    error_type: ErrorType | None = None
    #: The job's attempt that a stage's change belongs to; 0 of a change of the job.
    job_attempt: int = 0
    #: The stage that raised the error, where one did.
    error_stage: str = ""
    #: The attempt of that stage.
    error_attempt: int = 0
    #: The latest time at which a stage's next attempt starts, where it waits for one.
    next_attempt_before: datetime | None = None
    #: When a wait ends at the latest, where one has begun; the note says what for.
    waits_until: datetime | None = None
    #: What is left where a clean-up has failed, one resource each.
    remaining: tuple[str, ...] = ()
    #: The time that a notice is about.
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """What a job, or a stage of it, waits for."""

    #: The stage; empty where the end of the job waits.
    stage: str
    #: What for, in one sentence.
    waiting_for: str
    since: datetime
    #: When it ends at the latest.
    until: datetime


@dataclass(frozen=True, slots=True)
class Job:
    """A job with its stages and its history, as one read returns it."""

    job_id: str
    job_type: str
    status: JobStatus
    #: The validated payload; empty where the job was refused before it was valid, and where it was
    #: read without its parts.
    payload: dict[str, Any]
    #: The project that the job is about; empty where the payload names none.
    project_id: str
    created_at: datetime
    updated_at: datetime
    #: Counted from 1; a retry begins the next one.
    attempt: int = 1
    #: Until when its message is held back, where it is.
    held_until: datetime | None = None
    #: Why its message could not be dispatched last, where it is QUEUED; the queue tries again.
    dispatch_error: StoredError | None = None
    #: When its message was sent again, because nothing had come of the first.
    resent_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: When someone asked for the job to be cancelled; no stage starts from then on.
    cancel_requested_at: datetime | None = None
    result: dict[str, Any] | None = None
    error: StoredError | None = None
    #: Errors of the other stages that failed, in stage order.
    other_errors: tuple[StoredError, ...] = ()
    #: Its slot among those of the jobs that run at once; None where it has none. A clean-up has
    #: that of the job which has failed.
    slot: int | None = None
    #: The job that has failed, where this one is its clean-up: it removes what that one has made.
    parent_id: str = ""
    #: The clean-up of the last attempt that had one.
    cleanup_job_id: str = ""
    #: What may be left where it has failed to remove it, one resource each.
    remaining: tuple[str, ...] = ()
    #: Every stage of the job type, in order.
    stages: tuple[StageRecord, ...] = ()
    #: What its end waits for, where it does.
    end_wait: Wait | None = None
    history: tuple[HistoryEntry, ...] = ()
    #: Tells payloads apart; see `payload_digest` in `records`.
    payload_digest: str = ""

    @property
    def waits(self) -> tuple[Wait, ...]:
        """What it waits for: the stages that are WAITING, in order, and then its end."""
        return (
            *(
                Wait(record.stage, record.waiting_for, record.waiting_since, record.waits_until)
                for record in self.stages
                if record.waiting_since and record.waits_until
            ),
            *filter(None, [self.end_wait]),
        )

    def stage(self, name: str) -> StageRecord | None:
        """Return the stage of a name; None where the job has no such stage."""
        return next((record for record in self.stages if record.stage == name), None)

    @property
    def running_stages(self) -> tuple[StageRecord, ...]:
        """The stages that are under way: what has begun and not ended."""
        return tuple(
            record
            for record in self.stages
            if record.status in {StageStatus.RUNNING, StageStatus.RETRYING, StageStatus.WAITING}
        )

    @property
    def percent_done(self) -> int:
        """Stages that are done, of all stages, in percent; 100 only of a job that has completed.

        Of one that has failed, or was cancelled, it is what was done until then.
        """
        if self.status is JobStatus.COMPLETED:
            return 100
        if not self.stages:
            return 0
        done = sum(record.status.is_done for record in self.stages)
        return min(99, 100 * done // len(self.stages))


#: The lease of a run in someone's process, which no time-out ends. A job without an execution runs
#: in one, and where it records nothing for this long, that is gone: no wait between two attempts is
#: longer.
PROCESS_LEASE = timedelta(hours=1)


def lease_of(record: StageRecord, *, last_run_only: bool = False) -> datetime | None:
    """Return the end of the longest lease of a stage, or of its last run's; None without one.

    Until then a run of it may be at work: a run whose answer got lost on the way goes on beside the
    next one, and beside all that follows. Its function ends it in the end: AWS Lambda lets none run
    longer than its time-out. So each run takes a lease with its start, which ends when it records
    its end, or with time.
    """
    leases = (record.lease_until, None if last_run_only else record.superseded_until)
    return max(filter(None, leases), default=None)


def lease_wait(
    job: Job | None, now: datetime, *, last_runs_only: bool = False, besides: str = ""
) -> Wait | None:
    """Return what the end of a job, or a clean-up, waits for: its longest lease that has not ended.

    Args:
        job: the job, with its stages; None is one of which no lease is known.
        now: the time.
        last_runs_only: leave out the runs that another one followed.
        besides: leave out the runs of this stage.

    Returns:
        that, from now on until the lease ends; None where all have.
    """
    leases = [
        (until, record.stage)
        for record in (job.stages if job else ())
        if (until := lease_of(record, last_run_only=last_runs_only)) is not None
        and until > now
        and record.stage != besides
    ]
    if not leases:
        return None
    until, stage = max(leases)
    return Wait("", f"An earlier attempt of {stage} may still be at work.", now, until)
