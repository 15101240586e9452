"""The program `provision`."""

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from provisioner import api
from provisioner.provisioning.job_types import JOB_TYPES
from pydantic_core import from_json
from rich.console import Console

from provision_cli import display, local_commands, targets
from provision_cli.demo import Demonstration
from provision_cli.job_commands import add_job_commands
from provision_cli.job_types.new import write_job_type
from provision_cli.local.stack import PROJECT_ROOT
from provision_cli.sentences import CommandError, sentence
from provision_cli.targets import Connected, choose_id, find_job_id, is_whole

app = typer.Typer(
    name="provision",
    help="Provision projects: on the local stack, or on the one that --stack names.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
project_app = typer.Typer(name="project", help="Create and show projects.")
keys_app = typer.Typer(name="keys", help="Hand over, rotate, revoke and list API keys.")
cluster_app = typer.Typer(name="cluster", help="Change the clusters that projects share.")
dlq_app = typer.Typer(name="dlq", help="Look at dead letters, and send them on their way again.")
snapshots_app = typer.Typer(
    name="snapshots", help="List and restore the final snapshots of databases."
)
new_app = typer.Typer(name="new", help="Write what extends this project.")
for group in (
    local_commands.app,
    project_app,
    keys_app,
    cluster_app,
    dlq_app,
    snapshots_app,
    new_app,
):
    app.add_typer(group)


def _any_of(statuses: type[StrEnum]) -> str:
    *first, last = statuses
    return f"{', '.join(first)} or {last}"


#: Seconds in which the dispatcher, started anew, has stored the job of a message.
_APPEARS_SECONDS = 15.0

_NO_LETTERS = "There are no dead letters."

#: Options of the commands that list page by page.
Limit = Annotated[int, typer.Option(min=1, max=100, help="How many at most.")]
Cursor = Annotated[
    str | None, typer.Option(help="What the page before says; the newest when left out.")
]

#: An argument that names a job.
JobId = Annotated[str, typer.Argument(help="Its id, or a beginning that no other job's has.")]


@app.callback()
def _main(
    stack: Annotated[
        str | None,
        typer.Option(help="A deployed CloudFormation stack; the local stack when left out."),
    ] = None,
    region: Annotated[str | None, typer.Option(help="The region of --stack.")] = None,
) -> None:
    """Take the options that say which deployment a command is about; see `targets.connect`."""


@app.command()
def demo() -> None:
    """Provision, fail, remove and restore projects on the local stack, and show what happens."""
    console = Console()
    Demonstration(console, local_commands.bring_up(console)).run()


@project_app.command("create", cls=Connected)
def create_project(
    project_id: str,
    owner: Annotated[str | None, typer.Option(help="Whose quota it counts against.")] = None,
    organization: Annotated[
        str | None, typer.Option(help="Whose quota it counts against, before the owner's.")
    ] = None,
) -> None:
    """Create a project, to be provisioned by a job."""
    project = api.create_project(project_id, owner_id=owner, organization_id=organization)
    display.line(Console(), f"project {project.project_id} is {project.status}.")


@project_app.command("show", cls=Connected)
def show_project(project_id: str) -> None:
    """Show a project, its latest job and its result."""
    project = api.get_project(project_id)
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
            "latest_job": _latest_job(project_id),
            "result": project.result,
            "snapshot": project.snapshot,
        },
    )


def _latest_job(project_id: str) -> str | None:
    """Return the project's newest job; a clean-up is shown with the job that it follows."""
    page = api.list_jobs(project_id, limit=10)
    while True:
        for job in page:
            if not job.parent_id:
                return job.job_id
        if page.next_cursor is None:
            return None
        page = api.list_jobs(project_id, limit=10, cursor=page.next_cursor)


