"""The local stack as a whole: started, deployed, described and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

import boto3
from botocore.config import Config
from botocore.session import Session

from provision_cli.local import (
    aws_server,
    build,
    containers,
    environment,
    mariadb_server,
    processes,
    sam_local,
    tools,
)
from provision_cli.local.containers import ContainerNetwork
from provision_cli.local.database_servers import DatabaseServer
from provision_cli.local.errors import LocalStackError
from provision_cli.local.instance_servers import InstanceServers
from provision_cli.local.mariadb_server import MariadbServer
from provision_cli.local.ports import LOOPBACK, choose_port
from provision_cli.local.postgresql_server import PLATFORM_ROLE, PostgresqlServer
from provision_cli.local.processes import StartedProcess

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

_PREFERRED_AWS_PORT = 4566
_PREFERRED_POSTGRESQL_PORT = 54320
_DIRECTORY_VARIABLE = "PROVISION_LOCAL_DIRECTORY"
_AWS_PORT_VARIABLE = "PROVISION_LOCAL_AWS_PORT"
_POSTGRESQL_PORT_VARIABLE = "PROVISION_LOCAL_POSTGRESQL_PORT"

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


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A local stack that runs and is deployed."""

    #: Holds its logs.
    directory: Path
    aws_port: int
    postgresql_port: int
    #: The outputs of the deployed stack.
    outputs: dict[str, str]
    #: What containers call this machine; empty where nobody has asked for them.
    container_host: str = ""
    #: 0 where this machine has no MariaDB.
    mysql_port: int = 0
    stack_name: str = STACK_NAME
    region: str = REGION

    @property
    def endpoint_url(self) -> str:
        """The address of every AWS service."""
        return aws_server.endpoint_url(self.aws_port)

    @property
    def admin_secret_name(self) -> str:
        """The secret with the platform's own login on the database cluster."""
        return f"{self.outputs['ResourcePrefix']}/clusters/local"

    @property
    def mysql_admin_secret_name(self) -> str:
        """The secret with the platform's own login on the cluster of MySQL."""
        return f"{self.admin_secret_name}-mysql"

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


@dataclass(frozen=True, slots=True)
class LocalStackSettings:
    """How a local stack differs from another on the same machine."""

    #: Holds its state, its logs and its data.
    directory: Path = _DIRECTORY
    root: Path = PROJECT_ROOT
    #: A port that must be free, or None for one that is.
    aws_port: int | None = None
    postgresql_port: int | None = None
    #: Whether containers are to reach the stack, where a Docker engine answers. Once they do, they
    #: go on to until the stack is stopped.
    for_containers: bool = False
    #: Ports that are taken where none is configured and they are free; None for any free one.
    preferred_aws_port: int | None = _PREFERRED_AWS_PORT
    preferred_postgresql_port: int | None = _PREFERRED_POSTGRESQL_PORT

    @classmethod
    def from_environment(
        cls, variables: Mapping[str, str] = os.environ, *, for_containers: bool = False
    ) -> LocalStackSettings:
        """Read the developer's own settings.

        Raises:
            LocalStackError: a port is none.
        """
        return cls(
            directory=Path(variables.get(_DIRECTORY_VARIABLE) or _DIRECTORY),
            aws_port=_port(variables, _AWS_PORT_VARIABLE),
            postgresql_port=_port(variables, _POSTGRESQL_PORT_VARIABLE),
            for_containers=for_containers,
        )


@dataclass(slots=True)
class _State:
    """What the state file keeps."""

    aws: StartedProcess
    aws_port: int
    postgresql_port: int
    #: 0 where this machine has no MariaDB.
    mysql_port: int = 0
    #: Names the build that is deployed; empty while none is.
    deployed: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    #: Lets containers in; None where Docker leads them here, or nobody has asked for them.
    relay: StartedProcess | None = None
    container_host: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what the state file keeps."""
        relay = value["relay"]
        return cls(
            **{
                **value,
                "aws": StartedProcess(**value["aws"]),
                "relay": relay and StartedProcess(**relay),
            }
        )


@dataclass(frozen=True, slots=True)
class Status:
    """What of a local stack runs."""

    directory: Path
    #: Where the local AWS answers; empty where it does not run.
    endpoint_url: str = ""
    #: Where PostgreSQL answers; empty where it does not run.
    postgresql: str = ""
    #: Where MariaDB answers; empty where it does not run, or the stack has none.
    mysql: str = ""
    has_mysql: bool = False
    #: What containers call this machine; empty where they do not reach the stack.
    container_host: str = ""
    #: The name of the stack; empty while nothing is deployed.
    stack_name: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether a command can use the stack."""
        has_servers = bool(self.postgresql and (self.mysql or not self.has_mysql))
        return bool(self.endpoint_url and has_servers and self.stack_name)


