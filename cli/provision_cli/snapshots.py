"""`provision snapshots`: what is left of databases that were removed, and how it comes back."""

from __future__ import annotations

import signal
from typing import Annotated

import typer
from provisioner import api
from rich.console import Console

from provision_cli import display
from provision_cli.sentences import CommandError
from provision_cli.targets import Target

app = typer.Typer(help="List and restore the final snapshots of databases.")


@app.command("list")
def list_snapshots(context: typer.Context, project_id: str) -> None:
    """List a project's snapshots, newest first: dumps, and those that Amazon RDS has."""
    Target.of(context).connect()
    rows = display.snapshot_rows(api.list_snapshots(project_id))
    headings = ["snapshot", "kind", "taken (UTC)", "size", "server", "kept until", "job"]
    nothing = f"There are no snapshots of project {project_id}."
    display.show_table(Console(), headings, rows, nothing=nothing)


@app.command("restore")
def restore_snapshot(  # noqa: PLR0917 - Typer passes them by name
    context: typer.Context,
    project_id: str,
    snapshot: Annotated[
        str | None,
        typer.Option(help="Its name or job, or a beginning of it; the newest when left out."),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(
            help="Of a dump: the connection URL of an empty database, the password best in "
            "PGPASSWORD, of MySQL in MYSQL_PWD; the project's own when left out."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Of a snapshot of Amazon RDS: the instance class; the last one when left out."
        ),
    ] = None,
    storage_gb: Annotated[
        int | None,
        typer.Option(
            help="Of a snapshot of Amazon RDS: gibibytes; as before, or more, when left out."
        ),
    ] = None,
) -> None:
    """Restore a dump into an empty database, all or nothing; of a snapshot of RDS, enqueue a job.

    The job provisions the project, which is not ACTIVE, with an instance made of the snapshot.
    """
    # As Ctrl-C: what psql runs is cancelled, and nothing is left.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    Target.of(context).connect()
    # Into another database goes the newest dump, whatever else is newer.
    is_a_dump = into is not None and snapshot is None
    found = None if is_a_dump else api.find_snapshot(project_id, snapshot)
    if not isinstance(found, api.InstanceSnapshot):
        if size is not None or storage_gb is not None:
            raise CommandError(
                "--size, --storage-gb: go with a snapshot of Amazon RDS; leave them out."
            )
        display.show_restored(Console(), api.restore_snapshot(project_id, snapshot, into=into))
        return
    if into is not None:
        raise CommandError(
            f"--into: the snapshot {found.identifier} is one of Amazon RDS, which becomes an "
            "instance of the project's own; leave --into out, once the project is deprovisioned."
        )
    job = api.restore_instance(project_id, found.identifier, size=size, storage_gb=storage_gb)
    display.show_enqueued(job)
