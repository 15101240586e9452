"""What CloudFormation calls to make, change, read and remove a resource of each type.

Sources: the schemas of CloudFormation's registry, which list the permissions of a type's handlers
(`aws cloudformation describe-type --type RESOURCE --type-name AWS::SQS::Queue`); the Service
Authorization Reference, for what tags need as well. A type's handlers are listed whole there; here
what serves one property stands beside it, and is needed only where a resource has the property.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

type Template = dict[str, Any]

#: An action, and the resource as a policy names it.
type Right = tuple[str, str]

#: The artifacts of `sam deploy`, which the services read with the rights of who deploys.
ARTIFACTS = "arn:aws:s3:::aws-sam-cli-managed-default-samclisourcebucket-*/*"
ROLES = "arn:aws:iam::ACCOUNT:role/STACK-*"
KEY = "KMS_KEY"


@dataclass(frozen=True)
class Handlers:
    """What the handlers of a resource type call."""

    #: The resources that the type's own actions are on.
    on: tuple[str, ...]
    #: To make, read and change one.
    keep: str
    #: To remove one.
    remove: str = ""
    #: What has a property needs besides: an action, and where it is not on the type's own.
    by_property: dict[str, str] = field(default_factory=dict)
    #: The resource of actions that are not on the type's own.
    elsewhere: dict[str, tuple[str, ...]] = field(default_factory=dict)


_QUEUE = ("arn:aws:sqs:REGION:ACCOUNT:STACK-*",)
_FUNCTION = ("arn:aws:lambda:REGION:ACCOUNT:function:STACK-*",)
_BUCKET = ("arn:aws:s3:::STACK-snapshotsbucket-*",)
_MAPPINGS = ("arn:aws:lambda:REGION:ACCOUNT:event-source-mapping:*",)
_LAYERS: tuple[str, ...] = ("arn:aws:lambda:REGION:ACCOUNT:layer:STACK-*",)
#: A name with its version.
_LAYER_VERSIONS: tuple[str, ...] = ("arn:aws:lambda:REGION:ACCOUNT:layer:STACK-*:*",)

HANDLERS = {
    "AWS::SQS::Queue": Handlers(
        _QUEUE,
        "sqs:CreateQueue sqs:GetQueueUrl sqs:GetQueueAttributes sqs:ListQueueTags sqs:TagQueue "
        "sqs:UntagQueue sqs:SetQueueAttributes",
        "sqs:DeleteQueue",
    ),
    # A policy is an attribute of its queue.
    "AWS::SQS::QueuePolicy": Handlers(_QUEUE, "sqs:GetQueueAttributes sqs:SetQueueAttributes"),
    "AWS::DynamoDB::Table": Handlers(
        ("arn:aws:dynamodb:REGION:ACCOUNT:table/STACK-*",),
        "dynamodb:CreateTable dynamodb:DescribeTable dynamodb:UpdateTable dynamodb:TagResource "
        "dynamodb:UntagResource dynamodb:ListTagsOfResource dynamodb:DescribeTimeToLive "
        "dynamodb:DescribeContinuousBackups dynamodb:DescribeContributorInsights "
        "dynamodb:DescribeKinesisStreamingDestination dynamodb:GetResourcePolicy",
        "dynamodb:DeleteTable",
        {
            "TimeToLiveSpecification": "dynamodb:UpdateTimeToLive",
            # Source: Amazon DynamoDB Developer Guide, "DynamoDB encryption at rest usage notes".
            "SSESpecification": "kms:CreateGrant kms:Decrypt kms:DescribeKey kms:Encrypt "
            "kms:GenerateDataKey kms:GenerateDataKeyWithoutPlaintext kms:ReEncryptFrom "
            "kms:ReEncryptTo",
            "PointInTimeRecoverySpecification": "dynamodb:UpdateContinuousBackups",
            "ContributorInsightsSpecification": "dynamodb:UpdateContributorInsights",
            "ResourcePolicy": "dynamodb:PutResourcePolicy dynamodb:DeleteResourcePolicy",
        },
        dict.fromkeys(
            (
                "kms:CreateGrant",
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:Encrypt",
                "kms:GenerateDataKey",
                "kms:GenerateDataKeyWithoutPlaintext",
                "kms:ReEncryptFrom",
                "kms:ReEncryptTo",
            ),
            (KEY,),
        ),
    ),
    "AWS::CloudWatch::Alarm": Handlers(
        ("arn:aws:cloudwatch:REGION:ACCOUNT:alarm:STACK-*",),
        "cloudwatch:PutMetricAlarm cloudwatch:DescribeAlarms cloudwatch:ListTagsForResource "
        "cloudwatch:TagResource cloudwatch:UntagResource",
        "cloudwatch:DeleteAlarms",
    ),
    "AWS::CloudWatch::Dashboard": Handlers(
        ("arn:aws:cloudwatch::ACCOUNT:dashboard/STACK",),
        "cloudwatch:PutDashboard cloudwatch:GetDashboard cloudwatch:ListTagsForResource "
        "cloudwatch:TagResource cloudwatch:UntagResource",
        "cloudwatch:DeleteDashboards",
    ),
    "AWS::Events::EventBus": Handlers(
        ("arn:aws:events:REGION:ACCOUNT:event-bus/STACK-jobs",),
        "events:CreateEventBus events:DescribeEventBus events:UpdateEventBus "
        "events:ListTagsForResource events:TagResource events:UntagResource",
        "events:DeleteEventBus",
        {"Policy": "events:PutPermission events:RemovePermission"},
    ),
    "AWS::Events::Rule": Handlers(
        (
            "arn:aws:events:REGION:ACCOUNT:rule/STACK-*",
            # Of the stack's own bus.
            "arn:aws:events:REGION:ACCOUNT:rule/STACK-jobs/STACK-*",
        ),
        "events:PutRule events:DescribeRule events:PutTargets events:ListTargetsByRule "
        "events:RemoveTargets events:ListTagsForResource events:TagResource events:UntagResource",
        "events:DeleteRule",
        {"RoleArn": "iam:PassRole"},
        {"iam:PassRole": (ROLES,)},
    ),
    "AWS::IAM::Role": Handlers(
        (ROLES,),
        "iam:CreateRole iam:GetRole iam:UpdateAssumeRolePolicy iam:PutRolePolicy "
        "iam:GetRolePolicy iam:DeleteRolePolicy iam:ListRolePolicies "
        "iam:ListAttachedRolePolicies iam:TagRole iam:UntagRole",
        "iam:DeleteRole",
        {
            "Description": "iam:UpdateRole iam:UpdateRoleDescription",
            "MaxSessionDuration": "iam:UpdateRole",
            "ManagedPolicyArns": "iam:AttachRolePolicy iam:DetachRolePolicy",
            # Not iam:DeleteRolePermissionsBoundary: whoever may call it has no boundary.
            "PermissionsBoundary": "iam:PutRolePermissionsBoundary",
        },
    ),
    "AWS::Logs::LogGroup": Handlers(
        (
            "arn:aws:logs:REGION:ACCOUNT:log-group:/aws/lambda/STACK/*",
            "arn:aws:logs:REGION:ACCOUNT:log-group:/aws/vendedlogs/states/STACK-*",
        ),
        "logs:CreateLogGroup logs:DescribeLogGroups logs:ListTagsForResource logs:TagResource "
        "logs:UntagResource logs:GetDataProtectionPolicy",
        "logs:DeleteLogGroup",
        {
            "RetentionInDays": "logs:PutRetentionPolicy",
            "KmsKeyId": "logs:AssociateKmsKey logs:DisassociateKmsKey",
            "DataProtectionPolicy": "logs:PutDataProtectionPolicy logs:DeleteDataProtectionPolicy",
        },
        # It has no resources.
        {"logs:DescribeLogGroups": ("*",)},
    ),
    "AWS::S3::Bucket": Handlers(
        _BUCKET,
        "s3:CreateBucket s3:ListBucket s3:GetBucketAcl s3:PutBucketTagging s3:GetBucketTagging "
        "s3:GetAccelerateConfiguration s3:GetAnalyticsConfiguration s3:GetBucketCORS "
        "s3:GetBucketLogging s3:GetBucketNotification s3:GetBucketObjectLockConfiguration "
        "s3:GetBucketOwnershipControls s3:GetBucketPublicAccessBlock s3:GetBucketVersioning "
        "s3:GetBucketWebsite s3:GetEncryptionConfiguration s3:GetIntelligentTieringConfiguration "
        "s3:GetInventoryConfiguration s3:GetLifecycleConfiguration s3:GetMetricsConfiguration "
        "s3:GetReplicationConfiguration",
        "s3:DeleteBucket",
        {
            "BucketEncryption": "s3:PutEncryptionConfiguration",
            "CorsConfiguration": "s3:PutBucketCORS",
            "LifecycleConfiguration": "s3:PutLifecycleConfiguration",
            "LoggingConfiguration": "s3:PutBucketLogging",
            "NotificationConfiguration": "s3:PutBucketNotification",
            "ObjectLockConfiguration": "s3:PutBucketObjectLockConfiguration",
            "OwnershipControls": "s3:PutBucketOwnershipControls",
            "PublicAccessBlockConfiguration": "s3:PutBucketPublicAccessBlock",
            "VersioningConfiguration": "s3:PutBucketVersioning",
        },
    ),
    "AWS::S3::BucketPolicy": Handlers(
        _BUCKET, "s3:GetBucketPolicy s3:PutBucketPolicy", "s3:DeleteBucketPolicy"
    ),
    "AWS::Lambda::Function": Handlers(
        _FUNCTION,
        "lambda:CreateFunction lambda:GetFunction lambda:UpdateFunctionCode "
        "lambda:UpdateFunctionConfiguration lambda:GetFunctionCodeSigningConfig "
        "lambda:GetFunctionRecursionConfig lambda:GetFunctionScalingConfig "
        "lambda:GetRuntimeManagementConfig lambda:ListTags lambda:TagResource "
        "lambda:UntagResource",
        "lambda:DeleteFunction",
        {
            "Code": "s3:GetObject",
            "Layers": "lambda:GetLayerVersion",
            "Role": "iam:PassRole",
            "ReservedConcurrentExecutions": "lambda:PutFunctionConcurrency "
            "lambda:DeleteFunctionConcurrency",
            # The last one only to see that the network interfaces of one removed are gone.
            "VpcConfig": "ec2:DescribeSecurityGroups ec2:DescribeSubnets ec2:DescribeVpcs "
            "ec2:DescribeNetworkInterfaces",
        },
        {
            "s3:GetObject": (ARTIFACTS,),
            "lambda:GetLayerVersion": _LAYER_VERSIONS,
            "iam:PassRole": (ROLES,),
        }
        | dict.fromkeys(
            (
                "ec2:DescribeSecurityGroups",
                "ec2:DescribeSubnets",
                "ec2:DescribeVpcs",
                "ec2:DescribeNetworkInterfaces",
            ),
            ("*",),
        ),
    ),
    "AWS::Lambda::LayerVersion": Handlers(
        _LAYER_VERSIONS,
        "lambda:PublishLayerVersion lambda:GetLayerVersion",
        "lambda:DeleteLayerVersion",
        {"Content": "s3:GetObject"},
        {"lambda:PublishLayerVersion": _LAYERS, "s3:GetObject": (ARTIFACTS,)},
    ),
    "AWS::Lambda::EventSourceMapping": Handlers(
        _MAPPINGS,
        "lambda:CreateEventSourceMapping lambda:GetEventSourceMapping "
        "lambda:UpdateEventSourceMapping lambda:ListTags lambda:TagResource lambda:UntagResource",
        "lambda:DeleteEventSourceMapping",
        elsewhere={"lambda:CreateEventSourceMapping": ("*",)},
    ),
    "AWS::Lambda::Permission": Handlers(
        _FUNCTION, "lambda:AddPermission lambda:GetPolicy", "lambda:RemovePermission"
    ),
    "AWS::StepFunctions::StateMachine": Handlers(
        ("arn:aws:states:REGION:ACCOUNT:stateMachine:STACK-*",),
        "states:CreateStateMachine states:DescribeStateMachine states:UpdateStateMachine "
        "states:ListTagsForResource states:TagResource states:UntagResource",
        "states:DeleteStateMachine",
        {"DefinitionS3Location": "s3:GetObject", "RoleArn": "iam:PassRole"},
        {"s3:GetObject": (ARTIFACTS,), "iam:PassRole": (ROLES,)},
    ),
}


def needed_rights(template: Template) -> set[Right]:
    """Return what a deployment of a translated template needs, its changes and removal included.

    What is retained, however its stack ends, is never removed.
    """
    return {
        right
        for resource in template["Resources"].values()
        for right in _rights_of(HANDLERS[resource["Type"]], resource)
    }


def _rights_of(handlers: Handlers, resource: dict[str, Any]) -> Iterator[Right]:
    actions = handlers.keep.split()
    policies = {resource.get(name) for name in ("DeletionPolicy", "UpdateReplacePolicy")}
    if policies != {"Retain"}:
        actions += handlers.remove.split()
    for name in resource["Properties"]:
        actions += handlers.by_property.get(name, "").split()
    for action in actions:
        yield from ((action, on) for on in handlers.elsewhere.get(action, handlers.on))
