"""Ends the job of a message that the queue has given up on, and keeps the message for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from provisioner.drivers.aws_errors import short_cause
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.execution import execution_input
from provisioner.jobs.messages import (
    end_refused,
    get_or_create,
    job_id_of,
    new_job,
    parse_message,
    stored_error,
)
from provisioner.jobs.models import JobStatus, StoredError
from provisioner.jobs.queue import DeadLetterQueue
from provisioner.jobs.registry import JobRegistry
from provisioner.jobs.store import JobStore
from provisioner.runtime.observability import logger, metrics

_GIVEN_UP = "The job could not be started: every attempt to do so failed."
_NO_CAUSE = "the dispatcher ended without a word, or could not keep one"


class UndeliveredRecorder:
    """Writes the job FAILED and puts the message with the dead letters, in this order.

    A crash between the two, or before the message is deleted, repeats both: the job stays as it
    is, and the message may be there twice, which redriven starts its job once.
    """

    def __init__(
        self, *, registry: JobRegistry, store: JobStore, dead_letters: DeadLetterQueue
    ) -> None:
        """Bind the recorder.

        Args:
            registry: the handlers.
            store: the jobs.
            dead_letters: where people look at messages.
        """
        self._registry = registry
        self._store = store
        self._dead_letters = dead_letters

    def record(self, record: Mapping[str, Any]) -> None:
        """End the job of one message.

        Args:
            record: the SQS record, as AWS Lambda hands it over.

        Raises:
            Exception: whatever may pass by waiting; the message is then delivered again.
        """
        body = str(record["body"])
        job_id = job_id_of(body, str(record["messageId"]))
        logger.append_keys(job_id=job_id)
        try:
            reason = self._end_job(body, job_id)
            if reason is None:
                logger.info("message was not needed any more")
                return
            self._dead_letters.send(
                body,
                job_id=job_id,
                reason=reason,
                message_group=record["attributes"].get("MessageGroupId"),
            )
        except Exception as error:
            logger.warning("undelivered message not recorded", cause=short_cause(error))
            raise
        metrics.add_metric("MessagesUndelivered", MetricUnit.Count, 1)
        logger.error(
            "message given up",
            error_type=reason.type,
            error_message=reason.message,
            cause=reason.cause,
        )

    def _end_job(self, body: str, job_id: str) -> ProvisioningError | None:
        """Write the job FAILED; return why, or None where the message has nothing left to do."""
        given_up = _given_up(self._store.dispatch_failure(job_id))
        try:
            message = parse_message(body)
        except ProvisioningError as error:
            return error
        try:
            new = new_job(self._registry, message, job_id)
            execution_input(new, message.attempt)
        except ProvisioningError as error:
            # The dispatcher knew it too, and could not put the message away.
            end_refused(self._store, message, job_id, error)
            return error
        try:
            job = get_or_create(self._store, new, message)
        except ProvisioningError as error:
            return error
        if job.status is JobStatus.QUEUED and job.attempt == message.attempt:
            self._store.fail_queued(job, stored_error(given_up))
            job = self._store.get_head(job_id) or job
            if job.status is JobStatus.FAILED:
                metrics.add_metric("JobsFailed", MetricUnit.Count, 1)
        # What has begun, was cancelled, or is at a later attempt, misses no message.
        is_missing = job.status is JobStatus.FAILED and job.started_at is None
        return given_up if is_missing and job.attempt == message.attempt else None


def _given_up(last: StoredError | None) -> ProvisioningError:
    """Say why the queue has given up on a message, by what its last dispatch met."""
    if last is None or last.type is ErrorType.UNKNOWN_ERROR:
        cause = _NO_CAUSE if last is None else last.cause or _NO_CAUSE
        return failure(ErrorType.UNKNOWN_ERROR, _GIVEN_UP, cause)
    return failure(last.type, last.message, last.cause)
