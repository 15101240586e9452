"""The demonstration from its beginning to its end."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path

from provisioner import api
from provisioner.composition.deployment import naming
from rich.console import Console

from provision_cli import display
from provision_cli.demo import dedicated, failure, first_use, removal
from provision_cli.demo.scene import Scene
from provision_cli.job_types.derived import find_stale_files
from provision_cli.local import processes
from provision_cli.local.stack import LocalStack, LocalStackSettings, RunningStack
from provision_cli.sentences import CommandError

#: How many files a sentence names.
_NAMED_FILES = 6


def bring_up(console: Console, *, for_containers: bool = False) -> RunningStack:
    """Start the local stack, saying what is done and how long it takes.

    Raises:
        CommandError: a file does not follow from the job types' definitions; nothing is started.
        DefinitionError, TemplateError: nothing follows from them; likewise.
    """
    began = time.monotonic()
    settings = LocalStackSettings.from_environment(for_containers=for_containers)
    _refuse_stale_files(settings.root)

    def report(step: str) -> None:
        display.line(console, f"{time.monotonic() - began:6.1f} s  {step}", style="dim")

    with processes.end_by_signals():
        running = LocalStack(settings).up(report)
    report("The local stack is up")
    return running


def _refuse_stale_files(root: Path) -> None:
    """Let no stack run state machines of other stages than its functions have."""
    stale = [str(path) for path in find_stale_files(root)]
    if stale:
        more = f" and {len(stale) - _NAMED_FILES} more" if len(stale) > _NAMED_FILES else ""
        raise CommandError(
            f"{', '.join(stale[:_NAMED_FILES])}{more}: not as the job types' definitions have it; "
            "run `make state-machines` first."
        )


def run(console: Console) -> None:
    """Run the demonstration.

    The first act provisions a project and uses it. The second lets another one fail for good, then
    removes the first with a snapshot and provisions it again. The third gives a project a database
    instance of its own, which it waits for.

    Raises:
        CommandError: a step did not do what it shows; the sentence says which.
    """
    running = bring_up(console)
    running.enter()
    settings = api.connect_to_stack(running.stack_name, running.region)
    scene = Scene(console, running, naming(settings))

    project_id = _new_project()
    keys = first_use.show(scene, project_id)
    failure.show(scene, beside=project_id)
    removal.show(scene, project_id, keys)
    dedicated.show(scene, beside=project_id)

    scene.heading("What to try next")
    for command in _next_commands(project_id):
        scene.line(f"  {command}")


def _new_project() -> str:
    """Create the first of demo-1, demo-2, … that does not exist yet."""
    number = 1
    while True:
        project_id = f"demo-{number}"
        try:
            api.get_project(project_id)
        except api.ProjectNotFoundError:
            return api.create_project(project_id).project_id
        number += 1


def _next_commands(project_id: str) -> list[str]:
    program = _program()
    another = f"my-{project_id}"
    return [
        f"{program} project show {project_id}",
        f"{program} jobs",
        f"{program} project create {another}",
        f"{program} watch $({program} enqueue --project {another})",
        f"{program} keys claim {another}",
        f"{program} down",
    ]


def _program() -> str:
    """Return how the user starts this program from where they are."""
    own = Path(sys.executable).with_name("provision")
    found = shutil.which("provision")
    if found is not None and Path(found) == own:
        return "provision"
    shown = own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own
    return shlex.quote(str(shown))
