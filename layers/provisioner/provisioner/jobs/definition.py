"""What a job type is, in one place: its name, payload, stages and what a failure of it does.

All else follows from a definition: the handler that the dispatcher looks up, the state machine with
its retries and time limits, the failure policy, what the reconciler knows. Code is named by text,
`module:function`, so that a function loads only the stages that it runs.
"""

from __future__ import annotations

import pkgutil
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property, partial
from inspect import signature
from itertools import pairwise
from typing import Any, Self

from pydantic import BaseModel

from provisioner.errors import ErrorType

#: As a message may name it; see `JobMessage`.
JOB_TYPE_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,63}")

_COMMAND_PATTERN = re.compile(r"[a-z]+(-[a-z]+)*")

#: Code is named by text: what the text is, and what is said of any other.
_CODE = (re.compile(r"[a-z_][\w.]*:[a-z_]\w*"), "name it as `package.module:function`")

_OUTPUT_FIELD = (
    re.compile(r"([a-z][a-z0-9_]*)?"),
    "name a field of the output: lower-case letters, digits, underscores",
)

#: The name of a state, of which Step Functions takes 80 characters. The state machine makes further
#: ones of it, which begin or end so, and has some of its own. Source: Amazon States Language,
#: "States".
_STATE = (
    re.compile(
        r"(?!After|(Completed|RecordFailure|StartCleanup|FailureNotRecorded)\Z)"
        r"[A-Za-z][A-Za-z0-9]{0,73}(?<!Failed)"
    ),
    (
        "letters and digits, at most 74; the first is a letter, and it neither begins with After, "
        "nor ends with Failed, nor is Completed, RecordFailure, StartCleanup or FailureNotRecorded"
    ),
)

#: What the texts of a stage are, by field, and what is said of any other.
_STAGE_TEXTS = {
    "name": (
        re.compile(r"[A-Z][A-Z0-9_]{0,63}"),
        "1 to 64 capital letters, digits and underscores; the first is a letter",
    ),
    "meaning": (re.compile(r".*\S.*"), "say what holds once it has ended well"),
    "code": _CODE,
    "state": _STATE,
    "ends_job_if": _OUTPUT_FIELD,
    "runs_if": _OUTPUT_FIELD,
}

#: Seconds that a Task waits for longer than its function runs: AWS Lambda's own start and answer.
TASK_MARGIN_SECONDS = 10

#: Seconds after its start in which an attempt of a stage may be at work that no definition knows:
#: AWS Lambda lets no function run for longer than 900. Source: AWS Lambda Developer Guide, "Lambda
#: quotas".
LONGEST_RUN_SECONDS = 900 + TASK_MARGIN_SECONDS

#: What the code of a function's stages works with, by the names of its keyword-only parameters.
type Resources = Mapping[str, Any]


class DefinitionError(ValueError):
    """A job type is defined in a way that cannot run; the message names the field."""


@dataclass(frozen=True, slots=True)
class Function:
    """A Lambda function that runs stages. Functions are cut by privilege, not by job type."""

    #: The folder in `functions/`, and the module in `composition/`.
    name: str
    #: Its time-out in the template, in seconds.
    seconds: int


def require(holds: object, sentence: str) -> None:
    """Refuse a definition of which something does not hold."""
    if not holds:
        raise DefinitionError(sentence)


