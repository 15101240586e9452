"""The commands about the local stack itself."""

import os
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from provision_cli import display
from provision_cli.job_types.derived import find_stale_files
from provision_cli.local import containers, environment, processes
from provision_cli.local.stack import LocalStack, RunningStack
from provision_cli.sentences import CommandError

app = typer.Typer()


@app.command()
def up(
    *,
    containers: Annotated[
        bool,
        typer.Option(
            "--containers",
            help="Let Docker's containers on this machine reach it, as `sam local` needs.",
        ),
    ] = False,
) -> None:
    """Start the local stack, or what was killed of it, and deploy the template to it."""
    bring_up(Console(), for_containers=containers)
    _show_status()


def bring_up(console: Console, *, for_containers: bool = False) -> RunningStack:
    """Start the local stack, saying what is done and how long it takes.

    Raises:
        CommandError: a file does not follow from the job types' definitions; nothing is started.
        DefinitionError, TemplateError: nothing follows from them; likewise.
    """
    began = time.monotonic()
    stack = LocalStack.of_developer()
    # No stack is to run state machines of other stages than its functions have.
    if stale := [str(path) for path in find_stale_files(stack.root)]:
        raise CommandError(
            f"{', '.join(stale)}: not as the job types' definitions have it; "
            "run `make state-machines` first."
        )

    def report(step: str) -> None:
        display.line(console, f"{time.monotonic() - began:6.1f} s  {step}", style="dim")

    with processes.end_by_signals():
        running = stack.up(report, for_containers=for_containers)
    report("The local stack is up")
    return running


@app.command()
def down() -> None:
    """Stop the local stack and remove what it holds."""
    stopped = LocalStack.of_developer().down()
    display.line(
        Console(), "The local stack is stopped." if stopped else "The local stack was not running."
    )


@app.command()
def status() -> None:
    """Show what of the local stack runs, and where; fails unless all of it does."""
    if not _show_status():
        raise CommandError(
            "the local stack is not running, or not all of it; start it with `provision up`."
        )


def _show_status() -> bool:
    """Print what of the local stack runs, and where; returns whether all of it does."""
    stack = LocalStack.of_developer()
    found = stack.status()
    missing = {
        "containers": "do not reach it; `provision up --containers`",
        "stack": "not deployed",
    }
    for name, place in {**found, "logs": str(stack.directory)}.items():
        display.line(Console(), f"{name:<12}{place or missing.get(name, 'not running')}")
    return all(place for name, place in found.items() if name != "containers")


@app.command("env")
def show_environment() -> None:
    """Print what leads a shell's programs to the local stack: `eval "$(provision env)"`."""
    for line in _exports(LocalStack.of_developer().running()):
        typer.echo(line)


def _exports(running: RunningStack) -> Iterator[str]:
    """Yield lines that any shell of the POSIX kind takes."""
    exported = {**running.environment(), "QUEUE_URL": running.outputs["QueueUrl"]}
    # A PostgreSQL client's own settings lead nothing here: no variable names a server.
    leading = [n for n in environment.desk_variables(os.environ) if n.startswith("AWS_")]
    unset = sorted(name for name in leading if name not in exported)
    if unset:
        yield f"unset {' '.join(unset)}"
    for name, value in exported.items():
        yield f"export {name}={shlex.quote(value)}"


@app.command("store-job")
def store_job(
    event: Annotated[Path, typer.Argument(help="A stage's event, one of events/.")],
) -> None:
    """Store the job that an event for `sam local invoke` is about, and its project; sends nothing.

    The stages are run by whoever invokes the functions, one after another.
    """
    job_id = containers.store_job(LocalStack.of_developer().running(), event)
    display.line(Console(), f"job {job_id} is stored.")
