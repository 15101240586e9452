"""What follows the failure of a job, for every function that may end one."""

from __future__ import annotations

from typing import TypedDict

from provisioner.composition.deployment import naming, project_store
from provisioner.composition.stage_code import failure_policies_of
from provisioner.jobs.failure import FailurePolicy
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectStore
from provisioner.runtime.settings import FailureSettings


class Resources(TypedDict):
    """What the code that handles a failure may take, by the names of its parameters."""

    projects: ProjectStore
    naming: Naming


def failure_resources(settings: FailureSettings) -> Resources:
    """Bind what that code works with to a deployment."""
    return {
        "projects": project_store(settings),
        "naming": naming(settings),
    }


def failure_policies(settings: FailureSettings) -> dict[str, FailurePolicy]:
    """Say what each job type does when a job of it fails."""
    return failure_policies_of(failure_resources(settings))
