"""The job types of this deployment."""

from enum import StrEnum


class JobType(StrEnum):
    """What a job does."""

    #: Gives a project its database, auth, realtime, storage and API keys.
    PROVISION_PROJECT = "provision_project"
    #: Removes all of that, after a final snapshot of the database.
    DEPROVISION_PROJECT = "deprovision_project"
    #: Gives a project new API keys; its old ones verify until an overlap ends.
    ROTATE_API_KEYS = "rotate_api_keys"
    #: Lets one API key stop verifying at once.
    REVOKE_API_KEY = "revoke_api_key"
    #: Gives a project's database login a new password.
    ROTATE_DATABASE_PASSWORD = "rotate_database_password"  # noqa: S105  # a name  # nosec B105
