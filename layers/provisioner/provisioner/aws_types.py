"""The types of AWS's clients, and of what they take and answer.

Only the type checker loads them: at run time each is Any.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_appsync.client import AppSyncClient
    from mypy_boto3_appsync.type_defs import ApiTypeDef, EventConfigTypeDef
    from mypy_boto3_cognito_idp.client import CognitoIdentityProviderClient
    from mypy_boto3_cognito_idp.type_defs import (
        GetUserPoolMfaConfigResponseTypeDef,
        UserPoolClientTypeTypeDef,
        UserPoolTypeTypeDef,
    )
    from mypy_boto3_dynamodb.client import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef
    from mypy_boto3_events.client import EventBridgeClient
    from mypy_boto3_events.type_defs import PutEventsRequestEntryTypeDef
    from mypy_boto3_rds.client import RDSClient
    from mypy_boto3_rds.type_defs import DBInstanceTypeDef, DBSnapshotTypeDef
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import (
        CreateBucketConfigurationTypeDef,
        CreateBucketRequestTypeDef,
        HeadObjectOutputTypeDef,
        ObjectIdentifierTypeDef,
        ObjectTypeDef,
    )
    from mypy_boto3_secretsmanager.client import SecretsManagerClient
    from mypy_boto3_secretsmanager.type_defs import (
        CreateSecretRequestTypeDef,
        DescribeSecretResponseTypeDef,
    )
    from mypy_boto3_sqs.client import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef
    from mypy_boto3_ssm.client import SSMClient
    from mypy_boto3_stepfunctions.client import SFNClient
else:

    def __getattr__(_name: str) -> Any:
        return Any


__all__ = [
    "ApiTypeDef",
    "AppSyncClient",
    "CognitoIdentityProviderClient",
    "CreateBucketConfigurationTypeDef",
    "CreateBucketRequestTypeDef",
    "CreateSecretRequestTypeDef",
    "DBInstanceTypeDef",
    "DBSnapshotTypeDef",
    "DescribeSecretResponseTypeDef",
    "DynamoDBClient",
    "EventBridgeClient",
    "EventConfigTypeDef",
    "GetUserPoolMfaConfigResponseTypeDef",
    "HeadObjectOutputTypeDef",
    "MessageTypeDef",
    "ObjectIdentifierTypeDef",
    "ObjectTypeDef",
    "PutEventsRequestEntryTypeDef",
    "RDSClient",
    "S3Client",
    "SFNClient",
    "SQSClient",
    "SSMClient",
    "SecretsManagerClient",
    "TransactWriteItemTypeDef",
    "UserPoolClientTypeTypeDef",
    "UserPoolTypeTypeDef",
]
