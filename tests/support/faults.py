"""The fault table: what is promised where, and the tests that show it: a pytest plugin.

A test is a row of it by the mark `fault(name, where, lasting=False)`: which fault it puts in, at
which place or places (`group/place`), and whether the fault lasts through all attempts. With
`--fault-table` the run ends with the table, and fails where a row was skipped, or a fault has none;
with `--collect-only` beside it, the rows are counted and nothing is run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import pytest
from rich.box import HORIZONTALS
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One fault, and what is promised where it happens."""

    name: str
    promised: str
    #: What is promised where it lasts through all attempts; empty where it passes by itself.
    promised_lasting: str = ""


_NEXT_ATTEMPT = "The next attempt completes the job; all is as after a run without the fault."
_FAILED = (
    "The job fails after three attempts (its message, after five deliveries), naming the stage and "
    "the cause; what it made is removed."
)
_FINAL = (
    "The job fails at once (its message, after five deliveries), naming the stage and the cause; "
    "what it made is removed."
)

#: Every fault, in the order of the table.
FAULTS = {
    kind.name: kind
    for kind in (
        FaultKind("before the effect", _NEXT_ATTEMPT, _FAILED),
        FaultKind("after the effect", _NEXT_ATTEMPT, _FAILED),
        FaultKind("after the effect, the process killed", _NEXT_ATTEMPT, _FAILED),
        FaultKind("time-out", _NEXT_ATTEMPT, _FAILED),
        FaultKind("throttle", _NEXT_ATTEMPT, _FAILED),
        FaultKind("permission denied", "The next delivery does what it has left undone.", _FINAL),
        FaultKind("connection dropped", _NEXT_ATTEMPT, _FAILED),
        FaultKind(
            "wrong answer",
            "An answer that cannot be read is asked for again; the next attempt completes the job.",
            "The job fails and is never completed by it; nothing of anyone else is touched.",
        ),
        FaultKind(
            "duplicate delivery",
            "One job, one execution, one of everything.",
        ),
        FaultKind(
            "reordering",
            "What comes late changes nothing; each message does what it would have done in order.",
        ),
        FaultKind(
            "delivery after the job is terminal",
            "Nothing is started and nothing is written.",
        ),
        FaultKind(
            "a poison message in a batch",
            "It is a dead letter with the reason, its job is FAILED; the others complete.",
        ),
        FaultKind("DynamoDB throttling", _NEXT_ATTEMPT, _FAILED),
        FaultKind(
            "Secrets Manager down",
            _NEXT_ATTEMPT,
            "The job fails after three attempts; what could not be removed is named, and goes "
            "once Secrets Manager is back.",
        ),
        FaultKind("PostgreSQL restarted in the middle", _NEXT_ATTEMPT),
        FaultKind("MariaDB killed in the middle", _NEXT_ATTEMPT),
        FaultKind(
            "the local stack killed and started again",
            "PostgreSQL: its jobs complete. Local AWS: both begin anew, with nothing of before.",
        ),
        FaultKind(
            "two jobs at once for one project",
            "One does the work; the other is PROJECT_BUSY, or finds it done.",
        ),
        FaultKind(
            "deprovision during provision",
            "Whichever holds the project goes on; the other is PROJECT_BUSY and changes nothing.",
        ),
        FaultKind(
            "cancel at every stage",
            "The job ends CANCELLED at the stage's end; what it provisioned is removed.",
        ),
        FaultKind(
            "Amazon RDS refuses by a quota",
            "The job fails at once with QUOTA_EXCEEDED; what it made is removed.",
        ),
        FaultKind(
            "Amazon RDS has no capacity",
            _NEXT_ATTEMPT,
            "The job fails after three attempts; what it made is removed.",
        ),
        FaultKind(
            "two projects for the last instance",
            "One gets it; the other fails with QUOTA_EXCEEDED, and leaves nothing.",
        ),
        FaultKind(
            "the operator's parameter changed between two stages",
            "What was settled stays. Before, the job fails: with what is allowed now, or with the "
            "parameter that is wrong or gone. What it made is removed. A shared cluster's may be "
            "that of the last minute.",
        ),
        FaultKind(
            "the instance vanished",
            "While AWS makes it, it is made again. Later, each job that needs it fails and says "
            "so, and the project stays what it was; a removal without a final snapshot goes on.",
        ),
        FaultKind(
            "the instance was renamed by hand",
            "It counts as vanished until it has its name again; under another nothing touches it.",
        ),
        FaultKind(
            "the instance was stopped by hand", "Each job that finds it so starts it, and waits."
        ),
        FaultKind(
            "the instance was modified by hand",
            "What it was made with is put back, but for size, storage and version: a repair tells "
            "of those.",
            "Of another size, less storage or another version, it is handed to nobody: the job "
            "fails at once; what it made is removed.",
        ),
        FaultKind(
            "a snapshot of the instance fails",
            "The job fails and has removed nothing; the project is what it was.",
        ),
        FaultKind("the server of the instance killed in the middle", _NEXT_ATTEMPT),
        FaultKind(
            "the server of the instance lets no one in",
            "The job fails, whatever AWS says of the instance; what it made is removed, and the "
            "password is what it was.",
        ),
    )
}

_PROPERTY = "fault"
_OUTCOMES = ("passed", "failed", "skipped")

#: A row's fault, and whether it lasts.
type _Key = tuple[str, bool]


