"""Items of DynamoDB tables as plain Python values, and transactions of them."""

import hmac
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from boto3.dynamodb.conditions import Attr, ConditionBase, ConditionExpressionBuilder
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

from provisioner.aws_types import DynamoDBClient, TransactWriteItemTypeDef
from provisioner.errors import ErrorType, ProvisioningError, failure

_SERIALIZER = TypeSerializer()
_DESERIALIZER = TypeDeserializer()

#: Why a transaction was cancelled. Source: Amazon DynamoDB API Reference, TransactWriteItems.
_CONDITION_FAILED = "ConditionalCheckFailed"
_CONFLICT = "TransactionConflict"

#: What the other reasons are called outside transactions.
_PLAIN_CODES = {
    "ItemCollectionSizeLimitExceeded": "ItemCollectionSizeLimitExceededException",
    "ProvisionedThroughputExceeded": "ProvisionedThroughputExceededException",
    "ThrottlingError": "ThrottlingException",
    "ValidationError": "ValidationException",
}

#: The longest partition key.
_KEY_BYTES = 2048

#: Items of one BatchGetItem. Source: Amazon DynamoDB API Reference, BatchGetItem.
_BATCH_KEYS = 100

#: Transactions that meet another on one item are sent again: up to 0.1, 0.2, 0.4 s and so on.
_CONFLICT_ATTEMPTS = 8
_CONFLICT_FIRST_SECONDS = 0.05
_CONFLICT_MAX_SECONDS = 1.0


class ConditionFailedError(Exception):
    """A write's condition did not hold; nothing was written."""

    def __init__(
        self, items: Mapping[int, Mapping[str, Any]], keys: Sequence[Mapping[str, str]] = ()
    ) -> None:
        """Keep which of the transaction's items refused.

        Args:
            items: each item as it is stored, by its index in the transaction; empty where there
                is none.
            keys: the keys of the same.
        """
        super().__init__(f"the conditions of the items {list(items)} did not hold")
        self.items = items
        self.positions = tuple(items)
        self.keys = tuple(keys)


def to_item(values: Mapping[str, Any]) -> dict[str, Any]:
    """Serialize values; None is left out, since a missing attribute says the same."""
    return {
        name: _SERIALIZER.serialize(_storable(value))
        for name, value in values.items()
        if value is not None
    }


def from_item(item: Mapping[str, Any]) -> dict[str, Any]:
    """Deserialize an item; whole numbers come back as int."""
    return {name: _plain(_DESERIALIZER.deserialize(value)) for name, value in item.items()}


def from_answer(item: Mapping[str, Any], asked: Mapping[str, str]) -> dict[str, Any]:
    """Deserialize an item that was asked for.

    Args:
        item: what DynamoDB answers.
        asked: the attributes that it was asked for by.

    Raises:
        NETWORK_ERROR: it is another item: an answer to another question.
    """
    found = from_item(item)
    for name, value in asked.items():
        if not _is_same(found.get(name), value):
            raise other_answer(name)
    return found


def _is_same(found: object, asked: str) -> bool:
    """Compare in constant time: an attribute may be a secret's digest."""
    return isinstance(found, str) and hmac.compare_digest(
        found.encode(errors="surrogatepass"), asked.encode(errors="surrogatepass")
    )


def other_answer(name: str) -> ProvisioningError:
    """Make the error of an answer to another question, by the attribute that tells."""
    return failure(
        ErrorType.NETWORK_ERROR,
        "The database answered another question; ask again.",
        f"DynamoDB: an item of another {name}",
    )


