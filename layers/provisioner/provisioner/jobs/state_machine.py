"""The state machine of a job type in the Amazon States Language, made from its definition.

What calls this is the build: `make state-machines` writes the documents that are deployed. No
function imports it. Source of the language: https://states-language.net/spec.html.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from provisioner.jobs.definition import (
    LONGEST_RUN_SECONDS,
    TASK_MARGIN_SECONDS,
    Function,
    JobDefinition,
    Parallel,
    Stage,
    camel_case,
    require,
)
from provisioner.jobs.retries import (
    SERVICE_RETRY,
    SLOT_ERROR,
    SLOT_RETRY,
    STAGE_RETRY,
    START_RETRY,
    THROTTLE_RETRY,
    WAITING_ERROR,
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

#: What the history holds of a state: entered and left, and of a Task its first attempt.
_EVENTS_OF_A_STATE = 5

#: What it holds of a further attempt: scheduled, started, ended.
_EVENTS_OF_AN_ATTEMPT = 3

#: Errors after which no time of the function has gone by that the wait does not hold.
_TAKE_NO_TIME = {WAITING_ERROR, SLOT_ERROR, *THROTTLE_RETRY.error_names}

_LAMBDA = "arn:aws:states:::lambda:invoke"
_START_EXECUTION = "arn:aws:states:::states:startExecution"

_SERVICE_COMMENT = (
    "The Lambda service itself failed or throttles, or makes the network interfaces of an idle "
    "function anew: that passes within minutes."
)
_THROTTLE_COMMENT = "Lambda's limits of concurrency or rate are reached: waited out for an hour."
_SLOT_COMMENT = (
    "So many jobs run as may at once, or it is others' turn: it is polled within a minute, and the "
    "wait ends by the clock before this does."
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
    states: States = []
    failures: States = []
    before: list[Stage] = []
    names = [*(step.state for step in definition.steps), _COMPLETED]
    for number, step in enumerate(definition.steps):
        following = names[number + 1]
        if isinstance(step, Parallel):
            states += _parallel(step, definition.first, before, following)
            continue
        optional = definition.optional_after(step)
        question = _question(step, optional)
        after = following if optional is None else names[number + 2]
        is_handed_on = not step.runs_if and step is not definition.last
        task = _stage(
            step,
            before,
            question or following,
            keeps_output=is_handed_on or bool(question),
            begins_job=step in definition.first,
            # What ends the job waits, besides, until nothing of it is at work.
            waits_seconds=LONGEST_RUN_SECONDS if step is definition.last else 0,
        )
        states.append((step.state, task))
        if question:
            states.append((question, _decision(step, optional, after)))
        if is_handed_on:
            before.append(step)
        failures.append((f"{step.state}Failed", _failure_alone(step)))
    states.append((_COMPLETED, {"Type": "Succeed", "Comment": "The job's item holds the result."}))
    has_cleanup = bool(definition.on_failure.request_cleanup)
    comment = (
        f"{definition.meaning} The input stays under $.job; every Task is one stage of the job and "
        "can be run twice."
    )
    states += [*failures, *_ending(lifecycle, has_cleanup=has_cleanup)]
    return _document(definition.name, comment, states)


def text(document: Mapping[str, Any]) -> str:
    """Return a state machine as its file holds it."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _stage(
    stage: Stage,
    before: Sequence[Stage],
    following: str,
    *,
    keeps_output: bool,
    begins_job: bool,
    waits_seconds: int = 0,
) -> State:
    """Return the Task of a stage.

    Args:
        stage: the stage.
        before: the stages whose outputs it is handed, as `JobInput.outputs` says.
        following: the state that follows; the end of its branch, whose result it is, without it.
        keeps_output: whether its output is kept for what follows.
        begins_job: whether it is among the first, which wait for a slot.
        waits_seconds: for how long it may wait beside what its definition says.
    """
    outputs = {f"{earlier}.$": f"$.{earlier}.output" for earlier in before}
    longest = stage.waits_seconds + waits_seconds
    return _task(
        stage,
        stage.meaning,
        stage.function,
        waits=[
            *([_retrier(SLOT_RETRY, _SLOT_COMMENT)] if begins_job else ()),
            *([_retrier(waiting_retry(longest), _WAITING_COMMENT)] if longest else ()),
        ],
        payload={"outputs": outputs} if outputs else {},
        result=_result(
            ("ok", "stage", "status", *(["output"] if keeps_output else [])),
            stage if following else "",
        ),
        handler=f"{stage.state}Failed",
        end={"Next": following} if following else {"End": True},
    )


