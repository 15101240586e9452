"""Runs the clean-up of a job again that has left something."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from provisioner.drivers.dynamodb import ConditionFailedError
from provisioner.errors import ErrorType, failure
from provisioner.jobs.client import JobStateError
from provisioner.jobs.execution import Executions
from provisioner.jobs.models import CleanupStatus, Job
from provisioner.jobs.registry import of_job_type
from provisioner.jobs.store import JobStore

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

#: How often a job is looked at anew after it, or what it has to hold, has changed.
_ATTEMPTS = 3

#: What a clean-up holds while it runs, such as a lock; raises JobStateError where it may not.
type Hold = Callable[[Job], Sequence[TransactWriteItemTypeDef]]


class CleanupRepeater:
    """Begins the next run of a clean-up that has failed. Doing it twice is as good as once."""

    def __init__(self, store: JobStore, executions: Executions, holds: Mapping[str, Hold]) -> None:
        """Bind to the jobs, to their executions, and to what a clean-up holds, by job type."""
        self._store = store
        self._executions = executions
        self._holds = holds

    def __call__(self, job_id: str) -> Job:
        """Store that a run has begun, and start its execution.

        One that has begun and not ended is only started: a call that stopped between the two is
        completed by the next.

        Returns:
            The job, whose clean-up is RUNNING.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: it has no clean-up, or one that has left nothing, or may not hold again
                what it held.
            UnknownJobTypeError: its job type is not defined in this version of the code.
            TIMEOUT: the job kept changing.
        """
        for _ in range(_ATTEMPTS):
            job = self._store.get(job_id)
            if job.cleanup is None:
                raise JobStateError(f"job {job_id}: is {job.status} and has no clean-up.")
            if job.cleanup.status is CleanupStatus.DONE:
                raise JobStateError(f"job {job_id}: its clean-up has left nothing.")
            if job.cleanup.status is CleanupStatus.RUNNING:
                self._executions.start_cleanup(job, job.cleanup.run)
                return job
            try:
                self._store.repeat_cleanup(job, also=of_job_type(self._holds, job)(job))
            except ConditionFailedError:
                continue
        raise failure(ErrorType.TIMEOUT, "The job kept changing while its clean-up was begun.")
