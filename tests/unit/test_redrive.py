"""What was never dispatched, and how people send it on its way again."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from provision_cli.main import main
from provisioner import api
from provisioner.composition import dead_letters as composition
from provisioner.errors import ErrorType, failure
from provisioner.jobs import redrive
from provisioner.jobs.client import JobClient
from provisioner.jobs.dispatch import UndeliveredReceiver
from provisioner.jobs.messages import DeadLetterQueue, JobQueue
from provisioner.jobs.models import Job, JobStatus, StoredError
from provisioner.jobs.records import NewJob
from provisioner.jobs.registry import REGISTRY
from provisioner.jobs.store import BadEnd, JobNotFoundError
from provisioner.runtime import aws
from provisioner.runtime.observability import metrics
from support.core import REGION, Core, LogLines, aws_error, times

PAYLOAD = {"project_id": "shop", "region": REGION}
ERROR = StoredError(ErrorType.CONFLICT, "INITIALIZING", 1, "It is not ours.", "")

type Record = dict[str, Any]


def message(message_id: str = "message-1", **body: Any) -> Record:
    """Return a message that works, as AWS Lambda hands it over."""
    return raw(json.dumps({"job_type": "provision_project", "payload": PAYLOAD} | body), message_id)


def raw(body: str, message_id: str = "message-1", group: str | None = None) -> Record:
    attributes = {"ApproximateReceiveCount": "1"}
    if group is not None:
        attributes["MessageGroupId"] = group
    return {"messageId": message_id, "body": body, "attributes": attributes}


@pytest.fixture
def record_it(core: Core) -> Callable[[Record], None]:
    """Return what takes a message that was never dispatched."""
    receiver = UndeliveredReceiver(
        registry=REGISTRY,
        store=core.jobs,
        dead_letters=DeadLetterQueue(core.client("sqs"), core.dead_letter_url),
    )
    # As for each message of a batch, so that no later test logs what this one was about.
    return lambda record: copy_context().run(receiver.receive, record)


type RecordIt = Callable[[Record], None]


#: Why a message was not dispatched.
THROTTLED = StoredError(
    ErrorType.UNKNOWN_ERROR,
    "",
    0,
    "The job could not be started.",
    "StartExecution: ThrottlingException",
)
DENIED = StoredError(
    ErrorType.INSUFFICIENT_PERMISSIONS,
    "",
    0,
    "job_type: the dispatcher may not start it.",
    "StartExecution: AccessDeniedException",
)


def letters(core: Core) -> list[dict[str, Any]]:
    return core.messages(core.dead_letter_url)


def the_letter(core: Core) -> tuple[str, dict[str, str]]:
    """Return the body and the attributes of the one dead letter."""
    (letter,) = letters(core)
    attributes = letter.get("MessageAttributes", {})
    return letter["Body"], {name: value["StringValue"] for name, value in attributes.items()}


def status_of(core: Core, job_id: str) -> tuple[JobStatus, int]:
    job = core.jobs.get(job_id)
    return job.status, job.attempt


# --- What was never dispatched --------------------------------------------------------------------


def test_the_job_fails_with_the_last_cause_and_the_message_is_kept_with_it(
    core: Core, record_it: RecordIt
) -> None:
    core.new_job("message-1")
    core.jobs.note_dispatch_failure("message-1", THROTTLED)
    undelivered = message()

    record_it(undelivered)

    job = core.jobs.get("message-1")
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert (job.error.type, job.error.stage, job.error.cause) == (
        ErrorType.UNKNOWN_ERROR,
        "",
        "StartExecution: ThrottlingException",
    )
    body, said = the_letter(core)
    assert body == undelivered["body"]
    assert said == {
        "job_id": "message-1",
        "error_type": "UNKNOWN_ERROR",
        "reason": job.error.message,
        "cause": "StartExecution: ThrottlingException",
    }
    assert set(metrics.metric_set) == {"JobsFailed", "MessagesUndelivered"}


def test_what_the_last_dispatch_knew_by_name_the_job_ends_with(
    core: Core, record_it: RecordIt
) -> None:
    core.new_job("message-1")
    core.jobs.note_dispatch_failure("message-1", DENIED)

    record_it(message())

    assert core.jobs.get("message-1").error == DENIED
    _, said = the_letter(core)
    assert (said["error_type"], said["reason"], said["cause"]) == (
        DENIED.type,
        DENIED.message,
        DENIED.cause,
    )


def test_without_a_kept_cause_that_is_said(core: Core, record_it: RecordIt) -> None:
    record_it(message())

    assert "without a word" in the_letter(core)[1]["cause"]


def test_the_group_of_a_message_goes_with_it(core: Core, record_it: RecordIt) -> None:
    record_it(raw(message()["body"], group="acme"))

    (letter,) = letters(core)
    assert letter["Attributes"]["MessageGroupId"] == "acme"


def test_a_job_that_was_never_dispatched_can_be_retried(core: Core, record_it: RecordIt) -> None:
    record_it(message())

    job = client(core).retry("message-1")

    assert (job.status, job.attempt, len(job.stages)) == (JobStatus.QUEUED, 2, 9)


def test_twice_is_as_good_as_once_for_the_job(core: Core, record_it: RecordIt) -> None:
    record_it(message())
    before = core.jobs.get("message-1")
    core.clock.advance()

    record_it(message())

    assert core.jobs.get("message-1") == before
    assert metrics.metric_set["JobsFailed"]["Value"] == [1]
    assert {letter["MessageAttributes"]["job_id"]["StringValue"] for letter in letters(core)} == {
        "message-1"
    }


def test_the_job_is_written_before_the_message_goes_on(
    core: Core, record_it: RecordIt, logged: LogLines
) -> None:
    core.answers["sqs.SendMessage"] = times(1, aws_error("ServiceUnavailable", 503))

    with pytest.raises(ClientError):
        record_it(message())
    assert status_of(core, "message-1") == (JobStatus.FAILED, 1)
    assert logged()[-1]["cause"] == "SendMessage: ServiceUnavailable"
    record_it(message())

    assert the_letter(core)[1]["job_id"] == "message-1"


def test_a_message_does_not_go_on_while_its_job_cannot_be_written(
    core: Core, record_it: RecordIt
) -> None:
    core.answers["dynamodb.TransactWriteItems"] = aws_error("InternalServerError", 500)

    with pytest.raises(ClientError):
        record_it(message())

    assert letters(core) == []


def test_the_attempt_that_could_not_be_started_fails_and_no_other(
    core: Core, record_it: RecordIt
) -> None:
    core.new_job()
    core.jobs.fail_queued("job-1", ERROR)
    client(core).retry("job-1")
    first = message(job_id="job-1", payload=core.jobs.get("job-1").payload)
    second = message(job_id="job-1", payload=core.jobs.get("job-1").payload, attempt=2)

    record_it(first)
    assert status_of(core, "job-1") == (JobStatus.QUEUED, 2)
    assert letters(core) == []
    core.clock.advance()
    record_it(second)

    assert status_of(core, "job-1") == (JobStatus.FAILED, 2)
    assert the_letter(core)[1]["error_type"] == "UNKNOWN_ERROR"


def _running(core: Core) -> None:
    core.jobs.start_stage(core.jobs.get("message-1"), "INITIALIZING", 0)


def _completed(core: Core) -> None:
    _running(core)
    core.jobs.complete("message-1", "INITIALIZING", output={}, check="x", result={})


def _failed(core: Core) -> None:
    _running(core)
    core.jobs.fail(core.jobs.get("message-1"), BadEnd([ERROR]))


def _failed_at_a_later_attempt(core: Core) -> None:
    core.jobs.fail_queued("message-1", ERROR)
    client(core).retry("message-1")
    core.clock.advance()
    core.jobs.fail_queued("message-1", ERROR, attempt=2)


def _cancelled(core: Core) -> None:
    core.jobs.cancel_queued(core.jobs.get("message-1"))


@pytest.mark.parametrize(
    "became", [_running, _completed, _failed, _failed_at_a_later_attempt, _cancelled]
)
def test_a_message_whose_job_does_without_it_changes_nothing(
    core: Core, record_it: RecordIt, became: Callable[[Core], None]
) -> None:
    core.new_job("message-1")
    became(core)
    before = core.jobs.get("message-1")

    record_it(message(payload=before.payload))

    assert core.jobs.get("message-1") == before
    assert letters(core) == []


def test_the_message_of_a_job_that_was_failed_because_it_did_not_begin_is_kept(
    core: Core, record_it: RecordIt
) -> None:
    payload = core.new_job("message-1").payload
    core.jobs.fail_queued("message-1", ERROR)  # as the reconciler does
    before = core.jobs.get("message-1")

    record_it(message(payload=payload))

    assert core.jobs.get("message-1") == before
    assert "could not be started" in the_letter(core)[1]["reason"]


def test_a_message_that_is_none_goes_on_with_its_reason_and_has_no_job(
    core: Core, record_it: RecordIt
) -> None:
    record_it(raw("not JSON"))

    body, said = the_letter(core)
    assert (body, said["error_type"], said["job_id"]) == (
        "not JSON",
        "INVALID_PAYLOAD",
        "message-1",
    )
    with pytest.raises(JobNotFoundError):
        core.jobs.get("message-1")


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_message_that_can_never_work_fails_its_job_with_the_real_reason(
    core: Core, record_it: RecordIt, *, is_stored: bool
) -> None:
    payload = {"project_id": "shop"}
    if is_stored:
        core.jobs.create(NewJob("message-1", "provision_project", payload, ("INITIALIZING",)))

    record_it(message(payload=payload))

    job = core.jobs.get("message-1")
    assert (job.status, job.error and job.error.message) == (
        JobStatus.FAILED,
        "region: Field required.",
    )
    assert the_letter(core)[1]["reason"] == "region: Field required."


def test_a_message_that_names_the_job_of_another_touches_nothing_of_it(
    core: Core, record_it: RecordIt
) -> None:
    core.new_job("taken", project_id="another")
    before = core.jobs.get("taken")

    record_it(message(job_id="taken"))

    assert core.jobs.get("taken") == before
    assert "another job has this id" in the_letter(core)[1]["reason"]


def test_a_later_attempt_of_no_job_stores_none(core: Core, record_it: RecordIt) -> None:
    record_it(message(attempt=2))

    assert core.scan("JobsTable") == []
    assert the_letter(core)[1]["reason"].startswith("attempt: there is no such job")


def test_the_function_names_the_messages_that_it_could_not_record(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "JOBS_TABLE": "JobsTable",
        "DEAD_LETTER_QUEUE_URL": core.dead_letter_url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    aws.reset()
    run = composition.build()
    # SQS takes a message with its attributes up to 1 MiB; moto looks at the body alone.
    too_large = {"Records": [message("good"), raw("x" * (1024 * 1024 + 1), "too-large")]}

    assert run(too_large, None) == {"batchItemFailures": [{"itemIdentifier": "too-large"}]}

    assert core.jobs.get("good").status is JobStatus.FAILED
    assert the_letter(core)[1]["job_id"] == "good"
    aws.reset()


# --- People ---------------------------------------------------------------------------------------


def client(core: Core) -> JobClient:
    return JobClient(
        registry=REGISTRY, store=core.jobs, queue=JobQueue(core.client("sqs"), core.queue_url)
    )


@pytest.fixture
def people(core: Core, connected: object, monkeypatch: pytest.MonkeyPatch) -> Core:
    """Let the public API and the program talk to the deployment."""
    assert connected
    monkeypatch.setattr(redrive, "_WAIT_SECONDS", 0)
    outputs = {
        "JobsTableName": "JobsTable",
        "ProjectsTableName": "ProjectsTable",
        "ApiKeysTableName": "ApiKeysTable",
        "QuotasTableName": "QuotasTable",
        "QueueUrl": core.queue_url,
        "DeadLetterQueueUrl": core.dead_letter_url,
        "ClusterParameterPrefix": "/test/clusters",
        "ResourcePrefix": "nm",
        "ResourceNamespace": "test-123456789012",
        "DefaultProjectQuota": "7",
        "JobRetentionDays": "91",
        "MaximumRunningJobs": "7",
        "StateMachineArnPrefix": "arn:",
        "SnapshotsBucketName": "snapshots",
    }
    core.client("cloudformation").create_stack(
        StackName="provisioner",
        TemplateBody=json.dumps(
            {
                "Resources": {"Other": {"Type": "AWS::SQS::Queue"}},
                "Outputs": {name: {"Value": value} for name, value in outputs.items()},
            }
        ),
    )
    return core


def run(*arguments: str) -> int:
    return main(["--stack", "provisioner", "--region", REGION, "dlq", *arguments])


def waiting(core: Core) -> int:
    """Return how many dead letters can be received."""
    attributes = core.client("sqs").get_queue_attributes(
        QueueUrl=core.dead_letter_url, AttributeNames=["ApproximateNumberOfMessages"]
    )["Attributes"]
    return int(attributes["ApproximateNumberOfMessages"])


def sent(core: Core) -> list[dict[str, Any]]:
    """Return the messages that wait in the queue of jobs."""
    return core.messages(core.queue_url)


def undelivered_jobs(core: Core, record_it: RecordIt, *job_ids: str) -> list[Job]:
    for job_id in job_ids:
        record_it(message(job_id))
        core.clock.advance()
    return [core.jobs.get(job_id) for job_id in job_ids]


def forget(core: Core, job_id: str) -> None:
    """Let a job's record be gone, as where it could never be written."""
    for item in core.scan("JobsTable"):
        if item["job_id"] == job_id:
            key = {name: {"S": item[name]} for name in ("job_id", "record")}
            core.client("dynamodb").delete_item(TableName="JobsTable", Key=key)


