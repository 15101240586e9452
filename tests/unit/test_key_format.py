"""The format of an API key, and the store that verifies one."""

from __future__ import annotations

import base64
import hashlib
import re
import string
import zlib
from datetime import timedelta

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from provisioner.api_keys.key_format import (
    ALPHABET,
    LEAK_PATTERN,
    checksum,
    digest,
    find_api_keys,
    generate_api_key,
    is_well_formed,
    key_id,
    key_prefix,
)
from provisioner.api_keys.store import ApiKey, ApiKeyStore
from support.core import Core
from support.project import ROOT

PREFIXES = st.from_regex(r"[a-z][a-z0-9]{1,9}", fullmatch=True)
BODIES = st.text(alphabet=ALPHABET, min_size=43, max_size=43)


@given(PREFIXES)
def test_a_generated_key_has_the_format(prefix: str) -> None:
    key = generate_api_key(prefix)

    assert is_well_formed(key)
    assert re.fullmatch(rf"{prefix}_[0-9A-Za-z]{{43}}[0-9A-Za-z]{{6}}", key)
    assert key_prefix(key) == key[: len(prefix) + 7]


#: What texts put around a key: as it is, and escaped for a URL, a program, JSON or HTML.
AROUND = [
    *(" ", "\n", '"', "'", "=", ":", ",", "(", "", "/", "-", ".", "é", "\u200b", "A", "3D"),
    *("%3D", "%3d", "%22", "%0a", "%20", "&quot;", "&#x3d;", "&amp;", "Bearer ", "b'", "${"),
    *(r"\n", r"\r\n", r"\t", r"\"", r"\u003d", r"\u000A", r"\x0a", r"\\n", r"\012"),
]


@given(PREFIXES, st.sampled_from(AROUND), st.sampled_from(AROUND))
def test_a_scanner_finds_a_key_in_a_text(prefix: str, before: str, after: str) -> None:
    key = generate_api_key(prefix)

    assert re.findall(LEAK_PATTERN, f"token=({before}{key}{after}) and more") == [key]


@given(PREFIXES, st.text(), st.text())
@example("nm", "n", "")
@example("nm", "token", "x")
@example("nm", "nm_", "_")
@example("nm", "\\", "9")
@example("nm", "a1_" + "A" * 49, "")
def test_a_key_is_found_whatever_it_stands_beside(prefix: str, before: str, after: str) -> None:
    key = generate_api_key(prefix)

    assert find_api_keys(f"{before}{key}{after}") == [key]


@given(st.lists(PREFIXES, max_size=4), st.sampled_from(["", "x", "_", "\\n", "%3D", " "]))
def test_every_key_of_a_text_is_found_in_order(prefixes: list[str], between: str) -> None:
    keys = [generate_api_key(prefix) for prefix in prefixes]

    assert find_api_keys(between.join(keys)) == keys


@given(PREFIXES, BODIES, st.text(alphabet=ALPHABET, min_size=6, max_size=6), st.text())
def test_what_has_another_checksum_is_not_found(
    prefix: str, body: str, end: str, around: str
) -> None:
    text = f"{prefix}_{body}"
    # As one key in four billion does, the end of a longer prefix may have this checksum.
    assume(all(checksum(text[at:]) != end for at in range(len(prefix))))

    assert find_api_keys(f"{around} {text}{end} {around}") == []
    assert find_api_keys(f"{around}\n{text}") == []


def test_a_word_in_capitals_is_not_taken_for_a_prefix() -> None:
    assert re.findall(LEAK_PATTERN, "Nm" + generate_api_key("nm")[2:]) == []


def test_the_scanner_of_this_folder_has_the_same_pattern() -> None:
    assert f"'{LEAK_PATTERN}'" in (ROOT / "kingfisher_rules.yaml").read_text()


@given(PREFIXES, BODIES, st.data())
def test_the_checksum_catches_a_change_of_any_one_character(
    prefix: str, body: str, data: st.DataObject
) -> None:
    text = f"{prefix}_{body}"
    key = text + checksum(text)
    position = data.draw(st.integers(0, len(key) - 1))
    other = data.draw(st.sampled_from(ALPHABET + "_- é"))
    assume(key[position] != other)

    assert is_well_formed(key)
    assert not is_well_formed(key[:position] + other + key[position + 1 :])


@given(st.text(max_size=70))
def test_a_text_that_no_one_made_is_no_key(text: str) -> None:
    assert not is_well_formed(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    # The first CRC-32 is the check value of the catalogue of parametrised CRC algorithms.
    [("123456789", (0xCBF43926, "3jZRME")), ("", (0, "000000"))],
)
def test_the_checksum_is_crc_32_in_base_62(text: str, expected: tuple[int, str]) -> None:
    number, digits = expected

    assert zlib.crc32(text.encode()) == number
    assert sum(ALPHABET.index(d) * 62**i for i, d in enumerate(reversed(checksum(text)))) == number
    assert checksum(text) == digits


