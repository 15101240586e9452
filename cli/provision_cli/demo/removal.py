"""The second act goes on: a project is removed with a snapshot, and its id provisioned again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from provisioner import api
from psycopg import sql

from provision_cli import snapshots
from provision_cli.demo.inventory import OTHER_BUCKET, list_left, look_up
from provision_cli.demo.scene import TABLE, Scene, claim_keys, connect
from provision_cli.sentences import CommandError


def show(scene: Scene, project_id: str, keys: Sequence[str]) -> None:
    """Remove a project, provision its id again, and bring its row back from the snapshot.

    Args:
        scene: where.
        project_id: the project; its database holds `TABLE`.
        keys: its API keys.

    Raises:
        CommandError: a step did not do what it shows.
    """
    _remove(scene, project_id, keys)
    secret_arn = _provision_again(scene, project_id, keys)
    scene.heading(f"`provision snapshots restore {project_id}` brings the row back")
    _restore(scene, project_id, secret_arn)


def _remove(scene: Scene, project_id: str, keys: Sequence[str]) -> None:
    scene.heading(f"Project {project_id} is deprovisioned, with a last snapshot of its database")
    result = scene.complete(
        "deprovision_project", {"project_id": project_id, "confirm": project_id}
    )
    _show_snapshot(scene, project_id, result["snapshot"])
    left = look_up(scene, project_id)
    if list_left(left):
        raise CommandError(f"of {project_id} there is left: {', '.join(list_left(left))}.")
    _refuse_verifying(project_id, keys)
    kinds = ", ".join(kind for kind in left if kind != OTHER_BUCKET)
    scene.line(f"none left: {kinds}; its API keys verify no more")


def _show_snapshot(scene: Scene, project_id: str, result: dict[str, Any]) -> None:
    found = [one for one in api.list_snapshots(project_id) if isinstance(one, api.Snapshot)]
    if not found or found[0].key != result["key"]:
        raise CommandError(f"the snapshot of {project_id} is not listed.")
    scene.line(
        f"snapshot {found[0].key}  {found[0].size_bytes:,} bytes, "
        f"of a server of version {found[0].server_version}"
    )


def _refuse_verifying(project_id: str, keys: Sequence[str]) -> None:
    if any(api.verify_api_key(key) is not None for key in keys):
        raise CommandError(f"an API key of {project_id} still verifies.")


def _provision_again(scene: Scene, project_id: str, keys: Sequence[str]) -> str:
    """Provision the project, and return the ARN of the secret with its database's login."""
    scene.heading("The same id is provisioned again, from nothing")
    result = scene.complete(
        "provision_project", {"project_id": project_id, "region": scene.running.region}
    )
    secret_arn = str(result["database"]["secret_arn"])
    with connect(scene.running, secret_arn) as (connection, schema):
        row = connection.execute("SELECT to_regclass(%s)", (f"{schema}.{TABLE}",)).fetchone()
    if row != (None,):
        raise CommandError(f"the new database of {project_id} holds the old one's table.")
    scene.line(f"its database is a new one, with no table {TABLE} in it")
    claim_keys(scene, project_id)
    _refuse_verifying(project_id, keys)
    return secret_arn


def _restore(scene: Scene, project_id: str, secret_arn: str) -> None:
    snapshots.show_restored(scene.console, api.restore_snapshot(project_id))
    with connect(scene.running, secret_arn) as (connection, schema):
        row = connection.execute(
            sql.SQL("SELECT text FROM {}").format(sql.Identifier(schema, TABLE))
        ).fetchone()
    if row is None:
        raise CommandError(f"the snapshot has lost the row of {TABLE}.")
    scene.line(f"the row of {TABLE} reads: {row[0]!r}")
