"""How a removal is refused before it begins, and what a stage of it says that meets an obstacle."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from provisioner.drivers.obstacles import Obstacles
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.stage import JobInput

#: Obstacles that one message names; of the rest it says how many there are.
_MOST_NAMED = 20

#: What a stage ends with that may have met an obstacle. The others say themselves what it was.
_UNEXPLAINED = frozenset(
    {
        ErrorType.REMOVAL_FAILED,
        ErrorType.INSUFFICIENT_PERMISSIONS,
        ErrorType.TIMEOUT,
        ErrorType.UNKNOWN_ERROR,
    }
)


def refusal(job: JobInput, data: str, found: Obstacles) -> ProvisioningError | None:
    """Return the error that names at once all that stands in the way; None where nothing does.

    What stays makes it final; what can only pass is looked at again by the next attempt. What could
    not be looked at may stay, so it refuses too.

    Args:
        job: the job.
        data: the sentence on data that is not to be deleted; empty where there is none.
        found: what was found in the way.
    """
    clauses = [*([data.removesuffix(".")] if data else []), *_clauses(found)]
    if not clauses and not found.unseen:
        return None
    if data and len(clauses) == 1 and not found.unseen:
        return failure(ErrorType.DATA_NOT_EMPTY, data)
    sentences = ["This job has removed nothing."]
    if clauses:
        sentences.append(f"In the way: {_join(clauses)}.")
    if found.unseen:
        sentences.append(f"Not seen: {_join(found.unseen)}.")
    sentences.append(f"Then `provision retry {job.job_id}` runs the job again.")
    return failure(_type_of(data, found), " ".join(sentences))


def remove_or_explain[Result](
    job: JobInput,
    remove: Callable[[], Result],
    look: Callable[[], Obstacles],
    *,
    is_cleanup: bool,
) -> Result:
    """Remove something; where that fails, say what stands in the way.

    Args:
        job: the job.
        remove: removes it.
        look: says what stands in its way.
        is_cleanup: whether the job is a clean-up.

    Raises:
        REMOVAL_FAILED: something stands in the way that stays; the message names it.
        TIMEOUT: something stands in the way that can pass, likewise.
        ProvisioningError: what `remove` raises, where nothing is found in the way.
    """
    try:
        return remove()
    except ProvisioningError as error:
        met = error
    if met.type in _UNEXPLAINED:
        with suppress(ProvisioningError):
            found = look()
            clauses = _clauses(found)
            if clauses:
                again = f"`provision {'cleanup' if is_cleanup else 'retry'} {job.job_id}`"
                met = failure(
                    ErrorType.REMOVAL_FAILED if found.staying else ErrorType.TIMEOUT,
                    f"In the way of the removal: {_join(clauses)}. Then {again} goes on.",
                    met.cause,
                )
    raise met


def _clauses(found: Obstacles) -> list[str]:
    return [*found.staying, *found.snapshot, *found.passing]


def _type_of(data: str, found: Obstacles) -> ErrorType:
    if found.staying or (data and found.snapshot):
        return ErrorType.REMOVAL_FAILED
    if data:
        return ErrorType.DATA_NOT_EMPTY
    if found.snapshot:
        return ErrorType.SNAPSHOT_FAILED
    return ErrorType.INSUFFICIENT_PERMISSIONS if found.unseen else ErrorType.TIMEOUT


def _join(clauses: Sequence[str]) -> str:
    more = len(clauses) - _MOST_NAMED
    shown = [*clauses[:_MOST_NAMED], *([f"{more} more"] if more > 0 else [])]
    if len(shown) == 1:
        return shown[0]
    return "; ".join(f"({number}) {clause}" for number, clause in enumerate(shown, 1))
