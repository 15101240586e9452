"""SAM: the project's build, and functions that run in their images."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import yaml  # type: ignore[import-untyped]  # as in support.project
from botocore.config import Config
from provision_cli.local import environment, processes
from provision_cli.local.containers import VARIABLES_FILE
from provision_cli.local.ports import choose_port
from provision_cli.local.stack import RunningStack
from support.project import ROOT, makefile_variable, template
from support.stack_jobs import eventually

BUILT = ROOT / ".aws-sam" / "build"
#: What `make setup` puts beside the other programs.
SAM = ROOT / ".venv" / "bin" / "sam"
#: Seconds; the snapshot's function may run longest, and SAM makes an image before a first call.
_LONGEST_CALL_SECONDS = 120

ARCHITECTURE = "arm64" if platform.machine() in {"arm64", "aarch64"} else "x86_64"


def run_make(*arguments: str) -> None:
    """Run a target of the project's makefile."""
    environment = {n: v for n, v in os.environ.items() if not n.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        # SAM wants to know a region, though neither building nor checking asks AWS.
        env={**environment, "AWS_DEFAULT_REGION": "eu-central-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


#: Runs where SAM is installed: translates the template on its standard input as a deployment does.
_TRANSLATE = """
import sys
from samcli.lib.translate.sam_template_validator import SamTemplateValidator
from samcli.yamlhelper import yaml_parse

class NoManagedPolicies:
    def load(self):
        return {}

template = yaml_parse(sys.stdin.read())
validator = SamTemplateValidator(template, NoManagedPolicies(), region="eu-central-1")
print(validator.get_translated_template_if_valid())
"""


def translated(template: str) -> dict[str, Any]:
    """Return the CloudFormation template that SAM makes of a template, its own roles included."""
    return dict(yaml.safe_load(run_beside_sam(_TRANSLATE, template)))


def run_beside_sam(code: str, given: str = "") -> str:
    """Run Python code where SAM can be imported, and return what it prints."""
    done = subprocess.run(
        [*_sam_environment(), "python", "-c", code],
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _sam_environment() -> list[str]:
    """Return what runs a program in the environment of the SAM CLI."""
    version = makefile_variable(ROOT / "Makefile", "SAM_CLI_VERSION")
    uv = str(ROOT / ".tools" / "bin" / "uv")
    return [uv, "tool", "run", "--quiet", "--python", "3.13", "--from", f"aws-sam-cli=={version}"]


@dataclass(frozen=True)
class Invocation:
    """What a function answered in its container."""

    #: The function's result, or what it raised; None where it said nothing.
    result: Any
    #: Its log.
    log: str


@dataclass
class SamLocal:
    """Runs functions in their images against the local stack."""

    stack: RunningStack
    #: Where the log of the warm containers goes.
    log: Path
    #: The functions that were invoked as SAM's users do.
    _invoked: set[str] = field(default_factory=set)
    _warm: _WarmContainers | None = None

    def invoke(self, function: str, event: Path) -> Invocation:
        """Run a function once: the first time by `sam local invoke`, then in a warm container."""
        if function not in self._invoked:
            self._invoked.add(function)
            return self._invoke_once(function, event)
        if self._warm is None:
            self._warm = _WarmContainers(self._command("start-lambda"), self._environment, self.log)
        return self._warm.invoke(function, event)

    def stop(self) -> None:
        """Stop the warm containers."""
        if self._warm is not None:
            self._warm.stop()

    def _invoke_once(self, function: str, event: Path) -> Invocation:
        done = subprocess.run(
            self._command("invoke", function, "--event", str(event)),
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        # SAM ends with 0 whatever the function did: what it printed last says how it went.
        answer = done.stdout.strip().splitlines()
        assert answer, f"the function said nothing:\n{done.stderr}"
        return Invocation(json.loads(answer[-1]), done.stderr)

    def _command(self, *arguments: str) -> list[str]:
        """Return what users type, but for the folder of this stack, which is not theirs."""
        command = [
            *(str(SAM), "local", *arguments),
            *("--env-vars", str(self.stack.directory / VARIABLES_FILE)),
        ]
        if template()["Parameters"]["Architecture"]["Default"] != ARCHITECTURE:
            # As it is built for tests: for the machine that they run on.
            command += ["--parameter-overrides", f"Architecture={ARCHITECTURE}"]
        return command

    @property
    def _environment(self) -> dict[str, str]:
        """Return what a shell has after `eval "$(provision env)"`."""
        of_desk = environment.desk_variables(os.environ)
        kept = {name: value for name, value in os.environ.items() if name not in of_desk}
        mark = {environment.MARK_VARIABLE: str(self.stack.directory)}
        return {**kept, **self.stack.environment(), **mark}


class _WarmContainers:
    """Functions whose containers go on from one call to the next, as AWS Lambda's do."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        port = choose_port()
        self._log = log
        self._process = processes.start(
            [*command, "--port", str(port), "--warm-containers", "LAZY"],
            environment=environment,
            log=log,
            directory=ROOT,
        )
        self._client = boto3.client(
            "lambda",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="eu-central-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(read_timeout=_LONGEST_CALL_SECONDS, retries={"total_max_attempts": 1}),
        )
        eventually(lambda: self._answers(port), within=60)

    def _answers(self, port: int) -> bool:
        assert self._process.is_running(), self._log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def invoke(self, function: str, event: Path) -> Invocation:
        """Run a function once; returns what it answered, and its log."""
        before = len(self._log.read_text())
        answer = self._client.invoke(FunctionName=function, Payload=event.read_bytes())
        result = json.loads(answer["Payload"].read())

        def log() -> str | None:
            told = self._log.read_text()[before:]
            return told if "REPORT RequestId" in told else None

        return Invocation(result, eventually(log, within=20))

    def stop(self) -> None:
        """Stop SAM, which removes its containers."""
        # To it alone, and once: a second signal keeps SAM from removing the rest of them.
        os.kill(self._process.pid, signal.SIGTERM)
        eventually(lambda: not self._process.is_running(), within=60)
