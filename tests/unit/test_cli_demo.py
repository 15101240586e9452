"""What the demonstration says where a step does not show what it should."""

from __future__ import annotations

from provision_cli.demo.inventory import OTHER_BUCKET, OWN_BUCKET, list_left


def test_what_is_someone_elses_does_not_count_as_left() -> None:
    assert list_left({"database": 0, "API keys": 2, OWN_BUCKET: 1, OTHER_BUCKET: 1}) == [
        "API keys",
        OWN_BUCKET,
    ]
