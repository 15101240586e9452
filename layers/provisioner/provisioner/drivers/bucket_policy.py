"""What a bucket's policy refuses to the platform.

Only an explicit Deny matters: the platform's own role has all other rights. Who the platform is and
what its requests look like is not known to the last detail, so a statement that may be meant for it
counts as one that is.

Source: IAM User Guide, "Policy evaluation logic", "IAM JSON policy elements".
"""

import fnmatch
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from provisioner.drivers.obstacles import quote

#: Conditions that no request of ours meets: it goes over TLS, of version 1.2 at least.
_NEVER_MET = {
    ("bool", "aws:securetransport"): frozenset({"false"}),
    ("numericlessthan", "s3:tlsversion"): frozenset({"1", "1.0", "1.1", "1.2"}),
}

#: Principals that are services or someone signed in elsewhere, and never a role of ours.
_NEVER_US = frozenset({"Service", "Federated"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """An action that a removal takes."""

    action: str
    #: The ARNs that it is done to.
    resources: Sequence[str]
    #: What the ARNs of further resources begin with that are not listed; None where all are.
    others: str | None = None


def find_denials(policy: str, wanted: Sequence[Wanted]) -> Iterator[tuple[str, str]]:
    """Yield which statements of a policy, by Sid or place, may deny which of the actions.

    Args:
        policy: the policy as S3 returns it.
        wanted: what the platform is going to do.
    """
    statements = _as_list(json.loads(policy).get("Statement", []))
    for number, statement in enumerate(statements, 1):
        if not _may_be_meant_for_us(statement):
            continue
        name = quote(statement["Sid"]) if statement.get("Sid") else f"number {number}"
        for one in wanted:
            if _names(statement, "Action", one.action.lower()) and _covers(statement, one):
                yield name, one.action


def _may_be_meant_for_us(statement: dict[str, Any]) -> bool:
    if statement.get("Effect") != "Deny":
        return False
    principal = statement.get("Principal", "*")
    if isinstance(principal, dict) and principal.keys() <= _NEVER_US:
        return False
    return not any(
        {str(value).lower() for value in _as_list(values)}
        <= _NEVER_MET.get((operator.lower().removesuffix("ifexists"), key.lower()), frozenset())
        for operator, keys in statement.get("Condition", {}).items()
        for key, values in keys.items()
    )


def _names(statement: dict[str, Any], element: str, name: str) -> bool:
    """Whether an element of a statement names something, or its opposite leaves it out."""
    if element in statement:
        return any(_pattern(text).match(name) for text in _texts(statement, element))
    return not any(_pattern(text).match(name) for text in _texts(statement, f"Not{element}"))


def _covers(statement: dict[str, Any], wanted: Wanted) -> bool:
    if any(_names(statement, "Resource", resource) for resource in wanted.resources):
        return True
    if wanted.others is None:
        return False
    if "Resource" not in statement:
        return True
    return any(
        literal.startswith(wanted.others) or wanted.others.startswith(literal)
        for text in _texts(statement, "Resource")
        for literal in (re.split(r"[*?]", text, maxsplit=1)[0],)
    )


def _texts(statement: dict[str, Any], element: str) -> Iterator[str]:
    for text in _as_list(statement.get(element, [])):
        # What a variable of a policy stands for is not known here: anything.
        plain = re.sub(r"\$\{[^}]*\}", "*", str(text))
        yield plain.lower() if element.endswith("Action") else plain


@cache
def _pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern of a policy: it has `*` and `?`, and no sets of characters."""
    return re.compile(fnmatch.translate(text.replace("[", "[[]")))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
