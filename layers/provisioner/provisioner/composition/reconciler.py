"""The reconciler's parts."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from provisioner.composition.deployment import project_store
from provisioner.composition.job_store import job_store
from provisioner.composition.stage_code import ContextStep, failure_policies
from provisioner.jobs.execution import Executions
from provisioner.jobs.messages import JobQueue
from provisioner.jobs.reconciler import Reconciler
from provisioner.jobs.sweep import LOOKS_AT_ONCE, LOOKS_PER_SECOND, Pace, Sweep
from provisioner.runtime import aws
from provisioner.runtime.settings import ReconcilerSettings

#: Seconds of the function's time in which a sweep begins no job any more: for those that have
#: begun, with every call of theirs repeated, and for storing how far the sweep has come.
_RESERVE_SECONDS = 60.0


def reconciler(settings: ReconcilerSettings) -> Reconciler:
    """Bind the reconciler to a deployment."""
    return Reconciler(
        store=job_store(settings),
        queue=JobQueue(aws.client("sqs"), settings.queue_url),
        executions=Executions(aws.client("stepfunctions"), settings.state_machine_arn_prefix),
        policies=failure_policies(settings),
        release_abandoned=project_store(settings).release_abandoned,
        queued_limit=timedelta(minutes=settings.queued_minutes),
    )


def build() -> ContextStep:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = ReconcilerSettings.from_environment()
    reconcile = reconciler(settings)
    sweep = Sweep(
        reconciler=reconcile,
        holders=project_store(settings).lock_holders,
        pace=Pace(LOOKS_PER_SECOND, LOOKS_AT_ONCE),
    )

    def run(event: Mapping[str, Any], context: LambdaContext) -> dict[str, Any]:
        if event.get("detail-type") == "Scheduled Event":
            return sweep(lambda: context.get_remaining_time_in_millis() / 1000 - _RESERVE_SECONDS)
        return reconcile(event)

    return run
