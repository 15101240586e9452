"""The state machine of a job type of any shape, run as moto's interpreter runs it."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.awslambda_simple.models import LambdaSimpleBackend
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl
from moto.stepfunctions.parser.models import stepfunctions_parser_backends
from provision_cli.job_types.flowchart import flowchart
from provision_cli.job_types.state_machine import state_machine, text
from provisioner.jobs.definition import (
    DefinitionError,
    FailureHandling,
    Function,
    JobDefinition,
    Parallel,
    Stage,
)
from provisioner.jobs.stage_run import RECORD_FAILURE
from provisioner.provisioning.contract import ProjectReference
from support.asl import Invoke, StateError
from support.machine_runs import JOB, Answers, Run, asking_for_all, run, unasked
from support.project import all_states

REGION, ACCOUNT = "eu-central-1", "123456789012"

RECORDER = Function("recorder", seconds=50)
WORKER = Function("long_worker", seconds=20)

#: Seconds that an execution may take here; its waits cost nothing.
DEADLINE = 30.0


def stage(name: str, **more: Any) -> Stage:
    return Stage(name, f"{name} holds.", function=WORKER, code="somewhere:run", **more)


def job_type(*steps: Stage | Parallel, has_cleanup: bool = False) -> JobDefinition[Any]:
    handling = FailureHandling(cleanup_job_type="clean_up", describe_cleanup="somewhere:request")
    return JobDefinition(
        name="any",
        meaning="Does something.",
        payload_model=ProjectReference,
        steps=steps,
        on_failure=handling if has_cleanup else FailureHandling(),
        example={"project_id": "shop"},
    )


def machine(*steps: Stage | Parallel, **more: Any) -> dict[str, Any]:
    return state_machine(job_type(*steps, **more), RECORDER)


A, B, C, D, E, F = (stage(name) for name in "ABCDEF")
ENDING, ENDING_TOO = (stage(name, ends_job_if="nothing_to_do") for name in ("G", "H"))
OPTIONAL, OPTIONAL_TOO = (stage(name, runs_if="is_wanted") for name in ("I", "J"))

#: Definitions of every shape, each with the stages that fail beside one another in a job of it.
SHAPES = {
    "one stage": ((A,), (A,)),
    "in sequence": ((A, B, C), (B,)),
    "branches first": ((Parallel("Both", ((A, B), (C,))), D), (A, C)),
    "branches twice": (
        (Parallel("First", ((A,), (B,))), Parallel("Second", ((C,), (D, E))), F),
        (C, E),
    ),
    "a stage between branches": (
        (A, Parallel("First", ((B,), (C,))), D, Parallel("Second", ((E,),)), F),
        (D,),
    ),
    "a stage that may end the job": ((A, ENDING, B), (B,)),
    "two stages that may end the job": (
        (ENDING, Parallel("Both", ((A,), (B,))), ENDING_TOO, C),
        (ENDING_TOO,),
    ),
    "a stage that may be left out": ((A, OPTIONAL, Parallel("Both", ((B,), (C,))), D), (OPTIONAL,)),
    "two that may be left out": (
        (ENDING, OPTIONAL, A, OPTIONAL_TOO, Parallel("Both", ((B,), (C,))), D),
        (OPTIONAL_TOO,),
    ),
}

each_shape = pytest.mark.parametrize(("steps", "failing"), SHAPES.values(), ids=SHAPES)


class Moto:
    """Runs a state machine as moto does, which knows the whole of the language."""

    def __init__(self) -> None:
        self._answers = Answers()
        self.calls: list[Mapping[str, Any]] = []

    def run(self, document: Mapping[str, Any], answers: Answers) -> tuple[str, str, int]:
        """Return how an execution ends: its status and error, and the transitions that it took."""
        self._answers = answers
        self.calls.clear()
        definition = text(document)
        for function in (RECORDER, WORKER):
            name = "".join(part.capitalize() for part in function.name.split("_"))
            arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function.name}"
            definition = definition.replace(f"${{{name}FunctionArn}}", arn)
        machines = boto3.client("stepfunctions", REGION)
        made = machines.create_state_machine(
            name=f"any-{uuid.uuid4().hex[:12]}",
            definition=definition,
            roleArn=f"arn:aws:iam::{ACCOUNT}:role/any",
        )
        arn = machines.start_execution(
            stateMachineArn=made["stateMachineArn"], input=json.dumps({"job": JOB})
        )["executionArn"]
        backend = stepfunctions_parser_backends[ACCOUNT][REGION]
        deadline = time.monotonic() + DEADLINE
        while str(backend.describe_execution(arn).status) == "RUNNING":
            assert time.monotonic() < deadline, "the execution still runs"
            time.sleep(0.005)
        ended = machines.describe_execution(executionArn=arn)
        history = machines.get_execution_history(executionArn=arn, maxResults=1000)["events"]
        entered = [event for event in history if event["type"].endswith("StateEntered")]
        return ended["status"], ended.get("error", ""), len(entered)

    def invoke(self, body: str) -> tuple[bytes, bool]:
        """Answer as AWS Lambda does."""
        call = json.loads(body)
        self.calls.append(call)
        try:
            return json.dumps(self._answers(Invoke("", call))["Payload"]).encode(), True
        except StateError as error:
            answer = {"errorType": error.name, "errorMessage": error.cause, "stackTrace": []}
            return json.dumps(answer).encode(), False


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    made = Moto()

    def invoke(
        _backend: LambdaSimpleBackend,
        _name: str,
        _qualifier: str | None,
        body: str,
        _headers: Any,
        response_headers: dict[str, Any],
    ) -> bytes:
        answer, is_well = made.invoke(body)
        if not is_well:
            response_headers["x-amz-function-error"] = "Unhandled"
        return answer

    config: Any = {
        "stepfunctions": {"execute_state_machine": True},
        "lambda": {"use_docker": False},
    }
    with pytest.MonkeyPatch.context() as patch, mock_aws(config=config):
        patch.setattr(LambdaSimpleBackend, "invoke", invoke)
        patch.setattr(retrier_decl, "time", SimpleNamespace(sleep=lambda _seconds: None))
        yield made


def by_stage(calls: list[Mapping[str, Any]]) -> list[str]:
    """Put what was called in an order that branches beside one another do not change."""
    return sorted(json.dumps(without_cause(call), sort_keys=True) for call in calls)


def without_cause(told: Any) -> Any:
    """Leave out of what is told of errors what each interpreter words its own way."""
    if isinstance(told, dict):
        return {key: without_cause(value) for key, value in told.items() if key != "Cause"}
    return [without_cause(one) for one in told] if isinstance(told, list) else told


def agree(moto: Moto, document: Mapping[str, Any], **answers: Any) -> Run:
    """Run a state machine by both interpreters, and return the run that can be looked at."""
    done = run(document, Answers(**json.loads(json.dumps(answers))))
    ended = moto.run(document, Answers(**json.loads(json.dumps(answers))))
    assert ended == (*done.end, len(done.execution.entered))
    assert by_stage(moto.calls) == by_stage([call.payload for call in done.calls])
    return done


@each_shape
def test_a_job_of_any_shape_runs_its_stages(
    moto: Moto, steps: tuple[Stage | Parallel, ...], failing: tuple[Stage, ...]
) -> None:
    del failing
    definition = job_type(*steps)
    for outputs, stages in (
        (asking_for_all(definition), list(definition.stages)),
        ({}, unasked(definition)),
    ):
        done = agree(moto, machine(*steps), outputs=outputs)
        assert (done.end, done.stages) == (("SUCCEEDED", ""), stages)


@each_shape
def test_a_job_of_any_shape_tells_of_all_that_fails_in_it(
    moto: Moto, steps: tuple[Stage | Parallel, ...], failing: tuple[Stage, ...]
) -> None:
    errors = {str(stage): ["CONFLICT"] for stage in failing}
    outputs = asking_for_all(job_type(*steps))
    done = agree(moto, machine(*steps), errors=errors, outputs=outputs)
    assert done.end == ("FAILED", "CONFLICT")
    (recorded,) = done.payloads(RECORD_FAILURE)
    told = {end["stage"] for end in recorded["branches"] if not end["ok"]}
    assert told == set(map(str, failing))
    # What comes after it does not begin.
    stages = job_type(*steps).stages
    assert done.stages[-1] == RECORD_FAILURE
    assert set(done.stages[:-1]) <= set(stages[: stages.index(failing[-1]) + 1])


@each_shape
def test_a_flowchart_shows_every_state_of_any_shape_that_does_more_than_hand_an_error_on(
    steps: tuple[Stage | Parallel, ...], failing: tuple[Stage, ...]
) -> None:
    del failing
    document = machine(*steps)
    shown = re.findall(
        r'^ +(?:subgraph )?(\w+)(?:[\[{(]+"\1.*)?$', flowchart(document), re.MULTILINE
    )
    names = [name for name, state in all_states(document["States"]) if state["Type"] != "Pass"]
    assert sorted(set(shown) - {"end"}) == sorted(names)
    assert len(shown) - shown.count("end") == len(names)


@pytest.mark.parametrize(
    ("output", "ends"),
    [({"nothing_to_do": True}, True), ({"nothing_to_do": False}, False), ({}, False)],
)
def test_a_stage_in_the_middle_ends_the_job_where_it_says_so(
    moto: Moto, output: dict[str, bool], *, ends: bool
) -> None:
    done = agree(moto, machine(A, ENDING, B), outputs={ENDING: output})
    assert done.end == ("SUCCEEDED", "")
    assert done.stages == (["A", "G"] if ends else ["A", "G", "B"])


@pytest.mark.parametrize(
    ("output", "stages", "transitions"),
    [
        ({"nothing_to_do": True, "is_wanted": True}, "G", 3),
        ({"is_wanted": True}, "GIB", 5),
        ({"is_wanted": False, "nothing_to_do": False}, "GB", 4),
        ({"is_wanted": "true"}, "GB", 4),
        ({}, "GB", 4),
    ],
)
def test_one_decision_tells_whether_the_job_has_ended_and_whether_a_stage_runs(
    moto: Moto, output: dict[str, Any], stages: str, transitions: int
) -> None:
    """A stage that is left out costs no transition."""
    done = agree(moto, machine(ENDING, OPTIONAL, B), outputs={ENDING: output})
    assert done.end == ("SUCCEEDED", "")
    assert done.stages == list(stages)
    assert len(done.execution.entered) == transitions


def test_what_passes_is_repeated(moto: Moto) -> None:
    errors = {"A": ["Lambda.ServiceException"] * 10 + ["NETWORK_ERROR", "Sandbox.Timedout"]}
    done = agree(moto, machine(A), errors=errors)
    assert done.end == ("SUCCEEDED", "")
    assert len(done.calls) == 13


def test_a_task_is_written_as_the_language_has_it() -> None:
    states = machine(stage("STORING_THE_FILES", ends_job_if="has_none"), B)["States"]
    task = states["StoringTheFiles"]
    names = [retrier.pop("ErrorEquals") for retrier in task["Retry"]]
    assert [of_one[0] for of_one in names] == [
        "Lambda.ServiceException",
        "Lambda.TooManyRequestsException",
        "NETWORK_ERROR",
        "SlotWaiting",
    ]
    for retrier in task["Retry"]:
        del retrier["Comment"]
    assert task == {
        "Type": "Task",
        "Comment": "STORING_THE_FILES holds.",
        "Resource": "arn:aws:states:::lambda:invoke",
        "TimeoutSeconds": 30,
        "Parameters": {
            "FunctionName": "${LongWorkerFunctionArn}",
            "Payload": {
                "job.$": "$.job",
                "stage": "STORING_THE_FILES",
                "retry_count.$": "$$.State.RetryCount",
            },
        },
        "ResultSelector": {
            "ok.$": "$.Payload.ok",
            "stage.$": "$.Payload.stage",
            "status.$": "$.Payload.status",
            "output.$": "$.Payload.output",
        },
        "ResultPath": "$.STORING_THE_FILES",
        "Retry": [
            {
                "IntervalSeconds": 2,
                "BackoffRate": 2,
                "MaxAttempts": 10,
                "MaxDelaySeconds": 60,
                "JitterStrategy": "FULL",
            },
            {
                "IntervalSeconds": 2,
                "BackoffRate": 2,
                "MaxAttempts": 30,
                "MaxDelaySeconds": 300,
                "JitterStrategy": "FULL",
            },
            {
                "IntervalSeconds": 300,
                "BackoffRate": 2,
                "MaxAttempts": 2,
                "MaxDelaySeconds": 900,
                "JitterStrategy": "FULL",
            },
            {
                "IntervalSeconds": 2,
                "BackoffRate": 2,
                "MaxAttempts": 1600,
                "MaxDelaySeconds": 60,
                "JitterStrategy": "FULL",
            },
        ],
        "Catch": [
            {
                "ErrorEquals": ["States.ALL"],
                "ResultPath": "$.error",
                "Next": "StoringTheFilesFailed",
            }
        ],
        "Next": "AfterStoringTheFiles",
    }


def test_an_execution_has_the_time_for_what_its_stages_wait_for() -> None:
    day = 86_400
    for steps in (
        (stage("A", waits_seconds=day), B),
        (Parallel("Both", ((A,), (stage("B", waits_seconds=day),))), C),
    ):
        longer = machine(*steps)["TimeoutSeconds"] - machine(A, B)["TimeoutSeconds"]
        assert day <= longer < day + 2 * 3600


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((Parallel("Both", ((ENDING,), (A,))), B), r"stage G: ends_job_if: .* beside others"),
        ((A, ENDING), r"stage G: ends_job_if: .* is the last"),
        ((OPTIONAL, A), r"stage I: runs_if: .* between others"),
        ((A, OPTIONAL), r"stage I: runs_if: .* between others"),
        ((A, Parallel("Both", ((OPTIONAL,), (B,))), C), r"stage I: runs_if: .* runs alone"),
        ((A, Parallel("Both", ((B,), (C,))), OPTIONAL, D), r"stage I: runs_if: .* runs alone"),
        ((A, OPTIONAL, OPTIONAL_TOO, B), r"stage J: runs_if: .* runs alone and always"),
        ((Parallel("A", ((B,), (C,))), A), r"steps: A stands there twice"),
        ((Parallel("Both", ((A,),)), Parallel("Both", ((B,),)), C), r"Both stands there twice"),
        ((Parallel("AfterA", ((B,), (C,))), A), r"steps: AfterA: .* begins with After"),
        ((stage("A", waits_seconds=7 * 86_400), B), r"\d\d,\d{3} events, and AWS keeps 25,000"),
        (tuple(stage(f"S{number}") for number in range(500)), r"bytes, more than the 1,000,000"),
    ],
)
def test_what_aws_would_not_take_or_could_not_run_is_refused_in_a_sentence(
    steps: tuple[Stage | Parallel, ...], said: str
) -> None:
    with pytest.raises(DefinitionError, match=said):
        machine(*steps)


@pytest.mark.parametrize("is_wanted", [True, False])
def test_a_clean_up_is_started_where_the_end_of_the_job_says_so(*, is_wanted: bool) -> None:
    """Whatever becomes of the start, the job ends with its own error."""
    document = machine(A, B, has_cleanup=True)
    errors = {"A": ["CONFLICT"]}

    done = run(document, Answers(errors=errors, cleanup="cleanup-1" if is_wanted else ""))

    assert done.end == ("FAILED", "CONFLICT")
    started = [(start.name, start.input) for start in done.starts]
    assert started == ([("cleanup-1", {"job": JOB})] if is_wanted else [])
    states = document["States"]
    assert states["StartCleanup"]["Catch"][0]["Next"] == states["StartCleanup"]["Next"] == "Failed"


def test_a_job_without_a_clean_up_asks_for_none() -> None:
    states = machine(A)["States"]
    assert not {"AfterRecordFailure", "StartCleanup"} & states.keys()
    assert states["RecordFailure"]["Next"] == "Failed"


@pytest.mark.parametrize(
    ("steps", "asked"),
    [
        ((A, OPTIONAL, B), {"wanted"}),
        ((ENDING, OPTIONAL, B), {"nothing to do", "wanted"}),
        ((Parallel("Both", ((A,), (B,))), C), {"ok"}),
    ],
)
def test_a_flowchart_says_what_a_choice_asks(
    steps: tuple[Stage | Parallel, ...], asked: set[str]
) -> None:
    chart = flowchart(machine(*steps))
    labels = set(re.findall(r"-->\|([^|]+)\|", chart)) - {"error"}
    assert labels == {*asked, "else"}
