"""Where a project's resources are: read by what removes them."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.errors import ErrorType, failure
from provisioner.jobs.stage import JobInput
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.payload import ProjectReference
from provisioner.provisioning.projects import Project, ProjectReader


@dataclass(frozen=True, slots=True)
class Location:
    """Where the resources of a project are."""

    project_id: str
    #: The job whose resources go where not all of the project's do; see `only_this_job`.
    job_id: str
    region: str
    engine: Engine
    #: None where it is gone.
    project: Project | None


def made_by(job: JobInput) -> str:
    """Return the job whose resources a job removes: a clean-up names it in its payload."""
    return str(job.payload.get("job_id", job.job_id))


def location_of(job: JobInput, projects: ProjectReader) -> Location:
    """Read where the resources of a job's project are: the project says so, else the payload.

    Raises:
        INVALID_PAYLOAD: the payload names no project.
        PROJECT_NOT_FOUND: there is no such project, and the payload does not say either.
        REMOVAL_FAILED: no job has ever held it, so that nothing is known to be anywhere.
    """
    project_id, job_id = job.payload_as(ProjectReference).project_id, made_by(job)
    project = projects.get(project_id)
    region, engine = (
        known or job.payload.get(name)
        for name, known in {
            "region": None if project is None else project.region,
            "engine": None if project is None else project.engine,
        }.items()
    )
    if isinstance(region, str) and isinstance(engine, str):
        return Location(project_id, job_id, region, Engine(engine), project)
    if project is None:
        raise failure(
            ErrorType.PROJECT_NOT_FOUND, f"project_id: there is no project {project_id} any more."
        )
    raise failure(
        ErrorType.REMOVAL_FAILED,
        "The project does not say in which region its resources are.",
        f"project {project_id}: no region or no engine",
    )
