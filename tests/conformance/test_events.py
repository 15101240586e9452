"""The sample events are what the functions really get."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from provisioner import api
from provisioner.drivers.dynamodb import from_item
from provisioner.jobs.execution import job_id_of_execution
from provisioner.jobs.records import to_history
from provisioner.jobs.stage import StageEvent
from provisioner.jobs.stage_run import RECORD_FAILURE
from provisioner.provisioning.job_types import JOB_TYPES
from provisioner.provisioning.snapshot_retention import REMOVE_EXPIRED_SNAPSHOTS
from provisioner.provisioning.unclaimed_keys import EXPIRE_UNCLAIMED_KEYS
from support.core import provision_project_handler
from support.project import ROOT, all_states, events, functions, state_machines

OF_QUEUES, OF_STREAMS = {"dispatcher", "dead_letters"}, {"events"}
#: Beside the folders of its stages, a function has the event of its schedule.
OF_RULES = {"reconciler", "instances", "api_keys"}
STAGE_EVENTS = [p for p in events() if p.parent.name not in OF_QUEUES | OF_STREAMS | OF_RULES]
BATCHES = [path for path in events() if path.parent.name in OF_QUEUES]
STREAM_BATCHES = [path for path in events() if path.parent.name in OF_STREAMS]


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_every_function_and_every_stage_has_an_event() -> None:
    folders = {path.relative_to(ROOT / "events").parts[0] for path in events()}
    assert folders == set(functions())
    wanted = {job_type: set(map(str, d.stages)) for job_type, d in JOB_TYPES.items()}
    # The step that records a failure is the same for every job type.
    wanted["provision_project"].add(RECORD_FAILURE)
    for job_type, stages in wanted.items():
        found = [read(path) for path in STAGE_EVENTS]
        assert {e["stage"] for e in found if e["job"]["job_type"] == job_type} == stages


@pytest.mark.parametrize("path", STAGE_EVENTS, ids=lambda p: p.stem)
def test_stage_event_is_what_the_state_machine_hands_over(path: Path) -> None:
    event = read(path)
    StageEvent.model_validate(event)
    job_type = event["job"]["job_type"]
    payload = api.get_job_handler(job_type).parse(event["job"]["payload"])
    # The dispatcher hands on the payload with every default filled in.
    assert payload.model_dump(mode="json") == event["job"]["payload"]
    definition = state_machines()[job_type]
    handed_over = [
        state["Parameters"]["Payload"]
        for _, state in all_states(definition["States"])
        if state.get("Parameters", {}).get("Payload", {}).get("stage") == event["stage"]
    ]
    assert handed_over
    for payload_of_state in handed_over:
        assert set(event) == {name.removesuffix(".$") for name in payload_of_state}


@pytest.mark.parametrize("path", BATCHES, ids=lambda p: p.stem)
def test_batch_is_what_sqs_delivers(path: Path) -> None:
    for record in read(path)["Records"]:
        assert record["eventSource"] == "aws:sqs"
        digest = hashlib.md5(record["body"].encode(), usedforsecurity=False)
        assert record["md5OfBody"] == digest.hexdigest()
        assert {"messageId", "receiptHandle", "attributes", "messageAttributes"} <= set(record)


def test_execution_event_is_what_the_reconciler_s_rule_passes_on() -> None:
    (path,) = (path for path in events() if path.parent.name == "reconciler")
    event = read(path)
    pattern = functions()["reconciler"].properties["Events"]["ExecutionEnded"]["Properties"][
        "Pattern"
    ]
    assert [event["source"]] == pattern["source"]
    assert [event["detail-type"]] == pattern["detail-type"]
    detail = event["detail"]
    assert detail["status"] in pattern["detail"]["status"]
    job = json.loads(detail["input"])["job"]
    assert job_id_of_execution(detail["executionArn"]) == job["job_id"]
    payload = job["payload"]
    assert provision_project_handler.parse(payload).model_dump(mode="json") == payload


def test_schedule_event_is_what_the_instances_rule_hands_over() -> None:
    (path,) = (path for path in events() if path.parent.name == "instances")
    schedule = functions()["instances"].properties["Events"]["SnapshotRetention"]["Properties"]
    assert read(path) == json.loads(schedule["Input"]) == {"task": REMOVE_EXPIRED_SNAPSHOTS}
    assert schedule["Schedule"] == "rate(1 day)"


def test_schedule_event_is_what_the_rule_of_keys_hands_over() -> None:
    (path,) = (path for path in events() if path.parent.name == "api_keys")
    schedule = functions()["api_keys"].properties["Events"]["KeyExpiry"]["Properties"]
    assert read(path) == json.loads(schedule["Input"]) == {"task": EXPIRE_UNCLAIMED_KEYS}
    assert schedule["Schedule"] == "rate(1 hour)"


@pytest.mark.parametrize("path", STREAM_BATCHES, ids=lambda p: p.stem)
def test_stream_batch_is_what_the_table_s_stream_delivers(path: Path) -> None:
    records = read(path)["Records"]
    for record in records:
        change = record["dynamodb"]
        assert (record["eventName"], record["eventSource"]) == ("INSERT", "aws:dynamodb")
        assert change["StreamViewType"] == "NEW_IMAGE"
        item = from_item(change["NewImage"])
        assert {name: item[name] for name in change["Keys"]} == from_item(change["Keys"])
        entry = to_history(item)
        assert change["Keys"]["record"]["S"].split("#") == [
            *("HISTORY", item["at"], entry.subject, entry.status, str(entry.attempt))
        ]
    numbers = [int(record["dynamodb"]["SequenceNumber"]) for record in records]
    assert numbers == sorted(set(numbers))
