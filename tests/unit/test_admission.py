"""Jobs are held back in the queue while too many wait for a slot, and none is lost by it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from provisioner.composition.job_handlers import register_job_types
from provisioner.drivers import dynamodb_lists
from provisioner.drivers.dynamodb_lists import LISTED_UNDER, SHARDS, partition_of
from provisioner.errors import ErrorType
from provisioner.jobs.admission import PAUSE_SECONDS, AdmissionControl
from provisioner.jobs.dispatch import HELD_SECONDS, Dispatcher
from provisioner.jobs.models import JobStatus, StoredError
from provisioner.jobs.records import WAITING_FOR_SLOT
from provisioner.jobs.registry import REGISTRY
from provisioner.jobs.slots import SLOTS
from provisioner.jobs.stage import JobInput, StageEvent
from provisioner.jobs.stage_store import StageStart
from provisioner.jobs.store import BadEnd
from provisioner.runtime.observability import metrics
from support.core import REGION, Answer, Core, LogLines, aws_error, new_cleanup
from support.dispatcher import dispatcher
from support.reconciler import QUEUED_LIMIT, reconciler, sweep, unchanged

QUERY, SEND, START = "dynamodb.Query", "sqs.SendMessage", "sfn.StartExecution"
DESCRIBE = "sfn.DescribeExecution"

#: How many jobs may wait here; of each partition that many are counted.
MOST = 8

FAILED = StoredError(ErrorType.CONFLICT, "INITIALIZING", 1, "Not ours.", "")


@dataclass
class Held:
    """A deployment of one slot, which is taken, and its dispatcher; its functions have 60 s."""

    core: Core
    dispatch: Dispatcher = field(init=False)
    slept: list[float] = field(default_factory=list)
    #: Whose jobs wait.
    waiting: dict[str, str] = field(default_factory=dict)
    #: What happens while the dispatcher sleeps.
    on_sleep: Callable[[], object] = lambda: None
    _began: float = 0.0

    def __post_init__(self) -> None:
        self.core.jobs.maximum_running_jobs = 1
        control = AdmissionControl(self.core.jobs, MOST, clock=self.seconds, sleep=self.sleep)
        register_job_types()
        self.dispatch = dispatcher(self.core, REGISTRY, admission=control)
        self.wait(0, "first")

    def seconds(self) -> float:
        return self.core.clock.at.timestamp()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.core.clock.advance(seconds)
        self.on_sleep()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, at the end of which those that wait have polled."""
        self.core.clock.advance(seconds)
        for job_id, share in self.waiting.items():
            self._look(job_id, share, retry_count=1)

    def wait(self, number: int, share: str = "ada") -> None:
        """Let a job look for a slot; the first one takes it."""
        job_id = f"waits-{number}"
        self.core.new_job(job_id)
        self._look(job_id, share, retry_count=0)
        if number > 0:
            self.waiting[job_id] = share

    def _look(self, job_id: str, share: str, retry_count: int) -> None:
        job = self.core.jobs.get(job_id)
        given = JobInput(job_id=job_id, job_type=job.job_type, payload=job.payload, attempt=1)
        event = StageEvent(job=given, stage="INITIALIZING", retry_count=retry_count)
        lease = timedelta(seconds=70)
        StageStart(self.core.jobs, event, lease, begins_job=True, share=share).write()

    def crowd(
        self, shares: Callable[[int], str] = lambda _number: "ada", *, first: int = 1
    ) -> None:
        """Let so many jobs wait that no more are let in."""
        for number in range(first, first + MOST):
            self.wait(number, shares(number))
        self.core.calls.clear()

    def disperse(self) -> None:
        """Let them wait no more."""
        for job_id in list(self.waiting):
            self.core.jobs.cancel_queued(self.core.jobs.get(job_id))
            del self.waiting[job_id]

    def deliver(self, *records: Mapping[str, Any]) -> list[str]:
        """Deliver a batch; return which messages are to come again by themselves."""
        metrics.clear_metrics()
        self.slept.clear()
        self._began = self.seconds()
        left = SimpleNamespace(
            get_remaining_time_in_millis=lambda: 1000 * (60 - self.seconds() + self._began)
        )
        answer = self.dispatch({"Records": list(records)}, left)
        return [str(one["itemIdentifier"]) for one in answer["batchItemFailures"]]

    def is_started(self, job_id: str) -> bool:
        return job_id in {call["name"] for call in self.core.calls_of(START)}

    def sent_again(self) -> list[Mapping[str, Any]]:
        return self.core.calls_of(SEND)


