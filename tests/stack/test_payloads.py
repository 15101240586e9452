"""Every kind of payload on the deployed template, and payloads that it cannot have."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pymysql
import pytest
from provision_cli.local import mariadb_server
from provision_cli.local.stack import INSTANCE_SIZE, RunningStack
from provisioner import api
from provisioner.composition.deployment import naming
from provisioner.errors import ErrorType
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.naming import ResourceNames
from provisioner.runtime import platform
from support.remaining import deployment_on, left_in
from support.stack_jobs import described, finished, secret

#: What a refused login is to each driver.
REFUSED = (psycopg.OperationalError, pymysql.err.OperationalError)

NOTES = [(1, "kept"), (2, "grüße 🐟")]


def engines() -> list[Engine]:
    """Return the engines whose servers this machine has; in CI that is all."""
    has_mysql = os.environ.get("CI") == "true" or mariadb_server.find_program() is not None
    return [engine for engine in Engine if engine is not Engine.MYSQL or has_mysql]


@contextmanager
def logged_in(url: str) -> Iterator[Any]:
    """Log in as a client does that reads a connection URL, and yield a cursor."""
    parts = urlsplit(url)
    if parts.scheme == "postgresql":
        with psycopg.connect(url, connect_timeout=10, autocommit=True) as connection:
            yield connection.cursor()
        return
    # PyMySQL reads no URL; the local servers are described as without TLS.
    assert (parts.scheme, parse_qs(parts.query)) == ("mysql", {"ssl-mode": ["DISABLED"]})
    session = pymysql.connect(
        host=parts.hostname,
        port=parts.port or 0,
        user=parts.username,
        password=parts.password or "",
        database=parts.path.removeprefix("/"),
        ssl_disabled=True,
        connect_timeout=10,
        autocommit=True,
    )
    with session, session.cursor() as cursor:
        yield cursor


def notes(url: str) -> list[Any]:
    with logged_in(url) as cursor:
        cursor.execute("SELECT id, text FROM note ORDER BY id")
        return list(cursor.fetchall())


@dataclass(frozen=True)
class Life:
    """A project's life, from a payload that names no version to one that does, and its end.

    Each row of the table is provisioned, used, rotated, repaired and removed. The first of two
    leaves the snapshot that the second restores.
    """

    stack: RunningStack
    engine: Engine
    is_dedicated: bool

    @property
    def project_id(self) -> str:
        return f"{self.engine}-{'dedicated' if self.is_dedicated else 'shared'}"

    @property
    def names(self) -> ResourceNames:
        return naming(platform.settings_of(self.stack.outputs)).names(self.project_id)

    @property
    def bucket(self) -> str:
        settings = platform.settings_of(self.stack.outputs)
        return naming(settings).bucket(self.project_id, self.stack.region)

    def run(self) -> None:
        """Live it, and look at each step."""
        api.create_project(self.project_id)
        first, keys = self.provisioned()
        with logged_in(self.url(first)) as cursor:
            cursor.execute("CREATE TABLE note (id integer PRIMARY KEY, text varchar(20))")
            cursor.executemany("INSERT INTO note VALUES (%s, %s)", NOTES)
        self.rotate(first)
        self.repair(self.limit_lifted(first), *self.stopped())
        login = self.url(first)
        snapshot = self.job("deprovision_project", confirm=self.project_id)["snapshot"]
        assert api.get_project(self.project_id).status is api.ProjectStatus.DEPROVISIONED
        self.refuses(login)

        version = described(self.stack, f"{self.engine}/local-1")["version"]
        # An instance is made of its snapshot; a dump is restored into a database that is there.
        of = {"snapshot": snapshot["identifier"]} if self.is_dedicated else {}
        again, more_keys = self.provisioned(version=version, **of)
        assert not any(api.verify_api_key(key) for key in keys)
        if not self.is_dedicated:
            restored = api.restore_snapshot(self.project_id)
            assert (restored.snapshot.key, restored.left_out) == (snapshot["key"], ())
            assert restored.snapshot.size_bytes == snapshot["size_bytes"]
        assert notes(self.url(again)) == NOTES
        self.rotate(again)
        self.repair(self.bucket_opened(), *self.backups_ended())
        login = self.url(again)
        result = self.job("deprovision_project", confirm=self.project_id, final_snapshot=False)
        assert "snapshot" not in result
        self.refuses(login)
        assert not any(api.verify_api_key(key) for key in more_keys)

    def job(self, job_type: str, **payload: Any) -> Mapping[str, Any]:
        """Run a job and return its result."""
        job = finished(api.enqueue_job(job_type, {"project_id": self.project_id, **payload}).job_id)
        assert (job.status, job.error) == (api.JobStatus.COMPLETED, None)
        assert job.result is not None
        return job.result

    def provisioned(self, **database: str) -> tuple[api.ProvisionProjectResult, list[str]]:
        """Provision by a payload that names no more than it must; return the API keys, too."""
        if self.engine is not Engine.POSTGRESQL:
            database["engine"] = str(self.engine)
        if self.is_dedicated:
            database["size"] = INSTANCE_SIZE
        # One life begins with `{}`, and all services; others need not show those again.
        services = {"services": {"auth": False, "realtime": False}} if database else {}
        result = api.ProvisionProjectResult.model_validate(
            self.job("provision_project", region=self.stack.region, database=database, **services)
        )
        assert result.database.engine is self.engine
        assert (result.database.instance is not None) == self.is_dedicated
        assert result.database.version.startswith(database.get("version", ""))
        keys: list[str] = []
        api.claim_api_keys(self.project_id, keys.extend)
        verified = [api.verify_api_key(key) for key in keys]
        assert [key and key.project_id for key in verified] == [self.project_id] * 2
        return result, keys

    def url(self, result: api.ProvisionProjectResult) -> str:
        return str(secret(self.stack, result.database.secret_arn)["connection_string"])

    def refuses(self, url: str) -> None:
        with pytest.raises(REFUSED), logged_in(url):
            pass

    def rotate(self, result: api.ProvisionProjectResult) -> None:
        """Rotate the password: the old login is refused, and the new one reads the rows."""
        old = self.url(result)
        self.job("rotate_database_password")
        self.refuses(old)
        with logged_in(self.url(result)):
            pass

    def repair(self, *drifts: Mapping[str, str]) -> None:
        """Repair the project, and find that just these were put right."""
        result = self.job("repair_project")
        by_resource = itemgetter("resource")
        assert sorted(result["repaired"], key=by_resource) == sorted(drifts, key=by_resource)
        assert result["remaining"] == []

    # What somebody does by hand. Each returns what a repair says of it.

    def limit_lifted(self, result: api.ProvisionProjectResult) -> Mapping[str, str]:
        """Lift the limit of the tenant's connections."""
        shared = {
            Engine.POSTGRESQL: self.stack.admin_secret_name("postgresql"),
            Engine.MYSQL: self.stack.admin_secret_name("mysql"),
        }[self.engine]
        login = secret(self.stack, self.names.instance_secret if self.is_dedicated else shared)
        role = self.names.tenants[self.engine].app_role
        url = result.database.connection_string.replace(
            f"{role}@", f"{login['username']}:{login['password']}@"
        )
        kind, clause, none = {
            Engine.POSTGRESQL: ("role", "CONNECTION LIMIT", "-1"),
            Engine.MYSQL: ("user", "MAX_USER_CONNECTIONS", "0"),
        }[self.engine]
        with logged_in(url) as cursor:
            cursor.execute(f"ALTER {kind} {role} WITH {clause} {none}")
        return {"resource": f"{kind} {role}", "what": clause}

    def stopped(self) -> Iterator[Mapping[str, str]]:
        """Stop the instance, where the project has one."""
        if self.is_dedicated:
            self.stack.client("rds").stop_db_instance(DBInstanceIdentifier=self.names.instance)
            yield {"resource": f"database instance {self.names.instance}", "what": "was stopped"}

    def backups_ended(self) -> Iterator[Mapping[str, str]]:
        """Let the instance, where the project has one, keep no backups."""
        if self.is_dedicated:
            setting = "BackupRetentionPeriod"
            self.stack.client("rds").modify_db_instance(
                DBInstanceIdentifier=self.names.instance, **{setting: 0}, ApplyImmediately=True
            )
            yield {"resource": f"database instance {self.names.instance}", "what": setting}

    def bucket_opened(self) -> Mapping[str, str]:
        """Take away what keeps the bucket from the public."""
        self.stack.client("s3").delete_public_access_block(Bucket=self.bucket)
        return {"resource": f"bucket {self.bucket}", "what": "public access block"}