def test_dead_letters_are_read_whole_and_stay_where_they_are(
    people: Core, record_it: RecordIt
) -> None:
    jobs = undelivered_jobs(people, record_it, *(f"job-{number:02}" for number in range(12)))

    for _ in range(2):
        found = api.list_dead_letters()
        assert sorted(letter.job_id for letter in found) == [job.job_id for job in jobs]
        assert waiting(people) == 12
    assert found[0].error_type == "UNKNOWN_ERROR"
    assert jobs[0].error is not None
    assert found[0].reason == jobs[0].error.message


def test_a_letter_that_came_without_a_word_is_its_message_s_job(people: Core) -> None:
    message_id = people.client("sqs").send_message(
        QueueUrl=people.dead_letter_url, MessageBody=message()["body"]
    )["MessageId"]

    (letter,) = api.list_dead_letters()

    assert (letter.job_id, letter.message_id, letter.reason) == (message_id, message_id, "")


def test_a_letter_is_sent_back_with_its_old_job_id_and_its_group(
    people: Core, record_it: RecordIt
) -> None:
    record_it(raw(message()["body"], "message-1", group="acme"))
    forget(people, "message-1")

    (redriven,) = api.redrive_dead_letters()

    assert redriven.is_sent
    (back,) = sent(people)
    assert json.loads(back["Body"]) == json.loads(message(job_id="message-1")["body"])
    assert back["Attributes"]["MessageGroupId"] == "acme"
    assert letters(people) == []


