"""The benches run: on a built function, and against the local stack, with the smallest numbers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from provision_cli.local import build
from provision_cli.local.stack import PROJECT_ROOT, RunningStack
from provisioner import api
from support.project import functions

from bench import cold_start, end_to_end


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay the local stack's build out as `make build` does."""
    root = tmp_path_factory.mktemp("build")
    for made in build.ensure_built(PROJECT_ROOT, PROJECT_ROOT / ".local" / "build", root).iterdir():
        if made.suffix == ".contents":
            (root / made.stem).mkdir()
            (root / made.stem / "python").symlink_to(made)
        elif (made / "handler.py").exists():
            (root / made.name).symlink_to(made)
    return root


@pytest.mark.parametrize("name", [f.logical_id for f in functions().values()])
def test_a_built_function_starts_as_it_is_measured(name: str, built: Path) -> None:
    assert name.removesuffix("Function") in cold_start.AIMS
    started = cold_start.run("import handler", built / name)
    assert started.returncode == 0, started.stderr


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_a_python_that_does_nothing_is_counted() -> None:
    assert 1e7 < cold_start.instructions("pass") < 1e8


def test_what_a_job_costs_is_compared_with_the_same_calls_straight(
    deployment: RunningStack,
) -> None:
    line = end_to_end.report(api.current_settings(), deployment.region, at_once=1, rounds=1)
    shown = re.fullmatch(r"1 at once: ([\d.]+) s, floor ([\d.]+) s, ratio ([\d.]+)x", line)
    assert shown is not None
    whole, floor, ratio = map(float, shown.groups())
    assert ratio == pytest.approx(whole / floor, rel=0.2)
    # A job that was refused keeps no payload.
    found = [job.payload.get("project_id", "") for job in api.list_jobs()]
    mine = [project_id for project_id in found if project_id.startswith("bench-")]
    assert mine
    assert {api.get_project(p).status for p in mine} == {api.ProjectStatus.DEPROVISIONED}
