"""What begins and ends a clean-up, what goes before it, and what runs it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError
from provisioner import api
from provisioner.composition.stage_code import failure_policies_of, stages_of
from provisioner.drivers import dynamodb
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.failure import (
    CleanupRequest,
    FailureRecorder,
    cleanup_job_id,
)
from provisioner.jobs.messages import JobMessage
from provisioner.jobs.models import (
    Job,
    JobStatus,
    StageStatus,
    StoredError,
    lease_wait,
)
from provisioner.jobs.records import NewJob
from provisioner.jobs.retries import waiting_retry
from provisioner.jobs.stage_run import RECORD_FAILURE, StageRunner, StageWaiting
from provisioner.jobs.store import BadEnd
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.functions import LIFECYCLE
from provisioner.provisioning.job_types import JOB_TYPES, clean_up_project, provision_project
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectStatus
from provisioner.provisioning.stages.clean_up import remaining
from provisioner.provisioning.stages.provision import describe_cleanup, release_after_failure
from provisioner.runtime.observability import metrics
from support.core import (
    REGION,
    Core,
    aws_error,
    cleanup_payload,
    meanwhile,
    provision_project_handler,
    times,
    valid_payload,
)
from support.reconciler import client

NAMING = Naming("nm", "test-123456789012")
ERROR = StoredError(ErrorType.CONFLICT, "REGISTERING_AUTH", 1, "It is not ours.", "tags")

#: The clean-up of the first attempt of the job.
CLEANUP = cleanup_job_id("job-1", 1)

#: The stages that remove something.
REMOVING = [stage for branch in clean_up_project.RESOURCES.branches for stage in branch]

INITIALIZING, FINALIZING = clean_up_project.INITIALIZING, clean_up_project.FINALIZING


def head(core: Core, job_id: str = "job-1") -> Job:
    found = core.jobs.get_head(job_id)
    assert found is not None
    return found


def cleanup_of(core: Core) -> Job:
    return core.jobs.get(CLEANUP)


def call(
    core: Core, job_id: str, stage: str, *branches: dict[str, Any], attempt: int = 0, **more: Any
) -> dict[str, Any]:
    """Run a step as the function does that begins and ends jobs."""
    metrics.clear_metrics()  # as at the end of a function
    resources = {
        "jobs": core.jobs,
        "projects": core.projects,
        "catalogue": core.catalogue,
        "naming": NAMING,
        "default_project_quota": 5,
        "clock": core.clock,
    }
    policies = failure_policies_of(resources)
    job = head(core, job_id)
    key = {"job_id": job_id, "record": "PAYLOAD"}
    stored = dynamodb.get(core.client("dynamodb"), "JobsTable", key)
    event = {
        "job": {
            "job_id": job_id,
            "job_type": job.job_type,
            "payload": json.loads((stored or {})["payload"]),
            "attempt": attempt or job.attempt,
        },
        "stage": stage,
        "branches": list(branches),
        **more,
    }
    if stage == RECORD_FAILURE:
        return FailureRecorder(core.jobs, policies)(event)
    return StageRunner(core.jobs, stages_of(LIFECYCLE, resources), definitions=JOB_TYPES)(event)


def silent(stage: str, name: str = "States.Timeout", cause: str = "") -> dict[str, Any]:
    """Return the branch of a stage that ended without a word."""
    return {"ok": False, "stage": stage, "error": {"Error": name, "Cause": cause}}


def fail(core: Core) -> None:
    """Let the job fail, which stores its clean-up."""
    call(core, "job-1", RECORD_FAILURE, silent("REGISTERING_AUTH", "StageEnded"))
    core.clock.advance()


@pytest.fixture
def failed(core: Core) -> Job:
    """Return a job that has failed, and has handed its project over to its clean-up."""
    project = core.new_project()
    core.new_job()
    core.projects.lock(project, "job-1", quota="owner#ada", default_limit=5)
    core.jobs.start_stage(head(core), "REGISTERING_AUTH", 0)
    core.jobs.stage_failed("job-1", ERROR, retry_count=0, retryable=False)
    core.clock.advance()
    fail(core)
    return core.jobs.get("job-1")


def removed(core: Core, *stages: str) -> None:
    """Let stages of the clean-up's attempt end well."""
    job = head(core, CLEANUP)
    for stage in stages:
        core.jobs.start_stage(job, stage, 0)
        core.jobs.end_stage(CLEANUP, stage, StageStatus.SUCCEEDED, output={}, check="gone")


