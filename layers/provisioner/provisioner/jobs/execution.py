"""The name and the input of a job's execution."""

from __future__ import annotations

from provisioner.errors import ErrorType, failure
from provisioner.jobs.store import NewJob, canonical_json

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


def execution_input(new: NewJob, attempt: int = 1) -> str:
    """Serialize the input of an execution; equal jobs give equal bytes.

    Equal bytes under the same name are what makes a second StartExecution harmless. Source: AWS
    Step Functions API Reference, StartExecution.

    Raises:
        INVALID_PAYLOAD: JSON cannot hold it, or it is larger than an execution's input may be.
    """
    try:
        text = canonical_json(
            {
                "job": {
                    "job_id": new.job_id,
                    "job_type": new.job_type,
                    "payload": new.payload,
                    "attempt": attempt,
                }
            }
        )
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
