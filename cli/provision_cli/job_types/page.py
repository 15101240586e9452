"""The page of all job types, in Markdown: what each does, and its stages."""

from collections.abc import Iterator
from string import ascii_lowercase
from typing import Any

from provisioner.jobs.definition import JobDefinition, JobDefinitions, Parallel, Stage
from provisioner.provisioning.functions import LIFECYCLE

from provision_cli.job_types.flowchart import flowchart
from provision_cli.job_types.state_machine import state_machine

_INTRODUCTION = """\
# Job types

`make state-machines` writes this page from the modules in `provisioning/job_types/`. Steps follow
one another; stages of `2a` and `2b` are of branches that run beside one another. Each stage is
tried three times; its function ends an attempt after the seconds that stand here. Where a job
fails that has made something, a job of another type removes that. What a message holds, and what
a job ends with: [job contract](job-contract.md).
"""

_HEAD = """\
| stage | step | function | seconds | own error | what holds once it has ended well |
| --- | --- | --- | --- | --- | --- |
"""


def page(definitions: JobDefinitions) -> str:
    """Return the page.

    Raises:
        DefinitionError: a job type's definition allows no state machine.
    """
    return "\n".join([_INTRODUCTION, *(_section(each) for each in definitions.values())])


def _section(definition: JobDefinition[Any]) -> str:
    name, cleanup = definition.name, definition.on_failure.cleanup_job_type
    document = state_machine(definition, LIFECYCLE)
    # Short: no two paragraphs of a page are to say the same.
    parts = [
        f"## {name}",
        definition.meaning,
        f"At most {document['TimeoutSeconds'] // 3600} hours:",
        flowchart(document),
        _HEAD + "".join(_rows(definition)),
    ]
    if cleanup:
        parts.append(f"What a failed job of it has made, [{cleanup}](#{cleanup}) removes.")
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _rows(definition: JobDefinition[Any]) -> Iterator[str]:
    for number, step in enumerate(definition.steps, 1):
        for letter, branch in zip(ascii_lowercase, step.branches, strict=False):
            beside = letter if isinstance(step, Parallel) else ""
            yield from (_row(stage, f"{number}{beside}") for stage in branch)


def _row(stage: Stage, number: str) -> str:
    meaning = stage.meaning
    if stage.runs_if:
        meaning += f" Runs only where the stage before it says `{stage.runs_if}`."
    if stage.ends_job_if:
        meaning += f" Where `{stage.ends_job_if}`, the job has completed with it."
    if stage.waits_seconds:
        meaning += f" May wait for {stage.waits_seconds} seconds."
    cells = (
        f"`{stage}`",
        number,
        stage.function.name,
        str(stage.function.seconds),
        f"`{stage.own_error}`",
        meaning.replace("|", "\\|"),
    )
    return f"| {' | '.join(cells)} |\n"
