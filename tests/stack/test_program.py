"""The program `provision` on a stack that runs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from botocore.exceptions import ClientError
from provision_cli.demo import new_project
from provision_cli.local.stack import LocalStack, RunningStack
from provision_cli.main import main
from provisioner import api
from provisioner.errors import ErrorType
from support.leaks import messages
from support.project import ROOT
from support.stack_jobs import (
    NO_SERVICES,
    current_database,
    finished,
    provisioned,
    result_of,
    secret,
)

_PROGRAM = Path(sys.executable).with_name("provision")


class Program:
    """Runs the program on the stack of the tests."""

    def __init__(self, stack: RunningStack, captured: pytest.CaptureFixture[str]) -> None:
        self.stack = stack
        self._captured = captured

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Return what it prints, or, where it is to fail, what it complains of."""
        ended = main(arguments)
        captured = self._captured.readouterr()
        assert ended == code, captured
        if code == 0:
            return captured.out
        assert captured.err.count("\n") == 1
        return captured.err


@pytest.fixture
def program(
    deployment: RunningStack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Program:
    monkeypatch.setenv("PROVISION_LOCAL_DIRECTORY", str(deployment.directory))
    return Program(deployment, capsys)


def test_a_project_from_its_creation_to_its_keys(program: Program) -> None:
    assert program("project", "create", "by-hand", "--owner", "me") == (
        "project by-hand is CREATED.\n"
    )
    job_id = program("enqueue", "--project", "by-hand").strip()

    watched = program("watch", job_id)

    job = api.get_job(job_id)
    for record in job.stages:
        shown = (
            r"SKIPPED .*\w"
            if record.stage == "CREATING_INSTANCE"
            else r"SUCCEEDED +attempt 1 of 3 .* s  \w"
        )
        assert re.search(rf"{record.stage} +{shown}", watched)
    assert json.loads(watched[watched.index("\n{") :]) == job.result
    assert job_id in program("jobs", "--project", "by-hand")
    shown = json.loads(program("project", "show", "by-hand"))
    assert shown["status"] == "ACTIVE"
    assert shown["owner_id"] == "me"
    assert shown["result"] == job.result

    keys = program("keys", "claim", "by-hand").split()

    verified = [api.verify_api_key(key) for key in keys]
    assert [key.project_id for key in verified if key is not None] == ["by-hand", "by-hand"]
    arn = result_of(job).api_keys_secret_arn
    with pytest.raises(ClientError, match=r"ResourceNotFound|InvalidRequest"):
        secret(program.stack, arn)
    assert "its API keys have been claimed before" in program("keys", "claim", "by-hand", code=1)


def test_a_payload_comes_from_a_file_and_a_key_makes_it_the_same_job(
    program: Program, tmp_path: Path
) -> None:
    api.create_project("from-file")
    file = tmp_path / "payload.json"
    file.write_text(json.dumps({"project_id": "from-file", "region": program.stack.region}))
    command = ("enqueue", "--payload", str(file), "--idempotency-key", "from-file")

    first = program(*command).strip()
    second = program(*command).strip()

    assert first == second
    assert finished(first).status is api.JobStatus.COMPLETED
    file.write_text(json.dumps({"project_id": "from-file", "region": "eu-west-1"}))
    assert "idempotency_key" in program(*command, code=1)


def test_a_job_that_fails_ends_with_its_error(program: Program) -> None:
    job_id = program("enqueue", "--project", "never-created").strip()

    said = program("watch", job_id, code=1)

    assert f"job {job_id} FAILED in INITIALIZING, attempt 1: {ErrorType.PROJECT_NOT_FOUND}" in said


def test_a_region_that_is_not_served_is_a_sentence(program: Program) -> None:
    api.create_project("far-away")
    job_id = program("enqueue", "--project", "far-away", "--region", "ap-south-2").strip()

    said = program("watch", job_id, code=1)

    assert "ap-south-2" in said or "region" in said


def test_a_project_is_protected_and_its_end_confirmed(program: Program) -> None:
    program("project", "create", "dear-project")
    assert "is protected against" in program("project", "protect", "dear-project")
    assert json.loads(program("project", "show", "dear-project"))["deletion_protection"] is True

    job_id = program("deprovision", "dear-project", "--confirm", "dear-project").strip()
    assert str(ErrorType.PROJECT_PROTECTED) in program("watch", job_id, code=1)

    assert "is not protected" in program("project", "protect", "dear-project", "--off")
    job_id = program("deprovision", "dear-project", "--confirm", "dear-project").strip()
    assert '"removed": []' in program("watch", job_id)
    assert json.loads(program("project", "show", "dear-project"))["status"] == "DEPROVISIONED"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("watch", "no-such-job"), "no-such-job"),
        (("cancel", "no-such-job"), "job no-such-job: no such job is stored"),
        (("retry", "no-such-job"), "job no-such-job: no such job is stored"),
        (("project", "show", "no-such-project"), "project no-such-project: there is no such"),
        (("keys", "claim", "no-such-project"), "project no-such-project: there is no such"),
        (("project", "create", "no/slashes"), "INVALID_PAYLOAD: project_id"),
        (("enqueue", "--project", "'; DROP TABLE"), "INVALID_PAYLOAD: project_id"),
    ],
)
def test_what_is_not_there_is_named(
    program: Program, arguments: tuple[str, ...], said: str
) -> None:
    assert said in program(*arguments, code=1)


