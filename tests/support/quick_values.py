"""Shortens what happens to each value of a DynamoDB item on its way: a pytest plugin.

A value names its type, `{"S": "shop"}`. botocore and moto look for each of the ten types in it all
the same, and moto copies it as if it were any object. What they make of a value stays.
"""

from __future__ import annotations

from typing import Any

from botocore import parsers
from moto.core import parse
from moto.dynamodb import responses
from moto.dynamodb.models import utilities
from moto.dynamodb.models.dynamo_type import DynamoType, Item, LimitedSizeDict

# What is replaced below are names that these modules use, not names that they export.
_read_by_botocore: Any = parsers.BaseJSONParser
_read_by_moto: Any = parse.BaseJSONParser
_responses: Any = responses
_utilities: Any = utilities
_dynamo_type: Any = DynamoType
_item: Any = Item

#: The types of values that both hand on as they stand.
_PLAIN = frozenset({"S", "N", "BOOL", "NULL"})


def _at_once(read: Any) -> Any:
    """Hand a plain value of DynamoDB on as it stands; `read` reads all else."""

    def structure(parser: Any, shape: Any, value: Any) -> Any:
        if shape.name == "AttributeValue" and type(value) is dict and len(value) == 1:
            ((name, held),) = value.items()
            if name in _PLAIN and held is not None:
                return {name: held}
        return read(parser, shape, value)

    return structure


_to_dict = _utilities.dynamo_to_dict


def _to_dict_at_once(value: Any) -> Any:
    """Do what moto does; most of what it meets are texts and plain values."""
    kind: Any = type(value)
    if kind is DynamoType:
        held = value.value
        if value.type in _PLAIN:
            return {value.type: held}
    elif kind is str:
        return value
    elif kind is dict:
        return {name: _to_dict_at_once(held) for name, held in value.items()}
    elif kind is list:
        return [_to_dict_at_once(one) for one in value]
    return _to_dict(value)


def _copied(value: Any) -> Any:
    """Copy a value of an item; there is no value within itself."""
    copy = DynamoType.__new__(DynamoType)
    copy.type, held = value.type, value.value
    if value.type == "M":
        held = {name: _copied(one) for name, one in held.items()}
    elif value.type == "L":
        held = [_copied(one) for one in held]
    elif type(held) is list:
        held = list(held)  # a set
    copy.value = held
    return copy


def _copied_item(item: Any, memo: dict[int, Any]) -> Any:
    """Copy an item; as moto does, without asking again whether it is too large."""
    copy = _item.__new__(type(item))
    memo[id(item)] = copy
    copy.hash_key = _copied(item.hash_key)
    copy.range_key = None if item.range_key is None else _copied(item.range_key)
    copy.attrs = LimitedSizeDict.__new__(LimitedSizeDict)
    for name, value in item.attrs.items():
        dict.__setitem__(copy.attrs, name, _copied(value))
    return copy


_read_by_botocore._handle_structure = _at_once(_read_by_botocore._handle_structure)
_read_by_moto._parse_structure = _at_once(_read_by_moto._parse_structure)
_responses.dynamo_to_dict = _utilities.dynamo_to_dict = _to_dict_at_once
_dynamo_type.__deepcopy__ = lambda value, _memo: _copied(value)
_item.__deepcopy__ = _copied_item
