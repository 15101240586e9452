"""The documentation says what the code does."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from provisioner import jobs
from provisioner.api_keys.hand_over import HAND_OVER_TRANSITIONS
from provisioner.api_keys.key_format import LEAK_PATTERN
from provisioner.api_keys.store import API_KEY_TRANSITIONS
from provisioner.composition.events import COMPLETIONS, NOTICES
from provisioner.drivers import s3
from provisioner.drivers.rds import _STATES, RdsState
from provisioner.errors import ERROR_RULES
from provisioner.jobs.events import DETAILS, EventType, JobEvent, NoticeEvent
from provisioner.jobs.messages import JobMessage
from provisioner.jobs.models import JOB_TRANSITIONS, STAGE_TRANSITIONS
from provisioner.jobs.retries import FOREIGN_ERRORS
from provisioner.provisioning.clusters import InstanceAllowance
from provisioner.provisioning.job_types.deprovision_project import (
    DeprovisionProjectPayload,
    DeprovisionProjectResult,
    SnapshotResult,
)
from provisioner.provisioning.job_types.provision_project import (
    ProvisionProjectPayload,
    ProvisionProjectResult,
)
from provisioner.provisioning.projects import PROJECT_TRANSITIONS
from support import readme
from support.pages import Page, doubled, read_pages
from support.project import PACKAGE, ROOT

from docs import write_cost_page, write_fault_table

PAGES = read_pages()
CONTRACT = (ROOT / "docs" / "job-contract.md").read_text()

#: The Markdown of this page is not ours to choose: https://keepachangelog.com/en/1.1.0/.
NO_LINKS = {"[Unreleased]"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Page) -> None:
    """A page of others is not asked for: only the form of its address is looked at."""
    assert broken_links(page) == []


@pytest.mark.parametrize(
    "text",
    [
        "[no such page](docs/no-such-page.md)",
        "![no such picture](docs/no-such.svg)",
        "[no such heading](docs/errors.md#no-such-heading)",
        "# Here\n\n[no such heading](#there)",
        "[not in clear](http://example.com/)",
        "[no host](https:///path)",
        "[spaces](<https://example.com/a b>)",
        "[of this machine](/etc/passwd)",
        "[outside](../elsewhere.md)",
        "[no such reference][1]",
        "[forgotten]\n",
    ],
)
def test_a_link_that_leads_nowhere_is_found(text: str) -> None:
    assert len(broken_links(Page(ROOT / "README.md", text))) == 1


def broken_links(page: Page) -> list[str]:
    return [
        *(link for link in page.links if not _leads_somewhere(page, link)),
        *(text for text in page.dangling if text not in NO_LINKS),
    ]


def _leads_somewhere(page: Page, link: str) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return re.fullmatch(r"https://[\w-]+(\.[\w-]+)+(/[^\s%]*)?", link) is not None
    path = (page.path.parent / parts.path).resolve() if parts.path else page.path
    # Within the project, and there in a fresh clone too.
    if not path.is_relative_to(ROOT) or (path != page.path and not path.exists()):
        return False
    target = page if path == page.path else None
    if parts.fragment and target is None:
        target = next((other for other in PAGES if other.path == path), None)
    return not parts.fragment or (target is not None and parts.fragment in target.anchors)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_stands_in_a_page_twice(page: Page) -> None:
    assert doubled(page) == []


@pytest.mark.parametrize(
    "text",
    [
        # A paragraph, and its newer version below it.
        """\
**A key for ever.** It holds as long as the job's record: 90 days, unless it is said otherwise.

**A key for ever.** It holds as long as the job's record: 91 days after its end, unless more is
said, until it is removed some days later.
""",
        # The same in a list.
        """\
- Whoever sent a message that can never work has to send a right one, without a job id.
- Another.
- Whoever sent a message that can never work has to send a right one: take it out.
""",
        # Two versions that have run into one another.
        """\
