"""Until when a run of a stage may still be at work: what the end of its job, and a clean-up, await.

A run whose answer got lost on the way goes on beside the next one, and beside all that follows. Its
function ends it in the end: AWS Lambda lets none run longer than its time-out. So each run takes a
lease with its start, which ends with its own word or with time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from provisioner.jobs.models import Job, StageRecord

#: The lease of a run in someone's process, which no time-out ends.
PROCESS_LEASE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Lease:
    """The time in which a run of a stage may be at work that never said how it ended."""

    stage: str
    until: datetime

    @property
    def waiting_for(self) -> str:
        """What the end of the job waits for, in one sentence."""
        return f"An earlier attempt of {self.stage} may still be at work."


def lease_of(record: StageRecord, *, last_run_only: bool = False) -> datetime | None:
    """Return the end of the longest lease of a stage, or of its last run's; None without one."""
    leases = (record.lease_until, None if last_run_only else record.superseded_until)
    return max(filter(None, leases), default=None)


def open_lease(job: Job, now: datetime, *, last_runs_only: bool = False) -> Lease | None:
    """Return the longest lease of a job's stages that has not ended; None where all have.

    Args:
        job: the job, with its stages.
        now: the time.
        last_runs_only: leave out the runs that another one followed.
    """
    leases = (
        Lease(record.stage, until)
        for record in job.stages
        if (until := lease_of(record, last_run_only=last_runs_only)) is not None and until > now
    )
    return max(leases, key=lambda lease: (lease.until, lease.stage), default=None)
