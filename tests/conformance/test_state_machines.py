"""The house rules of every state machine."""

from __future__ import annotations

from typing import Any

import pytest
from provisioner.errors import RETRYABLE
from provisioner.jobs.definition import LONGEST_RUN_SECONDS, longest_run
from provisioner.jobs.quiet import StageAtWorkError
from provisioner.jobs.retries import (
    FOREIGN_ERRORS,
    QUIET_RETRY,
    SERVICE_RETRY,
    STAGE_RETRY,
    RetryPolicy,
)
from provisioner.jobs.stage_run import AWAIT_QUIET, RECORD_CLEANUP, RECORD_FAILURE
from provisioner.provisioning.job_types import JOB_TYPES
from support.project import all_states, functions, state_machines

MACHINES = state_machines()
STATES = {
    f"{machine}.{name}": state
    for machine, definition in MACHINES.items()
    for name, state in all_states(definition["States"])
}
TASKS = {name: state for name, state in STATES.items() if state["Type"] == "Task"}
STAGES = {n: s for n, s in TASKS.items() if s["Resource"] == "arn:aws:states:::lambda:invoke"}

#: How much longer than its function a Task may wait: AWS Lambda's own start and answer.
LONGEST_MARGIN_SECONDS = 15

each_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
each_stage = pytest.mark.parametrize("task", STAGES.values(), ids=STAGES)


def function_timeout(task: dict[str, Any]) -> int:
    """Return the Timeout of the function that a Task calls."""
    logical_id = task["Parameters"]["FunctionName"].removeprefix("${").removesuffix("Arn}")
    (function,) = (f for f in functions().values() if f.logical_id == logical_id)
    return int(function.properties["Timeout"])


def test_no_stage_runs_longer_than_the_code_allows_for() -> None:
    """A stage's Task ends after its function, which the tests below hold."""
    steps = {RECORD_FAILURE, AWAIT_QUIET, RECORD_CLEANUP}
    for name, task in STAGES.items():
        stage = task["Parameters"]["Payload"]["stage"]
        job_type = name.partition(".")[0].removesuffix("_cleanup")
        if stage not in steps:
            assert task["TimeoutSeconds"] == longest_run(JOB_TYPES, job_type, stage)


def test_they_are_written_in_jsonpath() -> None:
    assert {definition["QueryLanguage"] for definition in MACHINES.values()} == {"JSONPath"}
    assert not any("QueryLanguage" in state for state in STATES.values())


def test_every_state_says_what_it_is_for() -> None:
    assert {name for name, state in STATES.items() if not state.get("Comment")} == set()
    assert all(definition["Comment"] for definition in MACHINES.values())


@each_stage
def test_task_hands_the_untouched_job_its_stage_and_the_retry_count_to_a_function(
    task: dict[str, Any],
) -> None:
    payload = task["Parameters"]["Payload"]
    assert payload["job.$"] == "$.job"
    assert payload["retry_count.$"] == "$$.State.RetryCount"
    assert payload["stage"]


@each_task
def test_task_keeps_its_input(task: dict[str, Any]) -> None:
    assert "InputPath" not in task
    assert task.get("ResultPath", "$") != "$.job"


@each_stage
def test_task_waits_a_little_longer_than_its_function_runs(task: dict[str, Any]) -> None:
    margin = task["TimeoutSeconds"] - function_timeout(task)
    assert 0 < margin <= LONGEST_MARGIN_SECONDS


@each_stage
@pytest.mark.parametrize(("position", "policy"), [(0, SERVICE_RETRY), (1, STAGE_RETRY)])
def test_task_retries_as_the_code_says(
    task: dict[str, Any], position: int, policy: RetryPolicy
) -> None:
    retrier = dict(task["Retry"][position])
    assert retrier.pop("Comment")
    assert tuple(retrier.pop("ErrorEquals")) == policy.error_names
    assert retrier == {
        "IntervalSeconds": policy.interval_seconds,
        "BackoffRate": policy.backoff_rate,
        "MaxAttempts": policy.max_attempts,
        "MaxDelaySeconds": policy.max_delay_seconds,
        "JitterStrategy": "FULL",
    }


@each_stage
def test_what_ends_a_job_and_no_other_waits_until_no_stage_is_at_work(task: dict[str, Any]) -> None:
    ends = {RECORD_FAILURE, *(plan.last for plan in JOB_TYPES.values())}
    more = task["Retry"][2:]
    assert len(more) == (task["Parameters"]["Payload"]["stage"] in ends)
    for retrier in more:
        assert retrier["Comment"]
        assert {name: value for name, value in retrier.items() if name != "Comment"} == {
            "ErrorEquals": [StageAtWorkError.__name__],
            "IntervalSeconds": QUIET_RETRY.interval_seconds,
            "BackoffRate": 1,
            "MaxAttempts": QUIET_RETRY.max_attempts,
            "JitterStrategy": "NONE",
        }


def test_the_end_of_a_job_can_wait_for_longer_than_any_function_runs() -> None:
    """However often the Task is repeated for another reason."""
    others = SERVICE_RETRY.max_attempts + STAGE_RETRY.max_attempts
    waits = QUIET_RETRY.max_attempts - others
    assert waits * QUIET_RETRY.interval_seconds >= LONGEST_RUN_SECONDS
    assert QUIET_RETRY.error_names == (StageAtWorkError.__name__,)
    assert QUIET_RETRY.longest_delay(QUIET_RETRY.max_attempts) == QUIET_RETRY.interval_seconds


def test_retried_are_the_retryable_types_and_the_names_that_are_not_ours() -> None:
    assert STAGE_RETRY.error_names == (*RETRYABLE, *FOREIGN_ERRORS)
    assert STAGE_RETRY.attempts_in_all == 3
    assert STAGE_RETRY.interval_seconds == 300
    assert STAGE_RETRY.backoff_rate == 2


@each_task
def test_task_has_a_time_out_and_retries_with_jitter_and_a_cap(task: dict[str, Any]) -> None:
    assert task["TimeoutSeconds"] > 0
    for retrier in task["Retry"][:2]:
        assert retrier["JitterStrategy"] == "FULL"
        assert retrier["MaxDelaySeconds"] > 0


@each_task
def test_task_catches_everything_and_keeps_its_input_beside_the_error(
    task: dict[str, Any],
) -> None:
    (catch,) = task["Catch"]
    assert catch["ErrorEquals"] == ["States.ALL"]
    assert catch["ResultPath"].startswith("$.")
    assert catch["ResultPath"] != "$.job"
