"""FAILED: what a failed job gives back, and whether what it made is removed or stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from provisioner.jobs.models import Job, StageStatus
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types import provision_project
from provisioner.provisioning.job_types.provision_project import OnFailure
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectStore

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef


def released_by_failure(job: Job, *, projects: ProjectStore) -> Sequence[TransactWriteItemTypeDef]:
    """Build the writes that give back the project's lock and the quota that it counts against.

    After a clean-up that has left nothing the project may be provisioned in another region.
    """
    if not job.project_id:
        return []
    return projects.release_items(
        job.project_id,
        job.job_id,
        has_removed_all=job.cleanup is not None and not job.cleanup.unremoved,
    )


def cleanup_stages(job: Job, *, projects: ProjectStore) -> Sequence[str]:
    """Return the stages that remove what the job made: none where it made nothing, or keeps it.

    A job makes something only while it holds its project: from the end of its first stage on,
    where the project is gone and cannot say.
    """
    if not job.project_id or job.payload.get("on_failure", OnFailure.ROLLBACK) == OnFailure.KEEP:
        return ()
    project = projects.get(job.project_id)
    if project is None:
        has_held = any(
            record.stage == provision_project.INITIALIZING
            and record.status is StageStatus.SUCCEEDED
            for record in job.stages
        )
    else:
        has_held = project.locked_by == job.job_id
    return provision_project.JOB_TYPE.on_failure.cleanup if has_held else ()


def remaining(job: Job, stage: str, *, naming: Naming) -> Sequence[str]:
    """Name what a stage of the clean-up that failed may have left."""
    database = job.payload.get("database", {})
    return resources_of(
        job.project_id,
        Engine(database.get("engine", Engine.POSTGRESQL)),
        stage,
        naming=naming,
        is_dedicated=bool(database.get("size")),
    )


def resources_of(
    project_id: str, engine: Engine, stage: str, *, naming: Naming, is_dedicated: bool
) -> Sequence[str]:
    """Name what a stage that removes is to remove."""
    names = naming.names(project_id)
    tenant = naming.names(project_id).tenants[engine]
    roles = filter(None, (tenant.app_role, tenant.owner_role))
    of_stage: dict[str, tuple[str, ...]] = {
        provision_project.REMOVING_API_KEYS: (
            f"API keys of project {project_id}",
            f"secret {names.api_keys_secret}",
        ),
        provision_project.REMOVING_STORAGE: (f"bucket {names.bucket}",),
        provision_project.REMOVING_REALTIME: (f"Event API {names.event_api}",),
        provision_project.REMOVING_AUTH: (f"user pool {names.user_pool}",),
        provision_project.REMOVING_DATABASE: (
            f"database {tenant.database}",
            *(f"role {role}" for role in roles),
            f"secret {names.database_secret}",
        ),
        provision_project.REMOVING_INSTANCE: (
            f"database instance {names.instance}",
            f"secret {names.instance_secret}",
        )
        if is_dedicated
        else (),
    }
    return of_stage[stage]
