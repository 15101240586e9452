"""The second act goes on: a project is removed with a snapshot, and its id provisioned again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Any

from provisioner import api
from psycopg import sql

from provision_cli.demo.inventory import OTHER_BUCKET, left_of, look_up
from provision_cli.demo.scene import TABLE, Scene, claim_keys, connected, read_login
from provision_cli.local.postgresql_server import package_programs
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
    archive = _remove(scene, project_id, keys)
    database = _provision_again(scene, project_id, keys)
    scene.heading("The snapshot brings the row back, into the new database")
    _restore(scene, archive, database)


def _remove(scene: Scene, project_id: str, keys: Sequence[str]) -> bytes:
    """Remove the project; return the archive that is left of its database."""
    scene.heading(f"Project {project_id} is deprovisioned, with a last snapshot of its database")
    result = scene.complete(
        api.JobType.DEPROVISION_PROJECT, {"project_id": project_id, "confirm": project_id}
    )
    archive = _show_snapshot(scene, result["snapshot"])
    left = look_up(scene, project_id)
    if left_of(left):
        raise CommandError(f"of {project_id} there is left: {', '.join(left_of(left))}.")
    _refuse_verifying(project_id, keys)
    kinds = ", ".join(kind for kind in left if kind != OTHER_BUCKET)
    scene.line(f"none left: {kinds}; its API keys verify no more")
    return archive


def _show_snapshot(scene: Scene, snapshot: dict[str, Any]) -> bytes:
    archive: bytes = (
        scene.running.client("s3")
        .get_object(Bucket=snapshot["bucket"], Key=snapshot["key"])["Body"]
        .read()
    )
    scene.line(f"s3://{snapshot['bucket']}/{snapshot['key']}  {len(archive):,} bytes")
    contents = _pg_restore(archive, "--list").splitlines()
    entries = [line for line in contents if line and not line.startswith(";")]
    if not any(f" TABLE DATA app {TABLE} " in entry for entry in entries):
        raise CommandError(f"the snapshot does not hold the data of {TABLE}.")
    scene.line(f"pg_restore --list: {len(entries)} entries, the data of {TABLE} among them")
    return archive


def _refuse_verifying(project_id: str, keys: Sequence[str]) -> None:
    if any(api.verify_api_key(key) is not None for key in keys):
        raise CommandError(f"an API key of {project_id} still verifies.")


def _provision_again(scene: Scene, project_id: str, keys: Sequence[str]) -> dict[str, Any]:
    """Provision the project, and return what the result says of its database."""
    scene.heading("The same id is provisioned again, from nothing")
    result = scene.complete(
        api.JobType.PROVISION_PROJECT, {"project_id": project_id, "region": scene.running.region}
    )
    database: dict[str, Any] = result["database"]
    login = read_login(scene.running, database["secret_arn"])
    with connected(login) as connection:
        row = connection.execute("SELECT to_regclass(%s)", (f"{login.schema}.{TABLE}",)).fetchone()
    if row != (None,):
        raise CommandError(f"the new database of {project_id} holds the old one's table.")
    scene.line(f"its database is a new one, with no table {TABLE} in it")
    claim_keys(scene, project_id)
    _refuse_verifying(project_id, keys)
    return database


def _restore(scene: Scene, archive: bytes, database: dict[str, Any]) -> None:
    login = read_login(scene.running, database["secret_arn"])
    _pg_restore(
        archive,
        *("--no-owner", "--no-privileges", "--exit-on-error"),
        *(f"--schema={login.schema}", f"--table={TABLE}"),
        # Without the password: a command line is everyone's to see.
        f"--dbname={database['connection_string']}",
        password=login.password,
    )
    with connected(login) as connection:
        row = connection.execute(
            sql.SQL("SELECT text FROM {}").format(sql.Identifier(login.schema, TABLE))
        ).fetchone()
    if row is None:
        raise CommandError(f"the snapshot has lost the row of {TABLE}.")
    scene.line(f"pg_restore put {TABLE} there; its row reads: {row[0]!r}")


def _pg_restore(archive: bytes, *options: str, password: str = "") -> str:
    """Run pg_restore on an archive; returns what it prints.

    Raises:
        CommandError: it failed.
    """
    ended = subprocess.run(  # noqa: S603 - the package's own program  # nosec B603
        [package_programs() / "pg_restore", *options],
        input=archive,
        env={"PATH": os.defpath, "LC_ALL": "C", "PGPASSWORD": password},
        capture_output=True,
        check=False,
    )
    if ended.returncode != 0:
        # Its last line; it never repeats the password.
        said = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        reason = said.removeprefix("pg_restore: error: ")
        raise CommandError(f"pg_restore cannot restore the snapshot: {reason}.")
    return ended.stdout.decode()
