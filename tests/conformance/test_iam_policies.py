"""The policies of docs/iam: each allows what whoever has it calls, and no more."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from provisioner import api
from support.encryption import rights_by_key
from support.iam_policies import (
    MANAGED_POLICY_CHARACTERS,
    PLACEHOLDERS,
    allowed,
    policy,
    size,
    unknown,
)
from support.project import state_machines
from support.reachable_code import Call, calls_of_api

#: What of the public API each calls; the program `provision` calls nothing else.
READER = {
    "connect_to_stack",
    "find_job_ids",
    "get_job",
    "get_project",
    "list_api_keys",
    "list_dead_letters",
    "list_jobs",
    "list_projects",
    "wait_for_job",
}
#: What provisions projects by itself: it reads what it has sent, and no list.
APPLICATION = {
    "connect_to_stack",
    "create_project",
    "enqueue_job",
    "get_job",
    "get_project",
    "verify_api_key",
    "wait_for_job",
}
#: All but what only an application does. To list snapshots is to be able to read them: S3 asks for
#: the same right for an object and for what is kept beside it.
OPERATOR = READER | {
    "cancel_job",
    "claim_api_keys",
    "create_project",
    "enqueue_job",
    "find_snapshot",
    "list_snapshots",
    "protect_project",
    "redrive_dead_letters",
    "restore_instance",
    "restore_snapshot",
    "retry_cleanup",
    "retry_job",
    "revoke_api_key",
}
CALLERS = {"reader": READER, "application": APPLICATION, "operator": OPERATOR}


def resource_of(call: Call) -> str:
    """Return a table, or an index, as a policy names it."""
    table, slash, index = call.table.partition("/")
    return f"arn:aws:dynamodb:REGION:ACCOUNT:table/STACK-{table}-*{slash}{index}"


def problems(document: dict[str, Any], calls: frozenset[Call]) -> list[str]:
    """Return what a policy allows too much, and what it lacks."""
    has = allowed(document)
    tables = {(call.action, resource_of(call)) for call in calls if call.table}
    actions = {call.action for call in calls if not call.table}
    rest = has - tables
    return sorted(
        [f"{action} on {resource} is not allowed" for action, resource in tables - has]
        + [f"{action} is not allowed" for action in actions - {action for action, _ in rest}]
        + [
            f"{action} on {resource} is not called"
            for action, resource in rest
            if action not in actions
        ]
    )


@pytest.mark.parametrize("name", CALLERS)
def test_a_policy_allows_what_is_called_and_no_more(name: str) -> None:
    assert problems(policy(name), calls_of_api(*CALLERS[name])) == []


@pytest.mark.parametrize("name", CALLERS)
def test_each_right_of_a_policy_is_needed_and_found_missing(name: str) -> None:
    for at, statement in enumerate(policy(name)["Statement"]):
        for action in statement["Action"]:
            less = policy(name)
            less["Statement"][at]["Action"].remove(action)
            others = {allowed_action for allowed_action, _ in allowed(less)}
            if action in others and not action.startswith("dynamodb:"):
                continue
            found = problems(less, calls_of_api(*CALLERS[name]))
            assert any(problem.startswith(action) for problem in found), (statement["Sid"], action)


def test_whoever_calls_aws_by_the_api_has_a_policy() -> None:
    functions = {name for name in api.__all__ if inspect.isfunction(getattr(api, name))}
    assert {name for name in functions if calls_of_api(name)} == OPERATOR | APPLICATION


@pytest.mark.parametrize("name", CALLERS)
def test_a_policy_names_actions_and_resources_exactly(name: str) -> None:
    for statement in policy(name)["Statement"]:
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        assert statement["Effect"] == "Allow"
        assert "*" not in statement["Resource"]
        for action in statement["Action"]:
            assert re.fullmatch(r"[a-z0-9-]+:[A-Za-z0-9]+", action)
        for resource in statement["Resource"]:
            assert set(re.findall(r"[A-Z][A-Z_]+[A-Z]", resource)) <= PLACEHOLDERS.keys(), resource
    assert unknown(policy(name)) == []
    assert size(policy(name)) <= MANAGED_POLICY_CHARACTERS


def test_an_operator_can_cancel_jobs_of_every_type() -> None:
    machines = {r for action, r in allowed(policy("operator")) if action == "states:StopExecution"}
    assert machines == {
        f"arn:aws:states:REGION:ACCOUNT:execution:STACK-{name}:*" for name in state_machines()
    }


def test_no_policy_of_people_reads_a_secret_that_is_not_a_projects() -> None:
    for name in CALLERS:
        for action, resource in allowed(policy(name)):
            if action.startswith("secretsmanager:"):
                assert name == "operator"
                assert ":secret:PREFIX/PREFIX-*" in resource


def test_people_and_applications_may_use_the_key_for_what_they_read_and_send() -> None:
    needed = rights_by_key(action for name in CALLERS for action, _ in allowed(policy(name)))
    assert {
        (action, service)
        for statement in policy("key")["Statement"]
        for action in statement["Action"]
        for service in services_of(statement["Condition"]["StringEquals"]["kms:ViaService"])
    } == needed
    assert {resource for _, resource in allowed(policy("key"))} == {"KMS_KEY"}


def services_of(hosts: list[str]) -> set[str]:
    return {host.removesuffix(".REGION.amazonaws.com") for host in hosts}
