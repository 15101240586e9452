"""INITIALIZING: the job may go on, and the project is its to provision."""

from __future__ import annotations

from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import Completion, JobInput, StageOutcome
from provisioner.jobs.store import JobStore
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.job_types.provision_project import Engine, ProvisionProjectPayload
from provisioner.provisioning.projects import (
    Project,
    ProjectBusyError,
    ProjectStatus,
    ProjectStore,
    QuotaReachedError,
    quota_of,
)


def ensure_initialized(
    job: JobInput,
    *,
    jobs: JobStore,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
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
    """
    payload = validate_payload(ProvisionProjectPayload, job.payload)
    _refuse_unsupported(payload)
    project = projects.get(payload.project_id)
    if project is None:
        raise failure(
            ErrorType.PROJECT_NOT_FOUND,
            f"project_id: there is no project {payload.project_id}; create it first.",
        )
    _refuse_other_owner(payload, project)
    if project.status is ProjectStatus.ACTIVE and project.result is not None:
        return StageOutcome(
            output={"already_provisioned": True},
            check="the project is provisioned already",
            completion=Completion(result=project.result),
        )
    if project.locked_by is None:
        _refuse_removed(project)
        _refuse_other_region(payload, project)
    served_by = catalogue.clusters(payload.region, payload.database.engine)
    if not served_by:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"region: {payload.region} is not served for {payload.database.engine}; "
            "choose a region that has a database cluster.",
        )
    if project.locked_by != job.job_id:
        _lock(
            job,
            project,
            payload,
            jobs=jobs,
            projects=projects,
            default_project_quota=default_project_quota,
        )
    return StageOutcome(
        output={"already_provisioned": False},
        check="the project is held by this job and its quota is reserved",
    )


def _refuse_unsupported(payload: ProvisionProjectPayload) -> None:
    if payload.database.engine is not Engine.POSTGRESQL:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"database.engine: {payload.database.engine} is not supported yet; use postgresql.",
        )
    for field in ("version", "size", "storage_gb"):
        if getattr(payload.database, field) is not None:
            raise failure(
                ErrorType.INVALID_PAYLOAD,
                f"database.{field}: cannot be chosen yet, since projects share a cluster; "
                "leave it out.",
            )


def _refuse_other_owner(payload: ProvisionProjectPayload, project: Project) -> None:
    for field in ("owner_id", "organization_id"):
        asked, known = getattr(payload, field), getattr(project, field)
        if asked is not None and known is not None and asked != known:
            raise failure(
                ErrorType.INVALID_PAYLOAD,
                f"{field}: is not the project's; leave it out or correct it.",
            )


def _refuse_removed(project: Project) -> None:
    """Refuse a project whose removal has begun and not ended."""
    if project.status is ProjectStatus.DEPROVISIONING:
        raise failure(
            ErrorType.PROJECT_NOT_FOUND,
            f"project_id: {project.project_id} is being removed; "
            "send a deprovision_project job that ends this, then provision it again.",
        )


def _refuse_other_region(payload: ProvisionProjectPayload, project: Project) -> None:
    """Refuse to leave behind what an earlier job has made in another region."""
    if project.region is not None and project.region != payload.region:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"region: the project has been begun in {project.region}; "
            "name that region, or deprovision the project first.",
        )


def _lock(
    job: JobInput,
    project: Project,
    payload: ProvisionProjectPayload,
    *,
    jobs: JobStore,
    projects: ProjectStore,
    default_project_quota: int,
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
            default_limit=default_project_quota,
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
    if job is not None and job.status.is_terminal:
        return failure(
            ErrorType.PROJECT_BUSY,
            f"project_id: what job {holder} made of {project_id} is being removed; "
            "wait until its clean-up has ended.",
        )
    by = "another job" if holder is None else f"job {holder}"
    return failure(
        ErrorType.PROJECT_BUSY,
        f"project_id: {project_id} is held by {by}; wait until that job has ended.",
    )
