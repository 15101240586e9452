"""The program `provision`."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from provisioner import api
from provisioner.provisioning.job_types import JOB_TYPES
from provisioner.runtime.observability import logger
from rich.console import Console

from provision_cli import display, local_commands, snapshots
from provision_cli.demo import Demonstration
from provision_cli.ids import choose_id, find_job_id, is_whole
from provision_cli.job_commands import add_job_commands, enqueue_change
from provision_cli.job_types.new import write_job_type
from provision_cli.local.stack import PROJECT_ROOT
from provision_cli.sentences import CommandError, sentence
from provision_cli.targets import Target

app = typer.Typer(
    name="provision",
    help="Provision projects: on the local stack, or on the one that --stack names.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(local_commands.app)
project_app = typer.Typer(help="Create and show projects.")
keys_app = typer.Typer(help="Hand over, rotate, revoke and list API keys.")
app.add_typer(project_app, name="project")
app.add_typer(keys_app, name="keys")
dlq_app = typer.Typer(help="Look at dead letters, and send them on their way again.")
app.add_typer(dlq_app, name="dlq")
app.add_typer(snapshots.app, name="snapshots")
new_app = typer.Typer(help="Write what extends this project.")
app.add_typer(new_app, name="new")

#: Seconds in which the dispatcher, started anew, has stored the job of a message.
_APPEARS_SECONDS = 15.0

_NO_LETTERS = "There are no dead letters."

#: An argument that names a job.
JobId = Annotated[str, typer.Argument(help="Its id, or a beginning that no other job's has.")]


@app.callback()
def _main(
    context: typer.Context,
    stack: Annotated[
        str | None,
        typer.Option(help="A deployed CloudFormation stack; the local stack when left out."),
    ] = None,
    region: Annotated[str | None, typer.Option(help="The region of --stack.")] = None,
) -> None:
    context.obj = Target(stack, region)


@app.command()
def demo() -> None:
    """Provision, fail, remove and restore projects on the local stack, and show what happens."""
    console = Console()
    Demonstration(console, local_commands.bring_up(console)).run()


@project_app.command("create")
def create_project(
    context: typer.Context,
    project_id: str,
    owner: Annotated[str | None, typer.Option(help="Whose quota it counts against.")] = None,
    organization: Annotated[
        str | None, typer.Option(help="Whose quota it counts against, before the owner's.")
    ] = None,
) -> None:
    """Create a project, to be provisioned by a job."""
    Target.of(context).connect()
    project = api.create_project(project_id, owner_id=owner, organization_id=organization)
    display.line(Console(), f"project {project.project_id} is {project.status}.")


@project_app.command("show")
def show_project(context: typer.Context, project_id: str) -> None:
    """Show a project, its latest job and its result."""
    Target.of(context).connect()
    project = api.get_project(project_id)
    jobs = api.list_jobs(project_id)
    display.show_json(
        Console(),
        {
            "project_id": project.project_id,
            "status": project.status,
            "created_at": project.created_at,
            "owner_id": project.owner_id,
            "organization_id": project.organization_id,
            "deletion_protection": project.deletion_protection,
            "cluster_id": project.cluster_id,
            "locked_by": project.locked_by,
            # A clean-up is shown with the job that it follows.
            "latest_job": next((job.job_id for job in jobs if not job.parent_id), None),
            "result": project.result,
            "snapshot": project.snapshot,
        },
    )


@project_app.command("protect")
def protect_project(
    context: typer.Context,
    project_id: str,
    *,
    off: Annotated[bool, typer.Option("--off", help="End its protection.")] = False,
) -> None:
    """Protect a project against being deprovisioned."""
    Target.of(context).connect()
    project = api.protect_project(project_id, enabled=not off)
    protected = "protected" if project.deletion_protection else "not protected"
    display.line(
        Console(), f"project {project.project_id} is {protected} against being deprovisioned."
    )


@app.command()
def enqueue(  # noqa: PLR0917 - Typer passes them by name
    context: typer.Context,
    project: Annotated[
        str | None, typer.Option(help="Provision this project, with defaults for all else.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(help="With --project: where; the deployment's region by default.")
    ] = None,
    payload: Annotated[
        str | None, typer.Option(help="A file with the payload as JSON; - reads standard input.")
    ] = None,
    job_type: Annotated[str, typer.Option(help="The job type.")] = "provision_project",
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key gives the same job, however often it is sent.")
    ] = None,
    delay: Annotated[int, typer.Option(min=0, max=900, help="Seconds to hold it back.")] = 0,
) -> None:
    """Enqueue a job; prints its id. A payload that is wrong is refused, and nothing is sent."""
    if (project is None) == (payload is None):
        raise CommandError("--project or --payload: give one of the two.")
    if payload is not None:
        if region is not None:
            raise CommandError("--region: goes with --project; a payload names its own region.")
        body = _read_payload(payload)
        api.get_job_handler(job_type).parse(body)
        Target.of(context).connect()
    else:
        deployed_in = Target.of(context).connect()
        body = {"project_id": project, "region": region or deployed_in}
    job = api.enqueue_job(job_type, body, idempotency_key=idempotency_key, delay_seconds=delay)
    display.show_enqueued(job)


@app.command()
def watch(context: typer.Context, job_id: JobId) -> None:
    """Show a job's stages, and those of its clean-up, until it ends; fails when the job does."""
    Target.of(context).connect()
    console = Console()
    # The job of a message that was sent a moment ago is stored by the dispatcher.
    appears_within = _APPEARS_SECONDS if is_whole(job_id) else 0.0
    job = display.watch(console, find_job_id(job_id), appears_within=appears_within)
    display.show_outcome(console, job)


