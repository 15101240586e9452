"""Runs one attempt of one stage: records its start, calls it, records how it ended."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.metrics import MetricUnit
from pydantic import BaseModel, ConfigDict, ValidationError

from provisioner.drivers.aws_errors import AWS_ERRORS, translate
from provisioner.errors import (
    ErrorType,
    ProvisioningError,
    failure,
    final_failure,
    is_retried,
)
from provisioner.jobs.definition import (
    LONGEST_RUN_SECONDS,
    JobDefinition,
    JobDefinitions,
    Stage,
    longest_run,
)
from provisioner.jobs.lease import PROCESS_LEASE
from provisioner.jobs.models import (
    StageRecord,
    StageRun,
    StageStatus,
    StoredError,
    waited_in_vain,
)
from provisioner.jobs.registry import first_problem, validate_payload
from provisioner.jobs.retries import waiting_retry
from provisioner.jobs.stage import Completion, JobInput, StageOutcome, Waiting
from provisioner.jobs.stage_start import StageStart
from provisioner.jobs.stage_store import Completed, LeaseOpenError, StageStore
from provisioner.runtime.observability import logger, measure_by, metrics

if TYPE_CHECKING:
    from provisioner.jobs.store import JobStore


#: The step of every state machine that records a failed job; it is no stage.
RECORD_FAILURE = "FAILED"


class StageEvent(BaseModel):
    """What a Task of the state machine hands to its function."""

    model_config = ConfigDict(frozen=True)

    job: JobInput
    stage: str
    #: The state machine's `$$.State.RetryCount`: how often it has repeated the Task.
    retry_count: int = 0
    #: The outputs of the stages before; see `JobInput`.
    outputs: dict[str, dict[str, Any]] = {}
    #: Only for the step that records a failed job: how each branch ended.
    branches: list[dict[str, Any]] = []

    def has_polled_for(self, waits_seconds: int, since: int = 0) -> bool:
        """Whether the Task has been repeated as often as a step is that waits for so long.

        Args:
            waits_seconds: for how long.
            since: how often it had been repeated when the wait could begin.
        """
        return self.retry_count - since >= waiting_retry(waits_seconds).max_attempts


def parse_event(event: Mapping[str, Any]) -> StageEvent:
    """Read what a Task hands over; from now on each line of the log names its job."""
    parsed = StageEvent.model_validate(event)
    logger.append_keys(
        job_id=parsed.job.job_id, project_id=parsed.job.payload.get("project_id", "")
    )
    return parsed


class StageWaiting(Exception):  # noqa: N818  # the state machines know it by this name
    """A stage, or the end of a job, waits. A retrier of its own, `waiting_retry`, repeats it.

    It is no error of the job.
    """


class SlotWaiting(StageWaiting):
    """A job waits for a slot. The retrier `SLOT_RETRY` repeats its first stage."""


#: A stage: takes the job, makes sure that its thing exists, and says what answered.
type StageFunction = Callable[[JobInput], StageOutcome | Waiting]

#: Runs one step for an event, as a function of a state machine does.
type Step = Callable[[Mapping[str, Any]], dict[str, Any]]

#: Stages by job type, and by name.
type JobStages = Mapping[str, Mapping[str, StageFunction]]


class StageRunner:
    """Runs the stages that one function (or one process) has."""

    def __init__(
        self,
        store: JobStore,
        stages: JobStages,
        *,
        definitions: JobDefinitions,
        is_process: bool = False,
    ) -> None:
        """Bind the runner.

        Args:
            store: where progress is kept.
            stages: the code of the stages of each job type, by name.
            definitions: the job types.
            is_process: whether it runs whole jobs, one stage after the other, in someone's process.
        """
        self._store = store
        self._progress = StageStore(store)
        self._stages = stages
        self._definitions = definitions
        self._is_process = is_process

    def __call__(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Run one attempt of the stage that the event names.

        Returns:
            ok, stage, status and output; no part of it is secret.

        Raises:
            ProvisioningError: its class is named like its error type, or `StageEnded` where the
                stage has failed for good with an error of a type that is retried.
            StageWaiting: the stage waits.
        """
        parsed = parse_event(event)
        logger.append_keys(stage=parsed.stage)
        measure_by(stage=parsed.stage)
        began = time.monotonic()
        record = self._attempt(parsed)
        if isinstance(record, Exception):
            raise record
        if record.error is not None and record.status is StageStatus.FAILED:
            raise final_failure(record.error.type, record.error.message, record.error.cause)
        metrics.add_metric(
            "StageDuration", MetricUnit.Milliseconds, (time.monotonic() - began) * 1000
        )
        logger.info("stage ended", status=record.status, attempt=record.attempt)
        return {
            "ok": True,
            "stage": parsed.stage,
            "status": str(record.status),
            "output": record.output,
        }

    def _attempt(self, event: StageEvent) -> StageRecord | ProvisioningError | StageWaiting:
        """Run the attempt, or poll the one that waits, and record how it ended.

        An error is returned, to be raised apart from the exception that it stands for: that one,
        and what it holds (a driver's connection, with its password), goes no further.
        """
        held: StageRecord | None = None
        given = event.job
        try:
            started = self._start(event)
            if started is None:
                return _too_late(event)
            if started.status.is_terminal:
                return started
            if started.attempt == 0:
                return self._wait_for_slot(started)
            held = started
            given = self._input(event, held)
            record = self._run(event, held, given)
        except Exception as error:  # noqa: BLE001  # each becomes an error of the table, and is raised
            known = self._known(error, event)
            known.__cause__ = known.__context__ = None
            self._measure_wait(held)
            return self._failed(event, held, known, given)
        if isinstance(record, StageRecord):
            self._measure_wait(held)
            is_of_event = record.job_attempt == event.job.attempt
            return record if is_of_event and record.status.is_terminal else _too_late(event)
        return record

    def _start(self, event: StageEvent) -> StageRecord | None:
        definition = self._definitions.get(event.job.job_type)
        seconds = longest_run(self._definitions, event.job.job_type, event.stage)
        begins_job = definition is not None and event.stage in definition.first
        return StageStart(
            self._store,
            StageRun(event.job.job_id, event.job.attempt, event.stage, event.retry_count),
            PROCESS_LEASE if self._is_process else timedelta(seconds=seconds),
            begins_job=begins_job,
            share=_share(definition, event.job.payload) if begins_job else "",
            is_alone=self._is_process,
        ).write()

    def _wait_for_slot(self, waiting: StageRecord) -> SlotWaiting:
        since = waiting.waiting_since or self._store.now()
        milliseconds = (self._store.now() - since).total_seconds() * 1000
        metrics.add_metric("SlotWait", MetricUnit.Milliseconds, milliseconds)
        logger.info("job waits for a slot", waits_until=str(waiting.waits_until))
        return SlotWaiting(waiting.waiting_for)

    def _run(
        self, event: StageEvent, held: StageRecord, given: JobInput
    ) -> StageRecord | StageWaiting:
        run = self._stages.get(event.job.job_type, {}).get(event.stage)
        if run is None:
            raise failure(
                ErrorType.UNKNOWN_ERROR,
                f"The function has no stage {event.stage} of job type {event.job.job_type}: its "
                "code and the state machine are of different versions; deploy both.",
            )
        outcome = run(given)
        if isinstance(outcome, Waiting):
            return self._wait(event, held, outcome.waiting_for)
        return self._end(event, held, outcome, given)

    def _wait(self, event: StageEvent, held: StageRecord, waiting_for: str) -> StageWaiting:
        """Record what the stage waits for.

        Raises:
            ProvisioningError: it may not wait, has waited too long, or the job has ended or is
                being cancelled.
        """
        stage = self._stage(event)
        if stage is None or stage.waits_seconds == 0 or not waiting_for.strip():
            raise final_failure(
                self._own_error(event),
                "The stage waits, but its definition gives it no time to wait (waits_seconds), or "
                "it does not say what for.",
            )
        now = self._progress.now()
        longest = timedelta(seconds=stage.waits_seconds)
        until = held.waits_until or now + longest
        if now >= until:
            seconds = (now - until + longest).total_seconds()
            raise final_failure(ErrorType.TIMEOUT, waited_in_vain(waiting_for, seconds))
        return self._record_wait(event, held, waiting_for, until)

    def _record_wait(
        self, event: StageEvent, held: StageRecord, waiting_for: str, until: datetime
    ) -> StageWaiting:
        said = self._progress.wait(event.job.job_id, held, waiting_for, until)
        if said.is_written and held.status is not StageStatus.WAITING:
            metrics.add_metric("StageWaits", MetricUnit.Count, 1)
        logger.info("stage waits", waiting_for=waiting_for, waits_until=until.isoformat())
        return StageWaiting(waiting_for)

    def _end(
        self, event: StageEvent, held: StageRecord, outcome: StageOutcome, given: JobInput
    ) -> StageRecord | StageWaiting:
        """Record that the stage has ended well, and the job with it where it ends with it.

        Raises:
            ProvisioningError: the job's result is not what its result model says, or the job may
                not be completed any more.
        """
        job_id, definition = event.job.job_id, self._definitions[event.job.job_type]
        skips = definition.skipped_after(event.stage, outcome.output)
        completion = outcome.completion
        if completion is None and event.stage == definition.last:
            completion = Completion(outcome.output)
        if completion is None:
            said = self._progress.end(job_id, held, outcome, skips=skips)
            if not said.is_written:
                given.be_superseded(said.record)
            return said.record
        self._check_result(event, completion.result)
        names = list(map(str, definition.stages))
        place = names.index(event.stage)
        completed = Completed(
            completion,
            before=names[:place],
            after=names[place + 1 :],
            # Repeated so often, it has waited for longer than any function runs. The clock says so
            # before, but for where each wait is shortened, as on the local stack.
            asks_leases=not self._is_process
            and not event.has_polled_for(LONGEST_RUN_SECONDS, held.retries_before),
        )
        try:
            # What the job skips with its end is closed with the others after it.
            said = self._progress.complete(job_id, held, outcome, completed)
        except LeaseOpenError as error:
            return self._record_wait(event, held, str(error), error.lease.until)
        if said.is_written:
            metrics.add_metric("JobsCompleted", MetricUnit.Count, 1)
        else:
            given.be_superseded(said.record)
        return said.record

    def _check_result(self, event: StageEvent, result: Mapping[str, Any]) -> None:
        """Refuse a result that is not what the job type's result model says.

        It is compared as what it is stored and read as, JSON, in which a time is text; and
        strictly, so that a text of digits is no number. Source: pydantic's documentation, "Strict
        Mode".

        Raises:
            ProvisioningError: it is not; since the code makes it so each time, this is final.
        """
        model = self._definitions[event.job.job_type].result_model
        if model is None:
            return
        try:
            model.model_validate_json(json.dumps(dict(result)), strict=True)
        except ValidationError as error:
            raise final_failure(
                self._own_error(event),
                f"The result is not what its result model {model.__name__} says; the first field "
                f"that is wrong is {first_problem(error, 'result', may_be_secret=True)}; correct "
                "the stage's code, or the model, deploy it, and run the job again.",
            ) from None

    def _own_error(self, event: StageEvent) -> ErrorType:
        stage = self._stage(event)
        return ErrorType.UNKNOWN_ERROR if stage is None else stage.own_error

    def _stage(self, event: StageEvent) -> Stage | None:
        definition = self._definitions.get(event.job.job_type)
        return None if definition is None else definition.stage(event.stage)

    def _known(self, error: Exception, event: StageEvent) -> ProvisioningError:
        """Turn any exception into one of the table; its text is kept only where we made it."""
        own = self._own_error(event)
        if isinstance(error, ProvisioningError):
            return error
        if isinstance(error, AWS_ERRORS):
            return translate(error, own, "run the stage")
        where = traceback.extract_tb(error.__traceback__)[-1]
        return failure(
            own,
            "The stage met an error of its own code.",
            f"{type(error).__name__} at {where.filename}:{where.lineno}",
        )

    def _failed(
        self,
        event: StageEvent,
        held: StageRecord | None,
        error: ProvisioningError,
        given: JobInput,
    ) -> ProvisioningError:
        """Record how the attempt failed, where it had begun; return its error, to be raised."""
        is_repeated = is_retried(error)
        attempt = 0 if held is None else held.attempt
        said = StoredError(error.type, event.stage, attempt, error.message, error.cause)
        try:
            if held is not None:
                word = self._progress.fail(event.job.job_id, held, said, retryable=is_repeated)
                record = word.record
                if not word.is_written:
                    given.be_superseded(record)
                is_repeated &= record.next_attempt_before is not None
                if record.error is not None and record.error.type is ErrorType.JOB_CANCELLED:
                    error = failure(record.error.type, record.error.message, record.error.cause)
        except (*AWS_ERRORS, ProvisioningError) as write_error:
            # The stage's own error says more than this one, and reaches the state machine.
            logger.warning("failure not recorded", cause=type(write_error).__name__)
        measure_by(error_type=error.type)
        metrics.add_metric("StageFailures", MetricUnit.Count, 1)
        logger.warning(
            "stage failed",
            error_type=error.type,
            error_message=error.message,
            cause=error.cause,
            attempt=attempt,
            retryable=is_retried(error),
        )
        if is_repeated:
            metrics.add_metric("StageRetries", MetricUnit.Count, 1)
        return error

    def _input(self, event: StageEvent, record: StageRecord) -> JobInput:
        """Return what the code of a stage is handed."""
        stage = self._stage(event)
        return event.job.model_copy(
            update={
                "outputs": event.outputs,
                "is_first": record.is_start_stored
                and (record.attempt, event.job.attempt) == (1, 1),
                "is_last_poll": stage is not None
                and event.has_polled_for(stage.waits_seconds, record.retries_before),
            }
        )

    def _measure_wait(self, held: StageRecord | None) -> None:
        measure_wait(None if held is None else held.waiting_since, self._progress.now())


def _share(definition: JobDefinition[Any] | None, payload: Mapping[str, Any]) -> str:
    """Return whose share of the slots a job takes; jobs that name none share one."""
    if definition is None:
        return ""
    try:
        valid = validate_payload(definition.payload_model, payload)
    except ProvisioningError:
        # The stage itself says so.
        return ""
    return definition.message_group(valid) or ""


def measure_wait(since: datetime | None, now: datetime) -> None:
    """Measure how long a wait took that has ended, where there was one."""
    if since is not None:
        milliseconds = (now - since).total_seconds() * 1000
        metrics.add_metric("StageWaitDuration", MetricUnit.Milliseconds, milliseconds)


def _too_late(event: StageEvent) -> ProvisioningError:
    """Say why an attempt does not run of which no record tells, so that nobody would wait for it.

    Its answer got lost before it began: nobody hears the error. Should anyone, it can pass.
    """
    logger.warning("attempt came too late and is not run", retry_count=event.retry_count)
    return failure(ErrorType.TIMEOUT, "Another attempt of the stage began before this one.")
