"""The secret scanner of `make lint` finds what it is there for.

Each secret is made here, so that the scanner does not find it in this file.
"""

from __future__ import annotations

import json
import random
import string
import subprocess
import sys
from pathlib import Path

import pytest
from provisioner.api_keys.key_format import generate_api_key
from support.project import ROOT

#: Its own interpreter's folder: where the environment has its programs.
KINGFISHER = Path(sys.executable).with_name("kingfisher")

#: Draws the same secrets in every run.
_DRAW = random.Random(4711)  # they open nothing


def drawn(alphabet: str, length: int) -> str:
    return "".join(_DRAW.choice(alphabet) for _ in range(length))


WORD = string.ascii_letters + string.digits
PASSWORD = drawn(WORD, 24)

#: What is planted, by the rule that is to find it.
PLANTED = {
    "betterleaks.aws-access-token": (
        f'aws_access_key_id = "AKIA{drawn("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16)}"\n'
        f'aws_secret_access_key = "{drawn(WORD + "/+", 40)}"\n'
    ),
    "betterleaks.generic-credential-uri": (
        f'URL = "postgresql://admin:{PASSWORD}@eu-1.c9akciq32.rds.amazonaws.com:5432/postgres"\n'
    ),
    "betterleaks.private-key": (
        f"-----BEGIN {'PRIVATE'} KEY-----\n{drawn(WORD, 64)}\n{drawn(WORD, 64)}\n"
        f"-----END {'PRIVATE'} KEY-----\n"
    ),
    "custom.project-provisioner.api-key": f"curl -H 'x-api-key: {generate_api_key('nm')}'\n",
    "custom.project-provisioner.password": f'database_password = "{PASSWORD}"\n',
}


def scan(folder: Path) -> tuple[int, set[str]]:
    """Return how a scan as in `make lint` ends, and the rules that have found something."""
    (command,) = [
        line.strip()
        for line in (ROOT / "Makefile").read_text().splitlines()
        if line.startswith("\t$(BIN)/kingfisher scan ")
    ]
    options = command.split()[1:-1]
    done = subprocess.run(
        [str(KINGFISHER), *options, "--format", "json", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)["findings"]
    return done.returncode, {finding["rule"]["id"] for finding in found}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, set[str]]:
    """Scan a folder with one file for each secret."""
    folder = tmp_path_factory.mktemp("planted")
    for rule, text in PLANTED.items():
        (folder / f"{rule}.py").write_text(text)
    return scan(folder)


@pytest.mark.parametrize("rule", PLANTED)
def test_planted_secret_is_found(rule: str, findings: tuple[int, set[str]]) -> None:
    code, found = findings
    assert rule in found
    assert code != 0


@pytest.mark.parametrize("before", ["%3D", "\\n", "\\u003d", '\\"', "%22"])
def test_key_is_found_after_an_escape(before: str, tmp_path: Path) -> None:
    (tmp_path / "page.txt").write_text(f"token{before}{generate_api_key('nm')}\n")
    assert scan(tmp_path)[1] == {"custom.project-provisioner.api-key"}


def test_scan_without_a_finding_ends_well(tmp_path: Path) -> None:
    (tmp_path / "clean.py").write_text('password_field = "password"\n')
    assert scan(tmp_path) == (0, set())
