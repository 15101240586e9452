"""Lists of jobs and projects: page by page, at a cost that does not grow with what is kept."""

from __future__ import annotations

import itertools
import re
import shlex
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provision_cli.main import main
from provisioner import api
from provisioner.drivers import dynamodb, dynamodb_lists
from provisioner.drivers.dynamodb import ConditionFailedError
from provisioner.drivers.dynamodb_lists import LISTED_AT, LISTED_UNDER, SHARDS, partition_of
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs import store
from provisioner.jobs.models import JobStatus, StoredError
from provisioner.jobs.store import BadEnd
from provisioner.pages import Page, read_cursor, write_cursor
from provisioner.provisioning.projects import ProjectStatus
from provisioner.runtime.platform import PlatformSettings
from support.core import Core, deployment, make_stack

FAILED = StoredError(ErrorType.CONFLICT, "", 0, "It is another's.", "")


def pages[Item](read: Callable[..., Page[Item]], **options: Any) -> Iterator[Page[Item]]:
    """Yield the pages of a list."""
    page = read(**options)
    yield page
    while page.next_cursor is not None:
        page = read(**options, cursor=page.next_cursor)
        yield page


def ids(read: Callable[..., Page[api.Job]], **options: Any) -> list[str]:
    return [job.job_id for page in pages(read, **options) for job in page]


def put_heads(core: Core, number: int, **more: str) -> None:
    """Store jobs that completed long ago, without what they are made of."""
    core.new_job("pattern")
    (pattern,) = [i for i in core.scan("JobsTable") if (i["job_id"], i["record"]) == PATTERN]
    client = core.client("dynamodb")
    for some in itertools.batched(range(number), 25, strict=False):
        puts = []
        for one in some:
            job_id = f"old-{one}"
            created_at = f"2025-01-01T00:00:{one // 1000:02}.{one % 1000:06}+00:00"
            changed = {
                "job_id": job_id,
                "status": "COMPLETED",
                "created_at": created_at,
                LISTED_UNDER: partition_of("COMPLETED", job_id),
                LISTED_AT: dynamodb_lists.position_of(created_at, job_id),
            }
            puts.append({"PutRequest": {"Item": dynamodb.to_item(pattern | changed | more)}})
        client.batch_write_item(RequestItems={"JobsTable": puts})
    core.calls.clear()


PATTERN = ("pattern", "JOB")