def _result(selected: Iterable[str], name: str) -> dict[str, Any]:
    """Return what a Task keeps of an answer: under a name, or, without one, in place of its input.

    Args:
        selected: the fields of the answer.
        name: where they are kept.
    """
    selector = {"ResultSelector": {f"{field}.$": f"$.Payload.{field}" for field in selected}}
    return selector | ({"ResultPath": f"$.{name}"} if name else {})


def _task(
    name: str,
    comment: str,
    function: Function,
    *,
    waits: Sequence[Mapping[str, Any]],
    payload: Mapping[str, Any],
    result: Mapping[str, Any],
    handler: str,
    end: Mapping[str, Any],
) -> State:
    """Return the Task that calls a function for a stage, or for the step that is none.

    Args:
        name: what the function knows the stage or step by.
        comment: what the state is for.
        function: the function.
        waits: the retriers of what it can wait for, beside those of its attempts.
        payload: what it is handed beside the job.
        result: what is kept of the answer.
        handler: the state that follows an error.
        end: what follows.
    """
    return {
        "Type": "Task",
        "Comment": comment,
        "Resource": _LAMBDA,
        "TimeoutSeconds": function.seconds + TASK_MARGIN_SECONDS,
        "Parameters": {
            "FunctionName": f"${{{camel_case(function.name)}FunctionArn}}",
            "Payload": {
                "job.$": "$.job",
                "stage": str(name),
                "retry_count.$": "$$.State.RetryCount",
                **payload,
            },
        },
        **result,
        "Retry": [
            _retrier(SERVICE_RETRY, _SERVICE_COMMENT),
            _retrier(THROTTLE_RETRY, _THROTTLE_COMMENT),
            _retrier(STAGE_RETRY, _STAGE_COMMENT),
            *waits,
        ],
        "Catch": [_catch("error", handler)],
        **end,
    }


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


def _question(stage: Stage, optional: Stage | None) -> str:
    """Name the Choice after a stage by what it asks the stage's output; "" where it asks nothing.

    Args:
        stage: the stage.
        optional: the stage after it that runs only where the output says so, if any.
    """
    fields = [stage.ends_job_if, "" if optional is None else optional.runs_if]
    asked = "Or".join(camel_case(field.removeprefix("is_")) for field in filter(None, fields))
    return f"Is{asked}After{stage.state}" if asked else ""


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