def clean_up(core: Core) -> None:
    """Let the clean-up's attempt remove all."""
    call(core, CLEANUP, INITIALIZING)
    removed(core, *REMOVING)
    call(core, CLEANUP, FINALIZING)


def leave(core: Core, *stages: str) -> dict[str, Any]:
    """Let the clean-up's attempt fail: these stages end without a word, the others well."""
    call(core, CLEANUP, INITIALIZING)
    removed(core, *(stage for stage in REMOVING if stage not in stages))
    core.clock.advance()
    return call(core, CLEANUP, RECORD_FAILURE, *map(silent, stages))


def everything(core: Core) -> list[Any]:
    """Return all that is stored of jobs and projects."""
    return [core.scan(table) for table in ("JobsTable", "ProjectsTable", "QuotasTable")]


# The end of a clean-up.


@pytest.mark.usefixtures("failed")
def test_a_clean_up_that_removed_all_completes_and_releases_what_its_parent_acquired(
    core: Core,
) -> None:
    call(core, CLEANUP, INITIALIZING)
    removed(core, *REMOVING)
    project = core.projects.get("shop")
    assert project is not None
    # Until then nobody else has it.
    assert (project.locked_by, core.projects.quotas.used("owner#ada")) == (CLEANUP, 1)
    core.calls.clear()

    call(core, CLEANUP, FINALIZING)

    assert "JobsCompleted" in metrics.metric_set
    cleanup = cleanup_of(core)
    assert (cleanup.status, cleanup.remaining, cleanup.finished_at) == (
        JobStatus.COMPLETED,
        (),
        core.clock.at,
    )
    assert cleanup.result == {"project_id": "shop", "job_id": "job-1"}
    project = core.projects.get("shop")
    assert project is not None
    assert (project.status, project.locked_by) == (ProjectStatus.FAILED, None)
    assert core.projects.quotas.used("owner#ada") == 0
    *_, last = core.calls_of("dynamodb.TransactWriteItems")
    tables = {item[kind]["TableName"] for item in last["TransactItems"] for kind in item}
    assert tables == {"JobsTable", "ProjectsTable", "QuotasTable"}
    assert (head(core).status, head(core).error) == (JobStatus.FAILED, ERROR)


@pytest.mark.usefixtures("failed")
def test_a_clean_up_does_not_complete_while_a_stage_has_not_said_that_all_is_gone(
    core: Core,
) -> None:
    call(core, CLEANUP, INITIALIZING)
    removed(core, *REMOVING[1:])

    with pytest.raises(ProvisioningError) as raised:
        call(core, CLEANUP, FINALIZING)

    assert raised.value.type is ErrorType.UNKNOWN_ERROR
    project = core.projects.get("shop")
    assert project is not None
    assert (cleanup_of(core).status, project.locked_by) == (JobStatus.RUNNING, CLEANUP)


@pytest.mark.usefixtures("failed")
def test_a_removal_that_ended_without_a_word_has_the_error_that_the_state_machine_met(
    core: Core,
) -> None:
    call(core, CLEANUP, INITIALIZING)
    for stage in (clean_up_project.REMOVING_STORAGE, clean_up_project.REMOVING_AUTH):
        core.jobs.start_stage(head(core, CLEANUP), stage, 0)
    removed(core, clean_up_project.REMOVING_API_KEYS)
    core.clock.advance(max(stage.seconds for stage in REMOVING))

    call(
        core,
        CLEANUP,
        RECORD_FAILURE,
        {"ok": True, "stage": clean_up_project.REMOVING_API_KEYS},
        silent(clean_up_project.REMOVING_STORAGE),
        silent(clean_up_project.REMOVING_AUTH, "Runtime.ExitError", "exit status 137"),
    )

    cleanup = cleanup_of(core)
    errors = {record.stage: record.error for record in cleanup.stages if record.error}
    assert {stage: (error.type, error.cause) for stage, error in errors.items()} == {
        clean_up_project.REMOVING_STORAGE: (ErrorType.TIMEOUT, "States.Timeout"),
        clean_up_project.REMOVING_AUTH: (
            ErrorType.UNKNOWN_ERROR,
            "Runtime.ExitError: exit status 137",
        ),
    }
    # None is under way any more; what never began is not said to have failed.
    assert {record.stage: record.status for record in cleanup.stages} == {
        INITIALIZING: StageStatus.SUCCEEDED,
        clean_up_project.REMOVING_API_KEYS: StageStatus.SUCCEEDED,
        clean_up_project.REMOVING_STORAGE: StageStatus.FAILED,
        clean_up_project.REMOVING_REALTIME: StageStatus.PENDING,
        clean_up_project.REMOVING_AUTH: StageStatus.FAILED,
        clean_up_project.REMOVING_DATABASE: StageStatus.PENDING,
        clean_up_project.REMOVING_INSTANCE: StageStatus.PENDING,
        FINALIZING: StageStatus.PENDING,
    }