@project_app.command("protect", cls=Connected)
def protect_project(
    project_id: str,
    *,
    off: Annotated[bool, typer.Option("--off", help="End its protection.")] = False,
) -> None:
    """Protect a project against being deprovisioned."""
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
        targets.connect(context)
    else:
        deployed_in = targets.connect(context)
        body = {"project_id": project, "region": region or deployed_in}
    job = api.enqueue_job(job_type, body, idempotency_key=idempotency_key, delay_seconds=delay)
    display.show_enqueued(job)


@app.command(cls=Connected)
def watch(job_id: JobId) -> None:
    """Show a job's stages, and those of its clean-up, until it ends; fails when the job does."""
    console = Console()
    # The job of a message that was sent a moment ago is stored by the dispatcher.
    appears_within = _APPEARS_SECONDS if is_whole(job_id) else 0.0
    job = display.watch(console, find_job_id(job_id), appears_within=appears_within)
    display.show_outcome(console, job)


@app.command(cls=Connected)
def cancel(job_id: JobId) -> None:
    """Cancel a job and remove what it made; a stage that runs ends first."""
    job = api.cancel_job(find_job_id(job_id))
    display.line(Console(), f"job {job.job_id} is {job.status}.")
    if not job.status.is_terminal:
        display.line(
            Console(stderr=True),
            "Its cancel is stored: it ends once the stages that run have ended; "
            f"`provision watch {job.job_id}` follows it.",
        )


@app.command(cls=Connected)
def retry(job_id: JobId) -> None:
    """Run a job that has failed, or was cancelled, again: its next attempt."""
    job = api.retry_job(find_job_id(job_id))
    display.line(Console(), f"job {job.job_id} is {job.status}, attempt {job.attempt}.")


@app.command(cls=Connected)
def cleanup(job_id: JobId) -> None:
    """Remove again what a failed job has left, where its clean-up could not."""
    job = api.retry_cleanup(find_job_id(job_id))
    display.line(
        Console(), f"job {job.job_id}: attempt {job.attempt} of the clean-up is under way."
    )
    display.line(Console(stderr=True), f"`provision watch {job.job_id}` follows it.")


