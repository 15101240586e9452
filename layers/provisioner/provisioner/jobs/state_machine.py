"""The state machine of a job type in the Amazon States Language, made from its definition.

What calls this is the build: `make state-machines` writes the documents that are deployed. No
function imports it. Source of the language: https://states-language.net/spec.html.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from provisioner.jobs.definition import (
    LONGEST_RUN_SECONDS,
    TASK_MARGIN_SECONDS,
    DefinitionError,
    Function,
    JobDefinition,
    Parallel,
    Stage,
)
from provisioner.jobs.retries import (
    POLL_SECONDS,
    SERVICE_RETRY,
    STAGE_RETRY,
    START_RETRY,
    RetryPolicy,
    waiting_retry,
)
from provisioner.jobs.stage_run import RECORD_FAILURE

#: Bytes of a document as `text` writes it. AWS takes 1 MB; some of that is for the ARNs that take
#: the place of names. Source: AWS Step Functions Developer Guide, "Quotas".
MAX_DOCUMENT_BYTES = 1_000_000

#: Events of an execution's history: one that needs more fails. Source: the same.
MAX_EVENTS = 25_000

#: Characters of a state's name. Source: Amazon States Language, "States".
MAX_STATE_NAME = 80

#: What the history holds of an attempt of a Task: scheduled, started, ended.
_EVENTS_OF_AN_ATTEMPT = 3

#: What it holds of a state besides: entered and left; a Parallel state has started and ended, too.
_EVENTS_OF_A_STATE = 4

_FIELD_PATTERN = re.compile(r"[a-z][a-z0-9_]*")

_LAMBDA = "arn:aws:states:::lambda:invoke"
_START_EXECUTION = "arn:aws:states:::states:startExecution"

_SERVICE_COMMENT = (
    "The Lambda service itself failed or throttles, or makes the network interfaces of an idle "
    "function anew: that passes within minutes."
)
_STAGE_COMMENT = (
    "The retryable error types, and the names under which a function arrives that ran out of time "
    "or died: three attempts in all."
)
_WAITING_COMMENT = (
    "It waits, for what the job's item names, and is asked again each minute; the wait ends by the "
    "clock before this does."
)
_START_COMMENT = "Step Functions itself failed or throttles: that passes within seconds."

#: What is kept of the answer of a stage that others follow.
_KEPT = ("ok", "stage", "status", "output")

_COMPLETED, _RECORD_FAILURE, _FAILED = "Completed", "RecordFailure", "Failed"

type State = dict[str, Any]

#: States by name, in the order in which they are read best.
type States = list[tuple[str, State]]


def state_machine(definition: JobDefinition[Any], lifecycle: Function) -> dict[str, Any]:
    """Return the state machine of a job type.

    Args:
        definition: the job type.
        lifecycle: the function that runs the step that is no stage.

    Raises:
        DefinitionError: AWS would not take it, or could not run it to its end.
    """
    _check_decisions(definition)
    choices = _choices(definition)
    states: States = []
    closing: States = []
    before: list[Stage] = []
    most = _Most()
    names = [*(step.state for step in definition.steps), _COMPLETED]
    for number, step in enumerate(definition.steps):
        following = names[number + 1]
        if isinstance(step, Parallel):
            states += _parallel(step, before, choices[step.state], following)
            most += _most_of_branches(step)
            continue
        call = _stage_call(step, is_last=step is definition.last)
        most += call.most
        is_handed_on = not step.runs_if and step is not definition.last
        task = call.task(
            selected=_KEPT if is_handed_on or step.state in choices else _KEPT[:-1],
            result=str(step),
            caught=("error", f"{step.state}Failed"),
            before=before,
            following=choices.get(step.state, following),
        )
        states.append((step.state, task))
        if is_handed_on:
            before.append(step)
        if step.state in choices:
            optional = definition.optional_after(step)
            otherwise = following if optional is None else names[number + 2]
            states.append((choices[step.state], _decision(step, optional, otherwise)))
        closing.append((f"{step.state}Failed", _failed_alone(step)))
        most += _Most(events=_EVENTS_OF_A_STATE)
    states.append((_COMPLETED, {"Type": "Succeed", "Comment": "The job's item holds the result."}))
    ending, of_ending = _ending(lifecycle, has_cleanup=bool(definition.on_failure.request_cleanup))
    comment = (
        f"{definition.meaning} The input stays under $.job; every Task is one stage of the job and "
        "can be run twice."
    )
    return _document(definition.name, comment, [*states, *closing, *ending], most + of_ending)


def text(document: Mapping[str, Any]) -> str:
    """Return a state machine as its file holds it."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True, slots=True)
