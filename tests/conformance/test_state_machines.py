"""The state machines do what the definitions of their job types say.

They are run, with made-up answers. What is expected follows from the definitions alone, so that a
further job type is judged as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from provision_cli.job_types.state_machine import state_machine
from provisioner.errors import RETRYABLE
from provisioner.jobs.definition import (
    LONGEST_RUN_SECONDS,
    JobDefinition,
    Parallel,
    Stage,
)
from provisioner.jobs.retries import (
    FOREIGN_ERRORS,
    POLL_SECONDS,
    SERVICE_RETRY,
    SLOT_RETRY,
    STAGE_RETRY,
    THROTTLE_RETRY,
    WAITING_ERROR,
    RetryPolicy,
    waiting_retry,
)
from provisioner.jobs.stage_run import RECORD_FAILURE
from provisioner.provisioning.functions import LIFECYCLE
from provisioner.provisioning.job_types import JOB_TYPES, deprovision_project
from support.asl import Pause
from support.machine_runs import JOB, Answers, asking_for_all, run, unasked
from support.project import all_states, functions, longest_run, substituted_state_machine

type Definition = JobDefinition[Any]

#: As they are generated; that they are committed so is a test's of its own.
MACHINES = {name: state_machine(definition, LIFECYCLE) for name, definition in JOB_TYPES.items()}
STATES = [
    (f"{machine}.{name}", state)
    for machine, document in MACHINES.items()
    for name, state in all_states(document["States"])
]
TASKS = [
    pytest.param(state, id=name)
    for name, state in STATES
    if state.get("Resource") == "arn:aws:states:::lambda:invoke"
]
CLEANED_UP = [d for d in JOB_TYPES.values() if d.on_failure.cleanup_job_type]

each_type = pytest.mark.parametrize("definition", JOB_TYPES.values(), ids=JOB_TYPES)
each_cleanup = pytest.mark.parametrize("definition", CLEANED_UP, ids=lambda d: d.name)
each_task = pytest.mark.parametrize("task", TASKS)


_STAGES = [(d, stage) for d in JOB_TYPES.values() for stage in d.stages]
each_stage = pytest.mark.parametrize(
    ("definition", "stage"), _STAGES, ids=[f"{d.name}.{stage}" for d, stage in _STAGES]
)


def function_arn(name: str) -> str:
    """Return the placeholder of a function's ARN, as the template fills it."""
    assert name in functions(), f"template.yaml declares no function {name}"
    return f"${{{functions()[name].logical_id}Arn}}"


def failed(stage: str) -> dict[str, Any]:
    """Return how the step that records a failure is told of a stage's."""
    error = {"Error": "CONFLICT", "Cause": f"{stage} went wrong."}
    return {"ok": False, "stage": str(stage), "error": error}


# --- A job that goes well -------------------------------------------------------------------------


def lines(definition: Definition) -> Iterator[tuple[Stage, list[str]]]:
    """Yield each stage with those before it in its line that always run."""
    before: list[str] = []
    for step in definition.steps:
        if isinstance(step, Parallel):
            for branch in step.branches:
                for number, stage in enumerate(branch):
                    yield stage, [*before, *map(str, branch[:number])]
        else:
            yield step, list(before)
            before += [] if step.runs_if else [str(step)]


@each_type
def test_a_job_calls_the_function_of_each_stage_in_order(definition: Definition) -> None:
    outputs = asking_for_all(definition)
    done = run(MACHINES[definition.name], Answers(outputs=outputs))
    assert done.end == ("SUCCEEDED", "")
    assert [(call.function, call.payload) for call in done.calls] == [
        (
            function_arn(stage.function.name),
            {"job": JOB, "stage": str(stage), "retry_count": 0}
            | ({"outputs": {before: outputs.get(before, {}) for before in line}} if line else {}),
        )
        for stage, line in lines(definition)
    ]


@each_type
def test_a_job_leaves_out_the_stages_that_are_not_asked_for(definition: Definition) -> None:
    done = run(MACHINES[definition.name], Answers())
    assert (done.end, done.stages) == (("SUCCEEDED", ""), unasked(definition))


