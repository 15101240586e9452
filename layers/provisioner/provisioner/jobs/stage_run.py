"""Runs one attempt of one stage: records its start, calls it, records how it ended."""

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from provisioner.drivers.aws_errors import AWS_ERRORS, translate
from provisioner.errors import (
    ErrorType,
    ProvisioningError,
    failure,
    final_failure,
    is_retried,
)
from provisioner.jobs.definition import LONGEST_RUN_SECONDS, JobDefinition, JobDefinitions, Stage
from provisioner.jobs.models import (
    PROCESS_LEASE,
    StageRecord,
    StageStatus,
    StoredError,
    waited_in_vain,
)
from provisioner.jobs.registry import first_problem, validate_payload
from provisioner.jobs.stage import Completion, JobInput, StageEvent, StageOutcome, Waiting
from provisioner.jobs.stage_store import EndOfRun, StageStart, StageStore
from provisioner.jobs.store import JobStore
from provisioner.runtime.observability import logger, measure_by, metrics

#: The step of every state machine that records a failed job; it is no stage.
RECORD_FAILURE = "RECORD_FAILURE"


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


@dataclass(frozen=True)
class StageRunner:
    """Runs the stages that one function (or one process) has."""

    #: Where progress is kept.
    store: JobStore
    #: The code of the stages of each job type, by name.
    stages: JobStages
    _: KW_ONLY
    #: The job types.
    definitions: JobDefinitions
    #: Whether it runs whole jobs, one stage after the other, in someone's process.
    is_process: bool = False

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
        metrics.add_metric("StageDuration", "Milliseconds", (time.monotonic() - began) * 1000)
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
        own_error = ErrorType.UNKNOWN_ERROR
        try:
            definition, stage, run = self._find(event)
            own_error = stage.own_error
            held = self._start(event, definition, stage)
            if held is None:
                return _too_late(event)
            if held.status.is_terminal:
                return held
            if held.attempt == 0:
                return self._wait_for_slot(held)
            given = _input(event, stage, held)
            outcome = run(given)
            if isinstance(outcome, Waiting):
                ended = self._wait(event, stage, held, outcome.waiting_for)
            else:
                ended = self._end(event, definition, stage, held, outcome)
        except Exception as error:  # noqa: BLE001  # each becomes an error of the table, and is raised
            known = known_error(error, own_error)
            known.__cause__ = known.__context__ = None
            measure_wait(None if held is None else held.waiting_since, self.store.now())
            return self._failed(event, held, known, given)
        record = ended.record
        if record.status is StageStatus.WAITING:
            if ended.is_written and held.status is not StageStatus.WAITING:
                metrics.add_metric("StageWaits", "Count", 1)
            logger.info(
                "stage waits",
                waiting_for=record.waiting_for,
                waits_until=str(record.waits_until),
            )
            return StageWaiting(record.waiting_for)
        measure_wait(held.waiting_since, self.store.now())
        if not ended.is_written:
            given.be_superseded(record)
        is_of_event = record.job_attempt == event.job.attempt
        return record if is_of_event and record.status.is_terminal else _too_late(event)

    def _find(self, event: StageEvent) -> tuple[JobDefinition[Any], Stage, StageFunction]:
        """Return the definition of the job, and of the stage, and its code.

        Raises:
            UNKNOWN_ERROR: there is none of one of them.
        """
        definition = self.definitions.get(event.job.job_type)
        stage = None if definition is None else definition.stage(event.stage)
        run = self.stages.get(event.job.job_type, {}).get(event.stage)
        if definition is None or stage is None or run is None:
            raise failure(
                ErrorType.UNKNOWN_ERROR,
                f"The function has no stage {event.stage} of job type {event.job.job_type}: its "
                "code and the state machine are of different versions; deploy both.",
            )
        return definition, stage, run

    def _start(
        self, event: StageEvent, definition: JobDefinition[Any], stage: Stage
    ) -> StageRecord | None:
        begins_job = stage in definition.first
        return StageStart(
            self.store,
            event,
            PROCESS_LEASE if self.is_process else timedelta(seconds=stage.seconds),
            begins_job=begins_job,
            share=_share(definition, event.job.payload) if begins_job else "",
            is_alone=self.is_process,
        ).write()

    def _wait_for_slot(self, waiting: StageRecord) -> SlotWaiting:
        milliseconds = _milliseconds(waiting.waiting_since, self.store.now())
        metrics.add_metric("SlotWait", "Milliseconds", milliseconds)
        logger.info(
            "job waits for a slot",
            waiting_for=waiting.waiting_for,
            waits_until=str(waiting.waits_until),
        )
        return SlotWaiting(waiting.waiting_for)

    def _wait(
        self, event: StageEvent, stage: Stage, held: StageRecord, waiting_for: str
    ) -> EndOfRun:
        """Record what the stage waits for.

        Raises:
            ProvisioningError: it may not wait, has waited too long, or the job has ended or is
                being cancelled.
        """
        if stage.waits_seconds == 0 or not waiting_for.strip():
            raise final_failure(
                stage.own_error,
                "The stage waits, but its definition gives it no time to wait (waits_seconds), or "
                "it does not say what for.",
            )
        now = self.store.now()
        longest = timedelta(seconds=stage.waits_seconds)
        until = held.waits_until or now + longest
        if now >= until:
            seconds = (now - until + longest).total_seconds()
            raise final_failure(ErrorType.TIMEOUT, waited_in_vain(waiting_for, seconds))
        return StageStore(self.store).wait(event.job.job_id, held, waiting_for, until)

    def _end(
        self,
        event: StageEvent,
        definition: JobDefinition[Any],
        stage: Stage,
        held: StageRecord,
        outcome: StageOutcome,
    ) -> EndOfRun:
        """Record that the stage has ended well, and the job with it where it ends with it.

        Raises:
            ProvisioningError: the job's result is not what its result model says, or the job may
                not be completed any more.
        """
        progress = StageStore(self.store)
        job_id = event.job.job_id
        if outcome.completion is None and stage != definition.last:
            skips = definition.skipped_after(stage, outcome.output)
            return progress.end(job_id, held, outcome, skips=skips)
        completion = outcome.completion or Completion(outcome.output)
        _check_result(definition, stage.own_error, completion.result)
        # Repeated so often, it has waited for longer than any function runs. The clock says so
        # before, but for where each wait is shortened, as on the local stack.
        is_over = event.has_polled_for(LONGEST_RUN_SECONDS, held.retries_before)
        # What the job skips with its end is closed with the others after it.
        ended = progress.complete(
            job_id,
            held,
            outcome,
            list(map(str, definition.stages)),
            asks_leases=not self.is_process and not is_over,
        )
        if ended.is_written and ended.record.status.is_done:
            metrics.add_metric("JobsCompleted", "Count", 1)
        return ended

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
        stored = StoredError(error.type, event.stage, attempt, error.message, error.cause)
        try:
            if held is not None:
                ended = StageStore(self.store).fail(
                    event.job.job_id, held, stored, retryable=is_repeated
                )
                record = ended.record
                if not ended.is_written:
                    given.be_superseded(record)
                is_repeated &= record.next_attempt_before is not None
                if record.error is not None and record.error.type is ErrorType.JOB_CANCELLED:
                    error = failure(record.error.type, record.error.message, record.error.cause)
        except (*AWS_ERRORS, ProvisioningError) as write_error:
            # The stage's own error says more than this one, and reaches the state machine.
            logger.warning("failure not recorded", cause=type(write_error).__name__)
        measure_by(error_type=error.type)
        metrics.add_metric("StageFailures", "Count", 1)
        logger.warning(
            "stage failed",
            error_type=error.type,
            error_message=error.message,
            cause=error.cause,
            attempt=attempt,
            retryable=is_retried(error),
        )
        if is_repeated:
            metrics.add_metric("StageRetries", "Count", 1)
        return error


