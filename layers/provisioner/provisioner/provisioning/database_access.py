"""How the stages reach a cluster: its driver, with the platform's login."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from provisioner.aws_types import SecretsManagerClient
from provisioner.drivers.database_engine import AdminConnection
from provisioner.drivers.secrets import read_secret
from provisioner.errors import ErrorType
from provisioner.provisioning.clusters import Cluster
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.minute_cache import MinuteCache


class Servers[Driver]:
    """The database servers, each reached by the driver of its technology."""

    def __init__(
        self,
        secrets_manager: SecretsManagerClient,
        drivers: Mapping[Engine, Callable[[AdminConnection], Driver]],
        kept: MinuteCache[AdminConnection] | None = None,
    ) -> None:
        """Bind to what holds the platform's logins.

        Args:
            secrets_manager: Secrets Manager.
            drivers: make the driver of a cluster from the platform's login on it.
            kept: keeps logins.
        """
        self._client = secrets_manager
        self._drivers = drivers
        self._kept = kept or MinuteCache()

    def connect(self, cluster: Cluster, final: ErrorType) -> Driver:
        """Return the driver of a cluster.

        Args:
            cluster: the cluster.
            final: the error type of an admin secret that is not there, or not what it must be.
        """
        return self._drivers[cluster.engine](self._read_login(cluster, final))

    def ways_in(
        self, cluster: Cluster, final: ErrorType, *, may_be_kept: bool = False
    ) -> tuple[Driver, ...]:
        """Return the driver of a cluster, and one that goes the customers' way if that differs.

        The second is for logins of the tenant alone: the platform itself does nothing through a
        pooler.

        Args:
            cluster: the cluster.
            final: as of `connect`.
            may_be_kept: whether the login may be as it was in the last minute. One that the server
                refuses is read anew then, in case an operator has just changed it.
        """
        read = self._kept_login if may_be_kept else self._read_login
        admin, driver = read(cluster, final), self._drivers[cluster.engine]
        if cluster.customers is None:
            return (driver(admin),)
        host, port = cluster.customers.host, cluster.customers.port
        return driver(admin), driver(replace(admin, host=host, port=port, renew=None))

    def _kept_login(self, cluster: Cluster, final: ErrorType) -> AdminConnection:
        key = cluster.model_dump_json()
        kept = self._kept.get(key)

        def read() -> AdminConnection:
            return self._kept.keep(key, self._read_login(cluster, final))

        return read() if kept is None else replace(kept, renew=read)

    def _read_login(self, cluster: Cluster, final: ErrorType) -> AdminConnection:
        value = read_secret(self._client, cluster.admin_secret_arn, final=final)
        return AdminConnection(
            host=cluster.host,
            port=cluster.port,
            user=str(value["username"]),
            password=str(value["password"]),
            sslmode=cluster.sslmode,
        )
