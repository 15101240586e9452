"""The job type provision_project, as the registry knows it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from provisioner.jobs.registry import JobHandler
from provisioner.provisioning.payload import ProvisionProjectPayload
from provisioner.provisioning.plan import Stage

if TYPE_CHECKING:
    from provisioner.provisioning.result import ProvisionProjectResult


class JobType(StrEnum):
    """The job types of this deployment."""

    #: Gives a project its database, auth, realtime, storage and API keys.
    PROVISION_PROJECT = "provision_project"


def _run(payload: ProvisionProjectPayload) -> ProvisionProjectResult:
    # The dispatcher registers this handler and never runs it: the stages, with the PostgreSQL
    # driver and the services' clients, would be most of its cold start.
    from provisioner.composition.in_process import provision_project  # noqa: PLC0415

    return provision_project(payload)


def _organization(payload: ProvisionProjectPayload) -> str | None:
    return payload.organization_id


provision_project_handler = JobHandler(
    payload_model=ProvisionProjectPayload,
    stages=tuple(Stage),
    run=_run,
    message_group=_organization,
)
