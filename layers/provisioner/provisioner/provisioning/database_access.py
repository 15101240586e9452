"""How the stages reach a cluster: the engine for it, with the platform's login."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from provisioner.drivers.database_engine import AdminConnection, DatabaseEngine
from provisioner.drivers.secrets import read_secret
from provisioner.errors import ErrorType
from provisioner.provisioning.clusters import Cluster
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.minute_cache import MinuteCache

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient

#: Makes the engine of a cluster from the platform's login on it, for each technology.
type Engines = Mapping[Engine, Callable[[AdminConnection], DatabaseEngine]]


def admin_connection(
    secrets_manager: SecretsManagerClient,
    cluster: Cluster,
    final: ErrorType = ErrorType.DATABASE_CREATION_FAILED,
) -> AdminConnection:
    """Read how the platform reaches a cluster.

    Args:
        secrets_manager: Secrets Manager.
        cluster: the cluster.
        final: the error type of an admin secret that is not there, or not what it must be.
    """
    value = read_secret(secrets_manager, cluster.admin_secret_arn, final=final)
    return AdminConnection(
        host=cluster.host,
        port=cluster.port,
        user=str(value["username"]),
        password=str(value["password"]),
        sslmode=cluster.sslmode,
    )


class AdminLogins:
    """The platform's logins on the clusters; each is kept for a minute.

    A login that the server refuses is read anew, in case an operator has just changed it.
    """

    def __init__(
        self,
        secrets_manager: SecretsManagerClient,
        kept: MinuteCache[AdminConnection] | None = None,
    ) -> None:
        """Bind to Secrets Manager, and to what keeps the logins."""
        self._client = secrets_manager
        self._kept = kept or MinuteCache()

    def connection(self, cluster: Cluster) -> AdminConnection:
        """Return how the platform reaches a cluster.

        Raises:
            DATABASE_CREATION_FAILED: the admin secret is not there, or not what it must be.
        """
        key = cluster.model_dump_json()
        kept = self._kept.get(key)

        def read() -> AdminConnection:
            return self._kept.keep(key, admin_connection(self._client, cluster))

        return read() if kept is None else replace(kept, renew=read)


def ways_in(
    engines: Engines, cluster: Cluster, admin: AdminConnection
) -> tuple[DatabaseEngine, ...]:
    """Return the engine of a cluster, and one that goes the customers' way where that differs.

    The second is for logins of the tenant alone: the platform itself does nothing through a pooler.
    """
    connect = engines[cluster.engine]
    if cluster.customers is None:
        return (connect(admin),)
    theirs = replace(admin, host=cluster.customers.host, port=cluster.customers.port, renew=None)
    return connect(admin), connect(theirs)
