"""Which way the platform takes to a cluster, which way customers take, and what they are told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from provisioner.drivers.database_engine import AdminConnection
from provisioner.provisioning.clusters import Cluster
from provisioner.provisioning.database_access import AdminLogins, ways_in
from provisioner.provisioning.engine import Engine, connection_string, login_secret
from provisioner.provisioning.minute_cache import MinuteCache
from provisioner.provisioning.naming import Naming
from support.core import Core

NAMES = Naming("nm", "test-1").names("shop").tenants


def cluster(engine: Engine, **other: Any) -> Cluster:
    """Return a cluster as its parameter describes it."""
    return Cluster.model_validate(
        {
            "host": "server",
            "port": 5432,
            "admin_secret_arn": "arn",
            "max_tenants": 1,
            "region": "eu-central-1",
            "engine": engine,
            "cluster_id": "first",
        }
        | other
    )


def admin_secret(core: Core, password: str) -> str:
    """Write the platform's login, and return its secret's ARN."""
    manager = core.client("secretsmanager")
    value = json.dumps({"username": "provisioner", "password": password})
    try:
        return str(manager.create_secret(Name="admin", SecretString=value)["ARN"])
    except manager.exceptions.ResourceExistsException:
        return str(manager.put_secret_value(SecretId="admin", SecretString=value)["ARN"])


def test_a_login_is_kept_for_a_minute_and_read_anew_where_it_is_refused(core: Core) -> None:
    seconds = [0.0]
    arn = admin_secret(core, "before")  # kingfisher:ignore
    of_cluster = cluster(Engine.POSTGRESQL, admin_secret_arn=arn)
    logins = AdminLogins(core.client("secretsmanager"), MinuteCache(lambda: seconds[0]))

    first = logins.connection(of_cluster)
    assert (first.password, first.renew) == ("before", None)
    admin_secret(core, "after")  # kingfisher:ignore
    seconds[0] = 59
    kept = logins.connection(of_cluster)
    assert kept.password == "before"
    assert kept.renew is not None
    renewed = kept.renew()
    assert (renewed.password, renewed.renew) == ("after", None)
    assert logins.connection(of_cluster).password == "after"
    admin_secret(core, "last")  # kingfisher:ignore
    seconds[0] = 59 + 60
    assert logins.connection(of_cluster).password == "last"
    assert len(core.calls_of("secrets-manager.GetSecretValue")) == 3


def test_the_customers_way_renews_no_login_of_the_platform() -> None:
    connected: list[AdminConnection] = []
    admin = AdminConnection("server", 5432, "provisioner", "correct-horse")

    def connect(of: AdminConnection) -> Any:
        connected.append(of)

    way = {"host": "pooler", "port": 6432}
    ways_in(
        {Engine.POSTGRESQL: connect},
        cluster(Engine.POSTGRESQL, customers=way),
        replace(admin, renew=lambda: admin),
    )
    assert [of.renew is None for of in connected] == [False, True]


@pytest.mark.parametrize(
    ("customers", "logins"),
    [
        (None, [("server", 5432)]),
        ({"host": "pooler", "port": 6432}, [("server", 5432), ("pooler", 6432)]),
    ],
)
def test_the_platform_goes_to_the_server_and_logins_are_tried_both_ways(
    customers: dict[str, Any] | None, logins: list[tuple[str, int]]
) -> None:
    gone: list[tuple[str, int]] = []

    def connect(admin: AdminConnection) -> Any:
        gone.append((admin.host, admin.port))
        return gone[-1]

    admin = AdminConnection("server", 5432, "provisioner", "correct-horse")

    ways = ways_in(
        {Engine.POSTGRESQL: connect}, cluster(Engine.POSTGRESQL, customers=customers), admin
    )

    assert gone == logins
    assert len(ways) == len(logins)


@pytest.mark.parametrize(
    ("engine", "sslmode", "url"),
    [
        (Engine.POSTGRESQL, "verify-full", "postgresql://{}@pooler:6432/{}?sslmode=verify-full"),
        (Engine.MYSQL, "verify-full", "mysql://{}@pooler:6432/{}?ssl-mode=VERIFY_IDENTITY"),
        (Engine.MYSQL, "require", "mysql://{}@pooler:6432/{}?ssl-mode=REQUIRED"),
    ],
)
def test_customers_are_told_their_own_way_in(engine: Engine, sslmode: str, url: str) -> None:
    described = cluster(engine, customers={"host": "pooler", "port": 6432}, sslmode=sslmode)
    tenant = NAMES[engine]

    assert connection_string(described, tenant) == url.format(tenant.app_role, tenant.database)
    secret = login_secret(described, tenant, "correct-horse")
    assert (secret["host"], secret["port"], secret["engine"]) == ("pooler", 6432, engine)
    login = f"{tenant.app_role}:correct-horse"
    assert secret["connection_string"] == url.format(login, tenant.database)
