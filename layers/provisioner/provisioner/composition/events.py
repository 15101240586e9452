"""The events function's parts."""

from provisioner.api_keys.hand_over import API_KEYS_EXPIRED, API_KEYS_EXPIRING
from provisioner.composition.job_store import job_store
from provisioner.jobs.events import EventPublisher
from provisioner.runtime import aws
from provisioner.runtime.settings import EventsSettings

#: The further event that a completed job of a type is published as.
COMPLETIONS = {"deprovision_project": "project.deprovisioned"}

#: The events that notices are published as.
NOTICES = {
    API_KEYS_EXPIRING: "project.api_keys_expiring",
    API_KEYS_EXPIRED: "project.api_keys_expired",
}


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
        notices=NOTICES,
    )
