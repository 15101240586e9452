"""What the tests of whole jobs on the local stack share."""

from __future__ import annotations

import json
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

import psycopg
from provision_cli.local.stack import RunningStack
from provisioner import api

#: A job takes a second; tens of them at once, on two cores, start a hundred cold functions first.
JOB_SECONDS = 300.0


def eventually[Value](look: Callable[[], Value], *, within: float = 30.0) -> Value:
    """Return what `look` finds, once that is something."""
    deadline = monotonic() + within
    while not (found := look()):
        if monotonic() > deadline:
            raise TimeoutError(f"nothing after {within} seconds")
        sleep(0.1)
    return found


def finished(job_id: str) -> api.Job:
    """Return a job once it has ended; the dispatcher may not have stored it yet."""

    def stored() -> api.Job | None:
        try:
            return api.get_job(job_id)
        except api.JobNotFoundError:
            return None

    eventually(stored, within=JOB_SECONDS)
    return api.wait_for_job(job_id, JOB_SECONDS)


def provisioned(stack: RunningStack, project_id: str, **payload: Any) -> api.Job:
    """Create a project and return its job, COMPLETED."""
    api.create_project(project_id)
    job = api.enqueue_job(
        api.JobType.PROVISION_PROJECT,
        {"project_id": project_id, "region": stack.region, **payload},
    )
    job = finished(job.job_id)
    assert job.status is api.JobStatus.COMPLETED, job.error
    return job


def result_of(job: api.Job) -> api.ProvisionProjectResult:
    """Return a job's result."""
    return api.ProvisionProjectResult.model_validate(job.result)


def secret(stack: RunningStack, arn: str) -> dict[str, Any]:
    """Read a secret."""
    value = stack.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
    found: dict[str, Any] = json.loads(value)
    return found


def current_database(connection_string: str) -> str:
    """Log in and return the database that one is in."""
    with psycopg.connect(connection_string, connect_timeout=10) as connection:
        row = connection.execute("SELECT current_database()").fetchone()
    assert row is not None
    return str(row[0])
