"""The sample events are what the functions really get."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from provisioner.drivers.dynamodb import from_item
from provisioner.jobs.plan import RECORD_CLEANUP, RECORD_FAILURE
from provisioner.jobs.stage_run import StageEvent
from provisioner.jobs.store import history_entry
from provisioner.provisioning.payload import ProvisionProjectPayload
from provisioner.provisioning.plan import CleanupStage, Stage
from support.project import all_states, events, functions, state_machines

OF_QUEUES, OF_STREAMS = {"dispatcher", "dead_letters"}, {"events"}
STAGE_EVENTS = [path for path in events() if path.parent.name not in OF_QUEUES | OF_STREAMS]
BATCHES = [path for path in events() if path.parent.name in OF_QUEUES]
STREAM_BATCHES = [path for path in events() if path.parent.name in OF_STREAMS]


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_every_function_and_every_stage_has_an_event() -> None:
    assert {path.parent.name for path in events()} == set(functions())
    stages = {*Stage, *CleanupStage, RECORD_FAILURE, RECORD_CLEANUP}
    assert {read(path)["stage"] for path in STAGE_EVENTS} == stages


@pytest.mark.parametrize("path", STAGE_EVENTS, ids=lambda p: p.stem)
def test_stage_event_is_what_the_state_machine_hands_over(path: Path) -> None:
    event = read(path)
    StageEvent.model_validate(event)
    payload = ProvisionProjectPayload.model_validate(event["job"]["payload"])
    # The dispatcher hands on the payload with every default filled in.
    assert payload.model_dump(mode="json") == event["job"]["payload"]
    (handed_over,) = (
        state["Parameters"]["Payload"]
        for definition in state_machines().values()
        for _, state in all_states(definition["States"])
        if state.get("Parameters", {}).get("Payload", {}).get("stage") == event["stage"]
    )
    assert set(event) == {name.removesuffix(".$") for name in handed_over}


@pytest.mark.parametrize("path", BATCHES, ids=lambda p: p.stem)
def test_batch_is_what_sqs_delivers(path: Path) -> None:
    for record in read(path)["Records"]:
        assert record["eventSource"] == "aws:sqs"
        assert record["md5OfBody"] == hashlib.md5(record["body"].encode()).hexdigest()
        assert {"messageId", "receiptHandle", "attributes", "messageAttributes"} <= set(record)


@pytest.mark.parametrize("path", STREAM_BATCHES, ids=lambda p: p.stem)
def test_stream_batch_is_what_the_table_s_stream_delivers(path: Path) -> None:
    records = read(path)["Records"]
    for record in records:
        change = record["dynamodb"]
        assert (record["eventName"], record["eventSource"]) == ("INSERT", "aws:dynamodb")
        assert change["StreamViewType"] == "NEW_IMAGE"
        item = from_item(change["NewImage"])
        assert {name: item[name] for name in change["Keys"]} == from_item(change["Keys"])
        entry = history_entry(item)
        assert change["Keys"]["record"]["S"].split("#") == [
            *("HISTORY", item["at"], entry.subject, entry.status, str(entry.attempt))
        ]
    numbers = [int(record["dynamodb"]["SequenceNumber"]) for record in records]
    assert numbers == sorted(set(numbers))
