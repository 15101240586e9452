"""What becomes of API keys that nobody claims: a notice, and the end of their secret."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from provisioner import api
from provisioner.api_keys.hand_over import (
    API_KEYS_EXPIRED,
    API_KEYS_EXPIRING,
    HandOver,
    HandOverStatus,
)
from provisioner.composition import api_keys
from provisioner.drivers import dynamodb
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.definition import TASK_MARGIN_SECONDS
from provisioner.jobs.models import NOTICE_SUBJECT, HistoryEntry
from provisioner.jobs.records import NewJob
from provisioner.jobs.stage import JobInput
from provisioner.provisioning.functions import API_KEYS
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectStatus
from provisioner.provisioning.stages.api_keys import (
    ensure_api_keys,
    ensure_api_keys_rotated,
    remove_api_keys,
)
from provisioner.provisioning.unclaimed_keys import EXPIRE_UNCLAIMED_KEYS, UnclaimedKeys
from provisioner.runtime import aws
from support.core import (
    Answer,
    Core,
    answer_lost,
    aws_error,
    meanwhile,
    new_job,
)
from support.drivers import tag_list

NAMING = Naming("nm", "test-123456789012")
DAY = 24 * 60 * 60.0
#: Seconds for which a run of the function may be at work.
LEASE = API_KEYS.seconds + TASK_MARGIN_SECONDS


@dataclass
class Shop:
    """A project whose keys wait to be claimed, and the schedule that looks for such."""

    core: Core
    project_id: str = "shop"
    made: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def secret(self) -> str:
        return NAMING.names(self.project_id).api_keys_secret

    def hold(self, job_id: str | None, status: ProjectStatus = ProjectStatus.ACTIVE) -> None:
        """Let a job hold the project, or none."""
        values = {"project_id": self.project_id, "status": status, "created_at": "2026-01-31"}
        item = dynamodb.to_item({**values, "locked_by": job_id})
        self.core.client("dynamodb").put_item(TableName="ProjectsTable", Item=item)

    def provision(self) -> None:
        """Let a job make the keys."""
        job_id = f"{self.project_id}-{next(self.made)}"
        new = new_job(job_id, self.project_id)
        self.core.jobs.create(new)
        self.hold(job_id, ProjectStatus.PROVISIONING)
        ensure_api_keys(
            JobInput(job_id=job_id, job_type=new.job_type, payload=dict(new.payload)),
            secrets_manager=self.core.client("secretsmanager"),
            kms_key_arn=None,
            store=self.core.api_keys,
            hand_overs=self.core.hand_overs,
            projects=self.core.projects,
            naming=NAMING,
            clock=self.core.clock,
        )
        self.hold(None)

    def rotate(self) -> dict[str, Any]:
        """Let a job that holds the project make new keys."""
        job_id = f"rotation-{next(self.made)}"
        new = NewJob(job_id, "rotate_api_keys", {"project_id": self.project_id}, ())
        self.core.jobs.create(new)
        self.hold(job_id)
        outcome = ensure_api_keys_rotated(
            JobInput(job_id=job_id, job_type=new.job_type, payload=dict(new.payload)),
            secrets_manager=self.core.client("secretsmanager"),
            kms_key_arn=None,
            store=self.core.api_keys,
            hand_overs=self.core.hand_overs,
            naming=NAMING,
            clock=self.core.clock,
        )
        self.hold(None)
        return dict(outcome.output)

    def remove(self) -> None:
        """Let a job remove all keys of the project."""
        remove_api_keys(
            JobInput(
                job_id="removal",
                job_type="deprovision_project",
                payload={"project_id": self.project_id},
            ),
            secrets_manager=self.core.client("secretsmanager"),
            store=self.core.api_keys,
            hand_overs=self.core.hand_overs,
            naming=NAMING,
            clock=self.core.clock,
            only_this_job=False,
        )

    def run(self, time_left: Callable[[], float] = lambda: 60.0) -> dict[str, Any]:
        """Do what the schedule asks for."""
        core = self.core
        step = UnclaimedKeys(
            core.hand_overs, core.projects, core.jobs, core.client("secretsmanager"), NAMING
        )
        return step(time_left)

    def claim(self) -> list[str]:
        keys: list[str] = []
        api.claim_api_keys(self.project_id, keys.extend)
        return keys

    def has_secret(self) -> bool:
        manager = self.core.client("secretsmanager")
        try:
            return "DeletedDate" not in manager.describe_secret(SecretId=self.secret)
        except manager.exceptions.ResourceNotFoundException:
            return False

    def hand_over(self) -> HandOver:
        found = self.core.hand_overs.get(self.project_id)
        assert found is not None
        return found

    def notices(self) -> list[HistoryEntry]:
        """Return what the history of the project's jobs says of its keys."""
        jobs = [self.core.jobs.get(job_id) for job_id in self.core.listed(self.project_id)]
        entries = [entry for job in jobs for entry in job.history]
        return [entry for entry in entries if entry.subject == NOTICE_SUBJECT]

    def said(self) -> list[str]:
        return [entry.status for entry in self.notices()]

    def take_next_step(self, **expected: list[str]) -> None:
        """Run, and see what is done."""
        assert self.run() == {"notified": [], "expired": [], "has_seen_all": True} | expected