@dataclass(eq=False, repr=False)
class Stage(str):  # noqa: SLOT000  # its fields are a dataclass's
    """One stage of a job type.

    It is its name wherever a name is stored, sent or compared, as a member of a StrEnum is.
    """

    name: str
    #: What holds once it has ended well, in one line.
    meaning: str
    _: KW_ONLY
    #: The function that runs it.
    function: Function
    #: Its code, as `module:function`; see `StageFunction`.
    code: str
    #: Arguments of its code that are always the same.
    arguments: Mapping[str, Any] = field(default_factory=dict)
    #: The error type of causes of its own that stay.
    own_error: ErrorType = ErrorType.UNKNOWN_ERROR
    #: The name of its state in the Step Functions console; by default its own in PascalCase.
    state: str = ""
    #: The field of its output that says, where it is true, that the job has ended with it.
    ends_job_if: str = ""
    #: The field of the output of the stage directly before it that says, where it is true, that it
    #: runs; else it is SKIPPED. Empty for a stage that always runs.
    runs_if: str = ""
    #: Seconds that it may be WAITING in all, by the clock; 0 for a stage that waits for nothing.
    waits_seconds: int = 0

    def __new__(cls, name: str, *_: object, **_fields: object) -> Self:
        """Make the text that it is."""
        return super().__new__(cls, name)

    def __post_init__(self) -> None:
        """Check that it can run.

        Raises:
            DefinitionError: a field cannot be what it is given.
        """
        self.state = self.state or pascal_case(self.name)
        for name, (pattern, sentence) in _STAGE_TEXTS.items():
            require(pattern.fullmatch(getattr(self, name)), f"stage {self}: {name}: {sentence}.")
        require(self.waits_seconds >= 0, f"stage {self}: waits_seconds: must not be negative.")

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Be copied and serialized as the name alone."""
        return str, (str(self),)

    @property
    def seconds(self) -> int:
        """For how long after its start an attempt may be at work: the time-out of its Task."""
        return self.function.seconds + TASK_MARGIN_SECONDS

    @property
    def branches(self) -> tuple[tuple[Stage, ...], ...]:
        """It alone, in the form of a `Parallel`."""
        return ((self,),)


def pascal_case(name: str) -> str:
    """Write words that underscores join without them, each with a capital."""
    return "".join(part.capitalize() for part in name.split("_"))


@dataclass(frozen=True)
class Parallel:
    """Branches that run beside one another, each in sequence; every branch settles."""

    #: The name of its state in the Step Functions console.
    state: str
    branches: tuple[tuple[Stage, ...], ...]


@dataclass(frozen=True)
class FailureHandling:
    """What a job type does when a job of it fails; by default what suits one that makes nothing."""

    #: Builds the writes that give back what the job holds, as `module:function`; see `Release`.
    release: str = ""
    #: The job type that removes what a failed job has made; empty where that stays.
    cleanup_job_type: str = ""
    #: Says what a job of that type is asked, and hands over to it what the failed one holds, as
    #: `module:function`; see `CleanupRequest`.
    describe_cleanup: str = ""
    #: Names what a stage may have left that was to remove it, as `module:function`.
    remaining: str = ""


def no_group(_payload: Any) -> None:
    """Leave the message in the queue's common order."""


