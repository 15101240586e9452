"""The steps of a clean-up that are no stages, what goes before it, and what begins it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from provisioner import api
from provisioner.drivers import dynamodb
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.cleanup import CleanupRepeater
from provisioner.jobs.definition import longest_run
from provisioner.jobs.execution import Executions
from provisioner.jobs.failure import CleanupRecorder, FailurePolicy
from provisioner.jobs.models import (
    Cleanup,
    CleanupStatus,
    HistoryEntry,
    Job,
    JobStatus,
    StageRecord,
    StageStatus,
    StoredError,
)
from provisioner.jobs.quiet import QuietEnds, QuietStep, seconds_until_quiet
from provisioner.jobs.stage_run import (
    AWAIT_QUIET,
    RECORD_CLEANUP,
    RECORD_FAILURE,
    StageWaiting,
)
from provisioner.jobs.store import NewJob
from provisioner.provisioning.cleanup import held_again
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types import JOB_TYPES, provision_project
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectStatus
from provisioner.provisioning.stages.fail import cleanup_stages, released_by_failure, remaining
from provisioner.runtime.observability import metrics
from support.core import (
    REGION,
    STATE_MACHINE_ARN_PREFIX,
    Clock,
    Core,
    LogLines,
    aws_error,
    meanwhile,
    provision_project_handler,
    times,
    valid_payload,
)

NAMING = Naming("nm", "test-123456789012")
ERROR = StoredError(ErrorType.CONFLICT, "REGISTERING_AUTH", 1, "It is not ours.", "tags")


def head(core: Core) -> Job:
    found = core.jobs.get_head("job-1")
    assert found is not None
    return found


def cleanup_of(core: Core) -> Cleanup:
    found = core.jobs.get("job-1").cleanup
    assert found is not None
    return found


def job_event(stage: str, run: int = 1) -> dict[str, Any]:
    """Return what the state machine hands to a step of the clean-up."""
    return {
        "job": {
            "job_id": "job-1",
            "job_type": "provision_project",
            "payload": {"project_id": "shop"},
        },
        "stage": stage,
        "cleanup": run,
    }


@pytest.fixture
def failed(core: Core) -> Job:
    """Return a job that has failed, holds its project and is about to be cleaned up after."""
    project = core.new_project()
    core.new_job()
    core.projects.lock(project, "job-1", quota="owner#ada", default_limit=5)
    core.jobs.start_stage(head(core), "REGISTERING_AUTH", 0)
    core.jobs.stage_failed("job-1", ERROR, retry_count=0, retryable=False)
    core.clock.advance()
    core.jobs.fail(
        "job-1", [ERROR], close={}, cleanup=(1, provision_project.JOB_TYPE.on_failure.cleanup)
    )
    return core.jobs.get("job-1")


def removed(core: Core, *stages: str, run: int = 1) -> None:
    """Let stages of a run of the clean-up end well."""
    for stage in stages:
        core.jobs.start_stage(head(core), stage, 0, round_=run)
        core.jobs.end_stage(
            "job-1", stage, StageStatus.SUCCEEDED, output={}, check="gone", round_=run
        )


def record_cleanup(
    core: Core, run: int = 1, branches: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Run the step, which is told how the stages ended."""
    metrics.clear_metrics()  # as at the end of a function
    policy = FailurePolicy(
        release=partial(released_by_failure, projects=core.projects),
        cleanup_stages=partial(cleanup_stages, projects=core.projects),
        remaining_of=partial(remaining, naming=NAMING),
    )
    event = job_event(RECORD_CLEANUP, run) | {"branches": list(branches)}
    return CleanupRecorder(core.jobs, {"provision_project": policy})(event)


# The end of a clean-up.


@pytest.mark.usefixtures("failed")
def test_a_clean_up_that_removed_all_is_done_and_gives_back_what_the_job_held(core: Core) -> None:
    removed(core, *provision_project.JOB_TYPE.on_failure.cleanup)
    core.calls.clear()

    assert record_cleanup(core) == {"ok": True, "remaining": []}

    assert set(metrics.metric_set) == {"CleanupsDone"}
    cleanup = cleanup_of(core)
    assert (cleanup.status, cleanup.remaining, cleanup.finished_at) == (
        CleanupStatus.DONE,
        (),
        core.clock.at,
    )
    project = core.projects.get("shop")
    assert project is not None
    assert (project.status, project.locked_by) == (ProjectStatus.FAILED, None)
    assert core.projects.used("owner#ada") == 0
    assert len(core.calls_of("dynamodb.TransactWriteItems")) == 1
    assert (head(core).status, head(core).error) == (JobStatus.FAILED, ERROR)


