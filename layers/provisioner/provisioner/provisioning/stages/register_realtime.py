"""REGISTERING_REALTIME: an AppSync Event API and its channel namespace."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers.appsync import check_event_api, ensure_event_api, keep_one_api
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.first_run import may_exist
from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
from provisioner.provisioning.naming import Naming

if TYPE_CHECKING:
    from mypy_boto3_appsync.client import AppSyncClient


def ensure_realtime(
    job: JobInput, *, appsync: Callable[[str], AppSyncClient], naming: Naming
) -> StageOutcome:
    """Make the Event API, unless the payload does without.

    Args:
        job: the job.
        appsync: gives the client of a region.
        naming: the deployment's names.

    Raises:
        CONFLICT: an API of that name is not the project's.
        SERVICE_REGISTRATION_FAILED, and what `translated` raises.
    """
    payload = validate_payload(ProvisionProjectPayload, job.payload)
    if not payload.services.realtime:
        return StageOutcome(skipped=True, check="the payload does without realtime")
    client = appsync(payload.region)
    names = naming.names(payload.project_id)
    owner = naming.owner(payload.project_id, job.job_id)

    def made(api_id: str) -> None:
        job.if_superseded(
            lambda output: keep_one_api(
                client,
                name=names.event_api,
                owner=owner,
                made=api_id,
                kept=output.get("tenant_id", ""),
            )
        )

    api = ensure_event_api(
        client,
        name=names.event_api,
        namespace=names.channel_namespace,
        owner=owner,
        may_exist=may_exist(job),
        made=made,
    )
    check = check_event_api(client, api, names.channel_namespace, owner)
    return StageOutcome(
        output={
            "enabled": True,
            "tenant_id": api.api_id,
            "endpoint": api.http_endpoint,
            "realtime_endpoint": api.realtime_endpoint,
        },
        check=check,
    )
