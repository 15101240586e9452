"""What a failed job made is removed, and nothing else, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import psycopg
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from moto.s3.models import s3_backends
from provisioner import api
from provisioner.composition.in_process import all_stages
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.execution import execution_name
from provisioner.jobs.retries import POLL_SECONDS
from provisioner.jobs.stage import JobInput
from provisioner.ownership import Ownership
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types import clean_up_project, provision_project
from provisioner.runtime import aws
from support.calls import SQL
from support.effects import Attempt, Effect, aside, effects
from support.project import longest_run
from support.undoing import (
    CLEANUP,
    OWNER,
    assert_undone,
    cleanup_of,
    fail,
    repeated_to_its_end,
    run_failing,
    unremoved,
)
from support.workflow import (
    ACCOUNT,
    REGION,
    SHARED_STAGES,
    Fault,
    FunctionEnded,
    Point,
    Run,
    Workflow,
    each_way,
)

#: No stage changes AWS, or PostgreSQL, more often in one attempt; a test below sees to it.
MOST_CALLS, MOST_STATEMENTS = 6, 3

STAGES = clean_up_project.JOB_TYPE.stages


def test_the_job_has_failed_before_anything_is_removed(workflow: Workflow) -> None:
    seen: list[tuple[api.Job, str | None]] = []

    def look(job: JobInput, _stage: str) -> None:
        if job.job_type == CLEANUP:
            seen.append(
                (
                    workflow.jobs.get(job.payload["job_id"]),
                    api.get_project(job.payload["project_id"]).locked_by,
                )
            )

    workflow.observers.append(look)
    job = run_failing(workflow)
    cleanup = cleanup_of(job)
    assert len(seen) == len(STAGES)
    assert {(job.status, job.error, job.cleanup_job_id, locked_by) for job, locked_by in seen} == {
        (api.JobStatus.FAILED, job.error, cleanup.job_id, cleanup.job_id)
    }
    assert (cleanup.job_type, cleanup.parent_id) == (CLEANUP, job.job_id)
    assert workflow.history(job)[-1]["executionFailedEventDetails"] == {
        "error": "CONFLICT",
        "cause": "Injected.",
    }
    ended = workflow.execution_arn(CLEANUP, execution_name(cleanup.job_id, 1))
    assert workflow.ended(ended) == "SUCCEEDED"


def test_a_cancelled_job_leaves_nothing_either(workflow: Workflow) -> None:
    def cancel(job: JobInput, stage: str) -> None:
        if stage == provision_project.CREATING_DATABASE:
            workflow.jobs.request_cancel(workflow.jobs.get(job.job_id))

    workflow.observers.append(cancel)
    job = workflow.execute(workflow.new_job(workflow.new_project(**OWNER)))
    assert job.status is api.JobStatus.CANCELLED
    assert cleanup_of(job).status is api.JobStatus.COMPLETED
    assert workflow.remains(job.project_id) == {}


# Faults of the removals.


@each_way
def test_the_tests_below_go_through_every_call(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    with effects(workflow, monkeypatch, lambda _effect, _attempt: None) as attempts:
        job = run_failing(workflow, run)
    assert_undone(workflow, job)
    of_cleanup = [attempt for attempt in attempts if attempt.job_type == CLEANUP]
    assert sorted(attempt.stage for attempt in of_cleanup) == sorted(STAGES)
    assert max(len(attempt.calls) for attempt in of_cleanup) == MOST_CALLS
    assert max(len(a.effects) - len(a.calls) for a in of_cleanup) == MOST_STATEMENTS
    # At the least, a stage records its start and its end.
    assert min(len(attempt.calls) for attempt in of_cleanup) >= 2


#: What AWS and the way to it raise, and what passes.
ERRORS: tuple[Callable[[str], Exception], ...] = (
    lambda _: EndpointConnectionError(endpoint_url="https://aws.invalid"),
    lambda _: ReadTimeoutError(endpoint_url="https://aws.invalid"),
    lambda operation: ClientError({"Error": {"Code": "ThrottlingException"}}, operation),
    lambda operation: ClientError({"Error": {"Code": "InternalFailure"}}, operation),
)


@each_way
@pytest.mark.parametrize(
    ("name", "number"),
    [
        *(("AWS", number) for number in range(1, MOST_CALLS + 1)),
        *((SQL, number) for number in range(1, MOST_STATEMENTS + 1)),
    ],
)
def test_every_stage_of_a_cleanup_may_meet_an_error_and_die_at_any_call(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, name: str, number: int, run: Run
) -> None:
    """At its n-th call the first attempt meets an error; the second dies at its own n-th."""
    met: set[tuple[str, int]] = set()

    def go_wrong(effect: Effect, _attempt: Attempt) -> None:
        is_here = effect.number == number and (effect.name == SQL) == (name == SQL)
        if effect.job_type != CLEANUP or not is_here:
            return
        met.add((effect.stage, effect.retry_count))
        if effect.retry_count == 0 and name == SQL:
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        if effect.retry_count == 0:
            raise ERRORS[number % 4](effect.name)
        if effect.retry_count == 1:
            raise FunctionEnded("Runtime.ExitError")

    with effects(workflow, monkeypatch, go_wrong):
        job = run_failing(workflow, run)
    assert {retry_count for _, retry_count in met} >= {0}
    assert_undone(workflow, job)


@pytest.mark.parametrize("number", range(1, MOST_CALLS + 1))
def test_a_stage_of_a_cleanup_that_was_given_up_may_go_on_beside_the_next(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Before its n-th call, every stage is superseded by its repetition."""
    superseded: set[str] = set()

    def be_superseded(effect: Effect, attempt: Attempt) -> None:
        is_here = effect.job_type == CLEANUP and effect.name != SQL and effect.number == number
        if not is_here or effect.stage in superseded:
            return
        superseded.add(effect.stage)
        with aside():
            workflow.run_stage({**attempt.event, "retry_count": 1})

    with effects(workflow, monkeypatch, be_superseded):
        job = run_failing(workflow)
    assert superseded
    assert_undone(workflow, job)


