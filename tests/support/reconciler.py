"""A reconciler of the deployment on moto, and jobs to be reconciled by it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

from provisioner.errors import ErrorType
from provisioner.jobs.client import JobClient
from provisioner.jobs.execution import Execution, Executions, ExecutionStatus, execution_input
from provisioner.jobs.failure import FailurePolicy
from provisioner.jobs.messages import JobQueue
from provisioner.jobs.models import Job, StoredError
from provisioner.jobs.reconciler import Reconciler
from provisioner.jobs.records import NewJob
from provisioner.jobs.registry import REGISTRY
from provisioner.jobs.store import BadEnd, JobStore
from provisioner.jobs.sweep import SWEEP, Sweep
from provisioner.provisioning.job_types import clean_up_project, provision_project
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.stages.clean_up import remaining
from provisioner.provisioning.stages.provision import describe_cleanup, release_after_failure
from support.core import STATE_MACHINE_ARN_PREFIX, Core

#: How long a job may be QUEUED here.
QUEUED_LIMIT = timedelta(minutes=15)

NETWORK_ERROR = StoredError(
    ErrorType.NETWORK_ERROR, provision_project.INITIALIZING, 1, "No answer.", "refused"
)


def client(core: Core) -> JobClient:
    return JobClient(
        registry=REGISTRY, store=core.jobs, queue=JobQueue(core.client("sqs"), core.queue_url)
    )


def executions(core: Core) -> Executions:
    return Executions(core.client("stepfunctions"), STATE_MACHINE_ARN_PREFIX)


def policies(core: Core) -> dict[str, FailurePolicy]:
    """Return what follows a failure, by job type."""
    policy = FailurePolicy(
        release=partial(release_after_failure, projects=core.projects),
        describe_cleanup=partial(describe_cleanup, projects=core.projects),
        cleanup_job_type=clean_up_project.JOB_TYPE,
    )
    of_cleanup = FailurePolicy(
        release=partial(release_after_failure, projects=core.projects),
        remaining_of=partial(remaining, naming=Naming("nm", "test-123456789012")),
    )
    return {"provision_project": policy, "clean_up_project": of_cleanup}


def reconciler(core: Core, store: JobStore | None = None) -> Reconciler:
    return Reconciler(
        store=store or core.jobs,
        queue=JobQueue(core.client("sqs"), core.queue_url),
        executions=executions(core),
        policies=policies(core),
        release_abandoned=core.projects.release_abandoned,
        queued_limit=QUEUED_LIMIT,
    )


def sweep(core: Core, **parts: Any) -> Sweep:
    """Return the sweeps of the deployment, without a pace; `parts` take the place of its own."""
    own: dict[str, Any] = {
        "reconciler": reconciler(core),
        "holders": core.projects.lock_holders,
        "pace": lambda: None,
    }
    return Sweep(**(own | parts))


def head(core: Core) -> Job:
    found = core.jobs.get_head("job-1")
    assert found is not None
    return found


def start_execution(core: Core) -> str:
    """Start the execution of the job's attempt; it runs until a test ends it."""
    job = head(core)
    arn: str = core.client("stepfunctions").start_execution(
        stateMachineArn=f"{STATE_MACHINE_ARN_PREFIX}provision_project",
        name=executions(core).arn(job).rpartition(":")[2],
        input=execution_input(NewJob(job.job_id, job.job_type, job.payload, ()), job.attempt),
    )["executionArn"]
    return arn


def running(core: Core) -> Job:
    """Return a job that holds its project, with an execution, of which the first stage runs."""
    project = core.new_project()
    core.new_job()
    start_execution(core)
    core.projects.lock(project, "job-1", quota="owner#ada", default_limit=5)
    core.jobs.start_stage(head(core), provision_project.INITIALIZING, 0)
    core.clock.advance()
    return core.jobs.get("job-1")


def waiting(core: Core) -> Job:
    """Return a job as `running` does, of which the first stage waits for its next attempt."""
    running(core)
    core.jobs.stage_failed("job-1", NETWORK_ERROR, retry_count=0, retryable=True)
    core.clock.advance()
    return core.jobs.get("job-1")


def cleanup_of(core: Core) -> Job:
    """Return the clean-up of the job."""
    return core.jobs.get(head(core).cleanup_job_id)


def end_cleanup(core: Core, *remaining: str) -> None:
    """End the clean-up of the job: well, unless something remains."""
    cleanup = cleanup_of(core)
    last = clean_up_project.FINALIZING
    core.jobs.start_stage(cleanup, last, 0)
    if remaining:
        core.jobs.fail(cleanup, BadEnd([NETWORK_ERROR], remaining=remaining))
    else:
        core.jobs.complete(
            cleanup.job_id, last, attempt=cleanup.attempt, output={}, check="gone", result={}
        )


def sent(core: Core, job_type: str = "clean_up_project") -> list[dict[str, Any]]:
    """Return the messages of a job type that wait in the queue."""
    messages = [json.loads(message["Body"]) for message in core.messages(core.queue_url)]
    return [message for message in messages if message["job_type"] == job_type]


def ended(
    core: Core, status: ExecutionStatus = ExecutionStatus.ABORTED, error: str = "", cause: str = ""
) -> Execution:
    """Return what an event says of the execution of the job's attempt."""
    return Execution(executions(core).arn(head(core)), status, error, cause)


def history(core: Core, status: str) -> list[str]:
    """Return the notes of the job's history that have a status."""
    return [entry.note for entry in core.jobs.get("job-1").history if entry.status == status]


@contextmanager
def unchanged(core: Core) -> Iterator[None]:
    """Make sure that nothing is written, sent, started or stopped, but how far a sweep is."""

    def stored() -> list[list[dict[str, Any]]]:
        scanned = map(core.scan, ("JobsTable", "ProjectsTable", "QuotasTable"))
        return [[item for item in items if item.get("job_id") != SWEEP] for items in scanned]

    before = stored()
    core.calls.clear()
    yield
    assert stored() == before
    done = {"sqs.SendMessage", "sfn.StartExecution", "sfn.StopExecution"}
    assert not done & {name for name, _ in core.calls}
