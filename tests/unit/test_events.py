"""The events that the history of jobs becomes: each told, in order for each job, at least once."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from provisioner.drivers import dynamodb
from provisioner.errors import ErrorType
from provisioner.jobs.events import DETAILS, HEARTBEAT, EventPublisher, EventType
from provisioner.jobs.models import NOTICE_SUBJECT, Job, JobStatus, StoredError
from provisioner.jobs.records import NewJob
from provisioner.jobs.store import BadEnd
from provisioner.runtime.observability import metrics
from support.core import Core, LogLines, aws_error, new_cleanup, new_job

STAGE = "CREATING_DATABASE"
REMOVING = "REMOVING_DATABASE"
ERROR = StoredError(
    ErrorType.NETWORK_ERROR, STAGE, 1, "The cluster did not answer.", "10.1.2.3:5432 refused"
)

type Record = dict[str, Any]


class Told:
    """A publisher, and the bus that it publishes on."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.bus = core.client("events").create_event_bus(Name="jobs")["EventBusArn"]
        self.publish = EventPublisher(
            core.jobs,
            core.client("events"),
            "jobs",
            completions={"tear_down": "thing.torn_down"},
            notices={"THING_ENDS": "thing.ends"},
        )

    def __call__(self, *records: Record) -> list[str]:
        """Publish a batch; return the records from which the stream is to go on."""
        answer = self.publish({"Records": list(records or stream(self._core))})
        return [failed["itemIdentifier"] for failed in answer["batchItemFailures"]]

    def entries(self) -> list[Mapping[str, Any]]:
        """Return everything that the bus was sent."""
        calls = self._core.calls_of("eventbridge.PutEvents")
        return [entry for call in calls for entry in call["Entries"]]

    def details(self, detail_type: str | None = None) -> list[dict[str, Any]]:
        """Return the details of the events, of one type or of all."""
        return [
            json.loads(entry["Detail"])
            for entry in self.entries()
            if detail_type in {None, entry["DetailType"]}
        ]

    def types(self) -> list[str]:
        """Return the detail types in order."""
        return [entry["DetailType"] for entry in self.entries()]


@pytest.fixture
def told(core: Core) -> Told:
    made = Told(core)
    core.calls.clear()
    return made


def stream(core: Core, *, since: int = 0) -> list[Record]:
    """Return the history as the table's stream hands it over."""
    items = [item for item in core.scan("JobsTable") if item["record"].startswith("HISTORY#")]
    items.sort(key=lambda item: (item["at"], item["job_id"], item["record"]))
    return [
        {
            "eventName": "INSERT",
            "dynamodb": {
                "SequenceNumber": str(99 + number),
                "Keys": dynamodb.to_item({"job_id": item["job_id"], "record": item["record"]}),
                "NewImage": dynamodb.to_item(item),
            },
        }
        for number, item in enumerate(items)
    ][since:]


def head(core: Core, job_id: str = "job-1") -> Job:
    found = core.jobs.get_head(job_id)
    assert found is not None
    return found


def begun(core: Core, job_id: str = "job-1") -> Job:
    """Return a job of which one stage runs."""
    core.jobs.create(new_job(job_id))
    core.clock.advance()
    core.jobs.start_stage(head(core, job_id), STAGE, 0)
    core.clock.advance()
    return head(core, job_id)


def failed(core: Core, **options: Any) -> None:
    begun(core)
    failed_with(core, **options)


def failed_with(core: Core, **options: Any) -> None:
    """End the job that has begun badly."""
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([ERROR], **options))
    core.clock.advance()


def cleaning(core: Core) -> Job:
    """Return the clean-up of a job that has failed; one stage of it runs."""
    new = new_cleanup(begun(core))
    failed_with(core, cleanup=new)
    core.jobs.start_stage(head(core, new.job_id), REMOVING, 0)
    core.clock.advance()
    return core.jobs.get(new.job_id)


