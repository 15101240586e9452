"""The job types, as the registry knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.jobs.registry import JobHandler
from provisioner.provisioning.job_type import JobType
from provisioner.provisioning.payload import (
    DeprovisionProjectPayload,
    ProvisionProjectPayload,
    RevokeApiKeyPayload,
    RotateApiKeysPayload,
    RotateDatabasePasswordPayload,
)
from provisioner.provisioning.plan import (
    DeprovisionStage,
    RevokeApiKeyStage,
    RotateApiKeysStage,
    RotateDatabasePasswordStage,
    Stage,
)

if TYPE_CHECKING:
    from provisioner.provisioning.result import (
        DeprovisionProjectResult,
        ProvisionProjectResult,
        RevokeApiKeyResult,
        RotateApiKeysResult,
        RotateDatabasePasswordResult,
    )


def _provision(payload: ProvisionProjectPayload) -> ProvisionProjectResult:
    # The dispatcher registers this handler and never runs it: the stages, with the PostgreSQL
    # driver and the services' clients, would be most of its cold start.
    from provisioner.composition.in_process import run_job  # noqa: PLC0415
    from provisioner.provisioning.result import ProvisionProjectResult  # noqa: PLC0415

    job = run_job(JobType.PROVISION_PROJECT, payload, tuple(Stage))
    return ProvisionProjectResult.model_validate(job.result)


def _deprovision(payload: DeprovisionProjectPayload) -> DeprovisionProjectResult:
    from provisioner.composition.in_process import run_job  # noqa: PLC0415  # as above
    from provisioner.provisioning.result import DeprovisionProjectResult  # noqa: PLC0415

    job = run_job(JobType.DEPROVISION_PROJECT, payload, tuple(DeprovisionStage))
    return DeprovisionProjectResult.model_validate(job.result)


def _organization(payload: ProvisionProjectPayload) -> str | None:
    return payload.organization_id


def _rotate_api_keys(payload: RotateApiKeysPayload) -> RotateApiKeysResult:
    from provisioner.composition.in_process import run_job  # noqa: PLC0415  # as above
    from provisioner.provisioning.result import RotateApiKeysResult  # noqa: PLC0415

    job = run_job(JobType.ROTATE_API_KEYS, payload, tuple(RotateApiKeysStage))
    return RotateApiKeysResult.model_validate(job.result)


def _revoke_api_key(payload: RevokeApiKeyPayload) -> RevokeApiKeyResult:
    from provisioner.composition.in_process import run_job  # noqa: PLC0415  # as above
    from provisioner.provisioning.result import RevokeApiKeyResult  # noqa: PLC0415

    job = run_job(JobType.REVOKE_API_KEY, payload, tuple(RevokeApiKeyStage))
    return RevokeApiKeyResult.model_validate(job.result)


def _rotate_database_password(
    payload: RotateDatabasePasswordPayload,
) -> RotateDatabasePasswordResult:
    from provisioner.composition.in_process import run_job  # noqa: PLC0415  # as above
    from provisioner.provisioning.result import RotateDatabasePasswordResult  # noqa: PLC0415

    job = run_job(JobType.ROTATE_DATABASE_PASSWORD, payload, tuple(RotateDatabasePasswordStage))
    return RotateDatabasePasswordResult.model_validate(job.result)


__all__ = [
    "JobType",
    "deprovision_project_handler",
    "provision_project_handler",
    "revoke_api_key_handler",
    "rotate_api_keys_handler",
    "rotate_database_password_handler",
]

provision_project_handler = JobHandler(
    payload_model=ProvisionProjectPayload,
    stages=tuple(Stage),
    run=_provision,
    message_group=_organization,
)

deprovision_project_handler = JobHandler(
    payload_model=DeprovisionProjectPayload,
    stages=tuple(DeprovisionStage),
    run=_deprovision,
)

rotate_api_keys_handler = JobHandler(
    payload_model=RotateApiKeysPayload,
    stages=tuple(RotateApiKeysStage),
    run=_rotate_api_keys,
)

revoke_api_key_handler = JobHandler(
    payload_model=RevokeApiKeyPayload,
    stages=tuple(RevokeApiKeyStage),
    run=_revoke_api_key,
)

rotate_database_password_handler = JobHandler(
    payload_model=RotateDatabasePasswordPayload,
    stages=tuple(RotateDatabasePasswordStage),
    run=_rotate_database_password,
)
