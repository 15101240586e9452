"""Where a project's resources are: read by what removes them."""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.errors import ErrorType, failure
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.clusters import Cluster, ClusterCatalogue
from provisioner.provisioning.payload import ProjectReference
from provisioner.provisioning.projects import ProjectReader


@dataclass(frozen=True, slots=True)
class Location:
    """Where the resources of a project are."""

    project_id: str
    region: str
    engine: str
    #: The cluster that holds its database; None where it has none, or the project is gone.
    cluster_id: str | None
    #: Whether the project is still there.
    is_recorded: bool = True


def location_of(job: JobInput, projects: ProjectReader) -> Location:
    """Read where the resources of a job's project are.

    Raises:
        INVALID_PAYLOAD: the payload names no project.
        PROJECT_NOT_FOUND: there is no such project, and the payload does not say either.
        REMOVAL_FAILED: no job has ever held it, so that nothing is known to be anywhere.
    """
    project_id = validate_payload(ProjectReference, job.payload).project_id
    project = projects.get(project_id)
    if project is None:
        # What a job has made of a project that is gone is where its own payload says.
        made = job.payload.get("region"), job.payload.get("database", {}).get("engine")
        if not all(isinstance(text, str) for text in made):
            raise failure(
                ErrorType.PROJECT_NOT_FOUND,
                f"project_id: there is no project {project_id} any more.",
            )
        return Location(project_id, str(made[0]), str(made[1]), None, is_recorded=False)
    if project.region is None or project.engine is None:
        raise failure(
            ErrorType.REMOVAL_FAILED,
            "The project does not say in which region its resources are.",
            f"project {project_id}: no region or no engine",
        )
    return Location(project_id, project.region, project.engine, project.cluster_id)


def cluster_at(location: Location, catalogue: ClusterCatalogue, final: ErrorType) -> Cluster | None:
    """Return the cluster that holds a project's database; None where it has none.

    Args:
        location: where the project is.
        catalogue: the clusters.
        final: the error type of a cluster that is described no more.
    """
    if location.cluster_id is None:
        return None
    for cluster in catalogue.clusters(location.region, location.engine):
        if cluster.cluster_id == location.cluster_id:
            return cluster
    raise failure(
        final,
        "The database cluster that holds this project is not described any more.",
        f"cluster {location.cluster_id}: not in the SSM parameter of the region",
    )
