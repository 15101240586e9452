"""Messages: plain JSON that any language, or the SQS console, can send; each is of one job."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from provisioner.aws_types import SQSClient
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.execution import LATER_ATTEMPT, execution_input, job_input
from provisioner.jobs.models import Job, StoredError
from provisioner.jobs.records import NewJob, canonical_json, json_object, payload_digest
from provisioner.jobs.registry import JobRegistry, UnknownJobTypeError, first_problem
from provisioner.jobs.store import JobStore

#: What services put around a job, by the fields that tell: what it is, and how to send the job
#: plain. The first whose fields are all there; nothing is ever unwrapped.
#:
#: Sources of the forms: Amazon SNS Developer Guide, "Amazon SNS raw message delivery"; Amazon
#: EventBridge User Guide, "AWS service event structure"; Amazon S3 User Guide, "Event message
#: structure"; AWS Lambda Developer Guide, "Using Lambda with Amazon SQS"; Amazon API Gateway
#: Developer Guide, "Input format of a Lambda function for proxy integration"; CloudEvents 1.0,
#: "JSON Event Format".
_WRAPPERS: dict[tuple[str, ...], str] = {
    ("Type", "Message"): (
        "is wrapped by Amazon SNS; switch on raw message delivery for the queue's subscription to "
        "the topic (RawMessageDelivery)"
    ),
    ("detail-type", "detail"): (
        "is wrapped by Amazon EventBridge; let the rule pass on the job alone, by the target's "
        "input path $.detail"
    ),
    ("Records",): (
        "is an event with Records, as of Amazon SQS, SNS or S3, and no job; send each job as a "
        "message of its own, and end a notification of S3 to this queue"
    ),
    ("Service", "Event"): (
        "is the test event of a notification of Amazon S3, and no job; end that notification to "
        "this queue"
    ),
    ("requestContext",): (
        "is a whole request to Amazon API Gateway, or to a function's URL; send its body alone"
    ),
    ("httpMethod", "body"): "is a whole HTTP request; send its body alone",
    ("receiptHandle", "body"): "is a whole record of Amazon SQS; send its body alone",
    ("ReceiptHandle", "Body"): "is a whole message of Amazon SQS; send its Body alone",
    ("MessageBody",): "is a whole request to Amazon SQS; send its MessageBody alone",
    ("specversion", "data"): "is wrapped as a CloudEvent; send its data alone",
}

#: Characters of a project's id.
_ID_LENGTH = 64


def _names_no_attempt(job_id: str) -> str:
    """Refuse an id that the execution of another job's later attempt may be named by."""
    if LATER_ATTEMPT.search(job_id):
        raise ValueError(
            "must not end in -attempt- and a number, which names the execution of a later attempt"
        )
    return job_id


#: A job id is an execution's name too, of at most 80 characters with what says the attempt or the
#: run of a clean-up. Source: AWS Step Functions API Reference, StartExecution.
JobId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$"), AfterValidator(_names_no_attempt)]

#: Characters of a reason that a message attribute carries.
_REASON_LENGTH = 1000


