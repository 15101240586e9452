"""The events of the stages, in `events/<function>/<job type>/<stage>.json`, for `sam local invoke`.

Those of a job type's stages are of one job: in its order they can be handed to the functions.
"""

import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from provisioner.errors import ProvisioningError
from provisioner.jobs.definition import DefinitionError, JobDefinition, JobDefinitions, Stage
from provisioner.jobs.registry import validate_payload

#: How the ids begin that stand in them. A local stack stores such a project: none that people
#: think of is to be called the same.
_BEGINNING = "sample"


def events(definitions: JobDefinitions) -> dict[PurePosixPath, str]:
    """Return the text of every stage's event by its path below the project's folder.

    Raises:
        DefinitionError: a job type's example is not a valid payload of it.
    """
    return {
        PurePosixPath("events", stage.function.name, name, f"{stage.lower()}.json"): (
            json.dumps(event, indent=2, ensure_ascii=False) + "\n"
        )
        for name, definition in definitions.items()
        for stage, event in _events_of(definition)
    }


def _events_of(definition: JobDefinition[Any]) -> Iterator[tuple[Stage, dict[str, Any]]]:
    job = _job(definition)
    for stage in definition.stages:
        # A stage whose event tells of none before it looks for itself what it needs of them.
        outputs: dict[str, Any] = {} if stage in definition.first else {"outputs": {}}
        yield stage, {"job": job, "stage": str(stage), "retry_count": 0, **outputs}


def _job(definition: JobDefinition[Any]) -> dict[str, Any]:
    """Make a job of the type's example."""
    project_id = definition.example.get("project_id")
    payload = {
        # Some payloads name the project twice, so that nobody removes one by a slip.
        name: f"{_BEGINNING}-{value}" if value is not None and value == project_id else value
        for name, value in definition.example.items()
    }
    try:
        parsed = validate_payload(definition.payload_model, payload)
    except ProvisioningError as error:
        raise DefinitionError(f"job type {definition.name}: example: {error.message}") from None
    return {
        "job_id": f"{_BEGINNING}-{definition.name.replace('_', '-')}",
        "job_type": definition.name,
        "payload": parsed.model_dump(mode="json"),
        "attempt": 1,
    }
