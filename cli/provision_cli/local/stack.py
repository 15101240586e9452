"""The local stack as a whole: started, deployed, described and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import boto3

from provision_cli.local import aws_server, build, processes, tools
from provision_cli.local.aws_server import LOOPBACK
from provision_cli.local.errors import LocalStackError
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

#: Takes what is being done, before it is.
type Report = Callable[[str], None]


class LocalStackNotRunningError(LocalStackError):
    """The local stack is not running."""


@cache
def _client(service: str, endpoint_url: str, region: str) -> Any:
    make: Any = boto3.Session(
        aws_access_key_id=_ANYONE, aws_secret_access_key=_ANYONE, region_name=region
    ).client  # its stubs list the literal name of every service
    return make(service, endpoint_url=endpoint_url)


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A local stack that runs and is deployed."""

    #: Holds its logs.
    directory: Path
    aws_port: int
    postgresql_port: int
    #: The outputs of the deployed stack.
    outputs: dict[str, str]
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

    def environment(self) -> dict[str, str]:
        """Return the variables that lead an AWS SDK, or the AWS CLI, here."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": _ANYONE,
            "AWS_SECRET_ACCESS_KEY": _ANYONE,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def enter(self) -> None:
        """Lead the AWS SDK of this process here, whatever profile its environment names."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(self.environment())

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
    #: Addresses that both servers listen on beside the loopback address, such as the one that
    #: containers know this machine by.
    extra_addresses: tuple[str, ...] = ()
    #: Ports that are taken where none is configured and they are free; None for any free one.
    preferred_aws_port: int | None = _PREFERRED_AWS_PORT
    preferred_postgresql_port: int | None = _PREFERRED_POSTGRESQL_PORT

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> LocalStackSettings:
        """Read the developer's own settings.

        Raises:
            LocalStackError: a port is none.
        """
        return cls(
            directory=Path(environment.get(_DIRECTORY_VARIABLE) or _DIRECTORY),
            aws_port=_port(environment, _AWS_PORT_VARIABLE),
            postgresql_port=_port(environment, _POSTGRESQL_PORT_VARIABLE),
        )


@dataclass(slots=True)
class _State:
    """What the state file keeps."""

    aws: StartedProcess
    aws_port: int
    postgresql_port: int
    #: Names the build that is deployed; empty while none is.
    deployed: str = ""
    outputs: dict[str, str] = field(default_factory=dict)


