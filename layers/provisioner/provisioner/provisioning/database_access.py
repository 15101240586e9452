"""How the stages reach a cluster: its driver, with the platform's login."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from provisioner.aws_types import SecretsManagerClient
from provisioner.drivers.database_engine import AdminConnection
from provisioner.drivers.secrets import PENDING, find_version, read_secret
from provisioner.errors import ErrorType
from provisioner.provisioning.clusters import Cluster
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.minute_cache import MinuteCache


class Servers[Driver]:
    """The database servers, each reached by the driver of its technology.

    A login that the server refuses is followed by the next: one that was kept by that which the
    secret holds now, and that one by the version `AWSPENDING`. So nobody is kept out while a
    rotation has changed the password on the server and not yet the secret, however long that lasts.
    """

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

    def connect_with(
        self, cluster: Cluster, login: Mapping[str, Any], or_with: Mapping[str, Any] | None = None
    ) -> Driver:
        """Return the driver of a cluster, with a login of the platform that the caller has read.

        Args:
            cluster: the cluster.
            login: what a version of its admin secret holds.
            or_with: likewise, for a server that refuses the first.
        """
        next_one = None if or_with is None else _admin(cluster, or_with)
        return self._drivers[cluster.engine](
            replace(_admin(cluster, login), renew=lambda: next_one)
        )

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
        login = _admin(cluster, read_secret(self._client, cluster.admin_secret_arn, final=final))
        return replace(login, renew=lambda: self._find_pending_login(cluster, login, final))

    def _find_pending_login(
        self, cluster: Cluster, refused: AdminConnection, final: ErrorType
    ) -> AdminConnection | None:
        """Return the login that a rotation is about to make the current one, if there is another.

        A rotation that has ended since `refused` was read has left it the label.
        """
        secret_id = cluster.admin_secret_arn
        pending = find_version(self._client, secret_id, label=PENDING, final=final)
        login = None if pending is None else _admin(cluster, pending.value)
        return None if login == refused else login


def _admin(cluster: Cluster, login: Mapping[str, Any]) -> AdminConnection:
    return AdminConnection(
        host=cluster.host,
        port=cluster.port,
        user=str(login["username"]),
        password=str(login["password"]),
        sslmode=cluster.sslmode,
    )