@pytest.mark.parametrize(
    ("engine", "stage"),
    [
        *(
            (Engine.POSTGRESQL, stage)
            for stage in SHARED_STAGES
            if stage not in {provision_project.INITIALIZING, provision_project.FINALIZING}
        ),
        (Engine.MYSQL, provision_project.CREATING_DATABASE),
        (Engine.MYSQL, provision_project.CREATING_SCHEMA),
    ],
)
def test_what_a_stage_makes_late_is_removed_too(workflow: Workflow, stage: str) -> None:
    """The answers of a stage got lost; the last of its functions goes on for as long as it may."""
    longest = longest_run("provision_project", stage)
    workflow.faults[stage] = Fault(Point.BEFORE, lambda: FunctionEnded("Lambda.Unknown"), times=3)
    job = workflow.new_job(workflow.new_project(**OWNER))
    function = all_stages(workflow.settings, workflow.jobs)[job.job_type][stage]
    seen: list[tuple[api.JobStatus, str]] = []

    def go_on() -> None:
        if len(workflow.pauses) < longest // POLL_SECONDS:
            return
        workflow.on_pause = lambda: None
        failed = workflow.jobs.get(job.job_id)
        seen.append((failed.status, cleanup_of(failed).waits[0].waiting_for))
        # What writes for its project is refused: that is the clean-up's.
        with suppress(ProvisioningError):
            function(JobInput(job_id=job.job_id, job_type=job.job_type, payload=job.payload))

    workflow.on_pause = go_on
    ended = workflow.execute(job)
    assert ended.error is not None
    assert ended.error.stage == stage
    # It has failed by then, and its clean-up has removed nothing.
    waiting_for = f"An earlier attempt of {stage} may still be at work."
    assert seen == [(api.JobStatus.FAILED, waiting_for)]
    assert cleanup_of(ended).status is api.JobStatus.COMPLETED
    assert workflow.remains(job.project_id) == {}


