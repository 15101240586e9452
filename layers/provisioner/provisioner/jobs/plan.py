"""The order of a job type's stages, and the steps that every state machine has besides them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

#: The step of every state machine that records a failed job; it is no stage.
RECORD_FAILURE = "FAILED"

#: The step of every clean-up that says for how long a stage may still be at work; it is no stage.
AWAIT_QUIET = "QUIET"

#: The step of every clean-up that records its end; it is no stage.
RECORD_CLEANUP = "CLEANED_UP"

#: Seconds, by stage, after its start in which an attempt may still be at work.
type RunLimits = Mapping[str, int]

#: The same of a stage that has no limit of its own: AWS Lambda lets no function run for longer than
#: 900. Source: AWS Lambda Developer Guide, "Lambda quotas".
LONGEST_RUN_SECONDS = 910


def longest_run(stage: str, limits: RunLimits) -> timedelta:
    """Return for how long after its start an attempt of a stage may still be at work."""
    return timedelta(seconds=limits.get(stage, LONGEST_RUN_SECONDS))


@dataclass(frozen=True, slots=True)
class Plan:
    """The order of a job type's stages, as its state machine has it."""

    first: str
    #: What runs side by side once the first stage has ended; each branch in sequence.
    branches: Sequence[Sequence[str]]
    last: str
    #: The stages of the clean-up, in order.
    cleanup: Sequence[str] = ()
    #: Says by the first stage's output that the job has ended with it.
    ends_with_first: Callable[[Mapping[str, Any]], bool] = lambda _output: False
