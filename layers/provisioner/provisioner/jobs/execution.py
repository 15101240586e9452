"""A job's executions: their names, their inputs, and who starts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from provisioner.errors import ErrorType, failure
from provisioner.jobs.models import Job
from provisioner.jobs.store import NewJob, canonical_json

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions.client import SFNClient

#: Bytes of a state machine's input. Source: AWS Step Functions Developer Guide, "Quotas".
MAX_INPUT_BYTES = 262_144


def execution_name(job_id: str, attempt: int) -> str:
    """Name the execution of an attempt of a job: the first after the job alone.

    At most 80 characters. Source: AWS Step Functions API Reference, StartExecution.
    """
    return job_id if attempt == 1 else f"{job_id}-{attempt}"


def cleanup_execution_name(job_id: str, run: int) -> str:
    """Name the execution of a run of a job's clean-up; the state machines make the same name."""
    return f"{job_id}-cleanup-{run}"


def cleanup_state_machine(job_type: str) -> str:
    """Name the state machine of a job type's clean-up, as the part after the stack's name."""
    return f"{job_type}_cleanup"


def execution_input(new: NewJob, attempt: int = 1) -> str:
    """Serialize the input of an execution; equal jobs give equal bytes.

    Equal bytes under the same name are what makes a second StartExecution harmless. Source: AWS
    Step Functions API Reference, StartExecution.

    Raises:
        INVALID_PAYLOAD: JSON cannot hold it, or it is larger than an execution's input may be.
    """
    try:
        text = canonical_json({"job": _job_input(new, attempt)})
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


class Executions:
    """Starts the executions of stored jobs."""

    def __init__(self, client: SFNClient, state_machine_arn_prefix: str) -> None:
        """Bind to Step Functions.

        Args:
            client: Step Functions.
            state_machine_arn_prefix: what the name of a state machine is appended to.
        """
        self._client = client
        self._state_machines = state_machine_arn_prefix

    def start_cleanup(self, job: Job, run: int) -> bool:
        """Start the execution of a run of the job's clean-up; False where it was started before."""
        try:
            self._client.start_execution(
                stateMachineArn=f"{self._state_machines}{cleanup_state_machine(job.job_type)}",
                name=cleanup_execution_name(job.job_id, run),
                input=canonical_json({"job": _job_input(job, job.attempt), "cleanup": run}),
            )
        except self._client.exceptions.ExecutionAlreadyExists:
            return False
        return True


def _job_input(job: NewJob | Job, attempt: int) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "job_type": job.job_type,
        "payload": job.payload,
        "attempt": attempt,
    }
