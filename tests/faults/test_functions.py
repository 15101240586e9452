"""Faults in the functions beside the stages: put in at each of their calls in turn.

What a fault leaves undone, the next delivery does: of the message, of the stream's records, of the
reconciler's next look.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import pytest
from provisioner.errors import ErrorType
from provisioner.jobs.dispatch import Dispatcher, UndeliveredReceiver
from provisioner.jobs.events import EventPublisher
from provisioner.jobs.execution import ExecutionStatus
from provisioner.jobs.messages import DeadLetterQueue
from provisioner.jobs.models import JobStatus, StoredError
from provisioner.jobs.registry import JobRegistry
from provisioner.runtime.observability import metrics
from support.calls import (
    Act,
    Call,
    Within,
    dropped,
    forbidden,
    met,
    nth_call,
    operation,
    throttled,
    unanswered,
    unreadable,
    unwell,
    unwell_after_all,
)
from support.core import (
    ACCOUNT,
    REGION,
    Core,
    deployment,
    provision_project_handler,
    take_one_request_at_a_time,
)
from support.dispatcher import dispatcher
from support.reconciler import client, ended, reconciler, waiting
from support.workflow import FunctionEnded

#: Deliveries after which the queue gives up.
_DELIVERIES = 5


def died(call: Call) -> Any:
    """End the process after the call has had its effect."""
    call.make()
    raise FunctionEnded("Runtime.ExitError")


ACTS: dict[str, Act] = {
    "before the effect": unwell,
    "after the effect": unwell_after_all,
    "after the effect, the process killed": died,
    "time-out": unanswered,
    "throttle": throttled,
    "permission denied": forbidden,
    "connection dropped": dropped,
    "wrong answer": unreadable,
}


#: Bodies that can never work; the first names a job type and a payload, so that it has a job.
POISON = (
    json.dumps({"job_type": "provision_project", "payload": {}}),
    json.dumps({"job_type": "send_mail"}),
    "{not json",
    "",
)


class Function:
    """A function, what it is handed, and what is there afterwards."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._letters: set[tuple[str, str]] = set()

    def deliver(self) -> bool:
        """Hand it over once; say whether it is done with that."""
        raise NotImplementedError

    def end(self) -> Any:
        """Return what is there, without what a second delivery may do twice."""
        raise NotImplementedError

    def letters(self) -> set[tuple[str, str]]:
        """Return the job and the body of each dead letter; what was received once is hidden."""
        self._letters |= {
            (letter["MessageAttributes"]["job_id"]["StringValue"], letter["Body"])
            for letter in self.core.messages(self.core.dead_letter_url)
        }
        return self._letters


class Dispatching(Function):
    """The dispatcher, with a message that works."""

    payload: ClassVar[dict[str, str]] = {"project_id": "shop", "region": REGION}

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        registry = JobRegistry()
        registry.register("provision_project", provision_project_handler)
        self._dispatcher: Dispatcher | UndeliveredReceiver = dispatcher(core, registry)
        self.record: dict[str, Any] = {
            "messageId": "message-1",
            "body": json.dumps({"job_type": "provision_project", "payload": self.payload}),
            "attributes": {"ApproximateReceiveCount": "5"},
            "messageAttributes": {},
            "eventSource": "aws:sqs",
        }

    def deliver(self) -> bool:
        return self.deliver_batch(self.record) == []

    def deliver_batch(self, *records: dict[str, Any]) -> list[Any]:
        """Hand over a batch; return what is to come again."""
        answer = self._dispatcher({"Records": list(records)}, None)
        return list(answer["batchItemFailures"])

    def end(self) -> Any:
        job = self.core.jobs.get("message-1")
        executions = [(e["name"], e["input"]) for e in self.core.executions()]
        history = [(entry.subject, entry.status) for entry in job.history]
        return job.status, job.error, history, executions, set(self.letters())


class Refusing(Dispatching):
    """The dispatcher, with a message that can never work."""

    payload: ClassVar[dict[str, str]] = {"project_id": "shop"}


class GivingUp(Dispatching):
    """The function dead_letters, with a message that was never dispatched."""

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        registry = JobRegistry()
        registry.register("provision_project", provision_project_handler)
        self._dispatcher = UndeliveredReceiver(
            registry=registry,
            store=core.jobs,
            dead_letters=DeadLetterQueue(core.client("sqs"), core.dead_letter_url),
        )


