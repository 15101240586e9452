"""What `provision new job-type` refuses; what it writes is run by tests/stack."""

from __future__ import annotations

from pathlib import Path

import pytest
from provision_cli.job_types.new import write_job_type
from provision_cli.main import main
from provision_cli.sentences import CommandError
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
        ("archive_project_cleanup", "clean-ups' state machines are named so"),
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