# What stays.


@each_way
def test_what_an_earlier_job_keeps_stays(workflow: Workflow, run: Run) -> None:
    kept = run_failing(workflow, run, on_failure="keep")
    assert not kept.cleanup_job_id
    before = workflow.remains(kept.project_id)
    assert {"databases", "roles", "pools", "apis", "buckets", "secrets", "api_keys"} <= set(before)
    place = api.get_project(kept.project_id).cluster_id

    job = run_failing(workflow, run, project_id=kept.project_id)
    assert cleanup_of(job).status is api.JobStatus.COMPLETED
    after = workflow.remains(kept.project_id)
    # The secret of the keys that are kept waits for as long as the later job says.
    assert len(before.pop("hand_overs")) == len(after.pop("hand_overs")) == 1
    assert after == before
    project = api.get_project(kept.project_id)
    assert (project.status, project.locked_by, project.quota, project.cluster_id) == (
        api.ProjectStatus.FAILED,
        None,
        None,
        place,
    )


@pytest.mark.parametrize(
    ("engine", "later", "run"),
    [
        (Engine.POSTGRESQL, provision_project.CREATING_SCHEMA, Workflow.execute),
        (Engine.POSTGRESQL, provision_project.CREATING_SCHEMA, Workflow.execute_in_process),
        (Engine.POSTGRESQL, provision_project.FINALIZING, Workflow.execute),
        (Engine.POSTGRESQL, provision_project.FINALIZING, Workflow.execute_in_process),
        (Engine.MYSQL, provision_project.FINALIZING, Workflow.execute_in_process),
    ],
)
def test_only_the_part_that_the_job_made_is_removed(
    workflow: Workflow, later: str, run: Run
) -> None:
    """An earlier job made its database and one key; the later makes the services and two keys."""
    off = {"auth": False, "realtime": False, "storage": False}
    one = {"count": 1}
    kept = run_failing(workflow, run, on_failure="keep", services=off, api_keys=one)
    before = workflow.remains(kept.project_id)

    fail(workflow, later)
    job = run(workflow, workflow.new_job(kept.project_id))
    assert cleanup_of(job).status is api.JobStatus.COMPLETED
    after = workflow.remains(kept.project_id)
    # The one key of the earlier job had been replaced by two; nobody was ever given either.
    assert before.pop("api_keys")
    # Their secret is the earlier job's, and stays; it goes when its time is over.
    assert len(before.pop("hand_overs")) == len(after.pop("hand_overs")) == 1
    assert after == before


def take_names(workflow: Workflow, project_id: str, owner: Ownership) -> None:
    """Make everything under the project's names, databases and roles too."""
    workflow.take_names(project_id, owner)
    tenant, driver = workflow.tenant(project_id), workflow.server.driver
    driver.ensure_database(tenant, lambda: "correct-horse", owner)
    driver.ensure_schema(tenant, owner)


@each_way
@pytest.mark.parametrize(
    ("engine", "whose"),
    [
        (Engine.POSTGRESQL, "of_another_deployment"),
        (Engine.POSTGRESQL, "of_another_project"),
        (Engine.MYSQL, "of_another_project"),
    ],
)
def test_what_is_not_the_projects_stays(workflow: Workflow, whose: str, run: Run) -> None:
    project_id = workflow.new_project()
    foreign = {
        "of_another_deployment": Ownership("other", project_id, "job-1"),
        "of_another_project": Ownership(workflow.settings.resource_namespace, "other", "job-1"),
    }[whose]
    take_names(workflow, project_id, foreign)
    before = workflow.remains(project_id)

    job = run(workflow, workflow.new_job(project_id))
    assert job.error is not None
    # User pools and Event APIs may have the same name: the job's own come beside, and go.
    assert {e.stage: e.type for e in (job.error, *job.other_errors)} == dict.fromkeys(
        (
            provision_project.CREATING_DATABASE,
            provision_project.REGISTERING_STORAGE,
            provision_project.GENERATING_API_KEYS,
        ),
        ErrorType.CONFLICT,
    )
    assert cleanup_of(job).status is api.JobStatus.COMPLETED
    assert workflow.remains(project_id) == before
    assert api.get_project(project_id).cluster_id is None


