"""The job types of this deployment: every module here is one, and defines it as `JOB_TYPE`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from provisioner.jobs.definition import JobDefinition

#: The definitions by the names of their job types.
JOB_TYPES: dict[str, JobDefinition[Any]] = {
    definition.name: definition
    for definition in (
        importlib.import_module(f"{__name__}.{module.name}").JOB_TYPE
        for module in pkgutil.iter_modules(__path__)
    )
}
