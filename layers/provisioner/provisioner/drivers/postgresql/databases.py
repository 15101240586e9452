"""The database of a tenant: looked for, made and opened, and claimed for removal.

Sources: PostgreSQL documentation, "CREATE DATABASE", "ALTER DATABASE", "Privileges", "pg_database".
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from provisioner.drivers.database_engine import TenantNames
from provisioner.drivers.drift import Drift
from provisioner.drivers.postgresql.roles import NO_LIMIT
from provisioner.drivers.postgresql.session import Connection
from provisioner.errors import conflict
from provisioner.ownership import Claim, Ownership, tags_of_comment

#: Connections to a tenant's database beyond the app role's own, so that a tenant who uses all of
#: his does not keep the platform out.
_PLATFORM_CONNECTIONS = 3

#: `datconnlimit` of a database whose DROP was interrupted. Source: PostgreSQL documentation,
#: "pg_database".
_INVALID_DATABASE = -2

#: What a login needs for itself: sessions act as the owner role, unless something resets that.
_APP_ROLE_PRIVILEGES = ("CONNECT", "TEMPORARY")

#: What sessions of the tenant need. With CREATE come schemas, trusted extensions and publications;
#: neither the settings of the database, nor its connection limit, nor who may connect.
_OWNER_ROLE_PRIVILEGES = ("CREATE", "TEMPORARY")


#: Milliseconds. They are set when the database is made and not again, so that an operator can
#: change them for one tenant; as defaults: a tenant may change them for a session of his own.
_TIME_OUTS = {
    "statement_timeout": 60_000,
    "lock_timeout": 30_000,
    "idle_in_transaction_session_timeout": 60_000,
}


@dataclass(frozen=True, slots=True)
class Database:
    """A database as the catalogue shows it."""

    is_the_platforms: bool
    allows_connections: bool
    connection_limit: int
    comment: str | None
    #: Whether PUBLIC is shut out, and the tenant's roles have what they need.
    has_privileges: bool
    #: Whether the app role may act as the owner role.
    has_membership: bool

    @property
    def is_invalid(self) -> bool:
        """Whether its DROP was interrupted, so that nothing but another DROP can be done to it."""
        return self.connection_limit == _INVALID_DATABASE

    def is_unmarked(self, names: TenantNames, roles: Collection[str]) -> bool:
        """Whether it is what a crash left without its marker, as `look_for_database` says.

        Args:
            names: the tenant's.
            roles: the tenant's roles that are there and have the marker.
        """
        return (
            self.comment is None
            and self.is_the_platforms
            and not self.allows_connections
            and set(roles) == {names.owner_role, names.app_role}
        )

    def has_wrong_limit(self, connections: int) -> bool:
        """Whether it has no limit, or lets in too few for the app role and the platform.

        Args:
            connections: those of the app role at once.
        """
        least = connections + _PLATFORM_CONNECTIONS
        return self.connection_limit == NO_LIMIT or self.connection_limit < least

    def drift(self, names: TenantNames, connections: int) -> list[Drift]:
        """Name what is not as it must be.

        Args:
            names: the tenant's.
            connections: of the app role at once.
        """
        database = f"database {names.database}"
        return [
            drift
            for drift, is_right in (
                (Drift(database, "OWNER"), self.is_the_platforms),
                (Drift(database, "ALLOW_CONNECTIONS"), self.allows_connections),
                (Drift(database, "CONNECTION LIMIT"), not self.has_wrong_limit(connections)),
                (Drift(database, "privileges"), self.has_privileges),
                (
                    Drift(f"role {names.app_role}", f"membership in {names.owner_role}"),
                    self.has_membership,
                ),
            )
            if not is_right
        ]


#: The fields of `Database`.
_DATABASE: LiteralString = """
SELECT pg_catalog.pg_get_userbyid(datdba) = current_user, datallowconn, datconnlimit,
       pg_catalog.shobj_description(oid, 'pg_database'),
       NOT EXISTS (
           SELECT FROM pg_catalog.aclexplode(
               coalesce(datacl, pg_catalog.acldefault('d', datdba))) AS privilege
           WHERE privilege.grantee = 0)
       AND ARRAY(
           SELECT pg_catalog.concat(rolname, ' ', privilege_type)
           FROM pg_catalog.aclexplode(datacl) AS privilege
           JOIN pg_catalog.pg_roles ON pg_roles.oid = privilege.grantee) @> %(privileges)s,
       EXISTS (
           SELECT FROM pg_catalog.pg_auth_members
           JOIN pg_catalog.pg_roles AS role ON role.oid = roleid
           JOIN pg_catalog.pg_roles AS login ON login.oid = member
           WHERE role.rolname = %(owner_role)s AND login.rolname = %(app_role)s)
