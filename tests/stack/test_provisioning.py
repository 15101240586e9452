"""Whole jobs on the deployed template."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from provision_cli.local.stack import RunningStack
from provisioner import api
from provisioner.errors import ErrorType
from support.stack_jobs import current_database, finished, provisioned, result_of, secret

_MOST_STATE_ENTRIES = 12


def _enqueue(stack: RunningStack, project_id: str) -> str:
    return api.enqueue_job(
        "provision_project", {"project_id": project_id, "region": stack.region}
    ).job_id


def _state_entries(stack: RunningStack, job_id: str) -> int:
    machine = stack.outputs["StateMachineArn"]
    history = (
        stack.client("stepfunctions")
        .get_paginator("get_execution_history")
        .paginate(executionArn=f"{machine.replace(':stateMachine:', ':execution:')}:{job_id}")
    )
    return sum(e["type"].endswith("StateEntered") for page in history for e in page["events"])


def _names_of(stack: RunningStack, project_id: str) -> dict[str, list[str]]:
    """List everything outside DynamoDB that carries the project's name."""
    slug = project_id

    def ours(names: list[str]) -> list[str]:
        return sorted(name for name in names if slug in name)

    def pages(service: str, operation: str, **arguments: Any) -> list[dict[str, Any]]:
        found = stack.client(service).get_paginator(operation).paginate(**arguments)
        return list(found)

    with psycopg.connect(_admin(stack)) as connection:
        databases = [r[0] for r in connection.execute("SELECT datname FROM pg_database")]
    return {
        "databases": ours([name.replace("_", "-") for name in databases]),
        "pools": ours(
            [
                pool["Name"]
                for page in pages("cognito-idp", "list_user_pools", MaxResults=60)
                for pool in page["UserPools"]
            ]
        ),
        "apis": ours([a["name"] for p in pages("appsync", "list_apis") for a in p["apis"]]),
        "buckets": ours([b["Name"] for b in stack.client("s3").list_buckets()["Buckets"]]),
        "secrets": ours(
            [s["Name"] for p in pages("secretsmanager", "list_secrets") for s in p["SecretList"]]
        ),
    }


def _admin(stack: RunningStack) -> str:
    login = secret(stack, stack.admin_secret_name("postgresql"))
    return psycopg.conninfo.make_conninfo(
        host="127.0.0.1",
        port=stack.ports["postgresql"],
        user=login["username"],
        password=login["password"],
        dbname="postgres",
    )


def test_a_job_makes_everything_in_few_state_transitions_and_a_second_one_nothing(
    deployment: RunningStack,
) -> None:
    job = provisioned(deployment, "whole-project")

    result = result_of(job)
    assert {s.stage for s in job.stages if s.status is not api.StageStatus.SUCCEEDED} == {
        "CREATING_INSTANCE"
    }
    assert all(record.check for record in job.stages)
    login = secret(deployment, result.database.secret_arn)
    assert current_database(login["connection_string"]) == result.database.database_name
    assert login["password"] not in result.database.connection_string
    assert api.get_project("whole-project").result == job.result
    assert {name: len(found) for name, found in _names_of(deployment, "whole-project").items()} == {
        "databases": 1,
        "pools": 1,
        "apis": 1,
        "buckets": 1,
        "secrets": 2,
    }
    assert 0 < _state_entries(deployment, job.job_id) <= _MOST_STATE_ENTRIES

    before = _names_of(deployment, "whole-project")
    second = finished(_enqueue(deployment, "whole-project"))

    assert second.status is api.JobStatus.COMPLETED
    assert second.result == job.result
    assert _names_of(deployment, "whole-project") == before


def test_two_jobs_at_once_for_one_project_make_one_set_of_everything(
    deployment: RunningStack,
) -> None:
    api.create_project("contested")

    jobs = [finished(job_id) for job_id in [_enqueue(deployment, "contested") for _ in range(2)]]

    completed = [job for job in jobs if job.status is api.JobStatus.COMPLETED]
    refused = [job for job in jobs if job.status is api.JobStatus.FAILED]
    assert completed
    assert all(
        job.error is not None and job.error.type is ErrorType.PROJECT_BUSY for job in refused
    )
    assert all(job.result == completed[0].result for job in completed)
    assert {name: len(found) for name, found in _names_of(deployment, "contested").items()} == {
        "databases": 1,
        "pools": 1,
        "apis": 1,
        "buckets": 1,
        "secrets": 2,
    }
    result = result_of(completed[0])
    assert api.get_project("contested").status is api.ProjectStatus.ACTIVE
    plaintexts: list[str] = []
    api.claim_api_keys("contested", plaintexts.extend)
    keys = [api.verify_api_key(plaintext) for plaintext in plaintexts]
    assert sorted(key.key_id for key in keys if key) == sorted(k.key_id for k in result.api_keys)


def test_twenty_projects_at_once_are_all_provisioned_and_not_mixed_up(
    deployment: RunningStack,
) -> None:
    projects = [f"crowd-{number:02}" for number in range(20)]
    for project in projects:
        api.create_project(project)

    job_ids = {project: _enqueue(deployment, project) for project in projects}
    jobs = {project: finished(job_id) for project, job_id in job_ids.items()}

    assert {p: (j.status, j.error) for p, j in jobs.items()} == dict.fromkeys(
        projects, (api.JobStatus.COMPLETED, None)
    )
    results = {project: result_of(job) for project, job in jobs.items()}
    assert {project: result.project_id for project, result in results.items()} == {
        project: project for project in projects
    }
    for distinct in (
        {r.database.database_name for r in results.values()},
        {r.database.secret_arn for r in results.values()},
        {r.services.auth.tenant_id for r in results.values() if r.services.auth},
        {r.services.realtime.tenant_id for r in results.values() if r.services.realtime},
        {r.services.storage.bucket_name for r in results.values() if r.services.storage},
    ):
        assert len(distinct) == len(projects)
    logins = {p: secret(deployment, r.database.secret_arn) for p, r in results.items()}
    for number, project in enumerate(projects):
        own, other = logins[project], logins[projects[number - 1]]
        assert current_database(own["connection_string"]) == own["dbname"]
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(own["connection_string"], dbname=other["dbname"])
        plaintexts: list[str] = []
        api.claim_api_keys(project, plaintexts.extend)
        keys = [api.verify_api_key(plaintext) for plaintext in plaintexts]
        assert [key.project_id for key in keys if key is not None] == [project, project]
