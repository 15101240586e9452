"""The servers of the instances of the local AWS's RDS.

Run as a process: `python -m provision_cli.local.instance_servers DIRECTORY OPERATION` reads JSON
from its input: which instance, and what the operation needs, a password among it. What happens to
one instance happens one after another. Each has a folder, which is removed with it.
"""

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from provision_cli.local.build import lock
from provision_cli.local.database_servers import DatabaseServer
from provision_cli.local.errors import LocalStackError
from provision_cli.local.mariadb_server import MariadbServer
from provision_cli.local.postgresql_server import PostgresqlServer


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance that has a server."""

    #: Its resource id, which is the name of its folder.
    resource: str
    identifier: str
    engine: str
    port: int
    #: Whether the server is to run: it is not, of one that somebody has stopped.
    runs: bool = True


#: The servers of the engines that RDS names so.
_SERVERS: dict[str, type[DatabaseServer]] = {
    "postgres": PostgresqlServer,
    "mysql": MariadbServer,
    "mariadb": MariadbServer,
}

#: A resource id of an instance, or the identifier of a snapshot: it becomes the name of a folder.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,254}")

#: Says what an instance is that has its server; without it, it is being made, or removed.
_RECORD = "instance.json"


class InstanceServers:
    """The servers of all instances of a local stack."""

    def __init__(self, directory: Path) -> None:
        """Bind to the local stack's folder; nothing is started."""
        self._stack = directory
        self._instances = directory / "instances"
        self._snapshots = directory / "instance-snapshots"

    # What is done with one instance.

    def start(
        self, instance: Instance, *, user: str = "", password: str = "", snapshot: str = ""
    ) -> None:
        """Start a server, on its data where it has any.

        Args:
            instance: the instance.
            user: the master user, as RDS has it, where it is to be made.
            password: the master user's.
            snapshot: whose data it is to have, logins among them.

        Raises:
            LocalStackError: there is no such snapshot, or it does not start.
        """
        copied = self._snapshots / _check_name(snapshot) if snapshot else None
        if copied is not None and not copied.exists():
            raise LocalStackError(f"snapshot {snapshot}: its data are not there.")
        with self._lock(instance) as (folder, server):
            if copied is not None:
                server.take_data(copied)
            server.start()
            if user:
                server.make_master_user(user, password)
            _write(folder, instance)

    def copy(self, instance: Instance, *, snapshot: str) -> None:
        """Copy the data of an instance; its server is down meanwhile, for a moment.

        Raises:
            LocalStackError: its server does not stop, or does not start again.
        """
        target = self._snapshots / _check_name(snapshot)
        with self._lock(instance) as (_, server):
            was_running = server.is_running()
            server.kill()
            shutil.rmtree(target, ignore_errors=True)
            server.copy_data(target)
            if was_running:
                server.start()

    def halt(self, instance: Instance) -> None:
        """Stop the server of an instance, and keep its data."""
        with self._lock(instance) as (folder, server):
            server.kill()
            _write(folder, replace(instance, runs=False))

    def set_password(self, instance: Instance, *, user: str, password: str) -> None:
        """Give the master user another password."""
        with self._lock(instance) as (_, server):
            server.make_master_user(user, password)

    def remove(self, instance: Instance) -> None:
        """Stop the server of an instance and remove its data; a second time is as good as once."""
        with self._lock(instance) as (folder, server):
            (folder / _RECORD).unlink(missing_ok=True)
            server.stop()
        shutil.rmtree(folder)

    def forget(self, snapshot: str) -> None:
        """Remove the data of a snapshot."""
        shutil.rmtree(self._snapshots / _check_name(snapshot), ignore_errors=True)

    # What is done with all of them.

    def start_again(self) -> Iterator[str]:
        """Start the servers that were killed; yield the instance of each before."""
        for folder, instance in self.all():
            with lock(folder / "lock"):
                server = self._server(folder, instance)
                if instance.runs and not server.is_running():
                    yield instance.identifier
                    server.start()

    def stop_all(self) -> None:
        """Stop every server, and remove all data and all snapshots."""
        for folder in self._instances.glob("*"):
            # Which it is does not matter where it has no data.
            for server in (PostgresqlServer, MariadbServer):
                server(folder / "server", 0, stack=self._stack).stop()
        for folder in (self._instances, self._snapshots):
            shutil.rmtree(folder, ignore_errors=True)

    def all(self) -> Iterator[tuple[Path, Instance]]:
        """Yield the instances that have a server, each with its folder."""
        for record in self._instances.glob(f"*/{_RECORD}"):
            yield record.parent, Instance(**json.loads(record.read_text(encoding="utf-8")))

    @contextmanager
    def _lock(self, instance: Instance) -> Iterator[tuple[Path, DatabaseServer]]:
        folder = self._instances / _check_name(instance.resource)
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder / "lock"):
            yield folder, self._server(folder, instance)

    def _server(self, folder: Path, instance: Instance) -> DatabaseServer:
        return _SERVERS[instance.engine](folder / "server", instance.port, stack=self._stack)


def _check_name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise LocalStackError("an instance or a snapshot has a name that is none.")
    return name


def _write(folder: Path, instance: Instance) -> None:
    (folder / _RECORD).write_text(json.dumps(asdict(instance)), encoding="utf-8")


def operate(directory: Path, operation: str, asked: Mapping[str, Any]) -> None:
    """Do what is asked of one instance, or of a snapshot.

    Args:
        directory: the local stack's folder.
        operation: the name of a method.
        asked: what the method takes; the instance, where there is one, by its fields.

    Raises:
        LocalStackError: as the operation says.
    """
    given = dict(asked)
    if "instance" in given:
        given["instance"] = Instance(**given["instance"])
    getattr(InstanceServers(directory), operation)(**given)


if __name__ == "__main__":
    try:
        operate(Path(sys.argv[1]), sys.argv[2], json.load(sys.stdin))
    except LocalStackError as error:
        sys.exit(f"{sys.argv[2]}: {error}")
