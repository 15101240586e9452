"""What one good job asks of AWS: calls, DynamoDB's units and state transitions.

It is counted in one process, all the way: its message goes through the dispatcher and the state
machine, and its history to the bus. It is counted beside the user pools and Event APIs of no other
project, and beside many: what grows with the projects that there are shows in the difference.
Nothing fails on a number here; tests/workflow/test_job_costs.py has the bounds.

moto differs from AWS in two ways that count: it lists all Event APIs in one page, and a bucket that
it makes has neither the tags nor the encryption that it begins with on AWS, so a job writes both.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from moto.appsync.models import appsync_backends
from moto.cognitoidp.models import cognitoidp_backends
from provisioner import api
from provisioner.composition import dispatcher, events
from support.workflow import ACCOUNT, REGION, Workflow

from bench.aws_calls import STAGE, AwsCalls, Call, count_calls
from bench.dynamodb_units import Units
from bench.in_memory import deployment

#: User pools, and Event APIs, of other projects in the same account and region.
MANY = 2400


@dataclass(frozen=True, slots=True)
class JobCalls:
    """What one job has asked for."""

    calls: AwsCalls
    jobs_table: str
    #: States entered; a good job retries none.
    transitions: int

    @property
    def on_the_way(self) -> Counter[Call]:
        """The calls of the dispatcher and the stages: without those that publish events."""
        return self.calls.of(JOB)

    @property
    def of_the_core(self) -> Counter[Call]:
        """Those of them to DynamoDB that name the table of jobs, beside others or alone."""
        return Counter(
            {call: n for call, n in self.on_the_way.items() if self.jobs_table in call.tables}
        )

    @property
    def of_the_rest(self) -> Counter[Call]:
        """The others of them."""
        return self.on_the_way - self.of_the_core

    def units(self, calls: Counter[Call]) -> Units:
        """Return DynamoDB's units of some of the calls."""
        return sum((self.calls.units.get(call, Units()) for call in calls), Units())


#: The parts of a job's way, which its calls are counted by.
JOB = "job"
EVENTS = "events"

_BUS = "bench"


def count_job(workflow: Workflow) -> JobCalls:
    """Run one job that meets no fault, and count.

    Raises:
        RuntimeError: it did not complete.
    """
    project_id = workflow.new_project()
    jobs_table, job_id = workflow.settings.jobs_table, str(uuid.uuid4())
    job_type = "provision_project"
    message = {"job_type": job_type, "payload": {"project_id": project_id, "region": REGION}}
    with _environment(workflow), count_calls() as calls, _naming_stages(workflow):
        dispatch, publish = dispatcher.build(), events.build()
        calls.part = JOB
        dispatch(_batch(job_id, message), SimpleNamespace())
        workflow.ended(workflow.execution_arn(job_type, job_id))
        calls.part = EVENTS
        publish(_history(jobs_table, job_id))
        calls.part = ""
        job = workflow.jobs.get(job_id)
        states = sum(event["type"].endswith("StateEntered") for event in workflow.history(job))
    if job.status is not api.JobStatus.COMPLETED:
        raise RuntimeError(f"job {job.job_id}: {job.error}")
    return JobCalls(calls, jobs_table, states)


@contextmanager
def _naming_stages(workflow: Workflow) -> Iterator[None]:
    """Let each call name the stage that makes it: a deployment runs one at a time."""
    run_stage = workflow.run_stage

    def run(event: Mapping[str, Any]) -> dict[str, Any]:
        token = STAGE.set(event["stage"])
        try:
            return run_stage(event)
        finally:
            STAGE.reset(token)

    workflow.run_stage = run
    try:
        yield
    finally:
        workflow.run_stage = run_stage