@each_type
def test_branches_begin_beside_one_another(definition: Definition) -> None:
    done = run(MACHINES[definition.name], Answers())
    for step in definition.steps:
        if isinstance(step, Parallel):
            assert tuple(str(branch[0]) for branch in step.branches) in done.beside


def test_a_project_that_is_provisioned_takes_twelve_transitions() -> None:
    done = run(MACHINES["provision_project"], Answers())
    assert len(done.execution.entered) == 12, done.execution.entered


@each_stage
@pytest.mark.parametrize("says", [True, False, None])
def test_a_job_ends_early_where_its_stage_says_so(
    definition: Definition, stage: Stage, *, says: bool | None
) -> None:
    outputs = asking_for_all(definition)
    if says is not None:
        outputs.setdefault(stage, {})[stage.ends_job_if or "ends"] = says
    done = run(MACHINES[definition.name], Answers(outputs=outputs))
    assert done.end == ("SUCCEEDED", "")
    stages = list(definition.stages)
    ends = bool(says and stage.ends_job_if)
    assert done.stages == (stages[: stages.index(stage) + 1] if ends else stages)


def test_nothing_is_removed_before_the_final_snapshot() -> None:
    stages = deprovision_project.JOB_TYPE.stages
    removing = [stages.index(stage) for stage in deprovision_project.REMOVING]
    assert stages.index(deprovision_project.TAKING_SNAPSHOT) < min(removing)


# --- A job that fails -----------------------------------------------------------------------------


def told_by(definition: Definition, *failing: Stage) -> tuple[list[Stage], list[dict[str, Any]]]:
    """Return the stages that run where some fail, and what is told of the step that decides."""
    called: list[Stage] = []
    for step in definition.steps:
        branches = step.branches if isinstance(step, Parallel) else ((step,),)
        told: list[dict[str, Any]] = []
        for branch in branches:
            ended = next((stage for stage in branch if stage in failing), None)
            called += branch if ended is None else branch[: branch.index(ended) + 1]
            last = branch[-1]
            told.append(
                {"ok": True, "stage": str(last), "status": "SUCCEEDED", "output": {}}
                if ended is None
                else failed(ended)
            )
        if not all(end["ok"] for end in told):
            return called, told
    return called, []


@each_stage
def test_a_stage_that_fails_for_good_ends_the_job_once_its_branches_have_settled(
    definition: Definition, stage: Stage
) -> None:
    answers = Answers(errors={stage: ["CONFLICT"]}, outputs=asking_for_all(definition))
    done = run(MACHINES[definition.name], answers)
    called, told = told_by(definition, stage)
    assert done.stages == [*called, RECORD_FAILURE]
    assert done.payloads(RECORD_FAILURE) == [
        {"job": JOB, "stage": RECORD_FAILURE, "retry_count": 0, "branches": told}
    ]
    assert done.calls[-1].function == function_arn(LIFECYCLE.name)
    # With the job's own error.
    assert (done.end, done.execution.cause) == (("FAILED", "CONFLICT"), "It failed.")
    assert done.starts == []


@each_type
def test_all_that_fails_beside_one_another_is_told(definition: Definition) -> None:
    for step in definition.steps:
        if isinstance(step, Parallel):
            failing = [branch[-1] for branch in step.branches]
            errors = {str(stage): ["CONFLICT"] for stage in failing}
            done = run(MACHINES[definition.name], Answers(errors=errors))
            (recorded,) = done.payloads(RECORD_FAILURE)
            assert recorded["branches"] == told_by(definition, *failing)[1]


def failing_with_a_cleanup(definition: Definition) -> Answers:
    """Return how the functions answer where the first stage fails, and a clean-up is to follow."""
    return Answers(errors={definition.stages[0]: ["CONFLICT"]}, cleanup="cleanup-1")


@each_type
def test_a_clean_up_is_started_where_the_definition_has_one(definition: Definition) -> None:
    done = run(MACHINES[definition.name], failing_with_a_cleanup(definition))
    assert done.end == ("FAILED", "CONFLICT")
    expected = [("cleanup-1", {"job": JOB})] if definition in CLEANED_UP else []
    assert [(start.name, start.input) for start in done.starts] == expected


