"""Slots: never more jobs at once than there are, and no share keeps the others out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from provisioner.drivers import dynamodb
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.definition import JobDefinition, Parallel, Stage
from provisioner.jobs.execution import job_input
from provisioner.jobs.failure import FailurePolicy, FailureRecorder
from provisioner.jobs.in_process import InProcessRun
from provisioner.jobs.models import Job, JobStatus, StageRecord, StageStatus, StoredError
from provisioner.jobs.records import NewJob
from provisioner.jobs.retries import SLOT_ERROR, SLOT_RETRY, SLOT_WAIT_SECONDS
from provisioner.jobs.slots import SLOTS, SlotUse, line_places, preferred_slot
from provisioner.jobs.stage import StageOutcome
from provisioner.jobs.stage_run import RECORD_FAILURE, SlotWaiting, StageRunner
from provisioner.jobs.store import BadEnd
from provisioner.provisioning.functions import LIFECYCLE
from provisioner.runtime.observability import metrics
from pydantic import BaseModel
from support.core import Answer, Core, aws_error, meanwhile, new_cleanup

GET, QUERY, TRANSACTION = "dynamodb.GetItem", "dynamodb.Query", "dynamodb.TransactWriteItems"


class Payload(BaseModel):
    """Names the share that a job is of."""

    project_id: str = "shop"
    share: str = ""


def _stage(name: str) -> Stage:
    return Stage(name, "It holds.", function=LIFECYCLE, code="nowhere:at_all")


FIRST, LEFT, RIGHT, LAST = map(_stage, ("FIRST", "LEFT", "RIGHT", "LAST"))


def _definition(*steps: Stage | Parallel) -> JobDefinition[Payload]:
    """Stand in for the job type whose name the deployment of the tests knows."""
    return JobDefinition(
        name="provision_project",
        meaning="Takes a slot.",
        payload_model=Payload,
        message_group=lambda payload: payload.share or None,
        steps=steps,
        example={},
    )


class Deployment:
    """Jobs of one type that take so many slots, of which a test runs the functions itself."""

    def __init__(
        self, core: Core, maximum: int, steps: Iterable[Stage | Parallel] = (FIRST, LAST)
    ) -> None:
        self.core = core
        self.jobs = core.jobs
        self.jobs.maximum_running_jobs = maximum
        self.definition = _definition(*steps)
        self.definitions = {self.definition.name: self.definition}
        code = dict.fromkeys(map(str, self.definition.stages), lambda _job: StageOutcome(check="x"))
        self.runner = StageRunner(
            self.jobs, {self.definition.name: code}, definitions=self.definitions
        )

    def create(self, *job_ids: str, share: str = "") -> None:
        for job_id in job_ids:
            payload = {"project_id": "shop", "share": share}
            stages = self.definition.stages
            self.jobs.create(NewJob(job_id, self.definition.name, payload, stages))

    def event(self, job_id: str, stage: str, retry_count: int = 0) -> dict[str, Any]:
        job = self.jobs.get(job_id)
        of_job = {
            "job_id": job_id,
            "job_type": job.job_type,
            "payload": job.payload,
            "attempt": job.attempt,
        }
        return {"job": of_job, "stage": str(stage), "retry_count": retry_count}

    def run(self, job_id: str, stage: str = FIRST, retry_count: int = 0) -> Any:
        """Run a stage as its function does; return its status, or what it raises."""
        metrics.clear_metrics()
        event = self.event(job_id, stage, retry_count)
        self.core.calls.clear()
        try:
            return self.runner(event)["status"]
        except (ProvisioningError, SlotWaiting) as raised:
            return raised

    def poll(self, job_id: str, stage: str = FIRST, *, after: float = 60) -> Any:
        """Run the first stage of a job that waits once more."""
        self.core.clock.advance(after)
        return self.run(job_id, stage, retry_count=1)

    def end(self, job_id: str) -> None:
        """Let a job that has begun end well."""
        assert self.run(job_id, LAST) == "SUCCEEDED"

    def first(self, job_id: str, stage: str = FIRST) -> StageRecord:
        found = self.jobs.get(job_id).stage(stage)
        assert found is not None
        return found

    def holders(self) -> dict[int, str]:
        return dict(self.jobs.slots().holders)

    def fail(self, job_id: str, *, with_cleanup: bool = False) -> Job:
        job = self.jobs.get(job_id)
        error = StoredError(ErrorType.CONFLICT, "FIRST", 1, "It did not.", "")
        self.jobs.fail(job, BadEnd([error], cleanup=new_cleanup(job) if with_cleanup else None))
        return self.jobs.get(job_id)


@pytest.fixture
def one(core: Core) -> Deployment:
    """A deployment of one slot, which job-1 has, and for which job-2 waits."""
    deployment = Deployment(core, 1)
    deployment.create("job-1", "job-2")
    assert deployment.run("job-1") == "SUCCEEDED"
    assert isinstance(deployment.run("job-2"), SlotWaiting)
    return deployment


# --- Beginning ------------------------------------------------------------------------------------


def test_a_job_that_nobody_waits_beside_begins_without_a_read(core: Core) -> None:
    deployment = Deployment(core, 100)
    deployment.create("job-1")

    assert deployment.run("job-1") == "SUCCEEDED"

    assert core.calls_of(GET) == core.calls_of(QUERY) == []
    assert len(core.calls_of(TRANSACTION)) == 2
    job = deployment.jobs.get("job-1")
    assert (job.status, job.slot) == (JobStatus.RUNNING, preferred_slot("job-1", 100))
    assert deployment.holders() == {job.slot: "job-1"}


def test_an_end_releases_the_slot_in_its_transaction(core: Core) -> None:
    deployment = Deployment(core, 100)
    deployment.create("job-1")
    deployment.run("job-1")

    deployment.end("job-1")

    assert len(core.calls_of(TRANSACTION)) == 2
    assert (deployment.holders(), deployment.jobs.get("job-1").slot) == ({}, None)


def test_a_slot_that_was_released_a_moment_ago_is_taken_after_a_look(core: Core) -> None:
    """Somebody may wait for it."""
    deployment = Deployment(core, 1)
    deployment.create("job-1", "job-2", "job-3")
    deployment.run("job-1")
    deployment.end("job-1")

    assert deployment.run("job-2") == "SUCCEEDED"
    # The job, and who has the slots.
    assert len(core.calls_of(QUERY)) == 2

    deployment.end("job-2")
    core.clock.advance(2 * SLOT_RETRY.max_delay_seconds)
    assert deployment.run("job-3") == "SUCCEEDED"
    assert core.calls_of(QUERY) == []


def test_a_job_whose_preferred_slot_is_taken_takes_another_and_ends(core: Core) -> None:
    deployment = Deployment(core, 3)
    names = ["job-1", "job-2", "job-3"]
    deployment.create(*names)

    assert [deployment.run(name) for name in names] == ["SUCCEEDED"] * 3
    assert sorted(deployment.holders()) == [0, 1, 2]
    for name in names:
        deployment.end(name)
        assert deployment.jobs.get(name).status is JobStatus.COMPLETED
    assert deployment.holders() == {}


# --- Waiting --------------------------------------------------------------------------------------


def test_a_job_without_a_slot_waits_and_is_shown_so(one: Deployment) -> None:
    began = one.core.clock()

    job = one.jobs.get("job-2")

    assert job.status is JobStatus.QUEUED
    (wait,) = job.waits
    assert wait.stage == FIRST
    assert wait.waiting_for == "1 jobs run at once at most, and it is not its turn yet."
    assert (wait.since, (wait.until - wait.since).total_seconds()) == (began, SLOT_WAIT_SECONDS)
    assert one.first("job-2").attempt == 0
    assert [(e.subject, e.status) for e in job.history if e.subject != "JOB"] == [
        ("FIRST", "WAITING")
    ]
    assert metrics.metric_set["SlotWait"]["Value"] == [0.0]


def test_a_poll_reads_and_keeps_its_place_in_the_line(one: Deployment) -> None:
    assert isinstance(one.poll("job-2"), SlotWaiting)

    # The job, and who has the slots.
    assert len(one.core.calls_of(QUERY)) == 2
    assert len(one.core.calls_of(TRANSACTION)) == 1
    assert metrics.metric_set["SlotWait"]["Value"] == [60_000.0]
    assert len([e for e in one.jobs.get("job-2").history if e.status == "WAITING"]) == 1


def test_a_job_that_waited_begins_with_its_first_attempt(one: Deployment) -> None:
    one.end("job-1")

    assert one.poll("job-2") == "SUCCEEDED"

    record = one.first("job-2")
    assert (record.status, record.attempt, record.retries_before) == (StageStatus.SUCCEEDED, 1, 1)
    assert (record.waiting_for, record.waiting_since, record.waits_until) == ("", None, None)
    assert one.jobs.slots().line == {}
    job = one.jobs.get("job-2")
    assert (job.status, job.waits, one.holders()) == (JobStatus.RUNNING, (), {0: "job-2"})
    assert [e.status for e in job.history if e.subject == "FIRST"] == [
        "WAITING",
        "RUNNING",
        "SUCCEEDED",
    ]


@pytest.mark.parametrize("name", ["StageEnded", SLOT_ERROR])
def test_a_job_that_has_waited_for_too_long_fails_with_timeout(one: Deployment, name: str) -> None:
    """By the clock; should the retrier end first, the step that records the failure says so."""
    raised = one.poll("job-2", after=SLOT_WAIT_SECONDS)

    assert type(raised).__name__ == "StageEnded"
    branch = {"ok": False, "stage": "FIRST", "error": {"Error": name, "Cause": ""}}
    event = one.event("job-2", RECORD_FAILURE) | {"branches": [branch]}
    FailureRecorder(one.jobs, {one.definition.name: FailurePolicy()})(event)
    job = one.jobs.get("job-2")
    assert job.error is not None
    assert (job.status, job.error.type, job.error.stage) == (JobStatus.FAILED, "TIMEOUT", "FIRST")
    assert "waited for 43200 seconds in vain" in job.error.message
    assert (job.waits, one.holders()) == ((), {0: "job-1"})


def test_the_retrier_outlasts_the_longest_wait() -> None:
    assert SlotWaiting.__name__ == SLOT_ERROR
    delays = (SLOT_RETRY.longest_delay(n) or 0 for n in range(1, SLOT_RETRY.attempts_in_all))
    # With full jitter a wait is half as long on average.
    assert sum(delays) / 2 > 1.05 * SLOT_WAIT_SECONDS
    assert SLOT_RETRY.max_delay_seconds <= 60


def test_a_job_that_waits_is_cancelled_at_once(one: Deployment) -> None:
    one.jobs.cancel_queued(one.jobs.get("job-2"))

    job = one.jobs.get("job-2")

    assert (job.status, job.waits) == (JobStatus.CANCELLED, ())
    error = one.first("job-2").error
    assert error is not None
    assert error.message.startswith("The job was cancelled while the stage waited: 1 jobs run")
    assert one.poll("job-2").type is ErrorType.JOB_CANCELLED
    one.end("job-1")
    # Its place in the line is kept for a while, and keeps nobody out.
    one.create("job-3", share="other")
    assert one.run("job-3") == "SUCCEEDED"


@pytest.mark.parametrize("retry_count", [0, 1])
def test_a_stage_beside_one_that_has_begun_the_job_needs_no_slot(
    core: Core, retry_count: int
) -> None:
    deployment = Deployment(core, 1, (Parallel("Both", ((LEFT,), (RIGHT,))), LAST))
    deployment.create("job-1", "job-2")
    assert deployment.run("job-1", LEFT) == "SUCCEEDED"
    for stage in (LEFT, RIGHT):
        assert isinstance(deployment.run("job-2", stage), SlotWaiting)
    assert deployment.run("job-1", RIGHT, retry_count) == "SUCCEEDED"
    deployment.end("job-1")

    assert [deployment.poll("job-2", stage) for stage in (LEFT, RIGHT)] == ["SUCCEEDED"] * 2
    deployment.end("job-2")


def test_a_job_in_someone_s_process_waits_for_its_turn(core: Core) -> None:
    deployment = Deployment(core, 1)
    deployment.create("job-1", "job-2")
    deployment.run("job-1")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        core.clock.advance(seconds)
        if len(slept) == 3:
            deployment.end("job-1")

    run = InProcessRun(
        deployment.definitions,
        StageRunner(
            deployment.jobs,
            {
                deployment.definition.name: dict.fromkeys(
                    ("FIRST", "LAST"), lambda _: StageOutcome()
                )
            },
            definitions=deployment.definitions,
            is_process=True,
        ),
        FailureRecorder(deployment.jobs, {}, is_process=True),
        sleep=sleep,
    )
    run(job_input(deployment.jobs.get("job-2"), 1))

    assert deployment.jobs.get("job-2").status is JobStatus.COMPLETED
    assert [seconds <= 2**n for n, seconds in enumerate(slept, 1)] == [True] * 3


# --- Throttling -----------------------------------------------------------------------------------

THROTTLED = [
    aws_error("ThrottlingException"),
    aws_error("ProvisionedThroughputExceededException"),
    aws_error("RequestLimitExceeded"),
]
#: As DynamoDB says it of a transaction, with one reason for each of its writes.
THROTTLED_WRITE = [
    *THROTTLED,
    aws_error("TransactionCanceledException", reasons=("None", "ThrottlingError")),
    aws_error("TransactionCanceledException", reasons=("ProvisionedThroughputExceeded", "None")),
]


def at_call(number: int, answer: Answer) -> Answer:
    """Answer so at the n-th call, counted from 1, and as AWS does at all others."""
    calls = itertools.count(1)
    return lambda parameters: answer(parameters) if next(calls) == number else None


@pytest.mark.parametrize("answer", THROTTLED_WRITE)
def test_a_first_try_that_is_throttled_is_a_look_for_a_slot(core: Core, answer: Answer) -> None:
    deployment = Deployment(core, 1)
    deployment.create("job-1")
    core.answers[TRANSACTION] = at_call(1, answer)

    raised = deployment.run("job-1")

    assert isinstance(raised, SlotWaiting)
    assert str(raised).startswith("AWS serves later: TransactWriteItems: ")
    assert "StageFailures" not in metrics.metric_set
    assert deployment.first("job-1").status is StageStatus.PENDING
    assert deployment.poll("job-1", after=2) == "SUCCEEDED"
    assert (deployment.first("job-1").attempt, deployment.first("job-1").failures) == (1, 0)


@pytest.mark.parametrize("answer", THROTTLED)
@pytest.mark.parametrize("number", [1, 2])
def test_a_poll_whose_reads_are_throttled_is_a_poll(
    one: Deployment, number: int, answer: Answer
) -> None:
    """The job, and then who has the slots."""
    event = one.event("job-2", FIRST, 1)
    one.core.answers[QUERY] = at_call(number, answer)
    with pytest.raises(SlotWaiting):
        one.runner(event)

    record = one.first("job-2")
    assert (record.status, record.attempt, record.failures) == (StageStatus.WAITING, 0, 0)
    one.end("job-1")
    assert one.poll("job-2") == "SUCCEEDED"


@pytest.mark.parametrize("answer", THROTTLED_WRITE)
@pytest.mark.parametrize("is_free", [True, False])
def test_a_poll_whose_write_is_throttled_is_a_poll(
    one: Deployment, answer: Answer, *, is_free: bool
) -> None:
    """It takes the slot, or keeps its place in the line."""
    if is_free:
        one.end("job-1")
    event = one.event("job-2", FIRST, 1)
    one.core.answers[TRANSACTION] = at_call(1, answer)
    with pytest.raises(SlotWaiting):
        one.runner(event)

    record = one.first("job-2")
    assert (record.status, record.attempt, record.failures) == (StageStatus.WAITING, 0, 0)
    assert isinstance(one.poll("job-2"), SlotWaiting) is not is_free


@pytest.mark.parametrize("number", [1, 2])
def test_a_wait_whose_polls_are_throttled_ends_by_the_clock(one: Deployment, number: int) -> None:
    """Where the job itself can be read; else the retrier ends it, later."""
    event = one.event("job-2", FIRST, 1)
    one.core.clock.advance(SLOT_WAIT_SECONDS)
    one.core.answers[QUERY] = at_call(number, THROTTLED[0])

    with pytest.raises(SlotWaiting if number == 1 else ProvisioningError) as raised:
        one.runner(event)

    assert (type(raised.value).__name__ == "StageEnded") is (number == 2)
    # The retrier lasts for longer than the wait, and not for ever.
    every = sum(SLOT_RETRY.longest_delay(n) or 0 for n in range(1, SLOT_RETRY.attempts_in_all))
    assert 1 < every / 2 / SLOT_WAIT_SECONDS < 1.5


@pytest.mark.parametrize(
    "answer", [aws_error("InternalServerError", 500), aws_error("AccessDeniedException")]
)
def test_another_error_of_a_look_is_one_of_its_stage(one: Deployment, answer: Answer) -> None:
    event = one.event("job-2", FIRST, 1)
    one.core.answers[QUERY] = at_call(2, answer)
    with pytest.raises(ProvisioningError):
        one.runner(event)


def test_a_job_that_has_its_slot_is_throttled_as_any(one: Deployment) -> None:
    """Such as a clean-up, and a job whose first stage is tried again."""
    cleanup_job_id = one.fail("job-1", with_cleanup=True).cleanup_job_id
    cleanup = one.jobs.get(cleanup_job_id)
    one.core.answers[TRANSACTION] = at_call(1, THROTTLED[0])
    with pytest.raises(ClientError):
        one.jobs.start(cleanup, "INITIALIZING", 1)


def test_a_stage_that_begins_no_job_is_throttled_as_any(one: Deployment) -> None:
    event = one.event("job-1", LAST)
    one.core.answers[TRANSACTION] = at_call(1, THROTTLED[0])
    with pytest.raises(ProvisioningError) as raised:
        one.runner(event)
    assert raised.value.type is ErrorType.NETWORK_ERROR


# --- Races ----------------------------------------------------------------------------------------


def test_a_slot_that_another_takes_between_the_look_and_the_write_is_waited_for(
    one: Deployment,
) -> None:
    one.create("job-3")
    one.end("job-1")
    one.core.clock.advance(60)
    event = one.event("job-2", FIRST, 1)

    # Its look says that the slot is free; its write comes after the other's.
    one.core.answers[TRANSACTION] = meanwhile(lambda: one.run("job-3"))
    with pytest.raises(SlotWaiting):
        one.runner(event)

    assert one.holders() == {0: "job-3"}
    assert one.jobs.get("job-2").status is JobStatus.QUEUED


def test_a_place_that_another_takes_between_the_look_and_the_write_is_left_to_it(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provisioner.jobs.slots.FURTHER_PLACES", 0)
    deployment = Deployment(core, 1)
    deployment.create("job-1", "a", "b", "c")
    deployment.run("job-1")
    for job_id in "ab":
        deployment.create(f"share-{job_id}", share=job_id)
        assert isinstance(deployment.run(f"share-{job_id}"), SlotWaiting)
    event = deployment.event("a", FIRST)
    other = deployment.event("b", FIRST) | {"retry_count": 1}

    def take() -> None:
        with pytest.raises(SlotWaiting):
            deployment.runner(other)

    # One place is left, which both are to have.
    core.calls.clear()
    core.answers[TRANSACTION] = meanwhile(take, before=2)
    with pytest.raises(SlotWaiting):
        deployment.runner(event)

    assert [job for _, job in deployment.jobs.slots().line.values()].count("b") == 1
    assert len(deployment.jobs.slots().line) == 3
    for job_id in "ab":
        assert deployment.first(job_id).waits_until is not None


def test_a_job_begins_by_its_time_too_after_the_one_that_had_its_slot(one: Deployment) -> None:
    def end_later() -> None:
        one.core.clock.advance(1)
        one.end("job-1")

    event = one.event("job-2", FIRST, 1)
    one.core.clock.advance(60)
    one.core.answers[QUERY] = meanwhile(end_later)
    assert one.runner(event)["status"] == "SUCCEEDED"

    before, after = one.jobs.get("job-1").finished_at, one.jobs.get("job-2").started_at
    assert before is not None
    assert after is not None
    assert before <= after


@pytest.mark.parametrize("number", [1, 2])
def test_the_same_start_twice_takes_one_slot(core: Core, number: int) -> None:
    deployment = Deployment(core, 2)
    deployment.create("job-1")
    event = deployment.event("job-1", FIRST)

    core.answers[TRANSACTION] = meanwhile(lambda: deployment.run("job-1"), before=number)
    assert deployment.runner(event)["status"] == "SUCCEEDED"

    assert list(deployment.holders().values()) == ["job-1"]
    core.clock.advance(1000)
    deployment.end("job-1")
    assert deployment.holders() == {}


def test_fewer_slots_than_are_taken_let_nobody_in(core: Core) -> None:
    deployment = Deployment(core, 3)
    deployment.create("job-1", "job-2", "job-3", "job-4")
    for name in ("job-1", "job-2", "job-3"):
        deployment.run(name)
    first, second, _ = (job_id for _, job_id in sorted(deployment.holders().items()))
    deployment.jobs.maximum_running_jobs = 2

    assert isinstance(deployment.run("job-4"), SlotWaiting)
    # Slot 0 is free, but two others have theirs.
    deployment.end(first)
    assert isinstance(deployment.poll("job-4"), SlotWaiting)
    deployment.end(second)
    assert deployment.poll("job-4") == "SUCCEEDED"


# --- Ends -----------------------------------------------------------------------------------------


def test_a_failed_job_releases_its_slot(one: Deployment) -> None:
    assert one.fail("job-1").slot is None
    assert one.poll("job-2") == "SUCCEEDED"


def test_a_clean_up_has_the_slot_of_its_parent_until_it_ends(one: Deployment) -> None:
    cleanup_job_id = one.fail("job-1", with_cleanup=True).cleanup_job_id

    assert one.holders() == {0: cleanup_job_id}
    assert one.jobs.get(cleanup_job_id).slot == 0
    assert isinstance(one.poll("job-2"), SlotWaiting)
    started = one.jobs.start(one.jobs.get(cleanup_job_id), "INITIALIZING")
    assert started is not None
    assert (started.attempt, one.jobs.get(cleanup_job_id).status) == (1, JobStatus.RUNNING)
    assert one.holders() == {0: cleanup_job_id}
    one.fail(cleanup_job_id)
    assert one.poll("job-2") == "SUCCEEDED"


def test_a_next_attempt_takes_a_slot_anew(one: Deployment) -> None:
    one.fail("job-1")
    assert one.poll("job-2") == "SUCCEEDED"
    one.jobs.retry(one.jobs.get("job-1"))

    assert isinstance(one.run("job-1"), SlotWaiting)
    one.end("job-2")
    assert one.poll("job-1") == "SUCCEEDED"
    assert one.jobs.get("job-1").attempt == 2


# --- Fairness -------------------------------------------------------------------------------------


def test_a_job_beside_many_of_another_share_begins_with_the_next_end(core: Core) -> None:
    deployment = Deployment(core, 4)
    many = [f"a-{number}" for number in range(20)]
    deployment.create(*many, share="a")
    for name in many:
        deployment.run(name)
    running = [name for name in many if deployment.jobs.get(name).status is JobStatus.RUNNING]
    assert len(running) == 4
    deployment.create("b", share="b")
    assert isinstance(deployment.run("b"), SlotWaiting)

    deployment.end(running[0])

    for name in [name for name in many if name not in running]:
        assert isinstance(deployment.poll(name, after=1), SlotWaiting)
    assert deployment.poll("b", after=1) == "SUCCEEDED"


SHARES = st.sampled_from(["a", "b", "c"])


@given(
    maximum=st.integers(1, 7),
    moves=st.lists(st.tuples(st.sampled_from(["poll", "end"]), SHARES), max_size=80),
)
def test_no_share_has_more_than_half_of_the_slots_while_others_wait(
    maximum: int, moves: list[tuple[str, str]]
) -> None:
    """Each share has more jobs than slots; those that poll stay in the line."""
    holders: dict[int, str] = {}
    shares: dict[int, str] = {}
    line: dict[int, tuple[str, str]] = {}
    for number, (move, share) in enumerate(moves):
        if move == "end":
            slot = next((slot for slot, of in shares.items() if of == share), None)
            if slot is not None:
                del holders[slot], shares[slot]
            continue
        use = SlotUse(maximum, holders, shares, line)
        slot = use.free_for(f"job-{number}", share)
        others = {of for of, _ in line.values()} - {share}
        has = Counter(shares.values())
        if slot is None:
            line["abc".index(share)] = share, f"job-{number}"
            is_last = any(has[share] > has[other] for other in others)
            assert len(holders) == maximum or is_last
            continue
        assert slot not in holders
        holders[slot], shares[slot] = f"job-{number}", share
        assert len(holders) <= maximum
        if others:
            assert 2 * Counter(shares.values())[share] <= maximum + 1


@given(
    st.dictionaries(st.integers(0, 32), st.tuples(SHARES, st.integers(0, 9)), max_size=33),
    st.integers(0, 9),
    SHARES,
)
def test_a_job_keeps_its_place_and_takes_nobody_else_s(
    line: Mapping[int, tuple[str, int]], number: int, share: str
) -> None:
    named = {place: (of, f"{of}-{n}") for place, (of, n) in line.items()}
    job_id = f"{share}-{number}"
    own = {place for place, who in named.items() if who == (share, job_id)}
    place = SlotUse(1, {}, {}, named).place_for(job_id, share)
    if own:
        assert place in own
    elif place is not None:
        assert place not in named
        assert 0 <= place < line_places(1)
        assert sum(of == share for of, _ in named.values()) < 5


@given(
    maximum=st.integers(1, 4),
    moves=st.lists(
        st.tuples(st.sampled_from(["poll", "poll", "poll", "end"]), st.integers(0, 19)),
        max_size=120,
    ),
)
def test_no_more_of_the_line_is_needed_than_it_has_places(
    maximum: int, moves: list[tuple[str, int]]
) -> None:
    """Twenty owners of one job after the other: who may begin is as if each had a place.

    A place that was left is taken by the next poll of those that found the line full.
    """
    holders: dict[int, str] = {}
    shares: dict[int, str] = {}
    line: dict[int, tuple[str, str]] = {}
    everybody: dict[int, tuple[str, str]] = {}
    for number, (move, owner) in enumerate(moves):
        share = f"owner-{owner}"
        if move == "end":
            slot = next((slot for slot, of in shares.items() if of == share), None)
            if slot is not None:
                del holders[slot], shares[slot]
            continue
        waits = everybody.get(owner)
        job_id = f"job-{number}" if waits is None else waits[1]
        use = SlotUse(maximum, holders, shares, line)
        slot = use.free_for(job_id, share)
        assert slot == SlotUse(maximum, holders, shares, everybody).free_for(job_id, share)
        if slot is None:
            everybody[owner] = share, job_id
        else:
            holders[slot], shares[slot] = job_id, share
            everybody.pop(owner, None)
            own = use.place_of(job_id)
            if own is not None:
                del line[own]
        for of, waiting in everybody.values():
            place = SlotUse(maximum, holders, shares, line).place_for(waiting, of)
            if place is not None:
                line[place] = of, waiting
        assert len(line) <= maximum + 2


def test_a_share_has_further_places_while_there_is_room(core: Core) -> None:
    """So that it is seen to wait when some of its jobs begin at once."""
    deployment = Deployment(core, 1)
    deployment.create("job-1")
    deployment.run("job-1")
    for share in "abcdefgh":
        for number in range(7):
            deployment.create(f"{share}-{number}", share=share)
            deployment.run(f"{share}-{number}")
            # The first look of a job.
            deployment.poll(f"{share}-{number}", after=0)

    line = Counter(share for share, _ in deployment.jobs.slots().line.values())

    # Three shares tell all: of two besides one's own, one has not the one slot.
    assert line == {"a": 5, "b": 5, "c": 5}


def test_jobs_of_a_share_that_look_at_once_want_the_same_slot_while_others_wait() -> None:
    """So they are counted one after the other."""
    names = [f"job-{number}" for number in range(20)]
    wait = SlotUse(9, {}, {}, {0: ("b", "other")})
    assert len({wait.free_for(name, "a") for name in names}) == 1
    assert len({SlotUse(9, {}, {}, {}).free_for(name, "a") for name in names}) > 1


def test_more_shares_than_slots_are_not_all_read(core: Core) -> None:
    deployment = Deployment(core, 2)
    deployment.create("job-1", "job-2")
    deployment.run("job-1")
    deployment.run("job-2")
    for number in range(12):
        deployment.create(f"w-{number}", share=f"share-{number}")
        assert isinstance(deployment.run(f"w-{number}"), SlotWaiting)

    assert len(deployment.jobs.slots().line) == 4
    places = [item for item in core.scan("JobsTable") if item["record"].startswith("WAITING#")]
    assert len(places) == 4

    deployment.create("late", share="late")
    deployment.end("job-1")
    assert deployment.run("late") == "SUCCEEDED"


def test_slots_and_line_are_read_by_one_query_however_long_their_names(core: Core) -> None:
    deployment = Deployment(core, 1000)
    longest = {"S": "x" * 64}
    share = {"S": f"organization#{'x' * 128}"}
    at = {"S": "2027-01-31T10:00:00.000000+00:00"}
    of_slots = {"job_id": {"S": SLOTS}, "holder": longest, "share": share}
    items = [
        of_slots | {"record": {"S": f"{kind}#{number:04}"}, "released_at": at, "kept_until": at}
        for kind, count in (("SLOT", 1000), ("WAITING", line_places(1000)))
        for number in range(count)
    ]
    for batch in itertools.batched(items, 25, strict=False):
        puts: Any = [{"PutRequest": {"Item": item}} for item in batch]
        core.client("dynamodb").batch_write_item(RequestItems={"JobsTable": puts})
    core.calls.clear()

    use = deployment.jobs.slots()

    assert (len(use.holders), len(use.line)) == (1000, line_places(1000))
    assert len(core.calls_of(QUERY)) == 1


# --- What is stored -------------------------------------------------------------------------------


def test_a_place_in_the_line_expires(one: Deployment) -> None:
    def places() -> list[Mapping[str, Any]]:
        items = one.core.scan("JobsTable")
        return [i for i in items if i["job_id"] == SLOTS and i["record"].startswith("WAITING#")]

    (place,) = places()
    assert list(one.jobs.slots().line.values()) == [("", "job-2")]
    one.core.clock.advance(2 * SLOT_RETRY.max_delay_seconds)
    assert one.jobs.slots().line == {}
    assert place["expires_at"] == int(one.core.clock().timestamp())


def test_no_list_of_jobs_holds_a_slot(one: Deployment) -> None:
    assert set(one.core.listed()) == {"job-1", "job-2"}
    key = dynamodb.to_item({"job_id": SLOTS, "record": "JOB"})
    found = one.core.client("dynamodb").get_item(TableName="JobsTable", Key=key)
    assert "Item" not in found
