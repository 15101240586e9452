"""The logger and the metrics of every process."""

import logging

from aws_lambda_powertools import Logger, Metrics

# At every start it says where it found credentials and endpoints: lines of no job.
logging.getLogger("botocore").setLevel(logging.WARNING)

logger = Logger(log_uncaught_exceptions=False)
metrics = Metrics()


def measure_by(**dimensions: str) -> None:
    """Let the metrics of this invocation be found by these dimensions too, beside over all.

    An alarm over all needs the metric without them: to CloudWatch a metric with other dimensions
    is another one. Source: Amazon CloudWatch User Guide, "Dimensions".
    """
    metrics.add_dimensions(service=str(metrics.service), **dimensions)
