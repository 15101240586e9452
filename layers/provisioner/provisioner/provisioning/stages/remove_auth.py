"""REMOVING_AUTH: the Cognito user pool with its app client."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers.cognito import remove_user_pool
from provisioner.jobs.stage_run import JobInput, StageOutcome
from provisioner.provisioning.location import location_of
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp.client import CognitoIdentityProviderClient


def remove_auth(
    job: JobInput,
    *,
    cognito: Callable[[str], CognitoIdentityProviderClient],
    projects: ProjectReader,
    naming: Naming,
    only_this_job: bool,
) -> StageOutcome:
    """Remove the user pool; one that is not there is as good as removed.

    Args:
        job: the job.
        cognito: gives the client of a region.
        projects: says where the project is.
        naming: the deployment's names.
        only_this_job: whether what other jobs of the project made stays.

    Raises:
        REMOVAL_FAILED: it is still there; and what `translated` raises.
    """
    location = location_of(job, projects)
    owner = naming.owner(location.project_id, job.job_id)
    return StageOutcome(
        check=remove_user_pool(
            cognito(location.region),
            name=naming.names(location.project_id).user_pool,
            claim=owner.claim(only_this_job=only_this_job),
        )
    )
