"""Repairs of a tenant on a real MySQL or MariaDB server."""

from __future__ import annotations

from functools import partial

import pytest
from provisioner.drivers.drift import Drift, Repairs
from provisioner.errors import ErrorType
from support.mysql_tenants import MysqlTenant, mysql_dies, recorded
from support.tenants import PASSWORD, refused

#: What drifts, as a superuser puts it in by hand, and how it is told of. `{database}`, `{pattern}`
#: and `{user}` stand for the names of the tenant.
DATABASE_DRIFTS: dict[str, tuple[str, str]] = {
    "DROP DATABASE {database}": ("database {database}", "not there"),
    "ALTER USER {user} WITH MAX_USER_CONNECTIONS 0": ("user {user}", "MAX_USER_CONNECTIONS"),
    "ALTER USER {user} REQUIRE NONE": ("user {user}", "REQUIRE SSL"),
    "ALTER USER {user} ACCOUNT LOCK": ("user {user}", "ACCOUNT UNLOCK"),
    "ALTER USER {user} PASSWORD EXPIRE INTERVAL 90 DAY": (
        "user {user}",
        "PASSWORD EXPIRE NEVER",
    ),
    "REVOKE DROP, TRIGGER ON `{pattern}`.* FROM {user}": (
        "user {user}",
        "privileges on {database}",
    ),
    "GRANT SELECT ON `{pattern}`.* TO {user} WITH GRANT OPTION": ("user {user}", "GRANT OPTION"),
    "GRANT PROCESS ON *.* TO {user}": ("user {user}", "privileges on *.*"),
    "GRANT SELECT ON mysql.* TO {user}": ("user {user}", "privileges on mysql.*"),
    "GRANT SELECT, DROP ON `nm_%`.* TO {user} WITH GRANT OPTION": (
        "user {user}",
        "privileges on nm_%.*",
    ),
}


def repair(tenant: MysqlTenant, password: str = PASSWORD) -> tuple[Repairs, Repairs]:
    return (
        tenant.engine.repair_database(tenant.names, lambda: password, tenant.owner),
        tenant.engine.repair_schema(tenant.names, tenant.owner),
    )


def named(tenant: MysqlTenant, text: str) -> str:
    name = tenant.names.database
    places = {"{database}": name, "{pattern}": name.replace("_", r"\_")}
    for place, value in (places | {"{user}": tenant.names.app_role}).items():
        text = text.replace(place, value)
    return text


def as_superuser(tenant: MysqlTenant, *statements: str) -> None:
    for statement in statements:
        tenant.as_superuser(named(tenant, statement))


