"""The job types, as the registry knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.jobs.registry import JobHandler
from provisioner.provisioning.job_type import JobType
from provisioner.provisioning.payload import DeprovisionProjectPayload, ProvisionProjectPayload
from provisioner.provisioning.plan import DeprovisionStage, Stage

if TYPE_CHECKING:
    from provisioner.provisioning.result import DeprovisionProjectResult, ProvisionProjectResult


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


__all__ = ["JobType", "deprovision_project_handler", "provision_project_handler"]

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
