"""The parts of the local stack that need no stack."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from provision_cli.local import (
    build,
    containers,
    environment,
    processes,
    tools,
)
from provision_cli.local.containers import ContainerNetwork
from provision_cli.local.environment import MARK_VARIABLE
from provision_cli.local.errors import LocalStackError
from provision_cli.local.ports import choose_port
from provision_cli.local.postgresql_server import PostgresqlServer
from provision_cli.local.processes import StartedProcess
from provision_cli.local.stack import LocalStack, RunningStack
from support.core import Core
from support.desk import DESK
from support.project import ROOT
from support.running import runs

#: The ports that outgoing connections get, where the system is Linux.
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")

_ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the bridge is Linux's")


def running_stack(relay: StartedProcess | None = None) -> RunningStack:
    """Return a stack of which nothing runs."""
    aws = StartedProcess(os.getpid(), "it")
    ports = {"aws": 4711, "postgresql": 1}
    return RunningStack(directory=Path(), aws=aws, ports=ports, relay=relay)


def _started(tmp_path: Path, script: str) -> StartedProcess:
    return processes.start(
        ["/bin/sh", "-c", script],
        environment={"PATH": os.defpath, MARK_VARIABLE: str(tmp_path)},
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
    assert not runs(child)


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
    assert runs(child)

    process.stop()

    assert not runs(child)


def test_another_process_with_the_same_id_is_left_alone(tmp_path: Path) -> None:
    process = _started(tmp_path, "sleep 600")
    other = StartedProcess(process.pid, "another")

    assert not other.is_running()
    other.stop()
    assert process.is_running()
    process.stop()


def test_children_of_another_process_with_the_same_id_are_left_alone(tmp_path: Path) -> None:
    process, child = _killed_beside_its_child(tmp_path)

    StartedProcess(process.pid, "another").stop()

    assert runs(child)
    process.stop()


def test_what_runs_survives_being_written_down() -> None:
    stack = running_stack(relay=StartedProcess(8, "it"))

    assert RunningStack.model_validate_json(stack.model_dump_json()) == stack


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


def test_a_port_in_use_is_not_chosen() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        free = choose_port()

        assert choose_port(port, free) == free
        assert choose_port(None, port) not in {port, 0}


@pytest.mark.skipif(not _OUTGOING.exists(), reason="Linux names the range there")
def test_a_chosen_port_is_none_that_an_outgoing_connection_can_take() -> None:
    first, last = (int(port) for port in _OUTGOING.read_text().split())

    chosen = choose_port()

    assert not first <= chosen <= last


def test_a_project_without_uv_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(LocalStackError, match=r"uv: is neither in .* run `make setup`"):
        tools.uv(tmp_path)


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
    before = build.digest_sources(root)

    (root / "functions" / "dispatcher" / "__pycache__").mkdir(exist_ok=True)
    (root / "functions" / "dispatcher" / "__pycache__" / "handler.pyc").write_bytes(b"made")
    assert build.digest_sources(root) == before
    with (root / changed).open("a") as file:
        file.write("\n# changed\n")

    assert build.digest_sources(root) != before


def test_a_build_that_fails_is_named(tmp_path: Path) -> None:
    root = _copy_of_the_sources(tmp_path / "project")
    (root / "template.yaml").write_text("Resources: [")

    with pytest.raises(LocalStackError, match=r"sam build failed; its output is in .*sam-build"):
        build.ensure_built(root, tmp_path / "builds", tmp_path)


def test_the_stack_runs_from_a_checkout_only(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path / "stack", root=tmp_path)

    with pytest.raises(LocalStackError, match=r"template\.yaml: is not in"):
        stack.up()


def test_a_stack_does_not_go_on_without_the_data_of_its_postgresql(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path / "stack")
    steps: list[str] = []

    assert not stack._go_on(running_stack(), steps.append)
    assert steps == []


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in DESK.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("desk")
def test_a_program_of_the_stack_inherits_nothing_by_chance(tmp_path: Path) -> None:
    made = environment.for_programs(tmp_path, AWS_ENDPOINT_URL="http://here")

    assert set(made) - {"USER", "LOGNAME"} == {
        *("PATH", "HOME", "TMPDIR", "LC_ALL", "PYTHONUTF8", "TZ"),
        *(MARK_VARIABLE, "AWS_ENDPOINT_URL"),
    }
    assert made["AWS_ENDPOINT_URL"] == "http://here"
    assert made["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).resolve().parent)
    assert Path(made["TMPDIR"]).is_dir()


@pytest.mark.usefixtures("desk")
def test_what_downloads_packages_has_the_network_of_the_desk_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_INDEX_OURS_PASSWORD", "a password")

    made = environment.for_downloads(tmp_path)

    assert {name for name in DESK if name in made} == {
        *("HTTP_PROXY", "https_proxy", "ALL_PROXY", "TMPDIR")
    }
    assert made["TMPDIR"] != DESK["TMPDIR"]
    assert made["UV_INDEX_OURS_PASSWORD"] == "a password"


def test_packages_are_kept_in_the_stack_where_the_home_directory_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("UV_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    made = environment.for_downloads(tmp_path / "stack")

    assert made["UV_CACHE_DIR"] == str(tmp_path / "stack" / "uv-cache")


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("service", ["s3", "sqs", "dynamodb", "sts"])
def test_a_client_of_the_stack_reads_nothing_of_the_desk(service: str) -> None:
    running = running_stack()

    client = running.client(service)

    assert client.meta.endpoint_url == "http://127.0.0.1:4711"
    assert client.meta.region_name == running.region
    assert client.meta.config.proxies == {}
    assert client.meta.config.retries["mode"] == "standard"
    assert client._request_signer._credentials.token is None


def test_a_process_that_enters_the_stack_leaves_the_desk_behind(tmp_path: Path) -> None:
    script = (
        "import boto3, json, os, sys\n"
        "from pathlib import Path\n"
        "from urllib.request import getproxies, proxy_bypass\n"
        "from provision_cli.local.stack import RunningStack\n"
        "os.environ.update(json.loads(sys.argv[1]))\n"
        "RunningStack.model_validate_json(sys.argv[2]).enter()\n"
        "client = boto3.Session().client('s3')\n"
        "print(client.meta.endpoint_url, client.meta.region_name)\n"
        "print(bool(proxy_bypass('127.0.0.1')), sorted(set(getproxies()) - {'no'}))\n"
        "print([name for name in os.environ if name.startswith('PG')])\n"
    )
    config = tmp_path / "config"
    config.write_text(
        "[default]\nendpoint_url = http://127.0.0.1:3\nuse_fips_endpoint = true\n"
        "ignore_configured_endpoint_urls = true\nservices = ours\n"
        "[services ours]\ns3 =\n  endpoint_url = http://127.0.0.1:3\n"
    )

    desk = {**DESK, "AWS_CONFIG_FILE": str(config), "no_proxy": "example.com"}

    said = subprocess.run(
        [sys.executable, "-c", script, json.dumps(desk), running_stack().model_dump_json()],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()

    assert said == ["http://127.0.0.1:4711 eu-central-1", "True []", "['PGSSLMODE']"]


def test_what_a_killed_start_did_not_write_down_is_stopped_by_its_folder(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    ours, beside = _started(tmp_path, "sleep 600"), _started(other, "sleep 600")
    stack = LocalStack(tmp_path)

    assert stack.down()

    assert not ours.is_running()
    assert beside.is_running()
    assert not stack.down()
    shutil.rmtree(other)
    # Its folder is gone, and what it was about is found all the same.
    assert LocalStack(other).down()
    assert not beside.is_running()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_what_runs_and_all_that_it_started(
    tmp_path: Path, number: signal.Signals
) -> None:
    os.mkfifo(tmp_path / "ready")
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from provision_cli.local import processes\n"
        "folder = Path(sys.argv[1])\n"
        # A shell's background job would not hear Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "with processes.end_by_signals():\n"
        "    processes.run(['/bin/sh', '-c', 'sleep 600 & echo $! > ready; wait'],\n"
        "        environment={'PATH': os.defpath}, log=folder / 'log', directory=folder, what='it')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stderr=subprocess.DEVNULL
    ) as process:
        child = int((tmp_path / "ready").read_text())
        process.send_signal(number)
        code = process.wait(timeout=60)

    assert code in {128 + number, -number}
    assert not runs(child)


def test_half_a_file_of_the_stack_is_as_good_as_none(tmp_path: Path) -> None:
    for name in ("state.json", "ports.json"):
        (tmp_path / name).write_text("{")
    stack = LocalStack(tmp_path)

    assert not any(stack.status().values())
    assert not stack.down()


@pytest.fixture
def echo() -> Iterator[int]:
    """Yield the port of a server that says what it has heard, once the other side has ended."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, connection.makefile("rb") as heard:
                        connection.sendall(heard.read())

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def _asked_through_relay(tmp_path: Path, port: int, network: str) -> bytes:
    # On Linux, every address of 127.0.0.0/8 is this machine's; 127.0.0.2 stands for the bridge's.
    relay = containers.start_relay(
        ContainerNetwork("127.0.0.2", network),
        [port],
        tmp_path,
    )
    try:
        with socket.create_connection(("127.0.0.2", port), timeout=20) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(b"x" * 200_000)
                connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as answer, contextlib.suppress(OSError):
                return answer.read()
            return b""
    finally:
        relay.stop()


