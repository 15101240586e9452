"""Runs one attempt of one stage: records its start, calls it, records how it ended."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.metrics import MetricUnit
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from provisioner.drivers.aws_errors import AWS_ERRORS, translate
from provisioner.drivers.dynamodb import ConditionFailedError
from provisioner.errors import (
    ErrorType,
    ProvisioningError,
    failure,
    final_failure,
    is_retried,
)
from provisioner.jobs.definition import JobDefinitions, Stage
from provisioner.jobs.models import (
    CANCELLED,
    Job,
    StageRecord,
    StageStatus,
    StoredError,
    waited_in_vain,
)
from provisioner.jobs.registry import first_kind_of_problem
from provisioner.runtime.observability import logger, measure_by, metrics

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

    from provisioner.jobs.store import JobStore


#: The step of every state machine that records a failed job; it is no stage.
RECORD_FAILURE = "FAILED"


#: What a run does whose stage another has ended, or begun anew; by the output of that, if any.
type Superseded = Callable[[Mapping[str, Any]], object]


class JobInput(BaseModel):
    """The job, as the execution carries it untouched, and what a stage of it is handed besides."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    job_type: str
    payload: dict[str, Any]
    #: The job's attempt, from 1.
    attempt: int = 1
    #: The outputs of the stages before in its line, by name; those that run only sometimes, and
    #: those of other branches, are not among them.
    outputs: dict[str, dict[str, Any]] = {}
    #: Whether this run has stored the first start of the stage in this job: only from then on can
    #: anything exist that the job makes in it.
    is_first: bool = False
    _if_superseded: list[Superseded] = PrivateAttr(default_factory=list)

    def if_superseded(self, act: Superseded) -> None:
        """Let something be done at the end of this run if it is not this run that ends the stage.

        Args:
            act: gets the output of the run that has ended the stage well, or {} where none has yet.
        """
        self._if_superseded.append(act)

    @property
    def settles(self) -> bool:
        """Whether this run has something to do where another ends the stage."""
        return bool(self._if_superseded)

    def be_superseded(self, by: StageRecord) -> None:
        """Do what is to be done where another run has ended the stage, or begun it anew."""
        stored = by.output if by.status is StageStatus.SUCCEEDED else {}
        for act in self._if_superseded:
            try:
                act(stored)
            except (ProvisioningError, *AWS_ERRORS) as error:
                # Nobody waits for this run any more.
                logger.warning("superseded run has not settled", cause=str(error))


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

    @property
    def round(self) -> int:
        """The job's attempt that the stage is run in."""
        return self.job.attempt


@dataclass(frozen=True, slots=True)
class Completion:
    """Says that the job ends well with this stage."""

    #: As JSON, it is what the job type's `result_model` says; else the job fails.
    result: Mapping[str, Any]
    #: Writes of the same transaction.
    also: Sequence[TransactWriteItemTypeDef] = ()


@dataclass(frozen=True, slots=True)
class StageOutcome:
    """How a stage ended well."""

    #: What the stage made, without secrets.
    output: Mapping[str, Any] = field(default_factory=dict)
    #: What answered, in one sentence.
    check: str = ""
    #: Whether the payload does not ask for the stage.
    skipped: bool = False
    #: Given by the last stage, which ends the job; without it the job's result is its output.
    completion: Completion | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """How a stage says that it has to wait: it is run again in a minute, as the same attempt.

    Only a stage whose definition has `waits_seconds` may; so long it may wait in all.
    """

    #: What for, in one sentence without secrets. It is stored when it changes.
    waiting_for: str


