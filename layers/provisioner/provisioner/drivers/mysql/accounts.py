"""The user that a customer logs in as: what it may do, and its password.

A user has all that a schema's owner needs in the tenant's own database, and nothing else: no
privilege on the server, none on another database, and none to give away. What an operator grants
it on single tables, views or routines elsewhere is left, and so are roles.

A user is a name at hosts. The tenant's has the host `%`, which stands for all; a user of the same
name at a host of its own would be taken before it, for whoever comes from there.

Sources: MySQL 8.0 Reference Manual, "Privileges Provided by MySQL", "CREATE USER Statement", "GRANT
Statement", "SHOW GRANTS Statement", "Privilege Restriction Using Partial Revokes", "Access Control,
Stage 1"; MariaDB documentation, "CREATE USER", "SHOW CREATE USER", "SHOW GRANTS".
"""

import hashlib
import re
import secrets
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from provisioner.drivers.database_engine import AdminConnection, TenantNames
from provisioner.drivers.drift import Drift
from provisioner.drivers.mysql.errors import (
    ignore,
    is_there_already,
    is_unknown_thread,
    is_wrong_password,
)
from provisioner.drivers.mysql.ledger import Kind, forget, record
from provisioner.drivers.mysql.quoting import (
    ANY_HOST,
    SQL,
    Composable,
    GrantedDatabase,
    Literal,
    account,
)
from provisioner.drivers.mysql.session import (
    Connection,
    connect_as_tenant,
    execute,
    is_mariadb,
)
from provisioner.errors import ErrorType, conflict, failure
from provisioner.ownership import Ownership

#: What the owner of a schema needs, and MySQL and MariaDB both have.
PRIVILEGES = (
    "ALTER",
    "ALTER ROUTINE",
    "CREATE",
    "CREATE ROUTINE",
    "CREATE TEMPORARY TABLES",
    "CREATE VIEW",
    "DELETE",
    "DROP",
    "EVENT",
    "EXECUTE",
    "INDEX",
    "INSERT",
    "LOCK TABLES",
    "REFERENCES",
    "SELECT",
    "SHOW VIEW",
    "TRIGGER",
    "UPDATE",
)

#: Among the privileges of a user, though a grant tells of it elsewhere: it may give them to others.
_GRANT_OPTION = "GRANT OPTION"

#: A session that is open may set the user's password until it is ended.
_SHUT_OUT_TRIES = 5

#: Privileges on all databases, or on those that a pattern matches. Others, on a single table, have
#: more after the dot; a role that is granted has no ON.
_GRANT = re.compile(r"GRANT (?P<privileges>[A-Z ,_]+) ON (?P<scope>\*|`(?:[^`]|``)*`)\.\* TO ")
_WITH_GRANT_OPTION = re.compile(r" WITH .*\bGRANT OPTION\b")

#: A string, or a quoted name, in what SHOW CREATE USER gives.
_QUOTED = re.compile(r"'(?:[^'\\]|\\.|'')*'|`(?:[^`]|``)*`")


