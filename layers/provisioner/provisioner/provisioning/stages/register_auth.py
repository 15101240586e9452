"""REGISTERING_AUTH: a Cognito user pool and its app client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from provisioner.drivers.cognito import (
    check_user_pool,
    ensure_user_pool,
    keep_one_client,
    keep_one_pool,
)
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.first_run import may_exist
from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
from provisioner.provisioning.naming import Naming

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp.client import CognitoIdentityProviderClient


def ensure_auth(
    job: JobInput,
    *,
    cognito: Callable[[str], CognitoIdentityProviderClient],
    naming: Naming,
) -> StageOutcome:
    """Make the user pool, unless the payload does without.

    Args:
        job: the job.
        cognito: gives the client of a region.
        naming: the deployment's names.

    Raises:
        CONFLICT: a pool of that name is not the project's.
        SERVICE_REGISTRATION_FAILED, and what `translated` raises.
    """
    payload = validate_payload(ProvisionProjectPayload, job.payload)
    if not payload.services.auth:
        return StageOutcome(skipped=True, check="the payload does without auth")
    client = cognito(payload.region)
    names = naming.names(payload.project_id)
    owner = naming.owner(payload.project_id, job.job_id)

    def made(pool_id: str, client_id: str = "") -> None:
        def keep_one(output: Mapping[str, Any]) -> None:
            if client_id:
                keep_one_client(
                    client,
                    pool_id=pool_id,
                    name=names.user_pool_client,
                    made=client_id,
                    kept=output.get("client_id", ""),
                )
            else:
                keep_one_pool(
                    client,
                    name=names.user_pool,
                    owner=owner,
                    made=pool_id,
                    kept=output.get("tenant_id", ""),
                )

        job.if_superseded(keep_one)

    pool = ensure_user_pool(
        client,
        name=names.user_pool,
        client_name=names.user_pool_client,
        owner=owner,
        may_exist=may_exist(job),
        made=made,
    )
    check = check_user_pool(client, pool, owner)
    return StageOutcome(
        output={
            "enabled": True,
            "tenant_id": pool.pool_id,
            "client_id": pool.client_id,
            "endpoint": pool.endpoint,
        },
        check=check,
    )
