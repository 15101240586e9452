"""Which cluster holds a project's database: settled once, then read."""

from __future__ import annotations

from provisioner.errors import ErrorType, failure
from provisioner.provisioning.clusters import Cluster, ClusterCatalogue
from provisioner.provisioning.job_types.provision_project import Engine, ProvisionProjectPayload
from provisioner.provisioning.projects import (
    Project,
    ProjectBusyError,
    ProjectStore,
    QuotaReachedError,
)


def ensure_placed(
    payload: ProvisionProjectPayload, *, projects: ProjectStore, catalogue: ClusterCatalogue
) -> Cluster:
    """Return the project's cluster; choose the emptiest one with room if it has none.

    Raises:
        QUOTA_EXCEEDED: no cluster of the region has room; the message names the limits.
        PROJECT_NOT_FOUND: the project is gone.
        DATABASE_CREATION_FAILED: the project's cluster is described no more.
    """
    clusters = catalogue.clusters(payload.region, payload.database.engine)
    placed = _placed(payload.project_id, clusters, projects)
    if placed is not None:
        return placed
    tenants = {
        cluster.cluster_id: projects.used(f"cluster#{cluster.cluster_id}") for cluster in clusters
    }
    for cluster in sorted(clusters, key=lambda c: (tenants[c.cluster_id], c.cluster_id)):
        try:
            projects.place(payload.project_id, cluster.cluster_id, cluster.max_tenants)
        except QuotaReachedError:
            continue
        except ProjectBusyError:
            # Another run of this stage has just placed it.
            placed = _placed(payload.project_id, clusters, projects)
            if placed is not None:
                return placed
            continue
        return cluster
    limits = ", ".join(f"{c.max_tenants} tenants on {c.cluster_id}" for c in clusters) or "none"
    raise failure(
        ErrorType.QUOTA_EXCEEDED,
        f"region: no database cluster of {payload.region} has room (limits: {limits}); "
        "add a cluster or raise a limit.",
    )


def cluster_of(project: Project, catalogue: ClusterCatalogue, final: ErrorType) -> Cluster:
    """Return the cluster that holds the database of a project that is provisioned.

    Args:
        project: the project.
        catalogue: the clusters.
        final: the error type of a cluster that is described no more.
    """
    region = str((project.result or {}).get("metadata", {}).get("region", ""))
    clusters = catalogue.clusters(region, Engine.POSTGRESQL) if region else []
    for cluster in clusters:
        if cluster.cluster_id == project.cluster_id:
            return cluster
    raise failure(
        final,
        "The database cluster that holds this project is not described any more.",
        f"cluster {project.cluster_id}: not in the SSM parameter of region {region or 'unknown'}",
    )


def _placed(project_id: str, clusters: list[Cluster], projects: ProjectStore) -> Cluster | None:
    project = projects.get(project_id)
    if project is None:
        raise failure(
            ErrorType.PROJECT_NOT_FOUND, f"project_id: there is no project {project_id} any more."
        )
    if project.cluster_id is None:
        return None
    for cluster in clusters:
        if cluster.cluster_id == project.cluster_id:
            return cluster
    raise failure(
        ErrorType.DATABASE_CREATION_FAILED,
        "The database cluster that holds this project is not described any more.",
        f"cluster {project.cluster_id}: not in the SSM parameter of the region",
    )
