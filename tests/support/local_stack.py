"""One local stack for a whole test run, shared by its workers: a pytest plugin.

It has its own folder and its own ports, so that the developer's own stack is left alone. The
first worker that asks for it starts it; the process that started the run stops it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from provision_cli.local import environment
from provision_cli.local.build import lock
from provision_cli.local.stack import (
    LocalStack,
    LocalStackNotRunningError,
    RunningStack,
)
from provisioner import api
from provisioner.runtime import aws, platform


def _stack(config: pytest.Config) -> LocalStack:
    base = Path(config._tmp_path_factory.getbasetemp())  # type: ignore[attr-defined]  # pytest's own
    shared = base.parent if hasattr(config, "workerinput") else base
    return LocalStack(shared / "local-stack", has_usual_ports=False)


@pytest.fixture(scope="session")
def local_stack(request: pytest.FixtureRequest) -> RunningStack:
    """Return the local stack, deployed."""
    stack = _stack(request.config)
    stack.directory.mkdir(parents=True, exist_ok=True)
    with lock(stack.directory / "start"):
        return stack.up(for_containers=True)


def running_stack(config: pytest.Config) -> RunningStack | None:
    """Return the run's local stack where a test has asked for it."""
    try:
        return _stack(config).running()
    except LocalStackNotRunningError:
        return None


@pytest.fixture
def deployment(
    local_stack: RunningStack, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunningStack]:
    """Let the public API talk to the local stack, and return it."""
    connect(local_stack, monkeypatch)
    yield local_stack
    aws.reset()


def connect(stack: RunningStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the public API talk to a local stack."""
    for name in environment.desk_variables(os.environ):
        monkeypatch.delenv(name)
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(platform, "_connected", [])
    aws.reset()
    api.connect_to_stack(stack.stack_name, stack.region)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stop the stack, once every worker has ended."""
    if not hasattr(session.config, "workerinput"):
        _stack(session.config).down()
