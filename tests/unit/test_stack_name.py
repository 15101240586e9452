"""Names that no stack can have are refused before anything is built or deployed."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from provision_cli import stack_name
from provision_cli.local.stack import STACK_NAME
from provision_cli.stack_name import configured_name, find_problem, longest_stack_name, main
from support.project import ROOT

SAMCONFIG = ROOT / "samconfig.toml"


def test_a_stack_s_name_leaves_room_for_the_longest_job_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    longest = longest_stack_name()
    assert find_problem("s" * longest) is None
    assert find_problem("s" * (longest + 1)) == (
        f"stack_name: {'s' * (longest + 1)} has {longest + 1} characters, and its state machine "
        f"<stack>-rotate_database_password would have more than 80; give {longest} at most."
    )

    # A job type of a team's own leaves less.
    monkeypatch.setattr(stack_name, "JOB_TYPES", {"a": None, "archive" * 6: None})

    assert longest_stack_name() == 80 - len("-") - len("archive" * 6)
    assert "<stack>-archivearchive" in str(find_problem("s" * longest))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is no name of a stack"),
        ("my_stack", "is no name of a stack"),
        ("1st", "is no name of a stack"),
        ("Awsome", "begins with aws, which AWS keeps for itself"),
        ("ssm-prod", "begins with ssm, which AWS keeps for itself"),
        ("sthree-prod", "begins with sthree-, which AWS keeps for itself"),
        ("XN--prod", "begins with xn--, which AWS keeps for itself"),
        ("amzn-s3-demo-stack", "begins with amzn-s3-demo-, which AWS keeps for itself"),
    ],
)
def test_a_name_that_aws_would_refuse_is_refused_with_what_to_do(name: str, said: str) -> None:
    problem = find_problem(name)
    assert problem is not None
    assert problem.startswith(f"stack_name: {name} ")
    assert said in problem


@pytest.mark.parametrize("name", ["sthree", "amzn", "xn-prod", "prod-aws", "Prod1"])
def test_other_names_are_taken(name: str) -> None:
    assert find_problem(name) is None


def test_every_stack_that_the_project_names_can_be_deployed() -> None:
    environments = tomllib.loads(SAMCONFIG.read_text())
    named = [name for name, tables in environments.items() if name != "version" and tables]
    assert {"default", "production", "local"} <= set(named)
    for environment in named:
        assert find_problem(configured_name(environments, environment)) is None
    assert find_problem(STACK_NAME) is None


def test_the_name_for_a_command_comes_before_the_one_for_all() -> None:
    both = {
        "global": {"parameters": {"stack_name": "all"}},
        "deploy": {"parameters": {"stack_name": "one"}},
    }
    assert configured_name({"a": both}, "a") == "one"
    assert configured_name({"a": {"global": both["global"], "deploy": {}}}, "a") == "all"
    assert configured_name({"a": both}, "b") == ""


def test_make_deploy_looks_before_it_builds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samconfig = tmp_path / "samconfig.toml"
    samconfig.write_text(SAMCONFIG.read_text().replace("project-provisioner", "p" * 60))
    assert main("production", samconfig) == 1
    said = capsys.readouterr().err
    assert said.startswith("samconfig.toml: production: stack_name: pppp")
    assert said.count("\n") == 1

    looks = subprocess.run(
        [sys.executable, "-m", "provision_cli.stack_name", "production"], check=False
    )
    assert looks.returncode == 0

    planned = subprocess.run(
        ["make", "--dry-run", "deploy"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    steps = [planned.index(step) for step in ("stack_name production", "sam build", "sam deploy")]
    assert steps == sorted(steps)
