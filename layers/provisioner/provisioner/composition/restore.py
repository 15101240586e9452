"""A restore's parts: the bucket of snapshots, a login, and what restores by it."""

import errno
import tempfile
from collections.abc import Callable
from dataclasses import asdict

from provisioner.composition import deployment
from provisioner.drivers.database_engine import DatabaseRestorer
from provisioner.drivers.mysql.restore import MysqlRestorer
from provisioner.drivers.postgresql.restore import PostgresqlRestorer
from provisioner.drivers.s3_download import download
from provisioner.drivers.secrets import find_claimed_secret
from provisioner.errors import ErrorType, failure
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.projects import Project, ProjectStatus
from provisioner.provisioning.snapshots import RestoredSnapshot, Snapshot
from provisioner.runtime import aws
from provisioner.runtime.platform import PlatformSettings

_RESTORERS: dict[Engine, Callable[[str], DatabaseRestorer]] = {
    Engine.POSTGRESQL: PostgresqlRestorer,
    Engine.MYSQL: MysqlRestorer,
}


def restore(settings: PlatformSettings, snapshot: Snapshot, url: str) -> RestoredSnapshot:
    """Restore a snapshot, as the login of a connection URL.

    The snapshot is kept in a file that has no name, so that it is gone however this ends.
    """
    names = deployment.naming(settings).names(snapshot.project_id)
    # What is no URL of MySQL's may be libpq's words and values.
    engine = Engine.MYSQL if url.startswith("mysql:") else Engine.POSTGRESQL
    if snapshot.engine not in {engine, ""}:
        raise failure(
            ErrorType.DATABASE_CHANGE_FAILED,
            f"The snapshot is of a database of {snapshot.engine}, and the one to restore into is "
            f"of {engine}; name one of {snapshot.engine} by its connection URL.",
        )
    restorer: DatabaseRestorer = _RESTORERS[engine](url)
    # Before anything is read: a refusal takes a second, and a snapshot may take long.
    restorer.check()
    with tempfile.TemporaryFile() as archive:
        try:
            download(
                aws.client("s3"),
                archive,
                bucket=settings.snapshots_bucket,
                key=snapshot.key,
                final=ErrorType.DATABASE_CHANGE_FAILED,
            )
            archive.flush()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise failure(
                ErrorType.DATABASE_CHANGE_FAILED,
                f"The snapshot has {snapshot.size_bytes:,} bytes, and the folder for temporary "
                "files has no room for them; name another by TMPDIR.",
            ) from None
        restored = restorer.restore(archive, names.tenants[engine])
    return RestoredSnapshot(**asdict(restored), snapshot=snapshot)


def own_url(settings: PlatformSettings, project: Project) -> str:
    """Return the connection URL of a project's database, with the login of its app role.

    Raises:
        DATABASE_CHANGE_FAILED: the project has no database that anyone may use.
        PROJECT_BUSY: a job works at it.
        ProvisioningError: as `translate_errors` says.
    """
    if project.status is not ProjectStatus.ACTIVE:
        raise failure(
            ErrorType.DATABASE_CHANGE_FAILED,
            f"project_id: {project.project_id} is {project.status}; provision it first, or name "
            "another database to restore into.",
        )
    if project.locked_by is not None:
        raise failure(
            ErrorType.PROJECT_BUSY,
            f"project_id: {project.project_id} is locked by job {project.locked_by}; "
            "wait until that job has ended.",
        )
    naming = deployment.naming(settings)
    secret = find_claimed_secret(
        aws.client("secretsmanager"),
        name=naming.names(project.project_id).database_secret,
        claim=naming.owner(project.project_id, job_id="").claim(only_this_job=False),
        final=ErrorType.DATABASE_CHANGE_FAILED,
    )
    if secret is None:
        raise failure(
            ErrorType.DATABASE_CHANGE_FAILED,
            f"project_id: the secret with the database login of {project.project_id} is not there.",
        )
    return str(secret.value["connection_string"])
