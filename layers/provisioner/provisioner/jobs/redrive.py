"""The messages that wait for people: what each is, and how it is sent on its way again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from botocore.exceptions import ClientError

from provisioner.aws_types import MessageTypeDef, SQSClient
from provisioner.errors import ProvisioningError
from provisioner.jobs.client import JobClient, JobStateError
from provisioner.jobs.messages import find_message, is_own_job, job_id_of_message
from provisioner.jobs.records import canonical_json
from provisioner.jobs.registry import UnknownJobTypeError

#: Messages of one call. Source: Amazon SQS API Reference, ReceiveMessage.
_BATCH = 10

#: Seconds in which nobody else sees a message that is looked at, and one that is sent back. They
#: are given back at once; should this process end before, they come back by themselves.
_LOOK_SECONDS = 30
_REDRIVE_SECONDS = 300

#: What SQS says of a receipt handle that has expired. Source: Amazon SQS API Reference,
#: ChangeMessageVisibility and DeleteMessage; the first it says without being described there.
_EXPIRED = frozenset(
    {
        "InvalidParameterValue",
        "MessageNotInflight",
        "AWS.SimpleQueueService.MessageNotInflight",
        "ReceiptHandleIsInvalid",
    }
)

#: Seconds after which the queue is taken for empty. An answer without waiting asks only some of the
#: queue's servers. Source: Amazon SQS Developer Guide, "Short and long polling".
_WAIT_SECONDS = 1


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that waits for people."""

    message_id: str
    job_id: str
    #: The message as it came.
    body: str
    #: When it was put here.
    at: datetime
    #: Empty where the function that says why could not.
    error_type: str = ""
    #: One sentence that says why it is here.
    reason: str = ""
    #: The technical cause, for operators.
    cause: str = ""
    message_group: str | None = None


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of a dead letter that was to be sent back."""

    letter: DeadLetter
    #: Whether it is on its way again; else it stays where it is.
    is_sent: bool
    #: What was done, or why nothing was.
    note: str


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """The dead letters of one deployment."""

    client: SQSClient
    #: The queue of dead letters.
    url: str
    #: What a job is sent again by.
    jobs: JobClient

    def read(self) -> list[DeadLetter]:
        """Read the dead letters, oldest first; they stay where they are.

        While they are read, for a moment, another reader sees none.
        """
        with self._hide(_LOOK_SECONDS) as hidden:
            return sorted(map(_letter, hidden.values()), key=lambda letter: letter.at)

    def redrive(
        self,
        job_id: str | None,
        *,
        again: bool,
        on_redriven: Callable[[Redriven], None] | None = None,
    ) -> list[Redriven]:
        """Send dead letters back to the queue of jobs, each with its job's id.

        A letter is deleted once it is sent: a call that stops between the two leaves it here, and
        a job starts once however often its message is sent.

        Args:
            job_id: only the letters of this job; None for all of them.
            again: run a job again whose attempt has ended, as its next attempt.
            on_redriven: called with what became of each letter, before the next is looked at.
        """
        redriven: list[Redriven] = []
        with self._hide(_REDRIVE_SECONDS) as hidden:
            for message_id, message in list(hidden.items()):
                letter = _letter(message)
                if job_id not in {None, letter.job_id}:
                    continue
                is_sent, note = self._send(letter, again=again)
                redriven.append(Redriven(letter, is_sent, f"job {letter.job_id}: {note}"))
                if on_redriven is not None:
                    on_redriven(redriven[-1])
                if is_sent:
                    with _unless_expired():
                        self.client.delete_message(
                            QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"]
                        )
                    del hidden[message_id]
        return redriven

    def _send(self, letter: DeadLetter, *, again: bool) -> tuple[bool, str]:
        """Send a letter back; return whether it is, and what was done, or why nothing was."""
        job, message = self.jobs.store.get_head(letter.job_id), find_message(letter.body)
        names_job = message is not None and message.job_id is not None
        if job and message and names_job and not is_own_job(self.jobs.registry, job, message):
            return False, "the message names another job's id; send it without job_id."
        if job is None or not job.status.is_terminal:
            body = letter.body
            # What holds what Python reads and JSON cannot hold, such as NaN, is left as it is.
            with suppress(ValueError):
                if message is not None and not names_job:
                    # It names its job from now on, which was its own id before.
                    named = message.model_dump(exclude_unset=True) | {"job_id": letter.job_id}
                    body = canonical_json(named)
            self.jobs.queue.send_text(body, letter.message_group)
            return True, "is sent again."
        if not again:
            return False, f"is {job.status}; it runs again only where that is asked for."
        try:
            retried = self.jobs.retry(letter.job_id)
        except (JobStateError, UnknownJobTypeError, ProvisioningError) as error:
            return False, str(error).removeprefix(f"job {letter.job_id}: ")
        return True, f"runs again, as attempt {retried.attempt}."

    @contextmanager
    def _hide(self, seconds: int) -> Iterator[dict[str, MessageTypeDef]]:
        """Hide every message from others for a while; those that are left are given back.

        Yields:
            the messages by their ids; whoever deletes one takes it out.
        """
        hidden: dict[str, MessageTypeDef] = {}
        try:
            is_new = True
            while is_new:
                answer = self.client.receive_message(
                    QueueUrl=self.url,
                    MaxNumberOfMessages=_BATCH,
                    VisibilityTimeout=seconds,
                    WaitTimeSeconds=_WAIT_SECONDS,
                    MessageAttributeNames=["All"],
                    MessageSystemAttributeNames=["SentTimestamp", "MessageGroupId"],
                )
                received = {message["MessageId"]: message for message in answer.get("Messages", [])}
                # One that was hidden for too long comes back, and is hidden anew.
                is_new = not received.keys() <= hidden.keys()
                hidden |= received
            yield hidden
        finally:
            for message in hidden.values():
                with _unless_expired():
                    self.client.change_message_visibility(
                        QueueUrl=self.url,
                        ReceiptHandle=message["ReceiptHandle"],
                        VisibilityTimeout=0,
                    )


@contextmanager
def _unless_expired() -> Iterator[None]:
    """Pass over what SQS says of a message that is not hidden any more: it has come back."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] not in _EXPIRED:
            raise


def _letter(message: MessageTypeDef) -> DeadLetter:
    said = {
        name: attribute.get("StringValue", "")
        for name, attribute in message.get("MessageAttributes", {}).items()
    }
    system = message["Attributes"]
    return DeadLetter(
        message_id=message["MessageId"],
        # One that came here without a word has kept its id on the way.
        job_id=said.get("job_id") or job_id_of_message(message["Body"], message["MessageId"]),
        body=message["Body"],
        at=datetime.fromtimestamp(int(system["SentTimestamp"]) / 1000, UTC),
        error_type=said.get("error_type", ""),
        reason=said.get("reason", ""),
        cause=said.get("cause", ""),
        message_group=system.get("MessageGroupId"),
    )
