"""FINALIZING: every stage has reported its check, so the project is usable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provisioner.errors import ErrorType, failure
from provisioner.jobs.models import Job, StageRecord, StageStatus
from provisioner.jobs.outcome import Completion, StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.jobs.store import JobStore
from provisioner.provisioning.job_types import provision_project
from provisioner.provisioning.job_types.provision_project import (
    AuthResult,
    DatabaseResult,
    ProvisionProjectPayload,
    ProvisionProjectResult,
    ResultMetadata,
    ServiceResult,
    ServicesResult,
    StorageResult,
)
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.result import ApiKeyResult


def ensure_active(job: JobInput, *, jobs: JobStore, projects: ProjectStore) -> StageOutcome:
    """Put the result together and make the project ACTIVE with the job COMPLETED.

    Raises:
        UNKNOWN_ERROR: a stage has not reported its check.
    """
    payload = validate_payload(ProvisionProjectPayload, job.payload)
    stored = jobs.get(job.job_id)
    outputs = {record.stage: checked(record).output for record in _before_last(stored)}
    result = _result(payload, outputs, jobs).model_dump(mode="json", exclude_none=True)
    return StageOutcome(
        output={"result": result},
        check="every stage has reported its check",
        completion=Completion(
            result=result,
            also=projects.activate_items(payload.project_id, job.job_id, result),
        ),
    )


def _before_last(job: Job) -> tuple[StageRecord, ...]:
    return tuple(record for record in job.stages if record.stage != provision_project.FINALIZING)


def checked(record: StageRecord) -> StageRecord:
    """Return a stage that has ended well.

    Raises:
        UNKNOWN_ERROR: it has not reported its check.
    """
    if record.status in {StageStatus.SUCCEEDED, StageStatus.SKIPPED} and record.check:
        return record
    raise failure(
        ErrorType.UNKNOWN_ERROR,
        f"Stage {record.stage} has not reported that what it makes answers.",
        f"stage {record.stage}: status {record.status}",
    )


def _result(
    payload: ProvisionProjectPayload,
    outputs: Mapping[str, Mapping[str, Any]],
    jobs: JobStore,
) -> ProvisionProjectResult:
    keys = outputs[provision_project.GENERATING_API_KEYS]
    parties = outputs[provision_project.INITIALIZING]
    return ProvisionProjectResult(
        project_id=payload.project_id,
        database=DatabaseResult.model_validate(
            _only(outputs[provision_project.CREATING_DATABASE], DatabaseResult)
            | {"instance": outputs[provision_project.CREATING_INSTANCE] or None}
        ),
        services=ServicesResult(
            auth=_service(outputs[provision_project.REGISTERING_AUTH], AuthResult),
            realtime=_service(outputs[provision_project.REGISTERING_REALTIME], ServiceResult),
            storage=_service(outputs[provision_project.REGISTERING_STORAGE], StorageResult),
        ),
        api_keys=[ApiKeyResult.model_validate(key) for key in keys["api_keys"]],
        api_keys_secret_arn=keys["secret_arn"],
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
    return model.model_validate(_only(output, model)) if output else None


def _only(output: Mapping[str, Any], model: type[Any]) -> dict[str, Any]:
    """Leave out what a stage reports for operators and the result does not show."""
    return {name: value for name, value in output.items() if name in model.model_fields}
