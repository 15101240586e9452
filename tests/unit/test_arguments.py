"""What the Python API is given by mistake is refused before anything is stored, sent or asked."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import uuid
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from provisioner import api
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.client import MAX_DELAY_SECONDS
from provisioner.jobs.messages import JobMessage, accept, is_own_job
from provisioner.jobs.registry import REGISTRY, JobRegistry
from provisioner.runtime.platform import PlatformSettings
from support.core import REGION, Core

PAYLOAD: dict[str, Any] = {"project_id": "shop", "region": REGION}
PROVISION: Any = "provision_project"


class Wrong:
    """What has no meaning at all."""


NO_TEXTS: list[Any] = [None, b"shop", 4711, True, 1.5, uuid.uuid4(), ["shop"], {"a": 1}, Wrong()]
NO_FLAGS: list[Any] = [None, 0, 1, "yes", "", [], Wrong()]
NO_FUNCTIONS: list[Any] = [None, 1, "print", [], Wrong()]
NO_DELAYS: list[Any] = [None, True, False, 1.5, 1.0, "5", b"5", -1, 901, 10**400]
NO_DELAYS += [
    float("nan"),
    float("inf"),
    decimal.Decimal(5),
    dt.timedelta(seconds=5),
    Wrong(),
]
NO_TIMES: list[Any] = [None, True, "5", -1, -0.1, float("nan"), float("inf"), decimal.Decimal(5)]
NO_KEYS: list[Any] = [b"order", 4711, True, 1.5, uuid.uuid4(), ["order"], Wrong(), "", "\ud800"]
NO_LIMITS: list[Any] = [None, True, False, 0, -1, 101, 1000, 10**400, 5.0, "5", b"5", Wrong()]
NO_CURSORS: list[Any] = [*NO_TEXTS[1:], "", "x", "A" * 40, "\ud800", "💥", "x" * 100_000]
NO_STATUSES: list[Any] = [*NO_TEXTS[1:], "", "DONE", "active", "ACTIVE ", api.StageStatus.SKIPPED]
NO_JOB_STATUSES: list[Any] = [*NO_STATUSES, "ACTIVE", api.ProjectStatus.CREATED]


def cyclic() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["itself"] = value
    return value


def doubled(levels: int) -> list[Any]:
    """Return a list that is small here, and that no JSON can hold."""
    value: list[Any] = ["x"]
    for _ in range(levels):
        value = [value, value]
    return value


#: By what its sentence begins with.
NO_PAYLOADS: dict[str, list[Any]] = {
    "payload": [None, [PAYLOAD], "{}", b"{}", 1, [("project_id", "shop")], {PROVISION}, Wrong()],
    "project_id": [PAYLOAD | {"project_id": wrong} for wrong in NO_TEXTS],
    "region": [PAYLOAD | {"region": wrong} for wrong in NO_TEXTS],
    "owner_id": [PAYLOAD | {"owner_id": wrong} for wrong in NO_TEXTS[1:]],
    "database": [PAYLOAD | {"database": {"engine": b"postgresql"}}],
    "metadata": [
        PAYLOAD | {"metadata": wrong}
        for wrong in (
            *(None, [("a", 1)], {1: 2}, {None: 1}, {"a": {1: 2}}, {"a": [{True: 1}]}, {b"a": 1}),
            *({"a": {1, 2}}, {"a": b"x"}, {"a": decimal.Decimal(1)}, {"a": dt.date.min}),
            *({"a": float("nan")}, {"a": float("-inf")}, {"a": "\ud800"}, {"\ud800": 1}, cyclic()),
            *({"a": Wrong()}, {"a": 10**5000}, {"a": "x" * 10_000_000}, {"a": doubled(30)}),
        )
    ],
}

CALLS: dict[str, tuple[Callable[[Any], object], list[Any]]] = {
    "job_type": (lambda wrong: api.enqueue_job(wrong, PAYLOAD), NO_TEXTS),
    "idempotency_key": (
        lambda wrong: api.enqueue_job(PROVISION, PAYLOAD, idempotency_key=wrong),
        NO_KEYS,
    ),
    "delay_seconds": (
        lambda wrong: api.enqueue_job(PROVISION, PAYLOAD, delay_seconds=wrong),
        NO_DELAYS,
    ),
    **{
        f"{name}, of enqueue_job": (lambda wrong: api.enqueue_job(PROVISION, wrong), wrongs)
        for name, wrongs in NO_PAYLOADS.items()
    },
    **{
        f"{name}, of a handler": (api.get_job_handler(PROVISION), wrongs)
        for name, wrongs in NO_PAYLOADS.items()
    },
    "job_type, of get_job_handler": (api.get_job_handler, NO_TEXTS),
    "job_type, of has_job_handler": (api.has_job_handler, NO_TEXTS),
    "job_types": (lambda wrong: api.validate_required_handlers([wrong]), NO_TEXTS),
    "job_types, of one": (api.validate_required_handlers, ["provision_project"]),
    "job_id, of get_job": (api.get_job, NO_TEXTS),
    "job_id, of cancel_job": (api.cancel_job, NO_TEXTS),
    "job_id, of retry_job": (api.retry_job, NO_TEXTS),
    "job_id, of retry_cleanup": (api.retry_cleanup, NO_TEXTS),
    "job_id, of wait_for_job": (lambda wrong: api.wait_for_job(wrong, 0), NO_TEXTS),
    "timeout": (lambda wrong: api.wait_for_job("job-1", wrong), NO_TIMES),
    "project_id, of list_jobs": (api.list_jobs, NO_TEXTS[1:]),
    "status, of list_jobs": (lambda wrong: api.list_jobs(status=wrong), NO_JOB_STATUSES),
    "limit, of list_jobs": (lambda wrong: api.list_jobs(limit=wrong), NO_LIMITS),
    "cursor, of list_jobs": (lambda wrong: api.list_jobs(cursor=wrong), NO_CURSORS),
    "status, of list_projects": (lambda wrong: api.list_projects(status=wrong), NO_STATUSES),
    "limit, of list_projects": (lambda wrong: api.list_projects(limit=wrong), NO_LIMITS),
    "cursor, of list_projects": (lambda wrong: api.list_projects(cursor=wrong), NO_CURSORS),
    "beginning": (api.find_job_ids, NO_TEXTS),
    "project_id, of create_project": (api.create_project, NO_TEXTS),
    "owner_id": (lambda wrong: api.create_project("shop", owner_id=wrong), NO_TEXTS[1:]),
    "organization_id": (
        lambda wrong: api.create_project("shop", organization_id=wrong),
        NO_TEXTS[1:],
    ),
    "project_id, of get_project": (api.get_project, NO_TEXTS),
    "project_id, of protect_project": (
        lambda wrong: api.protect_project(wrong, enabled=True),
        NO_TEXTS,
    ),
    "enabled": (lambda wrong: api.protect_project("shop", enabled=wrong), NO_FLAGS),
    "project_id, of claim_api_keys": (lambda wrong: api.claim_api_keys(wrong, print), NO_TEXTS),
    "hand_over": (lambda wrong: api.claim_api_keys("shop", wrong), NO_FUNCTIONS),
    "project_id, of list_api_keys": (api.list_api_keys, NO_TEXTS),
    "project_id, of list_snapshots": (api.list_snapshots, NO_TEXTS),
    "project_id, of restore_snapshot": (api.restore_snapshot, NO_TEXTS),
    "snapshot": (lambda wrong: api.restore_snapshot("shop", wrong), NO_TEXTS[1:]),
    "into": (lambda wrong: api.restore_snapshot("shop", into=wrong), NO_TEXTS[1:]),
    "project_id, of find_snapshot": (api.find_snapshot, NO_TEXTS),
    "snapshot, of find_snapshot": (lambda wrong: api.find_snapshot("shop", wrong), NO_TEXTS[1:]),
    "project_id, of restore_instance": (api.restore_instance, NO_TEXTS),
    "snapshot, of restore_instance": (
        lambda wrong: api.restore_instance("shop", wrong),
        NO_TEXTS[1:],
    ),
    "size": (lambda wrong: api.restore_instance("shop", size=wrong), [*NO_TEXTS[1:], "Large"]),
    "storage_gb": (
        lambda wrong: api.restore_instance("shop", storage_gb=wrong),
        [True, 0, 65_537, 20.0, "20"],
    ),
    "key_id": (api.revoke_api_key, NO_TEXTS),
    "text": (api.find_api_keys, NO_TEXTS),
    "plaintext": (api.verify_api_key, NO_TEXTS),
    "job_id, of redrive_dead_letters": (api.redrive_dead_letters, NO_TEXTS[1:]),
    "again": (lambda wrong: api.redrive_dead_letters(again=wrong), NO_FLAGS),
    "on_redriven": (lambda wrong: api.redrive_dead_letters(on_redriven=wrong), NO_FUNCTIONS[1:]),
    "settings": (api.connect, NO_TEXTS),
    "stack_name": (api.connect_to_stack, [*NO_TEXTS, "", "\ud800", "x" * 10_000_000]),
    "region, of connect_to_stack": (
        lambda wrong: api.connect_to_stack("stack", wrong),
        [*NO_TEXTS[1:], "", "\ud800"],
    ),
    "job_type, of register_job_handler": (
        lambda wrong: JobRegistry().register(wrong, api.get_job_handler("provision_project")),
        [*NO_TEXTS, "", "Two Words", "x" * 65, "\ud800"],
    ),
    "handler": (lambda wrong: JobRegistry().register("mine", wrong), [*NO_TEXTS, print]),
}


@pytest.mark.parametrize("argument", CALLS)
def test_a_wrong_argument_is_named_and_nothing_is_asked(
    core: Core, connected: PlatformSettings, argument: str
) -> None:
    call, wrongs = CALLS[argument]
    for wrong in wrongs:
        # It is a ValueError too, as Python's own functions raise.
        with pytest.raises(ValueError, match=f"^{argument.partition(',')[0]}") as raised:
            call(wrong)
        assert isinstance(raised.value, ProvisioningError)
        assert raised.value.type is ErrorType.INVALID_PAYLOAD
        assert raised.value.message.endswith(".")
        assert raised.value.message.isprintable()
        assert len(raised.value.message) < 400
    assert core.scan("JobsTable") == core.scan("ProjectsTable") == []
    assert core.messages(connected.queue_url) == []


#: What a caller may hand over in place of a text or a number.
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 1000),
    st.floats(),
    st.decimals(),
    st.binary(max_size=5),
    st.uuids(),
    st.datetimes(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2) | st.integers(), st.integers() | st.binary(), max_size=2),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(key=ANYTHING, delay=ANYTHING, metadata=ANYTHING)
def test_a_job_is_stored_and_sent_or_neither(
    core: Core, connected: PlatformSettings, key: Any, delay: Any, metadata: Any
) -> None:
    before = len(core.scan("JobsTable"))
    core.calls.clear()
    payload = PAYLOAD | {"metadata": metadata}
    try:
        job = api.enqueue_job(PROVISION, payload, idempotency_key=key, delay_seconds=delay)
    except (ProvisioningError, api.IdempotencyConflictError):
        assert len(core.scan("JobsTable")) == before
        return
    assert type(delay) is int
    assert 0 <= delay <= MAX_DELAY_SECONDS
    assert key is None or (isinstance(key, str) and key)
    assert core.jobs.get(job.job_id).payload["metadata"] == metadata
    assert connected.queue_url


class Name(str, enum.Enum):  # noqa: UP042  # what people write
    JOB_TYPE = "provision_project"
    KEY = "order-1"
    PROJECT = "shop"


def test_an_enum_of_texts_is_its_text(core: Core, connected: PlatformSettings) -> None:
    job = api.enqueue_job(PROVISION, PAYLOAD, idempotency_key="order-1")

    payload = MappingProxyType(PAYLOAD | {"project_id": Name.PROJECT})
    assert api.enqueue_job(Name.JOB_TYPE, payload, idempotency_key=Name.KEY) == job
    (stored,) = (i for i in core.scan(connected.jobs_table) if i["record"] == "JOB")
    assert stored["job_type"] == "provision_project"
    assert list(api.list_jobs(Name.PROJECT)) == [replace(job, payload={})]


@pytest.mark.usefixtures("connected")
def test_a_number_is_the_same_however_it_is_written() -> None:
    def enqueue(*numbers: object) -> api.Job:
        payload = PAYLOAD | {"metadata": {"numbers": numbers, "deep": [{"in": numbers}]}}
        return api.enqueue_job(PROVISION, payload, idempotency_key="order-1")

    job = enqueue(1, 0, 10**22, -3)

    assert enqueue(1.0, -0.0, 1e22, -3.0) == job
    for others in ((True, 0, 10**22, -3), (1, False, 10**22, -3), (1, 0, 10**22, "-3")):
        with pytest.raises(api.IdempotencyConflictError):
            enqueue(*others)


def test_a_message_with_another_kind_of_value_is_of_another_job(core: Core) -> None:
    def message(number: object) -> JobMessage:
        payload = PAYLOAD | {"metadata": {"number": number}}
        return JobMessage(job_type=PROVISION, payload=payload)

    job, _ = accept(REGISTRY, core.jobs, message(1), "job-1")

    written_out = message(1).model_copy(update={"payload": job.payload})
    assert is_own_job(REGISTRY, job, written_out)
    for other in (True, "1", None):
        changed = job.payload | {"metadata": {"number": other}}
        assert not is_own_job(REGISTRY, job, written_out.model_copy(update={"payload": changed}))


@pytest.mark.usefixtures("connected")
def test_a_project_is_created_once_however_often_it_is_asked_for(core: Core) -> None:
    created = api.create_project("shop", owner_id="ada", organization_id="acme")
    core.clock.advance()

    assert api.create_project("shop", owner_id="ada", organization_id="acme") == created
    for others in ({}, {"owner_id": "ada"}, {"owner_id": "grace", "organization_id": "acme"}):
        with pytest.raises(api.ProjectExistsError, match="shop"):
            api.create_project("shop", **others)
    assert api.get_project("shop") == created


@pytest.mark.usefixtures("connected")
def test_nobody_is_told_a_long_id_again() -> None:
    for read, error in (
        (api.get_job, api.JobNotFoundError),
        (api.get_project, api.ProjectNotFoundError),
        (api.revoke_api_key, api.ApiKeyNotFoundError),
    ):
        with pytest.raises(error) as raised:
            read("\x1b" * 10_000_000)
        assert len(str(raised.value)) < 400
        assert str(raised.value).isprintable()
