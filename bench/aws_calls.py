"""Counts the calls that a process makes to AWS, retries too, as botocore sends them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import boto3
from provisioner.runtime import aws

from bench.dynamodb_units import UnitMeter, Units


@dataclass(frozen=True, slots=True)
class Call:
    """What one call was."""

    #: Who made it: the part that `AwsCalls.part` was at the time.
    part: str
    #: By botocore's id of the service, such as `cognito-identity-provider`.
    service: str
    operation: str
    #: The tables that it names, in DynamoDB.
    tables: tuple[str, ...] = ()
    #: The stage that made it: what `STAGE` was at the time.
    stage: str = ""


_DYNAMODB = "dynamodb"

#: The stage that is at work in this thread, where one is; whoever runs it says so. The dispatcher
#: may be at its last call beside the first stage.
STAGE: ContextVar[str] = ContextVar("STAGE", default="")


@dataclass
class AwsCalls:
    """The calls that were made."""

    sent: Counter[Call] = field(default_factory=Counter)
    units: dict[Call, Units] = field(default_factory=dict)
    #: What is at work; the bench says so as it goes from one to the next.
    part: str = ""

    def of(self, part: str) -> Counter[Call]:
        """Return the calls of a part."""
        return Counter({call: times for call, times in self.sent.items() if call.part == part})


@contextmanager
def count_calls() -> Iterator[AwsCalls]:
    """Count the calls of this process while the context lasts; its clients are made anew."""
    calls = AwsCalls()
    aws.reset()
    hooks = _Hooks(calls, UnitMeter(boto3.client("dynamodb")))
    # Clients take over what their session has when they are made.
    events = aws.session().events
    events.register("before-send", hooks.count)
    events.register(f"before-call.{_DYNAMODB}", hooks.look)
    events.register(f"after-call.{_DYNAMODB}", hooks.measure)
    try:
        yield calls
    finally:
        aws.reset()


class _Hooks:
    """Handlers of botocore's events. Source: botocore documentation, "Extending botocore"."""

    def __init__(self, calls: AwsCalls, meter: UnitMeter) -> None:
        self._calls = calls
        self._meter = meter

    def count(self, event_name: str, request: Any, **_more: Any) -> None:
        """Count what is sent: each attempt of a call."""
        _, service, operation = event_name.split(".")
        body = json.loads(request.body) if service == _DYNAMODB else {}
        self._calls.sent[self._call(service, operation, body)] += 1

    def look(
        self, params: Mapping[str, Any], model: Any, context: dict[str, Any], **_more: Any
    ) -> None:
        """Look at the items of a call before it is made."""
        body = json.loads(params["body"])
        context["bench"] = body, self._meter.before(model.name, body)

    def measure(
        self, parsed: Mapping[str, Any], model: Any, context: Mapping[str, Any], **_more: Any
    ) -> None:
        """Add up what a call has cost."""
        body, before = context["bench"]
        call = self._call(_DYNAMODB, model.name, body)
        cost = self._meter.units(model.name, body, before, parsed)
        self._calls.units[call] = self._calls.units.get(call, Units()) + cost

    def _call(self, service: str, operation: str, body: Mapping[str, Any]) -> Call:
        tables = tuple(sorted(set(_tables(body))))
        return Call(self._calls.part, service, operation, tables, STAGE.get())


def _tables(value: Any) -> Iterator[str]:
    """Yield the names of the tables of a request to DynamoDB."""
    match value:
        case {"TableName": str() as table}:
            yield table
        case {"RequestItems": dict() as tables}:
            yield from tables
        case {"TransactItems": list() as actions}:
            for action in actions:
                yield from _tables(*action.values())
