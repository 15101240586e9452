"""A job type of one's own: written by the program into a copy of this project, and deployed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from provision_cli.local.stack import LocalStack, RunningStack
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.jobs.records import NewJob
from provisioner.jobs.store import JobStore
from provisioner.runtime import aws
from support.local_stack import connect
from support.project import ROOT
from support.stack_jobs import eventually, finished, slow_retries

FAILS, WAITS = "archive_project", "wait_for_room"

MODULES = Path("layers", "provisioner", "provisioner", "provisioning", "job_types")

#: What is no part of the project, or takes long to copy and is not deployed.
LEFT_OUT = (".git", ".venv", ".tools", ".local", ".aws-sam", "*_cache", "__pycache__", "tests")


#: What their authors have edited: how the text stood before, and how it stands after.
EDITS = {
    FAILS: (
        (
            "from provisioner.jobs.definition",
            "from provisioner.errors import ErrorType, failure\nfrom provisioner.jobs.definition",
        ),
        (
            "    project = read_project(job, projects)\n",
            """    project = read_project(job, projects)
    if payload.reason == "fail":
        raise failure(ErrorType.NETWORK_ERROR, "The archive does not answer.")
""",
        ),
    ),
    # It holds nothing, so that its end waits for no poll which may be at work.
    WAITS: (
        ("import JobInput, StageOutcome\n", "import JobInput, StageOutcome, Waiting\n"),
        ("-> StageOutcome:", "-> StageOutcome | Waiting:"),
        (
            "    project = read_project(job, projects)\n",
            """    project = read_project(job, projects)
    if payload.reason == "wait":
        return Waiting("The archive has no room.")
