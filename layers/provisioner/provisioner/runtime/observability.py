"""The logger, the metrics and the tracer of every process.

Tracing is not auto-patched: patching imports every library that the X-Ray SDK knows and costs more
than the rest of a function's start.
"""

import logging

from aws_lambda_powertools import Logger, Metrics, Tracer

# At every start it says where it found credentials and endpoints: lines of no job.
logging.getLogger("botocore").setLevel(logging.WARNING)

logger = Logger(log_uncaught_exceptions=False)
metrics = Metrics()
tracer = Tracer(auto_patch=False)


def measure_by(**dimensions: str) -> None:
    """Let the metrics of this invocation be found by these dimensions too, beside over all.

    An alarm over all needs the metric without them: to CloudWatch a metric with other dimensions
    is another one. Source: Amazon CloudWatch User Guide, "Dimensions".
    """
    metrics.add_dimensions(service=str(metrics.service), **dimensions)
