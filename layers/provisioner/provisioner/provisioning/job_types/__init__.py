"""The job types of this deployment: every module here is one, and defines it as `JOB_TYPE`."""

import importlib
import pkgutil
import traceback
from pathlib import Path
from typing import Any

from provisioner.jobs.definition import DefinitionError, JobDefinition, description


def load(name: str) -> JobDefinition[Any]:
    """Load the job type of a module, which has its name.

    Raises:
        DefinitionError: the module cannot be loaded, or defines none, or one of another name.
    """
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except DefinitionError:
        raise
    except Exception as error:  # a module is run when it is loaded, and may raise anything
        raise DefinitionError(
            f"module {name}.py{_line(name, error)}: cannot be loaded: {description(error)}."
        ) from error
    definition = getattr(module, "JOB_TYPE", None)
    if not isinstance(definition, JobDefinition):
        raise DefinitionError(f"module {name}.py: define its job type as JOB_TYPE.")
    if definition.name != name:
        raise DefinitionError(
            f"module {name}.py: its job type is named {definition.name}; name both alike."
        )
    return definition


def _line(name: str, error: Exception) -> str:
    """Say in which line of a module it was; the text of a SyntaxError says so itself."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == f"{name}.py"]
    return f", line {lines[-1]}" if lines else ""


#: The definitions by the names of their job types.
JOB_TYPES: dict[str, JobDefinition[Any]] = {
    module.name: load(module.name) for module in pkgutil.iter_modules(__path__)
}
