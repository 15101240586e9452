"""REMOVING_AUTH: the Cognito user pool with its app client."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from provisioner.drivers.cognito import remove_user_pool
from provisioner.drivers.cognito_obstacles import look_at_pools
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.location import location_of
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.removal import explained

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
        REMOVAL_FAILED: it is still there; the message names what stands in the way.
        ProvisioningError: as `translated` says.
    """
    location = location_of(job, projects)
    client, name = cognito(location.region), naming.names(location.project_id).user_pool
    claim = naming.owner(location.project_id, location.job_id).claim(only_this_job=only_this_job)
    return StageOutcome(
        check=explained(
            job,
            lambda: remove_user_pool(client, name=name, claim=claim),
            lambda: look_at_pools(client, name=name, claim=claim),
            is_cleanup=only_this_job,
        )
    )
