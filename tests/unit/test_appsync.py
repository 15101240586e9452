"""The driver of AWS AppSync."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from moto.appsync.models import appsync_backends
from provisioner.drivers import appsync
from provisioner.drivers.appsync import EventApi
from provisioner.drivers.drift import MADE_AGAIN, Drift, Repairs
from provisioner.errors import ErrorType
from provisioner.ownership import Ownership
from support.core import ACCOUNT, REGION, Core, answer_lost, aws_error, meanwhile, times
from support.drivers import FOREIGN, LATER, OWNER, each_foreign, errors, refused, told_only

IAM = [{"authType": "AWS_IAM"}]

#: What a project's API is made with.
EVENT_CONFIG = {
    "authProviders": IAM,
    "connectionAuthModes": IAM,
    "defaultPublishAuthModes": IAM,
    "defaultSubscribeAuthModes": IAM,
}

#: Every operation of a first run, in the order in which they are first called.
OPERATIONS = [
    "ListApis",
    "CreateApi",
    "GetApi",
    "ListChannelNamespaces",
    "CreateChannelNamespace",
]


@dataclass
class Realtime:
    """The project's part of AppSync."""

    core: Core

    @property
    def client(self) -> Any:
        return self.core.client("appsync")

    def ensure(self, owner: Ownership = OWNER) -> EventApi:
        return appsync.ensure_event_api(
            self.client, name="nm-shop", namespace="default", owner=owner
        )

    def check(self, api: EventApi) -> str:
        return appsync.check_event_api(self.client, api, "default", OWNER)

    def make_api(self, tags: dict[str, str], name: str = "nm-shop") -> str:
        api_id: str = self.client.create_api(name=name, tags=tags, eventConfig=EVENT_CONFIG)["api"][
            "apiId"
        ]
        return api_id

    def apis(self) -> dict[str, dict[str, Any]]:
        listed = self.client.list_apis()["apis"]
        return {api["apiId"]: self.client.get_api(apiId=api["apiId"])["api"] for api in listed}

    def namespaces(self, api_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.list_channel_namespaces(apiId=api_id)[
            "channelNamespaces"
        ]
        return found


def set_age(api_id: str, year: int) -> None:
    """Give an API the date at which it was made."""
    date = datetime(year, 1, 1, tzinfo=UTC)
    appsync_backends[ACCOUNT][REGION].events_apis[api_id].created = date


def event_config(api_id: str) -> dict[str, Any]:
    """Return where moto keeps the configuration of an API."""
    found = appsync_backends[ACCOUNT][REGION].events_apis[api_id].event_config
    assert found is not None
    return found


def update_api(parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Do what AppSync does and moto does not: the configuration is replaced whole."""
    api = appsync_backends[ACCOUNT][REGION].events_apis[parameters["apiId"]]
    api.name, api.owner_contact = parameters["name"], parameters.get("ownerContact")
    api.event_config = dict(parameters["eventConfig"])
    return 200, {"api": {"apiId": api.api_id}}


@pytest.fixture
def realtime(core: Core) -> Iterator[Realtime]:
    """Return the project's part; ListApis "returns only the high level API details"."""
    core.answers["appsync.UpdateApi"] = update_api
    with told_only(core.client("appsync"), "ListApis", "apis", "apiId", "name"):
        yield Realtime(core)


def test_a_project_gets_an_api_and_a_channel_namespace(realtime: Realtime) -> None:
    api = realtime.ensure()
    (made,) = realtime.apis().values()
    assert api.api_id == made["apiId"]
    assert api.http_endpoint == f"https://{made['dns']['HTTP']}/event"
    assert api.realtime_endpoint == f"wss://{made['dns']['REALTIME']}/event/realtime"
    assert made["tags"] == OWNER.tags()
    assert made["eventConfig"] == EVENT_CONFIG
    (namespace,) = realtime.namespaces(api.api_id)
    assert (namespace["name"], namespace["tags"]) == ("default", OWNER.tags())
    assert realtime.check(api) == f"Event API {api.api_id} and its namespace default answered"


@pytest.mark.parametrize("owner", [OWNER, LATER], ids=["again", "of_a_later_job"])
def test_a_second_run_only_looks(realtime: Realtime, owner: Ownership) -> None:
    api = realtime.ensure()
    before = realtime.apis(), realtime.namespaces(api.api_id)
    realtime.core.calls.clear()
    assert realtime.ensure(owner) == api
    realtime.check(api)
    assert realtime.core.changes() == []
    assert (realtime.apis(), realtime.namespaces(api.api_id)) == before


def ensure_first(realtime: Realtime, made: list[Any] | None = None) -> EventApi:
    """Ensure as the first run of a project's first job does: nothing can be there."""
    return appsync.ensure_event_api(
        realtime.client,
        name="nm-shop",
        namespace="default",
        owner=OWNER,
        may_exist=False,
        made=(made if made is not None else []).append,
    )


def test_where_none_can_be_there_an_api_is_made_without_a_look_at_the_others(
    realtime: Realtime,
) -> None:
    realtime.make_api({}, name="of-another")
    realtime.core.calls.clear()
    made: list[Any] = []
    api = ensure_first(realtime, made)
    realtime.check(api)
    assert [name for name, _ in realtime.core.calls] == [
        "appsync.CreateApi",
        "appsync.CreateChannelNamespace",
        "appsync.GetApi",
        "appsync.ListChannelNamespaces",
    ]
    assert len(made) == 1
    again = realtime.ensure()
    assert again == api
    assert (api.is_only, again.is_only) == (True, False)


def test_an_api_that_a_repeated_request_may_have_made_twice_is_there_once(
    realtime: Realtime,
) -> None:
    """The SDK has sent it again: its answer does not say that it was sent once."""

    def arrive_twice(parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        del realtime.core.answers["appsync.CreateApi"]
        realtime.client.create_api(**parameters)
        return 200, realtime.client.create_api(**parameters)

    realtime.core.answers["appsync.CreateApi"] = arrive_twice
    api = ensure_first(realtime)
    assert list(realtime.apis()) == [api.api_id]
    assert len(realtime.namespaces(api.api_id)) == 1


@pytest.mark.parametrize("is_kept_known", [True, False])
@pytest.mark.parametrize("is_ours_kept", [True, False])
def test_of_two_runs_apis_the_one_that_is_the_project_s_stays(
    realtime: Realtime, *, is_kept_known: bool, is_ours_kept: bool
) -> None:
    made: list[Any] = []
    ours = ensure_first(realtime, made).api_id
    theirs = realtime.make_api(OWNER.tags())
    set_age(ours, 2025 if is_ours_kept else 2027)
    set_age(theirs, 2026)
    kept = ours if is_ours_kept else theirs
    (keep_one,) = made
    keep_one(kept if is_kept_known else "")
    assert set(realtime.apis()) == ({ours, theirs} if is_ours_kept else {theirs})


def test_an_api_that_is_told_of_without_the_marker_is_a_conflict(realtime: Realtime) -> None:
    api = realtime.ensure()
    realtime.client.untag_resource(
        resourceArn=realtime.apis()[api.api_id]["apiArn"], tagKeys=list(OWNER.tags())
    )
    assert refused(lambda: realtime.check(api)).type is ErrorType.CONFLICT


def test_a_namespace_that_is_missing_is_made_in_the_api_that_is_there(realtime: Realtime) -> None:
    api = realtime.ensure()
    realtime.client.delete_channel_namespace(apiId=api.api_id, name="default")
    realtime.client.create_channel_namespace(apiId=api.api_id, name="of-the-customer")
    error = refused(lambda: realtime.check(api))
    assert error.type is ErrorType.SERVICE_REGISTRATION_FAILED
    assert error.cause == f"API {api.api_id}: no namespace default"
    realtime.core.calls.clear()
    assert realtime.ensure() == api
    assert realtime.core.changes() == ["appsync.CreateChannelNamespace"]
    found = {namespace["name"] for namespace in realtime.namespaces(api.api_id)}
    assert found == {"default", "of-the-customer"}


@each_foreign
def test_a_foreign_api_of_the_name_is_a_conflict_and_stays(
    realtime: Realtime, tags: dict[str, str]
) -> None:
    realtime.make_api(tags)
    before = realtime.apis()
    realtime.core.calls.clear()
    error = refused(realtime.ensure)
    assert (error.type, error.message) == (
        ErrorType.CONFLICT,
        "An Event API named nm-shop exists and is not this project's; remove or rename it.",
    )
    assert realtime.core.changes() == []
    assert realtime.apis() == before


def test_apis_that_are_not_the_project_s_are_left_beside_its_own(realtime: Realtime) -> None:
    api = realtime.ensure()
    realtime.make_api(FOREIGN["of_another_project"])
    realtime.make_api(OWNER.tags(), name="nm-shop-2")
    realtime.core.calls.clear()
    assert realtime.ensure() == api
    assert realtime.core.changes() == []


def test_another_run_s_api_is_kept_if_it_is_older_and_only_ours_goes(realtime: Realtime) -> None:
    others: list[EventApi] = []
    realtime.core.answers["appsync.CreateApi"] = meanwhile(lambda: others.append(realtime.ensure()))
    api = realtime.ensure()
    assert [api] == others
    assert list(realtime.apis()) == [api.api_id]
    (deleted,) = realtime.core.calls_of("appsync.DeleteApi")
    assert deleted["apiId"] != api.api_id


def test_our_api_is_kept_if_it_is_older_and_another_run_s_is_left_to_it(
    realtime: Realtime,
) -> None:
    others: list[str] = []
    realtime.core.answers["appsync.ListApis"] = meanwhile(
        lambda: others.append(realtime.make_api(OWNER.tags())), before=2
    )
    api = realtime.ensure()
    assert set(realtime.apis()) == {api.api_id, *others}
    assert realtime.core.calls_of("appsync.DeleteApi") == []
    assert realtime.ensure() == api


def test_of_apis_of_one_age_every_run_takes_the_same(realtime: Realtime) -> None:
    made = [realtime.make_api(OWNER.tags()) for _ in range(3)]
    for api_id in made:
        set_age(api_id, 2026)
    assert realtime.ensure().api_id == min(made)
    set_age(max(made), 2025)
    assert realtime.ensure().api_id == max(made)


def test_an_api_that_goes_while_it_is_looked_at_is_not_there(realtime: Realtime) -> None:
    """Another run lost, and removes its own."""
    lost = realtime.make_api(OWNER.tags())
    realtime.core.answers["appsync.GetApi"] = meanwhile(
        lambda: realtime.client.delete_api(apiId=lost)
    )
    api = realtime.ensure()
    assert list(realtime.apis()) == [api.api_id]


@pytest.mark.parametrize("tags", [OWNER.tags(), *FOREIGN.values()])
def test_an_api_whose_tags_are_not_told_is_asked_for_them(
    realtime: Realtime, tags: dict[str, str]
) -> None:
    api_id = realtime.make_api(tags)
    realtime.core.calls.clear()

    def leave_out(parsed: dict[str, Any], **_details: Any) -> None:
        parsed["api"].pop("tags", None)

    realtime.client.meta.events.register("after-call.appsync.GetApi", leave_out)
    try:
        if tags == OWNER.tags():
            assert realtime.ensure(LATER).api_id == api_id
        else:
            assert refused(realtime.ensure).type is ErrorType.CONFLICT
            assert realtime.core.changes() == []
    finally:
        realtime.client.meta.events.unregister("after-call.appsync.GetApi", leave_out)
    assert len(realtime.core.calls_of("appsync.ListTagsForResource")) == 1


def test_an_api_that_may_not_be_looked_at_is_neither_ours_nor_gone(realtime: Realtime) -> None:
    realtime.make_api(OWNER.tags())
    realtime.core.calls.clear()
    for operation in ("ListApis", "GetApi"):
        realtime.core.answers[f"appsync.{operation}"] = aws_error("AccessDeniedException", 403)
        assert refused(realtime.ensure).type is ErrorType.INSUFFICIENT_PERMISSIONS
        del realtime.core.answers[f"appsync.{operation}"]
    assert realtime.core.changes() == []


def test_a_namespace_that_another_run_makes_meanwhile_is_taken(realtime: Realtime) -> None:
    """AppSync refuses a second one of the name; moto does not."""

    def another_run_makes_it(parameters: Any) -> tuple[int, dict[str, Any]]:
        realtime.core.answers.clear()
        realtime.client.create_channel_namespace(**parameters)
        return 409, {"Error": {"Code": "ConflictException", "Message": "It exists."}}

    realtime.core.answers["appsync.CreateChannelNamespace"] = another_run_makes_it
    api = realtime.ensure()
    assert [namespace["name"] for namespace in realtime.namespaces(api.api_id)] == ["default"]


def test_a_namespace_that_is_refused_and_not_there_is_an_error(realtime: Realtime) -> None:
    realtime.core.answers["appsync.CreateChannelNamespace"] = times(
        1, aws_error("ConflictException", 409)
    )
    error = refused(realtime.ensure)
    assert error.type is ErrorType.SERVICE_REGISTRATION_FAILED
    assert error.cause == "CreateChannelNamespace: ConflictException: made by a test"


@pytest.mark.parametrize("setting", EVENT_CONFIG)
def test_a_setting_that_has_drifted_is_seen_and_put_right(realtime: Realtime, setting: str) -> None:
    api = realtime.ensure()
    of_the_customer = {"logLevel": "ERROR", "cloudWatchLogsRoleArn": "arn:aws:iam::1:role/logs"}
    event_config(api.api_id)["logConfig"] = of_the_customer
    before = realtime.apis()
    event_config(api.api_id)[setting] = [*IAM, {"authType": "API_KEY"}]
    error = refused(lambda: realtime.check(api))
    assert (error.type, error.cause) == (
        ErrorType.SERVICE_REGISTRATION_FAILED,
        f"API {api.api_id}: {setting}",
    )
    realtime.core.calls.clear()
    assert realtime.ensure(LATER) == api
    assert realtime.core.changes() == ["appsync.UpdateApi"]
    realtime.check(api)
    assert realtime.apis() == before
    realtime.core.calls.clear()
    realtime.ensure()
    assert realtime.core.changes() == []


def test_an_error_of_a_repair_is_understood_and_the_next_run_goes_through(
    realtime: Realtime,
) -> None:
    api = realtime.ensure()
    event_config(api.api_id)["connectionAuthModes"] = []
    for answer, expected in errors(ErrorType.SERVICE_REGISTRATION_FAILED).values():
        realtime.core.answers["appsync.UpdateApi"] = answer
        assert refused(realtime.ensure).type is expected
    realtime.core.answers["appsync.UpdateApi"] = update_api
    assert realtime.ensure() == api
    realtime.check(api)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_error_of_any_call_is_understood_and_the_next_run_goes_through(
    realtime: Realtime, operation: str
) -> None:
    def run() -> EventApi:
        api = realtime.ensure()
        realtime.check(api)
        return api

    for answer, expected in errors(ErrorType.SERVICE_REGISTRATION_FAILED).values():
        realtime.core.answers[f"appsync.{operation}"] = answer
        error = refused(run)
        assert error.type is expected
        assert "made by a test" not in error.message
    realtime.core.answers.clear()
    api = run()
    assert len(realtime.namespaces(api.api_id)) == 1


def test_a_first_run_calls_these_operations(realtime: Realtime) -> None:
    realtime.check(realtime.ensure())
    called = list(dict.fromkeys(name for name, _ in realtime.core.calls))
    assert called == [f"appsync.{operation}" for operation in OPERATIONS]


@pytest.mark.parametrize("operation", ["CreateApi", "CreateChannelNamespace"])
def test_a_run_whose_answer_is_lost_makes_no_second_one(realtime: Realtime, operation: str) -> None:
    method = {
        "CreateApi": realtime.client.create_api,
        "CreateChannelNamespace": realtime.client.create_channel_namespace,
    }[operation]
    realtime.core.answers[f"appsync.{operation}"] = answer_lost(method)
    assert refused(realtime.ensure).type is ErrorType.TIMEOUT
    api = realtime.ensure()
    assert list(realtime.apis()) == [api.api_id]
    assert len(realtime.namespaces(api.api_id)) == 1


def repair(realtime: Realtime, api: EventApi, owner: Ownership = LATER) -> Repairs:
    return appsync.repair_event_api(
        realtime.client, api_id=api.api_id, namespace="default", owner=owner
    )


def test_a_repair_of_what_is_right_only_looks(realtime: Realtime) -> None:
    api = realtime.ensure()
    realtime.core.calls.clear()
    checked = f"Event API {api.api_id} and its namespace default answered"
    assert repair(realtime, api) == Repairs((), (), checked)
    assert [name for name, _ in realtime.core.calls] == [
        "appsync.GetApi",
        "appsync.ListChannelNamespaces",
    ]


def test_a_repair_puts_right_what_has_drifted_and_says_what_it_was(realtime: Realtime) -> None:
    api = realtime.ensure()
    for setting in EVENT_CONFIG:
        event_config(api.api_id)[setting] = [*IAM, {"authType": "API_KEY"}]
    realtime.client.delete_channel_namespace(apiId=api.api_id, name="default")
    repairs = repair(realtime, api)
    assert set(repairs.repaired) == {
        *(Drift(f"Event API {api.api_id}", setting) for setting in EVENT_CONFIG),
        Drift("channel namespace default", MADE_AGAIN),
    }
    assert repairs.remaining == ()
    realtime.check(api)
    realtime.core.calls.clear()
    assert repair(realtime, api).repaired == ()
    assert realtime.core.changes() == []


def test_a_repair_does_not_claim_what_the_service_does_not_show(realtime: Realtime) -> None:
    api = realtime.ensure()
    event_config(api.api_id)["connectionAuthModes"] = [{"authType": "API_KEY"}]
    realtime.core.answers["appsync.UpdateApi"] = lambda _parameters: (200, {})
    repairs = repair(realtime, api)
    assert repairs.repaired == ()
    assert [(r.resource, r.what) for r in repairs.remaining] == [
        (f"Event API {api.api_id}", "connectionAuthModes")
    ]


def test_a_repair_makes_no_missing_api_and_takes_no_other(realtime: Realtime) -> None:
    api = realtime.ensure()
    realtime.client.delete_api(apiId=api.api_id)
    realtime.make_api(OWNER.tags())
    realtime.core.calls.clear()
    error = refused(lambda: repair(realtime, api))
    assert error.type is ErrorType.SERVICE_REGISTRATION_FAILED
    assert api.api_id in error.message
    assert realtime.core.changes() == []


@each_foreign
def test_a_repair_leaves_an_api_that_is_not_the_project_s(
    realtime: Realtime, tags: dict[str, str]
) -> None:
    api = realtime.ensure()
    event_config(api.api_id)["connectionAuthModes"] = []
    theirs = Ownership("other-123456789012", "shop", "job-1")
    realtime.core.calls.clear()
    assert refused(lambda: repair(realtime, api, theirs)).type is ErrorType.CONFLICT
    made = realtime.make_api(tags)
    realtime.core.calls.clear()
    error = refused(lambda: repair(realtime, replace(api, api_id=made)))
    assert (error.type, realtime.core.changes()) == (ErrorType.CONFLICT, [])


def test_an_error_of_a_call_of_a_repair_is_understood(realtime: Realtime) -> None:
    api = realtime.ensure()
    event_config(api.api_id)["connectionAuthModes"] = []
    for operation in ("GetApi", "UpdateApi", "ListChannelNamespaces"):
        for answer, expected in errors(ErrorType.SERVICE_REGISTRATION_FAILED).values():
            realtime.core.answers[f"appsync.{operation}"] = answer
            assert refused(lambda: repair(realtime, api)).type is expected
        realtime.core.answers["appsync.UpdateApi"] = update_api
        realtime.core.answers.pop("appsync.GetApi", None)
    realtime.core.answers.pop("appsync.ListChannelNamespaces", None)