@pytest.fixture
def shop(core: Core, connected: object) -> Iterator[Shop]:
    del connected
    # The public API reads the real clock.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "utc_now", core.clock)
        patch.setattr(aws, "client", core.client)
        made = Shop(core)
        made.provision()
        yield made


def wait(shop: Shop, days: float) -> None:
    shop.core.clock.advance(days * DAY)


def expire(shop: Shop) -> None:
    """Let the time be over, and the secret be deleted."""
    wait(shop, 23)
    shop.run()
    wait(shop, 7)
    shop.take_next_step(expired=["shop"])


def test_notice_of_keys_is_given_after_23_days_and_they_are_deleted_after_30(shop: Shop) -> None:
    made_at = shop.core.clock()
    claim_before = made_at + timedelta(days=30)
    assert shop.hand_over().claim_before == claim_before

    wait(shop, 23 - 1 / DAY)
    shop.take_next_step()
    assert shop.said() == []
    wait(shop, 1 / DAY)
    shop.take_next_step(notified=["shop"])
    shop.take_next_step()
    wait(shop, 7 - 1 / DAY)
    shop.take_next_step()
    assert shop.has_secret()

    wait(shop, 1 / DAY)
    shop.take_next_step(expired=["shop"])
    assert not shop.has_secret()
    assert shop.hand_over().status is HandOverStatus.EXPIRED
    shop.core.calls.clear()
    shop.take_next_step()
    assert shop.core.changes() == []
    told, ended = shop.notices()
    assert (told.status, ended.status) == (API_KEYS_EXPIRING, API_KEYS_EXPIRED)
    assert told.deadline == ended.deadline == claim_before
    # They stay valid: who has read the secret without claiming it has them.
    assert {key["status"] for key in shop.core.stored_keys()} == {"ACTIVE"}


def test_nothing_expires_before_its_time_whoever_asks_for_it(shop: Shop) -> None:
    waiting = shop.hand_over()
    early = waiting.claim_before - timedelta(microseconds=1)
    for now, is_written in ((early, False), (waiting.claim_before, True)):
        work = shop.core.jobs.work()
        work.also([shop.core.hand_overs.build_expiry(waiting, now, now)])
        assert work.write_if_it_holds() is is_written


def test_a_claim_in_time_ends_it(shop: Shop) -> None:
    assert len(shop.claim()) == 2
    assert shop.hand_over().status is HandOverStatus.CLAIMED

    wait(shop, 100)
    shop.core.calls.clear()
    shop.take_next_step()

    assert [name for name, _ in shop.core.calls] == ["dynamodb.Query"] * 4
    assert shop.said() == []


