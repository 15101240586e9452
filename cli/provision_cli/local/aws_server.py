"""The local AWS: every service on one port, with functions that run as processes here."""

import http.client
import os
import sys
import urllib.request
from pathlib import Path

from provision_cli.local import environment, processes, tools
from provision_cli.local.errors import LocalStackError
from provision_cli.local.ports import LOOPBACK

#: Its accounts are twelve digits, and the access key says which; this one it takes for any other.
ACCOUNT = "000000000000"

#: Retry intervals, as a share of what the state machine says: 300 seconds become 3.
_WAIT_SCALE = "0.01"

#: Where this package is.
_PROGRAM_FOLDER = Path(__file__).resolve().parents[2]

#: What this desk says of the programs and the data of database servers, those of instances too.
_SERVER_VARIABLES = ("POSTGRESQL_BIN", "POSTGRESQL_DATA", "MYSQL_BIN", "MYSQL_DATA")

_START_SECONDS = 120.0


def endpoint_url(port: int) -> str:
    """Return the address of every service."""
    return f"http://{LOOPBACK}:{port}"


def start(root: Path, directory: Path, port: int, *, region: str) -> processes.StartedProcess:
    """Start the local AWS and return once it answers.

    Args:
        root: the project.
        directory: for its log, its state and its temporary files.
        port: a free port.
        region: where functions and services say they are.

    Raises:
        LocalStackError: it ended, or did not answer in time.
    """
    log = directory / "aws.log"
    command = [
        *tools.asgi_server(root),
        *("provision_cli.local.ministack_app:app", "--bind", f"{LOOPBACK}:{port}"),
        *("--keep-alive", "75", "--log-level", "WARNING"),
        # It serves by itself: nothing that serves can outlive it, or be replaced without its state.
        *("--workers", "0"),
    ]
    made = _environment(directory, port, region)
    process = processes.start(command, environment=made, log=log, directory=directory)
    try:
        _wait_until_it_answers(process, port, log)
    except BaseException:
        # Also on Ctrl-C: nobody knows of it yet, so nobody else could stop it.
        process.stop()
        raise
    return process


def _environment(directory: Path, port: int, region: str) -> dict[str, str]:
    scratch = directory / "aws"
    scratch.mkdir(parents=True, exist_ok=True)
    return {
        **environment.for_programs(
            directory,
            GATEWAY_PORT=str(port),
            # The functions inherit these: they find each other, and nothing outside.
            AWS_ENDPOINT_URL=endpoint_url(port),
            AWS_EC2_METADATA_DISABLED="true",
            AWS_CONFIG_FILE=str(scratch / "no-config"),
            AWS_SHARED_CREDENTIALS_FILE=str(scratch / "no-credentials"),
            MINISTACK_REGION=region,
            MINISTACK_ACCOUNT_ID=ACCOUNT,
            PROVISION_INSTANCE_DIRECTORY=str(directory),
            PROVISION_INSTANCE_PYTHON=sys.executable,
            PYTHONPATH=str(_PROGRAM_FOLDER),
            SFN_WAIT_SCALE=_WAIT_SCALE,
            STATE_DIR=str(scratch / "state"),
            TMPDIR=str(scratch),
            # It would start a container for each database or function where it finds an engine.
            DOCKER_HOST="unix:///nowhere/docker.sock",
            # Listeners of services that nothing here uses.
            IOT_MTLS_ENABLED="0",
            SFTP_ENABLED="0",
        ),
        **{name: os.environ[name] for name in _SERVER_VARIABLES if name in os.environ},
    }


def _wait_until_it_answers(process: processes.StartedProcess, port: int, log: Path) -> None:
    processes.wait_until(lambda: answers(port) or not process.is_running(), _START_SECONDS)
    if not (process.is_running() and answers(port)):
        raise LocalStackError(
            f"the local AWS does not answer on port {port}, or has ended; its output is in {log}:\n"
            f"{processes.last_lines(log)}"
        )


def answers(port: int) -> bool:
    """Whether a local AWS serves that port."""
    # Whatever proxy the desk has: it is not asked for this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{endpoint_url(port)}/_ministack/health", timeout=5) as response:
            return bool(response.status == 200)  # noqa: PLR2004 - OK
    except (OSError, http.client.HTTPException):
        return False