class LocalStack:
    """One local stack, in its own folder."""

    def __init__(self, settings: LocalStackSettings) -> None:
        """Bind to a folder; nothing is started yet."""
        self._settings = settings
        # Whole, so that it is the same one wherever a command is given.
        self._directory = settings.directory.absolute()
        self._state_file = self._directory / "state.json"
        #: Outlives the stack: the next one listens where the last one did.
        self._ports_file = self._directory / "ports.json"
        self._instances = InstanceServers(self._directory)

    def up(self, report: Report = lambda _: None) -> RunningStack:
        """Start what does not run, deploy what has changed, and return the stack.

        A PostgreSQL that was killed is started again on its data, and all goes on. Without its
        local AWS, which keeps everything in memory, both are started afresh.

        Raises:
            LocalStackError: saying what could not be started, built or deployed, and what to do.
        """
        if not (self._settings.root / "template.yaml").exists():
            raise LocalStackError(
                f"template.yaml: is not in {self._settings.root}; the local stack runs from a "
                "checkout of the project."
            )
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._locked():
            state = self._state()
            if state is not None:
                self._refuse_other_ports(state)
            is_new = False
            try:
                if state is None or not self._go_on(state, report):
                    is_new = True
                    state = self._start(report)
                return self._complete(state, report)
            except Exception:
                raise
            except BaseException:
                # Ctrl-C, or another signal: nobody will use what has only just been started.
                if is_new:
                    self._stop()
                raise

    def _refuse_other_ports(self, state: _State) -> None:
        """Say so where the stack that runs listens elsewhere than it is asked to."""
        settings = self._settings
        for configured, port, variable in (
            (settings.aws_port, state.aws_port, _AWS_PORT_VARIABLE),
            (settings.postgresql_port, state.postgresql_port, _POSTGRESQL_PORT_VARIABLE),
        ):
            if configured not in {None, port}:
                raise LocalStackError(
                    f"{variable}: is {configured}, and the local stack listens on {port}; "
                    "unset it, or stop the stack first with `provision down`."
                )

    def _complete(self, state: _State, report: Report) -> RunningStack:
        """Deploy what has changed, and let containers in where they are asked for."""
        root = self._settings.root
        digest = build.sources_digest(root)
        if state.deployed != digest:
            builds = root / ".local" / "build"
            if not (builds / digest).exists():
                report("Building the functions and layers")
            built = build.ensure_built(root, builds, self._directory)
            report("Deploying the template")
            self._deploy(state, built)
            state.deployed = digest
            self._save(state)
        if self._settings.for_containers or state.container_host:
            self._let_containers_in(state, report)
        return self._describe(state)

    def down(self) -> bool:
        """Stop everything and forget it; returns whether anything was running."""
        if not self._directory.exists():
            # Somebody has removed it, and what it was about may run still.
            return processes.stop_marked(self._directory)
        with self._locked():
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
            or not self._postgresql(state.postgresql_port).is_running()
            or (state.mysql_port and not self._mysql(state.mysql_port).is_running())
        ):
            raise LocalStackNotRunningError(
                "the local stack is not running; start it with `provision up`, or name a deployed "
                "stack with --stack NAME --region REGION."
            )
        return self._describe(state)

    def status(self) -> Status:
        """Look at what runs."""
        state = self._state()
        if state is None:
            return Status(self._directory)
        is_relayed = state.relay is None or state.relay.is_running()
        has_postgresql = self._postgresql(state.postgresql_port).is_running()
        has_mysql = bool(state.mysql_port) and self._mysql(state.mysql_port).is_running()
        return Status(
            self._directory,
            endpoint_url=aws_server.endpoint_url(state.aws_port),
            postgresql=f"{LOOPBACK}:{state.postgresql_port}" if has_postgresql else "",
            mysql=f"{LOOPBACK}:{state.mysql_port}" if has_mysql else "",
            has_mysql=bool(state.mysql_port),
            container_host=state.container_host if is_relayed else "",
            stack_name=STACK_NAME if state.deployed else "",
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with build.locked(self._directory / "lock"):
            yield

    def _state(self) -> _State | None:
        """Read the state file; None where the local AWS that it names does not run any more."""
        state = self._saved_state()
        return state if state is not None and state.aws.is_running() else None

    def _saved_state(self) -> _State | None:
        # A file that another version has written, or half of one, is as good as none: what runs is
        # found without it.
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            return _State.from_json(json.loads(self._state_file.read_text(encoding="utf-8")))
        return None

    def _go_on(self, state: _State, report: Report) -> bool:
        """See that the servers run on the data that they had; False where those are gone."""
        servers = self._servers(state)
        if not all(server.has_data() for server in servers.values()):
            return False
        for name, server in servers.items():
            if not server.is_running():
                report(f"Starting {name} again")
                server.start()
        for identifier in self._instances.start_again():
            report(f"Starting the server of the instance {identifier} again")
        return True

    def _save(self, state: _State) -> None:
        _write(self._state_file, asdict(state))

    def _start(self, report: Report) -> _State:
        """Start both servers, empty: the local AWS keeps nothing, so neither does its database.

        What is left of the stack before is ended first, functions that were at work among it: they
        would go on, and find the new servers where the old ones were.
        """
        gone = self._instances.identifiers()
        if gone:
            report(f"The instances {', '.join(gone)} are gone; removing their servers")
        self._stop()
        settings = self._settings
        before = self._ports_before()
        aws_port = choose_port(
            settings.aws_port,
            before.get("aws", settings.preferred_aws_port),
            settings.preferred_aws_port,
            what="the local AWS",
            variable=_AWS_PORT_VARIABLE,
        )
        postgresql_port = choose_port(
            settings.postgresql_port,
            before.get("postgresql", settings.preferred_postgresql_port),
            settings.preferred_postgresql_port,
            what="PostgreSQL",
            variable=_POSTGRESQL_PORT_VARIABLE,
        )
        _write(self._ports_file, {"aws": aws_port, "postgresql": postgresql_port})
        report("Starting the local AWS")
        aws = aws_server.start(settings.root, self._directory, aws_port, region=REGION)
        state = _State(
            aws=aws,
            aws_port=aws_port,
            postgresql_port=postgresql_port,
            mysql_port=_port_of_mysql(),
        )
        self._save(state)
        for name, server in self._servers(state).items():
            report(f"Starting {name}")
            server.start()
        return state

    def _ports_before(self) -> dict[str, int]:
        with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            value = json.loads(self._ports_file.read_text(encoding="utf-8"))
            return {name: int(value[name]) for name in ("aws", "postgresql")}
        return {}

    def _stop(self) -> bool:
        state = self._saved_state()
        servers = (
            self._postgresql(0 if state is None else state.postgresql_port),
            self._mysql(0 if state is None else state.mysql_port),
        )
        running = any(server.is_running() for server in servers)
        if state is not None:
            for process in (state.relay, state.aws):
                if process is not None:
                    running = process.is_running() or running
                    process.stop()
        for server in servers:
            server.stop()
        self._instances.stop_all()
        # Also what nobody had the time to write down.
        running = processes.stop_marked(self._directory) or running
        self._state_file.unlink(missing_ok=True)
        for name in ("aws", "postgresql", "mysql", "sam"):
            shutil.rmtree(self._directory / name, ignore_errors=True)
        return running

    def _let_containers_in(self, state: _State, report: Report) -> None:
        """Let containers reach both servers, and write what `sam local` tells functions in them."""
        network = containers.find_network()
        if network is None:
            report("No Docker engine answers: only programs of this machine reach the stack")
            return
        is_reached = state.relay is None or state.relay.is_running()
        if state.container_host != network.host or not is_reached:
            if state.relay is not None:
                state.relay.stop()
            report(f"Letting containers in, by {network.host}")
            ports = tuple(filter(None, (state.aws_port, state.postgresql_port, state.mysql_port)))
            state.relay = self._start_relay(network, ports) if network.subnet else None
            state.container_host = network.host
            self._save(state)
        sam_local.prepare(self._describe(state), self._settings.root)

    def _start_relay(self, network: ContainerNetwork, ports: tuple[int, ...]) -> StartedProcess:
        return containers.start_relay(
            network,
            ports,
            environment=environment.for_programs(self._directory),
            log=self._directory / "relay.log",
            directory=self._directory,
        )

    def _describe(self, state: _State) -> RunningStack:
        return RunningStack(
            directory=self._directory,
            aws_port=state.aws_port,
            postgresql_port=state.postgresql_port,
            outputs=state.outputs,
            container_host=state.container_host,
            mysql_port=state.mysql_port,
        )

    def _servers(self, state: _State) -> dict[str, DatabaseServer]:
        """Return the servers of the shared clusters by what people call them."""
        servers: dict[str, DatabaseServer] = {"PostgreSQL": self._postgresql(state.postgresql_port)}
        if state.mysql_port:
            servers["MariaDB"] = self._mysql(state.mysql_port)
        return servers

    def _mysql(self, port: int) -> MariadbServer:
        return MariadbServer(self._directory / "mysql", port, stack=self._directory)

    def _postgresql(self, port: int) -> PostgresqlServer:
        return PostgresqlServer(self._directory / "postgresql", port, stack=self._directory)

    def _deploy(self, state: _State, built: Path) -> None:
        running = self._describe(state)
        # SAM would deploy a stack of its own, only for a bucket.
        buckets = running.client("s3")
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
                *tools.sam(self._settings.root),
                *("deploy", "--template-file", str(built / "template.yaml")),
                *("--stack-name", STACK_NAME, "--region", REGION),
                *("--s3-bucket", _ARTIFACTS_BUCKET),
                *("--capabilities", "CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"),
                *("--no-confirm-changeset", "--no-fail-on-empty-changeset", "--no-progressbar"),
                *("--parameter-overrides", *(f"{k}={v}" for k, v in overrides.items())),
            ],
            environment={
                **environment.for_programs(self._directory),
                **running.environment(),
                "SAM_CLI_POLL_DELAY": "0.3",
                "SAM_CLI_TELEMETRY": "0",
            },
            log=self._directory / "sam-deploy.log",
            directory=self._directory,
            what="sam deploy",
        )
        stacks = running.client("cloudformation").describe_stacks(StackName=STACK_NAME)["Stacks"]
        state.outputs = {o["OutputKey"]: o["OutputValue"] for o in stacks[0]["Outputs"]}
        deployed = self._describe(state)
        self._describe_clusters(deployed, state)
        self._allow_instances(deployed, state)

    def _describe_clusters(self, running: RunningStack, state: _State) -> None:
        """Do what an operator does once for each cluster: keep its login, describe where it is."""
        postgresql = self._postgresql(state.postgresql_port)
        self._describe_cluster(
            running,
            "postgresql",
            running.admin_secret_name,
            {"port": postgresql.port, "version": postgresql.version()},
            postgresql.prepare_cluster(),
        )
        if not state.mysql_port:
            return
        password = secrets.token_hex(20)
        self._mysql(state.mysql_port).make_master_user(PLATFORM_ROLE, password)
        self._describe_cluster(
            running,
            "mysql",
            running.mysql_admin_secret_name,
            {"port": state.mysql_port, "version": self._mysql(state.mysql_port).version()},
            password,
        )

    def _describe_cluster(
        self,
        running: RunningStack,
        engine: str,
        secret_name: str,
        server: Mapping[str, Any],
        password: str,
    ) -> None:
        manager = running.client("secretsmanager")
        login = json.dumps({"username": PLATFORM_ROLE, "password": password})
        try:
            arn = manager.create_secret(Name=secret_name, SecretString=login)["ARN"]
        except manager.exceptions.ResourceExistsException:
            arn = manager.put_secret_value(SecretId=secret_name, SecretString=login)["ARN"]
        cluster = {
            "host": LOOPBACK,
            **server,
            "admin_secret_arn": arn,
            "max_tenants": _MAX_TENANTS,
            # PostgreSQL has no certificate here, and node's `pg` asks for one at `prefer`.
            "sslmode": "disable",
        }
        self._put_parameter(running, f"{engine}/local-1", cluster)

    def _allow_instances(self, running: RunningStack, state: _State) -> None:
        """Do what an operator does once for each engine: say which instances a project may have."""
        versions = {"postgresql": self._postgresql(state.postgresql_port).version()}
        # Without a program of it no instance of MySQL would ever be available.
        if state.mysql_port:
            versions["mysql"] = self._mysql(state.mysql_port).version()
        for engine, version in versions.items():
            self._put_parameter(
                running, f"dedicated/{engine}", {**_INSTANCES, "versions": [version]}
            )

    def _put_parameter(self, running: RunningStack, name: str, value: Mapping[str, Any]) -> None:
        running.client("ssm").put_parameter(
            Name=f"{running.outputs['ClusterParameterPrefix']}/{REGION}/{name}",
            Type="String",
            Value=json.dumps(value),
            Overwrite=True,
        )


def _port_of_mysql() -> int:
    """Return a free port for MariaDB; 0 where this machine has none.

    Raises:
        LocalStackError: somebody has named a folder that holds none.
    """
    try:
        mariadb_server.required_program()
    except LocalStackError:
        if mariadb_server.PROGRAMS_VARIABLE in os.environ:
            raise
        return 0
    return choose_port(None, None, what="MariaDB", variable="")


def _write(file: Path, value: Mapping[str, Any]) -> None:
    """Write a file at once: whoever reads it finds all of it, or what it was before."""
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(file)


def _port(variables: Mapping[str, str], variable: str) -> int | None:
    value = variables.get(variable, "")
    if not value:
        return None
    if not value.isdigit() or not 1 <= int(value) <= 65_535:  # noqa: PLR2004 - the highest port
        raise LocalStackError(f"{variable}: must be a port number, 1 to 65535.")
    return int(value)
