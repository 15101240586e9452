"""The Cognito user pool and its app client: REGISTERING_AUTH, REPAIRING_AUTH, REMOVING_AUTH."""

from collections.abc import Callable

from provisioner.aws_types import CognitoIdentityProviderClient
from provisioner.drivers import cognito as driver
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.provisioning.first_run import IS_ONLY, keep_one, known_id, may_exist
from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.removal import remove_or_explain
from provisioner.provisioning.stages.find_project import locate, read_project, service_of
from provisioner.provisioning.stages.repair import report, skip


def ensure_auth(
    job: JobInput, *, cognito: Callable[[str], CognitoIdentityProviderClient], naming: Naming
) -> StageOutcome:
    """Make the user pool, unless the payload does without.

    Raises:
        CONFLICT: a pool of that name is not the project's.
        SERVICE_REGISTRATION_FAILED, and what `translate_errors` raises.
    """
    payload = job.payload_as(ProvisionProjectPayload)
    if not payload.services.auth:
        return StageOutcome(skipped=True, check="the payload does without auth")
    client, names = cognito(payload.region), naming.names(payload.project_id)
    owner = naming.owner(payload.project_id, job.job_id)
    pool = driver.ensure_user_pool(
        client,
        name=names.user_pool,
        client_name=names.user_pool_client,
        owner=owner,
        may_exist=may_exist(job),
        made=keep_one(job, "tenant_id"),
        made_client=keep_one(job, "client_id"),
    )
    check = driver.check_user_pool(client, pool, owner)
    return StageOutcome(
        output={
            "enabled": True,
            "tenant_id": pool.pool_id,
            "client_id": pool.client_id,
            "endpoint": pool.endpoint,
            IS_ONLY: pool.is_only,
        },
        check=check,
    )


def ensure_auth_repaired(
    job: JobInput,
    *,
    cognito: Callable[[str], CognitoIdentityProviderClient],
    projects: ProjectReader,
    naming: Naming,
) -> StageOutcome:
    """Put right what has drifted of the user pool, unless the project does without.

    Raises:
        PROJECT_NOT_FOUND: the project is gone.
        CONFLICT: the pool is not the project's.
        SERVICE_REGISTRATION_FAILED: the pool is not there; and what `translate_errors` raises.
    """
    project = read_project(job, projects)
    auth = service_of(project, "auth")
    if auth is None:
        return skip("auth")
    pool, repairs = driver.repair_user_pool(
        cognito(str(project.region)),
        pool_id=auth["tenant_id"],
        client_id=auth["client_id"],
        client_name=naming.names(project.project_id).user_pool_client,
        owner=naming.owner(project.project_id, job.job_id),
    )
    is_new = pool.client_id != auth["client_id"]
    return report(repairs, {"services": {"auth": {"client_id": pool.client_id}}} if is_new else {})


def remove_auth(
    job: JobInput,
    *,
    cognito: Callable[[str], CognitoIdentityProviderClient],
    projects: ProjectReader,
    naming: Naming,
    only_this_job: bool,
) -> StageOutcome:
    """Remove the user pool; one that is not there is as good as removed.

    Raises:
        REMOVAL_FAILED: it is still there; the message names what stands in the way.
        ProvisioningError: as `translate_errors` says.
    """
    location = locate(job, projects, naming)
    client, name = cognito(location.region), location.names.user_pool
    claim = location.owner.claim(only_this_job=only_this_job)
    known = known_id(job, "auth")
    return StageOutcome(
        check=remove_or_explain(
            job,
            lambda: driver.remove_user_pool(client, name=name, claim=claim, known=known),
            lambda: driver.look_at_pools(client, name=name, claim=claim, known=known),
            is_cleanup=only_this_job,
        )
    )