def remove(core: Core, stage: str, retry_count: int = 0) -> None:
    """Let an attempt of a removal begin."""
    core.clock.advance()
    core.jobs.start_stage(head(core), stage, retry_count)


def met(core: Core, stage: str, attempt: int) -> StoredError:
    """Let an attempt of a removal meet what can pass, and return that."""
    error = StoredError(ErrorType.NETWORK_ERROR, stage, attempt, "It did not answer.", "reset")
    core.clock.advance()
    core.jobs.stage_failed("job-1", error, retry_count=attempt - 1, retryable=True)
    return error


@pytest.mark.usefixtures("failed")
def test_no_stage_is_open_once_the_clean_up_has_ended(core: Core) -> None:
    tried, silent, silent_then = (
        provision_project.REMOVING_STORAGE,
        provision_project.REMOVING_AUTH,
        provision_project.REMOVING_DATABASE,
    )
    for attempt in (1, 2, 3):
        remove(core, tried, attempt - 1)
        error = met(core, tried, attempt)
    remove(core, silent)
    remove(core, silent_then)
    met(core, silent_then, 1)
    remove(core, silent_then, 1)
    removed(core, provision_project.REMOVING_API_KEYS)
    core.clock.advance()

    record_cleanup(core)

    unsaid = (ErrorType.UNKNOWN_ERROR, "The stage ended without saying why.", "")
    stages = {record.stage: record for record in cleanup_of(core).stages}
    assert {stage: record.status for stage, record in stages.items()} == {
        provision_project.REMOVING_API_KEYS: StageStatus.SUCCEEDED,
        tried: StageStatus.FAILED,
        # Never begun: nothing kept it from its work but the end of the run.
        provision_project.REMOVING_REALTIME: StageStatus.PENDING,
        silent: StageStatus.FAILED,
        silent_then: StageStatus.FAILED,
        provision_project.REMOVING_INSTANCE: StageStatus.PENDING,
    }
    assert stages[tried].error == error
    assert stages[silent].error == StoredError(unsaid[0], silent, 1, *unsaid[1:])
    assert stages[silent_then].error == StoredError(unsaid[0], silent_then, 2, *unsaid[1:])
    told = {(e.subject, e.status, e.attempt) for e in core.jobs.get("job-1").history}
    assert {(tried, "FAILED", 3), (silent, "FAILED", 1), (silent_then, "FAILED", 2)} <= told
    *_, first, second, third, last = core.jobs.get("job-1").history
    assert {first.subject, second.subject, third.subject} == {tried, silent, silent_then}
    assert (last.subject, last.status) == ("CLEANUP", "FAILED")


@pytest.mark.usefixtures("failed")
def test_a_stage_that_ended_without_a_word_has_the_error_that_the_state_machine_met(
    core: Core,
) -> None:
    remove(core, provision_project.REMOVING_STORAGE)
    remove(core, provision_project.REMOVING_AUTH)
    removed(core, provision_project.REMOVING_API_KEYS)
    core.clock.advance()

    record_cleanup(
        core,
        branches=[
            {"stage": provision_project.REMOVING_API_KEYS, "error": {"ok": True}},
            {"stage": provision_project.REMOVING_STORAGE, "error": {"Error": "States.Timeout"}},
            {
                "stage": provision_project.REMOVING_AUTH,
                "error": {"Error": "Runtime.ExitError", "Cause": "exit status 137"},
            },
            {"stage": provision_project.REMOVING_DATABASE, "error": {"ok": True}},
        ],
    )

    errors = {record.stage: record.error for record in cleanup_of(core).stages if record.error}
    assert {stage: (error.type, error.cause) for stage, error in errors.items()} == {
        provision_project.REMOVING_STORAGE: (ErrorType.TIMEOUT, "States.Timeout"),
        provision_project.REMOVING_AUTH: (
            ErrorType.UNKNOWN_ERROR,
            "Runtime.ExitError: exit status 137",
        ),
    }


@pytest.mark.usefixtures("failed")
def test_what_a_removal_says_after_the_clean_up_has_ended_changes_nothing(core: Core) -> None:
    remove(core, provision_project.REMOVING_AUTH)
    record_cleanup(core)
    before = core.jobs.get("job-1")

    removed(core, provision_project.REMOVING_AUTH)
    core.jobs.stage_failed(
        "job-1",
        replace(ERROR, stage=provision_project.REMOVING_AUTH),
        retry_count=0,
        retryable=True,
    )

    assert core.jobs.get("job-1") == before


