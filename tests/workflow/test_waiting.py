"""Stages that wait, on the real state machine."""

from __future__ import annotations

import itertools
import re
import time

import pytest
from provision_cli import display
from provisioner import api
from provisioner.errors import FINAL_ERROR
from provisioner.jobs.models import HistoryEntry
from provisioner.jobs.retries import POLL_SECONDS
from provisioner.provisioning.job_types import (
    clean_up_project,
    deprovision_project,
    provision_project,
)
from support.undoing import assert_undone, cleanup_of, repeated_to_its_end, run_failing
from support.workflow import Fault, FunctionEnded, Point, Workflow

STAGE = provision_project.CREATING_DATABASE
WAITS_SECONDS = 600
NO_ROOM = "No cluster has room for one more database."
SLOW = "The new cluster is being made."


@pytest.fixture
def job(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> api.Job:
    """Return a job of which a stage in a branch may wait."""
    workflow.let_wait(STAGE, WAITS_SECONDS, monkeypatch)
    return workflow.new_job(workflow.new_project())


def record_of(job: api.Job) -> api.StageRecord:
    return next(record for record in job.stages if record.stage == STAGE)


def waits(job: api.Job, of: str = STAGE) -> list[HistoryEntry]:
    return [entry for entry in job.history if (entry.subject, entry.status) == (of, "WAITING")]


def test_a_stage_waits_and_goes_on(workflow: Workflow, job: api.Job) -> None:
    workflow.waiting_for[STAGE] = iter([NO_ROOM, NO_ROOM, SLOW, SLOW])
    # Between two polls it fails once: that is the attempt's end.
    workflow.faults[STAGE] = Fault(Point.BEFORE)

    ended = workflow.execute(job)

    assert ended.status is api.JobStatus.COMPLETED
    assert [entry.note for entry in waits(ended)] == [NO_ROOM, SLOW]
    assert record_of(ended).attempt == 2
    # What it made is what a stage makes that never waited.
    assert workflow.snapshot(ended) == workflow.reference()
    # Each poll has recorded its end: the end of the job has none to wait for.
    assert waits(ended, "FINALIZING") == []
    polled = [e for e in workflow.history(job) if e["type"] == "TaskFailed"]
    assert len(polled) == len(workflow.pauses) + len(workflow.waits)


def test_a_stage_that_waits_past_its_time_fails_once(workflow: Workflow, job: api.Job) -> None:
    workflow.waiting_for[STAGE] = itertools.repeat(NO_ROOM)

    ended = workflow.execute(job)

    assert ended.status is api.JobStatus.FAILED
    assert ended.error is not None
    assert (ended.error.type, ended.error.stage) == (api.ErrorType.TIMEOUT, STAGE)
    # Besides the minutes that cost nothing here, it takes the moments that each poll does.
    told = re.fullmatch(r"The stage waited for (\d+) seconds in vain: (.+)", ended.error.message)
    assert told is not None
    assert (WAITS_SECONDS <= int(told[1]) < WAITS_SECONDS + POLL_SECONDS, told[2]) == (
        True,
        NO_ROOM,
    )
    assert (record_of(ended).status, record_of(ended).attempt) == (api.StageStatus.FAILED, 1)
    assert workflow.waits == []
    failed = [
        event["taskFailedEventDetails"]["error"]
        for event in workflow.history(job)
        if event["type"] == "TaskFailed"
    ]
    assert failed == ["StageWaiting"] * (WAITS_SECONDS // POLL_SECONDS) + [FINAL_ERROR]


def test_a_stage_that_waits_is_cancelled_between_two_polls(
    workflow: Workflow, job: api.Job
) -> None:
    workflow.waiting_for[STAGE] = itertools.repeat(NO_ROOM)
    seen: list[api.Job] = []

    # Branches pause beside one another.
    pauses = itertools.count()

    def cancel() -> None:
        if next(pauses):
            return
        deadline = time.monotonic() + 30
        # The other branches settle; two stages come after.
        while [r.status.is_terminal for r in workflow.jobs.get(job.job_id).stages].count(False) > 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        seen.extend([*api.list_jobs(job.project_id), api.cancel_job(job.job_id)])

    workflow.on_pause = cancel

    ended = workflow.execute(job)

    shown, cancelled = seen
    assert [(wait.stage, wait.waiting_for) for wait in shown.waits] == [(STAGE, NO_ROOM)]
    assert cancelled.status is ended.status is api.JobStatus.CANCELLED
    assert record_of(ended).attempt == 1
    cleanup = cleanup_of(ended)
    assert (cleanup.status, cleanup.remaining) == (api.JobStatus.COMPLETED, ())


def test_a_poll_that_dies_is_repeated(workflow: Workflow, job: api.Job) -> None:
    workflow.waiting_for[STAGE] = iter([NO_ROOM])
    workflow.faults[STAGE] = Fault(Point.BEFORE, lambda: FunctionEnded("Lambda.Unknown"))

    ended = workflow.execute(job)

    assert ended.status is api.JobStatus.COMPLETED
    assert record_of(ended).attempt == 1
    # It might be at work that nobody has seen: the project was not let go of before that.
    (held,) = waits(ended, "FINALIZING")
    assert held.note == f"An earlier attempt of {STAGE} may still be at work."


# --- The clean-up, and a removal ------------------------------------------------------------------

GOING = "The instance is being deleted."
REMOVING = clean_up_project.REMOVING_DATABASE


def watched(job: api.Job) -> str:
    """Return the last that `watch` shows of a job without a terminal."""
    lines = [line.plain for line in display._lines(job)]
    return next(line for line in lines if line.startswith(REMOVING))


def test_a_stage_of_a_clean_up_waits_and_goes_on(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow.let_wait(REMOVING, WAITS_SECONDS, monkeypatch)
    workflow.waiting_for[REMOVING] = iter([GOING, GOING, GOING])
    seen: list[tuple[api.Job, api.Job, api.Job]] = []

    def look() -> None:
        of_all, _ = api.list_jobs()
        of_project, failed = api.list_jobs(of_all.project_id)
        # The job's own failure has been told, and it waits for nothing.
        assert (failed.status, failed.waits) == (api.JobStatus.FAILED, ())
        seen.append((of_project, of_all, api.get_job(of_project.job_id)))

    workflow.on_pause = look

    ended = run_failing(workflow)

    assert_undone(workflow, ended)
    # After that it pauses for nothing: each poll has recorded its end.
    assert len(seen) == 3
    for of_project, of_all, job in seen:
        assert (job.job_id, job.status) == (ended.cleanup_job_id, api.JobStatus.RUNNING)
        (wait,) = job.waits
        assert of_project.waits == of_all.waits == job.waits
        assert (wait.stage, wait.waiting_for) == (REMOVING, GOING)
        line = f"{wait.until:%H:%M:%S} UTC at the latest: {GOING}"
        assert watched(job).endswith(line)
        (told,) = display.job_notes([job])
        assert told.startswith(f"job {job.job_id}: {REMOVING} waits since ")
        assert told.endswith(line)
    cleanup = cleanup_of(ended)
    (record,) = (record for record in cleanup.stages if record.stage == REMOVING)
    assert (record.attempt, record.waiting_for) == (1, "")
    assert cleanup.waits == ()


def test_a_clean_up_that_waits_past_its_time_names_what_is_left_and_runs_again(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow.let_wait(REMOVING, WAITS_SECONDS, monkeypatch)
    workflow.waiting_for[REMOVING] = itertools.repeat(GOING)

    ended = run_failing(workflow)

    cleanup = cleanup_of(ended)
    assert cleanup.status is api.JobStatus.FAILED
    assert len(cleanup.remaining) > 0
    error = cleanup.error
    assert error is not None
    assert (error.stage, error.type) == (REMOVING, api.ErrorType.TIMEOUT)
    assert error.message.endswith(f"seconds in vain: {GOING}")

    del workflow.waiting_for[REMOVING]
    repeated_to_its_end(workflow, ended, 2)
    assert_undone(workflow, ended)


def test_a_removal_waits_and_goes_on(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = deprovision_project.REMOVING_DATABASE
    workflow.let_wait(stage, WAITS_SECONDS, monkeypatch)
    project_id = workflow.new_project()
    workflow.execute(workflow.new_job(project_id))
    workflow.waiting_for[stage] = iter([GOING, GOING])

    ended = workflow.execute(workflow.new_deprovision_job(project_id))

    assert ended.status is api.JobStatus.COMPLETED
    assert [entry.note for entry in waits(ended, stage)] == [GOING]
    assert workflow.remains(project_id) == {}
