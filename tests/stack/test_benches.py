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


def test_a_job_is_compared_with_its_floors(deployment: RunningStack) -> None:
    times = end_to_end.compare(api.current_settings(), deployment.region, at_once=1, rounds=1)
    floors = [end_to_end.STRAIGHT, end_to_end.BARE_MACHINE, end_to_end.BARE_STAGES]
    assert list(times.of) == [end_to_end.JOB, *floors]
    shown = re.findall(r"([\d.]+)x +[\d.]+x", end_to_end.table(times, 1))
    (job,) = times.of[end_to_end.JOB]
    sums = sum(times.of[floor][0] for floor in floors[:2])
    assert [float(ratio) for ratio in shown] == [
        pytest.approx(job / seconds, abs=0.01)
        for seconds in (*(times.of[floor][0] for floor in floors), sums)
    ]
    found = [job.project_id for job in api.list_jobs()]
    mine = [project_id for project_id in found if project_id.startswith("bench-")]
    assert mine
    assert {api.get_project(p).status for p in mine} == {api.ProjectStatus.DEPROVISIONED}
    # No floor leaves anything.
    functions = deployment.client("lambda").list_functions()["Functions"]
    machines = deployment.client("stepfunctions").list_state_machines()["stateMachines"]
    buckets = deployment.client("s3").list_buckets()["Buckets"]
    assert not [f for f in functions if f["FunctionName"].startswith("bare-")]
    assert not [m for m in machines if m["name"].startswith("bare-")]
    assert not [b for b in buckets if "straight" in b["Name"] or "floor" in b["Name"]]
