"""The documentation says what the code does."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from provisioner.api_keys.key_format import LEAK_PATTERN
from provisioner.composition.events import COMPLETIONS
from provisioner.errors import ERROR_RULES
from provisioner.jobs.events import DETAILS, EventType
from provisioner.jobs.queue import JobMessage
from provisioner.jobs.retries import FOREIGN_ERRORS
from provisioner.provisioning.payload import DeprovisionProjectPayload, ProvisionProjectPayload
from provisioner.provisioning.plan import CleanupStage, DeprovisionStage, Stage
from provisioner.provisioning.result import (
    DeprovisionProjectResult,
    ProvisionProjectResult,
    SnapshotResult,
)
from support.project import ROOT, STATE_MACHINES

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CONTRACT = (ROOT / "docs" / "job-contract.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_examples_are_valid() -> None:
    message, result = (
        json.loads(text) for text in re.findall(r"```json\n(.*?)```", CONTRACT, re.DOTALL)
    )
    parsed = JobMessage.model_validate(message)
    ProvisionProjectPayload.model_validate(parsed.payload)
    ProvisionProjectResult.model_validate(result)


def test_the_contract_names_every_field_and_stage() -> None:
    for field in ProvisionProjectPayload.model_fields:
        assert f"`{field}" in CONTRACT, field
    assert [name for name in re.findall(r"`([A-Z_]+)`", CONTRACT) if name in Stage][
        : len(Stage)
    ] == [str(stage) for stage in Stage]
    for cleanup_stage in CleanupStage:
        assert f"`{cleanup_stage}`" in CONTRACT
    assert LEAK_PATTERN in CONTRACT


def test_the_contract_names_every_field_and_stage_of_a_removal() -> None:
    _, removal = CONTRACT.split("## deprovision_project")
    for model in (DeprovisionProjectPayload, DeprovisionProjectResult, SnapshotResult):
        for field in model.model_fields:
            assert f"`{field}`" in removal, field
    named = [name for name in re.findall(r"`([A-Z_]+)`", removal) if name in DeprovisionStage]
    assert named[: len(DeprovisionStage)] == list(DeprovisionStage)


def test_the_page_of_errors_is_the_table() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \|.*?\| (yes|no) \|", page, re.MULTILINE))
    assert rows == {str(t): "yes" if rule.retryable else "no" for t, rule in ERROR_RULES.items()}
    for rule in ERROR_RULES.values():
        assert rule.remedy in page
    for name, error_type in FOREIGN_ERRORS.items():
        assert re.search(rf"`{re.escape(name)}`.*\| `{error_type}`", page), name


def test_the_pictures_are_of_these_state_machines(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "draw_state_machine.py", tmp_path / "docs" / "draw.py")
    shutil.copytree(STATE_MACHINES, tmp_path / "state_machines")
    subprocess.run([sys.executable, tmp_path / "docs" / "draw.py"], check=True)
    drawn, kept = (
        {path.name: path.read_text() for path in (root / "docs" / "state-machines").iterdir()}
        for root in (tmp_path, ROOT)
    )
    assert drawn == kept, "make state-machine-svg"


def test_the_schemas_of_the_events_are_of_these_models(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / "write_event_schemas.py", tmp_path / "write.py")
    subprocess.run([sys.executable, tmp_path / "write.py"], check=True)
    written, kept = (
        {path.name: path.read_text() for path in (folder / "events").iterdir()}
        for folder in (tmp_path, ROOT / "docs")
    )
    assert written == kept, "make event-schemas"
    assert {name.removesuffix(".schema.json") for name in kept} == {
        *EventType,
        *COMPLETIONS.values(),
    }


def test_the_table_of_faults_is_of_these_tests() -> None:
    spec = importlib.util.spec_from_file_location("write", ROOT / "docs" / "write_fault_table.py")
    assert spec is not None
    assert spec.loader is not None
    write = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(write)
    page = (ROOT / "docs" / "reliability.md").read_text()
    rows = write.table()
    assert "| duplicate delivery |" in rows
    assert write.written(page, rows) == page, "make fault-docs"


def test_the_page_of_events_names_every_type_and_field() -> None:
    page = (ROOT / "docs" / "events.md").read_text()
    for detail_type in (*EventType, *COMPLETIONS.values()):
        assert f"[`{detail_type}`](events/{detail_type}.schema.json)" in page
    for model in DETAILS.values():
        for field in model.model_fields:
            assert f"| `{field}` |" in page, field


def test_the_example_of_an_event_is_one() -> None:
    page = (ROOT / "docs" / "events.md").read_text()
    (example,) = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    model = DETAILS[EventType(example["detail-type"])]
    shown = model.model_validate(example["detail"])
    assert shown.model_dump(mode="json", exclude_none=True) == example["detail"]