def message(owner: str = "ada", *, message_id: str = "message-1", **more: Any) -> dict[str, Any]:
    """Return a message as AWS Lambda hands it over."""
    payload = {"project_id": "shop", "region": REGION, "owner_id": owner}
    body = {"job_type": "provision_project", "payload": payload} | more
    return {
        "messageId": message_id,
        "body": json.dumps(body),
        "attributes": {"MessageGroupId": owner},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
    }


@pytest.fixture
def held(core: Core, monkeypatch: pytest.MonkeyPatch) -> Held:
    # The jobs' names here are in any partition; all of them are counted as one.
    monkeypatch.setattr(dynamodb_lists, "SHARDS", 1)
    return Held(core)


# --- How many wait --------------------------------------------------------------------------------


def test_about_how_many_wait_is_told_by_any_of_the_partitions(core: Core) -> None:
    deployment = Held(core)
    for number in range(1, 61):
        deployment.wait(number)
    listed = [item.get(LISTED_UNDER) for item in core.scan("JobsTable") if item["record"] == "JOB"]
    in_partition = {
        partition: listed.count(partition)
        for partition in dynamodb_lists.partitions_of(WAITING_FOR_SLOT)
    }
    assert sum(in_partition.values()) == 60
    core.calls.clear()

    estimates = {core.jobs.estimate_waiting(1_000) for _ in range(40)}

    assert estimates <= {SHARDS * count for count in in_partition.values()}
    assert len(estimates) > 1
    # No more is read than it takes to know that there are too many.
    assert core.jobs.estimate_waiting(20) == 20
    counted = core.calls_of(QUERY)[-1]
    assert (counted["Select"], counted["Limit"]) == ("COUNT", 5)


def test_a_job_is_listed_apart_as_long_as_it_waits_and_is_shown_as_queued(held: Held) -> None:
    core = held.core
    held.wait(1)

    def listed_under(job_id: str) -> str:
        items = core.scan("JobsTable")
        (head,) = (i for i in items if (i["job_id"], i["record"]) == (job_id, "JOB"))
        return str(head[LISTED_UNDER])

    assert listed_under("waits-1") == partition_of(WAITING_FOR_SLOT, "waits-1")
    job = core.jobs.get("waits-1")
    assert job.status is JobStatus.QUEUED
    newest = core.jobs.list_newest(10, status=JobStatus.QUEUED)[0]
    assert [one.job_id for one in newest] == ["waits-1"]
    assert set(core.listed()) == set(core.unfinished()) == {"waits-0", "waits-1"}
    assert set(core.jobs.find_ids("waits", among=9)) == {"waits-0", "waits-1"}

    core.jobs.fail(core.jobs.get("waits-0"), BadEnd([FAILED]))
    job_input = JobInput(job_id="waits-1", job_type=job.job_type, payload={}, attempt=1)
    event = StageEvent(job=job_input, stage="INITIALIZING", retry_count=1)
    StageStart(core.jobs, event, timedelta(seconds=70), begins_job=True).write()

    assert listed_under("waits-1") == partition_of("RUNNING", "waits-1")
    assert core.jobs.estimate_waiting(MOST) == 0


# --- Letting in -----------------------------------------------------------------------------------


def test_while_there_is_room_a_message_costs_one_call_more(held: Held) -> None:
    for number in range(1, MOST):
        held.wait(number)
    held.core.calls.clear()

    assert held.deliver(message()) == []

    assert held.is_started("message-1")
    assert [call["Select"] for call in held.core.calls_of(QUERY)] == ["COUNT"]
    assert (held.slept, held.sent_again()) == ([], [])


def test_the_messages_of_a_second_share_one_look(held: Held) -> None:
    batch = [message(message_id=f"message-{number}") for number in range(10)]
    control = AdmissionControl(held.core.jobs, clock=held.seconds, sleep=held.sleep)
    held.dispatch = dispatcher(held.core, REGISTRY, admission=control)
    held.core.calls.clear()
    held.deliver(*batch)
    assert len(held.core.calls_of(QUERY)) == 1
    held.core.clock.advance(1)
    held.deliver(message(message_id="later"))
    assert len(held.core.calls_of(QUERY)) == 2


def test_a_process_takes_a_part_of_the_room_by_one_look(held: Held) -> None:
    """Others look at the same time, and what was let in is counted once it waits."""
    control = AdmissionControl(held.core.jobs, 30, clock=held.seconds, sleep=held.sleep)
    assert [control.has_room("ada") for _ in range(5)] == [True] * 3 + [False] * 2
    held.core.clock.advance(1)
    for number in range(1, 29):
        held.wait(number)
    assert [control.has_room("ada") for _ in range(2)] == [True, False]


