"""The events function's parts."""

from __future__ import annotations

from provisioner.composition.job_store import job_store
from provisioner.jobs.events import EventPublisher
from provisioner.runtime import aws
from provisioner.runtime.settings import EventsSettings

#: What a completed job is told as besides, by its type.
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
