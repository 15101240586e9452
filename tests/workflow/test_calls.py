"""What a good job calls: few operations of AWS, and none more where there is more beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from botocore.client import BaseClient
from provisioner import api
from provisioner.jobs.stage import JobInput
from provisioner.jobs.stage_store import StageStore
from provisioner.provisioning.job_types import deprovision_project, provision_project
from provisioner.provisioning.naming import Naming
from provisioner.runtime import aws
from support.calls import call_as_aws
from support.effects import Attempt, Effect, aside, effects
from support.removal import provisioned
from support.undoing import OWNER, assert_nothing_is_left, cleanup_of, fail
from support.workflow import REGION, SHARED_STAGES, Fault, Point, Run, Workflow, each_way

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
        "PutBucketLifecycleConfiguration",
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


#: What the stages of a removal ask Cognito and AppSync for; each looks once more at the end.
REMOVAL: dict[str, list[str]] = {
    deprovision_project.CHECKING_SERVICES: ["DescribeUserPool"],
    deprovision_project.REMOVING_AUTH: ["DescribeUserPool", "DeleteUserPool", "DescribeUserPool"],
    deprovision_project.REMOVING_REALTIME: ["GetApi", "DeleteApi", "GetApi"],
}


def calls_of_services(operations: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return what the stages of a removal asked the two services for."""
    asked = {
        stage: [name for name in names if "UserPool" in name or "Api" in name]
        for stage, names in operations.items()
        if stage != deprovision_project.REMOVING_API_KEYS
    }
    return {stage: names for stage, names in asked.items() if names}


def test_a_removal_calls_no_more_beside_the_things_of_others(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[dict[str, list[str]]] = []
    # The first removal reads what the others then find kept.
    projects = [provisioned(workflow).project_id for _ in range(3)]
    for project_id, number in zip(projects, (0, 0, _OTHERS), strict=True):
        with job_calls.beside_others(number), called(workflow, monkeypatch) as operations:
            job = workflow.execute(workflow.new_deprovision_job(project_id))
        assert job.status is api.JobStatus.COMPLETED, job.error
        counts.append(operations)
    _, alone, beside_others = counts
    assert calls_of_services(alone) == REMOVAL
    assert beside_others == alone


def test_a_clean_up_calls_no_more_beside_the_things_of_others(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    provisioned(workflow)
    fail(workflow)
    with job_calls.beside_others(_OTHERS), called(workflow, monkeypatch) as operations:
        job = workflow.execute(workflow.new_job(workflow.new_project(**OWNER)))
    cleanup = cleanup_of(job)
    assert cleanup.status is api.JobStatus.COMPLETED, cleanup.error
    removing = {stage: operations[stage] for stage in operations if stage.startswith("REMOVING_")}
    assert calls_of_services(removing) == {
        stage: names for stage, names in REMOVAL.items() if stage in removing
    }


@pytest.mark.parametrize("how", ["clean_up", "deprovision"])
def test_what_a_run_may_have_left_beside_the_one_that_is_known_is_removed_too(
    workflow: Workflow, how: str
) -> None:
    """The first run of each of the two stages dies, and the second may not see what it has made."""
    project_id = workflow.new_project(**OWNER)
    stages = (provision_project.REGISTERING_AUTH, provision_project.REGISTERING_REALTIME)
    workflow.faults.update({stage: Fault(Point.DIED) for stage in stages})
    if how == "clean_up":
        fail(workflow)
    job = workflow.new_job(project_id)
    names = workflow.names(project_id)
    naming = Naming(workflow.settings.resource_prefix, workflow.settings.resource_namespace)
    tags = naming.owner(project_id, job.job_id).tags()

    def leave() -> None:
        """Be what the list of a moment ago has not shown."""
        cognito, appsync = aws.client("cognito-idp", REGION), aws.client("appsync", REGION)
        cognito.create_user_pool(PoolName=names.user_pool, UserPoolTags=tags)
        signed = [{"authType": "AWS_IAM"}]
        modes = ("connectionAuthModes", "defaultPublishAuthModes", "defaultSubscribeAuthModes")
        config = {"authProviders": signed, **dict.fromkeys(modes, signed)}
        appsync.create_api(name=names.event_api, tags=tags, eventConfig=config)

    def leave_at_the_end(_job: JobInput, stage: str) -> None:
        if stage == provision_project.FINALIZING:
            workflow.observers.remove(leave_at_the_end)
            leave()

    workflow.observers.append(leave_at_the_end)
    ended = workflow.execute(job)
    if how == "clean_up":
        assert cleanup_of(ended).status is api.JobStatus.COMPLETED
    else:
        assert ended.status is api.JobStatus.COMPLETED, ended.error
        removed = workflow.execute(workflow.new_deprovision_job(project_id))
        assert removed.status is api.JobStatus.COMPLETED, removed.error
    assert_nothing_is_left(workflow, project_id)


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