@app.command()
def cancel(context: typer.Context, job_id: JobId) -> None:
    """Cancel a job and remove what it made; a stage that runs ends first."""
    Target.of(context).connect()
    job = api.cancel_job(find_job_id(job_id))
    display.line(Console(), f"job {job.job_id} is {job.status}.")
    if not job.status.is_terminal:
        display.line(
            Console(stderr=True),
            "Its cancel is stored: it ends once the stages that run have ended; "
            f"`provision watch {job.job_id}` follows it.",
        )


@app.command()
def retry(context: typer.Context, job_id: JobId) -> None:
    """Run a job that has failed, or was cancelled, again: its next attempt."""
    Target.of(context).connect()
    job = api.retry_job(find_job_id(job_id))
    if job.status is api.JobStatus.RUNNING:
        display.line(Console(), f"job {job.job_id}: attempt {job.attempt} is under way.")
    else:
        display.line(Console(), f"job {job.job_id} is {job.status}, attempt {job.attempt}.")


@app.command()
def cleanup(context: typer.Context, job_id: JobId) -> None:
    """Remove again what a failed job has left, where its clean-up could not."""
    Target.of(context).connect()
    job = api.retry_cleanup(find_job_id(job_id))
    display.line(
        Console(), f"job {job.job_id}: attempt {job.attempt} of the clean-up is under way."
    )
    display.line(Console(stderr=True), f"`provision watch {job.job_id}` follows it.")


@app.command()
def jobs(
    context: typer.Context,
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
) -> None:
    """List jobs, newest first."""
    Target.of(context).connect()
    found = api.list_jobs(project)
    console = Console()
    headings = ["job", "type", "project", "status", "created (UTC)", "took", "error"]
    display.show_table(console, headings, display.job_rows(found), nothing="There are no jobs.")
    for note in display.job_notes(found):
        display.line(console, note)


@app.command()
def history(context: typer.Context, job_id: JobId) -> None:
    """List what has happened to a job, oldest first."""
    Target.of(context).connect()
    job = api.get_job(find_job_id(job_id))
    headings = ["at (UTC)", "of", "status", "attempt", "error", "note"]
    console = Console()
    display.show_table(console, headings, display.history_rows(job.history))
    if job.dispatch_error is not None:
        display.line(console, display.describe_dispatch_error(job))


@new_app.command("job-type")
def new_job_type(
    name: Annotated[str, typer.Argument(help="What messages are to name it by: archive_project.")],
) -> None:
    """Write a job type, to be edited, and all that is derived from it."""
    console = Console()
    for done in write_job_type(PROJECT_ROOT, name):
        display.line(console, done)
    display.line(
        console,
        f"""Next: edit the first of these files; `make state-machines` writes the others anew.
`make up` deploys it. Then, for a project that is ACTIVE:
echo '{{"project_id": "shop"}}' | provision enqueue --job-type {name} --payload -""",
    )


@keys_app.command("claim")
def claim_keys(context: typer.Context, project_id: str) -> None:
    """Print a project's API keys, then delete the secret that held them: they are shown once."""
    Target.of(context).connect()

    def hand_over(keys: Sequence[str]) -> None:
        for key in keys:
            typer.echo(key)

    api.claim_api_keys(project_id, hand_over)


@dlq_app.command("list")
def list_dead_letters(context: typer.Context) -> None:
    """List the messages that wait for people, oldest first; they stay where they are."""
    Target.of(context).connect()
    rows = display.dead_letter_rows(api.list_dead_letters())
    headings = ["message", "job", "since (UTC)", "error", "reason"]
    display.show_table(Console(), headings, rows, nothing=_NO_LETTERS)