@pytest.mark.usefixtures("failed")
def test_what_a_removal_says_after_the_clean_up_has_ended_changes_nothing(core: Core) -> None:
    leave(core, clean_up_project.REMOVING_AUTH)
    before = everything(core)

    removed(core, clean_up_project.REMOVING_AUTH)
    core.jobs.stage_failed(
        CLEANUP,
        replace(ERROR, stage=clean_up_project.REMOVING_AUTH),
        retry_count=0,
        retryable=True,
    )
    with pytest.raises(ProvisioningError) as raised:
        call(core, CLEANUP, FINALIZING)

    assert raised.value.type is ErrorType.INVALID_PAYLOAD

    assert everything(core) == before


def begin(core: Core, job_id: str) -> None:
    """Let a job take the project and begin to make something of it."""
    project = core.projects.get("shop")
    assert project is not None
    core.projects.lock(
        project, job_id, quota=None, default_limit=0, region=REGION, engine="postgresql"
    )


def place(core: Core) -> tuple[str | None, str | None]:
    """Return where the project's resources are to be."""
    project = core.projects.get("shop")
    assert project is not None
    assert (project.status, project.locked_by) == (ProjectStatus.FAILED, None)
    return project.region, project.engine


def clean_up_again(core: Core) -> None:
    """Run the clean-up again, which removes all."""
    core.clock.advance()
    core.jobs.retry(cleanup_of(core))
    clean_up(core)


def test_a_project_of_which_nothing_is_left_may_be_provisioned_elsewhere(core: Core) -> None:
    core.new_project()
    core.new_job()
    begin(core, "job-1")
    fail(core)

    clean_up(core)

    assert place(core) == (None, None)


def test_a_project_of_which_something_is_left_keeps_its_region_until_that_is_gone(
    core: Core,
) -> None:
    core.new_project()
    core.new_job()
    begin(core, "job-1")
    fail(core)
    leave(core, clean_up_project.REMOVING_AUTH)
    assert place(core) == (REGION, "postgresql")

    clean_up_again(core)

    assert place(core) == (None, None)


@pytest.mark.parametrize("was_first", [True, False])
def test_a_region_in_which_another_job_has_begun_too_is_not_given_back(
    core: Core, *, was_first: bool
) -> None:
    core.new_project()
    core.new_job()
    release = partial(dynamodb.transact, core.client("dynamodb"))
    for job_id in ("job-1", "other") if was_first else ("other", "job-1"):
        begin(core, job_id)
        if job_id == "other":
            # It keeps what it has made.
            release(core.projects.build_release_as_failed("shop", job_id))
            continue
        fail(core)
        if was_first:
            leave(core, clean_up_project.REMOVING_AUTH)
        else:
            clean_up(core)
    if was_first:
        # Only now is what it left gone; what the other has kept is not.
        clean_up_again(core)

    assert place(core) == (REGION, "postgresql")


def test_a_retry_gives_back_the_region_that_its_first_attempt_began_in(core: Core) -> None:
    core.new_project()
    core.new_job()
    begin(core, "job-1")
    dynamodb.transact(
        core.client("dynamodb"), core.projects.build_release_as_failed("shop", "job-1")
    )
    begin(core, "job-1")
    fail(core)

    clean_up(core)

    assert place(core) == (None, None)


def test_a_project_that_still_has_a_place_on_a_cluster_keeps_its_region(core: Core) -> None:
    core.new_project()
    core.new_job()
    begin(core, "job-1")
    core.projects.places.place("shop", "first", "cluster#first", 5)
    fail(core)

    clean_up(core)

    assert place(core) == (REGION, "postgresql")


def stage_failed(core: Core, stage: str, *, retryable: bool) -> None:
    core.jobs.start_stage(head(core, CLEANUP), stage, 0)
    error = StoredError(ErrorType.REMOVAL_FAILED, stage, 1, "It stays.", "")
    core.jobs.stage_failed(CLEANUP, error, retry_count=0, retryable=retryable)


#: How a stage of a clean-up stands that has removed nothing for sure.
NOT_REMOVED: dict[str, Callable[[Core, str], object]] = {
    "never_started": lambda _core, _stage: None,
    "died": lambda core, stage: core.jobs.start_stage(head(core, CLEANUP), stage, 0),
    "failed": partial(stage_failed, retryable=False),
    "tried_in_vain": partial(stage_failed, retryable=True),
}