def completed(core: Core, job_id: str = "job-1") -> None:
    begun(core, job_id)
    core.jobs.complete(job_id, STAGE, output={}, check="it answers at 10.1.2.3", result={})
    core.clock.advance()


def answering(*codes: str | None) -> Callable[[Mapping[str, Any]], tuple[int, dict[str, Any]]]:
    """Answer each entry of a call with an error code, or take it."""

    def answer(call: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        results = [
            {"EventId": "taken"} if code is None else {"ErrorCode": code, "ErrorMessage": "no"}
            for _, code in zip(call["Entries"], codes, strict=True)
        ]
        return 200, {"FailedEntryCount": len(codes) - codes.count(None), "Entries": results}

    return answer


# --- What is told ---------------------------------------------------------------------------------


def test_the_life_of_a_job_is_told_in_order(core: Core, told: Told) -> None:
    begun(core)
    core.jobs.stage_failed("job-1", ERROR, retry_count=0, retryable=True)
    core.clock.advance()
    core.jobs.start_stage(head(core), STAGE, 1)
    core.clock.advance()
    core.jobs.complete("job-1", STAGE, output={}, check="it answers", result={})

    assert told() == []

    assert told.types() == [
        "job.queued",
        "job.started",
        "job.stage_changed",
        "job.retrying",
        "job.stage_changed",
        "job.stage_changed",
        "job.completed",
    ]
    for entry in told.entries():
        assert (entry["EventBusName"], entry["Source"]) == ("jobs", "project-provisioner")
        detail = json.loads(entry["Detail"])
        DETAILS[EventType(entry["DetailType"])].model_validate(detail)
        assert (detail["version"], detail["job_id"], detail["job_type"]) == (
            1,
            "job-1",
            "provision_project",
        )
        assert (detail["project_id"], detail["job_attempt"], detail["cancelling"]) == (
            "shop",
            1,
            False,
        )


def test_a_retry_says_why_and_by_when(core: Core, told: Told) -> None:
    begun(core)
    core.jobs.stage_failed("job-1", ERROR, retry_count=0, retryable=True)

    told()

    (detail,) = told.details("job.retrying")
    assert (detail["stage"], detail["stage_status"], detail["attempt"]) == (STAGE, "RETRYING", 1)
    assert (detail["error_type"], detail["message"]) == ("NETWORK_ERROR", ERROR.message)
    assert detail["next_attempt_before"] == "2026-01-31T10:05:02Z"


WAITS = "An earlier attempt of GENERATING_API_KEYS may still be at work."


def test_a_wait_says_what_for_and_until_when(core: Core, told: Told) -> None:
    job = begun(core)
    record = core.jobs.get("job-1").stage(STAGE)
    assert record is not None
    until = core.clock.at + timedelta(minutes=10)
    core.jobs.stage_waits(job, record, WAITS, until, retry_count=0)

    told()

    detail = told.details("job.stage_changed")[-1]
    assert (detail["stage"], detail["stage_status"]) == (STAGE, "WAITING")
    assert (detail["waiting_for"], detail["waits_until"]) == (WAITS, "2026-01-31T10:10:02Z")
    assert detail["attempt"] == 1
    assert not {"error_type", "message"} & detail.keys()


def test_the_end_of_a_job_that_waits_says_what_for(core: Core, told: Told) -> None:
    job = begun(core)
    assert core.jobs.wait_to_end(job, WAITS, core.clock.at + timedelta(minutes=10))

    told()

    (detail,) = told.details("job.waiting")
    assert (detail["waiting_for"], detail["waits_until"]) == (WAITS, "2026-01-31T10:10:02Z")
    assert (detail["job_attempt"], detail["at"]) == (1, "2026-01-31T10:00:02Z")


def test_a_last_attempt_is_no_retry(core: Core, told: Told) -> None:
    begun(core)
    for attempt in (1, 2, 3):
        core.jobs.start_stage(head(core), STAGE, attempt - 1)
        core.clock.advance()
        core.jobs.stage_failed(
            "job-1", replace(ERROR, attempt=attempt), retry_count=attempt - 1, retryable=True
        )

    told()

    assert [detail["attempt"] for detail in told.details("job.retrying")] == [1, 2]
    assert told.details("job.stage_changed")[-1]["stage_status"] == "RETRYING"


@pytest.mark.parametrize(
    ("status", "told_as"),
    [(JobStatus.FAILED, "job.failed"), (JobStatus.CANCELLED, "job.cancelled")],
)
def test_a_bad_end_says_the_real_cause_and_where(
    core: Core, told: Told, status: JobStatus, told_as: str
) -> None:
    failed(core, status=status)

    told()

    (detail,) = told.details(told_as)
    assert (detail["error_type"], detail["message"], detail["stage"], detail["attempt"]) == (
        "NETWORK_ERROR",
        "The cluster did not answer.",
        STAGE,
        1,
    )
    assert told.types()[-1] == told_as


def test_a_job_that_was_refused_says_why_without_a_stage(core: Core, told: Told) -> None:
    refused = StoredError(ErrorType.INVALID_PAYLOAD, "", 0, "region: Field required.", "")
    core.jobs.create_failed(NewJob("refused", "provision_project", {}, ()), refused)

    told()

    (detail,) = told.details("job.failed")
    assert (detail["message"], detail["project_id"]) == ("region: Field required.", "")
    assert not {"stage", "attempt"} & set(detail)


def test_no_cause_and_no_check_is_told(core: Core, told: Told) -> None:
    failed(core)
    completed(core, "job-2")

    told()

    assert "10.1.2.3" not in json.dumps(told.entries(), default=str)


def test_a_cancel_shows_in_what_happens_until_the_job_has_ended(core: Core, told: Told) -> None:
    begun(core)
    core.jobs.request_cancel(head(core))
    core.clock.advance()
    core.jobs.stage_failed("job-1", ERROR, retry_count=0, retryable=False)
    core.clock.advance()
    told()

    assert told.details()[-1]["stage_status"] == "FAILED"
    assert told.details()[-1]["cancelling"] is True

    core.calls.clear()
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([ERROR], status=JobStatus.CANCELLED))
    told(stream(core)[-1])

    assert told.types() == ["job.cancelled"]
    assert told.details()[-1]["cancelling"] is False


