"""What follows the failure of a job, for every function that may end one."""

from __future__ import annotations

from functools import partial

from provisioner.jobs.failure import FailurePolicy
from provisioner.provisioning.job_type import JobType
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.stages.fail import cleanup_stages, left_over, released_by_failure
from provisioner.provisioning.stages.give_up_removal import released_by_failed_removal
from provisioner.provisioning.stages.let_go_of_project import let_go_by_failure
from provisioner.runtime import aws
from provisioner.runtime.settings import FailureSettings

#: The job types that hold a project that is there, to change it: they begin and end alike.
CHANGES = (JobType.ROTATE_API_KEYS, JobType.ROTATE_DATABASE_PASSWORD)


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
        ),
        **dict.fromkeys(
            CHANGES,
            FailurePolicy(
                release=partial(let_go_by_failure, projects=projects),
            ),
        ),
        JobType.REVOKE_API_KEY: FailurePolicy(release=lambda _job: ()),
    }
