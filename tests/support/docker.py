"""The Docker engine, which only the tests of `sam local` need."""

from __future__ import annotations

import ipaddress
import json
import shutil
import subprocess
import sys
from functools import cache

#: The name by which a container knows this machine.
HOST = "host.docker.internal"


@cache
def engine_runs() -> bool:
    """Whether a Docker engine answers."""
    docker = shutil.which("docker")
    if docker is None:
        return False
    done = subprocess.run([docker, "info"], capture_output=True, check=False)
    return done.returncode == 0


def bridge_address() -> str | None:
    """Return the address of this machine on Docker's bridge; None where there is no bridge here.

    Docker Desktop runs its engine in a machine of its own and leads HOST to the loopback address.
    """
    if sys.platform != "linux":
        return None
    done = subprocess.run(
        ["docker", "network", "inspect", "bridge", "--format", "{{json .IPAM.Config}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    (config, *_) = json.loads(done.stdout)
    subnet = ipaddress.ip_network(config["Subnet"])
    return str(config.get("Gateway") or next(subnet.hosts()))
