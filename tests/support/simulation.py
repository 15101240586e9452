"""A deployment of which a test turns every wheel itself: the clock, the queue and each execution.

The code is the real one, put together by the modules that the Lambda functions use; AWS is moto's
and the cluster is a real PostgreSQL. Nothing runs unless a test lets it: a message is delivered, a
state takes its next step, a function that hangs goes on, and time passes when it is told to. The
same steps give the same deployment.
"""

from __future__ import annotations

import json
import logging
import pkgutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial, wraps
from importlib import import_module
from io import StringIO
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from botocore import xform_name
from botocore.client import BaseClient
from botocore.exceptions import ClientError, ReadTimeoutError
from moto import mock_aws
from moto.appsync.models import appsync_backends
from moto.cognitoidp.models import CognitoIdpUserPoolClient, cognitoidp_backends
from moto.core.exceptions import JsonRESTError
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.responses import DynamoHandler
from moto.s3.models import S3Backend, s3_backends
from moto.secretsmanager.models import secretsmanager_backends
from moto.sqs.models import sqs_backends
from moto.stepfunctions.models import stepfunctions_backends
from provision_cli.job_types.state_machine import state_machine
from provisioner import api
from provisioner.api_keys import store as api_key_store
from provisioner.composition import (
    api_keys,
    database,
    dead_letters,
    dispatcher,
    instances,
    lifecycle,
    reconciler,
    services,
    snapshot,
)
from provisioner.drivers import dynamodb
from provisioner.jobs import store as job_store
from provisioner.jobs.records import canonical_json
from provisioner.jobs.stage import Waiting
from provisioner.jobs.sweep import Sweep
from provisioner.ownership import JOB_TAG, MANAGED_BY_TAG, PROJECT_TAG, tags_of_comment
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.functions import LIFECYCLE
from provisioner.provisioning.job_types import clean_up_project, provision_project
from provisioner.provisioning.naming import Naming
from provisioner.runtime import aws, platform
from provisioner.runtime.observability import logger, metrics
from provisioner.runtime.platform import PlatformSettings
from psycopg import sql
from support import asl, calls, project, workflow
from support.asl import StateError
from support.core import READING
from support.postgresql import PreparedCluster
from support.tenant_server import OnPostgresql
from support.workflow import ACCOUNT, REGION, FunctionEnded

#: Deliveries of a message before the queue gives it up. Source: the template's RedrivePolicy.
_MAX_RECEIVES = 5
#: Seconds until a message is delivered again. Source: the template's VisibilityTimeout.
_VISIBILITY = 360

_BUILD: dict[str, Callable[[], Callable[..., Any]]] = {
    "lifecycle": lifecycle.build,
    "database": database.build,
    "instances": instances.build,
    "services": services.build,
    "api_keys": api_keys.build,
    "snapshot": snapshot.build,
    "dispatcher": dispatcher.build,
    "dead_letters": dead_letters.build,
    "reconciler": reconciler.build,
}

#: The function of each placeholder of the state machines.
_FUNCTIONS = {
    "${LifecycleFunctionArn}": "lifecycle",
    "${DatabaseFunctionArn}": "database",
    "${InstancesFunctionArn}": "instances",
    "${ServicesFunctionArn}": "services",
    "${ApiKeysFunctionArn}": "api_keys",
    "${SnapshotFunctionArn}": "snapshot",
}

#: Seconds that the stage may wait which waits here.
WAITS_SECONDS = 300

_BEGIN = datetime(2026, 1, 31, 10, 0, tzinfo=UTC)

_CONTEXT = SimpleNamespace(get_remaining_time_in_millis=lambda: 900_000)

#: The functions of stages that take it.
_TAKE_CONTEXT = {"api_keys", "instances", "snapshot"}


class Kind(StrEnum):
    """What goes wrong at an effect."""

    #: The function dies before it.
    DIES = "dies"
    #: It takes effect, and the answer is lost on the way.
    ANSWER_IS_LOST = "answer is lost"
    #: AWS, or the server, refuses it for good.
    REFUSED = "refused"
    #: AWS asks to try again later.
    THROTTLED = "throttled"
    #: The function hangs before it, and may go on after the state machine has given it up.
    HANGS = "hangs"


@dataclass(frozen=True)
class Fault:
    """What one run of a function meets."""

    kind: Kind
    #: Counts the run's effects from 1. One that dies beyond its last dies before it can answer.
    at: int

    def __repr__(self) -> str:
        return f"Fault(Kind.{self.kind.name}, {self.at})"


