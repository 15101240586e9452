"""Enqueues jobs and reads them: what a program does that is no Lambda function."""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provisioner.arguments import (
    check_characters,
    check_text,
    check_whole_number,
)
from provisioner.drivers.dynamodb import ConditionFailedError
from provisioner.jobs.execution import execution_input
from provisioner.jobs.messages import JobQueue
from provisioner.jobs.models import RETRY_SOURCES, Job, JobStatus
from provisioner.jobs.records import NewJob, optimistically, payload_digest
from provisioner.jobs.registry import JobRegistry
from provisioner.jobs.store import JobStore

#: Makes a job id of an idempotency key: the same key gives the same id, in every process.
_IDEMPOTENCY_NAMESPACE = uuid.UUID("6f0b6a34-5f0b-4a86-9d5c-0d7c5d1f8f0e")

#: The longest that SQS holds a message back. Source: Amazon SQS API Reference, SendMessage.
MAX_DELAY_SECONDS = 900

_POLL_SECONDS = 0.5


class IdempotencyConflictError(ValueError):
    """The idempotency key was used for another payload."""


class JobStateError(ValueError):
    """The job is in a status in which this cannot be done to it."""


class JobWaitTimeoutError(TimeoutError):
    """The job has not ended in the time that the caller gave it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClient:
    """Enqueues and reads jobs of one deployment."""

    registry: JobRegistry
    store: JobStore
    queue: JobQueue

    def enqueue(
        self,
        job_type: str,
        payload: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        delay_seconds: int = 0,
    ) -> Job:
        """Validate a payload, store its job as QUEUED and send its message.

        Args:
            job_type: a registered job type.
            payload: what the job type's payload model accepts.
            idempotency_key: the same key gives the same job, however often it is enqueued; a call
                that stopped between the two writes is completed by the next. One character or more.
            delay_seconds: 0 to 900, how long the message is held back.

        Raises:
            UnknownJobTypeError: the job type has no handler.
            INVALID_PAYLOAD: the payload is wrong, or too large, or another argument is; nothing
                was stored or sent.
            IdempotencyConflictError: the key was used for another payload.
        """
        job_type = check_text("job_type", job_type)
        check_whole_number("delay_seconds", delay_seconds, least=0, most=MAX_DELAY_SECONDS)
        if idempotency_key is not None:
            idempotency_key = check_characters("idempotency_key", idempotency_key)
        handler = self.registry.get(job_type)
        valid = handler.parse(payload)
        job_id = str(
            uuid.uuid4()
            if idempotency_key is None
            else uuid.uuid5(_IDEMPOTENCY_NAMESPACE, f"{job_type}/{idempotency_key}")
        )
        new = NewJob(job_id, job_type, valid.model_dump(mode="json"), handler.stages)
        execution_input(new)
        job = self.store.create(new, delay_seconds=delay_seconds)
        if job.payload_digest != payload_digest(new.payload):
            raise IdempotencyConflictError(
                "idempotency_key: was used for a job with another payload; choose another key."
            )
        if job.status is JobStatus.QUEUED:
            group = handler.message_group(valid)
            self.queue.send(job, message_group=group, delay_seconds=delay_seconds)
        return job

    def cancel(self, job_id: str) -> Job:
        """Cancel a job that has not begun, or ask one that runs to stop before its next stage.

        Doing it twice is as good as once.

        Returns:
            the job: CANCELLED, or RUNNING with `cancel_requested_at`.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: it has completed or failed, or is a clean-up.
        """

        def change(_: ConditionFailedError | None) -> Job:
            job = self.store.get(job_id)
            if job.status in {JobStatus.COMPLETED, JobStatus.FAILED}:
                raise JobStateError(
                    f"job {job_id}: is {job.status}; only a job that has not ended is cancelled."
                )
            if job.parent_id:
                raise JobStateError(
                    f"job {job_id}: is a clean-up, which is not cancelled; where it fails, "
                    "`provision cleanup` runs it again."
                )
            if job.status is JobStatus.CANCELLED or job.cancel_requested_at is not None:
                return job
            if job.status is JobStatus.QUEUED:
                self.store.cancel_queued(job)
            else:
                self.store.request_cancel(job)
            return self.store.get(job_id)

        return optimistically(change, "it was cancelled")

    def retry(self, job_id: str) -> Job:
        """Run a job that has failed, or was cancelled, again: its next attempt, history kept.

        Doing it twice is as good as once: a call that stopped between the two writes is completed
        by the next, and an attempt starts once however often its message is sent.

        Returns:
            the job: QUEUED, or RUNNING where its next attempt has begun meanwhile, or before.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: it has neither failed nor been cancelled, its clean-up is under way, or
                it was refused and keeps no payload.
            UnknownJobTypeError: its job type has no handler any more; the job stays as it is.
            INVALID_PAYLOAD: its payload is not valid any more; the job stays as it is.
        """
        job = self.store.get(job_id)
        if job.status in RETRY_SOURCES:
            if not job.stages:
                raise JobStateError(f"job {job_id}: was refused as it came; send a new job.")
            # What the message needs that follows; its error comes before the job is changed.
            self._message_group(job)
            try:
                self.store.retry(job)
            except ConditionFailedError:
                if self.store.get(job_id).attempt == job.attempt:
                    raise JobStateError(
                        f"job {job_id}: its clean-up is under way; retry it once that has ended."
                    ) from None
            job = self.store.get(job_id)
        if job.attempt > 1 and job.status is JobStatus.RUNNING:
            return job
        if job.attempt == 1 or job.status is not JobStatus.QUEUED:
            raise JobStateError(
                f"job {job_id}: is {job.status}; only a failed or cancelled job is retried."
            )
        self.queue.send(job, message_group=self._message_group(job))
        return job

    def retry_cleanup(self, job_id: str) -> Job:
        """Run the clean-up of a job again that has failed; doing it twice is as good as once.

        Args:
            job_id: the job whose clean-up it is, or the clean-up itself.

        Returns:
            the clean-up: QUEUED, or RUNNING.

        Raises:
            JobNotFoundError: there is no such job.
            JobStateError: it has no clean-up, or one that has left nothing.
            UnknownJobTypeError: its job type has no handler any more.
        """
        job = self.store.get(job_id)
        cleanup = self.store.get(job.cleanup_job_id) if job.cleanup_job_id else job
        if not cleanup.parent_id:
            raise JobStateError(f"job {job_id}: is {job.status} and has no clean-up.")
        if cleanup.status is JobStatus.COMPLETED:
            raise JobStateError(f"job {job_id}: its clean-up has left nothing.")
        # What was to be sent may not be, where a retry has made it QUEUED.
        is_retried = cleanup.status is JobStatus.QUEUED and cleanup.attempt > 1
        is_to_be_sent = cleanup.status.is_terminal or is_retried
        return self.retry(cleanup.job_id) if is_to_be_sent else cleanup

    def _message_group(self, job: Job) -> str | None:
        handler = self.registry.get(job.job_type)
        return handler.message_group_of(job.payload)


def wait_for_job(store: JobStore, job_id: str, timeout_seconds: float) -> Job:
    """Read a job until it has ended.

    Raises:
        JobNotFoundError: there is no such job.
        JobWaitTimeoutError: it has not ended after `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    while not (job := store.get(job_id)).status.is_terminal:
        left = deadline - time.monotonic()
        if left <= 0:
            raise JobWaitTimeoutError(
                f"job {job_id}: is {job.status} after {timeout_seconds:g} seconds; "
                "wait longer or look at its stages."
            )
        time.sleep(min(_POLL_SECONDS, left))
    return job