@pytest.mark.usefixtures("failed")
@pytest.mark.parametrize("how", NOT_REMOVED)
def test_what_a_stage_has_not_removed_for_sure_is_named(core: Core, how: str) -> None:
    left = (f"bucket {NAMING.bucket('shop', REGION)}",)
    storage = clean_up_project.REMOVING_STORAGE
    call(core, CLEANUP, INITIALIZING)
    removed(core, *(stage for stage in REMOVING if stage is not storage))
    NOT_REMOVED[how](core, storage)
    core.clock.advance(storage.seconds)

    answer = call(core, CLEANUP, RECORD_FAILURE, silent(storage))

    assert (answer["has_cleanup"], answer["cleanup"]) == (False, {})
    assert "CleanupsFailed" in metrics.metric_set
    cleanup = cleanup_of(core)
    assert (cleanup.status, cleanup.remaining) == (JobStatus.FAILED, left)
    *_, entry = cleanup.history
    assert (entry.subject, entry.status, entry.remaining) == ("JOB", "FAILED", left)
    project = core.projects.get("shop")
    assert project is not None
    assert (project.locked_by, core.projects.quotas.used("owner#ada")) == (None, 0)


@pytest.mark.usefixtures("failed")
def test_the_end_of_a_clean_up_that_failed_is_recorded_once(core: Core) -> None:
    first = leave(core, clean_up_project.REMOVING_STORAGE)
    before = everything(core)
    core.clock.advance()

    again = call(
        core, CLEANUP, RECORD_FAILURE, silent(clean_up_project.REMOVING_AUTH, "Lambda.Unknown")
    )

    assert again == first
    assert everything(core) == before


@pytest.mark.usefixtures("failed")
def test_the_end_of_a_clean_up_that_completed_is_recorded_once(core: Core) -> None:
    clean_up(core)
    before = everything(core)
    core.clock.advance()

    assert call(core, CLEANUP, FINALIZING)["ok"] is True
    call(core, CLEANUP, RECORD_FAILURE, silent(FINALIZING))

    assert everything(core) == before


@pytest.mark.usefixtures("failed")
def test_the_word_of_an_earlier_attempt_ends_no_later_one(core: Core) -> None:
    leave(core, clean_up_project.REMOVING_STORAGE)
    core.jobs.retry(cleanup_of(core))
    before = everything(core)

    for stage in (RECORD_FAILURE, FINALIZING):
        with pytest.raises(ProvisioningError) as raised:
            call(core, CLEANUP, stage, attempt=1)
        assert raised.value.type is ErrorType.INVALID_PAYLOAD

    assert everything(core) == before


def remove_project(core: Core) -> None:
    """Let the record of the project be gone."""
    core.client("dynamodb").delete_item(
        TableName="ProjectsTable", Key={"project_id": {"S": "shop"}}
    )


@pytest.mark.usefixtures("failed")
def test_a_clean_up_begins_and_ends_though_its_project_is_gone(core: Core) -> None:
    remove_project(core)

    clean_up(core)

    assert cleanup_of(core).status is JobStatus.COMPLETED
    assert core.projects.get("shop") is None


@pytest.mark.usefixtures("failed")
def test_a_clean_up_completes_though_its_project_vanishes_before_its_last_write(
    core: Core,
) -> None:
    call(core, CLEANUP, INITIALIZING)
    removed(core, *REMOVING)

    def vanish(written: Mapping[str, Any]) -> None:
        if "ProjectsTable" in json.dumps(written, default=str):
            remove_project(core)

    core.answers["dynamodb.TransactWriteItems"] = vanish
    call(core, CLEANUP, FINALIZING)

    cleanup = cleanup_of(core)
    assert (cleanup.status, cleanup.error) == (JobStatus.COMPLETED, None)
    assert core.projects.get("shop") is None


# What goes before it.


def store_job(core: Core, **payload: Any) -> None:
    core.jobs.create(
        NewJob(
            "job-1",
            "provision_project",
            valid_payload(**payload).model_dump(mode="json"),
            provision_project_handler.stages,
        )
    )


def asked(core: Core) -> CleanupRequest | None:
    """Return what the job would ask of a clean-up, if it failed now."""
    return describe_cleanup(core.jobs.get("job-1"), CLEANUP, projects=core.projects)