class Publishing(Function):
    """The function events, with the history of a job."""

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        core.client("events").create_event_bus(Name="jobs")
        self._publish = EventPublisher(
            core.jobs, core.client("events"), "jobs", completions={}, notices={}
        )
        core.new_job()
        self._records = [
            {
                "eventName": "INSERT",
                "dynamodb": {
                    "SequenceNumber": str(number),
                    "Keys": {name: item[name] for name in ("job_id", "record")},
                    "NewImage": item,
                },
            }
            for number, item in enumerate(
                item
                for item in core.client("dynamodb").scan(TableName="JobsTable")["Items"]
                if item["record"]["S"].startswith("HISTORY#")
            )
        ]
        core.calls.clear()

    def deliver(self) -> bool:
        answer = self._publish({"Records": self._records})
        return not answer["batchItemFailures"]

    def end(self) -> Any:
        calls = self.core.calls_of("eventbridge.PutEvents")
        return {
            (entry["DetailType"], json.loads(entry["Detail"])["job_id"])
            for call in calls
            for entry in call["Entries"]
        }


class Reconciling(Function):
    """The reconciler, with a job whose execution was stopped by hand."""

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        waiting(core)
        core.client("stepfunctions").stop_execution(
            executionArn=f"arn:aws:states:{REGION}:{ACCOUNT}:execution:test-provision_project:job-1"
        )

    def deliver(self) -> bool:
        # What may not have been sent is due after a while.
        self.core.clock.advance(120)
        reconciler(self.core).reconcile("job-1")
        return True

    def end(self) -> Any:
        job = self.core.jobs.get("job-1")
        project = self.core.projects.get("shop")
        assert project is not None
        return (
            job.status,
            job.error,
            job.other_errors,
            self.core.jobs.get(job.cleanup_job_id).status,
            project.locked_by == job.cleanup_job_id,
        )


FUNCTIONS: dict[str, type[Function]] = {
    "dispatcher/dispatching": Dispatching,
    "dispatcher/refusing": Refusing,
    "dead_letters": GivingUp,
    "events": Publishing,
    "reconciler": Reconciling,
}


@contextmanager
def prepared[Handed: Function](function: type[Handed]) -> Iterator[Handed]:
    """Make a deployment in which a function is about to be handed something."""
    with deployment() as core:
        queues = core.client("sqs")
        core.queue_url = queues.create_queue(QueueName="jobs")["QueueUrl"]
        core.dead_letter_url = queues.create_queue(QueueName="dead-letters")["QueueUrl"]
        core.make_state_machine("provision_project")
        metrics.clear_metrics()
        yield function(core)


def deliver_until_done(function: Function) -> None:
    for _ in range(_DELIVERIES):
        with suppress(Exception, FunctionEnded):
            if function.deliver():
                return
    raise AssertionError("it is not done")


@pytest.fixture(autouse=True)
def _as_dynamodb(monkeypatch: pytest.MonkeyPatch) -> None:
    take_one_request_at_a_time(monkeypatch)


@pytest.mark.parametrize(
    ("name", "act"),
    [
        pytest.param(name, act, id=f"{name}-{fault}", marks=pytest.mark.fault(fault, where=name))
        for name in FUNCTIONS
        for fault, act in ACTS.items()
    ],
)
def test_the_next_delivery_does_what_a_fault_left_undone(name: str, act: Act) -> None:
    with prepared(FUNCTIONS[name]) as undisturbed:
        deliver_until_done(undisturbed)
        expected = undisturbed.end()
    for number in itertools.count(1):
        with prepared(FUNCTIONS[name]) as function:
            with met(Within(nth_call(number), act), ignored=()) as happened:
                deliver_until_done(function)
            if not happened:
                break
            assert function.end() == expected, (number, happened[0].operation)
    assert number > 1


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.fault("duplicate delivery", where=name))
        for name in FUNCTIONS
    ],
)
def test_twice_is_as_good_as_once(name: str) -> None:
    with prepared(FUNCTIONS[name]) as function:
        assert function.deliver()
        expected = function.end()
        assert function.deliver()
        assert function.end() == expected


def _always(act: Act) -> Within:
    """Let each StartExecution meet a fault before it has an effect."""
    return Within(operation("StartExecution"), act)


