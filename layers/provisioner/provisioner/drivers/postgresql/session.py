"""Sessions on a cluster: the logins of the platform and of a tenant's app role, and steps retried.

A tenant's database is hostile ground: the tenant may make schemas, and in them relations,
functions, operators, casts and types of any name. A session of the platform resolves names in
`pg_catalog` alone, where no tenant can make anything. This is set when it begins, which no
setting of a role or a database can override. Temporary relations and types are found even before
`pg_catalog`; but a session finds only its own, and the platform's make none.

Sources: PostgreSQL documentation, "Client Connection Defaults", search_path; "Database Connection
Control Functions", options; "Writing SECURITY DEFINER Functions Safely". PostgreSQL source, guc.h,
GucSource: PGC_S_CLIENT comes after PGC_S_DATABASE_USER.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from provisioner.drivers.database_engine import CONNECT_SECONDS, AdminConnection, TenantNames
from provisioner.drivers.postgresql.errors import PSYCOPG

type Connection = psycopg.Connection[tuple[Any, ...]]

#: Advisory locks are per database: every one is taken in this one.
LOCK_DATABASE = "postgres"

#: Of every session of the platform, a program's too: it resolves no name of a tenant's.
SAFE_SEARCH_PATH = "search_path=pg_catalog"

#: Of the platform's own sessions. No statement outlasts the function, and the session of a function
#: that was killed, whose end no one tells the server, does not hold its lock until the next retry.
SETTINGS = (
    SAFE_SEARCH_PATH,
    "lock_timeout=30s",
    "statement_timeout=60s",
    "idle_session_timeout=60s",
    "idle_in_transaction_session_timeout=60s",
    "tcp_keepalives_idle=20",
    "tcp_keepalives_interval=10",
    "tcp_keepalives_count=3",
)

#: What no server gets that asks for it: a password in clear text, or its MD5, from which it can be
#: guessed. `require` does not look who it is that asks; servers ask for SCRAM since version 14.
#: Source: PostgreSQL documentation, "Database Connection Control Functions", require_auth.
REQUIRED_AUTHENTICATION = "!password,!md5"


def session_options(*settings: str) -> str:
    """Return libpq's `options`, or PGOPTIONS, of settings such as `lock_timeout=30s`.

    Of a setting that is named twice, the last counts.
    """
    return " ".join(f"-c {setting}" for setting in settings)


def connect_as_platform(admin: AdminConnection, database: str, *more_settings: str) -> Connection:
    """Connect as the platform role, in a session that resolves no name of a tenant's.

    Args:
        admin: the platform role's login.
        database: where to; it may be a tenant's.
        more_settings: come after `SETTINGS` and replace them.

    Raises:
        psycopg.OperationalError: no connection was made.
    """
    options = session_options(*SETTINGS, *more_settings)
    return admin.log_in(PSYCOPG, partial(_connect, database=database, options=options))


def connect_as_tenant(admin: AdminConnection, names: TenantNames, password: str) -> Connection:
    """Connect as a tenant's app role to its database, with the settings that a customer gets.

    Raises:
        psycopg.OperationalError: no connection was made.
    """
    return _connect(replace(admin, user=names.app_role, password=password), names.database)


def lock(connection: Connection, database: str) -> None:
    """Take the advisory lock of a tenant; it is given back when the session ends, however it does.

    Args:
        connection: a session in `LOCK_DATABASE`.
        database: the name of the tenant's database.
    """
    connection.execute(
        "SELECT pg_catalog.pg_advisory_lock(pg_catalog.hashtextextended(%s, 0))",
        ("provisioner:" + database,),
    )


def _connect(login: AdminConnection, database: str, options: str = "") -> Connection:
    return psycopg.connect(
        host=login.host,
        port=login.port,
        dbname=database,
        user=login.user,
        password=login.password,
        sslmode=login.sslmode,
        require_auth=REQUIRED_AUTHENTICATION,
        options=options,
        autocommit=True,
        row_factory=tuple_row,
        connect_timeout=CONNECT_SECONDS,
        keepalives=1,
        keepalives_idle=20,
        keepalives_interval=10,
        keepalives_count=3,
        application_name="project-provisioner",
    )
