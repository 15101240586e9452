"""Draws a state machine as a Mermaid flowchart, which GitHub shows within a page.

Every stage is in it, with its function. The states that only hand an error on are not: one edge
stands for them, and says when a stage has failed for good.
"""

import re
from collections.abc import Iterator
from typing import Any

from provisioner.jobs.retries import STAGE_RETRY

#: What stands around a state's name, by its type. Source: Mermaid, "Flowcharts - Basic Syntax".
_SHAPES = {
    "Task": ('["', '"]'),
    "Choice": ('{"', '"}'),
    "Succeed": ('(["', '"])'),
    "Fail": ('(["', '"])'),
}

type States = dict[str, dict[str, Any]]


def flowchart(document: dict[str, Any]) -> str:
    """Return the Markdown of a state machine's flowchart."""
    waits = [STAGE_RETRY.longest_delay(number) for number in range(1, STAGE_RETRY.attempts_in_all)]
    failing = (
        f"a stage fails: {STAGE_RETRY.attempts_in_all} attempts, after waits of up to "
        f"{' and '.join(f'{seconds:g} s' for seconds in waits)}, or an error that does not pass"
    )
    lines = [f'Failing(["{failing}"]) -.-> RecordFailure', *_lines(document["States"])]
    return "\n".join(["```mermaid", "flowchart TD", *(f"  {line}" for line in lines), "```"]) + "\n"


def _lines(states: States) -> Iterator[str]:
    for name, state in states.items():
        if state["Type"] == "Pass":
            continue
        if state["Type"] == "Parallel":
            yield f"subgraph {name}"
            for branch in state["Branches"]:
                yield from (f"  {line}" for line in _lines(branch["States"]))
            yield "end"
        else:
            before, after = _SHAPES[state["Type"]]
            yield f"{name}{before}{name}{_detail(state)}{after}"
        for target, label in _edges(state):
            if states[target]["Type"] != "Pass":
                yield f"{name} -->|{label}| {target}" if label else f"{name} --> {target}"


def _detail(state: dict[str, Any]) -> str:
    """Return a Task's stage and function, or the state machine that it starts."""
    match state:
        case {"Parameters": {"FunctionName": name, "Payload": {"stage": stage}}}:
            return f"<br/>{stage} in {name.removeprefix('${').removesuffix('FunctionArn}')}"
        case {"Type": "Task"}:
            return "<br/>starts the clean-up"
    return ""


def _edges(state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the states that may follow a state, each with what leads there."""
    if "Next" in state:
        yield state["Next"], ""
    for rule in state.get("Choices", ()):
        yield rule["Next"], _question(rule)
    if "Default" in state:
        yield state["Default"], "else"
    for catch in state.get("Catch", ()):
        if catch["Next"] != state.get("Next"):
            yield catch["Next"], "error"


def _question(rule: dict[str, Any]) -> str:
    """Return what a rule of a Choice asks for, in words."""
    first = rule.get("And", [rule])[0]
    field = re.sub(r"\[[0-9]+\]$", "", first["Variable"].rpartition(".")[2])
    return field.removeprefix("is_").replace("_", " ")