@each_way
def test_a_provisioned_project_is_not_touched_by_a_job_that_fails(
    workflow: Workflow, run: Run
) -> None:
    first = workflow.execute(workflow.new_job(workflow.new_project()))
    workflow.faults[provision_project.INITIALIZING] = Fault(
        Point.BEFORE, lambda: failure(ErrorType.CONFLICT, "Injected.")
    )
    second = run(workflow, workflow.new_job(first.project_id))
    assert (second.status, second.cleanup_job_id) == (api.JobStatus.FAILED, "")
    assert workflow.snapshot(first) == workflow.reference()


# The project meanwhile, and afterwards.


@each_way
def test_a_project_is_held_until_all_is_removed(workflow: Workflow, run: Run) -> None:
    project_id = workflow.new_project()
    meanwhile = workflow.new_job(project_id)

    def come(_job: JobInput, stage: str) -> None:
        if stage == clean_up_project.REMOVING_DATABASE:
            workflow.observers.clear()
            workflow.execute_in_process(meanwhile)

    workflow.observers.append(come)
    first = run_failing(workflow, run, project_id=project_id)
    refused = workflow.jobs.get(meanwhile.job_id)
    assert refused.error is not None
    assert (refused.error.type, refused.error.message, refused.cleanup_job_id) == (
        ErrorType.PROJECT_BUSY,
        (
            f"project_id: what job {first.job_id} made of {project_id} is being removed; "
            "wait until its clean-up has ended."
        ),
        "",
    )
    assert workflow.remains(project_id) == {}

    afterwards = run(workflow, workflow.new_job(project_id))
    assert workflow.snapshot(afterwards) == workflow.reference()


@each_way
def test_a_job_that_left_nothing_can_be_retried(workflow: Workflow, run: Run) -> None:
    job = run_failing(workflow, run, project_id=workflow.new_project())
    workflow.jobs.retry(job)
    again = run(workflow, workflow.jobs.get(job.job_id))
    assert (again.status, again.attempt, again.cleanup_job_id) == (api.JobStatus.COMPLETED, 2, "")
    assert workflow.snapshot(again) == workflow.reference()


# What could not be removed.


def put_object(workflow: Workflow, project_id: str) -> None:
    """Let someone put an object into the bucket; moto takes the policy's condition for met."""
    s3_backends[ACCOUNT]["aws"].put_object(workflow.bucket(project_id), "theirs.txt", b"theirs")


def run_leaving_a_bucket(workflow: Workflow, run: Run = Workflow.execute) -> api.Job:
    """Run a job that fails and leaves its bucket, since someone has put an object into it."""

    def put(job: JobInput, stage: str) -> None:
        if stage == clean_up_project.REMOVING_STORAGE:
            workflow.observers.clear()
            put_object(workflow, job.payload["project_id"])

    workflow.observers.append(put)
    return run_failing(workflow, run)


def empty_bucket(workflow: Workflow, project_id: str) -> None:
    s3_backends[ACCOUNT]["aws"].get_bucket(workflow.bucket(project_id)).keys.clear()


