"""How containers on this machine reach the local stack, where somebody asks for that."""

from __future__ import annotations

import ipaddress
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provision_cli.local import environment, processes
from provision_cli.local.errors import LocalStackError
from provision_cli.local.processes import StartedProcess

#: By this name a container of Docker Desktop reaches the loopback address of the machine.
DESKTOP_HOST = "host.docker.internal"

#: Seconds that the engine has to answer.
_ENGINE_SECONDS = 10.0

_START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class ContainerNetwork:
    """What containers call this machine."""

    host: str
    #: The network that connections come from, where `host` is an address that has to be listened
    #: on; empty where Docker leads to the loopback address by itself.
    subnet: str = ""


def find_network() -> ContainerNetwork | None:
    """Return how containers of Docker's default network reach this machine.

    None where no Docker engine answers. The engine is the one that the SAM CLI uses, too: the
    desk's settings name it.
    """
    docker = shutil.which("docker")
    if docker is None:
        return None
    try:
        asked = subprocess.run(  # noqa: S603 - the engine's own program  # nosec B603
            [docker, "network", "inspect", "bridge", "--format", "{{json .IPAM.Config}}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_ENGINE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if asked.returncode != 0:
        return None
    for config in json.loads(asked.stdout) or ():
        subnet = ipaddress.ip_network(config["Subnet"])
        address = str(config.get("Gateway") or next(subnet.hosts()))
        if subnet.version == 4 and _is_of_this_machine(address):  # noqa: PLR2004 - IPv4
            return ContainerNetwork(address, str(subnet))
    # An engine in a machine of its own, such as Docker Desktop's.
    return ContainerNetwork(DESKTOP_HOST)


def _is_of_this_machine(address: str) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def start_relay(network: ContainerNetwork, ports: Sequence[int], directory: Path) -> StartedProcess:
    """Let containers reach ports of the loopback address by the network's address.

    Args:
        network: what containers call this machine.
        ports: of the servers.
        directory: the local stack's folder, for the log.

    Raises:
        LocalStackError: it cannot listen on one of them.
    """
    log = directory / "relay.log"
    relay = processes.start(
        [
            *(sys.executable, "-I", "-m", "provision_cli.local.relay"),
            *(network.host, network.subnet, *map(str, ports)),
        ],
        environment=environment.for_programs(directory),
        log=log,
        directory=directory,
    )

    def is_listened_on() -> bool:
        return all(_is_listened_on(network.host, port) for port in ports)

    processes.wait_until(lambda: is_listened_on() or not relay.is_running(), _START_SECONDS)
    if not is_listened_on():
        relay.stop()
        raise LocalStackError(
            f"containers: ports {' and '.join(map(str, ports))} of {network.host} cannot be "
            f"listened on; stop what uses them. The log is {log}:\n{processes.last_lines(log)}"
        )
    return relay


def _is_listened_on(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0