@dataclass
class _Run:
    """A run of a function under way."""

    fault: Fault | None
    effects: int = 0
    has_met_sql: bool = False
    is_killed: bool = False
    hangs: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    goes_on: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def meet(self, name: str, act: Callable[[], Any]) -> Any:
        """Do what has an effect, unless it is where the fault is."""
        self.effects += 1
        fault = self.fault
        if fault is None or self.effects != fault.at:
            return act()
        self.fault = None
        match fault.kind:
            case Kind.ANSWER_IS_LOST if name != calls.SQL:
                act()
                raise ReadTimeoutError(endpoint_url="https://aws.invalid")
            case Kind.REFUSED | Kind.THROTTLED if name == calls.SQL:
                raise psycopg.errors.InsufficientPrivilege("made by a test")
            case Kind.REFUSED:
                raise ClientError({"Error": {"Code": "AccessDeniedException"}}, name)
            case Kind.THROTTLED:
                raise ClientError({"Error": {"Code": "ThrottlingException"}}, name)
            # A session that hung would hold its locks, and everyone else with them.
            case Kind.HANGS if not self.has_met_sql:
                self.hangs.release()
                self.goes_on.acquire()
                if not self.is_killed:
                    return act()
        raise FunctionEnded("Runtime.ExitError")


_running: ContextVar[_Run | None] = ContextVar("running", default=None)


@dataclass(eq=False)
class Hanging:
    """A function that has not answered in time and may still go on."""

    run: _Run
    thread: threading.Thread
    #: When AWS Lambda ends it.
    until: datetime


@dataclass(eq=False)
class Letter:
    """A message in the queue of jobs."""

    message_id: str
    body: str
    visible_at: datetime
    receives: int = 0


@dataclass(frozen=True)
class Resource:
    """Something that is there, and whose it says it is."""

    #: As a clean-up names what it has left.
    name: str
    tags: Mapping[str, str]

    @property
    def job_id(self) -> str:
        return self.tags.get(JOB_TAG, "")


@dataclass
class Traces:
    """Everything that was ever written where no secret may stand, and the secrets."""

    secrets: set[str] = field(default_factory=set)
    written: list[tuple[str, Any]] = field(default_factory=list)
    log: StringIO = field(default_factory=StringIO)

    def note(self, operation: str, parameters: Mapping[str, Any]) -> None:
        if "SecretString" in parameters:
            self._collect(json.loads(parameters["SecretString"]))
            return
        self.written.append((operation, parameters))

    def _collect(self, value: Mapping[str, Any]) -> None:
        self.secrets.update(value.get("api_keys", ()))
        login = ("password", "connection_string")
        self.secrets.update(value[name] for name in login if name in value)


class _Clocked(datetime):
    """The class `datetime`, with the time of the simulation."""

    simulation: Simulation

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        del tz
        return cls.simulation.tick()


