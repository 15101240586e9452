"""SAM: the project's build, and functions that run in their images."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # as in support.project
from provision_cli.local.stack import RunningStack
from support import docker
from support.project import ROOT, makefile_variable

BUILT = ROOT / ".aws-sam" / "build"
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
    done = subprocess.run(
        [*_sam_environment(), "python", "-c", _TRANSLATE],
        input=template,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(yaml.safe_load(done.stdout))


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


@dataclass(frozen=True)
class SamLocal:
    """Runs functions in their images against the local stack."""

    stack: RunningStack
    template: Path
    #: The same functions with what their layers hold beside their code: quicker to start.
    without_layers: Path
    variables: Path
    #: The functions that were invoked with their layers, as SAM's users do.
    _invoked: set[str] = field(default_factory=set)

    def invoke(self, function: str, event: Path) -> Invocation:
        """Run a function once, in a new container; the first time with its layers."""
        template = self.without_layers if function in self._invoked else self.template
        self._invoked.add(function)
        done = subprocess.run(
            [
                *(*_sam_environment(), "sam", "local", "invoke"),
                *(function, "--template", str(template), "--event", str(event)),
                *("--env-vars", str(self.variables)),
                *("--add-host", f"{docker.HOST}:host-gateway"),
                *("--parameter-overrides", f"Architecture={ARCHITECTURE}"),
            ],
            cwd=ROOT,
            env={
                **{n: v for n, v in os.environ.items() if not n.startswith("AWS_")},
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": self.stack.region,
                # SAM asks whose account it is, and waits for an answer.
                "AWS_ENDPOINT_URL_STS": self.stack.endpoint_url,
                # A call that finds no network gives up at once.
                "AWS_MAX_ATTEMPTS": "1",
                "SAM_CLI_TELEMETRY": "0",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        # SAM ends with 0 whatever the function did: what it printed last says how it went.
        answer = done.stdout.strip().splitlines()
        assert answer, f"the function said nothing:\n{done.stderr}"
        return Invocation(json.loads(answer[-1]), done.stderr)
