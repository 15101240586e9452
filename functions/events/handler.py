"""AWS Lambda's way from the history of jobs, as the table's stream hands it over, to the bus."""

from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from provisioner import cold_start
from provisioner.composition import events
from provisioner.runtime.observability import logger, metrics
from provisioner.runtime.tracing import tracer

PUBLISH = events.build()
cold_start.end()


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics(capture_cold_start_metric=True)
def handle(event: dict[str, Any], _context: LambdaContext) -> Mapping[str, Any]:
    """Publish a batch and name the record from which the stream is to go on."""
    return PUBLISH(event)
