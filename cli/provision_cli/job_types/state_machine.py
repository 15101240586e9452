"""The state machine of a job type in the Amazon States Language, made from its definition.

`make state-machines` writes the documents that are deployed. Source of the language:
https://states-language.net/spec.html.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from provisioner.jobs.definition import (
    LONGEST_RUN_SECONDS,
    TASK_MARGIN_SECONDS,
    Function,
    JobDefinition,
    Parallel,
    Stage,
    pascal_case,
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

#: What the history holds of a state: entered and left, and of a Task its first attempt.
_EVENTS_OF_A_STATE = 5

#: What it holds of a further attempt: scheduled, started, ended.
_EVENTS_OF_AN_ATTEMPT = 3

#: Errors after which no time of the function has gone by that the wait does not hold.
_TAKE_NO_TIME = {WAITING_ERROR, SLOT_ERROR, *THROTTLE_RETRY.error_names}

_COMPLETED, _RECORD_FAILURE, _FAILED = "Completed", "RecordFailure", "Failed"

#: What is kept of a stage's answer.
_ANSWER = {
    "ok.$": "$.Payload.ok",
    "stage.$": "$.Payload.stage",
    "status.$": "$.Payload.status",
    "output.$": "$.Payload.output",
}

type State = dict[str, Any]

#: States by name, in the order in which they are read best.
type States = dict[str, State]

#: What the execution of a job that failed ends in.
_ENDS: States = {
    _FAILED: {
        "Type": "Fail",
        "Comment": "Ends with the job's own error.",
        "ErrorPath": "$.failure.error_type",
        "CausePath": "$.failure.message",
    },
    "FailureNotRecorded": {
        "Type": "Fail",
        "Comment": "The job's item could not be written; the history holds both errors.",
        "Error": "UNKNOWN_ERROR",
        "Cause": "The failure of the job could not be recorded; see the Catch of RecordFailure in "
        "this history.",
    },
}


def state_machine(definition: JobDefinition[Any], lifecycle: Function) -> dict[str, Any]:
    """Return the state machine of a job type.

    Args:
        definition: the job type.
        lifecycle: the function that runs the step that is no stage.

    Raises:
        DefinitionError: AWS would not take it, or could not run it to its end.
    """
    states: States = {}
    failures: States = {}
    before: list[Stage] = []
    names = [*(step.state for step in definition.steps), _COMPLETED]
    for number, step in enumerate(definition.steps):
        following = names[number + 1]
        if isinstance(step, Parallel):
            states |= _parallel(definition, step, before, following)
            continue
        optional = definition.optional_after(step)
        rules = _rules(step, optional)
        choice = f"After{step.state}"
        states[step.state] = _stage(definition, step, before, choice if rules else following)
        if rules:
            otherwise = following if optional is None else names[number + 2]
            comment = "How the job goes on: each rule asks for one field of the stage's output."
            states[choice] = _choice(comment, rules, otherwise)
        if not step.runs_if:
            before.append(step)
        failures[f"{step.state}Failed"] = _failure_alone(step)
    states[_COMPLETED] = {"Type": "Succeed", "Comment": "The job's item holds the result."}
    return _document(definition, {**states, **failures, **_ending(definition, lifecycle)})


def text(document: Mapping[str, Any]) -> str:
    """Return a state machine as its file holds it."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _stage(
    definition: JobDefinition[Any], stage: Stage, before: Sequence[Stage], following: str
) -> State:
    """Return the Task of a stage.

    Args:
        definition: the job type.
        stage: the stage.
        before: the stages whose outputs it is handed, as `JobInput.outputs` says.
        following: the state that follows; the end of its branch, whose result it is, without it.
    """
    outputs = {f"{earlier}.$": f"$.{earlier}.output" for earlier in before}
    longest = stage.waits_seconds
    if stage is definition.last:
        # What ends the job waits, besides, until nothing of it is at work.
        longest += LONGEST_RUN_SECONDS
    waits = [SLOT_RETRY] if stage in definition.first else []
    if longest:
        waits.append(waiting_retry(longest))
    return {
        **_task(
            stage, stage.meaning, stage.function, waits, {"outputs": outputs} if before else {}
        ),
        "Catch": [_catch("error", f"{stage.state}Failed")],
        "ResultSelector": _ANSWER,
        **({"ResultPath": f"$.{stage}", "Next": following} if following else {"End": True}),
    }


