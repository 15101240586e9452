"""All files, and parts of files, that are derived from the job types' definitions."""

import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provisioner.composition.deployment import WRITER
from provisioner.jobs.definition import (
    DefinitionError,
    Function,
    JobDefinition,
    bind,
    description,
)
from provisioner.jobs.store import JobStore
from provisioner.provisioning.functions import LIFECYCLE
from provisioner.provisioning.job_types import JOB_TYPES

from provision_cli.job_types.events import events
from provision_cli.job_types.flowchart import flowchart
from provision_cli.job_types.page import page
from provision_cli.job_types.state_machine import state_machine, text
from provision_cli.job_types.template import generate, replace_part

_README = "README.md"

#: The job type whose flowchart stands in the README.
_SHOWN = "provision_project"

#: Where nothing is but what is derived.
_DERIVED_ALONE = ("state_machines/*.asl.json", "events/*/*/*.json")


def derive_files(root: Path) -> dict[Path, str]:
    """Return the text of every file that is derived, or that has a part that is, by its path.

    Args:
        root: the project's folder.

    Raises:
        DefinitionError: a job type's definition does not allow it.
        TemplateError: the template lacks the lines between which a part of it is written.
    """
    for definition in JOB_TYPES.values():
        _check_code(definition)
    template, readme = root / "template.yaml", root / _README
    machines = {name: state_machine(each, LIFECYCLE) for name, each in JOB_TYPES.items()}
    return {
        template: generate(template.read_text(encoding="utf-8"), JOB_TYPES),
        readme: replace_part(
            _README, readme.read_text(encoding="utf-8"), _SHOWN, flowchart(machines[_SHOWN])
        ),
        **{root / path: event for path, event in events(JOB_TYPES).items()},
        **{root / "state_machines" / f"{name}.asl.json": text(m) for name, m in machines.items()},
        root / "docs" / "job-types.md": page(JOB_TYPES),
    }


def _check_code(definition: JobDefinition[Any]) -> None:
    """Refuse code that its function could not load: with it, that would run no job type's."""
    policy = definition.on_failure
    codes = (policy.release, policy.describe_cleanup, policy.remaining)
    if policy.cleanup_job_type not in {"", *JOB_TYPES}:
        raise DefinitionError(
            f"job type {definition.name}: on_failure: cleanup_job_type: there is no job type "
            f"{policy.cleanup_job_type}; define it."
        )
    for code in filter(None, codes):
        _load(f"job type {definition.name}: on_failure", code, WRITER, {})
    for stage in definition.stages:
        where = f"job type {definition.name}: stage {stage}"
        _load(where, stage.code, _resources(where, stage.function), stage.arguments)


def _resources(where: str, function: Function) -> Mapping[str, Any]:
    """Return what the code of a function's stages may take, by name; the jobs, too."""
    try:
        found = pkgutil.resolve_name(f"provisioner.composition.{function.name}:RESOURCES")
    except (ImportError, AttributeError) as error:
        raise DefinitionError(
            f"{where}: function {function.name}: its composition cannot be loaded: "
            f"{description(error)}."
        ) from error
    return {"jobs": JobStore, **found}


def _load(
    where: str, code: str, resources: Mapping[str, Any], arguments: Mapping[str, Any]
) -> None:
    try:
        bind(code, resources, **arguments)
    except DefinitionError as error:
        raise DefinitionError(f"{where}: {error}") from None


def find_stale_files(root: Path) -> dict[Path, str | None]:
    """Find the files that are not as the definitions have them, or are of none any more.

    Args:
        root: the project's folder.

    Returns:
        What each is to hold, by its path below the folder; None for one that is to go.

    Raises:
        DefinitionError, TemplateError: as of `derive_files`.
    """
    files = derive_files(root)
    there = {path for pattern in _DERIVED_ALONE for path in root.glob(pattern)}
    differing = {
        path.relative_to(root): wanted
        for path, wanted in files.items()
        if not path.exists() or path.read_text(encoding="utf-8") != wanted
    }
    gone = sorted(path.relative_to(root) for path in there - files.keys())
    return {**differing, **dict.fromkeys(gone)}


def write(root: Path) -> list[str]:
    """Write what is derived where it differs, and remove what is left of job types that are gone.

    Args:
        root: the project's folder.

    Returns:
        What has been done, a line a file.

    Raises:
        DefinitionError, TemplateError: as of `derive_files`; nothing is written.
    """
    done: list[str] = []
    for path, wanted in find_stale_files(root).items():
        folder = (root / path).parent
        if wanted is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(wanted, encoding="utf-8")
        else:
            (root / path).unlink()
            if not any(folder.iterdir()):
                folder.rmdir()
        done.append(f"{'wrote' if wanted is not None else 'removed'} {path}")
    return done