class _Call:
    """A Task's call of a function: a stage, or a step that is none."""

    #: What the function knows the stage or step by.
    name: str
    comment: str
    function: Function
    #: Seconds that it can be put off, beside its attempts, by a retrier of its own.
    waits_seconds: int = 0

    @property
    def seconds(self) -> int:
        return self.function.seconds + TASK_MARGIN_SECONDS

    def task(
        self,
        *,
        selected: Sequence[str] = ("ok", "stage", "status"),
        result: str = "",
        caught: tuple[str, str],
        branches: Mapping[str, Any] | None = None,
        before: Sequence[Stage] = (),
        following: str = "",
    ) -> State:
        """Return the state.

        Args:
            selected: what is kept of the answer.
            result: where it is put, beside the input; in the place of the input without it.
            caught: where an error is put, and the state that follows it.
            branches: how the function is told how what came before has ended.
            before: the stages whose outputs it is handed.
            following: the state that follows; the end without it.
        """
        payload = {
            "job.$": "$.job",
            "stage": str(self.name),
            "retry_count.$": "$$.State.RetryCount",
            **({"outputs": _outputs(before)} if before else {}),
            **(branches or {}),
        }
        path, handler = caught
        retries = [_retrier(SERVICE_RETRY, _SERVICE_COMMENT), _retrier(STAGE_RETRY, _STAGE_COMMENT)]
        if self.waits_seconds:
            retries.append(_retrier(waiting_retry(self.waits_seconds), _WAITING_COMMENT))
        return {
            "Type": "Task",
            "Comment": self.comment,
            "Resource": _LAMBDA,
            "TimeoutSeconds": self.seconds,
            "Parameters": {
                "FunctionName": f"${{{_camel_case(self.function.name)}FunctionArn}}",
                "Payload": payload,
            },
            "ResultSelector": {f"{name}.$": f"$.Payload.{name}" for name in selected},
            **({"ResultPath": f"$.{result}"} if result else {}),
            "Retry": retries,
            "Catch": [_catch(path, handler)],
            **({"Next": following} if following else {"End": True}),
        }

    @property
    def most(self) -> _Most:
        """What it takes at most, with every repetition."""
        most = _most(self.seconds, SERVICE_RETRY, STAGE_RETRY)
        if not self.waits_seconds:
            return most
        # The wait comes to an end by the clock; the last poll may begin just before that.
        polls = waiting_retry(self.waits_seconds).max_attempts
        return _Most(
            most.seconds + self.waits_seconds + POLL_SECONDS,
            most.events + polls * _EVENTS_OF_AN_ATTEMPT,
        )


@dataclass(frozen=True, slots=True)
class _Most:
    """What a part of an execution takes at most."""

    seconds: float = 0
    #: Of the execution's history.
    events: int = 0

    def __add__(self, other: _Most) -> _Most:
        return _Most(self.seconds + other.seconds, self.events + other.events)


def _most(seconds: int, *policies: RetryPolicy) -> _Most:
    """Return what a Task takes at most: each attempt its time-out, each wait its longest."""
    attempts = 1 + sum(policy.max_attempts for policy in policies)
    waits = sum(
        policy.longest_delay(attempt) or 0
        for policy in policies
        for attempt in range(1, policy.attempts_in_all)
    )
    return _Most(attempts * seconds + waits, attempts * _EVENTS_OF_AN_ATTEMPT + _EVENTS_OF_A_STATE)


