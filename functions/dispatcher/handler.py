"""AWS Lambda's way into the dispatcher: a batch of messages, each to one execution."""

from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from provisioner import cold_start
from provisioner.composition import dispatcher
from provisioner.runtime.observability import logger, metrics
from provisioner.runtime.tracing import tracer

DISPATCH = dispatcher.build()
cold_start.end()


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics(capture_cold_start_metric=True)
def handle(event: dict[str, Any], context: LambdaContext) -> Mapping[str, Any]:
    """Dispatch a batch and name the messages that the queue is to deliver again."""
    return DISPATCH(event, context)
