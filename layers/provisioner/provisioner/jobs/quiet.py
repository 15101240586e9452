"""When nothing of a job is at work any more: what its end waits for, and its clean-up.

An attempt whose answer got lost on the way goes on beside the next one, and beside all that
follows. Its function ends it in the end: AWS Lambda lets none run longer than its time-out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.metrics import MetricUnit

from provisioner.drivers.aws_errors import translated
from provisioner.errors import ErrorType
from provisioner.jobs.definition import LONGEST_RUN_SECONDS, JobDefinitions, longest_run
from provisioner.jobs.models import (
    CANCEL_REQUESTED,
    ENDS,
    JOB_SUBJECT,
    JOB_WAITS,
    HistoryEntry,
    Job,
    StageRecord,
    StageStatus,
)
from provisioner.jobs.registry import of_job_type
from provisioner.jobs.retries import POLL_SECONDS, waiting_retry
from provisioner.jobs.stage_run import RECORD_FAILURE, StageEvent, StageWaiting, measure_wait
from provisioner.runtime.observability import logger, measure_by, metrics

if TYPE_CHECKING:
    from provisioner.jobs.failure import FailurePolicy, Release
    from provisioner.jobs.store import JobStore


#: After the time that a stage may wait, a poll of it ends that wait; see `waiting_retry`.
_LAST_POLLS = timedelta(seconds=3 * POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class AtWork:
    """A stage of which an attempt, or a poll, may be at work that never said how it ended."""

    stage: str
    #: When its function has ended it.
    until: datetime
    #: Whether it is a poll of a stage that waits, or has waited.
    is_poll: bool = False

    @property
    def waiting_for(self) -> str:
        """What the end of the job waits for, in one sentence."""
        what = "A poll" if self.is_poll else "An earlier attempt"
        return f"{what} of {self.stage} may still be at work."


def longest_at_work(
    job: Job, now: datetime, definitions: JobDefinitions, *, with_polls: bool = True
) -> AtWork | None:
    """Return the stage that may be at work for longest; None where none may be.

    Args:
        job: the job, with its history.
        now: the time.
        definitions: the job types, which say how long an attempt of each stage may be at work.
        with_polls: whether a poll of a stage that waits, or has waited, counts.
    """
    began = [(s, start.at, False) for s, starts in _unended(job).items() for start in starts]
    polled = [(s, at, True) for s, at in _polled(job, now)] if with_polls else []
    found = [
        AtWork(s, at + timedelta(seconds=longest_run(definitions, job.job_type, s)), is_poll)
        for s, at, is_poll in [*began, *polled]
    ]
    longest = max(found, key=lambda at_work: (at_work.until, at_work.stage), default=None)
    return None if longest is None or longest.until <= now else longest


def longest_before_end(
    job: Job, now: datetime, definitions: JobDefinitions, release: Release
) -> AtWork | None:
    """Return the stage that the end of a job, which no clean-up follows, has to wait for longest.

    Where the job holds nothing, a poll that nobody has seen meets nobody: it is not waited for.
    """
    found = longest_at_work(job, now, definitions)
    if found is None or release(job):
        return found
    return longest_at_work(job, now, definitions, with_polls=False)


def _polled(job: Job, now: datetime) -> Iterator[tuple[str, datetime]]:
    """Yield the stages that have waited, and when a poll of each may have begun, at the latest.

    Nobody records the start of a poll: one whose answer got lost may be at work unseen, unless the
    change with which the wait was over says that each has said its word. None begins after that
    change; nor, of a stage that still waits, after the job was cancelled, its failure was to be
    recorded, or it ended, or long after its time was over.
    """
    changes: dict[tuple[str, int], list[HistoryEntry]] = {}
    for entry in job.history:
        if entry.subject != JOB_SUBJECT:
            changes.setdefault((entry.subject, entry.round), []).append(entry)
    for (stage, round_), of_round in changes.items():
        # Before its start none of its code runs: such a wait names no attempt.
        waits = [entry.status == StageStatus.WAITING and entry.attempt > 0 for entry in of_round]
        last = of_round[-1]
        if not waits[-1]:
            ends = (end for was, end in zip(waits, of_round[1:], strict=False) if was)
            if any(end.status != StageStatus.WAITING and not end.polls_seen for end in ends):
                yield stage, last.at
            continue
        stops = ENDS | {CANCEL_REQUESTED, JOB_WAITS}
        stopped = [
            entry.at
            for entry in job.history
            if entry.subject == JOB_SUBJECT and entry.attempt == round_ and entry.status in stops
        ]
        yield stage, min(now, (last.waits_until or now) + _LAST_POLLS, *stopped)


def _unended(job: Job) -> dict[str, list[HistoryEntry]]:
    """Return, by stage, the starts of the attempts that never said how they ended."""
    of_job = {record.stage for record in job.stages}
    unended: dict[str, list[HistoryEntry]] = {}
    for entry in job.history:
        if entry.status == StageStatus.RUNNING and entry.subject in of_job:
            unended.setdefault(entry.subject, []).append(entry)
    for entry in job.history:
        # A wait for the start says nothing of an attempt before.
        if entry.status == StageStatus.WAITING and not entry.attempt:
            continue
        starts = [
            start
            for start in unended.get(entry.subject, [])
            if start.at <= entry.at and entry.attempt in {0, start.attempt}
        ]
        # With the end of the job others speak for the stages that never did.
        is_own_word = not _had_ended(job, entry)
        if entry.status != StageStatus.RUNNING and is_own_word and starts:
            # Where it may be the end of several, the last is taken to be at work still.
            unended[entry.subject].remove(starts[0])
    return unended


def _had_ended(job: Job, change: HistoryEntry) -> bool:
    """Whether the job's attempt had ended when its stage was changed."""
    return any(
        entry.subject == JOB_SUBJECT
        and entry.attempt == change.round
        and entry.status in ENDS
        and entry.at <= change.at
        for entry in job.history
    )


