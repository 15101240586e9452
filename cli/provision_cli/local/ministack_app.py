"""The local AWS as it is served: ministack, whose RDS instances get a server each.

It runs in the environment of ministack, which has nothing that this project depends on.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ministack.app import app  # type: ignore[import-not-found]  # it is served there
from ministack.services import rds  # type: ignore[import-not-found]  # likewise

from provision_cli.local.rds_instances import InstancesWithServers

__all__ = ["app"]

# A job keeps several connections and pipes open; the usual limit of 1,024 files is low.
_, _MOST_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)
# macOS refuses one without bounds.
with contextlib.suppress(ValueError):
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST_FILES, _MOST_FILES))

# The functions inherit the environment, and these are not theirs.
os.environ.pop("PYTHONPATH", None)
#: The interpreter that has what this project depends on.
_PYTHON = os.environ.pop("PROVISION_INSTANCE_PYTHON")
#: The folder of the local stack.
_DIRECTORY = Path(os.environ.pop("PROVISION_INSTANCE_DIRECTORY"))

_LOG = _DIRECTORY / "instances.log"
_LOG.write_bytes(b"")


def _operate(operation: str, request: Mapping[str, Any]) -> bool:
    """Run an operation on a server as a program of its own; return whether it went well."""
    command = [_PYTHON, "-m", "provision_cli.local.instance_servers", str(_DIRECTORY), operation]
    with _LOG.open("ab") as log:
        process = subprocess.run(  # noqa: S603  # our own program  # nosec B603
            command, input=json.dumps(request).encode(), stdout=log, stderr=log, check=False
        )
    return process.returncode == 0


InstancesWithServers(rds, _operate)
