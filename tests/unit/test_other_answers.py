"""Answers to another question, as a fault on the way may bring them, are no one's answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from provisioner import api
from provisioner.api_keys.key_format import digest, generate_api_key
from provisioner.drivers import dynamodb
from provisioner.drivers.secrets import ensure_secret
from provisioner.errors import ERROR_RULES, ErrorType, ProvisioningError
from provisioner.jobs.execution import Executions
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.stages.api_keys import new_key
from provisioner.runtime import aws
from provisioner.runtime.platform import PlatformSettings
from support.core import REGION, STATE_MACHINE_ARN_PREFIX, Core

#: Lets an operation be answered, from now on, what was asked by other parameters.
type AnswerAnother = Callable[..., None]


@pytest.fixture
def answer_another(connected: PlatformSettings) -> Iterator[AnswerAnother]:
    assert connected.jobs_table
    registered = []

    def let(service: str, operation: str, method: str, **asked: Any) -> None:
        client = aws.client(service)
        answer = getattr(client, method)(**asked)
        del answer["ResponseMetadata"]

        def exchange(parsed: dict[str, Any], **_: Any) -> None:
            if parsed["ResponseMetadata"]["HTTPStatusCode"] == 200:
                kept = parsed["ResponseMetadata"]
                parsed.clear()
                parsed.update(answer, ResponseMetadata=kept)

        event = f"after-call.{service}.{operation}"
        client.meta.events.register(event, exchange)
        registered.append((client, event, exchange))

    yield let
    for client, event, exchange in registered:
        client.meta.events.unregister(event, exchange)


@pytest.fixture
def keys(core: Core, connected: PlatformSettings) -> dict[str, str]:
    """Return the plaintext of a key of each of two projects, which wait to be claimed."""
    naming = Naming(connected.resource_prefix, connected.resource_namespace)
    found = {}
    for project_id in ("mine", "another"):
        project = core.new_project(project_id)
        job = core.new_job(f"job-{project_id}", project_id)
        core.projects.lock(project, job.job_id, quota=None, default_limit=1)
        items = core.projects.build_activation(project_id, job.job_id, {"made": "x"}, {})
        dynamodb.transact(core.client("dynamodb"), items)
        text = generate_api_key("nm")
        core.api_keys.put_set([new_key(text, "2026-01-31T10:00:00", project_id, job.job_id)])
        ensure_secret(
            core.client("secretsmanager"),
            name=naming.names(project_id).api_keys_secret,
            owner=naming.owner(project_id, job.job_id),
            make=partial(dict, api_keys=[text]),
            kms_key_arn=None,
            final=ErrorType.UNKNOWN_ERROR,
        )
        found[project_id] = text
    return found


@contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(ProvisioningError, match="answered another question") as raised:
        yield
    assert ERROR_RULES[raised.value.type].retryable


def key_item(text: str) -> dict[str, Any]:
    return {"TableName": "ApiKeysTable", "Key": {"digest": {"S": digest(text)}}}


def project_item(project_id: str) -> dict[str, Any]:
    return {"TableName": "ProjectsTable", "Key": {"project_id": {"S": project_id}}}


def items_of(table: str, name: str, value: str, index: str | None = None) -> dict[str, Any]:
    return {
        "TableName": table,
        "KeyConditionExpression": f"{name} = :value",
        "ExpressionAttributeValues": {":value": {"S": value}},
    } | ({} if index is None else {"IndexName": index})


def test_no_answer_lets_another_key_verify(
    keys: dict[str, str], answer_another: AnswerAnother
) -> None:
    made_up = generate_api_key("nm")
    found = api.verify_api_key(keys["mine"])
    assert found is not None
    assert found.project_id == "mine"

    answer_another("dynamodb", "GetItem", "get_item", **key_item(keys["another"]))

    assert api.verify_api_key(made_up) is None
    assert api.verify_api_key(keys["mine"]) is None


def test_no_answer_of_another_project_lets_a_key_verify(
    core: Core, keys: dict[str, str], answer_another: AnswerAnother
) -> None:
    project = core.projects.get("mine")
    assert project is not None
    core.projects.begin_removal(project, "job-2")
    assert api.verify_api_key(keys["mine"]) is None

    answer_another("dynamodb", "GetItem", "get_item", **project_item("another"))

    assert api.verify_api_key(keys["mine"]) is None


@pytest.mark.usefixtures("keys")
def test_no_answer_of_an_item_is_taken_for_another(answer_another: AnswerAnother) -> None:
    assert api.get_project("mine").project_id == "mine"

    answer_another("dynamodb", "GetItem", "get_item", **project_item("another"))

    for read in (
        api.get_project,
        api.list_api_keys,
        lambda project_id: api.claim_api_keys(project_id, print),
        lambda project_id: api.protect_project(project_id, enabled=True),
    ):
        with refused():
            read("mine")


LISTS: dict[str, tuple[dict[str, Any], Callable[[], object]]] = {
    "a job": (items_of("JobsTable", "job_id", "job-another"), lambda: api.get_job("job-mine")),
    "a project's jobs": (
        items_of("JobsTable", "project_id", "another", "by_project"),
        lambda: api.list_jobs("mine"),
    ),
    "everyone's jobs": (
        items_of("JobsTable", "project_id", "another", "by_project"),
        api.list_jobs,
    ),
    "the projects": (
        items_of("JobsTable", "project_id", "another", "by_project"),
        api.list_projects,
    ),
    "a project's keys": (
        items_of("ApiKeysTable", "project_id", "another", "by_project"),
        lambda: api.list_api_keys("mine"),
    ),
    "a key by its id": (
        items_of("ApiKeysTable", "project_id", "another", "by_project"),
        lambda: api.revoke_api_key(f"key_{'0' * 20}"),
    ),
}


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("of", LISTS)
def test_no_answer_of_a_list_is_taken_for_another(answer_another: AnswerAnother, of: str) -> None:
    asked, read = LISTS[of]

    answer_another("dynamodb", "Query", "query", **asked)

    with refused():
        read()


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("operation", "method"),
    [("DescribeSecret", "describe_secret"), ("GetSecretValue", "get_secret_value")],
)
def test_nobody_is_handed_the_keys_of_another(
    connected: PlatformSettings, answer_another: AnswerAnother, operation: str, method: str
) -> None:
    naming = Naming(connected.resource_prefix, connected.resource_namespace)
    handed: list[object] = []

    answer_another(
        "secretsmanager", operation, method, SecretId=naming.names("another").api_keys_secret
    )

    with refused():
        api.claim_api_keys("mine", handed.append)
    assert handed == []


def test_nobody_is_handed_keys_that_are_stored_of_another(
    core: Core, connected: PlatformSettings, keys: dict[str, str]
) -> None:
    naming = Naming(connected.resource_prefix, connected.resource_namespace)
    core.client("secretsmanager").put_secret_value(
        SecretId=naming.names("mine").api_keys_secret,
        SecretString=json.dumps({"api_keys": [keys["another"]]}),
    )

    with pytest.raises(api.ApiKeysNotClaimableError):
        api.claim_api_keys("mine", print)


def test_no_clusters_of_another_region_are_taken(core: Core) -> None:
    core.describe_clusters({"cluster_id": "second"}, region="eu-west-1")
    client = core.client("ssm")
    path = "/test/clusters/eu-west-1/postgresql"
    answer, listed = (
        client.get_parameter(Name=f"{path}/second"),
        client.get_parameters_by_path(Path=path),
    )
    core.answers["ssm.GetParameter"] = lambda _: (200, dict(answer))
    core.answers["ssm.GetParametersByPath"] = lambda _: (200, dict(listed))

    with refused():
        core.catalogue.cluster(REGION, Engine.POSTGRESQL, "second")
    with refused():
        core.catalogue.clusters(REGION, Engine.POSTGRESQL)


def test_no_execution_of_another_job_is_taken(core: Core) -> None:
    job, another = core.new_job(), core.new_job("job-2")
    executions = Executions(core.client("stepfunctions"), STATE_MACHINE_ARN_PREFIX)
    described = {"executionArn": executions.arn(another), "status": "FAILED"}
    core.answers["sfn.DescribeExecution"] = lambda _: (200, dict(described))

    with refused():
        executions.find(executions.arn(job))