def _input(event: StageEvent, stage: Stage, record: StageRecord) -> JobInput:
    """Return what the code of a stage is handed."""
    is_first = record.is_start_stored and (record.attempt, event.job.attempt) == (1, 1)
    is_last_poll = event.has_polled_for(stage.waits_seconds, record.retries_before)
    return event.job.model_copy(
        update={"outputs": event.outputs, "is_first": is_first, "is_last_poll": is_last_poll}
    )


def _check_result(
    definition: JobDefinition[Any], own_error: ErrorType, result: Mapping[str, Any]
) -> None:
    """Refuse a result that is not what the job type's result model says.

    It is compared as what it is stored and read as, JSON, in which a time is text; and strictly, so
    that a text of digits is no number. Source: pydantic's documentation, "Strict Mode".

    Raises:
        ProvisioningError: it is not; since the code makes it so each time, this is final.
    """
    model = definition.result_model
    if model is None:
        return
    try:
        model.model_validate_json(json.dumps(dict(result)), strict=True)
    except ValidationError as error:
        raise final_failure(
            own_error,
            f"The result is not what its result model {model.__name__} says; the first field "
            f"that is wrong is {first_problem(error, 'result', may_be_secret=True)}; correct "
            "the stage's code, or the model, deploy it, and run the job again.",
        ) from None


def known_error(error: Exception, own_error: ErrorType) -> ProvisioningError:
    """Turn any exception into one of the table; its text is kept only where we, or AWS, made it.

    Args:
        error: the exception.
        own_error: the type of causes that stay.
    """
    if isinstance(error, ProvisioningError):
        return error
    if isinstance(error, AWS_ERRORS):
        return translate(error, own_error, "run the stage")
    where = traceback.extract_tb(error.__traceback__)[-1]
    return failure(
        own_error,
        "The stage met an error of its own code.",
        f"{type(error).__name__} at {where.filename}:{where.lineno}",
    )


def _share(definition: JobDefinition[Any], payload: Mapping[str, Any]) -> str:
    """Return whose share of the slots a job takes; jobs that name none share one."""
    try:
        valid = validate_payload(definition.payload_model, payload)
    except ProvisioningError:
        # The stage itself says so.
        return ""
    return definition.message_group(valid) or ""


def measure_wait(since: datetime | None, now: datetime) -> None:
    """Measure how long a wait took that has ended, where there was one."""
    if since is not None:
        metrics.add_metric("StageWaitDuration", "Milliseconds", _milliseconds(since, now))


def _milliseconds(since: datetime | None, now: datetime) -> float:
    return (now - (since or now)).total_seconds() * 1000


def _too_late(event: StageEvent) -> ProvisioningError:
    """Say why an attempt does not run of which no record tells, so that nobody would wait for it.

    Its answer got lost before it began: nobody hears the error. Should anyone, it can pass.
    """
    logger.warning("attempt came too late and is not run", retry_count=event.retry_count)
    return failure(ErrorType.TIMEOUT, "Another attempt of the stage began before this one.")