def test_a_further_attempt_is_told_as_such(core: Core, told: Told) -> None:
    failed(core)
    core.jobs.retry(head(core))
    core.clock.advance()
    core.jobs.start_stage(head(core), STAGE, 0)

    told()

    attempts = [detail["job_attempt"] for detail in told.details()]
    assert attempts == [1, 1, 1, 1, 1, 2, 2, 2]


def test_a_cleanup_is_told_as_a_job_that_names_the_failed_one(core: Core, told: Told) -> None:
    cleanup = cleaning(core)
    error = replace(ERROR, stage=REMOVING)
    core.jobs.fail(cleanup, BadEnd([error], remaining=["database nm_shop"]))
    core.clock.advance()
    core.jobs.retry(head(core, cleanup.job_id))
    core.clock.advance()
    core.jobs.start_stage(head(core, cleanup.job_id), REMOVING, 0)
    core.clock.advance()
    core.jobs.complete(cleanup.job_id, REMOVING, attempt=2, output={}, check="gone", result={})

    told()

    of_parent = [detail for detail in told.details() if detail["job_id"] == "job-1"]
    assert of_parent
    assert not any("parent_job_id" in detail for detail in of_parent)
    assert "remaining" not in told.details("job.failed")[0]
    of_cleanup = [
        (entry["DetailType"], json.loads(entry["Detail"]))
        for entry in told.entries()
        if json.loads(entry["Detail"])["job_id"] == cleanup.job_id
    ]
    assert [(told_as, detail["job_attempt"]) for told_as, detail in of_cleanup] == [
        ("job.queued", 1),
        ("job.started", 1),
        ("job.stage_changed", 1),
        ("job.stage_changed", 1),
        ("job.failed", 1),
        ("job.queued", 2),
        ("job.started", 2),
        ("job.stage_changed", 2),
        ("job.stage_changed", 2),
        ("job.completed", 2),
    ]
    for _, detail in of_cleanup:
        assert detail["parent_job_id"] == "job-1"
        assert (detail["job_type"], detail["project_id"]) == ("clean_up_project", "shop")
    named = [detail.get("remaining") for _, detail in of_cleanup]
    assert named == [*[None] * 4, ["database nm_shop"], *[None] * 5]


