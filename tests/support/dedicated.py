"""Projects with an instance of their own: moto's Amazon RDS, with a real server behind it.

moto knows instances and no servers, and makes one at once. Here RDS takes its time, as many minutes
of the workflow's as a test says, and refuses meanwhile what AWS refuses. An instance is reached at
a server that serves one at a time, whose master user has the password that RDS was told. Source:
Amazon RDS API Reference, DeleteDBInstance, ModifyDBInstance, CreateDBSnapshot, their errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from provision_cli.local.ports import choose_port
from provision_cli.local.postgresql_server import PostgresqlServer
from provisioner import api
from provisioner.drivers.database_engine import AdminConnection
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.stages.instance import MASTER_USER
from provisioner.runtime import aws
from support import calls
from support.calls import call_moto
from support.mysql import own_mysql
from support.postgresql import PreparedCluster
from support.rds import make_subnet_group
from support.tenant_server import OnMysql, OnPostgresql, TenantServer
from support.undoing import OWNER
from support.workflow import NO_SERVICES, REGION, Workflow, deployed

SIZE = "db.t4g.micro"

_ALLOWANCE = {
    "sizes": [SIZE],
    "versions": ["16.4"],
    "storage_gb": {"maximum": 100, "default": 20},
    "subnet_group": "databases",
    "security_group_ids": ["sg-1"],
    "maximum": 2,
    "sslmode": "disable",
}


def parameter(engine: Engine = Engine.POSTGRESQL) -> str:
    """Return where operators say what projects may ask for."""
    return f"/test/clusters/{REGION}/dedicated/{engine}"


def allow(engine: Engine = Engine.POSTGRESQL, **other: Any) -> None:
    """Say what projects may ask for."""
    value = json.dumps(_ALLOWANCE | other)
    aws.client("ssm").put_parameter(
        Name=parameter(engine), Type="String", Value=value, Overwrite=True
    )


def new_job(workflow: Workflow, project_id: str | None = None, **payload: Any) -> api.Job:
    """Store a job that asks for an instance, and for no service."""
    asked = {"database": {"size": SIZE}, "services": NO_SERVICES, "api_keys": {"count": 1}}
    return workflow.new_job(project_id or workflow.new_project(**OWNER), **asked | payload)


# --- Answers of RDS's -----------------------------------------------------------------------------

type Answer = Callable[[Callable[[], Any]], Any]


@contextmanager
def answered(answer: Answer, *operations: str) -> Iterator[list[str]]:
    """Let operations of RDS be answered otherwise; all that RDS is asked for is listed."""
    asked: list[str] = []
    call = vars(BaseClient)["_make_api_call"]

    def call_aws(client: BaseClient, name: str, parameters: Any) -> Any:
        if client.meta.service_model.service_name != "rds":
            return call(client, name, parameters)
        asked.append(name)
        if name not in operations:
            return call(client, name, parameters)
        return answer(lambda: call(client, name, parameters))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", call_aws)
        yield asked


def refused(code: str) -> Answer:
    def refuse(_make: Callable[[], Any]) -> Any:
        raise ClientError({"Error": {"Code": code, "Message": "No."}}, "CreateDBInstance")

    return refuse


def told(*statuses: str) -> Answer:
    """Let RDS tell of one status after another, then of what it has."""
    to_come = list(statuses)

    def tell(make: Callable[[], Any]) -> Any:
        found = make()
        if to_come:
            instance = found["DBInstance"] if "DBInstance" in found else found["DBInstances"][0]
            instance["DBInstanceStatus"] = to_come.pop(0)
        return found

    return tell


# --- RDS, with a server ---------------------------------------------------------------------------

#: What RDS begins with a request, as the status tells of it.
_BEGINS = {
    "CreateDBInstance": "creating",
    "CreateDBSnapshot": "creating",
    "RestoreDBInstanceFromDBSnapshot": "creating",
    "StartDBInstance": "starting",
    "DeleteDBInstance": "deleting",
}

#: What it refuses while it is at work on the instance.
_NEEDS_AVAILABLE = {"CreateDBSnapshot", "DeleteDBInstance", "ModifyDBInstance", "StartDBInstance"}


@dataclass
class Rds:
    """Amazon RDS, which takes its time, and the deployment that asks it."""

    workflow: Workflow
    #: Gives the master user of the server a password.
    make_master_user: Callable[[str, str], None]
    #: Minutes of the workflow's time that a status lasts; `snapshot` for the creating of one, and
    #: `password` until a master user has another.
    minutes: dict[str, int] = field(default_factory=dict)
    #: All that it was asked for.
    asked: list[str] = field(default_factory=list)
    #: Until when RDS is at work on an instance or a snapshot, and how it tells of that.
    _at_work: dict[str, tuple[timedelta, str]] = field(default_factory=dict)
    #: Until when an instance tells of a password that RDS has yet to set.
    _gets_password: dict[str, timedelta] = field(default_factory=dict)
    #: What is told of instances that are being deleted; moto forgets them at once.
    _deleted: dict[str, Any] = field(default_factory=dict)

    def instances(self) -> list[dict[str, Any]]:
        """Return what RDS tells of every instance."""
        return list(aws.client("rds", REGION).describe_db_instances()["DBInstances"])

    def snapshots(self) -> list[dict[str, Any]]:
        """Return what RDS tells of every snapshot that someone has asked for."""
        rds = aws.client("rds", REGION)
        return list(rds.describe_db_snapshots(SnapshotType="manual")["DBSnapshots"])

    def call(self, client: Any, name: str, parameters: Mapping[str, Any]) -> Any:
        """Answer a call; those of other services go to moto."""
        if client.meta.service_model.service_name != "rds":
            return call_moto(client, name, parameters)
        self.asked.append(name)
        instance = parameters.get("DBInstanceIdentifier", "")
        if name in _NEEDS_AVAILABLE and self._status(instance):
            error = {"Error": {"Code": "InvalidDBInstanceState", "Message": "At work."}}
            raise client.exceptions.InvalidDBInstanceStateFault(error, name)
        if name == "DescribeDBInstances" and instance in self._deleted:
            if self._status(instance):
                return {"DBInstances": [self._deleted[instance]]}
            del self._deleted[instance]
        answer = call_moto(client, name, parameters)
        self._begin(name, parameters)
        for one in _told(answer):
            self._amend(one)
        if name == "DeleteDBInstance":
            self._deleted[instance] = answer["DBInstance"]
            # What is in it goes with it.
            self.workflow.remove_tenants()
        return answer

    def _begin(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Let RDS be at work on what it was asked for."""
        instance = parameters.get("DBInstanceIdentifier", "")
        if name in _BEGINS:
            is_snapshot = name == "CreateDBSnapshot"
            named = parameters["DBSnapshotIdentifier"] if is_snapshot else instance
            until = self._in("snapshot" if is_snapshot else _BEGINS[name])
            self._at_work[named] = until, _BEGINS[name]
        if _BEGINS.get(name) == "creating":
            assert len(self.instances()) == 1, "the server serves one instance at a time"
        if "MasterUserPassword" in parameters:
            # One that is restored has the password of the snapshot's time, until it gets another.
            self.make_master_user(MASTER_USER, parameters["MasterUserPassword"])
            if name == "ModifyDBInstance":
                self._gets_password[instance] = self._in("password")

    def _in(self, lasts: str) -> timedelta:
        """Return by when something is done."""
        return self.workflow.passed + timedelta(minutes=self.minutes.get(lasts, 0))

    def _status(self, named: str) -> str:
        """Say what RDS does with an instance or a snapshot; empty where it has done it."""
        until, status = self._at_work.get(named, (timedelta(), ""))
        return status if self.workflow.passed < until else ""

    def _amend(self, told: dict[str, Any]) -> None:
        is_snapshot = "DBSnapshotIdentifier" in told
        status = self._status(
            told["DBSnapshotIdentifier" if is_snapshot else "DBInstanceIdentifier"]
        )
        if status:
            told["Status" if is_snapshot else "DBInstanceStatus"] = status
        if not is_snapshot:
            server = self.workflow.server.admin
            told["Endpoint"] = {"Address": server.host, "Port": server.port}
            if status == "creating":
                del told["Endpoint"]
            set_at = self._gets_password.get(told["DBInstanceIdentifier"], timedelta())
            if self.workflow.passed < set_at:
                told["PendingModifiedValues"] = {"MasterUserPassword": "****"}


