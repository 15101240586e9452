"""The step that ends a job badly."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provisioner.drivers import dynamodb
from provisioner.drivers.dynamodb import ConditionFailedError
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.failure import FailurePolicy, FailureRecorder, stage_errors
from provisioner.jobs.models import (
    CANCELLED_ERROR,
    Job,
    JobStatus,
    StageRecord,
    StageStatus,
    StoredError,
)
from provisioner.jobs.store import BadEnd, JobNotFoundError
from provisioner.provisioning.job_types import clean_up_project
from provisioner.provisioning.projects import ProjectStatus
from provisioner.provisioning.stages.provision import describe_cleanup, release_after_failure
from provisioner.runtime.observability import metrics
from support.core import (
    Core,
    LogLines,
    aws_error,
    cleanup_payload,
    provision_project_handler,
    times,
)

STAGES = provision_project_handler.stages


def ended_badly(stage: str, name: str, cause: str = "") -> dict[str, Any]:
    """Return a branch that caught an error."""
    return {"ok": False, "stage": stage, "error": {"Error": name, "Cause": cause}}


def ours(stage: str, error_type: ErrorType, message: str) -> dict[str, Any]:
    """Return a branch that caught an error of ours, as AWS Lambda reports it."""
    cause = {"errorType": error_type, "errorMessage": message, "stackTrace": []}
    return ended_badly(stage, error_type, json.dumps(cause))


def ended_well(stage: str) -> dict[str, Any]:
    """Return a branch that ended well."""
    return {"ok": True, "stage": stage, "status": "SUCCEEDED", "output": {}}


def record_failure(
    core: Core,
    *branches: dict[str, Any],
    job_id: str = "job-1",
    attempt: int = 1,
    policy: FailurePolicy | None = None,
) -> dict[str, Any]:
    """Run the step; where no policy is given, of a job type without a clean-up."""
    metrics.clear_metrics()  # as at the end of a function
    without = FailurePolicy(release=partial(release_after_failure, projects=core.projects))
    # None of the stages that these tests let start is at work any more.
    policies = {"provision_project": policy or without}
    return FailureRecorder(core.jobs, policies, is_process=True)(
        {
            "job": {
                "job_id": job_id,
                "job_type": "provision_project",
                "payload": {"project_id": "shop"},
                "attempt": attempt,
            },
            "stage": "RECORD_FAILURE",
            "branches": list(branches),
        }
    )


@pytest.fixture
def running(core: Core) -> Job:
    """Return a job that holds its project and has started two stages."""
    project = core.new_project()
    core.new_job()
    core.projects.lock(project, "job-1", quota="owner#ada", default_limit=5)
    for stage in ("CREATING_DATABASE", "REGISTERING_AUTH"):
        core.jobs.start_stage(core.jobs.get("job-1"), stage, 0)
    return core.jobs.get("job-1")


def the_error(core: Core) -> StoredError:
    """Return the job's error."""
    error = core.jobs.get("job-1").error
    assert error is not None
    return error


@pytest.mark.usefixtures("running")
def test_a_stage_that_a_cancel_kept_from_starting_has_not_failed(core: Core) -> None:
    core.jobs.request_cancel(core.jobs.get("job-1"))
    refused, failed = "REGISTERING_STORAGE", "REGISTERING_AUTH"

    record_failure(
        core,
        ours(refused, ErrorType.JOB_CANCELLED, "The job was cancelled."),
        ours(failed, ErrorType.CONFLICT, "Not ours."),
    )

    job = core.jobs.get("job-1")
    statuses = {record.stage: record.status for record in job.stages}
    assert (statuses[refused], statuses[failed]) == (StageStatus.PENDING, StageStatus.FAILED)
    assert (job.status, job.error) == (JobStatus.CANCELLED, CANCELLED_ERROR)
    assert [error.stage for error in job.other_errors] == [failed]


