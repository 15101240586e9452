"""A whole deployment in one process: moto's AWS, the real state machine and stages, PostgreSQL.

moto's interpreter runs the state machine; its AWS Lambda hands every Task to the real stage code.
Faults are put in at named points around a stage.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from functools import cache
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from moto import mock_aws
from moto.awslambda_simple.models import LambdaSimpleBackend
from moto.rds.models import rds_backends
from moto.s3.models import S3Backend
from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_sfn import (  # noqa: E501
    StateTaskServiceSfn,
)
from moto.stepfunctions.parser.asl.component.state.wait.wait_function.wait_function import (
    WaitFunction,
)
from moto.stepfunctions.parser.models import stepfunctions_parser_backends
from provision_cli.job_types.state_machine import state_machine
from provisioner import api
from provisioner.composition.deployment import naming
from provisioner.composition.in_process import all_stages
from provisioner.composition.stage_code import failure_policies
from provisioner.drivers.appsync import ensure_event_api
from provisioner.drivers.cognito import ensure_user_pool
from provisioner.drivers.database_engine import TenantNames
from provisioner.drivers.s3 import Settling, ensure_bucket
from provisioner.drivers.secrets import ensure_secret
from provisioner.errors import ErrorType, failure
from provisioner.jobs.definition import Stage
from provisioner.jobs.execution import (
    execution_input,
    execution_name,
    job_input,
)
from provisioner.jobs.failure import FailureRecorder
from provisioner.jobs.in_process import InProcessRun
from provisioner.jobs.records import NewJob
from provisioner.jobs.retries import FOREIGN_ERRORS, POLL_SECONDS
from provisioner.jobs.stage import Completion, JobInput, StageOutcome, Waiting
from provisioner.jobs.stage_run import RECORD_FAILURE, StageFunction, StageRunner, Step
from provisioner.jobs.store import utc_now
from provisioner.ownership import Ownership
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.first_run import IS_ONLY, KNOWN_IDS
from provisioner.provisioning.functions import LIFECYCLE
from provisioner.provisioning.job_types import JOB_TYPES, provision_project
from provisioner.provisioning.naming import ResourceNames
from provisioner.provisioning.projects import ProjectStore
from provisioner.runtime import aws, platform
from provisioner.runtime.observability import logger, metrics
from provisioner.runtime.platform import PlatformSettings
from support import project
from support.calls import Within, met
from support.core import (
    Jobs,
    deprovision_project_handler,
    make_tables,
    provision_project_handler,
    take_one_request_at_a_time,
)
from support.postgresql import PreparedCluster
from support.remaining import LEDGER, deployment_of, left_in
from support.tenant_server import OnPostgresql, TenantServer

REGION = "eu-central-1"
ACCOUNT = "123456789012"

#: The deployment's bucket of snapshots.
SNAPSHOTS_BUCKET = "snapshots"

#: Seconds that an execution may take here; its waits cost nothing.
_DEADLINE = 60.0


#: The stages of a job whose project shares a cluster.
SHARED_STAGES = tuple(stage for stage in provision_project.JOB_TYPE.stages if not stage.runs_if)

#: The services of a project that has none; a job of it takes half the time.
NO_SERVICES = {"auth": False, "realtime": False, "storage": False}

#: Stages that fail in one job, so that all are met in four: those of the branches settle.
FAILING_TOGETHER = [
    (provision_project.INITIALIZING,),
    (
        provision_project.CREATING_DATABASE,
        provision_project.REGISTERING_AUTH,
        provision_project.REGISTERING_REALTIME,
        provision_project.REGISTERING_STORAGE,
        provision_project.GENERATING_API_KEYS,
    ),
    (provision_project.CREATING_SCHEMA,),
    (provision_project.FINALIZING,),
]


class Point(StrEnum):
    """Where a fault stands around the effect of a stage."""

    BEFORE = "before its effect"
    AFTER = "after its effect"
    TWICE = "the stage runs twice"
    INVOKED_TWICE = "its function is invoked twice"
    TIMED_OUT = "its function times out after its effect"
    DIED = "its function dies after its effect"


class FunctionEnded(BaseException):
    """The function ends without a word of ours: AWS Lambda names the error."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass
class Fault:
    """One fault; it happens as often as it says, then no more."""

    point: Point | Within
    error: Callable[[], BaseException] = lambda: failure(ErrorType.NETWORK_ERROR, "Injected.")
    times: int = 1
    #: The fault that comes next.
    then: Fault | None = None

    def __post_init__(self) -> None:
        if self.point is Point.TIMED_OUT:
            self.error = lambda: FunctionEnded("Sandbox.Timedout")
        if self.point is Point.DIED:
            self.error = lambda: FunctionEnded("Runtime.ExitError")


@dataclass
class Workflow:
    """The deployment, and what happens in it."""

    #: Where the tenants are.
    server: TenantServer
    settings: PlatformSettings
    jobs: Jobs
    #: Faults by stage, or by job type and stage, as `places` names them; taken away as they happen.
    faults: dict[str, Fault] = field(default_factory=dict)
    #: What a stage waits for, by its name: one sentence each time that it is asked.
    waiting_for: dict[str, Iterator[str]] = field(default_factory=dict)
    #: Called before every run of a stage.
    observers: list[Callable[[JobInput, str], None]] = field(default_factory=list)
    #: Every wait that a retrier has drawn, in seconds.
    waits: list[float] = field(default_factory=list)
    #: Every pause for what may be at work still that was any, in seconds.
    pauses: list[float] = field(default_factory=list)
    #: What the time of the jobs has passed by in pauses between attempts of their ends.
    passed: timedelta = timedelta()
    #: Called instead of pausing.
    on_pause: Callable[[], None] = lambda: None
    #: Called instead of waiting.
    on_wait: Callable[[], None] = lambda: None
    run_stage: Step = field(init=False)
    record_failure: Step = field(init=False)
    #: ARNs of the state machines by their names within the stack.
    state_machines: dict[str, str] = field(default_factory=dict)
    #: Places of quotas that no project of the deployment holds, for the test has set them so.
    set_places: Counter[str] = field(default_factory=Counter)
    #: Projects that are none, in whose name the test has made something that is to stay.
    others: set[str] = field(default_factory=set)
    #: A function runs one event at a time, as in AWS Lambda.
    _one_at_a_time: threading.RLock = field(default_factory=threading.RLock)
    _projects: list[str] = field(default_factory=list)
    #: Whether what runs does so in a function, or in a job's own process.
    _in_function: bool = True

    def __post_init__(self) -> None:
        stages = {
            job_type: {stage: self._faulty(job_type, stage, run) for stage, run in of_type.items()}
            for job_type, of_type in all_stages(self.settings, self.jobs).items()
        }
        policies = failure_policies(self.settings)
        self.run_stage = self._either(
            *(
                StageRunner(self.jobs, stages, definitions=JOB_TYPES, is_process=is_process)
                for is_process in (False, True)
            )
        )
        self.record_failure = self._either(
            *(
                FailureRecorder(self.jobs, policies, is_process=is_process)
                for is_process in (False, True)
            )
        )
        self.projects = ProjectStore(
            aws.client("dynamodb"), self.settings.projects_table, self.settings.quotas_table
        )

    def _either(self, in_function: Step, in_process: Step) -> Step:
        """Return a step that runs as one of a function, or as one of a job's own process."""

        def run(event: Mapping[str, Any]) -> dict[str, Any]:
            return in_function(event) if self._in_function else in_process(event)

        return run

    @property
    def engine(self) -> Engine:
        """The engine of the projects."""
        return self.server.engine

    @property
    def cluster(self) -> PreparedCluster:
        """The server, in a test of PostgreSQL alone."""
        assert isinstance(self.server, OnPostgresql)
        return self.server.cluster

    def reference(self) -> dict[str, Any]:
        """Return the snapshot of a project that met no fault, as another deployment makes it."""
        if self.engine not in _references:
            raise LookupError("the fixture `workflow` makes the reference first")
        return _references[self.engine]

    def new_project(self, **parties: str) -> str:
        """Create a project and return its id."""
        project_id = f"project-{uuid.uuid4().hex[:12]}"
        api.create_project(project_id, **parties)
        self._projects.append(project_id)
        return project_id

    def new_job(self, project_id: str, **payload: Any) -> api.Job:
        """Store a job as the dispatcher does, with a database of the deployment's engine."""
        database = {"engine": self.engine, **payload.pop("database", {})}
        valid = provision_project_handler.parse(
            {"project_id": project_id, "region": REGION, "database": database} | payload
        )
        return self.jobs.create(
            NewJob(
                str(uuid.uuid4()),
                "provision_project",
                valid.model_dump(mode="json"),
                provision_project_handler.stages,
            )
        )

    def new_deprovision_job(self, project_id: str, **payload: Any) -> api.Job:
        """Store a job that deprovisions a project, as the dispatcher does."""
        valid = deprovision_project_handler.parse(
            {"project_id": project_id, "confirm": project_id} | payload
        )
        return self.jobs.create(
            NewJob(
                str(uuid.uuid4()),
                "deprovision_project",
                valid.model_dump(mode="json"),
                deprovision_project_handler.stages,
            )
        )

    def new_change(self, job_type: str, project_id: str, **payload: Any) -> api.Job:
        """Store a job that changes a project that is there, as the dispatcher does.

        What is not said of the payload is that of the job type's example.
        """
        handler = api.get_job_handler(job_type)
        given = {**JOB_TYPES[job_type].example, "project_id": project_id, **payload}
        valid = handler.parse(given).model_dump(mode="json")
        return self.jobs.create(NewJob(str(uuid.uuid4()), job_type, valid, handler.stages))

    def start(self, job: api.Job) -> str:
        """Start the execution of a job and return its ARN."""
        new = NewJob(job.job_id, job.job_type, job.payload, ())
        arn: str = aws.client("stepfunctions").start_execution(
            stateMachineArn=self.state_machines[job.job_type],
            name=execution_name(job.job_id, job.attempt),
            input=execution_input(new, job.attempt),
        )["executionArn"]
        return arn

    def execute(self, job: api.Job) -> api.Job:
        """Run a job on the state machine to its end, and its clean-up; return what is stored."""
        self.ended(self.start(job))
        ended = self.jobs.get(job.job_id)
        if not ended.cleanup_job_id:
            return ended
        self.ended(self.cleanup_execution(self.jobs.get(ended.cleanup_job_id)))
        return self.jobs.get(job.job_id)

    def cleanup_execution(self, cleanup: api.Job) -> str:
        """Return the execution of a clean-up; it is started here where it was sent as a message."""
        arn = self.execution_arn(cleanup.job_type, execution_name(cleanup.job_id, cleanup.attempt))
        machine = stepfunctions_parser_backends[ACCOUNT][REGION].describe_state_machine(
            self.state_machines[cleanup.job_type]
        )
        is_started = any(arn == execution.execution_arn for execution in machine.executions)
        return arn if is_started else self.start(cleanup)

    def execution_arn(self, state_machine: str, name: str) -> str:
        """Return the ARN of an execution."""
        arn = self.state_machines[state_machine].replace(":stateMachine:", ":execution:")
        return f"{arn}:{name}"

    def wait(self, seconds: float) -> None:
        """Stand in for every wait between two attempts: it is noted and costs nothing."""
        if seconds == POLL_SECONDS:  # none that is drawn ever is
            self.pauses.append(seconds)
            self.on_pause()
            self.passed += timedelta(seconds=seconds)
            return
        self.waits.append(seconds)
        self.on_wait()

    def execute_in_process(self, job: api.Job) -> api.Job:
        """Run a job as the handler does when it is called.

        There the process itself would die with a function; what stands for it is the error that
        the state machine makes of that.
        """

        def run_step(event: Mapping[str, Any]) -> dict[str, Any]:
            try:
                return self.call(event)
            except FunctionEnded as end:
                raise failure(FOREIGN_ERRORS[end.name], "The function ended.") from None

        InProcessRun(JOB_TYPES, run_step, run_step, sleep=self.wait)(job_input(job, job.attempt))
        return self.jobs.get(job.job_id)

    def let_wait(self, stage: Stage, seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let a stage be one that may wait for so long."""
        monkeypatch.setattr(stage, "waits_seconds", seconds)
        for definition in JOB_TYPES.values():
            # Stages are compared as their names are.
            if not any(one is stage for one in definition.stages):
                continue
            name, made = definition.name, state_machine(definition, LIFECYCLE)
            aws.client("stepfunctions").update_state_machine(
                stateMachineArn=self.state_machines[name], definition=_with_arns(name, made)
            )

    def time_out_after(self, task: str, seconds: int) -> None:
        """Give a Task of the state machine less time."""
        machines = aws.client("stepfunctions")
        arn = self.state_machines["provision_project"]
        definition = machines.describe_state_machine(stateMachineArn=arn)["definition"]
        changed = re.sub(
            rf'("{task}": {{[^{{}}]*"TimeoutSeconds": )\d+', rf"\g<1>{seconds}", definition
        )
        assert changed != definition
        machines.update_state_machine(stateMachineArn=arn, definition=changed)

    def ended(self, execution_arn: str) -> str:
        """Return the status of an execution once it has ended."""
        deadline = time.monotonic() + _DEADLINE
        # Asked directly: an API call each time would cost more than the execution.
        execution = stepfunctions_parser_backends[ACCOUNT][REGION].describe_execution(execution_arn)
        while (status := str(execution.status)) == "RUNNING":
            assert time.monotonic() < deadline, f"{execution_arn} still runs"
            time.sleep(0.01)
        return status

    def history(self, job: api.Job) -> list[dict[str, Any]]:
        """Return the execution history of a job."""
        arn = self.execution_arn(job.job_type, execution_name(job.job_id, job.attempt))
        pages = aws.client("stepfunctions").get_paginator("get_execution_history")
        return [event for page in pages.paginate(executionArn=arn) for event in page["events"]]

    def call(self, event: Mapping[str, Any], *, in_function: bool = False) -> dict[str, Any]:
        """Handle an event as the functions' handlers do, or as a job's own process does."""
        with self._one_at_a_time:
            self._in_function = in_function
            # A job that runs within another's stage begins as a fresh function does.
            metrics.clear_metrics()
            try:
                if event["stage"] == RECORD_FAILURE:
                    return self.record_failure(event)
                place = self._place(event["job"]["job_type"], event["stage"])
                fault = self.faults.get(place)
                if fault is not None and fault.point is Point.INVOKED_TWICE:
                    del self.faults[place]
                    self.run_stage(event)
                return self.run_stage(event)
            finally:
                logger.remove_keys(["job_id", "project_id", "stage"])
                metrics.clear_metrics()

    @contextmanager
    def others_go_on(self) -> Iterator[None]:
        """Let other events be handled while this one hangs."""
        self._one_at_a_time.release()
        try:
            yield
        finally:
            self._one_at_a_time.acquire()

    def invoke(self, body: str) -> tuple[bytes, bool]:
        """Answer as AWS Lambda does: the result, or the error with the name of its class."""
        try:
            return json.dumps(self.call(json.loads(body), in_function=True)).encode(), True
        except FunctionEnded as end:
            error = {"errorType": end.name, "errorMessage": "RequestId: 0 Error: the end"}
        except Exception as raised:  # noqa: BLE001  # every exception becomes an answer
            error = {"errorType": type(raised).__name__, "errorMessage": str(raised)}
        return json.dumps(error | {"stackTrace": []}).encode(), False

    def _place(self, job_type: str, stage: str) -> str:
        """Return the name of a stage's fault: a job and its clean-up have stages of one name."""
        place = f"{job_type}/{stage}"
        return place if place in self.faults else stage

    def _faulty(self, job_type: str, stage: str, function: StageFunction) -> StageFunction:
        def run(job: JobInput) -> StageOutcome | Waiting:
            for observe in self.observers:
                observe(job, stage)
            for waiting_for in self.waiting_for.get(stage, ()):
                return Waiting(waiting_for)
            place = self._place(job_type, stage)
            fault = self.faults.get(place)
            if fault is None:
                return function(job)
            if isinstance(fault.point, Within):
                with met(fault.point) as happened:
                    try:
                        return function(job)
                    finally:
                        if happened:
                            self._count(place, fault)
            self._count(place, fault)
            if fault.point is Point.BEFORE:
                raise fault.error()
            outcome = function(job)
            if fault.point is Point.TWICE:
                # Only one run has stored the start, so the other is no first one.
                return function(job.model_copy(update={"is_first": False}))
            self._complete(job, stage, outcome)
            raise fault.error()

        return run

    def _complete(self, job: JobInput, stage: str, outcome: StageOutcome | Waiting) -> None:
        """Let a stage that ends the job have its effect, the end of the job."""
        if isinstance(outcome, Waiting):
            return
        end = outcome.completion
        if end is None and stage == JOB_TYPES[job.job_type].last:
            end = Completion(outcome.output)
        if end is not None:
            self.jobs.complete(
                job.job_id,
                stage,
                output=outcome.output,
                check=outcome.check,
                result=end.result,
                also=end.also,
            )

    def _count(self, place: str, fault: Fault) -> None:
        """Take away a fault that has happened as often as it says."""
        fault.times -= 1
        if fault.times > 0:
            return
        self.faults.pop(place)
        if fault.then is not None:
            self.faults[place] = fault.then

    def deploy(self, **changed: Any) -> None:
        """Let the deployment have other settings from now on."""
        self.settings = self.settings.model_copy(update=changed)
        self.__post_init__()

    def names(self, project_id: str) -> ResourceNames:
        """Return the names of a project's resources."""
        return naming(self.settings).names(project_id)

    def bucket(self, project_id: str) -> str:
        """Return the name of a project's bucket."""
        return naming(self.settings).bucket(project_id, REGION)

    def tenant(self, project_id: str) -> TenantNames:
        """Return the names of what a project has on the server."""
        return self.names(project_id).tenants[self.engine]

    def login(self, project_id: str) -> dict[str, Any]:
        """Return the login that the project's secret hands over."""
        return self.secret(self.names(project_id).database_secret)

    def take_names(self, project_id: str, owner: Ownership) -> None:
        """Let someone have made everything in AWS under the names of a project."""
        self.others |= {owner.project_id} - set(self._projects)
        names = self.names(project_id)
        for name in (names.database_secret, names.api_keys_secret):
            ensure_secret(
                aws.client("secretsmanager"),
                name=name,
                owner=owner,
                make=lambda: {"api_keys": []},
                kms_key_arn=None,
                final=ErrorType.UNKNOWN_ERROR,
            )
        ensure_user_pool(
            aws.client("cognito-idp", REGION),
            name=names.user_pool,
            client_name=names.user_pool_client,
            owner=owner,
        )
        ensure_event_api(
            aws.client("appsync", REGION),
            name=names.event_api,
            namespace=names.channel_namespace,
            owner=owner,
        )
        ensure_bucket(
            aws.client("s3", REGION),
            name=self.bucket(project_id),
            region=REGION,
            owner=owner,
            settling=Settling(),
        )

    def has_made(self, project_id: str) -> bool:
        """Whether a project is one of this deployment's."""
        return project_id in self._projects

    def remove_tenants(self) -> None:
        """Remove the databases and logins of the projects, which outlive moto's AWS."""
        for project_id in self._projects:
            self.server.remove(self.tenant(project_id))

    @contextmanager
    def logged(self) -> Iterator[StringIO]:
        """Collect the lines that the stages log."""
        stream = StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logger.registered_formatter)
        logger.addHandler(handler)
        yield stream
        logging.getLogger(logger.name).removeHandler(handler)

    # What there is, afterwards.

    def secret(self, name: str) -> dict[str, Any]:
        """Read a secret."""
        value = aws.client("secretsmanager").get_secret_value(
            SecretId=name, VersionStage="AWSCURRENT"
        )["SecretString"]
        found: dict[str, Any] = json.loads(value)
        return found

    def snapshot(self, job: api.Job, *, attempts: bool = False) -> dict[str, Any]:
        """Return all that exists for a job's project, without what differs from run to run.

        It logs in with the login that the secret holds and verifies the keys that it hands over.

        Args:
            job: the job, which has ended.
            attempts: whether it is to hold how often each stage was tried and what it met, too.
        """
        project_id = job.project_id
        project = self.projects.get(project_id)
        names, tenant_names = self.names(project_id), self.tenant(project_id)
        tenant = self.server.snapshot(tenant_names)
        found: dict[str, Any] = {
            "job": (job.status, job.error, job.other_errors),
            "stages": [(s.stage, s.status, s.check, _without_known(s.output)) for s in job.stages],
            "result": job.result,
            "project": project and replace(project, known_ids={}),
            "quotas": self._scan(self.settings.quotas_table),
            "tenant": tenant,
            "services": self._services(),
            "secrets": self._secrets(names, tenant),
            "api_keys": self._api_keys(names),
        }
        if attempts:
            found["attempts"] = [(s.stage, s.attempt, s.error) for s in job.stages]
            found["waits"] = len(self.waits)
        # The names contain the project id, so that they come first.
        known = {
            self.bucket(project_id): "BUCKET",
            names.user_pool: "NAME",
            tenant_names.database: "DATABASE",
            # As a grant of MySQL names it, written by `repr`.
            tenant_names.database.replace("_", r"\\_"): "DATABASE IN GRANTS",
            tenant_names.app_role: "LOGIN",
            project_id: "PROJECT",
            job.job_id: "JOB",
        }
        anonymous: dict[str, Any] = {k: _anonymous(v, known) for k, v in found.items()}
        return anonymous

    def remains(self, project_id: str) -> dict[str, Any]:
        """Return what there is of a project beside its record, and all that counts it.

        It is empty where there is nothing: the deployment has no other project.
        """
        names = self.names(project_id)
        counts = self._scan(self.settings.quotas_table)
        keys = self._scan(self.settings.api_keys_table)
        tenant = self.server.snapshot(self.tenant(project_id))
        found = {
            **tenant,
            **self._services(),
            "secrets": self._secrets(names, tenant),
            "api_keys": [item for item in keys if "key_id" in item],
            "hand_overs": [item for item in keys if "key_id" not in item],
            "counts": [c for c in counts if c.get("used", {"N": "0"}) != {"N": "0"}],
        }
        return {kind: there for kind, there in found.items() if there}

    def _scan(self, table: str) -> list[Any]:
        return sorted(aws.client("dynamodb").scan(TableName=table)["Items"], key=str)

    def _services(self) -> dict[str, Any]:
        cognito, appsync, s3 = (aws.client(s, REGION) for s in ("cognito-idp", "appsync", "s3"))
        pools = [
            cognito.describe_user_pool(UserPoolId=pool["Id"])["UserPool"]
            for pool in cognito.list_user_pools(MaxResults=60)["UserPools"]
        ]
        apis = appsync.list_apis()["apis"]
        buckets = [
            bucket["Name"]
            for bucket in s3.list_buckets()["Buckets"]
            if bucket["Name"] != SNAPSHOTS_BUCKET
        ]
        return {
            "pools": [(pool["Name"], pool["UserPoolTags"], pool["Policies"]) for pool in pools],
            "clients": [
                client["ClientName"]
                for pool in pools
                for client in cognito.list_user_pool_clients(UserPoolId=pool["Id"])[
                    "UserPoolClients"
                ]
            ],
            "apis": [(found["name"], found["tags"], found["eventConfig"]) for found in apis],
            "instances": [
                (name, found.status, found.tags)
                for name, found in rds_backends[ACCOUNT][REGION].databases.items()
            ],
            "namespaces": [
                namespace["name"]
                for found in apis
                for namespace in appsync.list_channel_namespaces(apiId=found["apiId"])[
                    "channelNamespaces"
                ]
            ],
            "buckets": [
                (
                    name,
                    sorted(tag["Value"] for tag in s3.get_bucket_tagging(Bucket=name)["TagSet"]),
                    s3.get_bucket_versioning(Bucket=name)["Status"],
                    s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"],
                    s3.get_bucket_policy(Bucket=name)["Policy"],
                )
                for name in buckets
            ],
        }

    def _secrets(self, names: ResourceNames, tenant: Mapping[str, Any]) -> dict[str, Any]:
        listed = aws.client("secretsmanager").list_secrets()["SecretList"]
        found: dict[str, Any] = {
            secret["Name"]: secret["Tags"]
            for secret in sorted(listed, key=lambda secret: secret["Name"])
            if secret.get("Tags")
        }
        if names.database_secret in found and tenant.get("databases"):
            login = self.secret(names.database_secret)
            if "connection_string" in login:  # not of someone else
                found["login"] = self.server.whoami(login)
        return found

    def _api_keys(self, names: ResourceNames) -> list[Any]:
        stored = self._scan(self.settings.api_keys_table)
        digests = [item for item in stored if "key_id" in item]
        try:
            keys = self.secret(names.api_keys_secret)["api_keys"]
        except aws.client("secretsmanager").exceptions.ResourceNotFoundException:
            keys = []
        verified = [api.verify_api_key(key) for key in keys]
        assert all(key is not None for key in verified)
        assert len(digests) == len(keys)
        return [(key.project_id, key.status) for key in verified if key is not None]


