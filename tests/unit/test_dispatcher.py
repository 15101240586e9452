"""The dispatcher: one execution a job, one dead letter a message that can never work."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from provisioner.composition import dispatcher as composition
from provisioner.errors import ErrorType
from provisioner.jobs.client import JobClient
from provisioner.jobs.execution import MAX_INPUT_BYTES, execution_name
from provisioner.jobs.messages import JobId, JobQueue
from provisioner.jobs.models import Job, JobStatus, StoredError
from provisioner.jobs.records import NewJob
from provisioner.jobs.registry import REGISTRY, JobHandler, JobRegistry, UnknownJobTypeError
from provisioner.jobs.store import BadEnd
from provisioner.provisioning.job_types import provision_project
from provisioner.runtime import aws
from pydantic import BaseModel, TypeAdapter, ValidationError
from support.core import (
    REGION,
    STATE_MACHINE_ARN_PREFIX,
    Core,
    LogLines,
    aws_error,
    provision_project_handler,
    times,
)
from support.dispatcher import dispatcher

type Record = dict[str, Any]
type Deliver = Callable[..., list[str]]


class Anything(BaseModel):
    """A payload of a job type that bounds nothing."""

    text: str = ""
    number: float = 0


def record(body: object, message_id: str | None = None) -> Record:
    """Return a message as AWS Lambda hands it over."""
    return {
        "messageId": message_id or str(uuid.uuid4()),
        "body": body if isinstance(body, str) else json.dumps(body),
        "attributes": {},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
    }


def good(project_id: str = "shop", message_id: str | None = None, **more: Any) -> Record:
    """Return a message that works."""
    payload = {"project_id": project_id, "region": REGION} | more.pop("payload", {})
    body = {"job_type": "provision_project", "payload": payload}
    return record(body | more, message_id)


@pytest.fixture
def deliver(core: Core) -> Deliver:
    """Return what delivers a batch and returns the ids of the messages that are to come again."""
    registry = JobRegistry()
    registry.register("provision_project", provision_project_handler)
    registry.register(
        "anything",
        JobHandler(payload_model=Anything, stages=("DOING",), run=lambda payload: payload),
    )
    dispatch = dispatcher(core, registry)
    core.make_state_machine("anything")

    def run(*records: Record) -> list[str]:
        response = dispatch({"Records": list(records)}, None)
        return [str(failed["itemIdentifier"]) for failed in response["batchItemFailures"]]

    return run


def attributes(letter: Mapping[str, Any]) -> dict[str, str]:
    """Return a message's attributes as plain text."""
    return {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()}


def the_letter(core: Core) -> dict[str, Any]:
    """Return the one dead letter."""
    (letter,) = core.messages(core.dead_letter_url)
    return letter


def test_a_message_becomes_a_queued_job_and_an_execution_of_its_name(
    core: Core, deliver: Deliver
) -> None:
    assert deliver(good(message_id="message-1")) == []

    job = core.jobs.get("message-1")
    assert (job.status, job.job_type, job.project_id) == (
        JobStatus.QUEUED,
        "provision_project",
        "shop",
    )
    (execution,) = core.executions()
    assert execution["name"] == "message-1"
    assert json.loads(execution["input"]) == {
        "job": {
            "job_id": "message-1",
            "job_type": "provision_project",
            "payload": job.payload,
            "attempt": 1,
        }
    }
    assert core.messages(core.dead_letter_url) == []


def test_a_message_that_names_its_job_becomes_that_job(core: Core, deliver: Deliver) -> None:
    assert deliver(good(message_id="message-1", job_id="job-1")) == []

    assert core.jobs.get_head("message-1") is None
    assert [execution["name"] for execution in core.executions()] == ["job-1"]


def test_the_same_message_twice_is_one_execution_with_the_same_bytes(
    core: Core, deliver: Deliver
) -> None:
    again = good(message_id="message-1")
    # The same payload, as another sender orders it.
    body = json.loads(again["body"])
    body["payload"] = dict(reversed(body["payload"].items()))

    assert deliver(again) == []
    assert deliver(again) == []
    assert deliver(record(body, "message-1")) == []

    inputs = {call["input"] for call in core.calls_of("sfn.StartExecution")}
    assert len(core.calls_of("sfn.StartExecution")) == 3
    assert len(inputs) == 1
    assert len(core.executions()) == 1
    assert len(core.jobs.get("message-1").history) == 1


