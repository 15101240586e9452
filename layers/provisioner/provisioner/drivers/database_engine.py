"""What the database stages ask of a database technology, whichever it is."""

from dataclasses import dataclass, field
from typing import Protocol

from provisioner.ownership import Ownership


@dataclass(frozen=True, slots=True)
class AdminConnection:
    """How the platform reaches a cluster: a direct connection, not through a pooler."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    #: libpq's sslmode: `require` or stricter wherever the network is not the machine itself.
    #: Source: PostgreSQL documentation, "SSL Support", table "SSL Mode Descriptions".
    sslmode: str = "require"


@dataclass(frozen=True, slots=True)
class TenantNames:
    """The names of one tenant's objects; each at most 63 bytes, PostgreSQL's limit."""

    database: str
    schema: str
    #: Owns the schema and cannot log in.
    owner_role: str
    #: Logs in for the customer; a member of the owner role.
    app_role: str


class DatabaseEngine(Protocol):
    """One database technology. Every method can be run twice, and by two callers at once.

    All raise `provisioner.errors.ProvisioningError`, and no other exception for a cause that the
    server, the network or the input has. No exception, nor its chain, holds a password.
    """

    def ensure_database(self, names: TenantNames, password: str, owner: Ownership) -> None:
        """Make the roles, the database and its privileges, and the app role's password.

        Raises CONFLICT when the database or a role exists and is not this project's.
        """

    def ensure_schema(self, names: TenantNames, owner: Ownership) -> None:
        """Make the schema, its grants and default privileges and the schema-version table.

        One transaction. Raises CONFLICT when the schema exists and is not the owner role's.
        """

    def check_database(self, names: TenantNames, password: str) -> str:
        """Log in as the app role and say in one sentence what answered."""

    def remove_database(self, names: TenantNames, owner: Ownership, *, only_this_job: bool) -> bool:
        """Remove the project's database and roles, with all sessions in them.

        Args:
            names: the tenant's.
            owner: whose they are to be; what is not the project's stays.
            only_this_job: whether what other jobs of the project made stays too.

        Returns:
            Whether something that another job of the project made is still there.

        Raises REMOVAL_FAILED when something that is to go is still there.
        """

    def check_schema(self, names: TenantNames, password: str) -> str:
        """As the app role, read the schema version and say in one sentence what answered."""
