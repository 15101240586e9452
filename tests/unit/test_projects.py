"""Projects, quotas and clusters: what is counted is what is held, whatever meets or crashes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from boto3.dynamodb.conditions import Attr
from provisioner.drivers import dynamodb
from provisioner.drivers.dynamodb import ConditionFailedError
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.provisioning.clusters import Cluster, ClusterCatalogue
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.minute_cache import MinuteCache
from provisioner.provisioning.placement import ensure_placed, refuse_unserved
from provisioner.provisioning.projects import (
    Project,
    ProjectBusyError,
    ProjectExistsError,
    ProjectStatus,
)
from provisioner.provisioning.quotas import QuotaReachedError, quota_of
from provisioner.runtime.observability import metrics
from support.core import CLUSTER_PARAMETER_PREFIX, REGION, Core, LogLines, valid_payload

QUOTA = "owner#ada"


def project(core: Core, project_id: str = "shop") -> Project:
    """Read a project that exists."""
    found = core.projects.get(project_id)
    assert found is not None
    return found


def lock(core: Core, project_id: str = "shop", job_id: str = "job-1", limit: int = 10) -> None:
    """Give a project to a job."""
    core.projects.lock(project(core, project_id), job_id, quota=QUOTA, default_limit=limit)


def release(core: Core, project_id: str = "shop", job_id: str = "job-1") -> None:
    """Give back what a failed job holds."""
    items = core.projects.build_release_as_failed(project_id, job_id)
    if items:
        dynamodb.transact(core.client("dynamodb"), items)


def set_quota(core: Core, quota: str, **values: int) -> None:
    """Write a quota, as an operator does."""
    core.client("dynamodb").put_item(
        TableName="QuotasTable", Item=dynamodb.to_item({"quota": quota} | values)
    )


def test_a_project_is_created_once(core: Core) -> None:
    core.new_project(owner_id="ada")

    with pytest.raises(ProjectExistsError, match="shop"):
        core.new_project(owner_id="grace")

    assert (project(core).status, project(core).owner_id) == (ProjectStatus.CREATED, "ada")


@pytest.mark.parametrize(
    ("owner_id", "organization_id", "quota"),
    [
        ("ada", None, "owner#ada"),
        ("ada", "acme", "organization#acme"),
        (None, "acme", "organization#acme"),
        (None, None, None),
    ],
)
def test_a_project_counts_against_its_organization_or_else_its_owner(
    owner_id: str | None, organization_id: str | None, quota: str | None
) -> None:
    assert quota_of(owner_id, organization_id) == quota


def test_a_lock_and_its_quota_are_taken_together(core: Core) -> None:
    core.new_project()

    lock(core)

    held = project(core)
    assert (held.status, held.locked_by, held.quota) == (
        ProjectStatus.PROVISIONING,
        "job-1",
        QUOTA,
    )
    assert core.projects.quotas.used(QUOTA) == 1


def test_a_project_without_owner_counts_against_nothing(core: Core) -> None:
    core.new_project()

    core.projects.lock(project(core), "job-1", quota=None, default_limit=0)

    assert project(core).locked_by == "job-1"
    assert core.scan("QuotasTable") == []


def test_a_project_that_is_held_counts_once(core: Core) -> None:
    core.new_project()
    before = project(core)
    lock(core)

    for job_id in ("job-1", "job-2"):
        with pytest.raises(ProjectBusyError):
            core.projects.lock(before, job_id, quota=QUOTA, default_limit=10)

    assert project(core).locked_by == "job-1"
    assert core.projects.quotas.used(QUOTA) == 1


@pytest.mark.parametrize(
    ("own", "limit"),
    [({}, 2), ({"limit": 3}, 3), ({"limit": 0}, 0), ({"limit": 1, "used": 0}, 1)],
)
def test_an_own_limit_goes_before_the_default(core: Core, own: dict[str, int], limit: int) -> None:
    if own:
        set_quota(core, QUOTA, **own)
    for number in range(limit):
        core.new_project(f"shop-{number}")
        lock(core, f"shop-{number}", limit=2)
    core.new_project("one-too-many")

    with pytest.raises(QuotaReachedError) as raised:
        lock(core, "one-too-many", limit=2)

    assert raised.value.limit == limit
    assert project(core, "one-too-many").locked_by is None
    assert core.projects.quotas.used(QUOTA) == limit


def test_a_default_limit_of_nothing_leaves_room_for_nothing(core: Core) -> None:
    core.new_project()

    with pytest.raises(QuotaReachedError):
        lock(core, limit=0)

    assert core.scan("QuotasTable") == []


def test_many_at_once_take_exactly_what_the_quota_has(core: Core) -> None:
    for number in range(20):
        core.new_project(f"shop-{number}")
    lock(core, "shop-0", limit=3)

    def take(number: int) -> bool:
        try:
            lock(core, f"shop-{number}", job_id=f"job-{number}", limit=3)
        except QuotaReachedError:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        taken = sum(pool.map(take, range(1, 20)))

    assert taken == 2
    assert core.projects.quotas.used(QUOTA) == 3
    held = [project(core, f"shop-{number}").locked_by for number in range(20)]
    assert sum(holder is not None for holder in held) == 3


def test_many_jobs_at_once_for_one_project_are_one(core: Core) -> None:
    core.new_project()

    def take(number: int) -> bool:
        try:
            lock(core, job_id=f"job-{number}")
        except ProjectBusyError:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(take, range(20))) == 1
    assert core.projects.quotas.used(QUOTA) == 1


def test_a_failed_job_gives_back_its_project_and_its_quota_once(core: Core) -> None:
    core.new_project()
    core.new_project("other")
    lock(core, "other", job_id="job-2")
    lock(core)

    release(core)
    release(core)

    freed = project(core)
    assert (freed.status, freed.locked_by, freed.quota) == (ProjectStatus.FAILED, None, None)
    assert core.projects.quotas.used(QUOTA) == 1


def test_what_was_given_back_can_be_taken_again(core: Core) -> None:
    core.new_project()
    lock(core)
    release(core)

    lock(core, job_id="job-2", limit=1)

    assert project(core).locked_by == "job-2"
    assert core.projects.quotas.used(QUOTA) == 1


def test_what_another_job_holds_is_not_given_back(core: Core) -> None:
    core.new_project()
    lock(core)
    before = core.scan("ProjectsTable"), core.scan("QuotasTable")

    release(core, job_id="job-2")
    release(core, "none-such")

    assert (core.scan("ProjectsTable"), core.scan("QuotasTable")) == before


def test_what_is_released_by_two_at_once_is_given_back_once(core: Core) -> None:
    core.new_project()
    core.new_project("other")
    lock(core, "other", job_id="job-2")
    lock(core)
    items = core.projects.build_release_as_failed("shop", "job-1")
    release(core)

    with pytest.raises(ConditionFailedError):
        dynamodb.transact(core.client("dynamodb"), items)

    assert core.projects.quotas.used(QUOTA) == 1


@pytest.mark.parametrize("used", [{"used": 0}, {}])
def test_a_count_that_was_set_back_does_not_keep_a_project_held(
    core: Core, used: dict[str, int]
) -> None:
    core.new_project()
    lock(core)
    set_quota(core, QUOTA, **used)

    release(core)

    assert project(core).locked_by is None
    assert core.projects.quotas.used(QUOTA) == 0


def test_a_project_becomes_active_only_by_the_job_that_holds_it(core: Core) -> None:
    core.new_project()
    lock(core)
    client = core.client("dynamodb")

    with pytest.raises(ConditionFailedError):
        dynamodb.transact(
            client, core.projects.build_activation("shop", "job-2", {"made": "x"}, {})
        )
    assert project(core).status is ProjectStatus.PROVISIONING
    dynamodb.transact(client, core.projects.build_activation("shop", "job-1", {"made": "x"}, {}))

    active = project(core)
    assert (active.status, active.locked_by, active.result, active.quota) == (
        ProjectStatus.ACTIVE,
        None,
        {"made": "x"},
        QUOTA,
    )
    with pytest.raises(ProjectBusyError):
        lock(core, job_id="job-2")


def place(core: Core, project_id: str = "shop", **database: str) -> str:
    """Place a project on a cluster of its region, which the lock has settled."""
    settled = {"region": REGION, "engine": Engine.POSTGRESQL}
    is_there = Attr("project_id").exists()
    with suppress(ConditionFailedError):
        write = dynamodb.build_update(
            "ProjectsTable", {"project_id": project_id}, settled, is_there
        )
        dynamodb.transact(core.client("dynamodb"), [write])
    return ensure_placed(
        valid_payload(project_id, database=database),
        projects=core.projects,
        catalogue=core.catalogue,
    ).cluster_id


def listed(core: Core, region: str = REGION, engine: Engine = Engine.POSTGRESQL) -> list[Cluster]:
    """List the clusters of a region, of which none may be wrong."""
    found = core.catalogue.clusters(region, engine)
    assert found.wrong == []
    return list(found.described)


def quota_of_cluster(cluster_id: str) -> str:
    """Return what the tenants of a cluster are counted under."""
    return f"cluster#{REGION}/postgresql/{cluster_id}"


def tenants(core: Core, **of_cluster: int) -> None:
    """Say how many tenants each cluster has."""
    for cluster_id, used in of_cluster.items():
        set_quota(core, quota_of_cluster(cluster_id), used=used)


def test_a_project_goes_to_the_emptiest_cluster_and_stays_there(core: Core) -> None:
    core.describe_clusters(*({"cluster_id": name} for name in ("first", "second", "third")))
    tenants(core, first=2, second=1, third=2)
    core.new_project()

    assert place(core) == "second"
    tenants(core, first=0, second=50)
    assert place(core) == "second"

    assert project(core).cluster_id == "second"
    assert core.projects.quotas.used(quota_of_cluster("second")) == 50


def test_a_full_cluster_is_passed_over(core: Core) -> None:
    core.describe_clusters(
        {"cluster_id": "small", "max_tenants": 1}, {"cluster_id": "large", "max_tenants": 5}
    )
    tenants(core, small=1, large=4)
    core.new_project()

    assert place(core) == "large"


def test_a_project_goes_to_the_emptiest_cluster_of_the_version_that_it_asks_for(core: Core) -> None:
    core.describe_clusters(
        {"cluster_id": "undeclared"},
        {"cluster_id": "older", "version": "17.2"},
        {"cluster_id": "full", "version": "18.1", "max_tenants": 1},
        {"cluster_id": "fuller", "version": "18.1"},
        {"cluster_id": "emptier", "version": "18"},
    )
    tenants(core, full=1, fuller=4, emptier=3)
    core.new_project()

    assert place(core, version="18") == "emptier"
    # It has its place now; another version is elsewhere.
    with pytest.raises(ProvisioningError, match="is of version 18;"):
        place(core, version="17")


def test_no_room_on_a_cluster_of_the_version_is_said_so(core: Core) -> None:
    core.describe_clusters(
        {"cluster_id": "other"}, {"cluster_id": "full", "version": "18", "max_tenants": 0}
    )
    core.new_project()

    with pytest.raises(ProvisioningError, match="no postgresql cluster of version 18 of eu-"):
        place(core, version="18")


def test_no_cluster_with_room_is_answered_with_the_limits(core: Core) -> None:
    core.describe_clusters(
        {"cluster_id": "small", "max_tenants": 1}, {"cluster_id": "none", "max_tenants": 0}
    )
    tenants(core, small=1)
    core.new_project()

    with pytest.raises(ProvisioningError) as raised:
        place(core)

    assert (raised.value.type, raised.value.message) == (
        ErrorType.QUOTA_EXCEEDED,
        (
            "region: no postgresql cluster of eu-central-1 has room (limits: 1 tenants on small, "
            "0 tenants on none); add a cluster or raise a limit."
        ),
    )
    assert project(core).cluster_id is None


def test_many_at_once_fill_the_clusters_to_their_limits_and_no_further(core: Core) -> None:
    core.describe_clusters(
        {"cluster_id": "first", "max_tenants": 3}, {"cluster_id": "second", "max_tenants": 2}
    )
    for number in range(10):
        core.new_project(f"shop-{number}")

    def try_to_place(number: int) -> str | None:
        try:
            return place(core, f"shop-{number}")
        except ProvisioningError as error:
            assert error.type is ErrorType.QUOTA_EXCEEDED  # noqa: PT017  # others are placed
            return None

    with ThreadPoolExecutor(10) as pool:
        placed = list(pool.map(try_to_place, range(10)))

    assert [placed.count(name) for name in ("first", "second", None)] == [3, 2, 5]
    assert (
        core.projects.quotas.used(quota_of_cluster("first")),
        core.projects.quotas.used(quota_of_cluster("second")),
    ) == (3, 2)
    assert [project(core, f"shop-{number}").cluster_id for number in range(10)] == placed


def test_two_runs_at_once_place_a_project_once(core: Core) -> None:
    core.describe_clusters(*({"cluster_id": f"c-{number}"} for number in range(4)))
    core.new_project()

    with ThreadPoolExecutor(8) as pool:
        placed = set(pool.map(lambda _: place(core), range(8)))

    assert len(placed) == 1
    used = core.projects.quotas.used_of(quota_of_cluster(f"c-{number}") for number in range(4))
    assert sum(used.values()) == 1


def test_a_place_is_given_back_once(core: Core) -> None:
    core.new_project()
    core.new_project("other")
    lock(core)
    place(core)
    place(core, "other")

    for _ in range(2):
        core.projects.places.unplace("shop", "first", quota_of_cluster("first"), "job-1")

    assert project(core).cluster_id is None
    assert core.projects.quotas.used(quota_of_cluster("first")) == 1
    assert place(core) == "first"


def test_a_place_that_is_given_back_by_many_at_once_is_given_back_once(core: Core) -> None:
    core.new_project()
    core.new_project("other")
    lock(core)
    place(core)
    place(core, "other")

    quota, unplace = quota_of_cluster("first"), core.projects.places.unplace
    with ThreadPoolExecutor(8) as pool:
        for run in [pool.submit(unplace, "shop", "first", quota, "job-1") for _ in range(8)]:
            run.result()

    assert core.projects.quotas.used(quota_of_cluster("first")) == 1


@pytest.mark.parametrize(
    ("project_id", "cluster_id", "job_id"),
    [("shop", "first", "job-2"), ("shop", "second", "job-1"), ("none-such", "first", "job-1")],
)
def test_a_place_that_is_another_s_is_not_given_back(
    core: Core, project_id: str, cluster_id: str, job_id: str
) -> None:
    core.new_project()
    lock(core)
    place(core)
    before = core.scan("ProjectsTable"), core.scan("QuotasTable")

    core.projects.places.unplace(project_id, cluster_id, quota_of_cluster(cluster_id), job_id)

    assert (core.scan("ProjectsTable"), core.scan("QuotasTable")) == before


def test_a_place_whose_project_is_free_may_be_another_s(core: Core) -> None:
    core.new_project()
    lock(core)
    place(core)
    release(core)

    core.projects.places.unplace("shop", "first", quota_of_cluster("first"), "job-1")

    assert project(core).cluster_id == "first"


def test_a_count_of_tenants_that_was_set_back_does_not_keep_a_place(core: Core) -> None:
    core.new_project()
    lock(core)
    place(core)
    tenants(core, first=0)

    core.projects.places.unplace("shop", "first", quota_of_cluster("first"), "job-1")

    assert project(core).cluster_id is None
    assert core.projects.quotas.used(quota_of_cluster("first")) == 0


def hand_over(core: Core) -> None:
    """Hand a project's lock over from a failed job to its clean-up."""
    items = core.projects.build_hand_over("shop", "job-1", "cleanup-1")
    dynamodb.transact(core.client("dynamodb"), items)


