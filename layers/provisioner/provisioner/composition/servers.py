"""The database servers of a deployment, for the functions that reach them."""

from collections.abc import Callable
from dataclasses import replace

from provisioner.drivers.database_engine import AdminConnection
from provisioner.provisioning.database_access import Servers
from provisioner.provisioning.engine import Engine
from provisioner.runtime import aws
from provisioner.runtime.settings import ServerSettings


def servers[Driver](
    settings: ServerSettings,
    postgresql: Callable[[AdminConnection], Driver],
    mysql: Callable[[AdminConnection], Driver],
) -> Servers[Driver]:
    """Bind the servers to their drivers.

    MySQL's driver is handed the certificates that it trusts: those of the authorities in
    the file of the layer. libpq reads the variable itself.
    """
    return Servers(
        aws.client("secretsmanager"),
        {
            Engine.POSTGRESQL: postgresql,
            Engine.MYSQL: lambda admin: mysql(
                replace(admin, root_certificates=settings.pgsslrootcert)
            ),
        },
    )
