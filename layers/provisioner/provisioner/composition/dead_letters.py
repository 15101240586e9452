"""The dead_letters function's parts."""

from provisioner.composition.job_handlers import register_job_types
from provisioner.composition.job_store import job_store
from provisioner.jobs.dispatch import UndeliveredReceiver
from provisioner.jobs.messages import DeadLetterQueue
from provisioner.jobs.registry import REGISTRY
from provisioner.runtime import aws
from provisioner.runtime.settings import DeadLettersSettings


def build() -> UndeliveredReceiver:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = DeadLettersSettings.from_environment()
    register_job_types()
    return UndeliveredReceiver(
        registry=REGISTRY,
        store=job_store(settings),
        dead_letters=DeadLetterQueue(aws.client("sqs"), settings.dead_letter_queue_url),
    )