def test_a_completed_job_of_a_type_that_says_so_is_told_twice(core: Core, told: Told) -> None:
    core.jobs.create(NewJob("job-1", "tear_down", {"project_id": "shop"}, (STAGE,)))
    completed(core)

    told()

    assert told.types()[-2:] == ["job.completed", "thing.torn_down"]
    first, second = told.details()[-2:]
    assert first["event_id"] != second["event_id"]
    assert {**first, "event_id": ""} == {**second, "event_id": ""}


def test_a_change_that_is_no_status_is_told_to_nobody(core: Core, told: Told) -> None:
    begun(core)
    before = len(stream(core))
    core.jobs.request_cancel(head(core))

    assert told(*stream(core, since=before)) == []

    assert told.entries() == []


def test_a_job_that_is_gone_stops_nothing(core: Core, told: Told) -> None:
    core.jobs.create(new_job("gone"))
    core.jobs.create(new_job("there"))
    records = stream(core)
    key = dynamodb.to_item({"job_id": "gone", "record": "JOB"})
    core.client("dynamodb").delete_item(TableName="JobsTable", Key=key)

    assert told(*records) == []

    assert [detail["job_id"] for detail in told.details()] == ["there"]


# --- At least once, in order ----------------------------------------------------------------------


def test_the_same_change_has_the_same_event_id(core: Core, told: Told) -> None:
    completed(core)
    told()
    first = told.details()
    core.calls.clear()

    told()

    assert told.details() == first
    assert len({detail["event_id"] for detail in first}) == len(first)


@pytest.mark.parametrize("end", [completed, failed])
def test_the_end_is_told_last_however_the_stream_orders_a_transaction(
    core: Core, told: Told, end: Callable[[Core], None]
) -> None:
    end(core)
    records = stream(core)

    told(records[0], *reversed(records[1:3]), *reversed(records[3:]))

    assert told.types()[:2] == ["job.queued", "job.started"]
    assert told.types()[-1] in {"job.completed", "job.failed"}
    assert len(told.types()) == len(records)


def test_the_end_of_a_job_is_told_after_all_stages_that_end_with_it(core: Core, told: Told) -> None:
    begun(core)
    open_ = ("REGISTERING_AUTH", STAGE)
    core.jobs.start_stage(head(core), open_[0], 0)
    core.clock.advance()
    errors = [replace(ERROR, stage=stage) for stage in open_]
    core.jobs.fail(core.jobs.get("job-1"), BadEnd(errors))
    records = stream(core)

    told(*records[:-3], *reversed(records[-3:]))
    backwards = told.types()
    core.calls.clear()
    told(*records)

    ends = ["job.stage_changed", "job.stage_changed", "job.failed"]
    assert told.types()[-3:] == backwards[-3:] == ends


@pytest.mark.parametrize("end", [completed, failed])
def test_the_history_of_a_job_has_its_start_before_its_stages_and_its_end_after(
    core: Core, end: Callable[[Core], None]
) -> None:
    end(core)

    queued, started, *stages, ended = core.jobs.get("job-1").history

    assert (queued.status, started.subject, started.status) == ("QUEUED", "JOB", "RUNNING")
    assert {entry.subject for entry in stages} == {STAGE}
    assert ended.subject == "JOB"


def test_a_job_is_read_once_a_batch(core: Core, told: Told) -> None:
    completed(core)
    core.calls.clear()

    told()

    assert len(core.calls_of("dynamodb.GetItem")) == 1