def test_a_repair_of_what_is_right_only_looks(
    mysql_tenant: MysqlTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    mysql_tenant.ensure()
    with recorded(monkeypatch) as executed:
        database, schema = repair(mysql_tenant)
    names = mysql_tenant.names
    login = f"database {names.database} answered a login as {names.app_role}"
    assert database == Repairs((), (), login)
    looked = f"schema {names.schema} was looked at, with all that belongs to it"
    assert schema == Repairs((), (), looked)
    looks = ("SELECT", "SHOW", "SET SESSION")
    assert [text for text in executed if not text.startswith(looks)] == []


@pytest.mark.parametrize("drift", DATABASE_DRIFTS)
def test_a_drift_is_put_right_and_told_of(mysql_tenant: MysqlTenant, drift: str) -> None:
    mysql_tenant.ensure()
    before = mysql_tenant.snapshot()
    as_superuser(mysql_tenant, drift)
    database, schema = repair(mysql_tenant)
    resource, what = (named(mysql_tenant, text) for text in DATABASE_DRIFTS[drift])
    assert database.repaired == (Drift(resource, what),)
    assert database.remaining == schema.remaining == schema.repaired == ()
    assert mysql_tenant.snapshot() == before
    assert repair(mysql_tenant)[0].repaired == ()
    mysql_tenant.check()


def test_all_drifts_at_once_are_put_right_by_a_new_run_too(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    before = mysql_tenant.snapshot()
    as_superuser(mysql_tenant, *DATABASE_DRIFTS)
    mysql_tenant.ensure()
    assert mysql_tenant.snapshot() == before
    mysql_tenant.check()


def test_what_was_put_right_before_a_crash_is_not_told_of_twice(
    mysql_tenant: MysqlTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    mysql_tenant.ensure()
    before = mysql_tenant.snapshot()
    for after in (False, True):
        at = 0
        while True:
            as_superuser(mysql_tenant, *DATABASE_DRIFTS)
            if not mysql_dies(monkeypatch, lambda: repair(mysql_tenant), at, after=after):
                break
            repairs, _ = repair(mysql_tenant)
            assert repairs.remaining == ()
            assert mysql_tenant.snapshot() == before, f"statement {at}"
            # Each run makes some twenty statements, and a crash at any of them is much the same.
            at += 3
    assert mysql_tenant.snapshot() == before


def test_a_grant_of_all_privileges_holds_each_of_them(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    as_superuser(mysql_tenant, "GRANT ALL ON `{pattern}`.* TO {user}")
    assert repair(mysql_tenant)[0].repaired == ()
    mysql_tenant.check()


def test_what_an_operator_grants_of_single_tables_is_left(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    as_superuser(mysql_tenant, "GRANT SELECT (Host) ON mysql.db TO {user}")
    assert repair(mysql_tenant)[0].repaired == ()
    assert mysql_tenant.as_tenant("SELECT COUNT(Host) FROM mysql.db")
    # It goes with the user.
    mysql_tenant.remove()
    assert (
        mysql_tenant.as_superuser(
            "SELECT 1 FROM mysql.columns_priv WHERE User = %s", (mysql_tenant.names.app_role,)
        )
        == ()
    )


def test_a_password_that_the_server_does_not_take_remains(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    database, _ = repair(mysql_tenant, "another password")
    assert database.repaired == ()
    (remaining,) = database.remaining
    assert (remaining.resource, remaining.what) == (
        f"user {mysql_tenant.names.app_role}",
        "PASSWORD",
    )
    assert "rotate" in remaining.why
    mysql_tenant.login().close()


def test_a_user_that_is_not_there_is_not_made(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    user = mysql_tenant.names.app_role
    as_superuser(mysql_tenant, "DROP USER {user}")
    before = mysql_tenant.snapshot()
    for part in (0, 1):
        act = partial(_repair_part, mysql_tenant, part)
        error = refused(ErrorType.DATABASE_CHANGE_FAILED, act)
        assert f"CREATE USER `{user}`@`%`" in error.message
    assert mysql_tenant.snapshot() == before
    # What the message says to do leads back.
    mysql_tenant.as_superuser(f"CREATE USER `{user}`@`%` IDENTIFIED BY '{PASSWORD}'")
    database, _ = repair(mysql_tenant)
    assert {drift.what for drift in database.repaired} >= {"MAX_USER_CONNECTIONS", "REQUIRE SSL"}
    mysql_tenant.check()


def _repair_part(tenant: MysqlTenant, part: int) -> object:
    if part == 0:
        return tenant.engine.repair_database(tenant.names, lambda: PASSWORD, tenant.owner)
    return tenant.engine.repair_schema(tenant.names, tenant.owner)


def test_what_is_someone_else_s_is_not_repaired(mysql_tenant: MysqlTenant) -> None:
    mysql_tenant.ensure()
    as_superuser(mysql_tenant, "ALTER USER {user} ACCOUNT LOCK")
    before = mysql_tenant.snapshot()
    theirs = mysql_tenant.with_owner(project_id="another")
    refused(ErrorType.CONFLICT, lambda: repair(theirs))
    assert mysql_tenant.snapshot() == before
