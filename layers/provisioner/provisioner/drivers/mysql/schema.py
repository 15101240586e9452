"""What the platform keeps of a tenant's schema, and how a customer finds it.

The version of the schema stands in the platform's records, where no tenant can write it, nor read.

Sources: MySQL 8.0 Reference Manual, "CREATE TEMPORARY TABLE Statement".
"""

from __future__ import annotations

from provisioner.drivers.database_engine import TenantNames
from provisioner.drivers.mysql.accounts import granted_database, missing_privileges, own_grants
from provisioner.drivers.mysql.quoting import SQL, Identifier
from provisioner.drivers.mysql.session import Connection, execute
from provisioner.errors import ErrorType, failure

#: The version of the schema that `ensure_schema` makes.
SCHEMA_VERSION = 1

#: A temporary table is its session's alone, and goes with it: a run that dies leaves none, and one
#: of the customer's of this name is only hidden from the session meanwhile.
_TRIED = Identifier("provisioner_check")


def check_schema(tenant: Connection, names: TenantNames) -> str:
    """As the tenant's user, see that a customer can work in the schema; say so in one sentence.

    Args:
        tenant: a session of the tenant's user, with its database as default.
        names: the tenant's.

    Raises:
        SCHEMA_CREATION_FAILED: the session is in another schema, or a privilege is missing.
    """
    ((schema,),) = execute(tenant, SQL("SELECT DATABASE()"))
    missing = missing_privileges(own_grants(tenant), granted_database(tenant, names))
    if schema != names.schema or missing:
        raise failure(
            ErrorType.SCHEMA_CREATION_FAILED,
            "The schema of the project is not as it must be.",
            f"schema {schema}, missing privileges {missing}",
        )
    for statement in (
        SQL("CREATE TEMPORARY TABLE {} (id INT NOT NULL PRIMARY KEY)").format(_TRIED),
        SQL("INSERT INTO {} VALUES (1)").format(_TRIED),
        SQL("DROP TEMPORARY TABLE {}").format(_TRIED),
    ):
        execute(tenant, statement)
    return f"schema {names.schema} answered, and {names.app_role} may do all in it"
