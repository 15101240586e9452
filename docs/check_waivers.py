"""Runs checkov on a template, and compares what it finds with what is waived, for `make lint`."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Nothing is fetched but checkov itself.
_OPTIONS = ("--framework", "cloudformation", "--compact", "--skip-download", "--output", "json")

#: What checkov ends with where it has run: nothing was found, or something.
_HAS_RUN = frozenset({0, 1})


class CheckovError(RuntimeError):
    """checkov has not run, or could not read the template."""


def run_checkov(program: Sequence[str], template: Path) -> list[dict[str, Any]]:
    """Return the checks that a template does not pass.

    Args:
        program: the command that runs checkov.
        template: the file.

    Raises:
        CheckovError: it has not run, or could not read the template.
    """
    run = subprocess.run(  # noqa: S603  # of the Makefile  # nosec B603
        [*program, *_OPTIONS, "--file", str(template)], capture_output=True, text=True, check=False
    )
    try:
        report = json.loads(run.stdout) if run.returncode in _HAS_RUN else {}
        results, summary = report["results"], report["summary"]
    except (ValueError, KeyError, TypeError):
        raise CheckovError(f"{template}: checkov has not run: {run.stderr.strip()}") from None
    if summary["parsing_errors"] or not summary["resource_count"]:
        raise CheckovError(f"{template}: checkov could not read it.")
    return list(results["failed_checks"])


def compare(failed: Sequence[Mapping[str, Any]], waivers: Mapping[str, str]) -> list[str]:
    """Say what was found and is not waived, and what is waived and was not found.

    Args:
        failed: the checks that were not passed.
        waivers: the reason of each that need not be.
    """
    found = [
        f"{check['resource']}: {check['check_id']}: {check['check_name']}"
        for check in failed
        if check["check_id"] not in waivers
    ]
    needed = {check["check_id"] for check in failed}
    return found + [f"{name}: waives nothing; take it out." for name in waivers.keys() - needed]


def main() -> int:
    """Print what is wrong: `check_waivers.py WAIVERS TEMPLATE -- CHECKOV…`."""
    waivers, template, _, *program = sys.argv[1:]
    try:
        failed = run_checkov(program, Path(template))
    except CheckovError as error:
        wrong = [str(error)]
    else:
        wrong = compare(failed, tomllib.loads(Path(waivers).read_text(encoding="utf-8")))
    sys.stdout.writelines(f"{line}\n" for line in wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
