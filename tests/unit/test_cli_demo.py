"""What the demonstration says where a step does not show what it should."""

from __future__ import annotations

import pytest
from provision_cli.demo import removal
from provision_cli.demo.inventory import OTHER_BUCKET, OWN_BUCKET, left_of
from provision_cli.sentences import CommandError


def test_what_is_someone_elses_does_not_count_as_left() -> None:
    assert left_of({"database": 0, "API keys": 2, OWN_BUCKET: 1, OTHER_BUCKET: 1}) == [
        "API keys",
        OWN_BUCKET,
    ]


def test_a_snapshot_that_cannot_be_read_is_a_sentence() -> None:
    with pytest.raises(
        CommandError, match=r"^pg_restore cannot restore the snapshot: input file is"
    ):
        removal._pg_restore(b"PGDM", "--list")
