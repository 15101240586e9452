"""A job type of one's own: its module, to be edited, and all that is derived from it."""

import keyword
import re
import subprocess
import sys
from pathlib import Path
from string import Template

from provisioner.jobs.definition import pascal_case
from provisioner.provisioning.job_types import JOB_TYPES

from provision_cli.sentences import CommandError

_MODULES = Path("layers", "provisioner", "provisioner", "provisioning", "job_types")

#: Writes the table of faults, from the tests that put them in.
_FAULT_TABLE = Path("docs", "write_fault_table.py")

#: Shorter than a message may name it: its state machine, `<stack>-<name>`, has 80 characters.
#: Source: AWS Step Functions API Reference, CreateStateMachine.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")

_MODULE = Template('''\
"""${name}: looks at a project that nobody changes meanwhile."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from provisioner.jobs.definition import FailureHandling, JobDefinition, Stage
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.provisioning.common_stages import ACQUIRING, RELEASE, RELEASING
from provisioner.provisioning.contract import Payload, ProjectId, Result
from provisioner.provisioning.functions import LIFECYCLE
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.stages.find_project import read_project


class ${class_name}Payload(Payload):
    """What a job of ${name} is asked to do."""

    project_id: ProjectId
    reason: Annotated[str, Field(strict=True, max_length=200, description="Why it is asked.")] = ""


class ${class_name}Result(Result):
    """What a job of ${name} ends with: what its stages put out, and no other field."""

    project_id: str
    status: str
    reason: str


def ensure_looked_at(job: JobInput, *, projects: ProjectStore) -> StageOutcome:
    """Look at the project; twice, or beside another attempt, is as good as once.

    Raises:
        PROJECT_NOT_FOUND: there is no such project.
    """
    payload = job.payload_as(${class_name}Payload)
    project = read_project(job, projects)
    return StageOutcome(
        output={"status": str(project.status), "reason": payload.reason},
        check=f"project {project.project_id} is {project.status}",
    )


LOOKING = Stage(
    "LOOKING",
    "The status of the project is known.",
    function=LIFECYCLE,
    code=f"{__name__}:ensure_looked_at",
    state="Look",
)

JOB_TYPE = JobDefinition(
    name="${name}",
    meaning="Looks at a project that nobody changes meanwhile.",
    payload_model=${class_name}Payload,
    result_model=${class_name}Result,
    steps=(ACQUIRING, LOOKING, RELEASING),
    on_failure=FailureHandling(release=RELEASE),
    example={"project_id": "shop"},
)
''')


def write_job_type(root: Path, name: str) -> list[str]:
    """Write the module of a new job type, and all that is derived.

    Args:
        root: the project's folder, from which this program runs.
        name: what messages are to name it by.

    Returns:
        What has been done, a line a file.

    Raises:
        CommandError: no job type can have the name, or one has it.
    """
    _check(root, name)
    module = _MODULES / f"{name}.py"
    text = _MODULE.substitute(name=name, class_name=pascal_case(name))
    (root / module).write_text(text, encoding="utf-8")
    derived = _run(root, "-m", "provision_cli.job_types")
    if derived.returncode != 0:
        (root / module).unlink()
        raise CommandError(f"{module}: nothing was derived from it: {derived.stderr.strip()}")
    done = [f"wrote {module}", *derived.stdout.splitlines()]
    if (root / "tests").is_dir():
        # Its stages are met by the faults of the tests, which the table tells of.
        table = _run(root, str(_FAULT_TABLE))
        if table.returncode != 0:
            raise CommandError(
                f"{module}: was written, but not the table of faults; run `make fault-docs`."
            )
        done.append("wrote docs/reliability.md")
    return done


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of ours in a process of its own: this one has loaded the job types before."""
    return subprocess.run(  # noqa: S603  # our own program, no text of anyone's  # nosec B603
        [sys.executable, *arguments], cwd=root, capture_output=True, text=True, check=False
    )


def _check(root: Path, name: str) -> None:
    if _NAME.fullmatch(name) is None or keyword.iskeyword(name):
        raise CommandError(
            f"{name}: no job type can be named so; give 1 to 40 lower-case letters, digits and "
            "underscores, the first a letter, and no word of Python's."
        )
    if name in JOB_TYPES or (root / _MODULES / f"{name}.py").exists():
        raise CommandError(f"{name}: is a job type already; choose another name, or edit that one.")
