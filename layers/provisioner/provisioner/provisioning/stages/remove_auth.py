"""REMOVING_AUTH: the Cognito user pool with its app client."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers.cognito import remove_user_pool
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput, StageOutcome
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.payload import ProvisionProjectPayload

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp.client import CognitoIdentityProviderClient


def remove_auth(
    job: JobInput,
    *,
    cognito: Callable[[str], CognitoIdentityProviderClient],
    naming: Naming,
    only_this_job: bool,
) -> StageOutcome:
    """Remove the user pool; one that is not there is as good as removed.

    Args:
        job: the job.
        cognito: gives the client of a region.
        naming: the deployment's names.
        only_this_job: whether what other jobs of the project made stays.

    Raises:
        REMOVAL_FAILED: it is still there; and what `translated` raises.
    """
    payload = validate_payload(ProvisionProjectPayload, job.payload)
    owner = naming.owner(payload.project_id, job.job_id)
    return StageOutcome(
        check=remove_user_pool(
            cognito(payload.region),
            name=naming.names(payload.project_id).user_pool,
            claim=owner.claim(only_this_job=only_this_job),
        )
    )
