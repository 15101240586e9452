"""The build, and functions in their images beside a local stack that containers reach."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from provision_cli.local.build import lock
from provision_cli.local.containers import find_network
from provision_cli.local.stack import RunningStack
from support.sam import ARCHITECTURE, BUILT, SamLocal, run_make


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the build for this machine's processor, made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base
    with lock(shared / "sam-build.lock"):
        done = shared / "sam-build.done"
        if not done.exists():
            run_make("build", f"ARCHITECTURE={ARCHITECTURE}")
            done.touch()
    return BUILT


@pytest.fixture(scope="session")
def sam_local(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SamLocal]:
    """Yield functions in their images, beside a local stack that their containers reach."""
    if find_network() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Docker engine answers, and in CI nothing is skipped")
        pytest.skip("no Docker engine answers: `sam local invoke` runs functions in containers")
    stack: RunningStack = request.getfixturevalue("local_stack")
    request.getfixturevalue("built")
    sam = SamLocal(stack, tmp_path_factory.mktemp("sam") / "warm.log")
    yield sam
    sam.stop()
