"""The sample events are what the functions really get."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from provisioner.jobs.plan import AWAIT_QUIET, RECORD_CLEANUP, RECORD_FAILURE
from provisioner.jobs.stage_run import StageEvent
from provisioner.provisioning.payload import ProvisionProjectPayload
from provisioner.provisioning.plan import CleanupStage, Stage
from support.project import all_states, events, functions, state_machines

STAGE_EVENTS = [path for path in events() if path.parent.name != "dispatcher"]
BATCHES = [path for path in events() if path.parent.name == "dispatcher"]


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_every_function_and_every_stage_has_an_event() -> None:
    assert {path.parent.name for path in events()} == set(functions())
    stages = {*Stage, *CleanupStage, RECORD_FAILURE, AWAIT_QUIET, RECORD_CLEANUP}
    assert {read(path)["stage"] for path in STAGE_EVENTS} == stages


@pytest.mark.parametrize("path", STAGE_EVENTS, ids=lambda p: p.stem)
def test_stage_event_is_what_the_state_machine_hands_over(path: Path) -> None:
    event = read(path)
    StageEvent.model_validate(event)
    payload = ProvisionProjectPayload.model_validate(event["job"]["payload"])
    # The dispatcher hands on the payload with every default filled in.
    assert payload.model_dump(mode="json") == event["job"]["payload"]
    handed_over = [
        state["Parameters"]["Payload"]
        for definition in state_machines().values()
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
        assert record["md5OfBody"] == hashlib.md5(record["body"].encode()).hexdigest()
        assert {"messageId", "receiptHandle", "attributes", "messageAttributes"} <= set(record)
