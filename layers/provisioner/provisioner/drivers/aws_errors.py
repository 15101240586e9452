"""What an error of AWS, or of the way to it, means: one table.

Sources: the error lists of each operation in the API references of Amazon Cognito, AWS AppSync,
Amazon S3, Amazon RDS, AWS Secrets Manager, Amazon DynamoDB, AWS Systems Manager, AWS Step
Functions, Amazon SQS and Amazon EventBridge; their pages "Common Errors"; Amazon S3 API Reference,
"Error responses"; botocore documentation, "Error handling".
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    CapacityNotAvailableError,
    ChecksumError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    LoginError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    RefreshWithMFAUnsupportedError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError

from provisioner.errors import ErrorType, ProvisioningError, failure

#: What a call of AWS raises: an error that AWS answers, one on the way to it, and an answer that is
#: none, such as a proxy's page, which botocore lets pass as an exception of no kin.
AWS_ERRORS = (ClientError, BotoCoreError, ResponseParserError)

#: The service is asked too often: it serves later.
_THROTTLED = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "KMS.ThrottlingException",
        "KmsThrottled",
        "KmsThrottlingException",
        "OverLimit",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingError",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)

#: The service is not well, or throttles: it serves later.
_UNAVAILABLE = _THROTTLED | frozenset(
    {
        "Busy",
        "ExecutionLimitExceeded",
        "IDPCommunicationError",
        "InsufficientDBInstanceCapacity",
        "InternalError",
        "InternalErrorException",
        "InternalException",
        "InternalFailure",
        "InternalFailureException",
        "InternalServerError",
        "InternalServerException",
        "InternalServiceError",
        "InternalServiceErrorException",
        "PriorRequestNotComplete",
        "Redirect",
        "RequestAbortedException",
        "ResponseInterrupted",
        "ServiceUnavailable",
        "ServiceUnavailableError",
        "ServiceUnavailableException",
        "TemporaryRedirect",
    }
)

#: Another request works at the same thing, or this one did not arrive whole and in time: it passes.
_CONTENTION = frozenset(
    {
        "ConcurrentModificationException",
        "ConditionalRequestConflict",
        "ConnectionClosedByRequester",
        "IncompleteBody",
        "InvalidDBInstanceState",
        "InvalidDBSnapshotState",
        "OperationAborted",
        "PurgeQueueInProgress",
        "QueueDeletedRecently",
        "ReplicatedWriteConflictException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ResourceInUseException",
        "TooManyUpdates",
        "TransactionConflict",
        "TransactionConflictException",
        "TransactionInProgressException",
        "UserImportInProgressException",
    }
)

#: The caller may not do this, or the service does not believe that it is who it says: for a clock
#: that is wrong, or a token that is none.
_FORBIDDEN = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "ForbiddenException",
        "IDPRejectedClaim",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidEmailRoleAccessPolicyException",
        "InvalidIdentityToken",
        "InvalidPayer",
        "InvalidRegion",
        "InvalidSecurity",
        "InvalidSignature",
        "InvalidSignatureException",
        "InvalidSmsRoleAccessPolicyException",
        "InvalidSmsRoleTrustRelationshipException",
        "InvalidToken",
        "InvalidTokenId",
        "KMS.AccessDeniedException",
        "KMS.OptInRequired",
        "KmsAccessDenied",
        "KmsAccessDeniedException",
        "KmsOptInRequired",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "MissingSecurityElement",
        "MissingSecurityHeader",
        "NotAuthorized",
        "NotAuthorizedException",
        "NotSignedUp",
        "OptInRequired",
        "RegionDisabledException",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "SubscriptionRequiredException",
        "TokenRefreshRequired",
        "UnauthorizedAccess",
        "UnauthorizedAccessError",
        "UnauthorizedException",
        "UnauthorizedOperation",
        "UnexpectedIPError",
        "UnrecognizedClientException",
        "UnsupportedSignature",
    }
)

#: A limit of the account is reached; it is raised by asking AWS.
_QUOTA = frozenset(
    {
        "AccountLimitExceeded",
        "ApiKeyLimitExceededException",
        "ApiLimitExceededException",
        "DBInstanceAutomatedBackupQuotaExceeded",
        "InstanceQuotaExceeded",
        "LimitExceededException",
        "ServiceQuotaExceededException",
        "SnapshotQuotaExceeded",
        "StorageQuotaExceeded",
        "TenantDatabaseQuotaExceeded",
        "TooManyBuckets",
    }
)

#: The request is wrong, or meets something that stays as it is.
_PERMANENT = frozenset(
    {
        "AccessControlListNotSupported",
        "AuthorizationHeaderMalformed",
        "AuthorizationNotFound",
        "AuthorizationQueryParametersError",
        "BackupPolicyNotFound",
        "BadDigest",
        "BadRequestException",
        "BlueGreenDeploymentNotFound",
        "BucketHasAccessPointsAttached",
        "BucketNotEmpty",
        "CertificateNotFound",
        "ClientTokenConflict",
        "ConditionalCheckFailedException",
        "ConflictException",
        "CredentialsNotSupported",
        "DBCapacityReservationNotFound",
        "DBClusterNotFound",
        "DBClusterSnapshotNotFound",
        "DBInstanceAlreadyExists",
        "DBInstanceNotFound",
        "DBParameterGroupNotFound",
        "DBProxyEndpointNotFound",
        "DBProxyNotFound",
        "DBProxyTargetGroupNotFound",
        "DBSecurityGroupNotFound",
        "DBShardGroupNotFound",
        "DBSnapshotAlreadyExists",
        "DBSnapshotNotFound",
        "DBSnapshotTenantDatabaseNotFound",
        "DBSubnetGroupDoesNotCoverEnoughAZs",
        "DBSubnetGroupNotFound",
        "DBUpgradeDependencyFailure",
        "DecryptionFailure",
        "DependencyViolation",
        "DomainNotFound",
        "EncryptionFailure",
        "EncryptionTypeMismatch",
        "EndpointNotFound",
        "EntityTooLarge",
        "EntityTooSmall",
        "ExecutionAlreadyExists",
        "ExecutionDoesNotExist",
        "FeatureUnavailableInTierException",
        "IdempotentParameterMismatchException",
        "IllegalLocationConstraint",
        "IllegalLocationConstraintException",
        "IllegalVersioningConfigurationException",
        "IncorrectEndpoint",
        "InlineDataTooLarge",
        "IntegrationNotFound",
        "InvalidAccessPoint",
        "InvalidAction",
        "InvalidAddress",
        "InvalidAddressingHeader",
        "InvalidArgument",
        "InvalidArn",
        "InvalidAttributeName",
        "InvalidAttributeValue",
        "InvalidBucketAclWithObjectOwnership",
        "InvalidBucketName",
        "InvalidBucketNamespace",
        "InvalidBucketOwnerAWSAccountID",
        "InvalidBucketState",
        "InvalidDBCapacityReservationState",
        "InvalidDBClusterEndpointState",
        "InvalidDBClusterState",
        "InvalidDBSecurityGroupState",
        "InvalidDigest",
        "InvalidEncryptionAlgorithmError",
        "InvalidEndpointException",
        "InvalidExecutionInput",
        "InvalidFilterKey",
        "InvalidFilterOption",
        "InvalidFilterValue",
        "InvalidHostHeader",
        "InvalidHttpMethod",
        "InvalidKeyId",
        "InvalidLocationConstraint",
        "InvalidMessageContents",
        "InvalidName",
        "InvalidNextToken",
        "InvalidNextTokenException",
        "InvalidOAuthFlowException",
        "InvalidObjectState",
        "InvalidParameter",
        "InvalidParameterCombination",
        "InvalidParameterException",
        "InvalidParameterValue",
        "InvalidPart",
        "InvalidPartOrder",
        "InvalidPolicyDocument",
        "InvalidQueryParameter",
        "InvalidRange",
        "InvalidRequest",
        "InvalidRequestException",
        "InvalidRestore",
        "InvalidStorageClass",
        "InvalidSubnet",
        "InvalidTag",
        "InvalidURI",
        "InvalidVPCNetworkState",
        "InvalidWriteOffset",
        "ItemCollectionSizeLimitExceededException",
        "KMS.DisabledException",
        "KMS.InvalidKeyUsageException",
        "KMS.InvalidStateException",
        "KMS.KMSInvalidStateException",
        "KMS.NotFoundException",
        "KMSKeyNotAccessible",
        "KeyTooLongError",
        "KmsDisabled",
        "KmsInvalidKeyUsage",
        "KmsInvalidState",
        "KmsInvalidStateException",
        "KmsNotFound",
        "MalformedACLError",
        "MalformedHttpRequestException",
        "MalformedPolicy",
        "MalformedPolicyDocumentException",
        "MalformedQueryString",
        "MalformedXML",
        "MaxMessageLengthExceeded",
        "MessageNotInflight",
        "MetadataTooLarge",
        "MethodNotAllowed",
        "MissingAction",
        "MissingContentLength",
        "MissingNamespaceHeader",
        "MissingParameter",
        "MissingRequestBodyError",
        "NetworkTypeNotSupported",
        "NoSuchAccessPoint",
        "NoSuchBucket",
        "NoSuchBucketPolicy",
        "NoSuchConfiguration",
        "NoSuchKey",
        "NoSuchLifecycleConfiguration",
        "NoSuchPublicAccessBlockConfiguration",
        "NoSuchTagSet",
        "NoSuchUpload",
        "NoSuchVersion",
        "NotFoundException",
        "NotImplemented",
        "ObjectLockConfigurationNotFoundError",
        "OperationNotEnabledException",
        "OptionGroupNotFound",
        "OwnershipControlsNotFoundError",
        "ParameterNotFound",
        "ParameterVersionNotFound",
        "PermanentRedirect",
        "PermanentRedirectControlError",
        "PreconditionFailed",
        "PreconditionNotMetException",
        "ProvisionedIopsNotAvailableInAZ",
        "PublicPolicyException",
        "NonExistentQueue",
        "QueueDoesNotExist",
        "ReceiptHandleIsInvalid",
        "ReplicationConfigurationNotFoundError",
        "RequestEntityTooLargeException",
        "RequestHeaderSectionTooLarge",
        "ResourceAlreadyExistsException",
        "ResourceExistsException",
        "ResourceNotFound",
        "ResourceNotFoundException",
        "ScopeDoesNotExistException",
        "SerializationException",
        "ServerSideEncryptionConfigurationNotFoundError",
        "StateMachineDeleting",
        "StateMachineDoesNotExist",
        "StorageTypeNotSupported",
        "TableNotFoundException",
        "TenantDatabaseNotFound",
        "TierChangeNotAllowedException",
        "TooManyParts",
        "TooManyTags",
        "TooManyTagsError",
        "TooManyTagsException",
        "UnexpectedContent",
        "UnknownOperation",
        "UnknownOperationException",
        "UnsupportedArgument",
        "UnsupportedOperation",
        "UnsupportedOperationException",
        "UserKeyMustBeSpecified",
        "UserPoolAddOnNotEnabledException",
        "UserPoolTaggingException",
        "ValidationError",
        "ValidationException",
        "VpcEncryptionControlViolationException",
        "XAmzContentSHA256Mismatch",
    }
)

#: The way to the service was closed, or damaged the answer.
_ON_THE_WAY = (
    HTTPClientError,
    BotoConnectionError,
    IncompleteReadError,
    ChecksumError,
    FlexibleChecksumError,
    CapacityNotAvailableError,
)

#: There are no credentials, or none that are of use without someone who logs in.
_WITHOUT_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    NoAuthTokenError,
    SSOError,
    LoginError,
    RefreshWithMFAUnsupportedError,
)

#: What gives the credentials failed, for any reason.
_MAY_PASS = (CredentialRetrievalError, MetadataRetrievalError, TokenRetrievalError)

#: What a status means that comes with no code, or with one that is in no table.
_STATUSES: dict[int, ErrorType] = {
    HTTPStatus.TEMPORARY_REDIRECT: ErrorType.NETWORK_ERROR,
    HTTPStatus.UNAUTHORIZED: ErrorType.INSUFFICIENT_PERMISSIONS,
    HTTPStatus.FORBIDDEN: ErrorType.INSUFFICIENT_PERMISSIONS,
    HTTPStatus.REQUEST_TIMEOUT: ErrorType.TIMEOUT,
    HTTPStatus.TOO_EARLY: ErrorType.NETWORK_ERROR,
    HTTPStatus.TOO_MANY_REQUESTS: ErrorType.NETWORK_ERROR,
}

#: What SQS puts before the codes of its own.
_SQS = "AWS.SimpleQueueService."

#: What RDS puts behind some of its codes, and not behind others.
_FAULT = "Fault"

#: Characters of AWS's own message that are kept for operators.
_CAUSE_LENGTH = 500


@contextmanager
def translate_errors(final: ErrorType, doing: str) -> Iterator[None]:
    """Raise what AWS raises in the body as an error of the table.

    Args:
        final: the type of causes that stay, such as SERVICE_REGISTRATION_FAILED.
        doing: what the body does, for the sentence that people read, such as
            "create the user pool".
    """
    try:
        yield
    except AWS_ERRORS as error:
        raise translate(error, final, doing) from None


def translate(error: Exception, final: ErrorType, doing: str) -> ProvisioningError:
    """Turn an exception of botocore into an error of the table."""
    if isinstance(error, ClientError):
        code = code_of(error)
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        message = str(error.response.get("Error", {}).get("Message", ""))
        cause = f"{error.operation_name}: {code}: {message}"[:_CAUSE_LENGTH]
        return _of_type(_client_error_type(code, status, final), doing, cause)
    return _of_type(_transport_error_type(error, final), doing, type(error).__name__)


def code_of(error: ClientError) -> str:
    """Return the code of an error that AWS has answered; empty where there is none."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_throttled(error: Exception) -> bool:
    """Whether AWS refuses a call since it is asked too often, and for nothing else."""
    return isinstance(error, ClientError) and code_of(error) in _THROTTLED


