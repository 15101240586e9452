"""The programs that the local stack is made of, each in its own environment, away from ours.

The SAM CLI and the local AWS pin botocore and much else: uv keeps each of them in its own cached
environment. uv is asked where that is, and may download it as this desk downloads packages; the
program itself is then started without uv, in an environment that is the local stack's own. What uv
has kept needs no network, and none is asked: a desk's proxy may be out of reach.
"""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from provision_cli.local import environment
from provision_cli.local.errors import LocalStackError

#: Lets uv take only what it has kept. Source: uv's documentation, "Environment variables".
OFFLINE = {"UV_OFFLINE": "1"}

#: In what uv says where something is missing then.
WITHOUT_NETWORK = "the network was disabled"

#: Lines of uv's complaint that are shown.
_SHOWN_LINES = 8


def sam(root: Path) -> list[str]:
    """Return the command of the SAM CLI; raises what `_install` raises."""
    return [str(_install(root, sam_package(root)) / "sam")]


def sam_package(root: Path) -> str:
    """Return the package of the SAM CLI with its version."""
    return f"aws-sam-cli=={_version(root, 'SAM_CLI_VERSION')}"


def asgi_server(root: Path) -> list[str]:
    """Return the command of the server that the local AWS runs in; raises as `_install` does."""
    package = f"ministack[full]=={_version(root, 'MINISTACK_VERSION')}"
    return [str(_install(root, package) / "hypercorn")]


def uv(root: Path) -> Path:
    """Return the path of uv.

    Raises:
        LocalStackError: it is neither in the project nor on PATH.
    """
    own = root / ".tools" / "bin" / "uv"
    found = own if own.exists() else shutil.which("uv")
    if found is None:
        raise LocalStackError(
            f"uv: is neither in {own.parent} nor on PATH; run `make setup`, which installs it."
        )
    return Path(found)


@cache
def _install(root: Path, package: str) -> Path:
    """Return the folder of a package's programs, after installing it where it is missing.

    Raises:
        LocalStackError: there is no uv, or it could not install the package.
    """
    command = [
        *(str(uv(root)), "tool", "run", "--quiet", "--python", str(environment.INTERPRETER)),
        *("--from", package, "python", "-I", "-c", "import sys; print(sys.prefix)"),
    ]
    made = environment.for_downloads(root / ".local")
    for variables in ({**made, **OFFLINE}, made):
        asked = subprocess.run(  # noqa: S603 - the command is this package's own  # nosec B603
            command,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0:
            return Path(asked.stdout.strip()) / "bin"
    reason = "\n".join(asked.stderr.strip().splitlines()[-_SHOWN_LINES:])
    raise LocalStackError(f"uv: could not install {package}:\n{reason}")


def _version(root: Path, variable: str) -> str:
    """Read a version from the Makefile, which uses it too."""
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    found = re.search(rf"^{variable} := (\S+)$", makefile, re.MULTILINE)
    if found is None:
        raise LocalStackError(f"Makefile: {variable} is missing; restore it.")
    return found[1]
