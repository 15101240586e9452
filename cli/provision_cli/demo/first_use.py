"""The first act: a project, from a raw message to a row in its database."""

from __future__ import annotations

import json

from psycopg import sql

from provision_cli import display
from provision_cli.demo.scene import TABLE, Scene, claim_keys, connect
from provision_cli.sentences import CommandError

#: Seconds in which the dispatcher has taken the message.
DISPATCH_SECONDS = 60.0


def show(scene: Scene, project_id: str) -> list[str]:
    """Provision a project, use what it got, and return its API keys.

    Raises:
        CommandError: a step did not do what it shows.
    """
    running, console = scene.running, scene.console
    scene.heading(f"Project {project_id} is created; a plain JSON message asks for the rest")
    body = {
        "job_type": "provision_project",
        "payload": {"project_id": project_id, "region": running.region},
    }
    scene.line(json.dumps(body))
    sent = running.client("sqs").send_message(
        QueueUrl=running.outputs["QueueUrl"], MessageBody=json.dumps(body)
    )
    # A message that names no job id gives the job its own.
    job_id = str(sent["MessageId"])

    scene.heading(f"Job {job_id}")
    job = display.watch(console, job_id, appears_within=DISPATCH_SECONDS)
    scene.heading("What the project has now")
    display.show_outcome(console, job)
    result = job.result or {}

    scene.heading("The database takes the login that its secret holds")
    use_database(scene, result["database"]["secret_arn"])
    scene.heading("The API keys are handed over once")
    return claim_keys(scene, project_id)


def use_database(scene: Scene, secret_arn: str) -> None:
    """Log in as the project's owner does, make a table, write a row and read it.

    Raises:
        CommandError: the database does not do what it is asked.
    """
    with connect(scene.running, secret_arn) as (connection, schema):
        table = sql.Identifier(schema, TABLE)
        connection.execute(
            sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, text text NOT NULL)").format(table)
        )
        connection.execute(
            sql.SQL("INSERT INTO {} VALUES (1, 'Hello from the new project')").format(table)
        )
        row = connection.execute(
            sql.SQL("SELECT text, session_user, current_database() FROM {}").format(table)
        ).fetchone()
    if row is None:
        raise CommandError("the new database lost the row that was written to it.")
    scene.line(f"{row[1]} created a table in {row[2]}, wrote a row and read it: {row[0]!r}")