class QuietEnds:
    """Keeps a job from ending, well or badly, while one of its stages may still be at work.

    With its end a job lets go of what it holds, so that the next may begin: that one must not meet
    what such a stage makes or removes. In a process of one's own no attempt outlives its answer.
    """

    def __init__(
        self,
        store: JobStore,
        policies: Mapping[str, FailurePolicy],
        definitions: JobDefinitions,
    ) -> None:
        """Bind it.

        Args:
            store: the jobs.
            policies: what follows a failure, by job type.
            definitions: the job types.
        """
        self._store = store
        self._policies = policies
        self._definitions = definitions

    def __call__(self, event: Mapping[str, Any]) -> None:
        """See whether the step that the event names may begin; else record that it waits.

        It is asked before the step records its start: a stage that has to wait has not started.

        Raises:
            StageWaiting: it would end the job too early.
            ProvisioningError: as `translated` says, so that what can pass is tried again.
        """
        parsed = StageEvent.model_validate(event)
        definition = self._definitions.get(parsed.job.job_type)
        if parsed.stage not in {RECORD_FAILURE, None if definition is None else definition.last}:
            return
        # Repeated so often, it has waited for longer than any function runs. The clock says so
        # before, but for where each wait is shortened, as on the local stack.
        if parsed.retry_count >= waiting_retry(LONGEST_RUN_SECONDS).max_attempts:
            return
        with translated(ErrorType.UNKNOWN_ERROR, "see whether a stage is still at work"):
            job = self._store.get(parsed.job.job_id)
            # The step's own earlier attempts end the job, or find it ended.
            others = tuple(entry for entry in job.history if entry.subject != parsed.stage)
            at_work = longest_before_end(
                replace(job, history=others),
                self._store.now(),
                self._definitions,
                of_job_type(self._policies, job).release,
            )
            if at_work is None or self._may_go_on(job, parsed):
                # The one who ends the job measures how long its end has waited.
                if parsed.stage != RECORD_FAILURE:
                    measure_by(stage=parsed.stage)
                    measure_wait(_record_of(job, parsed).waiting_since, self._store.now())
                return
            self._record(job, parsed, at_work)
            # Read after the wait is stored, as after a stage's own.
            if self._may_go_on(self._store.get(job.job_id), parsed):
                return
        logger.append_keys(job_id=job.job_id, project_id=job.project_id, stage=parsed.stage)
        logger.info(
            "the end of the job waits",
            waiting_for=at_work.waiting_for,
            waits_until=at_work.until.isoformat(),
        )
        raise StageWaiting(at_work.waiting_for)

    def _may_go_on(self, job: Job, event: StageEvent) -> bool:
        """Whether the step ends nothing, or what follows holds all that the job holds, and waits.

        A last stage that finds the job cancelled ends nothing: the job then fails.
        """
        if job.status.is_terminal or job.attempt != event.job.attempt:
            return True
        if event.stage != RECORD_FAILURE:
            return job.cancel_requested_at is not None
        return of_job_type(self._policies, job).request_cleanup(job, job.job_id) is not None

    def _record(self, job: Job, event: StageEvent, at_work: AtWork) -> None:
        if event.stage == RECORD_FAILURE:
            begins = not any(wait.stage == "" for wait in job.waits)
            is_written = self._store.job_waits(job, at_work.waiting_for, at_work.until)
        else:
            record = _record_of(job, event)
            begins = record.status is not StageStatus.WAITING
            is_written = self._store.stage_waits(
                job,
                record,
                at_work.waiting_for,
                at_work.until,
                retry_count=event.retry_count,
                round_=event.round,
                to_start=True,
            )
        if begins and is_written:
            measure_by(stage=event.stage)
            metrics.add_metric("StageWaits", MetricUnit.Count, 1)


def _record_of(job: Job, event: StageEvent) -> StageRecord:
    return next(record for record in job.stages if record.stage == event.stage)
