"""When nothing of a job is at work any more: what its clean-up waits for, and ends with.

An attempt whose answer got lost on the way goes on beside the next one, and beside all that
follows. Its function ends it in the end: AWS Lambda lets none run longer than its time-out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from provisioner.drivers.aws_errors import translated
from provisioner.errors import ErrorType
from provisioner.jobs.models import (
    CLEANUP_SUBJECT,
    JOB_SUBJECT,
    CleanupStatus,
    HistoryEntry,
    Job,
    JobStatus,
    StageStatus,
)
from provisioner.jobs.plan import RunLimits, longest_run
from provisioner.jobs.stage_run import StageEvent
from provisioner.runtime.observability import logger

if TYPE_CHECKING:
    from provisioner.jobs.store import JobStore

_ENDED = {
    *(status for status in JobStatus if status.is_terminal),
    *(CleanupStatus.DONE, CleanupStatus.FAILED),
}


def seconds_until_quiet(job: Job, now: datetime, limits: RunLimits) -> int:
    """Return for how many seconds more an attempt may be at work that never said how it ended.

    Args:
        job: a job that has ended, with its history.
        now: the time.
        limits: how long an attempt of each stage may be at work.
    """
    until = max(
        (
            start.at + longest_run(stage, limits)
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
        and entry.status in _ENDED
        and entry.at <= change.at
        for entry in job.history
    )


class QuietStep:
    """The step of a clean-up that says for how long something may still be at work."""

    def __init__(self, store: JobStore, limits: RunLimits) -> None:
        """Bind the step to the jobs, and to how long their stages may be at work."""
        self._store = store
        self._limits = limits

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
            seconds = seconds_until_quiet(job, self._store.now(), self._limits)
        if seconds > 0:
            logger.warning("a stage may still be at work", seconds=seconds)
        return {"ok": True, "seconds": seconds}
