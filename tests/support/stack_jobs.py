"""What the tests of whole jobs on the local stack share."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

import psycopg
from provision_cli.local.stack import RunningStack
from provisioner import api

#: A job takes a second; tens of them at once, on two cores, start a hundred cold functions first.
JOB_SECONDS = 300.0

#: What a project is without, where a test is about its database or its keys.
NO_SERVICES = {"auth": False, "realtime": False, "storage": False}


def eventually[Value](look: Callable[[], Value | None], *, within: float = 30.0) -> Value:
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
        "provision_project",
        {"project_id": project_id, "region": stack.region, **payload},
    )
    job = finished(job.job_id)
    assert job.status is api.JobStatus.COMPLETED, job.error
    return job


def cleaned_up(job_id: str) -> api.Job:
    """Return the clean-up of a job once it has ended."""
    cleanup_job_id = eventually(lambda: api.get_job(job_id).cleanup_job_id, within=60)
    return api.wait_for_job(cleanup_job_id, 120)


@contextmanager
def slow_retries(stack: RunningStack, seconds: int = 30) -> Iterator[None]:
    """Let the waits that begin meanwhile last so long; else they last half a second here."""
    for_all_that_begin = "stepfunctions._SFN_WAIT_SCALE"

    def scale(factor: float) -> None:
        request = urllib.request.Request(
            f"{stack.endpoint_url}/_ministack/config",
            data=json.dumps({for_all_that_begin: factor}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:  # the local stack's  # nosec B310
            assert response.status == 200

    # The local AWS waits for a minute at most, before it scales.
    scale(seconds / 60)
    try:
        yield
    finally:
        scale(0.01)


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


def described(stack: RunningStack, name: str) -> dict[str, Any]:
    """Return what an operator has described in the stack's region, below the prefix."""
    prefix = f"{stack.outputs['ClusterParameterPrefix']}/{stack.region}"
    value = stack.client("ssm").get_parameter(Name=f"{prefix}/{name}")["Parameter"]["Value"]
    found: dict[str, Any] = json.loads(value)
    return found