def test_a_letter_that_names_its_job_is_sent_back_as_it_is(
    people: Core, record_it: RecordIt
) -> None:
    undelivered = message(job_id="job-1")
    record_it(undelivered)
    forget(people, "job-1")

    api.redrive_dead_letters("job-1")

    (back,) = sent(people)
    assert back["Body"] == undelivered["body"]


@pytest.mark.parametrize("body", ["not JSON", "[1, 2]"])
def test_a_letter_that_is_no_message_is_sent_back_as_it_is(
    people: Core, record_it: RecordIt, body: str
) -> None:
    record_it(raw(body))

    assert [one.is_sent for one in api.redrive_dead_letters()] == [True]

    assert [back["Body"] for back in sent(people)] == [body]


def test_a_job_that_has_ended_is_not_run_again_unless_asked(
    people: Core, record_it: RecordIt
) -> None:
    (before,) = undelivered_jobs(people, record_it, "job-1")

    (stays,) = api.redrive_dead_letters("job-1")

    assert (stays.is_sent, stays.note.startswith("job job-1: is FAILED")) == (False, True)
    assert (sent(people), waiting(people)) == ([], 1)
    assert people.jobs.get("job-1") == before

    (runs,) = api.redrive_dead_letters("job-1", again=True)

    assert (runs.is_sent, runs.note) == (True, "job job-1: runs again, as attempt 2.")
    assert waiting(people) == 0
    (back,) = sent(people)
    assert json.loads(back["Body"])["attempt"] == 2
    assert status_of(people, "job-1") == (JobStatus.QUEUED, 2)


