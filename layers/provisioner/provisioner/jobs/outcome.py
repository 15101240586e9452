"""What a stage says: that it has ended well, that the job has with it, or that it waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from provisioner.drivers.dynamodb import Write


@dataclass(frozen=True, slots=True)
class Completion:
    """Says that the job ends well with this stage."""

    #: As JSON, it is what the job type's `result_model` says; else the job fails.
    result: Mapping[str, Any]
    #: Writes of the same transaction.
    also: Sequence[Write] = ()
    #: Whether they only release what the job has: where they are refused, it has that no more, and
    #: ends without them.
    only_releases: bool = False


@dataclass(frozen=True, slots=True)
class StageOutcome:
    """How a stage ended well."""

    #: What the stage made, without secrets.
    output: Mapping[str, Any] = field(default_factory=dict)
    #: What answered, in one sentence.
    check: str = ""
    #: Whether the payload does not ask for the stage.
    skipped: bool = False
    #: Given by the last stage, which ends the job; without it the job's result is its output.
    completion: Completion | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """How a stage says that it has to wait: it is run again in a minute, as the same attempt.

    Only a stage whose definition has `waits_seconds` may; so long it may wait in all.
    """

    #: What for, in one sentence without secrets. It is stored when it changes.
    waiting_for: str
