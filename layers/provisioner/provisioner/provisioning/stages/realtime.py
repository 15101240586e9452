"""The AppSync Event API: REGISTERING_REALTIME, REPAIRING_REALTIME, REMOVING_REALTIME."""

from collections.abc import Callable

from provisioner.aws_types import AppSyncClient, S3Client
from provisioner.drivers import appsync as driver
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.provisioning.first_run import IS_ONLY, keep_one, known_id, may_exist
from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.stages.check_services import ensure_no_data_is_lost
from provisioner.provisioning.stages.find_project import locate, read_project, service_of
from provisioner.provisioning.stages.repair import report, skip


def ensure_realtime(
    job: JobInput, *, appsync: Callable[[str], AppSyncClient], naming: Naming
) -> StageOutcome:
    """Make the Event API, unless the payload does without.

    Raises:
        CONFLICT: an API of that name is not the project's.
        SERVICE_REGISTRATION_FAILED, and what `translate_errors` raises.
    """
    payload = job.payload_as(ProvisionProjectPayload)
    if not payload.services.realtime:
        return StageOutcome(skipped=True, check="the payload does without realtime")
    client, names = appsync(payload.region), naming.names(payload.project_id)
    name, owner = names.event_api, naming.owner(payload.project_id, job.job_id)
    api = driver.ensure_event_api(
        client,
        name=name,
        namespace=names.channel_namespace,
        owner=owner,
        may_exist=may_exist(job),
        made=keep_one(job, "tenant_id"),
    )
    check = driver.check_event_api(client, api, names.channel_namespace, owner)
    return StageOutcome(
        output={
            "enabled": True,
            "tenant_id": api.api_id,
            "endpoint": api.http_endpoint,
            "realtime_endpoint": api.realtime_endpoint,
            IS_ONLY: api.is_only,
        },
        check=check,
    )


def ensure_realtime_repaired(
    job: JobInput,
    *,
    appsync: Callable[[str], AppSyncClient],
    projects: ProjectReader,
    naming: Naming,
) -> StageOutcome:
    """Put right what has drifted of the Event API, unless the project does without.

    Raises:
        PROJECT_NOT_FOUND: the project is gone.
        CONFLICT: the API is not the project's.
        SERVICE_REGISTRATION_FAILED: the API is not there; and what `translate_errors` raises.
    """
    project = read_project(job, projects)
    realtime = service_of(project, "realtime")
    if realtime is None:
        return skip("realtime")
    return report(
        driver.repair_event_api(
            appsync(str(project.region)),
            api_id=realtime["tenant_id"],
            namespace=naming.names(project.project_id).channel_namespace,
            owner=naming.owner(project.project_id, job.job_id),
        )
    )


def remove_realtime(
    job: JobInput,
    *,
    appsync: Callable[[str], AppSyncClient],
    projects: ProjectReader,
    naming: Naming,
    only_this_job: bool,
) -> StageOutcome:
    """Remove the Event API; one that is not there is as good as removed.

    Raises:
        REMOVAL_FAILED: it is still there; and what `translate_errors` raises.
    """
    location = locate(job, projects, naming)
    return StageOutcome(
        check=driver.remove_event_api(
            appsync(location.region),
            name=location.names.event_api,
            claim=location.owner.claim(only_this_job=only_this_job),
            known=known_id(job, "realtime"),
        )
    )


def remove_realtime_before_storage(
    job: JobInput,
    *,
    appsync: Callable[[str], AppSyncClient],
    s3: Callable[[str], S3Client],
    projects: ProjectReader,
    naming: Naming,
) -> StageOutcome:
    """Remove the project's Event API, unless the bucket holds data that is to stay.

    This is the first removal. The snapshot may have taken minutes since CHECKING_DATA; an object
    that came meanwhile still ends the job before anything is removed.

    Raises:
        DATA_NOT_EMPTY: the bucket holds objects, and the payload does not ask for them to go.
        REMOVAL_FAILED: it is still there; and what `translate_errors` raises.
    """
    ensure_no_data_is_lost(job, s3=s3, projects=projects, naming=naming)
    return remove_realtime(
        job, appsync=appsync, projects=projects, naming=naming, only_this_job=False
    )