@each_type
def test_a_failure_that_cannot_be_recorded_says_where_to_look(definition: Definition) -> None:
    errors = {definition.stages[0]: ["CONFLICT"], RECORD_FAILURE: ["CONFLICT"]}
    done = run(MACHINES[definition.name], Answers(errors=errors))
    assert done.end == ("FAILED", "UNKNOWN_ERROR")
    assert "RecordFailure" in done.execution.cause


# --- Repetitions ----------------------------------------------------------------------------------


def repeated(definition: Definition, name: str, errors: list[str]) -> tuple[list[int], list[Pause]]:
    """Return the repetitions of a stage, or of the step that records a failure, and their waits."""
    met = {name: list(errors)}
    if name == RECORD_FAILURE:
        met[definition.stages[0]] = ["CONFLICT"]
    done = run(MACHINES[definition.name], Answers(errors=met, outputs=asking_for_all(definition)))
    return (
        [payload["retry_count"] for payload in done.payloads(name)],
        [pause for stage, pause in done.pauses if stage == name],
    )


@each_type
@pytest.mark.parametrize("policy", [SERVICE_RETRY, STAGE_RETRY])
def test_every_step_is_repeated_as_often_as_the_table_of_retries_says(
    definition: Definition, policy: RetryPolicy
) -> None:
    for name in (*definition.stages, RECORD_FAILURE):
        counts, pauses = repeated(definition, name, [policy.error_names[0]] * 50)
        assert counts == list(range(policy.attempts_in_all)), f"{definition.name}: {name}"
        longest = [policy.longest_delay(attempt) or 0 for attempt in range(1, len(counts))]
        assert pauses == [Pause(seconds, is_jittered=True) for seconds in longest]


@each_task
def test_a_task_is_repeated_for_the_errors_of_the_table_of_retries(task: dict[str, Any]) -> None:
    names = [tuple(retrier["ErrorEquals"]) for retrier in task["Retry"][:3]]
    policies = (SERVICE_RETRY, THROTTLE_RETRY, STAGE_RETRY)
    assert names == [policy.error_names for policy in policies]


@each_type
def test_a_step_waits_for_as_long_as_it_may_and_the_end_of_a_job_until_no_stage_is_at_work(
    definition: Definition,
) -> None:
    for name in (*definition.stages, RECORD_FAILURE):
        seconds = name.waits_seconds if isinstance(name, Stage) else 0
        if name in {definition.last, RECORD_FAILURE}:
            seconds += LONGEST_RUN_SECONDS
        waits = waiting_retry(seconds).max_attempts if seconds else 0
        counts, pauses = repeated(definition, name, [WAITING_ERROR] * (waits + 2))
        assert counts == list(range(waits + 1)), f"{definition.name}: {name}"
        assert pauses == [Pause(POLL_SECONDS)] * waits


def test_retried_are_the_retryable_types_and_the_names_that_are_not_ours() -> None:
    assert STAGE_RETRY.error_names == (*RETRYABLE, *FOREIGN_ERRORS)


# --- The time that it takes -----------------------------------------------------------------------


@each_task
def test_a_task_waits_a_little_longer_than_its_function_runs(task: dict[str, Any]) -> None:
    arn = task["Parameters"]["FunctionName"]
    (function,) = (f for f in functions().values() if arn == f"${{{f.logical_id}Arn}}")
    assert 0 < task["TimeoutSeconds"] - int(function.properties["Timeout"]) <= 15


@each_type
def test_no_stage_runs_longer_than_the_code_allows_for(definition: Definition) -> None:
    found = {
        payload["stage"]: task["TimeoutSeconds"]
        for _, task in all_states(MACHINES[definition.name]["States"])
        if task["Type"] == "Task" and (payload := task["Parameters"].get("Payload"))
    }
    for stage in definition.stages:
        longest = longest_run(definition.name, stage)
        assert found[stage] == longest <= LONGEST_RUN_SECONDS, f"{definition.name}: {stage}"


#: What an execution may have beyond that: whole hours, the start of a clean-up, and the polls by
#: which the retriers of waits outlast them.
FOUR_HOURS = 14_400

#: All that can be repeated, at its longest.
ALL_REPEATED = [
    *[SERVICE_RETRY.error_names[0]] * SERVICE_RETRY.max_attempts,
    *[STAGE_RETRY.error_names[0]] * STAGE_RETRY.max_attempts,
]