@dataclass
class _Rows:
    """The rows that a run has, or has collected."""

    #: Places by fault.
    places: dict[_Key, set[str]] = field(default_factory=lambda: defaultdict(set))
    #: Tests at places, by fault.
    cases: Counter[_Key] = field(default_factory=Counter)
    #: Outcomes of the tests at places, by fault.
    outcomes: dict[_Key, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, properties: Sequence[tuple[str, Any]], outcome: str | None = None) -> None:
        """Count the rows of a test."""
        for name, value in properties:
            if name == _PROPERTY:
                key = (value["name"], bool(value["lasting"]))
                self.places[key].update(value["where"])
                self.cases[key] += len(value["where"])
                if outcome is not None:
                    self.outcomes[key][outcome] += len(value["where"])

    def keys(self) -> Iterator[_Key]:
        """Yield the rows of the table; a fault that nothing shows is one too."""
        for kind in FAULTS.values():
            there = [key for key in ((kind.name, False), (kind.name, True)) if key in self.cases]
            yield from there or [(kind.name, False)]

    def is_shown(self) -> bool:
        """Whether every fault has rows, and each of them has passed."""
        counts = self.outcomes
        return all(
            self.cases[key] and set(counts[key]) == {"passed"} and counts[key].total()
            for key in self.keys()
        )


_ROWS = pytest.StashKey[_Rows]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that prints the table."""
    parser.addoption(
        "--fault-table",
        choices=["text", "markdown"],
        help="end with the table of faults, and fail where a row was skipped or a fault has none",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin to count."""
    config.stash[_ROWS] = _Rows()


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let a test's reports tell of which rows they are."""
    for mark in item.iter_markers("fault"):
        item.user_properties.append((_PROPERTY, _parsed(*mark.args, **mark.kwargs)))


def _parsed(name: str, where: str | Collection[str], *, lasting: bool = False) -> dict[str, Any]:
    if name not in FAULTS:
        raise pytest.UsageError(f"fault: {name!r} is not in the table, tests/support/faults.py")
    places = [where] if isinstance(where, str) else list(where)
    return {"name": name, "where": [str(place) for place in places], "lasting": lasting}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Count what was collected, where nothing is run."""
    if session.config.option.collectonly:
        for item in session.items:
            session.config.stash[_ROWS].add(item.user_properties)


class _Reports:
    """Counts the outcomes; the process that prints hears of those of its workers too."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows
        self._bad: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # What goes wrong in the set-up, or while tidying up, counts as well.
        if not report.passed:
            self._bad.setdefault(report.nodeid, report.outcome)
        if report.when == "teardown":
            outcome = self._bad.pop(report.nodeid, "passed")
            self._rows.add(report.user_properties, outcome)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Hear of every report."""
    session.config.pluginmanager.register(_Reports(session.config.stash[_ROWS]))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where the table is not shown."""
    config = session.config
    is_run = config.getoption("fault_table") and not config.option.collectonly
    if is_run and not hasattr(config, "workerinput") and not config.stash[_ROWS].is_shown():
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table."""
    form = config.getoption("fault_table")
    if form is not None:
        write = _markdown if form == "markdown" else _text
        terminalreporter.write(write(config.stash[_ROWS]))


def _groups(places: Collection[str]) -> str:
    """Say where a fault is put in: how often in each group, in the order of the table."""
    groups = Counter(place.partition("/")[0] for place in places)
    return ", ".join(
        f"{group} {count}" if count > 1 else group
        for group, count in sorted(groups.items(), key=lambda found: (-found[1], found[0]))
    )


def _label(key: _Key) -> str:
    name, lasting = key
    return f"{name}, lasting" if lasting else name


def _promise(key: _Key) -> str:
    name, lasting = key
    return FAULTS[name].promised_lasting if lasting else FAULTS[name].promised


def _text(rows: _Rows) -> str:
    table = Table(box=HORIZONTALS, title="Fault table", show_footer=True)
    keys = list(rows.keys())
    totals: Counter[str] = sum(rows.outcomes.values(), Counter())
    places = sum(len(rows.places[key]) for key in keys)
    columns = {
        "fault": f"{len(FAULTS)} faults",
        "put in at": f"{places} places",
        "promised": "",
        "cases": str(rows.cases.total()),
        **{outcome: str(totals[outcome]) for outcome in _OUTCOMES},
    }
    for name, footer in columns.items():
        is_text = name in {"fault", "put in at", "promised"}
        table.add_column(name, footer, justify="left" if is_text else "right")
    for key in keys:
        counts = rows.outcomes[key]
        is_good = rows.cases[key] and set(counts) <= {"passed"}
        table.add_row(
            _label(key),
            _groups(rows.places[key]) or "nowhere",
            _promise(key),
            str(rows.cases[key]),
            *(str(counts[outcome]) for outcome in _OUTCOMES),
            style="" if is_good else "bold red",
        )
    written = StringIO()
    Console(file=written, width=160, force_terminal=False).print(table)
    return f"\n{written.getvalue()}\n"


def _markdown(rows: _Rows) -> str:
    keys = list(rows.keys())
    lines = ["| fault | put in at | cases | promised |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {_label(key)} | {_groups(rows.places[key])} | {rows.cases[key]} | {_promise(key)} |"
        for key in keys
    ]
    places = sum(len(rows.places[key]) for key in keys)
    lines.append(f"| {len(FAULTS)} faults | {places} places | {rows.cases.total()} | |")
    return "\n" + "\n".join(lines) + "\n"
