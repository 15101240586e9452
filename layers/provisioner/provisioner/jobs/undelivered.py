"""Ends the job of a message that was never dispatched, and makes the message a dead letter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from provisioner.drivers.aws_errors import short_cause
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.messages import (
    accept,
    fail_rejected_job,
    job_id_of,
    parse_message,
    to_stored_error,
)
from provisioner.jobs.models import JobStatus, StoredError
from provisioner.jobs.queue import DeadLetterQueue
from provisioner.jobs.registry import JobRegistry
from provisioner.jobs.store import JobStore
from provisioner.runtime.observability import logger, metrics

_NOT_STARTED = "The job could not be started: every attempt to do so failed."
_NO_CAUSE = "the dispatcher ended without a word, or could not keep one"


def record_undelivered(
    record: Mapping[str, Any],
    *,
    registry: JobRegistry,
    store: JobStore,
    dead_letters: DeadLetterQueue,
) -> None:
    """Write the job of a message FAILED, and put the message with the dead letters, in this order.

    A crash between the two, or before the message is deleted, repeats both: the job stays as it
    is, and the message may be there twice, which redriven starts its job once.

    Args:
        record: the SQS record, as AWS Lambda hands it over.
        registry: the handlers.
        store: the jobs.
        dead_letters: where people look at messages.

    Raises:
        Exception: whatever may pass by waiting; the message is then delivered again.
    """
    body = str(record["body"])
    job_id = job_id_of(body, str(record["messageId"]))
    logger.append_keys(job_id=job_id)
    try:
        reason = _end_job(registry, store, body, job_id)
        if reason is None:
            logger.info("message was not needed any more")
            return
        group = record["attributes"].get("MessageGroupId")
        dead_letters.send(body, job_id=job_id, reason=reason, message_group=group)
    except Exception as error:
        logger.warning("undelivered message not recorded", cause=short_cause(error))
        raise
    metrics.add_metric("MessagesUndelivered", MetricUnit.Count, 1)
    logger.error(
        "message not delivered",
        error_type=reason.type,
        error_message=reason.message,
        cause=reason.cause,
    )


def _end_job(
    registry: JobRegistry, store: JobStore, body: str, job_id: str
) -> ProvisioningError | None:
    """Write the job FAILED; return why, or None where the message has nothing left to do."""
    try:
        message = parse_message(body)
    except ProvisioningError as error:
        return error
    try:
        job, _ = accept(registry, store, message, job_id)
    except ProvisioningError as error:
        # The dispatcher knew it too, and could not put the message away.
        fail_rejected_job(store, message, job_id, error)
        return error
    reason = _reason(store.dispatch_failure(job_id))
    if job.status is JobStatus.QUEUED and job.attempt == message.attempt:
        store.fail_queued(job, to_stored_error(reason))
        job = store.get_head(job_id) or job
        if job.status is JobStatus.FAILED:
            metrics.add_metric("JobsFailed", MetricUnit.Count, 1)
    # What has begun, was cancelled, or is at a later attempt, misses no message.
    is_missing = job.status is JobStatus.FAILED and job.started_at is None
    return reason if is_missing and job.attempt == message.attempt else None


def _reason(last: StoredError | None) -> ProvisioningError:
    """Say why a message was never dispatched, by what its last dispatch met."""
    if last is None or last.type is ErrorType.UNKNOWN_ERROR:
        cause = _NO_CAUSE if last is None else last.cause or _NO_CAUSE
        return failure(ErrorType.UNKNOWN_ERROR, _NOT_STARTED, cause)
    return failure(last.type, last.message, last.cause)