@pytest.mark.usefixtures("running")
def test_a_failed_job_is_counted_over_all_and_by_its_error(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics.provider, "namespace", "ProjectProvisioner")
    monkeypatch.setattr(metrics.provider, "service", "project-provisioner")
    record_failure(core, ours("CREATING_DATABASE", ErrorType.CONFLICT, "Not ours."))

    emitted: dict[str, Any] = dict(metrics.provider.serialize_metric_set())

    (directive,) = emitted["_aws"]["CloudWatchMetrics"]
    # The alarm knows the first alone.
    assert [set(names) for names in directive["Dimensions"]] == [
        {"service"},
        {"service", "error_type"},
    ]
    assert emitted["JobsFailed"] == [1.0]


@pytest.mark.usefixtures("running")
def test_the_first_error_in_stage_order_is_the_job_s_and_the_others_are_listed(core: Core) -> None:
    answer = record_failure(
        core,
        ours("GENERATING_API_KEYS", ErrorType.CONFLICT, "A secret is not ours."),
        ended_well("REGISTERING_AUTH"),
        ours("REGISTERING_STORAGE", ErrorType.QUOTA_EXCEEDED, "Too many buckets."),
        ours("CREATING_DATABASE", ErrorType.NETWORK_ERROR, "It did not answer."),
    )

    job = core.jobs.get("job-1")
    assert answer == {
        "error_type": "NETWORK_ERROR",
        "message": "It did not answer.",
        "has_cleanup": False,
        "cleanup": {},
    }
    assert job.status is JobStatus.FAILED
    assert (the_error(core).stage, the_error(core).message, the_error(core).attempt) == (
        "CREATING_DATABASE",
        "It did not answer.",
        1,
    )
    assert [(error.stage, error.type) for error in job.other_errors] == [
        ("REGISTERING_STORAGE", ErrorType.QUOTA_EXCEEDED),
        ("GENERATING_API_KEYS", ErrorType.CONFLICT),
    ]


@pytest.mark.parametrize(
    ("name", "error_type", "message"),
    [
        ("States.Timeout", ErrorType.TIMEOUT, "The stage did not end in the time that it had."),
        ("Sandbox.Timedout", ErrorType.TIMEOUT, "The stage did not end in the time that it had."),
        ("Lambda.Unknown", ErrorType.UNKNOWN_ERROR, "The stage ended without saying why."),
        ("Runtime.ExitError", ErrorType.UNKNOWN_ERROR, "The stage ended without saying why."),
        ("Runtime.OutOfMemory", ErrorType.UNKNOWN_ERROR, "The stage ended without saying why."),
        ("States.TaskFailed", ErrorType.UNKNOWN_ERROR, "The stage ended without saying why."),
    ],
)
@pytest.mark.usefixtures("running")
def test_an_end_without_a_word_closes_the_stage_with_a_type_of_ours(
    core: Core, name: str, error_type: ErrorType, message: str
) -> None:
    record_failure(core, ended_badly("CREATING_DATABASE", name, "Task timed out after 180.00 s"))

    expected = StoredError(
        error_type, "CREATING_DATABASE", 1, message, f"{name}: Task timed out after 180.00 s"
    )
    job = core.jobs.get("job-1")
    assert job.error == expected
    (closed,) = (record for record in job.stages if record.stage == "CREATING_DATABASE")
    assert (closed.status, closed.error, closed.finished_at) == (
        StageStatus.FAILED,
        expected,
        core.clock.at,
    )


@pytest.mark.parametrize(
    ("name", "reported", "cause"),
    [
        (
            "KeyError",
            {"errorMessage": "'hunter2'", "stackTrace": ['  File "/a.py", line 7, in run\n  x\n']},
            "KeyError at /a.py:7",
        ),
        ("KeyError", {"errorMessage": "'hunter2'", "stackTrace": []}, "KeyError"),
        (
            "Runtime.ImportModuleError",
            {"errorMessage": "Unable to import module 'handler': No module named 'x'"},
            "Runtime.ImportModuleError: Unable to import module 'handler': No module named 'x'",
        ),
        ("StageEnded", {"errorMessage": "It waited in vain."}, "StageEnded: It waited in vain."),
    ],
)
@pytest.mark.usefixtures("running")
def test_of_a_foreign_exception_its_name_and_place_are_told_and_no_text(
    core: Core, name: str, reported: dict[str, Any], cause: str
) -> None:
    report = json.dumps({"errorType": name, "requestId": "0", **reported})

    record_failure(core, ended_badly("CREATING_DATABASE", name, report))

    assert the_error(core).cause == cause