def test_an_execution_that_was_started_before_is_acknowledged(core: Core, deliver: Deliver) -> None:
    core.answers["sfn.StartExecution"] = aws_error("ExecutionAlreadyExists")

    assert deliver(good()) == []
    assert core.messages(core.dead_letter_url) == []


def test_the_records_of_a_batch_are_dispatched_at_once(core: Core, deliver: Deliver) -> None:
    barrier = threading.Barrier(10, timeout=20)

    def wait_for_the_others(_parameters: Mapping[str, Any]) -> None:
        barrier.wait()

    core.answers["sfn.StartExecution"] = wait_for_the_others

    assert deliver(*(good(f"shop-{number}") for number in range(10))) == []
    assert len(core.executions()) == 10


def test_no_more_records_than_a_batch_holds_are_dispatched_at_once(
    core: Core, deliver: Deliver
) -> None:
    threads: set[int] = set()
    core.answers["sfn.StartExecution"] = lambda _call: threads.add(threading.get_ident())

    assert deliver(*(good(f"shop-{number}") for number in range(25))) == []
    assert len(threads) <= 10
    assert len(core.executions()) == 25


POISON: dict[str, tuple[object, str]] = {
    "not JSON": ("{not json", "message: Invalid JSON"),
    "not an object": ([1, 2], "message: Input should be an object"),
    "no payload": ({"job_type": "provision_project"}, "payload: Field required"),
    "a payload that is no object": (
        {"job_type": "provision_project", "payload": "x"},
        "payload: Input should be an object",
    ),
    "an unknown field": (good()["body"][:-1] + ', "priority": 1}', "priority: Extra inputs"),
    "a job id that is none": (good(job_id="a b")["body"], "job_id: String should match"),
    "the name of an execution": (
        good(job_id="order-attempt-2")["body"],
        "job_id: must not end in -attempt- and a number",
    ),
    "half a surrogate pair": ('{"job_type": "\\ud800"}', "message: Invalid JSON"),
    "wrapped by SNS": (
        {"Type": "Notification", "Message": good()["body"]},
        "message: is wrapped by Amazon SNS; switch on raw message delivery",
    ),
    "nested too deeply": ("[" * 10_000 + "]" * 10_000, "message: Invalid JSON"),
}

POISON_WITH_A_JOB: dict[str, tuple[object, str]] = {
    "an unknown job type": (
        {"job_type": "send_mail", "payload": {"project_id": "shop"}},
        "job_type: no handler is registered for it; known are anything, provision_project.",
    ),
    "an invalid payload": (
        {"job_type": "provision_project", "payload": {"project_id": "shop"}},
        "region: Field required.",
    ),
    "an unknown field of the payload": (
        good(payload={"database": {"colour": "red"}})["body"],
        "database.colour: Extra inputs are not permitted.",
    ),
    "an unknown field that no attribute can hold": (
        good(payload={"\x00\ufffe": 1})["body"],
        "??: Extra inputs are not permitted.",
    ),
    "a hostile project": (
        good("'; DROP TABLE x; --")["body"],
        "project_id: String should match pattern '^[A-Za-z0-9][A-Za-z0-9_-]{1,62}[A-Za-z0-9]$'.",
    ),
    "nested deeper than it may be": (
        {"job_type": "anything", "payload": {"list": json.loads("[" * 33 + "]" * 33)}},
        "list: must not be nested deeper than 32 levels.",
    ),
    "larger than an execution's input": (
        {"job_type": "anything", "payload": {"text": "x" * MAX_INPUT_BYTES}},
        "payload: larger than the 262144 bytes of an execution; shorten it.",
    ),
    "a number that JSON does not know": (
        '{"job_type": "anything", "payload": {"number": 1e999}}',
        "payload: JSON cannot hold it (NaN, an infinity, half a surrogate pair); correct it.",
    ),
}


@pytest.mark.parametrize("name", [*POISON, *POISON_WITH_A_JOB])
def test_a_message_that_can_never_work_is_a_dead_letter_with_its_reason(
    core: Core, deliver: Deliver, name: str
) -> None:
    body, reason = (POISON | POISON_WITH_A_JOB)[name]
    poison = record(body, "poison")

    assert deliver(poison) == []

    letter = the_letter(core)
    assert letter["Body"] == poison["body"]
    said = attributes(letter)
    assert (said["job_id"], said["error_type"]) == ("poison", "INVALID_PAYLOAD")
    assert said["reason"].startswith(reason)
    assert core.executions() == []


