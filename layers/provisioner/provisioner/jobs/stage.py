"""What a stage is handed, and what it says: that it has ended well, or waits, or ends the job."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr

from provisioner.drivers.aws_errors import AWS_ERRORS
from provisioner.drivers.dynamodb import Write
from provisioner.errors import ProvisioningError
from provisioner.jobs.models import StageRecord, StageStatus
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.retries import waiting_retry
from provisioner.runtime.observability import logger

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
    #: Whether the stage has been polled as often as its time to wait allows. The clock ends that
    #: before, but for where each wait is shortened, as on the local stack.
    is_last_poll: bool = False
    _if_superseded: list[Superseded] = PrivateAttr(default_factory=list)

    def payload_as[Payload: BaseModel](self, model: type[Payload]) -> Payload:
        """Return the payload as a model has it.

        Raises:
            INVALID_PAYLOAD: naming the first field that is wrong.
        """
        return validate_payload(model, self.payload)

    def if_superseded(self, act: Superseded) -> None:
        """Let something be done at the end of this run if it is not this run that ends the stage.

        Args:
            act: gets the output of the run that has ended the stage well, or {} where none has yet.
        """
        self._if_superseded.append(act)

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

    def has_polled_for(self, waits_seconds: int, since: int = 0) -> bool:
        """Whether the Task has been repeated as often as a step is that waits for so long.

        Args:
            waits_seconds: for how long.
            since: how often it had been repeated when the wait could begin.
        """
        return self.retry_count - since >= waiting_retry(waits_seconds).max_attempts


@dataclass(frozen=True, slots=True)
class Completion:
    """Says that the job ends well with this stage."""

    #: As JSON, it is what the job type's `result_model` says; else the job fails.
    result: Mapping[str, Any]
    #: Writes of the same transaction.
    also: Sequence[Write] = ()
    #: Whether they only release what the job has: where they are refused, it has that no more, and
    #: ends without them.
    only_releases: bool = False


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