def _outputs(before: Sequence[Stage]) -> dict[str, str]:
    """Return how a stage is handed the outputs of stages before it, as `JobInput.outputs` says."""
    return {f"{stage}.$": f"$.{stage}.output" for stage in before}


def _retrier(policy: RetryPolicy, comment: str) -> dict[str, Any]:
    retrier = {
        "Comment": comment,
        "ErrorEquals": list(policy.error_names),
        "IntervalSeconds": policy.interval_seconds,
        "BackoffRate": policy.backoff_rate,
        "MaxAttempts": policy.max_attempts,
    }
    if policy.backoff_rate == 1:
        # AWS refuses a longest delay that the first is not below.
        return retrier | {"JitterStrategy": "NONE"}
    return retrier | {"MaxDelaySeconds": policy.max_delay_seconds, "JitterStrategy": "FULL"}


def _catch(path: str, handler: str) -> dict[str, Any]:
    return {"ErrorEquals": ["States.ALL"], "ResultPath": f"$.{path}", "Next": handler}


def _check_decisions(definition: JobDefinition[Any]) -> None:
    """Refuse what no output of a stage can decide."""
    steps = definition.steps
    alone = [step for step in steps if isinstance(step, Stage)]
    # With a stage that runs only sometimes before it, nothing would say whether it is to run.
    after_a_stage = {
        after
        for before, after in pairwise(steps)
        if isinstance(before, Stage) and not before.runs_if and isinstance(after, Stage)
    }
    for stage in definition.stages:
        where = f"job type {definition.name}: stage {stage}"
        if stage.ends_job_if and stage not in alone[:-1]:
            raise DefinitionError(
                f"{where}: ends_job_if: leave it out; a stage that runs beside others, or is the "
                "last, ends no job early."
            )
        if stage.runs_if and (stage not in after_a_stage or stage is definition.last):
            raise DefinitionError(
                f"{where}: runs_if: leave it out; only a stage between others may be left out, "
                "directly after one that runs alone and always."
            )
        for name in ("ends_job_if", "runs_if"):
            field = getattr(stage, name)
            if field and _FIELD_PATTERN.fullmatch(field) is None:
                raise DefinitionError(
                    f"{where}: {name}: name a field of the output: lower-case letters, digits, "
                    "underscores."
                )


def _choices(definition: JobDefinition[Any]) -> dict[str, str]:
    """Name the Choice states after the steps that have one, by the states of these."""
    named = {}
    for step in definition.steps:
        if isinstance(step, Parallel):
            named[step.state] = "HaveAllBranchesSucceeded"
            continue
        optional = definition.optional_after(step)
        fields = filter(None, (step.ends_job_if, "" if optional is None else optional.runs_if))
        question = "Or".join(_camel_case(field.removeprefix("is_")) for field in fields)
        if question:
            named[step.state] = f"Is{question}"
    times = Counter(named.values())
    return {
        state: name if times[name] == 1 else f"{name}After{state}" for state, name in named.items()
    }


def _stage_call(stage: Stage, *, is_last: bool = False) -> _Call:
    # What ends the job waits, besides, until nothing of it is at work.
    waits = stage.waits_seconds + (LONGEST_RUN_SECONDS if is_last else 0)
    return _Call(str(stage), stage.meaning, stage.function, waits)


def _decision(stage: Stage, optional: Stage | None, otherwise: str) -> State:
    """Return the Choice after a stage whose output says how the job goes on.

    Args:
        stage: the stage.
        optional: the stage after it that runs only where the output says so, if any.
        otherwise: the state that follows where the output says nothing.
    """
    comments, rules = [], []
    if stage.ends_job_if:
        comments.append(
            "Where the stage says so, the job has completed with it and nothing is left to do."
        )
        rules.append(_says(stage, stage.ends_job_if, _COMPLETED))
    if optional is not None:
        comments.append(f"{optional} runs where the stage asks for it, and is SKIPPED elsewhere.")
        rules.append(_says(stage, optional.runs_if, optional.state))
    return {
        "Type": "Choice",
        "Comment": " ".join(comments),
        "Choices": rules,
        "Default": otherwise,
    }