class StageWaiting(Exception):  # noqa: N818  # the state machines know it by this name
    """A stage, or the end of a job, waits. A retrier of its own, `waiting_retry`, repeats it.

    It is no error of the job.
    """


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
    ) -> None:
        """Bind the runner.

        Args:
            store: where progress is kept.
            stages: the code of the stages of each job type, by name.
            definitions: the job types.
        """
        self._store = store
        self._stages = stages
        self._definitions = definitions

    @property
    def store(self) -> JobStore:
        """Where the runner keeps progress."""
        return self._store

    def __call__(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Run one attempt of the stage that the event names.

        Returns:
            ok, stage, status and output; no part of it is secret.

        Raises:
            ProvisioningError: its class is named like its error type, or `StageEnded` where the
                stage has failed for good with an error of a type that is retried.
            StageWaiting: the stage waits.
        """
        parsed = StageEvent.model_validate(event)
        logger.append_keys(
            job_id=parsed.job.job_id,
            project_id=parsed.job.payload.get("project_id", ""),
            stage=parsed.stage,
        )
        measure_by(stage=parsed.stage)
        began = time.monotonic()
        ended = self._attempt(parsed)
        if isinstance(ended, Exception):
            raise ended
        record = ended
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
        attempt, waiting_since, polls_seen = 0, None, False
        try:
            record = self._start(event)
            attempt, polls_seen = record.attempt, _are_polls_seen(record, event)
            if record.status.is_terminal and record.round == event.round:
                return record
            # Read after the start is stored: who cancels a job stores that first and looks for
            # running stages then, so that one of the two sees the other.
            job = self._head(event)
            refusal = _refusal(job, event)
            if refusal is not None:
                return self._failed(event, attempt, refusal, polls_seen=polls_seen)
            if not _is_recorded(record, event):
                return _too_late(event)
            waiting_since = record.waiting_since
            return self._run(event, job, record)
        except Exception as error:  # noqa: BLE001  # each becomes an error of the table, and is raised
            known = self._known(error, event)
            known.__cause__ = known.__context__ = None
            measure_wait(waiting_since, self._store.now())
            told = self._unless_cancelled(event, known)
            return self._failed(event, attempt, told, polls_seen=polls_seen)

    def _start(self, event: StageEvent) -> StageRecord:
        job = self._head(event)
        refusal = _refusal(job, event)
        if refusal is None:
            return self._store.start_stage(job, event.stage, event.retry_count, round_=event.round)
        record = self._store.stage(job.job_id, event.stage)
        if record is None or record.round != event.round or not record.status.is_terminal:
            raise refusal
        return record

    def _head(self, event: StageEvent) -> Job:
        job = self._store.get_head(event.job.job_id)
        if job is None:
            raise failure(
                ErrorType.INVALID_PAYLOAD,
                "job_id: no such job is stored; send the job through the queue.",
            )
        return job

    def _unless_cancelled(self, event: StageEvent, error: ProvisioningError) -> ProvisioningError:
        """Let an error that would be waited out end a job that is cancelled."""
        if not is_retried(error):
            return error
        try:
            job = self._store.get_head(event.job.job_id)
        except AWS_ERRORS:
            return error
        if job is None or job.cancel_requested_at is None:
            return error
        return failure(
            ErrorType.JOB_CANCELLED, CANCELLED, f"{error.type}: {error.message} {error.cause}"
        )

    def _run(self, event: StageEvent, job: Job, record: StageRecord) -> StageRecord | StageWaiting:
        run = self._stages.get(event.job.job_type, {}).get(event.stage)
        if run is None:
            raise failure(
                ErrorType.UNKNOWN_ERROR,
                f"The function has no stage {event.stage} of job type {event.job.job_type}: its "
                "code and the state machine are of different versions; deploy both.",
            )
        given = _input(event, record)
        try:
            outcome = run(given)
        except Exception:
            self._look_if_superseded(given, record)
            raise
        if isinstance(outcome, Waiting):
            return self._wait(event, job, record, outcome.waiting_for)
        ended = self._end(event, outcome, polls_seen=_are_polls_seen(record, event))
        if ended.output != outcome.output:
            given.be_superseded(ended)
        measure_wait(record.waiting_since, self._store.now())
        return ended

    def _look_if_superseded(self, given: JobInput, begun: StageRecord) -> None:
        """See whether a run that has failed is the last of its stage; nobody else would settle."""
        if not given.settles:
            return
        with suppress(*AWS_ERRORS):
            found = self._store.stage(given.job_id, begun.stage)
            if found is not None and (found.round, found.attempt, found.status.is_terminal) != (
                begun.round,
                begun.attempt,
                False,
            ):
                given.be_superseded(found)

    def _wait(
        self, event: StageEvent, job: Job, record: StageRecord, waiting_for: str
    ) -> StageWaiting:
        """Record what the stage waits for, where that is new.

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
        now = self._store.now()
        longest = timedelta(seconds=stage.waits_seconds)
        until = record.waits_until or now + longest
        if now >= until:
            seconds = (now - until + longest).total_seconds()
            raise final_failure(ErrorType.TIMEOUT, waited_in_vain(waiting_for, seconds))
        is_written = record.waiting_for != waiting_for and self._store.stage_waits(
            job, record, waiting_for, until, retry_count=event.retry_count, round_=event.round
        )
        if not is_written:
            self._store.stage_polled(job, record, retry_count=event.retry_count, round_=event.round)
        if is_written and record.status is not StageStatus.WAITING:
            metrics.add_metric("StageWaits", MetricUnit.Count, 1)
        logger.info("stage waits", waiting_for=waiting_for, waits_until=until.isoformat())
        # Read after the wait is stored: who cancels a job stores that first and looks for stages
        # that wait then, so that one of the two sees the other.
        refusal = _refusal(self._head(event), event)
        if refusal is not None:
            raise refusal
        return StageWaiting(waiting_for)

    def _end(self, event: StageEvent, outcome: StageOutcome, *, polls_seen: bool) -> StageRecord:
        """Record that the stage has ended well, and the job with it where it ends with it.

        Raises:
            ProvisioningError: the job's result is not what its result model says, or the job may
                not be completed any more.
        """
        job_id, stage = event.job.job_id, event.stage
        definition = self._definitions[event.job.job_type]
        completion = outcome.completion
        if completion is None and stage == definition.last:
            completion = Completion(outcome.output)
        if completion is None:
            return self._store.end_stage(
                job_id,
                stage,
                StageStatus.SKIPPED if outcome.skipped else StageStatus.SUCCEEDED,
                output=outcome.output,
                check=outcome.check,
                round_=event.round,
                skipped=definition.skipped_after(stage, outcome.output),
                polls_seen=polls_seen,
            )
        self._check_result(event, completion.result)
        try:
            self._store.complete(
                job_id,
                stage,
                attempt=event.job.attempt,
                output=outcome.output,
                check=outcome.check,
                result=completion.result,
                polls_seen=polls_seen,
                also=completion.also,
            )
        except ConditionFailedError:
            ended = self._store.stage(job_id, stage)
            if ended is None or not ended.status.is_terminal:
                refusal = _refusal(self._head(event), event)
                raise (
                    refusal
                    or failure(
                        ErrorType.CONFLICT,
                        "The project is no longer held by this job, so the job was not completed.",
                    )
                ) from None
            return ended
        metrics.add_metric("JobsCompleted", MetricUnit.Count, 1)
        return self._store.stage(job_id, stage) or StageRecord(
            stage=stage, status=StageStatus.SUCCEEDED, output=dict(outcome.output)
        )

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
                f"that is wrong is {first_kind_of_problem(error, 'result')}; correct the stage's "
                "code, or the model, deploy it, and run the job again.",
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
        self, event: StageEvent, attempt: int, error: ProvisioningError, *, polls_seen: bool
    ) -> ProvisioningError:
        """Record how the attempt failed; return its error, to be raised."""
        retryable = is_retried(error)
        measure_by(error_type=error.type)
        metrics.add_metric("StageFailures", MetricUnit.Count, 1)
        logger.warning(
            "stage failed",
            error_type=error.type,
            error_message=error.message,
            cause=error.cause,
            attempt=attempt,
            retryable=retryable,
        )
        is_repeated = retryable
        stored = StoredError(error.type, event.stage, attempt, error.message, error.cause)
        try:
            if attempt > 0:
                is_repeated = self._store.stage_failed(
                    event.job.job_id,
                    stored,
                    retry_count=event.retry_count,
                    retryable=retryable,
                    round_=event.round,
                    polls_seen=polls_seen,
                )
        except AWS_ERRORS as write_error:
            # The stage's own error says more than this one, and reaches the state machine.
            logger.warning("failure not recorded", cause=type(write_error).__name__)
        if is_repeated:
            metrics.add_metric("StageRetries", MetricUnit.Count, 1)
        return error


