"""The roles of a tenant: the one that owns, and the one that logs in.

Sources: PostgreSQL documentation, "CREATE ROLE", "GRANT", "Role Membership", "DROP OWNED".
"""

from __future__ import annotations

from psycopg import sql

from provisioner.drivers.database_engine import AdminConnection, TenantNames
from provisioner.drivers.postgresql.errors import conflict
from provisioner.drivers.postgresql.session import (
    Connection,
    connect_as_platform,
    lock_database,
)
from provisioner.errors import ErrorType, failure
from provisioner.ownership import Claim, Ownership, tags_of_comment

#: From this version on, who creates a role is its administrator, and a grant says what it allows.
#: Source: PostgreSQL documentation, release notes of version 16.
_VERSION_16 = 160_000


def is_16(connection: Connection) -> bool:
    """Whether a grant of a role says what it allows, and who granted it."""
    return connection.info.server_version >= _VERSION_16


def look_for_roles(connection: Connection, names: TenantNames, owner: Ownership) -> set[str]:
    """Return which of the tenant's roles exist.

    Raises:
        CONFLICT: one is not this project's.
    """
    roles = _roles(connection, names)
    for role, comment in roles.items():
        if not owner.owns_comment(comment):
            raise conflict("role", role)
    return set(roles)


def claimed_roles(connection: Connection, names: TenantNames, claim: Claim) -> list[str]:
    """Return which of the tenant's roles are claimed, the app role first."""
    roles = _roles(connection, names)
    return [role for role, comment in roles.items() if claim(tags_of_comment(comment))]


def _roles(connection: Connection, names: TenantNames) -> dict[str, str | None]:
    """Return the comments of the tenant's roles, the app role's first."""
    rows = connection.execute(
        "SELECT rolname, pg_catalog.shobj_description(oid, 'pg_authid') FROM pg_catalog.pg_roles"
        " WHERE rolname = ANY(%s) ORDER BY rolname",
        ([names.owner_role, names.app_role],),
    ).fetchall()
    return dict(rows)


def create_role(
    connection: Connection, role: str, options: sql.Composable, owner: Ownership
) -> None:
    """Make a role with its marker in one transaction, so that none is ever without."""
    with connection.transaction():
        connection.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(role), options))
        connection.execute(
            sql.SQL("COMMENT ON ROLE {} IS {}").format(
                sql.Identifier(role), sql.Literal(owner.comment())
            )
        )


def set_password(connection: Connection, role: str, password: str) -> None:
    """Give a role a password."""
    connection.execute(
        sql.SQL("ALTER ROLE {} PASSWORD {}").format(
            sql.Identifier(role), sql.Literal(verifier(connection, role, password))
        )
    )


def verifier(connection: Connection, role: str, password: str) -> str:
    """Compute the SCRAM verifier here, so that the server never sees the password.

    Source: RFC 5803; PostgreSQL documentation, "PQencryptPasswordConn".
    """
    return connection.pgconn.encrypt_password(
        password.encode(), role.encode(), b"scram-sha-256"
    ).decode()


def join_role(connection: Connection, role: str) -> None:
    """Let the platform role do what a role may do."""
    options = sql.SQL("WITH INHERIT TRUE, SET FALSE" if is_16(connection) else "")
    connection.execute(sql.SQL("GRANT {} TO CURRENT_USER {}").format(sql.Identifier(role), options))


def let_act_as(connection: Connection, role: str) -> None:
    """Let the platform role act as a role, by SET ROLE alone."""
    options = sql.SQL("WITH SET TRUE, INHERIT FALSE" if is_16(connection) else "")
    connection.execute(sql.SQL("GRANT {} TO CURRENT_USER {}").format(sql.Identifier(role), options))


def leave_role(connection: Connection, role: str) -> None:
    """Take back what `join_role` or `let_act_as` granted."""
    options = sql.SQL("GRANTED BY CURRENT_USER" if is_16(connection) else "")
    connection.execute(
        sql.SQL("REVOKE {} FROM CURRENT_USER {}").format(sql.Identifier(role), options)
    )


def drop_role(admin: AdminConnection, connection: Connection, role: str) -> None:
    """Remove a role, and what is granted to it in databases that stay.

    Every tenant may grant what is his to any role of the cluster, or name it in a policy, and the
    server removes no role that this is so of: one tenant would keep another from being removed.

    Args:
        admin: the platform role's login.
        connection: the session that holds the lock of the role's tenant; it takes those of the
            other tenants too.
        role: the role.

    Raises:
        REMOVAL_FAILED: it owns something, such as a copy of the tenant's database.
    """
    for database in _databases_of_role(connection, role):
        lock_database(connection, database)
        # Whoever had the lock may have removed the database.
        owns = _databases_of_role(connection, role).get(database)
        if owns is None:
            continue
        if owns:
            raise failure(
                ErrorType.REMOVAL_FAILED,
                f"The role {role} owns something in the database {database}; give it to another "
                "role or remove it.",
                f"role {role}: pg_shdepend names it as an owner in {database}",
            )
        with connect_as_platform(admin, database) as other:
            _drop_grants(other, role)
    connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


def _databases_of_role(connection: Connection, role: str) -> dict[str, bool]:
    """Return in which databases something depends on a role, and whether it owns it."""
    rows = connection.execute(
        "SELECT datname, pg_catalog.bool_or(deptype = 'o') FROM pg_catalog.pg_shdepend"
        " JOIN pg_catalog.pg_database ON pg_database.oid = dbid"
        " JOIN pg_catalog.pg_roles ON pg_roles.oid = refobjid"
        " WHERE refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND rolname = %s"
        " GROUP BY datname ORDER BY datname",
        (role,),
    ).fetchall()
    return dict(rows)


def _drop_grants(connection: Connection, role: str) -> None:
    """Take back what is granted to a role in this database, where it owns nothing.

    Only who may do what an object's owner may can take back what the owner has granted.
    """
    with connection.transaction():
        owners = connection.execute(
            "SELECT DISTINCT pg_catalog.pg_get_userbyid(ownership.refobjid)"
            " FROM pg_catalog.pg_shdepend AS granted"
            " JOIN pg_catalog.pg_shdepend AS ownership USING (dbid, classid, objid)"
            " JOIN pg_catalog.pg_database ON pg_database.oid = dbid"
            " JOIN pg_catalog.pg_roles AS grantee ON grantee.oid = granted.refobjid"
            " WHERE datname = pg_catalog.current_database() AND grantee.rolname = %s"
            " AND granted.deptype = 'a' AND ownership.deptype = 'o'"
            " AND pg_catalog.pg_get_userbyid(ownership.refobjid) <> current_user",
            (role,),
        ).fetchall()
        joined = {role, *(owner for (owner,) in owners)}
        for name in sorted(joined):
            join_role(connection, name)
        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        for name in sorted(joined):
            leave_role(connection, name)
