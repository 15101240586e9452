"""What the program shows of a job that has failed, and how it runs its clean-up again."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from provision_cli.display import job_rows, show_outcome, watch
from provision_cli.main import main
from provision_cli.sentences import CommandError
from provisioner.errors import ErrorType
from provisioner.jobs.models import Job, StageStatus, StoredError
from provisioner.jobs.store import NewJob, utc_now
from provisioner.provisioning.job_types import provision_project
from provisioner.runtime.platform import PlatformSettings
from rich.console import Console
from support.core import REGION, Core, make_stack

ERROR = StoredError(ErrorType.CONFLICT, "REGISTERING_AUTH", 1, "It is not ours.", "")
LEFT = ["bucket nm-shop", "secret nm/nm-shop/database"]


def head(core: Core) -> Job:
    found = core.jobs.get_head("job-1")
    assert found is not None
    return found


@pytest.fixture
def failed(core: Core) -> Core:
    """Return the deployment with a job that has failed and is being cleaned up after."""
    core.new_project()
    core.new_job()
    core.jobs.start_stage(head(core), "REGISTERING_AUTH", 0)
    core.jobs.stage_failed("job-1", ERROR, retry_count=0, retryable=False)
    core.jobs.fail(
        "job-1", [ERROR], close={}, cleanup=(1, provision_project.JOB_TYPE.on_failure.cleanup)
    )
    return core


def remove(core: Core, stage: str) -> None:
    core.jobs.start_stage(head(core), stage, 0)
    core.clock.advance(2)
    core.jobs.end_stage("job-1", stage, StageStatus.SUCCEEDED, output={}, check="nothing is left")


@pytest.fixture
def stack(failed: Core, connected: PlatformSettings, monkeypatch: pytest.MonkeyPatch) -> Core:
    """Return the deployment as the CloudFormation stack that --stack names."""
    make_stack(connected)
    failed.make_state_machine("provision_project_cleanup")
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
    remove(failed, provision_project.REMOVING_API_KEYS)
    seen: list[Job] = []
    console = Console(force_terminal=terminal, width=200)
    watching = threading.Thread(target=lambda: seen.append(watch(console, "job-1")))
    watching.start()
    for stage in list(provision_project.JOB_TYPE.on_failure.cleanup)[1:]:
        remove(failed, stage)
    assert watching.is_alive()
    failed.jobs.end_cleanup("job-1", 1, [])
    watching.join(timeout=20)

    assert seen[0].cleanup is not None
    shown = capsys.readouterr().out
    for text in (
        "REGISTERING_AUTH",
        *provision_project.JOB_TYPE.on_failure.cleanup,
        "nothing is left",
    ):
        assert text in shown
    said = "clean-up DONE" if terminal else "job job-1  FAILED; its clean-up:"
    assert said in shown


def test_what_heads_a_clean_up_that_has_failed_does_not_say_that_all_is_removed(
    stack: Core, command: Command
) -> None:
    remove(stack, provision_project.REMOVING_API_KEYS)
    stack.jobs.end_cleanup("job-1", 1, LEFT)

    code, shown, complaint = command("watch", "job-1")

    _failed, heading, removed = shown.splitlines()
    assert (code, heading) == (1, "job job-1  FAILED; its clean-up:")
    assert removed.startswith("REMOVING_API_KEYS")
    assert "Left over: bucket nm-shop" in complaint


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (None, " What it made is being removed."),
        ([], " What it made has been removed."),
        (
            LEFT,
            f" Left over: {', '.join(LEFT)}; `provision cleanup job-1` tries again to remove it.",
        ),
    ],
)
def test_the_end_of_a_job_says_what_has_become_of_what_it_made(
    failed: Core, left: list[str] | None, said: str
) -> None:
    if left is not None:
        failed.jobs.end_cleanup("job-1", 1, left)

    with pytest.raises(CommandError) as raised:
        show_outcome(Console(), failed.jobs.get("job-1"))

    assert str(raised.value) == (
        "job job-1 FAILED in REGISTERING_AUTH, attempt 1: CONFLICT: It is not ours." + said
    )


def test_the_list_of_jobs_shows_how_far_each_clean_up_is(stack: Core, command: Command) -> None:
    code, shown, _ = command("jobs")
    assert code == 0
    heading, row = shown.splitlines()
    assert heading.endswith("clean-up")
    assert row.endswith("RUNNING")
    stack.jobs.end_cleanup("job-1", 1, LEFT)
    assert command("jobs")[1].splitlines()[1].endswith("FAILED")


def test_a_clean_up_is_run_again_by_command(stack: Core, command: Command) -> None:
    stack.jobs.end_cleanup("job-1", 1, LEFT)
    for _ in range(2):
        assert command("cleanup", "job-1") == (
            0,
            "job job-1: run 2 of its clean-up is under way.\n",
            "`provision watch job-1` follows it.\n",
        )
    assert [e["name"] for e in stack.executions("provision_project_cleanup")] == ["job-1-cleanup-2"]


def test_a_retry_may_be_typed_again_while_its_attempt_is_under_way(
    stack: Core, command: Command
) -> None:
    stack.jobs.end_cleanup("job-1", 1, [])
    stack.clock.advance()

    for _ in range(2):
        assert command("retry", "job-1") == (0, "job job-1 is QUEUED, attempt 2.\n", "")
    stack.jobs.start_stage(head(stack), "INITIALIZING", 0, round_=2)
    assert command("retry", "job-1") == (0, "job job-1: attempt 2 is under way.\n", "")


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
        stack.jobs.fail("job-9", [error], close={"DOING": error}, cleanup=(1, ("UNDOING",)))
        stack.jobs.end_cleanup("job-9", 1, ["mail"])

    code, out, complaint = command(*arguments)

    assert (code, out) == (1, "")
    said = {"retry": "job_type: no handler is registered for it; known are "}
    sentence = said.get(arguments[0], "job job-9: its job type gone is not defined in this version")
    assert complaint.startswith(f"provision: {sentence}")
    assert complaint.count("\n") == 1


def test_a_clean_up_that_cannot_be_run_again_says_why(stack: Core, command: Command) -> None:
    stack.jobs.end_cleanup("job-1", 1, [])
    assert command("cleanup", "job-1") == (
        1,
        "",
        "provision: job job-1: its clean-up has left nothing.\n",
    )
    assert command("cleanup", "none-such")[2] == (
        "provision: job none-such: no such job is stored.\n"
    )


def test_the_history_of_a_job_is_listed(stack: Core, command: Command) -> None:
    stack.jobs.end_cleanup("job-1", 1, LEFT)

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
    assert ["CLEANUP", "FAILED", "1", ", ".join(LEFT)] in [row[1:] for row in rows]


@pytest.mark.usefixtures("stack")
def test_a_redrive_of_nothing_says_so(command: Command) -> None:
    assert command("dlq", "redrive", "--all") == (0, "There are no dead letters.\n", "")


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
    assert "0.00 s" in row