@pytest.mark.parametrize(
    ("act", "error_type", "cause"),
    [
        pytest.param(
            act,
            error_type,
            cause,
            id=fault,
            marks=pytest.mark.fault(fault, where="dispatcher/dispatching", lasting=True),
        )
        for fault, act, error_type, cause in (
            (
                "before the effect",
                unwell,
                ErrorType.UNKNOWN_ERROR,
                "StartExecution: InternalServerError",
            ),
            (
                "throttle",
                throttled,
                ErrorType.UNKNOWN_ERROR,
                "StartExecution: ThrottlingException",
            ),
            (
                "permission denied",
                forbidden,
                ErrorType.INSUFFICIENT_PERMISSIONS,
                "StartExecution: AccessDeniedException",
            ),
        )
    ],
)
def test_a_message_that_is_never_dispatched_fails_its_job_and_is_kept(
    act: Act, error_type: ErrorType, cause: str
) -> None:
    with prepared(Dispatching) as dispatching:
        for _ in range(_DELIVERIES):
            with met(_always(act), ignored=()) as happened:
                assert not dispatching.deliver()
            assert happened
        giving_up = GivingUp(dispatching.core)
        assert giving_up.deliver()
        status, error, _, executions, letters = giving_up.end()
        assert (status, executions) == (JobStatus.FAILED, [])
        assert error is not None
        assert (error.type, error.cause) == (error_type, cause)
        assert letters == {("message-1", dispatching.record["body"])}


# Deliveries from outside.


@pytest.mark.fault("reordering", where="dispatcher/dispatching")
def test_the_message_of_an_earlier_attempt_that_comes_late_starts_nothing() -> None:
    with prepared(Dispatching) as function:
        core = function.core
        assert function.deliver()
        core.jobs.fail_queued("message-1", StoredError(ErrorType.UNKNOWN_ERROR, "", 0, "Lost.", ""))
        core.jobs.retry(core.jobs.get("message-1"))
        late, body = function.record, json.loads(function.record["body"])
        function.record = late | {"body": json.dumps(body | {"job_id": "message-1", "attempt": 2})}
        # The later attempt's message supersedes the earlier one's.
        assert function.deliver()
        before = function.end()
        function.record = late
        assert function.deliver()
        assert function.end() == before
        assert [name for name, _ in before[3]] == ["message-1-attempt-2", "message-1"] or len(
            before[3]
        ) == 2


@pytest.mark.fault("reordering", where="reconciler")
def test_an_event_that_comes_late_changes_nothing() -> None:
    with prepared(Reconciling) as function:
        late = ended(function.core, ExecutionStatus.RUNNING)
        assert function.deliver()
        before = function.end()
        reconciler(function.core).reconcile("job-1", late)
        assert function.end() == before


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
@pytest.mark.fault("delivery after the job is terminal", where="dispatcher/dispatching")
def test_a_message_whose_job_has_ended_starts_nothing(status: JobStatus) -> None:
    with prepared(Dispatching) as function:
        core = function.core
        assert function.deliver()
        job = core.jobs.get("message-1")
        if status is JobStatus.COMPLETED:
            core.jobs.start_stage(job, "INITIALIZING", 0)
            core.jobs.complete("message-1", "INITIALIZING", output={}, check="x", result={})
        elif status is JobStatus.FAILED:
            error = StoredError(ErrorType.UNKNOWN_ERROR, "", 0, "Lost.", "")
            core.jobs.fail_queued("message-1", error)
        else:
            client(core).cancel("message-1")
        before = function.end()
        assert before[0] is status
        core.calls.clear()
        assert function.deliver()
        assert function.end() == before
        assert core.calls_of("sfn.StartExecution") == []


@pytest.mark.fault("a poison message in a batch", where="dispatcher/refusing")
def test_a_poison_message_does_not_stop_the_others() -> None:
    with prepared(Dispatching) as function:
        payload = {"region": REGION}
        bodies = [
            {"job_type": "provision_project", "payload": payload | {"project_id": f"shop-{n}"}}
            for n in range(9)
        ]
        good = [
            function.record | {"messageId": f"good-{n}", "body": json.dumps(body)}
            for n, body in enumerate(bodies)
        ]
        poison = [
            function.record | {"messageId": f"poison-{n}", "body": body}
            for n, body in enumerate(POISON)
        ]
        for number, message in enumerate(poison):
            batch = [*good[:number], message, *good[number:]]
            assert function.deliver_batch(*batch) == []
            assert len(function.core.executions()) == len(good)
        assert {job_id for job_id, _ in function.letters()} == {m["messageId"] for m in poison}
        assert function.core.jobs.get("poison-0").status is JobStatus.FAILED
