"""One deployment's tables, queues and state machine on moto, and a clock that stands still."""

from __future__ import annotations

import copy
import io
import itertools
import json
import logging
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ReadTimeoutError
from moto import mock_aws
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.responses import DynamoHandler
from provisioner.api_keys.hand_over import HandOverStore
from provisioner.api_keys.store import ApiKeyStore
from provisioner.composition.job_handlers import job_handler
from provisioner.drivers import dynamodb
from provisioner.drivers.dynamodb import ConditionFailedError
from provisioner.jobs.failure import cleanup_job_id
from provisioner.jobs.models import (
    Job,
    JobStatus,
    StageRecord,
    StageStatus,
    StoredError,
)
from provisioner.jobs.records import NewJob
from provisioner.jobs.stage import Completion, JobInput, StageEvent, StageOutcome
from provisioner.jobs.stage_store import StageStart, StageStore
from provisioner.jobs.store import BadEnd, JobStore
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.job_types import (
    clean_up_project,
    deprovision_project,
    provision_project,
)
from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
from provisioner.provisioning.projects import Project, ProjectStore
from provisioner.runtime import aws, platform
from provisioner.runtime.observability import logger, metrics
from provisioner.runtime.platform import PlatformSettings
from support import project
from support.project import longest_run

REGION = "eu-central-1"
ACCOUNT = "123456789012"
STATE_MACHINE_ARN_PREFIX = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:test-"
CLUSTER_PARAMETER_PREFIX = "/test/clusters"

#: What the names of operations begin with that change nothing.
READING = ("BatchGet", "Describe", "Get", "Head", "List", "Query", "Scan")

