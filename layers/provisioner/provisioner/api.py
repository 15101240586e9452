"""The public Python API.

It talks to the deployment that `connect_to_stack` names, or, where that was not called, to the
one that the environment variables of `PlatformSettings` name. Credentials, region and endpoint are
those of the AWS SDK's environment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from provisioner import job_handlers
from provisioner.api_keys.store import ApiKey, ApiKeyStore
from provisioner.composition.cleanup import repeater
from provisioner.drivers.secrets import delete_secret, find_secret
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs import client
from provisioner.jobs.client import (
    IdempotencyConflictError,
    JobClient,
    JobStateError,
    JobWaitTimeoutError,
)
from provisioner.jobs.models import (
    Cleanup,
    CleanupStatus,
    Job,
    JobStatus,
    StageRecord,
    StageStatus,
    StoredError,
)
from provisioner.jobs.queue import JobQueue
from provisioner.jobs.registry import (
    REGISTRY,
    DuplicateJobHandlerError,
    JobHandler,
    UnknownJobTypeError,
    get_job_handler,
    get_registered_job_types,
    has_job_handler,
    load_job_handlers,
    register_job_handler,
    validate_payload,
    validate_required_handlers,
)
from provisioner.jobs.store import JobNotFoundError, JobStore, utc_now
from provisioner.provisioning.job import JobType, provision_project_handler
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.payload import NewProject
from provisioner.provisioning.projects import (
    Project,
    ProjectExistsError,
    ProjectStatus,
    ProjectStore,
)
from provisioner.provisioning.result import ProvisionProjectResult
from provisioner.runtime import aws
from provisioner.runtime.platform import (
    PlatformSettings,
    connect,
    connect_to_stack,
    current_settings,
)
from provisioner.runtime.settings import SettingsError

__all__ = [
    "ApiKey",
    "ApiKeysNotClaimableError",
    "Cleanup",
    "CleanupStatus",
    "DuplicateJobHandlerError",
    "ErrorType",
    "IdempotencyConflictError",
    "Job",
    "JobHandler",
    "JobNotFoundError",
    "JobStateError",
    "JobStatus",
    "JobType",
    "JobWaitTimeoutError",
    "PlatformSettings",
    "Project",
    "ProjectExistsError",
    "ProjectNotFoundError",
    "ProjectStatus",
    "ProvisionProjectResult",
    "ProvisioningError",
    "SettingsError",
    "StageRecord",
    "StageStatus",
    "StoredError",
    "UnknownJobTypeError",
    "claim_api_keys",
    "connect",
    "connect_to_stack",
    "create_project",
    "current_settings",
    "enqueue_job",
    "get_job",
    "get_job_handler",
    "get_project",
    "get_registered_job_types",
    "has_job_handler",
    "list_jobs",
    "provision_project_handler",
    "register_job_handler",
    "repeat_cleanup",
    "validate_required_handlers",
    "verify_api_key",
    "wait_for_job",
]

load_job_handlers(job_handlers)


class ProjectNotFoundError(LookupError):
    """There is no project of that id."""


class ApiKeysNotClaimableError(RuntimeError):
    """The project's keys cannot be handed over: it is not ready, or they have been."""


def enqueue_job(
    job_type: str,
    payload: Mapping[str, Any],
    *,
    idempotency_key: str | None = None,
    delay_seconds: int = 0,
) -> Job:
    """Validate a payload, store its job as QUEUED and send its message.

    Args:
        job_type: a registered job type.
        payload: what the job type's payload model accepts.
        idempotency_key: the same key gives the same job, however often it is enqueued.
        delay_seconds: 0 to 900, how long the message is held back.

    Raises:
        UnknownJobTypeError: the job type has no handler.
        INVALID_PAYLOAD: the payload is wrong, or too large; nothing was stored or sent.
        IdempotencyConflictError: the key was used for another payload.
        ValueError: `delay_seconds` is out of bounds.
    """
    settings = current_settings()
    return JobClient(
        registry=REGISTRY,
        store=_jobs(settings),
        queue=JobQueue(aws.client("sqs"), settings.queue_url),
    ).enqueue(job_type, payload, idempotency_key=idempotency_key, delay_seconds=delay_seconds)


