"""Lets moto work out once what it would work out the same each time: a pytest plugin.

Nothing that moto answers changes. Half of a workflow's time went into parsing the one state
machine, reading the one signing key, making one more client and finding the fields of an answer;
half of what was left into copying whole tables before each transaction, and then most into walking
through the expressions of updates, once for each of moto's ten checks.
"""

from __future__ import annotations

import copy
import pickle
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache
from types import SimpleNamespace
from typing import Any

from moto.cognitoidp import models
from moto.core import base_backend, responses, serialize
from moto.core import models as core_models
from moto.dynamodb import comparisons
from moto.dynamodb import models as dynamodb_models
from moto.dynamodb.models.dynamo_type import DynamoType, Item, LimitedSizeDict
from moto.dynamodb.models.table import Table
from moto.dynamodb.parsing import ast_nodes, expressions, validators
from moto.stepfunctions.parser.asl.component.state.exec.state_task import lambda_eval_utils
from moto.stepfunctions.parser.asl.parse import asl_parser
from moto.stepfunctions.parser.asl.utils import json_path

# What is replaced below are names that these modules use, not names that they export.
_cognito: Any = models
_core: Any = core_models
_dynamodb: Any = dynamodb_models
_lambda_calls: Any = lambda_eval_utils
_paths: Any = json_path
_machines: Any = asl_parser.AmazonStateLanguageParser
_responses: Any = responses
_comparisons: Any = comparisons
_backends: Any = base_backend
_nodes: Any = ast_nodes
_validators: Any = validators
_expressions: Any = expressions
_item: Any = Item
_table: Any = Table
_pickers: tuple[Any, ...] = (serialize.AttributePicker, serialize.XFormedAttributePicker)

_client_for = cache(_lambda_calls.boto_client_for)
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


_find_regions = _backends.AccountSpecificBackend._generate_regions.__wrapped__


@cache
def _regions_of(service: str) -> list[str]:
    """Remember where a service is, whichever account is asked for."""
    found: list[str] = _find_regions(None, service)
    return found


_read_words = _comparisons.ConditionExpressionParser._lex_condition_expression
_words: dict[str, Any] = {}


def _read_words_once(parser: Any) -> Any:
    """Remember the words of a condition, which are the same whatever its names and values are."""
    if parser.condition_expression not in _words:
        _words[parser.condition_expression] = tuple(_read_words(parser))
    return deque(_words[parser.condition_expression])


_parse_condition = _comparisons.ConditionExpressionParser.parse


def _parse_condition_once(parser: Any) -> Any:
    """Remember the conditions of the last requests: moto parses each four times."""
    names, values = parser.expression_attribute_names, parser.expression_attribute_values
    key = (parser.condition_expression, repr(names), repr(values))
    found = _conditions.pop(key, None)
    if found is None:
        condition = _parse_condition(parser)
        found = condition, parser.expr_attr_names_found, parser.expr_attr_values_found
    while len(_conditions) >= _MOST_CONDITIONS:
        del _conditions[next(iter(_conditions))]
    _conditions[key] = found
    condition, parser.expr_attr_names_found, parser.expr_attr_values_found = found
    return condition


_conditions: dict[Any, Any] = {}
_MOST_CONDITIONS = 64


@cache
def _is_a(of_node: Any, kind: Any) -> bool:
    """Remember what a class of nodes is: to ask an abstract class is slow."""
    return issubclass(of_node, kind)


@cache
def _is_an_end(kind: Any) -> bool:
    """Whether something in an expression holds nothing that a traverser processes."""
    ends = (_nodes.LeafNode, _nodes.UpdateExpressionPath, _nodes.DDBTypedValue)
    return issubclass(kind, ends) or not issubclass(kind, _nodes.Node)


class _Kinds(dict[Any, Any]):
    """By class of nodes, as what a traverser processes them; None if it does not."""

    def __init__(self, processed: Iterable[Any]) -> None:
        super().__init__()
        self._processed = tuple(processed)

    def __missing__(self, of_node: Any) -> Any:
        found = next((kind for kind in self._processed if issubclass(of_node, kind)), None)
        self[of_node] = found
        return found


