"""Writes the JSON Schema of each event's detail to docs/events/, from the models in the code."""

import json
from collections.abc import Iterator
from pathlib import Path

from provisioner.composition.events import COMPLETIONS, NOTICES
from provisioner.jobs.events import DETAILS, EventType, JobEvent, NoticeEvent

EVENTS = Path(__file__).parent / "events"


def details() -> Iterator[tuple[str, type[JobEvent]]]:
    """Yield every detail type with the model of its detail."""
    yield from DETAILS.items()
    for detail_type in COMPLETIONS.values():
        yield detail_type, DETAILS[EventType.COMPLETED]
    for detail_type in NOTICES.values():
        yield detail_type, NoticeEvent


def schema(detail_type: str, model: type[JobEvent]) -> str:
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": detail_type}
    made = model.model_json_schema(mode="serialization")
    del made["title"], made["description"]
    return json.dumps(title | made, indent=2) + "\n"


def main() -> None:
    EVENTS.mkdir(exist_ok=True)
    for detail_type, model in details():
        (EVENTS / f"{detail_type}.schema.json").write_text(schema(detail_type, model))


if __name__ == "__main__":
    main()
