"""The transitions of projects and API keys, and that no order of writes gets around them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from provisioner.api_keys.key_format import generate_api_key
from provisioner.api_keys.store import API_KEY_TRANSITIONS, ApiKeyStatus
from provisioner.drivers import dynamodb
from provisioner.drivers.dynamodb import ConditionFailedError
from provisioner.drivers.dynamodb_lists import LISTED_UNDER, partition_of
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.instances import DedicatedInstance
from provisioner.provisioning.projects import (
    PROJECT_TRANSITIONS,
    Project,
    ProjectBusyError,
    ProjectExistsError,
    ProjectRemovedError,
    ProjectStatus,
    project_sources,
)
from provisioner.provisioning.quotas import QuotaReachedError
from provisioner.provisioning.stages.api_keys import new_key
from support.core import REGION, Core, contention, deployment

QUOTA = "owner#ada"
INSTANCE = DedicatedInstance(
    identifier="shop-1",
    region=REGION,
    engine=Engine.POSTGRESQL,
    version="18.1",
    size="db.t4g.micro",
    storage_gb=20,
    sslmode="require",
    admin_secret="clusters/shop-1",
    subnet_group="databases",
    security_group_ids=("sg-1",),
    backup_days=7,
    deletion_protection=True,
    job_id="job",
)

#: What a write changes nothing with.
REFUSALS = (
    ConditionFailedError,
    ProjectBusyError,
    ProjectExistsError,
    ProjectRemovedError,
    QuotaReachedError,
)

#: Writes in a job's name; it may have read the project some writes before.
type Write = Callable[[Core, Project, str], None]


@pytest.mark.parametrize("status", ProjectStatus)
def test_the_sources_of_a_status_are_those_that_it_may_follow(status: ProjectStatus) -> None:
    sources = {source for source in ProjectStatus if status in PROJECT_TRANSITIONS[source]}
    assert set(project_sources(status)) == sources


def test_no_status_leads_back_to_the_first_but_where_nothing_was_removed() -> None:
    assert project_sources(ProjectStatus.CREATED) == ()
    assert set(PROJECT_TRANSITIONS) == set(ProjectStatus)


def _create(core: Core, _project: Project, _job_id: str) -> None:
    core.new_project()


def _lock(core: Core, project: Project, job_id: str) -> None:
    core.projects.lock(project, job_id, quota=QUOTA, default_limit=1, region=REGION)


def _acquire(core: Core, project: Project, job_id: str) -> None:
    core.projects.acquire(project, job_id)


def _acquire_to_clean_up(core: Core, _project: Project, job_id: str) -> None:
    core.projects.acquire_to_clean_up("shop", job_id)


def _begin_removal(core: Core, project: Project, job_id: str) -> None:
    core.projects.begin_removal(project, job_id)


def _protect(core: Core, project: Project, _job_id: str) -> None:
    core.projects.protect("shop", enabled=not project.deletion_protection)


def _release_abandoned(core: Core, _project: Project, job_id: str) -> None:
    core.projects.release_abandoned(job_id)


def _write(core: Core, *writes: dynamodb.Write) -> None:
    if writes:
        dynamodb.transact(core.client("dynamodb"), writes)


def _activate(core: Core, _project: Project, job_id: str) -> None:
    _write(core, *core.projects.build_activation("shop", job_id, {"made": job_id}, {}))


def _release(core: Core, _project: Project, job_id: str) -> None:
    _write(core, *core.projects.build_release_as_failed("shop", job_id, removed_all_of=job_id))


def _release_active(core: Core, _project: Project, job_id: str) -> None:
    _write(core, *core.projects.build_release("shop", job_id, {"made": "new"}))


def _hand_over(core: Core, _project: Project, job_id: str) -> None:
    _write(core, *core.projects.build_hand_over("shop", job_id, f"cleanup-of-{job_id}"))


def _end_removal(core: Core, project: Project, job_id: str) -> None:
    _write(core, *core.projects.build_end_of_removal(project, job_id, core.clock.at, {"key": "x"}))


def _retire(core: Core, project: Project, _job_id: str) -> None:
    _write(core, *core.projects.build_retirement(project, core.clock.at))


def _stop_removal(core: Core, _project: Project, job_id: str) -> None:
    _write(
        core,
        *core.projects.build_release_from_removal("shop", job_id, has_removed=False, snapshot=None),
    )


def _fail_removal(core: Core, _project: Project, job_id: str) -> None:
    _write(
        core,
        *core.projects.build_release_from_removal(
            "shop", job_id, has_removed=True, snapshot={"k": 1}
        ),
    )


#: Those that only a job makes which holds the project.
HELD: list[Write] = [
    _activate,
    _release,
    _release_active,
    _release_abandoned,
    _hand_over,
    _end_removal,
    _stop_removal,
    _fail_removal,
]
WRITES: list[Write] = [
    *HELD,
    _create,
    _lock,
    _acquire,
    _acquire_to_clean_up,
    _begin_removal,
    _protect,
    _retire,
]


def _find(core: Core) -> Project:
    found = core.projects.get("shop")
    assert found is not None
    return found


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(WRITES), st.sampled_from(("job", "other")), st.integers(0, 2)),
        min_size=1,
        max_size=14,
    )
)
def test_no_order_of_writes_moves_a_project_where_the_table_does_not_let_it(
    writes: list[tuple[Write, str, int]],
) -> None:
    with deployment() as core:
        seen = [core.new_project()]
        for write, job_id, writes_ago in writes:
            core.clock.advance()
            before = seen[-1]
            with suppress(*REFUSALS):
                write(core, seen[max(0, len(seen) - 1 - writes_ago)], job_id)
            after = _find(core)
            seen.append(after)
            is_same = before.status == after.status
            assert is_same or after.status in PROJECT_TRANSITIONS[before.status], write.__name__
            if write in HELD and before.locked_by != job_id:
                assert after == before
            if before.locked_by is not None and after.locked_by != before.locked_by:
                assert before.locked_by == job_id
            if not before.status.is_being_removed:
                assert not (before.deletion_protection and after.status.is_being_removed)
            # An index lists it where its status and its holder say.
            (item,) = core.scan("ProjectsTable")
            assert item[LISTED_UNDER] == partition_of(after.status, "shop")
            assert core.projects.lock_holders() == [one for one in [after.locked_by] if one]
            # What is held is what is counted.
            assert core.projects.quotas.used(QUOTA) == (after.quota is not None)


def test_contention_is_waited_out_at_every_write_of_a_project_and_its_keys(core: Core) -> None:
    quota = "cluster#first"
    keys = [new_key(generate_api_key("nm"), f"{n}", "shop", "job") for n in range(3)]
    with contention(core) as made:
        project = core.new_project()
        _lock(core, project, "job")
        core.projects.places.place("shop", "first", quota, 5)
        core.projects.places.unplace("shop", "first", quota, "job")
        core.projects.places.place("shop", INSTANCE.identifier, quota, 5, instance=INSTANCE)
        core.projects.places.keep_instance("shop", replace(INSTANCE, host="db", port=1))
        is_locked = core.projects.build_lock_check("shop", "job")
        core.api_keys.make_only("shop", keys[:2], is_locked)
        _hand_over(core, project, "job")
        _release(core, project, "cleanup-of-job")
        core.projects.acquire_to_clean_up("shop", "again")
        _release(core, project, "again")
        _lock(core, _find(core), "job")
        _activate(core, project, "job")
        core.projects.acquire(project, "change")
        core.api_keys.put_set(keys[2:])
        core.api_keys.expire(keys[0].digest, core.clock.at)
        core.api_keys.revoke(keys[1].digest)
        _release_active(core, project, "change")
        for _ in range(2):
            _protect(core, _find(core), "")
        core.projects.begin_removal(_find(core), "remove")
        _fail_removal(core, project, "remove")
        core.projects.begin_removal(_find(core), "remove")
        _end_removal(core, _find(core), "remove")
        _retire(core, core.new_project("other"), "")
        assert made() == 26
    found = _find(core)
    assert (found.status, found.locked_by, found.quota) == ("DEPROVISIONED", None, None)
    assert core.projects.quotas.used_of([QUOTA, quota]) == {QUOTA: 0, quota: 1}
    stored = core.api_keys.get_all([key.digest for key in keys])
    assert [stored[key.digest].status for key in keys] == ["ACTIVE", "REVOKED", "ACTIVE"]
    assert [stored[key.digest].expires_at is None for key in keys] == [False, True, True]


@settings(max_examples=10, deadline=None)
@given(
    st.lists(
        st.sampled_from(("revoke", "expire soon", "expire late", "store")), min_size=1, max_size=6
    )
)
def test_no_order_of_writes_lets_a_key_verify_again(writes: list[str]) -> None:
    with deployment() as core:
        key = new_key(generate_api_key("nm"), core.clock.at.isoformat(), "shop", "job")
        core.api_keys.put_set([key])
        before = key
        for write in writes:
            match write:
                case "revoke":
                    core.api_keys.revoke(key.digest)
                case "store":
                    core.api_keys.put_set([key])
                case soon_or_late:
                    hours = 1 if soon_or_late == "expire soon" else 2
                    core.api_keys.expire(key.digest, core.clock.at + timedelta(hours=hours))
            after = core.api_keys.get(key.digest)
            assert after is not None
            is_same = before.status == after.status
            assert is_same or after.status in API_KEY_TRANSITIONS[before.status]
            if before.status is ApiKeyStatus.REVOKED:
                assert after == before
            if before.expires_at is not None:
                assert after.expires_at is not None
                assert after.expires_at <= before.expires_at
            before = after
