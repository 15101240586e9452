"""Items of DynamoDB tables as plain Python values, and transactions of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

_SERIALIZER = TypeSerializer()
_DESERIALIZER = TypeDeserializer()

#: DynamoDB's limit of items in one transaction.
MAX_TRANSACTION_ITEMS = 100


class ConditionFailedError(Exception):
    """A write's condition did not hold; nothing was written."""

    def __init__(self, positions: Sequence[int]) -> None:
        """Keep which of the transaction's items refused.

        Args:
            positions: indices into the items of the transaction.
        """
        super().__init__(f"the conditions of the items {list(positions)} did not hold")
        self.positions = tuple(positions)


def to_item(values: Mapping[str, Any]) -> dict[str, Any]:
    """Serialize values; None is left out, since a missing attribute says the same."""
    return {
        name: _SERIALIZER.serialize(value) for name, value in values.items() if value is not None
    }


def from_item(item: Mapping[str, Any]) -> dict[str, Any]:
    """Deserialize an item; whole numbers come back as int."""
    return {name: _plain(_DESERIALIZER.deserialize(value)) for name, value in item.items()}


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


def update(
    table: str,
    key: Mapping[str, Any],
    *,
    set_values: Mapping[str, Any],
    condition: str,
    condition_values: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    remove: Sequence[str] = (),
    extra_set: Sequence[str] = (),
) -> TransactWriteItemTypeDef:
    """Build a conditional update.

    Args:
        table: the table's name.
        key: the item's key.
        set_values: attributes to set; None is left as it is.
        condition: the ConditionExpression.
        condition_values: values of the placeholders (without the colon) in `condition` and
            `extra_set`.
        names: what the placeholders (without the number sign) in `condition` and `extra_set` are.
        remove: attributes to remove.
        extra_set: further SET actions, such as counters.
    """
    values = {name: value for name, value in set_values.items() if value is not None}
    actions = [f"#set_{name} = :set_{name}" for name in values] + list(extra_set)
    expression = f"SET {', '.join(actions)}" if actions else ""
    if remove:
        expression += " REMOVE " + ", ".join(f"#remove_{name}" for name in remove)
    placeholders = {f":set_{name}": value for name, value in values.items()} | {
        f":{name}": value for name, value in (condition_values or {}).items()
    }
    built: TransactWriteItemTypeDef = {
        "Update": {
            "TableName": table,
            "Key": to_item(key),
            "UpdateExpression": expression.strip(),
            "ConditionExpression": condition,
            "ExpressionAttributeNames": {f"#set_{name}": name for name in values}
            | {f"#remove_{name}": name for name in remove}
            | {f"#{placeholder}": name for placeholder, name in (names or {}).items()},
        }
    }
    if placeholders:
        built["Update"]["ExpressionAttributeValues"] = to_item(placeholders)
    return built


def put_new(table: str, item: Mapping[str, Any], key_attribute: str) -> TransactWriteItemTypeDef:
    """Build a put that fails where an item of that key exists."""
    return {
        "Put": {
            "TableName": table,
            "Item": to_item(item),
            "ConditionExpression": f"attribute_not_exists({key_attribute})",
        }
    }


def transact(client: DynamoDBClient, items: Sequence[TransactWriteItemTypeDef]) -> None:
    """Write all items or none.

    Raises:
        ConditionFailedError: a condition did not hold, and that is the only reason.
        botocore.exceptions.ClientError: anything else, contention with another transaction
            (its code then is `TransactionConflict`) included.
    """
    try:
        client.transact_write_items(TransactItems=list(items))
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "TransactionCanceledException":
            raise
        reasons = [
            str(reason.get("Code", "None"))
            for reason in error.response.get("CancellationReasons", [])
        ]
        failed = [i for i, reason in enumerate(reasons) if reason == "ConditionalCheckFailed"]
        if failed:
            raise ConditionFailedError(failed) from None
        raise _as_plain_error(reasons) from None


def _as_plain_error(reasons: Sequence[str]) -> ClientError:
    """Name the reason of a cancelled transaction as DynamoDB names it outside transactions."""
    code = next((reason for reason in reasons if reason != "None"), "TransactionCanceledException")
    operation: Literal["TransactWriteItems"] = "TransactWriteItems"
    return ClientError({"Error": {"Code": code, "Message": "transaction cancelled"}}, operation)


def get(client: DynamoDBClient, table: str, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read one item consistently; None where there is none."""
    item = client.get_item(TableName=table, Key=to_item(key), ConsistentRead=True).get("Item")
    return None if item is None else from_item(item)
