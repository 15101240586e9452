"""The state machines of provision_project, of its clean-up, and of deprovision_project."""

from __future__ import annotations

from typing import Any

import pytest
from provisioner.jobs.definition import LONGEST_RUN_SECONDS, longest_run
from provisioner.jobs.execution import cleanup_execution_name
from provisioner.jobs.retries import QUIET_RETRY, SERVICE_RETRY, STAGE_RETRY
from provisioner.jobs.stage_run import AWAIT_QUIET, RECORD_FAILURE
from provisioner.provisioning.job_types import JOB_TYPES, deprovision_project, provision_project
from provisioner.provisioning.job_types.deprovision_project import REMOVING
from support.project import state_machine

ASL = state_machine()
STATES = ASL["States"]
PARALLEL = STATES["ProvisionResources"]


def stage_of(state: dict[str, Any]) -> str:
    return str(state["Parameters"]["Payload"]["stage"])


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


def test_stages_are_there_in_order() -> None:
    assert [stage_of(s) for s in SUCCESS if s["Type"] == "Task"] == list(
        provision_project.JOB_TYPE.stages
    )


def test_branches_are_those_of_the_plan() -> None:
    branches = [
        tuple(stage_of(s) for s in path(branch["States"], branch["StartAt"]))
        for branch in PARALLEL["Branches"]
    ]
    assert branches == [tuple(branch) for branch in provision_project.RESOURCES.branches]


def test_success_takes_at_most_twelve_transitions() -> None:
    assert SUCCESS[-1]["Type"] == "Succeed"
    assert len(SUCCESS) <= 12


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
    (cleanup,) = STATES[record["Next"]]["Choices"]
    assert (cleanup["Variable"], cleanup["NumericGreaterThan"]) == ("$.failure.cleanup", 0)
    start = STATES[cleanup["Next"]]
    # Told whether the clean-up starts or not: what does not start is found and started later.
    assert {start["Next"], start["Catch"][0]["Next"], STATES[record["Next"]]["Default"]} == {
        "Failed"
    }
    failed = STATES[start["Next"]]
    assert failed["Type"] == "Fail"
    assert failed["ErrorPath"] == "$.failure.error_type"
    assert failed["CausePath"] == "$.failure.message"
    assert STATES[record["Catch"][0]["Next"]]["Type"] == "Fail"


def longest(task: dict[str, Any]) -> float:
    """Return the seconds that a Task takes with every retry."""
    waits = sum(
        policy.longest_delay(attempt) or 0
        for policy in (SERVICE_RETRY, STAGE_RETRY)
        for attempt in range(1, policy.attempts_in_all)
    )
    attempts = SERVICE_RETRY.max_attempts + STAGE_RETRY.attempts_in_all
    # One that waits until no stage is at work does so without it for no longer than that runs, and
    # answers at once where it does not.
    at_work = LONGEST_RUN_SECONDS + QUIET_RETRY.interval_seconds if task["Retry"][2:] else 0
    return float(attempts * task["TimeoutSeconds"] + waits + at_work)


def test_execution_has_the_time_that_every_retry_can_take() -> None:
    outside = [STATES[name] for name in ("Initialize", "Finalize", "RecordFailure")]
    branches = [
        sum(longest(s) for s in branch["States"].values() if s["Type"] == "Task")
        for branch in PARALLEL["Branches"]
    ]
    assert ASL["TimeoutSeconds"] >= sum(map(longest, outside)) + max(branches)


CLEANUP = state_machine("provision_project_cleanup")


def test_cleanup_removes_in_the_order_of_the_plan_and_goes_on_after_an_error() -> None:
    states, name, order = CLEANUP["States"], "RemoveApiKeys", []
    while stage_of(states[name]) != AWAIT_QUIET:
        order.append(stage_of(states[name]))
        assert states[name]["Catch"][0]["Next"] == states[name]["Next"]
        assert states[name]["Parameters"]["Payload"]["cleanup.$"] == "$.cleanup"
        name = states[name]["Next"]
    assert order == list(provision_project.JOB_TYPE.on_failure.cleanup)