def _says(stage: Stage, field: str, following: str) -> dict[str, Any]:
    """Return the rule that a field of a stage's output is true."""
    variable = f"$.{stage}.output.{field}"
    return {
        "And": [
            {"Variable": variable, "IsPresent": True},
            {"Variable": variable, "BooleanEquals": True},
        ],
        "Next": following,
    }


def _parallel(parallel: Parallel, before: Sequence[Stage], choice: str, following: str) -> States:
    settled = {
        "Type": "Parallel",
        "Comment": "What does not depend on one another. Every branch settles before anything "
        "decides, for a sibling's Lambda keeps running when a branch fails.",
        "Branches": [_branch(stages, before) for stages in parallel.branches],
        "ResultSelector": {"branches.$": "$", "ok.$": "$[*].ok"},
        "ResultPath": "$.settled",
        "Next": choice,
    }
    decides = {
        "Type": "Choice",
        "Comment": "All well, or at least one branch passed an error on.",
        "Choices": [
            {
                "And": [
                    {"Variable": f"$.settled.ok[{number}]", "BooleanEquals": True}
                    for number in range(len(parallel.branches))
                ],
                "Next": following,
            }
        ],
        "Default": _RECORD_FAILURE,
    }
    return [(parallel.state, settled), (choice, decides)]


def _branch(stages: Sequence[Stage], before: Sequence[Stage]) -> dict[str, Any]:
    states: States = []
    for number, (stage, after) in enumerate(zip(stages, [*stages[1:], None], strict=True)):
        caught = ("error", f"{stage.state}Failed")
        call = _stage_call(stage)
        earlier = [*before, *stages[:number]]
        task = (
            call.task(caught=caught, before=earlier)
            if after is None
            else call.task(
                selected=_KEPT,
                result=str(stage),
                caught=caught,
                before=earlier,
                following=after.state,
            )
        )
        states.append((stage.state, task))
    for stage in stages:
        passed_on = {
            "Type": "Pass",
            "Comment": "Passes the error on as data: a branch never fails the Parallel state.",
            "Parameters": _failed(stage),
            "End": True,
        }
        states.append((f"{stage.state}Failed", passed_on))
    return {"StartAt": stages[0].state, "States": dict(states)}


def _most_of_branches(parallel: Parallel) -> _Most:
    """Return what they take beside one another: the time of the longest, the events of all."""
    branches = [
        sum((_stage_call(stage).most for stage in stages), _Most()) for stages in parallel.branches
    ]
    states = 2 * len(parallel.branches) + 2
    return _Most(
        max(branch.seconds for branch in branches),
        sum(branch.events for branch in branches) + states * _EVENTS_OF_A_STATE,
    )


def _failed(stage: Stage) -> dict[str, Any]:
    return {"ok": False, "stage": str(stage), "error.$": "$.error"}


def _failed_alone(stage: Stage) -> State:
    return {
        "Type": "Pass",
        "Comment": "Says which stage the error is of, in the form of a branch's.",
        "Parameters": {"job.$": "$.job", "settled": {"branches": [_failed(stage)]}},
        "Next": _RECORD_FAILURE,
    }