@pytest.mark.parametrize(
    ("on_failure", "holder", "wanted"),
    [
        ("rollback", "job-1", True),
        ("rollback", "job-2", False),
        ("rollback", None, False),
        ("keep", "job-1", False),
    ],
)
def test_a_job_asks_for_a_clean_up_if_it_has_the_lock_and_keeps_nothing(
    core: Core, on_failure: str, holder: str | None, *, wanted: bool
) -> None:
    project = core.new_project()
    store_job(core, on_failure=on_failure)
    if holder is not None:
        core.projects.lock(project, holder, quota=None, default_limit=5)

    assert (asked(core) is not None) is wanted


@pytest.mark.parametrize("has_held", [False, True])
def test_a_job_whose_project_is_gone_asks_for_one_if_it_had_had_the_lock(
    core: Core, *, has_held: bool
) -> None:
    store_job(core)
    core.jobs.start_stage(head(core), "INITIALIZING", 0)
    if has_held:
        core.jobs.end_stage("job-1", "INITIALIZING", StageStatus.SUCCEEDED, output={}, check="x")

    # There is no lock to hand over.
    assert asked(core) == (CleanupRequest(cleanup_payload(), []) if has_held else None)


def test_a_job_that_names_no_project_asks_for_none(core: Core) -> None:
    core.jobs.create(NewJob("job-1", "provision_project", {}, ()))

    assert asked(core) is None
    assert release_after_failure(core.jobs.get("job-1"), projects=core.projects) == []


@pytest.mark.usefixtures("failed")
def test_every_stage_of_the_clean_up_names_what_it_may_leave(core: Core) -> None:
    named = [
        one
        for stage in clean_up_project.JOB_TYPE.stages
        for one in remaining(cleanup_of(core), stage, naming=NAMING)
    ]
    names = NAMING.names("shop")
    assert sorted(one.rpartition(" ")[2] for one in named) == sorted(
        [
            "shop",
            names.api_keys_secret,
            NAMING.bucket("shop", REGION),
            names.event_api,
            names.user_pool,
            names.tenants[Engine.POSTGRESQL].database,
            names.tenants[Engine.POSTGRESQL].app_role,
            names.tenants[Engine.POSTGRESQL].owner_role,
            names.database_secret,
        ]
    )
    assert len(set(named)) == len(named)


def test_an_instance_may_be_left_where_the_job_was_to_make_one(core: Core) -> None:
    core.new_project()
    core.new_job(database={"engine": "mysql", "size": "db.t4g.micro"})
    begin(core, "job-1")
    fail(core)
    cleanup, names = cleanup_of(core), NAMING.names("shop")

    assert remaining(cleanup, clean_up_project.REMOVING_INSTANCE, naming=NAMING) == (
        f"database instance {names.instance}",
        f"secret {names.instance_secret}",
    )
    tenant = names.tenants[Engine.MYSQL]
    assert remaining(cleanup, clean_up_project.REMOVING_DATABASE, naming=NAMING) == (
        f"database {tenant.database}",
        f"role {tenant.app_role}",
        f"secret {names.database_secret}",
    )


#: What the end of a job is told to wait for.
AT_WORK = "An earlier attempt of GENERATING_API_KEYS may still be at work."

# Leases.


class Past:
    """What a job's stages say as time passes; every word takes a second."""

    def __init__(self, core: Core) -> None:
        self.core = core
        core.new_project()
        core.new_job()

    def start(self, stage: str, retry_count: int = 0, *, after: float = 1) -> None:
        self.core.clock.advance(after)
        job = head(self.core)
        self.core.jobs.start_stage(job, stage, retry_count)

    def fail(self, stage: str, attempt: int = 1) -> None:
        self.core.clock.advance()
        self.core.jobs.stage_failed(
            "job-1",
            StoredError(ErrorType.CONFLICT, stage, attempt, "It is not ours.", ""),
            retry_count=attempt - 1,
            retryable=False,
        )

    def succeed(self, stage: str) -> None:
        self.core.clock.advance()
        self.core.jobs.end_stage(
            "job-1",
            stage,
            StageStatus.SUCCEEDED,
            output={},
            check="it answered",
        )

    def end(self, *closed: str) -> None:
        """End the job, with the stages that never said how they ended."""
        self.core.clock.advance()
        errors = [StoredError(ErrorType.TIMEOUT, s, 1, "Too long.", "") for s in closed]
        self.core.jobs.fail(self.core.jobs.get("job-1"), BadEnd([*errors, ERROR]))

    def retry(self) -> None:
        """Begin the job's next attempt."""
        self.core.clock.advance()
        self.core.jobs.retry(self.core.jobs.get("job-1"))

    def seconds(self, after: float = 0) -> float:
        """Return for how many seconds something may be at work, so many seconds later."""
        self.core.clock.advance(after)
        now = self.core.clock.at
        lease = lease_wait(self.core.jobs.get("job-1"), now)
        return 0 if lease is None else (lease.until - now).total_seconds()


