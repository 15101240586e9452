"""INITIALIZING: the job may go on, and the project is its to provision."""

from typing import Any

from provisioner.drivers.server_versions import keeps_version
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.stage import Completion, JobInput, StageOutcome
from provisioner.jobs.store import JobStore
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.first_run import IS_ALONE
from provisioner.provisioning.instances import wanted_instance
from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.placement import refuse_unserved
from provisioner.provisioning.projects import (
    Project,
    ProjectBusyError,
    ProjectStatus,
    ProjectStore,
)
from provisioner.provisioning.quotas import QuotaReachedError, quota_of
from provisioner.provisioning.stages.find_project import read_project


def ensure_initialized(
    job: JobInput,
    *,
    jobs: JobStore,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    naming: Naming,
    default_project_quota: int,
) -> StageOutcome:
    """Lock the project for this job and reserve its quota, in one transaction.

    A project that is provisioned already ends the job at once with the existing result.

    Raises:
        INVALID_PAYLOAD: the payload is wrong, asks for what is not supported, or names a region
            that is not served, or an owner or a region that is not the project's.
        PROJECT_NOT_FOUND: there is no such project, or its removal has begun.
        PROJECT_BUSY: another job holds the project, or its clean-up does.
        QUOTA_EXCEEDED: the owner or organization has as many projects as it may have.
        DATABASE_CREATION_FAILED: an operator's description of what may serve is wrong.
    """
    payload = job.payload_as(ProvisionProjectPayload)
    project = read_project(job, projects)
    _refuse_other_owner(payload, project)
    if project.status is ProjectStatus.ACTIVE and project.result is not None:
        _refuse_other_snapshot(payload, project)
        return StageOutcome(
            output={"already_provisioned": True},
            check="the project is provisioned already",
            completion=Completion(result=project.result),
        )
    if project.locked_by is None:
        _refuse_removed(project)
        _refuse_other_place(payload, project)
    _refuse_unserved(job, payload, project, catalogue, naming)
    if project.locked_by != job.job_id:
        _lock(
            job, project, payload, jobs=jobs, projects=projects, default_limit=default_project_quota
        )
    output = _parties(payload, project) | {
        "already_provisioned": False,
        "is_dedicated": payload.database.size is not None,
        IS_ALONE: project.region is None or project.begun_by == job.job_id,
    }
    return StageOutcome(output, "the project is locked by this job and its quota is reserved")


def _refuse_unserved(
    job: JobInput,
    payload: ProvisionProjectPayload,
    project: Project,
    catalogue: ClusterCatalogue,
    naming: Naming,
) -> None:
    """Refuse a database that no cluster serves, or an instance that the operator does not allow."""
    if payload.database.size is None:
        refuse_unserved(payload, catalogue, may_be_kept=job.is_first)
    elif project.instance is None:
        allowance = catalogue.allowance(payload.region, payload.database.engine)
        wanted_instance(payload, allowance, naming.names(payload.project_id), job_id=job.job_id)


def _parties(payload: ProvisionProjectPayload, project: Project) -> dict[str, Any]:
    """Return whose the project is, as far as that is known."""
    known = {
        "owner_id": project.owner_id or payload.owner_id,
        "organization_id": project.organization_id or payload.organization_id,
    }
    return {name: value for name, value in known.items() if value is not None}


def _refuse_other_owner(payload: ProvisionProjectPayload, project: Project) -> None:
    for field in ("owner_id", "organization_id"):
        asked, known = getattr(payload, field), getattr(project, field)
        if asked is not None and known is not None and asked != known:
            raise failure(
                ErrorType.INVALID_PAYLOAD,
                f"{field}: is not the project's; leave it out or correct it.",
            )


def _refuse_other_snapshot(payload: ProvisionProjectPayload, project: Project) -> None:
    """Refuse a snapshot that a project which is provisioned was not made of."""
    made_of = None if project.instance is None else project.instance.snapshot
    if payload.database.snapshot not in {None, made_of}:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"database.snapshot: it becomes a new instance, and {project.project_id} is "
            "provisioned; deprovision the project first.",
        )


def _refuse_removed(project: Project) -> None:
    """Refuse a project whose removal has begun and not ended."""
    if project.status is ProjectStatus.DEPROVISIONING:
        raise failure(
            ErrorType.PROJECT_NOT_FOUND,
            f"project_id: {project.project_id} is being removed; "
            "send a deprovision_project job that ends this, then provision it again.",
        )


def _refuse_other_place(payload: ProvisionProjectPayload, project: Project) -> None:
    """Refuse to leave behind what an earlier job has made elsewhere, or otherwise."""
    wanted, instance = payload.database, project.instance
    begun = {
        "region": (payload.region, project.region),
        "database.engine": (str(wanted.engine), project.engine),
    }
    if instance is not None:
        begun["database.size"] = (wanted.size or "none", instance.size)
        begun["database.storage_gb"] = (
            str(wanted.storage_gb or instance.storage_gb),
            str(instance.storage_gb),
        )
        begun["database.snapshot"] = (wanted.snapshot or "none", instance.snapshot or "none")
        begun["database.version"] = (
            instance.version
            if keeps_version(instance.engine, instance.version, wanted.version or instance.version)
            else str(wanted.version),
            instance.version,
        )
    elif project.cluster_id is not None:
        begun["database.size"] = (wanted.size or "none", "none")
    for field, (asked, known) in begun.items():
        if known is not None and asked != known:
            raise failure(
                ErrorType.INVALID_PAYLOAD,
                f"{field}: the project has been begun with {known}; "
                "name that, or deprovision the project first.",
            )


def _lock(
    job: JobInput,
    project: Project,
    payload: ProvisionProjectPayload,
    *,
    jobs: JobStore,
    projects: ProjectStore,
    default_limit: int,
) -> None:
    quota = quota_of(
        project.owner_id or payload.owner_id,
        project.organization_id or payload.organization_id,
    )
    try:
        projects.lock(
            project,
            job.job_id,
            quota=quota,
            default_limit=default_limit,
            region=payload.region,
            engine=payload.database.engine,
        )
    except ProjectBusyError:
        holder = projects.get(project.project_id)
        if holder is not None and holder.locked_by == job.job_id:
            return
        raise _busy(project.project_id, holder, jobs) from None
    except QuotaReachedError as error:
        who, _, name = str(quota).partition("#")
        raise failure(
            ErrorType.QUOTA_EXCEEDED,
            f"{who}_id: {who} {name} has reached its limit of {error.limit} projects; "
            "remove one or ask for a higher limit.",
        ) from None


def _busy(project_id: str, project: Project | None, jobs: JobStore) -> ProvisioningError:
    """Say who holds the project: a job, or the clean-up of one that has ended."""
    holder = None if project is None else project.locked_by
    job = None if holder is None else jobs.get_head(holder)
    if job is not None and job.parent_id:
        return failure(
            ErrorType.PROJECT_BUSY,
            f"project_id: what job {job.parent_id} made of {project_id} is being removed; "
            "wait until its clean-up has ended.",
        )
    by = "another job" if holder is None else f"job {holder}"
    return failure(
        ErrorType.PROJECT_BUSY,
        f"project_id: {project_id} is locked by {by}; wait until that job has ended.",
    )