def _parallel(
    parallel: Parallel, first: Sequence[Stage], before: Sequence[Stage], following: str
) -> States:
    choice = f"Has{parallel.state}Succeeded"
    settled = {
        "Type": "Parallel",
        "Comment": "What does not depend on one another. Every branch settles before anything "
        "decides, for a sibling's Lambda keeps running when a branch fails.",
        "Branches": [_branch(stages, first, before) for stages in parallel.branches],
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


def _branch(
    stages: Sequence[Stage], first: Sequence[Stage], before: Sequence[Stage]
) -> dict[str, Any]:
    names = [*(stage.state for stage in stages[1:]), ""]
    states: States = []
    for number, (stage, following) in enumerate(zip(stages, names, strict=True)):
        task = _stage(
            stage,
            [*before, *stages[:number]],
            following,
            keeps_output=bool(following),
            begins_job=stage in first,
        )
        states.append((stage.state, task))
    for stage in stages:
        passed_on = {
            "Type": "Pass",
            "Comment": "Passes the error on as data: a branch never fails the Parallel state.",
            "Parameters": _failure(stage),
            "End": True,
        }
        states.append((f"{stage.state}Failed", passed_on))
    return {"StartAt": stages[0].state, "States": dict(states)}


def _failure(stage: Stage) -> dict[str, Any]:
    return {"ok": False, "stage": str(stage), "error.$": "$.error"}


def _failure_alone(stage: Stage) -> State:
    return {
        "Type": "Pass",
        "Comment": "Says which stage the error is of, in the form of a branch's.",
        "Parameters": {"job.$": "$.job", "settled": {"branches": [_failure(stage)]}},
        "Next": _RECORD_FAILURE,
    }


def _ending(lifecycle: Function, *, has_cleanup: bool) -> States:
    """Return how a job that failed ends."""
    record = _task(
        RECORD_FAILURE,
        "Stores the errors, closes the stages that never said how they ended, and releases what "
        + ("the job holds, or hands it over to a clean-up." if has_cleanup else "the job holds."),
        lifecycle,
        waits=[_retrier(waiting_retry(LONGEST_RUN_SECONDS), _WAITING_COMMENT)],
        payload={"branches.$": "$.settled.branches"},
        result=_result(
            ("error_type", "message", *(["has_cleanup", "cleanup"] if has_cleanup else [])),
            "failure",
        ),
        handler="FailureNotRecorded",
        end={"Next": "IsCleanupWanted" if has_cleanup else _FAILED},
    )
    failed = {
        "Type": "Fail",
        "Comment": "Ends with the job's own error.",
        "ErrorPath": "$.failure.error_type",
        "CausePath": "$.failure.message",
    }
    not_recorded = {
        "Type": "Fail",
        "Comment": "The job's item could not be written; the history holds both errors.",
        "Error": "UNKNOWN_ERROR",
        "Cause": "The failure of the job could not be recorded; see the Catch of RecordFailure in "
        "this history.",
    }
    return [
        (_RECORD_FAILURE, record),
        *(_start_of_cleanup(lifecycle.seconds + TASK_MARGIN_SECONDS) if has_cleanup else ()),
        (_FAILED, failed),
        ("FailureNotRecorded", not_recorded),
    ]


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


def _document(name: str, comment: str, states: States) -> dict[str, Any]:
    """Put a state machine together.

    Raises:
        DefinitionError: two states of it have one name, a name is too long, the history of an
            execution cannot hold what may happen, or it is larger than AWS takes.
    """
    where = f"state machine {name}"
    for found, times in Counter(_names(states)).items():
        require(
            times == 1,
            f"{where}: two states are called {found}; give one of their steps another `state`.",
        )
        require(
            len(found) <= MAX_STATE_NAME,
            f"{where}: {found} is longer than {MAX_STATE_NAME} characters; give the stage a "
            "shorter `state`.",
        )
    seconds, events = _longest(dict(states))
    document = {
        "Comment": comment,
        "QueryLanguage": "JSONPath",
        # What every step takes with every retry, in whole hours.
        "TimeoutSeconds": math.ceil(seconds / 3600) * 3600,
        "StartAt": states[0][0],
        "States": dict(states),
    }
    size = len(text(document).encode())
    require(
        size <= MAX_DOCUMENT_BYTES,
        f"{where}: {size:,} bytes, more than the {MAX_DOCUMENT_BYTES:,} that AWS takes; give the "
        "job type fewer stages.",
    )
    require(
        events <= MAX_EVENTS,
        f"{where}: an execution may need {events:,} events, and AWS keeps {MAX_EVENTS:,}; let its "
        "stages wait for less, or give it fewer.",
    )
    return document


def _names(states: Iterable[tuple[str, State]]) -> Iterator[str]:
    """Yield the name of every state, of the branches too: each is to be there once."""
    for name, state in states:
        yield name
        for branch in state.get("Branches", []):
            yield from _names(branch["States"].items())


def _longest(states: Mapping[str, State]) -> tuple[float, int]:
    """Return the seconds, and the events of its history, that an execution takes at most.

    Each attempt takes its time-out, each wait its longest, and branches the time of the longest.
    """
    seconds, events = 0.0, 0
    for state in states.values():
        branches = [_longest(branch["States"]) for branch in state.get("Branches", ())]
        seconds += max((of_branch for of_branch, _ in branches), default=0)
        events += _EVENTS_OF_A_STATE + sum(of_branch for _, of_branch in branches)
        attempts = 1 if state["Type"] == "Task" else 0
        for retrier in state.get("Retry", ()):
            first, most = retrier["IntervalSeconds"], retrier["MaxAttempts"]
            bound = retrier.get("MaxDelaySeconds", first)
            seconds += sum(min(bound, first * retrier["BackoffRate"] ** n) for n in range(most))
            events += most * _EVENTS_OF_AN_ATTEMPT
            # What polls take is a part of the wait, and what is throttled does not run.
            attempts += 0 if _TAKE_NO_TIME.intersection(retrier["ErrorEquals"]) else most
        seconds += attempts * state.get("TimeoutSeconds", 0)
    return seconds, events
