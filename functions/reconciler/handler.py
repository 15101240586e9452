"""AWS Lambda's way into the reconciler: jobs that went silent, and cancels that need not wait."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext
from provisioner import cold_start
from provisioner.composition import reconciler
from provisioner.runtime.observability import logger, metrics
from provisioner.runtime.tracing import tracer

RUN = reconciler.build()
cold_start.end()


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics(capture_cold_start_metric=True)
def handle(event: dict[str, Any], _context: LambdaContext) -> dict[str, Any]:
    """Reconcile the job that the event is about, or every one that is unfinished."""
    return RUN(event)
