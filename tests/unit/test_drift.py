"""Settings that are no longer what we set."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from provisioner.drivers.drift import build_update, find_drift
from support.core import REGION

WANTED: dict[str, Any] = {
    "list": ["a", "b"],
    "deep": {"inner": {"number": 1, "flag": False}},
    "entries": [{"name": "x"}, {"name": "y"}],
    "text": "text",
}

FOUND: dict[str, Any] = {
    "list": ["b", "a"],
    "deep": {"inner": {"number": 1, "flag": False, "theirs": 2}, "theirs": 3},
    "entries": [{"name": "y", "theirs": 4}, {"name": "x"}],
    "text": "text",
    "theirs": 5,
}


@pytest.mark.parametrize("untold", [True, False])
def test_what_is_there_beside_and_another_order_are_no_drift(*, untold: bool) -> None:
    assert find_drift(FOUND, WANTED, untold=untold) == []


@pytest.mark.parametrize("untold", [True, False])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("list", ["a"]),
        ("list", ["a", "a"]),
        ("list", ["a", "b", "c"]),
        ("list", []),
        ("deep", {"inner": {"number": 1, "flag": True}}),
        ("deep", {"inner": {"number": 2, "flag": False}}),
        ("entries", [{"name": "x"}, {"name": "z"}]),
        ("entries", [{"name": "x"}]),
        ("text", "other"),
        ("text", ""),
    ],
)
def test_another_value_is_drift(name: str, value: Any, *, untold: bool) -> None:
    assert find_drift({**FOUND, name: value}, WANTED, untold=untold) == [name]


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ({k: v for k, v in FOUND.items() if k != "text"}, "text"),
        ({**FOUND, "list": None}, "list"),
        ({**FOUND, "deep": {"inner": {"number": 1}}}, "deep"),
        ({**FOUND, "deep": {}}, "deep"),
    ],
)
def test_what_is_not_told_is_drift_only_where_an_update_follows(
    found: dict[str, Any], name: str
) -> None:
    assert find_drift(found, WANTED, untold=True) == [name]
    assert find_drift(found, WANTED, untold=False) == []


@pytest.mark.parametrize(
    ("service", "operation", "reading"),
    [
        ("cognito-idp", "UpdateUserPool", "DescribeUserPool"),
        ("cognito-idp", "UpdateUserPoolClient", "DescribeUserPoolClient"),
        ("cognito-idp", "SetUserPoolMfaConfig", "GetUserPoolMfaConfig"),
        ("appsync", "UpdateApi", "GetApi"),
    ],
)
def test_an_update_passes_on_all_that_is_told_and_that_it_takes(
    service: str, operation: str, reading: str
) -> None:
    client: Any = boto3.Session("testing", "testing", region_name=REGION).client(service)  # type: ignore[call-overload]  # its stubs list literal names
    model = client.meta.service_model
    told = model.operation_model(reading).output_shape.members
    members = next(iter(told.values())).members if len(told) == 1 else told
    found = {name: f"the {name}" for name in members}
    takes = set(model.operation_model(operation).input_shape.members)
    wanted = {min(takes & set(found)): {"ours": 1}}
    update = build_update(client, operation, {**found, **{n: {"b": 2} for n in wanted}}, wanted)
    assert set(update) == takes & set(found)
    assert update == {**{n: found[n] for n in update}, **{n: {"b": 2, "ours": 1} for n in wanted}}


def test_an_update_leaves_out_what_is_empty_and_keeps_what_is_false() -> None:
    client = boto3.Session("testing", "testing", region_name=REGION).client("cognito-idp")
    found: dict[str, Any] = {
        "ClientName": "",
        "CallbackURLs": [],
        "TokenValidityUnits": {},
        "AnalyticsConfiguration": None,
        "EnableTokenRevocation": False,
        "RefreshTokenValidity": 0,
    }
    assert build_update(client, "UpdateUserPoolClient", found, {}) == {
        "EnableTokenRevocation": False,
        "RefreshTokenValidity": 0,
    }