def test_no_call_holds_two_events_of_one_job(core: Core, told: Told) -> None:
    for number in range(12):
        completed(core, f"job-{number}")

    told(*sorted(stream(core), key=lambda record: record["dynamodb"]["Keys"]["record"]["S"][-20:]))

    calls = [call["Entries"] for call in core.calls_of("eventbridge.PutEvents")]
    for entries in calls:
        jobs = [json.loads(entry["Detail"])["job_id"] for entry in entries]
        assert len(set(jobs)) == len(jobs) <= 10
    assert sum(map(len, calls)) == 12 * 5
    assert len(calls) < 12 * 5


def test_what_the_bus_does_not_take_is_left_to_the_stream(
    core: Core, told: Told, logged: LogLines
) -> None:
    core.jobs.create(new_job("job-0"))
    begun(core)
    core.answers["eventbridge.PutEvents"] = lambda call: answering(
        *("InternalFailure" if "job-1" in entry["Detail"] else None for entry in call["Entries"])
    )(call)

    assert told() == ["100"]

    # The first of job-1 is tried once, and nothing of it after that.
    assert sorted(detail["job_id"] for detail in told.details()) == ["job-0", "job-1"]
    assert set(told.types()) == {"job.queued"}
    (line,) = logged()
    assert (line["message"], line["cause"]) == ("events not published", "InternalFailure")
    assert metrics.metric_set["EventsNotPublished"]["Value"] == [3]


@pytest.mark.parametrize("operation", ["eventbridge.PutEvents", "dynamodb.GetItem"])
def test_a_call_that_fails_is_left_to_the_stream(
    core: Core, told: Told, operation: str, logged: LogLines
) -> None:
    core.jobs.create(new_job())
    core.answers[operation] = aws_error("ServiceUnavailable", 503)

    assert told() == ["99"]

    assert logged()[-1]["cause"] == f"{operation.split('.')[1]}: ServiceUnavailable"
    core.answers.clear()
    assert told() == []


def test_a_record_that_cannot_be_read_holds_back_only_what_comes_after_it(
    core: Core, told: Told
) -> None:
    for number in range(3):
        core.jobs.create(new_job(f"job-{number}"))
    records = stream(core)
    del records[1]["dynamodb"]["NewImage"]["status"]

    assert told(*records) == [records[1]["dynamodb"]["SequenceNumber"]]

    assert [detail["job_id"] for detail in told.details()] == ["job-0"]


def test_of_a_transaction_that_is_half_published_the_stream_goes_on_from_its_first_record(
    core: Core, told: Told
) -> None:
    completed(core)
    end = stream(core)[-2:]
    # The stream has the end of the job before the end of its stage.
    end = [end[1], end[0]]
    end[0]["dynamodb"]["SequenceNumber"], end[1]["dynamodb"]["SequenceNumber"] = "9", "10"
    core.answers["eventbridge.PutEvents"] = lambda call: (
        answering("MalformedDetail")(call)
        if call["Entries"][0]["DetailType"] == "job.completed"
        else None
    )

    assert told(*end) == ["9"]


