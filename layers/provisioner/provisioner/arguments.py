"""What the public functions are given: looked at before anything is stored, sent or asked.

One rule holds for all of them: what an argument cannot be, by its type or its bounds, raises
INVALID_PAYLOAD, whose sentence begins with the argument's name. Types are exact: `True` is no
number, and a UUID is no text. An id that is text, and no project's, job's or key's, is not found.
"""

import math
from enum import StrEnum

from provisioner.errors import ErrorType, ProvisioningError, failure

#: Characters of an argument that a sentence shows.
_SHOWN_LENGTH = 200


def check_text(name: str, value: object) -> str:
    """Refuse what is not text; return it, without what an enum of texts makes of it.

    Raises:
        INVALID_PAYLOAD: naming the argument.
    """
    if not isinstance(value, str):
        # The value itself may be long, or secret.
        raise _refusal(name, f"text (str), not {shown(type(value).__name__)}")
    return str.__str__(value)


def check_characters(name: str, value: object, *, longest: int | None = None) -> str:
    """Refuse what is not Unicode text of 1 to `longest` characters; see `check_text`."""
    text = check_text(name, value)
    if not text or len(text) > (longest or len(text)) or not _is_unicode(text):
        most = "one character or more" if longest is None else f"1 to {longest} characters"
        raise _refusal(name, f"Unicode text of {most}")
    return text


def check_whole_number(name: str, value: object, *, least: int, most: int) -> None:
    """Refuse what is not a whole number within bounds; see `check_text`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _refusal(name, f"{least} to {most}, a whole number (int)")


def check_one_of[Choice: StrEnum](name: str, value: object, choices: type[Choice]) -> Choice:
    """Refuse what is none of the texts of an enum, and return the one it is; see `check_text`."""
    if not isinstance(value, str) or value not in [str(choice) for choice in choices]:
        raise _refusal(name, f"one of {', '.join(choices)}")
    return choices(str.__str__(value))


def check_seconds(name: str, value: object) -> None:
    """Refuse what is not a finite number of seconds, 0 or more; see `check_text`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise _refusal(name, "a finite number of seconds, 0 or more")


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False; see `check_text`."""
    if not isinstance(value, bool):
        raise _refusal(name, "True or False")


def check_function(name: str, value: object) -> None:
    """Refuse what cannot be called; see `check_text`."""
    if not callable(value):
        raise _refusal(name, "a function")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refusal(name: str, wanted: str) -> ProvisioningError:
    return failure(ErrorType.INVALID_PAYLOAD, f"{name}: must be {wanted}.")


def shown(text: str) -> str:
    """Return a text as a sentence may show it: short, and without what a terminal would obey."""
    return "".join(
        character if character.isprintable() else "?" for character in text[:_SHOWN_LENGTH]
    )
