"""The project that a job names, and where its resources are.

INITIALIZING of the job types that need no lock: the project is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provisioner.errors import ErrorType, failure
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.ownership import Ownership
from provisioner.provisioning.contract import ProjectReference
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.naming import Naming, ResourceNames
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


@dataclass(frozen=True, slots=True)
class Location:
    """Where the resources of a project are that a job removes, and what they are called."""

    project_id: str
    region: str
    engine: Engine
    #: None where it is gone.
    project: Project | None
    names: ResourceNames
    #: The bucket's name.
    bucket: str
    #: Whose they are: of the job that is cleaned up after where not all of the project's go.
    owner: Ownership


def locate(job: JobInput, projects: ProjectReader, naming: Naming) -> Location:
    """Read where the resources of a job's project are: the project says so, else the payload.

    A clean-up names in its payload the job whose resources it removes.

    Raises:
        INVALID_PAYLOAD: the payload names no project.
        PROJECT_NOT_FOUND: there is no such project, and the payload does not say either.
        REMOVAL_FAILED: no job has ever held it, so that nothing is known to be anywhere.
    """
    project_id = job.payload_as(ProjectReference).project_id
    project = projects.get(project_id)
    region = (project and project.region) or job.payload.get("region")
    engine = (project and project.engine) or job.payload.get("engine")
    if isinstance(region, str) and isinstance(engine, str):
        return Location(
            project_id,
            region,
            Engine(engine),
            project,
            naming.names(project_id),
            bucket_of(project_id, region, project, naming),
            naming.owner(project_id, made_by(job)),
        )
    if project is None:
        raise failure(
            ErrorType.PROJECT_NOT_FOUND, f"project_id: there is no project {project_id} any more."
        )
    raise failure(
        ErrorType.REMOVAL_FAILED,
        "The project does not say in which region its resources are.",
        f"project {project_id}: no region or no engine",
    )


def bucket_of(project_id: str, region: str, project: Project | None, naming: Naming) -> str:
    """Return the name of a project's bucket.

    One that the project's result tells is used as it stands, however new ones are named by now.
    """
    recorded = service_of(project, "storage") if project else None
    return recorded["bucket_name"] if recorded else naming.bucket(project_id, region)


def service_of(project: Project, name: str) -> Mapping[str, Any] | None:
    """Return what the project's result tells of a service; None where it does without."""
    services: Mapping[str, Mapping[str, Any]] = (project.result or {}).get("services", {})
    return services.get(name)


def made_by(job: JobInput) -> str:
    """Return the job whose resources a job removes: a clean-up names it in its payload."""
    return str(job.payload.get("job_id", job.job_id))