#: AWS's answer to a call: its error code, HTTP status, and the reasons of a cancelled transaction.
type Answer = Callable[[Mapping[str, Any]], tuple[int, dict[str, Any]] | None]


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.at = datetime(2026, 1, 31, 10, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.at

    def advance(self, seconds: float = 1) -> None:
        self.at += timedelta(seconds=seconds)


provision_project_handler = job_handler(provision_project.JOB_TYPE)
deprovision_project_handler = job_handler(deprovision_project.JOB_TYPE)


class Jobs(JobStore):
    """The jobs of which a test says itself what their functions do.

    A job may be given as `get_head` returns it. A stage may begin its job, whichever it is.
    """

    def begin(self, job_id: str) -> None:
        """Let a job begin that is QUEUED, as its first stage does."""
        job = self.get_head(job_id)
        if job is None or job.status is not JobStatus.QUEUED:
            return
        work = self.work()
        values = {"status": JobStatus.RUNNING, "started_at": work.at}
        must = {"status": JobStatus.QUEUED}
        work.change_job(job_id, job.attempt, JobStatus.RUNNING, values, must)
        work.write()

    def start_stage(self, job: Job, stage: str, retry_count: int) -> StageRecord:
        """Let a run of a stage start; return the stage as it is from then on."""
        self.start(job, stage, retry_count)
        return self.held(job.job_id, stage)

    def start(
        self, job: Job, stage: str, retry_count: int = 0, *, lease: timedelta | None = None
    ) -> StageRecord | None:
        """Let a run of a stage start; return what it holds, or None where it may not begin."""
        seconds = timedelta(seconds=longest_run(job.job_type, stage))
        given = JobInput(job_id=job.job_id, job_type=job.job_type, payload={}, attempt=job.attempt)
        event = StageEvent(job=given, stage=str(stage), retry_count=retry_count)
        return StageStart(self, event, lease or seconds, begins_job=True).write()

    def held(self, job_id: str, stage: str) -> StageRecord:
        """Return a stage as its last run holds it."""
        found = self.get(job_id).stage(stage)
        assert found is not None
        return found

    def end_stage(
        self,
        job_id: str,
        stage: str,
        status: StageStatus,
        *,
        output: Mapping[str, Any],
        check: str,
        skipped: str | None = None,
    ) -> StageRecord:
        """Let the last run of a stage end well."""
        outcome = StageOutcome(output, check, skipped=status is StageStatus.SKIPPED)
        held = self.held(job_id, stage)
        return StageStore(self).end(job_id, held, outcome, skips=skipped).record

    def stage_failed(
        self, job_id: str, error: StoredError, *, retry_count: int, retryable: bool
    ) -> bool:
        """Let a run of a stage fail; return whether another attempt is left."""
        held = replace(self.held(job_id, error.stage), retry_count=retry_count)
        said = StageStore(self).fail(job_id, held, error, retryable=retryable)
        return said.record.next_attempt_before is not None

    def stage_waits(
        self, job: Job, record: StageRecord, waiting_for: str, until: datetime, *, retry_count: int
    ) -> bool:
        """Let a run of a stage wait; return whether that was stored."""
        held = replace(self.held(job.job_id, record.stage), retry_count=retry_count)
        return StageStore(self).wait(job.job_id, held, waiting_for, until).is_written

    def complete(
        self,
        job_id: str,
        stage: str,
        *,
        output: Mapping[str, Any],
        check: str,
        result: Mapping[str, Any],
        attempt: int | None = None,
        also: Sequence[Any] = (),
    ) -> StageRecord:
        """Let the last run of a stage end the job well; of an attempt of the job, if one is named.

        Raises:
            ConditionFailedError: that changes nothing.
        """
        job = self.get(job_id)
        others = [r for r in job.stages if r.stage != stage]
        pending = [r.stage for r in others if not r.status.is_terminal]
        stages = [*(r.stage for r in others if r.status.is_terminal), stage, *pending]
        held = self.held(job_id, stage)
        held = replace(held, job_attempt=attempt or held.job_attempt)
        outcome = StageOutcome(output, check, completion=Completion(result, also))
        said = StageStore(self).complete(job_id, held, outcome, stages, asks_leases=False)
        if not said.is_written:
            raise ConditionFailedError({})
        return said.record

    def fail_queued(
        self, job: Job | str, error: StoredError, *, attempt: int | None = None
    ) -> None:
        """Fail a job that has not begun; of an attempt of it, if one is named."""
        stored = self.get(job) if isinstance(job, str) else job
        super().fail_queued(replace(stored, attempt=attempt or stored.attempt), error)

    def request_cancel(self, job: Job) -> None:
        super().request_cancel(self._with_stages(job))

    def retry(self, job: Job) -> None:
        super().retry(self._with_stages(job))

    def fail(self, job: Job, end: BadEnd, sources: Sequence[JobStatus] | None = None) -> None:
        super().fail(self._with_stages(job), end, sources)

    def _with_stages(self, job: Job) -> Job:
        return replace(job, stages=self.get(job.job_id).stages)


@dataclass
class Core:
    """The deployment."""

    clock: Clock
    #: Calls that AWS took, as `service.Operation`, with their parameters.
    calls: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    #: What AWS answers instead of doing what it is asked to, by `service.Operation`.
    answers: dict[str, Answer] = field(default_factory=dict)
    queue_url: str = ""
    dead_letter_url: str = ""

    def __post_init__(self) -> None:
        self.jobs = Jobs(self.client("dynamodb"), "JobsTable", now=self.clock)
        self.projects = ProjectStore(self.client("dynamodb"), "ProjectsTable", "QuotasTable")
        self.api_keys = ApiKeyStore(self.client("dynamodb"), "ApiKeysTable")
        self.hand_overs = HandOverStore(self.client("dynamodb"), "ApiKeysTable")
        self.catalogue = ClusterCatalogue(self.client("ssm"), CLUSTER_PARAMETER_PREFIX)

    def client(self, service: str, region: str = REGION) -> Any:
        """Return the deployment's client of a service; the process makes each once."""
        return _client(service, region)

    def calls_of(self, operation: str) -> list[Mapping[str, Any]]:
        """Return the parameters of each call of `service.Operation`."""
        return [parameters for name, parameters in self.calls if name == operation]

    def changes(self) -> list[str]:
        """Return the calls, as `service.Operation`, that change something."""
        names = [name for name, _ in self.calls]
        return [name for name in names if not name.partition(".")[2].startswith(READING)]

    def scan(self, table: str) -> list[dict[str, Any]]:
        """Read a whole table."""
        items = self.client("dynamodb").scan(TableName=table)["Items"]
        return [dynamodb.from_item(item) for item in items]

    def stored_keys(self) -> list[dict[str, Any]]:
        """Read the items of all API keys; those of their hand-overs are left out."""
        return [item for item in self.scan("ApiKeysTable") if "key_id" in item]

    def unfinished(self) -> list[str]:
        """Return the ids of the jobs that have not ended, oldest first."""
        return [listed.job_id for listed in self.jobs.list_unfinished()]

    def listed(self, project_id: str | None = None) -> list[str]:
        """Return the ids of the newest jobs, or of the newest of a project."""
        return [job.job_id for job in self.jobs.list_newest(100, project_id=project_id)[0]]

    def messages(self, url: str) -> list[dict[str, Any]]:
        """Receive all that waits in a queue."""
        found: list[dict[str, Any]] = []
        while batch := (
            self.client("sqs")
            .receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=10,
                VisibilityTimeout=0 if found else 60,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["All"],
            )
            .get("Messages")
        ):
            found += batch
        return found

    def executions(self, job_type: str = "provision_project") -> list[dict[str, Any]]:
        """Return the executions of a job type's state machine, with their inputs."""
        machines = self.client("stepfunctions")
        listed = machines.list_executions(stateMachineArn=f"{STATE_MACHINE_ARN_PREFIX}{job_type}")
        return [
            machines.describe_execution(executionArn=execution["executionArn"])
            for execution in listed["executions"]
        ]

    def make_state_machine(self, job_type: str) -> None:
        """Create the state machine of a job type; moto here starts executions and runs none."""
        self.client("stepfunctions").create_state_machine(
            name=f"test-{job_type}",
            definition=json.dumps({"StartAt": "End", "States": {"End": {"Type": "Succeed"}}}),
            roleArn=f"arn:aws:iam::{ACCOUNT}:role/test",
        )

    def describe_clusters(self, *clusters: Mapping[str, Any], region: str = REGION) -> None:
        """Write the SSM parameters of a region's clusters, and no others."""
        client, path = self.client("ssm"), f"{CLUSTER_PARAMETER_PREFIX}/{region}/postgresql"
        for page in client.get_paginator("get_parameters_by_path").paginate(Path=path):
            for parameter in page["Parameters"]:
                client.delete_parameter(Name=parameter["Name"])
        for cluster in clusters:
            described = {
                "host": "127.0.0.1",
                "port": 5432,
                "admin_secret_arn": "arn:of:secret",
                "max_tenants": 100,
            } | dict(cluster)
            name = described.pop("cluster_id")
            client.put_parameter(
                Name=f"{path}/{name}", Type="String", Value=json.dumps(described), Overwrite=True
            )

    def allow_instances(
        self, engine: str = "postgresql", region: str = REGION, **changes: Any
    ) -> None:
        """Write what may be asked for as an instance of its own."""
        allowed = {
            "sizes": ["db.t4g.micro", "db.t4g.large"],
            "versions": ["18.1", "17.7", "16.11"],
            "storage_gb": {"minimum": 20, "maximum": 200, "default": 40},
            "subnet_group": "databases",
            "security_group_ids": ["sg-1"],
            "maximum": 2,
        } | changes
        self.client("ssm").put_parameter(
            Name=f"{CLUSTER_PARAMETER_PREFIX}/{region}/dedicated/{engine}",
            Type="String",
            Value=json.dumps(allowed),
            Overwrite=True,
        )

    def new_project(self, project_id: str = "shop", **parties: str) -> Project:
        """Create a project."""
        return self.projects.create(
            project_id,
            owner_id=parties.get("owner_id"),
            organization_id=parties.get("organization_id"),
            created_at=self.clock(),
        )

    def new_job(self, job_id: str = "job-1", project_id: str = "shop", **payload: Any) -> Job:
        """Store a job as the dispatcher does."""
        return self.jobs.create(new_job(job_id, project_id, **payload))


