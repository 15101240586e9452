"""AWS AppSync: one Event API and one channel namespace a project.

CreateApi has no client token and names need not be unique; see `same_named`. Where no API can be
there, none is looked for: that list is of all APIs of the account. It tells only the names for
sure: whose an API is, and how old, GetApi says.
Source: AWS AppSync API Reference.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from provisioner.aws_types import ApiTypeDef, AppSyncClient, EventConfigTypeDef
from provisioner.drivers.aws_errors import translate_errors
from provisioner.drivers.drift import (
    MADE_AGAIN,
    NOT_TOLD_YET,
    Drift,
    Repairs,
    build_update,
    drifts_of,
    find_drift,
)
from provisioner.drivers.same_named import Made, SameNamed, ignore
from provisioner.errors import ErrorType, failure
from provisioner.ownership import Claim, Ownership

#: Requests are signed, so that no key comes into being that would have to be kept.
_SIGNED: Any = [{"authType": "AWS_IAM"}]

#: What every API of ours has, and gets back where it has drifted.
_EVENT_CONFIG: EventConfigTypeDef = {
    "authProviders": _SIGNED,
    "connectionAuthModes": _SIGNED,
    "defaultPublishAuthModes": _SIGNED,
    "defaultSubscribeAuthModes": _SIGNED,
}


@dataclass(frozen=True, slots=True)
class EventApi:
    """An Event API."""

    api_id: str
    http_endpoint: str
    realtime_endpoint: str
    #: Whether it was made in this call, by one request, where none could be there.
    is_only: bool = field(default=False, compare=False)


@translate_errors(ErrorType.SERVICE_REGISTRATION_FAILED, "register realtime")
def ensure_event_api(
    client: AppSyncClient,
    *,
    name: str,
    namespace: str,
    owner: Ownership,
    may_exist: bool = True,
    made: Made = ignore,
) -> EventApi:
    """Return the project's Event API with its channel namespace.

    What is missing is made, and what has drifted is put right.

    Args:
        client: AppSync in the API's region.
        name: the API's name.
        namespace: the namespace's name.
        owner: the marker of what the job makes.
        may_exist: as of `SameNamed.ensure`.
        made: likewise.

    Raises:
        CONFLICT: an API of that name is not the project's.
        ProvisioningError: as `translate_errors` says.
    """
    api, is_only = _apis(client, name, owner.owns).ensure(
        lambda: client.create_api(name=name, tags=owner.tags(), eventConfig=_EVENT_CONFIG),
        may_exist=may_exist,
        made=made,
    )
    if is_only:
        _make_namespace(client, api["apiId"], namespace, owner)
    else:
        _put_right(client, api, namespace, owner)
    return EventApi(
        api_id=api["apiId"],
        http_endpoint=f"https://{api['dns']['HTTP']}/event",
        realtime_endpoint=f"wss://{api['dns']['REALTIME']}/event/realtime",
        is_only=is_only,
    )


@translate_errors(ErrorType.SERVICE_REGISTRATION_FAILED, "repair realtime")
def repair_event_api(
    client: AppSyncClient, *, api_id: str, namespace: str, owner: Ownership
) -> Repairs:
    """Put right what has drifted of the project's Event API and its channel namespace.

    A namespace that is missing is made again: it holds nothing, and has no id.

    Args:
        client: AppSync in the API's region.
        api_id: the API.
        namespace: the namespace's name.
        owner: whose the API must be.

    Raises:
        SERVICE_REGISTRATION_FAILED: the API is not there.
        CONFLICT: it is not the project's.
        ProvisioningError: as `translate_errors` says.
    """
    api = _apis(client, "", owner.owns).require(api_id)
    before = _put_right(client, api, namespace, owner)
    after = _list_drift(api, *_wrong(client, api_id, namespace, owner)) if before else []
    return Repairs.of(before, dict.fromkeys(after, NOT_TOLD_YET), _say_answered(api_id, namespace))


def _put_right(
    client: AppSyncClient, api: ApiTypeDef, namespace: str, owner: Ownership
) -> list[Drift]:
    """Put right what has drifted, and return it."""
    wrong = find_drift(api.get("eventConfig", {}), _EVENT_CONFIG, untold=True)
    if wrong:
        client.update_api(**build_update(client, "UpdateApi", api, {"eventConfig": _EVENT_CONFIG}))
    is_missing = namespace not in _namespaces(client, api["apiId"])
    if is_missing:
        _make_namespace(client, api["apiId"], namespace, owner)
    return _list_drift(api, wrong, [namespace] if is_missing else [])


def _make_namespace(client: AppSyncClient, api_id: str, namespace: str, owner: Ownership) -> None:
    try:
        client.create_channel_namespace(apiId=api_id, name=namespace, tags=owner.tags())
    except client.exceptions.ConflictException:
        if namespace not in _namespaces(client, api_id):
            raise


def _list_drift(api: ApiTypeDef, in_api: list[str], missing: list[str]) -> list[Drift]:
    return [
        *drifts_of(f"Event API {api['apiId']}", in_api),
        *(Drift(f"channel namespace {namespace}", MADE_AGAIN) for namespace in missing),
    ]


def _say_answered(api_id: str, namespace: str) -> str:
    return f"Event API {api_id} and its namespace {namespace} answered"


def _wrong(
    client: AppSyncClient, api_id: str, namespace: str, owner: Ownership
) -> tuple[list[str], list[str]]:
    """Name the settings that are not as they must be, and the namespace if it is missing."""
    found = _apis(client, "", owner.owns).require(api_id)
    wrong = find_drift(found.get("eventConfig", {}), _EVENT_CONFIG, untold=False)
    return wrong, [] if namespace in _namespaces(client, api_id) else [namespace]


@translate_errors(ErrorType.SERVICE_REGISTRATION_FAILED, "check realtime")
def check_event_api(client: AppSyncClient, api: EventApi, namespace: str, owner: Ownership) -> str:
    """Read the API and its namespace, and say what answered.

    Raises:
        CONFLICT: the API is described without the project's marker.
        SERVICE_REGISTRATION_FAILED: the namespace is not there, or a setting not what it must be.
        ProvisioningError: as `translate_errors` says.
    """
    in_api, missing = _wrong(client, api.api_id, namespace, owner)
    wrong = [*in_api, *(f"no namespace {name}" for name in missing)]
    if wrong:
        raise failure(
            ErrorType.SERVICE_REGISTRATION_FAILED,
            "The Event API of the project does not have what it must have.",
            f"API {api.api_id}: {', '.join(wrong)}",
        )
    return _say_answered(api.api_id, namespace)


@translate_errors(ErrorType.REMOVAL_FAILED, "remove realtime")
def remove_event_api(
    client: AppSyncClient, *, name: str, claim: Claim, known: str | None = None
) -> str:
    """Delete the APIs of that name that are claimed, with their namespaces; say what is there.

    Args:
        client: AppSync in the API's region.
        name: the API's name.
        claim: says which are to go.
        known: as of `SameNamed.find`.

    Raises:
        TIMEOUT: one was deleted and is still there.
        ProvisioningError: as `translate_errors` says.
    """
    return _apis(client, name, claim).remove(known)


def _apis(client: AppSyncClient, name: str, claim: Claim) -> SameNamed[ApiTypeDef]:
    """Return what finds the APIs of a name that are claimed, and deletes them."""
    return SameNamed(
        "Event API",
        name,
        "api",
        list_ids=lambda: (
            api["apiId"]
            for page in client.get_paginator("list_apis").paginate()
            for api in page["apis"]
            if api.get("name") == name
        ),
        get=lambda api_id: client.get_api(apiId=api_id),
        delete=lambda api_id: client.delete_api(apiId=api_id),
        missing=client.exceptions.NotFoundException,
        id_of=lambda api: api["apiId"],
        age_of=lambda api: api["created"],
        is_ours=lambda api: claim(_tags(client, api)),
        loss="have another address",
    )


def _tags(client: AppSyncClient, api: ApiTypeDef) -> Mapping[str, str]:
    """Return the tags of an API; an answer without a word of tags does not say that it has none."""
    if "tags" in api:
        return api["tags"]
    return client.list_tags_for_resource(resourceArn=api["apiArn"])["tags"]


def _namespaces(client: AppSyncClient, api_id: str) -> set[str]:
    return {
        namespace["name"]
        for page in client.get_paginator("list_channel_namespaces").paginate(apiId=api_id)
        for namespace in page["channelNamespaces"]
    }