@dlq_app.command("show")
def show_dead_letter(context: typer.Context, message_id: str) -> None:
    """Show a dead letter, as it came and why it is here."""
    Target.of(context).connect()
    letters = {letter.message_id: letter for letter in api.list_dead_letters()}
    found = choose_id(message_id, letters, "message")
    if found is None:
        raise CommandError(f"message {message_id}: there is no such dead letter.")
    display.show_json(Console(), asdict(letters[found]))


@dlq_app.command("redrive")
def redrive_dead_letters(
    context: typer.Context,
    *,
    job: Annotated[
        str | None, typer.Option(help="Only the letters of this job: its id, or a beginning.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Run jobs again that have failed or were cancelled.")
    ] = False,
) -> None:
    """Send dead letters back with their jobs' ids; fails when one stays where it is."""
    if (job is not None) == every:
        raise CommandError("--job or --all: give one of the two.")
    Target.of(context).connect()
    console = Console()

    def tell(one: api.Redriven) -> None:
        display.line(console, f"{one.letter.message_id}  {one.note}")

    if job is not None and not is_whole(job):
        job = choose_id(job, {letter.job_id for letter in api.list_dead_letters()}, "job") or job
    redriven = api.redrive_dead_letters(job, again=again, on_redriven=tell)
    if job is not None and not redriven:
        raise CommandError(f"--job: there is no dead letter of job {job}.")
    if not redriven:
        display.line(console, _NO_LETTERS)
    left = sum(not one.is_sent for one in redriven)
    if left:
        hint = "" if again else "; --again runs jobs again that have failed or were cancelled"
        raise CommandError(f"{left} of {len(redriven)} dead letters stay where they are{hint}.")


@keys_app.command("revoke")
def revoke_key(context: typer.Context, key_id: str) -> None:
    """Let an API key stop verifying at once."""
    Target.of(context).connect()
    revoked = api.revoke_api_key(key_id)
    display.line(Console(), f"{key_id} of project {revoked.project_id} is revoked.")


@keys_app.command("list")
def list_keys(context: typer.Context, project_id: str) -> None:
    """List what is stored of a project's API keys, oldest first."""
    Target.of(context).connect()
    rows = display.api_key_rows(api.list_api_keys(project_id))
    headings = ["key", "begins with", "status", "created (UTC)", "ends (UTC)"]
    display.show_table(Console(), headings, rows, nothing="There are no API keys.")


@app.command()
def deprovision(
    context: typer.Context,
    project_id: str,
    *,
    confirm: Annotated[str, typer.Option(help="The project id again.")],
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Delete the objects in its bucket too.")
    ] = False,
    no_final_snapshot: Annotated[
        bool, typer.Option("--no-final-snapshot", help="Keep no snapshot of its database.")
    ] = False,
) -> None:
    """Enqueue a job that removes all that a project has; prints its id."""
    payload = {
        "project_id": project_id,
        "confirm": confirm,
        "delete_data": delete_data,
        "final_snapshot": not no_final_snapshot,
    }
    enqueue_change(context, "deprovision_project", payload)


# After the commands above, so that no job type replaces one of them.
add_job_commands(app, JOB_TYPES)


def _read_payload(source: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CommandError(f"--payload: {source} cannot be read: {reason}.") from None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise CommandError(
            f"--payload: is not JSON: {error.msg} in line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise CommandError("--payload: is nested too deeply; flatten it.") from None
    except ValueError:
        # Python reads no number that is longer than sys.int_info.default_max_str_digits.
        raise CommandError(
            "--payload: holds a number of more than 4,300 digits; write it as text."
        ) from None
    if not isinstance(value, dict):
        raise CommandError("--payload: must be a JSON object with project_id and region.")
    return value


def main(arguments: Sequence[str]) -> int:
    """Run the program; returns its exit code."""
    try:
        # Ctrl-C comes back as the exit code of the shell's convention, 130.
        code: object = app(
            list(arguments) or ["--help"], prog_name="provision", standalone_mode=False
        )
    except typer.TyperException as error:
        # What is wrong with a command line knows the command.
        context: typer.Context | None = getattr(error, "ctx", None)
        command = "provision" if context is None else context.command_path
        _complain(f"{error.format_message().rstrip('.')}; see `{command} --help`.")
        return error.exit_code
    # Nothing is swallowed: whatever it is, it is said and ends the program with an error; whoever
    # looks for a bug gets its traceback.
    except Exception as error:
        if os.environ.get("PROVISION_TRACEBACK"):
            raise
        _complain(sentence(error))
        return 1
    return code if isinstance(code, int) else 0


def _complain(text: str) -> None:
    display.line(Console(stderr=True), f"provision: {text}")


def run_program() -> None:
    """Run the program as a process."""
    # What a job logs that runs in this process is for operators of functions, and not the answer.
    logger.setLevel(logging.CRITICAL)
    sys.exit(main(sys.argv[1:]))