def test_every_kind_of_project_is_provisioned_used_changed_restored_and_removed(
    deployment: RunningStack,
) -> None:
    """Side by side, since most of it is waiting for instances."""
    lives = [
        Life(deployment, engine, is_dedicated)
        for engine in engines()
        for is_dedicated in (True, False)
    ]
    with ThreadPoolExecutor(len(lives)) as threads:
        running = [threads.submit(life.run) for life in lives]
    failed: list[BaseException] = []
    for life, future in zip(lives, running, strict=True):
        if (error := future.exception()) is not None:
            error.add_note(f"project {life.project_id}")
            failed.append(error)
    if failed:
        raise BaseExceptionGroup("not every kind of project lived to its end", failed)
    left = [one.replace("_", "-") for one in left_in(deployment_on(deployment))]
    assert [one for one in left if any(life.names.user_pool in one for life in lives)] == []


def test_a_database_that_is_not_to_be_had_is_refused_with_what_is(
    deployment: RunningStack,
) -> None:
    version = described(deployment, "postgresql/local-1")["version"]
    sizes = ", ".join(described(deployment, "dedicated/postgresql")["sizes"])
    region = deployment.region
    instance = f"is not allowed for a postgresql instance in {region}; choose"
    asked: list[tuple[dict[str, Any], str]] = [
        (
            {"version": "9.6"},
            (
                f"database.version: no postgresql cluster of {region} is of version 9.6; "
                f"there are {version}."
            ),
        ),
        ({"size": "db.x2g.metal"}, f"database.size: db.x2g.metal {instance} one of {sizes}."),
        (
            {"size": INSTANCE_SIZE, "version": "9.6"},
            f"database.version: 9.6 {instance} one of {version}, or leave it out.",
        ),
        (
            {"size": INSTANCE_SIZE, "storage_gb": 101},
            f"database.storage_gb: 101 {instance} 20 to 100.",
        ),
    ]
    jobs = []
    for number, (database, _) in enumerate(asked):
        project = api.create_project(f"refused-{number}").project_id
        payload = {"project_id": project, "region": region, "database": database}
        jobs.append(api.enqueue_job("provision_project", payload).job_id)

    errors = [finished(job_id).error for job_id in jobs]

    assert [error and (error.type, error.message) for error in errors] == [
        (ErrorType.INVALID_PAYLOAD, sentence) for _, sentence in asked
    ]
