"""The status transitions that exist. Every write of a status is conditional on this table."""

from provisioner.jobs.models import JobStatus, StageStatus

#: From each status of a job, the statuses that may follow.
JOB_TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    # FAILED without RUNNING: the dispatcher refused the job.
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset({JobStatus.COMPLETED, JobStatus.FAILED}),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
}

#: From each status of a stage, the statuses that may follow. RUNNING follows RUNNING when an
#: attempt died without a word and the next one starts.
STAGE_TRANSITIONS: dict[StageStatus, frozenset[StageStatus]] = {
    StageStatus.PENDING: frozenset({StageStatus.RUNNING, StageStatus.FAILED, StageStatus.SKIPPED}),
    StageStatus.RUNNING: frozenset(
        {
            StageStatus.RUNNING,
            StageStatus.RETRYING,
            StageStatus.SUCCEEDED,
            StageStatus.SKIPPED,
            StageStatus.FAILED,
        }
    ),
    StageStatus.RETRYING: frozenset({StageStatus.RUNNING, StageStatus.FAILED}),
    StageStatus.SUCCEEDED: frozenset(),
    StageStatus.SKIPPED: frozenset(),
    StageStatus.FAILED: frozenset(),
}


def job_sources(target: JobStatus) -> tuple[JobStatus, ...]:
    """Return the statuses from which a job may become `target`."""
    return tuple(source for source, targets in JOB_TRANSITIONS.items() if target in targets)


def stage_sources(target: StageStatus) -> tuple[StageStatus, ...]:
    """Return the statuses from which a stage may become `target`."""
    return tuple(source for source, targets in STAGE_TRANSITIONS.items() if target in targets)
