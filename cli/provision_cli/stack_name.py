"""Names that a stack cannot have: looked at before `make deploy` builds and deploys anything.

No rule of the template can: CloudFormation's rules see parameters alone, and no length. Without
this a deployment would fail half-way, with tables that stay, or no cluster could be described.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import typer
from provisioner.provisioning.job_types import JOB_TYPES

_ROOT = Path(__file__).resolve().parents[2]

#: Characters of the name of a state machine, which is `<stack>-<job type>`; no other name that the
#: template derives from the stack's leaves it less room. Source: AWS Step Functions API Reference,
#: CreateStateMachine.
_STATE_MACHINE_CHARACTERS = 80

#: Source: AWS CloudFormation API Reference, CreateStack.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")

#: What a stack's name must not begin with, in lower case, and what could not be made then.
_RESERVED = {
    # Clusters are described below `/<stack>`. Source: AWS Systems Manager API Reference,
    # PutParameter.
    **dict.fromkeys(("aws", "ssm"), "the parameters of its clusters"),
    # CloudFormation draws the name of the bucket of snapshots from the stack's. Source: Amazon S3
    # User Guide, "General purpose bucket naming rules".
    **dict.fromkeys(("amzn-s3-demo-", "sthree-", "xn--"), "its bucket of snapshots"),
}


def longest_stack_name() -> int:
    """Return how many characters a stack's name may have, with the job types that there are."""
    return _STATE_MACHINE_CHARACTERS - len(f"-{_longest_job_type()}")


def _longest_job_type() -> str:
    return max(JOB_TYPES, key=len)


def find_problem(name: str) -> str | None:
    """Say in one sentence why a stack cannot have a name, and what to do; None where it can."""
    if _NAME.fullmatch(name) is None:
        return (
            f"stack_name: {name} is no name of a stack; give letters, digits and hyphens, the "
            "first a letter."
        )
    if len(name) > longest_stack_name():
        return (
            f"stack_name: {name} has {len(name)} characters, and its state machine "
            f"<stack>-{_longest_job_type()} would have more than {_STATE_MACHINE_CHARACTERS}; give "
            f"{longest_stack_name()} at most."
        )
    for beginning, what in _RESERVED.items():
        if name.lower().startswith(beginning):
            return (
                f"stack_name: {name} begins with {beginning}, which AWS keeps for itself, so that "
                f"{what} could not be made; choose another name."
            )
    return None


def configured_name(samconfig: dict[str, Any], environment: str) -> str:
    """Return the name that `sam deploy --config-env` gives a stack; empty where none stands there.

    What stands for a command comes before what stands for all of them. Source: AWS SAM Developer
    Guide, "AWS SAM CLI configuration file".
    """
    tables = samconfig.get(environment, {})
    commands = (tables.get(of, {}).get("parameters", {}) for of in ("deploy", "global"))
    return next((str(c["stack_name"]) for c in commands if "stack_name" in c), "")


def main(environment: str, samconfig: Path = _ROOT / "samconfig.toml") -> int:
    """Look at the name of the stack that `make deploy` deploys.

    Args:
        environment: of samconfig.toml.
        samconfig: that file.
    """
    name = configured_name(tomllib.loads(samconfig.read_text(encoding="utf-8")), environment)
    problem = find_problem(name)
    if problem is not None:
        typer.echo(f"{samconfig.name}: {environment}: {problem}", err=True)
    return 0 if problem is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
