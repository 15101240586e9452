"""AWS's documented quotas that jobs meet, as token buckets, and those that end by count.

Read in AWS's documentation in November 2026; the defaults of an account, which Service Quotas
shows. Where AWS documents a rate without a bucket, the bucket holds one second of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket."""

    name: str
    #: Tokens that it holds at most.
    capacity: float
    #: Tokens a second that it gets back.
    refill: float
    source: str
    is_adjustable: bool = False


class Region(StrEnum):
    """The two classes of regions that AWS Step Functions tells apart."""

    #: us-east-1, us-west-2, eu-west-1.
    LARGE = "large"
    #: All others, such as eu-central-1.
    OTHER = "other"


_STEP_FUNCTIONS = "https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html"
_COGNITO = "https://docs.aws.amazon.com/cognito/latest/developerguide/quotas.html"
_SECRETS = "https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html"
_PARTITION = (
    "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html"
)
_EVENTBRIDGE = "https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html"
_SYSTEMS_MANAGER = "https://docs.aws.amazon.com/general/latest/gr/ssm.html"
_APPSYNC = "https://docs.aws.amazon.com/general/latest/gr/appsync.html"
_S3 = "https://docs.aws.amazon.com/AmazonS3/latest/userguide/BucketRestrictions.html"
_RDS = "https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/CHAP_Limits.html"

START_EXECUTION = "Step Functions StartExecution"
STATE_TRANSITION = "Step Functions StateTransition"
DESCRIBE_EXECUTION = "Step Functions DescribeExecution"
POOL_READ = "Cognito UserPoolRead"
POOL_UPDATE = "Cognito UserPoolUpdate"
CLIENT_READ = "Cognito UserPoolClientRead"
CLIENT_UPDATE = "Cognito UserPoolClientUpdate"
CREATE_SECRET = "Secrets Manager CreateSecret"  # noqa: S105  # a name  # nosec B105
SLOTS_READ = "DynamoDB reads of the slots' partition"
SLOTS_WRITE = "DynamoDB writes of the slots' partition"
PARAMETERS = "Systems Manager GetParametersByPath"
PUT_EVENTS = "EventBridge PutEvents"

#: Bucket and refill of Step Functions by region class. StateTransition had a refill of 1,500 and
#: 500 in older editions of the page. Transitions that exceed it are delayed and do not fail.
_OF_STEP_FUNCTIONS = {
    Region.LARGE: {
        START_EXECUTION: (1300, 300),
        STATE_TRANSITION: (5000, 5000),
        DESCRIBE_EXECUTION: (300, 15),
    },
    Region.OTHER: {
        START_EXECUTION: (800, 150),
        STATE_TRANSITION: (800, 800),
        DESCRIBE_EXECUTION: (250, 10),
    },
}

#: EventBridge's by region class: the least of the large ones, and eu-central-1's.
_PUT_EVENTS = {Region.LARGE: 10_000, Region.OTHER: 2_400}

_EVERYWHERE = (
    # The page's table of categories: DescribeUserPool and ListUserPools.
    Rate(POOL_READ, 15, 15, _COGNITO),
    # CreateUserPool, UpdateUserPool, DeleteUserPool.
    Rate(POOL_UPDATE, 15, 15, _COGNITO),
    # DescribeUserPoolClient, ListUserPoolClients; and at most 5 a second for one pool.
    Rate(CLIENT_READ, 15, 15, _COGNITO),
    # CreateUserPoolClient, UpdateUserPoolClient, DeleteUserPoolClient; likewise.
    Rate(CLIENT_UPDATE, 15, 15, _COGNITO),
    Rate(CREATE_SECRET, 50, 50, _SECRETS),
    # A partition serves 3,000 read and 1,000 write units a second. All slots, and all that waits
    # for one, are items of one partition key.
    Rate(SLOTS_READ, 3000, 3000, _PARTITION),
    Rate(SLOTS_WRITE, 1000, 1000, _PARTITION),
    # The default throughput, shared with GetParameter and GetParameters; 100 with the higher one.
    Rate(PARAMETERS, 40, 40, _SYSTEMS_MANAGER, is_adjustable=True),
)


def rates(region: Region) -> dict[str, Rate]:
    """Return the rates of a region by name."""
    of_region = [
        Rate(name, capacity, refill, _STEP_FUNCTIONS, is_adjustable=True)
        for name, (capacity, refill) in _OF_STEP_FUNCTIONS[region].items()
    ]
    events = _PUT_EVENTS[region]
    every = (
        *of_region,
        *_EVERYWHERE,
        Rate(PUT_EVENTS, events, events, _EVENTBRIDGE, is_adjustable=True),
    )
    return {rate.name: rate for rate in every}


#: Which rate a call counts for, by botocore's id of its service and its operation. What is not
#: here has none that AWS documents (CreateApi of AppSync, CreateBucket of S3), or one of thousands
#: a second (GetSecretValue 10,000, DescribeSecret 40,000).
RATE_OF_CALL = {
    ("sfn", "StartExecution"): START_EXECUTION,
    ("cognito-identity-provider", "DescribeUserPool"): POOL_READ,
    ("cognito-identity-provider", "ListUserPools"): POOL_READ,
    ("cognito-identity-provider", "CreateUserPool"): POOL_UPDATE,
    ("cognito-identity-provider", "DescribeUserPoolClient"): CLIENT_READ,
    ("cognito-identity-provider", "ListUserPoolClients"): CLIENT_READ,
    ("cognito-identity-provider", "CreateUserPoolClient"): CLIENT_UPDATE,
    ("secrets-manager", "CreateSecret"): CREATE_SECRET,
    ("ssm", "GetParametersByPath"): PARAMETERS,
    ("eventbridge", "PutEvents"): PUT_EVENTS,
}

#: Concurrent executions of a region. A function gets 1,000 environments more each ten seconds,
#: which this is reached before. Source: AWS Lambda Developer Guide, "Lambda quotas", "Understanding
#: Lambda function scaling".
LAMBDA_CONCURRENCY = 1000

#: Batches that an event source mapping takes at first, and how many more each minute. Source: AWS
#: Lambda Developer Guide, "Configuring scaling behavior for SQS event source mappings".
MAPPING_BATCHES = 5
MAPPING_BATCHES_A_MINUTE = 300

#: Attempts of a call in all, and the bounds in seconds of the waits between them, drawn from zero.
#: Sources: `runtime/aws.py`; botocore, `retries/standard.py`, of throttling errors.
CALL_ATTEMPTS = 4
CALL_BACKOFFS = (1.0, 2.0, 4.0)

#: Bytes of a read unit.
READ_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Count:
    """A quota that ends by count."""

    name: str
    default: int
    #: The most that AWS says it can be raised to; None where it says no number.
    most: int | None
    #: How many a project takes.
    per_project: int
    source: str


COUNTS = (
    Count("AppSync: Event APIs of a region", 50, None, 1, _APPSYNC),
    Count("Cognito: user pools of a region", 1_000, 10_000, 1, _COGNITO),
    Count("S3: buckets of the account", 10_000, 1_000_000, 1, _S3),
    Count("Secrets Manager: secrets of the stack's region", 500_000, 500_000, 2, _SECRETS),
    Count("RDS: DB instances of a region, for projects that have their own", 40, None, 1, _RDS),
)
