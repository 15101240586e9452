"""The demonstration: one project, from a raw message to a row in its database."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from provisioner import api
from psycopg import sql
from rich.console import Console

from provision_cli import display
from provision_cli.local.stack import LocalStack, LocalStackSettings, RunningStack
from provision_cli.sentences import CommandError

#: Seconds in which the dispatcher has taken the message.
_DISPATCH_SECONDS = 60.0


def bring_up(console: Console) -> RunningStack:
    """Start the local stack, saying what is done and how long it takes."""
    began = time.monotonic()

    def report(step: str) -> None:
        display.line(console, f"{time.monotonic() - began:6.1f} s  {step}", style="dim")

    running = LocalStack(LocalStackSettings.from_environment()).up(report)
    report("The local stack is up")
    return running


def run(console: Console) -> None:
    """Run the demonstration.

    Raises:
        CommandError: a step did not do what it shows; the sentence says which.
    """
    running = bring_up(console)
    running.enter()
    api.connect_to_stack(running.stack_name, running.region)

    project_id = _new_project()
    _heading(console, f"Project {project_id} is created; a plain JSON message asks for the rest")
    body = {
        "job_type": "provision_project",
        "payload": {"project_id": project_id, "region": running.region},
    }
    display.line(console, json.dumps(body))
    sent = running.client("sqs").send_message(
        QueueUrl=running.outputs["QueueUrl"], MessageBody=json.dumps(body)
    )
    # A message that names no job id gives the job its own.
    job_id = str(sent["MessageId"])

    _heading(console, f"Job {job_id}")
    job = display.watch(console, job_id, appears_within=_DISPATCH_SECONDS)
    _heading(console, "What the project has now")
    display.show_outcome(console, job)
    result = job.result or {}

    _heading(console, "The database takes the login that its secret holds")
    _use_database(console, running, result["database"]["secret_arn"])
    _heading(console, "The API keys are handed over once")
    _use_api_keys(console, project_id)
    _heading(console, "What to try next")
    for command in _next_commands(project_id):
        display.line(console, f"  {command}")


def _heading(console: Console, text: str) -> None:
    display.line(console)
    display.line(console, text, style="bold")


def _new_project() -> str:
    """Create the first of demo-1, demo-2, … that does not exist yet."""
    number = 1
    while True:
        project_id = f"demo-{number}"
        try:
            return api.create_project(project_id).project_id
        except api.ProjectExistsError:
            number += 1


def _use_database(console: Console, running: RunningStack, secret_arn: str) -> None:
    value = running.client("secretsmanager").get_secret_value(SecretId=secret_arn)["SecretString"]
    login: dict[str, Any] = json.loads(value)
    try:
        with psycopg.connect(login["connection_string"], connect_timeout=10) as connection:
            table = sql.Identifier(login["schema"], "greetings")
            connection.execute(
                sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, text text NOT NULL)").format(table)
            )
            connection.execute(
                sql.SQL("INSERT INTO {} VALUES (1, 'Hello from the new project')").format(table)
            )
            row = connection.execute(
                sql.SQL("SELECT text, session_user, current_database() FROM {}").format(table)
            ).fetchone()
    except psycopg.Error as error:
        # The exception itself holds the connection, and so the password.
        raise CommandError(f"the new database does not answer: {str(error).strip()}.") from None
    if row is None:
        raise CommandError("the new database lost the row that was written to it.")
    display.line(
        console, f"{row[1]} created a table in {row[2]}, wrote a row and read it: {row[0]!r}"
    )


def _use_api_keys(console: Console, project_id: str) -> None:
    def hand_over(keys: Sequence[str]) -> None:
        for plaintext in keys:
            key = api.verify_api_key(plaintext)
            if key is None or key.project_id != project_id:
                raise CommandError(f"an API key of {project_id} does not verify.")
            display.line(console, f"{key.key_prefix}…  verifies, and belongs to {key.project_id}")

    api.claim_api_keys(project_id, hand_over)


def _next_commands(project_id: str) -> list[str]:
    program = _program()
    another = f"my-{project_id}"
    return [
        f"{program} project show {project_id}",
        f"{program} jobs",
        f"{program} project create {another}",
        f"{program} watch $({program} enqueue --project {another})",
        f"{program} keys claim {another}",
        f"{program} down",
    ]


def _program() -> str:
    """Return how the user starts this program from where they are."""
    own = Path(sys.executable).with_name("provision")
    found = shutil.which("provision")
    if found is not None and Path(found) == own:
        return "provision"
    return str(own.relative_to(Path.cwd())) if own.is_relative_to(Path.cwd()) else str(own)
