"""The local stack as a whole: started, deployed, described and stopped."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

import boto3
from botocore.config import Config
from botocore.session import Session
from pydantic import BaseModel

from provision_cli.local import (
    aws_server,
    build,
    containers,
    environment,
    mariadb_server,
    processes,
    tools,
)
from provision_cli.local.database_servers import PLATFORM_ROLE, DatabaseServer
from provision_cli.local.errors import LocalStackError
from provision_cli.local.instance_servers import InstanceServers
from provision_cli.local.ports import LOOPBACK, choose_port
from provision_cli.local.postgresql_server import PostgresqlServer

#: The project: this package is installed from it, in place.
PROJECT_ROOT = Path(__file__).resolve().parents[3]

#: Where the developer's own local stack is.
_DIRECTORY = PROJECT_ROOT / ".local"

#: Where the local stack says it is.
REGION = "eu-central-1"

#: The name of the stack, from which the names of its tables and its parameters derive.
STACK_NAME = "provisioner-local"

#: Takes what SAM uploads.
_ARTIFACTS_BUCKET = "provisioner-local-artifacts"

#: The local AWS takes any credentials.
_ANYONE = "test"

#: The servers of the shared clusters, by their engines.
_SERVERS: Mapping[str, type[DatabaseServer]] = {
    "postgresql": PostgresqlServer,
    "mysql": mariadb_server.MariadbServer,
}

#: Ports that are taken where they are free.
_USUAL_PORTS = {"aws": 4566, "postgresql": 54320}

_DIRECTORY_VARIABLE = "PROVISION_LOCAL_DIRECTORY"

#: Tenant databases that the local cluster may hold.
_MAX_TENANTS = 500

#: A size of an instance that a project may have.
INSTANCE_SIZE = "db.t4g.micro"

#: The instances that projects may have; names and numbers that AWS would take.
_INSTANCES = {
    "sizes": [INSTANCE_SIZE, "db.t4g.small"],
    "storage_gb": {"minimum": 20, "maximum": 100, "default": 20},
    "subnet_group": "local",
    "security_group_ids": ["sg-0123456789abcdef0"],
    "backup_days": 1,
    # It goes with the server that holds it.
    "deletion_protection": False,
    "maximum": 10,
    "sslmode": "disable",
}

#: Takes what is being done, before it is.
type Report = Callable[[str], None]


class LocalStackNotRunningError(LocalStackError):
    """The local stack is not running."""


#: Neither the variables nor the files of the desk are read: each setting keeps its default.
_NO_SETTINGS = {
    name: (None, None, os.devnull if name in {"config_file", "credentials_file"} else default, read)
    for name, (_, _, default, read) in Session.SESSION_VARIABLES.items()
}

#: No proxy, no certificates: the local stack speaks HTTP, on this machine.
_CLIENT_CONFIG = Config(
    proxies={},
    retries={"mode": "standard", "total_max_attempts": 3},
    use_fips_endpoint=False,
    use_dualstack_endpoint=False,
)


@cache
def _client(service: str, endpoint_url: str, region: str) -> Any:
    make: Any = boto3.Session(
        aws_access_key_id=_ANYONE,
        aws_secret_access_key=_ANYONE,
        region_name=region,
        botocore_session=Session(session_vars=_NO_SETTINGS),
    ).client  # its stubs list the literal name of every service
    return make(service, endpoint_url=endpoint_url, config=_CLIENT_CONFIG)


class RunningStack(BaseModel):
    """A local stack that runs, as its state file keeps it."""

    #: Holds its logs.
    directory: Path
    #: The process of the local AWS.
    aws: processes.StartedProcess
    #: Where the local AWS listens, and the server of each engine that this machine has.
    ports: dict[str, int]
    #: Names the build that is deployed; empty while none is.
    deployed: str = ""
    #: The outputs of the deployed stack.
    outputs: dict[str, str] = {}
    #: Lets containers in; None where Docker leads them here, or nobody has asked for them.
    relay: processes.StartedProcess | None = None
    #: What containers call this machine; empty where nobody has asked for them.
    container_host: str = ""
    stack_name: str = STACK_NAME
    region: str = REGION

    @property
    def endpoint_url(self) -> str:
        """The address of every AWS service."""
        return aws_server.endpoint_url(self.ports["aws"])

    def admin_secret_name(self, engine: str) -> str:
        """Return the secret with the platform's own login on an engine's cluster."""
        return f"{self.outputs['ResourcePrefix']}/clusters/local-{engine}"

    def environment(self) -> dict[str, str]:
        """Return the variables that lead an AWS SDK, or the AWS CLI, here and nowhere else."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": _ANYONE,
            "AWS_SECRET_ACCESS_KEY": _ANYONE,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            # A profile may name other endpoints, or have them left out.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            **environment.without_proxy(os.environ),
        }

    def enter(self) -> None:
        """Lead the AWS SDK and libpq of this process here, whatever its environment says."""
        environment.leave_desk(self.environment())

    def client(self, service: str) -> Any:
        """Return a client of a service, whatever the environment of this process says."""
        return _client(service, self.endpoint_url, self.region)