def test_a_second_letter_of_a_job_that_runs_again_does_no_harm(
    people: Core, record_it: RecordIt
) -> None:
    record_it(message("job-1"))
    record_it(message("job-1"))

    assert [one.is_sent for one in api.redrive_dead_letters(again=True)] == [True, True]

    assert sorted(json.loads(back["Body"]).get("attempt", 1) for back in sent(people)) == [1, 2]
    assert status_of(people, "job-1") == (JobStatus.QUEUED, 2)


def test_what_cannot_run_again_stays_and_says_why(people: Core, record_it: RecordIt) -> None:
    record_it(message("refused", payload={}))
    letter_of_completed = message("message-1")
    people.new_job("message-1")
    record_it(letter_of_completed)
    client(people).retry("message-1")
    people.jobs.start_stage(people.jobs.get("message-1"), "INITIALIZING", 0)
    people.jobs.complete("message-1", "INITIALIZING", attempt=2, output={}, check="x", result={})

    redriven = {one.letter.job_id: one for one in api.redrive_dead_letters(again=True)}

    assert not any(one.is_sent for one in redriven.values())
    assert "was refused as it came" in redriven["refused"].note
    assert "is COMPLETED" in redriven["message-1"].note
    assert waiting(people) == 2


@pytest.mark.parametrize(
    "payload", [{"project_id": "another", "region": REGION}, {"project_id": "shop"}]
)
@pytest.mark.parametrize("is_over", [True, False])
def test_a_letter_that_names_the_job_of_another_stays_and_does_nothing_to_it(
    people: Core,
    record_it: RecordIt,
    capsys: pytest.CaptureFixture[str],
    payload: dict[str, str],
    *,
    is_over: bool,
) -> None:
    people.new_job("taken")
    if is_over:
        people.jobs.fail_queued("taken", ERROR)
    before = people.jobs.get("taken")
    record_it(message("message-1", job_id="taken", payload=payload))

    for arguments in (("--all", "--again"), ("--job", "taken", "--again")):
        assert run("redrive", *arguments) == 1
        assert capsys.readouterr().out.endswith(
            "job taken: the message names another job's id; send it without job_id.\n"
        )

    assert people.jobs.get("taken") == before
    assert (sent(people), waiting(people)) == ([], 1)