@pytest.mark.parametrize("name", POISON_WITH_A_JOB)
def test_the_job_of_such_a_message_is_failed_and_says_why(
    core: Core, deliver: Deliver, name: str
) -> None:
    body, reason = POISON_WITH_A_JOB[name]

    deliver(record(body, "poison"))

    job = core.jobs.get("poison")
    assert (job.status, job.stages) == (JobStatus.FAILED, ())
    assert job.error is not None
    assert (job.error.type, job.error.message) == (ErrorType.INVALID_PAYLOAD, reason)


@pytest.mark.parametrize("name", POISON_WITH_A_JOB)
def test_such_a_message_that_is_delivered_again_does_nothing_new(
    core: Core, deliver: Deliver, name: str
) -> None:
    poison = record(POISON_WITH_A_JOB[name][0], "poison")
    deliver(poison)
    before = core.jobs.get("poison")
    core.clock.advance()

    assert deliver(poison) == []

    assert core.jobs.get("poison") == before
    assert len(core.calls_of("sqs.SendMessage")) == 1


def test_a_payload_of_exactly_the_size_of_an_input_is_started(core: Core, deliver: Deliver) -> None:
    def body(length: int) -> dict[str, Any]:
        return {"job_type": "anything", "payload": {"text": "x" * length}, "job_id": "job-1"}

    deliver(record(body(1) | {"job_id": "job-0"}))
    room = MAX_INPUT_BYTES - len(core.executions("anything")[0]["input"]) + 1

    deliver(record(body(room)))

    assert len(core.calls_of("sfn.StartExecution")[1]["input"]) == MAX_INPUT_BYTES


def test_the_rest_of_a_batch_goes_on(core: Core, deliver: Deliver) -> None:
    batch = [good(f"shop-{number}") for number in range(9)]
    batch.insert(4, record({"job_type": "provision_project", "payload": {}}, "poison"))

    for _ in range(2):
        assert deliver(*batch) == []
        assert len(core.executions()) == 9

    assert core.jobs.get("poison").status is JobStatus.FAILED
    assert attributes(the_letter(core))["reason"] == "project_id: Field required."


def _existing(core: Core, status: JobStatus) -> Job:
    """Return a job that another message has made."""
    job = core.new_job("taken", project_id="another")
    if status is JobStatus.QUEUED:
        return core.jobs.get("taken")
    core.jobs.start_stage(job, "INITIALIZING", 0)
    if status is JobStatus.COMPLETED:
        core.jobs.complete("taken", "INITIALIZING", output={}, check="x", result={})
    return core.jobs.get("taken")


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.COMPLETED])
@pytest.mark.parametrize(
    "body",
    [
        good(job_id="taken")["body"],
        good(job_id="taken", payload={"region": "nowhere"})["body"],
        json.dumps({"job_type": "anything", "payload": {}, "job_id": "taken"}),
        json.dumps({"job_type": "send_mail", "payload": {}, "job_id": "taken"}),
    ],
)
def test_a_message_that_names_the_job_of_another_touches_nothing_of_it(
    core: Core, deliver: Deliver, status: JobStatus, body: str
) -> None:
    before = _existing(core, status)

    assert deliver(record(body, "message-1")) == []

    assert core.jobs.get("taken") == before
    assert core.executions() == []
    assert core.executions("anything") == []
    letter = the_letter(core)
    assert letter["Body"] == body
    assert attributes(letter)["error_type"] == "INVALID_PAYLOAD"


def test_a_job_that_was_enqueued_and_can_no_longer_work_is_failed(
    core: Core, deliver: Deliver
) -> None:
    payload = {"project_id": "shop"}  # what an earlier release accepted
    core.jobs.create(NewJob("job-1", "provision_project", payload, ("INITIALIZING",)))
    message = record({"job_type": "provision_project", "payload": payload, "job_id": "job-1"})

    for _ in range(2):
        assert deliver(message) == []

    job = core.jobs.get("job-1")
    assert (job.status, job.error and job.error.message) == (
        JobStatus.FAILED,
        "region: Field required.",
    )
    assert attributes(the_letter(core))["job_id"] == "job-1"