# --- Pages ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("limit", [1, 3, 11, 12, 100])
@pytest.mark.parametrize("project", [None, "shop"])
def test_pages_hold_each_job_once_and_the_newest_first(
    core: Core, limit: int, project: str | None
) -> None:
    for number in range(12):
        core.new_job(f"job-{number:02}")
        # Some come into being at the same moment.
        core.clock.advance(number % 3)

    found = list(pages(api.list_jobs, project_id=project, limit=limit))

    jobs = [job for page in found for job in page]
    newest_first = sorted(jobs, key=lambda job: (job.created_at, job.job_id), reverse=True)
    assert jobs == newest_first
    assert {job.job_id for job in jobs} == {f"job-{number:02}" for number in range(12)}
    assert [len(page) for page in found[:-1]] == [limit] * (len(found) - 1)
    assert len(found) == -(-12 // limit)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=12), st.integers(1, 3))
def test_whatever_changes_between_two_pages_no_job_comes_twice_and_none_is_missed_that_stayed(
    changes: list[tuple[int, bool]], limit: int
) -> None:
    with deployment() as core:
        for number in range(8):
            core.new_job(f"job-{number}")
        stayed = {f"job-{number}" for number in range(8)}
        left, seen, after = iter(changes), list[str](), ""
        while True:
            jobs, after = core.jobs.list_newest(limit, status=JobStatus.QUEUED, after=after)
            seen += [job.job_id for job in jobs]
            if not after:
                break
            for number, is_new in itertools.islice(left, 2):
                core.clock.advance()
                if is_new:
                    core.new_job(f"new-{number}")
                    continue
                job_id = f"job-{number % 8}"
                stayed.discard(job_id)
                with suppress(ConditionFailedError):
                    core.jobs.cancel_queued(core.jobs.get(job_id))
        assert len(seen) == len(set(seen))
        assert stayed <= set(seen)
        assert not [job_id for job_id in seen if job_id.startswith("new-")]


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("project", [None, "shop"])
def test_a_list_of_one_status_has_no_job_of_another(core: Core, project: str | None) -> None:
    for number in range(6):
        core.new_job(f"job-{number}")
        core.clock.advance()
    for number in (1, 4):
        core.jobs.cancel_queued(core.jobs.get(f"job-{number}"))
    core.new_job("other", project_id="another")

    found = ids(api.list_jobs, project_id=project, status="CANCELLED", limit=1)
    assert found == ["job-4", "job-1"]
    others = ids(api.list_jobs, project_id="shop", status=JobStatus.QUEUED)
    assert others == ["job-5", "job-3", "job-2", "job-0"]
    assert not api.list_jobs(project, status=JobStatus.COMPLETED)


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("project", [None, "shop"])
def test_a_job_is_listed_as_it_is_now_though_an_index_is_behind(
    core: Core, project: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    core.new_job("changes")
    core.new_job("stays")
    read = dynamodb_lists.read

    def change_meanwhile(*args: Any, **options: Any) -> Iterator[dict[str, Any]]:
        keys = list(read(*args, **options))
        with suppress(ConditionFailedError):
            core.jobs.cancel_queued(core.jobs.get("changes"))
        return iter(keys)

    monkeypatch.setattr(dynamodb_lists, "read", change_meanwhile)

    page = api.list_jobs(project, status="QUEUED", limit=2)
    assert [job.job_id for job in page] == ["stays"]
    monkeypatch.undo()
    found = {job.job_id: job.status for job in core.jobs.list_newest(10)[0]}
    assert found == {"changes": JobStatus.CANCELLED, "stays": JobStatus.QUEUED}


def test_an_item_that_has_not_left_its_old_partition_comes_once() -> None:
    class Behind:
        """An index in which one job is listed under two statuses."""

        def get_paginator(self, _operation: str) -> Behind:
            return self

        def paginate(self, **request: Any) -> list[Mapping[str, Any]]:
            partition = dynamodb.from_item(request["ExpressionAttributeValues"])[":partition"]
            items = [{"job_id": "job-1", LISTED_AT: "1#job-1", LISTED_UNDER: partition}]
            if partition == "RUNNING#0":
                items.append({"job_id": "job-2", LISTED_AT: "2#job-2", LISTED_UNDER: partition})
            return [{"Items": [dynamodb.to_item(item) for item in items]}]

    listed = dynamodb_lists.read(
        cast("Any", Behind()),
        "JobsTable",
        "by_status",
        (LISTED_UNDER, LISTED_AT),
        ["QUEUED#0", "RUNNING#0"],
    )

    assert [item["job_id"] for item in listed] == ["job-1", "job-2"]


@pytest.mark.usefixtures("connected")
def test_projects_are_listed_page_by_page(core: Core) -> None:
    for number in range(5):
        core.new_project(f"shop-{number}")
    project = core.projects.get("shop-3")
    assert project is not None
    core.projects.lock(project, "job-1", quota=None, default_limit=1)

    found = list(pages(api.list_projects, limit=2))

    assert [[p.project_id for p in page] for page in found] == [
        ["shop-4", "shop-3"],
        ["shop-2", "shop-1"],
        ["shop-0"],
    ]
    (locked,) = api.list_projects(status="PROVISIONING")
    assert (locked.project_id, locked.locked_by) == ("shop-3", "job-1")
    assert len(api.list_projects(status=ProjectStatus.CREATED)) == 4


# --- What a page costs ----------------------------------------------------------------------------


def test_a_page_costs_as_much_beside_a_thousand_jobs_as_beside_ten(core: Core) -> None:
    cost: list[list[tuple[str, Any]]] = []
    for number in (10, 1000):
        put_heads(core, number)
        core.calls.clear()
        assert len(core.jobs.list_newest(5)[0]) == 5
        cost.append([(name, request.get("Limit")) for name, request in core.calls])

    few, many = cost
    assert few == many
    # No Query reads more than one key beyond the page; the job that has not ended has its own.
    queries = [limit for name, limit in many if name == "dynamodb.Query"]
    # Jobs that wait for a slot are listed apart.
    assert queries == [6] * SHARDS * (len(JobStatus) + 1) + [None]
    assert [name for name, _ in many if name != "dynamodb.Query"] == ["dynamodb.BatchGetItem"]


def test_a_rare_status_is_found_without_reading_the_others(core: Core) -> None:
    put_heads(core, 300)
    core.jobs.cancel_queued(core.jobs.get("pattern"))
    core.calls.clear()

    (found,), _ = core.jobs.list_newest(50, status=JobStatus.CANCELLED)

    assert found.job_id == "pattern"
    assert [name for name, _ in core.calls] == ["dynamodb.Query"] * SHARDS + [
        "dynamodb.BatchGetItem"
    ]
    (batch,) = core.calls_of("dynamodb.BatchGetItem")
    assert len(batch["RequestItems"]["JobsTable"]["Keys"]) == 1


def test_a_page_of_one_status_of_a_project_looks_at_so_many_of_its_jobs(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_LOOKS_AT", 40)
    put_heads(core, 100)
    core.jobs.cancel_queued(core.jobs.get("pattern"))
    put_heads(core, 1, job_id="first", status="CANCELLED")

    found, after = list[list[str]](), ""
    while after or not found:
        jobs, after = core.jobs.list_newest(
            50, project_id="shop", status=JobStatus.CANCELLED, after=after
        )
        found.append([job.job_id for job in jobs])

    # `old-0`, the oldest, has become the job that is wanted.
    assert found == [["pattern"], [], ["first"]]
    assert len(core.calls_of("dynamodb.Query")) == len(found)


def test_the_keys_of_a_page_that_are_put_off_are_asked_for_again(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provisioner.drivers.dynamodb.time.sleep", lambda _seconds: None)
    for number in range(3):
        core.new_job(f"job-{number}")
    asked: list[int] = []

    def put_off(parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
        table = parameters["RequestItems"]["JobsTable"]
        asked.append(len(table["Keys"]))
        if len(asked) > 1:
            return None
        return 200, {"Responses": {}, "UnprocessedKeys": {"JobsTable": table}}

    core.answers["dynamodb.BatchGetItem"] = put_off

    assert len(core.jobs.list_newest(50)[0]) == 3
    assert asked == [3, 3]


# --- Where a job is listed ------------------------------------------------------------------------

#: What changes a job's status, or something else of it.
CHANGES: dict[str, Callable[[Core], object]] = {
    "starts": lambda core: core.jobs.start_stage(core.jobs.get("job-1"), "INITIALIZING", 0),
    "completes": lambda core: core.jobs.complete(
        "job-1", "INITIALIZING", output={}, check="", result={}
    ),
    "fails": lambda core: core.jobs.fail(core.jobs.get("job-1"), BadEnd([FAILED])),
    "fails queued": lambda core: core.jobs.fail_queued("job-1", FAILED),
    "is cancelled": lambda core: core.jobs.cancel_queued(core.jobs.get("job-1")),
    "is to be cancelled": lambda core: core.jobs.request_cancel(core.jobs.get("job-1")),
    "is retried": lambda core: core.jobs.retry(core.jobs.get("job-1")),
    "is not dispatched": lambda core: core.jobs.note_dispatch_failure("job-1", FAILED),
}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(sorted(CHANGES)), max_size=10))
def test_a_job_is_always_listed_under_its_status(changes: list[str]) -> None:
    with deployment() as core:
        core.new_job()
        (head,) = [i for i in core.scan("JobsTable") if i["record"] == "JOB"]
        position = head[LISTED_AT]
        assert position == f"{head['created_at']}#job-1"
        for change in changes:
            core.clock.advance()
            with suppress(ConditionFailedError, ProvisioningError):
                CHANGES[change](core)
            (head,) = [i for i in core.scan("JobsTable") if i["record"] == "JOB"]
            assert head[LISTED_UNDER] == partition_of(head["status"], "job-1"), change
            assert head[LISTED_AT] == position
            assert core.unfinished() == (
                ["job-1"] if head["status"] in {"QUEUED", "RUNNING"} else []
            )


def test_names_are_spread_over_the_partitions_of_a_group() -> None:
    partitions = [partition_of("QUEUED", f"job-{number}") for number in range(400)]
    assert set(partitions) == set(dynamodb_lists.partitions_of("QUEUED"))
    assert max(map(partitions.count, set(partitions))) < 150


def test_the_holders_of_projects_are_found_by_queries_of_few_partitions(core: Core) -> None:
    for number in range(9):
        project = core.new_project(f"shop-{number}")
        core.projects.lock(project, f"job-{number // 3}", quota=None, default_limit=1)
    core.calls.clear()

    assert core.projects.lock_holders() == ["job-0", "job-1", "job-2"]

    assert [name for name, _ in core.calls] == ["dynamodb.Query"] * SHARDS
    core.calls.clear()
    assert core.projects.release_abandoned("job-1") == ["shop-3", "shop-4", "shop-5"]
    assert len(core.calls_of("dynamodb.Query")) == 1
    assert core.projects.lock_holders() == ["job-0", "job-2"]


# --- Cursors --------------------------------------------------------------------------------------


def refused(call: Callable[[], object], name: str) -> None:
    with pytest.raises(ProvisioningError) as raised:
        call()
    assert raised.value.type is ErrorType.INVALID_PAYLOAD
    assert raised.value.message.startswith(f"{name}: must be ")


@given(st.text() | st.binary().map(lambda raw: urlsafe_b64encode(raw).decode().rstrip("=")))
def test_any_text_is_refused_as_a_cursor(text: str) -> None:
    refused(lambda: read_cursor("jobs", text), "cursor")


@given(st.text(), st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_cursor_says_where_it_is_and_only_in_its_own_list(name: str, position: str) -> None:
    cursor = write_cursor(name, position)
    assert cursor is not None
    assert re.fullmatch(r"[\w-]+", cursor, re.ASCII)
    assert read_cursor(name, cursor) == position
    for other in (f"{name}/", f"{cursor}A"):
        refused(partial(read_cursor, other, cursor), "cursor")
    broken = f"{cursor[:4]}+{cursor[4:]}"
    for wrong in (cursor[:-1], f"{cursor}=", f" {cursor}", f"{cursor}\n", broken):
        refused(partial(read_cursor, name, wrong), "cursor")


@pytest.mark.usefixtures("connected")
def test_a_cursor_of_another_list_is_refused(core: Core) -> None:
    for number in range(2):
        core.new_job(f"job-{number}")
        core.new_project(f"shop-{number}")
    of_jobs = api.list_jobs(limit=1).next_cursor
    of_projects = api.list_projects(limit=1).next_cursor
    assert of_jobs
    assert of_projects

    refused(lambda: api.list_projects(cursor=of_jobs), "cursor")
    refused(lambda: api.list_jobs(cursor=of_projects), "cursor")
    refused(lambda: api.list_jobs("shop", cursor=of_jobs), "cursor")
    refused(lambda: api.list_jobs(status="QUEUED", cursor=of_jobs), "cursor")
    # How many are on a page may change.
    assert len(api.list_jobs(limit=100, cursor=of_jobs)) == 1


# --- The program ----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["jobs", "projects"])
def test_the_program_says_how_the_next_page_is_shown(
    core: Core,
    connected: PlatformSettings,
    capsys: pytest.CaptureFixture[str],
    what: str,
) -> None:
    make_stack(connected)
    for number in range(3):
        core.new_project(f"shop-{number}")
        core.new_job(f"job-{number}", project_id=f"shop-{number}")
        core.clock.advance()
    status = {"jobs": "QUEUED", "projects": "CREATED"}[what]
    command = f"provision --stack provisioner {what} --status {status} --limit 1"
    shown = []
    while command:
        assert main(shlex.split(command)[1:]) == 0
        _heading, row, *more = capsys.readouterr().out.splitlines()
        shown.append(row)
        command = more[0].removeprefix("There are more: ") if more else ""

    assert [row.split()[0][-1] for row in shown] == ["2", "1", "0"]


@pytest.mark.usefixtures("core")
@pytest.mark.parametrize("what", ["jobs", "projects"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--status", "DONE"), "status: must be one of "),
        (("--cursor", "x"), "cursor: must be the next_cursor"),
        (("--limit", "0"), "--limit"),
        (("--limit", "101"), "--limit"),
    ],
)
def test_the_program_refuses_in_one_sentence(
    connected: PlatformSettings,
    capsys: pytest.CaptureFixture[str],
    what: str,
    options: tuple[str, ...],
    said: str,
) -> None:
    make_stack(connected)

    assert main(["--stack", "provisioner", what, *options]) != 0

    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.usefixtures("connected")
def test_the_beginning_of_an_id_is_looked_for_among_the_newest_jobs(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("abcd-old", "abcd-1", "abcd-2", "efgh-1"):
        core.new_job(name)
        core.clock.advance()
    monkeypatch.setattr(api, "_FOUND_AMONG", 3)

    assert api.find_job_ids("abcd") == ["abcd-2", "abcd-1"]
    assert api.find_job_ids("x") == []
