"""How containers on this machine reach the local stack, and what `sam local` needs beside it.

SAM hands a function in a container the variables that the template declares. Their values are the
deployed functions' own, except for the two that say where something is.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from provisioner import api
from provisioner.jobs.records import NewJob
from provisioner.jobs.store import JobStore, utc_now
from provisioner.provisioning.projects import ProjectStore

from provision_cli.local import environment, processes
from provision_cli.local.errors import LocalStackError
from provision_cli.local.ports import is_listened_on, listen_error

if TYPE_CHECKING:
    from provision_cli.local.stack import RunningStack

#: By this name a container of Docker Desktop reaches the loopback address of the machine.
DESKTOP_HOST = "host.docker.internal"

#: Seconds that the engine has to answer.
_ENGINE_SECONDS = 10.0

_START_SECONDS = 20.0

#: Below the stack's folder, where samconfig.toml looks for it. SAM says of it only that it does
#: not exist: its name says what writes it.
VARIABLES_FILE = Path("sam") / "variables-from-make-up.json"

#: What the event in the README is about, below the project.
_FIRST_EVENT = Path("events", "lifecycle", "provision_project", "initializing.json")

#: Ends the name of the output that names a function.
_FUNCTION_OUTPUT = "FunctionName"

#: Seconds that nobody is to look after a job that only waits for `sam local invoke`: the reconciler
#: would send its message.
_HELD_SECONDS = 365 * 24 * 3600


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
    command = ["docker", "network", "inspect", "bridge", "--format", "{{json .IPAM.Config}}"]
    try:
        asked = subprocess.run(  # noqa: S603 - the engine's own program  # nosec B603
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=_ENGINE_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    for config in json.loads(asked.stdout) or ():
        subnet = ipaddress.ip_network(config["Subnet"])
        address = str(config.get("Gateway") or next(subnet.hosts()))
        if subnet.version == 4 and listen_error(0, address) is None:  # noqa: PLR2004 - IPv4
            return ContainerNetwork(address, str(subnet))
    # An engine in a machine of its own, such as Docker Desktop's.
    return ContainerNetwork(DESKTOP_HOST)


def start_relay(
    network: ContainerNetwork, ports: Sequence[int], directory: Path
) -> processes.StartedProcess:
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

    def is_ready() -> bool:
        return all(is_listened_on(port, network.host) for port in ports)

    processes.wait_until(lambda: is_ready() or not relay.is_running(), _START_SECONDS)
    if not is_ready():
        relay.stop()
        raise LocalStackError(
            f"containers: ports {' and '.join(map(str, ports))} of {network.host} cannot be "
            f"listened on; stop what uses them. The log is {log}:\n{processes.last_lines(log)}"
        )
    return relay


def prepare_sam(stack: RunningStack, root: Path) -> None:
    """Write every function's variables, and store the job of the first event.

    The cluster is described once more, by an address that a container reaches.
    """
    prefix = stack.outputs["ClusterParameterPrefix"]
    for_containers, below = f"{prefix}-for-containers", f"{stack.region}/postgresql/local-1"
    ssm = stack.client("ssm")
    cluster = json.loads(ssm.get_parameter(Name=f"{prefix}/{below}")["Parameter"]["Value"])
    ssm.put_parameter(
        Name=f"{for_containers}/{below}",
        Type="String",
        Value=json.dumps({**cluster, "host": stack.container_host}),
        Overwrite=True,
    )
    changed = {
        "AWS_ENDPOINT_URL": f"http://{stack.container_host}:{stack.ports['aws']}",
        "CLUSTER_PARAMETER_PREFIX": for_containers,
    }
    variables = {}
    for output, name in stack.outputs.items():
        if output.endswith(_FUNCTION_OUTPUT):
            function = stack.client("lambda").get_function_configuration(FunctionName=name)
            own = function["Environment"]["Variables"]
            # By the function's name in the template.
            variables[output.removesuffix("Name")] = {**own, **changed}
    file = stack.directory / VARIABLES_FILE
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(variables, indent=2) + "\n", encoding="utf-8")
    store_job(stack, root / _FIRST_EVENT)


def store_job(stack: RunningStack, event: Path) -> str:
    """Store the project, if any, and the job that an event is about, where they are not.

    It does what the dispatcher does for a message, but nothing is sent and no execution started:
    the stages are run by whoever invokes the functions. The job waits for that, one year.

    Raises:
        LocalStackError: the file cannot be read, or no stage's event is in it.
    """
    try:
        job = json.loads(event.read_text(encoding="utf-8"))["job"]
        job_id, job_type, payload = job["job_id"], job["job_type"], job["payload"]
        project_id = payload.get("project_id")
    except OSError as error:
        raise LocalStackError(f"{event}: cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LocalStackError(
            f"{event}: is not the event of a stage; name one of events/ that has a job in it."
        ) from None
    dynamodb, outputs = stack.client("dynamodb"), stack.outputs
    projects = ProjectStore(dynamodb, outputs["ProjectsTableName"], outputs["QuotasTableName"])
    if project_id is not None and projects.get(project_id) is None:
        projects.create(project_id, owner_id=None, organization_id=None, created_at=utc_now())
    jobs = JobStore(
        dynamodb, outputs["JobsTableName"], retention_days=int(outputs["JobRetentionDays"])
    )
    new = NewJob(job_id, job_type, payload, api.get_job_handler(job_type).stages)
    return jobs.create(new, delay_seconds=_HELD_SECONDS).job_id