def test_a_project_that_exists_is_created_for_nobody_else(program: Program) -> None:
    created = program("project", "create", "only-once", "--owner", "ada")

    assert program("project", "create", "only-once", "--owner", "ada") == created
    assert "for another owner" in program("project", "create", "only-once", code=1)


def test_a_bad_payload_sends_nothing(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "payload.json"
    file.write_text('{"project_id": "sends-nothing", "region": "eu-central-1", "databases": {}}')

    assert "INVALID_PAYLOAD: databases" in program("enqueue", "--payload", str(file), code=1)

    assert not api.list_jobs("sends-nothing")
    for queue in ("QueueUrl", "DeadLetterQueueUrl"):
        found = messages(program.stack, program.stack.outputs[queue])
        assert not [m for m in found if "sends-nothing" in m["Body"]]


def test_a_deployed_stack_is_reached_by_its_name(program: Program) -> None:
    job = provisioned(program.stack, "by-stack-name")

    listed = program(
        *("--stack", program.stack.stack_name, "--region", program.stack.region),
        *("jobs", "--project", "by-stack-name"),
    )

    assert re.search(rf"{job.job_id} +provision_project +by-stack-name +COMPLETED", listed)


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """Let a program that is started hear SIGINT; in a shell's background job it would not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_ctrl_c_ends_a_watch_without_a_traceback(program: Program) -> None:
    job_id = program("enqueue", "--project", "waits-for-long", "--delay", "900").strip()
    with subprocess.Popen(
        [_PROGRAM, "watch", job_id],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == f"job {job_id}  QUEUED\n"
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()

    assert process.returncode == 130
    assert said == ""


@pytest.fixture
def passwords(deployment: RunningStack) -> Iterator[set[str]]:
    """Return the passwords of every secret that the program reads meanwhile."""
    read: set[str] = set()

    def remember(parsed: dict[str, Any], **_: object) -> None:
        read.add(json.loads(parsed["SecretString"])["password"])

    events = deployment.client("secretsmanager").meta.events
    events.register("after-call.secrets-manager.GetSecretValue", remember)
    yield read
    events.unregister("after-call.secrets-manager.GetSecretValue", remember)


def test_the_demonstration_shows_no_secret_and_its_next_commands_work(
    program: Program, passwords: set[str]
) -> None:
    shown = program("demo")

    assert "wrote a row and read it: 'Hello from the new project'" in shown
    assert shown.count("verifies, and belongs to demo-1") == 4
    assert api.find_api_keys(shown) == []
    # The cluster's, and the first project's before and after its removal; then the second one's.
    assert len(passwords) == 4
    assert not [password for password in passwords if password in shown]
    commands = shown[shown.index("What to try next") :].splitlines()[1:]
    assert commands.pop().endswith("provision down")
    for command in commands:
        ended = subprocess.run(  # as people do: the line in their shell  # nosec B602
            command, shell=True, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, (command, ended.stderr)

    assert new_project() == "demo-2"  # which another run begins with
    _assert_shows_a_failure_and_a_removal(program.stack, shown)
    _assert_shows_an_instance(program.stack, shown)


def _assert_shows_a_failure_and_a_removal(stack: RunningStack, shown: str) -> None:
    cleanup, job = api.list_jobs("demo-1-taken")
    assert cleanup.parent_id == job.job_id
    assert job.error is not None
    for field, text in {
        "status": "FAILED",
        "stage": "GENERATING_API_KEYS, attempt 1, not tried again",
        "error": ErrorType.CONFLICT,
        "reason": job.error.message,
        "clean-up": "COMPLETED, 8 stages",
        "project": "FAILED",
    }.items():
        assert re.search(rf"^{field} +{re.escape(text)}$", shown, re.MULTILINE), field
    counts = dict(re.findall(r"^(\w[\w ]+\w) {2,}(\w+ +\w+)$", shown, re.MULTILINE))
    assert {kind: count.split() for kind, count in counts.items()} == {
        "database": ["1", "none"],
        "database roles": ["2", "none"],
        "user pool": ["1", "none"],
        "Event API": ["1", "none"],
        "secrets": ["1", "none"],
        "API keys": ["2", "none"],
        "bucket": ["1", "none"],
    }
    assert re.search(r"^secret \S+demo-1-taken\S+ still holds what someone", shown, re.MULTILINE)
    secrets = stack.client("secretsmanager").list_secrets()["SecretList"]
    assert not [secret["Name"] for secret in secrets if "demo-1-taken" in secret["Name"]]
    buckets = [bucket["Name"] for bucket in stack.client("s3").list_buckets()["Buckets"]]
    assert not [name for name in buckets if "demo-1-taken" in name]
    assert re.search(r"^snapshot demo-1/\S+\.dump  [\d,]+ bytes, of a server", shown, re.MULTILINE)
    assert "with no table greetings in it" in shown
    assert "the row of greetings reads: 'Hello from the new project'" in shown
    assert [job.job_type for job in api.list_jobs("demo-1")] == [
        "provision_project",
        "deprovision_project",
        "provision_project",
    ]


def _assert_shows_an_instance(stack: RunningStack, shown: str) -> None:
    """It is seen to wait for the instance, and nothing of that is left."""
    found = re.search(
        r"^instance (\S+)  db\.t4g\.micro, 20 GiB, at 127\.0\.0\.1:\d+$", shown, re.MULTILINE
    )
    assert found is not None
    waiting = rf"^CREATING_INSTANCE +WAITING .* at the latest: .*{found[1]} is creating$"
    assert re.search(waiting, shown, re.MULTILINE)
    assert f"instance {found[1]} is gone, with its server and its data" in shown
    removed, made = api.list_jobs("demo-1-own")
    assert (removed.job_type, made.job_type) == ("deprovision_project", "provision_project")
    instances = stack.client("rds").describe_db_instances()["DBInstances"]
    assert found[1] not in {instance["DBInstanceIdentifier"] for instance in instances}


def test_a_shell_is_led_to_the_stack(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    running = program.stack
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_PROFILE", "it's another one")
    monkeypatch.setenv("no_proxy", "example.com")

    exports = program("env")

    shown = subprocess.run(
        ["/bin/sh", "-c", exports + "env"], capture_output=True, text=True, check=True
    ).stdout
    led = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    assert {n: v for n, v in led.items() if n.startswith("AWS_")} == {
        n: v for n, v in running.environment().items() if n.startswith("AWS_")
    }
    assert led["QUEUE_URL"] == running.outputs["QueueUrl"]
    assert led["NO_PROXY"].split(",")[:2] == ["example.com", "127.0.0.1"]


def test_the_status_says_what_runs_where(
    program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    running = program.stack
    shown = program("status")
    for name, place in (
        ("AWS", running.endpoint_url),
        ("PostgreSQL", f"127.0.0.1:{running.ports['postgresql']}"),
        (
            "MariaDB",
            f"127.0.0.1:{running.ports['mysql']}" if "mysql" in running.ports else "not installed",
        ),
        ("stack", running.stack_name),
        ("logs", str(running.directory)),
    ):
        assert re.search(rf"^{name} +{re.escape(place)}$", shown, re.MULTILINE), shown

    monkeypatch.setenv("PROVISION_LOCAL_DIRECTORY", str(tmp_path / "none"))

    assert "start it with `provision up`" in program("status", code=1)
    assert "start it with `provision up`" in program("env", code=1)


def test_up_does_nothing_when_nothing_has_changed(deployment: RunningStack) -> None:
    steps: list[str] = []

    again = LocalStack(deployment.directory).up(steps.append)

    assert steps == []
    assert again == deployment


def test_the_keys_and_the_password_of_a_project_in_use_are_changed(program: Program) -> None:
    result = result_of(provisioned(program.stack, "in-use", services=NO_SERVICES))
    old = program("keys", "claim", "in-use").split()
    login = secret(program.stack, result.database.secret_arn)["connection_string"]
    with psycopg.connect(login) as session:
        for command in (("keys", "rotate", "in-use"), ("password", "rotate", "in-use")):
            rotation = finished(program(*command).strip())
            assert rotation.status is api.JobStatus.COMPLETED, rotation.error
        # A session that is open goes on; only a login needs the new password.
        assert session.execute("SELECT 1").fetchone() == (1,)
    new = program("keys", "claim", "in-use").split()
    assert None not in [api.verify_api_key(key) for key in (*old, *new)]
    changed = secret(program.stack, result.database.secret_arn)["connection_string"]
    assert current_database(changed) == result.database.database_name
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(login)

    key = api.verify_api_key(old[0])
    assert key is not None
    # As a process of its own, in which the stages of the job run too.
    ended = subprocess.run(
        [_PROGRAM, "keys", "revoke", key.key_id], capture_output=True, text=True, check=True
    )
    assert ended.stdout == f"{key.key_id} of project in-use is revoked.\n"
    assert [api.verify_api_key(text) is None for text in old] == [True, False]
    assert re.search(rf"{key.key_id} .* REVOKED", program("keys", "list", "in-use"))


def test_plain_messages_rotate_and_revoke_api_keys(deployment: RunningStack) -> None:
    provisioned(deployment, "by-message", services=NO_SERVICES)
    old = _claimed("by-message")

    rotation = _sent(deployment, "rotate_api_keys", {"project_id": "by-message", "count": 1})

    (new,) = _claimed("by-message")
    assert None not in [api.verify_api_key(key) for key in (*old, new)]
    result = api.RotateApiKeysResult.model_validate(rotation.result)
    assert rotation.finished_at is not None
    overlap = result.old_keys_expire_at - rotation.finished_at
    assert timedelta(hours=23) < overlap < timedelta(hours=25)

    leaked = api.verify_api_key(old[0])
    assert leaked is not None
    _sent(deployment, "revoke_api_key", {"project_id": "by-message", "key_id": leaked.key_id})

    assert [api.verify_api_key(key) is None for key in (*old, new)] == [True, False, False]

    _sent(deployment, "rotate_api_keys", {"project_id": "by-message", "overlap_hours": 0})

    assert not any(api.verify_api_key(key) for key in (*old, new))
    assert all(api.verify_api_key(key) for key in _claimed("by-message"))


def _claimed(project_id: str) -> list[str]:
    keys: list[str] = []
    api.claim_api_keys(project_id, keys.extend)
    return keys


def _sent(stack: RunningStack, job_type: str, payload: dict[str, Any]) -> api.Job:
    """Send a message as any program does, and return its job, COMPLETED."""
    message = stack.client("sqs").send_message(
        QueueUrl=stack.outputs["QueueUrl"],
        MessageBody=json.dumps({"job_type": job_type, "payload": payload}),
    )
    job = finished(message["MessageId"])
    assert (job.job_type, job.status) == (job_type, api.JobStatus.COMPLETED), job.error
    return job
