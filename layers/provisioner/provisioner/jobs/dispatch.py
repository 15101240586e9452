"""From a message to an execution: look up the handler, store the job, start its state machine.

A message that can never work, and one that was never dispatched, goes to the dead letters instead,
and its job says why. While too many jobs wait for a slot, further ones wait in the queue.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from aws_lambda_powertools.utilities.batch import (
    AsyncBatchProcessor,
    EventType,
    async_process_partial_response,
)

from provisioner.drivers.aws_errors import short_cause
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.admission import AdmissionControl
from provisioner.jobs.execution import Executions
from provisioner.jobs.messages import (
    DeadLetterQueue,
    JobMessage,
    JobQueue,
    accept,
    is_own_job,
    job_id_of_message,
    keep_payload,
    parse_message,
    to_stored_error,
)
from provisioner.jobs.models import Job, JobStatus, StoredError
from provisioner.jobs.records import NewJob, canonical_json, json_object
from provisioner.jobs.registry import JobRegistry
from provisioner.jobs.store import JobStore
from provisioner.runtime.observability import logger, metrics

_NOT_DISPATCHED = "The job could not be started."
_GIVEN_UP = "The job could not be started: every attempt to do so failed."
_NO_CAUSE = "the dispatcher ended without a word, or could not keep one"

#: One for each record of a batch, of which the template's event source mappings send ten at most.
_THREADS = ThreadPoolExecutor(max_workers=10)

#: Seconds of the function's time that are left for a job which is let in: to start its execution,
#: or to send its message again, with every call repeated.
RESERVE_SECONDS = 20.0

#: Seconds for which the queue holds a message back that is sent again.
HELD_SECONDS = 60

#: Errors that no further delivery helps.
_STAYING = frozenset({ErrorType.INVALID_PAYLOAD, ErrorType.JOB_TYPE_NOT_DEPLOYED})


#: Starts the attempt of a job, or ends it: given the job, its message and the input of its
#: execution, it returns why the message is to be rejected, if it is.
type Take = Callable[[Job, JobMessage, str], ProvisioningError | None]


def receive_batch(
    event: Mapping[str, Any], context: Any, receive: Callable[[Mapping[str, Any]], None]
) -> Mapping[str, Any]:
    """Receive a batch, its messages at once, since each waits for the network.

    Args:
        event: the event of Amazon SQS, as AWS Lambda hands it over.
        context: AWS Lambda's.
        receive: receives one message; what it raises is logged, and the queue delivers the message
            again.

    Returns:
        AWS Lambda's partial batch response: the queue delivers again what it names. Source: AWS
        Lambda Developer Guide, "Handling errors for an SQS event source in Lambda".
    """

    async def receive_in_thread(record: Mapping[str, Any]) -> None:
        # In a copy of the context, so that the record's logging keys are its own.
        run = partial(copy_context().run, receive, record)
        await asyncio.get_running_loop().run_in_executor(_THREADS, run)

    return async_process_partial_response(
        event=dict(event),
        record_handler=receive_in_thread,
        processor=AsyncBatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False),
        context=context,
    )


@dataclass(frozen=True, kw_only=True)
class MessageReceiver:
    """Receives the messages of a queue. To receive one twice is as good as once."""

    #: Counts the messages that are put with the dead letters.
    metric: ClassVar[str]
    #: Whether a message is put there whose job has ended: it may not have been put there before.
    rejects_again: ClassVar[bool] = False

    registry: JobRegistry
    store: JobStore
    #: Where messages go that people have to look at.
    dead_letters: DeadLetterQueue

    def _receive(self, record: Mapping[str, Any], job_id: str, take: Take) -> None:
        """Store the job of a message, unless it is, and take it; reject what can never work.

        Raises:
            Exception: whatever may pass by waiting; the queue then delivers the message again.
        """
        logger.thread_safe_append_keys(job_id=job_id, message_id=str(record["messageId"]))
        message = None
        try:
            message = parse_message(str(record["body"]))
            logger.thread_safe_append_keys(
                project_id=str(message.payload.get("project_id", ""))[:100]
            )
            job, input_text = accept(self.registry, self.store, message, job_id)
            reason = take(job, message, input_text)
        except ProvisioningError as error:
            if error.type not in _STAYING:
                raise
            reason = error
        if reason is not None:
            self._reject(record, message, job_id, reason)

    def _reject(
        self,
        record: Mapping[str, Any],
        message: JobMessage | None,
        job_id: str,
        error: ProvisioningError,
    ) -> None:
        """Put a message with the dead letters, and let its job, if it has one, say why."""
        job = None if message is None else self.store.get_head(job_id)
        is_own = message is not None and job is not None and is_own_job(self.registry, job, message)
        if is_own and job is not None and job.status.is_terminal and not self.rejects_again:
            logger.info("job has ended before", status=job.status)
            return
        # First, so that a crash between the two writes loses neither.
        self.dead_letters.send(
            str(record["body"]),
            job_id=job_id,
            reason=error,
            message_group=record.get("attributes", {}).get("MessageGroupId"),
        )
        metrics.add_metric(self.metric, "Count", 1)
        logger.warning(
            "message rejected",
            error_type=error.type,
            error_message=error.message,
            cause=error.cause,
        )
        if message is None:
            return
        stored = to_stored_error(error)
        if job is None and message.attempt == 1:
            self.store.create_failed(
                NewJob(job_id, message.job_type, keep_payload(message), ()), stored
            )
        elif job is not None and is_own and job.attempt == message.attempt:
            self.store.fail_queued(job, stored)


@dataclass(frozen=True, kw_only=True)
class Dispatcher(MessageReceiver):
    """Starts the execution of a message's job."""

    metric = "MessagesRejected"

    executions: Executions
    admission: AdmissionControl
    #: Where a message is sent again that is held back.
    queue: JobQueue

    def __call__(self, event: Mapping[str, Any], context: Any) -> Mapping[str, Any]:
        """Dispatch the messages of a batch; see `receive_batch`."""

        def time_left() -> float:
            return float(context.get_remaining_time_in_millis()) / 1000 - RESERVE_SECONDS

        return receive_batch(event, context, partial(self.receive, time_left=time_left))

    def receive(self, record: Mapping[str, Any], *, time_left: Callable[[], float]) -> None:
        """Dispatch a message; keep, as well as it goes, why it could not be dispatched.

        Args:
            record: the message.
            time_left: returns for how many seconds it may wait for room.
        """
        job_id = job_id_of_message(str(record["body"]), str(record["messageId"]))
        group = record.get("attributes", {}).get("MessageGroupId")
        try:
            start = partial(self._start, message_group=group, time_left=time_left)
            self._receive(record, job_id, start)
        except Exception as error:
            known = (
                error
                if isinstance(error, ProvisioningError)
                else failure(ErrorType.UNKNOWN_ERROR, _NOT_DISPATCHED, short_cause(error))
            )
            metrics.add_metric("DispatchFailures", "Count", 1)
            logger.warning("message not dispatched", cause=known.cause)
            # Whether that succeeds or not, the message is delivered again.
            self.store.note_dispatch_failure(job_id, to_stored_error(known))
            raise

    def _start(
        self,
        job: Job,
        message: JobMessage,
        input_text: str,
        *,
        message_group: str | None,
        time_left: Callable[[], float],
    ) -> None:
        """Start the execution of a job, or hold it back; for what it raises see `Executions`."""
        if job.status.is_terminal or message.attempt < job.attempt:
            logger.info("job has ended before", status=job.status, attempt=job.attempt)
        elif not self._is_admitted(job, message, time_left):
            # As a message of its own, whose deliveries are counted anew: no number of holds makes
            # it a dead letter. Should this process end before the old one is deleted, both are the
            # same job's.
            body = canonical_json(json_object(input_text)["job"])
            self.queue.send_text(body, message_group, DelaySeconds=HELD_SECONDS)
            metrics.add_metric("MessagesHeldBack", "Count", 1)
            logger.info("message held back", seconds=HELD_SECONDS)
        elif self.executions.start(job, message.attempt, input_text):
            metrics.add_metric("JobsStarted", "Count", 1)
            logger.info("job started", job_type=job.job_type)
        else:
            logger.info("job was started before")

    def _is_admitted(self, job: Job, message: JobMessage, time_left: Callable[[], float]) -> bool:
        """Wait for room, unless the job needs none: it has a slot, or removes what another left."""
        if job.slot is not None or job.parent_id:
            return True
        handler = self.registry.get(job.job_type)
        share = handler.message_group_of(message.payload) or ""
        return self.admission.admit(share, time_left)