@pytest.mark.parametrize(
    ("name", "following"), [("AwaitStages", "RemoveApiKeys"), ("AwaitRemovals", "RecordCleanup")]
)
def test_cleanup_begins_and_ends_when_nothing_is_at_work(name: str, following: str) -> None:
    states = CLEANUP["States"]
    asks = states[name]
    wait = states[asks["Next"]]
    assert stage_of(asks) == AWAIT_QUIET
    assert asks["ResultSelector"] == {"seconds.$": "$.Payload.seconds"}
    assert wait["Type"] == "Wait"
    assert wait["SecondsPath"] == f"{asks['ResultPath']}.seconds"
    assert wait["Next"] == following
    # Where nobody can say whether anything is, it may be anything.
    longest_wait = states[asks["Catch"][0]["Next"]]
    assert longest_wait["Type"] == "Wait"
    assert longest_wait["Seconds"] == max(
        longest_run(JOB_TYPES, "provision_project", s)
        for s in (
            *provision_project.JOB_TYPE.stages,
            *provision_project.JOB_TYPE.on_failure.cleanup,
        )
    )
    assert longest_wait["Next"] == following


def test_cleanup_has_the_time_that_every_retry_can_take() -> None:
    tasks = [state for state in CLEANUP["States"].values() if state["Type"] == "Task"]
    waits = [state for state in CLEANUP["States"].values() if state["Type"] == "Wait"]
    pause = max(
        longest_run(JOB_TYPES, "provision_project", stage)
        for stage in (
            *provision_project.JOB_TYPE.stages,
            *provision_project.JOB_TYPE.on_failure.cleanup,
        )
    )
    needed = sum(map(longest, tasks)) + len(waits) * pause
    assert CLEANUP["TimeoutSeconds"] >= needed


def test_cleanup_is_named_as_the_code_names_it() -> None:
    name = STATES["StartCleanup"]["Parameters"]["Name.$"]
    assert name == "States.Format('{}-cleanup-{}', $.job.job_id, $.failure.cleanup)"
    assert cleanup_execution_name("JOB", 7) == "JOB-cleanup-7"


REMOVAL = state_machine("deprovision_project")
REMOVAL_TASKS = {n: s for n, s in REMOVAL["States"].items() if s["Type"] == "Task"}


def test_removal_has_its_stages_in_order_and_nothing_is_removed_before_the_snapshot() -> None:
    states, name, order = REMOVAL["States"], REMOVAL["StartAt"], []
    while states[name]["Type"] != "Succeed":
        if states[name]["Type"] == "Task":
            order.append(stage_of(states[name]))
        name = states[name].get("Next") or states[name]["Default"]
    assert order == list(deprovision_project.JOB_TYPE.stages)
    assert order.index("TAKING_SNAPSHOT") < min(order.index(stage) for stage in REMOVING)


@pytest.mark.parametrize("name", [n for n in REMOVAL_TASKS if n != "RecordFailure"])
def test_stage_of_a_removal_fails_in_the_form_of_a_branch(name: str) -> None:
    task = REMOVAL_TASKS[name]
    closing = REMOVAL["States"][task["Catch"][0]["Next"]]
    branch = {"ok": False, "stage": stage_of(task), "error.$": "$.error"}
    assert closing["Parameters"] == {"job.$": "$.job", "settled": {"branches": [branch]}}
    assert closing["Next"] == "RecordFailure"


def test_removal_ends_at_once_where_nothing_is_left_to_remove() -> None:
    choice = REMOVAL["States"][REMOVAL["States"][REMOVAL["StartAt"]]["Next"]]
    (rule,) = choice["Choices"]
    said = "$.INITIALIZING.output.already_deprovisioned"
    assert rule == {
        "And": [
            {"Variable": said, "IsPresent": True},
            {"Variable": said, "BooleanEquals": True},
        ],
        "Next": "Completed",
    }


def test_removal_that_fails_ends_with_the_jobs_own_error_and_starts_no_cleanup() -> None:
    record = REMOVAL_TASKS["RecordFailure"]
    assert stage_of(record) == RECORD_FAILURE
    failed = REMOVAL["States"][record["Next"]]
    assert (failed["ErrorPath"], failed["CausePath"]) == (
        "$.failure.error_type",
        "$.failure.message",
    )
    assert REMOVAL["States"][record["Catch"][0]["Next"]]["Type"] == "Fail"


def test_removal_has_the_time_that_every_retry_can_take() -> None:
    assert REMOVAL["TimeoutSeconds"] >= sum(map(longest, REMOVAL_TASKS.values()))
