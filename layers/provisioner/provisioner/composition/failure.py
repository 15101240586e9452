"""What follows the failure of a job, for every function that may end one."""

from __future__ import annotations

from functools import partial

from provisioner.jobs.failure import FailurePolicy
from provisioner.provisioning.job_type import JobType
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.stages.fail import cleanup_stages, left_over, released_by_failure
from provisioner.provisioning.stages.give_up_removal import (
    no_cleanup,
    nothing_left_over,
    released_by_failed_removal,
)
from provisioner.runtime import aws
from provisioner.runtime.settings import FailureSettings


def failure_policies(settings: FailureSettings) -> dict[str, FailurePolicy]:
    """Say what each job type does when a job of it fails."""
    projects = ProjectStore(aws.client("dynamodb"), settings.projects_table, settings.quotas_table)
    return {
        JobType.PROVISION_PROJECT: FailurePolicy(
            release=partial(released_by_failure, projects=projects),
            cleanup_stages=partial(cleanup_stages, projects=projects),
            left_over_of=partial(
                left_over, naming=Naming(settings.resource_prefix, settings.resource_namespace)
            ),
        ),
        JobType.DEPROVISION_PROJECT: FailurePolicy(
            release=partial(released_by_failed_removal, projects=projects),
            cleanup_stages=no_cleanup,
            left_over_of=nothing_left_over,
        ),
    }
