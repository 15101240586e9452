"""A job that fails for good ends in one process as on the state machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.jobs.stage import JobInput
from provisioner.ownership import Ownership
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types import provision_project
from provisioner.runtime import aws
from psycopg import sql
from support.workflow import FAILING_TOGETHER, NO_SERVICES, REGION, Deploy, Workflow

#: Prepares what fails and returns the job.
type Case = Callable[[Workflow], api.Job]

#: Services that a case does without are not waited for.

#: How a job is run, on the state machine first.
WAYS = (Workflow.execute, Workflow.execute_in_process)


def ends_alike(deploy: Deploy, case: Case) -> api.Job:
    """Run a case both ways, each in a deployment of its own; return the job of the last."""
    snapshots: list[dict[str, Any]] = []
    for run in WAYS:
        with deploy() as workflow:
            job = run(workflow, case(workflow))
            snapshots.append(workflow.snapshot(job, attempts=True))
    assert job.status is api.JobStatus.FAILED
    assert snapshots[0] == snapshots[1]
    return job


def errors_of(job: api.Job) -> list[tuple[str, ErrorType, int]]:
    """Return the stage, type and attempt of each error of a job, the job's own first."""
    assert job.error is not None
    return [(error.stage, error.type, error.attempt) for error in (job.error, *job.other_errors)]


def names_taken(workflow: Workflow) -> api.Job:
    """Let another deployment have made everything under the project's names."""
    project_id = workflow.new_project()
    workflow.take_names(project_id, Ownership("other", project_id, "job-1"))
    return workflow.new_job(project_id)


def schema_taken(workflow: Workflow) -> api.Job:
    """Let someone make the tenant schema right before the stage that would."""
    project_id = workflow.new_project()
    tenant = workflow.names(project_id).tenants[Engine.POSTGRESQL]

    def take(_job: JobInput, stage: str) -> None:
        if stage == provision_project.CREATING_SCHEMA:
            with workflow.cluster.connect(tenant.database) as connection:
                connection.execute(
                    sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(tenant.schema))
                )

    workflow.observers.append(take)
    return workflow.new_job(project_id, services=NO_SERVICES)


def before_finalizing(act: Callable[[Workflow, str], object]) -> Case:
    """Let something happen to the project while FINALIZING begins."""

    def case(workflow: Workflow) -> api.Job:
        project_id = workflow.new_project(owner_id="ada")

        def meanwhile(_job: JobInput, stage: str) -> None:
            if stage == provision_project.FINALIZING:
                act(workflow, project_id)

        workflow.observers.append(meanwhile)
        return workflow.new_job(project_id, services=NO_SERVICES)

    return case


def remove_project(workflow: Workflow, project_id: str) -> None:
    # Its item alone says which places it holds: nobody can give them back any more.
    project = workflow.projects.get(project_id)
    assert project is not None
    workflow.set_places.update(
        [str(project.quota), f"cluster#{project.region}/{project.engine}/{project.cluster_id}"]
    )
    aws.client("dynamodb").delete_item(
        TableName=workflow.settings.projects_table, Key={"project_id": {"S": project_id}}
    )


def take_project(workflow: Workflow, project_id: str) -> None:
    aws.client("dynamodb").update_item(
        TableName=workflow.settings.projects_table,
        Key={"project_id": {"S": project_id}},
        UpdateExpression="SET locked_by = :other",
        ExpressionAttributeValues={":other": {"S": "another-job"}},
    )


def busy(workflow: Workflow) -> api.Job:
    project_id = workflow.new_project(owner_id="ada")
    project = workflow.projects.get(project_id)
    assert project is not None
    workflow.projects.lock(project, "another-job", quota="owner#ada", default_limit=10)
    return workflow.new_job(project_id)


def set_quota(workflow: Workflow, quota: str, **values: int) -> None:
    workflow.set_places[quota] = values.get("used", 0)
    numbers = {name: {"N": str(number)} for name, number in values.items()}
    aws.client("dynamodb").put_item(
        TableName=workflow.settings.quotas_table, Item={"quota": {"S": quota}, **numbers}
    )


def no_project_left(workflow: Workflow) -> api.Job:
    set_quota(workflow, "owner#ada", limit=3, used=3)
    return workflow.new_job(workflow.new_project(owner_id="ada"))


def no_tenant_left(workflow: Workflow) -> api.Job:
    set_quota(workflow, f"cluster#{REGION}/postgresql/test-1", used=100)
    return workflow.new_job(workflow.new_project(), services=NO_SERVICES)


#: What fails, and the errors that the job ends with.
CASES: dict[str, tuple[Case, list[tuple[str, ErrorType, int]]]] = {
    "names_taken": (
        names_taken,
        # User pools and Event APIs may have the same name.
        [
            (stage, ErrorType.CONFLICT, 1)
            for stage in FAILING_TOGETHER[1]
            if stage
            not in {provision_project.REGISTERING_AUTH, provision_project.REGISTERING_REALTIME}
        ],
    ),
    "schema_taken": (schema_taken, [(provision_project.CREATING_SCHEMA, ErrorType.CONFLICT, 1)]),
    "no_project": (
        lambda workflow: workflow.new_job("no-such-project"),
        [(provision_project.INITIALIZING, ErrorType.PROJECT_NOT_FOUND, 1)],
    ),
    "project_removed": (
        before_finalizing(remove_project),
        [(provision_project.FINALIZING, ErrorType.CONFLICT, 1)],
    ),
    "project_busy": (busy, [(provision_project.INITIALIZING, ErrorType.PROJECT_BUSY, 1)]),
    "project_taken": (
        before_finalizing(take_project),
        [(provision_project.FINALIZING, ErrorType.CONFLICT, 1)],
    ),
    "no_project_left": (
        no_project_left,
        [(provision_project.INITIALIZING, ErrorType.QUOTA_EXCEEDED, 1)],
    ),
    "no_tenant_left": (
        no_tenant_left,
        [(provision_project.CREATING_DATABASE, ErrorType.QUOTA_EXCEEDED, 1)],
    ),
    "unsupported": (
        lambda workflow: workflow.new_job(workflow.new_project(), database={"engine": "mysql"}),
        [(provision_project.INITIALIZING, ErrorType.INVALID_PAYLOAD, 1)],
    ),
}


@pytest.mark.parametrize(("case", "errors"), CASES.values(), ids=CASES)
def test_by_what_it_meets(
    deploy: Deploy, case: Case, errors: list[tuple[str, ErrorType, int]]
) -> None:
    assert errors_of(ends_alike(deploy, case)) == errors
