"""From a message to an execution: look up the handler, store the job, start its state machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import (
    AsyncBatchProcessor,
    EventType,
    async_process_partial_response,
)
from botocore.exceptions import ClientError

from provisioner.drivers.aws_errors import AWS_ERRORS, short_cause
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.execution import execution_name
from provisioner.jobs.messages import (
    accept,
    fail_rejected_job,
    is_rejected_job,
    job_id_of,
    parse_message,
    to_stored_error,
)
from provisioner.jobs.models import Job
from provisioner.jobs.queue import DeadLetterQueue, JobMessage
from provisioner.jobs.registry import JobRegistry
from provisioner.jobs.store import JobStore
from provisioner.runtime.observability import logger, metrics

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions.client import SFNClient

_NO_STATE_MACHINE = (
    ErrorType.JOB_TYPE_NOT_DEPLOYED,
    "job_type: there is no state machine {}; deploy it, then run the job again.",
)

#: Why an execution does not start, by what AWS answers. Whoever may not start a state machine is
#: told so whether there is one or not. Sources: AWS Step Functions API Reference, StartExecution
#: and "Common Error Types"; IAM User Guide, "Policy evaluation logic".
_NOT_STARTED = {
    "StateMachineDoesNotExist": _NO_STATE_MACHINE,
    "StateMachineDeleting": _NO_STATE_MACHINE,
    "AccessDeniedException": (
        ErrorType.INSUFFICIENT_PERMISSIONS,
        "job_type: the dispatcher may not start the state machine {}, or there is none; deploy it.",
    ),
}

_NOT_DISPATCHED = "The job could not be started."

#: Records that are dispatched at once: a batch holds at most this many.
_CONCURRENT_RECORDS = 10


class Dispatcher:
    """Dispatches the messages of a batch. Doing it twice is as good as once."""

    def __init__(
        self,
        *,
        registry: JobRegistry,
        store: JobStore,
        dead_letters: DeadLetterQueue,
        state_machines: SFNClient,
        state_machine_arn_prefix: str,
    ) -> None:
        """Bind the dispatcher.

        Args:
            registry: the handlers.
            store: the jobs.
            dead_letters: where messages go that can never work.
            state_machines: Step Functions.
            state_machine_arn_prefix: what the job type is appended to, to name its state machine.
        """
        self._registry = registry
        self._store = store
        self._dead_letters = dead_letters
        self._state_machines = state_machines
        self._arn_prefix = state_machine_arn_prefix
        self._threads = ThreadPoolExecutor(max_workers=_CONCURRENT_RECORDS)

    def __call__(self, event: Mapping[str, Any], context: Any) -> Mapping[str, Any]:
        """Dispatch a batch, its records at once, since each waits for the network.

        Args:
            event: the event of Amazon SQS, as AWS Lambda hands it over.
            context: AWS Lambda's.

        Returns:
            AWS Lambda's partial batch response: the queue delivers again what it names.
        """
        return async_process_partial_response(
            event=dict(event),
            record_handler=self._dispatch_beside_others,
            processor=AsyncBatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False),
            context=context,
        )

    async def _dispatch_beside_others(self, record: Mapping[str, Any]) -> None:
        # In a copy of the context, so that the record's logging keys are its own.
        dispatch = partial(copy_context().run, self._dispatch_or_tell, record)
        await asyncio.get_running_loop().run_in_executor(self._threads, dispatch)

    def _dispatch_or_tell(self, record: Mapping[str, Any]) -> None:
        """Dispatch a message; keep, as well as it goes, why it could not be dispatched."""
        try:
            self._dispatch(record)
        except Exception as error:
            known = (
                error
                if isinstance(error, ProvisioningError)
                else failure(ErrorType.UNKNOWN_ERROR, _NOT_DISPATCHED, short_cause(error))
            )
            logger.warning("message not dispatched", cause=known.cause)
            job_id = job_id_of(str(record["body"]), str(record["messageId"]))
            with contextlib.suppress(*AWS_ERRORS):
                self._store.note_dispatch_failure(job_id, to_stored_error(known))
            raise

    def _dispatch(self, record: Mapping[str, Any]) -> None:
        """Start the execution of a message's job, or put the message with the dead letters.

        Raises:
            Exception: whatever may pass by waiting; the queue then delivers the message again.
        """
        body = str(record["body"])
        job_id = str(record["messageId"])
        logger.thread_safe_append_keys(job_id=job_id, message_id=job_id)
        try:
            message = parse_message(body)
        except ProvisioningError as error:
            self._reject(body, job_id, error)
            return
        job_id = message.job_id or job_id
        logger.thread_safe_append_keys(
            job_id=job_id, project_id=str(message.payload.get("project_id", ""))[:100]
        )
        try:
            job, input_text = accept(self._registry, self._store, message, job_id)
        except ProvisioningError as error:
            self._reject_job(body, message, job_id, error)
            return
        if job.status.is_terminal or message.attempt < job.attempt:
            logger.info("job has ended before", status=job.status, attempt=job.attempt)
            return
        try:
            self._start(job, message.attempt, input_text)
        except ProvisioningError as error:
            if error.type is not ErrorType.JOB_TYPE_NOT_DEPLOYED:
                raise
            # No delivery helps before somebody deploys it: the job says so at once. The message
            # goes first, so that a crash between the two writes loses neither.
            self._reject(body, job_id, error)
            self._store.fail_queued(job, to_stored_error(error))

    def _start(self, job: Job, attempt: int, input_text: str) -> None:
        """Start the execution of a job, unless it was started before.

        Raises:
            JOB_TYPE_NOT_DEPLOYED: there is no state machine of the job type.
            INSUFFICIENT_PERMISSIONS: there is none, or it may not be started.
        """
        arn = f"{self._arn_prefix}{job.job_type}"
        try:
            self._state_machines.start_execution(
                stateMachineArn=arn, name=execution_name(job.job_id, attempt), input=input_text
            )
        except self._state_machines.exceptions.ExecutionAlreadyExists:
            logger.info("job was started before")
            return
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code not in _NOT_STARTED:
                raise
            error_type, sentence = _NOT_STARTED[code]
            # By its name, as the console shows it.
            sentence = sentence.format(arn.rpartition(":")[2])
            raise failure(error_type, sentence, short_cause(error)) from None
        metrics.add_metric("JobsStarted", MetricUnit.Count, 1)
        logger.info("job started", job_type=job.job_type)

    def _reject_job(
        self, body: str, message: JobMessage, job_id: str, error: ProvisioningError
    ) -> None:
        """Reject the message of a job that can never work, and let its job say so."""
        existing = self._store.get_head(job_id)
        if existing and existing.status.is_terminal and is_rejected_job(existing, message):
            logger.info("job has ended before", status=existing.status)
            return
        # First, so that a crash between the two writes loses neither.
        self._reject(body, job_id, error)
        fail_rejected_job(self._store, message, job_id, error)

    def _reject(self, body: str, job_id: str, error: ProvisioningError) -> None:
        self._dead_letters.send(body, job_id=job_id, reason=error)
        metrics.add_metric("MessagesRejected", MetricUnit.Count, 1)
        logger.warning("message rejected", error_type=error.type, error_message=error.message)
