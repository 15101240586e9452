"""From a message to an execution: look up the handler, store the job, start its state machine."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType
from pydantic import ValidationError

from provisioner.drivers.aws_errors import short_cause
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.execution import execution_input, execution_name
from provisioner.jobs.models import StoredError
from provisioner.jobs.queue import DeadLetterQueue, JobMessage
from provisioner.jobs.registry import JobRegistry, UnknownJobTypeError, first_problem
from provisioner.jobs.store import JobStore, NewJob, payload_digest
from provisioner.runtime.observability import logger, metrics

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.batch.base import FailureResponse
    from aws_lambda_powertools.utilities.batch.exceptions import ExceptionInfo
    from mypy_boto3_stepfunctions.client import SFNClient

#: Records that are dispatched at once: a batch holds at most this many.
_CONCURRENT_RECORDS = 10


class ConcurrentBatchProcessor(BatchProcessor):
    """Processes the records of a batch at once, since each waits for the network.

    Each record has a copy of the context, so that its logging keys are its own.
    """

    def __init__(self) -> None:
        """Process SQS records; a batch that fails whole is reported record by record too."""
        super().__init__(event_type=EventType.SQS, raise_on_entire_batch_failure=False)

    def process(self) -> list[tuple[Any, ...]]:
        """Process every record; the order of the results is that of the records."""
        with ThreadPoolExecutor(max_workers=_CONCURRENT_RECORDS) as pool:
            running = [
                pool.submit(copy_context().run, self._process_record, record)
                for record in self.records
            ]
            return [result.result() for result in running]

    def failure_handler(self, record: Any, exception: ExceptionInfo) -> FailureResponse:
        """Say why the queue is going to deliver a message again."""
        error = exception[1]
        cause = "" if error is None else short_cause(error)
        logger.warning("message not dispatched", cause=cause)
        return super().failure_handler(record, exception)


class Dispatcher:
    """Dispatches one message. Doing it twice is as good as once."""

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

    def dispatch(self, record: Mapping[str, Any]) -> None:
        """Start the execution of a message's job, or put the message with the dead letters.

        Args:
            record: the SQS record, as AWS Lambda hands it over.

        Raises:
            Exception: whatever may pass by waiting; the queue then delivers the message again.
        """
        body = str(record["body"])
        job_id = str(record["messageId"])
        logger.thread_safe_append_keys(job_id=job_id, message_id=job_id)
        try:
            message = _parse(body)
        except ProvisioningError as error:
            self._bury(body, job_id, error)
            return
        job_id = message.job_id or job_id
        logger.thread_safe_append_keys(
            job_id=job_id, project_id=str(message.payload.get("project_id", ""))[:100]
        )
        try:
            new = self._new_job(message, job_id)
            input_text = execution_input(new, message.attempt)
        except ProvisioningError as error:
            self._refuse(body, message, job_id, error)
            return
        job = self._store.create(new)
        if (
            job.job_type != new.job_type
            or payload_digest(job.payload) != payload_digest(new.payload)
            or message.attempt > job.attempt
        ):
            self._bury(
                body,
                job_id,
                failure(
                    ErrorType.INVALID_PAYLOAD,
                    "job_id: another job has this id; leave job_id out of the message.",
                ),
            )
            return
        if job.status.is_terminal or message.attempt < job.attempt:
            logger.info("job has ended before", status=job.status, attempt=job.attempt)
            return
        self._start(new, message.attempt, input_text)

    def _new_job(self, message: JobMessage, job_id: str) -> NewJob:
        try:
            handler = self._registry.get(message.job_type)
        except UnknownJobTypeError as error:
            raise failure(ErrorType.INVALID_PAYLOAD, str(error)) from None
        payload = handler.parse(message.payload).model_dump(mode="json")
        return NewJob(job_id, message.job_type, payload, handler.stages)

    def _start(self, new: NewJob, attempt: int, input_text: str) -> None:
        try:
            self._state_machines.start_execution(
                stateMachineArn=f"{self._arn_prefix}{new.job_type}",
                name=execution_name(new.job_id, attempt),
                input=input_text,
            )
        except self._state_machines.exceptions.ExecutionAlreadyExists:
            logger.info("job was started before")
            return
        metrics.add_metric("JobsStarted", MetricUnit.Count, 1)
        logger.info("job started", job_type=new.job_type)

    def _refuse(
        self, body: str, message: JobMessage, job_id: str, error: ProvisioningError
    ) -> None:
        """Bury the message of a job that can never work, and let its job say so.

        A job of the same id that is stored already is another one, unless it is of this message's
        type and its payload is this message's, or what is kept of it when it is refused.
        """
        project_id = message.payload.get("project_id")
        kept = {"project_id": project_id} if _is_short_text(project_id) else {}
        existing = self._store.get_head(job_id)
        is_own = (
            existing is not None
            and existing.job_type == message.job_type
            and existing.payload in (message.payload, kept)
        )
        if existing is not None and is_own and existing.status.is_terminal:
            logger.info("job has ended before", status=existing.status)
            return
        # First, so that a crash between the two writes loses neither.
        self._bury(body, job_id, error)
        stored = StoredError(error.type, "", 0, error.message, error.cause)
        if existing is None:
            self._store.create_failed(NewJob(job_id, message.job_type, kept, ()), stored)
        elif is_own:
            self._store.fail_queued(job_id, stored)

    def _bury(self, body: str, job_id: str, error: ProvisioningError) -> None:
        self._dead_letters.send(body, job_id=job_id, reason=error)
        metrics.add_metric("MessagesRefused", MetricUnit.Count, 1)
        logger.warning("message refused", error_type=error.type, error_message=error.message)


def _parse(body: str) -> JobMessage:
    try:
        return JobMessage.model_validate_json(body)
    except ValidationError as error:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"{first_problem(error, 'message')}; send a JSON object with job_type and payload.",
        ) from None


def _is_short_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 64  # noqa: PLR2004  # a project id's length