def new_job(job_id: str = "job-1", project_id: str = "shop", **payload: Any) -> NewJob:
    """Return a valid job of provision_project."""
    return NewJob(
        job_id,
        "provision_project",
        valid_payload(project_id, **payload).model_dump(mode="json"),
        provision_project_handler.stages,
    )


def new_cleanup(job: Job) -> NewJob:
    """Return the clean-up of an attempt of a job, as the end of that one stores it."""
    payload = {
        "project_id": job.project_id,
        "job_id": job.job_id,
        "region": REGION,
        "engine": "postgresql",
        "is_dedicated": False,
    }
    definition = clean_up_project.JOB_TYPE
    job_id = cleanup_job_id(job.job_id, job.attempt)
    return NewJob(job_id, definition.name, payload, definition.stages, job.job_id)


def valid_payload(project_id: str = "shop", **payload: Any) -> ProvisionProjectPayload:
    """Return a valid payload."""
    return provision_project_handler.parse({"project_id": project_id, "region": REGION} | payload)


def cleanup_payload(
    job_id: str = "job-1", project_id: str = "shop", *, is_dedicated: bool = False
) -> dict[str, Any]:
    """Return the payload of the clean-up of a job that has failed."""
    return {
        "project_id": project_id,
        "job_id": job_id,
        "region": REGION,
        "engine": "postgresql",
        "is_dedicated": is_dedicated,
    }


