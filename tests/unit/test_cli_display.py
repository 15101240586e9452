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
from provision_cli.main import main
from provision_cli.sentences import CommandError
from provision_cli.targets import choose_id, find_job_id
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.jobs.models import HistoryEntry, StageRecord
from provisioner.jobs.redrive import DeadLetter
from provisioner.jobs.store import BadEnd
from provisioner.runtime.platform import PlatformSettings
from rich.console import Console
from support.core import Core, make_stack

#: In a zone that is not UTC, and across its midnight.
AT = datetime(2026, 11, 27, 23, 30, 5, tzinfo=timezone(timedelta(hours=-5)))
IN_UTC = "2026-11-28 04:30:05"

IDS = [str(uuid.UUID(int=number << 64 | 4711)) for number in range(1, 4)]
OTHER = "3f0b9a52-64a8-4c9e-b5d1-2f5c7f0f3a6e"
ERROR = api.StoredError(
    ErrorType.PROJECT_BUSY,
    "INITIALIZING",
    1,
    f"project_id: shop is locked by job {OTHER}; wait until that job has ended.",
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


TABLES: dict[str, list[dict[str, str]]] = {
    "jobs": display.job_rows([job(one) for one in IDS]),
    "history": display.history_rows(
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
    "dlq list": display.dead_letter_rows(
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

    assert sentence in shown(300, lambda console: console.print(display._stages(queued, None)))
    (row,) = display.job_rows([queued])
    assert (row["status"], row["error"]) == ("QUEUED", "INSUFFICIENT_PERMISSIONS")
    assert display.job_notes([job(), queued]) == [f"job {queued.job_id}: {sentence}"]
    assert display.job_notes([replace(queued, dispatch_error=None)]) == []


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("table", TABLES)
def test_no_id_in_a_table_is_broken(table: str, width: int, *, terminal: bool) -> None:
    rows = TABLES[table]
    text = shown(width, lambda c: display.show_table(c, rows), terminal=terminal)

    assert "…" not in text
    for cell in (cell for row in rows for cell in row.values()):
        for word in cell.split():
            assert word in text


@pytest.mark.parametrize("table", TABLES)
def test_every_table_shows_times_in_utc_and_says_so(table: str) -> None:
    text = shown(300, lambda c: display.show_table(c, TABLES[table]))

    assert IN_UTC in text
    assert "(UTC)" in text.splitlines()[0]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_id_is_broken_where_a_job_is_watched(width: int) -> None:
    text = shown(width, lambda c: display.watch_job(c, job()))

    assert f"job {IDS[0]}" in text
    assert OTHER in text
    assert "04:30:05" in text


def test_times_are_in_utc_where_lines_are_printed() -> None:
    text = shown(80, lambda c: display.watch_job(c, job()), terminal=False)

    assert "04:30:05 UTC" in text
    assert OTHER in text


def test_a_next_attempt_is_in_utc() -> None:
    record = StageRecord(
        stage="INITIALIZING", status=api.StageStatus.RETRYING, next_attempt_before=AT
    )
    at_any_moment = "next attempt at any moment, by 04:30:05 UTC at the latest"
    assert display._describe_stage(record) == at_any_moment


@pytest.mark.usefixtures("connected")
def test_the_history_and_the_stage_say_that_no_attempt_is_left(core: Core) -> None:
    made = core.new_job()
    for attempt in (1, 2, 3):
        core.jobs.start_stage(made, "INITIALIZING", attempt - 1)
        failed = replace(ERROR, type=ErrorType.TIMEOUT, attempt=attempt, message="It took long.")
        core.jobs.stage_failed("job-1", failed, retry_count=attempt - 1, retryable=True)
        core.clock.advance()
        made = core.jobs.get("job-1")

    rows = display.history_rows(made.history)

    assert [list(row.values())[3:] for row in rows if row["status"] == "RETRYING"] == [
        ["1", "TIMEOUT", "It took long."],
        ["2", "TIMEOUT", "It took long."],
        ["3", "TIMEOUT", "It took long. No attempt is left."],
    ]
    assert display._describe_stage(made.stages[0]) == "TIMEOUT: It took long. No attempt is left."


@pytest.mark.usefixtures("connected")
def test_a_stage_that_runs_again_says_which_attempt_its_error_is_of(core: Core) -> None:
    made = core.new_job()
    core.jobs.start_stage(made, "INITIALIZING", 0)
    failed = replace(ERROR, type=ErrorType.TIMEOUT, message="It took long.")
    core.jobs.stage_failed("job-1", failed, retry_count=0, retryable=True)
    core.clock.advance()
    core.jobs.start_stage(made, "INITIALIZING", 1)

    (stage, *_) = core.jobs.get("job-1").stages

    assert (stage.status, stage.attempt) == (api.StageStatus.RUNNING, 2)
    assert display._describe_stage(stage) == "attempt 1: TIMEOUT: It took long."


WAITS = "No cluster has room for one more database."
SINCE_UNTIL = "since 04:30:05 UTC, until 04:40:05 UTC at the latest"


def waiting_job() -> api.Job:
    """Return a job of which a stage waits."""
    record = StageRecord(
        stage="INITIALIZING",
        status=api.StageStatus.WAITING,
        started_at=AT,
        attempt=1,
        waiting_for=WAITS,
        waiting_since=AT,
        waits_until=AT + timedelta(minutes=10),
    )
    return replace(job(), stages=(record,))


POLL = "A poll of INITIALIZING may still be at work."


def cancelled_while_it_waited() -> api.Job:
    """Return such a job whose end waits too, as it was cancelled: its stage is polled no more."""
    waited = replace(waiting_job(), cancel_requested_at=AT)
    end = api.Wait("", POLL, AT, AT + timedelta(minutes=10))
    return replace(waited, status=api.JobStatus.RUNNING, error=None, end_wait=end)


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_job_waits_for_is_shown_where_it_is_watched(*, terminal: bool) -> None:
    text = shown(200, lambda c: display.watch_job(c, waiting_job()), terminal=terminal)

    assert "WAITING" in text
    assert f"{SINCE_UNTIL}: {WAITS}" in text


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("terminal", [True, False])
def test_a_job_that_was_cancelled_while_it_waited_says_that_and_shows_one_wait(
    core: Core, *, terminal: bool
) -> None:
    made = core.new_job()
    core.jobs.start_stage(made, "INITIALIZING", 0)
    record = core.jobs.get("job-1").stages[0]
    until = core.clock.at + timedelta(minutes=10)
    core.jobs.stage_waits(made, record, WAITS, until, retry_count=0)
    core.jobs.request_cancel(core.jobs.get("job-1"))
    core.jobs.wait_to_end(core.jobs.get("job-1"), POLL, until)

    class Reader(io.StringIO):
        """Someone who sees that the end waits, in whose moment the job ends."""

        def write(self, text: str, /) -> int:
            written = super().write(text)
            if POLL in text and not core.jobs.get("job-1").status.is_terminal:
                end = BadEnd([ERROR], status=api.JobStatus.CANCELLED)
                core.jobs.fail(core.jobs.get("job-1"), end)
            return written

    reader = Reader()
    console = Console(file=reader, force_terminal=terminal, width=200, color_system=None)
    display.watch(console, "job-1")
    text = reader.getvalue()

    since = f"{core.clock.at:%H:%M:%S} UTC"
    assert cancel_asked(since) in text
    # A terminal is drawn anew; lines are said once.
    assert terminal or text.count("Its cancel") == 1
    assert f"The end of the job waits since {since}, until {until:%H:%M:%S} UTC" in text
    assert "WAITING" in text
    assert WAITS not in text.split(POLL)[0]


def test_what_jobs_wait_for_is_listed_below_their_table() -> None:
    listed = [job(IDS[1]), waiting_job(), cancelled_while_it_waited()]

    assert display.job_notes(listed) == [
        f"job {IDS[0]}: INITIALIZING waits {SINCE_UNTIL}: {WAITS}",
        f"job {IDS[0]}: {cancel_asked('04:30:05 UTC')}",
        f"job {IDS[0]}: The end of the job waits {SINCE_UNTIL}: {POLL}",
    ]


def cancel_asked(since: str) -> str:
    """Return what is said of a job that is being cancelled."""
    return f"Its cancel was asked for at {since}: it ends once the stages that run have ended."


def test_a_job_that_has_been_cancelled_is_being_cancelled_no_more() -> None:
    ended = replace(job(IDS[1], api.JobStatus.CANCELLED), cancel_requested_at=AT)

    assert display.job_notes([ended]) == []


def test_the_list_of_jobs_says_what_is_cancelled_and_what_waits(
    core: Core, connected: PlatformSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    make_stack(connected)
    core.jobs.start_stage(core.new_job(), "INITIALIZING", 0)
    core.jobs.request_cancel(core.jobs.get("job-1"))
    core.jobs.wait_to_end(core.jobs.get("job-1"), POLL, core.clock.at)

    assert main(["--stack", "provisioner", "jobs"]) == 0

    since = f"{core.clock.at:%H:%M:%S} UTC"
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == f"job job-1: {cancel_asked(since)}"
    assert said[-1].startswith(f"job job-1: The end of the job waits since {since}")


def test_that_a_job_was_cancelled_is_said_once() -> None:
    cancelled, met = (
        replace(ERROR, type=ErrorType.JOB_CANCELLED, message="The job was cancelled."),
        replace(ERROR, type=ErrorType.NETWORK_ERROR, message="No answer."),
    )
    ended = replace(
        job(status=api.JobStatus.CANCELLED),
        error=replace(cancelled, stage="", attempt=0),
        other_errors=(cancelled, met),
    )

    with pytest.raises(CommandError) as refused:
        display.refuse_failed(ended)

    said = f"job {ended.job_id} is CANCELLED. Also NETWORK_ERROR in INITIALIZING: No answer."
    assert str(refused.value) == said


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("project", ["shop", None])
def test_what_a_job_waits_for_is_listed_with_it(core: Core, project: str | None) -> None:
    made = core.new_job()
    core.jobs.start_stage(made, "INITIALIZING", 0)
    record = core.jobs.get("job-1").stage("INITIALIZING")
    assert record is not None
    until = core.clock.at + timedelta(minutes=10)
    core.jobs.stage_waits(made, record, WAITS, until, retry_count=0)
    begun = core.jobs.get("job-1")
    core.jobs.wait_to_end(begun, "The end.", until)

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
        assert f"{percent} %" in shown(80, lambda c: c.print(display._stages(ended, None)))


def test_a_failed_job_whose_every_stage_was_done_is_not_complete() -> None:
    done = StageRecord(stage="INITIALIZING", status=api.StageStatus.SUCCEEDED)
    assert replace(job(), stages=(done,)).percent_done == 99


# --- Beginnings -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("connected")
def test_a_job_is_found_by_a_beginning_that_no_other_has(core: Core) -> None:
    for one in (OTHER, "order-4711", "order-4712", "order"):
        core.new_job(one)

    assert find_job_id(OTHER[:8]) == OTHER
    assert find_job_id("order-4711") == "order-4711"
    # It begins others, and is one.
    assert find_job_id("order") == "order"
    with pytest.raises(CommandError, match="job order-47: 2 jobs begin with it"):
        find_job_id("order-47")
    for none in ("order-5", "ORDER-4711", "rder-4711"):
        with pytest.raises(api.JobNotFoundError):
            find_job_id(none)
    with pytest.raises(CommandError, match="a beginning has 4 characters or more"):
        find_job_id(OTHER[:3])
    with pytest.raises(CommandError, match="job '': no such job is stored; a beginning"):
        find_job_id("")


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
    assert find_job_id(OTHER) == OTHER
    assert core.calls == []


def test_a_message_is_chosen_likewise() -> None:
    assert choose_id("3f0b", [OTHER, *IDS], "message") == OTHER
    with pytest.raises(CommandError, match="message 0000: 3 messages begin with it"):
        choose_id("0000", IDS, "message")
    assert choose_id("4711", IDS, "message") is None


def test_a_moment_is_in_utc() -> None:
    assert display.moment(AT) == IN_UTC == display.moment(AT.astimezone(UTC))
