"""A login of the platform that a test may rotate: that of the run's server is used by all."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from provisioner import api
from provisioner.drivers.database_engine import DatabaseEngine
from provisioner.drivers.mysql.engine import MysqlEngine
from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.jobs.records import NewJob
from provisioner.provisioning.engine import Engine
from provisioner.runtime import aws
from support.tenant_server import OnMysql, OnPostgresql
from support.workflow import REGION, Workflow

ROTATION = "rotate_cluster_login"

#: The deployment's admin secret.
SECRET = "nm/clusters/test"  # its name

_DRIVERS: dict[Engine, type[DatabaseEngine]] = {
    Engine.POSTGRESQL: PostgresqlEngine,
    Engine.MYSQL: MysqlEngine,
}


@dataclass(frozen=True, slots=True)
class OwnLogin:
    """The login of one deployment on the run's server."""

    workflow: Workflow
    user: str
    first_password: str = field(repr=False)

    def new_job(self, **payload: Any) -> api.Job:
        """Store a job that rotates the login, as the dispatcher does."""
        handler = api.get_job_handler(ROTATION)
        valid = handler.parse(
            {"region": REGION, "engine": self.workflow.engine, "cluster_id": "test-1"} | payload
        )
        return self.workflow.jobs.create(
            NewJob(str(uuid.uuid4()), ROTATION, valid.model_dump(mode="json"), handler.stages)
        )

    def versions(self) -> dict[str, dict[str, Any]]:
        """Return what the versions of the admin secret hold, by their labels."""
        client = aws.client("secretsmanager")
        found: dict[str, dict[str, Any]] = {}
        for label in ("AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"):
            with suppress(client.exceptions.ResourceNotFoundException):
                answer = client.get_secret_value(SecretId=SECRET, VersionStage=label)
                found[label] = json.loads(answer["SecretString"])
        return found

    def opening(self) -> set[str]:
        """Say which labels of the secret lead to a login that the server takes."""
        return {label for label, value in self.versions().items() if self.takes(value["password"])}

    def takes(self, password: str) -> bool:
        """Whether the server takes a password of the login."""
        return self.driver(password).accepts_admin()

    def driver(self, password: str) -> DatabaseEngine:
        """Return the product's driver, with the login and a password."""
        admin = self.workflow.server.admin
        login = replace(admin, user=self.user, password=password, renew=None)
        return _DRIVERS[self.workflow.engine](login)

    def check_rotated(self, job: api.Job) -> None:
        """Check that a job has rotated the login: the new one is current, the old one previous."""
        assert (job.status, job.error) == (api.JobStatus.COMPLETED, None)
        assert all(record.check for record in job.stages)
        result = api.RotateClusterLoginResult.model_validate(job.result)
        described = aws.client("secretsmanager").describe_secret(SecretId=SECRET)
        assert result.secret_arn == described["ARN"]
        assert "AWSCURRENT" in described["VersionIdsToStages"][result.secret_version_id]
        assert (result.region, result.engine, result.cluster_id) == (
            REGION,
            self.workflow.engine,
            "test-1",
        )
        versions = self.versions()
        current, previous = versions["AWSCURRENT"], versions["AWSPREVIOUS"]
        assert current == previous | {"password": current["password"]}
        assert self.takes(current["password"])
        assert not self.takes(previous["password"])


@contextmanager
def own_login(workflow: Workflow) -> Iterator[OwnLogin]:
    """Let a deployment log in with a login of its own; nothing of the deployment is there yet."""
    user, password = f"admin_{uuid.uuid4().hex[:12]}", uuid.uuid4().hex
    aws.client("secretsmanager").put_secret_value(
        SecretId=SECRET,
        SecretString=json.dumps({"username": user, "password": password, "note": "kept"}),
    )
    _run(workflow, user, *_MAKE[workflow.engine], password=password)
    try:
        yield OwnLogin(workflow, user, password)
    finally:
        workflow.remove_tenants()
        _run(workflow, user, *_REMOVE[workflow.engine])


@pytest.fixture
def login(workflow: Workflow) -> Iterator[OwnLogin]:
    """Return the login of a deployment, which a test may rotate."""
    with own_login(workflow) as made:
        yield made


#: As docs/cluster.sql and docs/cluster-mysql.sql do, of which the second grants less.
_MAKE = {
    Engine.POSTGRESQL: (
        "CREATE ROLE {user} LOGIN CREATEDB CREATEROLE PASSWORD '{password}'",
        "GRANT CONNECT ON DATABASE postgres TO {user}",
        "GRANT pg_signal_backend TO {user}",
    ),
    Engine.MYSQL: (
        "CREATE USER {user}@'%' IDENTIFIED BY '{password}' REQUIRE SSL",
        "GRANT ALL PRIVILEGES ON *.* TO {user}@'%' WITH GRANT OPTION",
    ),
}

_REMOVE = {
    Engine.POSTGRESQL: ("DROP OWNED BY {user}", "DROP ROLE {user}"),
    Engine.MYSQL: ("DROP USER {user}@'%'",),
}


def _run(workflow: Workflow, user: str, *statements: str, password: str = "") -> None:
    """Run statements as someone who may do everything."""
    server = workflow.server
    assert isinstance(server, OnMysql | OnPostgresql)
    connection: Any = (
        server.server.connect() if isinstance(server, OnMysql) else server.cluster.connect()
    )
    with connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement.format(user=user, password=password))


def log_in_as_operator(login: OwnLogin, password: str) -> Any:
    """Open a session with the login, which ends as a context manager's does."""
    return login.driver(password)._connect()  # as the driver itself does
