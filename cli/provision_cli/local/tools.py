"""The programs that the local stack is made of, each in its own environment, away from ours.

The SAM CLI and the local AWS pin botocore and much else: uv keeps each of them in its own cached
environment.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from provision_cli.local.errors import LocalStackError

#: The interpreter behind this environment: SAM and uv look for `python3.13` on PATH, where a
#: version manager's shim of another default does not count.
INTERPRETER = Path(sys.executable).resolve()


def sam(root: Path) -> list[str]:
    """Return the command of the SAM CLI; raises what `uv` raises."""
    return _command(root, f"aws-sam-cli=={_version(root, 'SAM_CLI_VERSION')}", "sam")


def asgi_server(root: Path) -> list[str]:
    """Return the command of the server that the local AWS runs in; raises what `uv` raises."""
    return _command(root, f"ministack[full]=={_version(root, 'MINISTACK_VERSION')}", "hypercorn")


def uv(root: Path) -> str:
    """Return the path of uv.

    Raises:
        LocalStackError: it is neither in the project nor on PATH.
    """
    own = root / ".tools" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise LocalStackError(
            f"uv: is neither in {own.parent} nor on PATH; run `make setup`, which installs it."
        )
    return found


def _command(root: Path, package: str, program: str) -> list[str]:
    return [
        *(uv(root), "tool", "run", "--quiet", "--python", str(INTERPRETER)),
        *("--from", package, program),
    ]


def _version(root: Path, variable: str) -> str:
    """Read a version from the Makefile, which uses it too."""
    found = re.search(rf"^{variable} := (\S+)$", (root / "Makefile").read_text(), re.MULTILINE)
    if found is None:
        raise LocalStackError(f"Makefile: {variable} is missing; restore it.")
    return found[1]


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without its AWS settings, with others.

    A developer's AWS profile must never reach the local stack, nor the local stack that account.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    kept["PATH"] = f"{INTERPRETER.parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    # make hands its own flags down, which a make that runs inside would take for its own.
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "VIRTUAL_ENV"):
        kept.pop(name, None)
    return {**kept, "SAM_CLI_TELEMETRY": "0", **variables}
