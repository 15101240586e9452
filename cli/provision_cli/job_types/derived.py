"""All files, and parts of files, that are derived from the job types' definitions."""

from __future__ import annotations

from pathlib import Path

from provisioner.provisioning.job_types import JOB_TYPES

from provision_cli.job_types.events import events
from provision_cli.job_types.template import generate

_TEMPLATE = "template.yaml"


def derived_files(root: Path) -> dict[Path, str]:
    """Return the text of every file that is derived, or that has a part that is, by its path.

    Args:
        root: the project's folder.

    Raises:
        DefinitionError: a job type's definition does not allow it.
        TemplateError: the template lacks the lines between which a part of it is written.
    """
    template = root / _TEMPLATE
    return {
        template: generate(template.read_text(encoding="utf-8"), JOB_TYPES),
        **{root / path: text for path, text in events(JOB_TYPES).items()},
    }