def _task(
    name: str,
    comment: str,
    function: Function,
    waits: Sequence[RetryPolicy],
    payload: Mapping[str, Any],
) -> State:
    """Return what the Tasks of a stage, and of the step that is none, have in common.

    Args:
        name: what the function knows the stage or step by.
        comment: what the state is for.
        function: the function.
        waits: the retriers of what it can wait for, beside those of its attempts.
        payload: what it is handed beside the job.
    """
    return {
        "Type": "Task",
        "Comment": comment,
        "Resource": "arn:aws:states:::lambda:invoke",
        "TimeoutSeconds": function.seconds + TASK_MARGIN_SECONDS,
        "Parameters": {
            "FunctionName": f"${{{pascal_case(function.name)}FunctionArn}}",
            "Payload": {
                "job.$": "$.job",
                "stage": str(name),
                "retry_count.$": "$$.State.RetryCount",
                **payload,
            },
        },
        "Retry": [
            _retrier(policy) for policy in (SERVICE_RETRY, THROTTLE_RETRY, STAGE_RETRY, *waits)
        ],
    }


def _retrier(policy: RetryPolicy) -> dict[str, Any]:
    retrier = {
        "Comment": policy.comment,
        "ErrorEquals": list(policy.error_names),
        "IntervalSeconds": policy.interval_seconds,
        "BackoffRate": policy.backoff_rate,
        "MaxAttempts": policy.max_attempts,
    }
    if policy.is_jittered:
        return retrier | {"MaxDelaySeconds": policy.max_delay_seconds, "JitterStrategy": "FULL"}
    # AWS refuses a longest delay that the first is not below.
    return retrier | {"JitterStrategy": "NONE"}


def _catch(path: str, handler: str) -> dict[str, Any]:
    return {"ErrorEquals": ["States.ALL"], "ResultPath": f"$.{path}", "Next": handler}


def _choice(comment: str, rules: Sequence[Mapping[str, Any]], otherwise: str) -> State:
    return {"Type": "Choice", "Comment": comment, "Choices": rules, "Default": otherwise}


def _rules(stage: Stage, optional: Stage | None) -> list[dict[str, Any]]:
    """Return what the Choice after a stage asks of its output; nothing where there is none.

    Args:
        stage: the stage.
        optional: the stage after it that runs only where the output says so, if any.
    """
    asked = [(stage.ends_job_if, _COMPLETED)] if stage.ends_job_if else []
    if optional is not None:
        asked.append((optional.runs_if, optional.state))
    return [
        {
            "And": [
                {"Variable": f"$.{stage}.output.{field}", "IsPresent": True},
                {"Variable": f"$.{stage}.output.{field}", "BooleanEquals": True},
            ],
            "Next": following,
        }
        for field, following in asked
    ]


def _parallel(
    definition: JobDefinition[Any], parallel: Parallel, before: Sequence[Stage], following: str
) -> States:
    choice = f"After{parallel.state}"
    settled = {
        "Type": "Parallel",
        "Comment": "What does not depend on one another. Every branch settles before anything "
        "decides, for a sibling's Lambda keeps running when a branch fails.",
        "Branches": [_branch(definition, stages, before) for stages in parallel.branches],
        "ResultSelector": {"branches.$": "$", "ok.$": "$[*].ok"},
        "ResultPath": "$.settled",
        "Next": choice,
    }
    all_well = {
        "And": [
            {"Variable": f"$.settled.ok[{number}]", "BooleanEquals": True}
            for number in range(len(parallel.branches))
        ],
        "Next": following,
    }
    comment = "All well, or at least one branch passed an error on."
    return {parallel.state: settled, choice: _choice(comment, [all_well], _RECORD_FAILURE)}


