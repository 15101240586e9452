"""The commands that follow from the definitions of the job types."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import pytest
import typer
from provision_cli.job_commands import add_job_commands
from provision_cli.main import main
from provisioner import api
from provisioner.jobs.definition import DefinitionError, JobDefinition
from provisioner.provisioning.contract import Payload, ProjectId
from provisioner.provisioning.job_types import rotate_api_keys
from provisioner.runtime.platform import PlatformSettings
from pydantic import Field
from support.core import REGION, Core, make_stack


class Letter(Payload):
    """A payload with a field of each kind that an option can be."""

    project_id: ProjectId
    subject: Annotated[str, Field(description="What it is about.")]
    copies: Annotated[int, Field(ge=1, le=9, description="How many.")] = 1
    weight: float = 0.5
    express: bool = False
    sender: str | None = None


def letter(**changes: Any) -> JobDefinition[Any]:
    definition: JobDefinition[Any] = rotate_api_keys.JOB_TYPE
    return replace(definition, payload_model=Letter, **changes)


def program(*definitions: JobDefinition[Any]) -> typer.Typer:
    app = typer.Typer(rich_markup_mode=None)
    app.callback()(lambda: None)
    add_job_commands(app, {str(n): definition for n, definition in enumerate(definitions)})
    return app


def help_of(app: typer.Typer, *words: str, capsys: pytest.CaptureFixture[str]) -> str:
    app([*words, "--help"], standalone_mode=False)
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture
def stack(core: Core, connected: PlatformSettings, monkeypatch: pytest.MonkeyPatch) -> Core:
    """Return the deployment as the CloudFormation stack that --stack names."""
    make_stack(connected)
    # The command sets it, and is not to leave it to other tests.
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    core.new_project()
    return core


@pytest.mark.parametrize(
    ("words", "payload"),
    [
        (("keys", "rotate", "shop"), {"count": 2, "prefix": None, "overlap_hours": 24}),
        (
            ("keys", "rotate", "shop", "--count", "3", "--prefix", "acme", "--overlap-hours", "0"),
            {"count": 3, "prefix": "acme", "overlap_hours": 0},
        ),
        (("password", "rotate", "shop"), {}),
    ],
    ids=str,
)
def test_a_command_enqueues_a_job_with_its_options_in_the_payload(
    stack: Core,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    payload: dict[str, object],
) -> None:
    assert main(["--stack", "provisioner", "--region", REGION, *words]) == 0

    said = capsys.readouterr()
    job = api.get_job(said.out.strip())
    assert (job.status, job.payload) == (api.JobStatus.QUEUED, {"project_id": "shop"} | payload)
    assert said.err == f"QUEUED; `provision watch {job.job_id}` follows it.\n"
    (message,) = stack.messages(stack.queue_url)
    assert json.loads(message["Body"])["job_id"] == job.job_id


def test_help_is_the_meaning_the_descriptions_and_the_bounds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = help_of(program(letter(command=("post", "send"))), "post", "send", capsys=capsys)

    assert rotate_api_keys.JOB_TYPE.meaning in shown
    assert "{project_id}" in shown
    assert "--subject <str> What it is about. [required]" in shown
    assert "--copies <int range> How many. [default: 1; 1<=x<=9]" in shown
    assert "--weight <float> [default: 0.5]" in shown
    assert "--express / --no-express" in shown
    assert "--sender <str>" in shown


def test_a_payload_that_is_wrong_is_refused_before_anything_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["keys", "rotate", "shop", "--prefix", "NO"]) == 1

    assert capsys.readouterr().err.startswith("provision: INVALID_PAYLOAD: prefix: ")


class Nested(Payload):
    """A payload that no command line can give."""

    project_id: ProjectId
    letters: list[str]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: program(*[letter(command=("post", "send"))] * 2),
            "there is a command post send already",
        ),
        (
            lambda: program(replace(letter(command=("post",)), payload_model=Nested)),
            "its payload's field letters is no option",
        ),
        (lambda: letter(command=()), "command: give its words"),
        (lambda: letter(command=("Post",)), "command: give its words"),
    ],
)
def test_what_can_be_no_command_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        make()