def begin(core: Core, job_id: str) -> None:
    """Let a job take the project and begin to make something of it."""
    project = core.projects.get("shop")
    assert project is not None
    core.projects.lock(
        project, job_id, quota=None, default_limit=0, region=REGION, engine="postgresql"
    )


def fail(core: Core) -> None:
    """Let the job fail, and its clean-up begin."""
    core.jobs.fail(
        "job-1", [ERROR], close={}, cleanup=(1, provision_project.JOB_TYPE.on_failure.cleanup)
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
    core.jobs.repeat_cleanup(head(core), also=core.projects.hold_items("shop", "job-1"))
    removed(core, *provision_project.JOB_TYPE.on_failure.cleanup, run=2)
    assert record_cleanup(core, run=2)["ok"]


def test_a_project_of_which_nothing_is_left_may_be_provisioned_elsewhere(core: Core) -> None:
    core.new_project()
    core.new_job()
    begin(core, "job-1")
    fail(core)
    removed(core, *provision_project.JOB_TYPE.on_failure.cleanup)

    record_cleanup(core)

    assert place(core) == (None, None)


def test_a_project_of_which_something_is_left_keeps_its_region_until_that_is_gone(
    core: Core,
) -> None:
    core.new_project()
    core.new_job()
    begin(core, "job-1")
    fail(core)
    removed(
        core,
        *(
            stage
            for stage in provision_project.JOB_TYPE.on_failure.cleanup
            if stage is not provision_project.REMOVING_AUTH
        ),
    )
    record_cleanup(core)
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
            release(core.projects.release_items("shop", job_id))
        else:
            fail(core)
            removed(core, *list(provision_project.JOB_TYPE.on_failure.cleanup)[was_first:])
            record_cleanup(core)
    if was_first:
        # Only now is what it left gone; what the other has kept is not.
        clean_up_again(core)

    assert place(core) == (REGION, "postgresql")


def test_a_retry_gives_back_the_region_that_its_first_attempt_began_in(core: Core) -> None:
    core.new_project()
    core.new_job()
    begin(core, "job-1")
    dynamodb.transact(core.client("dynamodb"), core.projects.release_items("shop", "job-1"))
    begin(core, "job-1")
    fail(core)
    removed(core, *provision_project.JOB_TYPE.on_failure.cleanup)

    record_cleanup(core)

    assert place(core) == (None, None)


def test_a_project_that_still_has_a_place_on_a_cluster_keeps_its_region(core: Core) -> None:
    core.new_project()
    core.new_job()
    begin(core, "job-1")
    core.projects.place("shop", "first", "cluster#first", 5)
    fail(core)
    removed(core, *provision_project.JOB_TYPE.on_failure.cleanup)

    record_cleanup(core)

    assert place(core) == (REGION, "postgresql")


def stage_failed(core: Core, stage: str, *, retryable: bool) -> None:
    core.jobs.start_stage(head(core), stage, 0)
    error = StoredError(ErrorType.REMOVAL_FAILED, stage, 1, "It stays.", "")
    core.jobs.stage_failed("job-1", error, retry_count=0, retryable=retryable)


#: How a stage of a clean-up stands that has removed nothing for sure.
NOT_REMOVED: dict[str, Callable[[Core, str], object]] = {
    "never_started": lambda _core, _stage: None,
    "died": lambda core, stage: core.jobs.start_stage(head(core), stage, 0),
    "failed": partial(stage_failed, retryable=False),
    "tried_in_vain": partial(stage_failed, retryable=True),
}


@pytest.mark.usefixtures("failed")
@pytest.mark.parametrize("how", NOT_REMOVED)
def test_what_a_stage_has_not_removed_for_sure_is_named(
    core: Core, how: str, logged: LogLines
) -> None:
    left = [f"bucket {NAMING.names('shop').bucket}"]
    removed(
        core,
        *(
            stage
            for stage in provision_project.JOB_TYPE.on_failure.cleanup
            if stage is not provision_project.REMOVING_STORAGE
        ),
    )
    NOT_REMOVED[how](core, provision_project.REMOVING_STORAGE)

    assert record_cleanup(core) == {"ok": False, "remaining": left}

    assert set(metrics.metric_set) == {"CleanupsFailed"}
    cleanup = cleanup_of(core)
    assert (cleanup.status, list(cleanup.remaining)) == (CleanupStatus.FAILED, left)
    assert logged()[-1]["remaining"] == left
    (entry,) = (e for e in core.jobs.get("job-1").history if e.subject == "CLEANUP")
    assert (entry.status, entry.note, entry.attempt) == ("FAILED", left[0], 1)
    project = core.projects.get("shop")
    assert project is not None
    assert project.locked_by is None


@pytest.mark.usefixtures("failed")
def test_the_end_of_a_clean_up_is_recorded_once(core: Core) -> None:
    first = record_cleanup(core)
    before = core.jobs.get("job-1"), core.scan("ProjectsTable"), core.scan("QuotasTable")
    core.clock.advance()

    assert record_cleanup(core) == first
    assert (
        core.jobs.get("job-1"),
        core.scan("ProjectsTable"),
        core.scan("QuotasTable"),
    ) == before


@pytest.mark.usefixtures("failed")
def test_the_word_of_an_earlier_run_ends_no_later_one(core: Core) -> None:
    record_cleanup(core)
    core.jobs.repeat_cleanup(head(core))

    with pytest.raises(ProvisioningError) as raised:
        record_cleanup(core, run=1)

    assert raised.value.type is ErrorType.INVALID_PAYLOAD
    assert cleanup_of(core).status is CleanupStatus.RUNNING


@pytest.mark.usefixtures("failed")
def test_a_clean_up_ends_though_its_project_is_gone(core: Core) -> None:
    removed(core, *provision_project.JOB_TYPE.on_failure.cleanup)

    def vanish(_call: Any) -> None:
        core.answers.clear()
        core.client("dynamodb").delete_item(
            TableName="ProjectsTable", Key={"project_id": {"S": "shop"}}
        )

    core.answers["dynamodb.TransactWriteItems"] = vanish

    assert record_cleanup(core)["ok"] is True
    assert core.projects.get("shop") is None


@pytest.mark.usefixtures("failed")
@pytest.mark.parametrize("operation", ["Query", "GetItem", "TransactWriteItems"])
def test_a_table_that_does_not_answer_is_worth_another_attempt(core: Core, operation: str) -> None:
    core.answers[f"dynamodb.{operation}"] = times(1, aws_error("InternalServerError", 500))

    with pytest.raises(ProvisioningError) as raised:
        record_cleanup(core)

    assert raised.value.type is ErrorType.NETWORK_ERROR
    assert record_cleanup(core)["ok"] is False
    assert cleanup_of(core).status is CleanupStatus.FAILED


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


def stages_of_cleanup(core: Core) -> tuple[str, ...]:
    return tuple(cleanup_stages(core.jobs.get("job-1"), projects=core.projects))


@pytest.mark.parametrize(
    ("on_failure", "holder", "wanted"),
    [
        ("rollback", "job-1", provision_project.JOB_TYPE.on_failure.cleanup),
        ("rollback", "job-2", ()),
        ("rollback", None, ()),
        ("keep", "job-1", ()),
    ],
)
def test_a_job_cleans_up_if_it_holds_its_project_and_keeps_nothing(
    core: Core, on_failure: str, holder: str | None, wanted: tuple[str, ...]
) -> None:
    project = core.new_project()
    store_job(core, on_failure=on_failure)
    if holder is not None:
        core.projects.lock(project, holder, quota=None, default_limit=5)

    assert stages_of_cleanup(core) == wanted


@pytest.mark.parametrize("has_held", [False, True])
def test_a_job_whose_project_is_gone_cleans_up_if_it_had_held_it(
    core: Core, *, has_held: bool
) -> None:
    store_job(core)
    core.jobs.start_stage(head(core), "INITIALIZING", 0)
    if has_held:
        core.jobs.end_stage("job-1", "INITIALIZING", StageStatus.SUCCEEDED, output={}, check="x")

    assert stages_of_cleanup(core) == (
        provision_project.JOB_TYPE.on_failure.cleanup if has_held else ()
    )


def test_a_job_that_names_no_project_cleans_up_after_nothing(core: Core) -> None:
    core.jobs.create(NewJob("job-1", "provision_project", {}, ()))
    job = core.jobs.get("job-1")

    assert cleanup_stages(job, projects=core.projects) == ()
    assert released_by_failure(job, projects=core.projects) == []


@pytest.mark.usefixtures("failed")
def test_every_stage_of_the_clean_up_names_what_it_may_leave(core: Core) -> None:
    job = core.jobs.get("job-1")
    named = [
        one
        for stage in provision_project.JOB_TYPE.on_failure.cleanup
        for one in remaining(job, stage, naming=NAMING)
    ]
    names = NAMING.names("shop")
    assert sorted(one.rpartition(" ")[2] for one in named) == sorted(
        [
            "shop",
            names.api_keys_secret,
            names.bucket,
            names.event_api,
            names.user_pool,
            names.tenants[Engine.POSTGRESQL].database,
            names.tenants[Engine.POSTGRESQL].app_role,
            names.tenants[Engine.POSTGRESQL].owner_role,
            names.database_secret,
        ]
    )
    assert len(set(named)) == len(named)


def test_an_instance_may_be_left_where_the_payload_asks_for_one(core: Core) -> None:
    job = core.new_job(database={"engine": "mysql", "size": "db.t4g.micro"})
    names = NAMING.names("shop")

    assert remaining(job, provision_project.REMOVING_INSTANCE, naming=NAMING) == (
        f"database instance {names.instance}",
        f"secret {names.instance_secret}",
    )
    tenant = names.tenants[Engine.MYSQL]
    assert remaining(job, provision_project.REMOVING_DATABASE, naming=NAMING) == (
        f"database {tenant.database}",
        f"role {tenant.app_role}",
        f"secret {names.database_secret}",
    )


# Quiet.


class Past:
    """What a job's stages say as time passes; every word takes a second."""

    def __init__(self, core: Core) -> None:
        self.core = core
        core.new_project()
        core.new_job()

    def start(self, stage: str, retry_count: int = 0, *, run: int = 0, after: float = 1) -> None:
        self.core.clock.advance(after)
        job = head(self.core)
        self.core.jobs.start_stage(job, stage, retry_count, round_=run or job.attempt)

    def fail(self, stage: str, attempt: int = 1, *, run: int = 0) -> None:
        self.core.clock.advance()
        self.core.jobs.stage_failed(
            "job-1",
            StoredError(ErrorType.CONFLICT, stage, attempt, "It is not ours.", ""),
            retry_count=attempt - 1,
            retryable=False,
            round_=run or head(self.core).attempt,
        )

    def succeed(self, stage: str, *, run: int = 0) -> None:
        self.core.clock.advance()
        self.core.jobs.end_stage(
            "job-1",
            stage,
            StageStatus.SUCCEEDED,
            output={},
            check="it answered",
            round_=run or head(self.core).attempt,
        )

    def end(self, *closed: str) -> None:
        """End the job, with the stages that never said how they ended."""
        self.core.clock.advance()
        errors = {s: StoredError(ErrorType.TIMEOUT, s, 1, "Too long.", "") for s in closed}
        job = head(self.core)
        self.core.jobs.fail(
            "job-1",
            [*errors.values(), ERROR],
            close=errors,
            attempt=job.attempt,
            cleanup=(job.cleanup_runs + 1, provision_project.JOB_TYPE.on_failure.cleanup),
        )

    def retry(self) -> None:
        """End the clean-up, and begin the job's next attempt."""
        self.core.clock.advance()
        self.core.jobs.end_cleanup("job-1", head(self.core).cleanup_runs, [])
        self.core.clock.advance()
        self.core.jobs.retry(self.core.jobs.get("job-1"))

    def seconds(self, after: float = 0) -> int:
        """Run the step, so many seconds later."""
        self.core.clock.advance(after)
        answer = QuietStep(self.core.jobs, JOB_TYPES)(job_event(AWAIT_QUIET))
        assert answer["ok"] is True
        return int(answer["seconds"])


@pytest.fixture
def past(core: Core) -> Past:
    return Past(core)


def test_a_job_whose_stages_have_all_said_how_they_ended_is_quiet(past: Past) -> None:
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
    assert past.seconds(after=100.5) == provision_project.REGISTERING_AUTH.seconds - 110
    assert past.seconds(after=provision_project.REGISTERING_AUTH.seconds) == 0


def test_an_earlier_attempt_without_a_word_is_waited_for(past: Past) -> None:
    past.start("REGISTERING_AUTH")
    past.start("REGISTERING_AUTH", 1, after=60)
    past.fail("REGISTERING_AUTH", 2)
    past.end()
    assert past.seconds() == provision_project.REGISTERING_AUTH.seconds - 62


def test_of_two_attempts_of_which_one_ended_well_the_last_is_waited_for(past: Past) -> None:
    past.start("REGISTERING_AUTH")
    past.start("REGISTERING_AUTH", 1, after=60)
    past.succeed("REGISTERING_AUTH")
    past.end()
    assert past.seconds() == provision_project.REGISTERING_AUTH.seconds - 2


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
    assert past.seconds() == provision_project.REGISTERING_AUTH.seconds - 6


def test_a_removal_that_never_said_how_it_ended_is_waited_for(past: Past) -> None:
    past.end()
    past.start(provision_project.REMOVING_AUTH, run=1)
    past.start(provision_project.REMOVING_AUTH, 1, run=1)
    past.fail(provision_project.REMOVING_AUTH, 2, run=1)
    past.start(provision_project.REMOVING_DATABASE, run=1)
    past.succeed(provision_project.REMOVING_DATABASE, run=1)
    assert past.seconds() == provision_project.REMOVING_AUTH.seconds - 4


def test_a_removal_for_which_the_end_of_the_clean_up_spoke_is_waited_for(past: Past) -> None:
    past.end()
    past.start(provision_project.REMOVING_AUTH, run=1)
    past.core.clock.advance()
    record_cleanup(past.core)
    assert past.seconds() == provision_project.REMOVING_AUTH.seconds - 1


def test_a_removal_that_has_said_how_it_ended_in_a_later_run_is_not_waited_for(past: Past) -> None:
    past.end()
    past.core.clock.advance()
    past.core.jobs.end_cleanup("job-1", 1, ["user pool"])
    past.core.clock.advance()
    past.core.jobs.repeat_cleanup(head(past.core))
    past.start(provision_project.REMOVING_AUTH, run=2)
    past.fail(provision_project.REMOVING_AUTH, run=2)
    assert past.seconds() == 0


@pytest.mark.usefixtures("failed")
def test_a_table_that_does_not_answer_leaves_the_question_open(core: Core) -> None:
    core.answers["dynamodb.Query"] = times(1, aws_error("InternalServerError", 500))
    with pytest.raises(ProvisioningError) as raised:
        QuietStep(core.jobs, JOB_TYPES)(job_event(AWAIT_QUIET))
    assert raised.value.type is ErrorType.NETWORK_ERROR


# The end of a job.


def may_end(core: Core, stage: str, *, cleanup: tuple[str, ...] = (), retry_count: int = 0) -> bool:
    """Say whether a step that ends the job may begin, where such a clean-up follows a failure."""
    policy = FailurePolicy(release=lambda _job: (), cleanup_stages=lambda _job: cleanup)
    policies = {"provision_project": policy}
    event = job_event(stage) | {"cleanup": 0, "retry_count": retry_count}
    try:
        QuietEnds(core.jobs, policies, JOB_TYPES)(event)
    except StageWaiting:
        return False
    return True


#: What the end of a job is told to wait for.
AT_WORK = "An earlier attempt of GENERATING_API_KEYS may still be at work."

each_end = pytest.mark.parametrize("end", [provision_project.FINALIZING, RECORD_FAILURE])


@each_end
def test_a_job_does_not_end_while_a_stage_may_be_at_work(
    past: Past, logged: LogLines, end: str
) -> None:
    past.start("GENERATING_API_KEYS")
    past.start("GENERATING_API_KEYS", 1)
    past.succeed("GENERATING_API_KEYS")
    longest = provision_project.GENERATING_API_KEYS.seconds

    assert not may_end(past.core, end)
    (line,) = logged()
    assert (line["message"], line["waiting_for"]) == ("the end of the job waits", AT_WORK)
    past.core.clock.advance(longest - 2)
    assert not may_end(past.core, end)
    past.core.clock.advance()
    assert may_end(past.core, end)


@each_end
def test_a_job_ends_at_once_where_every_attempt_has_said_how_it_ended(past: Past, end: str) -> None:
    past.start("INITIALIZING")
    past.succeed("INITIALIZING")
    past.start("REGISTERING_AUTH")
    past.fail("REGISTERING_AUTH")
    assert may_end(past.core, end)


def test_only_what_ends_a_job_waits(past: Past) -> None:
    past.start("GENERATING_API_KEYS")
    past.core.calls.clear()
    assert all(
        may_end(past.core, stage)
        for stage in provision_project.JOB_TYPE.stages
        if stage is not provision_project.FINALIZING
    )
    assert past.core.calls == []


def test_a_failure_is_told_at_once_where_a_clean_up_follows(past: Past) -> None:
    """That one waits itself, before it removes and before it lets go of anything."""
    past.start("GENERATING_API_KEYS")
    assert may_end(past.core, RECORD_FAILURE, cleanup=provision_project.JOB_TYPE.on_failure.cleanup)
    assert not may_end(
        past.core,
        provision_project.FINALIZING,
        cleanup=provision_project.JOB_TYPE.on_failure.cleanup,
    )


def test_the_end_of_a_job_does_not_wait_for_itself(past: Past) -> None:
    past.start("FINALIZING")
    assert may_end(past.core, provision_project.FINALIZING)


def test_a_job_that_has_ended_lets_go_of_nothing_more(past: Past) -> None:
    past.start("GENERATING_API_KEYS")
    past.end("GENERATING_API_KEYS")
    assert may_end(past.core, RECORD_FAILURE)


def test_a_job_does_not_end_where_nobody_knows_whether_a_stage_is_at_work(past: Past) -> None:
    past.core.answers["dynamodb.Query"] = times(1, aws_error("InternalServerError", 500))
    with pytest.raises(ProvisioningError) as raised:
        may_end(past.core, provision_project.FINALIZING)
    assert raised.value.type is ErrorType.NETWORK_ERROR


#: The third stage is one that its job type does not know.
STAGES = ("INITIALIZING", "REGISTERING_AUTH", "ARCHIVING")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(STAGES),
            st.integers(1, 3),
            st.floats(0, 300),
            # As a share of the time that the stage has.
            st.none() | st.floats(0, 0.99),
        ),
        max_size=6,
    ),
    st.floats(0, 600),
)
def test_what_is_at_work_is_never_missed(
    attempts: list[tuple[str, int, float, float | None]], now: float
) -> None:
    """Whatever attempts there were, each that never said how it ended is over after the wait."""
    begun = Clock().at
    longest = {
        stage: timedelta(seconds=longest_run(JOB_TYPES, "provision_project", stage))
        for stage in STAGES
    }
    finished = begun + max(
        (
            timedelta(seconds=start) + longest[stage] * (run or 0)
            for stage, _, start, run in attempts
        ),
        default=timedelta(),
    )
    finished += timedelta(seconds=1)
    entries = [HistoryEntry(finished, "JOB", "FAILED", 1, "")]
    # Others speak for the stages when the job ends.
    entries += [HistoryEntry(finished, stage, "FAILED", 1, "closed", round=1) for stage in STAGES]
    for stage, number, start, run in attempts:
        at = begun + timedelta(seconds=start)
        entries.append(HistoryEntry(at, stage, "RUNNING", number, "", round=1))
        if run is not None:
            ended = at + longest[stage] * run
            entries.append(HistoryEntry(ended, stage, "RETRYING", number, "", round=1))
    job = Job(
        job_id="job-1",
        job_type="provision_project",
        status=JobStatus.FAILED,
        payload={},
        project_id="shop",
        created_at=begun,
        updated_at=finished,
        finished_at=finished,
        stages=tuple(StageRecord(stage=stage) for stage in STAGES),
        history=tuple(sorted(entries, key=lambda entry: entry.at)),
    )
    at = finished + timedelta(seconds=now)
    quiet_at = at + timedelta(seconds=seconds_until_quiet(job, at, JOB_TYPES))
    for stage, _, start, run in attempts:
        if run is None:
            assert begun + timedelta(seconds=start) + longest[stage] <= quiet_at
    assert seconds_until_quiet(job, quiet_at, JOB_TYPES) == 0


