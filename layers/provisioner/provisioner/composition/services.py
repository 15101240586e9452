"""The services function's parts: Cognito, AppSync and S3."""

from __future__ import annotations

from functools import partial

from provisioner.jobs.stage_run import JobStages, StageRunner
from provisioner.jobs.store import JobStore
from provisioner.provisioning.job_type import JobType
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.plan import OWN_ERRORS, CleanupStage, Stage
from provisioner.provisioning.stages.register_auth import ensure_auth
from provisioner.provisioning.stages.register_realtime import ensure_realtime
from provisioner.provisioning.stages.register_storage import ensure_storage
from provisioner.provisioning.stages.remove_auth import remove_auth
from provisioner.provisioning.stages.remove_realtime import remove_realtime
from provisioner.provisioning.stages.remove_storage import remove_storage
from provisioner.runtime import aws
from provisioner.runtime.settings import ServicesSettings


def stages(settings: ServicesSettings) -> JobStages:
    """Bind the stages to their clients; those of other regions are made when a job names them."""
    for service in ("cognito-idp", "appsync", "s3"):
        aws.client(service, aws.session().region_name)
    naming = Naming(settings.resource_prefix, settings.resource_namespace)
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
                remove_storage, s3=partial(aws.client, "s3"), naming=naming, only_this_job=True
            ),
            CleanupStage.REMOVING_REALTIME: partial(
                remove_realtime,
                appsync=partial(aws.client, "appsync"),
                naming=naming,
                only_this_job=True,
            ),
            CleanupStage.REMOVING_AUTH: partial(
                remove_auth,
                cognito=partial(aws.client, "cognito-idp"),
                naming=naming,
                only_this_job=True,
            ),
        }
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