def is_sent_once(answer: Mapping[str, Any]) -> bool:
    """Whether botocore has sent a request once, so that it can have had its effect only once.

    Source: botocore documentation, "Retries", `RetryAttempts` of the answer's metadata.
    """
    return bool(answer.get("ResponseMetadata", {}).get("RetryAttempts") == 0)


def short_cause(error: BaseException) -> str:
    """Name an exception, and what AWS called it; its text, which may hold anything, is left out."""
    if isinstance(error, ClientError):
        return f"{error.operation_name}: {code_of(error)}"
    return type(error).__name__


def _client_error_type(code: str, status: int, final: ErrorType) -> ErrorType:
    rules = (
        (_UNAVAILABLE, ErrorType.NETWORK_ERROR),
        (_CONTENTION, ErrorType.TIMEOUT),
        (_FORBIDDEN, ErrorType.INSUFFICIENT_PERMISSIONS),
        (_QUOTA, ErrorType.QUOTA_EXCEEDED),
        (_PERMANENT, final),
    )
    plain = code.removeprefix(_SQS).removesuffix(_FAULT)
    for codes, error_type in rules:
        if plain in codes:
            return error_type
    if code.isdecimal():
        # An answer without a body has its status for a code.
        return _status_type(int(code), final)
    return _status_type(status, ErrorType.UNKNOWN_ERROR)