# Running it again.


@pytest.fixture
def left(core: Core, failed: Job) -> Job:
    """Return a job whose clean-up has failed."""
    core.make_state_machine("provision_project_cleanup")
    core.clock.advance()
    record_cleanup(core)
    core.calls.clear()
    return failed


def repeat(core: Core) -> Job:
    """Run the clean-up again."""
    return CleanupRepeater(
        core.jobs,
        Executions(core.client("stepfunctions"), STATE_MACHINE_ARN_PREFIX),
        {"provision_project": partial(held_again, projects=core.projects)},
    )("job-1")


def started(core: Core) -> list[str]:
    """Return the names of the executions of the clean-up."""
    return [execution["name"] for execution in core.executions("provision_project_cleanup")]


@pytest.mark.usefixtures("connected", "left")
def test_a_clean_up_is_begun_and_started_again_once(core: Core) -> None:
    for _ in range(2):
        job = api.repeat_cleanup("job-1")
        assert job.cleanup is not None
        assert (job.cleanup.status, job.cleanup.run, job.cleanup.remaining) == (
            CleanupStatus.RUNNING,
            2,
            (),
        )
    (execution,) = core.executions("provision_project_cleanup")
    assert execution["name"] == "job-1-cleanup-2"
    assert json.loads(execution["input"]) == {
        "job": {
            "job_id": "job-1",
            "job_type": "provision_project",
            "payload": head(core).payload,
            "attempt": 1,
        },
        "cleanup": 2,
    }
    project = core.projects.get("shop")
    assert project is not None
    assert project.locked_by == "job-1"