def test_an_attempt_of_a_job_that_can_no_longer_work_is_failed(
    core: Core, deliver: Deliver
) -> None:
    payload = {"project_id": "shop"}  # what an earlier release accepted
    core.jobs.create(NewJob("job-1", "provision_project", payload, ("INITIALIZING",)))
    core.jobs.fail_queued("job-1", StoredError(ErrorType.UNKNOWN_ERROR, "", 0, "Given up.", ""))
    core.jobs.retry(core.jobs.get("job-1"))
    body = {"job_type": "provision_project", "payload": payload, "job_id": "job-1", "attempt": 2}

    assert deliver(record(body)) == []

    job = core.jobs.get("job-1")
    assert (job.status, job.attempt) == (JobStatus.FAILED, 2)


def test_no_two_attempts_have_an_execution_in_common(core: Core, deliver: Deliver) -> None:
    deliver(good("shop", job_id="order"))
    core.jobs.fail_queued("order", StoredError(ErrorType.UNKNOWN_ERROR, "", 0, "Given up.", ""))
    core.jobs.retry(core.jobs.get("order"))

    deliver(good("shop", job_id="order", attempt=2))
    deliver(good("mart", job_id="order-2"))

    assert {
        execution["name"]: json.loads(execution["input"])["job"]["job_id"]
        for execution in core.executions()
    } == {"order": "order", "order-attempt-2": "order", "order-2": "order-2"}


@pytest.mark.parametrize("attempt", [2, 10, 9999])
def test_what_names_a_later_attempt_fits_and_is_no_job_s_id(attempt: int) -> None:
    name = execution_name("x" * 64, attempt)

    assert len(name) <= 80
    with pytest.raises(ValidationError, match="must not end in -attempt-"):
        TypeAdapter(JobId).validate_python(execution_name("x", attempt))


def test_a_later_attempt_of_no_job_is_refused_and_stores_none(core: Core, deliver: Deliver) -> None:
    assert deliver(good(message_id="message-1", attempt=2)) == []

    assert core.scan("JobsTable") == []
    assert core.executions() == []
    said = attributes(the_letter(core))
    assert (said["error_type"], said["reason"]) == (
        "INVALID_PAYLOAD",
        "attempt: there is no such job to begin attempt 2 of; leave attempt out of the message.",
    )


@pytest.mark.parametrize("job_id", [None, "order-1"])
def test_the_job_of_a_first_attempt_is_read_only_where_the_message_names_it(
    core: Core, deliver: Deliver, job_id: str | None
) -> None:
    core.calls.clear()

    deliver(good(**({"job_id": job_id} if job_id else {})))

    calls = [name for name, _ in core.calls if name.startswith("dynamodb.")]
    reads = ["dynamodb.GetItem"] if job_id else []
    # And how many jobs wait for a slot.
    assert calls == [*reads, "dynamodb.TransactWriteItems", "dynamodb.Query"]


@pytest.mark.parametrize("well", [True, False])
def test_a_message_whose_job_has_ended_is_acknowledged_without_an_execution(
    core: Core, deliver: Deliver, *, well: bool
) -> None:
    message = good(message_id="message-1")
    deliver(message)
    job = core.jobs.get("message-1")
    core.jobs.start_stage(job, "INITIALIZING", 0)
    if well:
        core.jobs.complete("message-1", "INITIALIZING", output={}, check="x", result={})
    else:
        error = StoredError(ErrorType.CONFLICT, "INITIALIZING", 1, "Not ours.", "")
        core.jobs.fail(core.jobs.get("message-1"), BadEnd([error]))
    core.calls.clear()

    assert deliver(message) == []

    assert core.calls_of("sfn.StartExecution") == []


PASSING = [
    ("sfn.StartExecution", "ThrottlingException", 400),
    ("dynamodb.GetItem", "InternalServerError", 500),
    ("dynamodb.TransactWriteItems", "ProvisionedThroughputExceededException", 400),
    ("sfn.StartExecution", "AccessDeniedException", 400),
]