def test_a_lock_that_is_handed_over_never_lets_another_job_in(core: Core) -> None:
    core.new_project()
    lock(core)

    hand_over(core)

    assert (project(core).status, project(core).locked_by) == (
        ProjectStatus.PROVISIONING,
        "cleanup-1",
    )
    # What is there still counts.
    assert core.projects.quotas.used(QUOTA) == 1
    assert core.projects.build_release_as_failed("shop", "job-1") == []
    with pytest.raises(ProjectBusyError):
        lock(core, job_id="job-2")
    with pytest.raises(ConditionFailedError):
        hand_over(core)
    release(core, job_id="cleanup-1")
    assert (project(core).status, project(core).locked_by) == (ProjectStatus.FAILED, None)
    assert core.projects.quotas.used(QUOTA) == 0


def test_a_clean_up_acquires_a_project_again_and_counts_against_nothing(core: Core) -> None:
    core.new_project()
    lock(core)
    release(core)

    core.projects.acquire_to_clean_up("shop", "cleanup-1")

    assert (project(core).status, project(core).locked_by) == (ProjectStatus.FAILED, "cleanup-1")
    assert core.projects.quotas.used(QUOTA) == 0
    with pytest.raises(ProjectBusyError):
        lock(core, job_id="job-2")
    release(core, job_id="cleanup-1")
    lock(core, job_id="job-2")
    assert core.projects.quotas.used(QUOTA) == 1


