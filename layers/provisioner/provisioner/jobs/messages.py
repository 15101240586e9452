"""What the job of a message is, and how it ends where the message can never work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.models import Job, StoredError
from provisioner.jobs.queue import JobMessage
from provisioner.jobs.records import NewJob, payload_digest
from provisioner.jobs.registry import JobRegistry, UnknownJobTypeError, first_problem
from provisioner.jobs.store import JobStore
from provisioner.jobs.wrapped import what_wraps


def parse_message(body: str) -> JobMessage:
    """Read the body of a message.

    Raises:
        INVALID_PAYLOAD: it is none.
    """
    try:
        return JobMessage.model_validate_json(body)
    except ValidationError as error:
        wrapped = what_wraps(body)
        problem = first_problem(error, "message")
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"message: {wrapped}."
            if wrapped is not None
            else f"{problem}; send a JSON object with job_type and payload.",
        ) from None


def job_id_of(body: str, message_id: str) -> str:
    """Return the id of a message's job: its own where it names none, or cannot be read."""
    try:
        return parse_message(body).job_id or message_id
    except ProvisioningError:
        return message_id


def new_job(registry: JobRegistry, message: JobMessage, job_id: str) -> NewJob:
    """Make a job of a message.

    Raises:
        INVALID_PAYLOAD: it can never work.
    """
    try:
        handler = registry.get(message.job_type)
    except UnknownJobTypeError as error:
        raise failure(ErrorType.INVALID_PAYLOAD, str(error)) from None
    payload = handler.parse(message.payload).model_dump(mode="json")
    return NewJob(job_id, message.job_type, payload, handler.stages)


def is_same_job(job: Job, job_type: str, *payloads: Mapping[str, Any]) -> bool:
    """Whether a job that is stored is of this type and has one of these payloads."""
    return job.job_type == job_type and any(_has(job, payload) for payload in payloads)


def get_or_create(store: JobStore, new: NewJob, message: JobMessage) -> Job:
    """Store the job of a message, unless it is; return it as it is stored.

    Raises:
        INVALID_PAYLOAD: another job has its id, or it is of a later attempt of no job.
    """
    # Whoever names a job has most often stored it; the id of a message is new, but for a second
    # delivery.
    job = None if message.job_id is None else store.get_head(new.job_id)
    if message.attempt > 1 and job is None:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"attempt: there is no such job to begin attempt {message.attempt} of; leave attempt "
            "out of the message.",
        )
    job = job or store.create(new)
    if not is_same_job(job, new.job_type, new.payload) or message.attempt > job.attempt:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            "job_id: another job has this id; leave job_id out of the message.",
        )
    return job


def end_refused(
    store: JobStore, message: JobMessage, job_id: str, error: ProvisioningError
) -> None:
    """Write the job FAILED of a message that can never work; one that is not its own stays."""
    existing = store.get_head(job_id)
    if existing is None:
        new = NewJob(job_id, message.job_type, _kept_of(message), ())
        store.create_failed(new, stored_error(error))
    elif is_of_refused(existing, message) and existing.attempt == message.attempt:
        store.fail_queued(existing, stored_error(error))


def stored_error(error: ProvisioningError) -> StoredError:
    """Return an error of no stage as the job keeps it."""
    return StoredError(error.type, "", 0, error.message, error.cause)


def is_of_refused(job: Job, message: JobMessage) -> bool:
    """Whether a job that is stored is that of a message which is refused.

    Its payload is the message's, or what is kept of it when it is refused.
    """
    return is_same_job(job, message.job_type, message.payload, _kept_of(message))


def _has(job: Job, payload: Mapping[str, Any]) -> bool:
    # What came by the queue may hold what JSON cannot, such as NaN.
    try:
        return job.payload_digest == payload_digest(payload)
    except ValueError:
        return False


def names_another(registry: JobRegistry, job: Job, body: str) -> bool:
    """Whether a message names the id of this job, which is stored, and the job is not its own."""
    try:
        message = parse_message(body)
    except ProvisioningError:
        return False
    if message.job_id is None or is_of_refused(job, message):
        return False
    try:
        # As a person writes a payload, what its model adds is not in it.
        new = new_job(registry, message, job.job_id)
        return not is_same_job(job, new.job_type, new.payload) or message.attempt > job.attempt
    except ProvisioningError:
        return True


def _kept_of(message: JobMessage) -> dict[str, Any]:
    """Return what is kept of the payload of a message that is refused."""
    project_id = message.payload.get("project_id")
    return {"project_id": project_id} if _is_short_text(project_id) else {}


def _is_short_text(value: object) -> bool:
    # A project id's length. A terminal that lists jobs obeys what cannot be printed.
    return isinstance(value, str) and 0 < len(value) <= 64 and value.isprintable()  # noqa: PLR2004
