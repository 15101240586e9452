"""AWS Lambda's way into the stages that make, change and remove database instances."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from provisioner import cold_start
from provisioner.composition import instances
from provisioner.runtime.observability import logger, metrics
from provisioner.runtime.tracing import tracer

RUN = instances.build()
cold_start.end()


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics(capture_cold_start_metric=True)
def handle(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Run one attempt of the stage that the event names, or what the schedule asks for."""
    return RUN(event, context)