def test_a_claim_that_comes_too_late_says_so_and_a_rotation_gives_new_keys(shop: Shop) -> None:
    expire(shop)

    with pytest.raises(
        api.ApiKeysNotClaimableError,
        match="shop: its API keys expired on 2026-03-02, since nobody had claimed them; rotate",
    ):
        shop.claim()

    output = shop.rotate()
    claim_before = shop.core.clock() + timedelta(days=30)
    assert datetime.fromisoformat(output["api_keys_claim_before"]) == claim_before
    new = shop.claim()
    assert [api.verify_api_key(key) is not None for key in new] == [True, True]
    with pytest.raises(api.ApiKeysNotClaimableError, match="claimed before"):
        shop.claim()


def test_a_new_set_has_its_own_time(shop: Shop) -> None:
    wait(shop, 29)
    shop.take_next_step(notified=["shop"])
    shop.rotate()
    wait(shop, 22)
    shop.take_next_step()
    wait(shop, 1)
    shop.take_next_step(notified=["shop"])
    wait(shop, 7)
    shop.take_next_step(expired=["shop"])
    assert sorted(shop.said()) == [API_KEYS_EXPIRED, *[API_KEYS_EXPIRING] * 2]


def test_a_run_of_the_stage_that_is_repeated_counts_the_time_once(shop: Shop) -> None:
    before = shop.hand_over()
    shop.core.clock.advance()
    payload = dict(new_job().payload)
    job = JobInput(job_id="shop-1", job_type="provision_project", payload=payload, attempt=2)
    shop.hold("shop-1", ProjectStatus.PROVISIONING)

    outcome = ensure_api_keys(
        job,
        secrets_manager=shop.core.client("secretsmanager"),
        kms_key_arn=None,
        store=shop.core.api_keys,
        hand_overs=shop.core.hand_overs,
        projects=shop.core.projects,
        naming=NAMING,
        clock=shop.core.clock,
    )

    assert shop.hand_over() == before
    assert datetime.fromisoformat(outcome.output["claim_before"]) == before.claim_before


def test_a_job_that_takes_up_the_keys_of_one_that_failed_begins_the_time_anew(shop: Shop) -> None:
    wait(shop, 29)
    shop.provision()

    assert shop.hand_over().claim_before == shop.core.clock() + timedelta(days=30)
    assert shop.hand_over().job_id == "shop-2"


def test_what_a_job_holds_is_let_be(shop: Shop) -> None:
    wait(shop, 23)
    shop.run()
    wait(shop, 7)
    shop.hold("rotation-1")
    shop.take_next_step()
    assert shop.has_secret()
    assert shop.hand_over().status is HandOverStatus.WAITING

    shop.hold(None)
    shop.take_next_step(expired=["shop"])


#: The calls of a run that deletes a secret which change something.
CALLS = ("dynamodb.TransactWriteItems", "secrets-manager.DeleteSecret")


