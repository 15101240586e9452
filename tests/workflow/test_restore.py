"""A project that is removed, provisioned again, and restored by `provision snapshots`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import psycopg
import pytest
from provision_cli.main import main
from provisioner import api
from provisioner.drivers.mysql import session
from provisioner.provisioning.engine import Engine
from psycopg import sql
from support.core import make_stack
from support.removal import provisioned
from support.tenant_server import each_engine, run_as_tenant
from support.workflow import REGION, Workflow

#: Runs `provision`; returns its exit code, what it showed and what it complained.
type Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    authorities = workflow.server.admin.root_certificates
    if authorities is not None:
        # A login that names none is verified by those that the system knows.
        monkeypatch.setenv("SSL_CERT_FILE", authorities)
        session._tls_context.cache_clear()
    make_stack(api.current_settings())
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["--stack", "provisioner", "--region", REGION, *arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    yield run
    session._tls_context.cache_clear()


def removed_and_provisioned_again(workflow: Workflow) -> api.Job:
    """Return the job that has removed a project with a hundred notes; it is provisioned again."""
    project_id = provisioned(workflow).project_id
    removal = workflow.execute_in_process(workflow.new_deprovision_job(project_id))
    assert removal.status is api.JobStatus.COMPLETED, removal.error
    again = workflow.execute_in_process(workflow.new_job(project_id))
    assert again.status is api.JobStatus.COMPLETED, again.error
    return removal


@each_engine
def test_a_project_comes_back_from_its_newest_snapshot(
    workflow: Workflow, command: Command
) -> None:
    removal = removed_and_provisioned_again(workflow)
    project_id, tenant = removal.project_id, workflow.tenant(removal.project_id)

    code, shown, complaint = command("snapshots", "list", project_id)

    _, row = (re.split(r"\s{2,}", line) for line in shown.splitlines())
    assert (code, complaint) == (0, "")
    assert (row[0], row[-1]) == (f"{project_id}/{removal.job_id}.dump", removal.job_id)

    code, shown, complaint = command("snapshots", "restore", project_id)

    assert (code, complaint) == (0, "")
    assert shown.startswith(
        f"snapshot {project_id}/{removal.job_id}.dump is restored into database {tenant.database}"
    )
    assert shown.count("\n") == 1
    count = "SELECT COUNT(*), MAX(id) FROM note"
    assert run_as_tenant(workflow.server, workflow.login(project_id), count) == [(100, 100)]

    code, shown, complaint = command(
        "snapshots", "restore", project_id, "--snapshot", removal.job_id[:8]
    )

    assert (code, shown) == (1, "")
    held = {Engine.POSTGRESQL: "table app.note", Engine.MYSQL: "table note"}[workflow.engine]
    assert f"is not empty: it holds {held}; empty it" in complaint


def test_a_snapshot_comes_back_into_the_database_that_a_url_names(
    workflow: Workflow, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    removal = removed_and_provisioned_again(workflow)
    other = workflow.execute_in_process(workflow.new_job(workflow.new_project())).project_id
    login = workflow.secret(workflow.names(other).database_secret)
    into = login["connection_string"].replace(f":{login['password']}@", "@")
    monkeypatch.setenv("PGPASSWORD", login["password"])

    code, shown, complaint = command("snapshots", "restore", removal.project_id, "--into", into)

    assert (code, complaint) == (0, "")
    assert f"is restored into database {login['dbname']} on 127.0.0.1:" in shown
    with psycopg.connect(into) as connection:
        assert connection.execute("SELECT count(*) FROM note").fetchone() == (100,)


def test_the_platforms_own_login_restores_nothing(workflow: Workflow, command: Command) -> None:
    removal = removed_and_provisioned_again(workflow)
    admin, database = workflow.cluster.admin, f"own_{removal.job_id.replace('-', '')[:12]}"
    with workflow.cluster.connect() as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(
                sql.Identifier(database), sql.Identifier(admin.user)
            )
        )
    try:
        code, shown, complaint = command(
            *("snapshots", "restore", removal.project_id, "--into"),
            f"postgresql://{admin.user}:{admin.password}@{admin.host}:{admin.port}/{database}",
        )
        with workflow.cluster.connect(database) as connection:
            found = connection.execute("SELECT to_regnamespace('app')").fetchone()
    finally:
        with workflow.cluster.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(database)))

    assert (code, shown, found) == (1, "", (None,))
    assert f"The role {admin.user} may create roles; a snapshot is a tenant's own code" in complaint
    assert admin.password not in complaint