class LocalStack:
    """One local stack, in its own folder."""

    def __init__(self, settings: LocalStackSettings) -> None:
        """Bind to a folder; nothing is started yet."""
        self._settings = settings
        self._directory = settings.directory
        self._state_file = settings.directory / "state.json"

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
            if state is None or not self._go_on(state, report):
                state = self._start(report)
            digest = build.sources_digest(self._settings.root)
            if state.deployed != digest:
                builds = self._settings.root / ".local" / "build"
                if not (builds / digest).exists():
                    report("Building the functions and layers")
                built = build.ensure_built(self._settings.root, builds)
                report("Deploying the template")
                self._deploy(state, built)
                state.deployed = digest
                self._save(state)
            return self._describe(state)

    def down(self) -> bool:
        """Stop everything and forget it; returns whether anything was running."""
        if not self._directory.exists():
            return False
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
        ):
            raise LocalStackNotRunningError(
                "the local stack is not running; start it with `provision up`, or name a deployed "
                "stack with --stack NAME --region REGION."
            )
        return self._describe(state)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with build.locked(self._directory / "lock"):
            yield

    def _state(self) -> _State | None:
        """Read the state file; None where the local AWS that it names does not run any more."""
        try:
            value = json.loads(self._state_file.read_text())
        except FileNotFoundError:
            return None
        state = _State(**{**value, "aws": StartedProcess.from_json(value["aws"])})
        return state if state.aws.is_running() else None

    def _go_on(self, state: _State, report: Report) -> bool:
        """See that PostgreSQL runs on the data that it had; False where they are gone."""
        server = self._postgresql(state.postgresql_port)
        if not server.has_data():
            return False
        if not server.is_running():
            report("Starting PostgreSQL again")
            server.start()
        return True

    def _save(self, state: _State) -> None:
        unfinished = self._state_file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(asdict(state), indent=2) + "\n")
        unfinished.replace(self._state_file)

    def _start(self, report: Report) -> _State:
        """Start both servers, empty: the local AWS keeps nothing, so neither does its database.

        What is left of the stack before is ended first, functions that were at work among it: they
        would go on, and find the new servers where the old ones were.
        """
        self._stop()
        settings = self._settings
        aws_port = aws_server.choose_port(
            settings.aws_port,
            settings.preferred_aws_port,
            what="the local AWS",
            variable=_AWS_PORT_VARIABLE,
        )
        postgresql_port = aws_server.choose_port(
            settings.postgresql_port,
            settings.preferred_postgresql_port,
            what="PostgreSQL",
            variable=_POSTGRESQL_PORT_VARIABLE,
        )
        report("Starting the local AWS")
        aws = aws_server.start(
            settings.root,
            self._directory,
            aws_port,
            region=REGION,
            extra_addresses=settings.extra_addresses,
        )
        state = _State(aws=aws, aws_port=aws_port, postgresql_port=postgresql_port)
        # Saved before anything else starts, so that `down` finds it whatever fails next.
        self._save(state)
        report("Starting PostgreSQL")
        self._postgresql(postgresql_port).start()
        return state

    def _stop(self) -> bool:
        running = False
        try:
            state = json.loads(self._state_file.read_text())
        except FileNotFoundError:
            state = None
        if state is not None:
            aws = StartedProcess.from_json(state["aws"])
            running = aws.is_running()
            aws.stop()
            server = self._postgresql(int(state["postgresql_port"]))
            running = server.is_running() or running
            server.stop()
        self._state_file.unlink(missing_ok=True)
        for name in ("aws", "postgresql"):
            shutil.rmtree(self._directory / name, ignore_errors=True)
        return running

    def _describe(self, state: _State) -> RunningStack:
        return RunningStack(
            directory=self._directory,
            aws_port=state.aws_port,
            postgresql_port=state.postgresql_port,
            outputs=state.outputs,
        )

    def _postgresql(self, port: int) -> PostgresqlServer:
        return PostgresqlServer(
            self._directory / "postgresql",
            port,
            extra_addresses=self._settings.extra_addresses,
        )

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
            environment=tools.environment(**running.environment(), SAM_CLI_POLL_DELAY="0.3"),
            log=self._directory / "sam-deploy.log",
            directory=self._directory,
            what="sam deploy",
        )
        stacks = running.client("cloudformation").describe_stacks(StackName=STACK_NAME)["Stacks"]
        state.outputs = {o["OutputKey"]: o["OutputValue"] for o in stacks[0]["Outputs"]}
        self._describe_cluster(self._describe(state), state)

    def _describe_cluster(self, running: RunningStack, state: _State) -> None:
        """Do what an operator does once for each cluster: keep its login, describe where it is."""
        manager = running.client("secretsmanager")
        password = self._postgresql(state.postgresql_port).prepare_cluster()
        login = json.dumps({"username": PLATFORM_ROLE, "password": password})
        try:
            arn = manager.create_secret(Name=running.admin_secret_name, SecretString=login)["ARN"]
        except manager.exceptions.ResourceExistsException:
            arn = manager.put_secret_value(SecretId=running.admin_secret_name, SecretString=login)[
                "ARN"
            ]
        cluster = {
            "cluster_id": "local-1",
            "host": LOOPBACK,
            "port": state.postgresql_port,
            "admin_secret_arn": arn,
            "max_tenants": _MAX_TENANTS,
            # The local server has no certificate, and node's `pg` asks for one at `prefer`.
            "sslmode": "disable",
        }
        running.client("ssm").put_parameter(
            Name=f"{state.outputs['ClusterParameterPrefix']}/{REGION}/postgresql",
            Type="String",
            Value=json.dumps([cluster]),
            Overwrite=True,
        )


def _port(environment: Mapping[str, str], variable: str) -> int | None:
    value = environment.get(variable, "")
    if not value:
        return None
    if not value.isdigit() or not 1 <= int(value) <= 65_535:  # noqa: PLR2004 - the highest port
        raise LocalStackError(f"{variable}: must be a port number, 1 to 65535.")
    return int(value)