_kinds_of: dict[Any, _Kinds] = {}


def _traverse(traverser: Any, node: Any) -> Any:
    """Process the nodes below a node, then it, in moto's order."""
    of_traverser = type(traverser)
    processors = traverser._processing_map()
    if of_traverser not in _kinds_of:
        _kinds_of[of_traverser] = _Kinds(processors)
    kinds = _kinds_of[of_traverser]
    before = traverser.pre_processing_of_child
    if of_traverser.pre_processing_of_child is _nodes.DepthFirstTraverser.pre_processing_of_child:
        before = None  # it does nothing

    def process(node: Any, child_id: int) -> Any:
        for number, child in enumerate(node.children or ()):
            if before is not None:
                before(node, number)
            of_child: Any = type(child)
            # Most nodes are not processed, and have nothing below them that is.
            if kinds[of_child] is not None or not _is_an_end(of_child):
                process(child, number)
        kind = kinds[type(node)]
        if kind is None:
            return node
        parent = node.parent
        processed = processors[kind](node)
        processed.parent = parent
        if parent:
            parent.children[child_id] = processed
        return processed

    return process(node, -1)


def _find_clauses(node: Any, kinds: Any) -> list[Any]:
    found = []
    for child in node.children or ():
        of_child: Any = type(child)
        if of_child in kinds:
            found.append(child)
        elif _is_a(of_child, _nodes.Expression) or _is_a(of_child, _nodes.UpdateExpressionFunction):
            found += _find_clauses(child, kinds)
    return found


_init_validator = _validators.Validator.__init__

#: The first processors of an update only check how it is written, with which names.
_CHECKS_OF_WRITING = 3
_written_well: set[Any] = set()

#: Expressions whose copies are flat; what moto parses it keeps, so that an id stays one's own.
_flat: dict[int, bytes] = {}


def _flat_copy(expression: Any) -> Any:
    """Copy the expression of an update as it is once moto has normalized it: a list of actions."""
    if id(expression) not in _flat:
        copied = copy.deepcopy(expression)
        copied.normalize()
        for action in copied.children:
            action.set_parent(copied)
        _flat[id(expression)] = pickle.dumps(copied)
    return pickle.loads(_flat[id(expression)])  # what stands here was written here  # nosec B301


def _copied_later(value: Any) -> Any:
    """Leave an expression to `_validate` to copy, which knows how much of it is needed."""
    return value if type(value) is _nodes.UpdateExpression else copy.deepcopy(value)


def _init_once_checked(validator: Any, expression: Any, *more: Any, **named: Any) -> None:
    _init_validator(validator, expression, *more, **named)
    keys = tuple(validator.table.table_key_attrs)
    validator.writing = (id(expression), repr(validator.expression_attribute_names), keys)


def _validate(validator: Any) -> Any:
    expression, processors = validator.node_to_validate, validator.processors
    if validator.writing in _written_well:
        node = _flat_copy(expression)
        processors = processors[_CHECKS_OF_WRITING:]
    else:
        node = copy.deepcopy(expression)
    for processor in processors:
        node = processor.traverse(node)
    _written_well.add(validator.writing)
    return node


_dynamo_type: Any = DynamoType
_cast_value = _dynamo_type.cast_value.fget


def _cast(value: Any) -> Any:
    """Most values are texts, which are what they are."""
    return value.value if value.type == "S" else _cast_value(value)


_size, _to_regular_json = _dynamo_type.size, _dynamo_type.to_regular_json


def _size_of(value: Any) -> Any:
    is_plain = value.type == "S" and value.value.isascii()
    return len(value.value) if is_plain else _size(value)


def _regular_json_of(value: Any) -> Any:
    return {"S": value.value} if value.type == "S" else _to_regular_json(value)


_write_all_or_none = _dynamodb.DynamoDBBackend.transact_write_items

#: The items of the transaction that is being written; moto takes one request at a time.
_transaction: list[Any] = []
#: The tables of it, by name, as they were before it.
_kept: dict[str, Any] = {}


def _transact_write_items(backend: Any, transact_items: list[Any]) -> None:
    _transaction[:] = transact_items
    _kept.clear()
    _write_all_or_none(backend, transact_items)


