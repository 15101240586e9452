"""What the terminal shows: tables where there is one, plain lines where there is none."""

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from provisioner import api
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from provision_cli.sentences import CommandError, describe

_POLL_SECONDS = 0.25

#: Between two columns, in characters.
_GAP = 2

_STATUS_STYLES = {
    "SUCCEEDED": "green",
    "COMPLETED": "green",
    "ACTIVE": "green",
    "SKIPPED": "dim",
    "RUNNING": "cyan",
    "PROVISIONING": "cyan",
    "DEPROVISIONING": "cyan",
    "DEPROVISIONED": "dim",
    "RETRYING": "yellow",
    "WAITING": "yellow",
    "CANCELLED": "yellow",
    "FAILED": "bold red",
    "EXPIRED": "dim",
    "REVOKED": "dim",
}


def line(console: Console, text: str = "", style: str | None = None) -> None:
    """Print a line as it is: not wrapped, not coloured by its contents."""
    console.print(Text(text, style or ""), soft_wrap=True)


def show_json(console: Console, value: Any) -> None:
    """Print JSON."""
    console.print_json(data=value, default=str)


def moment(when: datetime) -> str:
    """Return a point in time as every list shows it: in UTC, which the column's heading says."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def show_table(
    console: Console,
    rows: Sequence[Mapping[str, str]],
    *,
    nothing: str = "",
    notes: Iterable[str] = (),
) -> None:
    """Print rows as columns, each below its heading, and notes below them.

    No word is broken, an id least of all: what does not fit a terminal goes over its edge.

    Args:
        console: where.
        rows: a cell for each heading.
        nothing: the sentence that is printed instead where there are no rows.
        notes: a line each.
    """
    if not rows:
        line(console, nothing)
    headings = next(iter(rows), {})
    columns = {heading: [heading, *(row[heading] for row in rows)] for heading in headings}
    widths = [max(map(len, column)) for column in columns.values()]
    for number, cells in enumerate(zip(*columns.values(), strict=True)):
        text = Text(style="" if number else "bold")
        for cell, width in zip(cells, widths, strict=True):
            text.append(cell.ljust(width + _GAP), _STATUS_STYLES.get(cell))
        text.rstrip()
        console.print(text, soft_wrap=True)
    for note in notes:
        line(console, note)


def watch(console: Console, job_id: str, *, appears_within: float = 0.0) -> api.Job:
    """Show a job's stages until it has ended, and those of its clean-up; return the job.

    Args:
        console: where.
        job_id: the job.
        appears_within: seconds in which the job may not be stored yet: the job of a message that
            was sent to the queue is stored by the dispatcher.

    Raises:
        JobNotFoundError: there is no such job.
    """
    deadline = time.monotonic() + appears_within
    while True:
        try:
            job = api.get_job(job_id)
            break
        except api.JobNotFoundError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_POLL_SECONDS)
    return watch_job(console, job)


def watch_job(console: Console, job: api.Job) -> api.Job:
    """Show the stages of a job that is stored, as `watch` does."""
    is_live = console.is_terminal
    if is_live or not job.status.is_terminal:
        line(console, f"job {job.job_id}" if is_live else f"job {job.job_id}  {job.status}")
    said: set[tuple[str, str]] = set()
    with Live(console=console, refresh_per_second=8) if is_live else nullcontext() as live:
        while True:
            cleanup = cleanup_of(job)
            if live is not None:
                live.update(_stages(job, cleanup))
            else:
                _say_new(console, job, cleanup, said)
            if job.status.is_terminal and (cleanup is None or cleanup.status.is_terminal):
                return job
            time.sleep(_POLL_SECONDS)
            job = api.get_job(job.job_id)


def cleanup_of(job: api.Job) -> api.Job | None:
    """Read the clean-up of a job that has ended; None where it has none, or none that is kept."""
    if not job.cleanup_job_id or not job.status.is_terminal:
        return None
    try:
        return api.get_job(job.cleanup_job_id)
    except api.JobNotFoundError:
        return None


def _say_new(
    console: Console, job: api.Job, cleanup: api.Job | None, said: set[tuple[str, str]]
) -> None:
    """Print the lines about a job, and about its clean-up, that have not been printed yet."""
    lines = [(job.job_id, text) for text in _lines(job)]
    if cleanup is not None:
        heading = Text(f"job {job.job_id}  {job.status}; its clean-up {cleanup.job_id}:")
        lines += [(cleanup.job_id, text) for text in (heading, *_lines(cleanup))]
    for about, text in lines:
        if (about, text.plain) not in said:
            said.add((about, text.plain))
            line(console, text.plain)


def _lines(job: api.Job, *, with_pending: bool = False) -> list[Text]:
    """Return what there is to say of a job: a line for each stage, or for each that has begun."""
    end_waits = [wait for wait in job.waits if not wait.stage]
    width = max((len(record.stage) for record in job.stages), default=0)
    lines = [Text(note) for note in _notes(job, end_waits)]
    for record in job.stages:
        if with_pending or record.status is not api.StageStatus.PENDING:
            attempt = f"attempt {record.attempt} of {record.max_attempts}" if record.attempt else ""
            words = (
                record.stage.ljust(width),
                record.status.ljust(9),
                attempt.ljust(14),
                # A stage that runs shows when it started, one that ended how long it took.
                _clock(record.started_at),
                _duration(record.started_at, record.finished_at),
                # No stage is polled while the end waits.
                _describe_stage(replace(record, waiting_for="") if end_waits else record),
            )
            style = _STATUS_STYLES.get(record.status, "")
            lines.append(Text("  ".join(words).rstrip(), style))
    return lines


def _notes(job: api.Job, waits: Sequence[api.Wait]) -> list[str]:
    """Return the sentences about a job as a whole: what keeps it from its beginning or its end."""
    notes = []
    if job.dispatch_error is not None:
        reason = describe(job.dispatch_error)
        notes.append(f"It has not begun: {reason} Its message is delivered again.")
    if job.cancel_requested_at is not None and not job.status.is_terminal:
        notes.append(
            f"Its cancel was asked for at {_clock(job.cancel_requested_at)}: "
            "it ends once the stages that run have ended."
        )
    for wait in waits:
        what = wait.stage or "The end of the job"
        notes.append(f"{what} waits {_describe_wait(wait.since, wait.until, wait.waiting_for)}")
    return notes


def _describe_wait(since: datetime | None, until: datetime | None, waiting_for: str) -> str:
    return f"since {_clock(since)}, until {_clock(until)} at the latest: {waiting_for}"


def show_enqueued(job: api.Job) -> None:
    """Print the id of a job that has just been enqueued, and how it is followed."""
    line(Console(), job.job_id)
    line(Console(stderr=True), f"{job.status}; `provision watch {job.job_id}` follows it.")


def show_outcome(console: Console, job: api.Job) -> None:
    """Print a finished job's result.

    Raises:
        CommandError: it failed, or was cancelled; the sentence is its error.
    """
    refuse_failed(job)
    show_json(console, job.result)


def refuse_failed(job: api.Job) -> None:
    """Refuse a finished job that has not completed.

    Raises:
        CommandError: it failed, or was cancelled; the sentence is its error.
    """
    if job.error is not None:
        raise CommandError(f"job {job.job_id} {_describe_bad_end(job, job.error)}{_cleanup(job)}")


def _describe_bad_end(job: api.Job, error: api.StoredError) -> str:
    """Say how a job has ended otherwise than well; that it was cancelled is said once."""
    others = "".join(
        f" Also {other.type} in {other.stage}: {other.message}"
        for other in job.other_errors
        if other.type is not api.ErrorType.JOB_CANCELLED
    )
    if job.status is api.JobStatus.CANCELLED:
        return f"is {job.status}.{others}"
    where = f" in {error.stage}, attempt {error.attempt}" if error.stage else ""
    return f"{job.status}{where}: {describe(error)}{others}"


def _cleanup(job: api.Job) -> str:
    """Say what has become of what a job made that has failed; nothing where it stays."""
    if job.remaining:
        left = ", ".join(job.remaining)
        again = job.parent_id or job.job_id
        return f" Remaining: {left}; `provision cleanup {again}` tries again to remove it."
    cleanup = cleanup_of(job)
    if cleanup is None:
        return ""
    if not cleanup.status.is_terminal:
        return " What it made is being removed."
    if cleanup.status is api.JobStatus.COMPLETED:
        return " What it made has been removed."
    if cleanup.error is not None and not cleanup.remaining:
        return (
            f" Its clean-up failed: {describe(cleanup.error)} "
            f"`provision cleanup {job.job_id}` runs it again."
        )
    return _cleanup(cleanup)


def show_restored(console: Console, restored: api.RestoredSnapshot) -> None:
    """Print what has been restored where, and what is left out."""
    line(
        console,
        f"snapshot {restored.snapshot.key} is restored into database {restored.database} "
        f"on {restored.host}:{restored.port}.",
    )
    for left_out in restored.left_out:
        line(console, f"left out: {left_out}")


def job_rows(jobs: Sequence[api.Job]) -> list[dict[str, str]]:
    """Return what `provision jobs` shows of each job; a clean-up stands below the failed job."""
    return [
        {
            "job": job.job_id,
            "type": f"{_BELOW}{job.job_type}" if job.parent_id else job.job_type,
            "project": job.project_id,
            "status": job.status,
            "created (UTC)": moment(job.created_at),
            "took": _duration(job.created_at, job.finished_at),
            "error": next((e.type for e in (job.error, job.dispatch_error) if e is not None), ""),
        }
        for job in _below_parents(jobs)
    ]


def project_rows(projects: Sequence[api.Project]) -> list[dict[str, str]]:
    """Return what `provision projects` shows of each project."""
    return [
        {
            "project": project.project_id,
            "status": project.status,
            "created (UTC)": moment(datetime.fromisoformat(project.created_at)),
            "of": project.organization_id or project.owner_id or "",
            "region": project.region or "",
            "locked by job": project.locked_by or "",
        }
        for project in projects
    ]


#: Before the type of a clean-up, below the failed job.
_BELOW = "  "


def _below_parents(jobs: Sequence[api.Job]) -> list[api.Job]:
    """Put each clean-up directly below the failed job, where that is there too."""
    places = {job.job_id: place for place, job in enumerate(jobs)}

    def place(job: api.Job) -> tuple[int, bool]:
        return places.get(job.parent_id, places[job.job_id]), job.parent_id in places

    return sorted(jobs, key=place)


def job_notes(jobs: Sequence[api.Job]) -> list[str]:
    """Return what `provision jobs` says below its table: what keeps which job from going on."""
    notes = []
    for job in jobs:
        # No stage is polled while the end waits.
        waits = [wait for wait in job.waits if not wait.stage] or job.waits
        notes += [f"job {job.job_id}: {note}" for note in _notes(job, waits)]
    return notes


#: The last attempt that failed does not end its stage: that is closed once its failure is recorded.
_NONE_LEFT = "No attempt is left."


def _was_the_last(change: api.HistoryEntry | api.StageRecord) -> bool:
    """Whether an attempt has failed with an error that is retried, and none is left."""
    return change.status == api.StageStatus.RETRYING and change.next_attempt_before is None


def history_rows(history: Sequence[api.HistoryEntry]) -> list[dict[str, str]]:
    """Return what `provision history` shows of each entry."""
    return [
        {
            "at (UTC)": moment(entry.at),
            "of": entry.subject,
            "status": entry.status,
            "attempt": str(entry.attempt or ""),
            "error": entry.error_type or "",
            "note": f"{entry.note} {_NONE_LEFT}" if _was_the_last(entry) else entry.note,
        }
        for entry in history
    ]


def dead_letter_rows(letters: Sequence[api.DeadLetter]) -> list[dict[str, str]]:
    """Return what `provision dlq list` shows of each dead letter."""
    return [
        {
            "message": letter.message_id,
            "job": letter.job_id,
            "since (UTC)": moment(letter.at),
            "error": letter.error_type,
            "reason": letter.reason or "nobody could say why",
        }
        for letter in letters
    ]


def snapshot_rows(
    snapshots: Sequence[api.Snapshot | api.InstanceSnapshot],
) -> list[dict[str, str]]:
    """Return what `provision snapshots list` shows of each snapshot."""
    return [
        {
            "snapshot": snapshot.key,
            "kind": "dump",
            "taken (UTC)": moment(snapshot.taken_at),
            "size": f"{snapshot.size_bytes:,} bytes",
            "server": snapshot.server_version,
            "kept until": "",
            "job": snapshot.job_id,
        }
        if isinstance(snapshot, api.Snapshot)
        else {
            "snapshot": snapshot.identifier,
            "kind": f"RDS, {snapshot.region}",
            "taken (UTC)": moment(snapshot.taken_at) if snapshot.taken_at else snapshot.status,
            "size": f"{snapshot.storage_gb:,} GiB",
            "server": snapshot.server_version,
            "kept until": snapshot.kept_until.isoformat() if snapshot.kept_until else "",
            "job": snapshot.job_id,
        }
        for snapshot in snapshots
    ]


def api_key_rows(keys: Sequence[api.ApiKey]) -> list[dict[str, str]]:
    """Return what `provision keys list` shows of each key."""
    now = datetime.now(UTC)
    return [
        {
            "key": key.key_id,
            "begins with": key.key_prefix,
            "status": "EXPIRED"
            if key.status is api.ApiKeyStatus.ACTIVE and not key.verifies_at(now)
            else key.status,
            "created (UTC)": moment(datetime.fromisoformat(key.created_at)),
            "ends (UTC)": "" if not ended else moment(datetime.fromisoformat(ended)),
        }
        for key in keys
        for ended in [key.revoked_at or key.expires_at]
    ]


def _stages(job: api.Job, cleanup: api.Job | None) -> Group:
    """Return all the lines about a job, and about its clean-up, with what they come to."""
    lines = _lines(job, with_pending=True)
    took = _duration(job.created_at, job.finished_at or datetime.now(UTC))
    summary = Text(
        f"{job.status}  {job.percent_done} %  {took}",
        _STATUS_STYLES.get(job.status, ""),
    )
    if cleanup is not None:
        lines += [Text("clean-up", "bold"), *_lines(cleanup, with_pending=True)]
        style = _STATUS_STYLES.get(cleanup.status, "")
        summary.append(f"  clean-up {cleanup.status}", style)
    return Group(*lines, summary)


def _describe_stage(record: api.StageRecord) -> str:
    if record.status is api.StageStatus.WAITING:
        if not record.waiting_for:
            return ""
        return _describe_wait(record.waiting_since, record.waits_until, record.waiting_for)
    if record.next_attempt_before is not None and not record.status.is_terminal:
        error = f"{record.error.type}; " if record.error is not None else ""
        # With full jitter it is any moment until then; the local stack shortens what is drawn.
        until = _clock(record.next_attempt_before)
        return f"{error}next attempt at any moment, by {until} at the latest"
    if record.error is not None and record.status is not api.StageStatus.SUCCEEDED:
        none_left = f" {_NONE_LEFT}" if _was_the_last(record) else ""
        of = f"attempt {record.error.attempt}: " if record.error.attempt < record.attempt else ""
        return f"{of}{record.error.type}: {record.error.message}{none_left}"
    return record.check


def _clock(when: datetime | None) -> str:
    return "" if when is None else f"{when.astimezone(UTC):%H:%M:%S} UTC"


def _duration(start: datetime | None, end: datetime | None) -> str:
    if start is None or end is None:
        return ""
    # A job that is refused ends when it begins, and either clock may have been read first.
    return f"{max((end - start).total_seconds(), 0):.2f} s"