@pytest.mark.parametrize("name", ["KeyError", ""])
@pytest.mark.usefixtures("running")
def test_a_text_that_is_not_ours_is_not_kept(core: Core, name: str) -> None:
    record_failure(core, ended_badly("CREATING_DATABASE", name, '{"errorMessage": "hunter2'))

    assert the_error(core).cause == name


@pytest.mark.usefixtures("running")
def test_what_a_stage_could_not_store_is_told_by_its_sentence_alone(core: Core) -> None:
    record_failure(core, ours("OF_ANOTHER_VERSION", ErrorType.UNKNOWN_ERROR, "A sentence."))

    assert (the_error(core).message, the_error(core).cause) == ("A sentence.", "")


@pytest.mark.usefixtures("running")
def test_a_stage_that_never_started_is_closed_too(core: Core) -> None:
    record_failure(core, ended_badly("REGISTERING_REALTIME", "Lambda.TooManyRequestsException"))

    record = core.jobs.get("job-1").stage("REGISTERING_REALTIME")
    assert record is not None
    assert (record.status, record.attempt, the_error(core).attempt) == (StageStatus.FAILED, 0, 0)


@pytest.mark.usefixtures("running")
def test_what_the_stage_said_itself_goes_before_what_the_state_machine_says(core: Core) -> None:
    said = StoredError(ErrorType.CONFLICT, "CREATING_DATABASE", 1, "Not ours.", "comment is empty")
    core.jobs.stage_failed("job-1", said, retry_count=0, retryable=False)
    before = core.jobs.get("job-1").stage("CREATING_DATABASE")

    record_failure(core, ours("CREATING_DATABASE", ErrorType.CONFLICT, "Not ours."))

    assert the_error(core) == said
    assert core.jobs.get("job-1").stage("CREATING_DATABASE") == before


def test_what_an_earlier_attempt_said_is_not_what_the_last_one_ended_with(
    core: Core, running: Job
) -> None:
    early = StoredError(ErrorType.NETWORK_ERROR, "CREATING_DATABASE", 1, "No answer.", "refused")
    core.jobs.stage_failed("job-1", early, retry_count=0, retryable=True)
    core.jobs.start_stage(running, "CREATING_DATABASE", 1)

    record_failure(
        core, ours("CREATING_DATABASE", ErrorType.NETWORK_ERROR, "It closed the connection.")
    )

    assert (the_error(core).attempt, the_error(core).message) == (2, "It closed the connection.")


@pytest.mark.usefixtures("running")
def test_stages_without_an_error_stay_as_they_are(core: Core) -> None:
    record_failure(core, ours("CREATING_DATABASE", ErrorType.CONFLICT, "Not ours."))

    statuses = {record.stage: record.status for record in core.jobs.get("job-1").stages}
    assert statuses["REGISTERING_AUTH"] is StageStatus.RUNNING
    assert statuses["FINALIZING"] is StageStatus.PENDING


@pytest.mark.usefixtures("running")
def test_the_project_and_its_quota_are_given_back_with_the_job_s_end(core: Core) -> None:
    core.calls.clear()

    record_failure(core, ours("CREATING_DATABASE", ErrorType.CONFLICT, "Not ours."))

    project = core.projects.get("shop")
    assert project is not None
    assert (project.status, project.locked_by) == (ProjectStatus.FAILED, None)
    assert core.projects.quotas.used("owner#ada") == 0
    assert len(core.calls_of("dynamodb.TransactWriteItems")) == 1