class Simulation:
    """One deployment, made anew by `reset`."""

    def __init__(
        self, cluster: PreparedCluster, settings: PlatformSettings, projects: tuple[str, ...]
    ) -> None:
        self.cluster = cluster
        self.settings = settings
        self.projects = projects
        self.naming = Naming(settings.resource_prefix, settings.resource_namespace)
        self.functions = {name: build() for name, build in _BUILD.items()}
        # As they are generated: a stage may wait here that does not elsewhere.
        self.machines = project.state_machines() | {
            "provision_project": state_machine(provision_project.JOB_TYPE, LIFECYCLE)
        }
        self._time_outs = {
            name: function.properties["Timeout"] for name, function in project.functions().items()
        }
        self._connection = cluster.connect()
        self._connection.autocommit = True
        self.traces = Traces()
        self.now = _BEGIN
        for name, machine in self.machines.items():
            aws.client("stepfunctions").create_state_machine(
                name=f"test-{name}",
                definition=json.dumps(machine),
                roleArn=f"arn:aws:iam::{ACCOUNT}:role/test",
            )

    def reset(self) -> None:
        """Begin anew, with nothing stored."""
        self.now = _BEGIN
        self.letters: list[Letter] = []
        self.delivered: list[Letter] = []
        self.undelivered: list[Letter] = []
        self.events: list[dict[str, Any]] = []
        self.hanging: list[Hanging] = []
        self.has_hung = False
        self.waits: list[str | None] = []
        self.running: dict[str, asl.Execution] = {}
        self._due: dict[Any, datetime] = {}
        self._started: dict[str, datetime] = {}
        self.traces = Traces()
        self.traces.secrets.add(self.cluster.admin.password)
        self._empty()

    def _empty(self) -> None:
        """Leave of AWS what the deployment consists of: to make that anew would take a tenth."""
        for table in dynamodb_backends[ACCOUNT][REGION].tables.values():
            table.items.clear()
        for queue in sqs_backends[ACCOUNT][REGION].queues.values():
            queue._messages.clear()
            queue._pending_messages.clear()
        for machine in stepfunctions_backends[ACCOUNT][REGION].state_machines:
            machine.executions.clear()
        secrets: Any = secretsmanager_backends[ACCOUNT][REGION].secrets
        for secret in [secret for secret in secrets.values() if secret.tags]:
            del secrets[secret.name]
        s3 = s3_backends[ACCOUNT]["aws"]
        for name in [name for name in s3.buckets if name != workflow.SNAPSHOTS_BUCKET]:
            self.empty(name)
            s3.delete_bucket(name)
        cognitoidp_backends[ACCOUNT][REGION].reset()
        appsync_backends[ACCOUNT][REGION].reset()

    # Time.

    def tick(self) -> datetime:
        """Return the time; no two moments are the same."""
        self.now += timedelta(microseconds=100)
        return self.now

    def pass_time(self, seconds: float) -> None:
        """Let time pass: what hangs is ended by its time-out, an execution by its own."""
        self.now += timedelta(seconds=seconds)
        for hanging in [h for h in self.hanging if h.until <= self.now]:
            self.go_on(hanging, is_killed=True)
        for arn, execution in list(self.running.items()):
            lasts = timedelta(seconds=execution.definition["TimeoutSeconds"])
            if self._started[arn] + lasts <= self.now:
                self.end_execution(arn, "TIMED_OUT")

    # Functions.

    def run(self, call: Callable[[], Any], fault: Fault | None, seconds: float = 30) -> Any:
        """Run something that meets a fault, and return or raise what comes of it.

        Args:
            call: what runs.
            fault: what it meets.
            seconds: after which it is ended where it hangs.

        Raises:
            FunctionEnded: it has died, or hangs.
        """
        run = _Run(fault)
        ended: list[Any] = []

        def act() -> None:
            _running.set(run)
            # A function begins with nothing of the one before.
            metrics.clear_metrics()
            try:
                ended.append(("answer", call()))
            except BaseException as error:  # noqa: BLE001  # whatever it is belongs to the caller
                ended.append(("error", error))
            finally:
                logger.remove_keys(["job_id", "project_id", "stage", "message_id"])
                metrics.clear_metrics()
                run.hangs.release()

        if fault is None or fault.kind is not Kind.HANGS:
            copy_context().run(act)
        else:
            thread = threading.Thread(target=copy_context().run, args=(act,), daemon=True)
            thread.start()
            run.hangs.acquire()
            if not ended:
                self.has_hung = True
                self.hanging.append(Hanging(run, thread, self.now + timedelta(seconds=seconds)))
                raise FunctionEnded("Lambda.Unknown")
            thread.join()
        ((kind, value),) = ended
        if kind == "error":
            self.traces.written.append(("raised", str(value)))
            raise value
        if run.fault is not None and run.fault.kind is Kind.DIES:
            raise FunctionEnded("Runtime.ExitError")
        self.traces.written.append(("answered", value))
        return value

    def go_on(self, hanging: Hanging, *, is_killed: bool = False) -> None:
        """Let a function that hangs go on to its end, or end it."""
        self.hanging.remove(hanging)
        hanging.run.is_killed = is_killed or hanging.until <= self.now
        hanging.run.goes_on.release()
        hanging.thread.join()

    # The queue.

    def fetch(self) -> None:
        """Take what was sent to the queue of jobs out of moto, which delivers by the real clock."""
        queue = sqs_backends[ACCOUNT][REGION].queues["jobs"]
        for message in queue._messages:
            held_back = max(0.0, message.delayed_until - message.sent_timestamp) / 1000  # type: ignore[operator]
            at = self.now + timedelta(seconds=round(held_back))
            self.letters.append(Letter(message.id, message.body, at))
        queue._messages.clear()

    def deliver(self, letter: Letter, fault: Fault | None = None) -> None:
        """Deliver a message to the dispatcher; one that fails comes again, or is given up."""
        self.now = max(self.now, letter.visible_at)
        letter.receives += 1
        try:
            answer = self.run(lambda: self.functions["dispatcher"](_batch(letter), _CONTEXT), fault)
            failed = bool(answer["batchItemFailures"])
        except FunctionEnded:
            failed = True
        if letter not in self.letters:
            return
        if not failed:
            self.letters.remove(letter)
            self.delivered.append(letter)
        elif letter.receives >= _MAX_RECEIVES:
            self.give_up(letter)
        else:
            letter.visible_at = self.now + timedelta(seconds=_VISIBILITY)

    def give_up(self, letter: Letter) -> None:
        """Let the queue give up on a message."""
        self.letters.remove(letter)
        self.undelivered.append(letter)

    def record_undelivered(self, letter: Letter, fault: Fault | None = None) -> None:
        """Hand a message that was given up to its function."""
        try:
            answer = self.run(
                lambda: self.functions["dead_letters"](_batch(letter), _CONTEXT), fault
            )
        except FunctionEnded:
            return
        if not answer["batchItemFailures"]:
            self.undelivered.remove(letter)

    # Executions.

    def follow(self) -> None:
        """See which executions were started or stopped."""
        for machine in stepfunctions_backends[ACCOUNT][REGION].state_machines:
            definition = self.machines[machine.name.removeprefix("test-")]
            for of_moto in machine.executions:
                arn = of_moto.execution_arn
                if of_moto.status != "RUNNING":
                    if self.running.pop(arn, None) is not None:
                        self._tell(of_moto)
                elif arn not in self.running:
                    self._started[arn] = self.now
                    self.running[arn] = asl.Execution(
                        definition, json.loads(of_moto.execution_input)
                    )
        for _, strand in self.strands():
            if isinstance(strand.request, asl.Pause) and not strand.request.is_jittered:
                until = self.now + timedelta(seconds=strand.request.seconds)
                self._due.setdefault(strand, until)

    def strands(self) -> list[tuple[str, asl._Strand]]:
        """Return what could take its next step, in the order in which the executions began."""
        return [(arn, s) for arn, execution in self.running.items() for s in execution.waiting]

    def step(self, arn: str, strand: asl._Strand, fault: Fault | None = None) -> None:
        """Let a strand of an execution take its next step."""
        execution = self.running[arn]
        answer: Any = None
        match strand.request:
            case asl.Pause():
                # Between two attempts it may be none at all.
                due = self._due.pop(strand, self.now)
                self.pass_time(max(0.0, (due - self.now).total_seconds()))
                if arn not in self.running:
                    return
            case asl.Invoke(function, payload):
                answer = self._invoke(_FUNCTIONS[function], payload, fault)
            case asl.Start(_, name, input_):
                answer = self._start_cleanup(name, input_, fault)
        self.follow()
        if arn not in self.running:
            return  # it was stopped meanwhile
        execution.answer(strand, answer)
        if execution.status is not None:
            self.traces.written.append(("output", execution.output))
            self.end_execution(arn, execution.status, execution.error, execution.cause)

    def end_execution(self, arn: str, status: str, error: str = "", cause: str = "") -> None:
        """Let an execution end."""
        del self.running[arn]
        of_moto = stepfunctions_backends[ACCOUNT][REGION].describe_execution(arn)
        of_moto.status, of_moto.error, of_moto.cause = status, error or None, cause or None
        self._tell(of_moto)

    def _tell(self, of_moto: Any) -> None:
        detail = {
            "executionArn": of_moto.execution_arn,
            "status": of_moto.status,
            "input": of_moto.execution_input,
            "error": of_moto.error,
            "cause": of_moto.cause,
        }
        self.traces.written.append(("execution", detail))
        self.events.append({"source": "aws.states", "detail": detail})

    def _invoke(self, name: str, payload: Mapping[str, Any], fault: Fault | None) -> Any:
        function = self.functions[name]
        arguments = (payload, _CONTEXT) if name in _TAKE_CONTEXT else (payload,)
        seconds = self._time_outs[name]
        try:
            return {"Payload": self.run(lambda: function(*arguments), fault, seconds)}
        except FunctionEnded as end:
            return StateError(end.name, json.dumps({"errorMessage": "RequestId: 0"}))
        except Exception as error:  # noqa: BLE001  # every exception becomes an answer
            cause = {"errorMessage": str(error), "errorType": type(error).__name__}
            return StateError(type(error).__name__, json.dumps(cause))

    def _start_cleanup(self, name: str, input_: Mapping[str, Any], fault: Fault | None) -> Any:
        try:
            return self.run(
                lambda: aws.client("stepfunctions").start_execution(
                    stateMachineArn=f"{self.settings.state_machine_arn_prefix}clean_up_project",
                    name=name,
                    input=canonical_json(input_),
                ),
                fault if fault is None or fault.kind is not Kind.HANGS else None,
            ) and {"ExecutionArn": name}
        except (ClientError, ReadTimeoutError, FunctionEnded) as error:
            return StateError("StepFunctions.SdkClientException", type(error).__name__)

    # The reconciler.

    def reconcile(self, event: Mapping[str, Any], fault: Fault | None = None) -> None:
        """Hand an event to the reconciler; where it fails, someone will hand over the next."""
        with suppress(FunctionEnded, ClientError, ReadTimeoutError, api.ProvisioningError):
            self.run(lambda: self.functions["reconciler"](event, _CONTEXT), fault)

    def sweep(self, fault: Fault | None = None) -> None:
        """Let the reconciler look at all jobs, as on schedule."""
        self.reconcile({"detail-type": "Scheduled Event"}, fault)

    # What there is.

    def items(self, table: str) -> Iterator[dict[str, Any]]:
        """Read a table, past the API, which would cost more than what is tested."""
        for item in dynamodb_backends[ACCOUNT][REGION].tables[table].all_items():
            yield item.attrs

    def read(self, table: str, record: str | None = None) -> list[dict[str, Any]]:
        """Return the items of a table, or those of its items that are such records."""
        found = dynamodb_backends[ACCOUNT][REGION].tables[table].all_items()
        return [
            dynamodb.from_item(item.to_json()["Attributes"])
            for item in found
            if record is None or item.attrs["record"].value == record
        ]

    def resources(self) -> list[Resource]:
        """Return everything that is there, but for what the deployment itself consists of."""
        found: list[Resource] = []
        s3 = s3_backends[ACCOUNT]["aws"]
        for bucket in s3.buckets.values():
            if bucket.name != workflow.SNAPSHOTS_BUCKET:
                tags = s3.tagger.get_tag_dict_for_resource(bucket.arn)
                found.append(Resource(f"bucket {bucket.name}", tags))
        for pool in cognitoidp_backends[ACCOUNT][REGION].user_pools.values():
            tags = pool.extended_config.get("UserPoolTags", {})
            found.append(Resource(f"user pool {pool.name}", tags))
        appsync = appsync_backends[ACCOUNT][REGION]
        for event_api in appsync.events_apis.values():
            tags = appsync.tagger.get_tag_dict_for_resource(event_api.api_arn)
            found.append(Resource(f"Event API {event_api.name}", tags))
        secrets: Any = secretsmanager_backends[ACCOUNT][REGION].secrets
        for secret in secrets.values():
            if secret.tags and secret.deleted_date is None:
                tags = {tag["Key"]: tag["Value"] for tag in secret.tags}
                found.append(Resource(f"secret {secret.name}", tags))
        for key in self.read("ApiKeysTable"):
            if "key_id" not in key:
                continue  # the hand-over of keys, which says how long their secret may wait
            tags = {PROJECT_TAG: key["project_id"], JOB_TAG: key["job_id"]}
            tags[MANAGED_BY_TAG] = self.naming.namespace
            found.append(Resource(f"API keys of project {key['project_id']}", tags))
        return found + self.tenants()

    def tenants(self) -> list[Resource]:
        """Return the databases and roles of the projects."""
        tenants = [
            self.naming.names(project_id).tenants[Engine.POSTGRESQL] for project_id in self.projects
        ]
        rows = self._connection.execute(
            """SELECT 'database', datname, shobj_description(oid, 'pg_database')
               FROM pg_database WHERE datname = ANY(%s)
               UNION ALL SELECT 'role', rolname, shobj_description(oid, 'pg_authid')
               FROM pg_roles WHERE rolname = ANY(%s)""",
            (
                [tenant.database for tenant in tenants],
                [role for tenant in tenants for role in (tenant.owner_role, tenant.app_role)],
            ),
        ).fetchall()
        return [Resource(f"{kind} {name}", tags_of_comment(note)) for kind, name, note in rows]

    def bucket(self, project_id: str) -> str:
        """Return the name of a project's bucket."""
        return self.naming.bucket(project_id, REGION)

    def put_object(self, bucket: str) -> None:
        """Put an object into a bucket, past its policy, which asks for TLS."""
        s3_backends[ACCOUNT]["aws"].put_object(bucket, "data", b"1")

    def empty(self, bucket: str) -> None:
        """Delete all versions of all objects in a bucket."""
        s3_backends[ACCOUNT]["aws"].buckets[bucket].keys.clear()

    def make_foreign(self, kind: str, project_id: str) -> None:
        """Let someone else have made something under a name of a project."""
        names = self.naming.names(project_id)
        tags = {"owner": "someone else"}
        match kind:
            case "bucket":
                aws.client("s3").create_bucket(
                    Bucket=self.bucket(project_id),
                    CreateBucketConfiguration={"LocationConstraint": REGION},
                )
                aws.client("s3").put_bucket_tagging(
                    Bucket=self.bucket(project_id),
                    Tagging={"TagSet": [{"Key": k, "Value": v} for k, v in tags.items()]},
                )
            case "secret":
                aws.client("secretsmanager").create_secret(
                    Name=names.api_keys_secret,
                    SecretString='{"whose": "not ours"}',
                    Tags=[{"Key": k, "Value": v} for k, v in tags.items()],
                )
            case "role":
                self._connection.execute(
                    sql.SQL("CREATE ROLE {0}; COMMENT ON ROLE {0} IS 'owner=someone'").format(
                        sql.Identifier(names.tenants[Engine.POSTGRESQL].owner_role)
                    )
                )

    def remove_tenants(self) -> None:
        """Remove what outlives moto's AWS."""
        there = sorted(self.tenants(), key=lambda resource: resource.name)  # databases first
        for resource in there:
            kind, _, name = resource.name.partition(" ")
            statement = "DROP DATABASE {} WITH (FORCE)" if kind == "database" else "DROP ROLE {}"
            self._connection.execute(sql.SQL(statement).format(sql.Identifier(name)))

    def close(self) -> None:
        """Let nothing be left."""
        for hanging in list(self.hanging):
            self.go_on(hanging, is_killed=True)
        self.remove_tenants()
        self._connection.close()

    def remaining_names(self, project_id: str) -> dict[str, tuple[str, ...]]:
        """Return what a clean-up names as left, by its stage."""
        names = self.naming.names(project_id)
        tenant = names.tenants[Engine.POSTGRESQL]
        return {
            clean_up_project.REMOVING_API_KEYS: (
                f"API keys of project {project_id}",
                f"secret {names.api_keys_secret}",
            ),
            clean_up_project.REMOVING_STORAGE: (f"bucket {self.bucket(project_id)}",),
            clean_up_project.REMOVING_REALTIME: (f"Event API {names.event_api}",),
            clean_up_project.REMOVING_AUTH: (f"user pool {names.user_pool}",),
            clean_up_project.REMOVING_DATABASE: (
                f"database {tenant.database}",
                f"role {tenant.app_role}",
                f"role {tenant.owner_role}",
                f"secret {names.database_secret}",
            ),
        }


