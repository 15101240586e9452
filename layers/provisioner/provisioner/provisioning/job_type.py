"""The job types of this deployment."""

from enum import StrEnum


class JobType(StrEnum):
    """What a job does."""

    #: Gives a project its database, auth, realtime, storage and API keys.
    PROVISION_PROJECT = "provision_project"
    #: Removes all of that, after a final snapshot of the database.
    DEPROVISION_PROJECT = "deprovision_project"
