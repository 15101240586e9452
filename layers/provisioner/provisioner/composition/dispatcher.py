"""The dispatcher's parts."""

from provisioner.composition.job_handlers import register_job_types
from provisioner.composition.job_store import job_store
from provisioner.jobs.admission import AdmissionControl
from provisioner.jobs.dispatch import Dispatcher
from provisioner.jobs.execution import Executions
from provisioner.jobs.messages import DeadLetterQueue, JobQueue
from provisioner.jobs.registry import REGISTRY
from provisioner.runtime import aws
from provisioner.runtime.settings import DispatcherSettings


def build() -> Dispatcher:
    """Put the dispatcher together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
        UnknownJobTypeError: a required job type has no handler.
    """
    settings = DispatcherSettings.from_environment()
    register_job_types()
    REGISTRY.validate_required(settings.required_job_types.split(","))
    store = job_store(settings)
    return Dispatcher(
        registry=REGISTRY,
        store=store,
        dead_letters=DeadLetterQueue(aws.client("sqs"), settings.dead_letter_queue_url),
        executions=Executions(aws.client("stepfunctions"), settings.state_machine_arn_prefix),
        admission=AdmissionControl(store),
        queue=JobQueue(aws.client("sqs"), settings.queue_url),
    )
