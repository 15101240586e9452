"""The error types: what each means and whether waiting can help, in one table.

The class that carries a type is named like it, because AWS Lambda reports the class name of an
exception as its error name: what the Step Functions console, the retriers of the state machine
and the stored job show is one vocabulary. Source: AWS Step Functions Developer Guide, "Handling
errors in Step Functions workflows".
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class ErrorType(StrEnum):
    """Why a job, or one attempt of a stage, failed."""

    #: No project of that id is in the projects table, or it is being removed.
    PROJECT_NOT_FOUND = "PROJECT_NOT_FOUND"
    #: The payload breaks the contract, or asks for what is not supported.
    INVALID_PAYLOAD = "INVALID_PAYLOAD"
    #: The deployment has no state machine of the job type.
    JOB_TYPE_NOT_DEPLOYED = "JOB_TYPE_NOT_DEPLOYED"
    #: Another job holds the project, or the platform's login that is to be changed.
    PROJECT_BUSY = "PROJECT_BUSY"
    #: A resource of the name we need exists and does not carry our ownership marker.
    CONFLICT = "CONFLICT"
    #: The database server refused a statement for a reason that stays.
    DATABASE_CREATION_FAILED = "DATABASE_CREATION_FAILED"
    #: The database server refused a statement of the schema for a reason that stays.
    SCHEMA_CREATION_FAILED = "SCHEMA_CREATION_FAILED"
    #: Cognito, AppSync or S3 refused a request for a reason that stays.
    SERVICE_REGISTRATION_FAILED = "SERVICE_REGISTRATION_FAILED"
    #: The API keys could not be made, stored or found again, for a reason that stays.
    API_KEY_GENERATION_FAILED = "API_KEY_GENERATION_FAILED"
    #: A resource cannot be removed, for a reason that stays.
    REMOVAL_FAILED = "REMOVAL_FAILED"
    #: The project is protected against being deprovisioned.
    PROJECT_PROTECTED = "PROJECT_PROTECTED"
    #: The project's bucket holds data that the payload does not ask to be deleted.
    DATA_NOT_EMPTY = "DATA_NOT_EMPTY"
    #: The final snapshot of the database could not be taken, for a reason that stays.
    SNAPSHOT_FAILED = "SNAPSHOT_FAILED"
    #: A tenant database, or the login to it, could not be changed, for a reason that stays.
    DATABASE_CHANGE_FAILED = "DATABASE_CHANGE_FAILED"
    #: A role, policy, login or grant does not allow what a stage does.
    INSUFFICIENT_PERMISSIONS = "INSUFFICIENT_PERMISSIONS"
    #: A limit is reached: of projects, of tenants on the clusters, of an AWS account, of a disk.
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    #: A server could not be reached, or would not serve now (starting, throttling, no free slot).
    NETWORK_ERROR = "NETWORK_ERROR"
    #: Something did not end, or did not become free, in the time that it had.
    TIMEOUT = "TIMEOUT"
    #: Someone asked for the job to be cancelled.
    JOB_CANCELLED = "JOB_CANCELLED"
    #: The cause is in no table, or the process died before it could say one.
    UNKNOWN_ERROR = "UNKNOWN_ERROR"


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """What holds for one error type."""

    #: Whether the same attempt, made later, can succeed without anyone acting.
    retryable: bool
    #: What the person who sees the error does about it.
    remedy: str


#: The one place that says which errors are retried. The state machine's Retry fields are checked
#: against it by the tests.
ERROR_RULES: dict[ErrorType, ErrorRule] = {
    ErrorType.PROJECT_NOT_FOUND: ErrorRule(
        retryable=False, remedy="Create the project, or correct project_id."
    ),
    ErrorType.INVALID_PAYLOAD: ErrorRule(
        retryable=False, remedy="Correct the field that the message names and send a new job."
    ),
    ErrorType.JOB_TYPE_NOT_DEPLOYED: ErrorRule(
        retryable=False, remedy="Deploy the job type; then run the job again."
    ),
    ErrorType.PROJECT_BUSY: ErrorRule(
        retryable=False, remedy="Wait for the job that the message names, then send a new job."
    ),
    ErrorType.CONFLICT: ErrorRule(
        retryable=False, remedy="Remove or rename the resource that the message names."
    ),
    ErrorType.DATABASE_CREATION_FAILED: ErrorRule(
        retryable=False, remedy="Read the technical cause; the cluster or the code needs a change."
    ),
    ErrorType.SCHEMA_CREATION_FAILED: ErrorRule(
        retryable=False, remedy="Read the technical cause; the database or the code needs a change."
    ),
    ErrorType.SERVICE_REGISTRATION_FAILED: ErrorRule(
        retryable=False, remedy="Read the technical cause; the request or the code needs a change."
    ),
    ErrorType.API_KEY_GENERATION_FAILED: ErrorRule(
        retryable=False, remedy="Read the technical cause; the secret or the table needs a look."
    ),
    ErrorType.REMOVAL_FAILED: ErrorRule(
        retryable=False,
        remedy="Do what the message names, or read the technical cause; then run the job again.",
    ),
    ErrorType.PROJECT_PROTECTED: ErrorRule(
        retryable=False, remedy="Run `provision project protect PROJECT --off`, then a new job."
    ),
    ErrorType.DATA_NOT_EMPTY: ErrorRule(
        retryable=False, remedy="Empty the bucket, or send a new job with delete_data."
    ),
    ErrorType.SNAPSHOT_FAILED: ErrorRule(
        retryable=False,
        remedy="Do what the message says; or dump it yourself and do without final_snapshot.",
    ),
    ErrorType.DATABASE_CHANGE_FAILED: ErrorRule(
        retryable=False, remedy="Read the technical cause; the login or its secret needs a look."
    ),
    ErrorType.INSUFFICIENT_PERMISSIONS: ErrorRule(
        retryable=False,
        remedy="Grant the permission that the message or the technical cause names.",
    ),
    ErrorType.QUOTA_EXCEEDED: ErrorRule(
        retryable=False, remedy="Raise the limit that the message names, or free some of it."
    ),
    ErrorType.NETWORK_ERROR: ErrorRule(
        retryable=True, remedy="Retried; if it persists, look at the server and the network to it."
    ),
    ErrorType.TIMEOUT: ErrorRule(
        retryable=True, remedy="Retried; if it persists, look at what the stage was waiting for."
    ),
    ErrorType.JOB_CANCELLED: ErrorRule(
        retryable=False, remedy="Nothing; `provision retry` runs the job again."
    ),
    ErrorType.UNKNOWN_ERROR: ErrorRule(
        retryable=True, remedy="Retried; if it persists, read the technical cause and the logs."
    ),
}

#: The types that a state machine retries, in the order of the table.
RETRYABLE: tuple[ErrorType, ...] = tuple(t for t, rule in ERROR_RULES.items() if rule.retryable)


class ProvisioningError(Exception):
    """An error of a known type. `failure` makes one; its class is named like its type.

    Attributes:
        type: the error type.
        message: one sentence that is safe to show a customer: it holds no secret, no host, and of
            SQL only what the reader is to type.
        cause: what an operator needs to know (a code and a text), without secrets; may be empty.
    """

    type: ClassVar[ErrorType]

    def __init__(self, message: str, cause: str = "") -> None:
        """Keep the message as the exception's text, the cause apart from it."""
        super().__init__(message)
        self.message = message
        self.cause = cause


