"""Which rights on the key of AWS KMS come with which actions, where the deployment has a key."""

from __future__ import annotations

from collections.abc import Iterable

_READ = frozenset({"kms:Decrypt"})
_WRITE = frozenset({"kms:Decrypt", "kms:GenerateDataKey"})
_GRANT = frozenset({"kms:CreateGrant", "kms:DescribeKey"})

#: By what is under the key. Sources: Amazon SQS Developer Guide, "Key management"; AWS Secrets
#: Manager User Guide, "Secret encryption and decryption"; Amazon S3 User Guide, "Using server-side
#: encryption with AWS KMS keys"; Amazon DynamoDB Developer Guide, "DynamoDB encryption at rest: How
#: it works": the table's own key is made with the table, so that also a write only decrypts it;
#: Amazon RDS User Guide, "AWS KMS key management".
_BY_KEY = {
    "sqs:ReceiveMessage": _READ,
    "sqs:SendMessage": _WRITE,
    "secretsmanager:GetSecretValue": _READ,
    "secretsmanager:CreateSecret": _WRITE,
    "secretsmanager:PutSecretValue": _WRITE,
    "rds:CreateDBInstance": _GRANT,
    "rds:RestoreDBInstanceFromDBSnapshot": _GRANT,
    "s3:GetObject": _READ,
    "s3:PutObject": _WRITE,
} | {
    f"dynamodb:{operation}": _READ
    for operation in (
        "BatchGetItem",
        "ConditionCheckItem",
        "DeleteItem",
        "GetItem",
        "GetRecords",
        "PutItem",
        "Query",
        "UpdateItem",
    )
}


def rights_by_key(actions: Iterable[str]) -> set[tuple[str, str]]:
    """Return the actions of AWS KMS that others need, each with the service that asks for it."""
    return {
        (right, action.partition(":")[0]) for action in actions for right in _BY_KEY.get(action, ())
    }
