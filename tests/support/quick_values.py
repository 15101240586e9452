"""Shortens what happens to each value of a DynamoDB item on its way: a pytest plugin.

A value names its type, `{"S": "shop"}`. botocore and moto walk through each on each way, by their
models, and find that all stands in JSON as it is; and moto copies it as if it were any object. What
they make of a value stays.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from botocore import parsers, serialize, validate
from moto.core import parse
from moto.core.utils import get_service_model
from moto.dynamodb import responses
from moto.dynamodb.models import utilities
from moto.dynamodb.models.dynamo_type import DynamoType, Item, LimitedSizeDict

# What is replaced below are names that these modules use, not names that they export.
_validator: Any = validate.ParamValidator
_written_by_botocore: Any = serialize.JSONSerializer
_read_by_moto: Any = parse.JSONParser
_handler: Any = responses.DynamoHandler
_read_by_botocore: Any = parsers.JSONParser
_responses: Any = responses
_utilities: Any = utilities
_dynamo_type: Any = DynamoType
_item: Any = Item

#: The types of values that are as they stand.
_PLAIN = {"S": str, "N": str, "BOOL": bool, "NULL": bool}

#: What asks for items or writes some. In JSON all of it stands as it is, but for bytes.
_ABOUT_ITEMS = frozenset(
    {"GetItem", "Query", "Scan", "BatchGetItem", "PutItem", "UpdateItem", "DeleteItem"}
    | {"TransactGetItems", "TransactWriteItems"}
)
_INPUTS = frozenset(f"{operation}Input" for operation in _ABOUT_ITEMS)
_OUTPUTS = frozenset(f"{operation}Output" for operation in _ABOUT_ITEMS)

_validate_map = _validator._validate_map
_write_structure = _written_by_botocore._serialize_type_structure
_read_request = _read_by_moto._parse_json_body
_write_answer = _handler.serialized
_read_answer = _read_by_botocore._handle_json_body


def _is_plain(name: Any, value: Any) -> bool:
    """Whether an attribute is what botocore asks of it, at a glance."""
    if type(name) is not str or type(value) is not dict or len(value) != 1:
        return False
    ((kind, held),) = value.items()
    return kind in _PLAIN and type(held) is _PLAIN[kind]


def _validate_attributes(validator: Any, given: Any, shape: Any, errors: Any, name: str) -> None:
    """Check one by one what is not right at a glance."""
    if shape.value.name == "AttributeValue" and type(given) is dict:
        given = {of: value for of, value in given.items() if not _is_plain(of, value)}
    _validate_map(validator, given, shape, errors, name)


def _write_request(writer: Any, written: Any, given: Any, shape: Any, key: Any) -> None:
    if key is None and shape.name in _INPUTS:
        written.update(given)
    else:
        _write_structure(writer, written, given, shape, key)


def _stands(body: Any) -> bool:
    """Whether what is said about items holds no bytes."""
    return b'"B"' not in body and b'"BS"' not in body


def _read_request_at_once(reader: Any, body: bytes, shape: Any) -> Any:
    if shape.name in _INPUTS and _stands(body):
        return json.loads(body)
    return _read_request(reader, body, shape)


@cache
def _members(operation: str) -> frozenset[str]:
    model = get_service_model("dynamodb").operation_model(operation)
    return frozenset(model.output_shape.members)


def _write_answer_at_once(handler: Any, answer: Any) -> Any:
    """Write an answer about items as moto holds it, which is how DynamoDB writes it."""
    operation = handler._get_action()
    if operation not in _ABOUT_ITEMS or type(answer.result) is not dict:
        return _write_answer(handler, answer)
    known = _members(operation)
    held = answer.result.items()
    body = {name: value for name, value in held if name in known and value is not None}
    headers = {"Content-Type": "application/x-amz-json-1.0", **handler.response_headers}
    return 200, headers, json.dumps(body)


def _read_answer_at_once(reader: Any, body: bytes, shape: Any) -> Any:
    if shape.name in _OUTPUTS and _stands(body):
        return json.loads(body)
    return _read_answer(reader, body, shape)


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


def _size_of_item(item: Any) -> int:
    return sum(_size_of_name(name) + value.size() for name, value in item.attrs.items())


_size_of_name = cache(_utilities.bytesize)

_validator._validate_map = _validate_attributes
_written_by_botocore._serialize_type_structure = _write_request
_read_by_moto._parse_json_body = _read_request_at_once
_handler.serialized = _write_answer_at_once
_read_by_botocore._handle_json_body = _read_answer_at_once
_responses.dynamo_to_dict = _utilities.dynamo_to_dict = _to_dict_at_once
_dynamo_type.__deepcopy__ = lambda value, _memo: _copied(value)
_item.__deepcopy__ = _copied_item
_item.size = _size_of_item