#: What a type is besides: in Python, a wrong argument is a ValueError.
_ALSO: dict[ErrorType, tuple[type[Exception], ...]] = {ErrorType.INVALID_PAYLOAD: (ValueError,)}

_CLASSES: dict[ErrorType, type[ProvisioningError]] = {
    error_type: type(
        error_type.value,
        (ProvisioningError, *_ALSO.get(error_type, ())),
        {"type": error_type, "__module__": __name__, "__doc__": rule.remedy},
    )
    for error_type, rule in ERROR_RULES.items()
}


#: The class name of an error of a retryable type that nobody is to repeat; no retrier names it.
FINAL_ERROR = "StageEnded"

_FINAL_CLASSES: dict[ErrorType, type[ProvisioningError]] = {
    error_type: type(FINAL_ERROR, (_CLASSES[error_type],), {"__module__": __name__})
    for error_type in RETRYABLE
}


def failure(error_type: ErrorType, message: str, cause: str = "") -> ProvisioningError:
    """Make the exception of that type, to be raised.

    Args:
        error_type: the row of the table that it belongs to.
        message: one sentence, safe to show a customer.
        cause: the technical cause for operators, without secrets.
    """
    return _CLASSES[error_type](message, cause)


def conflict(kind: str, name: str) -> ProvisioningError:
    """Make the error of a thing of our name that is not ours.

    Args:
        kind: what it is, such as `user pool`.
        name: its name.
    """
    article = "An" if kind[0] in "AEIO" else "A"
    return failure(
        ErrorType.CONFLICT,
        f"{article} {kind} named {name} exists and is not this project's; remove or rename it.",
    )


def final_failure(error_type: ErrorType, message: str, cause: str = "") -> ProvisioningError:
    """Make the exception of that type of what has ended for good: whatever its type, it is final.

    Its class is a subclass of the type's, named `StageEnded` where the type is a retryable one.
    """
    return _FINAL_CLASSES.get(error_type, _CLASSES[error_type])(message, cause)


def is_retried(error: ProvisioningError) -> bool:
    """Whether the same attempt, made later, can succeed: its type says so, and it is not final."""
    return ERROR_RULES[error.type].retryable and type(error).__name__ != FINAL_ERROR
