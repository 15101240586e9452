"""Writes the table of faults in reliability.md anew, from the tests that put them in.

Run `make fault-docs` after changing them. The table is collected; no test is run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"

_TABLE = re.compile(r"(?<=<!-- faults -->\n).*?(?=<!-- /faults -->)", re.DOTALL)
_ROWS = re.compile(r"^\|.*\|$", re.MULTILINE)


def table() -> str:
    """Return the table as the collected tests have it."""
    # Only these are imported; a helper that gives the mark stands in tests/support.
    files = [
        str(path)
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "mark.fault(" in path.read_text() or path.parent.name == "faults"
    ]
    options = "-p no:cacheprovider --quiet --collect-only -m fault --fault-table=markdown"
    collected = subprocess.run(  # noqa: S603  # no part of it is anyone's input  # nosec B603
        [sys.executable, "-m", "pytest", *options.split(), *files],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return "\n".join(_ROWS.findall(collected)) + "\n"


def written(page: str, rows: str) -> str:
    """Return a page with the table in its place."""
    return _TABLE.sub(lambda _: rows, page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), table()))
