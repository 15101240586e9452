"""What an error of AWS, or of the way to it, means: one table.

Sources: the error lists of each operation in the API references of Amazon Cognito, AWS AppSync,
Amazon S3, AWS Secrets Manager, Amazon DynamoDB and AWS Systems Manager; botocore documentation,
"Error handling".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError

from provisioner.errors import ErrorType, ProvisioningError, failure

#: What a call of AWS raises: an error that AWS answers, one on the way to it, and an answer that is
#: none, such as a proxy's page, which botocore lets pass as an exception of no kin.
AWS_ERRORS = (ClientError, BotoCoreError, ResponseParserError)

#: The service throttles or is not well: it serves later.
_UNAVAILABLE = frozenset(
    {
        "InternalError",
        "InternalErrorException",
        "InternalFailure",
        "InternalFailureException",
        "InternalServerError",
        "InternalServiceError",
        "InternalServiceErrorException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestAbortedException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "ThrottlingError",
        "TooManyRequestsException",
    }
)

#: Another request works at the same thing, or this one took too long to arrive: it ends soon.
_CONTENTION = frozenset(
    {
        "ConcurrentModificationException",
        "OperationAborted",
        "ReplicatedWriteConflictException",
        "RequestTimeout",
        "RequestTimeoutException",
        "TransactionConflict",
        "TransactionConflictException",
        "TransactionInProgressException",
        "UserImportInProgressException",
    }
)

#: The caller may not do this.
_FORBIDDEN = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidEmailRoleAccessPolicyException",
        "InvalidSmsRoleAccessPolicyException",
        "InvalidSmsRoleTrustRelationshipException",
        "MissingAuthenticationToken",
        "NotAuthorized",
        "NotAuthorizedException",
        "OptInRequired",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnauthorizedException",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
    }
)

#: A limit of the account is reached; it is raised by asking AWS.
_QUOTA = frozenset(
    {
        "ApiKeyLimitExceededException",
        "ApiLimitExceededException",
        "LimitExceededException",
        "ServiceQuotaExceededException",
        "TooManyBuckets",
    }
)

#: The request is wrong, or meets something that stays as it is.
_PERMANENT = frozenset(
    {
        "301",
        "400",
        "AuthorizationHeaderMalformed",
        "BadRequestException",
        "ConditionalCheckFailedException",
        "ConflictException",
        "DecryptionFailure",
        "EncryptionFailure",
        "EncryptionTypeMismatch",
        "FeatureUnavailableInTierException",
        "IdempotentParameterMismatchException",
        "IllegalLocationConstraintException",
        "InvalidArgument",
        "InvalidBucketName",
        "InvalidKeyId",
        "InvalidOAuthFlowException",
        "InvalidParameterException",
        "InvalidRequest",
        "InvalidRequestException",
        "InvalidWriteOffset",
        "InvalidTag",
        "ItemCollectionSizeLimitExceededException",
        "MalformedHttpRequestException",
        "MalformedPolicy",
        "MalformedPolicyDocumentException",
        "MalformedXML",
        "MethodNotAllowed",
        "NoSuchBucket",
        "NoSuchUpload",
        "NotFoundException",
        "OperationNotEnabledException",
        "ParameterNotFound",
        "ParameterVersionNotFound",
        "PermanentRedirect",
        "PreconditionNotMetException",
        "RequestEntityTooLargeException",
        "ResourceExistsException",
        "ResourceNotFoundException",
        "ScopeDoesNotExistException",
        "TierChangeNotAllowedException",
        "UnknownOperationException",
        "UserPoolTaggingException",
        "TooManyParts",
        "ValidationError",
        "ValidationException",
    }
)

_HTTP_FORBIDDEN = 403
_HTTP_THROTTLED = 429
_HTTP_SERVER_ERROR = 500

#: Characters of AWS's own message that are kept for operators.
_CAUSE_LENGTH = 500


@contextmanager
def translated(final: ErrorType, doing: str) -> Iterator[None]:
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
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        message = str(error.response.get("Error", {}).get("Message", ""))
        cause = f"{error.operation_name}: {code}: {message}"[:_CAUSE_LENGTH]
        return _of_type(_client_error_type(code, status, final), doing, cause)
    return _of_type(_transport_error_type(error, final), doing, type(error).__name__)


def short_cause(error: BaseException) -> str:
    """Name an exception, and what AWS called it; its text, which may hold anything, is left out."""
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        return f"{error.operation_name}: {code}"
    return type(error).__name__


def _client_error_type(code: str, status: int, final: ErrorType) -> ErrorType:
    rules = (
        (_UNAVAILABLE, ErrorType.NETWORK_ERROR),
        (_CONTENTION, ErrorType.TIMEOUT),
        (_FORBIDDEN, ErrorType.INSUFFICIENT_PERMISSIONS),
        (_QUOTA, ErrorType.QUOTA_EXCEEDED),
        (_PERMANENT, final),
    )
    for codes, error_type in rules:
        if code in codes:
            return error_type
    if status == _HTTP_FORBIDDEN:
        return ErrorType.INSUFFICIENT_PERMISSIONS
    if status == _HTTP_THROTTLED or status >= _HTTP_SERVER_ERROR:
        return ErrorType.NETWORK_ERROR
    return ErrorType.UNKNOWN_ERROR


def _transport_error_type(error: Exception, final: ErrorType) -> ErrorType:
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
        return ErrorType.TIMEOUT
    if isinstance(error, HTTPClientError | BotoConnectionError):
        return ErrorType.NETWORK_ERROR
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return ErrorType.INSUFFICIENT_PERMISSIONS
    if isinstance(error, ParamValidationError):
        return final
    return ErrorType.UNKNOWN_ERROR


def _of_type(error_type: ErrorType, doing: str, cause: str) -> ProvisioningError:
    sentences = {
        ErrorType.NETWORK_ERROR: f"AWS did not answer while we tried to {doing}.",
        ErrorType.TIMEOUT: f"It took too long to {doing}.",
        ErrorType.INSUFFICIENT_PERMISSIONS: f"The platform may not {doing}.",
        ErrorType.QUOTA_EXCEEDED: f"A limit of the AWS account is reached: it could not {doing}.",
        ErrorType.UNKNOWN_ERROR: f"AWS gave an answer we do not know while we tried to {doing}.",
    }
    return failure(error_type, sentences.get(error_type, f"AWS refused to {doing}."), cause)
