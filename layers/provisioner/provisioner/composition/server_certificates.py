"""Whose certificates the drivers believe that do not read libpq's variable themselves."""

from dataclasses import replace

from provisioner.drivers.database_engine import AdminConnection
from provisioner.runtime.settings import ServerSettings


def with_certificates(admin: AdminConnection, settings: ServerSettings) -> AdminConnection:
    """Return a connection that believes the authorities of the layer's file."""
    return replace(admin, root_certificates=settings.pgsslrootcert)