_VARYING = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[0-9.+:]*Z?"  # times
    r"|key_[0-9a-f]{20}|nm_[0-9A-Za-z]{6}\b"  # keys
    r"|eu-central-1_[0-9A-Za-z]+"  # user pools
    r"|(?<=database-)[A-Za-z0-9]{6}\b|(?<=api-keys-)[A-Za-z0-9]{6}\b"  # ARNs of secrets
    r"|(?<=Event API )\w+"
)


def _without_known(output: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out by what a removal finds things: it differs where a stage has run twice."""
    return {name: value for name, value in output.items() if name not in {IS_ONLY, KNOWN_IDS}}


def _anonymous(value: Any, known: Mapping[str, str]) -> str:
    text = repr(value)
    for name, stands_for in known.items():
        text = text.replace(name, stands_for)
    text = re.sub(r"'(tenant_id|endpoint|realtime_endpoint|client_id)': '[^']*'", r"'\1'", text)
    return _VARYING.sub("*", text)


#: How a job is run: on the state machine, or by the handler.
type Run = Callable[[Workflow, api.Job], api.Job]
each_way = pytest.mark.parametrize(
    "run", [Workflow.execute, Workflow.execute_in_process], ids=["state_machine", "in_process"]
)

#: Makes a deployment of its own.
type Deploy = Callable[[], AbstractContextManager[Workflow]]

#: The session whose clients talk to moto.
_sessions: list[Any] = []

#: The snapshot of a project that met no fault, by its engine; a worker makes it once.
_references: dict[Engine, dict[str, Any]] = {}


@pytest.fixture
def workflow(tenant_server: TenantServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workflow]:
    """Return a deployment of its own, and remove what it leaves on the server of the run.

    Its projects have databases of PostgreSQL, unless the test takes an engine: `each_engine` and
    `on_mysql` of support.tenant_server.
    """
    if tenant_server.engine not in _references:
        with pytest.MonkeyPatch.context() as patch, deployed(tenant_server, patch) as made:
            job = made.execute(made.new_job(made.new_project()))
            _references[made.engine] = made.snapshot(job)
    with deployed(tenant_server, monkeypatch) as made:
        yield made


@pytest.fixture
def deploy(tenant_server: TenantServer) -> Deploy:
    """Return what makes a deployment, one at a time, and removes what it leaves."""

    @contextmanager
    def make() -> Iterator[Workflow]:
        with pytest.MonkeyPatch.context() as patch, deployed(tenant_server, patch) as made:
            yield made

    return make


def enter_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables that every function has, and credentials that open nothing."""
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "POWERTOOLS_SERVICE_NAME": "project-provisioner",
        "POWERTOOLS_METRICS_NAMESPACE": "ProjectProvisioner",
        "POWERTOOLS_TRACE_DISABLED": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


@contextmanager
def deployed(server: TenantServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workflow]:
    """Make a deployment whose projects share one server."""
    enter_environment(monkeypatch)
    take_one_request_at_a_time(monkeypatch)
    configuration: Any = {
        "stepfunctions": {"execute_state_machine": True},
        "lambda": {"use_docker": False},
    }
    with mock_aws(config=configuration):
        # Clients cost more than all else here: a worker makes them once.
        if aws.session() not in _sessions:
            aws.reset()
            _sessions[:] = [aws.session()]
        settings = _make_resources(server)
        monkeypatch.setattr(platform, "_connected", [settings])
        jobs = Jobs(
            aws.client("dynamodb"), settings.jobs_table, now=lambda: utc_now() + made.passed
        )
        made = Workflow(server, settings, jobs)
        monkeypatch.setattr(retrier_decl, "time", SimpleNamespace(sleep=made.wait))

        def pause(_state: WaitFunction, env: Any, wait_seconds: int) -> None:
            del env
            if wait_seconds > 0:
                made.pauses.append(wait_seconds)
                made.on_pause()

        monkeypatch.setattr(WaitFunction, "_wait_interval", pause)

        def invoke(
            _backend: LambdaSimpleBackend,
            _name: str,
            _qualifier: str | None,
            body: str,
            _headers: Any,
            response_headers: dict[str, Any],
        ) -> bytes:
            answer, ok = made.invoke(body)
            if not ok:
                response_headers["x-amz-function-error"] = "Unhandled"
            return answer

        monkeypatch.setattr(LambdaSimpleBackend, "invoke", invoke)
        monkeypatch.setattr(StateTaskServiceSfn, "_eval_service_task", _start_execution)
        monkeypatch.setattr(S3Backend, "delete_bucket", _delete_bucket_with_its_tags)
        made.state_machines = _make_state_machines()
        yield made
        LEDGER.note(left_in(deployment_of(made, ACCOUNT, REGION)))
        made.remove_tenants()


_delete_bucket = S3Backend.delete_bucket


def _delete_bucket_with_its_tags(backend: S3Backend, bucket_name: str) -> Any:
    """Delete a bucket; moto would keep its tags for the next of that name."""
    deleted = _delete_bucket(backend, bucket_name)
    if deleted is not None:
        backend.tagger.delete_all_tags_for_resource(deleted.arn)
    return deleted


def _start_execution(
    _task: StateTaskServiceSfn,
    *,
    env: Any,
    normalised_parameters: Mapping[str, Any],
    **_more: Any,
) -> None:
    """Start an execution from a state; moto passes the names of the parameters on untranslated."""
    started = aws.client("stepfunctions").start_execution(
        **{name[0].lower() + name[1:]: value for name, value in normalised_parameters.items()}
    )
    env.stack.append(
        {"ExecutionArn": started["executionArn"], "StartDate": str(started["startDate"])}
    )


def _make_resources(server: TenantServer) -> PlatformSettings:
    make_tables(aws.client("dynamodb"))
    login = server.admin
    admin = aws.client("secretsmanager").create_secret(
        Name="nm/clusters/test",
        SecretString=json.dumps({"username": login.user, "password": login.password}),
    )
    aws.client("ssm").put_parameter(
        Name=f"/test/clusters/{REGION}/{server.engine}/test-1",
        Type="String",
        Value=json.dumps(
            {
                "host": login.host,
                "port": login.port,
                "admin_secret_arn": admin["ARN"],
                "max_tenants": 100,
                "sslmode": login.sslmode,
            }
        ),
    )
    aws.client("s3").create_bucket(
        Bucket=SNAPSHOTS_BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    return PlatformSettings(
        jobs_table="JobsTable",
        projects_table="ProjectsTable",
        api_keys_table="ApiKeysTable",
        quotas_table="QuotasTable",
        queue_url=aws.client("sqs").create_queue(QueueName="jobs")["QueueUrl"],
        dead_letter_queue_url=aws.client("sqs").create_queue(QueueName="dead-letters")["QueueUrl"],
        cluster_parameter_prefix="/test/clusters",
        resource_prefix="nm",
        resource_namespace=f"test-{ACCOUNT}",
        default_project_quota=10,
        state_machine_arn_prefix=f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:test-",
        snapshots_bucket=SNAPSHOTS_BUCKET,
        pgsslrootcert=login.root_certificates,
    )


def _make_state_machines() -> dict[str, str]:
    return {name: _make_state_machine(name) for name in project.STATE_MACHINE_NAMES}


def _make_state_machine(name: str) -> str:
    # Made directly: moto reads a request anew for each of its ten parameters.
    machines = stepfunctions_parser_backends[ACCOUNT][REGION]
    made: str = machines.create_state_machine(
        name=f"test-{name}",
        definition=_definition(name),
        roleArn=f"arn:aws:iam::{ACCOUNT}:role/test",
    ).arn
    return made


@cache
def _definition(name: str) -> str:
    return _with_arns(name, project.state_machine(name))


def _with_arns(name: str, document: Mapping[str, Any]) -> str:
    """Return the definition of a state machine, with the ARNs that the template substitutes."""
    definition = json.dumps(document)
    for placeholder in set(re.findall(r"\$\{(\w+)\}", definition)):
        kind = "function" if placeholder.endswith("FunctionArn") else "stateMachine"
        target = placeholder
        if kind == "stateMachine":
            target = f"test-{project.substituted_state_machine(name, placeholder)}"
        service = "lambda" if kind == "function" else "states"
        arn = f"arn:aws:{service}:{REGION}:{ACCOUNT}:{kind}:{target}"
        definition = definition.replace(f"${{{placeholder}}}", arn)
    return definition
