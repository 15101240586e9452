"""The policies of docs/iam, and what AWS's reference says of their actions."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from provision_cli.stack_name import longest_stack_name
from support.project import ROOT

POLICIES = ROOT / "docs" / "iam"

#: The words of a policy that stand for a deployment's own, each with one of the longest.
PLACEHOLDERS = {
    "ACCOUNT": "1" * 12,
    "BOUNDARY": "arn:aws:iam::111122223333:policy/" + "b" * 128,
    "KMS_KEY": "arn:aws:kms:ap-southeast-1:111122223333:key/mrk-" + "k" * 32,
    "PREFIX": "p" * 10,
    "REGION": "ap-southeast-1",
    "SNAPSHOTS_BUCKET": "s" * 63,
    "STACK": "s" * longest_stack_name(),
}

#: Characters that a managed policy may have, white space not counted. Source: AWS IAM User Guide,
#: "IAM and AWS STS quotas".
MANAGED_POLICY_CHARACTERS = 6144

#: What AWS's reference leaves out: the transforms that a change set uses. Source: AWS
#: CloudFormation User Guide, "Control CloudFormation access with IAM".
_TRANSFORM = re.compile(r"arn:aws:cloudformation:[\w-]+:aws:transform/[\w-]+")


def policy(name: str) -> dict[str, Any]:
    """Return a policy of docs/iam."""
    read: dict[str, Any] = json.loads((POLICIES / f"{name}.json").read_text())
    return read


def allowed(document: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the actions that a policy allows, each with a resource."""
    return _named(document, {"Allow"})


def _named(document: dict[str, Any], effects: set[str]) -> set[tuple[str, str]]:
    return {
        (action, resource)
        for statement in document["Statement"]
        if statement["Effect"] in effects
        for action in statement["Action"]
        for resource in statement["Resource"]
    }


def size(document: dict[str, Any]) -> int:
    """Return how many characters a policy has at most, as AWS counts them."""
    return len(re.sub(r"\s", "", _filled(json.dumps(document))))


def _filled(text: str) -> str:
    for placeholder, value in PLACEHOLDERS.items():
        text = re.sub(rf"(?<![A-Z_]){placeholder}(?![A-Z_])", value, text)
    return text


def unknown(document: dict[str, Any]) -> list[str]:
    """Return the actions that AWS has not, or not on the resource that stands beside them.

    Source: the Service Authorization Reference, of which cfn-lint has a copy.
    """
    return sorted(
        f"{action} on {resource}"
        for action, resource in _named(document, {"Allow", "Deny"})
        if not _is_known(action, _filled(resource))
    )


def _is_known(action: str, resource: str) -> bool:
    service, name = action.lower().split(":")
    if service not in _reference() or name not in _reference()[service]["Actions"]:
        return False
    if action == "cloudformation:CreateChangeSet" and _TRANSFORM.fullmatch(resource):
        return True
    kinds = _reference()[service]["Actions"][name].get("Resources", [])
    formats = [
        arn
        for kind in kinds
        for arn in _reference()[service]["Resources"][kind.lower()]["ARNFormats"]
    ]
    # What has no resources has `*`.
    return any(re.fullmatch(_pattern(arn), resource) for arn in formats) or (
        not formats and resource == "*"
    )


def _pattern(arn_format: str) -> str:
    """Return the pattern of the ARNs of a kind, as a policy writes them."""
    escaped = re.escape(arn_format).replace(re.escape(".*"), ".*")
    return re.sub(r"\\\$\\\{\w+\\\}", "[^:]*", escaped)


@cache
def _reference() -> dict[str, Any]:
    text = files("cfnlint.data.AdditionalSpecs").joinpath("Policies.json").read_text()
    reference: dict[str, Any] = json.loads(text)
    return reference