@pytest.fixture
def past(core: Core) -> Past:
    return Past(core)


def test_a_job_whose_stages_have_all_said_how_they_ended_has_no_lease(past: Past) -> None:
    past.start("INITIALIZING")
    past.succeed("INITIALIZING")
    past.start("REGISTERING_AUTH")
    past.fail("REGISTERING_AUTH")
    past.end()
    assert past.seconds() == 0


def test_a_stage_that_never_said_how_it_ended_is_waited_for(past: Past) -> None:
    past.start("REGISTERING_AUTH")
    past.core.clock.advance(9)
    past.end("REGISTERING_AUTH")
    assert past.seconds() == provision_project.REGISTERING_AUTH.seconds - 10
    assert past.seconds(after=100) == provision_project.REGISTERING_AUTH.seconds - 110
    assert past.seconds(after=provision_project.REGISTERING_AUTH.seconds) == 0


def test_an_earlier_attempt_without_a_word_is_waited_for(past: Past) -> None:
    past.start("REGISTERING_AUTH")
    past.start("REGISTERING_AUTH", 1, after=60)
    past.fail("REGISTERING_AUTH", 2)
    past.end()
    assert past.seconds() == provision_project.REGISTERING_AUTH.seconds - 62


def test_of_two_attempts_of_which_one_ended_well_the_other_is_waited_for(past: Past) -> None:
    past.start("REGISTERING_AUTH")
    past.start("REGISTERING_AUTH", 1, after=60)
    past.succeed("REGISTERING_AUTH")
    past.end()
    assert past.seconds() == provision_project.REGISTERING_AUTH.seconds - 62


def test_a_stage_that_failed_beside_others_is_not_taken_for_them(past: Past) -> None:
    past.start("REGISTERING_AUTH")
    past.start("REGISTERING_REALTIME")
    past.fail("REGISTERING_REALTIME")
    past.end("REGISTERING_AUTH")
    assert past.seconds() == provision_project.REGISTERING_AUTH.seconds - 3


def test_a_stage_of_the_jobs_attempt_before_is_waited_for_too(past: Past) -> None:
    """That others spoke for it when that attempt ended does not say that it has ended."""
    past.start("REGISTERING_AUTH")
    past.end("REGISTERING_AUTH")
    past.retry()
    past.start("INITIALIZING")
    past.fail("INITIALIZING")
    past.end()
    assert past.seconds() == provision_project.REGISTERING_AUTH.seconds - 5


def waits_for(core: Core, stage: str, *, retry_count: int = 0) -> str:
    """Run a step of the clean-up that waits, and return what for."""
    with pytest.raises(StageWaiting) as raised:
        call(core, CLEANUP, stage, retry_count=retry_count)
    return str(raised.value)


def test_a_clean_up_removes_nothing_while_something_of_its_parent_may_be_at_work(
    core: Core,
) -> None:
    project = core.new_project()
    core.new_job()
    core.projects.lock(project, "job-1", quota=None, default_limit=5)
    core.jobs.start_stage(head(core), "GENERATING_API_KEYS", 0)
    fail(core)

    assert waits_for(core, INITIALIZING) == AT_WORK
    (wait,) = cleanup_of(core).waits
    assert (wait.stage, wait.waiting_for) == (INITIALIZING, AT_WORK)
    held = core.projects.get("shop")
    assert held is not None
    assert held.locked_by == CLEANUP
    core.clock.advance(provision_project.GENERATING_API_KEYS.seconds - 2)
    assert waits_for(core, INITIALIZING, retry_count=1) == AT_WORK
    core.clock.advance()
    assert call(core, CLEANUP, INITIALIZING, retry_count=2)["ok"] is True


def test_a_clean_up_goes_on_once_its_polls_have_lasted_long_enough(core: Core) -> None:
    """So it does where each wait is shortened, and the clock would not let it."""
    project = core.new_project()
    core.new_job()
    core.projects.lock(project, "job-1", quota=None, default_limit=5)
    core.jobs.start_stage(head(core), "GENERATING_API_KEYS", 0)
    fail(core)

    most = waiting_retry(INITIALIZING.waits_seconds).max_attempts
    assert waits_for(core, INITIALIZING) == AT_WORK
    assert waits_for(core, INITIALIZING, retry_count=most - 1) == AT_WORK
    assert call(core, CLEANUP, INITIALIZING, retry_count=most)["ok"] is True


