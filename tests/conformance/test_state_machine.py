"""The house rules of the state machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from provisioner.errors import RETRYABLE
from provisioner.jobs.retries import FOREIGN_ERRORS, SERVICE_RETRY, STAGE_RETRY, RetryPolicy
from provisioner.provisioning.plan import BRANCHES, RECORD_FAILURE, Stage
from support.project import functions, state_machine

ASL = state_machine()
STATES = ASL["States"]
PARALLEL = STATES["ProvisionResources"]

#: How much longer than its function a Task may wait: AWS Lambda's own start and answer.
LONGEST_MARGIN_SECONDS = 15


def all_states(states: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, state in states.items():
        yield name, state
        for branch in state.get("Branches", []):
            yield from all_states(branch["States"])


EVERY_STATE = dict(all_states(STATES))
TASKS = {name: state for name, state in EVERY_STATE.items() if state["Type"] == "Task"}
each_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def stage_of(state: dict[str, Any]) -> str:
    return str(state["Parameters"]["Payload"]["stage"])


def function_timeout(task: dict[str, Any]) -> int:
    """Return the Timeout of the function that a Task calls."""
    logical_id = task["Parameters"]["FunctionName"].removeprefix("${").removesuffix("Arn}")
    (function,) = (f for f in functions().values() if f.logical_id == logical_id)
    return int(function.properties["Timeout"])


def path(states: dict[str, Any], start: str) -> list[dict[str, Any]]:
    """Return the states of a job that succeeds at the first attempt."""
    state = states[start]
    entered = [state]
    for branch in state.get("Branches", []):
        entered += path(branch["States"], branch["StartAt"])
    following = {
        "IsAlreadyProvisioned": state.get("Default"),
        "HaveAllBranchesSucceeded": state.get("Choices", [{}])[0].get("Next"),
    }.get(start, state.get("Next"))
    return entered + (path(states, following) if following else [])


SUCCESS = path(STATES, ASL["StartAt"])


def test_it_is_written_in_jsonpath() -> None:
    assert ASL["QueryLanguage"] == "JSONPath"
    assert not any("QueryLanguage" in state for state in EVERY_STATE.values())


def test_every_state_says_what_it_is_for() -> None:
    said = {n for n, s in EVERY_STATE.items() if s.get("Comment")}
    assert said == set(EVERY_STATE)


def test_stages_are_there_in_order() -> None:
    assert [stage_of(s) for s in SUCCESS if s["Type"] == "Task"] == list(Stage)


def test_branches_are_those_of_the_plan() -> None:
    branches = [
        tuple(stage_of(s) for s in path(branch["States"], branch["StartAt"]))
        for branch in PARALLEL["Branches"]
    ]
    assert branches == [tuple(branch) for branch in BRANCHES]


def test_success_takes_at_most_twelve_transitions() -> None:
    assert SUCCESS[-1]["Type"] == "Succeed"
    assert len(SUCCESS) <= 12


@each_task
def test_task_hands_the_untouched_job_its_stage_and_the_retry_count_to_a_function(
    task: dict[str, Any],
) -> None:
    assert task["Resource"] == "arn:aws:states:::lambda:invoke"
    payload = task["Parameters"]["Payload"]
    assert payload["job.$"] == "$.job"
    assert payload["retry_count.$"] == "$$.State.RetryCount"
    assert payload["stage"] in {*Stage, RECORD_FAILURE}
    assert "InputPath" not in task
    assert task.get("ResultPath", "$") != "$.job"


@each_task
def test_task_waits_a_little_longer_than_its_function_runs(task: dict[str, Any]) -> None:
    margin = task["TimeoutSeconds"] - function_timeout(task)
    assert 0 < margin <= LONGEST_MARGIN_SECONDS


@each_task
@pytest.mark.parametrize(("position", "policy"), [(0, SERVICE_RETRY), (1, STAGE_RETRY)])
def test_task_retries_as_the_code_says(
    task: dict[str, Any], position: int, policy: RetryPolicy
) -> None:
    assert len(task["Retry"]) == 2
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


def test_retried_are_the_retryable_types_and_the_names_that_are_not_ours() -> None:
    assert STAGE_RETRY.error_names == (*RETRYABLE, *FOREIGN_ERRORS)
    assert STAGE_RETRY.attempts_in_all == 3
    assert STAGE_RETRY.interval_seconds == 300
    assert STAGE_RETRY.backoff_rate == 2


@each_task
def test_task_catches_everything_and_keeps_its_input(task: dict[str, Any]) -> None:
    (catch,) = task["Catch"]
    assert catch["ErrorEquals"] == ["States.ALL"]
    assert catch["ResultPath"] == "$.error"


def test_no_branch_can_fail_the_parallel_state() -> None:
    for branch in PARALLEL["Branches"]:
        for state in branch["States"].values():
            if state["Type"] == "Task":
                (catch,) = state["Catch"]
                closing = branch["States"][catch["Next"]]
                assert closing["Parameters"] == {
                    "ok": False,
                    "stage": stage_of(state),
                    "error.$": "$.error",
                }
            else:
                assert state["Type"] == "Pass"
                assert state["End"] is True


def test_choice_looks_at_every_branch() -> None:
    choice = STATES["HaveAllBranchesSucceeded"]
    assert PARALLEL["Next"] == "HaveAllBranchesSucceeded"
    assert PARALLEL["ResultSelector"]["ok.$"] == "$[*].ok"
    (rule,) = choice["Choices"]
    assert rule == {
        "And": [
            {"Variable": f"$.settled.ok[{i}]", "BooleanEquals": True}
            for i in range(len(PARALLEL["Branches"]))
        ],
        "Next": "Finalize",
    }
    assert choice["Default"] == "RecordFailure"


@pytest.mark.parametrize("name", ["Initialize", "Finalize"])
def test_stage_outside_the_branches_fails_in_the_form_of_a_branch(name: str) -> None:
    closing = STATES[STATES[name]["Catch"][0]["Next"]]
    assert closing["Parameters"] == {
        "job.$": "$.job",
        "settled": {
            "branches": [{"ok": False, "stage": stage_of(STATES[name]), "error.$": "$.error"}]
        },
    }
    assert closing["Next"] == "RecordFailure"


def test_failure_ends_with_the_jobs_own_error() -> None:
    record = STATES["RecordFailure"]
    assert record["Parameters"]["Payload"]["branches.$"] == "$.settled.branches"
    assert stage_of(record) == RECORD_FAILURE
    failed = STATES[record["Next"]]
    assert failed["Type"] == "Fail"
    assert failed["ErrorPath"] == "$.failure.error_type"
    assert failed["CausePath"] == "$.failure.message"
    assert STATES[record["Catch"][0]["Next"]]["Type"] == "Fail"


def test_execution_has_the_time_that_every_retry_can_take() -> None:
    def longest(task: dict[str, Any]) -> float:
        waits = sum(
            policy.longest_delay(attempt) or 0
            for policy in (SERVICE_RETRY, STAGE_RETRY)
            for attempt in range(1, policy.attempts_in_all)
        )
        attempts = SERVICE_RETRY.max_attempts + STAGE_RETRY.attempts_in_all
        return float(attempts * task["TimeoutSeconds"] + waits)

    outside = [STATES[name] for name in ("Initialize", "Finalize", "RecordFailure")]
    branches = [
        sum(longest(s) for s in branch["States"].values() if s["Type"] == "Task")
        for branch in PARALLEL["Branches"]
    ]
    assert ASL["TimeoutSeconds"] >= sum(map(longest, outside)) + max(branches)