@pytest.mark.usefixtures("left")
def test_a_call_that_stopped_between_its_two_writes_is_completed_by_the_next(core: Core) -> None:
    core.answers["sfn.StartExecution"] = aws_error("ThrottlingException")
    with pytest.raises(ClientError):
        repeat(core)
    core.answers.clear()
    assert started(core) == []

    repeat(core)

    assert started(core) == ["job-1-cleanup-2"]
    assert cleanup_of(core).run == 2


@pytest.mark.usefixtures("left")
def test_many_calls_at_once_begin_one_run(core: Core) -> None:
    with ThreadPoolExecutor(6) as pool:
        runs = [job.cleanup_runs for job in pool.map(lambda _: repeat(core), range(6))]
    assert runs == [2] * 6
    assert started(core) == ["job-1-cleanup-2"]


@pytest.mark.usefixtures("left")
def test_a_call_that_is_superseded_by_another_goes_on_with_its_run(core: Core) -> None:
    """Between its look at the job and its look at the project."""
    core.answers["dynamodb.GetItem"] = meanwhile(lambda: repeat(core))

    assert repeat(core).cleanup_runs == 2
    assert started(core) == ["job-1-cleanup-2"]


def refused(core: Core, match: str) -> None:
    with pytest.raises(api.JobStateError, match=match):
        repeat(core)


