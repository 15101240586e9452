"""Texts of tenants in messages: what is shown can be seen, and what is typed means the text."""

from __future__ import annotations

import pytest
from provisioner.drivers.postgresql.quoting import identifier, literal, visible
from psycopg import sql
from support.postgresql import PreparedCluster

TEXTS = ["y", "it's", 'a "b" \\ c', "a\nb'\\\u202e\U000e0001é", "€uro", "Order", "order"]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_typed_means_the_text(cluster: PreparedCluster, text: str) -> None:
    with cluster.connect() as connection:
        quoted = connection.execute("SELECT quote_ident(%s)", (text,)).fetchone()
        assert quoted is not None
        # The quoting is what is tested.
        query = f"SELECT {literal(text)}, x.* FROM (SELECT 1 AS {identifier(quoted[0])}) x"  # nosec B608
        typed = sql.SQL(query)
        cursor = connection.execute(typed)
        assert cursor.fetchone() == (text, 1)
        assert cursor.description is not None
        assert cursor.description[1].name == text
    assert (literal(text) + identifier(quoted[0])).isprintable()


def test_a_name_that_needs_no_quotes_has_none() -> None:
    assert (identifier("doc"), literal("y")) == ("doc", "'y'")


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_shown_can_be_seen(text: str) -> None:
    assert visible(text, 30).isprintable()
    assert not text.isprintable() or visible(text, 30) == text


def test_a_long_text_is_cut() -> None:
    assert visible("x" * 30, 30) == "x" * 30
    assert visible("x" * 31, 30) == "x" * 30 + "…"