def test_a_project_that_is_held_active_or_gone_is_not_acquired_again(core: Core) -> None:
    core.new_project()
    lock(core, job_id="job-2")
    with pytest.raises(ProjectBusyError):
        core.projects.acquire_to_clean_up("shop", "cleanup-1")
    dynamodb.transact(
        core.client("dynamodb"), core.projects.build_activation("shop", "job-2", {"made": "x"}, {})
    )
    for project_id in ("shop", "none-such"):
        with pytest.raises(ProjectBusyError):
            core.projects.acquire_to_clean_up(project_id, "cleanup-1")
    assert project(core).locked_by is None
    assert core.projects.get("none-such") is None


def test_a_project_whose_cluster_is_described_no_more_is_not_moved(core: Core) -> None:
    core.new_project()
    place(core)
    core.describe_clusters({"cluster_id": "another"})

    with pytest.raises(ProvisioningError) as raised:
        place(core)

    assert raised.value.type is ErrorType.DATABASE_CREATION_FAILED
    assert "first" in raised.value.cause
    assert project(core).cluster_id == "first"


def test_a_project_that_is_gone_is_not_placed(core: Core) -> None:
    with pytest.raises(ProvisioningError) as raised:
        place(core)

    assert raised.value.type is ErrorType.PROJECT_NOT_FOUND
    assert core.projects.quotas.used(quota_of_cluster("first")) == 0


