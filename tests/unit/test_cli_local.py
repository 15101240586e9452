"""The parts of the local stack that need no stack."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest
from provision_cli.local import aws_server, build, processes, tools
from provision_cli.local.errors import LocalStackError
from provision_cli.local.processes import StartedProcess
from provision_cli.local.stack import LocalStack, LocalStackSettings, _State
from support.project import ROOT

#: The ports that outgoing connections get, where the system is Linux.
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _started(tmp_path: Path, script: str) -> StartedProcess:
    return processes.start(
        ["/bin/sh", "-c", script],
        environment={"PATH": os.defpath},
        log=tmp_path / "log",
        directory=tmp_path,
    )


def test_a_process_that_ignores_the_signal_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 0.2)
    os.mkfifo(tmp_path / "ready")
    process = _started(tmp_path, "trap '' TERM; sleep 600 & echo $! > ready; wait")
    child = int((tmp_path / "ready").read_text())
    assert process.is_running()

    process.stop()

    assert not process.is_running()
    assert child not in {p.pid for p in processes._processes()}


def _killed_beside_its_child(tmp_path: Path) -> tuple[StartedProcess, int]:
    os.mkfifo(tmp_path / "ready")
    process = _started(tmp_path, "sleep 600 & echo $! > ready; wait")
    child = int((tmp_path / "ready").read_text())
    os.kill(process.pid, signal.SIGKILL)
    os.waitpid(process.pid, 0)
    return process, child


def test_children_of_a_process_that_was_killed_are_ended(tmp_path: Path) -> None:
    process, child = _killed_beside_its_child(tmp_path)
    assert not process.is_running()
    assert child in {p.pid for p in processes._processes()}

    process.stop()

    assert child not in {p.pid for p in processes._processes()}


def test_another_process_with_the_same_id_is_left_alone(tmp_path: Path) -> None:
    process = _started(tmp_path, "sleep 600")
    other = StartedProcess(pid=process.pid, started="at another time", mark="another")

    assert not other.is_running()
    other.stop()
    assert process.is_running()
    process.stop()


def test_children_of_another_process_with_the_same_id_are_left_alone(tmp_path: Path) -> None:
    process, child = _killed_beside_its_child(tmp_path)

    for mark in ("another", ""):
        StartedProcess(pid=process.pid, started="at another time", mark=mark).stop()

    assert child in {p.pid for p in processes._processes()}
    process.stop()


def test_a_process_survives_being_written_down() -> None:
    process = StartedProcess(pid=7, started="now", mark="it")

    assert StartedProcess.from_json(process.as_json()) == process


def test_a_program_that_fails_is_named_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(LocalStackError, match=r"(?s)sam build failed; .*the reason"):
        processes.run(
            ["/bin/sh", "-c", "echo the reason; exit 3"],
            environment={"PATH": os.defpath},
            log=tmp_path / "log",
            directory=tmp_path,
            what="sam build",
        )


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalStackError, match="sam build: /nowhere/sam cannot be started"):
        processes.run(
            ["/nowhere/sam"],
            environment={},
            log=tmp_path / "log",
            directory=tmp_path,
            what="sam build",
        )


def test_a_port_in_use_is_refused_where_it_was_asked_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(LocalStackError, match=f"port {port} is in use.*set PORT"):
            aws_server.choose_port(port, 1, what="the local AWS", variable="PORT")
        chosen = aws_server.choose_port(None, port, what="the local AWS", variable="PORT")

    assert chosen not in {port, 0}


@pytest.mark.skipif(not _OUTGOING.exists(), reason="Linux names the range there")
def test_a_chosen_port_is_none_that_an_outgoing_connection_can_take() -> None:
    first, last = (int(port) for port in _OUTGOING.read_text().split())

    chosen = aws_server.choose_port(None, None, what="the local AWS", variable="PORT")

    assert not first <= chosen <= last


def test_a_project_without_uv_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(LocalStackError, match=r"uv: is neither in .* run `make setup`"):
        tools.uv(tmp_path)


def test_tools_see_no_aws_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")

    environment = tools.environment(AWS_ENDPOINT_URL="http://here")

    assert "AWS_PROFILE" not in environment
    assert environment["AWS_ENDPOINT_URL"] == "http://here"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).resolve().parent)


def _copy_of_the_sources(folder: Path) -> Path:
    for name in ("functions", "layers", "state_machines"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("Makefile", "template.yaml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".tools").symlink_to(ROOT / ".tools")
    return folder


@pytest.mark.parametrize(
    "changed",
    [
        "template.yaml",
        "functions/dispatcher/handler.py",
        "layers/provisioner/provisioner/errors.py",
    ],
)
def test_a_change_of_any_source_asks_for_a_new_build(tmp_path: Path, changed: str) -> None:
    root = _copy_of_the_sources(tmp_path)
    before = build.sources_digest(root)

    (root / "functions" / "dispatcher" / "__pycache__").mkdir(exist_ok=True)
    (root / "functions" / "dispatcher" / "__pycache__" / "handler.pyc").write_bytes(b"made")
    assert build.sources_digest(root) == before
    with (root / changed).open("a") as file:
        file.write("\n# changed\n")

    assert build.sources_digest(root) != before


def test_a_build_that_fails_is_named(tmp_path: Path) -> None:
    root = _copy_of_the_sources(tmp_path / "project")
    (root / "template.yaml").write_text("Resources: [")

    with pytest.raises(LocalStackError, match=r"sam build failed; its output is in .*sam-build"):
        build.ensure_built(root, tmp_path / "builds")


def test_the_stack_runs_from_a_checkout_only(tmp_path: Path) -> None:
    stack = LocalStack(LocalStackSettings(root=tmp_path, directory=tmp_path / "stack"))

    with pytest.raises(LocalStackError, match=r"template\.yaml: is not in"):
        stack.up()


def test_a_stack_does_not_go_on_without_the_data_of_its_postgresql(tmp_path: Path) -> None:
    stack = LocalStack(LocalStackSettings(directory=tmp_path / "stack"))
    aws = StartedProcess(pid=os.getpid(), started="now", mark="it")
    steps: list[str] = []

    assert not stack._go_on(_State(aws=aws, aws_port=1, postgresql_port=1), steps.append)
    assert steps == []
