"""FAILED: what a failed job releases, and whether what it made is removed or stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from provisioner.jobs.failure import CleanupRequest
from provisioner.jobs.models import Job, StageStatus
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types import clean_up_project, provision_project
from provisioner.provisioning.job_types.provision_project import OnFailure
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectStore

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef


def release_after_failure(
    job: Job, *, projects: ProjectStore
) -> Sequence[TransactWriteItemTypeDef]:
    """Build the writes that release the project's lock and the quota that it counts against."""
    return projects.release_items(job.project_id, job.job_id) if job.project_id else []


def request_cleanup(
    job: Job, cleanup_job_id: str, *, projects: ProjectStore
) -> CleanupRequest | None:
    """Say what the clean-up removes: nothing where the job made nothing, or keeps it.

    A job makes something only while it has the project's lock: from the end of its first stage on,
    where the project is gone and cannot say.
    """
    if not job.project_id or job.payload.get("on_failure", OnFailure.ROLLBACK) == OnFailure.KEEP:
        return None
    project = projects.get(job.project_id)
    if project is None:
        has_acquired = any(
            record.stage == provision_project.INITIALIZING
            and record.status is StageStatus.SUCCEEDED
            for record in job.stages
        )
    else:
        has_acquired = project.locked_by == job.job_id
    if not has_acquired:
        return None
    database = job.payload.get("database", {})
    return CleanupRequest(
        payload={
            "project_id": job.project_id,
            "job_id": job.job_id,
            "region": job.payload["region"],
            "engine": str(database.get("engine", Engine.POSTGRESQL)),
            "is_dedicated": bool(database.get("size")),
        },
        hand_over=[]
        if project is None
        else projects.hand_over_items(job.project_id, job.job_id, cleanup_job_id),
    )


def resources_of(
    project_id: str, engine: Engine, stage: str, *, naming: Naming, is_dedicated: bool
) -> Sequence[str]:
    """Name what a stage that removes is to remove."""
    names = naming.names(project_id)
    tenant = naming.names(project_id).tenants[engine]
    roles = filter(None, (tenant.app_role, tenant.owner_role))
    of_stage: dict[str, tuple[str, ...]] = {
        clean_up_project.REMOVING_API_KEYS: (
            f"API keys of project {project_id}",
            f"secret {names.api_keys_secret}",
        ),
        clean_up_project.REMOVING_STORAGE: (f"bucket {names.bucket}",),
        clean_up_project.REMOVING_REALTIME: (f"Event API {names.event_api}",),
        clean_up_project.REMOVING_AUTH: (f"user pool {names.user_pool}",),
        clean_up_project.REMOVING_DATABASE: (
            f"database {tenant.database}",
            *(f"role {role}" for role in roles),
            f"secret {names.database_secret}",
        ),
        clean_up_project.REMOVING_INSTANCE: (
            f"database instance {names.instance}",
            f"secret {names.instance_secret}",
        )
        if is_dedicated
        else (),
    }
    return of_stage[stage]