@pytest.mark.usefixtures("running")
def test_twice_is_as_good_as_once(core: Core) -> None:
    branch = ours("CREATING_DATABASE", ErrorType.CONFLICT, "Not ours.")
    first = record_failure(core, branch)
    before = core.jobs.get("job-1"), core.scan("ProjectsTable"), core.scan("QuotasTable")
    core.clock.advance()

    again = record_failure(core, ended_badly("CREATING_DATABASE", "States.Timeout"))

    assert again == first
    assert (
        core.jobs.get("job-1"),
        core.scan("ProjectsTable"),
        core.scan("QuotasTable"),
    ) == before


@pytest.mark.usefixtures("running")
def test_a_completed_job_stays_completed(core: Core) -> None:
    core.jobs.start_stage(core.jobs.get("job-1"), "FINALIZING", 0)
    core.jobs.complete("job-1", "FINALIZING", output={}, check="x", result={"made": "x"})
    before = core.jobs.get("job-1"), core.scan("ProjectsTable"), core.scan("QuotasTable")

    answer = record_failure(core, ended_badly("FINALIZING", "States.Timeout"))

    assert answer["error_type"] == "TIMEOUT"
    assert (
        core.jobs.get("job-1"),
        core.scan("ProjectsTable"),
        core.scan("QuotasTable"),
    ) == before


@pytest.mark.usefixtures("running")
def test_a_project_that_another_job_holds_is_left_to_it(core: Core) -> None:
    core.new_job("job-2")
    before = core.scan("ProjectsTable"), core.scan("QuotasTable")

    record_failure(
        core, ours("INITIALIZING", ErrorType.PROJECT_BUSY, "Another holds it."), job_id="job-2"
    )

    assert core.jobs.get("job-2").status is JobStatus.FAILED
    assert (core.scan("ProjectsTable"), core.scan("QuotasTable")) == before


@pytest.mark.usefixtures("running")
def test_a_stage_that_changes_meanwhile_is_looked_at_again(core: Core) -> None:
    def the_stage_ends(_call: Any) -> None:
        core.answers.clear()
        core.jobs.end_stage(
            "job-1", "CREATING_DATABASE", StageStatus.SUCCEEDED, output={}, check="late"
        )

    core.answers["dynamodb.TransactWriteItems"] = the_stage_ends

    record_failure(core, ended_badly("CREATING_DATABASE", "States.Timeout"))

    job = core.jobs.get("job-1")
    assert job.status is JobStatus.FAILED
    assert job.stages[2].status is StageStatus.SUCCEEDED


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("operation", ["Query", "GetItem", "TransactWriteItems"])
def test_a_table_that_does_not_answer_is_worth_another_attempt(core: Core, operation: str) -> None:
    core.answers[f"dynamodb.{operation}"] = times(1, aws_error("InternalServerError", 500))
    branch = ours("CREATING_DATABASE", ErrorType.CONFLICT, "Not ours.")

    with pytest.raises(ProvisioningError) as raised:
        record_failure(core, branch)

    assert raised.value.type is ErrorType.NETWORK_ERROR
    assert record_failure(core, branch)["error_type"] == "CONFLICT"
    assert core.jobs.get("job-1").status is JobStatus.FAILED


@pytest.mark.usefixtures("running")
def test_a_job_that_keeps_changing_is_worth_another_attempt(core: Core) -> None:
    core.answers["dynamodb.TransactWriteItems"] = aws_error(
        "TransactionCanceledException", reasons=("ConditionalCheckFailed",)
    )

    with pytest.raises(ProvisioningError) as raised:
        record_failure(core, ours("CREATING_DATABASE", ErrorType.CONFLICT, "Not ours."))

    assert raised.value.type is ErrorType.TIMEOUT


def test_a_job_that_is_not_stored_cannot_be_failed(core: Core) -> None:
    with pytest.raises(JobNotFoundError):
        record_failure(core, ended_badly("INITIALIZING", "INVALID_PAYLOAD"))