def test_a_letter_that_names_its_job_runs_it_again_as_a_person_wrote_it(
    people: Core, record_it: RecordIt
) -> None:
    record_it(message(job_id="job-1"))
    assert people.jobs.get("job-1").payload != PAYLOAD

    (runs,) = api.redrive_dead_letters("job-1", again=True)

    assert runs.is_sent
    assert status_of(people, "job-1") == (JobStatus.QUEUED, 2)


def test_only_the_letters_of_a_job_are_sent_back(people: Core, record_it: RecordIt) -> None:
    undelivered_jobs(people, record_it, "job-1", "job-2", "job-3")

    api.redrive_dead_letters("job-2", again=True)

    assert sorted(letter.job_id for letter in api.list_dead_letters()) == ["job-1", "job-3"]


def test_letters_that_could_not_be_sent_are_still_there(people: Core, record_it: RecordIt) -> None:
    undelivered_jobs(people, record_it, "job-1", "job-2")
    for job_id in ("job-1", "job-2"):
        forget(people, job_id)
    people.answers["sqs.SendMessage"] = aws_error("ServiceUnavailable", 503)
    people.calls.clear()

    with pytest.raises(ClientError):
        _letters(people).redrive(None, again=False)

    assert waiting(people) == 2
    assert people.calls_of("sqs.DeleteMessage") == []


