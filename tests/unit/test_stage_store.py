"""What the runs of stages write: one transaction each, whatever comes between, and their leases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.messages import JobMessage, accept
from provisioner.jobs.models import (
    Job,
    JobStatus,
    StageClosed,
    StageRecord,
    StageStatus,
    StoredError,
    Wait,
    lease_wait,
)
from provisioner.jobs.registry import REGISTRY
from provisioner.jobs.stage import Completion, StageOutcome
from provisioner.jobs.stage_run import StageRunner, StageWaiting
from provisioner.jobs.stage_store import StageStore
from provisioner.jobs.store import BadEnd
from provisioner.provisioning.job_types import JOB_TYPES, provision_project
from support.core import Core, aws_error, meanwhile, new_job, provisioned_result, times

STAGE = "INITIALIZING"
LAST = "FINALIZING"
ERROR = StoredError(ErrorType.NETWORK_ERROR, STAGE, 1, "No answer.", "")
TRANSACTION = "dynamodb.TransactWriteItems"
#: The stages that run where the payload asks for nothing of its own.
STAGES = tuple(stage for stage in provision_project.JOB_TYPE.stages if not stage.runs_if)
LIMIT = timedelta(seconds=provision_project.INITIALIZING.seconds)


def job(core: Core) -> Job:
    return core.jobs.get("job-1")


def start(core: Core, retry_count: int = 0, stage: str = STAGE) -> StageRecord:
    """Let a run start, a second after the last, and return what it holds."""
    core.clock.advance()
    held = core.jobs.start(job(core), stage, retry_count)
    assert held is not None
    return held


def lease(core: Core) -> datetime | None:
    """Return until when a run may be at work."""
    found = lease_wait(job(core), core.clock.at)
    return None if found is None else found.until


def progress(core: Core) -> StageStore:
    return StageStore(core.jobs)


def runner(core: Core, code: Callable[[Any], StageOutcome]) -> StageRunner:
    stages = dict.fromkeys(map(str, provision_project.JOB_TYPE.stages), code)
    return StageRunner(core.jobs, {"provision_project": stages}, definitions=JOB_TYPES)


def event(stage: str, retry_count: int = 0) -> dict[str, Any]:
    payload = {"project_id": "shop"}
    of_job = {"job_id": "job-1", "job_type": "provision_project", "payload": payload}
    return {"job": of_job, "stage": stage, "retry_count": retry_count}


# --- Calls ----------------------------------------------------------------------------------------


def test_a_start_and_an_end_are_one_call_each_and_nothing_is_read(core: Core) -> None:
    core.new_job()
    run = runner(core, lambda _: StageOutcome(provisioned_result(), "it answers"))
    for stage in STAGES:
        core.calls.clear()
        assert run(event(stage))["ok"]
        assert [name for name, _ in core.calls] == [TRANSACTION] * 2
    assert job(core).status is JobStatus.COMPLETED


def test_a_message_that_names_no_job_is_stored_by_one_call(core: Core) -> None:
    new = new_job()
    message = JobMessage(job_type=new.job_type, payload=dict(new.payload))

    def store(message: JobMessage) -> JobStatus:
        job, _ = accept(REGISTRY, core.jobs, message, new.job_id)
        return job.status

    assert store(message) is JobStatus.QUEUED
    assert [name for name, _ in core.calls] == [TRANSACTION]
    # Delivered again, it finds its job in the answer.
    assert store(message) is JobStatus.QUEUED
    named = message.model_copy(update={"job_id": "job-1"})
    assert store(named) is JobStatus.QUEUED
    assert [name for name, _ in core.calls] == [TRANSACTION] * 2 + ["dynamodb.GetItem"]


def test_stages_that_start_at_once_write_no_common_item(core: Core) -> None:
    core.new_job()
    core.jobs.begin("job-1")
    run = runner(core, lambda _: StageOutcome())
    written: list[set[str]] = []
    for stage in ("CREATING_DATABASE", "REGISTERING_AUTH"):
        core.calls.clear()
        run(event(stage))
        written += [
            {str(next(iter(item.values())).get("Key")) for item in call["TransactItems"]} - {"None"}
            for call in core.calls_of(TRANSACTION)
        ]
    assert all(len(keys) == 1 for keys in written)
    assert written[0] == written[1] != written[2] == written[3]


# --- The same start once more ---------------------------------------------------------------------


def test_the_same_start_sent_twice_runs_twice_and_is_one_attempt(core: Core) -> None:
    core.new_job()
    first, second = start(core), start(core)
    assert (first.attempt, second.attempt) == (1, 1)
    assert [e.subject for e in job(core).history if e.status == "RUNNING"] == ["JOB", STAGE]
    assert second.superseded_until == first.lease_until
    assert second.lease_until == core.clock.at + LIMIT


@pytest.mark.parametrize("first_speaks", [True, False])
def test_the_word_of_either_ends_the_stage_and_not_the_lease_of_the_other(
    core: Core, *, first_speaks: bool
) -> None:
    core.new_job()
    first, second = start(core), start(core)

    said = progress(core).end("job-1", first if first_speaks else second, StageOutcome(check="x"))

    assert said.is_written
    assert said.record.status is StageStatus.SUCCEEDED
    assert lease(core) == (second if first_speaks else first).lease_until
    late = progress(core).end("job-1", second if first_speaks else first, StageOutcome(check="y"))
    assert (late.is_written, late.record.check) == (False, "x")


# --- Leases ---------------------------------------------------------------------------------------


WORDS: dict[str, Callable[[Core, StageRecord], object]] = {
    "ends well": lambda core, held: progress(core).end("job-1", held, StageOutcome()),
    "fails": lambda core, held: progress(core).fail("job-1", held, ERROR, retryable=False),
    "is tried again": lambda core, held: progress(core).fail("job-1", held, ERROR, retryable=True),
    "waits": lambda core, held: progress(core).wait("job-1", held, "Room.", core.clock.at),
}


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
def test_a_lease_ends_with_the_word_of_its_run(core: Core, word: Any) -> None:
    core.new_job()
    held = start(core)
    assert lease(core) == held.lease_until == core.clock.at + LIMIT
    word(core, held)
    assert lease(core) is None


def test_a_lease_ends_with_time(core: Core) -> None:
    core.new_job()
    start(core)
    core.clock.advance(LIMIT.total_seconds() - 1)
    found = lease_wait(job(core), core.clock.at)
    ends_at = core.clock.at + timedelta(seconds=1)
    says = f"An earlier attempt of {STAGE} may still be at work."
    assert found == Wait("", says, core.clock.at, ends_at)
    core.clock.advance()
    assert lease_wait(job(core), core.clock.at) is None


@pytest.mark.parametrize("word", WORDS.values(), ids=WORDS)
def test_the_word_of_a_superseded_attempt_changes_nothing(core: Core, word: Any) -> None:
    core.new_job()
    first, second = start(core, 0), start(core, 1)
    before = job(core)
    said = word(core, first)
    assert (said.is_written, said.record) == (False, second)
    assert job(core) == before
    progress(core).end("job-1", second, StageOutcome())
    # Only time ends what nobody has said of the first.
    assert lease(core) == first.lease_until


def test_a_poll_takes_a_lease_of_its_own(core: Core) -> None:
    core.new_job()
    progress(core).wait("job-1", start(core), "Room.", core.clock.at)
    assert lease(core) is None

    lost, poll = start(core, 1), start(core, 2)

    assert (poll.status, poll.attempt, poll.superseded_until) == (
        StageStatus.WAITING,
        1,
        lost.lease_until,
    )
    progress(core).wait("job-1", poll, "Room.", core.clock.at)
    assert lease(core) == lost.lease_until


def test_a_retry_of_the_job_keeps_the_leases_of_the_attempt_before(core: Core) -> None:
    core.new_job()
    held = start(core)
    core.jobs.fail(job(core), BadEnd([ERROR]))
    assert lease(core) == held.lease_until
    core.clock.advance()
    core.jobs.retry(job(core))
    (record, *_) = job(core).stages
    assert (record.status, record.job_attempt, record.attempt) == (StageStatus.PENDING, 2, 0)
    assert lease(core) == held.lease_until
    progress(core).end("job-1", start(core), StageOutcome())
    assert lease(core) == held.lease_until


def complete(core: Core, *, asks_leases: bool = True) -> StageRecord:
    held = core.jobs.held("job-1", LAST)
    if held.status is StageStatus.PENDING:
        held = start(core, 0, LAST)
    outcome = StageOutcome(completion=Completion({"a": 1}))
    stages = [STAGE, LAST]
    return progress(core).complete("job-1", held, outcome, stages, asks_leases=asks_leases).record


def test_a_job_completes_only_when_no_other_run_may_be_at_work(core: Core) -> None:
    core.new_job()
    lost = start(core, 0)
    progress(core).end("job-1", start(core, 1), StageOutcome())
    waiting = complete(core)
    assert waiting.waiting_for == f"An earlier attempt of {STAGE} may still be at work."
    assert waiting.waits_until == lost.lease_until
    assert core.jobs.held("job-1", LAST) == waiting
    assert job(core).status is JobStatus.RUNNING
    core.clock.at = lost.lease_until or core.clock.at
    complete(core)
    assert job(core).status is JobStatus.COMPLETED


def test_what_is_not_asked_does_not_keep_a_job_from_completing(core: Core) -> None:
    core.new_job()
    start(core, 0)
    complete(core, asks_leases=False)
    assert job(core).status is JobStatus.COMPLETED


def test_a_process_of_its_own_supersedes_no_run(core: Core) -> None:
    core.new_job()

    def dies(_job: Any) -> StageOutcome:
        raise KeyboardInterrupt

    stages: dict[str, Any] = {STAGE: dies}
    run = StageRunner(
        core.jobs, {"provision_project": stages}, definitions=JOB_TYPES, is_process=True
    )
    with pytest.raises(KeyboardInterrupt):
        run(event(STAGE))
    assert lease(core) == core.clock.at + timedelta(hours=1)
    stages[STAGE] = lambda _: StageOutcome()
    core.clock.advance()
    run(event(STAGE, 1))
    assert lease(core) is None


# --- What comes between ---------------------------------------------------------------------------


def drive(core: Core) -> list[str]:
    """Let a job go its whole way as far as it comes, and return what was raised."""
    raised: list[str] = []
    core.new_job()
    run = runner(core, lambda _: StageOutcome(completion=None))
    fails = runner(core, _failing)
    last = runner(core, lambda _: StageOutcome(completion=Completion(provisioned_result())))
    steps: list[Callable[[], Any]] = [
        lambda: fails(event(STAGE)),
        lambda: run(event(STAGE, 1)),
        *[lambda stage=stage: run(event(stage)) for stage in STAGES[1:-1]],
        lambda: last(event(LAST)),
    ]
    for step in steps:
        core.clock.advance()
        try:
            step()
        except (ProvisioningError, StageWaiting) as error:
            raised.append(type(error).__name__)
    return raised


def _failing(_job: Any) -> StageOutcome:
    raise failure(ErrorType.NETWORK_ERROR, "No answer.")


#: The transactions of such a job: its creation, two for each run, of which one stage has two.
WRITES = 1 + 2 * (len(STAGES) + 1)


def test_a_job_s_whole_way_is_so_many_writes(core: Core) -> None:
    assert drive(core) == ["NETWORK_ERROR"]
    assert len(core.calls_of(TRANSACTION)) == WRITES
    assert job(core).status is JobStatus.COMPLETED


@pytest.mark.parametrize("number", range(1, WRITES + 1))
def test_contention_is_waited_out_at_every_write(
    core: Core, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("provisioner.drivers.dynamodb._CONFLICT_MAX_SECONDS", 0.001)
    conflict = aws_error("TransactionCanceledException", reasons=("None", "TransactionConflict"))
    twice, seen = times(2, conflict), iter(range(1, WRITES + 3))

    def answer(parameters: Any) -> Any:
        return twice(parameters) if next(seen, 0) >= number else None

    core.answers[TRANSACTION] = answer
    assert drive(core) == ["NETWORK_ERROR"]
    assert job(core).status is JobStatus.COMPLETED


@pytest.mark.parametrize("number", range(2, WRITES + 1))
def test_a_cancel_between_any_two_writes_lets_nothing_start_any_more(
    core: Core, number: int
) -> None:
    def cancel() -> None:
        found = job(core)
        if found.status is JobStatus.RUNNING:
            core.jobs.request_cancel(found)
        else:
            core.jobs.cancel_queued(found)

    core.answers[TRANSACTION] = meanwhile(cancel, before=number)
    raised = drive(core)

    found = job(core)
    assert raised
    assert found.status in {JobStatus.RUNNING, JobStatus.CANCELLED}
    open_stages = [record for record in found.stages if not record.status.is_terminal]
    assert all(record.status is not StageStatus.RUNNING for record in found.stages)
    expected = StageClosed.ENDED if found.status.is_terminal else StageClosed.JOB_CANCELLED
    assert {record.closed for record in open_stages} <= {expected}
    began = [entry.at for entry in found.history if entry.status == "RUNNING"]
    asked = [entry.at for entry in found.history if entry.status == "CANCEL_REQUESTED"]
    assert not asked or max(began) <= asked[0]
