"""What a deployment and its projects cost a month, whether or not anyone uses them.

Database servers, and what customers do with their projects, are not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from provisioner.api_keys.hand_over import CLAIM_TIME

from bench import prices
from bench.fleet_inputs import Fleet
from bench.job_shape import resource_counts

#: Custom metrics that a deployment at work sends, each with its dimensions. An assumption.
METRICS = 40

#: Requests of an idle event source mapping in a month of thirty days: five pollers, each of which
#: waits 20 seconds for a message. Source: AWS Lambda Developer Guide, "Configuring scaling behavior
#: for SQS event source mappings"; Amazon SQS Developer Guide, "Amazon SQS long polling".
_POLLS = 5 * 30 * 86_400 / 20
_MAPPINGS = 2

#: Sweeps of the reconciler in such a month, and gibibyte-seconds of one. The latter an assumption.
_SWEEPS = 30 * 24 * 12
_GIGABYTE_SECONDS = 0.5

#: What DynamoDB stores beside the bytes of items: 100 for each, and the copies in indexes. A bound.
_STORED = 2

_GB = 1e9

#: Secrets of a project: the login, and the keys until they are claimed or their time is over.
UNCLAIMED, CLAIMED = 2, 1


def deployment() -> float:
    """Return what the stack costs without a project."""
    alarms = resource_counts()["AWS::CloudWatch::Alarm"] * prices.ALARM_MONTH
    watched = alarms + prices.DASHBOARD_MONTH + METRICS * prices.METRIC_MONTH
    polls = _MAPPINGS * _POLLS * prices.SQS_REQUEST
    sweep = prices.LAMBDA_REQUEST + _GIGABYTE_SECONDS * prices.LAMBDA_GB_SECOND
    return watched + polls + _SWEEPS * sweep


def projects(number: int, fleet: Fleet) -> Mapping[str, float]:
    """Return what so many projects cost, by what it is for; keys are claimed."""
    counted = fleet.counted
    stored = _STORED * (counted.job_bytes + counted.project_bytes) / _GB
    gigabyte = prices.DYNAMODB_GB_MONTH + prices.DYNAMODB_RECOVERY_GB_MONTH
    logged = fleet.use_of_a_job.runs * prices.LOG_BYTES_OF_A_RUN / _GB
    return {
        "secrets of the databases": number * CLAIMED * prices.SECRET_MONTH,
        "buckets beyond the first 2,000": (
            max(0, number - prices.S3_FREE_BUCKETS) * prices.S3_BUCKET_MONTH
        ),
        "DynamoDB: items and their point-in-time recovery": number * stored * gigabyte,
        "logs of the jobs, kept for 30 days": number * logged * prices.LOG_GB_MONTH,
    }


def unclaimed_keys(number: int) -> float:
    """Return what the secrets of so many projects cost, once, whose keys nobody claims in time."""
    months = CLAIM_TIME / timedelta(days=30)
    return number * (UNCLAIMED - CLAIMED) * months * prices.SECRET_MONTH
