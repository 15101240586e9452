"""Properties of names, keys and payloads."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from provisioner.api_keys import key_format
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.registry import validate_payload
from provisioner.provisioning.naming import resource_names
from provisioner.provisioning.payload import (
    MAX_METADATA_BYTES,
    PROJECT_ID_PATTERN,
    ProvisionProjectPayload,
)

PROJECT_IDS = st.from_regex(PROJECT_ID_PATTERN, fullmatch=True).filter(lambda text: text.isascii())
PREFIXES = st.from_regex(r"[a-z][a-z0-9]{1,9}", fullmatch=True)


@given(PREFIXES, st.text(min_size=1, max_size=80), PROJECT_IDS)
def test_names_keep_within_every_service_s_limits(
    prefix: str, namespace: str, project_id: str
) -> None:
    names = resource_names(prefix, namespace, project_id)
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", names.bucket)
    assert re.fullmatch(r"[\w\s+=,.@-]{1,128}", names.user_pool)
    assert re.fullmatch(r"[\w\s+=,.@-]{1,128}", names.user_pool_client)
    assert re.fullmatch(r"[A-Za-z0-9_\- ]{1,50}", names.event_api)
    for secret in (names.database_secret, names.api_keys_secret):
        assert re.fullmatch(r"[A-Za-z0-9/_+=.@-]{1,512}", secret)
        assert secret.startswith(f"{prefix}/")
    for identifier in (
        names.tenant.database,
        names.tenant.schema,
        names.tenant.owner_role,
        names.tenant.app_role,
    ):
        assert re.fullmatch(r"[a-z][a-z0-9_]{0,62}", identifier)
    assert names == resource_names(prefix, namespace, project_id)


@given(PROJECT_IDS, PROJECT_IDS)
def test_different_projects_have_different_names(one: str, other: str) -> None:
    assume(one != other)
    assert resource_names("nm", "here", one).bucket != resource_names("nm", "here", other).bucket


@pytest.mark.parametrize("other", ["Shop-1", "shop_1", "SHOP-1"])
def test_ids_that_look_alike_have_different_names(other: str) -> None:
    one, another = (resource_names("nm", "here", name) for name in ("shop-1", other))
    assert one.tenant.database != another.tenant.database
    assert one.bucket != another.bucket


def test_two_deployments_have_different_names() -> None:
    assert resource_names("nm", "a", "shop").bucket != resource_names("nm", "b", "shop").bucket


@given(PREFIXES)
def test_a_key_is_of_the_format_and_its_checksum_catches_every_slip(prefix: str) -> None:
    key = key_format.generate_api_key(prefix)
    assert re.fullmatch(key_format.LEAK_PATTERN, key)
    assert key_format.is_well_formed(key)
    assert key.startswith(key_format.key_prefix(key))
    assert len(key_format.key_prefix(key)) == len(prefix) + 1 + key_format.SHOWN_LENGTH
    body = key.index("_") + 1
    for at in range(body, len(key)):
        slip = key[:at] + ("A" if key[at] != "A" else "B") + key[at + 1 :]
        assert not key_format.is_well_formed(slip)


def test_the_checksum_is_crc_32_in_base_62() -> None:
    # zlib.crc32(b"123456789") is 0xCBF43926, the check value of CRC-32/ISO-HDLC.
    number, digits = 0xCBF43926, ""
    while number:
        number, digit = divmod(number, 62)
        digits = key_format.ALPHABET[digit] + digits
    assert key_format.checksum("123456789") == digits.rjust(6, "0")
    assert len(set(key_format.ALPHABET)) == 62


def test_keys_differ() -> None:
    assert len({key_format.generate_api_key("nm") for _ in range(1000)}) == 1000


def refused(payload: dict[str, Any]) -> ProvisioningError:
    with pytest.raises(ProvisioningError) as raised:
        validate_payload(ProvisionProjectPayload, payload)
    assert raised.value.type is ErrorType.INVALID_PAYLOAD
    return raised.value


HOSTILE = [
    "",
    "ab",
    "a" * 65,
    "-abc",
    "abc-",
    "a b",
    "abc\n",
    'a"; DROP DATABASE postgres; --',
    "a'||pg_sleep(9)||'",
    "../../etc/passwd",
    "a/b",
    "arn:aws:iam::1:root",
    "${jndi:x}",
    "a*",
    "\uff41\uff42\uff43",
    "пример",
    "a\x00b",
    "a#b",
    "a%2fb",
]


@pytest.mark.parametrize("project_id", HOSTILE)
def test_a_hostile_project_id_is_refused_and_not_repeated(project_id: str) -> None:
    error = refused({"project_id": project_id, "region": "eu-central-1"})
    assert error.message.startswith("project_id: ")
    assert len(project_id) < 3 or project_id not in error.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("region", "nowhere"),
        ("api_keys", {"count": 0}),
        ("api_keys", {"count": 21}),
        ("api_keys", {"count": "2"}),
        ("api_keys", {"prefix": "N"}),
        ("api_keys", {"prefix": "nm_live"}),
        ("services", {"auth": "yes"}),
        ("services", {"queue": True}),
        ("database", {"engine": "oracle"}),
        ("database", {"storage_gb": 0}),
        ("owner_id", "two words"),
        ("organization_id", ""),
        ("metadata", []),
        ("metadata", {"text": "é" * (MAX_METADATA_BYTES // 2)}),
        ("unknown", 1),
    ],
)
def test_what_breaks_the_contract_is_refused_by_name(field: str, value: Any) -> None:
    error = refused({"project_id": "shop", "region": "eu-central-1", field: value})
    assert error.message.startswith(field)


@given(
    st.fixed_dictionaries(
        {"project_id": PROJECT_IDS, "region": st.sampled_from(["eu-central-1", "us-gov-west-1"])},
        optional={
            "metadata": st.dictionaries(st.text(max_size=9), st.integers() | st.booleans()),
            "api_keys": st.fixed_dictionaries({"count": st.integers(1, 20), "prefix": PREFIXES}),
        },
    )
)
def test_a_valid_payload_comes_back_as_itself(payload: dict[str, Any]) -> None:
    dumped = validate_payload(ProvisionProjectPayload, payload).model_dump(mode="json")
    again = json.loads(json.dumps(dumped))
    assert validate_payload(ProvisionProjectPayload, again).model_dump(mode="json") == dumped
