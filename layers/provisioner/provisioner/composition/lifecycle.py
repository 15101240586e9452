"""The lifecycle function's parts: INITIALIZING, FINALIZING, and the step that records a failure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from provisioner.composition.failure import CHANGES, failure_policies
from provisioner.jobs.failure import CleanupRecorder, FailureRecorder
from provisioner.jobs.plan import AWAIT_QUIET, RECORD_CLEANUP, RECORD_FAILURE
from provisioner.jobs.quiet import QuietEnds, QuietStep
from provisioner.jobs.stage_run import JobStages, StageRunner, Step
from provisioner.jobs.store import JobStore, utc_now
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.job_type import JobType
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.plan import (
    OWN_ERRORS,
    PLANS,
    RUN_LIMITS,
    DeprovisionStage,
    RevokeApiKeyStage,
    Stage,
)
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.stages.begin_removal import ensure_removal_begun
from provisioner.provisioning.stages.conclude import ensure_concluded
from provisioner.provisioning.stages.end_removal import ensure_deprovisioned
from provisioner.provisioning.stages.finalize import ensure_active
from provisioner.provisioning.stages.find_project import ensure_found
from provisioner.provisioning.stages.hold_project import ensure_held
from provisioner.provisioning.stages.initialize import ensure_initialized
from provisioner.provisioning.stages.let_go_of_project import ensure_let_go
from provisioner.runtime import aws
from provisioner.runtime.settings import LifecycleSettings


def stages(settings: LifecycleSettings, jobs: JobStore) -> JobStages:
    """Bind the stages to their clients."""
    projects = _projects(settings)
    return {
        JobType.PROVISION_PROJECT: {
            Stage.INITIALIZING: partial(
                ensure_initialized,
                jobs=jobs,
                projects=projects,
                catalogue=ClusterCatalogue(aws.client("ssm"), settings.cluster_parameter_prefix),
                default_project_quota=settings.default_project_quota,
            ),
            Stage.FINALIZING: partial(ensure_active, jobs=jobs, projects=projects),
        },
        JobType.DEPROVISION_PROJECT: {
            DeprovisionStage.INITIALIZING: partial(
                ensure_removal_begun, projects=projects, clock=utc_now
            ),
            DeprovisionStage.FINALIZING: partial(
                ensure_deprovisioned,
                jobs=jobs,
                projects=projects,
                naming=Naming(settings.resource_prefix, settings.resource_namespace),
            ),
        },
        **{
            job_type: {
                PLANS[job_type].first: partial(ensure_held, projects=projects),
                PLANS[job_type].last: partial(ensure_let_go, jobs=jobs, projects=projects),
            }
            for job_type in CHANGES
        },
        JobType.REVOKE_API_KEY: {
            RevokeApiKeyStage.INITIALIZING: partial(ensure_found, projects=projects),
            RevokeApiKeyStage.FINALIZING: partial(ensure_concluded, jobs=jobs),
        },
    }


def steps(settings: LifecycleSettings, jobs: JobStore) -> dict[str, Step]:
    """Bind the steps that are no stages: they look at, or record, how what there was has ended."""
    policies = failure_policies(settings)
    return {
        RECORD_FAILURE: FailureRecorder(jobs, policies),
        AWAIT_QUIET: QuietStep(jobs, RUN_LIMITS),
        RECORD_CLEANUP: CleanupRecorder(jobs, policies),
    }


def quiet_ends(settings: LifecycleSettings, jobs: JobStore) -> QuietEnds:
    """Bind what keeps a job from ending while one of its stages may still be at work."""
    last_stages = {job_type: plan.last for job_type, plan in PLANS.items()}
    return QuietEnds(jobs, failure_policies(settings), last_stages, RUN_LIMITS)


def build() -> Step:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = LifecycleSettings.from_environment()
    jobs = JobStore(
        aws.client("dynamodb"), settings.jobs_table, retention_days=settings.job_retention_days
    )
    run_stage = StageRunner(jobs, stages(settings, jobs), own_errors=OWN_ERRORS)
    record = steps(settings, jobs)
    refuse_at_work = quiet_ends(settings, jobs)

    def run(event: Mapping[str, Any]) -> dict[str, Any]:
        refuse_at_work(event)
        return record.get(event["stage"], run_stage)(event)

    return run


def _projects(settings: LifecycleSettings) -> ProjectStore:
    return ProjectStore(aws.client("dynamodb"), settings.projects_table, settings.quotas_table)
