"""The search for what a run has left finds it, and takes nothing else for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.instances import DedicatedInstance
from provisioner.provisioning.naming import Naming
from support.remaining import Deployment, Item, Ledger, Resource, left_in

NAMING = Naming("nm", "test-123456789012")
NAMES = NAMING.names("shop")
REGION = "eu-west-1"
BUCKET = NAMING.bucket("shop", REGION)
TAGS = NAMING.owner("shop", "job-1").tags()

INSTANCE = DedicatedInstance(
    identifier=NAMES.instance,
    region="eu-west-1",
    engine=Engine.POSTGRESQL,
    version="18",
    size="db.t4g.micro",
    storage_gb=20,
    sslmode="require",
    admin_secret=NAMES.instance_secret,
    subnet_group="databases",
    security_group_ids=("sg-1",),
    backup_days=7,
    deletion_protection=True,
    job_id="job-1",
)

RESOURCES = [
    Resource("database", NAMES.tenants[Engine.POSTGRESQL].database, TAGS),
    Resource("role", NAMES.tenants[Engine.POSTGRESQL].app_role, TAGS),
    Resource("role", NAMES.tenants[Engine.POSTGRESQL].owner_role, TAGS),
    Resource("user pool", NAMES.user_pool, TAGS),
    Resource("Event API", NAMES.event_api, TAGS),
    Resource("bucket", BUCKET, TAGS),
    Resource("secret", NAMES.database_secret, TAGS),
    Resource("secret", NAMES.api_keys_secret, TAGS),
    Resource("database instance", NAMES.instance, TAGS),
    Resource("secret", NAMES.instance_secret, TAGS),
]


def left(
    *resources: Resource,
    status: str | None = None,
    quotas: dict[str, int] | None = None,
    job: Mapping[str, Any] | None = None,
    project: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return what is left of a deployment with at most one project and one job."""
    there: list[Item] = [
        {"project_id": "shop", "status": status, "region": REGION, **(project or {})}
    ]
    of_shop = {"project_id": "shop", "payload": "{}", "job_id": "none", "job_type": "none"}
    jobs: list[Item] = [of_shop | dict(job or {})]
    used: list[Item] = [{"quota": quota, "used": n} for quota, n in (quotas or {}).items()]
    return left_in(
        Deployment(NAMING, list(resources), there if status is not None else [], jobs, used)
    )


@pytest.mark.parametrize("status", [None, "CREATED", "DEPROVISIONED", "FAILED"])
def test_what_belongs_to_no_live_project_is_left(status: str | None) -> None:
    assert left(*RESOURCES, status=status) == [str(resource) for resource in RESOURCES]


@pytest.mark.parametrize("status", ["ACTIVE", "PROVISIONING", "DEPROVISIONING"])
def test_what_a_live_project_has_is_not_left(status: str) -> None:
    assert left(*RESOURCES, status=status) == []


def test_a_second_resource_of_a_live_project_is_left() -> None:
    pool = RESOURCES[3]
    assert left(pool, pool, status="ACTIVE") == [f"{pool}, a second one"]


def test_what_a_live_project_has_under_another_name_is_left() -> None:
    assert left(Resource("bucket", "nm-other", TAGS), status="ACTIVE") == ["bucket nm-other"]


def test_what_is_not_ours_is_not_looked_at() -> None:
    assert left(Resource("bucket", BUCKET, {})) == []
    assert left(Resource("bucket", BUCKET, Naming("nm", "x").owner("shop", "j").tags())) == []


def test_what_a_job_was_told_to_keep_is_not_left() -> None:
    assert (
        left(*RESOURCES, status="FAILED", job={"payload": json.dumps({"on_failure": "keep"})}) == []
    )


def test_what_a_job_names_as_left_is_not_found_again() -> None:
    named = {"remaining": [f"bucket {BUCKET}"]}
    assert left(*RESOURCES[5:7], status="FAILED", job=named) == [f"secret {NAMES.database_secret}"]


@pytest.mark.parametrize("status", ["ACTIVE", "DEPROVISIONED"])
def test_a_snapshot_is_left_that_no_job_of_its_project_has_taken(status: str) -> None:
    snapshot = Resource("database snapshot", f"{NAMES.instance}-final", TAGS)
    job = {"job_id": "job-1", "job_type": "deprovision_project"}

    assert left(snapshot, status=status, job=job) == []
    for other in ({"job_id": "job-2"}, {"job_type": "provision_project"}):
        assert left(snapshot, status=status, job=job | other) == [str(snapshot)]


def test_a_place_that_no_project_holds_is_left() -> None:
    used = {"owner#ada": 2, "cluster#eu-west-1/postgresql/eu-1": 1, "owner#bob": 0}
    holds = {
        "quota": "owner#ada",
        "region": "eu-west-1",
        "engine": "postgresql",
        "cluster_id": "eu-1",
    }

    assert left(status="ACTIVE", quotas=used, project=holds) == ["quota place of owner#ada"]
    of_instances = {INSTANCE.quota: 2}
    dedicated = holds | {"cluster_id": NAMES.instance, "instance": INSTANCE.to_item()}
    assert left(status="ACTIVE", quotas=of_instances, project=dedicated) == [
        "quota place of instances#eu-west-1/postgresql"
    ]
    assert left(quotas={"cluster#eu-1": 1}) == ["quota place of cluster#eu-1"]


def test_the_line_counts_each_kind() -> None:
    ledger = Ledger()
    ledger.note([])
    ledger.count([str(resource) for resource in RESOURCES] + ["quota place of owner#ada"])

    assert ledger.line() == (
        "Left over: 1 databases, 2 roles, 1 user pools, 1 Event APIs, 1 buckets, 3 secrets, "
        "1 database instances, 0 database snapshots, 1 quota places (of 1 deployments)."
    )
