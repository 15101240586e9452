"""AWS Lambda's way from the messages that the queue has given up on to the dead letters."""

from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from provisioner import cold_start
from provisioner.composition import dead_letters
from provisioner.runtime.observability import logger, metrics
from provisioner.runtime.tracing import tracer

RECORD = dead_letters.build()
cold_start.end()


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics(capture_cold_start_metric=True)
def handle(event: dict[str, Any], context: LambdaContext) -> Mapping[str, Any]:
    """End the jobs of a batch and name the messages that the queue is to deliver again."""
    return RECORD(event, context)
