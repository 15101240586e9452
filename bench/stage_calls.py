"""The calls to AWS and units of DynamoDB of a good job, stage by stage, kept in a file.

They are counted by `job_calls` from the code's own run, and kept beside it, so that `fleet` need
not start a PostgreSQL. A test counts them anew and compares.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from provisioner.jobs.slots import SLOTS, SlotUse, stand_in_line
from support.workflow import Workflow

from bench import job_calls
from bench.aws_calls import Call
from bench.dynamodb_units import Units, item_size
from bench.in_memory import deployment

FILE = Path(__file__).with_suffix(".json")

#: What is counted beside the stages: the way from the queue to the execution, from the stream to
#: the bus, and a further look of a job that waits for a slot.
DISPATCH = "DISPATCH"
PUBLISH = "PUBLISH"
POLL = "POLL"

#: How often a job polls of which one poll is counted: the first one writes what the others find.
_POLLS = 2


@dataclass(frozen=True, slots=True)
class StageCall:
    """What a stage asks of an operation."""

    service: str
    operation: str
    times: int
    read_units: float = 0
    #: Those of indexes too.
    write_units: float = 0


@dataclass(frozen=True, slots=True)
class StageCalls:
    """What is kept."""

    #: By the stage, or what else calls.
    calls: dict[str, list[StageCall]]
    #: State transitions of a good job.
    transitions: int
    #: Changes of the job and its stages, each of which is an event.
    events: int
    #: Bytes of the item of a slot that is taken, and of a place in a line.
    slot_bytes: int
    place_bytes: int
    #: Bytes that are stored of a job that has ended, and of its project and keys.
    job_bytes: int
    project_bytes: int

    def operations(self) -> Counter[tuple[str, str]]:
        """Return the calls of a good job by service and operation; a poll is none of it."""
        found: Counter[tuple[str, str]] = Counter()
        for stage, calls in self.calls.items():
            if stage not in {POLL, PUBLISH}:
                for call in calls:
                    found[call.service, call.operation] += call.times
        return found


def count(workflow: Workflow) -> StageCalls:
    """Run jobs, and count."""
    # What functions keep for a minute is there; a fleet's functions are warm.
    job_calls.count_job(workflow)
    good = job_calls.count_job(workflow)
    few, more = (_count_waiting(workflow, polls) for polls in (_POLLS, _POLLS + 1))
    calls = _by_stage(good)
    calls[POLL] = _less(_by_stage(more)["INITIALIZING"], _by_stage(few)["INITIALIZING"])
    slot_bytes, place_bytes = _slot_sizes(workflow)
    job_bytes, project_bytes = _stored_sizes(workflow)
    return StageCalls(
        calls=calls,
        transitions=good.transitions,
        events=_count_events(workflow),
        slot_bytes=slot_bytes,
        place_bytes=place_bytes,
        job_bytes=job_bytes,
        project_bytes=project_bytes,
    )


def _by_stage(counted: job_calls.JobCalls) -> dict[str, list[StageCall]]:
    """Sum up the calls of each stage, in the order of the names."""
    times: Counter[tuple[str, str, str]] = Counter()
    units: dict[tuple[str, str, str], Units] = {}
    for call, number in counted.calls.sent.items():
        if call.part:
            key = (_part(call), call.service, call.operation)
            times[key] += number
            units[key] = units.get(key, Units()) + counted.calls.units.get(call, Units())
    found: dict[str, list[StageCall]] = {}
    for (part, service, operation), number in sorted(times.items()):
        of = units[part, service, operation]
        made = StageCall(service, operation, number, of.read, of.write + of.index_write)
        found.setdefault(part, []).append(made)
    return found


def _part(call: Call) -> str:
    return PUBLISH if call.part == job_calls.EVENTS else call.stage or DISPATCH


def _less(more: list[StageCall], few: list[StageCall]) -> list[StageCall]:
    """Return what is in one count and not in another."""
    before = {(call.service, call.operation): call for call in few}
    differences = []
    for call in more:
        less = before.get((call.service, call.operation), StageCall("", "", 0))
        if call.times > less.times:
            differences.append(
                StageCall(
                    call.service,
                    call.operation,
                    call.times - less.times,
                    call.read_units - less.read_units,
                    call.write_units - less.write_units,
                )
            )
    return differences


def _count_waiting(workflow: Workflow, polls: int) -> job_calls.JobCalls:
    """Count a job that finds the one slot taken, and free once it has waited so often."""
    maximum, on_wait = workflow.jobs.maximum_running_jobs, workflow.on_wait
    workflow.jobs.maximum_running_jobs = 1
    slot = {"job_id": {"S": SLOTS}, "record": {"S": "SLOT#0000"}}
    taken = {**slot, "holder": {"S": "another job"}, "share": {"S": "another"}}
    client, table = workflow.jobs.client, workflow.settings.jobs_table
    client.put_item(TableName=table, Item=taken)
    waits: list[None] = []

    def wait() -> None:
        waits.append(None)
        if len(waits) == polls:
            client.delete_item(TableName=table, Key=slot)

    workflow.on_wait = wait
    try:
        return job_calls.count_job(workflow)
    finally:
        workflow.jobs.maximum_running_jobs, workflow.on_wait = maximum, on_wait


def _slot_sizes(workflow: Workflow) -> tuple[int, int]:
    """Return the bytes of a slot that is taken, and of a place in a line."""
    job_id, share = "0" * 36, f"owner#{'0' * 36}"
    work = workflow.jobs.work()
    stand_in_line(work, SlotUse(1, {}, {}, {}), job_id, share)
    work.write()
    items = _items(workflow, SLOTS)
    (slot,) = (item for item in items if item["record"]["S"] == "SLOT#0000")
    (place,) = (item for item in items if item.get("share") == {"S": share})
    return item_size({**slot, "holder": {"S": job_id}, "share": {"S": share}}), item_size(place)


def _items(workflow: Workflow, job_id: str) -> list[Any]:
    found: Any = workflow.jobs.client.query(
        TableName=workflow.settings.jobs_table,
        KeyConditionExpression="job_id = :job",
        ExpressionAttributeValues={":job": {"S": job_id}},
    )
    return list(found["Items"])


def _scan(workflow: Workflow, table: str) -> Iterator[Any]:
    for page in workflow.jobs.client.get_paginator("scan").paginate(TableName=table):
        yield from page["Items"]


def _last_job(workflow: Workflow) -> tuple[str, str]:
    """Return the ids of a job that has completed, and of its project."""
    done = [
        item
        for item in _scan(workflow, workflow.settings.jobs_table)
        if item["record"]["S"] == "JOB" and item["status"]["S"] == "COMPLETED"
    ]
    newest = max(done, key=lambda item: str(item["created_at"]["S"]))
    return newest["job_id"]["S"], newest["project_id"]["S"]


def _count_events(workflow: Workflow) -> int:
    items = _items(workflow, _last_job(workflow)[0])
    return sum(item["record"]["S"].startswith("HISTORY#") for item in items)


def _stored_sizes(workflow: Workflow) -> tuple[int, int]:
    """Return the bytes of a job that has ended, and of its project and keys; indexes apart."""
    job_id, project_id = _last_job(workflow)
    of_project = [
        item
        for table in (workflow.settings.projects_table, workflow.settings.api_keys_table)
        for item in _scan(workflow, table)
        if item["project_id"]["S"] == project_id
    ]
    return sum(map(item_size, _items(workflow, job_id))), sum(map(item_size, of_project))


def read() -> StageCalls:
    """Return what was counted last."""
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    calls = {stage: [StageCall(**call) for call in of] for stage, of in kept.pop("calls").items()}
    return StageCalls(calls=calls, **kept)


def write(counted: StageCalls) -> None:
    """Keep what was counted."""
    FILE.write_text(json.dumps(asdict(counted), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with deployment() as made:
        write(count(made))
