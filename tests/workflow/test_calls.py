"""What a good job calls: few operations of AWS, and none more where there is more beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from botocore.client import BaseClient
from provisioner import api
from provisioner.jobs.stage_run import JobInput
from provisioner.jobs.stage_store import StageStore
from provisioner.provisioning.job_types import provision_project
from provisioner.runtime import aws
from support.calls import call_as_aws
from support.effects import Attempt, Effect, aside, effects
from support.workflow import REGION, SHARED_STAGES, Run, Workflow, each_way

from bench import job_calls

#: What the stages of a good job ask AWS for, without what records that they start and end.
OPERATIONS: dict[str, list[str]] = {
    provision_project.INITIALIZING: ["GetItem", "GetParametersByPath", "TransactWriteItems"],
    provision_project.CREATING_DATABASE: [
        "GetParametersByPath",
        "TransactWriteItems",
        "CreateSecret",
        "GetSecretValue",
    ],
    provision_project.CREATING_SCHEMA: ["GetSecretValue"],
    provision_project.REGISTERING_AUTH: [
        "CreateUserPool",
        "CreateUserPoolClient",
        "DescribeUserPool",
        "DescribeUserPoolClient",
    ],
    provision_project.REGISTERING_REALTIME: [
        "CreateApi",
        "CreateChannelNamespace",
        "GetApi",
        "ListChannelNamespaces",
    ],
    provision_project.REGISTERING_STORAGE: [
        "CreateBucket",
        "GetBucketTagging",
        "GetPublicAccessBlock",
        "GetBucketEncryption",
        "PutBucketVersioning",
        "PutBucketPolicy",
        "GetBucketVersioning",
        "GetBucketPolicy",
    ],
    provision_project.GENERATING_API_KEYS: ["CreateSecret", "TransactWriteItems"],
    provision_project.FINALIZING: ["Query"],
}

#: What they ask for in a function that has asked for the rest within the last minute.
WARM = {
    **OPERATIONS,
    provision_project.INITIALIZING: ["GetItem", "TransactWriteItems"],
    provision_project.CREATING_DATABASE: ["TransactWriteItems", "CreateSecret"],
}

#: User pools, and as many Event APIs, of others: more than a page of a list holds.
_OTHERS = 150


@contextmanager
def called(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[str]]]:
    """Collect the operations that the code of each stage calls, in order."""
    found: dict[str, list[str]] = {}
    running: list[str] = []

    def note(client: BaseClient, operation: str, parameters: Mapping[str, Any]) -> Any:
        # The state machine calls the functions meanwhile.
        if running and client.meta.service_model.service_name != "lambda":
            found[running[-1]].append(operation)
        return call_as_aws(client, operation, parameters)

    def begin(_job: JobInput, stage: str) -> None:
        running[:] = [stage]
        found.setdefault(stage, [])

    def ended(end: Callable[..., Any]) -> Callable[..., Any]:
        def record(*arguments: Any, **options: Any) -> Any:
            running.clear()
            return end(*arguments, **options)

        return record

    workflow.observers.append(begin)
    with monkeypatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", note)
        patch.setattr(StageStore, "end", ended(StageStore.end))
        patch.setattr(StageStore, "complete", ended(StageStore.complete))
        yield found


def test_a_good_job_calls_what_it_needs_and_no_more_beside_the_things_of_others(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    for expected, others in ((OPERATIONS, nullcontext()), (WARM, job_calls.beside_others(_OTHERS))):
        with others, called(workflow, monkeypatch) as operations:
            job = workflow.execute(workflow.new_job(workflow.new_project()))
        assert job.status is api.JobStatus.COMPLETED, job.error
        assert operations == expected


@each_way
def test_a_stage_is_told_the_outputs_of_the_stages_before_in_its_line(
    workflow: Workflow, run: Run
) -> None:
    told: dict[str, JobInput] = {}
    workflow.observers.append(lambda job, stage: told.update({stage: job}))
    job = run(workflow, workflow.new_job(workflow.new_project()))
    assert job.status is api.JobStatus.COMPLETED, job.error
    outputs = {record.stage: record.output for record in job.stages}
    first, made = provision_project.INITIALIZING, provision_project.CREATING_DATABASE
    expected = {stage: [first] for stage in SHARED_STAGES}
    expected |= {first: [], provision_project.CREATING_SCHEMA: [first, made]}
    assert {stage: of.outputs for stage, of in told.items()} == {
        stage: {before: outputs[before] for before in stages} for stage, stages in expected.items()
    }
    assert all(of.is_first for of in told.values())


#: Before which calls of a first run another run of the same stage does all of its work.
_MEETING = ["CreateUserPool", "CreateUserPoolClient", "CreateApi", "CreateChannelNamespace"]


@pytest.mark.parametrize("retry_count", [0, 1], ids=["delivered_twice", "repeated"])
@pytest.mark.parametrize("operation", [*_MEETING, "end"])
def test_of_two_runs_at_once_one_pool_and_one_api_are_left(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, operation: str, retry_count: int
) -> None:
    """The one that makes them without a look at the lists is the slower."""
    stages = {provision_project.REGISTERING_AUTH, provision_project.REGISTERING_REALTIME}
    overtaken: Counter[str] = Counter()

    def be_overtaken(effect: Effect, attempt: Attempt) -> None:
        names = [each.name for each in attempt.calls]
        # The start of the stage, what it makes, and the end of it.
        is_end = effect.name == "TransactWriteItems" and len(names) > 2
        is_here = is_end if operation == "end" else effect.name == operation
        if not is_here or effect.stage not in stages or overtaken[effect.stage]:
            return
        overtaken[effect.stage] += 1
        with aside():
            workflow.run_stage({**attempt.event, "retry_count": retry_count})

    with effects(workflow, monkeypatch, be_overtaken):
        job = workflow.execute(workflow.new_job(workflow.new_project()))
    assert overtaken
    assert workflow.snapshot(job) == workflow.reference()
    pools = aws.client("cognito-idp", REGION).list_user_pools(MaxResults=60)["UserPools"]
    apis = aws.client("appsync", REGION).list_apis()["apis"]
    assert job.result is not None
    services = job.result["services"]
    assert [pool["Id"] for pool in pools] == [services["auth"]["tenant_id"]]
    assert [found["apiId"] for found in apis] == [services["realtime"]["tenant_id"]]