@pytest.mark.usefixtures("failed")
def test_a_clean_up_that_has_left_nothing_is_not_run_again(core: Core) -> None:
    removed(core, *provision_project.JOB_TYPE.on_failure.cleanup)
    record_cleanup(core)
    refused(core, "job job-1: its clean-up has left nothing")


def test_a_job_without_a_clean_up_has_none_to_run_again(core: Core) -> None:
    with pytest.raises(api.JobNotFoundError):
        repeat(core)
    core.new_job()
    refused(core, "job job-1: is QUEUED and has no clean-up")


@pytest.mark.usefixtures("left")
def test_what_another_job_may_use_is_not_removed(core: Core) -> None:
    project = core.projects.get("shop")
    assert project is not None
    core.projects.lock(project, "job-2", quota=None, default_limit=1)
    refused(core, "project shop: is held by job job-2, which takes up what was left")
    items = core.projects.activate_items("shop", "job-2", {"made": "x"})
    dynamodb.transact(core.client("dynamodb"), items)
    refused(core, "project shop: is ACTIVE; what was left has been taken up")
    core.client("dynamodb").delete_item(
        TableName="ProjectsTable", Key={"project_id": {"S": "shop"}}
    )
    refused(core, "project shop: is gone; remove what job job-1 has left by hand")
    assert cleanup_of(core).status is CleanupStatus.FAILED
    assert started(core) == []


@pytest.mark.usefixtures("left")
def test_a_job_that_comes_first_keeps_what_is_left(core: Core) -> None:
    def come(_call: Any) -> None:
        core.answers.clear()
        project = core.projects.get("shop")
        assert project is not None
        core.projects.lock(project, "job-2", quota=None, default_limit=1)

    core.answers["dynamodb.TransactWriteItems"] = come
    refused(core, "is held by job job-2")
    assert cleanup_of(core).status is CleanupStatus.FAILED


@pytest.mark.usefixtures("left")
def test_a_job_that_keeps_changing_is_worth_another_call(core: Core) -> None:
    core.answers["dynamodb.TransactWriteItems"] = aws_error(
        "TransactionCanceledException", reasons=("ConditionalCheckFailed",)
    )
    with pytest.raises(ProvisioningError) as raised:
        repeat(core)
    assert raised.value.type is ErrorType.TIMEOUT
