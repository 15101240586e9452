"""What the program shows of a job that has failed, and how it runs its clean-up again."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from provision_cli.display import job_rows, show_outcome, watch
from provision_cli.main import main
from provision_cli.sentences import CommandError
from provisioner.errors import ErrorType
from provisioner.jobs.models import Job, JobStatus, StageStatus, StoredError
from provisioner.jobs.records import NewJob
from provisioner.jobs.store import BadEnd, utc_now
from provisioner.provisioning.job_types import clean_up_project
from provisioner.runtime.platform import PlatformSettings
from rich.console import Console
from support.core import REGION, Core, cleanup_payload, make_stack

ERROR = StoredError(ErrorType.CONFLICT, "REGISTERING_AUTH", 1, "It is not ours.", "")
LEFT = ["bucket nm-shop", "secret nm/nm-shop/database"]


#: The id of the clean-up.
CLEANUP = "cleanup-1"

#: What ends it badly.
STAYS = StoredError(ErrorType.REMOVAL_FAILED, "REMOVING_STORAGE", 1, "It stays.", "")


@pytest.fixture
def failed(core: Core) -> Core:
    """Return the deployment with a job that has failed and is being cleaned up after."""
    core.new_project()
    job = core.new_job()
    core.jobs.start_stage(job, "REGISTERING_AUTH", 0)
    core.jobs.stage_failed("job-1", ERROR, retry_count=0, retryable=False)
    core.clock.advance()
    definition = clean_up_project.JOB_TYPE
    cleanup = NewJob(CLEANUP, definition.name, cleanup_payload(), definition.stages, "job-1")
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([ERROR], cleanup=cleanup))
    return core


def remove(core: Core, stage: str) -> None:
    """Let a stage of the clean-up end well."""
    core.jobs.start_stage(core.jobs.get(CLEANUP), stage, 0)
    core.clock.advance(2)
    core.jobs.end_stage(CLEANUP, stage, StageStatus.SUCCEEDED, output={}, check="nothing is left")


def complete(core: Core) -> None:
    """Let the clean-up complete."""
    last = clean_up_project.FINALIZING
    core.jobs.start_stage(core.jobs.get(CLEANUP), last, 0)
    core.jobs.complete(CLEANUP, last, output={}, check="all is gone", result={})


def leave(core: Core, remaining: Sequence[str] = LEFT) -> None:
    """Let the clean-up fail, and name what remains."""
    core.jobs.fail(core.jobs.get(CLEANUP), BadEnd([STAYS], remaining=remaining))


@pytest.fixture
def stack(failed: Core, connected: PlatformSettings, monkeypatch: pytest.MonkeyPatch) -> Core:
    """Return the deployment as the CloudFormation stack that --stack names."""
    make_stack(connected)
    # The command sets it, and is not to leave it to other tests.
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    return failed


#: Runs a command against the stack; returns its exit code, what it showed and what it complained.
type Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(stack: Core, capsys: pytest.CaptureFixture[str]) -> Command:
    del stack

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--stack", "provisioner", "--region", REGION, *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("terminal", [False, True])
def test_a_job_is_watched_until_its_clean_up_has_ended(
    failed: Core, capsys: pytest.CaptureFixture[str], *, terminal: bool
) -> None:
    remove(failed, clean_up_project.INITIALIZING)
    seen: list[Job] = []
    console = Console(force_terminal=terminal, width=200)
    watching = threading.Thread(target=lambda: seen.append(watch(console, "job-1")))
    watching.start()
    for stage in clean_up_project.JOB_TYPE.stages[1:-1]:
        remove(failed, stage)
    assert watching.is_alive()
    complete(failed)
    watching.join(timeout=20)

    assert seen[0].job_id == "job-1"
    shown = capsys.readouterr().out
    for text in ("REGISTERING_AUTH", *clean_up_project.JOB_TYPE.stages, "nothing is left"):
        assert text in shown
    said = "clean-up COMPLETED" if terminal else f"job job-1  FAILED; its clean-up {CLEANUP}:"
    assert said in shown


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("terminal", [False, True])
def test_the_stages_of_a_job_and_of_its_clean_up_that_are_called_alike_are_both_shown(
    failed: Core, capsys: pytest.CaptureFixture[str], *, terminal: bool
) -> None:
    remove(failed, clean_up_project.INITIALIZING)
    complete(failed)

    watch(Console(force_terminal=terminal, width=200), "job-1")

    shown = capsys.readouterr().out
    # Those of the job never began, which a terminal alone shows.
    for stage in ("INITIALIZING", "FINALIZING"):
        lines = [line for line in shown.splitlines() if stage in line]
        seen = {s for s in ("PENDING", "SUCCEEDED") if any(s in line for line in lines)}
        assert seen == ({"PENDING", "SUCCEEDED"} if terminal else {"SUCCEEDED"})


def test_a_clean_up_is_watched_like_any_job(stack: Core, command: Command) -> None:
    remove(stack, clean_up_project.INITIALIZING)
    complete(stack)

    code, shown, _ = command("watch", CLEANUP)

    assert code == 0
    assert shown.splitlines()[0].startswith("INITIALIZING")
    assert "REGISTERING_AUTH" not in shown


@pytest.mark.usefixtures("connected")
def test_a_clean_up_that_failed_and_named_nothing_says_why(failed: Core) -> None:
    """Such as one that has removed all, and could not say so."""
    leave(failed, [])

    with pytest.raises(CommandError) as raised:
        show_outcome(Console(), failed.jobs.get("job-1"))

    assert str(raised.value).endswith(
        " Its clean-up failed: REMOVAL_FAILED: It stays. `provision cleanup job-1` runs it again."
    )


@pytest.mark.usefixtures("connected")
def test_a_job_whose_clean_up_is_kept_no_more_is_shown_all_the_same(failed: Core) -> None:
    job = replace(failed.jobs.get("job-1"), cleanup_job_id="gone")

    with pytest.raises(CommandError) as raised:
        show_outcome(Console(), job)

    assert str(raised.value).endswith("CONFLICT: It is not ours.")


def test_what_heads_a_clean_up_that_has_failed_does_not_say_that_all_is_removed(
    stack: Core, command: Command
) -> None:
    remove(stack, clean_up_project.REMOVING_API_KEYS)
    leave(stack)

    code, shown, complaint = command("watch", "job-1")

    _failed, heading, removed, _remains = shown.splitlines()
    assert (code, heading) == (1, f"job job-1  FAILED; its clean-up {CLEANUP}:")
    assert removed.startswith("REMOVING_API_KEYS")
    assert "Remaining: bucket nm-shop" in complaint


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (None, " What it made is being removed."),
        ([], " What it made has been removed."),
        (
            LEFT,
            f" Remaining: {', '.join(LEFT)}; `provision cleanup job-1` tries again to remove it.",
        ),
    ],
)
@pytest.mark.usefixtures("connected")
def test_the_end_of_a_job_says_what_has_become_of_what_it_made(
    failed: Core, left: list[str] | None, said: str
) -> None:
    if left:
        leave(failed, left)
    elif left is not None:
        complete(failed)

    with pytest.raises(CommandError) as raised:
        show_outcome(Console(), failed.jobs.get("job-1"))

    assert str(raised.value) == (
        "job job-1 FAILED in REGISTERING_AUTH, attempt 1: CONFLICT: It is not ours." + said
    )


def test_the_list_of_jobs_shows_each_clean_up_below_its_parent(
    stack: Core, command: Command
) -> None:
    stack.clock.advance()
    stack.new_job("job-2")

    code, shown, _ = command("jobs")

    rows = [re.split(r" {2,}", line) for line in shown.splitlines()[1:]]
    assert code == 0
    assert [row[0] for row in rows] == ["job-2", "job-1", CLEANUP]
    assert rows[2][1:4] == ["clean_up_project", "shop", "QUEUED"]
    # It is set off from its parent.
    assert shown.splitlines()[3].index("clean_up") > shown.splitlines()[2].index("provision_")
    leave(stack)
    last = command("jobs")[1].splitlines()[3]
    assert re.split(r" {2,}", last)[3] == "FAILED"
    assert last.endswith("REMOVAL_FAILED")


def test_a_clean_up_whose_parent_is_not_listed_is_listed_all_the_same(failed: Core) -> None:
    parent, cleanup = (failed.jobs.get(job_id) for job_id in ("job-1", CLEANUP))

    assert [row["job"] for row in job_rows([cleanup])] == [CLEANUP]
    assert [row["job"] for row in job_rows([cleanup, parent])] == ["job-1", CLEANUP]


@pytest.mark.parametrize("job_id", ["job-1", CLEANUP], ids=["by_its_parent", "by_itself"])
def test_a_clean_up_is_run_again_by_command(stack: Core, command: Command, job_id: str) -> None:
    leave(stack)
    stack.clock.advance()
    for _ in range(2):
        assert command("cleanup", job_id) == (
            0,
            f"job {CLEANUP}: attempt 2 of the clean-up is under way.\n",
            f"`provision watch {CLEANUP}` follows it.\n",
        )
    sent = [json.loads(message["Body"]) for message in stack.messages(stack.queue_url)]
    assert {(body["job_id"], body["attempt"]) for body in sent} == {(CLEANUP, 2)}


def test_a_clean_up_is_not_cancelled(stack: Core, command: Command) -> None:
    assert command("cancel", CLEANUP) == (
        1,
        "",
        (
            f"provision: job {CLEANUP}: is a clean-up, which is not cancelled; where it fails, "
            "`provision cleanup` runs it again.\n"
        ),
    )
    assert stack.jobs.get(CLEANUP).status is JobStatus.QUEUED


def test_a_job_is_not_retried_while_its_clean_up_is_under_way(
    stack: Core, command: Command
) -> None:
    code, _, complaint = command("retry", "job-1")

    assert (code, complaint) == (
        1,
        ("provision: job job-1: its clean-up is under way; retry it once that has ended.\n"),
    )
    assert stack.jobs.get("job-1").attempt == 1


def test_a_retry_may_be_typed_again_while_its_attempt_is_under_way(
    stack: Core, command: Command
) -> None:
    complete(stack)
    stack.clock.advance()

    for _ in range(2):
        assert command("retry", "job-1") == (0, "job job-1 is QUEUED, attempt 2.\n", "")
    stack.jobs.start_stage(stack.jobs.get("job-1"), "INITIALIZING", 0)
    assert command("retry", "job-1") == (0, "job job-1 is RUNNING, attempt 2.\n", "")


def test_a_cancel_of_a_job_at_work_says_that_it_is_stored(stack: Core, command: Command) -> None:
    stack.clock.at = utc_now()  # the program's own
    stack.jobs.start_stage(stack.new_job("job-2", "mart"), "INITIALIZING", 0)

    assert command("cancel", "job-2") == (
        0,
        "job job-2 is RUNNING.\n",
        (
            "Its cancel is stored: it ends once the stages that run have ended; "
            "`provision watch job-2` follows it.\n"
        ),
    )


@pytest.mark.parametrize(
    "arguments", [("cancel", "job-9"), ("retry", "job-9"), ("cleanup", "job-9")], ids=" ".join
)
def test_a_job_of_a_type_that_this_version_does_not_define_is_left_with_a_sentence(
    stack: Core, command: Command, arguments: tuple[str, ...]
) -> None:
    job = stack.jobs.create(NewJob("job-9", "gone", {"project_id": "shop"}, ("DOING",)))
    stack.jobs.start_stage(job, "DOING", 0)
    if arguments[0] != "cancel":
        error = replace(ERROR, stage="DOING")
        undoing = NewJob("undo-9", "gone_too", {"project_id": "shop"}, ("UNDOING",), "job-9")
        end = BadEnd([error], cleanup=undoing)
        stack.jobs.fail(stack.jobs.get("job-9"), end)
        left = BadEnd([replace(ERROR, stage="")], remaining=["mail"])
        stack.jobs.fail(stack.jobs.get("undo-9"), left)

    code, out, complaint = command(*arguments)

    assert (code, out) == (1, "")
    refused = "job_type: no handler is registered for it; known are "
    undefined = "job job-9: its job type gone is not defined in this version"
    sentence = undefined if arguments[0] == "cancel" else refused
    assert complaint.startswith(f"provision: {sentence}")
    assert complaint.count("\n") == 1


def test_a_clean_up_that_cannot_be_run_again_says_why(stack: Core, command: Command) -> None:
    complete(stack)
    assert command("cleanup", "job-1") == (
        1,
        "",
        "provision: job job-1: its clean-up has left nothing.\n",
    )
    assert command("cleanup", "none-such")[2] == (
        "provision: job none-such: no such job is stored.\n"
    )


def test_the_history_of_a_job_is_listed(stack: Core, command: Command) -> None:
    code, shown, _ = command("history", "job-1")

    heading, *rows = [re.split(r" {2,}", line) for line in shown.splitlines()]
    assert code == 0
    assert heading == ["at (UTC)", "of", "status", "attempt", "error", "note"]
    history = stack.jobs.get("job-1").history
    assert [row[:3] for row in rows] == [
        [f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.subject, entry.status] for entry in history
    ]
    assert ["REGISTERING_AUTH", "FAILED", "1", "CONFLICT", "It is not ours."] in [
        row[1:] for row in rows
    ]
    # The clean-up has a history of its own.
    leave(stack)
    *_, last = command("history", CLEANUP)[1].splitlines()
    assert re.split(r" {2,}", last)[1:] == ["JOB", "FAILED", "1", "REMOVAL_FAILED", "It stays."]


@pytest.mark.usefixtures("stack")
def test_a_redrive_of_nothing_says_so(command: Command) -> None:
    assert command("dlq", "redrive", "--all") == (0, "There are no dead letters.\n", "")


@pytest.mark.usefixtures("connected")
def test_the_technical_cause_of_an_error_is_a_sentence_of_its_own(failed: Core) -> None:
    job = failed.jobs.get("job-1")
    error = replace(ERROR, cause="StartExecution: StateMachineDoesNotExist")

    with pytest.raises(CommandError) as raised:
        show_outcome(Console(), replace(job, error=error))

    assert " Technical cause: StartExecution: StateMachineDoesNotExist. What it" in str(
        raised.value
    )


def test_a_job_that_was_refused_took_no_time(failed: Core) -> None:
    job = failed.jobs.get("job-1")
    (row,) = job_rows([replace(job, finished_at=job.created_at - timedelta(milliseconds=1))])
    assert row["took"] == "0.00 s"
