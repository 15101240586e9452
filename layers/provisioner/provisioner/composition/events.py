"""The events function's parts."""

from provisioner.composition.job_store import job_store
from provisioner.jobs.events import EventPublisher
from provisioner.runtime import aws
from provisioner.runtime.settings import EventsSettings

#: The further event that a completed job of a type is published as.
COMPLETIONS = {"deprovision_project": "project.deprovisioned"}


def build() -> EventPublisher:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = EventsSettings.from_environment()
    return EventPublisher(
        job_store(settings),
        aws.client("events"),
        settings.event_bus_name,
        completions=COMPLETIONS,
    )