def _status_type(status: int, other: ErrorType) -> ErrorType:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED:
        return ErrorType.NETWORK_ERROR
    return _STATUSES.get(status, other)


def _transport_error_type(error: Exception, final: ErrorType) -> ErrorType:
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
        return ErrorType.TIMEOUT
    if isinstance(error, _ON_THE_WAY):
        return ErrorType.NETWORK_ERROR
    if isinstance(error, _WITHOUT_CREDENTIALS):
        return ErrorType.INSUFFICIENT_PERMISSIONS
    if isinstance(error, _MAY_PASS) or type(error) is BotoCoreError:
        return ErrorType.UNKNOWN_ERROR
    # What is left tells of a parameter, or of how the SDK is configured.
    return final if isinstance(error, BotoCoreError) else ErrorType.UNKNOWN_ERROR


def _of_type(error_type: ErrorType, doing: str, cause: str) -> ProvisioningError:
    sentences = {
        ErrorType.NETWORK_ERROR: f"AWS did not answer while we tried to {doing}.",
        ErrorType.TIMEOUT: f"It took too long to {doing}.",
        ErrorType.INSUFFICIENT_PERMISSIONS: f"The platform may not {doing}.",
        ErrorType.QUOTA_EXCEEDED: f"A limit of the AWS account is reached: it could not {doing}.",
        ErrorType.UNKNOWN_ERROR: f"AWS gave an answer we do not know while we tried to {doing}.",
    }
    return failure(error_type, sentences.get(error_type, f"AWS refused to {doing}."), cause)
