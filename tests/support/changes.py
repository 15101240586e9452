"""Jobs that change a project that is there, and whether they have."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from provisioner import api
from provisioner.api_keys.key_format import digest, key_id
from provisioner.api_keys.store import ApiKeyStatus, ApiKeyStore
from provisioner.drivers.drift import Drift
from provisioner.provisioning.naming import Naming
from provisioner.runtime import aws
from support.workflow import NO_SERVICES, Workflow

each_change = pytest.mark.parametrize(
    "job_type", ["rotate_api_keys", "revoke_api_key", "rotate_database_password"]
)


def plainly_provisioned(workflow: Workflow, keys: int = 2) -> str:
    """Provision a project without services and return its id."""
    project_id = workflow.new_project(owner_id="ada")
    job = workflow.execute_in_process(
        workflow.new_job(project_id, services=NO_SERVICES, api_keys={"count": keys})
    )
    assert job.status is api.JobStatus.COMPLETED
    return project_id


def claimed(project_id: str) -> list[str]:
    """Claim the newest set of keys."""
    keys: list[str] = []
    api.claim_api_keys(project_id, keys.extend)
    return keys


def verifying(workflow: Workflow, keys: Sequence[str], *, hours: float = 0) -> set[bool]:
    """Say whether keys verify, some hours from now."""
    moment = datetime.now(UTC) + timedelta(hours=hours)
    store = ApiKeyStore(
        aws.client("dynamodb"), workflow.settings.api_keys_table, clock=lambda: moment
    )
    return {store.verify(key) is not None for key in keys}


def logs_in(workflow: Workflow, project_id: str) -> bool:
    """Say whether the login that the secret holds is taken."""
    return workflow.server.takes(workflow.login(project_id))


def new_change(workflow: Workflow, job_type: str, project_id: str) -> api.Job:
    """Store a job that has something to do, which is where nothing is said a type's example."""
    payload: dict[str, Any] = {}
    if job_type == "repair_project":
        workflow.server.drift(workflow.tenant(project_id))
    elif job_type == "rotate_api_keys":
        payload = {"count": 1}
    elif job_type == "revoke_api_key":
        active = [k for k in api.list_api_keys(project_id) if k.status is ApiKeyStatus.ACTIVE]
        payload = {"key_id": active[0].key_id}
    return workflow.new_change(job_type, project_id, **payload)


def check_changed(workflow: Workflow, job: api.Job) -> None:
    """Check that a job has done what it is for, once, and has let go of the project.

    Of a job type that is not told of here, it checks what holds for each that changes a project.
    """
    assert (job.status, job.error) == (api.JobStatus.COMPLETED, None)
    assert all(record.check for record in job.stages)
    assert job.result is not None
    project = api.get_project(job.project_id)
    assert (project.status, project.locked_by) == (api.ProjectStatus.ACTIVE, None)
    assert project.quota == "owner#ada"
    keys = {key.key_id: key for key in api.list_api_keys(job.project_id)}
    if job.job_type == "rotate_api_keys":
        new = {k.key_id for k in keys.values() if k.expires_at is None and k.revoked_at is None}
        assert new == {key["key_id"] for key in job.result["api_keys"]}
        assert {k.key_id for k in keys.values() if k.job_id == job.job_id} == new
        handed_over = workflow.secret(job.result["api_keys_secret_arn"])["api_keys"]
        assert {key_id(digest(text)) for text in handed_over} == new
        assert verifying(workflow, handed_over, hours=24 * 365) == {True}
    elif job.job_type == "revoke_api_key":
        assert keys[job.payload["key_id"]].status is ApiKeyStatus.REVOKED
        assert keys[job.payload["key_id"]].revoked_at == job.result["revoked_at"]
    elif job.job_type == "repair_project":
        assert job.result["remaining"] == []
        assert _drifted(workflow, job.project_id) == set()
    assert logs_in(workflow, job.project_id)


def _drifted(workflow: Workflow, project_id: str) -> set[Drift]:
    login, tenant = workflow.login(project_id), workflow.tenant(project_id)
    owner = Naming(workflow.settings.resource_prefix, workflow.settings.resource_namespace).owner(
        project_id, "none"
    )
    driver = workflow.server.driver
    repairs = (
        driver.repair_database(tenant, lambda: str(login["password"]), owner),
        driver.repair_schema(tenant, owner),
    )
    return {drift for found in repairs for drift in (*found.repaired, *found.remaining)}


def ended(job: api.Job) -> Any:
    """Return how a job has ended, without what differs from run to run."""
    stages = [(s.stage, s.status, bool(s.check), sorted(s.output)) for s in job.stages]
    return job.status, stages, sorted(job.result or {})