def _ending(lifecycle: Function, *, has_cleanup: bool) -> tuple[States, _Most]:
    """Return how a job that failed ends, and what that takes at most."""
    record = _Call(
        RECORD_FAILURE,
        "Stores the errors, closes the stages that never said how they ended, and releases what "
        + ("the job holds, or hands it over to a clean-up." if has_cleanup else "the job holds."),
        lifecycle,
        waits_seconds=LONGEST_RUN_SECONDS,
    )
    task = record.task(
        selected=("error_type", "message", *(("has_cleanup", "cleanup") if has_cleanup else ())),
        result="failure",
        caught=("error", "FailureNotRecorded"),
        branches={"branches.$": "$.settled.branches"},
        following="IsCleanupWanted" if has_cleanup else _FAILED,
    )
    states: States = [(_RECORD_FAILURE, task)]
    most = record.most
    if has_cleanup:
        seconds = lifecycle.seconds + TASK_MARGIN_SECONDS
        states += _start_of_cleanup(seconds)
        most += _most(seconds, START_RETRY)
    states += [
        (
            _FAILED,
            {
                "Type": "Fail",
                "Comment": "Ends with the job's own error.",
                "ErrorPath": "$.failure.error_type",
                "CausePath": "$.failure.message",
            },
        ),
        (
            "FailureNotRecorded",
            {
                "Type": "Fail",
                "Comment": "The job's item could not be written; the history holds both errors.",
                "Error": "UNKNOWN_ERROR",
                "Cause": "The failure of the job could not be recorded; see the Catch of "
                "RecordFailure in this history.",
            },
        ),
    ]
    return states, most + _Most(events=len(states) * _EVENTS_OF_A_STATE)


def _start_of_cleanup(seconds: int) -> States:
    wanted = {
        "Type": "Choice",
        "Comment": "Whether what the job made is removed or stays for a later job.",
        "Choices": [
            {"Variable": "$.failure.has_cleanup", "BooleanEquals": True, "Next": "StartCleanup"}
        ],
        "Default": _FAILED,
    }
    start = {
        "Type": "Task",
        "Comment": "Starts the clean-up, a job of its own, and does not wait for it.",
        "Resource": _START_EXECUTION,
        "TimeoutSeconds": seconds,
        "Parameters": {
            "StateMachineArn": "${CleanupStateMachineArn}",
            "Name.$": "$.failure.cleanup.name",
            "Input.$": "$.failure.cleanup.input",
        },
        "ResultSelector": {"execution_arn.$": "$.ExecutionArn"},
        "ResultPath": "$.cleanup",
        "Retry": [_retrier(START_RETRY, _START_COMMENT)],
        # What does not start is found and started later.
        "Catch": [_catch("cleanup", _FAILED)],
        "Next": _FAILED,
    }
    return [("IsCleanupWanted", wanted), ("StartCleanup", start)]


def _document(name: str, comment: str, states: States, most: _Most) -> dict[str, Any]:
    """Put a state machine together.

    Raises:
        DefinitionError: two states of it have one name, a name is too long, the history of an
            execution cannot hold what may happen, or it is larger than AWS takes.
    """
    names = list(_names(states))
    twice = [found for found, times in Counter(names).items() if times > 1]
    if twice:
        raise DefinitionError(
            f"state machine {name}: two states are called {twice[0]}; give one of their steps "
            "another `state`."
        )
    too_long = [found for found in names if len(found) > MAX_STATE_NAME]
    if too_long:
        raise DefinitionError(
            f"state machine {name}: {too_long[0]} is longer than {MAX_STATE_NAME} characters; give "
            "the stage a shorter `state`."
        )
    if most.events > MAX_EVENTS:
        raise DefinitionError(
            f"state machine {name}: an execution may need {most.events:,} events, and AWS keeps "
            f"{MAX_EVENTS:,}; let its stages wait for less, or give it fewer."
        )
    document = {
        "Comment": comment,
        "QueryLanguage": "JSONPath",
        # What every step takes with every retry, in whole hours.
        "TimeoutSeconds": math.ceil(most.seconds / 3600) * 3600,
        "StartAt": states[0][0],
        "States": dict(states),
    }
    size = len(text(document).encode())
    if size > MAX_DOCUMENT_BYTES:
        raise DefinitionError(
            f"state machine {name}: {size:,} bytes, more than the {MAX_DOCUMENT_BYTES:,} that AWS "
            "takes; give the job type fewer stages."
        )
    return document


def _names(states: Iterable[tuple[str, State]]) -> Iterator[str]:
    """Yield the name of every state, of the branches too: each is to be there once."""
    for name, state in states:
        yield name
        for branch in state.get("Branches", []):
            yield from _names(branch["States"].items())


def _camel_case(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
