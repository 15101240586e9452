"""How often, and after how long, an attempt is repeated.

The Retry fields of the state machines are made from these, and a job that runs in one process
follows them too. Source: Amazon States Language, "Retrying after an error".
"""

import math
from dataclasses import dataclass

from provisioner.errors import RETRYABLE, ErrorType

#: Error names that are not ours: the function ran out of time, or died. Each is retried like the
#: error type that it is stored as.
FOREIGN_ERRORS: dict[str, ErrorType] = {
    "States.Timeout": ErrorType.TIMEOUT,
    "Sandbox.Timedout": ErrorType.TIMEOUT,
    "Lambda.Unknown": ErrorType.UNKNOWN_ERROR,
    "Runtime.ExitError": ErrorType.UNKNOWN_ERROR,
    # Killed for memory. The next attempt starts anew, without what earlier ones left behind.
    "Runtime.OutOfMemory": ErrorType.UNKNOWN_ERROR,
}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """One retrier: exponential backoff, with full jitter unless it says otherwise."""

    #: What a state machine says of it.
    comment: str
    #: The error names that it repeats.
    error_names: tuple[str, ...]
    #: Upper bound of the first wait, in seconds.
    interval_seconds: int
    #: Each further bound is this many times the one before.
    backoff_rate: float
    #: Repetitions; the attempts in all are one more.
    max_attempts: int
    #: No bound exceeds this, in seconds.
    max_delay_seconds: int

    @property
    def attempts_in_all(self) -> int:
        """The first attempt and its repetitions."""
        return 1 + self.max_attempts

    @property
    def is_jittered(self) -> bool:
        """Whether each wait is drawn between zero and its bound; else it is that bound."""
        return self.backoff_rate != 1

    def longest_delay(self, attempt: int) -> float | None:
        """Return the longest wait, in seconds, after a failed attempt; None if none is left.

        With the first interval 300 s, rate 2 and 3 attempts in all: after attempt 1 up to 300 s,
        after attempt 2 up to 600 s, after attempt 3 nothing.
        """
        if attempt >= self.attempts_in_all:
            return None
        return float(
            min(self.max_delay_seconds, self.interval_seconds * self.backoff_rate ** (attempt - 1))
        )


#: Passing errors of the Lambda service itself. A function in a VPC that was idle for weeks has no
#: network interfaces any more: the first call of it fails and has them made, further ones fail
#: meanwhile, for about a minute. The waits last three minutes on average. Sources: AWS Step
#: Functions Developer Guide, "Handle transient Lambda service exceptions"; AWS Lambda Developer
#: Guide, "Lambda function states"; AWS Lambda API Reference, Invoke.
SERVICE_RETRY = RetryPolicy(
    comment="The Lambda service itself failed or throttles, or makes the network interfaces of an "
    "idle function anew: that passes within minutes.",
    error_names=(
        "Lambda.ServiceException",
        "Lambda.AWSLambdaException",
        "Lambda.SdkClientException",
        "Lambda.ClientExecutionTimeoutException",
        "Lambda.ResourceNotReadyException",
        "Lambda.ResourceConflictException",
        "Lambda.ENINotReadyException",
        "Lambda.EC2ThrottledException",
        "Lambda.EC2UnexpectedException",
        "Lambda.SubnetIPAddressLimitReachedException",
    ),
    interval_seconds=2,
    backoff_rate=2,
    max_attempts=10,
    max_delay_seconds=60,
)

#: Lambda's own limits of concurrency and rate: the waits last an hour on average.
THROTTLE_RETRY = RetryPolicy(
    comment="Lambda's limits of concurrency or rate are reached: waited out for an hour.",
    error_names=("Lambda.TooManyRequestsException",),
    interval_seconds=2,
    backoff_rate=2,
    max_attempts=30,
    max_delay_seconds=300,
)

#: The retryable error types of a stage.
STAGE_RETRY = RetryPolicy(
    comment="The retryable error types, and the names under which a function arrives that ran out "
    "of time or died: three attempts in all.",
    error_names=(*RETRYABLE, *FOREIGN_ERRORS),
    interval_seconds=300,
    backoff_rate=2,
    max_attempts=2,
    max_delay_seconds=900,
)

#: Passing errors of Step Functions itself, where a state machine starts another's execution.
START_RETRY = RetryPolicy(
    comment="Step Functions itself failed or throttles: that passes within seconds.",
    error_names=(
        "StepFunctions.SdkClientException",
        "StepFunctions.AWSStepFunctionsException",
        "StepFunctions.ThrottlingException",
    ),
    interval_seconds=2,
    backoff_rate=2,
    max_attempts=6,
    max_delay_seconds=60,
)

#: The names of the errors that a step raises which waits: for something, and for a slot of the jobs
#: that run at once. They are no errors of the job.
WAITING_ERROR = "StageWaiting"
SLOT_ERROR = "SlotWaiting"

#: Polls of a job that waits for a slot. They last for half a minute on average, and all of them for
#: longer than a job waits; that is ended by the clock.
SLOT_RETRY = RetryPolicy(
    comment="So many jobs run as may at once, or it is others' turn: it is polled within a minute, "
    "and the wait ends by the clock before this does.",
    error_names=(SLOT_ERROR,),
    interval_seconds=2,
    backoff_rate=2,
    max_attempts=1600,
    max_delay_seconds=60,
)

#: For how long a job waits for a slot at the most, in seconds.
SLOT_WAIT_SECONDS = 12 * 3600

#: Seconds between two polls of a step that waits.
POLL_SECONDS = 60


def waiting_retry(waits_seconds: int) -> RetryPolicy:
    """Return the retrier of a step that may be WAITING for so many seconds in all.

    Without jitter, so that it lasts: the wait ends by the clock before the retrier does, and a Task
    that was repeated so often has waited for so long, however often the other retriers of a stage
    have repeated it. Each counts its own repetitions. A Task that waits for 900 seconds in all is
    repeated up to 57 times, every 60 seconds.

    Args:
        waits_seconds: a stage's `waits_seconds`; of what ends a job, which waits until nothing can
            be at work, `LONGEST_RUN_SECONDS`, and of a last stage that waits itself, both.
    """
    return RetryPolicy(
        comment="It waits, for what the job's item names, and is asked again each minute; the wait "
        "ends by the clock before this does.",
        error_names=(WAITING_ERROR,),
        interval_seconds=POLL_SECONDS,
        backoff_rate=1,
        max_attempts=math.ceil(waits_seconds / POLL_SECONDS)
        + SERVICE_RETRY.max_attempts
        + THROTTLE_RETRY.max_attempts
        + STAGE_RETRY.max_attempts,
        max_delay_seconds=POLL_SECONDS,
    )