@pytest.mark.parametrize("operation", [*CALLS, "secrets-manager.DescribeSecret"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_run_that_dies_is_ended_by_the_next(shop: Shop, operation: str, number: int) -> None:
    wait(shop, 23)
    shop.run()
    wait(shop, 7)
    refused = aws_error("AccessDeniedException")
    calls = itertools.count(1)
    shop.core.answers[operation] = lambda given: refused(given) if next(calls) == number else None
    if (operation, number) == ("secrets-manager.DeleteSecret", 2):
        shop.take_next_step(expired=["shop"])
    else:
        with pytest.raises((ProvisioningError, ClientError)):
            shop.run()
        shop.core.answers.clear()
        shop.take_next_step(expired=["shop"])

    assert not shop.has_secret()
    assert shop.said() == [API_KEYS_EXPIRING, API_KEYS_EXPIRED]
    assert shop.hand_over().due_at is None


def test_an_answer_that_got_lost_tells_nothing_twice(shop: Shop) -> None:
    transact = shop.core.client("dynamodb").transact_write_items
    for days in (23, 7):
        wait(shop, days)
        shop.core.answers["dynamodb.TransactWriteItems"] = answer_lost(transact)
        with pytest.raises(ReadTimeoutError):
            shop.run()
        shop.core.answers.clear()
        shop.run()

    assert shop.said() == [API_KEYS_EXPIRING, API_KEYS_EXPIRED]
    assert not shop.has_secret()


def test_two_runs_at_once_do_each_thing_once(shop: Shop) -> None:

    def run_later() -> None:
        shop.core.clock.advance()
        shop.run()

    for days in (23, 7):
        wait(shop, days)
        shop.core.answers["dynamodb.TransactWriteItems"] = meanwhile(run_later)
        shop.run()
        shop.core.answers.clear()

    assert shop.said() == [API_KEYS_EXPIRING, API_KEYS_EXPIRED]
    assert not shop.has_secret()


def test_a_run_does_not_end_what_another_has_begun_anew(shop: Shop) -> None:
    """The other one may still delete a secret of that name: a rotation has to wait for its end."""
    wait(shop, 23)
    shop.run()
    wait(shop, 7)

    def begin_and_die() -> None:
        shop.core.clock.advance()
        # Its second look follows its first write.
        looks = itertools.count(1)
        denied = aws_error("AccessDeniedException")
        shop.core.answers["secrets-manager.DescribeSecret"] = lambda given: (
            denied(given) if next(looks) == 2 else None
        )
        with pytest.raises(ProvisioningError):
            shop.run()

    shop.core.answers["dynamodb.TransactWriteItems"] = meanwhile(begin_and_die, before=2)
    shop.take_next_step()
    shop.core.answers.clear()

    assert shop.hand_over().status is HandOverStatus.EXPIRING
    with pytest.raises(ProvisioningError, match="is being deleted"):
        shop.rotate()
    shop.hold(None)
    shop.take_next_step(expired=["shop"])
    shop.rotate()


def test_a_claim_that_has_begun_is_let_be_for_a_day(shop: Shop) -> None:
    wait(shop, 23)
    shop.run()
    wait(shop, 7)

    def claim(keys: Any) -> None:
        assert len(keys) == 2
        shop.take_next_step()
        assert shop.has_secret()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.claim_api_keys("shop", claim)
    wait(shop, 0.99)
    shop.take_next_step()
    assert len(shop.claim()) == 2
    assert shop.said() == [API_KEYS_EXPIRING]


def test_a_claim_that_was_given_up_keeps_the_secret_for_no_longer(shop: Shop) -> None:
    wait(shop, 29)
    shop.run()

    def give_up(_keys: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.claim_api_keys("shop", give_up)
    wait(shop, 1)
    shop.take_next_step(expired=["shop"])


@pytest.mark.parametrize("operation", CALLS)
def test_a_claim_and_the_end_at_the_same_moment(shop: Shop, operation: str) -> None:
    """Whichever writes first wins; a claim hands over the keys, or says that it is too late."""
    wait(shop, 23)
    shop.run()
    wait(shop, 7)
    claimed: list[list[str]] = []
    refused: list[str] = []

    def claim() -> None:
        try:
            claimed.append(shop.claim())
        except api.ApiKeysNotClaimableError as error:
            refused.append(str(error))

    shop.core.answers[operation] = meanwhile(claim)
    shop.run()

    assert len(claimed) + len(refused) == 1
    is_claimed = shop.hand_over().status is HandOverStatus.CLAIMED
    assert bool(claimed) == is_claimed == (operation == CALLS[0])
    assert not shop.has_secret()
    assert shop.said() == [API_KEYS_EXPIRING] + ([] if is_claimed else [API_KEYS_EXPIRED])


def test_a_claim_that_has_read_the_secret_before_it_was_deleted_hands_nothing_over(
    shop: Shop,
) -> None:
    wait(shop, 23)
    shop.run()
    wait(shop, 7)
    # The first transaction of a claim begins it: the secret is read by then.
    shop.core.answers["dynamodb.TransactWriteItems"] = meanwhile(shop.run)

    with pytest.raises(api.ApiKeysNotClaimableError, match="expired on"):
        shop.claim()
    assert shop.hand_over().status is HandOverStatus.EXPIRED


def test_a_claim_that_died_after_the_secret_was_deleted_is_one(shop: Shop) -> None:
    delete = answer_lost(shop.core.client("secretsmanager").delete_secret)
    shop.core.answers["secrets-manager.DeleteSecret"] = delete
    with pytest.raises(ProvisioningError):
        shop.claim()
    shop.core.answers.clear()
    assert shop.hand_over().status is HandOverStatus.WAITING
    with pytest.raises(api.ApiKeysNotClaimableError, match="claimed before"):
        shop.claim()

    wait(shop, 23)
    shop.take_next_step()
    assert shop.hand_over().status is HandOverStatus.CLAIMED
    wait(shop, 100)
    shop.take_next_step()
    assert shop.said() == []


def work_of(shop: Shop) -> dict[str, Callable[[], object]]:
    """Return what jobs do to the secret."""
    return {"provision": shop.provision, "rotate": shop.rotate, "remove": shop.remove}


@pytest.mark.parametrize("work", ["provision", "rotate", "remove"])
def test_a_job_waits_until_nobody_deletes_the_secret_any_more(shop: Shop, work: str) -> None:
    """A function that has begun to delete it, and whose end nobody knows, may do so late."""
    wait(shop, 23)
    shop.run()
    wait(shop, 7)
    shop.core.answers["secrets-manager.DeleteSecret"] = aws_error("AccessDeniedException")
    with pytest.raises(ProvisioningError):
        shop.run()
    shop.core.answers.clear()

    shop.core.clock.advance(LEASE - 1)
    with pytest.raises(ProvisioningError) as raised:
        work_of(shop)[work]()
    assert raised.value.type is ErrorType.TIMEOUT
    shop.core.clock.advance(1)
    work_of(shop)[work]()
    if work == "remove":
        assert shop.core.scan("ApiKeysTable") == []
    else:
        shop.hold(None)
        assert len(shop.claim()) == 2


def test_a_rotation_that_begins_while_the_secret_is_deleted_loses_no_keys(shop: Shop) -> None:
    wait(shop, 23)
    shop.run()
    wait(shop, 7)
    types: list[ErrorType] = []

    def rotate() -> None:
        with pytest.raises(ProvisioningError) as raised:
            shop.rotate()
        types.append(raised.value.type)

    shop.core.answers["secrets-manager.DeleteSecret"] = meanwhile(rotate)
    shop.take_next_step(expired=["shop"])

    assert types == [ErrorType.TIMEOUT]
    shop.rotate()
    assert len(shop.claim()) == 2


@pytest.mark.parametrize("tags", [{}, {"provisioner:managed-by": "other-123456789012"}])
def test_a_secret_that_is_not_ours_stays(shop: Shop, tags: dict[str, str]) -> None:
    manager = shop.core.client("secretsmanager")
    manager.delete_secret(SecretId=shop.secret, ForceDeleteWithoutRecovery=True)
    all_tags = {**NAMING.owner("shop", "job-1").tags(), **tags} if tags else {}
    manager.create_secret(Name=shop.secret, SecretString="{}", Tags=tag_list(all_tags))

    wait(shop, 23)
    shop.take_next_step()
    wait(shop, 7)
    shop.take_next_step()

    assert shop.has_secret()
    assert shop.said() == []


def test_what_the_index_shows_late_changes_nothing(shop: Shop) -> None:
    wait(shop, 30)
    (listed,) = (item for item in shop.core.scan("ApiKeysTable") if "due_under" in item)
    shop.rotate()

    def answer(given: Any) -> tuple[int, dict[str, Any]] | None:
        if given["ExpressionAttributeValues"][":partition"]["S"] != listed["due_under"]:
            return None
        return 200, {"Items": [dynamodb.to_item(listed)], "Count": 1}

    shop.core.answers["dynamodb.Query"] = answer
    assert list(shop.core.hand_overs.list_due(shop.core.clock())) == ["shop"]
    shop.take_next_step()
    shop.core.answers.clear()

    assert shop.has_secret()
    assert shop.said() == []


def test_a_project_whose_keys_are_removed_has_nothing_due(shop: Shop) -> None:
    shop.remove()
    wait(shop, 100)
    shop.take_next_step()
    assert shop.core.scan("ApiKeysTable") == []


def test_the_cost_does_not_grow_with_what_is_not_due(core: Core, connected: object) -> None:
    del connected
    due = [Shop(core, f"due-{number}") for number in range(3)]
    for shop in due:
        shop.provision()
    core.clock.advance(DAY)
    for number in range(40):
        Shop(core, f"later-{number}").provision()
    core.clock.advance(22 * DAY)
    core.calls.clear()

    assert sorted(due[0].run()["notified"]) == ["due-0", "due-1", "due-2"]

    of_index = core.calls_of("dynamodb.Query")
    assert {call["IndexName"] for call in of_index} == {"unclaimed"}
    assert len(of_index) == 4
    assert len(core.calls_of("dynamodb.GetItem")) == 3
    assert len(core.calls_of("secrets-manager.DescribeSecret")) == 3
    assert len(core.calls_of("dynamodb.TransactWriteItems")) == 3
    assert len(core.calls) == 4 + 3 * 3


def test_a_run_ends_when_its_time_does_and_the_next_goes_on(shop: Shop) -> None:
    others = [Shop(shop.core, f"shop-{number}") for number in range(2)]
    for other in others:
        shop.core.clock.advance()
        other.provision()
    wait(shop, 23)
    left = itertools.chain([60.0, 60.0], itertools.repeat(29.0))

    assert shop.run(lambda: next(left)) == {
        "notified": ["shop", "shop-0"],
        "expired": [],
        "has_seen_all": False,
    }
    shop.take_next_step(notified=["shop-1"])


def failing(name: str) -> Answer:
    """Refuse what is asked of one secret."""
    refused = aws_error("AccessDeniedException")
    return lambda given: refused(given) if f"/{name}/" in str(given) else None


def test_what_fails_does_not_keep_the_others(shop: Shop) -> None:
    other = Shop(shop.core, "other")
    shop.core.clock.advance()
    other.provision()
    wait(shop, 23)
    shop.run()
    wait(shop, 7)
    shop.core.answers["secrets-manager.DeleteSecret"] = failing(shop.secret.split("/")[1])

    with pytest.raises(ProvisioningError) as raised:
        shop.run()

    assert raised.value.type is ErrorType.INSUFFICIENT_PERMISSIONS
    assert (shop.has_secret(), other.has_secret()) == (True, False)


@pytest.mark.usefixtures("shop")
def test_the_function_does_what_the_schedule_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "JOBS_TABLE": "JobsTable",
        "PROJECTS_TABLE": "ProjectsTable",
        "API_KEYS_TABLE": "ApiKeysTable",
        "RESOURCE_PREFIX": "nm",
        "RESOURCE_NAMESPACE": NAMING.namespace,
    }.items():
        monkeypatch.setenv(name, value)
    context: Any = SimpleNamespace(get_remaining_time_in_millis=lambda: 60_000)

    # They were made in a January that is over; the first step is a notice.
    run = api_keys.build()
    assert run({"task": EXPIRE_UNCLAIMED_KEYS}, context) == {
        "notified": ["shop"],
        "expired": [],
        "has_seen_all": True,
    }