@pytest.mark.usefixtures("failed")
def test_a_parent_that_is_stored_no_more_is_not_waited_for(core: Core) -> None:
    for item in core.scan("JobsTable"):
        if item["job_id"] == "job-1":
            key = dynamodb.to_item({name: item[name] for name in ("job_id", "record")})
            core.client("dynamodb").delete_item(TableName="JobsTable", Key=key)

    assert call(core, CLEANUP, INITIALIZING)["ok"] is True


@pytest.mark.usefixtures("failed")
def test_a_table_that_does_not_answer_leaves_the_question_open(core: Core) -> None:
    core.answers["dynamodb.Query"] = times(1, aws_error("InternalServerError", 500))
    with pytest.raises(ProvisioningError) as raised:
        call(core, CLEANUP, INITIALIZING)
    assert raised.value.type is ErrorType.NETWORK_ERROR
    assert call(core, CLEANUP, INITIALIZING, retry_count=1)["ok"] is True


@pytest.mark.usefixtures("failed")
@pytest.mark.parametrize("end", [FINALIZING, RECORD_FAILURE])
def test_a_clean_up_releases_nothing_while_one_of_its_removals_may_be_at_work(
    core: Core, end: str
) -> None:
    call(core, CLEANUP, INITIALIZING)
    auth = clean_up_project.REMOVING_AUTH
    for retry_count in (0, 1):
        core.jobs.start_stage(head(core, CLEANUP), auth, retry_count)
    removed(core, *REMOVING)

    assert waits_for(core, end) == f"An earlier attempt of {auth} may still be at work."

    project = core.projects.get("shop")
    assert project is not None
    assert project.locked_by == CLEANUP
    core.clock.advance(auth.seconds)
    call(core, CLEANUP, end, silent(FINALIZING), retry_count=1)
    project = core.projects.get("shop")
    assert project is not None
    assert (cleanup_of(core).status.is_terminal, project.locked_by) == (True, None)


# Running it again.


@pytest.fixture
def left(core: Core, failed: Job) -> Job:
    """Return a job whose clean-up has failed, and has left the bucket."""
    leave(core, clean_up_project.REMOVING_STORAGE)
    core.clock.advance()
    core.calls.clear()
    return failed


def retry(core: Core, job_id: str = "job-1") -> Job:
    """Run the clean-up again."""
    return client(core).retry_cleanup(job_id)


def sent(core: Core) -> list[tuple[str, int]]:
    """Return which jobs were sent, and which attempts of them."""
    messages = (JobMessage.model_validate_json(m["Body"]) for m in core.messages(core.queue_url))
    return [(str(message.job_id), message.attempt) for message in messages]


@pytest.mark.usefixtures("connected", "left")
@pytest.mark.parametrize("job_id", ["job-1", CLEANUP], ids=["by_its_parent", "by_itself"])
def test_a_clean_up_that_has_failed_is_run_again(core: Core, job_id: str) -> None:
    for _ in range(2):
        cleanup = api.retry_cleanup(job_id)
        assert (cleanup.job_id, cleanup.status, cleanup.attempt, cleanup.remaining) == (
            CLEANUP,
            JobStatus.QUEUED,
            2,
            (),
        )
    # An attempt starts once, however often its message is sent.
    assert set(sent(core)) == {(CLEANUP, 2)}
    clean_up(core)
    assert (cleanup_of(core).status, cleanup_of(core).parent_id) == (
        JobStatus.COMPLETED,
        "job-1",
    )
    project = core.projects.get("shop")
    assert project is not None
    assert project.locked_by is None
    # What it removed counts no more.
    assert core.projects.quotas.used("owner#ada") == 0


@pytest.mark.usefixtures("left")
def test_a_clean_up_that_is_run_again_has_the_lock_while_it_runs(core: Core) -> None:
    retry(core)
    for _ in range(2):
        call(core, CLEANUP, INITIALIZING)

    project = core.projects.get("shop")
    assert project is not None
    assert (project.status, project.locked_by) == (ProjectStatus.FAILED, CLEANUP)
    assert core.projects.quotas.used("owner#ada") == 0


@pytest.mark.usefixtures("left")
def test_a_call_that_stopped_between_its_two_writes_is_completed_by_the_next(core: Core) -> None:
    core.answers["sqs.SendMessage"] = aws_error("ThrottlingException")
    with pytest.raises(ClientError):
        retry(core)
    core.answers.clear()
    assert sent(core) == []

    assert retry(core).attempt == 2

    assert sent(core) == [(CLEANUP, 2)]