def _branch(
    definition: JobDefinition[Any], stages: Sequence[Stage], before: Sequence[Stage]
) -> dict[str, Any]:
    tasks, failures = {}, {}
    for number, stage in enumerate(stages):
        following = "".join(later.state for later in stages[number + 1 : number + 2])
        tasks[stage.state] = _stage(definition, stage, [*before, *stages[:number]], following)
        failures[f"{stage.state}Failed"] = {
            "Type": "Pass",
            "Comment": "Passes the error on as data: a branch never fails the Parallel state.",
            "Parameters": _failure(stage),
            "End": True,
        }
    return {"StartAt": stages[0].state, "States": tasks | failures}


def _failure(stage: Stage) -> dict[str, Any]:
    return {"ok": False, "stage": str(stage), "error.$": "$.error"}


def _failure_alone(stage: Stage) -> State:
    return {
        "Type": "Pass",
        "Comment": "Says which stage the error is of, in the form of a branch's.",
        "Parameters": {"job.$": "$.job", "settled": {"branches": [_failure(stage)]}},
        "Next": _RECORD_FAILURE,
    }


def _ending(definition: JobDefinition[Any], lifecycle: Function) -> States:
    """Return how a job that failed ends."""
    cleanup = _cleanup(lifecycle) if definition.on_failure.describe_cleanup else {}
    record = _task(
        RECORD_FAILURE,
        "Stores the errors, closes the stages that never said how they ended, and releases what "
        "the job holds, or hands it over to a clean-up.",
        lifecycle,
        [waiting_retry(LONGEST_RUN_SECONDS)],
        {"branches.$": "$.settled.branches"},
    )
    record |= {
        "Catch": [_catch("error", "FailureNotRecorded")],
        "ResultSelector": {
            "error_type.$": "$.Payload.error_type",
            "message.$": "$.Payload.message",
            "has_cleanup.$": "$.Payload.has_cleanup",
            "cleanup.$": "$.Payload.cleanup",
        },
        "ResultPath": "$.failure",
        "Next": next(iter(cleanup), _FAILED),
    }
    return {_RECORD_FAILURE: record, **cleanup, **_ENDS}


def _cleanup(lifecycle: Function) -> States:
    """Return how the clean-up of a job is started, where one is to follow."""
    wanted = {"Variable": "$.failure.has_cleanup", "BooleanEquals": True, "Next": "StartCleanup"}
    comment = "Whether what the job made is removed or stays for a later job."
    start = {
        "Type": "Task",
        "Comment": "Starts the clean-up, a job of its own, and does not wait for it.",
        "Resource": "arn:aws:states:::states:startExecution",
        "TimeoutSeconds": lifecycle.seconds + TASK_MARGIN_SECONDS,
        "Parameters": {
            "StateMachineArn": "${CleanupStateMachineArn}",
            "Name.$": "$.failure.cleanup.name",
            "Input.$": "$.failure.cleanup.input",
        },
        "Retry": [_retrier(START_RETRY)],
        # What does not start is found and started later.
        "Catch": [_catch("cleanup", _FAILED)],
        "ResultSelector": {"execution_arn.$": "$.ExecutionArn"},
        "ResultPath": "$.cleanup",
        "Next": _FAILED,
    }
    choice = _choice(comment, [wanted], _FAILED)
    return {f"After{_RECORD_FAILURE}": choice, "StartCleanup": start}


def _document(definition: JobDefinition[Any], states: States) -> dict[str, Any]:
    """Put a state machine together.

    Raises:
        DefinitionError: the history of an execution cannot hold what may happen, or it is larger
            than AWS takes.
    """
    where = f"state machine {definition.name}"
    seconds, events = _longest(states)
    document = {
        "Comment": f"{definition.meaning} The input stays under $.job; every Task is one stage of "
        "the job and can be run twice.",
        "QueryLanguage": "JSONPath",
        # What every step takes with every retry, in whole hours.
        "TimeoutSeconds": math.ceil(seconds / 3600) * 3600,
        "StartAt": next(iter(states)),
        "States": states,
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