@each_way
def test_a_bucket_that_holds_an_object_stays_and_is_named(workflow: Workflow, run: Run) -> None:
    job = run_leaving_a_bucket(workflow, run)
    bucket = workflow.bucket(job.project_id)
    cleanup = cleanup_of(job)
    assert (job.status, cleanup.status, cleanup.remaining) == (
        api.JobStatus.FAILED,
        api.JobStatus.FAILED,
        (f"bucket {bucket}",),
    )
    # What else there was is removed; the last stage, which releases the project, has not begun.
    assert unremoved(cleanup) == [clean_up_project.REMOVING_STORAGE, clean_up_project.FINALIZING]
    error = cleanup.error
    assert error is not None
    assert (error.stage, error.type, error.message) == (
        clean_up_project.REMOVING_STORAGE,
        ErrorType.REMOVAL_FAILED,
        f"The bucket {bucket} holds objects, so it stays; empty it first.",
    )
    assert set(workflow.remains(job.project_id)) == {"buckets"}
    assert api.get_project(job.project_id).locked_by is None


@each_way
def test_what_cannot_be_removed_at_all_is_named_and_the_project_is_free(
    workflow: Workflow, run: Run
) -> None:
    gone_wrong = [clean_up_project.REMOVING_API_KEYS, clean_up_project.REMOVING_DATABASE]
    for stage in gone_wrong:
        workflow.faults[stage] = Fault(Point.BEFORE, times=3)
    job = run_failing(workflow, run)
    names = workflow.names(job.project_id)
    assert cleanup_of(job).remaining == (
        f"API keys of project {job.project_id}",
        f"secret {names.api_keys_secret}",
        f"database {names.tenants[Engine.POSTGRESQL].database}",
        f"role {names.tenants[Engine.POSTGRESQL].app_role}",
        f"role {names.tenants[Engine.POSTGRESQL].owner_role}",
        f"secret {names.database_secret}",
    )
    assert len(workflow.waits) == 4
    assert {"databases", "roles", "secrets", "api_keys"} <= set(workflow.remains(job.project_id))
    # The next job takes it up, and then the clean-up of the first has nothing more to say.
    completed = run(workflow, workflow.new_job(job.project_id))
    assert completed.status is api.JobStatus.COMPLETED
    there = workflow.remains(job.project_id)
    again = run(workflow, api.retry_cleanup(job.job_id))
    assert again.error is not None
    assert (again.error.stage, again.error.type, again.error.message) == (
        clean_up_project.INITIALIZING,
        ErrorType.INVALID_PAYLOAD,
        (
            f"project_id: {job.project_id} is ACTIVE; what was left has been taken up, so nothing "
            "is removed."
        ),
    )
    # What is there is the live project's: it is not named for anyone to remove.
    assert again.remaining == ()
    assert api.get_project(job.project_id).status is api.ProjectStatus.ACTIVE
    assert workflow.remains(job.project_id) == there


def test_a_cleanup_is_run_again_until_nothing_is_left(workflow: Workflow) -> None:
    job = run_leaving_a_bucket(workflow)
    left = cleanup_of(job).remaining

    still = repeated_to_its_end(workflow, job, 2)
    assert (still.status, still.remaining) == (api.JobStatus.FAILED, left)
    empty_bucket(workflow, job.project_id)
    # By the id of the clean-up as well as by that of the job that failed.
    done = repeated_to_its_end(workflow, still, 3)

    assert_undone(workflow, workflow.jobs.get(job.job_id))
    assert [(e.status, e.attempt) for e in done.history if e.subject == "JOB"] == [
        (status, attempt)
        for attempt, end in ((1, "FAILED"), (2, "FAILED"), (3, "COMPLETED"))
        for status in ("QUEUED", "RUNNING", end)
    ]
    with pytest.raises(api.JobStateError, match="has left nothing"):
        api.retry_cleanup(job.job_id)