FROM pg_catalog.pg_database WHERE datname = %(database)s
"""


def look_for_database(
    connection: Connection, names: TenantNames, owner: Ownership, roles: Collection[str]
) -> Database | None:
    """Return the tenant's database.

    CREATE DATABASE cannot stand in a transaction, so a crash can come between it and the marker.
    What that crash leaves is recognized: a database of the tenant's name without any comment, owned
    by the platform role, that does not allow connections yet, and beside it both roles with this
    project's marker. The roles are made before the database and marked in the transaction that
    makes them, and they are looked for before this run makes any; so it was this project's run
    that was about to make the database. Nothing is lost if it was not: what allows no connections
    holds nothing that anyone put there.

    Raises:
        CONFLICT: it is not this project's.
    """
    found = _find_database(connection, names)
    if found is None or owner.owns_comment(found.comment) or found.is_unmarked(names, roles):
        return found
    raise conflict("database", names.database)


def _find_database(connection: Connection, names: TenantNames) -> Database | None:
    """Return the database of the tenant's name, whoever made it."""
    row = connection.execute(
        _DATABASE,
        {
            "privileges": [
                *(f"{names.app_role} {privilege}" for privilege in _APP_ROLE_PRIVILEGES),
                *(f"{names.owner_role} {privilege}" for privilege in _OWNER_ROLE_PRIVILEGES),
            ],
            "app_role": names.app_role,
            "owner_role": names.owner_role,
            "database": names.database,
        },
    ).fetchone()
    return None if row is None else Database(*row)


def ensure_database(
    connection: Connection,
    names: TenantNames,
    owner: Ownership,
    connections: int,
    found: Database | None,
) -> None:
    """Make the database, or of what was found put right what has drifted.

    Args:
        connection: the session that holds the tenant's lock.
        names: the tenant's; its roles exist.
        owner: whose marker a new database gets.
        connections: those of the app role at once.
        found: what `look_for_database` returned.
    """
    name, limit = sql.Identifier(names.database), connections + _PLATFORM_CONNECTIONS
    if found is not None and found.is_invalid:
        # Nothing but this can be done with it: an ALTER or a login ends the session.
        connection.execute(sql.SQL("DROP DATABASE {}").format(name))
        found = None
    if found is None:
        # template0 is never connected to, so that no session is in the way; to copy it by way of
        # the log spares the whole cluster two checkpoints.
        connection.execute(
            sql.SQL(
                "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' STRATEGY WAL_LOG"
                " CONNECTION LIMIT {} ALLOW_CONNECTIONS false"
            ).format(name, limit)
        )
    elif found.has_wrong_limit(connections):
        connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(name, limit))
    if found is None or not (found.has_privileges and found.has_membership):
        _grant(connection, names)
    if found is not None and found.allows_connections:
        return
    if found is None or found.comment is None:
        for setting, milliseconds in _TIME_OUTS.items():
            change = sql.SQL("ALTER DATABASE {} SET {} = {}")
            connection.execute(change.format(name, sql.Identifier(setting), milliseconds))
        connection.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(name, owner.comment()))
    # Opened last: whoever can connect finds a database that is hardened and marked.
    connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))


def _grant(connection: Connection, names: TenantNames) -> None:
    """Shut PUBLIC out of the database, which a new one lets in, and let the tenant's roles in."""
    database = sql.Identifier(names.database)
    owner_role, app_role = sql.Identifier(names.owner_role), sql.Identifier(names.app_role)
    for statement in (
        sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database),
        sql.SQL("GRANT {} ON DATABASE {} TO {}").format(
            sql.SQL(", ").join(map(sql.SQL, _APP_ROLE_PRIVILEGES)), database, app_role
        ),
        sql.SQL("GRANT {} ON DATABASE {} TO {}").format(
            sql.SQL(", ").join(map(sql.SQL, _OWNER_ROLE_PRIVILEGES)), database, owner_role
        ),
        sql.SQL("GRANT {} TO {}").format(owner_role, app_role),
    ):
        connection.execute(statement)


def is_database_claimed(
    connection: Connection, names: TenantNames, claim: Claim, roles: list[str]
) -> bool:
    """Whether the tenant's database is there and claimed.

    One that a crash left without its marker is known by its roles, as `look_for_database` says.

    Args:
        connection: the session that holds the tenant's lock.
        names: the tenant's.
        claim: says by a marker whether it is claimed.
        roles: the tenant's roles that are.
    """
    found = _find_database(connection, names)
    return found is not None and (
        claim(tags_of_comment(found.comment)) or found.is_unmarked(names, roles)
    )


def is_open_and_claimed(connection: Connection, names: TenantNames, claim: Claim) -> bool:
    """Whether the tenant's database is there, claimed, and has been opened to the tenant."""
    found = _find_database(connection, names)
    return found is not None and found.allows_connections and claim(tags_of_comment(found.comment))


def drop_database(connection: Connection, names: TenantNames) -> None:
    """Remove the tenant's database, with all sessions in it."""
    connection.execute(
        sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(names.database))
    )
