"""Lets moto work out once what it would work out the same each time: a pytest plugin.

Nothing that moto answers changes. Half of a workflow's time went into parsing the one state
machine, reading the one signing key, making one more client and finding the fields of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from types import SimpleNamespace
from typing import Any

from moto.cognitoidp import models
from moto.core import serialize
from moto.stepfunctions.parser.asl.component.state.exec.state_task import lambda_eval_utils
from moto.stepfunctions.parser.asl.parse import asl_parser
from moto.stepfunctions.parser.asl.utils import json_path

# What is replaced below are names that these modules use, not names that they export.
_cognito: Any = models
_lambda_calls: Any = lambda_eval_utils
_paths: Any = json_path
_machines: Any = asl_parser.AmazonStateLanguageParser
_json: Any = serialize.BaseJSONSerializer
_pickers: tuple[Any, ...] = (serialize.AttributePicker, serialize.XFormedAttributePicker)

_client_for = cache(_lambda_calls.boto_client_for)
_write_structure = _json._serialize_type_structure
_import_key = _cognito.jwk.RSAKey.import_key


def _lambda_client(service: str, region: str, **_: Any) -> Any:
    return _client_for(service=service, region=region)


@cache
def _signing_key() -> Any:
    return _import_key(_cognito.load_resource("cognitoidp/resources/jwks-private.json"))


def _remembered(names_of: Callable[[Any, Any], Iterable[str]]) -> Any:
    """Remember by which names a field is looked up in an object; its class decides that."""
    found: dict[Any, tuple[str, ...]] = {}

    def names(picker: Any, context: Any) -> tuple[str, ...]:
        question = (type(picker), context.shape, context.key, type(context.obj))
        if question not in found:
            found[question] = tuple(names_of(picker, context))
        return found[question]

    return names


def _structure(writer: Any, target: Any, value: Any, shape: Any, key: str) -> None:
    """Write an attribute of a DynamoDB item as it is: moto keeps it in the form of the answer."""
    if shape.name == "AttributeValue" and type(value) is dict:
        target[writer.get_serialized_name(shape, key)] = value
    else:
        _write_structure(writer, target, value, shape, key)


# What the parsers return holds no state: an execution keeps its own in its environment.
_machines.parse = cache(_machines.parse)
_paths.parse = cache(_paths.parse)
# A Task makes a client for each of its calls.
_lambda_calls.boto_client_for = _lambda_client
# Every user pool signs with the key that moto comes with.
_cognito.jwk = SimpleNamespace(RSAKey=SimpleNamespace(import_key=lambda _: _signing_key()))
_json._serialize_type_structure = _structure
for _picker in _pickers:
    _picker.get_possible_keys = _remembered(_picker.get_possible_keys)
