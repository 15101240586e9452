"""Enqueueing and reading jobs, and the public API over a whole deployment on moto."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from provisioner import api
from provisioner.api_keys.key_format import digest, generate_api_key, key_id, key_prefix
from provisioner.api_keys.store import ApiKey
from provisioner.drivers import dynamodb
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.client import (
    IdempotencyConflictError,
    JobClient,
    JobWaitTimeoutError,
    wait_for_job,
)
from provisioner.jobs.execution import MAX_INPUT_BYTES, execution_input
from provisioner.jobs.messages import JobQueue
from provisioner.jobs.models import Job, JobStatus
from provisioner.jobs.records import NewJob
from provisioner.jobs.registry import REGISTRY, JobHandler, JobRegistry, UnknownJobTypeError
from provisioner.jobs.store import JobNotFoundError, utc_now
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.stages.api_keys import new_key
from provisioner.runtime import aws, platform
from provisioner.runtime.platform import PlatformSettings
from provisioner.runtime.settings import SettingsError
from pydantic import BaseModel
from support.core import REGION, STATE_MACHINE_ARN_PREFIX, Core, aws_error, times

PAYLOAD = {"project_id": "shop", "region": REGION}


class Anything(BaseModel):
    """A payload of a job type that bounds nothing."""

    text: Any = ""


@pytest.fixture
def client(core: Core) -> JobClient:
    """Return the client of the deployment."""
    registry = JobRegistry()
    for job_type in REGISTRY.types():
        registry.register(job_type, REGISTRY.get(job_type))
    registry.register(
        "anything", JobHandler(payload_model=Anything, stages=(), run=lambda payload: payload)
    )
    queue = JobQueue(core.client("sqs"), core.queue_url)
    return JobClient(registry=registry, store=core.jobs, queue=queue)


def nothing_is_there(core: Core) -> bool:
    """Whether neither the table nor the queue holds anything."""
    return core.scan("JobsTable") == [] and core.messages(core.queue_url) == []


def test_a_job_is_stored_as_queued_and_its_message_sent(core: Core, client: JobClient) -> None:
    job = client.enqueue("provision_project", PAYLOAD)

    assert (job.status, job.project_id, core.jobs.get_head(job.job_id)) == (
        JobStatus.QUEUED,
        "shop",
        replace(job, payload={}),
    )
    (message,) = core.messages(core.queue_url)
    assert json.loads(message["Body"]) == {
        "job_id": job.job_id,
        "job_type": "provision_project",
        "payload": job.payload,
        "attempt": 1,
    }
    assert "MessageGroupId" not in message["Attributes"]


def test_the_job_is_stored_before_its_message_is_sent(core: Core, client: JobClient) -> None:
    client.enqueue("provision_project", PAYLOAD)

    writes = [
        name for name, _ in core.calls if name in {"dynamodb.TransactWriteItems", "sqs.SendMessage"}
    ]
    assert writes == ["dynamodb.TransactWriteItems", "sqs.SendMessage"]


def test_the_message_of_an_organization_takes_its_share_of_the_queue(
    core: Core, client: JobClient
) -> None:
    client.enqueue("provision_project", PAYLOAD | {"organization_id": "acme"})

    (call,) = core.calls_of("sqs.SendMessage")
    assert call["MessageGroupId"] == "acme"


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        ({"project_id": "shop"}, "region: Field required."),
        (PAYLOAD | {"project_id": "'; --"}, "project_id: "),
        (PAYLOAD | {"metadata": {"x": float("nan")}}, "metadata: "),
        (PAYLOAD | {"metadata": {"x": object()}}, "metadata: "),
    ],
)
def test_nothing_is_stored_or_sent_for_a_bad_payload(
    core: Core, client: JobClient, payload: Mapping[str, Any], sentence: str
) -> None:
    with pytest.raises(ProvisioningError) as raised:
        client.enqueue("provision_project", payload)

    assert raised.value.type is ErrorType.INVALID_PAYLOAD
    assert raised.value.message.startswith(sentence)
    assert nothing_is_there(core)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("x" * 262_144, "payload: larger than the 262144 bytes"), ("\ud800", "payload: JSON cannot")],
)
def test_nothing_is_stored_or_sent_that_no_execution_can_take(
    core: Core, client: JobClient, text: str, sentence: str
) -> None:
    with pytest.raises(ProvisioningError) as raised:
        client.enqueue("anything", {"text": text})

    assert raised.value.message.startswith(sentence)
    assert nothing_is_there(core)


@pytest.mark.parametrize("character", ["x", "\uffff"])
def test_the_longest_payload_that_is_enqueued_is_a_message_that_the_queue_takes(
    core: Core, client: JobClient, character: str
) -> None:
    """The client says first what is too long: the queue would refuse it once the job is stored."""
    core.client("sqs").set_queue_attributes(
        QueueUrl=core.queue_url, Attributes={"MaximumMessageSize": str(MAX_INPUT_BYTES)}
    )
    empty = execution_input(NewJob(str(uuid.uuid4()), "anything", {"text": ""}, ()))
    # Such a character is six of JSON's where SQS does not take it as it is.
    longest = (MAX_INPUT_BYTES - len(empty)) // (1 if character == "x" else 6)

    with pytest.raises(ProvisioningError, match="payload: larger than the 262144 bytes"):
        client.enqueue("anything", {"text": character * (longest + 1)})
    assert nothing_is_there(core)
    job = client.enqueue("anything", {"text": character * longest})

    (message,) = core.messages(core.queue_url)
    assert json.loads(message["Body"])["job_id"] == job.job_id
    assert len(message["Body"].encode()) <= MAX_INPUT_BYTES


def test_nothing_is_stored_or_sent_for_an_unknown_job_type(core: Core, client: JobClient) -> None:
    with pytest.raises(UnknownJobTypeError):
        client.enqueue("send_mail", PAYLOAD)
    assert nothing_is_there(core)


@pytest.mark.parametrize("delay_seconds", [-1, 901])
def test_nothing_is_stored_or_sent_for_a_delay_that_the_queue_does_not_have(
    core: Core, client: JobClient, delay_seconds: int
) -> None:
    with pytest.raises(ValueError, match="delay_seconds: must be 0 to 900"):
        client.enqueue("provision_project", PAYLOAD, delay_seconds=delay_seconds)
    assert nothing_is_there(core)


@pytest.mark.parametrize("delay_seconds", [0, 900])
def test_a_message_is_held_back_as_long_as_is_asked(
    core: Core, client: JobClient, delay_seconds: int
) -> None:
    client.enqueue("provision_project", PAYLOAD, delay_seconds=delay_seconds)

    (call,) = core.calls_of("sqs.SendMessage")
    assert call["DelaySeconds"] == delay_seconds


def enqueue_with_key(client: JobClient, key: str = "order-1", **more: Any) -> Job:
    """Enqueue with an idempotency key."""
    return client.enqueue("provision_project", PAYLOAD | more, idempotency_key=key)


def test_the_same_key_is_the_same_job(core: Core, client: JobClient) -> None:
    first = enqueue_with_key(client)
    core.clock.advance()

    # A default that is written out is the same payload.
    assert enqueue_with_key(client, api_keys={"count": 2}) == first
    assert enqueue_with_key(client, "order-2").job_id != first.job_id
    assert client.enqueue("provision_project", PAYLOAD).job_id != first.job_id


def test_the_same_key_at_once_is_the_same_job(core: Core, client: JobClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda _: enqueue_with_key(client), range(8)))

    assert len({job.job_id for job in jobs}) == 1
    assert len(core.jobs.get(jobs[0].job_id).history) == 1


def test_the_same_key_with_another_payload_is_refused(core: Core, client: JobClient) -> None:
    first = enqueue_with_key(client)
    core.calls.clear()

    with pytest.raises(IdempotencyConflictError, match="idempotency_key"):
        enqueue_with_key(client, project_id="another")

    assert core.calls_of("sqs.SendMessage") == []
    assert core.jobs.get_head(first.job_id) == replace(first, payload={})


def test_the_same_key_of_another_job_type_is_another_job(core: Core, client: JobClient) -> None:
    first = enqueue_with_key(client)

    assert client.enqueue("anything", {}, idempotency_key="order-1").job_id != first.job_id
    assert len(core.messages(core.queue_url)) == 2


def test_a_call_that_stopped_before_it_sent_is_completed_by_the_next(
    core: Core, client: JobClient
) -> None:
    core.answers["sqs.SendMessage"] = times(1, aws_error("ServiceUnavailable", 503))
    with pytest.raises(ClientError):
        enqueue_with_key(client)
    assert core.messages(core.queue_url) == []

    job = enqueue_with_key(client)

    (message,) = core.messages(core.queue_url)
    assert json.loads(message["Body"])["job_id"] == job.job_id


def test_a_job_that_has_started_is_not_sent_again(core: Core, client: JobClient) -> None:
    job = enqueue_with_key(client)
    core.jobs.start_stage(job, "INITIALIZING", 0)
    core.calls.clear()

    assert enqueue_with_key(client).status is JobStatus.RUNNING
    assert core.calls_of("sqs.SendMessage") == []


def test_a_job_that_does_not_end_in_time_is_not_waited_for_any_longer(core: Core) -> None:
    core.new_job()
    began = time.monotonic()

    with pytest.raises(JobWaitTimeoutError, match=r"job job-1: is QUEUED after 0\.05 seconds"):
        wait_for_job(core.jobs, "job-1", 0.05)

    assert time.monotonic() - began < 5


def test_a_job_that_ends_is_returned_at_once(core: Core) -> None:
    core.new_job()

    def end_it(_call: Any) -> None:
        if len(core.calls_of("dynamodb.Query")) == 2:
            _complete(core, "job-1", {"made": "x"})

    core.answers["dynamodb.Query"] = end_it

    job = wait_for_job(core.jobs, "job-1", 60)

    assert (job.status, job.result) == (JobStatus.COMPLETED, {"made": "x"})


def test_a_job_that_is_not_stored_is_not_waited_for(core: Core) -> None:
    with pytest.raises(JobNotFoundError):
        wait_for_job(core.jobs, "job-1", 60)


def _complete(core: Core, job_id: str, result: dict[str, Any]) -> None:
    job = core.jobs.get_head(job_id)
    assert job is not None
    core.jobs.start_stage(job, "FINALIZING", 0)
    core.jobs.complete(job_id, "FINALIZING", output={}, check="x", result=result)


@pytest.mark.usefixtures("connected")
def test_the_public_api_enqueues_and_reads_jobs(core: Core) -> None:
    core.clock.at = utc_now()
    job = api.enqueue_job("provision_project", PAYLOAD, idempotency_key="order-1")

    assert api.enqueue_job("provision_project", PAYLOAD, idempotency_key="order-1") == job
    assert api.get_job(job.job_id).history[0].status == "QUEUED"
    # A list leaves out the payloads.
    assert list(api.list_jobs("shop")) == list(api.list_jobs()) == [replace(job, payload={})]
    assert list(api.list_jobs("another")) == []
    with pytest.raises(api.JobWaitTimeoutError):
        api.wait_for_job(job.job_id, 0)
    _complete(core, job.job_id, {"made": "x"})
    assert api.wait_for_job(job.job_id, 0).result == {"made": "x"}
    with pytest.raises(api.JobNotFoundError):
        api.get_job("none-such")


@pytest.mark.usefixtures("connected")
def test_the_public_api_creates_and_reads_projects() -> None:
    created = api.create_project("shop", owner_id="ada")

    assert api.get_project("shop") == created
    assert api.create_project("shop", owner_id="ada") == created
    for other in ({}, {"owner_id": "grace"}, {"owner_id": "ada", "organization_id": "acme"}):
        with pytest.raises(api.ProjectExistsError):
            api.create_project("shop", **other)
    api.protect_project("shop", enabled=True)
    assert api.create_project("shop", owner_id="ada").deletion_protection
    with pytest.raises(api.ProjectNotFoundError, match="another"):
        api.get_project("another")
    for wrong in ({"project_id": "../x"}, {"project_id": "abc", "owner_id": "two words"}):
        with pytest.raises(ProvisioningError):
            api.create_project(**wrong)


@pytest.mark.usefixtures("connected")
def test_the_public_api_verifies_keys(core: Core) -> None:
    plaintext = generate_api_key("nm")
    key_digest = digest(plaintext)
    key = ApiKey(key_digest, key_id(key_digest), key_prefix(plaintext), "shop", "job-1", "now")
    core.api_keys.put_set([key])
    core.new_project()

    assert api.verify_api_key(plaintext) == key
    assert api.verify_api_key(generate_api_key("nm")) is None
    assert api.verify_api_key("nm_made_up") is None


def test_keys_are_handed_over_once_and_only_by_a_project_that_is_active(
    core: Core, connected: PlatformSettings
) -> None:
    project = core.new_project()
    handed: list[Any] = []
    with pytest.raises(api.ApiKeysNotClaimableError, match="once it is ACTIVE"):
        api.claim_api_keys("shop", handed.append)
    core.projects.lock(project, "job-1", quota=None, default_limit=1)
    items = core.projects.build_activation("shop", "job-1", {"made": "x"}, {})
    dynamodb.transact(core.client("dynamodb"), items)
    keys = [generate_api_key("nm"), generate_api_key("nm")]
    for text in keys:
        core.api_keys.put_set([new_key(text, "2026-01-31T10:00:00+00:00", "shop", "job-1")])
    naming = Naming(connected.resource_prefix, connected.resource_namespace)
    core.client("secretsmanager").create_secret(
        Name=naming.names("shop").api_keys_secret,
        SecretString=json.dumps({"api_keys": keys}),
        Tags=[
            {"Key": key, "Value": value} for key, value in naming.owner("shop", "x").tags().items()
        ],
    )

    def interrupted(_keys: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.claim_api_keys("shop", interrupted)
    api.claim_api_keys("shop", handed.append)

    assert handed == [keys]
    with pytest.raises(api.ApiKeysNotClaimableError, match="claimed before"):
        api.claim_api_keys("shop", handed.append)
    with pytest.raises(api.ProjectNotFoundError):
        api.claim_api_keys("none-such", handed.append)


OUTPUTS = {
    "JobsTableName": "JobsTable",
    "ProjectsTableName": "ProjectsTable",
    "ApiKeysTableName": "ApiKeysTable",
    "QuotasTableName": "QuotasTable",
    "QueueUrl": "https://queue",
    "DeadLetterQueueUrl": "https://dead-letters",
    "ClusterParameterPrefix": "/stack/clusters",
    "ResourcePrefix": "nm",
    "ResourceNamespace": "stack-123456789012",
    "BucketNamespace": "global",
    "KmsKeyArn": "arn:aws:kms:eu-central-1:123456789012:key/1234abcd",
    "DefaultProjectQuota": "7",
    "JobRetentionDays": "200",
    "MaximumRunningJobs": "7",
    "StateMachineArnPrefix": STATE_MACHINE_ARN_PREFIX,
    "SnapshotsBucketName": "snapshots",
}


@pytest.fixture
def process(core: Core, monkeypatch: pytest.MonkeyPatch) -> Iterator[Core]:
    """Let the process be connected to nothing."""
    for name in (*platform._OUTPUTS, "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setattr(platform, "_connected", [])
    platform._from_environment.cache_clear()
    aws.reset()
    yield core
    platform._from_environment.cache_clear()
    aws.reset()


def test_a_process_that_is_connected_to_nothing_says_what_is_missing(process: Core) -> None:
    with pytest.raises(SettingsError, match="QUEUE_URL"):
        api.enqueue_job("provision_project", PAYLOAD)
    assert process.calls == []


def test_a_process_is_connected_by_its_environment(
    process: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, output in platform._OUTPUTS.items():
        monkeypatch.setenv(name, OUTPUTS[output])
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("QUEUE_URL", process.queue_url)

    job = api.enqueue_job("provision_project", PAYLOAD)

    assert process.jobs.get_head(job.job_id) is not None
    assert len(process.messages(process.queue_url)) == 1


def make_stack(core: Core, outputs: Mapping[str, str]) -> None:
    """Create a stack that has these outputs."""
    core.client("cloudformation").create_stack(
        StackName="provisioner",
        TemplateBody=json.dumps(
            {
                "Resources": {"Topic": {"Type": "AWS::SQS::Queue"}},
                "Outputs": {name: {"Value": value} for name, value in outputs.items()},
            }
        ),
    )


def test_a_process_is_connected_to_a_stack(process: Core) -> None:
    make_stack(process, OUTPUTS | {"QueueUrl": process.queue_url})

    settings = api.connect_to_stack("provisioner", REGION)

    assert (settings.jobs_table, settings.default_project_quota) == ("JobsTable", 7)
    assert settings.job_retention_days == 200
    assert settings.maximum_running_jobs == 7
    job = api.enqueue_job("provision_project", PAYLOAD)
    assert process.jobs.get_head(job.job_id) is not None


def test_a_stack_that_is_no_deployment_of_this_names_what_it_lacks(process: Core) -> None:
    make_stack(process, {"QueueUrl": "https://queue"})

    with pytest.raises(SettingsError, match="JOBS_TABLE"):
        api.connect_to_stack("provisioner", REGION)


@pytest.mark.usefixtures("process")
def test_a_stack_that_does_not_exist_is_not_connected_to() -> None:
    with pytest.raises(ClientError, match="none-such"):
        api.connect_to_stack("none-such", REGION)
    with pytest.raises(SettingsError):
        api.list_jobs()
