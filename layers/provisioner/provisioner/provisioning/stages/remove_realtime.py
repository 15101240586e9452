"""REMOVING_REALTIME: the AppSync Event API with its channel namespace."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers.appsync import remove_event_api
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput, StageOutcome
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.payload import ProvisionProjectPayload

if TYPE_CHECKING:
    from mypy_boto3_appsync.client import AppSyncClient


def remove_realtime(
    job: JobInput,
    *,
    appsync: Callable[[str], AppSyncClient],
    naming: Naming,
    only_this_job: bool,
) -> StageOutcome:
    """Remove the Event API; one that is not there is as good as removed.

    Args:
        job: the job.
        appsync: gives the client of a region.
        naming: the deployment's names.
        only_this_job: whether what other jobs of the project made stays.

    Raises:
        REMOVAL_FAILED: it is still there; and what `translated` raises.
    """
    payload = validate_payload(ProvisionProjectPayload, job.payload)
    owner = naming.owner(payload.project_id, job.job_id)
    return StageOutcome(
        check=remove_event_api(
            appsync(payload.region),
            name=naming.names(payload.project_id).event_api,
            claim=owner.claim(only_this_job=only_this_job),
        )
    )
