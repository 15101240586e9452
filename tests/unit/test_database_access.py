"""Which way the platform takes to a cluster, which way customers take, and what they are told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from provisioner.drivers.database_engine import AdminConnection
from provisioner.drivers.database_errors import ClientLibrary
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.provisioning.clusters import Cluster
from provisioner.provisioning.database_access import Servers
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
    servers = Servers[AdminConnection](
        core.client("secretsmanager"),
        {Engine.POSTGRESQL: lambda admin: admin},
        MinuteCache(lambda: seconds[0]),
    )

    def login() -> AdminConnection:
        return servers.ways_in(of_cluster, ErrorType.DATABASE_CREATION_FAILED, may_be_kept=True)[0]

    assert login().password == "before"
    admin_secret(core, "after")  # kingfisher:ignore
    seconds[0] = 59
    kept = login()
    assert kept.password == "before"
    assert kept.renew is not None
    renewed = kept.renew()
    assert renewed is not None
    assert renewed.password == "after"
    assert login().password == "after"
    admin_secret(core, "last")  # kingfisher:ignore
    seconds[0] = 59 + 60
    assert login().password == "last"
    assert len(core.calls_of("secrets-manager.GetSecretValue")) == 3


class RefusedError(Exception):
    """A password is wrong."""


def _said(error: Exception) -> ProvisioningError:
    return failure(ErrorType.INSUFFICIENT_PERMISSIONS, str(error))


LIBRARY = ClientLibrary[Exception](
    Exception,
    lambda error, _final, _doing: _said(error),
    is_contention=lambda _error: False,
    is_wrong_password=lambda error: isinstance(error, RefusedError),
    is_connection_limit=lambda _error: False,
)


def test_a_login_that_is_refused_is_followed_by_the_next_one(core: Core) -> None:
    arn = admin_secret(core, "kept")  # kingfisher:ignore
    of_cluster = cluster(Engine.MYSQL, admin_secret_arn=arn)
    servers = Servers[AdminConnection](
        core.client("secretsmanager"),
        {Engine.MYSQL: lambda admin: replace(admin, root_certificates="ca.pem")},
    )
    right = ""
    tried: list[tuple[str, str | None]] = []

    def connect(login: AdminConnection) -> str:
        tried.append((login.password, login.root_certificates))
        if login.password != right:
            raise RefusedError(f"attempt {len(tried)}")
        return login.password

    def log_in(*, may_be_kept: bool) -> str:
        tried.clear()
        (admin,) = servers.ways_in(
            of_cluster, ErrorType.DATABASE_CREATION_FAILED, may_be_kept=may_be_kept
        )
        return admin.log_in(LIBRARY, connect)

    right = "kept"
    assert log_in(may_be_kept=True) == "kept"
    admin_secret(core, "current")  # kingfisher:ignore
    core.client("secretsmanager").put_secret_value(
        SecretId=arn,
        SecretString=json.dumps({"username": "provisioner", "password": "pending"}),
        VersionStages=["AWSPENDING"],
    )
    # It has changed on the server, and its label has not moved yet.
    right = "pending"
    assert log_in(may_be_kept=True) == "pending"
    assert tried == [(name, "ca.pem") for name in ("kept", "current", "pending")]
    assert log_in(may_be_kept=False) == "pending"
    assert [password for password, _ in tried] == ["current", "pending"]
    # Once it has moved, the next one that logs in begins with it.
    right = "current"
    assert log_in(may_be_kept=True) == "current"
    assert [password for password, _ in tried] == ["current"]
    right = "another"
    with pytest.raises(RefusedError, match="attempt 2") as refused:
        log_in(may_be_kept=False)
    assert refused.value.__context__ is None


def test_a_pending_version_that_is_the_one_refused_is_not_tried_again(core: Core) -> None:
    arn = admin_secret(core, "wrong")  # kingfisher:ignore
    manager = core.client("secretsmanager")
    (version,) = manager.describe_secret(SecretId=arn)["VersionIdsToStages"]
    manager.update_secret_version_stage(
        SecretId=arn, VersionStage="AWSPENDING", MoveToVersionId=version
    )
    servers = Servers[AdminConnection](manager, {Engine.POSTGRESQL: lambda admin: admin})
    admin = servers.connect(
        cluster(Engine.POSTGRESQL, admin_secret_arn=arn), ErrorType.DATABASE_CHANGE_FAILED
    )
    assert admin.renew is not None
    assert admin.renew() is None


def test_a_login_that_the_caller_has_read_is_followed_by_no_other_than_its_own(core: Core) -> None:
    servers = Servers[AdminConnection](
        core.client("secretsmanager"), {Engine.POSTGRESQL: lambda admin: admin}
    )
    first, second = ({"username": "provisioner", "password": word} for word in ("one", "two"))
    described = cluster(Engine.POSTGRESQL)
    alone, both = (
        servers.connect_with(described, first),
        servers.connect_with(described, first, or_with=second),
    )
    assert (alone.password, both.password) == ("one", "one")
    assert alone.renew is not None
    assert alone.renew() is None
    assert both.renew is not None
    next_one = both.renew()
    assert next_one is not None
    assert (next_one.password, next_one.renew) == ("two", None)
    assert core.calls_of("secrets-manager.GetSecretValue") == []


def test_the_customers_way_renews_no_login_of_the_platform(core: Core) -> None:
    arn = admin_secret(core, "correct-horse")  # kingfisher:ignore
    customers = {"host": "pooler", "port": 6432}
    of_cluster = cluster(Engine.POSTGRESQL, admin_secret_arn=arn, customers=customers)
    servers = Servers[AdminConnection](
        core.client("secretsmanager"), {Engine.POSTGRESQL: lambda admin: admin}
    )
    final = ErrorType.DATABASE_CREATION_FAILED
    servers.ways_in(of_cluster, final, may_be_kept=True)
    ways = servers.ways_in(of_cluster, final, may_be_kept=True)
    assert [of.renew is None for of in ways] == [False, True]


@pytest.mark.parametrize(
    ("customers", "logins"),
    [
        (None, [("server", 5432)]),
        ({"host": "pooler", "port": 6432}, [("server", 5432), ("pooler", 6432)]),
    ],
)
def test_the_platform_goes_to_the_server_and_logins_are_tried_both_ways(
    core: Core, customers: dict[str, Any] | None, logins: list[tuple[str, int]]
) -> None:
    arn = admin_secret(core, "correct-horse")  # kingfisher:ignore
    of_cluster = cluster(Engine.POSTGRESQL, admin_secret_arn=arn, customers=customers)
    servers = Servers[AdminConnection](
        core.client("secretsmanager"), {Engine.POSTGRESQL: lambda admin: admin}
    )

    ways = servers.ways_in(of_cluster, ErrorType.DATABASE_CHANGE_FAILED)

    assert [(of.host, of.port) for of in ways] == logins
    first = servers.connect(of_cluster, ErrorType.DATABASE_CHANGE_FAILED)
    assert (first.host, first.port) == logins[0]


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
