"""The events function's parts."""

from __future__ import annotations

from provisioner.jobs.events import EventPublisher
from provisioner.jobs.store import JobStore
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
        JobStore(
            aws.client("dynamodb"),
            settings.jobs_table,
            retention_days=settings.job_retention_days,
        ),
        aws.client("events"),
        settings.event_bus_name,
        completions=COMPLETIONS,
    )