""",
        ),
        ('    state="Look",\n', '    state="Look",\n    waits_seconds=3600,\n'),
        ("import ACQUIRING, RELEASE, RELEASING", "import CONCLUDING, FINDING"),
        ("steps=(ACQUIRING, LOOKING, RELEASING)", "steps=(FINDING, LOOKING, CONCLUDING)"),
        ("import FailureHandling, JobDefinition, Stage", "import JobDefinition, Stage"),
        ("    on_failure=FailureHandling(release=RELEASE),\n", ""),
    ),
}


@dataclass(frozen=True, slots=True)
class OwnProject:
    """A copy of this project, with its own program and its own local stack."""

    root: Path
    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        """What leads Python to the copy's modules, and its program to its own stack."""
        layer = self.root / "layers" / "provisioner"
        return {
            **os.environ,
            "PYTHONPATH": f"{self.root / 'cli'}{os.pathsep}{layer}",
            "PROVISION_LOCAL_DIRECTORY": str(self.directory),
        }

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Run the copy's program; return what it says."""
        ran = subprocess.run(
            [sys.executable, "-c", "from provision_cli.entry import run; run()", *arguments],
            cwd=self.root,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    def enqueue(self, project_id: str, reason: str = "", *, job_type: str = FAILS) -> str:
        """Enqueue a job of an own type; return its id."""
        payload = json.dumps({"project_id": project_id, "reason": reason})
        return self.run("enqueue", "--job-type", job_type, "--payload", "-", stdin=payload)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> OwnProject:
    """Return a copy of the project in which the program has written two job types.

    Where its payload asks for that, a stage of the one fails, and of the other waits.
    """
    folder = tmp_path_factory.mktemp("own-job-type")
    root = folder / "project"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (root / ".tools").symlink_to(ROOT / ".tools")
    project = OwnProject(root, folder / "stack")
    for name, edits in EDITS.items():
        module = MODULES / f"{name}.py"
        assert f"wrote {module}" in project.run("new", "job-type", name).splitlines()
        text = (root / module).read_text()
        for before, after in edits:
            assert text.count(before) == 1, before
            text = text.replace(before, after)
        (root / module).write_text(text)
    subprocess.run(  # as `make state-machines` does
        [sys.executable, "-m", "provision_cli.job_types"],
        cwd=root,
        env=project.environment,
        check=True,
    )
    return project


@pytest.fixture
def running(own: OwnProject, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningStack]:
    """Deploy the copy, and let the public API talk to it."""
    stack = LocalStack(own.directory, root=own.root, has_usual_ports=False)
    running = stack.up()
    connect(running, monkeypatch)
    yield running
    aws.reset()
    stack.down()


def active_project(stack: RunningStack, project_id: str) -> str:
    """Create a project that is ACTIVE, though it has nothing: the own job type asks for no more."""
    api.create_project(project_id)
    stack.client("dynamodb").update_item(
        TableName=stack.outputs["ProjectsTableName"],
        Key={"project_id": {"S": project_id}},
        UpdateExpression="SET #status = :active",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues={":active": {"S": api.ProjectStatus.ACTIVE}},
    )
    return project_id


def stage_of(job: api.Job, stage: str) -> api.StageRecord:
    return next(record for record in job.stages if record.stage == stage)


def test_a_job_type_that_the_program_has_written_runs_as_every_other(
    own: OwnProject, running: RunningStack
) -> None:
    completes(own, running)
    fails_after_its_retries(own, running)
    waits_and_is_cancelled(own, running)
    says_that_its_state_machine_is_missing(own, running)
    is_swept_beside_a_job_of_an_unknown_type(own, running)


def completes(own: OwnProject, stack: RunningStack) -> None:
    project_id = active_project(stack, "completes")

    job = finished(own.enqueue(project_id, "tidy"))

    assert (job.status, job.error) == (api.JobStatus.COMPLETED, None)
    assert job.result == {"project_id": project_id, "status": "ACTIVE", "reason": "tidy"}
    assert all(record.check for record in job.stages)
    assert api.get_project(project_id).locked_by is None


def fails_after_its_retries(own: OwnProject, stack: RunningStack) -> None:
    project_id = active_project(stack, "fails")

    job = finished(own.enqueue(project_id, "fail"))

    assert job.status is api.JobStatus.FAILED
    assert job.error is not None
    assert (job.error.type, job.error.stage, job.error.attempt, job.error.message) == (
        ErrorType.NETWORK_ERROR,
        "LOOKING",
        3,
        "The archive does not answer.",
    )
    assert not job.cleanup_job_id
    assert api.get_project(project_id).locked_by is None


def waits_and_is_cancelled(own: OwnProject, stack: RunningStack) -> None:
    project_id = active_project(stack, "cancelled")
    with slow_retries(stack):
        job_id = own.enqueue(project_id, "wait", job_type=WAITS)
        (wait,) = eventually(lambda: api.get_job(job_id).waits)
        assert (wait.stage, wait.waiting_for) == ("LOOKING", "The archive has no room.")

        assert own.run("cancel", job_id) == f"job {job_id} is CANCELLED."


def says_that_its_state_machine_is_missing(own: OwnProject, stack: RunningStack) -> None:
    project_id = active_project(stack, "missing")
    machines = stack.client("stepfunctions")
    arn = stack.outputs["StateMachineArnPrefix"] + FAILS
    machine = machines.describe_state_machine(stateMachineArn=arn)
    machines.delete_state_machine(stateMachineArn=arn)

    job_id = own.enqueue(project_id)
    job = eventually(lambda: api.get_job(job_id) if api.get_job(job_id).error else None, within=10)

    assert job.status is api.JobStatus.FAILED
    assert job.error is not None
    assert job.error.type is ErrorType.JOB_TYPE_NOT_DEPLOYED
    assert f"there is no state machine {machine['name']}" in job.error.message
    (letter,) = eventually(lambda: [one for one in api.list_dead_letters() if one.job_id == job_id])
    assert (letter.error_type, letter.reason) == (job.error.type, job.error.message)

    # Deployed again, its message runs it.
    machines.create_state_machine(
        **{name: machine[name] for name in ("name", "definition", "roleArn")}
    )
    assert "runs again, as attempt 2" in own.run("dlq", "redrive", "--job", job_id, "--again")
    again = finished(job_id)
    assert (again.status, again.attempt) == (api.JobStatus.COMPLETED, 2)


def is_swept_beside_a_job_of_an_unknown_type(own: OwnProject, stack: RunningStack) -> None:
    jobs = JobStore(stack.client("dynamodb"), stack.outputs["JobsTableName"])
    jobs.create(NewJob("of-older-code", "gone", {"project_id": "shop"}, ("DOING",)))
    project_id = active_project(stack, "silent")
    rules = stack.client("events")
    for rule in rules.list_rules()["Rules"]:
        rules.disable_rule(Name=rule["Name"])
    with slow_retries(stack):
        job_id = own.enqueue(project_id, "fail")
        eventually(
            lambda: stage_of(api.get_job(job_id), "LOOKING").status is api.StageStatus.RETRYING
        )
        executions = stack.outputs["StateMachineArnPrefix"].replace(":stateMachine:", ":execution:")
        stack.client("stepfunctions").stop_execution(executionArn=f"{executions}{FAILS}:{job_id}")

        answer = stack.client("lambda").invoke(
            FunctionName=stack.outputs["ReconcilerFunctionName"],
            Payload=json.dumps({"detail-type": "Scheduled Event"}),
        )

    assert json.load(answer["Payload"]) == {"reconciled": 2, "repaired": 1}
    job = api.get_job(job_id)
    assert job.status is api.JobStatus.FAILED
    assert job.error is not None
    assert job.error.message == "The job was stopped by hand before it had ended."
    assert api.get_project(project_id).locked_by is None