def seconds_by_step(document: dict[str, Any], answers: Answers) -> dict[str, float]:
    """Run a machine, and return how long its stages and steps take at most, each for itself."""
    timeouts = {
        state["Parameters"]["Payload"]["stage"]: state["TimeoutSeconds"]
        for _, state in all_states(document["States"])
        if state.get("Resource") == "arn:aws:states:::lambda:invoke"
    }
    done = run(document, answers)
    seconds = {
        name: float(timeouts[name] * len(done.payloads(name)))
        for name in dict.fromkeys(done.stages)
    }
    for name, pause in done.pauses:
        seconds[name] += pause.seconds
    return seconds


def waits_of(policy: RetryPolicy) -> float:
    return sum(policy.longest_delay(n) or 0 for n in range(1, policy.attempts_in_all))


@each_type
def test_a_job_has_the_time_that_every_repetition_takes(definition: Definition) -> None:
    document = MACHINES[definition.name]
    errors = {str(name): list(ALL_REPEATED) for name in (*definition.stages, RECORD_FAILURE)}
    errors[definition.last] += ["CONFLICT"]
    answers = Answers(errors=errors, outputs=asking_for_all(definition))
    # What is throttled does not run meanwhile.
    throttled = waits_of(THROTTLE_RETRY)
    seconds = {name: of + throttled for name, of in seconds_by_step(document, answers).items()}
    longest = seconds[RECORD_FAILURE]
    for step in definition.steps:
        branches = step.branches if isinstance(step, Parallel) else ((step,),)
        longest += max(sum(seconds[stage] for stage in branch) for branch in branches)
    longest += waits_of(SLOT_RETRY)
    # What ends a job, well or badly, may wait, too; and stages may that wait for something.
    longest += 2 * LONGEST_RUN_SECONDS + sum(stage.waits_seconds for stage in definition.stages)
    assert 0 <= document["TimeoutSeconds"] - longest < FOUR_HOURS


# --- The clean-up ---------------------------------------------------------------------------------


@each_cleanup
def test_a_clean_up_is_a_job_type_that_needs_none_itself(definition: Definition) -> None:
    cleanup = JOB_TYPES[definition.on_failure.cleanup_job_type]
    assert cleanup.on_failure.cleanup_job_type == ""
    # What fails, and what is released then, is named and released.
    assert cleanup.on_failure.remaining
    assert bool(cleanup.on_failure.release) == bool(definition.on_failure.release)


@each_cleanup
def test_the_machine_of_a_clean_up_is_the_one_that_is_started(definition: Definition) -> None:
    done = run(MACHINES[definition.name], failing_with_a_cleanup(definition))
    (start,) = done.starts
    started = substituted_state_machine(definition.name, start.machine.strip("${}"))
    assert started == definition.on_failure.cleanup_job_type


@each_cleanup
def test_a_clean_up_begins_once_nothing_of_the_failed_job_may_be_at_work(
    definition: Definition,
) -> None:
    first = JOB_TYPES[definition.on_failure.cleanup_job_type].stages[0]
    longest = max(longest_run(definition.name, s) for s in definition.stages)
    assert first.waits_seconds >= longest


@each_cleanup
def test_what_cannot_be_removed_keeps_nothing_else_from_it(definition: Definition) -> None:
    cleanup = JOB_TYPES[definition.on_failure.cleanup_job_type]
    (removing,) = (step for step in cleanup.steps if isinstance(step, Parallel))
    errors = {str(branch[0]): ["CONFLICT"] for branch in removing.branches[1:]}
    done = run(MACHINES[cleanup.name], Answers(errors=errors))
    assert set(map(str, removing.branches[0])) < set(done.stages)
    (recorded,) = done.payloads(RECORD_FAILURE)
    assert {end["stage"] for end in recorded["branches"] if not end["ok"]} == errors.keys()


# --- For those who read them ----------------------------------------------------------------------


def test_every_state_says_what_it_is_for() -> None:
    assert [name for name, state in STATES if not state.get("Comment")] == []
    assert all(document["Comment"] for document in MACHINES.values())
