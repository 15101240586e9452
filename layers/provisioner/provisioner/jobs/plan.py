"""The order of a job type's stages, and the steps that every state machine has besides them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: The step of every state machine that records a failed job; it is no stage.
RECORD_FAILURE = "FAILED"

#: The step of every clean-up that says for how long a stage may still be at work; it is no stage.
AWAIT_QUIET = "QUIET"

#: The step of every clean-up that records its end; it is no stage.
RECORD_CLEANUP = "CLEANED_UP"


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
