"""Where a project's database is: settled once, then read."""

from provisioner.drivers.server_versions import is_of_version, keeps_version
from provisioner.errors import ErrorType, failure
from provisioner.provisioning.clusters import Cluster, ClusterCatalogue, Clusters
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.instances import DedicatedInstance
from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
from provisioner.provisioning.projects import (
    Project,
    ProjectBusyError,
    ProjectReader,
    ProjectStore,
)
from provisioner.provisioning.quotas import QuotaReachedError


def ensure_placed(
    payload: ProvisionProjectPayload,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    may_be_placed: bool = True,
) -> Cluster:
    """Return where the project's database is; choose a shared cluster if that is not settled.

    Of the clusters of the version that the payload names, if it does, the emptiest with room. One
    whose description is wrong is left out.

    Args:
        payload: what the job is asked to do.
        projects: says where the project is, and places it.
        catalogue: the shared clusters.
        may_be_placed: whether that can be settled. If not, the project is not read before it is
            placed, and the clusters may be as they were in the last minute.

    Raises:
        QUOTA_EXCEEDED: no such cluster has room; the message names the limits.
        PROJECT_NOT_FOUND: the project is gone.
        DATABASE_CREATION_FAILED: the project's cluster is described no more, or wrongly, or none
            is left that is not; or its own instance has not been made.
    """
    version = payload.database.version
    placed = _find_placed(payload, projects, catalogue) if may_be_placed else None
    if placed is None:
        return _place(payload, projects, catalogue, may_be_kept=not may_be_placed)
    if version is None or (
        placed.version and keeps_version(placed.engine, placed.version, version)
    ):
        return placed
    raise failure(
        ErrorType.INVALID_PAYLOAD,
        f"database.version: the project has its place on cluster {placed.cluster_id}, "
        f"which is of version {placed.version or 'unknown'}; leave it out, or deprovision "
        "the project first.",
    )


def _place(
    payload: ProvisionProjectPayload,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    *,
    may_be_kept: bool,
) -> Cluster:
    """Place the project on the emptiest shared cluster with room; see `ensure_placed`."""
    found = catalogue.clusters(payload.region, payload.database.engine, may_be_kept=may_be_kept)
    clusters = _of_version(found, payload)
    # Of one cluster nobody has to know how full it is: a full one refuses.
    tenants = projects.quotas.used_of(c.quota for c in clusters) if len(clusters) > 1 else {}
    for cluster in sorted(clusters, key=lambda c: (tenants.get(c.quota, 0), c.cluster_id)):
        try:
            projects.places.place(
                payload.project_id, cluster.cluster_id, cluster.quota, cluster.max_tenants
            )
        except QuotaReachedError:
            continue
        except ProjectBusyError:
            # Another run of this stage has just placed it.
            placed = _find_placed(payload, projects, catalogue)
            if placed is not None:
                return placed
            continue
        return cluster
    limits = ", ".join(f"{c.max_tenants} tenants on {c.cluster_id}" for c in clusters) or "none"
    version = payload.database.version
    of_version = "" if version is None else f" of version {version}"
    raise failure(
        ErrorType.QUOTA_EXCEEDED,
        f"region: no {payload.database.engine} cluster{of_version} of {payload.region} has room "
        f"(limits: {limits}); add a cluster or raise a limit.",
        "; ".join(f"left out: {error.cause}" for error in found.wrong),
    )


def _of_version(found: Clusters, payload: ProvisionProjectPayload) -> list[Cluster]:
    """Return the clusters of the version that a payload asks for, if it does.

    Raises:
        DATABASE_CREATION_FAILED: there is none, and one might be whose description is wrong.
    """
    version = payload.database.version
    clusters = [c for c in found.described if version is None or is_of_version(c.version, version)]
    if found.wrong and not clusters:
        raise found.wrong[0]
    return clusters


def refuse_unserved(
    payload: ProvisionProjectPayload, catalogue: ClusterCatalogue, *, may_be_kept: bool = False
) -> None:
    """Refuse a region or a version that no shared cluster serves.

    Args:
        payload: what the job is asked to do.
        catalogue: the shared clusters.
        may_be_kept: whether they may be as they were in the last minute.

    Raises:
        INVALID_PAYLOAD: the message names what is served.
        DATABASE_CREATION_FAILED: one might serve whose description is wrong; the message names it.
    """
    engine, region = payload.database.engine, payload.region
    found = catalogue.clusters(region, engine, may_be_kept=may_be_kept)
    if _of_version(found, payload):
        return
    if not found.described:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"region: {region} is not served for {engine}; "
            "choose a region that has a database cluster.",
        )
    known = ", ".join(sorted({c.version for c in found.described if c.version is not None}))
    raise failure(
        ErrorType.INVALID_PAYLOAD,
        f"database.version: no {engine} cluster of {region} is of version "
        f"{payload.database.version}; "
        + (f"there are {known}." if known else "none declares a version; leave it out."),
    )


def cluster_of(
    project: Project | None, catalogue: ClusterCatalogue, final: ErrorType
) -> Cluster | None:
    """Return where a project's database is; None where it has none, or its instance no address yet.

    Args:
        project: the project; None where it is gone.
        catalogue: the shared clusters.
        final: the error type of a cluster that is described no more.
    """
    if project is None:
        return None
    if project.instance is not None:
        return _own_cluster(project.instance)
    if project.cluster_id is None or project.region is None or project.engine is None:
        return None
    cluster = catalogue.cluster(project.region, Engine(project.engine), project.cluster_id)
    if cluster is not None:
        return cluster
    raise failure(
        final,
        "The database cluster that holds this project is not described any more.",
        f"cluster {project.cluster_id}: no SSM parameter "
        f"{project.region}/{project.engine}/{project.cluster_id}",
    )


def known_cluster_of(project: Project, catalogue: ClusterCatalogue, final: ErrorType) -> Cluster:
    """Return where the database of a project is that is provisioned; as `cluster_of` otherwise."""
    cluster = cluster_of(project, catalogue, final)
    if cluster is not None:
        return cluster
    raise failure(
        final,
        "Nobody knows where the database of the project is.",
        f"project {project.project_id}: "
        + ("no cluster" if project.instance is None else "an instance without an address"),
    )


def _find_placed(
    payload: ProvisionProjectPayload, projects: ProjectReader, catalogue: ClusterCatalogue
) -> Cluster | None:
    """Return where a project's database is; None where that is not settled."""
    project = projects.get(payload.project_id)
    if project is None:
        raise failure(
            ErrorType.PROJECT_NOT_FOUND,
            f"project_id: there is no project {payload.project_id} any more.",
        )
    if project.cluster_id is None:
        return None
    return known_cluster_of(project, catalogue, ErrorType.DATABASE_CREATION_FAILED)


def _own_cluster(instance: DedicatedInstance) -> Cluster | None:
    if instance.host is None or instance.port is None:
        return None
    return Cluster.model_validate(
        {
            "host": instance.host,
            "port": instance.port,
            "admin_secret_arn": instance.admin_secret,
            "max_tenants": 1,
            "sslmode": instance.sslmode,
            "version": instance.version,
            "region": instance.region,
            "engine": instance.engine,
            "cluster_id": instance.identifier,
            "is_dedicated": True,
        }
    )
