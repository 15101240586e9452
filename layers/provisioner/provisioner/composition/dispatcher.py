"""The dispatcher's parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aws_lambda_powertools.utilities.batch import process_partial_response

from provisioner.composition.job_handlers import register_job_types
from provisioner.composition.job_store import job_store
from provisioner.jobs.dispatch import ConcurrentBatchProcessor, Dispatcher
from provisioner.jobs.queue import DeadLetterQueue
from provisioner.jobs.registry import REGISTRY
from provisioner.runtime import aws
from provisioner.runtime.settings import DispatcherSettings

#: AWS Lambda's function of a batch: the event and the context to the partial batch response.
type BatchFunction = Callable[[Mapping[str, Any], Any], Mapping[str, Any]]


def build() -> BatchFunction:
    """Put the dispatcher together from the environment.

    Raises:
        SettingsError: an environment variable is missing or wrong.
        UnknownJobTypeError: a required job type has no handler.
    """
    settings = DispatcherSettings.from_environment()
    register_job_types()
    REGISTRY.validate_required(settings.required_job_types.split(","))
    dispatcher = Dispatcher(
        registry=REGISTRY,
        store=job_store(settings),
        dead_letters=DeadLetterQueue(aws.client("sqs"), settings.dead_letter_queue_url),
        state_machines=aws.client("stepfunctions"),
        state_machine_arn_prefix=settings.state_machine_arn_prefix,
    )

    def dispatch(record: Mapping[str, Any]) -> None:
        dispatcher.dispatch(record)

    def dispatch_batch(event: Mapping[str, Any], context: Any) -> Mapping[str, Any]:
        return process_partial_response(
            event=dict(event),
            record_handler=dispatch,
            processor=ConcurrentBatchProcessor(dispatcher.note_failure),
            context=context,
        )

    return dispatch_batch