def _batch(letter: Letter) -> dict[str, Any]:
    record = {
        "messageId": letter.message_id,
        "receiptHandle": "handle",
        "body": letter.body,
        "attributes": {"ApproximateReceiveCount": str(letter.receives)},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
    }
    return {"Records": [record]}


def _ask_dynamodb(client: Any, operation: str, parameters: Mapping[str, Any]) -> Any:
    """Let moto's DynamoDB answer without HTTP, which would cost more than all else here."""
    handler: Any = DynamoHandler()
    handler.current_account, handler.region = ACCOUNT, REGION
    handler.body = handler.params = json.loads(json.dumps(parameters))
    try:
        answer = getattr(handler, xform_name(operation))().result
    except JsonRESTError as error:
        told = json.loads(error.description)
        code = told["__type"].rpartition("#")[2]
        raise client.exceptions.from_code(code)(
            {"Error": {"Code": code, "Message": told.get("Message", "")}} | told, operation
        ) from None
    return json.loads(json.dumps(answer, default=str)) | {"ResponseMetadata": {}}


def _answer(client: Any, operation: str, parameters: Mapping[str, Any]) -> Any:
    """Answer as AWS does."""
    if client.meta.service_model.service_name == "dynamodb" and operation != "CreateTable":
        return _ask_dynamodb(client, operation, parameters)
    if operation == "StopExecution":
        arn = parameters["executionArn"]
        if stepfunctions_backends[ACCOUNT][REGION].describe_execution(arn).status != "RUNNING":
            return {}  # moto would stop what has ended
    if "Tags" in parameters.get("CreateBucketConfiguration", {"Tags": ()}):
        return calls.call_as_aws(client, operation, parameters)
    return calls.call_moto(client, operation, parameters)