def _input(event: StageEvent, record: StageRecord) -> JobInput:
    """Return what the code of a stage is handed."""
    is_first = record.is_start_stored and (record.attempt, event.job.attempt) == (1, 1)
    return event.job.model_copy(update={"outputs": event.outputs, "is_first": is_first})


def measure_wait(since: datetime | None, now: datetime) -> None:
    """Measure how long a wait took that has ended, where there was one."""
    if since is not None:
        milliseconds = (now - since).total_seconds() * 1000
        metrics.add_metric("StageWaitDuration", MetricUnit.Milliseconds, milliseconds)


def _are_polls_seen(record: StageRecord, event: StageEvent) -> bool:
    """Whether this is a poll, and each one before it has said that the stage still waits."""
    is_polled = record.status is StageStatus.WAITING and not record.waits_to_start
    return is_polled and record.round == event.round and record.polled == event.retry_count - 1


def _is_recorded(record: StageRecord, event: StageEvent) -> bool:
    """Whether the record of a stage tells of the attempt that the event begins, or polls."""
    if record.status is StageStatus.WAITING and not record.waits_to_start:
        return record.round == event.round and record.retry_count <= event.retry_count
    return record.status is StageStatus.RUNNING and (record.round, record.retry_count) == (
        event.round,
        event.retry_count,
    )


def _too_late(event: StageEvent) -> ProvisioningError:
    """Say why an attempt does not run of which no record tells, so that nobody would wait for it.

    Its answer got lost before it began: nobody hears the error. Should anyone, it can pass.
    """
    logger.warning("attempt came too late and is not run", retry_count=event.retry_count)
    return failure(ErrorType.TIMEOUT, "Another attempt of the stage began before this one.")


def _refusal(job: Job, event: StageEvent) -> ProvisioningError | None:
    """Say why the job takes no stage of the event's attempt any more."""
    if job.attempt != event.job.attempt or job.status.is_terminal:
        return failure(ErrorType.INVALID_PAYLOAD, "job_id: this job has ended; send a new job.")
    if job.cancel_requested_at is not None:
        return failure(ErrorType.JOB_CANCELLED, CANCELLED)
    return None
