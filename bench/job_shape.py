"""What a job is made of, as the project's own files say it: states, retriers, parameters.

Nothing here is a number of its own: the state machine is read from its file, as AWS gets it, and
the parameters from the template.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from provisioner.jobs.stage_run import RECORD_FAILURE
from support.project import ROOT, template

#: A state machine's states, by name.
type States = Mapping[str, Mapping[str, Any]]

#: What the first stage raises where its job finds no slot.
SLOT_WAITING = "SlotWaiting"


@dataclass(frozen=True, slots=True)
class Retrier:
    """How often and after how long a Task is repeated after an error.

    Source: Amazon States Language, "Retrying after an error".
    """

    error_names: frozenset[str]
    interval_seconds: float
    backoff_rate: float
    max_attempts: int
    max_delay_seconds: float
    is_jittered: bool

    def longest_delay(self, repetition: int) -> float:
        """Return the longest wait before a repetition, counted from 1, in seconds."""
        # A rate to a high power is no number any more; the delay has its bound long before.
        exponent = min(repetition - 1, 64)
        return min(self.max_delay_seconds, self.interval_seconds * self.backoff_rate**exponent)

    def delay(self, repetition: int, random: Random) -> float:
        """Draw the wait before a repetition, counted from 1, in seconds."""
        longest = self.longest_delay(repetition)
        # It simulates.
        return random.uniform(0, longest) if self.is_jittered else longest  # nosec B311


@dataclass(frozen=True, slots=True)
class State:
    """A state that a good job enters; those that are Tasks run a stage."""

    name: str
    stage: str = ""
    retriers: tuple[Retrier, ...] = ()

    def retrier(self, error: str) -> Retrier | None:
        """Return the retrier that repeats an error, if one does."""
        return next((r for r in self.retriers if error in r.error_names), None)


@dataclass(frozen=True, slots=True)
class Parallel:
    """A state that is over when each of its branches is."""

    name: str
    branches: tuple[tuple[State, ...], ...]


@dataclass(frozen=True, slots=True)
class JobShape:
    """The states of a good job whose project shares a cluster, in order."""

    steps: tuple[State | Parallel, ...]

    @property
    def states(self) -> tuple[State | Parallel, ...]:
        """All of them, those within branches too."""
        return tuple(self._all())

    def _all(self) -> Iterator[State | Parallel]:
        for step in self.steps:
            yield step
            if isinstance(step, Parallel):
                yield from (state for branch in step.branches for state in branch)

    @property
    def transitions(self) -> int:
        """State transitions, where nothing is repeated."""
        return len(self.states)

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of its stages."""
        return tuple(s.stage for s in self.states if isinstance(s, State) and s.stage)

    @property
    def first(self) -> State:
        """The state whose stage begins the job."""
        return next(s for s in self.steps if isinstance(s, State) and s.stage)


def read_job_shape(name: str = "provision_project") -> JobShape:
    """Read a state machine, and follow what a good job does."""
    path = ROOT / "state_machines" / f"{name}.asl.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    return JobShape(tuple(_follow(document["States"], document["StartAt"])))


def _follow(states: States, name: str) -> Iterator[State | Parallel]:
    while name:
        state = states[name]
        if state["Type"] == "Parallel":
            yield Parallel(name, tuple(map(_branch, state["Branches"])))
        else:
            yield _state(name, state)
        name = _next(states, state)


def _branch(branch: Mapping[str, Any]) -> tuple[State, ...]:
    return tuple(s for s in _follow(branch["States"], branch["StartAt"]) if isinstance(s, State))


def _state(name: str, state: Mapping[str, Any]) -> State:
    if state["Type"] != "Task":
        return State(name)
    stage = state["Parameters"]["Payload"]["stage"]
    return State(name, stage, tuple(map(_retrier, state["Retry"])))


def _retrier(written: Mapping[str, Any]) -> Retrier:
    interval = written["IntervalSeconds"]
    return Retrier(
        error_names=frozenset(written["ErrorEquals"]),
        interval_seconds=interval,
        backoff_rate=written["BackoffRate"],
        max_attempts=written["MaxAttempts"],
        # Without one there is no bound; where the rate is 1 none is needed.
        max_delay_seconds=written.get("MaxDelaySeconds", float("inf")),
        is_jittered=written["JitterStrategy"] == "FULL",
    )


def _next(states: States, state: Mapping[str, Any]) -> str:
    """Return the state after one, where nothing fails and no rule of a Choice asks for more."""
    if state["Type"] != "Choice":
        return str(state.get("Next", ""))
    default = str(state["Default"])
    # The default of the last one is the failure; its one rule is that all has gone well.
    payload = states[default].get("Parameters", {}).get("Payload", {})
    is_failure = payload.get("stage") == RECORD_FAILURE
    return str(state["Choices"][0]["Next"]) if is_failure else default


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the template says of how many jobs begin and run, by default."""

    maximum_running_jobs: int
    dispatcher_concurrency: int
    batch_size: int
    queued_minutes: int
    visibility_timeout_seconds: int
    retention_seconds: int
    max_receive_count: int
    default_project_quota: int
    memory_megabytes: int
    dispatcher_timeout_seconds: int


def read_parameters() -> Parameters:
    """Read the template."""
    written = template()
    defaults = {name: p.get("Default") for name, p in written["Parameters"].items()}
    of = {name: r.get("Properties", {}) for name, r in written["Resources"].items()}
    queue, dispatcher = of["JobsQueue"], of["DispatcherFunction"]
    return Parameters(
        maximum_running_jobs=defaults["MaximumRunningJobs"],
        dispatcher_concurrency=defaults["DispatcherMaximumConcurrency"],
        batch_size=dispatcher["Events"]["Jobs"]["Properties"]["BatchSize"],
        queued_minutes=defaults["QueuedMinutes"],
        visibility_timeout_seconds=queue["VisibilityTimeout"],
        retention_seconds=queue["MessageRetentionPeriod"],
        max_receive_count=queue["RedrivePolicy"]["maxReceiveCount"],
        default_project_quota=defaults["DefaultProjectQuota"],
        memory_megabytes=written["Globals"]["Function"]["MemorySize"],
        dispatcher_timeout_seconds=dispatcher["Timeout"],
    )


def resource_counts() -> Mapping[str, int]:
    """Return how many resources of each type the template has."""
    found: Sequence[str] = [r["Type"] for r in template()["Resources"].values()]
    return {kind: found.count(kind) for kind in sorted(set(found))}
