"""A job's executions: their names, their inputs, and how they stand."""

import re
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from botocore.exceptions import ClientError

from provisioner.aws_types import SFNClient
from provisioner.drivers.aws_errors import code_of, short_cause
from provisioner.errors import ErrorType, failure
from provisioner.jobs.models import Job
from provisioner.jobs.records import NewJob, canonical_json

#: Bytes of a state machine's input. Source: AWS Step Functions Developer Guide, "Quotas".
MAX_INPUT_BYTES = 262_144

#: How the name of an execution of a later attempt ends.
LATER_ATTEMPT = re.compile(r"-attempt-[0-9]+\Z")


def execution_name(job_id: str, attempt: int) -> str:
    """Name the execution of an attempt of a job: the first after the job alone.

    `JobId` refuses what ends like the name of a later one, so that no two attempts share a name.
    At most 80 characters. Source: AWS Step Functions API Reference, StartExecution.
    """
    return job_id if attempt == 1 else f"{job_id}-attempt-{attempt}"


def execution_input(new: NewJob, attempt: int = 1) -> str:
    """Serialize the input of an execution; equal jobs give equal bytes.

    Equal bytes under the same name are what makes a second StartExecution harmless. Source: AWS
    Step Functions API Reference, StartExecution.

    Raises:
        INVALID_PAYLOAD: JSON cannot hold it, or it is larger than an execution's input may be.
    """
    try:
        text = canonical_json({"job": job_input(new, attempt)})
        size = len(text.encode())
    except ValueError:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            "payload: JSON cannot hold it (NaN, an infinity, half a surrogate pair); correct it.",
        ) from None
    if size > MAX_INPUT_BYTES:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"payload: larger than the {MAX_INPUT_BYTES} bytes of an execution; shorten it.",
        )
    return text


def job_id_of_execution(arn: str) -> str:
    """Return the id of the job that an execution is of, by its name; see `execution_name`."""
    return LATER_ATTEMPT.sub("", arn.rpartition(":")[2])


class ExecutionStatus(StrEnum):
    """Where an execution stands. Source: AWS Step Functions API Reference, DescribeExecution."""

    #: Under way.
    RUNNING = "RUNNING"
    #: It ended in a Succeed state.
    SUCCEEDED = "SUCCEEDED"
    #: It ended in a Fail state, or by an error that nothing catches.
    FAILED = "FAILED"
    #: It took longer than the state machine allows.
    TIMED_OUT = "TIMED_OUT"
    #: Someone stopped it.
    ABORTED = "ABORTED"


@dataclass(frozen=True, slots=True)
class Execution:
    """An execution, as Step Functions tells of it."""

    arn: str
    status: ExecutionStatus
    error: str = ""
    cause: str = ""


_NO_STATE_MACHINE = (
    ErrorType.JOB_TYPE_NOT_DEPLOYED,
    "job_type: there is no state machine {}; deploy it, then run the job again.",
)

#: Why an execution does not start, by what AWS answers. Whoever may not start a state machine gets
#: that answer whether there is one or not. Sources: AWS Step Functions API Reference,
#: StartExecution and "Common Error Types"; IAM User Guide, "Policy evaluation logic".
_NOT_STARTED = {
    "StateMachineDoesNotExist": _NO_STATE_MACHINE,
    "StateMachineDeleting": _NO_STATE_MACHINE,
    "AccessDeniedException": (
        ErrorType.INSUFFICIENT_PERMISSIONS,
        "job_type: the dispatcher may not start the state machine {}, or there is none; deploy it.",
    ),
}


@dataclass(frozen=True, slots=True)
class Executions:
    """Starts, looks at and stops the executions of jobs."""

    client: SFNClient
    #: What the job type is appended to, to name its state machine.
    state_machine_arn_prefix: str

    def start(self, job: Job, attempt: int, input_text: str) -> bool:
        """Start the execution of an attempt of a job; say whether it was not started before.

        Raises:
            JOB_TYPE_NOT_DEPLOYED: there is no state machine of the job type: nothing helps before
                somebody deploys it.
            INSUFFICIENT_PERMISSIONS: there is none, or it may not be started.
        """
        arn = f"{self.state_machine_arn_prefix}{job.job_type}"
        name = execution_name(job.job_id, attempt)
        try:
            self.client.start_execution(stateMachineArn=arn, name=name, input=input_text)
        except self.client.exceptions.ExecutionAlreadyExists:
            return False
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code not in _NOT_STARTED:
                raise
            error_type, sentence = _NOT_STARTED[code]
            # By its name, as the console shows it.
            name = arn.rpartition(":")[2]
            raise failure(error_type, sentence.format(name), short_cause(error)) from None
        return True

    def arn(self, job: Job) -> str:
        """Return the ARN of the execution of the job's attempt."""
        prefix = self.state_machine_arn_prefix.replace(":stateMachine:", ":execution:")
        return f"{prefix}{job.job_type}:{execution_name(job.job_id, job.attempt)}"

    def find(self, arn: str) -> Execution | None:
        """Look at an execution; None where there is none, or it is too new to be seen."""
        try:
            described = self.client.describe_execution(executionArn=arn)
        except self.client.exceptions.ExecutionDoesNotExist:
            return None
        if described["executionArn"] != arn:
            raise failure(
                ErrorType.NETWORK_ERROR,
                "AWS answered another question while we tried to look at an execution.",
                "Step Functions: an execution of another ARN",
            )
        return Execution(
            arn=arn,
            status=ExecutionStatus(described["status"]),
            error=described.get("error", ""),
            cause=described.get("cause", ""),
        )

    def stop(self, arn: str, cause: str) -> None:
        """Stop an execution; one that has ended, or never was, stays as it is."""
        gone = (
            self.client.exceptions.ExecutionDoesNotExist,
            # Its status does not allow it.
            self.client.exceptions.ValidationException,
        )
        with suppress(*gone):
            self.client.stop_execution(executionArn=arn, cause=cause)


def is_look_throttled(error: Exception) -> bool:
    """Whether AWS does not say how an execution stands since it was asked too often.

    Source: AWS Step Functions API Reference, "Common Error Types".
    """
    return (
        isinstance(error, ClientError)
        and error.operation_name == "DescribeExecution"
        and code_of(error) == "ThrottlingException"
    )


def job_input(job: NewJob | Job, attempt: int) -> dict[str, Any]:
    """Return the job as an execution carries it."""
    return {
        "job_id": job.job_id,
        "job_type": job.job_type,
        "payload": job.payload,
        "attempt": attempt,
    }
