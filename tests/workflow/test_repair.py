"""Repairs of a project that is ACTIVE: what has drifted is found, put right and told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from provisioner import api
from provisioner.drivers.drift import MADE_AGAIN
from provisioner.errors import ErrorType, failure
from provisioner.jobs.models import StageStatus
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types.repair_project import JOB_TYPE, RepairProjectResult
from provisioner.runtime import aws
from support.calls import SQL
from support.changes import logs_in, plainly_provisioned
from support.effects import effects
from support.removal import provisioned, statuses
from support.tenant_server import each_engine
from support.workflow import REGION, Fault, Point, Run, Workflow, each_way

REPAIRING = [
    stage for stage in JOB_TYPE.stages if stage.startswith("REPAIRING") and not stage.runs_if
]

#: What a stage writes of itself: its start, and its end.
_OWN_RECORDS = ["TransactWriteItems", "TransactWriteItems"]


def new_repair(workflow: Workflow, project_id: str) -> api.Job:
    return workflow.new_change(JOB_TYPE.name, project_id)


def reported(job: api.Job) -> RepairProjectResult:
    assert job.status is api.JobStatus.COMPLETED, job.error
    return RepairProjectResult.model_validate(job.result)


def repaired(job: api.Job) -> set[tuple[str, str]]:
    return {(drift.resource, drift.what) for drift in reported(job).repaired}


def remaining(job: api.Job) -> set[tuple[str, str]]:
    return {(drift.resource, drift.what) for drift in reported(job).remaining}


def drift_services(result: dict[str, Any]) -> set[tuple[str, str]]:
    """Change all that is compared of a project's services; return how that is told."""
    auth, realtime, storage = (result["services"][n] for n in ("auth", "realtime", "storage"))
    cognito = aws.client("cognito-idp", REGION)
    cognito.update_user_pool(
        UserPoolId=auth["tenant_id"],
        AutoVerifiedAttributes=[],
        Policies={"PasswordPolicy": {"MinimumLength": 6}},
        UserPoolTags=cognito.describe_user_pool(UserPoolId=auth["tenant_id"])["UserPool"][
            "UserPoolTags"
        ],
    )
    cognito.update_user_pool_client(
        UserPoolId=auth["tenant_id"],
        ClientId=auth["client_id"],
        ExplicitAuthFlows=["ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
        PreventUserExistenceErrors="LEGACY",
        EnableTokenRevocation=False,
    )
    appsync = aws.client("appsync", REGION)
    keys = [{"authType": "API_KEY"}]
    appsync.update_api(
        apiId=realtime["tenant_id"],
        name=appsync.get_api(apiId=realtime["tenant_id"])["api"]["name"],
        eventConfig={
            "authProviders": keys,
            "connectionAuthModes": keys,
            "defaultPublishAuthModes": keys,
            "defaultSubscribeAuthModes": keys,
        },
    )
    appsync.delete_channel_namespace(apiId=realtime["tenant_id"], name="default")
    s3, bucket = aws.client("s3", REGION), storage["bucket_name"]
    s3.delete_public_access_block(Bucket=bucket)
    s3.delete_bucket_encryption(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    s3.delete_bucket_lifecycle(Bucket=bucket)
    s3.put_bucket_policy(
        Bucket=bucket,
        Policy=json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Sid": "OfTheCustomer",
                        "Effect": "Deny",
                        "Principal": {"AWS": "*"},
                        "Action": "s3:GetObjectTorrent",
                        "Resource": f"arn:aws:s3:::{bucket}/*",
                    }
                ],
            }
        ),
    )
    return {
        # What an update does not name, it resets.
        *(
            (f"user pool {auth['tenant_id']}", what)
            for what in ("AutoVerifiedAttributes", "Policies", "AccountRecoverySetting")
        ),
        *(
            (f"app client {auth['client_id']}", what)
            for what in ("ExplicitAuthFlows", "PreventUserExistenceErrors", "EnableTokenRevocation")
        ),
        *(
            (f"Event API {realtime['tenant_id']}", what)
            for what in (
                *("authProviders", "connectionAuthModes"),
                *("defaultPublishAuthModes", "defaultSubscribeAuthModes"),
            )
        ),
        ("channel namespace default", MADE_AGAIN),
        *(
            (f"bucket {bucket}", what)
            for what in ("public access block", "encryption", "versioning", "policy", "lifecycle")
        ),
    }


