"""Jobs that only wait, on the deployed template: stopped by hand, cancelled, retried."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable

import pytest
from provision_cli.local.stack import RunningStack
from provision_cli.main import main
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.provisioning.job_types import provision_project
from support.stack_jobs import cleaned_up, eventually, finished, slow_retries

#: Where the cluster cannot be reached, until a test lets it.
REGION = "eu-west-3"

#: Where nobody listens.
_CLOSED_PORT = 1


@pytest.fixture
def describe_cluster(deployment: RunningStack) -> Callable[[int], None]:
    """Return what says at which port the region's cluster is."""
    ssm, prefix = deployment.client("ssm"), deployment.outputs["ClusterParameterPrefix"]
    own = f"{prefix}/{deployment.region}/postgresql/local-1"
    cluster = json.loads(ssm.get_parameter(Name=own)["Parameter"]["Value"])

    def describe(port: int) -> None:
        ssm.put_parameter(
            Name=f"{prefix}/{REGION}/postgresql/far-1",
            Value=json.dumps(cluster | {"port": port}),
            Type="String",
            Overwrite=True,
        )

    return describe


@pytest.fixture
def waiting(deployment: RunningStack, describe_cluster: Callable[[int], None]) -> api.Job:
    """Return a job that waits for its database alone, which could be reached again by now."""
    describe_cluster(_CLOSED_PORT)
    project = f"waiting-{uuid.uuid4().hex[:12]}"
    api.create_project(project, owner_id=project)
    with slow_retries(deployment):
        job = api.enqueue_job(
            "provision_project",
            {
                "project_id": project,
                "region": REGION,
                "services": {"auth": False, "realtime": False},
            },
        )

        def waits_for_its_database_alone() -> bool:
            found = {record.stage: record.status for record in api.get_job(job.job_id).stages}
            others = [
                stage for branch in provision_project.RESOURCES.branches[1:] for stage in branch
            ]
            return found[provision_project.CREATING_DATABASE] is api.StageStatus.RETRYING and all(
                found[stage].is_terminal for stage in others
            )

        eventually(waits_for_its_database_alone, within=120)
    describe_cluster(deployment.ports["postgresql"])
    return job


def assert_is_undone(stack: RunningStack, job: api.Job) -> None:
    cleanup = cleaned_up(job.job_id)
    assert (cleanup.status, cleanup.remaining) == (api.JobStatus.COMPLETED, ())
    project = api.get_project(job.project_id)
    assert (project.locked_by, project.quota) == (None, None)
    buckets = [bucket["Name"] for bucket in stack.client("s3").list_buckets()["Buckets"]]
    assert not [name for name in buckets if job.project_id in name]


def test_a_job_whose_execution_is_stopped_by_hand_is_failed_and_undone(
    deployment: RunningStack, waiting: api.Job
) -> None:
    machine = deployment.outputs["StateMachineArn"].replace(":stateMachine:", ":execution:")
    deployment.client("stepfunctions").stop_execution(executionArn=f"{machine}:{waiting.job_id}")

    job = finished(waiting.job_id)

    assert job.status is api.JobStatus.FAILED
    assert job.error is not None
    assert (job.error.type, job.error.message) == (
        ErrorType.UNKNOWN_ERROR,
        "The job was stopped by hand before it had ended.",
    )
    assert [error.stage for error in job.other_errors] == [provision_project.CREATING_DATABASE]
    assert [entry.note for entry in job.history if entry.status == "REPAIRED"] == [
        "Nobody had told of its end: its execution was ABORTED."
    ]
    assert_is_undone(deployment, job)


def test_a_waiting_job_is_cancelled_at_once_and_its_retry_completes(
    deployment: RunningStack,
    waiting: api.Job,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PROVISION_LOCAL_DIRECTORY", str(deployment.directory))

    for _ in range(2):
        assert main(["cancel", waiting.job_id]) == 0
        assert capsys.readouterr().out == f"job {waiting.job_id} is CANCELLED.\n"

    cancelled = api.get_job(waiting.job_id)
    assert_is_undone(deployment, cancelled)
    assert main(["watch", waiting.job_id]) == 1
    assert f"job {waiting.job_id} is CANCELLED." in capsys.readouterr().err
    assert main(["retry", waiting.job_id]) == 0
    assert capsys.readouterr().out == f"job {waiting.job_id} is QUEUED, attempt 2.\n"
    job = finished(waiting.job_id)
    assert (job.status, job.attempt) == (api.JobStatus.COMPLETED, 2)
    assert job.history[: len(cancelled.history)] == cancelled.history
    assert main(["cancel", waiting.job_id]) == 1
    assert "is COMPLETED" in capsys.readouterr().err