@pytest.mark.parametrize("seed", range(20))
def test_every_event_arrives_in_order_whatever_the_bus_does_not_take(
    core: Core, told: Told, seed: int
) -> None:
    chance = random.Random(seed)
    for number in range(4):
        (completed if chance.random() < 0.5 else begun)(core, f"job-{number}")
    records = stream(core)
    chance.shuffle(records)
    records.sort(key=lambda record: record["dynamodb"]["Keys"]["record"]["S"].split("#")[1])
    for number, record in enumerate(records):
        record["dynamodb"]["SequenceNumber"] = str(95 + number)
    taken: list[dict[str, Any]] = []

    def answer(call: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        codes = [chance.choice([None, None, "MalformedDetail"]) for _ in call["Entries"]]
        taken.extend(
            json.loads(entry["Detail"])
            for entry, code in zip(call["Entries"], codes, strict=True)
            if code is None
        )
        return answering(*codes)(call)

    core.answers["eventbridge.PutEvents"] = answer
    left = records
    while again := told(*left):
        left = [r for r in left if int(r["dynamodb"]["SequenceNumber"]) >= int(again[0])]

    once = {detail["event_id"]: detail for detail in reversed(taken)}
    assert len(once) == len(records)
    order = {detail["event_id"]: place for place, detail in reversed(list(enumerate(taken)))}
    for job in {detail["job_id"] for detail in taken}:
        own = sorted(
            (detail for detail in once.values() if detail["job_id"] == job),
            key=lambda detail: order[detail["event_id"]],
        )
        assert [detail["at"] for detail in own] == sorted(detail["at"] for detail in own)


# --- The heartbeat --------------------------------------------------------------------------------

ON_SCHEDULE = {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}


def beat(core: Core, told: Told) -> Record:
    """Let the function write a heartbeat; return it as the table's stream hands it over."""
    assert told.publish(ON_SCHEDULE) == {}
    (item,) = [item for item in core.scan("JobsTable") if item["record"] == HEARTBEAT]
    key = {"job_id": item["job_id"], "record": item["record"]}
    image = {"Keys": dynamodb.to_item(key), "NewImage": dynamodb.to_item(item)}
    return {"eventName": "MODIFY", "dynamodb": {"SequenceNumber": "7", **image}}


def test_each_heartbeat_differs_from_the_one_before(core: Core, told: Told) -> None:
    """Else the stream has nothing to hand over."""
    first = beat(core, told)
    core.clock.advance(300)

    assert beat(core, told)["dynamodb"]["NewImage"] != first["dynamodb"]["NewImage"]


def test_a_heartbeat_is_counted_and_told_to_nobody(core: Core, told: Told) -> None:
    heartbeat = beat(core, told)
    metrics.clear_metrics()

    assert told(heartbeat) == []

    assert told.types() == []
    assert metrics.metric_set["Heartbeats"]["Value"] == [1]


def test_a_heartbeat_among_changes_keeps_none_of_them_back(core: Core, told: Told) -> None:
    heartbeat = beat(core, told)
    completed(core)
    records = stream(core)
    metrics.clear_metrics()

    assert told(*records[:2], heartbeat, *records[2:]) == []

    assert len(told.types()) == len(records)
    assert metrics.metric_set["Heartbeats"]["Value"] == [1]


def test_a_heartbeat_is_counted_though_the_bus_takes_nothing(core: Core, told: Told) -> None:
    """Another alarm tells of the bus."""
    heartbeat = beat(core, told)
    core.jobs.create(new_job())
    core.answers["eventbridge.PutEvents"] = aws_error("ServiceUnavailable", 503)
    metrics.clear_metrics()

    assert told(heartbeat, *stream(core)) == ["99"]

    assert metrics.metric_set["Heartbeats"]["Value"] == [1]


def test_a_notice_is_an_event_of_the_job_that_has_ended(core: Core, told: Told) -> None:
    begun(core)
    deadline = core.clock() + timedelta(days=7)
    for name in ("THING_ENDS", "UNHEARD_OF"):
        work = core.jobs.work()
        work.add_history("job-1", NOTICE_SUBJECT, name, note="The thing ends.", deadline=deadline)
        work.write()
    before = len(stream(core)) - 2
    assert told(*stream(core, since=before)) == []

    assert told.types() == ["thing.ends"]
    (detail,) = told.details()
    at = core.clock().isoformat().replace("+00:00", "Z")
    assert detail == {
        "version": 1,
        "event_id": detail["event_id"],
        "job_id": "job-1",
        "job_type": "provision_project",
        "job_attempt": 1,
        "project_id": "shop",
        "cancelling": False,
        "at": at,
        "message": "The thing ends.",
        "deadline": deadline.isoformat().replace("+00:00", "Z"),
    }
