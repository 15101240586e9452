"""Runs a state machine one call at a time, so that a test decides what happens in between.

It reads the real definitions and knows the part of Amazon States Language (JSONPath) that they use;
anything else is an error. moto's interpreter runs an execution to its end in a thread of its own,
which no test can hold still.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

type Data = Any


class StateError(Exception):
    """What a state ends with that has no result."""

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(name)
        self.name = name
        self.cause = cause


@dataclass(frozen=True)
class Invoke:
    """A Task calls a function, named by the placeholder of its ARN."""

    function: str
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Start:
    """A Task starts an execution of the state machine that a placeholder names."""

    machine: str
    name: str
    input: Mapping[str, Any]


@dataclass(frozen=True)
class Pause:
    """An execution waits: for so many seconds, or, between two attempts, for at most so many."""

    seconds: float
    is_jittered: bool = False


@dataclass(frozen=True)
class _Fork:
    branches: Sequence[_Strand]


type Request = Invoke | Start | Pause
type _Steps = Generator[Request | _Fork, Any, Data]


@dataclass(eq=False)
class _Strand:
    """One line of states: the whole execution, or a branch of it."""

    steps: _Steps
    parent: _Strand | None = None
    #: What it waits for an answer to; None while its branches are under way, or once it has ended.
    request: Request | None = None
    branches: Sequence[_Strand] = ()
    has_ended: bool = False
    result: Data = None


@dataclass(eq=False)
class Execution:
    """An execution that goes on only when one of its requests is answered."""

    definition: Mapping[str, Any]
    input: Data
    #: What it has ended with; None while it runs.
    status: str | None = None
    output: Data = None
    error: str = ""
    cause: str = ""
    #: The names of the states that have been entered: AWS counts these transitions.
    entered: list[str] = field(default_factory=list)
    _root: _Strand = field(init=False)

    def __post_init__(self) -> None:
        self._root = _Strand(_states(self.definition, copy.deepcopy(self.input), self.entered))
        self._go_on(self._root, None)

    @property
    def waiting(self) -> list[_Strand]:
        """The strands that wait for an answer, in the order of the branches."""
        found: list[_Strand] = []
        left = [self._root]
        while left:
            strand = left.pop(0)
            left[:0] = strand.branches
            if strand.request is not None:
                found.append(strand)
        return found

    def answer(self, strand: _Strand, answer: Data | StateError) -> None:
        """Answer the request of a strand, or let it fail."""
        strand.request = None
        self._go_on(strand, answer)

    def _go_on(self, strand: _Strand, answer: Data | StateError) -> None:
        try:
            if isinstance(answer, StateError):
                request = strand.steps.throw(answer)
            else:
                request = strand.steps.send(answer)
        except StopIteration as end:
            strand.has_ended, strand.result = True, end.value
            self._ended(strand)
            return
        except StateError as error:
            assert strand is self._root, "a branch of ours never fails the Parallel state"
            self.status, self.error, self.cause = "FAILED", error.name, error.cause
            return
        if isinstance(request, _Fork):
            strand.branches = request.branches
            for branch in request.branches:
                branch.parent = strand
                self._go_on(branch, None)
        else:
            strand.request = request

    def _ended(self, strand: _Strand) -> None:
        parent = strand.parent
        if parent is None:
            self.status, self.output = "SUCCEEDED", strand.result
        elif all(branch.has_ended for branch in parent.branches):
            results = [branch.result for branch in parent.branches]
            parent.branches = ()
            self._go_on(parent, results)


def _states(machine: Mapping[str, Any], data: Data, entered: list[str]) -> _Steps:
    name = machine["StartAt"]
    while True:
        state = machine["States"][name]
        entered.append(name)
        if state["Type"] == "Succeed":
            return data
        try:
            if state["Type"] == "Choice":
                name = _chosen(state, data)
                continue
            data = yield from _state(state, data, entered)
        except StateError as error:
            catcher = next((c for c in state.get("Catch", ()) if _matches(c, error)), None)
            if catcher is None:
                raise
            data = _put(catcher["ResultPath"], data, {"Error": error.name, "Cause": error.cause})
            name = catcher["Next"]
            continue
        if state.get("End"):
            return data
        name = state["Next"]


def _state(state: Mapping[str, Any], data: Data, entered: list[str]) -> _Steps:
    """Go through one state, and return what it puts out."""
    match state["Type"]:
        case "Task":
            return _with_result(state, data, (yield from _task(state, data)))
        case "Parallel":
            branches = [
                _Strand(_states(branch, copy.deepcopy(data), entered))
                for branch in state["Branches"]
            ]
            return _with_result(state, data, (yield _Fork(branches)))
        case "Pass":
            return _filled(state["Parameters"], data, 0)
        case "Wait":
            yield Pause(state.get("Seconds") or _read(state["SecondsPath"], data))
            return data
        case "Fail":
            raise StateError(
                state.get("Error") or _read(state["ErrorPath"], data),
                state.get("Cause") or _read(state["CausePath"], data),
            )
        case other:
            raise NotImplementedError(other)


def _chosen(state: Mapping[str, Any], data: Data) -> str:
    chosen = (rule["Next"] for rule in state["Choices"] if _holds(rule, data))
    return str(next(chosen, state["Default"]))


def _task(state: Mapping[str, Any], data: Data) -> Generator[Request, Any, Data]:
    repeated = [0] * len(state.get("Retry", ()))
    while True:
        parameters = _filled(state["Parameters"], data, sum(repeated))
        request: Request
        match state["Resource"]:
            case "arn:aws:states:::lambda:invoke":
                request = Invoke(parameters["FunctionName"], parameters["Payload"])
            case "arn:aws:states:::states:startExecution":
                request = Start(
                    parameters["StateMachineArn"], parameters["Name"], parameters["Input"]
                )
            case other:
                raise NotImplementedError(other)
        try:
            return (yield request)
        except StateError as error:
            number, retrier = next(
                ((i, r) for i, r in enumerate(state.get("Retry", ())) if _matches(r, error)),
                (0, None),
            )
            if retrier is None or repeated[number] >= retrier["MaxAttempts"]:
                raise
            longest = retrier["IntervalSeconds"] * retrier["BackoffRate"] ** repeated[number]
            repeated[number] += 1
            is_jittered = retrier["JitterStrategy"] == "FULL"
            yield Pause(min(longest, retrier.get("MaxDelaySeconds", longest)), is_jittered)


def _matches(rule: Mapping[str, Any], error: StateError) -> bool:
    return bool({"States.ALL", error.name} & set(rule["ErrorEquals"]))


def _with_result(state: Mapping[str, Any], data: Data, result: Data) -> Data:
    if "ResultSelector" in state:
        result = _filled(state["ResultSelector"], result, 0)
    return _put(state.get("ResultPath", "$"), data, result)


def _put(path: str, data: Data, value: Data) -> Data:
    if path == "$":
        return value
    _, name = path.split(".")  # ours are one deep
    return {**data, name: value}


def _filled(template: Data, data: Data, retry_count: int) -> Data:
    if not isinstance(template, dict):
        return (
            [_filled(one, data, retry_count) for one in template]
            if isinstance(template, list)
            else template
        )
    filled: dict[str, Any] = {}
    for name, value in template.items():
        if not name.endswith(".$"):
            filled[name] = _filled(value, data, retry_count)
        elif value == "$$.State.RetryCount":
            filled[name[:-2]] = retry_count
        else:
            filled[name[:-2]] = copy.deepcopy(_evaluated(value, data))
    return filled


def _evaluated(expression: str, data: Data) -> Data:
    call = re.fullmatch(r"States\.Format\('([^']*)', (.*)\)", expression)
    if call is None:
        return _read(expression, data)
    return call[1].format(*(_read(path, data) for path in call[2].split(", ")))


def _read(path: str, data: Data) -> Data:
    assert path.startswith("$"), path
    every = re.fullmatch(r"\$\[\*\]\.(\w+)", path)
    if every is not None:
        return [one[every[1]] for one in data]
    for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", path):
        data = data[name] if name else data[int(index)]
    return data


def _holds(rule: Mapping[str, Any], data: Data) -> bool:
    if "And" in rule:
        return all(_holds(part, data) for part in rule["And"])
    if "IsPresent" in rule:
        return _is_present(rule["Variable"], data) is rule["IsPresent"]
    value = _read(rule["Variable"], data)
    if "BooleanEquals" in rule:
        return bool(value is rule["BooleanEquals"])
    return bool(value > rule["NumericGreaterThan"])


def _is_present(path: str, data: Data) -> bool:
    try:
        _read(path, data)
    except (LookupError, TypeError):
        return False
    return True
