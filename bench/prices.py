"""What AWS charges, in US dollars of us-east-1, and what the use of a job comes to.

Read in November 2026 in the pages named; no free tier is counted unless it is said. Prices of other
regions are up to a third higher.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

#: https://aws.amazon.com/step-functions/pricing/: Standard, a state transition; a retry is one.
TRANSITION = 0.025 / 1_000
#: https://aws.amazon.com/lambda/pricing/: a request, and a gibibyte-second on x86.
LAMBDA_REQUEST = 0.20 / 1e6
LAMBDA_GB_SECOND = 0.0000166667
#: https://aws.amazon.com/dynamodb/pricing/on-demand/: units of requests; a gigabyte for a month,
#: and the same for point-in-time recovery. What AWS Lambda reads of a stream is free.
DYNAMODB_WRITE = 0.625 / 1e6
DYNAMODB_READ = 0.125 / 1e6
DYNAMODB_GB_MONTH = 0.25
DYNAMODB_RECOVERY_GB_MONTH = 0.20
#: https://aws.amazon.com/sqs/pricing/: a request to a standard queue, and a message of a group.
SQS_REQUEST = 0.40 / 1e6
SQS_FAIR = 0.10 / 1e6
#: https://aws.amazon.com/eventbridge/pricing/: a custom event.
EVENT = 1.00 / 1e6
#: https://aws.amazon.com/secrets-manager/pricing/: a secret for a month, and a call.
SECRET_MONTH = 0.40
SECRET_CALL = 0.05 / 10_000
#: https://aws.amazon.com/s3/pricing/: a request that writes or lists, and another one.
S3_WRITE = 0.005 / 1_000
S3_READ = 0.0004 / 1_000
#: The first buckets of an account are free; each further one for a month.
S3_FREE_BUCKETS = 2_000
S3_BUCKET_MONTH = 0.02
#: https://aws.amazon.com/cloudwatch/pricing/: a gigabyte of logs taken in, and kept for a month; an
#: alarm, a metric and a dashboard for a month.
LOG_GB = 0.50
LOG_GB_MONTH = 0.03
ALARM_MONTH = 0.10
METRIC_MONTH = 0.30
DASHBOARD_MONTH = 3.00
#: https://aws.amazon.com/xray/pricing/: a trace recorded. One a second and 5 % of the others are.
TRACE = 5.00 / 1e6
TRACED = 0.05
#: Bytes of log of one run of a function: START, END and REPORT and some three lines of ours, as
#: JSON. An assumption.
LOG_BYTES_OF_A_RUN = 3_000

_GB = 1e9


@dataclass
class Use:
    """What has been used."""

    transitions: float = 0
    #: Runs of functions, and gibibyte-seconds of them.
    runs: float = 0
    gigabyte_seconds: float = 0
    write_units: float = 0
    read_units: float = 0
    queue_requests: float = 0
    #: Messages of a group.
    fair_messages: float = 0
    events: float = 0
    secret_calls: float = 0
    s3_writes: float = 0
    s3_reads: float = 0
    traces: float = 0

    def add(self, other: Use, times: float = 1) -> None:
        """Add another use, so many times."""
        for each in fields(self):
            value = getattr(self, each.name) + times * getattr(other, each.name)
            setattr(self, each.name, value)


def dollars(use: Use) -> dict[str, float]:
    """Return what a use costs, by service."""
    return {
        "Step Functions": use.transitions * TRANSITION,
        "Lambda": use.runs * LAMBDA_REQUEST + use.gigabyte_seconds * LAMBDA_GB_SECOND,
        "DynamoDB": use.write_units * DYNAMODB_WRITE + use.read_units * DYNAMODB_READ,
        "CloudWatch Logs": use.runs * LOG_BYTES_OF_A_RUN / _GB * LOG_GB,
        "Secrets Manager calls": use.secret_calls * SECRET_CALL,
        "S3 requests": use.s3_writes * S3_WRITE + use.s3_reads * S3_READ,
        "EventBridge": use.events * EVENT,
        "SQS": use.queue_requests * SQS_REQUEST + use.fair_messages * SQS_FAIR,
        "X-Ray": use.traces * TRACED * TRACE,
    }
