"""FINALIZING of provision_project, and what one that fails releases and has removed.

Its INITIALIZING stands apart: what ends a failed job, wherever it runs, needs no clusters.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from provisioner.drivers.dynamodb import Write
from provisioner.jobs.failure import CleanupRequest
from provisioner.jobs.models import Job, StageStatus
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.jobs.store import JobStore
from provisioner.provisioning.contract import ApiKeyResult
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.first_run import IS_ALONE, known_ids
from provisioner.provisioning.job_types import clean_up_project
from provisioner.provisioning.job_types.provision_project import (
    CREATING_DATABASE,
    CREATING_INSTANCE,
    GENERATING_API_KEYS,
    INITIALIZING,
    REGISTERING_AUTH,
    REGISTERING_REALTIME,
    REGISTERING_STORAGE,
    AuthResult,
    DatabaseResult,
    OnFailure,
    ProvisionProjectPayload,
    ProvisionProjectResult,
    ResultMetadata,
    ServiceResult,
    ServicesResult,
    StorageResult,
)
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.stages.lifecycle import complete, read_ended_stages


def ensure_active(job: JobInput, *, jobs: JobStore, projects: ProjectStore) -> StageOutcome:
    """Put the result together and make the project ACTIVE with the job COMPLETED.

    Raises:
        UNKNOWN_ERROR: a stage has not reported its check.
    """
    payload = job.payload_as(ProvisionProjectPayload)
    ended = read_ended_stages(job, jobs)
    outputs = {record.stage: record.output for record in ended}
    result = _result(payload, outputs, jobs).model_dump(mode="json", exclude_none=True)
    is_alone = outputs[INITIALIZING].get(IS_ALONE) is True
    known = known_ids(ended) if is_alone else {}
    return complete(
        result, projects.build_activation(payload.project_id, job.job_id, result, known)
    )


def _result(
    payload: ProvisionProjectPayload, outputs: Mapping[str, Mapping[str, Any]], jobs: JobStore
) -> ProvisionProjectResult:
    keys = outputs[GENERATING_API_KEYS]
    parties = outputs[INITIALIZING]
    database = {**outputs[CREATING_DATABASE], "instance": outputs[CREATING_INSTANCE] or None}
    return ProvisionProjectResult(
        project_id=payload.project_id,
        database=DatabaseResult.model_validate(database, extra="ignore"),
        services=ServicesResult(
            auth=_service(outputs[REGISTERING_AUTH], AuthResult),
            realtime=_service(outputs[REGISTERING_REALTIME], ServiceResult),
            storage=_service(outputs[REGISTERING_STORAGE], StorageResult),
        ),
        api_keys=[ApiKeyResult.model_validate(key) for key in keys["api_keys"]],
        api_keys_secret_arn=keys["secret_arn"],
        api_keys_claim_before=datetime.fromisoformat(keys["claim_before"]),
        metadata=ResultMetadata(
            provisioned_at=jobs.now(),
            region=payload.region,
            owner_id=parties.get("owner_id"),
            organization_id=parties.get("organization_id"),
        ),
    )


def _service[Service: ServiceResult](
    output: Mapping[str, Any], model: type[Service]
) -> Service | None:
    # What a stage reports for operators the result does not show.
    return model.model_validate(output, extra="ignore") if output else None


def release_after_failure(job: Job, *, projects: ProjectStore) -> Sequence[Write]:
    """Build the writes that release the project's lock and the quota that it counts against."""
    return projects.build_release_as_failed(job.project_id, job.job_id) if job.project_id else []


def describe_cleanup(
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
            record.stage == INITIALIZING and record.status is StageStatus.SUCCEEDED
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
        else projects.build_hand_over(job.project_id, job.job_id, cleanup_job_id),
    )


def resources_of(
    project_id: str, engine: Engine, stage: str, *, naming: Naming, bucket: str, is_dedicated: bool
) -> Sequence[str]:
    """Name what a stage that removes is to remove.

    Args:
        project_id: the project.
        engine: the technology of its database.
        stage: the stage.
        naming: the deployment's names.
        bucket: the name of the project's bucket.
        is_dedicated: whether it has a database instance of its own.
    """
    names = naming.names(project_id)
    tenant = names.tenants[engine]
    roles = filter(None, (tenant.app_role, tenant.owner_role))
    of_stage: dict[str, tuple[str, ...]] = {
        clean_up_project.REMOVING_API_KEYS: (
            f"API keys of project {project_id}",
            f"secret {names.api_keys_secret}",
        ),
        clean_up_project.REMOVING_STORAGE: (f"bucket {bucket}",),
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
