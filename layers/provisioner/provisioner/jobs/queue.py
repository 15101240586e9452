"""The queue of jobs: plain JSON messages that any language, or the SQS console, can send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from provisioner.errors import ProvisioningError
from provisioner.jobs.execution import LATER_ATTEMPT, job_input
from provisioner.jobs.models import Job
from provisioner.jobs.records import canonical_json

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient


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

    def _send(self, body: str, message_group: str | None, **more: Any) -> None:
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
        self._send(body, message_group, DelaySeconds=delay_seconds)

    def send_back(self, body: str, *, message_group: str | None) -> None:
        """Send a message that was here before, as it is."""
        self._send(body, message_group)


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
        self._send(
            body,
            message_group,
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value}
                for name, value in attributes.items()
                if value
            },
        )
