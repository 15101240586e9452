"""The services function's parts: Cognito, AppSync and S3."""

from __future__ import annotations

from functools import partial

from provisioner.jobs.stage_run import JobStages, StageRunner
from provisioner.jobs.store import JobStore
from provisioner.provisioning.job_type import JobType
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.plan import OWN_ERRORS, CleanupStage, DeprovisionStage, Stage
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.stages.check_services import ensure_services_are_looked_at
from provisioner.provisioning.stages.register_auth import ensure_auth
from provisioner.provisioning.stages.register_realtime import ensure_realtime
from provisioner.provisioning.stages.register_storage import ensure_storage
from provisioner.provisioning.stages.remove_auth import remove_auth
from provisioner.provisioning.stages.remove_realtime import (
    remove_realtime,
    remove_realtime_before_storage,
)
from provisioner.provisioning.stages.remove_storage import remove_storage, remove_storage_with_data
from provisioner.runtime import aws
from provisioner.runtime.settings import ServicesSettings

#: Seconds in which objects are deleted, of the 120 that the function has.
_EMPTYING_SECONDS = 90.0


def stages(settings: ServicesSettings) -> JobStages:
    """Bind the stages to their clients; those of other regions are made when a job names them."""
    for service in ("cognito-idp", "appsync", "s3"):
        aws.client(service, aws.session().region_name)
    naming = Naming(settings.resource_prefix, settings.resource_namespace)
    projects = ProjectReader(aws.client("dynamodb"), settings.projects_table)
    return {
        JobType.PROVISION_PROJECT: {
            Stage.REGISTERING_AUTH: partial(
                ensure_auth, cognito=partial(aws.client, "cognito-idp"), naming=naming
            ),
            Stage.REGISTERING_REALTIME: partial(
                ensure_realtime, appsync=partial(aws.client, "appsync"), naming=naming
            ),
            Stage.REGISTERING_STORAGE: partial(
                ensure_storage, s3=partial(aws.client, "s3"), naming=naming
            ),
            CleanupStage.REMOVING_STORAGE: partial(
                remove_storage,
                s3=partial(aws.client, "s3"),
                projects=projects,
                naming=naming,
                only_this_job=True,
            ),
            CleanupStage.REMOVING_REALTIME: partial(
                remove_realtime,
                appsync=partial(aws.client, "appsync"),
                projects=projects,
                naming=naming,
                only_this_job=True,
            ),
            CleanupStage.REMOVING_AUTH: partial(
                remove_auth,
                cognito=partial(aws.client, "cognito-idp"),
                projects=projects,
                naming=naming,
                only_this_job=True,
            ),
        },
        JobType.DEPROVISION_PROJECT: {
            DeprovisionStage.CHECKING_SERVICES: partial(
                ensure_services_are_looked_at,
                s3=partial(aws.client, "s3"),
                cognito=partial(aws.client, "cognito-idp"),
                projects=projects,
                naming=naming,
            ),
            DeprovisionStage.REMOVING_REALTIME: partial(
                remove_realtime_before_storage,
                appsync=partial(aws.client, "appsync"),
                s3=partial(aws.client, "s3"),
                projects=projects,
                naming=naming,
            ),
            DeprovisionStage.REMOVING_AUTH: partial(
                remove_auth,
                cognito=partial(aws.client, "cognito-idp"),
                projects=projects,
                naming=naming,
                only_this_job=False,
            ),
            DeprovisionStage.REMOVING_STORAGE: partial(
                remove_storage_with_data,
                s3=partial(aws.client, "s3"),
                projects=projects,
                naming=naming,
                seconds=_EMPTYING_SECONDS,
            ),
        },
    }


def build() -> StageRunner:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = ServicesSettings.from_environment()
    jobs = JobStore(
        aws.client("dynamodb"), settings.jobs_table, retention_days=settings.job_retention_days
    )
    return StageRunner(jobs, stages(settings), own_errors=OWN_ERRORS)