def _told(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what an answer tells of instances and snapshots."""
    for name in ("DBInstance", "DBSnapshot"):
        if name in answer:
            yield answer[name]
        yield from answer.get(f"{name}s", [])


@pytest.fixture(scope="session")
def instance_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PreparedCluster]:
    """Return a PostgreSQL whose master user is as RDS's, and no superuser."""
    port = choose_port()
    server = PostgresqlServer(tmp_path_factory.mktemp("instance") / "server", port)
    server.start()
    password = "none-has-asked-yet"  # kingfisher:ignore
    server.make_master_user(MASTER_USER, password)
    yield PreparedCluster(
        server, AdminConnection("127.0.0.1", port, MASTER_USER, password, sslmode="disable")
    )
    server.stop()


@pytest.fixture
def instance_server(
    request: pytest.FixtureRequest, engine: Engine
) -> Iterator[tuple[TenantServer, Callable[[str, str], None]]]:
    """Return the server of the test's instances, and what gives its master user a password."""
    if engine is Engine.POSTGRESQL:
        cluster = request.getfixturevalue("instance_cluster")
        yield OnPostgresql(cluster), cluster.server.make_master_user
        return
    # Other tests log in to the run's own all the while.
    with own_mysql(request.getfixturevalue("mysql_server")) as prepared:
        assert prepared.server is not None
        yield OnMysql(prepared), prepared.server.make_master_user


@pytest.fixture
def rds(
    instance_server: tuple[TenantServer, Callable[[str, str], None]],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Rds]:
    """Return Amazon RDS beside a deployment of its own, whose operator allows two instances."""
    server, make_master_user = instance_server
    with deployed(server, monkeypatch) as made:
        allow(server.engine, sslmode=server.admin.sslmode)
        make_subnet_group()
        found = Rds(made, make_master_user)

        def call(client: Any, name: str, parameters: Any) -> Any:
            return found.call(client, name, parameters)

        monkeypatch.setattr(BaseClient, "_make_api_call", call)
        # Faults are put in between the stages and moto.
        monkeypatch.setattr(calls, "call_moto", call)
        yield found
