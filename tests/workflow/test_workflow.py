"""Whole jobs on the real state machine."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import cycle
from typing import Any

import pytest
from provisioner import api
from provisioner.composition.in_process import all_stages
from provisioner.errors import ERROR_RULES, RETRYABLE, ErrorType, failure
from provisioner.jobs.models import StageStatus
from provisioner.jobs.retries import FOREIGN_ERRORS, POLL_SECONDS, STAGE_RETRY
from provisioner.jobs.stage import JobInput
from provisioner.provisioning.job_types import provision_project
from provisioner.provisioning.projects import ProjectStatus
from provisioner.runtime import aws
from support.project import longest_run
from support.tenant_server import each_engine
from support.workflow import SHARED_STAGES, Fault, FunctionEnded, Point, Workflow


def entered(history: list[dict[str, Any]]) -> list[str]:
    """Return the names of the states that an execution has entered."""
    return [
        event["stateEnteredEventDetails"]["name"]
        for event in history
        if event["type"].endswith("StateEntered")
    ]


def scheduled(history: list[dict[str, Any]]) -> Counter[str]:
    """Return how often each stage was handed to a function."""
    return Counter(
        json.loads(event["taskScheduledEventDetails"]["parameters"])["Payload"]["stage"]
        for event in history
        if event["type"] == "TaskScheduled"
        and event["taskScheduledEventDetails"]["resourceType"] == "lambda"
    )


def statuses(job: api.Job) -> dict[str, StageStatus]:
    return {record.stage: record.status for record in job.stages}


def error_of(job: api.Job) -> api.StoredError:
    assert job.error is not None
    return job.error


@each_engine
def test_a_job_provisions_a_project(workflow: Workflow) -> None:
    project_id = workflow.new_project(owner_id="ada", organization_id="acme")
    job = workflow.execute(workflow.new_job(project_id))
    assert job.status is api.JobStatus.COMPLETED
    ended = {s for s, status in statuses(job).items() if status is StageStatus.SUCCEEDED}
    assert ended == set(SHARED_STAGES)
    assert statuses(job)[provision_project.CREATING_INSTANCE] is StageStatus.SKIPPED
    assert all(record.check for record in job.stages)
    assert all(record.attempt == (record.stage in ended) for record in job.stages)
    assert job.percent_done == 100

    result = api.ProvisionProjectResult.model_validate(job.result)
    login = workflow.secret(result.database.secret_arn)
    assert result.database.database_name == workflow.tenant(project_id).database
    assert login["password"] not in result.database.connection_string
    assert login["connection_string"].replace(f":{login['password']}@", "@") == (
        result.database.connection_string
    )
    assert result.services.storage is not None
    assert result.services.storage.bucket_name == workflow.bucket(project_id)
    assert result.services.auth is not None
    assert result.services.realtime is not None
    assert result.metadata.owner_id == "ada"
    assert result.metadata.organization_id == "acme"

    keys = workflow.secret(result.api_keys_secret_arn)["api_keys"]
    verified = [api.verify_api_key(key) for key in keys]
    assert [key.key_id for key in result.api_keys] == [v.key_id for v in verified if v]
    assert {v.project_id for v in verified if v} == {project_id}
    project = api.get_project(project_id)
    assert (project.status, project.locked_by, project.result) == (
        ProjectStatus.ACTIVE,
        None,
        job.result,
    )


def test_a_job_that_succeeds_at_once_takes_twelve_transitions(workflow: Workflow) -> None:
    job = workflow.execute(workflow.new_job(workflow.new_project()))
    states = entered(workflow.history(job))
    assert states[-1] == "Completed"
    assert len(states) <= 12


def test_a_project_becomes_active_once_none_of_its_stages_may_be_at_work(
    workflow: Workflow,
) -> None:
    """A function whose answer got lost goes on for as long as it may, and changes nothing."""
    stage = provision_project.GENERATING_API_KEYS
    workflow.faults[stage] = Fault(Point.BEFORE, lambda: FunctionEnded("Lambda.Unknown"))
    job = workflow.new_job(workflow.new_project())
    function = all_stages(workflow.settings, workflow.jobs)[job.job_type][stage]
    seen: list[tuple[ProjectStatus, StageStatus]] = []

    def go_on() -> None:
        function(JobInput(job_id=job.job_id, job_type=job.job_type, payload=job.payload))
        finalizing = workflow.jobs.get(job.job_id).stages[-1]
        seen.append((api.get_project(job.project_id).status, finalizing.status))

    workflow.on_pause = go_on
    ended = workflow.execute(job)

    assert set(seen) == {(ProjectStatus.PROVISIONING, StageStatus.WAITING)}
    longest = longest_run("provision_project", stage) + POLL_SECONDS
    assert longest_run("provision_project", stage) - POLL_SECONDS < sum(workflow.pauses) < longest
    assert len(entered(workflow.history(job))) <= 12
    assert ended.stages[-1].attempt == 1
    # Of the keys that the secret hands over, each verifies.
    assert workflow.snapshot(ended) == workflow.reference()


def test_what_the_payload_does_without_is_skipped(workflow: Workflow) -> None:
    off = {"auth": False, "realtime": False, "storage": False}
    job = workflow.execute(workflow.new_job(workflow.new_project(), services=off))
    assert job.status is api.JobStatus.COMPLETED
    assert {s for s, status in statuses(job).items() if status is StageStatus.SKIPPED} == {
        provision_project.CREATING_INSTANCE,
        provision_project.REGISTERING_AUTH,
        provision_project.REGISTERING_REALTIME,
        provision_project.REGISTERING_STORAGE,
    }
    assert job.result is not None
    assert job.result["services"] == {}
    assert "'pools': []" in workflow.snapshot(job)["services"]


#: Stages of different branches, which all settle: they fail in one execution.
FIRST_OF_BRANCHES: tuple[str, ...] = tuple(
    branch[0] for branch in provision_project.RESOURCES.branches
)
#: The other stages: one fails at the beginning, one after another of its branch, one at the end.
OTHERS: list[tuple[str, ...]] = [
    (stage,) for stage in SHARED_STAGES if stage not in FIRST_OF_BRANCHES
]


def each_error(names: Sequence[str]) -> pytest.MarkDecorator:
    """Try every error in five stages at once, and in each other stage one of them.

    That every Task has the same retriers is seen in the state machine itself.
    """
    pairs = [(FIRST_OF_BRANCHES, name) for name in names]
    pairs += zip(OTHERS, cycle(names), strict=False)
    return pytest.mark.parametrize(
        ("stages", "name"), pairs, ids=[f"{stages[0]}-{name}" for stages, name in pairs]
    )


def errors_of(job: api.Job) -> dict[str, api.StoredError]:
    return {error.stage: error for error in (error_of(job), *job.other_errors)}


@each_error(
    [*RETRYABLE, "Sandbox.Timedout", "Lambda.Unknown", "Runtime.ExitError", "Runtime.OutOfMemory"]
)
def test_a_retryable_error_is_tried_three_times(
    workflow: Workflow, stages: tuple[str, ...], name: str
) -> None:
    def error() -> BaseException:
        return failure(ErrorType(name), "Injected.") if name in ErrorType else FunctionEnded(name)

    for stage in stages:
        workflow.faults[stage] = Fault(Point.BEFORE, error, times=3)
    job = workflow.execute(workflow.new_job(workflow.new_project()))
    assert job.status is api.JobStatus.FAILED
    assert set(errors_of(job)) == set(stages)
    tried = scheduled(workflow.history(job))
    for stage in stages:
        assert tried[stage] == 3
        stored = errors_of(job)[stage]
        assert stored.type == FOREIGN_ERRORS.get(name, name)
        assert stored.attempt == 3
        assert statuses(job)[stage] is StageStatus.FAILED
        assert name in ErrorType or name in stored.cause
    assert len(workflow.waits) == 2 * len(stages)
    assert all(0 <= wait <= 600 for wait in workflow.waits)
    assert sum(wait <= 300 for wait in workflow.waits) >= len(stages)


def test_a_task_that_gets_no_answer_in_time_is_tried_three_times(workflow: Workflow) -> None:
    workflow.time_out_after("RegisterAuth", 1)
    over = threading.Event()

    def hang(_job: JobInput, stage: str) -> None:
        if stage == provision_project.REGISTERING_AUTH:
            with workflow.others_go_on():
                over.wait()
            raise FunctionEnded("Sandbox.Timedout")

    workflow.observers.append(hang)
    try:
        job = workflow.execute(workflow.new_job(workflow.new_project()))
    finally:
        over.set()
    assert scheduled(workflow.history(job))[provision_project.REGISTERING_AUTH] == 3
    assert error_of(job).type is ErrorType.TIMEOUT
    assert "States.Timeout" in error_of(job).cause


@each_error([error_type for error_type in ERROR_RULES if error_type not in RETRYABLE])
def test_no_other_error_is_tried_again(
    workflow: Workflow, stages: tuple[str, ...], name: str
) -> None:
    error_type = ErrorType(name)
    for stage in stages:
        workflow.faults[stage] = Fault(
            Point.BEFORE, lambda: failure(error_type, "Injected.", "for operators"), times=3
        )
    job = workflow.execute(workflow.new_job(workflow.new_project()))
    assert job.status is api.JobStatus.FAILED
    assert workflow.waits == []
    tried = scheduled(workflow.history(job))
    for stage in stages:
        assert tried[stage] == 1
        assert errors_of(job)[stage] == api.StoredError(
            error_type, stage, 1, "Injected.", "for operators"
        )


@pytest.mark.parametrize("stage", SHARED_STAGES, ids=str)
def test_a_failed_job_gives_back_what_it_held_and_the_next_takes_up_what_is_there(
    workflow: Workflow, stage: str
) -> None:
    project_id = workflow.new_project(owner_id="ada")
    workflow.faults[stage] = Fault(Point.AFTER, lambda: failure(ErrorType.CONFLICT, "Injected."))
    failed = workflow.execute(workflow.new_job(project_id, on_failure="keep"))
    if stage is provision_project.FINALIZING:
        # Its effect is the end of the job, which nothing overwrites.
        assert failed.status is api.JobStatus.COMPLETED
        return
    assert (failed.status, error_of(failed).stage) == (api.JobStatus.FAILED, stage)
    project = api.get_project(project_id)
    assert (project.status, project.locked_by, project.quota) == (ProjectStatus.FAILED, None, None)
    assert _quota(workflow, "owner#ada") == 0
    # The siblings of a branch that failed have settled.
    initialized = stage is not provision_project.INITIALIZING
    for branch in provision_project.RESOURCES.branches:
        if stage not in branch:
            status = StageStatus.SUCCEEDED if initialized else StageStatus.PENDING
            assert {statuses(failed)[sibling] for sibling in branch} == {status}

    completed = workflow.execute(workflow.new_job(project_id))
    assert completed.status is api.JobStatus.COMPLETED
    assert _quota(workflow, "owner#ada") == 1
    assert (
        "('PROJECT', <ApiKeyStatus.ACTIVE: 'ACTIVE'>)" in workflow.snapshot(completed)["api_keys"]
    )
    services = workflow.snapshot(completed)["services"]
    assert services.count("ChannelNamespace") == workflow.reference()["services"].count(
        "ChannelNamespace"
    )
    assert (
        len(aws.client("cognito-idp", "eu-central-1").list_user_pools(MaxResults=9)["UserPools"])
        == 1
    )


def _quota(workflow: Workflow, quota: str) -> int:
    item = aws.client("dynamodb").get_item(
        TableName=workflow.settings.quotas_table, Key={"quota": {"S": quota}}
    )["Item"]
    return int(item["used"]["N"])


def _same(error: BaseException) -> BaseException:
    return error


def test_the_first_error_in_stage_order_is_the_job_s_and_the_others_are_listed(
    workflow: Workflow,
) -> None:
    for stage in (
        provision_project.GENERATING_API_KEYS,
        provision_project.REGISTERING_AUTH,
        provision_project.CREATING_SCHEMA,
    ):
        error = failure(ErrorType.CONFLICT, f"In {stage}.")
        workflow.faults[stage] = Fault(Point.BEFORE, partial(_same, error))
    job = workflow.execute(workflow.new_job(workflow.new_project()))
    assert error_of(job).stage == provision_project.CREATING_SCHEMA
    assert [error.stage for error in job.other_errors] == [
        provision_project.REGISTERING_AUTH,
        provision_project.GENERATING_API_KEYS,
    ]
    assert [error.message for error in job.other_errors] == [
        "In REGISTERING_AUTH.",
        "In GENERATING_API_KEYS.",
    ]
    end = next(
        event["executionFailedEventDetails"]
        for event in workflow.history(job)
        if event["type"] == "ExecutionFailed"
    )
    assert (end["error"], end["cause"]) == ("CONFLICT", "In CREATING_SCHEMA.")


@pytest.mark.fault("two jobs at once for one project", where="provision_project/REGISTERING_AUTH")
def test_a_second_job_of_a_project_that_is_being_provisioned_harms_nothing(
    workflow: Workflow,
) -> None:
    project_id = workflow.new_project()
    first, second = workflow.new_job(project_id), workflow.new_job(project_id)
    ran: list[api.Job] = []

    def meanwhile(job: JobInput, stage: str) -> None:
        if job.job_id == first.job_id and stage == provision_project.REGISTERING_AUTH:
            workflow.observers.clear()
            ran.append(workflow.execute_in_process(second))

    workflow.observers.append(meanwhile)
    completed = workflow.execute(first)
    assert completed.status is api.JobStatus.COMPLETED
    assert error_of(ran[0]).type is ErrorType.PROJECT_BUSY
    assert first.job_id in error_of(ran[0]).message
    assert workflow.snapshot(completed) == workflow.reference()


@pytest.mark.fault("two jobs at once for one project", where="provision_project/INITIALIZING")
def test_two_jobs_at_once_leave_one_set_of_everything(workflow: Workflow) -> None:
    project_id = workflow.new_project()
    jobs = [workflow.new_job(project_id) for _ in range(2)]
    runs = [threading.Thread(target=workflow.execute, args=(job,)) for job in jobs]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    ended = sorted((workflow.jobs.get(job.job_id) for job in jobs), key=lambda job: job.status)
    assert ended[0].status is api.JobStatus.COMPLETED
    # The slower one found the project held, or provisioned already.
    assert (
        ended[1].status is api.JobStatus.COMPLETED
        or error_of(ended[1]).type is ErrorType.PROJECT_BUSY
    )
    first = min(ended, key=lambda job: (job.error is not None, job.stages[2].attempt == 0))
    assert workflow.snapshot(first) == workflow.reference()


def test_a_job_for_a_provisioned_project_completes_at_once_with_its_result(
    workflow: Workflow,
) -> None:
    project_id = workflow.new_project()
    first = workflow.execute(workflow.new_job(project_id))
    second = workflow.execute(workflow.new_job(project_id, api_keys={"count": 5}))
    assert second.status is api.JobStatus.COMPLETED
    assert second.result == first.result
    assert entered(workflow.history(second)) == [
        "Initialize",
        "AfterInitialize",
        "Completed",
    ]
    assert workflow.snapshot(first) == workflow.reference()


def test_the_last_place_of_a_quota_goes_to_one(workflow: Workflow) -> None:
    aws.client("dynamodb").put_item(
        TableName=workflow.settings.quotas_table,
        Item={"quota": {"S": "owner#ada"}, "limit": {"N": "1"}},
    )
    first = workflow.execute(workflow.new_job(workflow.new_project(owner_id="ada")))
    second = workflow.execute(workflow.new_job(workflow.new_project(owner_id="ada")))
    assert first.status is api.JobStatus.COMPLETED
    assert error_of(second).type is ErrorType.QUOTA_EXCEEDED
    assert "1 projects" in error_of(second).message
    assert _quota(workflow, "owner#ada") == 1


def test_one_read_says_how_far_a_job_is(workflow: Workflow) -> None:
    job = workflow.new_job(workflow.new_project())
    seen: list[api.Job] = []

    def look(_job: JobInput, stage: str) -> None:
        if stage == provision_project.CREATING_DATABASE:
            seen.append(workflow.jobs.get(job.job_id))

    def look_while_waiting() -> None:
        seen.append(workflow.jobs.get(job.job_id))

    workflow.observers.append(look)
    workflow.on_wait = look_while_waiting
    workflow.faults[provision_project.CREATING_DATABASE] = Fault(Point.BEFORE)
    workflow.execute_in_process(job)
    running, waiting, again = seen
    assert [(r.stage, r.attempt, r.max_attempts) for r in running.running_stages] == [
        (provision_project.CREATING_DATABASE, 1, 3)
    ]
    assert running.running_stages[0].started_at is not None
    # Of nine stages the first is done, and one is not asked for.
    assert running.percent_done == 22
    (stage,) = waiting.running_stages
    assert stage.status is StageStatus.RETRYING
    assert stage.error is not None
    assert stage.error.type is ErrorType.NETWORK_ERROR
    assert isinstance(stage.next_attempt_before, datetime)
    longest = STAGE_RETRY.longest_delay(1)
    assert longest is not None
    failed_at = next(e.at for e in waiting.history if e.status == StageStatus.RETRYING)
    assert abs(stage.next_attempt_before - failed_at - timedelta(seconds=longest)) < timedelta(
        seconds=1
    )
    (stage,) = again.running_stages
    assert (stage.status, stage.attempt, stage.next_attempt_before) == (
        StageStatus.RUNNING,
        2,
        None,
    )


def test_nothing_that_a_job_leaves_holds_a_secret(workflow: Workflow) -> None:
    for stage in (
        provision_project.CREATING_DATABASE,
        provision_project.GENERATING_API_KEYS,
        provision_project.CREATING_SCHEMA,
    ):
        workflow.faults[stage] = Fault(Point.AFTER)
    with workflow.logged() as log:
        job = workflow.execute(workflow.new_job(workflow.new_project()))
    assert job.status is api.JobStatus.COMPLETED
    names = workflow.names(job.project_id)
    login = workflow.secret(names.database_secret)
    keys = workflow.secret(names.api_keys_secret)["api_keys"]
    admin = workflow.secret("nm/clusters/test")
    tables = [
        workflow.settings.jobs_table,
        workflow.settings.projects_table,
        workflow.settings.api_keys_table,
        workflow.settings.quotas_table,
    ]
    traces = [
        json.dumps(workflow.history(job), default=str),
        json.dumps([aws.client("dynamodb").scan(TableName=name) for name in tables]),
        log.getvalue(),
        workflow.server.log.read_text(),
    ]
    assert all(job.project_id in trace for trace in traces[:3])
    for secret in (login["password"], admin["password"], *keys):
        assert [secret in trace for trace in traces] == [False] * 4
