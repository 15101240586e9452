"""What every scene of the demonstration works with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from provisioner import api
from provisioner.provisioning.naming import Naming
from rich.console import Console

from provision_cli import display
from provision_cli.local.stack import RunningStack
from provision_cli.sentences import CommandError

#: The table that a project's owner makes in the new database.
TABLE = "greetings"

#: Seconds that a job may take, before the demonstration gives up.
_JOB_SECONDS = 300.0


@contextmanager
def connect(
    running: RunningStack, secret_arn: str
) -> Iterator[tuple[psycopg.Connection[tuple[Any, ...]], str]]:
    """Log in to a project's database; what is written is kept where nothing fails.

    Args:
        running: the local stack.
        secret_arn: the secret with the login.

    Yields:
        The connection, and the name of the project's schema.

    Raises:
        CommandError: the database does not do what it is asked.
    """
    text = running.client("secretsmanager").get_secret_value(SecretId=secret_arn)["SecretString"]
    login: dict[str, str] = json.loads(text)
    try:
        with psycopg.connect(login["connection_string"], connect_timeout=10) as connection:
            yield connection, login["schema"]
    except psycopg.Error as error:
        # The exception itself holds the connection, and so the password.
        reason = str(error).strip()
        raise CommandError(f"the project's database does not answer: {reason}.") from None


@dataclass(frozen=True, slots=True)
class Scene:
    """Where the demonstration takes place."""

    console: Console
    running: RunningStack
    naming: Naming

    def heading(self, text: str) -> None:
        """Print what is shown next."""
        display.line(self.console)
        display.line(self.console, text, style="bold")

    def line(self, text: str) -> None:
        """Print a line."""
        display.line(self.console, text)

    def complete(self, job_type: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Run a job to its end, print one line, and return its result.

        Raises:
            CommandError: the job did not complete.
        """
        job = api.enqueue_job(job_type, dict(payload))
        job = api.wait_for_job(job.job_id, _JOB_SECONDS)
        display.refuse_failed(job)
        self.line(f"job {job.job_id}  {job_type} {job.status}, {len(job.stages)} stages")
        return job.result or {}


def claim_keys(scene: Scene, project_id: str) -> list[str]:
    """Take over a project's API keys, show that each verifies, and return them.

    Raises:
        CommandError: one does not.
    """
    claimed: list[str] = []
    api.claim_api_keys(project_id, claimed.extend)
    for plaintext in claimed:
        key = api.verify_api_key(plaintext)
        if key is None or key.project_id != project_id:
            raise CommandError(f"an API key of {project_id} does not verify.")
        scene.line(f"{key.key_prefix}…  verifies, and belongs to {key.project_id}")
    return claimed