@dataclass(frozen=True, slots=True)
class User:
    """A user as the server shows it."""

    #: Connections at once; 0 where it has no limit of its own.
    connection_limit: int
    requires_tls: bool
    is_locked: bool
    #: Whether the password loses its force with time.
    expires: bool
    #: Privileges by what they are on: `*`, or the pattern of a database's name.
    grants: dict[str, set[str]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the tenant's user is to be."""

    names: TenantNames
    #: Connections at once, of a user that has no limit; any other limit is an operator's.
    connections: int
    #: Customers must come by TLS where the platform does.
    requires_tls: bool
    database: GrantedDatabase


def granted_database(connection: Connection, names: TenantNames) -> GrantedDatabase:
    """Return the tenant's database as this server's grants name it.

    Args:
        connection: a session of the platform, or of the tenant.
        names: the tenant's.
    """
    if is_mariadb(connection):
        return GrantedDatabase(names.database, is_literal=False)
    found = execute(connection, SQL("SHOW VARIABLES LIKE 'partial_revokes'"))
    return GrantedDatabase(names.database, is_literal=any(value == "ON" for _, value in found))


def find_user(connection: Connection, names: TenantNames, *, is_ours: bool) -> User | None:
    """Return the tenant's user.

    Args:
        connection: a session of the platform.
        names: the tenant's.
        is_ours: whether the ledger says that it is the project's.

    Raises:
        CONFLICT: it is not the project's, or the name is another user's at a host too.
    """
    hosts = _hosts(connection, names)
    for host in sorted(hosts):
        if host != ANY_HOST or not is_ours:
            raise conflict("user", f"{names.app_role}@{host}")
    return _look(connection, names) if hosts else None


def has_user(connection: Connection, names: TenantNames) -> bool:
    """Whether there is a user of the tenant's name and host, whoever made it."""
    return ANY_HOST in _hosts(connection, names)


def _hosts(connection: Connection, names: TenantNames) -> set[str]:
    statement = SQL("SELECT Host FROM mysql.user WHERE User = {}")
    rows = execute(connection, statement.format(Literal(names.app_role)))
    return {_text(host) for (host,) in rows}


def _look(connection: Connection, names: TenantNames) -> User:
    login = account(names.app_role)
    ((made, *_),) = execute(connection, SQL("SHOW CREATE USER {}").format(login))
    clauses = _QUOTED.sub("''", _text(made)).upper()
    limit = re.search(r"\bMAX_USER_CONNECTIONS (\d+)", clauses)
    requires = re.search(r"\bREQUIRE (\w+)", clauses)
    return User(
        connection_limit=int(limit[1]) if limit else 0,
        requires_tls=requires is not None and requires[1] != "NONE",
        is_locked=re.search(r"\bACCOUNT LOCK\b", clauses) is not None,
        expires="PASSWORD EXPIRE NEVER" not in clauses,
        grants=grants_in(execute(connection, SQL("SHOW GRANTS FOR {}").format(login))),
    )


def grants_in(rows: list[tuple[object, ...]]) -> dict[str, set[str]]:
    """Read rows of SHOW GRANTS, as `User.grants`; of what is on all databases there can be several.

    Not of information_schema: to answer that, the server goes through the users of all tenants.
    """
    grants: defaultdict[str, set[str]] = defaultdict(set)
    for text in (_text(row[0]) for row in rows):
        match = _GRANT.match(text)
        if match is None:
            continue
        scope = re.sub("^`|`$", "", match["scope"]).replace("``", "`")
        # USAGE says that there is no privilege at all.
        grants[scope].update(set(re.split(", ?", match["privileges"])) - {"USAGE"})
        if "ALL PRIVILEGES" in grants[scope]:
            grants[scope].update(PRIVILEGES)
        # After the account's name, which quotes hold.
        if _WITH_GRANT_OPTION.search(_QUOTED.sub("''", text)):
            grants[scope].add(_GRANT_OPTION)
    return {scope: privileges for scope, privileges in grants.items() if privileges}


def find_missing_privileges(grants: dict[str, set[str]], database: GrantedDatabase) -> list[str]:
    """Return the privileges that the tenant is to have in its database and has not."""
    return [it for it in PRIVILEGES if it not in grants.get(database.pattern, ())]


def find_user_drift(user: User, wanted: Wanted) -> list[Drift]:
    """Name what of the tenant's user is not as it must be."""
    is_missing = bool(find_missing_privileges(user.grants, wanted.database))
    return [
        Drift(f"user {wanted.names.app_role}", what)
        for what in (
            *(clause for clause, _ in _alterations(user, wanted)),
            *([f"privileges on {wanted.names.database}"] if is_missing else []),
            *_excess(user, wanted),
        )
    ]


def put_user_right(connection: Connection, user: User, wanted: Wanted) -> None:
    """Give the user back what it must have, and take what it must not.

    To take single privileges, one must have them and may give them. So all are taken at once, which
    who may make users can do, and what the user needs is granted anew: with what is too much goes
    what an operator has granted on single tables.
    """
    login = account(wanted.names.app_role)
    for _, clause in _alterations(user, wanted):
        execute(connection, SQL("ALTER USER {} {}").format(login, clause))
    excess = _excess(user, wanted)
    if excess:
        execute(connection, _revoke(wanted.names))
    if excess or find_missing_privileges(user.grants, wanted.database):
        execute(connection, _grant(wanted))


def _alterations(user: User, wanted: Wanted) -> Iterator[tuple[str, Composable]]:
    """Yield what is not as it must be beside the privileges, with the clause that puts it right."""
    if user.connection_limit == 0:
        yield "MAX_USER_CONNECTIONS", _limit(wanted.connections)
    if wanted.requires_tls and not user.requires_tls:
        yield "REQUIRE SSL", SQL("REQUIRE SSL")
    if user.is_locked:
        yield "ACCOUNT UNLOCK", SQL("ACCOUNT UNLOCK")
    if user.expires:
        yield "PASSWORD EXPIRE NEVER", SQL("PASSWORD EXPIRE NEVER")


def _excess(user: User, wanted: Wanted) -> list[str]:
    """Name what the user may do and must not."""
    return [
        *user.grants.get(wanted.database.pattern, set()).intersection({_GRANT_OPTION}),
        *(f"privileges on {it}.*" for it in user.grants if it != wanted.database.pattern),
    ]


def create_user(connection: Connection, wanted: Wanted, password: str, owner: Ownership) -> None:
    """Make the user that was not there a moment ago, and grant it what it needs.

    Raises:
        CONFLICT: someone else has made it meanwhile.
    """
    name = wanted.names.app_role
    record(connection, Kind.USER, name, owner)
    with ignore(is_there_already):
        execute(
            connection,
            SQL("CREATE USER {} {}{} {} PASSWORD EXPIRE NEVER").format(
                account(name),
                _identify_by(connection, password),
                SQL(" REQUIRE SSL" if wanted.requires_tls else ""),
                _limit(wanted.connections),
            ),
        )
        execute(connection, _grant(wanted))
        return
    forget(connection, Kind.USER, name)
    raise conflict("user", name)


def _grant(wanted: Wanted) -> SQL:
    return SQL("GRANT {} ON {} TO {}").format(
        SQL(", ").join(map(SQL, PRIVILEGES)), wanted.database, account(wanted.names.app_role)
    )


def _revoke(names: TenantNames) -> SQL:
    return SQL("REVOKE ALL PRIVILEGES, GRANT OPTION FROM {}").format(account(names.app_role))


def _limit(connections: int) -> SQL:
    return SQL("WITH MAX_USER_CONNECTIONS {}").format(Literal(connections))


def set_password(connection: Connection, names: TenantNames, password: str) -> None:
    """Give the user a password; sessions that are open go on."""
    execute(
        connection,
        SQL("ALTER USER {} {}").format(account(names.app_role), _identify_by(connection, password)),
    )


def set_own_password(connection: Connection, password: str) -> None:
    """Give the user of a session another password; sessions that are open go on.

    The user is named in full: MariaDB 10.11 takes `ALTER USER CURRENT_USER()` and changes nothing.
    """
    ((current,),) = execute(connection, SQL("SELECT CURRENT_USER()"))
    name, _, host = current.rpartition("@")
    statement = SQL("ALTER USER {}@{} {}").format(
        Literal(name), Literal(host), _identify_by(connection, password)
    )
    execute(connection, statement)


def see_that_it_can_be_changed(connection: Connection, names: TenantNames) -> None:
    """Change the user to what it is.

    Raises:
        pymysql.Error: as the server says where the platform may not change it, or the server can
            not write now.
    """
    limit = _look(connection, names).connection_limit
    execute(connection, SQL("ALTER USER {} {}").format(account(names.app_role), _limit(limit)))


def _identify_by(connection: Connection, password: str) -> SQL:
    """Return the clause that sets a password.

    MariaDB writes it into the general query log as it stands, so it gets what it would make of it.
    MySQL writes another text there, and what it makes is its own choice.

    Sources: MySQL 8.0 Reference Manual, "Passwords and Logging"; MariaDB documentation,
    "Authentication Plugin: mysql_native_password".
    """
    if not is_mariadb(connection):
        return SQL("IDENTIFIED BY {}").format(Literal(password))
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    twice = hashlib.sha1(once, usedforsecurity=False).hexdigest()
    return SQL("IDENTIFIED BY PASSWORD {}").format(Literal(f"*{twice.upper()}"))


def shut_out(admin: AdminConnection, connection: Connection, names: TenantNames) -> None:
    """Take everything from a user that is to go, and end its sessions.

    The platform may not end another's session. So it gives the user a password, by which it logs in
    as the user, who may end its own. Of what runs by itself, events, none begins any more: it needs
    a privilege that is taken.

    Args:
        admin: names the server.
        connection: a session of the platform.
        names: the tenant's.

    Raises:
        TIMEOUT: a session of the user sets another password each time.
    """
    login = account(names.app_role)
    for _ in range(_SHUT_OUT_TRIES):
        password = secrets.token_hex(20)
        for statement in (
            SQL(
                "ALTER USER {} {} REQUIRE NONE WITH MAX_USER_CONNECTIONS 0 PASSWORD EXPIRE NEVER"
                " ACCOUNT UNLOCK"
            ).format(login, _identify_by(connection, password)),
            _revoke(names),
        ):
            execute(connection, statement)
        with ignore(is_wrong_password):
            _end_sessions(admin, names, password)
            return
    raise failure(
        ErrorType.TIMEOUT,
        f"We cannot log in as {names.app_role} to end its sessions: it changes its password all "
        "the while, or there is a user of that name at a host. End the sessions, or remove that "
        "user.",
        f"user {names.app_role}: the password that was just set is wrong",
    )


def _end_sessions(admin: AdminConnection, names: TenantNames, password: str) -> None:
    """As the tenant's user, end all other sessions of it."""
    with connect_as_tenant(admin, names, password, to_database=False) as own:
        ((this,),) = execute(own, SQL("SELECT CONNECTION_ID()"))
        for session in execute(own, SQL("SHOW PROCESSLIST")):
            if session[0] != this:
                with ignore(is_unknown_thread):
                    execute(own, SQL("KILL {}").format(Literal(int(session[0]))))


def drop_user(connection: Connection, names: TenantNames) -> None:
    """Remove the user, with all that is granted to it."""
    execute(connection, SQL("DROP USER IF EXISTS {}").format(account(names.app_role)))


def _text(value: object) -> str:
    """Return a text that some versions give as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
