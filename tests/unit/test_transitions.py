"""The table of transitions, and that no order of writes gets around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provisioner.drivers.dynamodb import ConditionFailedError
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.models import (
    JOB_TRANSITIONS,
    STAGE_TRANSITIONS,
    Job,
    JobStatus,
    StageStatus,
    StoredError,
    job_sources,
)
from provisioner.jobs.records import NewJob
from provisioner.jobs.store import BadEnd
from support.core import Core, deployment, new_cleanup

#: Two stages are enough to mix up.
STAGES = ("INITIALIZING", "FINALIZING")


@pytest.mark.parametrize("status", JobStatus)
def test_a_job_status_is_terminal_exactly_when_none_follows(status: JobStatus) -> None:
    assert status.is_terminal == (not JOB_TRANSITIONS[status])


@pytest.mark.parametrize("status", StageStatus)
def test_a_stage_status_is_terminal_exactly_when_none_follows(status: StageStatus) -> None:
    assert status.is_terminal == (not STAGE_TRANSITIONS[status])


def test_no_status_leads_back_to_the_first() -> None:
    assert job_sources(JobStatus.QUEUED) == ()
    assert not any(StageStatus.PENDING in targets for targets in STAGE_TRANSITIONS.values())


@pytest.mark.parametrize("status", JobStatus)
def test_the_sources_of_a_job_status_are_those_that_it_may_follow(status: JobStatus) -> None:
    assert set(job_sources(status)) == {s for s in JobStatus if status in JOB_TRANSITIONS[s]}


def _error(stage: str, attempt: int = 1) -> StoredError:
    return StoredError(ErrorType.NETWORK_ERROR, stage, attempt, "It did not answer.", "refused")


def _start(core: Core, stage: str, number: int) -> None:
    head = core.jobs.get_head("job")
    assert head is not None
    core.jobs.start_stage(head, stage, number)


def _succeed(core: Core, stage: str, _number: int) -> None:
    core.jobs.end_stage("job", stage, StageStatus.SUCCEEDED, output={}, check="it answers")


def _skip(core: Core, stage: str, _number: int) -> None:
    core.jobs.end_stage("job", stage, StageStatus.SKIPPED, output={}, check="not asked for")


def _retry(core: Core, stage: str, number: int) -> None:
    error = _error(stage, number + 1)
    core.jobs.stage_failed("job", error, retry_count=number, retryable=True)


def _give_up(core: Core, stage: str, number: int) -> None:
    error = _error(stage, number + 1)
    core.jobs.stage_failed("job", error, retry_count=number, retryable=False)


def _wait(core: Core, stage: str, number: int) -> None:
    job = core.jobs.get("job")
    record = next(record for record in job.stages if record.stage == stage)
    number = max(number, record.retry_count)
    core.jobs.stage_waits(job, record, f"{number}", core.clock.at, retry_count=number)


def _end_waits(core: Core, _stage: str, number: int) -> None:
    core.jobs.wait_to_end(core.jobs.get("job"), f"{number}", core.clock.at)


def _complete(core: Core, stage: str, _number: int) -> None:
    core.jobs.complete("job", stage, output={}, check="it answers", result={"made": 1})


def _fail(core: Core, stage: str, _number: int) -> None:
    core.jobs.fail(core.jobs.get("job"), BadEnd([_error(stage)]))


def _fail_with_a_cleanup(core: Core, stage: str, _number: int) -> None:
    job = core.jobs.get("job")
    core.jobs.fail(job, BadEnd([_error(stage)], cleanup=new_cleanup(job), remaining=["bucket"]))


def _fail_queued(core: Core, stage: str, _number: int) -> None:
    core.jobs.fail_queued("job", _error(stage))


def _cancel_queued(core: Core, _stage: str, _number: int) -> None:
    core.jobs.cancel_queued(core.jobs.get("job"))


def _request_cancel(core: Core, _stage: str, _number: int) -> None:
    core.jobs.request_cancel(core.jobs.get("job"))


def _cancel(core: Core, stage: str, _number: int) -> None:
    core.jobs.fail(core.jobs.get("job"), BadEnd([_error(stage)], status=JobStatus.CANCELLED))


def _create(core: Core, _stage: str, _number: int) -> None:
    core.new_job("job")


def _create_failed(core: Core, stage: str, _number: int) -> None:
    core.jobs.create_failed(NewJob("job", "provision_project", {}, ()), _error(stage))


WRITES: list[Callable[[Core, str, int], None]] = [
    _start,
    _wait,
    _end_waits,
    _succeed,
    _skip,
    _retry,
    _give_up,
    _complete,
    _fail,
    _fail_with_a_cleanup,
    _fail_queued,
    _cancel_queued,
    _request_cancel,
    _cancel,
    _create,
    _create_failed,
]


def _statuses(job: Job) -> dict[str, JobStatus | StageStatus]:
    return {record.stage: record.status for record in job.stages} | {"JOB": job.status}


def _may_follow(before: JobStatus | StageStatus, after: JobStatus | StageStatus) -> bool:
    table: dict[Any, frozenset[Any]] = {**JOB_TRANSITIONS, **STAGE_TRANSITIONS}
    if isinstance(before, JobStatus):
        table = {**JOB_TRANSITIONS}
    return before == after or after in table[before]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(WRITES), st.sampled_from(STAGES), st.integers(0, 2)),
        min_size=1,
        max_size=10,
    )
)
def test_no_order_of_writes_moves_a_job_backwards(
    writes: list[tuple[Callable[[Core, str, int], None], str, int]],
) -> None:
    with deployment() as core:
        core.new_job("job")
        before = core.jobs.get("job")
        for write, stage, number in writes:
            core.clock.advance()
            try:
                write(core, stage, number)
            except (ConditionFailedError, ProvisioningError):
                refused = True
            else:
                refused = False
            after = core.jobs.get("job")
            assert not (refused and after != before)
            for name, status in _statuses(before).items():
                assert _may_follow(status, _statuses(after)[name]), f"{write.__name__}: {name}"
            if before.status.is_terminal:
                assert (after.status, after.error, after.result, after.finished_at) == (
                    before.status,
                    before.error,
                    before.result,
                    before.finished_at,
                )
            for old, new in zip(before.stages, after.stages, strict=True):
                assert not old.status.is_terminal or new == old
                assert new.attempt >= old.attempt
            _history_says_what_changed(before, after)
            before = after


def _history_says_what_changed(before: Job, after: Job) -> None:
    assert after.history[: len(before.history)] == before.history
    added = {(entry.subject, entry.status) for entry in after.history[len(before.history) :]}
    attempts = {record.stage: record.attempt for record in before.stages}
    changed = {
        (name, str(status))
        for name, status in _statuses(after).items()
        if status != _statuses(before)[name]
    } | {
        (record.stage, "RUNNING")
        for record in after.stages
        if record.attempt != attempts[record.stage]
    }
    texts = {record.stage: record.waiting_for for record in before.stages}
    changed |= {
        (record.stage, "WAITING")
        for record in after.stages
        if record.waiting_for and record.waiting_for != texts[record.stage]
    }
    ends = [[wait for wait in job.waits if not wait.stage] for job in (before, after)]
    if ends[1] and ends[0] != ends[1]:
        changed.add(("JOB", "WAITING"))
    if after.cancel_requested_at != before.cancel_requested_at:
        changed.add(("JOB", "CANCEL_REQUESTED"))
    assert added == changed
