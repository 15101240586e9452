"""Lists of items by an index of DynamoDB, read page by page, whose keys are spread over shards.

An item is listed under a group, such as its status, at a position that never changes. The partition
key of the index is the group and one of a few shards, which follows from the item's name: what is
written at once goes to several partitions, and a list is read from all of them and merged.
"""

import heapq
import math
import random
import zlib
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

from provisioner.aws_types import DynamoDBClient
from provisioner.drivers import dynamodb

#: The attributes by which an item is listed: in which partition, and where in the order.
LISTED_UNDER = "listed_under"
LISTED_AT = "listed_at"

#: The partitions of a group. A partition of an index takes 1,000 write units a second, and one that
#: is full holds up the writes of the table. The busiest group is of the jobs that are QUEUED: each
#: enters and leaves it, two units. At the 1,300 executions that an account may start at once by
#: default that is 2,600 units a second; a page of a list costs a Query of each partition.
#: Sources: Amazon DynamoDB Developer Guide, "Best practices for designing and using partition keys
#: effectively"; AWS Step Functions Developer Guide, "Service quotas", StartExecution.
SHARDS = 4


def partition_of(group: str, name: str) -> str:
    """Return the partition in which an item of this name is listed; names are spread over them."""
    return f"{group}#{zlib.crc32(name.encode()) % SHARDS}"


def partitions_of(*groups: str) -> list[str]:
    """Return all the partitions of groups."""
    return [f"{group}#{shard}" for group in groups for shard in range(SHARDS)]


def position_of(created_at: str, name: str) -> str:
    """Return where an item stands in a list: by its age, and by its name where that is the same.

    Args:
        created_at: when it came into being, as a text that sorts as times do.
        name: what no other item has.
    """
    return f"{created_at}#{name}"


def read(
    client: DynamoDBClient,
    table: str,
    index: str,
    keys: tuple[str, str],
    partitions: Iterable[str],
    *,
    after: str = "",
    newest_first: bool = False,
    at_once: int = 100,
) -> Iterator[dict[str, Any]]:
    """Yield what an index has in its partitions, in one order, read as it is asked for.

    What was written a moment ago may be missing. An item that moves from one partition to another
    meanwhile comes once, or not at all.

    Args:
        client: DynamoDB.
        table: the table.
        index: its index.
        keys: the attributes of the index's partition key and sort key.
        partitions: the values of the partition key.
        after: a value of the sort key, from which on it is read; from the beginning when empty.
        newest_first: whether the largest sort key comes first.
        at_once: how many items one Query reads.

    Raises:
        NETWORK_ERROR: an answer holds an item of another partition.
    """
    partition_key, sort_key = keys
    request: dict[str, Any] = {
        "TableName": table,
        "IndexName": index,
        "ScanIndexForward": not newest_first,
        "PaginationConfig": {"PageSize": at_once},
    }
    read_by_partition = [
        _read_partition(client, request, (partition_key, partition), sort_key, after)
        for partition in partitions
        if dynamodb.is_key(partition)
    ]
    before: Mapping[str, Any] = {}
    for item in heapq.merge(*read_by_partition, key=itemgetter(sort_key), reverse=newest_first):
        # The index follows later than its item: one that has moved may still be where it was.
        known = {name: value for name, value in item.items() if name != partition_key}
        if known != before:
            yield item
        before = known


def _read_partition(
    client: DynamoDBClient,
    request: Mapping[str, Any],
    partition: tuple[str, str],
    sort_key: str,
    after: str,
) -> Iterator[dict[str, Any]]:
    name, value = partition
    condition = "#partition = :partition"
    names, values = {"#partition": name}, {":partition": value}
    if after:
        is_after = "#at > :after" if request["ScanIndexForward"] else "#at < :after"
        condition = f"{condition} AND {is_after}"
        names["#at"], values[":after"] = sort_key, after
    pages = client.get_paginator("query").paginate(
        KeyConditionExpression=condition,
        ExpressionAttributeNames=names,
        ExpressionAttributeValues=dynamodb.to_item(values),
        **request,
    )
    for page in pages:
        for item in page["Items"]:
            yield dynamodb.from_answer(item, {name: value})


def estimate(
    client: DynamoDBClient, table: str, index: str, partition_key: str, group: str, *, most: int
) -> int:
    """Return about how many items a group has; at least `most`, about, where it has more.

    One of its partitions is counted, as names are spread over them evenly.

    Args:
        client: DynamoDB.
        table: the table.
        index: its index.
        partition_key: the attribute of the index's partition key.
        group: the group.
        most: no more are counted than it takes to know that there are so many.
    """
    counted = client.query(
        TableName=table,
        IndexName=index,
        KeyConditionExpression="#partition = :partition",
        ExpressionAttributeNames={"#partition": partition_key},
        ExpressionAttributeValues=dynamodb.to_item(
            # Each in its turn, by chance: no secret.
            {":partition": random.choice(partitions_of(group))}  # noqa: S311  # nosec B311
        ),
        Select="COUNT",
        Limit=math.ceil(most / SHARDS),
    )
    return counted["Count"] * SHARDS


def take(
    items: Iterable[dict[str, Any]], limit: int, *, looks_at: int, **wanted: str
) -> tuple[list[dict[str, Any]], str]:
    """Take a page of a list.

    Args:
        items: the list, of which one item more is read than is looked at.
        limit: the most items that are taken.
        looks_at: the most items that are looked at.
        wanted: attributes that an item must have to be taken.

    Returns:
        the items, and the position of the last that was looked at; empty where none is behind it.
    """
    taken: list[dict[str, Any]] = []
    position = ""
    for number, item in enumerate(items):
        if len(taken) == limit or number == looks_at:
            return taken, position
        position = item[LISTED_AT]
        if wanted.items() <= item.items():
            taken.append(item)
    return taken, ""