@pytest.mark.parametrize(("operation", "code", "status"), PASSING)
def test_what_can_pass_is_delivered_again_for_that_message_alone(
    core: Core, deliver: Deliver, operation: str, code: str, status: int
) -> None:
    answer = aws_error(code, status)
    core.answers[operation] = lambda call: answer(call) if "shop-1" in str(call) else None
    # The read of a job, which the message has to name, names its id alone.
    batch = [
        good(f"shop-{number}", message_id=f"id-of-shop-{number}", job_id=f"job-of-shop-{number}")
        for number in range(3)
    ]

    assert deliver(*batch) == ["id-of-shop-1"]
    assert len(core.executions()) == 2

    core.answers.clear()
    assert deliver(batch[1]) == []
    assert len(core.executions()) == 3
    assert core.messages(core.dead_letter_url) == []


def test_an_answer_to_another_question_rejects_no_message(core: Core, deliver: Deliver) -> None:
    other = {"Item": {"job_id": {"S": "another"}, "record": {"S": "JOB"}}}
    core.answers["dynamodb.GetItem"] = lambda _call: (200, other)

    assert deliver(good(message_id="message-1", job_id="job-1")) == ["message-1"]

    core.answers.clear()
    assert core.messages(core.dead_letter_url) == []
    assert core.jobs.get_head("job-1") is None


def test_a_dead_letter_that_cannot_be_sent_is_not_lost(core: Core, deliver: Deliver) -> None:
    core.answers["sqs.SendMessage"] = times(1, aws_error("ServiceUnavailable", 503))
    poison = record({"job_type": "provision_project", "payload": {}}, "poison")

    assert deliver(poison) == ["poison"]
    assert core.jobs.get_head("poison") is None

    assert deliver(poison) == []
    assert attributes(the_letter(core))["job_id"] == "poison"
    assert core.jobs.get("poison").status is JobStatus.FAILED


def test_a_job_that_cannot_be_written_failed_is_written_by_the_next_delivery(
    core: Core, deliver: Deliver
) -> None:
    core.answers["dynamodb.TransactWriteItems"] = times(1, aws_error("InternalServerError", 500))
    poison = record({"job_type": "provision_project", "payload": {}}, "poison")

    assert deliver(poison) == ["poison"]
    assert deliver(poison) == []

    assert core.jobs.get("poison").status is JobStatus.FAILED


def test_a_batch_that_fails_whole_is_reported_message_by_message(
    core: Core, deliver: Deliver
) -> None:
    core.answers["sfn.StartExecution"] = aws_error("ThrottlingException")
    batch = [good(message_id=f"message-{number}") for number in range(3)]

    assert sorted(deliver(*batch)) == ["message-0", "message-1", "message-2"]


def test_every_line_of_a_batch_carries_its_own_job_and_project(
    core: Core, deliver: Deliver, logged: LogLines
) -> None:
    failing = aws_error("ThrottlingException")
    core.answers["sfn.StartExecution"] = lambda call: (
        failing(call) if "shop-1" in call["input"] else None
    )
    deliver(*(good(f"shop-{number}", message_id=f"message-{number}") for number in range(3)))

    lines = logged()

    assert {(line["job_id"], line["project_id"], line["message"]) for line in lines} == {
        ("message-0", "shop-0", "job started"),
        ("message-1", "shop-1", "message not dispatched"),
        ("message-2", "shop-2", "job started"),
    }
    (failed,) = (line for line in lines if line["job_id"] == "message-1")
    assert failed["cause"] == "StartExecution: ThrottlingException"


@pytest.mark.parametrize(
    ("message", "job_id"),
    [
        (good(message_id="message-1"), "message-1"),
        (good(message_id="message-1", job_id="job-1"), "job-1"),
    ],
)
def test_why_the_last_dispatch_failed_is_kept_under_the_job(
    core: Core, deliver: Deliver, message: Record, job_id: str
) -> None:
    core.answers["sfn.StartExecution"] = times(1, aws_error("AccessDeniedException"))
    deliver(message)
    core.answers["sfn.StartExecution"] = times(1, aws_error("ThrottlingException"))
    deliver(message)

    failed = core.jobs.get(job_id).dispatch_error
    assert failed is not None
    assert failed.cause == "StartExecution: ThrottlingException"
    # It is no change of the job.
    assert len(core.jobs.get(job_id).history) == 1


