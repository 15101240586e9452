"""INITIALIZING of the job types that need no lock: the project is there."""

from __future__ import annotations

from provisioner.errors import ErrorType, failure
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.provisioning.payload import ProjectReference
from provisioner.provisioning.projects import Project, ProjectReader


def ensure_found(job: JobInput, *, projects: ProjectReader) -> StageOutcome:
    """Find the project, whatever its status is and whoever holds it.

    Raises:
        INVALID_PAYLOAD: the payload names no project.
        PROJECT_NOT_FOUND: there is no such project.
    """
    read_project(job, projects)
    return StageOutcome(check="the project is there")


def read_project(job: JobInput, projects: ProjectReader) -> Project:
    """Return the project that a job's payload names.

    Raises:
        INVALID_PAYLOAD: it names none.
        PROJECT_NOT_FOUND: there is no such project.
    """
    project_id = job.payload_as(ProjectReference).project_id
    project = projects.get(project_id)
    if project is None:
        raise failure(
            ErrorType.PROJECT_NOT_FOUND,
            f"project_id: there is no project {project_id}; create it first.",
        )
    return project