@pytest.mark.usefixtures("running")
def test_the_line_of_the_failure_holds_the_job_the_project_and_the_error(
    core: Core, logged: LogLines
) -> None:
    record_failure(core, ours("CREATING_DATABASE", ErrorType.CONFLICT, "Not ours."))

    (line,) = logged()
    assert (line["job_id"], line["project_id"], line["error_type"], line["level"]) == (
        "job-1",
        "shop",
        "CONFLICT",
        "ERROR",
    )


# The clean-up that follows.


def with_cleanup(core: Core) -> FailurePolicy:
    """Return what follows a failure of a job whose clean-up removes what it has made."""
    return FailurePolicy(
        release=partial(release_after_failure, projects=core.projects),
        describe_cleanup=partial(describe_cleanup, projects=core.projects),
        cleanup_job_type=clean_up_project.JOB_TYPE,
    )


NOT_OURS = ours("CREATING_DATABASE", ErrorType.CONFLICT, "Not ours.")


def fail_with_cleanup(core: Core, *branches: dict[str, Any], attempt: int = 1) -> dict[str, Any]:
    """Let the job fail, and return what the step answers."""
    return record_failure(
        core, *(branches or [NOT_OURS]), attempt=attempt, policy=with_cleanup(core)
    )


@pytest.mark.usefixtures("running")
def test_a_clean_up_is_stored_and_given_the_lock_with_the_end_of_its_parent(core: Core) -> None:
    core.calls.clear()

    answer = fail_with_cleanup(core)

    assert len(core.calls_of("dynamodb.TransactWriteItems")) == 1
    parent = core.jobs.get("job-1")
    cleanup = core.jobs.get(parent.cleanup_job_id)
    assert (parent.status, cleanup.status) == (JobStatus.FAILED, JobStatus.QUEUED)
    assert (cleanup.job_type, cleanup.parent_id, cleanup.project_id) == (
        "clean_up_project",
        "job-1",
        "shop",
    )
    assert [record.stage for record in cleanup.stages] == [*clean_up_project.JOB_TYPE.stages]
    assert cleanup.payload == cleanup_payload()
    assert [(e.subject, e.status) for e in cleanup.history] == [("JOB", "QUEUED")]
    # It is among what the reconciler looks at; its parent is so no more.
    assert core.unfinished() == [cleanup.job_id]
    project = core.projects.get("shop")
    assert project is not None
    assert (project.locked_by, core.projects.quotas.used("owner#ada")) == (cleanup.job_id, 1)
    assert answer["has_cleanup"] is True
    started = {
        "job_id": cleanup.job_id,
        "job_type": "clean_up_project",
        "payload": cleanup.payload,
        "attempt": 1,
    }
    assert answer["cleanup"] == {"name": cleanup.job_id, "input": {"job": started}}


@pytest.mark.usefixtures("running")
def test_a_step_that_is_repeated_starts_the_clean_up_that_is_stored(core: Core) -> None:
    """Its first answer may have been lost, so that nobody has started the clean-up."""
    first = fail_with_cleanup(core)
    before = [core.scan(table) for table in ("JobsTable", "ProjectsTable", "QuotasTable")]
    core.clock.advance()

    assert fail_with_cleanup(core, ended_badly("CREATING_DATABASE", "States.Timeout")) == first

    assert [core.scan(t) for t in ("JobsTable", "ProjectsTable", "QuotasTable")] == before


def end_cleanup(core: Core) -> str:
    """Let the clean-up of the job fail without having begun, and return its id."""
    cleanup = core.jobs.get(core.jobs.get("job-1").cleanup_job_id)
    error = StoredError(ErrorType.TIMEOUT, "", 0, "Too long.", "")
    release = core.projects.build_release_as_failed("shop", cleanup.job_id)
    core.jobs.fail(cleanup, BadEnd([error], also=release))
    core.clock.advance()
    return cleanup.job_id


def next_attempt(core: Core) -> None:
    """Let the next attempt of the job begin."""
    core.jobs.retry(core.jobs.get("job-1"))
    core.jobs.start_stage(core.jobs.get("job-1"), "INITIALIZING", 0)
    core.clock.advance()