def test_jobs_that_were_only_stored_keep_nobody_out(held: Held) -> None:
    """Else a burst that was stored before its messages were sent would never begin."""
    for number in range(3 * MOST):
        held.core.new_job(f"stored-{number}")
    assert held.deliver(message()) == []
    assert held.is_started("message-1")
    assert held.core.jobs.slots().held_at is None


def test_a_message_is_held_back_while_too_many_jobs_wait(held: Held, logged: LogLines) -> None:
    held.crowd()
    began = held.seconds()

    assert held.deliver(message()) == []

    assert not held.core.calls_of(START)
    # It has waited for as long as the function can: a start has its time left.
    assert set(held.slept) == {PAUSE_SECONDS}
    assert 36 <= held.seconds() - began <= 40
    (again,) = held.sent_again()
    assert again["QueueUrl"] == held.core.queue_url
    assert (again["DelaySeconds"], again["MessageGroupId"]) == (HELD_SECONDS, "ada")
    job = held.core.jobs.get("message-1")
    assert json.loads(again["MessageBody"]) == {
        "job_id": "message-1",
        "job_type": "provision_project",
        "payload": job.payload,
        "attempt": 1,
    }
    # It is no failure, and the job is what it was.
    assert metrics.metric_set["MessagesHeldBack"]["Value"] == [1.0]
    assert "DispatchFailures" not in metrics.metric_set
    assert (job.status, job.dispatch_error) == (JobStatus.QUEUED, None)
    assert logged()[-1]["message"] == "message held back"


def test_a_message_is_let_in_once_there_is_room(held: Held) -> None:
    held.crowd()
    held.on_sleep = lambda: held.disperse() if len(held.slept) == 3 else None

    assert held.deliver(message()) == []

    assert held.is_started("message-1")
    assert (len(held.slept), held.sent_again()) == (3, [])


def test_twelve_hours_of_holds_lose_no_message(held: Held) -> None:
    """Each is a message of its own: no number of deliveries makes it a dead letter."""
    held.crowd()
    record = message()
    ends_at = held.core.clock() + timedelta(hours=12)
    while held.core.clock() < ends_at:
        if "waits-1" in held.waiting and held.core.clock() > ends_at - timedelta(hours=6):
            # No job waits for twelve hours; others have come instead.
            held.disperse()
            held.crowd(first=101)
        assert held.deliver(record) == []
        again = held.sent_again()[-1]
        record |= {"messageId": str(uuid.uuid4()), "body": again["MessageBody"]}
        assert len(again["MessageBody"]) < 1_000
        held.core.calls.clear()
        held.pass_time(3_600)
    held.disperse()

    assert held.deliver(record) == []

    assert held.is_started("message-1")
    assert held.core.messages(held.core.dead_letter_url) == []
    assert len(held.core.jobs.get("message-1").history) == 1


def test_a_message_that_cannot_be_sent_again_is_delivered_again(held: Held) -> None:
    held.crowd()
    held.core.answers[SEND] = aws_error("ServiceUnavailable", 503)

    assert held.deliver(message()) == ["message-1"]

    assert metrics.metric_set["DispatchFailures"]["Value"] == [1.0]


def test_a_message_whose_job_was_cancelled_is_not_held_back(held: Held) -> None:
    held.crowd()
    held.deliver(message())
    held.core.jobs.cancel_queued(held.core.jobs.get("message-1"))
    held.core.calls.clear()

    assert held.deliver(message(job_id="message-1")) == []
    assert held.sent_again() == []


# --- Who is never held back -----------------------------------------------------------------------


def test_a_job_of_another_owner_gets_in_while_a_burst_waits(held: Held) -> None:
    held.crowd()
    one, other = (message("bob", message_id=f"bob-{number}") for number in (1, 2))

    assert held.deliver(message(message_id="ada-1"), one, other) == []

    # Not all of a second burst before it is seen to wait, but one of each process.
    started = {call["name"] for call in held.core.calls_of(START)}
    assert started in ({"bob-1"}, {"bob-2"})
    # Nor once it is seen.
    held.wait(99, "bob")
    held.pass_time(60)
    held.core.calls.clear()
    assert held.deliver(message("bob", message_id="bob-3")) == []
    assert not held.is_started("bob-3")


