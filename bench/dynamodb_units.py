"""What a call of DynamoDB costs on demand, in read and write units, from the sizes of its items.

Items are looked at beside the calls that are measured, by a client of the bench's own.
Sources: Amazon DynamoDB Developer Guide, "DynamoDB read and write operations", "DynamoDB item sizes
and formats", "Using Global Secondary Indexes in DynamoDB", "Amazon DynamoDB Transactions: How it
works" (two underlying reads or writes of every item).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

#: Bytes of a unit.
_READ_BYTES = 4096
_WRITE_BYTES = 1024

#: Prepared and committed.
_IN_TRANSACTION = 2

#: Of a list or map, and of each of its elements.
_CONTAINER_BYTES = 3
_ELEMENT_BYTES = 1

type Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Units:
    """Read and write units; those of the indexes apart."""

    read: float = 0
    write: int = 0
    index_write: int = 0

    def __add__(self, other: Units) -> Units:
        """Return the sum."""
        return Units(
            self.read + other.read,
            self.write + other.write,
            self.index_write + other.index_write,
        )


@dataclass(frozen=True, slots=True)
class _Key:
    """An item that a call reads or writes."""

    table: str
    key: Item


def item_size(item: Item) -> int:
    """Return the bytes of an item, as DynamoDB counts them."""
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def _value_size(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "N":
            digits = content.lstrip("-").replace(".", "").strip("0")
            return math.ceil(len(digits) / 2) + 1
        case "BOOL" | "NULL":
            return 1
        case "L":
            elements = sum(map(_value_size, content))
        case "M":
            elements = item_size(content)
        case _:
            raise NotImplementedError(f"the size of a value of type {kind}")
    return _CONTAINER_BYTES + elements + _ELEMENT_BYTES * len(content)


def _read_units(item: Item | None, *, consistent: bool) -> float:
    units = max(1, math.ceil(item_size(item or {}) / _READ_BYTES))
    return units if consistent else units / 2


def _write_units(*states: Item | None) -> int:
    """Return the units of an item that has been in these states: the larger one counts."""
    largest = max(item_size(state or {}) for state in states)
    return max(1, math.ceil(largest / _WRITE_BYTES))


class UnitMeter:
    """Looks at the items of a call before and after it."""

    def __init__(self, client: Any) -> None:
        """Bind the meter.

        Args:
            client: DynamoDB, by a client whose calls are not measured.
        """
        self._client = client
        self._describe = cache(lambda table: client.describe_table(TableName=table)["Table"])

    def before(self, operation: str, request: Mapping[str, Any]) -> list[tuple[_Key, Item | None]]:
        """Return the items of a call as they are before it."""
        return [(key, self._look(key)) for key in self._keys(operation, request)]

    def units(
        self,
        operation: str,
        request: Mapping[str, Any],
        before: list[tuple[_Key, Item | None]],
        answer: Mapping[str, Any],
    ) -> Units:
        """Return the units of a call that has been answered."""
        match operation:
            case "GetItem" | "BatchGetItem":
                found = [item for _, item in before]
                consistent = "ConsistentRead" in str(request)
                return Units(read=sum(_read_units(i, consistent=consistent) for i in found))
            case "TransactGetItems":
                each = (_read_units(item, consistent=True) for _, item in before)
                return Units(read=_IN_TRANSACTION * sum(each))
            case "Query" | "Scan":
                # The items of an answer are measured together.
                size = sum(map(item_size, answer.get("Items", [])))
                units = max(1, math.ceil(size / _READ_BYTES))
                return Units(read=units if request.get("ConsistentRead") else units / 2)
            case "PutItem" | "UpdateItem" | "DeleteItem" | "TransactWriteItems" | "BatchWriteItem":
                times = _IN_TRANSACTION if operation == "TransactWriteItems" else 1
                return sum((self._written(*one, times) for one in before), Units())
        raise NotImplementedError(f"the units of {operation}")

    def _written(self, key: _Key, before: Item | None, times: int) -> Units:
        after = self._look(key)
        indexes = self._describe(key.table).get("GlobalSecondaryIndexes", [])
        return Units(
            write=times * _write_units(before, after),
            # An index follows later, and in no transaction.
            index_write=sum(self._index_units(key, index, before, after) for index in indexes),
        )

    def _index_units(
        self, key: _Key, index: Mapping[str, Any], before: Item | None, after: Item | None
    ) -> int:
        old, new = (self._project(key, index, state) for state in (before, after))
        if old == new:
            return 0
        names = [part["AttributeName"] for part in index["KeySchema"]]
        if old and new and any(old[name] != new[name] for name in names):
            return _write_units(old) + _write_units(new)
        return _write_units(old, new)

    def _project(self, key: _Key, index: Mapping[str, Any], item: Item | None) -> Item | None:
        names = {part["AttributeName"] for part in index["KeySchema"]}
        if item is None or not names <= item.keys():
            return None
        projection = index["Projection"]
        if projection["ProjectionType"] == "ALL":
            return item
        projected = {*key.key, *names, *projection.get("NonKeyAttributes", ())}
        return {name: item[name] for name in projected & item.keys()}

    def _look(self, key: _Key) -> Item | None:
        found: Item | None = self._client.get_item(
            TableName=key.table, Key=key.key, ConsistentRead=True
        ).get("Item")
        return found

    def _keys(self, operation: str, request: Mapping[str, Any]) -> Iterator[_Key]:
        match operation:
            case "TransactWriteItems" | "TransactGetItems":
                for action in request["TransactItems"]:
                    ((_, of),) = action.items()
                    yield self._key(of)
            case "BatchGetItem":
                for table, asked in request["RequestItems"].items():
                    yield from (_Key(table, key) for key in asked["Keys"])
            case "BatchWriteItem":
                for table, written in request["RequestItems"].items():
                    for action in written:
                        ((_, of),) = action.items()
                        yield self._key({"TableName": table, **of})
            case "GetItem" | "PutItem" | "UpdateItem" | "DeleteItem":
                yield self._key(request)

    def _key(self, of: Mapping[str, Any]) -> _Key:
        table = of["TableName"]
        names = [part["AttributeName"] for part in self._describe(table)["KeySchema"]]
        known = of.get("Key") or of["Item"]
        return _Key(table, {name: known[name] for name in names})
