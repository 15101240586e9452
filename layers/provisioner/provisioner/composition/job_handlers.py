"""The handlers of the job types, as the registry knows them: each follows from its definition."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from provisioner.jobs.definition import JobDefinition
from provisioner.jobs.registry import REGISTRY, JobHandler
from provisioner.provisioning.job_types import JOB_TYPES


@dataclass(frozen=True, slots=True)
class _RunInProcess:
    """Runs jobs of a type in this process; a value, so that it can be handed to another process."""

    job_type: str

    def __call__(self, payload: BaseModel) -> BaseModel | Mapping[str, Any]:
        """Run a job to its end and return its result."""
        # The dispatcher registers handlers and never runs one: the stages, with the PostgreSQL
        # driver and the services' clients, would be most of its cold start.
        from provisioner.composition.in_process import run_job  # noqa: PLC0415

        definition = JOB_TYPES[self.job_type]
        result = run_job(definition, payload).result or {}
        model = definition.result_model
        return result if model is None else model.model_validate(result)


def job_handler[Payload: BaseModel](
    definition: JobDefinition[Payload],
) -> JobHandler[Payload, Any]:
    """Make the handler of a job type."""
    return JobHandler(
        payload_model=definition.payload_model,
        stages=definition.stages,
        run=_RunInProcess(definition.name),
        message_group=definition.message_group,
    )


def register_job_types() -> None:
    """Register the handler of each job type of this deployment, once in a process."""
    for name, definition in JOB_TYPES.items():
        if not REGISTRY.has(name):
            REGISTRY.register(name, job_handler(definition))
