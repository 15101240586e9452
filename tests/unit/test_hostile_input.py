"""Hostile text through every boundary: refused in one sentence, or carried and harmless."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from provision_cli.main import main
from provisioner import api
from provisioner.composition.job_handlers import register_job_types
from provisioner.drivers.database_engine import TenantNames
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.models import JobStatus
from provisioner.jobs.registry import REGISTRY
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.naming import Naming
from provisioner.runtime.platform import PlatformSettings
from support import hostile
from support.core import REGION, Core, LogLines
from support.dispatcher import dispatcher
from support.tenants import Tenant

each_text = pytest.mark.parametrize("text", hostile.TEXTS.values(), ids=hostile.TEXTS)

PAYLOAD = {"project_id": "shop", "region": REGION}

#: What the queue's messages, DynamoDB's keys and JSON can all hold.
ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80)


@pytest.fixture(autouse=True)
def _an_empty_queue_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provisioner.jobs.redrive._WAIT_SECONDS", 0)


def assert_is_a_sentence(said: str, field: str) -> None:
    assert said.startswith(f"{field}: ")
    assert said.endswith(".")
    assert said.isprintable()


# --- Payloads -------------------------------------------------------------------------------------

PROVISION, DEPROVISION = "provision_project", "deprovision_project"

#: Every field that is a text, with the rest of a payload that is right.
FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    **dict.fromkeys(("project_id", "region"), (PROVISION, PAYLOAD)),
    **dict.fromkeys(("database.engine", "database.version", "database.size"), (PROVISION, PAYLOAD)),
    **dict.fromkeys(("api_keys.prefix", "on_failure"), (PROVISION, PAYLOAD)),
    "confirm": (DEPROVISION, {"project_id": "shop"}),
    "key_id": ("revoke_api_key", {"project_id": "shop"}),
    "prefix": ("rotate_api_keys", {"project_id": "shop"}),
}


@pytest.mark.parametrize("field", FIELDS)
@each_text
def test_a_field_refuses_it_in_one_sentence(field: str, text: str) -> None:
    job_type, rest = FIELDS[field]
    outer, _, inner = field.partition(".")

    with pytest.raises(ProvisioningError) as raised:
        api.get_job_handler(job_type).parse(rest | {outer: {inner: text} if inner else text})

    assert raised.value.type is ErrorType.INVALID_PAYLOAD
    assert_is_a_sentence(raised.value.message, field)


@pytest.mark.parametrize("field", ["owner_id", "organization_id"])
@each_text
def test_a_party_is_refused_or_harmless(field: str, text: str) -> None:
    """ARNs have their characters, and no more than those of a MessageGroupId."""
    handler = api.get_job_handler(PROVISION)
    try:
        accepted = getattr(handler.parse(PAYLOAD | {field: text}), field)
    except ProvisioningError as error:
        assert_is_a_sentence(error.message, field)  # both ends are right
    else:
        assert set(accepted) <= set("abcdefghijklmnopqrstuvwxyz0123456789.:_@-")


@each_text
def test_the_name_of_an_unknown_field_is_not_obeyed(text: str) -> None:
    with pytest.raises(ProvisioningError) as raised:
        api.get_job_handler(PROVISION).parse(PAYLOAD | {text: 1})

    assert raised.value.message.isprintable()
    assert len(raised.value.message) < 400


# --- The queue ------------------------------------------------------------------------------------

type Deliver = Callable[[str], list[str]]


@pytest.fixture
def deliver(core: Core) -> Deliver:
    """Return what delivers a message by its body, and returns what is to come again."""
    register_job_types()
    for job_type in set(REGISTRY.types()) - {PROVISION}:
        core.make_state_machine(job_type)
    dispatch = dispatcher(core, REGISTRY)

    def run(body: str) -> list[str]:
        record = {"messageId": str(uuid.uuid4()), "body": body, "eventSource": "aws:sqs"}
        response = dispatch({"Records": [record]}, None)
        return [str(failed["itemIdentifier"]) for failed in response["batchItemFailures"]]

    return run


BODIES = {
    "no JSON": "{",
    "no object": "[]",
    "deep": '{"job_type": "provision_project", "payload": ' + '{"a":' * 50_000,
    "deep and closed": f'{{"job_type": "provision_project", "payload": {"[" * 9999}{"]" * 9999}}}',
    "a huge number": f'{{"job_type": "provision_project", "payload": {{"n": {"9" * 9999}}}}}',
    "no number": '{"job_type": "provision_project", "payload": {"project_id": NaN}}',
    "half a pair": r'{"job_type": "provision_project", "payload": {"project_id": "\ud800"}}',
    "a key twice": '{"job_type": "x", "job_type": "provision_project", "payload": {}}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_message_that_is_none_becomes_a_dead_letter_that_can_be_sent_back(
    core: Core, connected: PlatformSettings, deliver: Deliver, body: str
) -> None:
    assert deliver(body) == []
    (letter,) = api.list_dead_letters()
    assert letter.body == body
    assert letter.reason.isprintable()
    assert core.executions() == []

    assert len(api.redrive_dead_letters()) == 1
    assert connected.queue_url


@pytest.mark.parametrize("field", ["job_type", "job_id", "project_id"])
def test_each_text_in_a_message_ends_its_job_with_a_reason(
    core: Core, deliver: Deliver, logged: LogLines, field: str
) -> None:
    for text in hostile.CARRIED.values():
        message: dict[str, Any] = {"job_type": PROVISION, "payload": dict(PAYLOAD)}
        (message["payload"] if field == "project_id" else message)[field] = text
        assert deliver(json.dumps(message)) == []

    letters = core.calls_of("sqs.SendMessage")
    assert len(letters) == len(hostile.CARRIED)
    for letter in letters:
        assert_is_a_sentence(letter["MessageAttributes"]["reason"]["StringValue"], field)
    assert core.executions() == []
    # One record a line, each of which is ours.
    assert {line["message"] for line in logged()} == {"message rejected"}
    # What a terminal would obey is not kept.
    assert all(job.project_id.isprintable() for job in core.jobs.list_newest(100)[0])


def test_metadata_is_carried_to_the_execution_as_it_is(core: Core, deliver: Deliver) -> None:
    payload = PAYLOAD | {"metadata": hostile.METADATA}

    assert deliver(json.dumps({"job_type": PROVISION, "payload": payload})) == []

    ((job,), _) = core.jobs.list_newest(1, project_id="shop")
    assert job.status is JobStatus.QUEUED
    assert core.jobs.get(job.job_id).payload["metadata"] == hostile.METADATA
    (execution,) = core.executions()
    assert json.loads(execution["input"])["job"]["payload"]["metadata"] == hostile.METADATA


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(metadata=st.dictionaries(ANY_TEXT, ANY_TEXT | st.integers() | st.none(), max_size=4))
def test_any_metadata_is_carried_through_the_queue(
    core: Core, connected: PlatformSettings, deliver: Deliver, metadata: dict[str, Any]
) -> None:
    job = api.enqueue_job(PROVISION, PAYLOAD | {"metadata": metadata})
    (message,) = core.messages(connected.queue_url)
    core.client("sqs").delete_message(
        QueueUrl=connected.queue_url, ReceiptHandle=message["ReceiptHandle"]
    )

    # Source: Amazon SQS API Reference, SendMessage.
    assert not set(message["Body"]) & {"\ufffe", "\uffff"}
    assert deliver(message["Body"]) == []
    assert core.jobs.get(job.job_id).payload["metadata"] == metadata


# --- The Python API and the program ---------------------------------------------------------------

#: What takes an id or a text, and what it raises where there is nothing of it.
READS: dict[str, tuple[Callable[[str], object], type[Exception] | None]] = {
    "get_job": (api.get_job, api.JobNotFoundError),
    "cancel_job": (api.cancel_job, api.JobNotFoundError),
    "retry_job": (api.retry_job, api.JobNotFoundError),
    "retry_cleanup": (api.retry_cleanup, api.JobNotFoundError),
    "wait_for_job": (lambda text: api.wait_for_job(text, 1), api.JobNotFoundError),
    "list_jobs": (api.list_jobs, None),
    "find_job_ids": (api.find_job_ids, None),
    "cursor of list_jobs": (lambda text: api.list_jobs(cursor=text), ProvisioningError),
    "status of list_projects": (lambda text: api.list_projects(status=text), ProvisioningError),
    "get_project": (api.get_project, api.ProjectNotFoundError),
    "protect_project": (
        lambda text: api.protect_project(text, enabled=True),
        api.ProjectNotFoundError,
    ),
    "claim_api_keys": (
        lambda text: api.claim_api_keys(text, lambda _keys: None),
        api.ProjectNotFoundError,
    ),
    "list_api_keys": (api.list_api_keys, api.ProjectNotFoundError),
    "revoke_api_key": (api.revoke_api_key, api.ApiKeyNotFoundError),
    "verify_api_key": (api.verify_api_key, None),
    "redrive_dead_letters": (api.redrive_dead_letters, None),
    "create_project": (api.create_project, ProvisioningError),
    "enqueue_job": (lambda text: api.enqueue_job(text, PAYLOAD), api.UnknownJobTypeError),
}


@pytest.mark.parametrize("read", READS)
def test_the_api_finds_nothing_and_changes_nothing(
    core: Core, connected: PlatformSettings, read: str
) -> None:
    call, error = READS[read]
    core.calls.clear()
    for text in hostile.TEXTS.values():
        with pytest.raises(error) if error else contextlib.nullcontext():
            assert not call(text)
    assert core.scan(connected.jobs_table) == core.scan(connected.projects_table) == []


def test_an_idempotency_key_is_taken_as_it_is_or_refused(
    core: Core, connected: PlatformSettings
) -> None:
    jobs = set()
    for text in hostile.TEXTS.values():
        if text in {"", hostile.TEXTS["half a pair"]}:
            with pytest.raises(ProvisioningError) as raised:
                api.enqueue_job(PROVISION, PAYLOAD, idempotency_key=text)
            assert_is_a_sentence(raised.value.message, "idempotency_key")
            continue
        first = api.enqueue_job(PROVISION, PAYLOAD, idempotency_key=text)
        assert api.enqueue_job(PROVISION, PAYLOAD, idempotency_key=text).job_id == first.job_id
        jobs.add(first.job_id)

    assert len(jobs) == len(hostile.TEXTS) - 2
    assert set(core.listed()) == jobs
    assert connected.queue_url


COMMANDS: dict[str, tuple[str, ...]] = {
    "project create": ("project", "create", "TEXT"),
    "enqueue --region": ("enqueue", "--project", "shop", "--region", "TEXT"),
    "project show": ("project", "show", "TEXT"),
    "watch": ("watch", "TEXT"),
    "cancel": ("cancel", "TEXT"),
    "cleanup": ("cleanup", "TEXT"),
    "keys revoke": ("keys", "revoke", "TEXT"),
    "dlq show": ("dlq", "show", "TEXT"),
    "dlq redrive": ("dlq", "redrive", "--job", "TEXT"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_program_refuses_it_in_one_sentence(
    core: Core,
    connected: PlatformSettings,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("provision_cli.targets.connect", lambda _context: None)
    for name, text in hostile.TEXTS.items():
        # No operating system hands these two over.
        if name in {"NUL", "half a pair"}:
            continue
        code = main([text if part == "TEXT" else part for part in COMMANDS[command]])
        said = capsys.readouterr()
        assert code in {1, 2}, name
        assert said.out == "", name
        assert "Traceback" not in said.err
        assert "unexpected" not in said.err, (name, said.err)
    assert core.scan(connected.jobs_table) == core.scan(connected.projects_table) == []


# --- PostgreSQL -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["an SQL identifier", "the end of SQL", "a dollar quote", "a format", "beyond the first plane"],
)
def test_the_server_takes_any_name_for_a_name(make_tenant: Callable[[], Tenant], name: str) -> None:
    """No such name comes of an id; the driver does not rely on it."""
    text = hostile.TEXTS[name]
    tenant = make_tenant()
    tenant = replace(
        tenant,
        names=TenantNames(
            database=text, schema=f"{text}s", owner_role=f"{text}o", app_role=f"{text}a"
        ),
    )
    tenant.ensure()
    try:
        assert text in tenant.check()[0]
        with tenant.login() as connection:
            found = connection.execute("SELECT current_database(), session_user").fetchone()
        assert found == (text, f"{text}a")
    finally:
        tenant.engine.remove_database(tenant.names, tenant.owner, only_this_job=True)
    assert not any(tenant.snapshot().values())


def test_a_reserved_word_is_an_id_like_any(core: Core, connected: PlatformSettings) -> None:
    for word in hostile.RESERVED_WORDS:
        created = api.create_project(word, owner_id=word)
        assert api.get_project(word) == created
        naming = Naming(connected.resource_prefix, connected.resource_namespace)
        assert naming.names(word).tenants[Engine.POSTGRESQL].database.startswith("nm_")

    assert {project["project_id"] for project in core.scan("ProjectsTable")} == set(
        hostile.RESERVED_WORDS
    )