def _storable(value: Any) -> Any:
    match value:
        case float():
            return Decimal(str(value))
        case dict():
            return {name: _storable(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_storable(inner) for inner in value]
        case _:
            return value


def _plain(value: Any) -> Any:
    match value:
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case dict():
            return {name: _plain(inner) for name, inner in value.items()}
        case list():
            return [_plain(inner) for inner in value]
        case _:
            return value


@dataclass(frozen=True, slots=True)
class Write:
    """A write of a transaction: what changes of one item, and what must be true of it."""

    key: Mapping[str, str]
    #: As DynamoDB's transactions have it.
    request: TransactWriteItemTypeDef


def build_check(table: str, key: Mapping[str, str], must: ConditionBase) -> Write:
    """Ask that something is true of an item that is not written."""
    return Write(key, {"ConditionCheck": _at(table, key) | _condition(must)})


def build_put(
    table: str, key: Mapping[str, str], values: Mapping[str, Any], *, is_new: bool
) -> Write:
    """Put an item in the place of what there is; where it must be new, there must be none.

    Args:
        table: the table.
        key: the item's key.
        values: its other attributes; None is left out.
        is_new: whether it must be new.
    """
    condition = _condition(Attr(next(iter(key))).not_exists()) if is_new else {}
    item: Any = {"TableName": table, "Item": to_item({**key, **values})}
    return Write(key, {"Put": item | condition})


def build_update(
    table: str,
    key: Mapping[str, str],
    values: Mapping[str, Any],
    must: ConditionBase,
    adds: Mapping[str, int] | None = None,
) -> Write:
    """Change attributes of an item, where something is true of it.

    Args:
        table: the table.
        key: the item's key.
        values: what they are from now on; None removes one.
        must: what must be true.
        adds: what numbers grow by; one that is not there is zero.
    """
    written = {**values, **(adds or {})}
    clauses = {
        "SET": [f"#{name} = :{name}" for name, value in values.items() if value is not None],
        "REMOVE": [f"#{name}" for name, value in values.items() if value is None],
        "ADD": [f"#{name} :{name}" for name in adds or ()],
    }
    update = " ".join(f"{verb} {', '.join(all_of)}" for verb, all_of in clauses.items() if all_of)
    condition = _condition(
        must,
        {f"#{name}": name for name in written},
        {f":{name}": value for name, value in written.items()},
    )
    return Write(key, {"Update": _at(table, key) | {"UpdateExpression": update} | condition})


def build_delete(table: str, key: Mapping[str, str]) -> Write:
    """Delete an item, if there is one."""
    return Write(key, {"Delete": _at(table, key)})


def _at(table: str, key: Mapping[str, str]) -> Any:
    return {"TableName": table, "Key": to_item(key)}


def _condition(
    must: ConditionBase,
    names: Mapping[str, str] | None = None,
    values: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a condition as a request has it, with the placeholders of its other expressions."""
    built = ConditionExpressionBuilder().build_expression(must)
    placeholders = to_item({**built.attribute_value_placeholders, **(values or {})})
    return {
        "ConditionExpression": built.condition_expression,
        "ExpressionAttributeNames": {**built.attribute_name_placeholders, **(names or {})},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    } | ({"ExpressionAttributeValues": placeholders} if placeholders else {})


def transact(client: DynamoDBClient, writes: Sequence[Write]) -> None:
    """Make all writes or none.

    Contention with another transaction is waited out for a moment, since the SDK does not.

    Raises:
        ConditionFailedError: a condition did not hold, and that is the only reason.
        botocore.exceptions.ClientError: anything else, contention that lasts (its code then is
            `TransactionConflict`) included.
    """
    for attempt in itertools.count(1):
        try:
            client.transact_write_items(TransactItems=[write.request for write in writes])
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "TransactionCanceledException":
                raise
            cancelled: Sequence[Any] = error.response.get("CancellationReasons", [])
            reasons = [str(reason.get("Code", "None")) for reason in cancelled]
        else:
            return
        if set(reasons) - {"None"} == {_CONDITION_FAILED}:
            items = {
                position: from_item(reason.get("Item") or {})
                for position, reason in enumerate(cancelled)
                if reasons[position] == _CONDITION_FAILED
            }
            raise ConditionFailedError(items, [writes[position].key for position in items])
        if _CONFLICT not in reasons or attempt == _CONFLICT_ATTEMPTS:
            raise _as_plain_error(reasons)
        _pause(attempt)


def _as_plain_error(reasons: Sequence[str]) -> ClientError:
    """Name the reason of a cancelled transaction as DynamoDB names it outside transactions."""
    others = (reason for reason in reasons if reason not in {"None", _CONDITION_FAILED})
    reason = next(others, "TransactionCanceledException")
    code = _PLAIN_CODES.get(reason, reason)
    operation: Literal["TransactWriteItems"] = "TransactWriteItems"
    return ClientError({"Error": {"Code": code, "Message": "transaction cancelled"}}, operation)


def is_key(value: str) -> bool:
    """Whether an item can have this key; DynamoDB refuses any other, even to read.

    Source: Amazon DynamoDB Developer Guide, "Quotas": 1 to 2,048 bytes of UTF-8.
    """
    try:
        return 0 < len(value.encode()) <= _KEY_BYTES
    except UnicodeEncodeError:
        return False


def get(client: DynamoDBClient, table: str, key: Mapping[str, str]) -> dict[str, Any] | None:
    """Read one item consistently; None where there is none.

    Raises:
        NETWORK_ERROR: the answer holds another item.
    """
    if not all(map(is_key, key.values())):
        return None
    item = client.get_item(TableName=table, Key=to_item(key), ConsistentRead=True).get("Item")
    return None if item is None else from_answer(item, key)


def get_all(
    client: DynamoDBClient,
    table: str,
    key_attribute: str,
    keys: Sequence[str],
    *,
    also: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Read items consistently; return those that there are, by their keys.

    Args:
        client: DynamoDB.
        table: the table.
        key_attribute: the attribute of the keys.
        keys: the keys.
        also: the rest of each key, where the table has two parts of it.

    Raises:
        NETWORK_ERROR: the answer holds another item.
        botocore.exceptions.ClientError: DynamoDB puts off some of them again and again.
    """
    found: dict[str, dict[str, Any]] = {}
    for asked in itertools.batched(dict.fromkeys(keys), _BATCH_KEYS, strict=False):
        left = [to_item({key_attribute: key, **(also or {})}) for key in asked]
        for attempt in range(1, _CONFLICT_ATTEMPTS + 1):
            answer = client.batch_get_item(
                RequestItems={table: {"Keys": left, "ConsistentRead": True}}
            )
            for item in answer["Responses"].get(table, []):
                plain = from_answer(item, also or {})
                if plain.get(key_attribute) not in asked:
                    raise other_answer(key_attribute)
                found[plain[key_attribute]] = plain
            put_off = answer.get("UnprocessedKeys", {})
            if table not in put_off:
                break
            left = [dict(key) for key in put_off[table]["Keys"]]
            _pause(attempt)
        else:
            raise ClientError(
                {"Error": {"Code": "ThrottlingException", "Message": "keys are put off"}},
                "BatchGetItem",
            )
    return found


def _pause(attempt: int) -> None:
    longest = min(_CONFLICT_MAX_SECONDS, _CONFLICT_FIRST_SECONDS * 2**attempt)
    time.sleep(random.uniform(0, longest))  # noqa: S311  # jitter is no secret  # nosec B311