@pytest.mark.parametrize("code", ["StateMachineDoesNotExist", "StateMachineDeleting"])
def test_a_job_whose_state_machine_is_missing_fails_at_once_and_says_so(
    core: Core, deliver: Deliver, code: str
) -> None:
    core.answers["sfn.StartExecution"] = aws_error(code)
    message = good(message_id="message-1")

    assert deliver(message) == []

    job = core.jobs.get("message-1")
    machine = f"{STATE_MACHINE_ARN_PREFIX.rpartition(':')[2]}provision_project"
    sentence = f"job_type: there is no state machine {machine}; deploy it, then run the job again."
    cause = f"StartExecution: {code}"
    assert job.status is JobStatus.FAILED
    assert job.error == StoredError(ErrorType.JOB_TYPE_NOT_DEPLOYED, "", 0, sentence, cause)
    letter = the_letter(core)
    assert letter["Body"] == message["body"]
    assert attributes(letter) == {
        "job_id": "message-1",
        "error_type": "JOB_TYPE_NOT_DEPLOYED",
        "reason": sentence,
        "cause": cause,
    }


def test_once_its_state_machine_is_there_such_a_job_is_retried(
    core: Core, deliver: Deliver
) -> None:
    core.answers["sfn.StartExecution"] = aws_error("StateMachineDoesNotExist")
    deliver(good(message_id="message-1"))
    core.answers.clear()

    job = JobClient(
        registry=REGISTRY, store=core.jobs, queue=JobQueue(core.client("sqs"), core.queue_url)
    ).retry("message-1")
    (again,) = core.messages(core.queue_url)
    assert deliver(record(again["Body"])) == []

    assert (job.status, job.attempt) == (JobStatus.QUEUED, 2)
    assert [e["name"] for e in core.executions()] == ["message-1-attempt-2"]


def test_a_job_that_the_dispatcher_may_not_start_shows_it_while_it_is_queued(
    core: Core, deliver: Deliver
) -> None:
    """AWS answers so for a state machine that a role does not name, whether there is one or not."""
    core.answers["sfn.StartExecution"] = times(1, aws_error("AccessDeniedException"))
    message = good(message_id="message-1")

    assert deliver(message) == ["message-1"]

    job = core.jobs.get("message-1")
    assert job.status is JobStatus.QUEUED
    assert job.error is None
    assert job.dispatch_error is not None
    assert job.dispatch_error.type is ErrorType.INSUFFICIENT_PERMISSIONS
    assert job.dispatch_error.message.startswith(
        "job_type: the dispatcher may not start the state machine "
    )

    assert deliver(message) == []
    core.jobs.start_stage(job, provision_project.INITIALIZING, 0)
    assert core.jobs.get("message-1").dispatch_error is None


def test_why_an_attempt_was_not_dispatched_is_not_shown_of_the_next(
    core: Core, deliver: Deliver
) -> None:
    core.answers["sfn.StartExecution"] = aws_error("AccessDeniedException")
    deliver(good(message_id="message-1"))
    error = StoredError(ErrorType.UNKNOWN_ERROR, "", 0, "Given up.", "")
    core.jobs.fail_queued("message-1", error)

    core.jobs.retry(core.jobs.get("message-1"))

    job = core.jobs.get("message-1")
    assert (job.status, job.dispatch_error) == (JobStatus.QUEUED, None)


def test_a_cause_that_cannot_be_kept_changes_nothing(core: Core, deliver: Deliver) -> None:
    core.answers["sfn.StartExecution"] = aws_error("ThrottlingException")
    core.answers["dynamodb.UpdateItem"] = aws_error("InternalServerError", 500)

    assert deliver(good(message_id="message-1")) == ["message-1"]


ENVIRONMENT = {
    "JOBS_TABLE": "JobsTable",
    "STATE_MACHINE_ARN_PREFIX": STATE_MACHINE_ARN_PREFIX,
    "REQUIRED_JOB_TYPES": "provision_project",
    "QUEUE_URL": "https://queue",
}


@pytest.fixture
def environment(core: Core, monkeypatch: pytest.MonkeyPatch) -> Core:
    """Set what the dispatcher's function reads."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DEAD_LETTER_QUEUE_URL", core.dead_letter_url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setattr(REGISTRY, "_handlers", dict(REGISTRY._handlers))
    aws.reset()
    return core


def test_the_dispatcher_does_not_start_without_its_required_handlers(
    environment: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUIRED_JOB_TYPES", "provision_project,send_mail")

    with pytest.raises(UnknownJobTypeError, match="send_mail"):
        composition.build()

    assert environment.calls == []
