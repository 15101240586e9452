"""The names of a project's resources: every service takes them, and no two projects share one."""

from __future__ import annotations

import re

import boto3
from hypothesis import assume, given
from hypothesis import strategies as st
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.naming import (
    Naming,
    ResourceNames,
    instance_snapshot_name,
)

PREFIXES = st.from_regex(r"[a-z][a-z0-9]{1,9}", fullmatch=True)
PROJECT_IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{1,62}[A-Za-z0-9]", fullmatch=True)
JOB_IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
NAMESPACES = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,127}-[0-9]{12}", fullmatch=True)
#: Those of S3, in every partition, and any other with a name as long as a name may be.
REGIONS = st.sampled_from(
    [
        region
        for session in [boto3.Session()]
        for partition in session.get_available_partitions()
        for region in session.get_available_regions("s3", partition)
    ]
) | st.from_regex(r"[a-z]{2}-[a-z]{1,20}-[0-9]", fullmatch=True)


def _all(names: ResourceNames) -> set[str]:
    return {
        names.user_pool,
        names.user_pool_client,
        names.event_api,
        names.instance,
        names.instance_secret,
        names.database_secret,
        names.api_keys_secret,
        names.tenants[Engine.POSTGRESQL].database,
        names.tenants[Engine.POSTGRESQL].owner_role,
        names.tenants[Engine.POSTGRESQL].app_role,
    }


@given(PREFIXES, NAMESPACES, PROJECT_IDS)
def test_every_service_takes_the_names(prefix: str, namespace: str, project_id: str) -> None:
    names = Naming(prefix, namespace).names(project_id)

    for name in (names.user_pool, names.user_pool_client):
        assert re.fullmatch(r"[\w\s+=,.@-]{1,128}", name, re.ASCII)
    assert re.fullmatch(r"[A-Za-z0-9_\- ]{1,50}", names.event_api)
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]{0,48}[A-Za-z0-9])?", names.channel_namespace)
    assert re.fullmatch(r"[a-z](-?[a-z0-9]){0,62}", names.instance)
    assert len(names.instance) <= 63
    for name in (names.database_secret, names.api_keys_secret, names.instance_secret):
        assert re.fullmatch(r"[A-Za-z0-9/_+=.@-]{1,512}", name)
        # Secrets Manager takes a hyphen and six characters at the end for its own suffix.
        assert not re.search(r"-[A-Za-z0-9]{6}$", name)
    tenant = names.tenants[Engine.POSTGRESQL]
    for name in (tenant.database, tenant.schema, tenant.owner_role, tenant.app_role):
        assert re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name)
        assert not name.startswith("pg_")


@given(PREFIXES, NAMESPACES, PROJECT_IDS)
def test_names_begin_with_the_prefix_that_the_policies_allow(
    prefix: str, namespace: str, project_id: str
) -> None:
    names = Naming(prefix, namespace).names(project_id)

    assert all(name.startswith(prefix) for name in _all(names))
    assert names.database_secret.startswith(f"{prefix}/")
    assert names.database_secret.endswith("/database")
    assert names.api_keys_secret.endswith("/api-keys")
    assert names.instance.startswith(f"{prefix}-")
    assert names.instance_secret == f"{prefix}/clusters/{names.instance}"


@given(PREFIXES, NAMESPACES, PROJECT_IDS)
def test_names_are_the_same_every_time_and_differ_from_one_another(
    prefix: str, namespace: str, project_id: str
) -> None:
    names = Naming(prefix, namespace).names(project_id)

    assert Naming(prefix, namespace).names(project_id) == names
    assert Naming(prefix, namespace).names(project_id) == names
    assert len({names.database_secret, names.api_keys_secret, names.instance_secret}) == 3
    for engine in Engine:
        tenant = names.tenants[engine]
        assert len({tenant.owner_role, tenant.app_role, tenant.database}) == 3
    # Source: MySQL 8.4 Reference Manual, "Account Names", "Identifier Length Limits".
    assert len(names.tenants[Engine.MYSQL].app_role) <= 32
    assert len(names.tenants[Engine.MYSQL].database) <= 64


