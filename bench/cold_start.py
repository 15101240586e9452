"""What importing each function's handler costs, as a ratio to a Python that does nothing.

Instructions are counted by callgrind with a fixed hash seed, so that two runs agree; the code is
the built artifact with its byte code, laid out as AWS Lambda mounts it. A ratio is reported, and
nothing fails on it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / ".aws-sam" / "build"

#: The most that each function is meant to cost.
AIMS = {
    **dict.fromkeys(["Dispatcher", "Lifecycle", "Instances", "Services", "ApiKeys"], 30),
    **dict.fromkeys(["Reconciler", "DeadLetters", "Events"], 30),
    **dict.fromkeys(["Database", "Snapshot"], 45),
}

#: The functions that have the drivers of databases.
WITH_DRIVERS = {"DatabaseFunction", "SnapshotFunction"}

#: Values of the variables that the functions read; nothing is called with them.
VARIABLES = dict.fromkeys(
    [
        "JOBS_TABLE",
        "PROJECTS_TABLE",
        "API_KEYS_TABLE",
        "QUOTAS_TABLE",
        "QUEUE_URL",
        "DEAD_LETTER_QUEUE_URL",
        "EVENT_BUS_NAME",
        "SNAPSHOTS_BUCKET",
        "STATE_MACHINE_ARN_PREFIX",
        "CLUSTER_PARAMETER_PREFIX",
        "POWERTOOLS_SERVICE_NAME",
        "POWERTOOLS_METRICS_NAMESPACE",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    ],
    "benchmark",
) | {
    "AWS_DEFAULT_REGION": "eu-central-1",
    "DEFAULT_PROJECT_QUOTA": "10",
    "JOB_RETENTION_DAYS": "91",
    "QUEUED_MINUTES": "15",
    "REQUIRED_JOB_TYPES": "provision_project",
    "RESOURCE_NAMESPACE": "benchmark-123456789012",
    "RESOURCE_PREFIX": "nm",
}

#: Counts the instructions of the command that follows it.
CALLGRIND = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")


def run(
    code: str, function: Path | None = None, *, under: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a piece of code in a new interpreter.

    Args:
        code: what is run.
        function: a built function, with its layers beside it; without one there is none to import.
        under: the program that watches, with its options.
    """
    environment = VARIABLES | {"PYTHONHASHSEED": "0", "PATH": os.defpath}
    if function is not None:
        layers = [
            function.parent / f"{name}Layer" / "python"
            for name in ("Provisioner", "Postgresql", "Mysql")
        ]
        shown = layers if function.name in WITH_DRIVERS else layers[:1]
        environment["LAMBDA_TASK_ROOT"] = str(function)
        environment["PYTHONPATH"] = os.pathsep.join(map(str, [function, *shown]))
    # The real interpreter: the environment's own would import what its packages ask for.
    interpreter = str(Path(sys.base_prefix) / "bin" / "python3.13")
    return subprocess.run(  # our own functions  # nosec B603
        [*under, interpreter, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def instructions(code: str, function: Path | None = None) -> int:
    """Count the instructions that a new interpreter executes for a piece of code."""
    # The first run writes the byte code of the standard library where it is missing.
    for _ in range(2):
        done = run(code, function, under=CALLGRIND)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        raise SystemExit(f"{code}: could not be measured:\n{done.stderr[-2000:]}")
    return int(found[1])


def main() -> None:
    """Print the table."""
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind: is not installed; install it to count instructions.")
    if not BUILD.exists():
        raise SystemExit(f"{BUILD}: is not there; run make build.")
    floor = instructions("pass")
    print(f"floor: python -c pass, {floor / 1e6:.1f} million instructions")
    print(f"{'function':<12} {'ratio':>7} {'aim':>5}")
    for function, aim in AIMS.items():
        cost = instructions("import handler", BUILD / f"{function}Function")
        print(f"{function:<12} {cost / floor:>6.1f}x {aim:>4}x")


if __name__ == "__main__":
    main()