@pytest.mark.parametrize(
    "value",
    [
        "not json",
        "[]",
        "{}",
        '{"cluster_id": "a", "host": "h", "port": 1, "admin_secret_arn": "x", "max_tenants": 1}',
        '{"host": "h", "port": 0, "admin_secret_arn": "x", "max_tenants": 1}',
        '{"host": "h", "port": 1, "admin_secret_arn": "x", "max_tenants": 1, "version": "new"}',
        (
            '{"host": "h", "port": 1, "admin_secret_arn": "x", "max_tenants": 1,'
            ' "password": "correct-horse"}'
        ),
    ],
)
def test_a_wrong_description_of_a_cluster_names_the_parameter(core: Core, value: str) -> None:
    name = "/test/clusters/eu-central-1/postgresql/first"
    core.client("ssm").put_parameter(Name=name, Type="String", Value=value, Overwrite=True)

    core.new_project()

    # Neither who looks for a cluster nor whose cluster it is can go on.
    for read in (
        lambda: place(core),
        lambda: refuse_unserved(valid_payload("shop"), core.catalogue),
        lambda: core.catalogue.cluster(REGION, Engine.POSTGRESQL, "first"),
    ):
        with pytest.raises(ProvisioningError) as raised:
            read()

        assert raised.value.type is ErrorType.DATABASE_CREATION_FAILED
        assert f"The SSM parameter {name}," in raised.value.message
        assert raised.value.cause.startswith(f"SSM parameter {name}: ")
        assert "correct-horse" not in raised.value.message + raised.value.cause


