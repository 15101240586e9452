"""What a payload may be; the bounds are written down here a second time, in plain Python."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provisioner import api
from provisioner.composition.job_handlers import register_job_types
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.messages import parse_message
from provisioner.provisioning.job_types import JOB_TYPES
from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
from provisioner.runtime.platform import PlatformSettings
from pydantic import ValidationError
from support.core import Core, provision_project_handler
from support.hostile import nested

REQUIRED = {"project_id": "shop", "region": "eu-central-1"}


def parse(**fields: Any) -> ProvisionProjectPayload:
    """Validate a payload as the dispatcher and the client do."""
    return provision_project_handler.parse(REQUIRED | fields)


def refused(**fields: Any) -> str:
    """Return the sentence that a payload is refused with."""
    with pytest.raises(ProvisioningError) as raised:
        parse(**fields)
    assert raised.value.type is ErrorType.INVALID_PAYLOAD
    assert raised.value.cause == ""
    return raised.value.message


def test_what_is_left_out_has_its_default() -> None:
    assert parse().model_dump(mode="json") == {
        "project_id": "shop",
        "region": "eu-central-1",
        "database": {
            **dict.fromkeys(("version", "size", "storage_gb", "snapshot")),
            "engine": "postgresql",
        },
        "services": {"auth": True, "realtime": True, "storage": True},
        "api_keys": {"count": 2, "prefix": "nm"},
        "owner_id": None,
        "organization_id": None,
        "on_failure": "rollback",
        "metadata": {},
    }


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
#: Texts near the patterns: half of them break one.
_NEARLY_ID = st.text(
    alphabet=st.sampled_from("abzAZ019-_.@:/ '\"\\\n\x00%$;٣éａ"), min_size=0, max_size=70
)
_NEARLY_REGION = st.from_regex(r"[a-z]{2}(-[a-z]+){1,2}-\d{1,2}") | _NEARLY_ID

PAYLOADS = st.fixed_dictionaries(
    {"project_id": _NEARLY_ID | _JSON, "region": _NEARLY_REGION | _JSON},
    optional={
        "owner_id": _NEARLY_ID | _JSON,
        "organization_id": _NEARLY_ID | _JSON,
        "metadata": st.dictionaries(st.text(max_size=5), _JSON, max_size=3) | _JSON,
        "api_keys": st.fixed_dictionaries(
            {}, optional={"count": st.integers(-1, 25) | _JSON, "prefix": _NEARLY_ID | _JSON}
        ),
        "services": st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("auth", "realtime", "storage", "other"), _JSON)
        ),
        "database": st.fixed_dictionaries(
            {},
            optional={
                "engine": st.sampled_from(["postgresql", "mysql", "oracle"]) | _JSON,
                "version": st.from_regex(r"\d{1,2}(\.\d)?") | _JSON,
                "size": _NEARLY_ID | _JSON,
                "storage_gb": st.integers(-1, 70_000) | _JSON,
                "snapshot": _NEARLY_ID | _JSON,
            },
        ),
    },
)


def _is(pattern: str, value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) is not None


def _is_optional(pattern: str, value: object) -> bool:
    return value is None or _is(pattern, value)


@given(PAYLOADS)
def test_what_is_accepted_is_within_every_bound(fields: dict[str, Any]) -> None:
    try:
        payload = provision_project_handler.parse(fields)
    except ProvisioningError as error:
        assert error.type is ErrorType.INVALID_PAYLOAD  # noqa: PT017  # both ends are right
        return
    assert _is(r"[A-Za-z0-9][A-Za-z0-9_-]{1,62}[A-Za-z0-9]", payload.project_id)
    assert _is(r"[a-z]{2}(-[a-z]+)+-\d{1,2}", payload.region)
    assert len(payload.region) <= 32
    for party in (payload.owner_id, payload.organization_id):
        assert _is_optional(r"[A-Za-z0-9][A-Za-z0-9_.@:-]{0,127}", party)
    assert type(payload.api_keys.count) is int
    assert 1 <= payload.api_keys.count <= 20
    assert _is(r"[a-z][a-z0-9]{1,9}", payload.api_keys.prefix)
    assert {type(value) for value in payload.services.model_dump().values()} == {bool}
    assert payload.database.engine in {"postgresql", "mysql"}
    assert _is_optional(r"\d{1,2}(\.\d{1,2}){0,2}", payload.database.version)
    assert _is_optional(r"[a-z0-9][a-z0-9.-]{0,31}", payload.database.size)
    assert payload.database.storage_gb is None or 1 <= payload.database.storage_gb <= 65_536
    assert _is_optional(r"[a-z](-?[a-z0-9])*", payload.database.snapshot)
    if payload.database.size is None:
        assert (payload.database.storage_gb, payload.database.snapshot) == (None, None)
    text = json.dumps(payload.model_dump(mode="json"), allow_nan=False)
    assert len(json.dumps(payload.metadata, ensure_ascii=False).encode()) <= 16 * 1024
    assert provision_project_handler.parse(json.loads(text)) == payload


@given(
    st.fixed_dictionaries(
        {
            "project_id": st.from_regex(
                r"[A-Za-z0-9][A-Za-z0-9_-]{1,62}[A-Za-z0-9]", fullmatch=True
            ),
            "region": st.sampled_from(["eu-central-1", "us-gov-west-1"]),
        },
        optional={
            "metadata": st.dictionaries(st.text(max_size=9), st.integers() | st.booleans()),
            "api_keys": st.fixed_dictionaries(
                {
                    "count": st.integers(1, 20),
                    "prefix": st.from_regex(r"[a-z][a-z0-9]{1,9}", fullmatch=True),
                }
            ),
        },
    )
)
def test_what_is_valid_is_accepted_and_comes_back_as_itself(fields: dict[str, Any]) -> None:
    payload = provision_project_handler.parse(fields)
    dumped = payload.model_dump(mode="json")
    assert fields.items() <= dumped.items()
    assert provision_project_handler.parse(json.loads(json.dumps(dumped))) == payload


HOSTILE = [
    "",
    "ab",
    "x" * 65,
    "-ab",
    "ab-",
    "_ab",
    "abc\n",
    "a\nbc",
    "a b",
    "shop; DROP DATABASE postgres; --",
    "shop'--",
    'shop"',
    "shop\x00",
    "shop\\",
    "shop`id`",
    "arn:aws:s3:::shop",
    "shop/*",
    "shop*",
    "${aws:username}",
    "shop?",
    "..",
    "../../etc/passwd",
    "shop/../other",
    "shop.",
    "#status",
    ":value",
    "shop#1",
    "shop%2fother",
    "shöp",
    "ｓｈｏｐ",  # noqa: RUF001  # full-width letters, on purpose
    "shop\u200b",
    "shop٣",
    "\ud800hop",
    7,
    None,
    True,
    ["shop"],
    {"$ne": 1},
]


@pytest.mark.parametrize("project_id", HOSTILE)
def test_an_id_that_could_break_a_name_is_refused(project_id: object) -> None:
    sentence = refused(project_id=project_id)

    assert sentence.startswith("project_id: ")
    assert "\n" not in sentence


@pytest.mark.parametrize("project_id", ["abc", "A-1", "a_b", "x" * 64, "0" * 3, "Shop-1_b"])
def test_an_id_within_the_pattern_is_accepted(project_id: str) -> None:
    assert parse(project_id=project_id).project_id == project_id


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"region": "eu-central"}, "region"),
        ({"region": "eu-central-\u0661"}, "region"),  # a digit, but no ASCII one
        ({"region": "../eu-central-1"}, "region"),
        ({"region": "eu-" + "a" * 40 + "-1"}, "region"),
        ({"region": "EU-CENTRAL-1"}, "region"),
        ({"owner_id": ""}, "owner_id"),
        ({"owner_id": "two words"}, "owner_id"),
        ({"organization_id": ""}, "organization_id"),
        ({"organization_id": "x" * 129}, "organization_id"),
        ({"api_keys": {"count": 0}}, "api_keys.count"),
        ({"api_keys": {"count": 21}}, "api_keys.count"),
        ({"api_keys": {"count": "2"}}, "api_keys.count"),
        ({"api_keys": {"count": 2.0}}, "api_keys.count"),
        ({"api_keys": {"count": True}}, "api_keys.count"),
        ({"api_keys": {"prefix": "a"}}, "api_keys.prefix"),
        ({"api_keys": {"prefix": "abcdefghijk"}}, "api_keys.prefix"),
        ({"api_keys": {"prefix": "1ab"}}, "api_keys.prefix"),
        ({"api_keys": {"prefix": "Abc"}}, "api_keys.prefix"),
        ({"api_keys": {"prefix": "a_b"}}, "api_keys.prefix"),
        ({"services": {"auth": "yes"}}, "services.auth"),
        ({"services": {"realtime": 1}}, "services.realtime"),
        ({"services": {"storage": None}}, "services.storage"),
        ({"services": {"mail": True}}, "services.mail"),
        ({"database": {"engine": "oracle"}}, "database.engine"),
        ({"database": {"version": "\u0661"}}, "database.version"),
        ({"database": {"storage_gb": 0}}, "database.storage_gb"),
        ({"database": {"storage_gb": 65_537}}, "database.storage_gb"),
        ({"database": {"storage_gb": "10"}}, "database.storage_gb"),
        ({"database": {"size": "Large"}}, "database.size"),
        ({"database": {"snapshot": "nm-shop"}}, "database.snapshot"),
        ({"database": {"storage_gb": 20}}, "database.storage_gb"),
        ({"database": {"size": "db.t4g.micro", "snapshot": "rds:x"}}, "database.snapshot"),
        ({"database": {"size": "db.t4g.micro", "snapshot": "a--b"}}, "database.snapshot"),
        ({"database": {"size": "db.t4g.micro", "snapshot": "a" * 256}}, "database.snapshot"),
        ({"database": {"name": "x"}}, "database.name"),
        ({"metadata": []}, "metadata"),
        ({"priority": 1}, "priority"),
    ],
)
def test_each_field_is_refused_by_its_name_and_no_value_is_repeated(
    fields: dict[str, Any], field: str
) -> None:
    sentence = refused(**fields)

    assert sentence.startswith(f"{field}: ")
    assert sentence.endswith(".")


@pytest.mark.parametrize("field", ["project_id", "region", "owner_id", "organization_id"])
@given(value=st.from_regex(r"secret [a-z]{20}", fullmatch=True))
def test_a_sentence_never_holds_what_was_sent(field: str, value: str) -> None:
    assert value not in refused(**{field: value})


@pytest.mark.parametrize(
    "payload", [{}, {"region": "eu-central-1"}, {"project_id": "shop"}, {"project_id": None}]
)
def test_what_is_required_is_required(payload: dict[str, Any]) -> None:
    with pytest.raises(ProvisioningError, match=r"^(project_id|region): "):
        provision_project_handler.parse(payload)


def _metadata_of(size: int, letter: str) -> dict[str, str]:
    rest = size - len('{"text": ""}')
    return {"text": letter * (rest // len(letter.encode()))}


@pytest.mark.parametrize("letter", ["x", "é", "€"])
def test_metadata_is_bounded_by_its_bytes(letter: str) -> None:
    just_right = _metadata_of(16 * 1024, letter)

    assert parse(metadata=just_right).metadata == just_right
    sentence = refused(metadata={"text": just_right["text"] + letter})
    assert sentence == "metadata: must be at most 16384 bytes of JSON."


def _deep() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for _ in range(100_000):
        made = {"a": made}
    return made


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), object(), datetime(2026, 1, 1, tzinfo=UTC), "\ud800", {1, 2}],
)
def test_metadata_that_json_cannot_hold_is_refused(value: object) -> None:
    sentence = refused(metadata={"deep": [value]})

    assert sentence == "metadata: must be an object that JSON can hold."


_TOO_DEEP = "must not be nested deeper than 32 levels."


def _in_itself() -> dict[str, Any]:
    made: dict[str, Any] = {}
    made["a"] = [made, made]
    return made


@pytest.mark.parametrize("metadata", [nested(32), {"a": [nested(30)]}, _deep(), _in_itself()])
def test_metadata_that_is_nested_deep_or_without_end_is_refused(metadata: dict[str, Any]) -> None:
    assert refused(metadata=metadata) == f"metadata: {_TOO_DEEP}"
    with pytest.raises(ValidationError, match=_TOO_DEEP[:-1]):
        ProvisionProjectPayload(project_id="shop", region="eu-central-1", metadata=metadata)


def test_what_is_nested_as_deep_as_it_may_be_goes_through_every_parser(
    core: Core, connected: PlatformSettings
) -> None:
    core.new_project()
    metadata = {"a": [nested(29)]}
    job = api.enqueue_job(
        "provision_project",
        {"project_id": "shop", "region": "eu-central-1", "metadata": metadata},
    )
    (message,) = core.messages(connected.queue_url)
    assert parse_message(message["Body"]).payload == job.payload
    assert core.jobs.get(job.job_id).payload["metadata"] == metadata


@pytest.mark.parametrize("job_type", JOB_TYPES)
def test_no_field_of_any_job_is_nested_deeper(job_type: str) -> None:
    register_job_types()
    with pytest.raises(ProvisioningError) as raised:
        api.get_job_handler(job_type).parse({"a\nb": nested(32)})
    assert raised.value.type is ErrorType.INVALID_PAYLOAD
    assert raised.value.message == f"a?b: {_TOO_DEEP}"