def put(core: Core, count: int) -> None:
    queue = DeadLetterQueue(core.client("sqs"), core.dead_letter_url)
    for number in range(count):
        queue.send("x", job_id=f"job-{number}", reason=failure(ErrorType.INVALID_PAYLOAD, "No."))


def test_a_letter_that_comes_back_ends_the_reading(
    people: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(people, 3)
    monkeypatch.setattr(redrive, "_LOOK_SECONDS", 0)
    people.calls.clear()

    assert len(_letters(people).read()) == 3
    assert len(people.calls_of("sqs.ReceiveMessage")) == 2


@pytest.mark.parametrize("code", ["InvalidParameterValue", "ReceiptHandleIsInvalid"])
def test_a_hold_that_has_run_out_hides_nothing(people: Core, code: str) -> None:
    put(people, 2)
    for operation in ("sqs.ChangeMessageVisibility", "sqs.DeleteMessage"):
        people.answers[operation] = aws_error(code, 400)

    assert [one.is_sent for one in _letters(people).redrive(None, again=False)] == [True, True]
    put(people, 1)
    assert len(_letters(people).read()) == 1
    people.answers["sqs.ChangeMessageVisibility"] = aws_error("AccessDenied", 403)
    put(people, 1)
    with pytest.raises(ClientError):
        _letters(people).read()


def _letters(core: Core) -> redrive.DeadLetters:
    return redrive.DeadLetters(core.client("sqs"), core.dead_letter_url, client(core))


# --- The program ----------------------------------------------------------------------------------


def test_the_program_lists_shows_and_sends_back(
    people: Core, record_it: RecordIt, capsys: pytest.CaptureFixture[str]
) -> None:
    people.new_job("job-1")
    people.jobs.note_dispatch_failure("job-1", THROTTLED)
    (job,) = undelivered_jobs(people, record_it, "job-1")
    capsys.readouterr()

    assert run("list") == 0
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split()[:2] == ["message", "job"]
    assert job.error is not None
    assert line.endswith(f"UNKNOWN_ERROR  {job.error.message}")
    message_id = line.split()[0]

    assert run("show", message_id) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["job_id"], shown["cause"], shown["body"]) == (
        "job-1",
        "StartExecution: ThrottlingException",
        message("job-1")["body"],
    )

    assert run("redrive", "--job", "job-1") == 1
    captured = capsys.readouterr()
    assert "job job-1: is FAILED" in captured.out
    assert captured.err == (
        "provision: 1 of 1 dead letters stay where they are; --again runs jobs again that have "
        "failed or were cancelled.\n"
    )

    assert run("redrive", "--all", "--again") == 0
    assert capsys.readouterr().out == f"{message_id}  job job-1: runs again, as attempt 2.\n"

    assert run("list") == 0
    assert capsys.readouterr().out == "There are no dead letters.\n"
    assert run("redrive", "--all") == 0


def test_the_program_shows_what_it_has_sent_where_the_rest_fails(
    people: Core, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(people, 2)
    call, calls = vars(BaseClient)["_make_api_call"], itertools.count()

    def refuse_the_second(client: BaseClient, operation: str, parameters: Any) -> Any:
        if operation == "SendMessage" and next(calls):
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "No."}}, operation)
        return call(client, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", refuse_the_second)
    assert run("redrive", "--all") == 1

    captured = capsys.readouterr()
    (line,) = captured.out.splitlines()
    assert line.endswith("is sent again.")
    assert "AccessDenied" in captured.err
    assert waiting(people) == 1


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("redrive",), "--job or --all: give one of the two."),
        (("redrive", "--all", "--job", "job-1"), "--job or --all: give one of the two."),
        (("redrive", "--job", "job-1"), "--job: there is no dead letter of job job-1."),
        (("show", "message-1"), "message message-1: there is no such dead letter."),
    ],
)
def test_the_program_says_what_is_not_there(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert run(*arguments) == 1
    assert capsys.readouterr().err == f"provision: {said}\n"
