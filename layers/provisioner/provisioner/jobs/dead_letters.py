"""The messages that wait for people: what each is, and how it is sent on its way again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from provisioner.errors import ProvisioningError
from provisioner.jobs.client import JobClient, JobStateError
from provisioner.jobs.messages import job_id_of, names_another
from provisioner.jobs.queue import JobQueue
from provisioner.jobs.records import canonical_json
from provisioner.jobs.registry import JobRegistry, UnknownJobTypeError
from provisioner.jobs.store import JobStore

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

#: Messages of one call. Source: Amazon SQS API Reference, ReceiveMessage.
_BATCH = 10

#: Seconds in which nobody else sees a message that is looked at, and one that is sent back. They
#: are given back at once; should this process end before, they come back by themselves. The queue
#: is read for half of them at most, so that none has come back by then.
_LOOK_SECONDS = 30
_REDRIVE_SECONDS = 300

#: Seconds before the end of the hold after which no further message is sent back.
_MARGIN_SECONDS = 30

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


class DeadLetters:
    """The dead letters of one deployment."""

    def __init__(
        self,
        client: SQSClient,
        url: str,
        *,
        registry: JobRegistry,
        store: JobStore,
        queue: JobQueue,
        jobs: JobClient,
    ) -> None:
        """Bind to the queue of dead letters, by its URL, and to what a job is sent again by."""
        self._client = client
        self._url = url
        self._registry = registry
        self._store = store
        self._queue = queue
        self._jobs = jobs

    def read(self) -> list[DeadLetter]:
        """Read the dead letters, oldest first; they stay where they are.

        While they are read, for a moment, another reader sees none. It takes 15 seconds at most: of
        more than they suffice for, which is some thousand, the others are left out.
        """
        with self._held(_LOOK_SECONDS) as held:
            return sorted((_letter(message) for message in held.values()), key=lambda one: one.at)

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
        last_at = time.monotonic() + _REDRIVE_SECONDS - _MARGIN_SECONDS
        with self._held(_REDRIVE_SECONDS) as held:
            for message in list(held.values()):
                letter = _letter(message)
                if job_id is not None and letter.job_id != job_id:
                    continue
                if time.monotonic() < last_at:
                    done = self._send(letter, again=again)
                else:
                    note = f"job {letter.job_id}: there was no time left for it; redrive once more."
                    done = Redriven(letter, is_sent=False, note=note)
                redriven.append(done)
                if on_redriven is not None:
                    on_redriven(done)
                if done.is_sent:
                    with _unless_expired():
                        self._client.delete_message(
                            QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"]
                        )
                    del held[letter.message_id]
        return redriven

    def _send(self, letter: DeadLetter, *, again: bool) -> Redriven:
        job = self._store.get_head(letter.job_id)
        if job is not None and names_another(self._registry, job, letter.body):
            return Redriven(
                letter,
                is_sent=False,
                note=f"job {letter.job_id}: the message names another job's id; send it without "
                "job_id.",
            )
        if job is None or not job.status.is_terminal:
            self._queue.send_back(
                _with_job_id(letter.body, letter.job_id), message_group=letter.message_group
            )
            return Redriven(letter, is_sent=True, note=f"job {letter.job_id}: is sent again.")
        if not again:
            return Redriven(
                letter,
                is_sent=False,
                note=f"job {letter.job_id}: is {job.status}; it runs again only where that is "
                "asked for.",
            )
        try:
            retried = self._jobs.retry(letter.job_id)
        except (JobStateError, UnknownJobTypeError) as error:
            return Redriven(letter, is_sent=False, note=str(error))
        except ProvisioningError as error:
            return Redriven(letter, is_sent=False, note=f"job {letter.job_id}: {error.message}")
        return Redriven(
            letter,
            is_sent=True,
            note=f"job {letter.job_id}: runs again, as attempt {retried.attempt}.",
        )

    @contextmanager
    def _held(self, seconds: int) -> Iterator[dict[str, MessageTypeDef]]:
        """Hold every message for a while, by its id; those that are left are given back."""
        held: dict[str, MessageTypeDef] = {}
        last_at = time.monotonic() + seconds / 2
        try:
            while time.monotonic() < last_at:
                received = {message["MessageId"]: message for message in self._receive(seconds)}
                is_new = not received.keys() <= held.keys()
                held.update(received)
                if not is_new:
                    break
            yield held
        finally:
            for message in held.values():
                with _unless_expired():
                    self._client.change_message_visibility(
                        QueueUrl=self._url,
                        ReceiptHandle=message["ReceiptHandle"],
                        VisibilityTimeout=0,
                    )

    def _receive(self, seconds: int) -> list[MessageTypeDef]:
        return self._client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=_BATCH,
            VisibilityTimeout=seconds,
            WaitTimeSeconds=_WAIT_SECONDS,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["SentTimestamp", "MessageGroupId"],
        ).get("Messages", [])


@contextmanager
def _unless_expired() -> Iterator[None]:
    """Pass over what SQS says of a message that is not held any more: it has come back."""
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
        job_id=said.get("job_id") or job_id_of(message["Body"], message["MessageId"]),
        body=message["Body"],
        at=datetime.fromtimestamp(int(system["SentTimestamp"]) / 1000, UTC),
        error_type=said.get("error_type", ""),
        reason=said.get("reason", ""),
        cause=said.get("cause", ""),
        message_group=system.get("MessageGroupId"),
    )


def _with_job_id(body: str, job_id: str) -> str:
    """Let a message name its job, which was its own id before; what cannot is left as it is."""
    try:
        message: Any = json.loads(body)
        if not isinstance(message, dict) or message.get("job_id") is not None:
            return body
        named = canonical_json(message | {"job_id": job_id})
        named.encode()
    except (ValueError, RecursionError):
        # What Python reads and JSON cannot hold is here too: NaN, half a surrogate pair.
        return body
    return named