@dataclass(frozen=True, kw_only=True)
class JobDefinition[Payload: BaseModel]:
    """One job type."""

    #: What a message names it by.
    name: str
    #: What a job of it does, in one line.
    meaning: str
    #: Says what a valid payload is; the job's payload is stored as this model dumps it.
    payload_model: type[Payload]
    #: What a job of it ends with; one whose result, as JSON, is not what it says fails. None where
    #: that is no one's contract.
    result_model: type[BaseModel] | None = None
    #: The stages in order, with what runs beside what. The last is a stage: it completes the job.
    steps: tuple[Stage | Parallel, ...]
    on_failure: FailureHandling = field(default_factory=FailureHandling)
    #: Whose share of the queue, and of the slots, a job takes: the MessageGroupId of its message
    #: (SQS fair queues). Jobs without one have a share of the slots together.
    message_group: Callable[[Payload], str | None] = no_group
    #: A payload to try it with.
    example: Mapping[str, Any]
    #: The words of the program's command that enqueues a job, such as `("keys", "rotate")`; None
    #: where only `provision enqueue` does. Every field but `project_id` becomes an option of it.
    command: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check that it can run.

        Raises:
            DefinitionError: it cannot; the message says why.
        """
        where = f"job type {self.name}"
        require(
            JOB_TYPE_PATTERN.fullmatch(self.name),
            f"{where}: a name is 1 to 64 lower-case letters, digits and underscores; the first is "
            "a letter.",
        )
        require(
            self.command is None
            or (self.command and all(map(_COMMAND_PATTERN.fullmatch, self.command))),
            f"{where}: command: give its words, each of a-z and hyphens.",
        )
        self._check_steps(f"{where}: steps")
        self._check_decisions(where)
        self._check_failure(f"{where}: on_failure")

    def _check_steps(self, where: str) -> None:
        require(
            self.steps and isinstance(self.steps[-1], Stage),
            f"{where}: the last must be a stage; it completes the job.",
        )
        pattern, sentence = _STATE
        for step in self.steps:
            require(pattern.fullmatch(step.state), f"{where}: {step.state}: {sentence}.")
            require(
                step.branches and all(step.branches),
                f"{where}: {step.state} has a branch without stages.",
            )
        states = [stage.state for stage in self.stages]
        states += [step.state for step in self.steps if isinstance(step, Parallel)]
        for names in (map(str, self.stages), states):
            twice = sorted(name for name, times in Counter(names).items() if times > 1)
            require(not twice, f"{where}: {', '.join(twice)} stands there twice.")

    def _check_decisions(self, where: str) -> None:
        """Refuse what no output of a stage can decide."""
        alone = [step for step in self.steps[:-1] if isinstance(step, Stage)]
        # With a stage that runs only sometimes before it, nothing would say whether it is to run.
        after_a_stage = [
            after
            for before, after in pairwise(self.steps)
            if after in alone and before in alone and not before.runs_if
        ]
        for stage in self.stages:
            require(
                not stage.ends_job_if or stage in alone,
                f"{where}: stage {stage}: ends_job_if: leave it out; a stage that runs beside "
                "others, or is the last, ends no job early.",
            )
            require(
                not stage.runs_if or stage in after_a_stage,
                f"{where}: stage {stage}: runs_if: leave it out; only a stage between others may "
                "be left out, directly after one that runs alone and always.",
            )

    def _check_failure(self, where: str) -> None:
        require(
            bool(self.on_failure.cleanup_job_type) is bool(self.on_failure.describe_cleanup),
            f"{where}: cleanup_job_type and describe_cleanup go together; give both or neither.",
        )
        pattern, sentence = _CODE
        for name in ("release", "describe_cleanup", "remaining"):
            code = getattr(self.on_failure, name)
            require(not code or pattern.fullmatch(code), f"{where}: {name}: {sentence}.")

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in order, as the job shows them."""
        return tuple(stage for step in self.steps for branch in step.branches for stage in branch)

    @cached_property
    def first(self) -> tuple[Stage, ...]:
        """The stages that a job may begin with."""
        return tuple(branch[0] for branch in self.steps[0].branches)

    @property
    def last(self) -> Stage:
        """The stage that completes the job."""
        return self.stages[-1]

    def optional_after(self, stage: str) -> Stage | None:
        """Return the stage directly after one that runs only where that one says so, if any."""
        after = next((after for before, after in pairwise(self.steps) if before == stage), None)
        return after if isinstance(after, Stage) and after.runs_if else None

    def skipped_after(self, stage: str, output: Mapping[str, Any]) -> Stage | None:
        """Return the stage directly after one that does not run, by the output of that one."""
        optional = self.optional_after(stage)
        is_asked_for = optional is None or output.get(optional.runs_if) is True
        return None if is_asked_for else optional

    def stage(self, name: str) -> Stage | None:
        """Return the stage of a name; None where it has none."""
        return next((stage for stage in self.stages if stage == name), None)


#: The job types of a deployment by name.
type JobDefinitions = Mapping[str, JobDefinition[Any]]


def description(error: Exception) -> str:
    """Name what keeps code from being loaded: the error's class, and the first line of its text."""
    return f"{type(error).__name__}: {str(error).partition('\n')[0].rstrip('.')}"


def bind(code: str, resources: Resources, **arguments: Any) -> Callable[..., Any]:
    """Load code and bind its keyword-only parameters to what they are named after.

    Args:
        code: as `module:function`.
        resources: what a function has, by name.
        arguments: what the definition gives it.

    Raises:
        DefinitionError: there is no such code, or it takes what the function does not have.
    """
    try:
        function = pkgutil.resolve_name(code)
    except Exception as error:  # a module is run when it is loaded, and may raise anything
        raise DefinitionError(f"code {code}: cannot be loaded: {description(error)}.") from error
    wanted = [
        p
        for p in signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in arguments
    ]
    missing = [p.name for p in wanted if p.name not in resources and p.default is p.empty]
    require(
        not missing,
        f"code {code}: takes {', '.join(missing)}, which its function does not have; it has "
        f"{', '.join(sorted(resources))}.",
    )
    taken = {p.name: resources[p.name] for p in wanted if p.name in resources}
    return partial(function, **taken, **arguments)
