"""Jobs in DynamoDB: what one read answers, and what stays when writes meet."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError
from provisioner.drivers import dynamodb
from provisioner.drivers.dynamodb import ConditionFailedError
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.models import Job, JobStatus, StageStatus, StoredError
from provisioner.jobs.reconciler import record_repair
from provisioner.jobs.records import NewJob, canonical_json
from provisioner.jobs.slots import SLOTS
from provisioner.jobs.store import BadEnd, JobNotFoundError, JobStore
from support.core import Core, Jobs, aws_error, contention, new_cleanup, new_job, times


def _start(core: Core, stage: str, retry_count: int = 0, job_id: str = "job-1") -> None:
    head = core.jobs.get_head(job_id)
    assert head is not None
    core.jobs.start_stage(head, stage, retry_count)


def _error(stage: str, attempt: int = 1) -> StoredError:
    return StoredError(ErrorType.NETWORK_ERROR, stage, attempt, "It did not answer.", "refused")


def _succeed(core: Core, stage: str) -> None:
    core.jobs.end_stage("job-1", stage, StageStatus.SUCCEEDED, output={"id": 1}, check="answers")


def test_a_new_job_is_queued_and_none_of_its_stages_has_started(core: Core) -> None:
    core.new_job()

    job = core.jobs.get("job-1")

    assert (job.status, job.percent_done, job.running_stages) == (JobStatus.QUEUED, 0, ())
    assert {record.status for record in job.stages} == {StageStatus.PENDING}
    assert job.created_at == core.clock.at
    assert [(e.subject, e.status, e.at) for e in job.history] == [("JOB", "QUEUED", core.clock.at)]


def test_a_job_is_created_once(core: Core) -> None:
    core.new_job()
    core.clock.advance()
    before = core.jobs.get("job-1")

    again = core.new_job(project_id="another")

    assert again.project_id == "shop"
    assert core.jobs.get("job-1") == before


def test_a_job_that_is_created_by_many_at_once_is_one(core: Core) -> None:
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda n: core.new_job(project_id=f"shop-{n}"), range(8)))

    assert len({job.project_id for job in created}) == 1
    assert len(core.jobs.get("job-1").history) == 1


def test_one_query_answers_what_runs_since_when_and_how_often(core: Core) -> None:
    core.new_job()
    _start(core, "INITIALIZING")
    _succeed(core, "INITIALIZING")
    core.clock.advance(5)
    _start(core, "CREATING_DATABASE")
    failed_at = core.clock.at + timedelta(seconds=7)
    core.clock.advance(7)
    core.jobs.stage_failed("job-1", _error("CREATING_DATABASE"), retry_count=0, retryable=True)
    core.clock.advance(100)
    _start(core, "REGISTERING_AUTH")
    core.calls.clear()

    job = core.jobs.get("job-1")

    assert [name for name, _ in core.calls] == ["dynamodb.Query"]
    assert [record.stage for record in job.running_stages] == [
        "CREATING_DATABASE",
        "REGISTERING_AUTH",
    ]
    database, auth = job.running_stages
    assert (database.status, database.attempt, database.max_attempts) == (
        StageStatus.RETRYING,
        1,
        3,
    )
    assert database.next_attempt_before == failed_at + timedelta(seconds=300)
    assert database.error == _error("CREATING_DATABASE")
    assert (auth.status, auth.started_at) == (StageStatus.RUNNING, core.clock.at)
    assert job.percent_done == 11  # one of nine stages


@pytest.mark.parametrize(("attempt", "longest"), [(1, 300), (2, 600), (3, None)])
def test_the_latest_start_of_the_next_attempt_follows_the_retry_table(
    core: Core, attempt: int, longest: int | None
) -> None:
    core.new_job()
    for retry_count in range(attempt):
        _start(core, "INITIALIZING", retry_count)
        core.jobs.stage_failed(
            "job-1",
            _error("INITIALIZING", retry_count + 1),
            retry_count=retry_count,
            retryable=True,
        )

    record = core.jobs.get("job-1").stage("INITIALIZING")

    assert record is not None
    expected = None if longest is None else core.clock.at + timedelta(seconds=longest)
    assert (record.attempt, record.next_attempt_before) == (attempt, expected)


def test_the_next_attempt_of_the_job_counts_the_failures_of_a_stage_anew(core: Core) -> None:
    core.new_job()
    for number in (0, 1, 2):
        core.clock.advance()
        _start(core, "INITIALIZING", number)
        error = _error("INITIALIZING", number + 1)
        assert core.jobs.stage_failed("job-1", error, retry_count=number, retryable=True) == (
            number < 2
        )
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([error]))
    core.clock.advance()
    core.jobs.retry(core.jobs.get("job-1"))
    _start(core, "INITIALIZING")

    error = _error("INITIALIZING")
    assert core.jobs.stage_failed("job-1", error, retry_count=0, retryable=True)


def test_a_stage_that_ends_well_after_all_shows_no_error_and_no_next_attempt(core: Core) -> None:
    core.new_job()
    _start(core, "INITIALIZING")
    core.jobs.stage_failed("job-1", _error("INITIALIZING"), retry_count=0, retryable=True)
    _start(core, "INITIALIZING", 1)
    _succeed(core, "INITIALIZING")

    record = core.jobs.get("job-1").stage("INITIALIZING")

    assert record is not None
    assert (record.error, record.next_attempt_before, record.attempt) == (None, None, 2)
    assert (record.output, record.check, record.finished_at) == (
        {"id": 1},
        "answers",
        core.clock.at,
    )
    assert "It did not answer." in {entry.note for entry in core.jobs.get("job-1").history}


def test_the_first_start_of_a_stage_starts_the_job(core: Core) -> None:
    core.new_job()
    core.clock.advance()
    _start(core, "INITIALIZING")

    job = core.jobs.get("job-1")

    assert (job.status, job.started_at) == (JobStatus.RUNNING, core.clock.at)


def test_a_late_start_changes_nothing(core: Core) -> None:
    core.new_job()
    _start(core, "INITIALIZING", 0)
    _start(core, "INITIALIZING", 1)
    before = core.jobs.get("job-1")
    core.clock.advance()

    assert core.jobs.start(core.jobs.get("job-1"), "INITIALIZING", 0) is None

    assert core.jobs.get("job-1") == before


def test_an_attempt_follows_one_that_died_without_a_word(core: Core) -> None:
    core.new_job()
    _start(core, "INITIALIZING", 0)
    core.clock.advance()
    _start(core, "INITIALIZING", 1)

    record = core.jobs.get("job-1").stage("INITIALIZING")

    assert record is not None
    assert (record.status, record.attempt, record.started_at) == (
        StageStatus.RUNNING,
        2,
        core.clock.at,
    )


def test_the_late_word_of_an_attempt_that_was_superseded_changes_nothing(core: Core) -> None:
    core.new_job()
    _start(core, "INITIALIZING", 0)
    _start(core, "INITIALIZING", 1)
    before = core.jobs.get("job-1")

    core.jobs.stage_failed("job-1", _error("INITIALIZING", 1), retry_count=0, retryable=False)

    assert core.jobs.get("job-1") == before


def _ended(core: Core, *, well: bool) -> Job:
    core.new_job()
    _start(core, "INITIALIZING")
    if well:
        core.jobs.complete("job-1", "INITIALIZING", output={}, check="answers", result={"a": 1.5})
    else:
        error = _error("INITIALIZING")
        other = replace(_error("FINALIZING", 0), type=ErrorType.CONFLICT)
        core.jobs.fail(core.jobs.get("job-1"), BadEnd([error, other]))
    return core.jobs.get("job-1")


def test_a_job_completes_with_its_last_stage_in_one_transaction(core: Core) -> None:
    job = _ended(core, well=True)

    assert (job.status, job.percent_done, job.finished_at) == (
        JobStatus.COMPLETED,
        100,
        core.clock.at,
    )
    assert (job.result, job.error) == ({"a": 1.5}, None)
    assert job.stages[0].status is StageStatus.SUCCEEDED
    assert len(core.calls_of("dynamodb.TransactWriteItems")) == 3  # create, start, complete


def test_a_job_fails_with_its_errors_and_the_stage_that_was_open(core: Core) -> None:
    job = _ended(core, well=False)

    assert (job.status, job.percent_done) == (
        JobStatus.FAILED,
        0,
    )  # its first stage has not ended well
    assert job.error == _error("INITIALIZING")
    assert [error.type for error in job.other_errors] == [ErrorType.CONFLICT]
    assert job.stages[0].status is StageStatus.FAILED


@pytest.mark.parametrize("well", [True, False])
def test_an_end_is_never_overwritten(core: Core, *, well: bool) -> None:
    before = _ended(core, well=well)
    core.clock.advance()

    with pytest.raises(ConditionFailedError):
        core.jobs.complete("job-1", "INITIALIZING", output={}, check="x", result={"b": 2})
    with pytest.raises(ConditionFailedError):
        core.jobs.fail(core.jobs.get("job-1"), BadEnd([_error("FINALIZING")]))
    core.jobs.fail_queued("job-1", _error("FINALIZING"))
    core.jobs.create_failed(NewJob("job-1", "provision_project", {}, ()), _error(""))

    assert core.jobs.get("job-1") == before


def test_nothing_is_written_when_a_write_of_the_same_transaction_is_refused(core: Core) -> None:
    core.new_job()
    _start(core, "INITIALIZING")
    before = core.jobs.get("job-1")
    core.new_project()
    refused = dynamodb.build_put("ProjectsTable", {"project_id": "shop"}, {}, is_new=True)

    with pytest.raises(ProvisioningError) as raised:
        core.jobs.complete("job-1", "INITIALIZING", output={}, check="x", result={}, also=[refused])

    assert raised.value.type is ErrorType.CONFLICT
    assert core.jobs.get("job-1") == before


@pytest.mark.parametrize("well", [True, False])
def test_a_finished_job_expires_after_its_retention_and_its_parts_before_it(
    core: Core, *, well: bool
) -> None:
    _ended(core, well=well)

    items = {
        item["record"]: item["expires_at"]
        for item in core.scan("JobsTable")
        if item["job_id"] != SLOTS
    }

    retained = int((core.clock.at + timedelta(days=91)).timestamp())
    assert items.pop("JOB") == items.pop("PAYLOAD") == retained + 4 * 86_400
    assert set(items.values()) == {retained}


def _failed(core: Core) -> Job:
    """Return a job that has failed, and has left a clean-up."""
    core.new_job()
    _start(core, "INITIALIZING")
    job = core.jobs.get("job-1")
    core.jobs.fail(job, BadEnd([_error("INITIALIZING")], cleanup=new_cleanup(job)))
    return core.jobs.get("job-1")


def test_a_failed_job_is_stored_with_its_cleanup_in_one_transaction(core: Core) -> None:
    failed = _failed(core)

    cleanup = core.jobs.get(failed.cleanup_job_id)

    assert (cleanup.job_type, cleanup.parent_id) == ("clean_up_project", "job-1")
    assert (cleanup.status, cleanup.attempt, cleanup.remaining) == (JobStatus.QUEUED, 1, ())
    assert cleanup.created_at == failed.finished_at
    assert [(entry.subject, entry.status) for entry in cleanup.history] == [("JOB", "QUEUED")]
    assert core.unfinished() == [cleanup.job_id]
    assert set(core.listed("shop")) == {"job-1", cleanup.job_id}
    assert len(core.calls_of("dynamodb.TransactWriteItems")) == 3  # create, start, fail


def test_a_cleanup_that_nobody_could_start_is_left_to_the_reconciler(core: Core) -> None:
    """It holds the project, and names what is left when it ends."""
    cleanup = core.jobs.get(_failed(core).cleanup_job_id)

    core.jobs.fail_queued(cleanup.job_id, _error(""))

    assert core.jobs.get(cleanup.job_id) == cleanup
    assert core.unfinished() == [cleanup.job_id]


def test_no_job_fails_whose_cleanup_is_there_already(core: Core) -> None:
    core.new_job()
    _start(core, "INITIALIZING")
    before = core.jobs.get("job-1")
    core.jobs.create(new_cleanup(before))

    with pytest.raises(ConditionFailedError):
        core.jobs.fail(before, BadEnd([_error("")], cleanup=new_cleanup(before)))

    assert core.jobs.get("job-1") == before


def test_what_a_job_has_left_stays_until_it_is_retried(core: Core) -> None:
    core.new_job()
    _start(core, "INITIALIZING")
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([_error("")], remaining=["a bucket"]))

    failed = core.jobs.get("job-1")
    assert (failed.remaining, failed.history[-1].remaining) == (("a bucket",), ("a bucket",))

    core.clock.advance()
    core.jobs.retry(failed)

    assert core.jobs.get("job-1").remaining == ()


def _expire(core: Core) -> None:
    """Remove what has expired, as DynamoDB does in the end."""
    for item in core.scan("JobsTable"):
        if item.get("expires_at", core.clock.at.timestamp() + 1) <= core.clock.at.timestamp():
            key = dynamodb.to_item({name: item[name] for name in ("job_id", "record")})
            core.client("dynamodb").delete_item(TableName="JobsTable", Key=key)


def _begun_anew(core: Core) -> Jobs:
    """Let a job be gone whose parts DynamoDB has not removed yet, and store another of its id."""
    _ended(core, well=False)
    core.clock.advance()
    core.jobs.retry(core.jobs.get("job-1"))
    head = core.jobs.get("job-1")
    core.jobs.start_stage(head, "INITIALIZING", 0)
    core.jobs.start_stage(core.jobs.get("job-1"), "FINALIZING", 0)
    core.clock.advance(3600)
    core.jobs.complete("job-1", "FINALIZING", attempt=2, output={"id": 1}, check="x", result={})
    (expires,) = (i["expires_at"] for i in core.scan("JobsTable") if i["record"] == "JOB")
    core.clock.at = datetime.fromtimestamp(expires, UTC)
    core.client("dynamodb").delete_item(
        TableName="JobsTable", Key=dynamodb.to_item({"job_id": "job-1", "record": "JOB"})
    )
    core.new_job()
    return core.jobs


def test_a_new_job_has_nothing_of_one_that_is_gone_and_had_its_id(core: Core) -> None:
    jobs = _begun_anew(core)

    job = jobs.get("job-1")

    assert {record.status for record in job.stages} == {StageStatus.PENDING}
    assert [(entry.subject, entry.status) for entry in job.history] == [("JOB", "QUEUED")]
    assert {record.attempt for record in job.stages} == {0}


def test_a_stage_of_such_a_job_is_started_and_ended(core: Core) -> None:
    jobs = _begun_anew(core)

    for stage in ("INITIALIZING", "FINALIZING"):
        started = jobs.start_stage(jobs.get("job-1"), stage, 0)
        assert (started.status, started.attempt, started.output) == (StageStatus.RUNNING, 1, {})
        _succeed(core, stage)

    ended = {record.stage: record.status for record in jobs.get("job-1").stages}
    assert ended["INITIALIZING"] is ended["FINALIZING"] is StageStatus.SUCCEEDED


def test_such_a_job_is_ended_with_stages_that_it_never_started(core: Core) -> None:
    jobs = _begun_anew(core)
    error = _error("INITIALIZING", 0)

    jobs.fail(jobs.get("job-1"), BadEnd([error]))

    ended = {record.stage: record.status for record in jobs.get("job-1").stages}
    assert ended["INITIALIZING"] is StageStatus.FAILED
    assert ended["FINALIZING"] is StageStatus.PENDING


def test_a_job_that_is_retried_late_outlives_its_stages(core: Core) -> None:
    _ended(core, well=False)
    core.clock.advance(80 * 86_400)
    core.jobs.retry(core.jobs.get("job-1"))
    core.jobs.start_stage(core.jobs.get("job-1"), "FINALIZING", 0)
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([_error("")], remaining=["database"]))
    core.clock.advance(80 * 86_400)
    _expire(core)

    job = core.jobs.get("job-1")

    stages = {record.stage: record for record in job.stages}
    assert stages["INITIALIZING"].status is StageStatus.PENDING
    assert (job.remaining, stages["FINALIZING"].attempt) == (("database",), 1)
    assert {entry.subject for entry in job.history} == {"JOB", "FINALIZING"}


def test_why_a_message_was_not_dispatched_is_kept_of_a_job_that_has_not_begun(core: Core) -> None:
    error = StoredError(
        ErrorType.UNKNOWN_ERROR, "", 0, "It was not started.", "StartExecution: ThrottlingException"
    )
    core.jobs.note_dispatch_failure("job-1", error)
    assert core.scan("JobsTable") == []
    core.new_job()

    core.jobs.note_dispatch_failure("job-1", error)

    assert core.jobs.get("job-1").dispatch_error == error
    _start(core, "INITIALIZING")
    before = core.scan("JobsTable")
    core.jobs.note_dispatch_failure("job-1", error)
    assert core.scan("JobsTable") == before
    assert core.jobs.get("job-1").dispatch_error is None


def test_a_job_that_has_not_ended_does_not_expire(core: Core) -> None:
    core.new_job()
    _start(core, "INITIALIZING")

    (head,) = (item for item in core.scan("JobsTable") if item["record"] == "JOB")

    assert "expires_at" not in head


def test_a_job_that_was_refused_expires_after_the_retention_of_its_deployment(core: Core) -> None:
    store = JobStore(core.client("dynamodb"), "JobsTable", retention_days=100, now=core.clock)

    store.create_failed(NewJob("job-1", "provision_project", {}, ()), _error(""))

    (head,) = (item for item in core.scan("JobsTable") if item["record"] == "JOB")
    assert head["expires_at"] == int((core.clock.at + timedelta(days=104)).timestamp())
    job = core.jobs.get("job-1")
    assert (job.status, job.error, job.payload) == (JobStatus.FAILED, _error(""), {})


def test_only_a_queued_job_is_failed_as_queued(core: Core) -> None:
    core.new_job("queued")
    core.new_job("running")
    _start(core, "INITIALIZING", job_id="running")

    core.jobs.fail_queued("queued", _error(""))
    core.jobs.fail_queued("running", _error(""))

    assert core.jobs.get("queued").status is JobStatus.FAILED
    assert core.jobs.get("running").status is JobStatus.RUNNING


def test_the_jobs_of_a_project_are_its_own_and_the_newest_comes_first(core: Core) -> None:
    for number in range(3):
        core.new_job(f"job-{number}")
        core.clock.advance()
    core.new_job("other", project_id="another")

    assert core.listed("shop") == ["job-2", "job-1", "job-0"]
    assert core.listed() == ["other", "job-2", "job-1", "job-0"]


@pytest.mark.parametrize("project_id", [None, "", 7])
def test_a_payload_without_a_project_is_a_job_of_no_project(core: Core, project_id: object) -> None:
    core.jobs.create(NewJob("job-1", "report", {"project_id": project_id}, ()))

    assert core.jobs.get("job-1").project_id == ""


def test_a_job_of_more_than_one_page_is_read_whole(core: Core) -> None:
    metadata = {"text": "x" * 16_000}
    core.new_job(metadata=metadata)
    _start(core, "INITIALIZING")
    # DynamoDB's pages end at 1 MiB: four stages of nearly 400 KiB are two pages.
    for stage in ("CREATING_DATABASE", "CREATING_SCHEMA", "REGISTERING_AUTH", "FINALIZING"):
        _start(core, stage)
        core.jobs.end_stage(
            "job-1", stage, StageStatus.SUCCEEDED, output={"text": "y" * 390_000}, check="answers"
        )
    core.calls.clear()

    job = core.jobs.get("job-1")

    assert len(core.calls_of("dynamodb.Query")) > 1
    assert job.payload["metadata"] == metadata
    assert sum(len(record.output.get("text", "")) for record in job.stages) == 4 * 390_000


def test_a_job_that_is_not_stored_is_not_found(core: Core) -> None:
    with pytest.raises(JobNotFoundError, match="job-1"):
        core.jobs.get("job-1")
    assert core.jobs.get_head("job-1") is None


def test_a_job_keeps_its_times_to_the_microsecond_and_in_utc(core: Core) -> None:
    core.clock.at = datetime(2026, 1, 31, 10, 0, 0, 123456, tzinfo=UTC)
    core.new_job()

    assert core.jobs.get("job-1").created_at == core.clock.at


def test_values_come_back_from_an_item_as_they_went_in() -> None:
    values = {"whole": 3, "part": 1.25, "list": [1.5, {"deep": 0.1}], "text": "ü", "yes": True}

    assert dynamodb.from_item(dynamodb.to_item(values | {"nothing": None})) == values


def test_equal_payloads_serialize_to_equal_bytes() -> None:
    assert canonical_json({"b": [1, "ü"], "a": None}) == '{"a":null,"b":[1,"ü"]}'
    assert canonical_json({"a": 1, "b": 2}) == canonical_json({"b": 2, "a": 1})
    # The two that SQS takes in no message.
    assert canonical_json("\ufffe\uffff") == '"\\ufffe\\uffff"'


CONFLICT = ("None", "TransactionConflict")


def test_contention_with_another_transaction_is_waited_out(core: Core) -> None:
    core.answers["dynamodb.TransactWriteItems"] = times(
        2, aws_error("TransactionCanceledException", reasons=CONFLICT)
    )

    core.new_job()

    assert len(core.calls_of("dynamodb.TransactWriteItems")) == 3
    assert core.jobs.get("job-1").status is JobStatus.QUEUED


def test_contention_is_waited_out_at_a_repair_a_resend_and_a_retry(core: Core) -> None:
    core.new_job()
    with contention(core) as made:
        record_repair(core.jobs, core.jobs.get("job-1"), "It was put right.")
        core.clock.advance()
        values = {"resent_at": core.clock.at}
        record_repair(core.jobs, core.jobs.get("job-1"), "It was sent again.", values=values)
        core.jobs.fail(core.jobs.get("job-1"), BadEnd([_error("")]))
        core.jobs.retry(core.jobs.get("job-1"))
        assert made() == 4
    job = core.jobs.get("job-1")
    assert (job.status, job.attempt, job.error) == (JobStatus.QUEUED, 2, None)
    notes = [entry.note for entry in job.history if entry.status == "REPAIRED"]
    assert notes == ["It was put right.", "It was sent again."]


@pytest.mark.parametrize(
    ("reasons", "code"),
    [
        (("None", "ProvisionedThroughputExceeded"), "ProvisionedThroughputExceededException"),
        (("ThrottlingError", "None"), "ThrottlingException"),
        (
            ("ItemCollectionSizeLimitExceeded", "None"),
            "ItemCollectionSizeLimitExceededException",
        ),
        (("ConditionalCheckFailed", "ThrottlingError"), "ThrottlingException"),
        (("None",), "TransactionCanceledException"),
        ((), "TransactionCanceledException"),
    ],
)
def test_what_cancels_a_transaction_is_named_as_outside_of_one(
    core: Core, reasons: tuple[str, ...], code: str
) -> None:
    core.answers["dynamodb.TransactWriteItems"] = aws_error(
        "TransactionCanceledException", reasons=reasons
    )

    with pytest.raises(ClientError) as raised:
        core.jobs.create(new_job())

    assert raised.value.response["Error"]["Code"] == code


def test_contention_that_lasts_is_raised(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provisioner.drivers.dynamodb._CONFLICT_MAX_SECONDS", 0.001)
    core.answers["dynamodb.TransactWriteItems"] = aws_error(
        "TransactionCanceledException", reasons=CONFLICT
    )

    with pytest.raises(ClientError) as raised:
        core.new_job()

    assert raised.value.response["Error"]["Code"] == "TransactionConflict"
    assert len(core.calls_of("dynamodb.TransactWriteItems")) == 8


def test_two_conditions_that_fail_are_both_named(core: Core) -> None:
    core.answers["dynamodb.TransactWriteItems"] = aws_error(
        "TransactionCanceledException",
        reasons=("ConditionalCheckFailed", "None", "ConditionalCheckFailed"),
    )

    items = [
        dynamodb.build_put("ProjectsTable", {"project_id": name}, {}, is_new=True)
        for name in ("shop", "other", "third")
    ]

    with pytest.raises(ConditionFailedError) as raised:
        dynamodb.transact(core.client("dynamodb"), items)

    assert raised.value.positions == (0, 2)
    assert [key["project_id"] for key in raised.value.keys] == ["shop", "third"]


def test_unfinished_jobs_are_listed_page_by_page_from_any_of_them(core: Core) -> None:
    for number in range(5):
        core.new_job(f"job-{number}")
        core.clock.advance()
    listed = list(core.jobs.list_unfinished())
    assert [job_id for job_id, _ in listed] == [f"job-{number}" for number in range(5)]

    # It may have ended since.
    core.jobs.cancel_queued(core.jobs.get("job-1"))
    assert list(core.jobs.list_unfinished(listed[1].position)) == listed[2:]
    assert list(core.jobs.list_unfinished(listed[4].position)) == []
