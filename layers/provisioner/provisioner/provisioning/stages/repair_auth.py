"""REPAIRING_AUTH: the settings of the Cognito user pool and its app client."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers.cognito import repair_user_pool
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.stages.repair_report import (
    outcome,
    region_of,
    repaired_project,
    service,
    skipped,
)

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp.client import CognitoIdentityProviderClient


def ensure_auth_repaired(
    job: JobInput,
    *,
    cognito: Callable[[str], CognitoIdentityProviderClient],
    projects: ProjectReader,
    naming: Naming,
) -> StageOutcome:
    """Put right what has drifted of the user pool, unless the project does without.

    Args:
        job: the job.
        cognito: gives the client of a region.
        projects: says what the project has.
        naming: the deployment's names.

    Raises:
        PROJECT_NOT_FOUND: the project is gone.
        CONFLICT: the pool is not the project's.
        SERVICE_REGISTRATION_FAILED: the pool is not there; and what `translated` raises.
    """
    project = repaired_project(job, projects)
    auth = service(project, "auth")
    if auth is None:
        return skipped("auth")
    pool, repairs = repair_user_pool(
        cognito(region_of(project)),
        pool_id=auth["tenant_id"],
        client_id=auth["client_id"],
        client_name=naming.names(project.project_id).user_pool_client,
        owner=naming.owner(project.project_id, job.job_id),
    )
    is_new = pool.client_id != auth["client_id"]
    return outcome(repairs, {"services": {"auth": {"client_id": pool.client_id}}} if is_new else {})