def test_the_digits_of_base_62_are_in_ascii_order() -> None:
    assert list(ALPHABET) == sorted(string.digits + string.ascii_letters)


def test_a_key_holds_256_bits_and_no_two_are_alike() -> None:
    assert 62**43 >= 2**256
    keys = [generate_api_key("nm") for _ in range(500)]

    assert len({key[3:] for key in keys}) == 500
    # Every digit appears at every position of the random part, sooner or later.
    assert all(len({key[position] for key in keys}) > 50 for position in range(3, 46))


def test_what_is_stored_of_a_key_does_not_give_it_away() -> None:
    key = generate_api_key("nm")

    assert digest(key) == hashlib.sha256(key.encode()).hexdigest()
    assert re.fullmatch(r"key_[0-9a-f]{20}", key_id(digest(key)))
    assert key[9:] not in key_prefix(key) + key_id(digest(key)) + digest(key)
    assert digest(key)[:20] not in key_id(digest(key))


def _stored(core: Core, plaintext: str, project_id: str = "shop") -> ApiKey:
    key = ApiKey(
        digest=digest(plaintext),
        key_id=key_id(digest(plaintext)),
        key_prefix=key_prefix(plaintext),
        project_id=project_id,
        job_id="job-1",
        created_at=core.clock.at.isoformat(),
    )
    core.api_keys.put_set([key])
    return key


def test_a_key_that_is_stored_verifies(core: Core) -> None:
    plaintext = generate_api_key("nm")
    key = _stored(core, plaintext)

    assert core.api_keys.verify(plaintext) == key
    assert plaintext not in str(core.scan("ApiKeysTable"))


def test_a_key_that_is_well_formed_and_not_stored_does_not_verify(core: Core) -> None:
    _stored(core, generate_api_key("nm"))

    assert core.api_keys.verify(generate_api_key("nm")) is None


@pytest.mark.parametrize("text", ["", "nm_short", "nm_" + "x" * 49, base64.b64encode(b"x" * 36)])
def test_a_made_up_key_costs_no_read(core: Core, text: str | bytes) -> None:
    assert core.api_keys.verify(str(text)) is None
    assert core.calls == []


def test_a_key_that_was_removed_does_not_verify(core: Core) -> None:
    plaintext = generate_api_key("nm")
    key = _stored(core, plaintext)

    core.api_keys.remove(key.digest)
    core.api_keys.remove(key.digest)

    assert core.api_keys.verify(plaintext) is None


def test_the_keys_of_a_project_are_its_own(core: Core) -> None:
    keys = [_stored(core, generate_api_key("nm")) for _ in range(3)]
    _stored(core, generate_api_key("nm"), project_id="another")

    assert {key.digest for key in core.api_keys.list_by_project("shop")} == {
        key.digest for key in keys
    }


def test_a_key_verifies_until_it_expires_and_an_end_is_not_put_off(core: Core) -> None:
    plaintext = generate_api_key("nm")
    key = _stored(core, plaintext)
    store = ApiKeyStore(core.client("dynamodb"), "ApiKeysTable", clock=core.clock)

    store.expire(key.digest, core.clock.at + timedelta(hours=1))
    store.expire(key.digest, core.clock.at + timedelta(hours=2))
    (item,) = core.scan("ApiKeysTable")
    assert item["delete_after"] == int((core.clock.at + timedelta(days=30, hours=1)).timestamp())

    core.clock.advance(3599)
    assert store.verify(plaintext) is not None
    core.clock.advance(1)
    assert store.verify(plaintext) is None


def test_a_key_that_was_revoked_stays_so(core: Core) -> None:
    plaintext = generate_api_key("nm")
    key = _stored(core, plaintext)
    store = ApiKeyStore(core.client("dynamodb"), "ApiKeysTable", clock=core.clock)
    store.expire(key.digest, core.clock.at + timedelta(hours=1))

    store.revoke(key.digest)
    (before,) = core.scan("ApiKeysTable")
    core.clock.advance(60)
    store.revoke(key.digest)
    store.expire(key.digest, core.clock.at)
    store.put_set([key])
    store.revoke("none-such")

    assert core.scan("ApiKeysTable") == [before]
    # An item that is gone would let a run that comes late store the key anew.
    assert "delete_after" not in before
    assert store.verify(plaintext) is None
    found = store.find(key.key_id)
    assert found is not None
    assert found.revoked_at == before["revoked_at"]
