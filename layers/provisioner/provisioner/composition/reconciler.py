"""The reconciler's parts."""

from datetime import timedelta

from provisioner.composition.deployment import project_store
from provisioner.composition.job_store import job_store
from provisioner.composition.stage_code import failure_policies
from provisioner.jobs.execution import Executions
from provisioner.jobs.messages import JobQueue
from provisioner.jobs.reconciler import Reconciler
from provisioner.runtime import aws
from provisioner.runtime.settings import ReconcilerSettings


def reconciler(settings: ReconcilerSettings) -> Reconciler:
    """Bind the reconciler to a deployment."""
    projects = project_store(settings)
    return Reconciler(
        store=job_store(settings),
        queue=JobQueue(aws.client("sqs"), settings.queue_url),
        executions=Executions(aws.client("stepfunctions"), settings.state_machine_arn_prefix),
        policies=failure_policies(settings),
        holders=projects.lock_holders,
        release_abandoned=projects.release_abandoned,
        queued_limit=timedelta(minutes=settings.queued_minutes),
    )


def build() -> Reconciler:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    return reconciler(ReconcilerSettings.from_environment())
