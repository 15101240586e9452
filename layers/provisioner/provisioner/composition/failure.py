"""What follows the failure of a job, for every function that may end one."""

from __future__ import annotations

from provisioner.composition.deployment import StoreResources, naming, project_store
from provisioner.composition.stage_code import failure_policies_of
from provisioner.jobs.failure import FailurePolicy
from provisioner.runtime.settings import FailureSettings


def failure_policies(settings: FailureSettings) -> dict[str, FailurePolicy]:
    """Say what each job type does when a job of it fails."""
    resources: StoreResources = {"projects": project_store(settings), "naming": naming(settings)}
    return failure_policies_of(resources)