@each_way
def test_a_repair_of_a_project_in_order_changes_nothing(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    first = provisioned(workflow)
    before = workflow.snapshot(first)
    with effects(workflow, monkeypatch, lambda _effect, _attempt: None) as attempts:
        job = run(workflow, new_repair(workflow, first.project_id))
    made = {a.stage: [effect.name for effect in a.effects] for a in attempts}
    assert {stage: made[stage] for stage in REPAIRING} == dict.fromkeys(REPAIRING, _OWN_RECORDS)
    result = reported(job)
    assert (result.repaired, result.remaining) == ([], [])
    assert len(result.checked) == len(REPAIRING)
    skipped = {s for s, status in statuses(job).items() if status is not StageStatus.SUCCEEDED}
    assert skipped == {"REPAIRING_INSTANCE"}
    assert workflow.snapshot(first) == before
    # A project that is provisioned already still is so at once.
    again = workflow.execute_in_process(workflow.new_job(first.project_id))
    assert again.result == first.result


@pytest.mark.parametrize(
    ("engine", "run"),
    [
        (Engine.POSTGRESQL, Workflow.execute),
        (Engine.POSTGRESQL, Workflow.execute_in_process),
        (Engine.MYSQL, Workflow.execute),
    ],
    ids=["state_machine", "in_process", "mysql"],
)
def test_all_that_has_drifted_is_found_and_put_right_in_one_repair(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    first = provisioned(workflow)
    assert first.result is not None
    with effects(workflow, monkeypatch, lambda _effect, _attempt: None) as attempts:
        drifted = drift_services(first.result) | workflow.server.drift(
            workflow.tenant(first.project_id)
        )
        job = run(workflow, new_repair(workflow, first.project_id))
    assert repaired(job) == drifted
    assert remaining(job) == set()
    made = [effect.name for a in attempts for effect in a.effects if effect.name != SQL]
    assert sorted(set(made) - {"TransactWriteItems"}) == [
        "CreateChannelNamespace",
        "PutBucketEncryption",
        "PutBucketLifecycleConfiguration",
        "PutBucketPolicy",
        "PutBucketVersioning",
        "PutPublicAccessBlock",
        "UpdateApi",
        "UpdateUserPool",
        "UpdateUserPoolClient",
    ]
    project = api.get_project(first.project_id)
    assert (project.status, project.locked_by) == (api.ProjectStatus.ACTIVE, None)
    assert project.result == first.result
    assert logs_in(workflow, first.project_id)
    again = run(workflow, new_repair(workflow, first.project_id))
    assert (repaired(again), remaining(again)) == (set(), set())


def test_services_that_the_project_does_without_are_skipped(workflow: Workflow) -> None:
    project_id = plainly_provisioned(workflow)
    job = workflow.execute(new_repair(workflow, project_id))
    assert (repaired(job), remaining(job)) == (set(), set())
    skipped = {name for name, status in statuses(job).items() if status is StageStatus.SKIPPED}
    assert skipped == {
        "REPAIRING_INSTANCE",
        "REPAIRING_AUTH",
        "REPAIRING_REALTIME",
        "REPAIRING_STORAGE",
    }
    assert reported(job).checked[2:] == [
        "the project does without auth",
        "the project does without realtime",
        "the project does without storage",
    ]


def test_what_is_missing_is_named_and_not_made(workflow: Workflow) -> None:
    first = provisioned(workflow)
    assert first.result is not None
    services = first.result["services"]
    names = workflow.names(first.project_id)
    aws.client("cognito-idp", REGION).delete_user_pool(UserPoolId=services["auth"]["tenant_id"])
    aws.client("appsync", REGION).delete_api(apiId=services["realtime"]["tenant_id"])
    aws.client("s3", REGION).delete_bucket(Bucket=workflow.bucket(first.project_id))
    workflow.server.drop_database(workflow.tenant(first.project_id))
    before = workflow.remains(first.project_id)
    project = api.get_project(first.project_id)
    job = workflow.execute(new_repair(workflow, first.project_id))
    assert job.status is api.JobStatus.FAILED
    assert job.error is not None
    errors = {error.stage: error for error in (job.error, *job.other_errors)}
    missing = {
        "REPAIRING_DATABASE": f"database {names.tenants[Engine.POSTGRESQL].database}",
        "REPAIRING_AUTH": f"user pool {services['auth']['tenant_id']}",
        "REPAIRING_REALTIME": f"Event API {services['realtime']['tenant_id']}",
        "REPAIRING_STORAGE": f"bucket {workflow.bucket(first.project_id)}",
    }
    assert errors.keys() == missing.keys()
    for stage, what in missing.items():
        assert f"The {what} of the project is not there" in errors[stage].message
        assert "deprovision the project and provision it again" in errors[stage].message
    assert workflow.remains(first.project_id) == before
    assert api.get_project(first.project_id) == project


def test_a_login_that_is_missing_is_named_and_not_made(workflow: Workflow) -> None:
    project_id = plainly_provisioned(workflow)
    secret = workflow.names(project_id).database_secret
    aws.client("secretsmanager").delete_secret(SecretId=secret)
    job = workflow.execute(new_repair(workflow, project_id))
    assert job.error is not None
    assert job.error.type is ErrorType.DATABASE_CHANGE_FAILED
    assert f"The secret {secret}" in job.error.message
    aws.client("secretsmanager").restore_secret(SecretId=secret)
    assert repaired(workflow.execute(new_repair(workflow, project_id))) == set()


def test_an_app_client_that_is_made_again_stands_in_the_project(workflow: Workflow) -> None:
    first = provisioned(workflow)
    assert first.result is not None
    auth = first.result["services"]["auth"]
    aws.client("cognito-idp", REGION).delete_user_pool_client(
        UserPoolId=auth["tenant_id"], ClientId=auth["client_id"]
    )
    job = workflow.execute(new_repair(workflow, first.project_id))
    project = api.get_project(first.project_id)
    assert project.result is not None
    made = project.result["services"]["auth"]["client_id"]
    assert made != auth["client_id"]
    assert repaired(job) == {(f"app client {made}", MADE_AGAIN)}
    auth["client_id"] = made
    assert project.result == first.result
    assert repaired(workflow.execute(new_repair(workflow, first.project_id))) == set()


def test_a_cluster_that_is_described_otherwise_is_told_and_no_secret_is_written(
    workflow: Workflow,
) -> None:
    project_id = plainly_provisioned(workflow)
    secret = workflow.names(project_id).database_secret
    before = workflow.secret(secret)
    ssm = aws.client("ssm")
    name = f"{workflow.settings.cluster_parameter_prefix}/{REGION}/postgresql/test-1"
    described = json.loads(ssm.get_parameter(Name=name)["Parameter"]["Value"])
    changed = {**described, "sslmode": "prefer"}
    ssm.put_parameter(Name=name, Value=json.dumps(changed), Overwrite=True)
    job = workflow.execute(new_repair(workflow, project_id))
    assert repaired(job) == {("result of the project", "database.connection_string")}
    assert remaining(job) == {(f"secret {secret}", "connection_string")}
    assert workflow.secret(secret) == before
    project = api.get_project(project_id)
    assert project.result is not None
    assert project.result["database"]["connection_string"].endswith("?sslmode=prefer")
    workflow.execute(workflow.new_change("rotate_database_password", project_id))
    again = workflow.execute(new_repair(workflow, project_id))
    assert (repaired(again), remaining(again)) == (set(), set())


@each_engine
def test_no_value_of_a_secret_is_told(workflow: Workflow) -> None:
    project_id = plainly_provisioned(workflow)
    login = workflow.login(project_id)
    tenant = workflow.tenant(project_id)
    workflow.server.set_password(tenant, "other")
    with workflow.logged() as lines:
        job = workflow.execute(new_repair(workflow, project_id))
    kind = {Engine.POSTGRESQL: "role", Engine.MYSQL: "user"}[workflow.engine]
    assert remaining(job) == {(f"{kind} {tenant.app_role}", "PASSWORD")}
    told = repr(workflow.jobs.get(job.job_id)) + lines.getvalue()
    assert login["password"] not in told
    assert not logs_in(workflow, project_id)


@pytest.mark.parametrize("stage", ["REPAIRING_SCHEMA", "REPAIRING_STORAGE", "FINALIZING"])
def test_a_repair_that_fails_releases_the_project_and_a_retry_ends_it(
    workflow: Workflow, stage: str
) -> None:
    project_id = plainly_provisioned(workflow)
    drifted = workflow.server.drift(workflow.tenant(project_id))
    workflow.faults[stage] = Fault(
        Point.BEFORE, lambda: failure(ErrorType.QUOTA_EXCEEDED, "Injected.")
    )
    failed = workflow.execute(new_repair(workflow, project_id))
    assert failed.error is not None
    assert (failed.status, failed.error.stage) == (api.JobStatus.FAILED, stage)
    assert api.get_project(project_id).locked_by is None
    # What was put right before it failed stands in its stages.
    told = {
        (drift["resource"], drift["what"])
        for record in failed.stages
        for drift in record.output.get("repaired", [])
    }
    workflow.jobs.retry(failed)
    job = workflow.execute(workflow.jobs.get(failed.job_id))
    assert told | repaired(job) == drifted
    assert not told & repaired(job)
    assert repaired(workflow.execute(new_repair(workflow, project_id))) == set()


def test_only_a_project_that_is_there_and_active_is_repaired(workflow: Workflow) -> None:
    for project_id, error_type, said in (
        ("none-such", ErrorType.PROJECT_NOT_FOUND, "create it first"),
        (workflow.new_project(), ErrorType.INVALID_PAYLOAD, "is CREATED"),
    ):
        job = workflow.execute(new_repair(workflow, project_id))
        assert job.error is not None
        assert (job.error.type, job.error.stage) == (error_type, "INITIALIZING")
        assert said in job.error.message
