"""The status transitions that exist. Every write of a status is conditional on this table."""

from provisioner.jobs.models import JobStatus, StageStatus

#: From each status of a job, the statuses that may follow within one attempt of it.
JOB_TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    # FAILED without RUNNING: the dispatcher refused the job, or its message got lost.
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}

#: From which statuses a retry makes a job QUEUED again. It is the only way out of a terminal
#: status, and it counts the job's attempt: what an attempt before says from then on finds its
#: condition false.
RETRY_SOURCES: tuple[JobStatus, ...] = (JobStatus.FAILED, JobStatus.CANCELLED)

#: From each status of a stage, the statuses that may follow within one attempt of its job. RUNNING
#: follows RUNNING when an attempt died without a word and the next one starts. WAITING follows
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
