"""What a job, its stages and its history are, and how far it has come."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from provisioner.errors import ErrorType


class JobStatus(StrEnum):
    """Where a job as a whole stands."""

    #: Stored; its message is on the way and no stage has started.
    QUEUED = "QUEUED"
    #: Its first stage has started.
    RUNNING = "RUNNING"
    #: Terminal: everything that it makes answered.
    COMPLETED = "COMPLETED"
    #: Terminal: the job's error says which stage failed and why.
    FAILED = "FAILED"

    @property
    def is_terminal(self) -> bool:
        """Whether no write may change it any more."""
        return self in {JobStatus.COMPLETED, JobStatus.FAILED}


class StageStatus(StrEnum):
    """Where one stage of a job stands."""

    #: Not started.
    PENDING = "PENDING"
    #: An attempt is under way, or its process died without saying how it ended.
    RUNNING = "RUNNING"
    #: The last attempt failed with a retryable error; the next starts by `next_attempt_before`,
    #: or, where that is empty, none is left and the stage waits to be closed.
    RETRYING = "RETRYING"
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


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage of a job."""

    stage: str
    status: StageStatus = StageStatus.PENDING
    #: Attempts that have started.
    attempt: int = 0
    #: Attempts that the stage has in all.
    max_attempts: int = 1
    #: When the last attempt started.
    started_at: datetime | None = None
    #: When the stage reached a terminal status.
    finished_at: datetime | None = None
    #: The latest time at which the next attempt starts (the wait is drawn between zero and this).
    next_attempt_before: datetime | None = None
    #: What the stage made, without secrets.
    output: dict[str, Any] = field(default_factory=dict)
    #: What answered, in one sentence.
    check: str = ""
    #: The last attempt's error.
    error: StoredError | None = None


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of a job or a stage; entries are only ever added."""

    at: datetime
    #: The stage, or `JOB`.
    subject: str
    status: str
    attempt: int
    note: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job with its stages and its history, as one read returns it."""

    job_id: str
    job_type: str
    status: JobStatus
    #: The validated payload; empty where the job was refused before it was valid.
    payload: dict[str, Any]
    #: The project that the job is about; empty where the payload names none.
    project_id: str
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    result: dict[str, Any] | None = None
    error: StoredError | None = None
    #: Errors of the other stages that failed, in stage order.
    other_errors: tuple[StoredError, ...] = ()
    #: Every stage of the job type, in order.
    stages: tuple[StageRecord, ...] = ()
    history: tuple[HistoryEntry, ...] = ()

    @property
    def running_stages(self) -> tuple[StageRecord, ...]:
        """The stages that have started and not ended."""
        return tuple(
            record
            for record in self.stages
            if record.status in {StageStatus.RUNNING, StageStatus.RETRYING}
        )

    @property
    def percent_done(self) -> int:
        """Stages that ended, of all stages, in percent; 100 only when the job is terminal."""
        if self.status.is_terminal:
            return 100
        if not self.stages:
            return 0
        ended = sum(record.status.is_terminal for record in self.stages)
        return min(99, 100 * ended // len(self.stages))