def _deepcopy(value: Any) -> Any:
    """Keep of a table what the transaction may change, instead of a copy of every item."""
    if not isinstance(value, Table) or value.stream_shard is not None:
        return copy.deepcopy(value)
    # It is asked for once for each item of the transaction, all before the first is written.
    if value.name not in _kept:
        _kept[value.name] = _as_before(value)
    return _kept[value.name]


def _as_before(table: Table) -> Any:
    kept: Any = copy.copy(table)
    kept.items = table.items.copy()
    copied: set[Any] = set()
    for write in (of for item in _transaction for of in item.values()):
        if write["TableName"] != table.name:
            continue
        key = write.get("Key") or write["Item"]
        hash_key = DynamoType(key[table.hash_key_attr])
        found = kept.items.get(hash_key)
        if found is None:
            continue
        if table.range_key_attr is None:
            kept.items[hash_key] = copy.deepcopy(found)
            continue
        if hash_key not in copied:
            copied.add(hash_key)
            found = kept.items[hash_key] = dict(found)
        range_key = DynamoType(key[table.range_key_attr])
        if range_key in found:
            found[range_key] = copy.deepcopy(found[range_key])
    return kept


_all_items = Table.all_items


def _all_items_by_texts(table: Any) -> list[Any]:
    """Sort by texts, which most keys are, instead of by what they are wrapped in."""
    types = {attr["AttributeName"]: attr["AttributeType"] for attr in table.attr}
    range_key = table.range_key_attr
    if types[table.hash_key_attr] != "S" or types.get(range_key, "S") != "S":
        return _all_items(table)
    if range_key is None:
        return sorted(table.items.values(), key=lambda item: item.hash_key.value)
    items = [item for found in table.items.values() for item in found.values()]
    return sorted(items, key=lambda item: (item.hash_key.value, item.range_key.value))


def _init_item(item: Any, hash_key: Any, range_key: Any, attrs: dict[str, Any]) -> None:
    """Ask once whether an item is too large, instead of at each of its attributes."""
    item.hash_key, item.range_key = hash_key, range_key
    item.attrs = LimitedSizeDict()
    for name, value in attrs.items():
        dict.__setitem__(item.attrs, name, DynamoType(value))
    if item.attrs:
        last = next(reversed(item.attrs))
        item.attrs[last] = dict.pop(item.attrs, last)


# What the parsers return holds no state: an execution keeps its own in its environment.
_machines.parse = cache(_machines.parse)
_paths.parse = cache(_paths.parse)
# Who validates an expression copies it first.
_expressions.UpdateExpressionParser.make = cache(_expressions.UpdateExpressionParser.make)
_nodes.DepthFirstTraverser.traverse = _traverse
_nodes.Node.find_clauses = _find_clauses
_validators.Validator.__init__ = _init_once_checked
_validators.Validator.validate = _validate
_dynamo_type.cast_value = property(_cast)
_dynamo_type.size = _size_of
_dynamo_type.to_regular_json = _regular_json_of
_validators.deepcopy = _copied_later
_comparisons.ConditionExpressionParser.parse = _parse_condition_once
_comparisons.ConditionExpressionParser._lex_condition_expression = _read_words_once
_responses.method_names_from_class = cache(_responses.method_names_from_class)
_backends.AccountSpecificBackend._generate_regions = lambda _, service: _regions_of(service)
# Each start of moto registers a thousand of them anew, for requests that do not come from botocore.
_core.CallbackResponse = cache(_core.CallbackResponse)
# A Task makes a client for each of its calls.
_lambda_calls.boto_client_for = _lambda_client
# Every user pool signs with the key that moto comes with.
_cognito.jwk = SimpleNamespace(RSAKey=SimpleNamespace(import_key=lambda _: _signing_key()))
for _picker in _pickers:
    _picker.get_possible_keys = _remembered(_picker.get_possible_keys)
_dynamodb.DynamoDBBackend.transact_write_items = _transact_write_items
_dynamodb.copy = SimpleNamespace(deepcopy=_deepcopy)
_table.all_items = _all_items_by_texts
_item.__init__ = _init_item
