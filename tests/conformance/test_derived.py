"""What is derived from the job types' definitions is committed as it is derived."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from provision_cli.job_types.derived import derive_files, find_stale_files, write
from provision_cli.job_types.template import TemplateError, generate
from provisioner.provisioning.job_types import JOB_TYPES
from support.project import ROOT, TEMPLATE

DERIVED = {str(path.relative_to(ROOT)): text for path, text in derive_files(ROOT).items()}


@pytest.mark.parametrize("path", DERIVED)
def test_what_is_derived_is_committed(path: str) -> None:
    assert (ROOT / path).read_text() == DERIVED[path], "run `make state-machines`"


def test_nothing_is_left_of_job_types_that_are_gone() -> None:
    left = [path for path, text in find_stale_files(ROOT).items() if text is None]
    assert left == [], "run `make state-machines`"


def test_what_differs_is_written_and_what_is_gone_removed(tmp_path: Path) -> None:
    for kept in (TEMPLATE, ROOT / "README.md"):
        shutil.copy(kept, tmp_path)
    assert len(write(tmp_path)) == len(DERIVED) - 2  # these two are as they must be
    assert write(tmp_path) == []
    gone = [tmp_path / "state_machines" / "gone.asl.json", tmp_path / "events/a/gone/b.json"]
    for path in gone:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("{}")
    changed = tmp_path / "state_machines" / "revoke_api_key.asl.json"
    changed.write_text("{}")
    assert write(tmp_path) == [
        "wrote state_machines/revoke_api_key.asl.json",
        "removed events/a/gone/b.json",
        "removed state_machines/gone.asl.json",
    ]
    assert changed.read_text() == DERIVED["state_machines/revoke_api_key.asl.json"]
    assert not any(path.exists() for path in (*gone, tmp_path / "events" / "a" / "gone"))


def test_a_template_without_the_place_of_a_part_is_refused() -> None:
    text = TEMPLATE.read_text().replace("# end executions\n", "")
    with pytest.raises(TemplateError, match=r"the lines `begin executions` and `end executions`"):
        generate(text, JOB_TYPES)
