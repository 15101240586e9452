"""Projects that are removed, and what is left of them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from provisioner import api
from provisioner.jobs.models import StageStatus
from provisioner.provisioning.engine import Engine
from provisioner.runtime import aws
from support.tenant_server import run_as_tenant
from support.workflow import SNAPSHOTS_BUCKET, Workflow

#: What a job leaves that met no fault, by its engine; a worker makes it once.
_references: dict[Engine, dict[str, Any]] = {}

#: In the words of every engine.
_HUNDRED_NOTES = """CREATE TABLE note AS
    WITH RECURSIVE numbers (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM numbers WHERE id < 100)
    SELECT id FROM numbers"""


def provisioned(workflow: Workflow) -> api.Job:
    """Return the job of a project that is ACTIVE and has a table with rows."""
    job = workflow.execute_in_process(workflow.new_job(workflow.new_project(owner_id="ada")))
    assert job.status is api.JobStatus.COMPLETED, job.error
    run_as_tenant(workflow.server, workflow.login(job.project_id), _HUNDRED_NOTES)
    return job


def keys_of(workflow: Workflow, project_id: str) -> list[str]:
    keys: list[str] = workflow.secret(workflow.names(project_id).api_keys_secret)["api_keys"]
    return keys


def verifying(keys: list[str]) -> list[bool]:
    return [api.verify_api_key(key) is not None for key in keys]


def error_of(job: api.Job) -> api.StoredError:
    assert job.error is not None
    return job.error


def statuses(job: api.Job) -> dict[str, StageStatus]:
    return {record.stage: record.status for record in job.stages}


def snapshots() -> list[str]:
    """Return the keys of the snapshots that there are."""
    found = aws.client("s3").list_objects_v2(Bucket=SNAPSHOTS_BUCKET)
    assert "Uploads" not in aws.client("s3").list_multipart_uploads(Bucket=SNAPSHOTS_BUCKET)
    return [stored["Key"] for stored in found.get("Contents", [])]


def end_of(workflow: Workflow, job: api.Job) -> dict[str, Any]:
    """Return all that a job has left, without the size of its snapshot."""
    found = workflow.snapshot(job) | {"snapshots": len(snapshots())}
    return {name: re.sub(r"'size_bytes': \d+", "", str(value)) for name, value in found.items()}


@pytest.fixture
def removed(workflow: Workflow) -> dict[str, Any]:
    """Return what a job that removes a project leaves where it met no fault."""
    if workflow.engine not in _references:
        project = provisioned(workflow).project_id
        job = workflow.execute(workflow.new_deprovision_job(project))
        assert job.status is api.JobStatus.COMPLETED, job.error
        _references[workflow.engine] = end_of(workflow, job)
        _forget_snapshots()
        aws.client("dynamodb").delete_item(
            TableName=workflow.settings.quotas_table, Key={"quota": {"S": "owner#ada"}}
        )
    return _references[workflow.engine]


def _forget_snapshots() -> None:
    for key in snapshots():
        aws.client("s3").delete_object(Bucket=SNAPSHOTS_BUCKET, Key=key)