@given(NAMESPACES, PROJECT_IDS, PROJECT_IDS)
def test_projects_share_no_name(namespace: str, one: str, other: str) -> None:
    assume(one != other)

    assert not _all(Naming("nm", namespace).names(one)) & _all(Naming("nm", namespace).names(other))


@given(NAMESPACES, PROJECT_IDS)
def test_ids_that_look_alike_share_no_name(namespace: str, project_id: str) -> None:
    alike = {
        project_id,
        project_id.swapcase(),
        project_id.lower(),
        project_id.replace("-", "_"),
        project_id.replace("_", "-"),
        project_id[:-1] + ("a" if project_id[-1] != "a" else "b"),
    }

    names = [Naming("nm", namespace).names(alike_id) for alike_id in sorted(alike)]

    assert len({name.instance for name in names}) == len(alike)
    assert len({name.tenants[Engine.POSTGRESQL].database for name in names}) == len(alike)


@given(NAMESPACES, NAMESPACES, PROJECT_IDS)
def test_deployments_share_no_name(one: str, other: str, project_id: str) -> None:
    assume(one != other)

    assert not _all(Naming("nm", one).names(project_id)) & _all(
        Naming("nm", other).names(project_id)
    )


@given(PREFIXES, NAMESPACES, PROJECT_IDS, JOB_IDS)
def test_rds_takes_the_name_of_a_snapshot(
    prefix: str, namespace: str, project_id: str, job_id: str
) -> None:
    names = Naming(prefix, namespace).names(project_id)
    snapshot = instance_snapshot_name(names, job_id)

    assert re.fullmatch(r"[a-z](-?[a-z0-9])*", snapshot)
    assert len(snapshot) <= 122
    assert snapshot.startswith(f"{names.instance}-")


@given(st.sets(JOB_IDS, min_size=2, max_size=2), PROJECT_IDS)
def test_snapshots_of_different_jobs_share_no_name(job_ids: set[str], project_id: str) -> None:
    names = Naming("nm", "test-123456789012").names(project_id)

    assert len({instance_snapshot_name(names, job_id) for job_id in job_ids}) == 2


def test_snapshots_of_jobs_that_look_alike_share_no_name() -> None:
    names = Naming("nm", "test-123456789012").names("shop")
    alike = ("job-1", "JOB-1", "job_1", "job--1", "-job-1", "job-1_", "--", "__", "-")

    assert len({instance_snapshot_name(names, job_id) for job_id in alike}) == len(alike)


def test_an_id_with_two_signs_in_a_row_has_a_name_without_them() -> None:
    ids = ("a__b", "a--b", "a_-b", "a-b", "a_____b", f"{'x' * 23}__y", f"{'x' * 22}-_y")

    names = [Naming("nm", "test-123456789012").names(project_id) for project_id in ids]

    assert not [name.instance for name in names if "--" in name.instance]
    assert [name.instance[:7] for name in names[:5]] == ["nm-a-b-"] * 5
    assert len({name.instance for name in names}) == len(ids)


def test_a_name_shows_the_start_of_the_project_id() -> None:
    names = Naming("nm", "stack-123456789012").names("My_Shop-" + "x" * 40)

    assert names.instance.startswith("nm-my-shop-xxxxxxxxxxxxxxxx-")
    assert names.tenants[Engine.POSTGRESQL].database.startswith("nm_my_shop_xxxxxxxxxxxxxxxx_")


def test_names_never_change_since_they_are_how_resources_are_found_again() -> None:
    names = Naming("nm", "provisioner-123456789012").names("shop")

    assert names.tenants[Engine.POSTGRESQL].database == "nm_shop_fba3c6727d"
    assert names.database_secret == "nm/nm-shop-fba3c6727d/database"
    assert names.instance == "nm-shop-fba3c6727d"
    assert instance_snapshot_name(names, "Job_7") == "nm-shop-fba3c6727d-job-7-b842d70087"


