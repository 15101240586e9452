"""What a person at a terminal sees: ids that are whole, one time zone, what was done."""

from __future__ import annotations

import io
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from provision_cli import display, entry
from provision_cli.ids import chosen, full_job_id
from provision_cli.sentences import CommandError
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.jobs.dead_letters import DeadLetter
from provisioner.jobs.models import HistoryEntry, StageRecord
from rich.console import Console
from support.core import Core

#: In a zone that is not UTC, and across its midnight.
AT = datetime(2026, 11, 27, 23, 30, 5, tzinfo=timezone(timedelta(hours=-5)))
IN_UTC = "2026-11-28 04:30:05"

IDS = [str(uuid.UUID(int=number << 64 | 4711)) for number in range(1, 4)]
OTHER = "3f0b9a52-64a8-4c9e-b5d1-2f5c7f0f3a6e"
ERROR = api.StoredError(
    ErrorType.PROJECT_BUSY,
    "INITIALIZING",
    1,
    f"project_id: shop is held by job {OTHER}; wait until that job has ended.",
    "",
)
WIDTHS = [20, 40, 79, 80, 120, 300]


def shown(width: int, show: Callable[[Console], object], *, terminal: bool = True) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    show(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def job(job_id: str = IDS[0], status: api.JobStatus = api.JobStatus.FAILED) -> api.Job:
    stages = tuple(
        StageRecord(stage=stage, status=ended, started_at=AT, attempt=1, error=error)
        for stage, ended, error in (
            ("INITIALIZING", api.StageStatus.SUCCEEDED, None),
            ("CREATING_DATABASE", api.StageStatus.FAILED, ERROR),
            ("REGISTERING_AUTH", api.StageStatus.SKIPPED, None),
            ("FINALIZING", api.StageStatus.PENDING, None),
        )
    )
    return api.Job(
        job_id=job_id,
        job_type="provision_project",
        payload={},
        project_id="a-project-with-a-rather-long-name",
        status=status,
        stages=stages,
        created_at=AT,
        updated_at=AT,
        finished_at=AT + timedelta(seconds=61),
        error=ERROR if status is api.JobStatus.FAILED else None,
    )


TABLES: dict[str, tuple[list[str], list[list[str]]]] = {
    "jobs": (
        ["job", "type", "project", "status", "created (UTC)", "took", "error", "clean-up"],
        display.job_rows([job(one) for one in IDS]),
    ),
    "history": (
        ["at (UTC)", "of", "status", "attempt", "error", "note"],
        display.history_rows(
            [
                HistoryEntry(
                    AT,
                    "INITIALIZING",
                    "FAILED",
                    attempt=1,
                    error_type=ErrorType.PROJECT_BUSY,
                    note=ERROR.message,
                )
            ]
        ),
    ),
    "dlq list": (
        ["message", "job", "since (UTC)", "error", "reason"],
        display.dead_letter_rows(
            [
                DeadLetter(
                    message_id=OTHER,
                    job_id=one,
                    body="",
                    at=AT,
                    error_type="INVALID_PAYLOAD",
                    reason=f"job_id: another job has the id {one}; leave job_id out.",
                    cause="",
                    message_group=None,
                )
                for one in IDS
            ]
        ),
    ),
}


DENIED = api.StoredError(
    ErrorType.INSUFFICIENT_PERMISSIONS,
    "",
    0,
    "job_type: the dispatcher may not start the state machine provisioner-mail.",
    "StartExecution: AccessDeniedException",
)


def test_a_queued_job_says_why_it_has_not_begun() -> None:
    queued = replace(job(status=api.JobStatus.QUEUED), finished_at=None, dispatch_error=DENIED)
    sentence = (
        f"It has not begun: INSUFFICIENT_PERMISSIONS: {DENIED.message} Technical cause: "
        "StartExecution: AccessDeniedException. Its message is delivered again."
    )

    assert display.not_begun(queued) == sentence
    assert sentence in shown(300, lambda console: console.print(display._stages(queued)))
    (row,) = display.job_rows([queued])
    assert row[3:7:3] == ["QUEUED", "INSUFFICIENT_PERMISSIONS"]
    assert display.jobs_not_begun([job(), queued]) == [f"job {queued.job_id}: {sentence}"]
    assert display.not_begun(replace(queued, dispatch_error=None)) == ""


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("table", TABLES)
def test_no_id_in_a_table_is_broken(table: str, width: int, *, terminal: bool) -> None:
    headings, rows = TABLES[table]
    text = shown(width, lambda c: display.show_table(c, headings, rows), terminal=terminal)

    assert "…" not in text
    for cell in (cell for row in rows for cell in row):
        for word in cell.split():
            assert word in text


@pytest.mark.parametrize("table", TABLES)
def test_every_table_shows_times_in_utc_and_says_so(table: str) -> None:
    headings, rows = TABLES[table]
    text = shown(300, lambda c: display.show_table(c, headings, rows))

    assert IN_UTC in text
    assert "(UTC)" in text.splitlines()[0]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_id_is_broken_where_a_job_is_watched(width: int) -> None:
    text = shown(width, lambda c: display._watch_live(c, job()))

    assert f"job {IDS[0]}" in text
    assert OTHER in text
    if width >= 80:
        assert "started (UTC)" in text
        assert "04:30:05" in text


def test_times_are_in_utc_where_lines_are_printed() -> None:
    text = shown(80, lambda c: display._watch_plain(c, job()), terminal=False)

    assert "04:30:05 UTC" in text
    assert OTHER in text


def test_a_next_attempt_is_in_utc() -> None:
    record = StageRecord(
        stage="INITIALIZING", status=api.StageStatus.RETRYING, next_attempt_before=AT
    )
    assert display._note(record) == "next attempt by 04:30:05 UTC at the latest"


WAITS = "No cluster has room for one more database."
SINCE_UNTIL = "since 04:30:05 UTC, until 04:40:05 UTC at the latest"


def waiting_job() -> api.Job:
    """Return a job of which a stage waits, and the end too."""
    record = StageRecord(
        stage="INITIALIZING",
        status=api.StageStatus.WAITING,
        started_at=AT,
        attempt=1,
        waiting_for=WAITS,
        waiting_since=AT,
        waits_until=AT + timedelta(minutes=10),
    )
    waits = tuple(
        api.Wait(stage, WAITS, AT, AT + timedelta(minutes=10)) for stage in (record.stage, "")
    )
    return replace(job(), stages=(record,), waits=waits)


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_job_waits_for_is_shown_where_it_is_watched(*, terminal: bool) -> None:
    watch = display._watch_live if terminal else display._watch_plain

    text = shown(200, lambda c: watch(c, waiting_job()), terminal=terminal)

    assert "WAITING" in text
    assert f"{SINCE_UNTIL}: {WAITS}" in text
    assert f"The end of the job waits {SINCE_UNTIL}: {WAITS}" in text


def test_what_jobs_wait_for_is_listed_below_their_table() -> None:
    assert display.job_waits([job(IDS[1]), waiting_job()]) == [
        f"job {IDS[0]}: {of} waits {SINCE_UNTIL}: {WAITS}" for of in ("INITIALIZING", "its end")
    ]


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("project", ["shop", None])
def test_what_a_job_waits_for_is_listed_with_it(core: Core, project: str | None) -> None:
    made = core.new_job()
    core.jobs.start_stage(made, "INITIALIZING", 0)
    record = core.jobs.stage("job-1", "INITIALIZING")
    assert record is not None
    until = core.clock.at + timedelta(minutes=10)
    core.jobs.stage_waits(made, record, WAITS, until, retry_count=0)
    begun = core.jobs.get("job-1")
    core.jobs.job_waits(begun, "The end.", until)

    (listed,) = api.list_jobs(project)

    stage, end = listed.waits
    assert (stage.stage, stage.waiting_for, stage.since) == ("INITIALIZING", WAITS, core.clock.at)
    assert (end.stage, end.waiting_for, end.until) == ("", "The end.", until)


@pytest.mark.parametrize(
    ("status", "percent"),
    [
        (api.JobStatus.FAILED, 50),
        (api.JobStatus.CANCELLED, 50),
        (api.JobStatus.RUNNING, 50),
        (api.JobStatus.COMPLETED, 100),
    ],
)
def test_only_what_was_done_is_counted(status: api.JobStatus, percent: int) -> None:
    ended = job(status=status)
    assert ended.percent_done == percent
    if status.is_terminal:
        assert f"{percent} %" in shown(80, lambda c: c.print(display._stages(ended)))


def test_a_failed_job_whose_every_stage_was_done_is_not_complete() -> None:
    done = StageRecord(stage="INITIALIZING", status=api.StageStatus.SUCCEEDED)
    assert replace(job(), stages=(done,)).percent_done == 99


# --- Beginnings -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("connected")
def test_a_job_is_found_by_a_beginning_that_no_other_has(core: Core) -> None:
    for one in (OTHER, "order-4711", "order-4712", "order"):
        core.new_job(one)

    assert full_job_id(OTHER[:8]) == OTHER
    assert full_job_id("order-4711") == "order-4711"
    # It begins others, and is one.
    assert full_job_id("order") == "order"
    with pytest.raises(CommandError, match="job order-47: 2 jobs begin with it"):
        full_job_id("order-47")
    for none in ("order-5", "ORDER-4711", "rder-4711"):
        with pytest.raises(api.JobNotFoundError):
            full_job_id(none)
    with pytest.raises(CommandError, match="a beginning has 4 characters or more"):
        full_job_id(OTHER[:3])
    with pytest.raises(CommandError, match="job: is empty"):
        full_job_id("")


def test_ctrl_c_while_the_program_is_imported_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "provision_cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "provision_cli.main", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        entry.run()
    assert ended.value.code == 130


@pytest.mark.usefixtures("connected")
def test_a_whole_id_is_not_looked_for(core: Core) -> None:
    assert full_job_id(OTHER) == OTHER
    assert core.calls == []


def test_a_message_is_chosen_likewise() -> None:
    assert chosen("3f0b", [OTHER, *IDS], "message") == OTHER
    with pytest.raises(CommandError, match="message 0000: 3 messages begin with it"):
        chosen("0000", IDS, "message")
    assert chosen("4711", IDS, "message") is None


def test_a_moment_is_in_utc() -> None:
    assert display.moment(AT) == IN_UTC == display.moment(AT.astimezone(UTC))