def repeat_cleanup(job_id: str) -> Job:
    """Run the clean-up of a job again that has left something; doing it twice is as good as once.

    Returns:
        the job, whose clean-up is RUNNING; `get_job` tells how it ends.

    Raises:
        JobNotFoundError: there is no such job.
        JobStateError: it has no clean-up, or one that has left nothing; or what was left has been
            taken up by another job.
    """
    return repeater(current_settings())(job_id)


def get_job(job_id: str) -> Job:
    """Read a job with its stages and history.

    Raises:
        JobNotFoundError: there is no such job.
    """
    return _jobs(current_settings()).get(job_id)


def list_jobs(project_id: str | None = None) -> list[Job]:
    """Read a project's jobs, or everyone's, newest first, without stages and history."""
    jobs = _jobs(current_settings())
    return jobs.list_all() if project_id is None else jobs.list_by_project(project_id)


def wait_for_job(job_id: str, timeout: float) -> Job:
    """Read a job until it has ended.

    Args:
        job_id: the job.
        timeout: seconds.

    Raises:
        JobNotFoundError: there is no such job.
        JobWaitTimeoutError: it has not ended in that time.
    """
    return client.wait_for_job(_jobs(current_settings()), job_id, timeout)


def create_project(
    project_id: str, *, owner_id: str | None = None, organization_id: str | None = None
) -> Project:
    """Store a new project, to be provisioned by a job.

    Raises:
        INVALID_PAYLOAD: an id is not of its pattern.
        ProjectExistsError: there is a project of that id.
    """
    new = validate_payload(
        NewProject,
        {"project_id": project_id, "owner_id": owner_id, "organization_id": organization_id},
    )
    return _projects(current_settings()).create(
        new.project_id,
        owner_id=new.owner_id,
        organization_id=new.organization_id,
        created_at=utc_now(),
    )


def get_project(project_id: str) -> Project:
    """Read a project.

    Raises:
        ProjectNotFoundError: there is none of that id.
    """
    project = _projects(current_settings()).get(project_id)
    if project is None:
        raise ProjectNotFoundError(f"project {project_id}: there is no such project; create it.")
    return project


def claim_api_keys(project_id: str, hand_over: Callable[[Sequence[str]], None]) -> None:
    """Hand over the plaintext of a project's API keys, then delete the secret that held it.

    Args:
        project_id: the project; it must be ACTIVE.
        hand_over: takes the keys; the secret is deleted only once it has returned.

    Raises:
        ProjectNotFoundError: there is no such project.
        ApiKeysNotClaimableError: the project is not ACTIVE, or its keys have been claimed.
    """
    settings = current_settings()
    project = get_project(project_id)
    if project.status is not ProjectStatus.ACTIVE:
        raise ApiKeysNotClaimableError(
            f"project {project_id}: is {project.status}; its keys can be claimed once it is ACTIVE."
        )
    naming = Naming(settings.resource_prefix, settings.resource_namespace)
    manager = aws.client("secretsmanager")
    secret = find_secret(
        manager,
        name=naming.names(project_id).api_keys_secret,
        owner=naming.owner(project_id, job_id=""),
        final=ErrorType.API_KEY_GENERATION_FAILED,
    )
    if secret is None:
        raise ApiKeysNotClaimableError(
            f"project {project_id}: its API keys have been claimed before; "
            "they are handed over only once."
        )
    hand_over([str(key) for key in secret.value["api_keys"]])
    delete_secret(manager, secret, final=ErrorType.API_KEY_GENERATION_FAILED)


def verify_api_key(plaintext: str) -> ApiKey | None:
    """Find the API key that a caller presents; None where it is not one of ours.

    The checksum is tried first, so that a made-up key costs no read.
    """
    settings = current_settings()
    return ApiKeyStore(aws.client("dynamodb"), settings.api_keys_table).verify(plaintext)


def _jobs(settings: PlatformSettings) -> JobStore:
    return JobStore(
        aws.client("dynamodb"), settings.jobs_table, retention_days=settings.job_retention_days
    )


def _projects(settings: PlatformSettings) -> ProjectStore:
    return ProjectStore(aws.client("dynamodb"), settings.projects_table, settings.quotas_table)
