"""The job types of this deployment: every module here is one, and defines it as `JOB_TYPE`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from provisioner.jobs.definition import DefinitionError, JobDefinition


def load(name: str) -> JobDefinition[Any]:
    """Load the job type of a module, which has its name.

    Raises:
        DefinitionError: the module defines none, or one of another name.
    """
    definition = getattr(importlib.import_module(f"{__name__}.{name}"), "JOB_TYPE", None)
    if not isinstance(definition, JobDefinition):
        raise DefinitionError(f"module {name}.py: define its job type as JOB_TYPE.")
    if definition.name != name:
        raise DefinitionError(
            f"module {name}.py: its job type is named {definition.name}; name both alike."
        )
    return definition


#: The definitions by the names of their job types.
JOB_TYPES: dict[str, JobDefinition[Any]] = {
    module.name: load(module.name) for module in pkgutil.iter_modules(__path__)
}