def test_a_cluster_whose_description_is_wrong_is_left_out(core: Core, logged: LogLines) -> None:
    core.describe_clusters(
        {"cluster_id": "a-wrong", "max_tenants": "many"},
        {"cluster_id": "older", "version": "17"},
        {"cluster_id": "right", "version": "18", "max_tenants": 1},
    )
    core.new_project()
    core.new_project("next")
    metrics.clear_metrics()

    refuse_unserved(valid_payload("shop"), core.catalogue)
    assert place(core, version="18") == "right"

    line = logged()[-1]
    assert (line["level"], line["message"]) == ("WARNING", "cluster left out")
    wrong = "SSM parameter /test/clusters/eu-central-1/postgresql/a-wrong: max_tenants: "
    assert line["cause"].startswith(wrong)
    assert metrics.metric_set["ClustersLeftOut"]["Value"] == [1, 1]
    metrics.clear_metrics()
    # A placed project reads its own cluster alone.
    assert place(core) == "right"
    assert metrics.metric_set == {}
    # Who finds no room reads which cluster was left out; who finds none that might serve, that
    # it is wrong.
    with pytest.raises(ProvisioningError) as full:
        place(core, "next", version="18")
    assert full.value.type is ErrorType.QUOTA_EXCEEDED
    assert full.value.cause.startswith(f"left out: {wrong}")
    with pytest.raises(ProvisioningError, match=r"parameter /test/clusters/.*/a-wrong, .* wrong"):
        place(core, "next", version="16")
    with pytest.raises(ProvisioningError, match=r"parameter /test/clusters/.*/a-wrong, .* wrong"):
        refuse_unserved(valid_payload("next", database={"version": "16"}), core.catalogue)
    metrics.clear_metrics()