# Buckets.


@given(
    prefix=PREFIXES,
    namespace=NAMESPACES,
    project_id=PROJECT_IDS,
    region=REGIONS,
    has_own_buckets=st.booleans(),
)
def test_s3_takes_the_name_of_a_bucket_in_its_namespace(
    prefix: str, namespace: str, project_id: str, region: str, *, has_own_buckets: bool
) -> None:
    naming = Naming(prefix, namespace, has_own_buckets=has_own_buckets)
    bucket = naming.bucket(project_id, region)

    assert re.fullmatch(r"[a-z0-9](-?[a-z0-9]){2,62}", bucket)
    assert len(bucket) <= 63
    assert bucket.startswith(f"{prefix}-")
    # What S3 keeps for itself.
    assert not bucket.startswith(("xn--", "sthree-", "amzn-s3-demo-"))
    assert not bucket.endswith(("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"))
    # The one namespace takes this ending alone, and the other one every other.
    account_and_region = f"-{namespace[-12:]}-{region}-an"
    assert bucket.endswith(account_and_region if has_own_buckets else tuple("0123456789abcdef"))
    assert bucket == naming.bucket(project_id, region)


@given(
    prefix=PREFIXES,
    namespace=NAMESPACES,
    project_ids=st.sets(PROJECT_IDS, min_size=2),
    region=REGIONS,
    has_own_buckets=st.booleans(),
)
def test_no_two_projects_share_a_bucket(
    prefix: str, namespace: str, project_ids: set[str], region: str, *, has_own_buckets: bool
) -> None:
    naming = Naming(prefix, namespace, has_own_buckets=has_own_buckets)
    alike = {one for project_id in project_ids for one in (project_id, project_id.swapcase())}

    assert len({naming.bucket(project_id, region) for project_id in alike}) == len(alike)


@given(
    namespaces=st.sets(NAMESPACES, min_size=2),
    project_id=PROJECT_IDS,
    region=REGIONS,
    has_own_buckets=st.booleans(),
)
def test_no_two_deployments_share_a_bucket(
    namespaces: set[str], project_id: str, region: str, *, has_own_buckets: bool
) -> None:
    """Two stacks of one account as little as two accounts."""
    deployments = {*namespaces, *(f"other-{namespace}" for namespace in namespaces)}
    buckets = {
        Naming("nm", namespace, has_own_buckets=has_own_buckets).bucket(project_id, region)
        for namespace in deployments
    }

    assert len(buckets) == len(deployments)


def test_the_names_of_buckets_never_change() -> None:
    naming = Naming("nm", "provisioner-123456789012")
    names = [naming.bucket("shop", region) for region in ("eu-central-1", "us-east-1")]

    assert names == [
        "nm-shop-fba3c6727d-123456789012-eu-central-1-an",
        "nm-shop-fba3c6727d-123456789012-us-east-1-an",
    ]
    shared = Naming("nm", "provisioner-123456789012", has_own_buckets=False)
    assert shared.bucket("shop", "eu-central-1") == "nm-shop-fba3c6727d"


def test_a_long_region_leaves_less_of_the_project_id_and_all_of_the_hash() -> None:
    project_id = "My_Shop-" + "x" * 40
    naming = Naming("nm", "stack-123456789012")
    digest = naming.names(project_id).instance[-10:]

    assert naming.bucket(project_id, "ap-southeast-1") == (
        f"nm-my-shop-xxxxxxxxxx-{digest}-123456789012-ap-southeast-1-an"
    )
    long = Naming("abcdefghij", "stack-123456789012").bucket(project_id, "ab-cdefghijklmnopqrstu-1")
    assert re.fullmatch("abcdefghij-[0-9a-f]{10}-123456789012-ab-cdefghijklmnopqrstu-1-an", long)
