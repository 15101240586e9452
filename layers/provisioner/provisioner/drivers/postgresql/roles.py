"""The roles of a tenant: the one that owns, and the one that logs in.

Sources: PostgreSQL documentation, "CREATE ROLE", "GRANT", "Role Membership", "DROP OWNED".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from psycopg import sql

from provisioner.drivers.database_engine import AdminConnection, TenantNames
from provisioner.drivers.drift import Drift
from provisioner.drivers.postgresql.session import (
    Connection,
    connect_as_platform,
    lock,
)
from provisioner.errors import ErrorType, conflict, failure
from provisioner.ownership import Claim, Ownership, tags_of_comment

#: The connection limit of a role, or of a database, that has none.
NO_LIMIT = -1

#: Attributes that only a superuser can take from a role; from a role that has one, in some
#: versions, nobody else can take anything.
_OF_SUPERUSERS = frozenset({"SUPERUSER", "REPLICATION", "BYPASSRLS"})


@dataclass(frozen=True, slots=True)
class Role:
    """A role of a tenant as the catalogue shows it."""

    comment: str | None
    connection_limit: int
    #: As CREATE ROLE names them, and VALID UNTIL where its password has an end.
    attributes: frozenset[str]

    @property
    def is_within_reach(self) -> bool:
        """Whether the platform may change it."""
        return not self.attributes & _OF_SUPERUSERS


def look_for_roles(connection: Connection, names: TenantNames, owner: Ownership) -> dict[str, Role]:
    """Return those of the tenant's roles that exist, by name.

    Raises:
        CONFLICT: one is not this project's.
    """
    roles = _roles(connection, names)
    for name, role in roles.items():
        if not owner.owns_comment(role.comment):
            raise conflict("role", name)
    return roles


def connection_limit(names: TenantNames, roles: Mapping[str, Role], default: int) -> int:
    """Return how many connections the app role may have at once.

    Args:
        names: the tenant's.
        roles: those that exist.
        default: of an app role that does not exist, or has no limit.
    """
    app_role = roles.get(names.app_role)
    if app_role is None or app_role.connection_limit == NO_LIMIT:
        return default
    return app_role.connection_limit


def find_role_drift(names: TenantNames, roles: Mapping[str, Role], limit: int) -> list[Drift]:
    """Name what of the tenant's roles is not as it must be.

    Args:
        names: the tenant's.
        roles: those that exist.
        limit: as `put_roles_right` takes it.
    """
    return [
        Drift(f"role {name}", what)
        for name, role in roles.items()
        for what, _ in _differences(names, name, role, limit)
    ]


def put_roles_right(
    connection: Connection, names: TenantNames, roles: Mapping[str, Role], limit: int
) -> None:
    """Give the tenant's roles back what they must have, and take what they must not.

    Args:
        connection: the session that holds the tenant's lock.
        names: the tenant's.
        roles: those that exist.
        limit: connections of an app role that has no limit; any other limit is an operator's.
    """
    for name, role in roles.items():
        options = [option for _, option in _differences(names, name, role, limit)]
        if options and role.is_within_reach:
            connection.execute(
                sql.SQL("ALTER ROLE {} {}").format(sql.Identifier(name), sql.SQL(" ").join(options))
            )


def _differences(
    names: TenantNames, name: str, role: Role, limit: int
) -> Iterator[tuple[str, sql.SQL | sql.Composed]]:
    """Yield what is not as it must be, each with the option of ALTER ROLE that puts it right."""
    wanted = frozenset({"LOGIN"} if name == names.app_role else ())
    for attribute in sorted(role.attributes ^ wanted):
        if attribute == "VALID UNTIL":
            yield attribute, sql.SQL("VALID UNTIL 'infinity'")
        else:
            yield attribute, sql.SQL(attribute if attribute in wanted else f"NO{attribute}")
    if name == names.app_role and role.connection_limit == NO_LIMIT:
        yield "CONNECTION LIMIT", sql.SQL("CONNECTION LIMIT {}").format(sql.Literal(limit))


def find_claimed_roles(connection: Connection, names: TenantNames, claim: Claim) -> list[str]:
    """Return which of the tenant's roles are claimed, the app role first."""
    roles = _roles(connection, names)
    return [name for name, role in roles.items() if claim(tags_of_comment(role.comment))]


def _roles(connection: Connection, names: TenantNames) -> dict[str, Role]:
    """Return the tenant's roles by name, the app role first."""
    rows = connection.execute(
        """
        SELECT rolname, pg_catalog.shobj_description(oid, 'pg_authid'), rolconnlimit,
               ARRAY(
                   SELECT attribute FROM (VALUES
                       ('LOGIN', rolcanlogin), ('SUPERUSER', rolsuper), ('CREATEDB', rolcreatedb),
                       ('CREATEROLE', rolcreaterole), ('REPLICATION', rolreplication),
                       ('BYPASSRLS', rolbypassrls), ('VALID UNTIL', rolvaliduntil < 'infinity'))
                       AS option (attribute, is_set)
                   WHERE is_set)
        FROM pg_catalog.pg_roles WHERE rolname = ANY(%s) ORDER BY rolname
        """,
        ([names.owner_role, names.app_role],),
    ).fetchall()
    return {
        name: Role(comment, limit, frozenset(attributes))
        for name, comment, limit, attributes in rows
    }


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


def join_role(connection: Connection, role: str, *, by_set_role: bool = False) -> None:
    """Let the platform role do what a role may do.

    Args:
        connection: of the platform role.
        role: the role.
        by_set_role: whether it may so by SET ROLE alone; by itself otherwise.
    """
    how = "WITH SET TRUE, INHERIT FALSE" if by_set_role else "WITH INHERIT TRUE, SET FALSE"
    connection.execute(
        sql.SQL("GRANT {} TO CURRENT_USER {}").format(sql.Identifier(role), sql.SQL(how))
    )


def leave_role(connection: Connection, role: str) -> None:
    """Take back what `join_role` granted."""
    connection.execute(
        sql.SQL("REVOKE {} FROM CURRENT_USER GRANTED BY CURRENT_USER").format(sql.Identifier(role))
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
        lock(connection, database)
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