@contextmanager
def _environment(workflow: Workflow) -> Iterator[None]:
    """Set what the dispatcher and the events function read, and make the bus."""
    settings = workflow.settings
    bus = boto3.client("events", region_name=REGION)
    bus.create_event_bus(Name=_BUS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOBS_TABLE", settings.jobs_table)
        patch.setenv("QUEUE_URL", settings.queue_url)
        patch.setenv("DEAD_LETTER_QUEUE_URL", settings.dead_letter_queue_url)
        patch.setenv("STATE_MACHINE_ARN_PREFIX", settings.state_machine_arn_prefix)
        patch.setenv("REQUIRED_JOB_TYPES", "provision_project")
        patch.setenv("EVENT_BUS_NAME", _BUS)
        yield
    bus.delete_event_bus(Name=_BUS)


def _batch(job_id: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the batch of one message as an event source mapping hands it over."""
    return {
        "Records": [
            {
                "messageId": job_id,
                "receiptHandle": job_id,
                "body": json.dumps(message),
                "attributes": {"ApproximateReceiveCount": "1"},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:{REGION}:{ACCOUNT}:jobs",
                "awsRegion": REGION,
            }
        ]
    }


def _history(table: str, job_id: str) -> dict[str, Any]:
    """Return the entries of the job's history as the table's stream hands them over, in one batch.

    On AWS they come in several: each costs one more read of the job.
    """
    items = boto3.client("dynamodb", region_name=REGION).query(
        TableName=table,
        KeyConditionExpression="job_id = :job AND begins_with(#record, :history)",
        ExpressionAttributeNames={"#record": "record"},
        ExpressionAttributeValues={":job": {"S": job_id}, ":history": {"S": "HISTORY#"}},
    )["Items"]
    return {
        "Records": [
            {
                "eventName": "INSERT",
                "dynamodb": {
                    "SequenceNumber": str(number),
                    "Keys": {name: item[name] for name in ("job_id", "record")},
                    "NewImage": item,
                },
            }
            for number, item in enumerate(items)
        ]
    }


@contextmanager
def beside_others(number: int) -> Iterator[None]:
    """Let moto have so many user pools and Event APIs more: copies of those of a job before."""
    pools: dict[str, Any] = cognitoidp_backends[ACCOUNT][REGION].user_pools
    apis: dict[str, Any] = appsync_backends[ACCOUNT][REGION].events_apis
    pool, event_api = next(iter(pools.values())), next(iter(apis.values()))
    others = [f"other-{n}" for n in range(number)]
    for name in others:
        # To make one takes hundreds of times as long.
        pools[name] = other_pool = copy.copy(pool)
        other_pool.id = other_pool.name = other_pool.arn = name
        apis[name] = other_api = copy.copy(event_api)
        other_api.api_id = other_api.name = name
    try:
        yield
    finally:
        for name in others:
            del pools[name], apis[name]


#: The lines of the table that sum up.
_MEASURES: tuple[tuple[str, Callable[[JobCalls], float]], ...] = (
    ("calls of one job", lambda job: job.on_the_way.total()),
    ("  of them the core's own, to DynamoDB", lambda job: job.of_the_core.total()),
    ("  of them the rest", lambda job: job.of_the_rest.total()),
    ("calls of the stream's function", lambda job: job.calls.of(EVENTS).total()),
    ("state transitions", lambda job: job.transitions),
    ("read units", lambda job: job.units(job.on_the_way).read),
    ("  of them the core's own", lambda job: job.units(job.of_the_core).read),
    ("write units", lambda job: job.units(job.on_the_way).write),
    ("  of them the core's own", lambda job: job.units(job.of_the_core).write),
    ("write units of indexes", lambda job: job.units(job.on_the_way).index_write),
    ("  of them the core's own", lambda job: job.units(job.of_the_core).index_write),
    ("read units of the stream's function", lambda job: job.units(job.calls.of(EVENTS)).read),
)


def table(counts: Mapping[str, JobCalls]) -> str:
    """Return the counts side by side."""
    rows: list[tuple[str, ...]] = [("", *counts)]
    rows += [(name, *(f"{of(job):g}" for job in counts.values())) for name, of in _MEASURES]
    rows += [
        (f"{part}: {service} {operation}{of}", *map(str, times))
        for (part, service, operation, of), times in _by_operation(counts).items()
    ]
    width = max(len(row[0]) for row in rows)
    return "\n".join(
        f"{row[0]:<{width}}" + "".join(f"{cell:>13}" for cell in row[1:]) for row in rows
    )


def _by_operation(counts: Mapping[str, JobCalls]) -> dict[tuple[str, ...], list[int]]:
    """Return how often each operation was called; the core's apart."""
    per_run = [
        Counter[tuple[str, ...]](
            key
            for call, times in job.calls.sent.items()
            if call.part
            for key in [_row(call, job.jobs_table)] * times
        )
        for job in counts.values()
    ]
    rows = sorted(set().union(*per_run), key=lambda row: (row[0] != JOB, *row))
    return {row: [one[row] for one in per_run] for row in rows}


def _row(call: Call, jobs_table: str) -> tuple[str, ...]:
    of = " (core)" if jobs_table in call.tables else ""
    return call.part, call.service, call.operation, of


def main() -> None:
    """Print the table."""
    with deployment() as workflow:
        counts = {"cold": count_job(workflow), "warm": count_job(workflow)}
        with beside_others(MANY):
            counts[f"beside {MANY}"] = count_job(workflow)
    print("floor: one call for each thing that a job makes, reads or records")
    print("cold: what a warm function keeps for a minute is read anew")
    print(f"beside {MANY}: warm, with so many user pools and Event APIs of other projects")
    print(table(counts))


if __name__ == "__main__":
    main()
