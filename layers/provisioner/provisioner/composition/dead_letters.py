"""The dead_letters function's parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    process_partial_response,
)

from provisioner.composition.job_handlers import register_job_types
from provisioner.composition.job_store import job_store
from provisioner.jobs.queue import DeadLetterQueue
from provisioner.jobs.registry import REGISTRY
from provisioner.jobs.undelivered import record_undelivered
from provisioner.runtime import aws
from provisioner.runtime.settings import DeadLettersSettings

#: AWS Lambda's function of a batch: the event and the context to the partial batch response.
type BatchFunction = Callable[[Mapping[str, Any], Any], Mapping[str, Any]]


def build() -> BatchFunction:
    """Put the function together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
    """
    settings = DeadLettersSettings.from_environment()
    register_job_types()
    record_one = partial(
        record_undelivered,
        registry=REGISTRY,
        store=job_store(settings),
        dead_letters=DeadLetterQueue(aws.client("sqs"), settings.dead_letter_queue_url),
    )

    def record_batch(event: Mapping[str, Any], context: Any) -> Mapping[str, Any]:
        return process_partial_response(
            event=dict(event),
            record_handler=record_one,
            processor=BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False),
            context=context,
        )

    return record_batch