def test_the_shared_clusters_are_kept_for_a_minute_where_that_will_do(core: Core) -> None:
    seconds = [0.0]
    catalogue = ClusterCatalogue(
        core.client("ssm"), CLUSTER_PARAMETER_PREFIX, kept=MinuteCache(lambda: seconds[0])
    )

    def found(*, may_be_kept: bool) -> list[str]:
        found = catalogue.clusters(REGION, Engine.POSTGRESQL, may_be_kept=may_be_kept)
        return sorted(cluster.cluster_id for cluster in found.described)

    def kept(cluster_id: str) -> str | None:
        cluster = catalogue.kept_cluster(REGION, Engine.POSTGRESQL, cluster_id)
        return None if cluster is None else cluster.cluster_id

    assert kept("first") is None
    assert found(may_be_kept=True) == ["first"]
    # More than a page holds.
    more = [f"more-{number:02}" for number in range(12)]
    core.describe_clusters(*({"cluster_id": name} for name in ("first", *more)))
    seconds[0] = 59
    assert found(may_be_kept=True) == ["first"]
    assert found(may_be_kept=False) == ["first", *more]
    core.calls.clear()
    assert found(may_be_kept=True) == ["first", *more]
    assert (kept("first"), kept(more[-1]), kept("other")) == ("first", more[-1], None)
    assert core.calls == []
    seconds[0] = 59 + 60
    assert kept("first") is None


def test_of_one_cluster_nobody_asks_how_full_it_is(core: Core) -> None:
    core.new_project()
    core.calls.clear()
    payload = valid_payload("shop")
    placed = ensure_placed(
        payload, projects=core.projects, catalogue=core.catalogue, may_be_placed=False
    )
    assert placed.cluster_id == project(core).cluster_id == "first"
    assert [name for name, _ in core.calls][:2] == [
        "ssm.GetParametersByPath",
        "dynamodb.TransactWriteItems",
    ]


def test_a_region_without_a_description_has_no_cluster(core: Core) -> None:
    assert listed(core, "us-east-1") == []
    assert listed(core, engine=Engine.MYSQL) == []
    assert core.catalogue.cluster(REGION, Engine.MYSQL, "first") is None
    assert core.catalogue.allowance(REGION, Engine.POSTGRESQL) is None


def test_more_clusters_than_a_page_holds_are_all_found(core: Core) -> None:
    core.describe_clusters(*({"cluster_id": f"c-{number}"} for number in range(23)))
    # Neither is a cluster of the region's shared ones.
    core.client("ssm").put_parameter(
        Name=f"/test/clusters/{REGION}/dedicated/postgresql", Type="String", Value="{}"
    )
    core.client("ssm").put_parameter(
        Name=f"/test/clusters/{REGION}/postgresql/c-1/more", Type="String", Value="{}"
    )

    found = listed(core)

    assert {cluster.cluster_id for cluster in found} == {f"c-{number}" for number in range(23)}
    assert {(cluster.region, cluster.engine) for cluster in found} == {(REGION, "postgresql")}


def test_a_project_is_read_as_it_was_written(core: Core) -> None:
    created: Any = core.new_project(owner_id="ada", organization_id="acme")

    assert project(core) == created
    assert core.projects.get("none-such") is None
