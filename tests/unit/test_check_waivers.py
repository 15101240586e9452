"""What checkov finds is waived with a reason, and nothing is waived that it does not find."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest
from support.project import ROOT

from docs.check_waivers import main

FINDING = {"check_id": "CKV_1", "check_name": "It is encrypted", "resource": "Queue.Jobs"}


def run(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *,
    report: str,
    waivers: str = "",
    status: int = 1,
) -> int:
    """Run it with a program in place of checkov."""
    (folder / "waivers.toml").write_text(waivers)
    program = f"import sys; print({report!r}); print('broken', file=sys.stderr); sys.exit({status})"
    arguments = [str(folder / "waivers.toml"), "template.yaml", "--", sys.executable, "-c", program]
    monkeypatch.setattr(sys, "argv", ["check_waivers.py", *arguments])
    return main()


def report_of(*failed: dict[str, str], resources: int = 1, unread: int = 0) -> str:
    summary = {"parsing_errors": unread, "resource_count": resources}
    return json.dumps({"results": {"failed_checks": failed}, "summary": summary})


@pytest.mark.parametrize(
    ("report", "waivers", "said"),
    [
        (report_of(), "", ""),
        (report_of(FINDING), 'CKV_1 = "why"', ""),
        (report_of(FINDING), "", "Queue.Jobs: CKV_1: It is encrypted\n"),
        (report_of(), 'CKV_1 = "why"', "CKV_1: waives nothing; take it out.\n"),
        (report_of(unread=1), "", "template.yaml: checkov could not read it.\n"),
        (report_of(resources=0), "", "template.yaml: checkov could not read it.\n"),
        # As it says where there is nothing that it knows.
        ('{"passed": 0}', "", "template.yaml: checkov has not run: broken\n"),
        ("", "", "template.yaml: checkov has not run: broken\n"),
    ],
)
def test_findings_and_waivers_that_are_not_needed_are_named(  # noqa: PLR0917  # pytest's
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    report: str,
    waivers: str,
    said: str,
) -> None:
    assert run(monkeypatch, tmp_path, report=report, waivers=waivers) == (1 if said else 0)
    assert capsys.readouterr().out == said


def test_a_checkov_that_breaks_is_no_clean_template(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path, report=report_of(), status=2) == 1
    assert capsys.readouterr().out == "template.yaml: checkov has not run: broken\n"


def test_every_waiver_says_why() -> None:
    waivers = tomllib.loads((ROOT / "checkov_waivers.toml").read_text())
    assert waivers
    assert all(reason.endswith(".") and len(reason.split()) > 8 for reason in waivers.values())
