"""What a schedule deletes of the snapshots of projects' own instances, and what stays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provisioner.composition import instances
from provisioner.drivers.rds_snapshots import KEPT_UNTIL_TAG, kept_until_of
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.ownership import MANAGED_BY_TAG
from provisioner.provisioning.snapshot_retention import (
    REMOVE_EXPIRED_SNAPSHOTS,
    remove_expired_snapshots,
)
from provisioner.runtime import aws
from support.core import REGION, Core, aws_error, deployment, times
from support.drivers import OWNER, tag_list

TODAY = date(2026, 1, 31)
ANOTHER_REGION = "us-east-1"


@dataclass
class Retention:
    """Two regions, in which instances are allowed."""

    core: Core

    def take(self, name: str, region: str = REGION, **tags: str) -> None:
        """Take a snapshot of an instance, which it has no use for."""
        rds = self.core.client("rds", region)
        rds.create_db_instance(
            DBInstanceIdentifier=name,
            DBInstanceClass="db.t4g.micro",
            Engine="postgres",
            AllocatedStorage=20,
        )
        rds.create_db_snapshot(
            DBInstanceIdentifier=name,
            DBSnapshotIdentifier=name,
            Tags=tag_list({**OWNER.tags(), **tags}),
        )

    def left(self, region: str = REGION) -> list[str]:
        found = self.core.client("rds", region).describe_db_snapshots(SnapshotType="manual")
        return [one["DBSnapshotIdentifier"] for one in found["DBSnapshots"]]

    def remove(self, time_left: Callable[[], float] = lambda: 60.0) -> dict[str, Any]:
        return remove_expired_snapshots(
            catalogue=self.core.catalogue,
            rds=lambda region: self.core.client("rds", region),
            namespace=OWNER.namespace,
            today=TODAY,
            time_left=time_left,
        )


@pytest.fixture
def retention() -> Iterator[Retention]:
    with deployment() as core:
        core.describe_clusters({"cluster_id": "first"})
        core.allow_instances()
        core.allow_instances("mysql")
        core.allow_instances(region=ANOTHER_REGION)
        yield Retention(core)


def until(day: str) -> dict[str, str]:
    return {KEPT_UNTIL_TAG: day}


def test_what_has_expired_goes_and_all_else_stays(retention: Retention) -> None:
    retention.take("expired", **until("2026-01-30"))
    retention.take("expired-elsewhere", ANOTHER_REGION, **until("2025-12-31"))
    kept: dict[str, Mapping[str, str]] = {
        "of-today": until("2026-01-31"),
        "of-tomorrow": until("2026-02-01"),
        "untagged": {},
        "no-day": until("soon"),
        "of-another-deployment": {**until("2026-01-30"), MANAGED_BY_TAG: "other-123456789012"},
    }
    for name, tags in kept.items():
        retention.take(name, **tags)

    assert retention.remove() == {
        "removed": ["expired", "expired-elsewhere"],
        "has_seen_all": True,
    }

    assert (sorted(retention.left()), retention.left(ANOTHER_REGION)) == (sorted(kept), [])
    retention.core.calls.clear()
    assert retention.remove() == {"removed": [], "has_seen_all": True}
    # Once for each region, however many engines it allows.
    assert len(retention.core.calls_of("rds.DescribeDBSnapshots")) == 2
    assert retention.core.changes() == []


def test_a_region_without_instances_is_not_looked_at(retention: Retention) -> None:
    # Projects share its clusters.
    retention.core.describe_clusters({"cluster_id": "first"}, region="eu-west-1")
    retention.take("expired", "eu-west-1", **until("2026-01-30"))

    assert retention.remove()["removed"] == []
    assert retention.left("eu-west-1") == ["expired"]


def test_a_snapshot_that_is_kept_for_longer_meanwhile_stays(retention: Retention) -> None:
    retention.take("expired", **until("2026-01-30"))
    rds = retention.core.client("rds")
    arn = rds.describe_db_snapshots(DBSnapshotIdentifier="expired")["DBSnapshots"][0][
        "DBSnapshotArn"
    ]
    looks = itertools.count(1)

    def time_left() -> float:
        # Asked before the region is looked at, and before the snapshot that is found there.
        if next(looks) == 2:
            rds.add_tags_to_resource(ResourceName=arn, Tags=tag_list(until("2027-01-01")))
        return 60.0

    assert retention.remove(time_left)["removed"] == []
    assert next(looks) == 4
    assert retention.left() == ["expired"]


def test_it_ends_when_its_time_does_and_goes_on_the_next_day(retention: Retention) -> None:
    for number in range(3):
        retention.take(f"expired-{number}", **until("2026-01-30"))
    # Enough to look at the first region, and for two of what is there.
    left = itertools.chain([60.0, 60.0, 60.0], itertools.repeat(29.0))

    ended = retention.remove(lambda: next(left))

    assert (len(ended["removed"]), ended["has_seen_all"]) == (2, False)
    assert len(retention.left()) == 1
    assert retention.remove()["has_seen_all"] is True
    assert retention.left() == []


def test_what_cannot_be_deleted_keeps_nothing_else_and_is_told(retention: Retention) -> None:
    retention.take("expired-1", **until("2026-01-30"))
    retention.take("expired-2", **until("2026-01-30"))
    retention.take("expired-elsewhere", ANOTHER_REGION, **until("2025-12-31"))
    answers = retention.core.answers
    answers["rds.DeleteDBSnapshot"] = times(1, aws_error("AccessDenied", 403))

    with pytest.raises(ProvisioningError) as raised:
        retention.remove()

    assert raised.value.type is ErrorType.INSUFFICIENT_PERMISSIONS
    assert (len(retention.left()), retention.left(ANOTHER_REGION)) == (1, [])
    answers["rds.DescribeDBSnapshots"] = times(1, aws_error("AccessDenied", 403))
    retention.take("another", ANOTHER_REGION, **until("2025-12-31"))
    with pytest.raises(ProvisioningError):
        retention.remove()
    assert retention.left(ANOTHER_REGION) == []


def test_a_snapshot_that_is_in_use_is_met_the_next_day(retention: Retention) -> None:
    retention.take("expired", **until("2026-01-30"))
    retention.core.answers["rds.DeleteDBSnapshot"] = times(1, aws_error("InvalidDBSnapshotState"))

    assert retention.remove()["removed"] == []
    assert retention.left() == ["expired"]
    assert retention.remove()["removed"] == ["expired"]
    assert retention.left() == []


@given(day=st.dates())
def test_a_day_is_read_as_it_is_written(day: date) -> None:
    assert kept_until_of({KEPT_UNTIL_TAG: day.isoformat()}) == day


def test_the_function_does_what_the_schedule_asks_for(
    retention: Retention, monkeypatch: pytest.MonkeyPatch
) -> None:
    retention.take("expired", **until("2026-01-30"))
    for name, value in {
        "AWS_DEFAULT_REGION": REGION,
        "JOBS_TABLE": "JobsTable",
        "PROJECTS_TABLE": "ProjectsTable",
        "QUOTAS_TABLE": "QuotasTable",
        "CLUSTER_PARAMETER_PREFIX": "/test/clusters",
        "RESOURCE_PREFIX": "nm",
        "RESOURCE_NAMESPACE": OWNER.namespace,
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        aws, "client", lambda service, region=REGION: retention.core.client(service, region)
    )
    context: Any = SimpleNamespace(get_remaining_time_in_millis=lambda: 60_000)

    # It is a day of this year's, and the tag of the last's.
    assert instances.build()({"task": REMOVE_EXPIRED_SNAPSHOTS}, context) == {
        "removed": ["expired"],
        "has_seen_all": True,
    }