class UndeliveredReceiver(MessageReceiver):
    """Ends the job of a message that was never dispatched, and then rejects the message.

    A crash between the two, or before the message is deleted, repeats both: the job stays as it
    is, and the message may be there twice, which redriven starts its job once.
    """

    metric = "MessagesUndelivered"
    rejects_again = True

    def __call__(self, event: Mapping[str, Any], context: Any) -> Mapping[str, Any]:
        """Reject the messages of a batch; see `receive_batch`."""
        return receive_batch(event, context, self.receive)

    def receive(self, record: Mapping[str, Any]) -> None:
        """End the job of a message, and reject the message."""
        job_id = job_id_of_message(str(record["body"]), str(record["messageId"]))
        try:
            self._receive(record, job_id, self._end)
        except Exception as error:
            logger.warning("undelivered message not recorded", cause=short_cause(error))
            raise

    def _end(self, job: Job, message: JobMessage, _input_text: str) -> ProvisioningError | None:
        """Write the job FAILED; return why, unless the message has nothing left to do."""
        if job.attempt != message.attempt:
            return None
        reason = _reason(job.dispatch_error)
        if job.status is JobStatus.QUEUED:
            self.store.fail_queued(job, to_stored_error(reason))
            job = self.store.get_head(job.job_id) or job
            if job.status is JobStatus.FAILED:
                metrics.add_metric("JobsFailed", "Count", 1)
        # What has begun, was cancelled, or is at a later attempt, misses no message.
        is_missing = job.status is JobStatus.FAILED and job.started_at is None
        return reason if is_missing and job.attempt == message.attempt else None


def _reason(last: StoredError | None) -> ProvisioningError:
    """Say why a message was never dispatched, by what its last dispatch met."""
    if last is None or last.type is ErrorType.UNKNOWN_ERROR:
        cause = "" if last is None else last.cause
        return failure(ErrorType.UNKNOWN_ERROR, _GIVEN_UP, cause or _NO_CAUSE)
    return failure(last.type, last.message, last.cause)