def test_no_job_begins_while_a_cleanup_is_run_again(workflow: Workflow) -> None:
    job = run_leaving_a_bucket(workflow)
    empty_bucket(workflow, job.project_id)
    meanwhile = workflow.new_job(job.project_id)
    seen: list[api.Job] = []

    def come(_job: JobInput, stage: str) -> None:
        if stage == clean_up_project.REMOVING_AUTH:
            workflow.observers.clear()
            seen.append(api.retry_cleanup(job.job_id))
            with pytest.raises(api.JobStateError, match="its clean-up is under way"):
                api.retry_job(job.job_id)
            workflow.execute_in_process(meanwhile)

    workflow.observers.append(come)
    repeated_to_its_end(workflow, job, 2)
    assert_undone(workflow, workflow.jobs.get(job.job_id))
    # Asked again meanwhile, it is the attempt that is under way.
    assert (seen[0].status, seen[0].attempt) == (api.JobStatus.RUNNING, 2)
    refused = workflow.jobs.get(meanwhile.job_id).error
    assert refused is not None
    assert refused.type is ErrorType.PROJECT_BUSY
    assert f"what job {job.job_id} made" in refused.message


def test_what_another_job_holds_is_not_removed(workflow: Workflow) -> None:
    job = run_leaving_a_bucket(workflow)
    other = workflow.new_job(job.project_id)

    def repeat(running: JobInput, stage: str) -> None:
        if running.job_id == other.job_id and stage == provision_project.REGISTERING_AUTH:
            workflow.observers.clear()
            workflow.execute_in_process(api.retry_cleanup(job.job_id))

    workflow.observers.append(repeat)
    completed = workflow.execute(other)
    assert completed.status is api.JobStatus.COMPLETED
    cleanup = cleanup_of(job)
    assert cleanup.error is not None
    assert (cleanup.status, cleanup.error.type) == (api.JobStatus.FAILED, ErrorType.PROJECT_BUSY)
    assert cleanup.remaining == ()
    assert f"is locked by job {other.job_id}" in cleanup.error.message


def test_a_cleanup_that_could_not_be_started_is_started_later(workflow: Workflow) -> None:
    """Its message is sent by the reconciler, which tests/core shows; here it just begins."""
    machines, arn = aws.client("stepfunctions"), workflow.state_machines[CLEANUP]
    described = machines.describe_state_machine(stateMachineArn=arn)
    machines.delete_state_machine(stateMachineArn=arn)
    fail(workflow)
    job = workflow.new_job(workflow.new_project(**OWNER))
    assert workflow.ended(workflow.start(job)) == "FAILED"
    assert workflow.history(job)[-1]["executionFailedEventDetails"]["error"] == "CONFLICT"
    failed = workflow.jobs.get(job.job_id)
    # The project is its own from the end of the job on, whether it has begun or not.
    cleanup = api.retry_cleanup(job.job_id)
    assert (cleanup.status, cleanup.attempt) == (api.JobStatus.QUEUED, 1)
    assert api.get_project(job.project_id).locked_by == cleanup.job_id

    machines.create_state_machine(
        **{key: described[key] for key in ("name", "definition", "roleArn")}
    )
    workflow.ended(workflow.start(cleanup))
    assert_undone(workflow, failed)


def test_a_project_that_is_gone_keeps_no_resource_from_being_named(workflow: Workflow) -> None:
    project_id = workflow.new_project(**OWNER)

    def remove(_job: JobInput, stage: str) -> None:
        if stage == provision_project.FINALIZING:
            workflow.observers.clear()
            aws.client("dynamodb").delete_item(
                TableName=workflow.settings.projects_table, Key={"project_id": {"S": project_id}}
            )

    workflow.observers.append(remove)
    job = workflow.execute(workflow.new_job(project_id))
    tenant = workflow.names(project_id).tenants[Engine.POSTGRESQL]
    assert job.error is not None
    assert job.error.type is ErrorType.CONFLICT
    cleanup = cleanup_of(job)
    assert f"database {tenant.database}" in cleanup.remaining
    # What can be found without the project is removed.
    assert not {"pools", "apis", "buckets", "api_keys"} & set(workflow.remains(project_id))
    again = repeated_to_its_end(workflow, job, 2)
    assert (again.status, again.remaining) == (api.JobStatus.FAILED, cleanup.remaining)
    # What it counted in went with its item.
    workflow.set_places.update(["owner#ada", f"cluster#{REGION}/postgresql/test-1"])
