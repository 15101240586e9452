"""What the program says when something is wrong: one sentence, an exit code, no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, ProfileNotFound
from moto import mock_aws
from provision_cli.main import main
from provision_cli.sentences import CommandError, sentence
from provisioner import api
from provisioner.errors import ErrorType, failure
from provisioner.runtime import aws

type Complaint = Callable[..., str]


@pytest.fixture(autouse=True)
def _nothing_is_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVISION_LOCAL_DIRECTORY", str(tmp_path / "stack"))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Complaint:
    """Return what the program says when it fails."""

    def run(*arguments: str, code: int = 1) -> str:
        assert main(arguments) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("provision: ")
        assert "Traceback" not in captured.err
        assert captured.err.count("\n") == 1
        return captured.err

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs",),
        ("watch", "some-job"),
        ("cleanup", "some-job"),
        ("history", "some-job"),
        ("cancel", "some-job"),
        ("project", "protect", "some-project"),
        ("deprovision", "some-project", "--confirm", "some-project"),
        ("retry", "some-job"),
        ("enqueue", "--project", "some-project"),
        ("project", "create", "some-project"),
        ("project", "show", "some-project"),
        ("keys", "claim", "some-project"),
        ("dlq", "list"),
        ("dlq", "show", "some-message"),
        ("dlq", "redrive", "--all"),
        ("keys", "rotate", "some-project"),
        ("keys", "revoke", "key_0"),
        ("keys", "list", "some-project"),
        ("password", "rotate", "some-project"),
        ("snapshots", "list", "some-project"),
        ("snapshots", "restore", "some-project"),
    ],
)
def test_every_command_says_that_the_local_stack_is_not_running(
    complaint: Complaint, arguments: tuple[str, ...]
) -> None:
    said = complaint(*arguments)

    assert "the local stack is not running" in said
    assert "`provision up`" in said


def test_down_is_content_when_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down"]) == 0
    assert capsys.readouterr().out == "The local stack was not running.\n"


def test_no_arguments_show_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    for command in (
        "demo",
        "up",
        "down",
        "project",
        "enqueue",
        "watch",
        "cancel",
        "deprovision",
        "retry",
        "jobs",
        "keys",
        "dlq",
        "snapshots",
    ):
        assert command in shown


@pytest.mark.parametrize(
    ("arguments", "said", "command"),
    [
        (("nonsense",), "No such command 'nonsense'", ""),
        (("watch",), "Missing argument 'job_id'", " watch"),
        (("enqueue", "--project", "p1x", "--delay", "901"), "--delay", " enqueue"),
        (("project", "--colour"), "--colour", " project"),
        (("project", "repair"), "Missing argument 'project_id'", " project repair"),
        (("deprovision", "some-project"), "Missing option '--confirm'", " deprovision"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_that_names_the_help_of_its_command(
    complaint: Complaint, arguments: tuple[str, ...], said: str, command: str
) -> None:
    complained = complaint(*arguments, code=2)

    assert said in complained
    assert complained.endswith(f"; see `provision{command} --help`.\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("enqueue",), "--project or --payload: give one of the two"),
        (("enqueue", "--project", "p1x", "--payload", "-"), "give one of the two"),
        (("enqueue", "--payload", "-", "--region", "eu-west-1"), "--region: goes with --project"),
        (("enqueue", "--payload", "missing.json"), "missing.json cannot be read: No such file"),
        (("--region", "eu-west-1", "jobs"), "--region: goes with --stack"),
        (
            ("deprovision", "some-project", "--confirm", "other-project"),
            "INVALID_PAYLOAD: confirm: must be the project_id again",
        ),
    ],
)
def test_options_that_do_not_go_together_are_named(
    complaint: Complaint, arguments: tuple[str, ...], said: str
) -> None:
    assert said in complaint(*arguments)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ("{", "--payload: cannot be read as JSON: EOF while parsing an object at line 1"),
        ('{"a":' * 200_000 + "1" + "}" * 200_000, "--payload: cannot be read as JSON: recursion"),
        ('{"a": ' + "9" * 5000 + "}", "--payload: cannot be read as JSON: number out of range"),
        (f'{{"metadata": {"[" * 100 + "]" * 100}}}', "metadata: must not be nested deeper"),
        ("[]", "--payload: must be a JSON object"),
        ('{"region": "eu-west-1"}', "INVALID_PAYLOAD: project_id"),
        ('{"project_id": "../etc", "region": "eu-west-1"}', "INVALID_PAYLOAD: project_id"),
        ('{"project_id": "fine", "region": "moon"}', "INVALID_PAYLOAD: region"),
        ('{"project_id": "fine", "region": "eu-west-1", "sise": 3}', "INVALID_PAYLOAD: sise"),
    ],
)
def test_a_wrong_payload_is_refused_before_anything_is_asked(
    complaint: Complaint, tmp_path: Path, payload: str, said: str
) -> None:
    file = tmp_path / "payload.json"
    file.write_text(payload)

    # The local stack is not running: had the program asked it, it would complain of that.
    assert said in complaint("enqueue", "--payload", str(file))


def test_a_payload_that_is_not_text_is_refused(complaint: Complaint, tmp_path: Path) -> None:
    file = tmp_path / "payload.json"
    file.write_bytes(b"\xff\xfe")

    assert "--payload: cannot be read as JSON" in complaint("enqueue", "--payload", str(file))


def test_an_unknown_job_type_is_named(complaint: Complaint, tmp_path: Path) -> None:
    file = tmp_path / "payload.json"
    file.write_text("{}")

    assert "no handler is registered" in complaint(
        "enqueue", "--payload", str(file), "--job-type", "paint"
    )


@pytest.fixture
def _account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    aws.reset()
    with mock_aws():
        yield
    aws.reset()


@pytest.mark.usefixtures("_account")
def test_a_stack_that_is_not_there_is_named(complaint: Complaint) -> None:
    said = complaint("--stack", "nowhere", "--region", "eu-west-1", "jobs")

    assert "--stack: there is no stack nowhere in eu-west-1" in said


@pytest.mark.usefixtures("_account")
def test_a_stack_of_something_else_is_named(complaint: Complaint) -> None:
    template = {"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}}
    boto3.client("cloudformation", region_name="eu-west-1").create_stack(
        StackName="other", TemplateBody=json.dumps(template)
    )

    said = complaint("--stack", "other", "--region", "eu-west-1", "jobs")

    assert "--stack: other is no deployment of this project" in said


def test_a_stack_without_a_region_asks_for_one(
    complaint: Complaint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert "--region: is needed with --stack" in complaint("--stack", "some", "jobs")


def test_missing_credentials_are_named(
    complaint: Complaint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    aws.reset()

    said = complaint("--stack", "some", "--region", "eu-west-1", "jobs")

    assert "AWS credentials: none were found" in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (failure(ErrorType.PROJECT_BUSY, "Another job.", "secret"), "PROJECT_BUSY: Another job."),
        (CommandError("Say this."), "Say this."),
        (api.ProjectNotFoundError("project x: there is none."), "project x: there is none."),
        (
            ClientError({"Error": {"Code": "Denied", "Message": "You may not."}}, "GetItem"),
            "AWS refused GetItem with Denied: You may not.",
        ),
        (
            EndpointConnectionError(endpoint_url="http://nowhere"),
            'AWS cannot be reached: Could not connect to the endpoint URL: "http://nowhere".',
        ),
        (
            ProfileNotFound(profile="me"),
            "AWS_PROFILE: there is no profile me in",
        ),
        (KeyError("secret"), "unexpected KeyError; set PROVISION_TRACEBACK=1"),
    ],
)
def test_every_error_has_its_sentence(error: Exception, said: str) -> None:
    assert sentence(error).startswith(said)


def test_the_program_starts_as_a_process_and_ends_with_its_code(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("provision")

    ended = subprocess.run(
        [program, "jobs"],
        env={"PROVISION_LOCAL_DIRECTORY": str(tmp_path), "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert ended.stderr.startswith("provision: the local stack is not running")