class JobMessage(BaseModel):
    """The body of a message."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_type: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-z][a-z0-9_]*$")]
    payload: dict[str, Any]
    #: Left out of a message that people write: the message's id is the job's id then.
    job_id: JobId | None = None
    #: The job's attempt; a message that people write begins a job, and so leaves it out.
    attempt: Annotated[int, Field(ge=1, le=9999, strict=True)] = 1


class _Queue:
    """A queue of Amazon SQS."""

    def __init__(self, client: SQSClient, url: str) -> None:
        """Bind to a queue by its URL."""
        self._client = client
        self._url = url

    def send_text(self, body: str, message_group: str | None, **more: Any) -> None:
        """Send a message as it is; what SendMessage takes besides is given by its name."""
        if message_group is not None:
            more["MessageGroupId"] = message_group
        self._client.send_message(QueueUrl=self._url, MessageBody=body, **more)


class JobQueue(_Queue):
    """Sends jobs."""

    def send(self, job: Job, *, message_group: str | None, delay_seconds: int = 0) -> None:
        """Send a job's attempt.

        Args:
            job: the job, with its payload.
            message_group: whose share of the queue the message takes (SQS fair queues), if any.
            delay_seconds: 0 to 900, the longest that SQS holds a message back.
        """
        body = canonical_json(job_input(job, job.attempt))
        self.send_text(body, message_group, DelaySeconds=delay_seconds)


class DeadLetterQueue(_Queue):
    """Takes the messages that can never work, with the reason beside them."""

    def send(
        self,
        body: str,
        *,
        job_id: str,
        reason: ProvisioningError,
        message_group: str | None = None,
    ) -> None:
        """Send a message as it came; the attributes say why it is here."""
        attributes = {
            "job_id": job_id,
            "error_type": str(reason.type),
            "reason": reason.message[:_REASON_LENGTH],
            "cause": reason.cause[:_REASON_LENGTH],
        }
        self.send_text(
            body,
            message_group,
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value}
                for name, value in attributes.items()
                if value
            },
        )


def parse_message(body: str) -> JobMessage:
    """Read the body of a message.

    Raises:
        INVALID_PAYLOAD: it is not a message that asks for a job.
    """
    try:
        return JobMessage.model_validate_json(body)
    except ValidationError as error:
        wrapper = _find_wrapper(body)
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"message: {wrapper}."
            if wrapper is not None
            else f"{first_problem(error, 'message')}; send a JSON object with job_type and "
            "payload.",
        ) from None


def _find_wrapper(body: str) -> str | None:
    """Say what a service has put around a job, and what to do; None where it is no known form."""
    if body.startswith("\ufeff"):
        return "begins with a byte order mark; encode it as UTF-8 without one"
    fields = json_object(body).keys()
    return next((said for names, said in _WRAPPERS.items() if fields >= set(names)), None)


def find_message(body: str) -> JobMessage | None:
    """Read the body of a message; None where it is not one that asks for a job."""
    with suppress(ProvisioningError):
        return parse_message(body)
    return None


def job_id_of_message(body: str, message_id: str) -> str:
    """Return the id of a message's job: its own where it names none, or cannot be read."""
    message = find_message(body)
    return (message and message.job_id) or message_id


def accept(
    registry: JobRegistry, store: JobStore, message: JobMessage, job_id: str
) -> tuple[Job, str]:
    """Store the job of a message, unless it is; return it as it is stored, with its input.

    Args:
        registry: the handlers.
        store: the jobs.
        message: the message.
        job_id: the job's id.

    Returns:
        the job, and the input of its execution.

    Raises:
        INVALID_PAYLOAD: the message can never work, another job has its id, or it is of a later
            attempt of no job.
    """
    new = _new_job(registry, message, job_id)
    input_text = execution_input(new, message.attempt)
    # Whoever names a job has most often stored it; the id of a message is new, but for a second
    # delivery.
    job = None if message.job_id is None else store.get_head(job_id)
    if message.attempt > 1 and job is None:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"attempt: there is no such job to begin attempt {message.attempt} of; leave attempt "
            "out of the message.",
        )
    job = job or store.create(new)
    if not _is_job_of(job, message, new.payload):
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            "job_id: another job has this id; leave job_id out of the message.",
        )
    return job, input_text


def _new_job(registry: JobRegistry, message: JobMessage, job_id: str) -> NewJob:
    try:
        handler = registry.get(message.job_type)
    except UnknownJobTypeError as error:
        raise failure(ErrorType.INVALID_PAYLOAD, str(error)) from None
    payload = handler.parse(message.payload).model_dump(mode="json")
    return NewJob(job_id, message.job_type, payload, handler.stages)


def to_stored_error(error: ProvisioningError) -> StoredError:
    """Return an error of no stage as the job keeps it."""
    return StoredError(error.type, "", 0, error.message, error.cause)


def is_own_job(registry: JobRegistry, job: Job, message: JobMessage) -> bool:
    """Whether a stored job is that of a message, which may be one that can never work.

    Its payload is the message's, as it came or as its model fills it in, or what is kept of it when
    the message is rejected.
    """
    payloads = [message.payload, keep_payload(message)]
    with suppress(ProvisioningError):
        payloads.append(dict(_new_job(registry, message, job.job_id).payload))
    return any(_is_job_of(job, message, payload) for payload in payloads)


def _is_job_of(job: Job, message: JobMessage, payload: Mapping[str, Any]) -> bool:
    """Whether a stored job has a message's type, and this payload, and its attempt."""
    try:
        digest = payload_digest(payload)
    except ValueError:
        # What came by the queue may hold what JSON cannot, such as NaN.
        return False
    return (job.job_type, job.payload_digest) == (message.job_type, digest) and (
        message.attempt <= job.attempt
    )


def keep_payload(message: JobMessage) -> dict[str, Any]:
    """Return what is kept of the payload of a message that is rejected: its project's id."""
    match message.payload:
        # A terminal that lists jobs obeys what cannot be printed.
        case {"project_id": str(name)} if 0 < len(name) <= _ID_LENGTH and name.isprintable():
            return {"project_id": name}
    return {}
