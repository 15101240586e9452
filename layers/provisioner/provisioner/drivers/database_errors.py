"""What the drivers of database technologies make of the errors of their client libraries, alike."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provisioner.errors import ErrorType, ProvisioningError, failure

#: Tries of a step that meets another session's work, and the longest wait before the second, in
#: seconds; it doubles with each: 1.6 s at most in all.
_CONTENTION_TRIES = 6
_CONTENTION_WAIT = 0.05

#: Characters of the server's own words that are kept.
CAUSE_LENGTH = 300

#: Other work in the database ended this one at once: nobody has waited for long.
IN_THE_WAY = "Other work in the database was in the way, so we could not {doing}."

_REFUSED = "The database server refused to {doing}."
_SENTENCES = {
    ErrorType.NETWORK_ERROR: "The database server did not serve us, so we could not {doing}.",
    ErrorType.TIMEOUT: "It took too long to {doing}.",
    ErrorType.INSUFFICIENT_PERMISSIONS: "The database server does not let us {doing}.",
    ErrorType.QUOTA_EXCEEDED: "The database server has no room left to {doing}.",
    ErrorType.UNKNOWN_ERROR: "The database server gave an unknown error: it did not {doing}.",
}
_SENTENCES_OF_RESTORE = {
    ErrorType.NETWORK_ERROR: "The database server did not serve us",
    ErrorType.TIMEOUT: "Something in the database stayed locked for too long",
    ErrorType.QUOTA_EXCEEDED: "The database server has no room left",
    ErrorType.INSUFFICIENT_PERMISSIONS: "The login may not make what the snapshot holds",
}

#: Objects that the refusal of a database names.
_NAMED_OBJECTS = 3


def database_failure(
    error_type: ErrorType, doing: str, cause: str, sentence: str | None = None
) -> ProvisioningError:
    """Return an error that a server, or the way to it, is the cause of.

    Args:
        error_type: its type.
        doing: what was tried, for the sentence that people read, such as "create the database".
        cause: for operators; at most 300 characters of it are kept.
        sentence: says it with `{doing}` in it; the sentence of the type when left out.
    """
    sentence = sentence or _SENTENCES.get(error_type, _REFUSED)
    return failure(error_type, sentence.format(doing=doing), cause[:CAUSE_LENGTH])


def refuse_contents(database: str, found: Sequence[str]) -> None:
    """Refuse to restore a snapshot into a database that holds something.

    Args:
        database: its name.
        found: what it holds, such as "table note".

    Raises:
        DATABASE_CHANGE_FAILED: it holds something.
    """
    if found:
        more = len(found) - _NAMED_OBJECTS
        raise failure(
            ErrorType.DATABASE_CHANGE_FAILED,
            f"The database {database} is not empty: it holds {', '.join(found[:_NAMED_OBJECTS])}"
            f"{f' and {more} more' if more > 0 else ''}; empty it, or restore into another.",
        )


def snapshot_refused(error_type: ErrorType, cause: str) -> ProvisioningError:
    """Return the error of a server that does not take a snapshot, by its type."""
    sentence = _SENTENCES_OF_RESTORE.get(error_type, "The database refused the snapshot")
    return failure(error_type, f"{sentence}, so nothing of it is restored.", cause[:CAUSE_LENGTH])


@dataclass(frozen=True, slots=True)
class ClientLibrary[Error: Exception]:
    """A technology's client library, by its errors."""

    #: The base of all that it raises.
    error: type[Error]
    #: Turns an error into one of the table; see there. The result does not refer to the error,
    #: which leads to the password: raise it outside the except clause for the same reason.
    translate: Callable[[Error, ErrorType, str], ProvisioningError]
    #: Whether the same step, made again at once, is likely to succeed.
    is_contention: Callable[[Error], bool]
    #: Whether a login failed because of its password.
    is_wrong_password: Callable[[Error], bool]
    #: Whether a login failed because it has no connection left, and its password is right.
    is_connection_limit: Callable[[Error], bool]

    def run_step[Result](self, step: Callable[[], Result], final: ErrorType, doing: str) -> Result:
        """Run a step, again after contention; raise the library's errors as errors of the table.

        Args:
            step: what is run; it can be run twice.
            final: the stage's own type, of causes that stay, such as DATABASE_CREATION_FAILED.
            doing: what is tried, as of `database_failure`.
        """
        for attempt in range(_CONTENTION_TRIES):
            if attempt > 0:
                longest = _CONTENTION_WAIT * 2 ** (attempt - 1)
                time.sleep(random.uniform(0, longest))  # noqa: S311  # keeps two runs apart, no more  # nosec B311
            try:
                return step()
            except self.error as error:
                known = self.translate(error, final, doing)
                if not self.is_contention(error):
                    break
        # Outside the except clause, so that the library's exception is not the context of this one.
        raise known
