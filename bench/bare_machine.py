"""The floor of a state machine: the same states, whose functions return at once.

It is deployed beside the stack that it is compared with, by means of its own, and removed again.
"""

from __future__ import annotations

import io
import json
import re
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

_DEFINITION = Path(__file__).resolve().parents[1] / "state_machines" / "provision_project.asl.json"

#: What every function of it is: it says what a state machine asks a stage for.
_HANDLER = """
def handle(event, context):
    return {"ok": True, "stage": event["stage"], "status": "SUCCEEDED", "output": {}}
"""


@dataclass(frozen=True, slots=True)
class BareMachine:
    """A state machine whose stages do nothing."""

    arn: str
    client: Any

    def run(self) -> float:
        """Run an execution; return when it ended, as seconds of the epoch.

        Raises:
            RuntimeError: it did not succeed.
        """
        execution = self.client.start_execution(
            stateMachineArn=self.arn, name=str(uuid.uuid4()), input=json.dumps({"job": {}})
        )["executionArn"]
        while (found := self.client.describe_execution(executionArn=execution))["status"] == (
            "RUNNING"
        ):
            time.sleep(_LOOK_SECONDS)
        if found["status"] != "SUCCEEDED":
            raise RuntimeError(f"{execution}: {found['status']} {found.get('cause')}")
        ended: float = found["stopDate"].timestamp()
        return ended


#: Nobody asks for it on the local stack.
_ROLE = "arn:aws:iam::000000000000:role/bare"

#: Seconds between two looks at an execution; when it ended, Step Functions says.
_LOOK_SECONDS = 0.05


@contextmanager
def deploy(region: str) -> Iterator[BareMachine]:
    """Deploy the state machine and its functions where this process's AWS is; remove them."""
    session: Any = boto3.Session(region_name=region)
    functions, machines = session.client("lambda"), session.client("stepfunctions")
    prefix = f"bare-{uuid.uuid4().hex[:8]}"
    text = _DEFINITION.read_text(encoding="utf-8")
    names = {p: f"{prefix}-{p}" for p in set(re.findall(r"\$\{(\w+FunctionArn)\}", text))}
    made: list[str] = []
    try:
        for placeholder, name in names.items():
            arn = functions.create_function(
                FunctionName=name,
                Runtime="python3.13",
                Handler="handler.handle",
                Role=_ROLE,
                Code={"ZipFile": _archive()},
            )["FunctionArn"]
            made.append(name)
            text = text.replace(f"${{{placeholder}}}", arn)
        machine = machines.create_state_machine(name=prefix, definition=text, roleArn=_ROLE)
        try:
            yield BareMachine(machine["stateMachineArn"], machines)
        finally:
            machines.delete_state_machine(stateMachineArn=machine["stateMachineArn"])
    finally:
        for name in made:
            functions.delete_function(FunctionName=name)


def _archive() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as written:
        written.writestr("handler.py", _HANDLER)
    return archive.getvalue()
