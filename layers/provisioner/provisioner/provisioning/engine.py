"""The technologies of tenant databases, and what customers get to know of a login to one."""

from __future__ import annotations

import secrets
import string
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provisioner.drivers.database_engine import TenantNames
    from provisioner.provisioning.clusters import Cluster


class Engine(StrEnum):
    """The technology of the tenant database."""

    POSTGRESQL = "postgresql"
    #: MySQL, and MariaDB, which speaks its language.
    MYSQL = "mysql"


#: Letters and digits only, so that a password needs no escaping in a URL; 43 of them are 256 bits.
_PASSWORD_ALPHABET = string.ascii_letters + string.digits
PASSWORD_LENGTH = 43

#: libpq's words as MySQL's programs know them. Source: MySQL 8.4 Reference Manual, "Command Options
#: for Connecting to the Server", --ssl-mode.
_SSL_MODES = {
    "disable": "DISABLED",
    "prefer": "PREFERRED",
    "require": "REQUIRED",
    "verify-ca": "VERIFY_CA",
    "verify-full": "VERIFY_IDENTITY",
}


def connection_string(cluster: Cluster, tenant: TenantNames, password: str | None = None) -> str:
    """Write the URL of the tenant database; without a password unless one is given.

    Sources: PostgreSQL documentation, "Connection URIs"; MySQL 8.4 Reference Manual, "Connecting
    to the Server Using URI-Like Strings or Key-Value Pairs".
    """
    login = tenant.app_role if password is None else f"{tenant.app_role}:{password}"
    endpoint = cluster.endpoint
    place = f"{login}@{endpoint.host}:{endpoint.port}/{tenant.database}"
    if cluster.engine is Engine.MYSQL:
        return f"mysql://{place}?ssl-mode={_SSL_MODES[cluster.sslmode]}"
    return f"postgresql://{place}?sslmode={cluster.sslmode}"


def login_secret(cluster: Cluster, tenant: TenantNames, password: str) -> dict[str, Any]:
    """Return what the secret with the app role's login holds."""
    endpoint = cluster.endpoint
    return {
        "engine": str(cluster.engine),
        "host": endpoint.host,
        "port": endpoint.port,
        "dbname": tenant.database,
        "schema": tenant.schema,
        "username": tenant.app_role,
        "password": password,
        "connection_string": connection_string(cluster, tenant, password),
    }


def new_password(length: int = PASSWORD_LENGTH) -> str:
    """Make a password from the operating system's cryptographic generator."""
    return "".join(secrets.choice(_PASSWORD_ALPHABET) for _ in range(length))
