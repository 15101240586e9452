"""What is refused of a new job type; what is written for one is run by tests/stack."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from provision_cli.job_types.derived import derive_files
from provision_cli.job_types.new import write_job_type
from provision_cli.main import main
from provision_cli.sentences import CommandError
from provisioner.jobs.definition import DefinitionError, FailureHandling, Function, Stage
from provisioner.provisioning import job_types
from provisioner.provisioning.functions import LIFECYCLE
from provisioner.provisioning.job_types import rotate_api_keys
from support.project import PACKAGE, ROOT

JOB_TYPES = PACKAGE / "provisioning" / "job_types"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Archive", "no job type can be named so"),
        ("archive-project", "no job type can be named so"),
        ("1st", "no job type can be named so"),
        ("../evil", "no job type can be named so"),
        ("", "no job type can be named so"),
        ("a" * 41, "no job type can be named so"),
        ("import", "no job type can be named so"),
        ("rotate_api_keys", "is a job type already"),
    ],
)
def test_a_name_that_no_job_type_can_have_is_refused_with_a_sentence(
    capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    before = sorted(JOB_TYPES.iterdir())

    assert main(["new", "job-type", name]) == 1

    complaint = capsys.readouterr().err
    assert complaint.startswith(f"provision: {name}: ")
    assert said in complaint
    assert complaint.count("\n") == 1
    assert sorted(JOB_TYPES.iterdir()) == before


def test_a_module_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    module = tmp_path / JOB_TYPES.relative_to(ROOT) / "archive_project.py"
    module.parent.mkdir(parents=True)
    module.write_text("# mine\n")

    with pytest.raises(CommandError, match="archive_project: is a job type already"):
        write_job_type(tmp_path, "archive_project")

    assert module.read_text() == "# mine\n"


def test_what_is_written_passes_the_linter(tmp_path: Path) -> None:
    (tmp_path / JOB_TYPES.relative_to(ROOT)).mkdir(parents=True)
    write_job_type(tmp_path, "archive_project")

    (module,) = tmp_path.rglob("*.py")
    # As if it stood where it is written: what is the project's own follows from that.
    place = ROOT / module.relative_to(tmp_path)
    for command in (["check"], ["format", "--check"]):
        linter = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(place), "-"]
        run = subprocess.run(
            linter, input=module.read_text(), check=False, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("JOB_TYPE = (", r"broken_type\.py: cannot be loaded: SyntaxError: .*line 1"),
        ("\nJOB_TYPE = Job()", r"broken_type\.py, line 2: cannot be loaded: NameError: name 'Job'"),
        ("import nowhere", r"broken_type\.py, line 1: cannot be loaded: ModuleNotFoundError: "),
        ("raise RuntimeError('a\\nb.')", r"line 1: cannot be loaded: RuntimeError: a\.$"),
    ],
)
def test_a_definition_that_cannot_be_loaded_is_named_with_the_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "broken_type.py").write_text(text)
    monkeypatch.setattr(job_types, "__path__", [str(tmp_path)])

    with pytest.raises(DefinitionError, match=said):
        job_types.load("broken_type")


def test_no_stack_starts_whose_files_do_not_follow_from_the_definitions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROVISION_LOCAL_DIRECTORY", str(tmp_path / "stack"))
    (before, middle, after) = rotate_api_keys.JOB_TYPE.steps
    assert isinstance(middle, Stage)
    renamed = Stage("TURNING_KEYS", middle.meaning, function=middle.function, code=middle.code)
    changed = replace(rotate_api_keys.JOB_TYPE, steps=(before, renamed, after))
    monkeypatch.setitem(job_types.JOB_TYPES, "rotate_api_keys", changed)

    assert main(["up"]) == 1

    assert capsys.readouterr().err == (
        "provision: events/api_keys/rotate_api_keys/turning_keys.json, "
        "state_machines/rotate_api_keys.asl.json, docs/job-types.md, "
        "events/api_keys/rotate_api_keys/rotating_api_keys.json: "
        "not as the job types' definitions have it; run `make state-machines` first.\n"
    )
    assert not (tmp_path / "stack").exists()


def test_no_stack_starts_whose_definitions_cannot_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROVISION_LOCAL_DIRECTORY", str(tmp_path / "stack"))
    nowhere = FailureHandling(release="nowhere:run")
    changed = replace(rotate_api_keys.JOB_TYPE, on_failure=nowhere)
    monkeypatch.setitem(job_types.JOB_TYPES, "rotate_api_keys", changed)

    assert main(["up"]) == 1

    complaint = capsys.readouterr().err
    assert complaint.startswith("provision: job type rotate_api_keys: on_failure: code nowhere:run")
    assert not (tmp_path / "stack").exists()


@pytest.mark.parametrize("program", ["provision_cli.entry", "provision_cli.job_types.__main__"])
def test_a_definition_that_cannot_run_is_a_sentence_of_every_program(program: str) -> None:
    # As if no name could be a job type's.
    code = f"""
import re
from provisioner.jobs import definition
definition.JOB_TYPE_PATTERN = re.compile("none")
import {program} as program
raise SystemExit(getattr(program, "run", getattr(program, "main", None))())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.returncode == 1
    first = next(iter(job_types.JOB_TYPES))
    assert ran.stderr.removeprefix("provision: ").startswith(f"job type {first}: a name")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"code": "nowhere:run"}, r"stage ROTATING_API_KEYS: code nowhere:run: cannot be loaded"),
        (
            {"function": Function("nowhere", 10)},
            r"stage ROTATING_API_KEYS: function nowhere: its composition cannot be loaded",
        ),
        (
            {"function": LIFECYCLE},
            (
                r"stage ROTATING_API_KEYS: code .* takes secrets_manager, kms_key_arn, store, "
                r"hand_overs, which its function"
            ),
        ),
    ],
)
def test_a_stage_whose_code_its_function_cannot_run_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], message: str
) -> None:
    (before, middle, after) = rotate_api_keys.JOB_TYPE.steps
    assert isinstance(middle, Stage)
    given: dict[str, Any] = {"function": middle.function, "code": middle.code}
    stage = Stage(str(middle), middle.meaning, **given | fields)
    changed = replace(rotate_api_keys.JOB_TYPE, steps=(before, stage, after))
    monkeypatch.setitem(job_types.JOB_TYPES, "rotate_api_keys", changed)

    with pytest.raises(DefinitionError, match=message):
        derive_files(ROOT)


@pytest.mark.parametrize("field", ["release", "describe_cleanup", "remaining"])
def test_code_that_handles_a_failure_and_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    nowhere = {field: "provisioner.provisioning.stages.lifecycle:ensure_held_by_nobody"}
    if field == "describe_cleanup":
        nowhere["cleanup_job_type"] = "clean_up_project"
    changed = replace(rotate_api_keys.JOB_TYPE, on_failure=FailureHandling(**nowhere))
    monkeypatch.setitem(job_types.JOB_TYPES, "rotate_api_keys", changed)

    with pytest.raises(DefinitionError, match=r"rotate_api_keys: on_failure: code .*cannot be"):
        derive_files(ROOT)


def test_a_cleanup_of_a_job_type_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handling = FailureHandling(
        cleanup_job_type="gone",
        describe_cleanup="provisioner.provisioning.stages.provision:describe_cleanup",
    )
    changed = replace(rotate_api_keys.JOB_TYPE, on_failure=handling)
    monkeypatch.setitem(job_types.JOB_TYPES, "rotate_api_keys", changed)

    with pytest.raises(DefinitionError, match=r"cleanup_job_type: there is no job type gone;"):
        derive_files(ROOT)
