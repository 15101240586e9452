"""The rotation of the platform's own login on a cluster: what it leaves, and what it refuses."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.provisioning.job_types.rotate_cluster_login import ROTATING_LOGIN
from provisioner.runtime import aws
from support.calls import Within, changed, operation
from support.changes import plainly_provisioned
from support.cluster_login import SECRET, OwnLogin, log_in_as_operator
from support.leaks import leaks
from support.tenant_server import each_engine
from support.workflow import REGION, Fault, Run, Workflow, each_way


@each_engine
@each_way
def test_the_new_login_is_current_and_open_sessions_go_on(
    workflow: Workflow, login: OwnLogin, run: Run
) -> None:
    plainly_provisioned(workflow, keys=1)
    with log_in_as_operator(login, login.first_password) as session:
        job = run(workflow, login.new_job())
        session.cursor().execute("SELECT 1")
    login.check_rotated(job)
    versions = login.versions()
    assert versions["AWSPREVIOUS"] == {
        "username": login.user,
        "password": login.first_password,
        "note": "kept",
    }
    new = versions["AWSCURRENT"]["password"]
    assert len(new) == 41
    assert new.isalnum()
    # The functions have kept the old one.
    plainly_provisioned(workflow, keys=1)

    again = run(workflow, login.new_job())
    login.check_rotated(again)
    assert login.versions()["AWSPREVIOUS"]["password"] == new


@each_engine
def test_no_password_stands_where_it_must_not(workflow: Workflow, login: OwnLogin) -> None:
    with workflow.logged() as log:
        job = workflow.execute(login.new_job())
    login.check_rotated(job)
    told = [("execution", json.dumps(event, default=str)) for event in workflow.history(job)]
    told += [
        ("table", json.dumps(item))
        for table in aws.client("dynamodb").list_tables()["TableNames"]
        for item in aws.client("dynamodb").scan(TableName=table)["Items"]
    ]
    told += [("log", log.getvalue()), ("server log", workflow.server.log.read_text())]
    assert leaks([login.versions()["AWSCURRENT"]["password"]], told) == []


def test_postgresql_is_sent_a_verifier(workflow: Workflow, login: OwnLogin) -> None:
    login.check_rotated(workflow.execute(login.new_job()))
    with workflow.cluster.connect() as connection:
        (stored,) = connection.execute(
            "SELECT rolpassword FROM pg_authid WHERE rolname = %s", (login.user,)
        ).fetchone() or ("",)
    assert stored.startswith("SCRAM-SHA-256$")


def _refusal(workflow: Workflow, login: OwnLogin, **payload: Any) -> api.StoredError:
    """Return the error of a job that changes nothing."""
    before = login.versions()
    job = workflow.execute(login.new_job(**payload))
    assert job.error is not None
    assert login.versions() == before
    assert login.takes(login.first_password)
    return job.error


@pytest.mark.parametrize(
    ("described", "words"),
    [
        ({"OwningService": "rds"}, "is managed by rds; let that service rotate it"),
        ({"RotationEnabled": True}, "use `aws secretsmanager rotate-secret`"),
    ],
    ids=["managed", "rotated"],
)
def test_a_secret_that_another_rotates_is_refused(
    workflow: Workflow, login: OwnLogin, described: dict[str, Any], words: str
) -> None:
    workflow.faults[ROTATING_LOGIN] = Fault(
        Within(operation("DescribeSecret"), changed(lambda _: described))
    )
    error = _refusal(workflow, login)
    assert error.type is ErrorType.INVALID_PAYLOAD
    assert error.message.startswith(f"cluster_id: the admin secret of test-1, {SECRET}, ")
    assert words in error.message


def _describe(workflow: Workflow, name: str, **changed: Any) -> None:
    """Write the parameter of another cluster: the deployment's, but for what is changed."""
    first = aws.client("ssm").get_parameter(
        Name=f"/test/clusters/{REGION}/{workflow.engine}/test-1"
    )["Parameter"]["Value"]
    aws.client("ssm").put_parameter(
        Name=f"/test/clusters/{name}", Type="String", Value=json.dumps(json.loads(first) | changed)
    )


def test_a_secret_that_opens_another_server_is_refused(workflow: Workflow, login: OwnLogin) -> None:
    _describe(workflow, f"{REGION}/postgresql/same-server")
    _describe(workflow, "us-east-1/mysql/elsewhere", admin_secret_arn=SECRET, host="elsewhere")
    error = _refusal(workflow, login)
    assert error.type is ErrorType.INVALID_PAYLOAD
    assert "is that of the cluster elsewhere of us-east-1 as well" in error.message

    aws.client("ssm").delete_parameter(Name="/test/clusters/us-east-1/mysql/elsewhere")
    # One that is wrong, and one of another kind, keep nobody out.
    _describe(workflow, "us-east-1/mysql/wrong", max_tenants="many", host="elsewhere")
    _describe(workflow, f"{REGION}/dedicated/mysql", host="elsewhere")
    login.check_rotated(workflow.execute(login.new_job()))


def test_a_cluster_that_is_not_described_is_refused(workflow: Workflow, login: OwnLogin) -> None:
    error = _refusal(workflow, login, cluster_id="test-2")
    assert error.type is ErrorType.INVALID_PAYLOAD
    assert error.message == (
        f"cluster_id: no postgresql cluster test-2 of {REGION} is described; name one that has a "
        "parameter."
    )


@each_engine
def test_a_login_that_the_server_does_not_take_is_told_of(
    workflow: Workflow, login: OwnLogin
) -> None:
    login.driver(login.first_password).change_admin_password("SetByHand0123456789")
    job = workflow.execute(login.new_job())
    assert job.error is not None
    assert job.error.type is ErrorType.INSUFFICIENT_PERMISSIONS
    assert SECRET in job.error.message
    assert set(login.versions()) == {"AWSCURRENT", "AWSPREVIOUS"}
    # As the message says.
    login.driver("SetByHand0123456789").change_admin_password(login.first_password)
    workflow.jobs.retry(job)
    login.check_rotated(workflow.execute(workflow.jobs.get(job.job_id)))


def test_the_log_names_no_password_where_the_server_refuses_it(
    workflow: Workflow, login: OwnLogin, caplog: pytest.LogCaptureFixture
) -> None:
    login.driver(login.first_password).change_admin_password("SetByHand0123456789")
    with caplog.at_level(logging.DEBUG), workflow.logged() as log:
        workflow.execute(login.new_job())
    assert leaks([login.first_password], [("log", log.getvalue() + caplog.text)]) == []