#: Where no secret may stand: the services to which what is written is kept for people to read.
_TRACED = {"dynamodb", "sqs", "stepfunctions", "secretsmanager", "cognito-idp", "appsync"}


@contextmanager
def simulation(
    cluster: PreparedCluster,
    monkeypatch: pytest.MonkeyPatch,
    namespace: str,
    projects: tuple[str, ...],
) -> Iterator[Simulation]:
    """Make a deployment whose namespace no other has on the same cluster."""
    workflow.enter_environment(monkeypatch)
    configuration: Any = {"stepfunctions": {"execute_state_machine": False}}
    with mock_aws(config=configuration):
        aws.reset()
        settings = workflow._make_resources(OnPostgresql(cluster)).model_copy(
            update={"resource_namespace": namespace, "default_project_quota": 1}
        )
        monkeypatch.setattr(platform, "_connected", [settings])
        for name, value in settings.model_dump().items():
            monkeypatch.setenv(name.upper(), str(value))
        monkeypatch.setenv("REQUIRED_JOB_TYPES", "provision_project")
        let_wait(monkeypatch)
        # The same steps give the same deployment: one job after the other, and no wait.
        monkeypatch.setattr(reconciler, "Sweep", partial(Sweep, workers=1))
        monkeypatch.setattr(reconciler, "Pace", lambda *_: lambda: None)
        for module in (job_store, api_key_store):
            monkeypatch.setattr(module, "datetime", _Clocked)
        made = _Clocked.simulation = Simulation(cluster, settings, projects)
        _put_in_the_way(made, monkeypatch)
        handler = logger.registered_handler
        assert isinstance(handler, logging.StreamHandler)
        before = handler.setStream(_LogOf(made))
        try:
            yield made
        finally:
            made.close()
            handler.setStream(before)
            aws.reset()


