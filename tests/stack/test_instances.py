"""Instances of the local AWS's RDS: they take their time, and each has a server of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pymysql
import pytest
from provision_cli.local import mariadb_server
from provision_cli.local.stack import RunningStack
from support.stack_jobs import eventually

USER = "instance_admin"
PASSWORD = "p" * 40  # kingfisher:ignore
TAGS = [{"Key": "made-by", "Value": "a test"}]

#: Seconds for which an instance is at least `creating`, or `deleting`.
CREATING_SECONDS, DELETING_SECONDS = 5, 2

#: Seconds that a server may take to start beside all else that this machine does.
SLOW = 60


def _engines() -> list[str]:
    """Return the engines whose servers this machine has."""
    has_mysql = os.environ.get("CI") == "true" or mariadb_server.find_program() is not None
    return ["postgres", *(["mysql"] if has_mysql else [])]


def _create(rds: Any, name: str, engine: str) -> dict[str, Any]:
    made = rds.create_db_instance(
        DBInstanceIdentifier=name,
        Engine=engine,
        DBInstanceClass="db.t4g.micro",
        AllocatedStorage=20,
        MasterUsername=USER,
        MasterUserPassword=PASSWORD,
        StorageEncrypted=True,
        Tags=TAGS,
    )["DBInstance"]
    return dict(made)


def _found(rds: Any, name: str) -> dict[str, Any] | None:
    try:
        return dict(rds.describe_db_instances(DBInstanceIdentifier=name)["DBInstances"][0])
    except rds.exceptions.DBInstanceNotFoundFault:
        return None


def _available(rds: Any, name: str) -> dict[str, Any]:
    """Return an instance once it is no longer being made."""
    shown: list[dict[str, Any]] = []

    def is_made() -> bool:
        found = _found(rds, name)
        assert found is not None
        shown.append(found)
        # On AWS it has an endpoint only once it is there.
        assert ("Endpoint" in found) == (found["DBInstanceStatus"] == "available")
        return bool(found["DBInstanceStatus"] != "creating")

    eventually(is_made, within=CREATING_SECONDS + SLOW)
    assert shown[-1]["DBInstanceStatus"] == "available"
    return shown[-1]


def _login(instance: dict[str, Any]) -> Any:
    endpoint = instance["Endpoint"]
    where = {"host": endpoint["Address"], "port": endpoint["Port"]}
    if instance["Engine"] == "postgres":
        return psycopg.connect(
            **where, user=USER, password=PASSWORD, dbname="postgres", autocommit=True
        )
    return pymysql.connect(
        **where, user=USER, password=PASSWORD, autocommit=True, ssl_disabled=True
    )


def _refused(rds: Any, code: str, call: Callable[[], object]) -> None:
    with pytest.raises(rds.exceptions.ClientError) as raised:
        call()
    assert raised.value.response["Error"]["Code"] == code


def test_an_instance_is_made_copied_and_removed(local_stack: RunningStack) -> None:
    """Of each engine one, beside one another: they take seconds, as it is their purpose.

    That a snapshot has the data, and is restored, the lives of projects show (test_payloads).
    """
    rds = local_stack.client("rds")
    names = {f"own-{engine}": engine for engine in _engines()}
    began = time.monotonic()
    for name, engine in names.items():
        made = _create(rds, name, engine)
        assert (made["DBInstanceStatus"], "Endpoint" in made) == ("creating", False)
        _refused(
            rds,
            "InvalidDBInstanceState",
            lambda name=name: rds.create_db_snapshot(  # type: ignore[misc]
                DBInstanceIdentifier=name, DBSnapshotIdentifier=f"{name}-early"
            ),
        )
    instances = {name: _available(rds, name) for name in names}
    for instance in instances.values():
        assert time.monotonic() - began >= CREATING_SECONDS
        assert (instance["TagList"], instance["Endpoint"]["Address"]) == (TAGS, "127.0.0.1")
        with _login(instance):
            pass

    removed = time.monotonic()
    for name in names:
        gone = rds.delete_db_instance(
            DBInstanceIdentifier=name, FinalDBSnapshotIdentifier=f"{name}-final"
        )["DBInstance"]
        assert gone["DBInstanceStatus"] == "deleting"
        described = _found(rds, name)
        assert described is not None
        assert described["DBInstanceStatus"] == "deleting"
        listed = rds.describe_db_instances()["DBInstances"]
        assert name in {one["DBInstanceIdentifier"] for one in listed}
        again = {"DBInstanceIdentifier": name, "SkipFinalSnapshot": True}
        _refused(
            rds,
            "InvalidDBInstanceState",
            lambda again=again: rds.delete_db_instance(**again),  # type: ignore[misc]
        )
        _refused(rds, "DBInstanceAlreadyExists", lambda name=name: _create(rds, name, "postgres"))  # type: ignore[misc]
    for name in names:
        eventually(lambda name=name: _found(rds, name) is None, within=SLOW)  # type: ignore[misc]
        assert time.monotonic() - removed >= DELETING_SECONDS
        with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError)):
            _login(instances[name])

    for name in names:
        (snapshot,) = rds.describe_db_snapshots(DBSnapshotIdentifier=f"{name}-final")["DBSnapshots"]
        assert (snapshot["Status"], snapshot["TagList"]) == ("available", TAGS)
        rds.delete_db_snapshot(DBSnapshotIdentifier=f"{name}-final")
    kept = (local_stack.directory / "instance-snapshots").iterdir()
    assert [one.name for one in kept if one.name.startswith("own-")] == []


def test_what_an_operator_describes_of_mysql_is_there_where_mariadb_is(
    local_stack: RunningStack,
) -> None:
    prefix = f"{local_stack.outputs['ClusterParameterPrefix']}/{local_stack.region}"
    found = {
        one["Name"].removeprefix(f"{prefix}/"): json.loads(one["Value"])
        for page in local_stack.client("ssm")
        .get_paginator("get_parameters_by_path")
        .paginate(Path=prefix, Recursive=True)
        for one in page["Parameters"]
    }
    engines = {"postgresql", *(["mysql"] if len(_engines()) > 1 else [])}
    assert found.keys() == {
        *(f"{engine}/local-1" for engine in engines),
        *(f"dedicated/{engine}" for engine in engines),
    }
    for engine in engines:
        assert found[f"dedicated/{engine}"]["versions"] == [found[f"{engine}/local-1"]["version"]]
    if "mysql" in engines:
        secret = local_stack.client("secretsmanager").get_secret_value(
            SecretId=found["mysql/local-1"]["admin_secret_arn"]
        )
        login = json.loads(secret["SecretString"])
        connection = pymysql.connect(
            host=found["mysql/local-1"]["host"],
            port=found["mysql/local-1"]["port"],
            user=login["username"],
            password=login["password"],
            ssl_disabled=True,
        )
        with connection, connection.cursor() as cursor:
            assert cursor.execute("SELECT current_user()") == 1
