"""Job types and their handlers: what the dispatcher and the client look up."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from provisioner.arguments import check_text, shown
from provisioner.errors import ErrorType, failure
from provisioner.jobs.definition import JOB_TYPE_PATTERN, no_group
from provisioner.jobs.models import Job

#: Objects and lists within each other in a field of a payload. Whoever reads the payload again, as
#: part of a message or an execution's input, stops at some 200, each parser at its own number.
_MAX_DEPTH = 32

#: Values of a payload: an execution's input has fewer bytes.
_MAX_VALUES = 262_144

#: What is said of a field that is too deep.
TOO_DEEP = f"must not be nested deeper than {_MAX_DEPTH} levels"


_NOT_JSON = "must be what JSON can hold: fields have text for a name, and no value is bytes"


class DuplicateJobHandlerError(ValueError):
    """The job type has a handler already; register each job type once."""


class UnknownJobTypeError(LookupError):
    """No handler is registered for the job type."""


def of_job_type[Value](values: Mapping[str, Value], job: Job) -> Value:
    """Return what is kept by job type, such as its failure policy, for a job.

    Raises:
        UnknownJobTypeError: the job's type is not defined in this version of the code.
    """
    try:
        return values[job.job_type]
    except KeyError:
        raise UnknownJobTypeError(
            f"job {job.job_id}: its job type {job.job_type} is not defined in this version, so "
            "that nobody can end it; deploy, or run, a version that defines it."
        ) from None


def first_problem(error: ValidationError, whole: str, *, may_be_secret: bool = False) -> str:
    """Name the first field that is wrong and say what is; no value is repeated.

    Args:
        error: what the model raised.
        whole: what to name where the problem is no field's.
        may_be_secret: say only the kind of the error, such as `missing`, by pydantic's word: a
            sentence, such as one of a validator, may repeat the value. Source: pydantic's
            documentation, "Validation Errors".
    """
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # An unknown field's name is the sender's own text.
    field = shown(".".join(map(str, problem["loc"]))) or whole
    if may_be_secret:
        return f"{field} ({problem['type']})"
    return f"{field}: {problem['msg'].removeprefix('Value error, ').rstrip('.')}"


def _values_of(value: object, depth: int = 0) -> Iterator[tuple[object, int]]:
    """Yield a value and all that is in it, each with its depth; of a list in itself, for ever."""
    yield value, depth
    if isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _values_of(inner, depth + 1)


def find_obstacle(value: object) -> str | None:
    """Say why a value cannot stand in a field of a payload; None where it can.

    A list may be in a value many times over, in each of which it is written; or in itself.
    """
    for count, (inner, depth) in enumerate(_values_of(value)):
        if depth == _MAX_DEPTH and isinstance(inner, Mapping | list | tuple):
            return TOO_DEEP
        names = inner if isinstance(inner, Mapping) else ()
        is_text = all(isinstance(name, str) for name in names)
        if not is_text or isinstance(inner, bytes | bytearray | memoryview) or count == _MAX_VALUES:
            return _NOT_JSON
    return None


def validate_payload[Payload: BaseModel](model: type[Payload], payload: object) -> Payload:
    """Validate a payload.

    Raises:
        INVALID_PAYLOAD: naming the first field that is wrong; it repeats no value.
    """
    if not isinstance(payload, Mapping):
        raise failure(ErrorType.INVALID_PAYLOAD, "payload: must be an object (dict).")
    for field, value in payload.items():
        obstacle = find_obstacle(value) if isinstance(field, str) else _NOT_JSON
        if obstacle is not None:
            name = shown(str(field)) or "payload"
            raise failure(ErrorType.INVALID_PAYLOAD, f"{name}: {obstacle}.")
    try:
        return model.model_validate(dict(payload))
    except ValidationError as error:
        raise failure(ErrorType.INVALID_PAYLOAD, f"{first_problem(error, 'payload')}.") from None


@dataclass(frozen=True, slots=True)
class JobHandler[Payload: BaseModel, Result]:
    """What one job type is: its payload, its stages, and how it runs in this process.

    The state machine of a job type is found by its name, so a handler names none.
    """

    #: Says what a valid payload is; the job's payload is stored as this model dumps it.
    payload_model: type[Payload]
    #: The names of the stages in order, as the job shows them.
    stages: tuple[str, ...]
    #: Runs the job to its end in this process and returns its result.
    run: Callable[[Payload], Result]
    #: Whose share of the queue a job takes: the MessageGroupId of its message (SQS fair queues).
    message_group: Callable[[Payload], str | None] = no_group

    def parse(self, payload: Mapping[str, Any]) -> Payload:
        """Validate a payload.

        Raises:
            INVALID_PAYLOAD: naming the first field that is wrong; it repeats no value.
        """
        return validate_payload(self.payload_model, payload)

    def message_group_of(self, payload: Mapping[str, Any]) -> str | None:
        """Return whose share of the queue a job with this payload takes, if it says.

        Raises:
            INVALID_PAYLOAD: as `parse` says.
        """
        return self.message_group(self.parse(payload))

    def __call__(self, payload: Payload | Mapping[str, Any]) -> Result:
        """Run the job in this process.

        Raises:
            ProvisioningError: the error that the job ended with.
        """
        if not isinstance(payload, self.payload_model):
            payload = validate_payload(self.payload_model, payload)
        return self.run(payload)


class JobRegistry:
    """The handlers of one process by job type."""

    def __init__(self) -> None:
        """Begin without handlers."""
        self._handlers: dict[str, JobHandler[Any, Any]] = {}

    def register(self, job_type: str, handler: JobHandler[Any, Any]) -> None:
        """Add a handler.

        Raises:
            INVALID_PAYLOAD: a message cannot name such a job type, or the handler cannot be called.
            DuplicateJobHandlerError: the job type has one.
        """
        job_type = check_text("job_type", job_type)
        if JOB_TYPE_PATTERN.fullmatch(job_type) is None:
            raise failure(
                ErrorType.INVALID_PAYLOAD,
                "job_type: must be 1 to 64 lower-case letters, digits and underscores; the first "
                "is a letter.",
            )
        if not isinstance(handler, JobHandler):
            raise failure(ErrorType.INVALID_PAYLOAD, "handler: must be a JobHandler.")
        if job_type in self._handlers:
            raise DuplicateJobHandlerError(
                f"{job_type}: has a handler already; register each job type once."
            )
        self._handlers[job_type] = handler

    def get(self, job_type: str) -> JobHandler[Any, Any]:
        """Return the handler of a job type.

        Raises:
            INVALID_PAYLOAD: the job type is no text.
            UnknownJobTypeError: it has none.
        """
        try:
            return self._handlers[check_text("job_type", job_type)]
        except KeyError:
            raise UnknownJobTypeError(
                f"job_type: no handler is registered for it; known are {', '.join(self.types())}."
            ) from None

    def has(self, job_type: str) -> bool:
        """Whether the job type has a handler."""
        return check_text("job_type", job_type) in self._handlers

    def types(self) -> tuple[str, ...]:
        """Return the registered job types in alphabetical order."""
        return tuple(sorted(self._handlers))

    def validate_required(self, job_types: Iterable[str]) -> None:
        """Make sure that each of these job types has a handler.

        Raises:
            UnknownJobTypeError: naming every one that has none.
        """
        if isinstance(job_types, str):
            raise failure(ErrorType.INVALID_PAYLOAD, "job_types: must be several, not one text.")
        required = {check_text("job_types", job_type) for job_type in job_types}
        missing = sorted(required - set(self._handlers))
        if missing:
            raise UnknownJobTypeError(
                f"{', '.join(missing)}: required, but no handler is registered; "
                "define it in provisioner.provisioning.job_types."
            )


#: The handlers of this process, and the public functions that are about them.
REGISTRY = JobRegistry()
register_job_handler = REGISTRY.register
get_job_handler = REGISTRY.get
has_job_handler = REGISTRY.has
get_registered_job_types = REGISTRY.types
validate_required_handlers = REGISTRY.validate_required
