"""When nothing of a job is at work any more: what its end waits for, and its clean-up twice.

An attempt whose answer got lost on the way goes on beside the next one, and beside all that
follows. Its function ends it in the end: AWS Lambda lets none run longer than its time-out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from provisioner.drivers.aws_errors import translated
from provisioner.errors import ErrorType
from provisioner.jobs.definition import JobDefinitions, longest_run
from provisioner.jobs.models import (
    CLEANUP_SUBJECT,
    ENDS,
    JOB_SUBJECT,
    HistoryEntry,
    Job,
    StageStatus,
)
from provisioner.jobs.registry import of_job_type
from provisioner.jobs.retries import QUIET_RETRY
from provisioner.jobs.stage_run import RECORD_FAILURE, StageEvent
from provisioner.runtime.observability import logger

if TYPE_CHECKING:
    from provisioner.jobs.failure import FailurePolicy
    from provisioner.jobs.store import JobStore


def seconds_until_quiet(job: Job, now: datetime, definitions: JobDefinitions) -> int:
    """Return for how many seconds more an attempt may be at work that never said how it ended.

    Args:
        job: the job, with its history.
        now: the time.
        definitions: the job types, which say how long an attempt of each stage may be at work.
    """
    until = max(
        (
            start.at + timedelta(seconds=longest_run(definitions, job.job_type, stage))
            for stage, starts in _unended(job).items()
            for start in starts
        ),
        default=now,
    )
    return max(0, math.ceil((until - now).total_seconds()))


def _unended(job: Job) -> dict[str, list[HistoryEntry]]:
    """Return, by stage, the starts of the attempts that never said how they ended."""
    of_job = {record.stage for record in job.stages}
    of_cleanup = {record.stage for record in job.cleanup.stages} if job.cleanup else set()
    unended: dict[str, list[HistoryEntry]] = {}
    for entry in job.history:
        if entry.status == StageStatus.RUNNING and entry.subject in of_job | of_cleanup:
            unended.setdefault(entry.subject, []).append(entry)
    for entry in job.history:
        starts = [
            start
            for start in unended.get(entry.subject, [])
            if start.at <= entry.at and entry.attempt in {0, start.attempt}
        ]
        # With the end of the job, or of its clean-up, others speak for the stages that never did.
        whole = CLEANUP_SUBJECT if entry.subject in of_cleanup else JOB_SUBJECT
        is_own_word = not _had_ended(job, whole, entry)
        if entry.status != StageStatus.RUNNING and is_own_word and starts:
            # Where it may be the end of several, the last is taken to be at work still.
            unended[entry.subject].remove(starts[0])
    return unended


def _had_ended(job: Job, whole: str, change: HistoryEntry) -> bool:
    """Whether the job's attempt, or the clean-up's run, had ended when its stage was changed."""
    return any(
        entry.subject == whole
        and entry.attempt == change.round
        and entry.status in ENDS[whole]
        and entry.at <= change.at
        for entry in job.history
    )


class QuietStep:
    """The step of a clean-up that says for how long something may still be at work."""

    def __init__(self, store: JobStore, definitions: JobDefinitions) -> None:
        """Bind the step to the jobs, and to their types."""
        self._store = store
        self._definitions = definitions

    def __call__(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Look at what the stages of the job, and of its clean-up, have said.

        Returns:
            ok, and the seconds: 0 where nothing is at work.

        Raises:
            ProvisioningError: as `translated` says, so that what can pass is tried again.
        """
        parsed = StageEvent.model_validate(event)
        logger.append_keys(
            job_id=parsed.job.job_id, project_id=parsed.job.payload.get("project_id", "")
        )
        with translated(ErrorType.UNKNOWN_ERROR, "see whether a stage is still at work"):
            job = self._store.get(parsed.job.job_id)
            seconds = seconds_until_quiet(job, self._store.now(), self._definitions)
        if seconds > 0:
            logger.warning("a stage may still be at work", seconds=seconds)
        return {"ok": True, "seconds": seconds}


class StageAtWorkError(Exception):
    """A stage of a job that is about to end may still be at work.

    It is no error of the job: a retrier of its own, `QUIET_RETRY`, repeats what ends the job, until
    that may go on.
    """


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
        """See whether the step that the event names may begin.

        It is asked before the step records its start: a stage that has to wait has not started.

        Raises:
            StageAtWorkError: it would end the job too early.
            ProvisioningError: as `translated` says, so that what can pass is tried again.
        """
        parsed = StageEvent.model_validate(event)
        definition = self._definitions.get(parsed.job.job_type)
        ends = {RECORD_FAILURE, None if definition is None else definition.last}
        # Repeated as often as it may, it has waited for longer than any function runs.
        if parsed.stage not in ends or parsed.retry_count >= QUIET_RETRY.max_attempts:
            return
        with translated(ErrorType.UNKNOWN_ERROR, "see whether a stage is still at work"):
            job = self._store.get(parsed.job.job_id)
            # The step's own earlier attempts end the job, or find it ended.
            others = tuple(entry for entry in job.history if entry.subject != parsed.stage)
            seconds = seconds_until_quiet(
                replace(job, history=others), self._store.now(), self._definitions
            )
            if seconds == 0 or self._lets_go_of_nothing(job, parsed):
                return
        logger.append_keys(job_id=job.job_id, project_id=job.project_id)
        logger.warning("a stage may still be at work", seconds=seconds)
        raise StageAtWorkError(f"A stage of the job may be at work for {seconds} seconds more.")

    def _lets_go_of_nothing(self, job: Job, event: StageEvent) -> bool:
        """Whether the step ends nothing, or a clean-up follows, which holds all and waits too."""
        if job.status.is_terminal or job.attempt != event.job.attempt:
            return True
        return event.stage == RECORD_FAILURE and bool(
            of_job_type(self._policies, job).cleanup_stages(job)
        )