Give both or neither; it needs a gateway for traces. The bucket comes with the stack; it
stays when that goes.
Both need a gateway for traces. The bucket comes with the stack, and stays.
""",
        # A row of a table.
        "| name | meaning |\n| --- | --- |\n| `a` | one |\n| `b` | two |\n| `a` | three |\n",
        # A section.
        "# Keys\n\nOne.\n\n# Keys\n\nTwo.",
    ],
)
def test_what_stands_in_a_page_twice_is_found(text: str) -> None:
    assert doubled(Page(ROOT / "README.md", text))


def test_every_command_of_the_readme_is_run_or_named_with_the_reason() -> None:
    assert {fence.language for fence in readme.readme().fences} == readme.LANGUAGES
    typed = [readme.plain(c) for block in readme.blocks("sh") for c in readme.commands(block)]
    assert set(readme.NOT_RUN) <= set(typed)
    script = readme.script()
    for block in (*readme.blocks("sh"), *readme.blocks("python")):
        for command in readme.commands(block) if block in readme.blocks("sh") else [block]:
            is_run = command in script
            assert is_run is (readme.plain(command) not in readme.NOT_RUN), command


def test_ci_runs_what_the_readme_runs() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert "make test" in lines
    assert any(line.startswith("git clone ") for line in lines)
    assert '(cd "$clone" && .venv/bin/pytest tests/readme)' in lines


def test_the_readme_names_code_that_is_there() -> None:
    text = (ROOT / "README.md").read_text()
    section = text.partition("\n## Where the code is\n")[2].partition("\n## ")[0]
    rows = [row.split("|")[2] for row in section.splitlines() if row.startswith("| ")][2:]
    names = [name for row in rows for name in re.findall(r"`([^`<]+)`", row)]

    paths = [name for name in names if name.endswith((".py", "/", ".yaml"))]
    beside = PACKAGE / "provisioning" / "stages"
    assert len(paths) > len(rows)
    for path in paths:
        assert any((folder / path).exists() for folder in (ROOT, PACKAGE, beside)), path


def test_the_job_system_says_what_each_of_its_modules_does() -> None:
    modules = {path.stem for path in Path(jobs.__file__).parent.glob("*.py")} - {"__init__"}

    assert set(re.findall(r"`(\w+)`", str(jobs.__doc__))) == modules


def test_the_licence_is_the_one_that_is_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]
    # Of the text as the Apache Software Foundation publishes it.
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert all(author["name"] for author in project["authors"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Page) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_examples_are_valid() -> None:
    message, result = (
        json.loads(text) for text in re.findall(r"```json\n(.*?)```", CONTRACT, re.DOTALL)
    )
    parsed = JobMessage.model_validate(message)
    ProvisionProjectPayload.model_validate(parsed.payload)
    ProvisionProjectResult.model_validate(result)


def test_the_page_of_instances_describes_what_may_be_allowed() -> None:
    page = (ROOT / "docs" / "dedicated-instances.md").read_text()
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    InstanceAllowance.model_validate_json(example)
    for field in InstanceAllowance.model_fields:
        assert f"`{field}`" in page, field
    states = [status for status, state in _STATES.items() if state is RdsState.FAILED]
    assert [status for status in states if f"`{status}`" not in page] == []


def test_the_page_for_customers_says_when_what_is_unseen_ends() -> None:
    page = (ROOT / "docs" / "for-customers.md").read_text()
    assert s3._OUR_RULE["ID"] in page
    for row in (
        rf"a version .* \| after {s3.NONCURRENT_VERSION_DAYS} days \|",
        rf"multipart upload .* \| {s3.UNFINISHED_UPLOAD_DAYS} days after it was begun \|",
    ):
        assert re.search(row, page), row


def test_the_contract_names_every_field() -> None:
    for field in ProvisionProjectPayload.model_fields:
        assert f"`{field}" in CONTRACT, field
    assert LEAK_PATTERN in CONTRACT


def test_the_contract_names_every_field_of_a_removal() -> None:
    _, removal = CONTRACT.split("## deprovision_project")
    for model in (DeprovisionProjectPayload, DeprovisionProjectResult, SnapshotResult):
        for field in model.model_fields:
            assert f"`{field}`" in removal, field


def test_the_page_of_errors_is_the_table() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \|.*?\| (yes|no) \|", page, re.MULTILINE))
    assert rows == {str(t): "yes" if rule.retryable else "no" for t, rule in ERROR_RULES.items()}
    for rule in ERROR_RULES.values():
        assert rule.remedy in page
    for name, error_type in FOREIGN_ERRORS.items():
        assert re.search(rf"`{re.escape(name)}`.*\| `{error_type}`", page), name


def test_the_page_of_the_architecture_shows_every_transition() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    tables: dict[str, Mapping[Any, frozenset[Any]]] = {
        "job": JOB_TRANSITIONS,
        "stage": STAGE_TRANSITIONS,
        "project": PROJECT_TRANSITIONS,
        "API key": API_KEY_TRANSITIONS,
        "hand-over": HAND_OVER_TRANSITIONS,
    }
    rows = [
        f"| {of} {status} | {', '.join(sorted(followers)) or 'none'} |\n"
        for of, transitions in tables.items()
        for status, followers in transitions.items()
    ]
    assert f"| --- | --- |\n{''.join(rows)}\n" in page


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
        *NOTICES.values(),
    }


def test_the_table_of_faults_is_of_these_tests() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    rows = write_fault_table.table()
    assert "| duplicate delivery |" in rows
    assert write_fault_table.written(page, rows) == page, "make fault-docs"


def test_the_page_of_cost_follows_from_the_code() -> None:
    page = write_cost_page.PAGE.read_text()
    assert write_cost_page.written(page) == page, "make cost-docs"


def test_the_page_of_events_names_every_type_and_field() -> None:
    page = (ROOT / "docs" / "events.md").read_text()
    for detail_type in (*EventType, *COMPLETIONS.values(), *NOTICES.values()):
        assert f"[`{detail_type}`](events/{detail_type}.schema.json)" in page
    models: list[type[JobEvent]] = [*DETAILS.values(), NoticeEvent]
    for model in models:
        for field in model.model_fields:
            assert f"| `{field}` |" in page, field


def test_the_example_of_an_event_is_one() -> None:
    page = (ROOT / "docs" / "events.md").read_text()
    (example,) = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    model = DETAILS[EventType(example["detail-type"])]
    shown = model.model_validate(example["detail"])
    assert shown.model_dump(mode="json", exclude_none=True) == example["detail"]