class LocalStack:
    """One local stack, in its own folder."""

    def __init__(
        self, directory: Path, *, root: Path = PROJECT_ROOT, has_usual_ports: bool = True
    ) -> None:
        """Bind to a folder; nothing is started yet.

        Args:
            directory: holds its state, its logs and its data.
            root: the project that is deployed to it.
            has_usual_ports: whether it is to listen where people expect it.
        """
        #: Whole, so that it is the same one everywhere.
        self.directory = directory.absolute()
        self.root = root
        self._has_usual_ports = has_usual_ports
        self._state_file = self.directory / "state.json"
        #: Outlives the stack: the next one listens where the last one did.
        self._ports_file = self.directory / "ports.json"
        self._instances = InstanceServers(self.directory)

    @classmethod
    def of_developer(cls) -> Self:
        """Return the developer's own."""
        return cls(Path(os.environ.get(_DIRECTORY_VARIABLE) or _DIRECTORY))

    def up(self, report: Report = lambda _: None, *, for_containers: bool = False) -> RunningStack:
        """Start what does not run, deploy what has changed, and return the stack.

        A PostgreSQL that was killed is started again on its data, and all goes on. Without its
        local AWS, which keeps everything in memory, both are started afresh.

        Args:
            report: takes what is being done, before it is.
            for_containers: whether containers are to reach the stack, where a Docker engine
                answers. Once they do, they go on to until the stack is stopped.

        Raises:
            LocalStackError: saying what could not be started, built or deployed, and what to do.
        """
        if not (self.root / "template.yaml").exists():
            raise LocalStackError(
                f"template.yaml: is not in {self.root}; the local stack runs from a "
                "checkout of the project."
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        with build.lock(self.directory / "lock"):
            state = self._state()
            is_new = state is None or not self._go_on(state, report)
            try:
                if state is None or is_new:
                    state = self._start(report)
                self._deploy_changes(state, report)
                if for_containers or state.container_host:
                    self._let_containers_in(state, report)
            except (KeyboardInterrupt, SystemExit):
                # Ctrl-C, or another signal: nobody will use what has only just been started.
                if is_new:
                    self._stop()
                raise
            return state

    def _deploy_changes(self, state: RunningStack, report: Report) -> None:
        digest = build.digest_sources(self.root)
        if state.deployed != digest:
            builds = self.root / ".local" / "build"
            if not (builds / digest).exists():
                report("Building the functions and layers")
            built = build.ensure_built(self.root, builds, self.directory)
            report("Deploying the template")
            self._deploy(state, built)
            state.deployed = digest
            self._save(state)

    def down(self) -> bool:
        """Stop everything and forget it; returns whether anything was running."""
        if not self.directory.exists():
            # Somebody has removed it, and what it was about may run still.
            return processes.stop_marked(self.directory)
        with build.lock(self.directory / "lock"):
            return self._stop()

    def running(self) -> RunningStack:
        """Return the stack.

        Raises:
            LocalStackNotRunningError: it does not run, or is not deployed yet.
        """
        state = self._state()
        if (
            state is None
            or not state.deployed
            or not all(server.is_running() for server in self._servers(state.ports).values())
        ):
            raise LocalStackNotRunningError(
                "the local stack is not running; start it with `provision up`, or name a deployed "
                "stack with --stack NAME --region REGION."
            )
        return state

    def status(self) -> dict[str, str]:
        """Return where each part of the stack answers; nothing where it does not."""
        state = self._state()
        if state is None:
            return dict.fromkeys(("AWS", "PostgreSQL", "containers", "stack"), "")
        servers = self._servers(state.ports).values()
        is_relayed = state.relay is None or state.relay.is_running()
        return {
            "AWS": state.endpoint_url,
            "PostgreSQL": "",
            "MariaDB": "not installed",
            **{one.name: f"{LOOPBACK}:{one.port}" if one.is_running() else "" for one in servers},
            "containers": state.container_host if is_relayed else "",
            "stack": STACK_NAME if state.deployed else "",
        }

    def _state(self) -> RunningStack | None:
        """Read the state file; None where the local AWS that it names does not run any more."""
        # What another version has written is as good as none: what runs is found without it.
        with contextlib.suppress(FileNotFoundError, ValueError):
            state = RunningStack.model_validate_json(self._state_file.read_bytes())
            return state if state.aws.is_running() else None
        return None

    def _go_on(self, state: RunningStack, report: Report) -> bool:
        """See that the servers run on the data that they had; False where those are gone."""
        servers = self._servers(state.ports).values()
        if not all(server.has_data() for server in servers):
            return False
        for server in servers:
            if not server.is_running():
                report(f"Starting {server.name} again")
                server.start()
        for identifier in self._instances.start_again():
            report(f"Starting the server of the instance {identifier} again")
        return True

    def _save(self, state: RunningStack) -> None:
        _write(self._state_file, state.model_dump_json(indent=2))

    def _start(self, report: Report) -> RunningStack:
        """Start both servers, empty: the local AWS keeps nothing, so neither does its database.

        What is left of the stack before is ended first, functions that were at work among it: they
        would go on, and find the new servers where the old ones were.
        """
        self._stop()
        usual = _USUAL_PORTS if self._has_usual_ports else {}
        before = self._ports_before()
        names = [*_USUAL_PORTS, *(["mysql"] if mariadb_server.find_program() else [])]
        ports = {name: choose_port(before.get(name), usual.get(name)) for name in names}
        _write(self._ports_file, json.dumps(ports))
        report("Starting the local AWS")
        aws = aws_server.start(self.root, self.directory, ports["aws"], region=REGION)
        state = RunningStack(directory=self.directory, aws=aws, ports=ports)
        self._save(state)
        for server in self._servers(ports).values():
            report(f"Starting {server.name}")
            server.start()
        return state

    def _ports_before(self) -> dict[str, int]:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return dict(json.loads(self._ports_file.read_bytes()))
        return {}

    def _stop(self) -> bool:
        state = self._state()
        # Each is found by its folder.
        servers = self._servers(dict.fromkeys(_SERVERS, 0)).values()
        running = any(server.is_running() for server in servers)
        if state is not None:
            running = state.aws.stop() or running
        for server in servers:
            server.stop()
        self._instances.stop_all()
        # The relay, and what nobody had the time to write down.
        running = processes.stop_marked(self.directory) or running
        self._state_file.unlink(missing_ok=True)
        for name in ("aws", *_SERVERS, "sam"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        return running

    def _let_containers_in(self, state: RunningStack, report: Report) -> None:
        """Let containers reach both servers, and write what `sam local` tells functions in them."""
        network = containers.find_network()
        if network is None:
            report("No Docker engine answers: only programs of this machine reach the stack")
            return
        is_reached = state.relay is None or state.relay.is_running()
        if state.container_host != network.host or not is_reached:
            if state.relay is not None:
                state.relay.stop()
                state.relay = None
            report(f"Letting containers in, by {network.host}")
            if network.subnet:
                ports = list(state.ports.values())
                state.relay = containers.start_relay(network, ports, self.directory)
            state.container_host = network.host
            self._save(state)
        containers.prepare_sam(state, self.root)

    def _servers(self, ports: Mapping[str, int]) -> dict[str, DatabaseServer]:
        """Return the servers of the shared clusters that have a port, by their engines."""
        return {
            engine: server(self.directory / engine, ports[engine], stack=self.directory)
            for engine, server in _SERVERS.items()
            if engine in ports
        }

    def _deploy(self, state: RunningStack, built: Path) -> None:
        # SAM would deploy a stack of its own, only for a bucket.
        buckets = state.client("s3")
        with contextlib.suppress(buckets.exceptions.BucketAlreadyOwnedByYou):
            buckets.create_bucket(
                Bucket=_ARTIFACTS_BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
            )
        overrides = {
            "Architecture": build.architecture(),
            # It goes with the server that holds it.
            "DeletionProtection": "false",
            "LogRetentionDays": "1",
        }
        processes.run(
            [
                *tools.sam(self.root),
                *("deploy", "--template-file", str(built / "template.yaml")),
                *("--stack-name", STACK_NAME, "--region", REGION),
                *("--s3-bucket", _ARTIFACTS_BUCKET),
                *("--capabilities", "CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"),
                *("--no-confirm-changeset", "--no-fail-on-empty-changeset", "--no-progressbar"),
                *("--parameter-overrides", *(f"{k}={v}" for k, v in overrides.items())),
            ],
            environment={
                **environment.for_programs(self.directory),
                **state.environment(),
                "SAM_CLI_POLL_DELAY": "0.3",
                "SAM_CLI_TELEMETRY": "0",
            },
            log=self.directory / "sam-deploy.log",
            directory=self.directory,
            what="sam deploy",
        )
        stacks = state.client("cloudformation").describe_stacks(StackName=STACK_NAME)["Stacks"]
        state.outputs = {o["OutputKey"]: o["OutputValue"] for o in stacks[0]["Outputs"]}
        self._describe_servers(state)

    def _describe_servers(self, running: RunningStack) -> None:
        """Do what an operator does once for each cluster and engine.

        Keep a cluster's login, describe where it is, and say which instances a project may have.
        """
        for engine, server in self._servers(running.ports).items():
            version = server.version()
            cluster = {
                "host": LOOPBACK,
                "port": server.port,
                "version": version,
                "admin_secret_arn": _keep_login(running, engine, server.prepare_cluster()),
                "max_tenants": _MAX_TENANTS,
                # PostgreSQL has no certificate here, and node's `pg` asks for one at `prefer`.
                "sslmode": "disable",
            }
            _put_parameter(running, f"{engine}/local-1", cluster)
            # Without a program of it no instance of MySQL would ever be available.
            instances = {**_INSTANCES, "versions": [version]}
            _put_parameter(running, f"dedicated/{engine}", instances)


def _put_parameter(running: RunningStack, name: str, value: Mapping[str, Any]) -> None:
    running.client("ssm").put_parameter(
        Name=f"{running.outputs['ClusterParameterPrefix']}/{REGION}/{name}",
        Type="String",
        Value=json.dumps(value),
        Overwrite=True,
    )


def _keep_login(running: RunningStack, engine: str, password: str) -> str:
    """Keep the platform's login on a cluster; returns the ARN of the secret."""
    manager = running.client("secretsmanager")
    name = running.admin_secret_name(engine)
    login = json.dumps({"username": PLATFORM_ROLE, "password": password})
    with contextlib.suppress(manager.exceptions.ResourceExistsException):
        manager.create_secret(Name=name)
    return str(manager.put_secret_value(SecretId=name, SecretString=login)["ARN"])


def _write(file: Path, text: str) -> None:
    """Write a file at once: whoever reads it finds all of it, or what it was before."""
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)
