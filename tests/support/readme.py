"""README.md as a person who types it all runs it: its commands, and which cannot be run here."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from support.pages import Page
from support.project import ROOT

#: Commands that are not run, with the reason; every other one is. A test says what stands for them.
NOT_RUN = {
    "make test": "it is what runs this; `.ci/run` calls it as it stands",
    "curl --output layers/postgresql/certificates/rds.pem "
    "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem": (
        "it needs the internet; tests build a layer with certificates of their own"
    ),
}

#: What a block of each language is run by; one that is none of these is no command.
LANGUAGES = {"sh", "python", "text", "mermaid"}


def blocks(language: str) -> list[str]:
    """Return the blocks of the README in a language, in order."""
    return [fence.text for fence in readme().fences if fence.language == language]


def readme() -> Page:
    """Return the page."""
    path = ROOT / "README.md"
    return Page(path, path.read_text())


def commands(block: str) -> Iterator[str]:
    """Yield the commands of a block of shell, each as it stands, with the lines that it goes on in.

    Raises:
        ValueError: the last one does not end.
    """
    command = ""
    for line in block.splitlines(keepends=True):
        command += line
        if not line.rstrip("\n").endswith("\\") and _is_whole(command):
            if plain(command):
                yield command
            command = ""
    if command:
        raise ValueError(f"does not end: {command}")


def plain(command: str) -> str:
    """Return a command on one line, without its comment."""
    return shlex.join(shlex.split(command.replace("\\\n", " "), comments=True))


def script() -> str:
    """Return what types all of the README, in one shell; it ends where a command fails."""
    lines = ["set -eo pipefail"]
    for fence in readme().fences:
        if fence.language == "sh":
            for command in commands(fence.text):
                if plain(command) not in NOT_RUN:
                    lines += [
                        f"echo {shlex.quote(f'+ README.md:{fence.line}: {command}')}",
                        command,
                    ]
        elif fence.language == "python":
            # Twice: whoever runs a script again means the same.
            lines += [_NAME_THE_STACK, *[_run_python(fence.text)] * 2]
    return "\n".join(lines) + "\n"


def _run_python(text: str) -> str:
    return f"echo '+ Python'\n.venv/bin/python -W error - <<'END_OF_PYTHON'\n{text}END_OF_PYTHON"


#: The README's Python names a deployed stack: here one of that name has the local one's outputs.
_NAME_THE_STACK = """.venv/bin/python - <<'END_OF_PYTHON'
import json
import boto3
from provision_cli.local.stack import STACK_NAME

stacks = boto3.client("cloudformation")
outputs = stacks.describe_stacks(StackName=STACK_NAME)["Stacks"][0]["Outputs"]
stacks.create_stack(
    StackName="project-provisioner",
    TemplateBody=json.dumps(
        {
            "Resources": {"Queue": {"Type": "AWS::SQS::Queue"}},
            "Outputs": {o["OutputKey"]: {"Value": o["OutputValue"]} for o in outputs},
        }
    ),
)
END_OF_PYTHON"""


def _is_whole(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True
