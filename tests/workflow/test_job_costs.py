"""What one good job asks of AWS, as the benches count it; bounds that are meant to go down."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from provisioner.runtime import aws
from support.workflow import REGION, Workflow

from bench import in_process, job_calls, stage_calls
from bench.aws_calls import Call, count_calls
from bench.dynamodb_units import Units

#: The most calls of the dispatcher and the stages for one job, and of them those to the jobs table,
#: whichever branch of the state machine is first.
MOST_CALLS = 53
MOST_CALLS_OF_THE_CORE = 20

#: The most of DynamoDB's write units for the jobs table, its indexes apart.
MOST_WRITE_UNITS_OF_THE_CORE = 130

#: Pages of user pools that other projects have, and the pools of one.
_PAGES = 3
_POOLS_A_PAGE = 60


def test_a_good_job_asks_for_no_more_than_it_says(workflow: Workflow) -> None:
    alone = job_calls.count_job(workflow)
    with job_calls.beside_others(_PAGES * _POOLS_A_PAGE):
        beside_others = job_calls.count_job(workflow)

    assert alone.on_the_way.total() <= MOST_CALLS
    assert alone.of_the_core.total() <= MOST_CALLS_OF_THE_CORE
    assert 0 < alone.units(alone.of_the_core).write <= MOST_WRITE_UNITS_OF_THE_CORE
    assert alone.transitions <= 12
    rest, rest_beside_others = alone.of_the_rest, beside_others.of_the_rest
    more = Counter({call.operation: times for call, times in rest_beside_others.items()})
    more.subtract({call.operation: times for call, times in rest.items()})
    assert +more == Counter()
    assert beside_others.on_the_way.total() <= MOST_CALLS

    published = {call.operation for call in alone.calls.of(job_calls.EVENTS)}
    assert published == {"GetItem", "PutEvents"}
    shown = job_calls.table({"alone": alone, "beside others": beside_others}).splitlines()
    assert shown[1].split()[-2:] == [
        str(alone.on_the_way.total()),
        str(beside_others.on_the_way.total()),
    ]


def test_the_calls_of_each_stage_are_those_that_are_kept(workflow: Workflow) -> None:
    counted, kept = stage_calls.count(workflow), stage_calls.read()

    # Ids, ports and times are not of one length.
    assert (counted.job_bytes, counted.project_bytes) == pytest.approx(
        (kept.job_bytes, kept.project_bytes), rel=0.01
    ), "make cost-docs"
    in_kept_sizes = replace(counted, job_bytes=kept.job_bytes, project_bytes=kept.project_bytes)
    assert in_kept_sizes == kept, "make cost-docs"


def test_units_follow_from_the_sizes_of_items(workflow: Workflow) -> None:
    table = workflow.settings.quotas_table
    key = {"quota": {"S": "owner#ada"}}
    # With the names and the key more than 1 KB, and less than 4.
    item = {**key, "text": {"S": "a" * 1024}}
    with count_calls() as calls:
        dynamodb = aws.client("dynamodb")
        dynamodb.put_item(TableName=table, Item=item)
        dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True)
        dynamodb.get_item(TableName=table, Key=key)
        dynamodb.transact_write_items(TransactItems=[{"Delete": {"TableName": table, "Key": key}}])

    def call(operation: str) -> Call:
        return Call("", "dynamodb", operation, (table,))

    assert calls.sent == Counter(
        {call("PutItem"): 1, call("GetItem"): 2, call("TransactWriteItems"): 1}
    )
    assert calls.units == {
        call("PutItem"): Units(write=2),
        call("GetItem"): Units(read=1.5),
        call("TransactWriteItems"): Units(write=4),
    }


def test_a_job_in_one_process_is_compared_with_the_straight_script(workflow: Workflow) -> None:
    times = in_process.compare(workflow, rounds=1)
    (job,), (straight,) = times.of[in_process.JOB], times.of[in_process.STRAIGHT]
    assert f"ratio {job / straight:.2f}x" in in_process.line(times)
    # What the script made is gone; each of the two jobs has a pool.
    pools = aws.client("cognito-idp", REGION).list_user_pools(MaxResults=60)["UserPools"]
    assert len(pools) == 2
    assert not [pool for pool in pools if "straight" in pool["Name"]]
    with workflow.cluster.connect() as connection:
        roles = connection.execute(
            "SELECT FROM pg_roles WHERE rolname LIKE '%straight%'"
        ).fetchall()
    assert roles == []
