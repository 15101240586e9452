"""Builds the project's own template for the local stack, once for each state of its sources.

The template is built as it is. What SAM built is then changed in one place: the functions become
custom runtimes whose `bootstrap` is AWS's own runtime interface client on this machine's Python.
The local AWS's built-in Python runtime reports every exception as Runtime.HandlerError, so that no
Retry or Catch by name would ever match. Source: AWS Lambda Developer Guide, "Building a custom
runtime".
"""

import fcntl
import hashlib
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provision_cli.local import environment, processes, tools
from provision_cli.local.errors import LocalStackError

#: What the build is made of.
_SOURCES = ("template.yaml", "functions", "layers", "state_machines")

#: Builds that are kept: a running stack uses the files of its own.
_KEPT_BUILDS = 4

#: What is changed in the built template, as patterns with what replaces them.
_CHANGES = (
    (r"Runtime: python3\.13", "Runtime: provided.al2023"),
    # The local AWS takes the value of a number parameter for a text, and compares it with a number.
    (r"MaximumConcurrency:\s+Ref: \w+", "MaximumConcurrency: 10"),
)

#: As uv calls it.
_MACOS_PLATFORM = f"{platform.machine().replace('arm64', 'aarch64')}-apple-darwin"

_BOOTSTRAP = """#!/bin/sh
export PYTHONPATH="$LAMBDA_TASK_ROOT":{layers}
exec {python} -m awslambdaric "$_HANDLER"
"""


def architecture() -> str:
    """Return this machine's instruction set, by AWS Lambda's name."""
    return "arm64" if platform.machine().lower() in {"arm64", "aarch64"} else "x86_64"


def digest_sources(root: Path) -> str:
    """Return a digest of everything that the build is made of."""
    digest = hashlib.sha256(f"{tools.sam_package(root)} {sys.executable} {sys.version}".encode())
    digest.update(Path(__file__).read_bytes())
    for name in _SOURCES:
        top = root / name
        for path in sorted([top, *top.rglob("*")]):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root)}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def ensure_built(root: Path, builds: Path, directory: Path) -> Path:
    """Return the folder of the build of the present sources, after building it where it is missing.

    Args:
        root: the project.
        builds: holds one folder for each build; processes take turns there.
        directory: the folder of the local stack that it is built for.

    Raises:
        LocalStackError: the build failed.
    """
    builds.mkdir(parents=True, exist_ok=True)
    target = builds / digest_sources(root)
    with lock(builds / "lock"):
        if not target.exists():
            _build(root, target, builds / "sam-build.log", directory)
            _remove_old(builds)
    return target


@contextmanager
def lock(file: Path) -> Iterator[None]:
    """Let one process at a time pass."""
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(root: Path, target: Path, log: Path, directory: Path) -> None:
    # SAM's and the bootstraps' paths are the final ones: a build that was interrupted is known by
    # its mark and started over.
    unfinished = target.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [
        *tools.sam(root),
        "build",
        "--template-file",
        str(root / "template.yaml"),
        "--build-dir",
        str(unfinished),
        "--parameter-overrides",
        f"Architecture={architecture()}",
    ]
    made = environment.for_downloads(
        directory,
        # Where the layers' makefiles look for uv.
        path=[tools.uv(root).parent],
        LAMBDA_ARCHITECTURE=architecture(),
        SAM_CLI_TELEMETRY="0",
        # Building asks no AWS, but the SAM CLI wants to know a region.
        AWS_DEFAULT_REGION="us-east-1",
        # The layers are built for this system, where it is not AWS Lambda's.
        **({} if sys.platform == "linux" else {"LAYER_PLATFORM": _MACOS_PLATFORM}),
    )

    def run(variables: dict[str, str]) -> None:
        processes.run(command, environment=variables, log=log, directory=root, what="sam build")

    try:
        run({**made, **tools.OFFLINE})
    except LocalStackError:
        if tools.WITHOUT_NETWORK not in log.read_text(encoding="utf-8", errors="replace"):
            raise
        run(made)
    _fit(unfinished, target)
    unfinished.rename(target)


def _fit(built: Path, target: Path) -> None:
    """Change what SAM has built, which will be in another folder, so that it runs here."""
    layers = sorted(built.glob("*/python"))
    functions = sorted(file.parent for file in built.glob("*/handler.py"))
    if not layers or not functions:
        raise LocalStackError(f"sam build: made no layers or no functions in {built}.")
    # A custom runtime gets no layers here: the functions find them in this folder, and what is
    # uploaded in their place, only to be stored, is a note.
    for layer in layers:
        layer.rename(built / f"{layer.parent.name}.contents")
        (layer.parent / "README").write_text(
            "The functions find this layer on this machine.\n", encoding="utf-8"
        )
    search_path = ":".join(str(target / f"{layer.parent.name}.contents") for layer in layers)
    for function in functions:
        bootstrap = function / "bootstrap"
        script = _BOOTSTRAP.format(
            layers=shlex.quote(search_path), python=shlex.quote(sys.executable)
        )
        bootstrap.write_bytes(os.fsencode(script))
        bootstrap.chmod(0o755)
    template = built / "template.yaml"
    text = template.read_text(encoding="utf-8")
    for pattern, local in _CHANGES:
        text, count = re.subn(pattern, local, text)
        if count == 0:
            raise LocalStackError(f"template.yaml: {pattern} is not found in what SAM built.")
    template.write_text(text, encoding="utf-8")


def _remove_old(builds: Path) -> None:
    found = [p for p in builds.iterdir() if p.is_dir() and p.suffix == ""]
    for old in sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)[_KEPT_BUILDS:]:
        shutil.rmtree(old, ignore_errors=True)