def let_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a stage wait for what a test says, before it makes anything."""
    stage = provision_project.GENERATING_API_KEYS
    monkeypatch.setattr(stage, "waits_seconds", WAITS_SECONDS)
    module, _, name = stage.code.partition(":")
    code = pkgutil.resolve_name(stage.code)

    @wraps(code)
    def waits_first(*arguments: Any, **resources: Any) -> Any:
        waits = _Clocked.simulation.waits
        if not waits:
            return code(*arguments, **resources)
        waiting_for = waits.pop(0)
        if waiting_for is None:
            raise FunctionEnded("Lambda.Unknown")
        return Waiting(waiting_for)

    monkeypatch.setattr(import_module(module), name, waits_first)


class _LogOf:
    """The stream of the log of the example that runs."""

    def __init__(self, of: Simulation) -> None:
        self._of = of

    def write(self, text: str) -> int:
        return self._of.traces.log.write(text)

    def flush(self) -> None:
        """Keep all of it."""


def _put_in_the_way(made: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every effect of a function be met, and noted."""

    def call_aws(client: Any, operation: str, parameters: Mapping[str, Any]) -> Any:
        service = client.meta.service_model.service_name
        run = _running.get()
        if run is None or operation.startswith(READING):
            return _answer(client, operation, parameters)
        if service in _TRACED:
            made.traces.note(operation, parameters)
        # The session that changes a password waits here, with its locks.
        run.has_met_sql = operation == "UpdateSecretVersionStage"
        return run.meet(operation, lambda: _answer(client, operation, parameters))

    def run_statement(statement: calls.Statement, call: Callable[[], Any]) -> Any:
        run = _running.get()
        if run is None or not statement.is_change:
            return call()
        run.has_met_sql = True
        return run.meet(calls.SQL, call)

    monkeypatch.setattr(BaseClient, "_make_api_call", call_aws)
    calls.let_statements_be_met(monkeypatch, run_statement)
    monkeypatch.setattr(CognitoIdpUserPoolClient, "to_json", calls.dated)
    monkeypatch.setattr(S3Backend, "delete_bucket", workflow._delete_bucket_with_its_tags)