@pytest.mark.usefixtures("left")
def test_many_calls_at_once_begin_one_attempt(core: Core) -> None:
    with ThreadPoolExecutor(6) as pool:
        attempts = [job.attempt for job in pool.map(lambda _: retry(core), range(6))]
    assert attempts == [2] * 6
    assert set(sent(core)) == {(CLEANUP, 2)}


@pytest.mark.usefixtures("left")
def test_a_call_that_is_superseded_by_another_goes_on_with_its_attempt(core: Core) -> None:
    core.answers["dynamodb.TransactWriteItems"] = meanwhile(lambda: retry(core))

    assert retry(core).attempt == 2
    assert set(sent(core)) == {(CLEANUP, 2)}


@pytest.mark.usefixtures("failed")
def test_a_clean_up_that_is_under_way_is_not_begun_again(core: Core) -> None:
    assert retry(core).status is JobStatus.QUEUED
    call(core, CLEANUP, INITIALIZING)

    cleanup = retry(core)

    assert (cleanup.job_id, cleanup.status, cleanup.attempt) == (CLEANUP, JobStatus.RUNNING, 1)
    assert sent(core) == []


def refused(core: Core, match: str) -> None:
    with pytest.raises(api.JobStateError, match=match):
        retry(core)


@pytest.mark.usefixtures("failed")
def test_a_clean_up_that_has_left_nothing_is_not_run_again(core: Core) -> None:
    clean_up(core)
    refused(core, "job job-1: its clean-up has left nothing")


def test_a_job_without_a_clean_up_has_none_to_run_again(core: Core) -> None:
    with pytest.raises(api.JobNotFoundError):
        retry(core)
    core.new_job()
    refused(core, "job job-1: is QUEUED and has no clean-up")


def begin_again(core: Core) -> ProvisioningError:
    """Run the clean-up again, which is refused as it begins; return why."""
    retry(core)
    with pytest.raises(ProvisioningError) as raised:
        call(core, CLEANUP, INITIALIZING)
    error = {"Error": raised.value.type, "Cause": ""}
    branch = {"ok": False, "stage": INITIALIZING, "error": error}
    core.clock.advance()
    call(core, CLEANUP, RECORD_FAILURE, branch)
    core.clock.advance()
    return raised.value


def lock(core: Core, job_id: str) -> None:
    """Let another job acquire the project."""
    project = core.projects.get("shop")
    assert project is not None
    core.projects.lock(project, job_id, quota=None, default_limit=1)


@pytest.mark.usefixtures("left")
def test_what_another_job_may_use_is_not_removed(core: Core) -> None:
    lock(core, "job-2")
    before = core.scan("ProjectsTable")
    busy = begin_again(core)
    assert (busy.type, busy.message) == (
        ErrorType.PROJECT_BUSY,
        (
            "project_id: shop is locked by job job-2, which takes up what was left; look at that "
            "job first."
        ),
    )
    assert core.scan("ProjectsTable") == before

    items = core.projects.build_activation("shop", "job-2", {"made": "x"}, {})
    dynamodb.transact(core.client("dynamodb"), items)
    before = core.scan("ProjectsTable")
    taken = begin_again(core)
    assert (taken.type, taken.message) == (
        ErrorType.INVALID_PAYLOAD,
        "project_id: shop is ACTIVE; what was left has been taken up, so nothing is removed.",
    )
    assert core.scan("ProjectsTable") == before
    # None of its removals has begun.
    assert {record.stage for record in cleanup_of(core).stages if record.attempt} == {INITIALIZING}


@pytest.mark.usefixtures("left")
def test_a_parent_that_is_run_again_takes_up_what_was_left(core: Core) -> None:
    """It is not waited for: it is at work, and not what its attempt before has left."""
    core.jobs.retry(core.jobs.get("job-1"))
    core.jobs.start_stage(core.jobs.get("job-1"), "CREATING_DATABASE", 0)
    lock(core, "job-1")

    assert begin_again(core).type is ErrorType.PROJECT_BUSY


@pytest.mark.usefixtures("left")
def test_a_job_that_comes_first_keeps_what_is_left(core: Core) -> None:
    """Between the clean-up's look at the project and its write."""
    retry(core)
    core.answers["dynamodb.TransactWriteItems"] = meanwhile(lambda: lock(core, "job-2"), before=2)
    with pytest.raises(ProvisioningError) as raised:
        call(core, CLEANUP, INITIALIZING)

    assert raised.value.type is ErrorType.PROJECT_BUSY
    assert "has just been taken up" in raised.value.message
    project = core.projects.get("shop")
    assert project is not None
    assert project.locked_by == "job-2"