def provisioned_result(**fields: Any) -> dict[str, Any]:
    """Return a result that a job of provision_project may end with."""
    return {
        "project_id": "shop",
        "database": {
            "engine": "postgresql",
            "version": "18.1",
            "host": "db",
            "port": 5432,
            "database_name": "nm_shop",
            "schema_name": "app",
            "connection_string": "postgresql://nm_shop_app@db:5432/nm_shop",
            "secret_arn": "arn:of:database",
        },
        "services": {},
        "api_keys": [
            {"key_id": "key_1", "key_prefix": "nm_abc", "created_at": "2026-01-31T10:00:00Z"}
        ],
        "api_keys_secret_arn": "arn:of:keys",
        "api_keys_claim_before": "2026-03-02T10:00:00Z",
        "metadata": {"provisioned_at": "2026-01-31T10:00:01Z", "region": REGION},
    } | fields


def aws_error(code: str, status: int = 400, reasons: tuple[str, ...] = ()) -> Answer:
    """Answer with an error, always."""

    def answer(_parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        body: dict[str, Any] = {"Error": {"Code": code, "Message": "made by a test"}}
        if reasons:
            body["CancellationReasons"] = [{"Code": reason} for reason in reasons]
        return status, body

    return answer


@contextmanager
def contention(core: Core) -> Iterator[Callable[[], int]]:
    """Let every transaction meet another twice before it is made.

    Yields:
        says how many transactions have been made, and that each was sent three times.
    """
    conflict = aws_error("TransactionCanceledException", reasons=("None", "TransactionConflict"))
    turns: Iterator[Answer] = itertools.cycle((conflict, conflict, lambda _parameters: None))
    core.calls.clear()

    def made() -> int:
        whole, left = divmod(len(core.calls_of("dynamodb.TransactWriteItems")), 3)
        assert left == 0
        return whole

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("provisioner.drivers.dynamodb._CONFLICT_MAX_SECONDS", 0.001)

        def answer(parameters: Mapping[str, Any]) -> Any:
            return next(turns)(parameters)

        core.answers["dynamodb.TransactWriteItems"] = answer
        yield made
    del core.answers["dynamodb.TransactWriteItems"]


def unsaid(status: int) -> Answer:
    """Answer as HeadBucket does: a status without a body, which botocore takes for the code."""
    return aws_error(str(status), status)


def bucket_pages(*pages: Mapping[str, str]) -> Answer:
    """Answer ListBuckets page by page, as S3 does.

    Args:
        pages: the regions of the buckets of each page, by their names.
    """

    def answer(parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        number = int(parameters.get("ContinuationToken", "0"))
        buckets = [
            {"Name": name, "BucketRegion": region}
            for name, region in pages[number].items()
            if name.startswith(parameters.get("Prefix", ""))
        ]
        more = {"ContinuationToken": str(number + 1)} if number + 1 < len(pages) else {}
        return 200, {"Buckets": buckets, **more}

    return answer


def meanwhile(act: Callable[[], object], *, before: int = 1) -> Answer:
    """Answer as AWS does, and let something happen just before the n-th call.

    Args:
        act: what happens; its own calls are answered as AWS does.
        before: n, counted from 1.
    """
    calls = itertools.count(1)

    def act_once(_parameters: Mapping[str, Any]) -> None:
        if next(calls) == before:
            act()

    return act_once


def answer_lost(call: Callable[..., object]) -> Answer:
    """Let the first call take effect, and its answer be lost on the way.

    Args:
        call: the client's method, such as `core.client("s3").create_bucket`.
    """
    left = [call]

    def lose(parameters: Mapping[str, Any]) -> None:
        if left:
            left.pop()(**parameters)
            raise ReadTimeoutError(endpoint_url="https://aws.invalid")

    return lose


def times(number: int, answer: Answer) -> Answer:
    """Answer so the first times, then as AWS does."""
    left = iter(range(number))
    lock = threading.Lock()

    def limited(parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
        with lock:
            has_left = next(left, None) is not None
        return answer(parameters) if has_left else None

    return limited


@cache
def _client(service: str, region: str) -> Any:
    session = boto3.Session("testing", "testing", region_name=region)
    client: Any = session.client(  # type: ignore[call-overload]  # its stubs list literal names
        service, config=Config(retries={"mode": "standard", "total_max_attempts": 1})
    )
    for event in ("before-call", "before-parameter-build"):
        client.meta.events.register(event, _on_event)
    return client


#: The deployment of the running test; the clients outlive it.
_current: list[Core] = []


def _on_event(event_name: str, **details: Any) -> Any:
    """Count each call; give the test's answer, if it has one, instead of sending it."""
    if not _current:
        return None
    core = _current[0]
    kind, service, operation = event_name.split(".", 2)
    name = f"{service}.{operation}"
    if kind == "before-parameter-build":
        # A body may be a stream, which can be read once.
        parameters = {n: value for n, value in details["params"].items() if n != "Body"}
        # What was written here is read here.
        details["context"]["parameters"] = pickle.loads(pickle.dumps(parameters))  # nosec B301
        return None
    parameters = details["context"].get("parameters", {})
    core.calls.append((name, parameters))
    answer = core.answers.get(name)
    answered = answer(parameters) if answer is not None else None
    if answered is None:
        return None
    status, body = answered
    response = type("Response", (), {"status_code": status, "headers": {}, "content": b""})()
    return response, body | {"ResponseMetadata": {"HTTPStatusCode": status}}


#: The tables as moto made them for the first test of this process.
_tables: dict[str, Any] = {}


def make_tables(client: Any) -> None:
    """Make the tables that the template declares."""
    held: dict[str, Any] = dynamodb_backends[ACCOUNT][REGION].tables
    if not _tables:
        for name, resource in project.resources("AWS::DynamoDB::Table").items():
            properties = resource["Properties"]
            wanted = ("KeySchema", "AttributeDefinitions", "GlobalSecondaryIndexes", "BillingMode")
            client.create_table(
                TableName=name, **{key: properties[key] for key in wanted if key in properties}
            )
        _tables.update(held)
    held.update(copy.deepcopy(_tables))


@contextmanager
def deployment() -> Iterator[Core]:
    """Make a deployment, and take it away."""
    with mock_aws(config={"stepfunctions": {"execute_state_machine": False}}):
        core = Core(Clock())
        make_tables(core.client("dynamodb"))
        _current[:] = [core]
        try:
            yield core
        finally:
            _current.clear()


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Iterator[Core]:
    """Return a deployment of its own."""
    take_one_request_at_a_time(monkeypatch)
    metrics.clear_metrics()
    with deployment() as made:
        queues = made.client("sqs")
        made.queue_url = queues.create_queue(QueueName="jobs")["QueueUrl"]
        made.dead_letter_url = queues.create_queue(QueueName="dead-letters")["QueueUrl"]
        made.make_state_machine("provision_project")
        made.describe_clusters({"cluster_id": "first"})
        made.calls.clear()
        yield made


#: Returns what was logged so far, a line each.
type LogLines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def logged() -> Iterator[LogLines]:
    """Catch what is logged, as it stands in the log."""
    handler = logger.registered_handler
    assert isinstance(handler, logging.StreamHandler)
    stream = io.StringIO()
    before = handler.setStream(stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    handler.setStream(before)


def make_stack(settings: PlatformSettings, name: str = "provisioner") -> None:
    """Make the CloudFormation stack whose outputs are these settings, for `--stack`."""
    outputs = {
        output: str(getattr(settings, setting.lower()))
        for setting, output in platform._OUTPUTS.items()
    }
    aws.client("cloudformation").create_stack(
        StackName=name,
        TemplateBody=json.dumps(
            {
                "Resources": {"Topic": {"Type": "AWS::SQS::Queue"}},
                "Outputs": {output: {"Value": value} for output, value in outputs.items()},
            }
        ),
    )


@pytest.fixture
def connected(core: Core, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlatformSettings]:
    """Let the public API talk to the deployment."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    settings = PlatformSettings(
        jobs_table="JobsTable",
        projects_table="ProjectsTable",
        api_keys_table="ApiKeysTable",
        quotas_table="QuotasTable",
        queue_url=core.queue_url,
        dead_letter_queue_url=core.dead_letter_url,
        cluster_parameter_prefix=CLUSTER_PARAMETER_PREFIX,
        resource_prefix="nm",
        resource_namespace=f"test-{ACCOUNT}",
        default_project_quota=10,
        state_machine_arn_prefix=STATE_MACHINE_ARN_PREFIX,
        snapshots_bucket="snapshots",
    )
    monkeypatch.setattr(platform, "_connected", [settings])
    aws.reset()
    yield settings
    aws.reset()


def take_one_request_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let moto's DynamoDB take each request whole, as DynamoDB does; moto itself has no lock."""
    lock = threading.RLock()
    call_action = DynamoHandler.call_action

    def locked(handler: DynamoHandler) -> Any:
        with lock:
            return call_action(handler)

    monkeypatch.setattr(DynamoHandler, "call_action", locked)