@app.command(cls=Connected)
def jobs(
    context: typer.Context,
    project: Annotated[str | None, typer.Option(help="Only this project's.")] = None,
    status: Annotated[
        str | None, typer.Option(help=f"Only those that are {_any_of(api.JobStatus)}.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> None:
    """List the newest jobs, and how the next page is shown."""
    page = api.list_jobs(project, status=status, limit=limit, cursor=cursor)
    notes = [*display.job_notes(page), *_next_page(context, page)]
    display.show_table(Console(), display.job_rows(page), nothing="There are no jobs.", notes=notes)


@app.command(cls=Connected)
def projects(
    context: typer.Context,
    status: Annotated[
        str | None, typer.Option(help=f"Only those that are {_any_of(api.ProjectStatus)}.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> None:
    """List the newest projects, and how the next page is shown."""
    page = api.list_projects(status=status, limit=limit, cursor=cursor)
    display.show_table(
        Console(),
        display.project_rows(page),
        nothing="There are no projects.",
        notes=_next_page(context, page),
    )


def _next_page(context: typer.Context, page: api.Page[Any]) -> list[str]:
    """Say which command shows the next page, if there is one: this command, with its cursor."""
    if page.next_cursor is None:
        return []
    words = ["provision"]
    for command in (context.find_root(), context):
        given = command.params | ({"cursor": page.next_cursor} if command is context else {})
        words += [] if command.parent is None else [str(command.info_name)]
        for name, value in given.items():
            words += [] if value is None else [f"--{name}", str(value)]
    return [f"There are more: {shlex.join(words)}"]


@app.command(cls=Connected)
def history(job_id: JobId) -> None:
    """List what has happened to a job, oldest first."""
    job = api.get_job(find_job_id(job_id))
    rows, notes = display.history_rows(job.history), display.job_notes([job])
    display.show_table(Console(), rows, notes=notes)


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


@keys_app.command("claim", cls=Connected)
def claim_keys(project_id: str) -> None:
    """Print a project's API keys, then delete the secret that held them: they are shown once."""
    api.claim_api_keys(project_id, lambda keys: typer.echo("\n".join(keys)))


@dlq_app.command("list", cls=Connected)
def list_dead_letters() -> None:
    """List the messages that wait for people, oldest first; they stay where they are."""
    rows = display.dead_letter_rows(api.list_dead_letters())
    display.show_table(Console(), rows, nothing=_NO_LETTERS)


@dlq_app.command("show", cls=Connected)
def show_dead_letter(message_id: str) -> None:
    """Show a dead letter, as it came and why it is here."""
    letters = {letter.message_id: letter for letter in api.list_dead_letters()}
    found = choose_id(message_id, letters, "message")
    if found is None:
        raise CommandError(f"message {message_id}: there is no such dead letter.")
    display.show_json(Console(), asdict(letters[found]))


@dlq_app.command("redrive", cls=Connected)
def redrive_dead_letters(
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


@keys_app.command("revoke", cls=Connected)
def revoke_key(key_id: str) -> None:
    """Let an API key stop verifying at once."""
    revoked = api.revoke_api_key(key_id)
    display.line(Console(), f"{key_id} of project {revoked.project_id} is revoked.")


@keys_app.command("list", cls=Connected)
def list_keys(project_id: str) -> None:
    """List what is stored of a project's API keys, oldest first."""
    rows = display.api_key_rows(api.list_api_keys(project_id))
    display.show_table(Console(), rows, nothing="There are no API keys.")


@snapshots_app.command("list", cls=Connected)
def list_snapshots(project_id: str) -> None:
    """List a project's snapshots, newest first: dumps, and those that Amazon RDS has."""
    rows = display.snapshot_rows(api.list_snapshots(project_id))
    nothing = f"There are no snapshots of project {project_id}."
    display.show_table(Console(), rows, nothing=nothing)


# Longer than 45 lines by its options, each of which has its help beside it.
@snapshots_app.command("restore", cls=Connected)
def restore_snapshot(
    project_id: str,
    snapshot: Annotated[
        str | None,
        typer.Option(help="Its name or job, or a beginning of it; the newest when left out."),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(
            help="Of a dump: the connection URL of an empty database, the password best in "
            "PGPASSWORD, of MySQL in MYSQL_PWD; the project's own when left out."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Of a snapshot of Amazon RDS: the instance class; the last one when left out."
        ),
    ] = None,
    storage_gb: Annotated[
        int | None,
        typer.Option(
            help="Of a snapshot of Amazon RDS: gibibytes; as before, or more, when left out."
        ),
    ] = None,
) -> None:
    """Restore a dump into an empty database, all or nothing; of a snapshot of RDS, enqueue a job.

    The job provisions the project, which is not ACTIVE, with an instance made of the snapshot.
    """
    # As Ctrl-C: what psql runs is cancelled, and nothing is left.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Into another database goes the newest dump, whatever else is newer.
    is_a_dump = into is not None and snapshot is None
    found = None if is_a_dump else api.find_snapshot(project_id, snapshot)
    if not isinstance(found, api.InstanceSnapshot):
        if size is not None or storage_gb is not None:
            raise CommandError(
                "--size, --storage-gb: go with a snapshot of Amazon RDS; leave them out."
            )
        display.show_restored(Console(), api.restore_snapshot(project_id, snapshot, into=into))
        return
    if into is not None:
        raise CommandError(
            f"--into: the snapshot {found.identifier} is one of Amazon RDS, which becomes an "
            "instance of the project's own; leave --into out, once the project is deprovisioned."
        )
    job = api.restore_instance(project_id, found.identifier, size=size, storage_gb=storage_gb)
    display.show_enqueued(job)


# After the commands above, so that no job type replaces one of them.
add_job_commands(app, JOB_TYPES)


def _read_payload(source: str) -> dict[str, Any]:
    try:
        text = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        value = from_json(text)
    except OSError as error:
        raise CommandError(f"--payload: {source} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise CommandError(f"--payload: cannot be read as JSON: {error}.") from None
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