@pytest.mark.usefixtures("running")
def test_each_attempt_that_fails_has_a_clean_up_of_its_own(core: Core) -> None:
    fail_with_cleanup(core)
    first = end_cleanup(core)
    next_attempt(core)
    project = core.projects.get("shop")
    assert project is not None
    core.projects.lock(project, "job-1", quota="owner#ada", default_limit=5)

    answer = fail_with_cleanup(core, attempt=2)

    second = core.jobs.get("job-1").cleanup_job_id
    assert second != first
    assert answer["cleanup"]["name"] == second
    assert core.jobs.get(second).parent_id == core.jobs.get(first).parent_id == "job-1"


@pytest.mark.usefixtures("running")
def test_an_attempt_that_made_nothing_starts_no_clean_up_and_leaves_the_one_before(
    core: Core,
) -> None:
    fail_with_cleanup(core)
    first = end_cleanup(core)
    next_attempt(core)

    answer = fail_with_cleanup(
        core, ours("INITIALIZING", ErrorType.PROJECT_BUSY, "Another holds it."), attempt=2
    )

    assert (answer["has_cleanup"], answer["cleanup"]) == (False, {})
    # What that one has left is still its own to remove.
    assert core.jobs.get("job-1").cleanup_job_id == first


@pytest.mark.usefixtures("running")
def test_a_job_is_not_retried_while_its_clean_up_is_under_way(core: Core) -> None:
    fail_with_cleanup(core)
    with pytest.raises(ConditionFailedError):
        core.jobs.retry(core.jobs.get("job-1"))
    assert core.jobs.get("job-1").status is JobStatus.FAILED


@pytest.mark.usefixtures("running")
def test_a_lock_that_is_lost_meanwhile_is_looked_at_again(core: Core) -> None:
    """Nothing of the transaction is written then: neither the end, nor the clean-up."""

    def release(_call: Any) -> None:
        core.answers.clear()
        dynamodb.transact(
            core.client("dynamodb"), core.projects.build_release_as_failed("shop", "job-1")
        )

    core.answers["dynamodb.TransactWriteItems"] = release

    answer = fail_with_cleanup(core)

    assert answer["has_cleanup"] is False
    assert core.listed() == ["job-1"]
    assert core.jobs.get("job-1").status is JobStatus.FAILED


@pytest.mark.usefixtures("running")
def test_a_cancelled_job_is_cleaned_up_after_too(core: Core) -> None:
    core.jobs.request_cancel(core.jobs.get("job-1"))

    answer = fail_with_cleanup(core)

    parent = core.jobs.get("job-1")
    assert parent.status is JobStatus.CANCELLED
    assert answer["cleanup"]["name"] == parent.cleanup_job_id


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*STAGES, "NO_STAGE"]),
            st.sampled_from([*ErrorType, "States.Timeout", "Lambda.Unknown", "", "x"]),
            st.text(max_size=2000) | st.just('{"errorMessage": "A sentence."}') | st.just("[]"),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_any_ends_of_the_branches_give_errors_of_the_table_in_stage_order(
    ends: list[tuple[str, str, str, bool]],
) -> None:
    at = datetime(2026, 1, 31, tzinfo=UTC)
    job = Job(
        job_id="job-1",
        job_type="provision_project",
        status=JobStatus.RUNNING,
        payload={},
        project_id="",
        created_at=at,
        updated_at=at,
        stages=tuple(StageRecord(stage=stage) for stage in STAGES),
    )
    branches = [
        ended_well(stage) if ok else ended_badly(stage, name, cause)
        for stage, name, cause, ok in ends
    ]

    errors = stage_errors(job, branches, job.updated_at)

    order = [*STAGES, "NO_STAGE", ""]
    assert [order.index(error.stage) for error in errors] == sorted(
        order.index(error.stage) for error in errors
    )
    assert len(errors) == max(1, sum(not ok for *_, ok in ends))
    assert all(error.message for error in errors)
    assert all(len(error.cause) <= 1000 for error in errors)