def test_where_more_shares_wait_than_there_are_slots_all_are_held_back(held: Held) -> None:
    held.crowd(lambda number: f"owner-{number}")
    assert held.deliver(message("zoe")) == []
    assert not held.is_started("message-1")


def test_a_clean_up_is_never_held_back(held: Held) -> None:
    # Clean-ups are of this share, too.
    held.crowd(lambda _number: "")
    core = held.core
    parent = core.jobs.get("waits-0")
    core.make_state_machine("clean_up_project")
    core.jobs.fail(parent, BadEnd([FAILED], cleanup=new_cleanup(parent)))
    cleanup = core.jobs.get(core.jobs.get("waits-0").cleanup_job_id)
    assert cleanup.slot is not None
    record = message(job_id=cleanup.job_id, job_type=cleanup.job_type, payload=cleanup.payload)

    assert held.deliver(record) == []
    # Nor is one that is run again, and has no slot.
    core.jobs.fail(core.jobs.get(cleanup.job_id), BadEnd([FAILED]))
    core.jobs.retry(core.jobs.get(cleanup.job_id))
    again = message(
        job_id=cleanup.job_id, job_type=cleanup.job_type, payload=cleanup.payload, attempt=2
    )
    assert held.deliver(again) == []

    names = [call["name"] for call in core.calls_of(START)]
    assert names == [cleanup.job_id, f"{cleanup.job_id}-attempt-2"]
    assert held.slept == []


@pytest.mark.parametrize(
    "answer",
    [
        aws_error("ThrottlingException"),
        aws_error("AccessDeniedException"),
        aws_error("InternalServerError", 500),
    ],
)
@pytest.mark.parametrize("operation", [QUERY, "dynamodb.TransactWriteItems"])
def test_where_nobody_can_say_how_many_wait_jobs_are_let_in(
    held: Held, answer: Answer, operation: str, logged: LogLines
) -> None:
    held.crowd()
    core = held.core
    core.new_job("message-1", owner_id="ada")
    core.answers[operation] = answer

    assert held.deliver(message(job_id="message-1")) == []

    assert held.is_started("message-1")
    assert "jobs are let in without a look" in {line["message"] for line in logged()}


# --- What the reconciler does of it ---------------------------------------------------------------


def test_that_messages_are_held_back_is_stored_once_a_minute(held: Held) -> None:
    held.crowd()
    stored = []
    writes = held.core.answers
    writes["dynamodb.TransactWriteItems"] = lambda call: stored.append(
        [item["Put"]["Item"] for item in call["TransactItems"] if "Put" in item]
    )
    for number in range(3):
        held.deliver(message(message_id=f"message-{number}"))

    holds = [one for put in stored for one in put if one["job_id"] == {"S": SLOTS}]
    # Three times 39 seconds.
    assert len(holds) == 2
    held_at = held.core.jobs.slots().held_at
    assert held_at is not None
    assert held.core.clock() - held_at < timedelta(minutes=1)


def test_a_job_that_may_be_held_back_is_not_repaired(held: Held) -> None:
    """It may be in the queue behind those that are, and nobody has received it."""
    core = held.core
    core.new_job("job-1")
    held.crowd()
    repairer = reconciler(core)
    for number in range(8):
        held.pass_time(300)
        held.deliver(message(message_id=f"message-{number}"))
        with unchanged(core):
            repairer.look_after("job-1")

    # The last hold counts.
    core.clock.advance(QUEUED_LIMIT.total_seconds() - 61)
    with unchanged(core):
        repairer.look_after("job-1")
    core.clock.advance(61)
    assert "sent again" in repairer.look_after("job-1").repair
    core.clock.advance(QUEUED_LIMIT.total_seconds())
    assert "had not begun" in repairer.look_after("job-1").repair


def test_no_execution_is_looked_at_of_many_jobs_that_are_held_back(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provisioner.jobs.sweep._ALWAYS_LOOKED_AT", 0)
    monkeypatch.setattr("provisioner.jobs.sweep._ROUNDS_TO_A_LOOK", 10**9)
    core = held.core
    held.crowd()
    for number in range(20):
        core.new_job(f"job-{number}")
    core.clock.advance(2 * QUEUED_LIMIT.total_seconds())
    held.deliver(message())
    core.calls.clear()

    sweep(core)(lambda: 1.0)

    looked_at = {call["executionArn"].rpartition(":")[2] for call in core.calls_of(DESCRIBE)}
    assert not {one for one in looked_at if one.startswith("job-")}
