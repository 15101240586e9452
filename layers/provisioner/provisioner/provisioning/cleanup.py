"""What the clean-up of a provision_project job holds when it is run again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from provisioner.jobs.client import JobStateError
from provisioner.jobs.models import Job
from provisioner.provisioning.projects import ProjectStatus, ProjectStore

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef


def held_again(job: Job, *, projects: ProjectStore) -> Sequence[TransactWriteItemTypeDef]:
    """Build the write that gives the project to the job once more, so that no other job begins.

    The write fails where another call has just given it.

    Raises:
        JobStateError: another job holds the project, or has made use of what was left, or the
            project is gone.
    """
    project = projects.get(job.project_id)
    if project is None:
        raise JobStateError(
            f"project {job.project_id}: is gone; remove what job {job.job_id} has left by hand."
        )
    if project.locked_by not in {None, job.job_id}:
        raise JobStateError(
            f"project {job.project_id}: is held by job {project.locked_by}, which takes up what "
            "was left; look at that job first."
        )
    if project.status not in {ProjectStatus.CREATED, ProjectStatus.FAILED}:
        raise JobStateError(
            f"project {job.project_id}: is {project.status}; what was left has been taken up, so "
            "nothing is removed."
        )
    return projects.hold_items(project.project_id, job.job_id)
