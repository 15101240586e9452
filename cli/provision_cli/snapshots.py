"""`provision snapshots`: what is left of databases that were removed, and how it comes back."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from provisioner import api
from rich.console import Console

from provision_cli import display
from provision_cli.targets import Target

app = typer.Typer(help="List and restore the final snapshots of databases.")


@app.command("list")
def list_snapshots(context: typer.Context, project_id: str) -> None:
    """List a project's snapshots, newest first."""
    Target.of(context).connect()
    found = api.list_snapshots(project_id)
    console = Console()
    instance_snapshot = _instance_snapshot(project_id)
    if found:
        headings = ["snapshot", "taken (UTC)", "bytes", "server", "job"]
        display.show_table(console, headings, display.snapshot_rows(found))
    elif instance_snapshot is None:
        display.line(console, f"There are no snapshots of project {project_id}.")
    if instance_snapshot is not None:
        display.line(
            console,
            f"The last one is snapshot {instance_snapshot['identifier']} of Amazon RDS in "
            f"{instance_snapshot['region']}; RDS makes an instance of it "
            "(aws rds restore-db-instance-from-db-snapshot).",
        )


def _instance_snapshot(project_id: str) -> Mapping[str, Any] | None:
    """Return the last snapshot of the project's own instance, where that is its last snapshot."""
    try:
        snapshot = api.get_project(project_id).snapshot
    except api.ProjectNotFoundError:
        return None
    return snapshot if snapshot is not None and "identifier" in snapshot else None


@app.command("restore")
def restore_snapshot(
    context: typer.Context,
    project_id: str,
    snapshot: Annotated[
        str | None,
        typer.Option(help="Its name or job, or a beginning of it; the newest when left out."),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(
            help="The connection URL of an empty database, the password best in PGPASSWORD, of "
            "MySQL in MYSQL_PWD; the project's own when left out."
        ),
    ] = None,
) -> None:
    """Restore a snapshot into an empty database: all of it, or nothing."""
    # As Ctrl-C: what psql runs is cancelled, and nothing is left.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    Target.of(context).connect()
    show_restored(Console(), api.restore_snapshot(project_id, snapshot, into=into))


def show_restored(console: Console, restored: api.RestoredSnapshot) -> None:
    """Print what has been restored where, and what is left out."""
    display.line(
        console,
        f"snapshot {restored.snapshot.key} is restored into database {restored.database} "
        f"on {restored.host}:{restored.port}.",
    )
    for left_out in restored.left_out:
        display.line(console, f"left out: {left_out}")