@_ON_LINUX
def test_containers_are_handed_on_to_the_loopback_address(tmp_path: Path, echo: int) -> None:
    assert _asked_through_relay(tmp_path, echo, "127.0.0.0/8") == b"x" * 200_000


@_ON_LINUX
def test_nobody_but_containers_is_handed_on(tmp_path: Path, echo: int) -> None:
    assert _asked_through_relay(tmp_path, echo, "172.17.0.0/16") == b""


@_ON_LINUX
def test_a_port_that_containers_cannot_be_given_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))

        with pytest.raises(LocalStackError, match="cannot be listened on; stop what uses them"):
            _asked_through_relay(tmp_path, taken.getsockname()[1], "127.0.0.0/8")


def test_without_docker_there_is_no_network_of_containers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert containers.find_network() is None

    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nexit 1\n")
    docker.chmod(0o755)
    assert containers.find_network() is None

    # An engine in a machine of its own has a bridge that is none of ours.
    docker.write_text('#!/bin/sh\necho \'[{"Subnet": "192.0.2.0/24"}]\'\n')
    assert containers.find_network() == ContainerNetwork(containers.DESKTOP_HOST)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"job": {"job_id": "x"}}',
        '{"job": {"job_id": "x", "job_type": "y", "payload": []}}',
    ],
)
def test_what_is_no_event_of_a_stage_is_named(tmp_path: Path, text: str) -> None:
    event = tmp_path / "event.json"
    event.write_text(text)
    running = running_stack()

    with pytest.raises(LocalStackError, match=r"event\.json: is not the event of a stage"):
        containers.store_job(running, event)
    with pytest.raises(LocalStackError, match=r"missing\.json: cannot be read: No such file"):
        containers.store_job(running, tmp_path / "missing.json")


def test_an_event_about_no_project_stores_its_job_alone(core: Core) -> None:
    outputs = {
        "ProjectsTableName": "ProjectsTable",
        "QuotasTableName": "QuotasTable",
        "JobsTableName": "JobsTable",
        "JobRetentionDays": "91",
    }
    stack: Any = SimpleNamespace(client=core.client, outputs=outputs)
    event = ROOT / "events" / "database" / "rotate_cluster_login" / "rotating_login.json"
    job = core.jobs.get(containers.store_job(stack, event))
    assert (job.job_type, job.project_id) == ("rotate_cluster_login", "")
    assert core.scan("ProjectsTable") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="started by root it is never in the project")
def test_a_postgresql_is_elsewhere_where_a_shell_would_read_its_path(tmp_path: Path) -> None:
    for name, is_elsewhere in (("with a space", False), ("$(date)", True), ('"', True)):
        server = PostgresqlServer(tmp_path / name, 1)
        assert server._home.is_relative_to(tmp_path) != is_elsewhere
