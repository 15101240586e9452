"""Settings that are no longer what we set: which they are, and the update that puts them right.

Only what we set is compared. All else in a resource is its owner's, and stays as it is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from botocore.client import BaseClient


@dataclass(frozen=True, slots=True)
class Drift:
    """One thing that is not as it must be. It holds no value: one could be a secret."""

    #: Such as `user pool eu-central-1_Ab12`.
    resource: str
    #: What of it, by the name that it has there: `Policies`, `CONNECTION LIMIT`.
    what: str


@dataclass(frozen=True, slots=True)
class Remaining(Drift):
    """One thing that is not as it must be, and that the platform cannot put right."""

    #: Why not, and what to do, in one sentence.
    why: str


@dataclass(frozen=True, slots=True)
class Repairs:
    """What a repair has come to."""

    #: What was put right, and found right after that.
    repaired: tuple[Drift, ...] = ()
    remaining: tuple[Remaining, ...] = ()
    #: What answered, in one sentence.
    checked: str = ""

    @classmethod
    def of(
        cls,
        before: Iterable[Drift],
        after: Mapping[Drift, str],
        checked: str,
        also: Iterable[Remaining] = (),
    ) -> Self:
        """Tell what a repair has come to by what was not as it must be before and after it.

        Args:
            before: what was not; of that, what now is was put right.
            after: what still is not, each with why not, and what to do.
            checked: what answered, in one sentence.
            also: what else cannot be put right.
        """
        remaining = (Remaining(it.resource, it.what, why) for it, why in after.items())
        return cls(tuple(it for it in before if it not in after), (*remaining, *also), checked)


#: Why something remains that a service was asked to put right, and took, and tells of as it was.
NOT_TOLD_YET = "The service took the change and does not tell of it yet; send the job again."

#: What of a thing that was missing, and that nothing is lost with.
MADE_AGAIN = "was not there and was made again"


def drifts_of(resource: str, wrong: Iterable[str]) -> list[Drift]:
    """Return the drift of one resource, by what is not as it must be."""
    return [Drift(resource, what) for what in wrong]


def find_drift(found: Mapping[str, Any], wanted: Mapping[str, Any], *, untold: bool) -> list[str]:
    """Name the members that are not as they are wanted; lists have no order.

    Args:
        found: what the service tells of the resource.
        wanted: what we set.
        untold: whether what the service does not tell of has drifted. It has where an update
            follows, since it may never have been set. It has not in a check after that: a service
            (or an emulator) that took the update and tells nothing would fail it for ever.
    """
    return [name for name, value in wanted.items() if not _holds(found.get(name), value, untold)]


def build_update(
    client: BaseClient, operation: str, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the parameters of an update that changes what has drifted and nothing else.

    An update resets what it does not name: so all that is set and that the operation takes is
    passed on, with what is wanted put over it. Empty members are left out: they say the same as
    missing ones, and some are refused.
    """
    takes = client.meta.service_model.operation_model(operation).input_shape
    passed = {
        name: found[name]
        for name in takes.members  # type: ignore[union-attr]  # an update takes something
        if found.get(name) not in (None, "", [], {})
    }
    return overlay(passed, wanted)


def _holds(found: Any, wanted: Any, untold: bool) -> bool:  # noqa: FBT001  # as in `find_drift`
    if found is None:
        return not untold
    match wanted:
        case dict():
            return all(_holds(found.get(name), value, untold) for name, value in wanted.items())
        case list():
            return len(found) == len(wanted) and all(
                any(_holds(entry, value, untold) for entry in found) for value in wanted
            )
        case _:
            return bool(found == wanted)


def overlay(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Put members over those of the same name, at every depth; all others stay."""
    return {
        **found,
        **{
            name: overlay(found.get(name, {}), value) if isinstance(value, dict) else value
            for name, value in wanted.items()
        },
    }
