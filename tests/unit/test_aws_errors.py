"""What an error of AWS, or of the way to it, is for the job."""

from __future__ import annotations

from typing import Any

import boto3
import botocore.exceptions
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from provisioner.drivers.aws_errors import translate, translate_errors
from provisioner.errors import ERROR_RULES, ErrorType, ProvisioningError
from support.core import REGION
from support.drivers import refused, text_of
from support.project import kept_operations

FINAL = ErrorType.SERVICE_REGISTRATION_FAILED

#: What each code is. Those of the first two pass by waiting.
_CODES = {
    ErrorType.NETWORK_ERROR: """
        BandwidthLimitExceeded Busy EC2ThrottledException ExecutionLimitExceeded
        IDPCommunicationError InsufficientDBInstanceCapacity InsufficientDBInstanceCapacityFault
        InternalError InternalErrorException InternalException InternalFailure
        InternalFailureException InternalServerError InternalServerException InternalServiceError
        InternalServiceErrorException KMS.ThrottlingException KmsThrottled KmsThrottlingException
        OverLimit PriorRequestNotComplete ProvisionedThroughputExceededException Redirect
        RequestAbortedException RequestLimitExceeded RequestThrottled RequestThrottledException
        ResponseInterrupted ServiceUnavailable ServiceUnavailableError ServiceUnavailableException
        SlowDown TemporaryRedirect ThrottledException Throttling ThrottlingError ThrottlingException
        TooManyRequestsException 307 425 429 500 502 503 504 AWS.SimpleQueueService.OverLimit
    """,
    ErrorType.TIMEOUT: """
        ConcurrentModificationException ConditionalRequestConflict ConnectionClosedByRequester
        IncompleteBody InvalidDBInstanceState InvalidDBInstanceStateFault InvalidDBSnapshotState
        InvalidDBSnapshotStateFault OperationAborted PurgeQueueInProgress QueueDeletedRecently
        ReplicatedWriteConflictException RequestTimeout RequestTimeoutException
        ResourceInUseException TooManyUpdates TransactionConflict TransactionConflictException
        TransactionInProgressException UserImportInProgressException 408
    """,
    ErrorType.INSUFFICIENT_PERMISSIONS: """
        AccessDenied AccessDeniedException AccountProblem AllAccessDisabled AuthFailure ExpiredToken
        ExpiredTokenException ForbiddenException IDPRejectedClaim IncompleteSignature
        IncompleteSignatureException InvalidAccessKeyId InvalidClientTokenId
        InvalidEmailRoleAccessPolicyException InvalidIdentityToken InvalidPayer InvalidRegion
        InvalidSecurity InvalidSignature InvalidSignatureException
        InvalidSmsRoleAccessPolicyException InvalidSmsRoleTrustRelationshipException InvalidToken
        InvalidTokenId KMS.AccessDeniedException KMS.OptInRequired KmsAccessDenied
        KmsAccessDeniedException KmsOptInRequired MissingAuthenticationToken
        MissingAuthenticationTokenException MissingSecurityElement MissingSecurityHeader
        NotAuthorized NotAuthorizedException NotSignedUp OptInRequired RegionDisabledException
        RequestExpired RequestTimeTooSkewed SignatureDoesNotMatch SubscriptionRequiredException
        TokenRefreshRequired UnauthorizedAccess UnauthorizedAccessError UnauthorizedException
        UnauthorizedOperation UnexpectedIPError UnrecognizedClientException UnsupportedSignature
        401 403
    """,
    ErrorType.QUOTA_EXCEEDED: """
        AccountLimitExceeded ApiKeyLimitExceededException ApiLimitExceededException
        DBInstanceAutomatedBackupQuotaExceeded InstanceQuotaExceeded LimitExceededException
        ServiceQuotaExceededException SnapshotQuotaExceeded StorageQuotaExceeded
        TenantDatabaseQuotaExceeded TooManyBuckets
    """,
    FINAL: """
        AccessControlListNotSupported AuthorizationHeaderMalformed AuthorizationNotFound
        AuthorizationQueryParametersError BackupPolicyNotFoundFault BadDigest BadRequestException
        BlueGreenDeploymentNotFoundFault BucketHasAccessPointsAttached BucketNotEmpty
        CertificateNotFound ClientTokenConflict ConditionalCheckFailedException ConflictException
        CredentialsNotSupported DBCapacityReservationNotFound DBClusterNotFoundFault
        DBClusterSnapshotNotFoundFault DBInstanceAlreadyExists DBInstanceNotFound
        DBParameterGroupNotFound DBProxyEndpointNotFoundFault DBProxyNotFoundFault
        DBProxyTargetGroupNotFoundFault DBSecurityGroupNotFound DBShardGroupNotFound
        DBSnapshotAlreadyExists DBSnapshotNotFound DBSnapshotTenantDatabaseNotFoundFault
        DBSubnetGroupDoesNotCoverEnoughAZs DBSubnetGroupNotFoundFault DBUpgradeDependencyFailure
        DecryptionFailure DependencyViolation DomainNotFoundFault EncryptionFailure
        EncryptionTypeMismatch EndpointNotFound EntityTooLarge EntityTooSmall ExecutionAlreadyExists
        ExecutionDoesNotExist FeatureUnavailableInTierException IdempotentParameterMismatchException
        IllegalLocationConstraint IllegalLocationConstraintException
        IllegalVersioningConfigurationException IncorrectEndpoint InlineDataTooLarge
        IntegrationNotFoundFault InvalidAccessPoint InvalidAction InvalidAddress
        InvalidAddressingHeader InvalidArgument InvalidArn InvalidAttributeName
        InvalidAttributeValue InvalidBucketAclWithObjectOwnership InvalidBucketName
        InvalidBucketNamespace InvalidBucketOwnerAWSAccountID InvalidBucketState
        InvalidDBCapacityReservationState
        InvalidDBClusterEndpointStateFault InvalidDBClusterStateFault InvalidDBSecurityGroupState
        InvalidDigest InvalidEncryptionAlgorithmError InvalidEndpointException InvalidExecutionInput
        InvalidFilterKey InvalidFilterOption InvalidFilterValue InvalidHostHeader InvalidHttpMethod
        InvalidKeyId InvalidLocationConstraint InvalidMessageContents InvalidName InvalidNextToken
        InvalidNextTokenException InvalidOAuthFlowException InvalidObjectState InvalidParameter
        InvalidParameterCombination InvalidParameterException InvalidParameterValue InvalidPart
        InvalidPartOrder InvalidPolicyDocument InvalidQueryParameter InvalidRange InvalidRequest
        InvalidRequestException InvalidRestoreFault InvalidStorageClass InvalidSubnet InvalidTag
        InvalidURI InvalidVPCNetworkStateFault InvalidWriteOffset
        ItemCollectionSizeLimitExceededException KMS.DisabledException KMS.InvalidKeyUsageException
        KMS.InvalidStateException KMS.KMSInvalidStateException KMS.NotFoundException
        KMSKeyNotAccessibleFault KeyTooLongError KmsDisabled KmsInvalidKeyUsage KmsInvalidState
        KmsInvalidStateException KmsNotFound MalformedACLError MalformedHttpRequestException
        MalformedPolicy MalformedPolicyDocumentException MalformedQueryString MalformedXML
        MaxMessageLengthExceeded MessageNotInflight MetadataTooLarge MethodNotAllowed MissingAction
        MissingContentLength MissingNamespaceHeader MissingParameter MissingRequestBodyError
        NetworkTypeNotSupported
        NoSuchAccessPoint NoSuchBucket NoSuchBucketPolicy NoSuchConfiguration NoSuchKey
        NoSuchLifecycleConfiguration NoSuchPublicAccessBlockConfiguration NoSuchTagSet NoSuchUpload
        NoSuchVersion NonExistentQueue NotFoundException NotImplemented
        ObjectLockConfigurationNotFoundError OperationNotEnabledException OptionGroupNotFoundFault
        OwnershipControlsNotFoundError ParameterNotFound ParameterVersionNotFound PermanentRedirect
        PermanentRedirectControlError PreconditionFailed PreconditionNotMetException
        ProvisionedIopsNotAvailableInAZFault PublicPolicyException QueueDoesNotExist
        ReceiptHandleIsInvalid ReplicationConfigurationNotFoundError RequestEntityTooLargeException
        RequestHeaderSectionTooLarge ResourceAlreadyExistsException ResourceExistsException
        ResourceNotFound ResourceNotFoundException ScopeDoesNotExistException SerializationException
        ServerSideEncryptionConfigurationNotFoundError StateMachineDeleting StateMachineDoesNotExist
        StorageTypeNotSupported TableNotFoundException TenantDatabaseNotFound
        TierChangeNotAllowedException TooManyParts TooManyTags TooManyTagsError TooManyTagsException
        UnexpectedContent UnknownOperation UnknownOperationException UnsupportedArgument
        UnsupportedOperation UnsupportedOperationException UserKeyMustBeSpecified
        UserPoolAddOnNotEnabledException UserPoolTaggingException ValidationError
        ValidationException VpcEncryptionControlViolationException XAmzContentSHA256Mismatch 301 302
        400 404 405 409 411 412 416 501 AWS.SimpleQueueService.NonExistentQueue
    """,
    ErrorType.UNKNOWN_ERROR: "Unheard TransactionCanceledException",
}
CODES = {error_type: codes.split() for error_type, codes in _CODES.items()}

#: What a status means where the code is in no table.
STATUSES = {
    307: ErrorType.NETWORK_ERROR,
    400: ErrorType.UNKNOWN_ERROR,
    401: ErrorType.INSUFFICIENT_PERMISSIONS,
    403: ErrorType.INSUFFICIENT_PERMISSIONS,
    404: ErrorType.UNKNOWN_ERROR,
    408: ErrorType.TIMEOUT,
    409: ErrorType.UNKNOWN_ERROR,
    425: ErrorType.NETWORK_ERROR,
    429: ErrorType.NETWORK_ERROR,
    500: ErrorType.NETWORK_ERROR,
    501: ErrorType.UNKNOWN_ERROR,
    502: ErrorType.NETWORK_ERROR,
    503: ErrorType.NETWORK_ERROR,
    504: ErrorType.NETWORK_ERROR,
}

#: What botocore raises where there is no answer of AWS.
TRANSPORT: dict[str, tuple[dict[str, Any], ErrorType]] = {
    "ReadTimeoutError": ({"endpoint_url": "x"}, ErrorType.TIMEOUT),
    "ConnectTimeoutError": ({"endpoint_url": "x"}, ErrorType.TIMEOUT),
    "EndpointConnectionError": ({"endpoint_url": "x"}, ErrorType.NETWORK_ERROR),
    "ConnectionClosedError": ({"endpoint_url": "x"}, ErrorType.NETWORK_ERROR),
    "ConnectionError": ({"error": "x"}, ErrorType.NETWORK_ERROR),
    "HTTPClientError": ({"error": "x"}, ErrorType.NETWORK_ERROR),
    "ProxyConnectionError": ({"proxy_url": "x"}, ErrorType.NETWORK_ERROR),
    "ResponseStreamingError": ({"error": "x"}, ErrorType.NETWORK_ERROR),
    "SSLError": ({"endpoint_url": "x", "error": "x"}, ErrorType.NETWORK_ERROR),
    "NoCredentialsError": ({}, ErrorType.INSUFFICIENT_PERMISSIONS),
    "PartialCredentialsError": (
        {"provider": "x", "cred_var": "x"},
        ErrorType.INSUFFICIENT_PERMISSIONS,
    ),
    "ParamValidationError": ({"report": "x"}, FINAL),
    "CredentialRetrievalError": ({"provider": "x", "error_msg": "x"}, ErrorType.UNKNOWN_ERROR),
    "BotoCoreError": ({}, ErrorType.UNKNOWN_ERROR),
}

#: What else can pass by itself: nothing was wrong with the request, or with how the SDK is set up.
PASSING = {
    *(name for name, (_, error_type) in TRANSPORT.items() if ERROR_RULES[error_type].retryable),
    *("CapacityNotAvailableError", "ChecksumError", "FlexibleChecksumError", "IncompleteReadError"),
    *("MetadataRetrievalError", "TokenRetrievalError"),
}

#: Errors that the drivers themselves know what to do about.
HANDLED = {"BucketAlreadyExists", "BucketAlreadyOwnedByYou", "TransactionCanceledException"}


def client_error(code: str, status: int = 400, message: str = "the message") -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(response, "TheOperation")


def known(error: Exception) -> ProvisioningError:
    return translate(error, FINAL, "make the thing")


@pytest.mark.parametrize(
    ("code", "expected"),
    [(code, error_type) for error_type, codes in CODES.items() for code in codes],
)
def test_a_code_has_its_type_whatever_the_status(code: str, expected: ErrorType) -> None:
    error = known(client_error(code))
    assert error.type is expected
    assert error.cause == f"TheOperation: {code}: the message"
    if expected is not ErrorType.UNKNOWN_ERROR:
        assert {known(client_error(code, status)).type for status in (403, 503)} == {expected}


@pytest.mark.parametrize(("status", "expected"), STATUSES.items())
def test_a_code_that_is_in_no_table_is_known_by_its_status(
    status: int, expected: ErrorType
) -> None:
    assert known(client_error("Unheard", status)).type is expected


def test_an_answer_without_anything_is_unknown() -> None:
    assert known(ClientError({}, "TheOperation")).type is ErrorType.UNKNOWN_ERROR


@pytest.mark.parametrize("name", TRANSPORT)
def test_what_is_no_answer_has_its_type_and_is_named_alone(name: str) -> None:
    arguments, expected = TRANSPORT[name]
    error = known(getattr(botocore.exceptions, name)(**arguments))
    assert (error.type, error.cause) == (expected, name)


def test_only_what_may_pass_of_what_botocore_raises_is_retried() -> None:
    kinds = {
        name: kind
        for name, kind in vars(botocore.exceptions).items()
        if isinstance(kind, type) and issubclass(kind, BotoCoreError)
    }
    retried = {
        name
        for name, kind in kinds.items()
        # Each wants parameters of its own, which say nothing of its type.
        if ERROR_RULES[known(kind.__new__(kind)).type].retryable
    }
    assert retried == PASSING & kinds.keys()


def test_an_answer_that_cannot_be_read_is_asked_for_again_and_not_passed_on() -> None:
    def fail() -> None:
        with translate_errors(FINAL, "make the thing"):
            raise ResponseParserError("Unable to parse response: b'hunter2'")

    error = refused(fail)
    assert (error.type, error.cause) == (ErrorType.UNKNOWN_ERROR, "ResponseParserError")
    assert "hunter2" not in text_of(error)


def documented_errors() -> list[tuple[str, str, int]]:
    """Return every error of AWS's own models for what the layer calls: action, code, status."""
    session = boto3.Session("testing", "testing", region_name=REGION)
    found = []
    for service, operations in kept_operations().items():
        model = session.client(service).meta.service_model  # type: ignore[call-overload]  # its stubs list literal names
        for operation in operations:
            for shape in model.operation_model(operation).error_shapes:
                about = shape.metadata.get("error", {})
                status = about.get("httpStatusCode", 400)
                # Some services say the code, and some the name.
                codes = {shape.name, about.get("code", shape.name)}
                found += [(f"{service}:{operation}", code, status) for code in codes]
    return found


def test_every_error_that_aws_documents_for_what_we_call_is_known() -> None:
    documented = documented_errors()
    assert {action.partition(":")[0] for action, _, _ in documented} == set(kept_operations())
    unknown = {
        (action, code)
        for action, code, status in documented
        if known(client_error(code, status)).type is ErrorType.UNKNOWN_ERROR
    }
    assert {code for _, code in unknown} == HANDLED


def test_only_what_passes_by_waiting_is_retried() -> None:
    """The codes of these two lists, and what is in no table: nothing else is tried again."""
    retried = {error_type for error_type, rule in ERROR_RULES.items() if rule.retryable}
    assert retried == {ErrorType.NETWORK_ERROR, ErrorType.TIMEOUT, ErrorType.UNKNOWN_ERROR}
    passing = {*CODES[ErrorType.NETWORK_ERROR], *CODES[ErrorType.TIMEOUT]}
    for _, code, status in documented_errors():
        if code not in HANDLED:
            assert (known(client_error(code, status)).type in retried) == (code in passing), code


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("SlowDown", "AWS did not answer while we tried to make the thing."),
        ("OperationAborted", "It took too long to make the thing."),
        ("AccessDenied", "The platform may not make the thing."),
        (
            "TooManyBuckets",
            "A limit of the AWS account is reached: it could not make the thing.",
        ),
        ("BadRequestException", "AWS refused to make the thing."),
        ("Unheard", "AWS gave an answer we do not know while we tried to make the thing."),
    ],
)
def test_people_read_a_sentence_without_what_aws_says(code: str, sentence: str) -> None:
    error = known(client_error(code, message="arn:aws:iam::123456789012:role/x at 10.0.0.1"))
    assert (error.message, str(error)) == (sentence, sentence)
    assert "arn:aws:iam" in error.cause


def test_the_cause_is_bounded() -> None:
    assert len(known(client_error("Unheard", message="x" * 10_000)).cause) == 500


@pytest.mark.parametrize(
    "error",
    [
        botocore.exceptions.ParamValidationError(report="Invalid value hunter2"),
        botocore.exceptions.HTTPClientError(error="hunter2"),
        botocore.exceptions.EndpointConnectionError(endpoint_url="https://hunter2@aws.invalid"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_quotes_the_request_is_not_passed_on(error: BotoCoreError) -> None:
    def fail() -> None:
        with translate_errors(FINAL, "make the thing"):
            raise error

    assert "hunter2" in str(error)
    assert "hunter2" not in text_of(refused(fail))


def test_errors_of_the_table_and_of_the_code_pass_as_they_are() -> None:
    ours = known(client_error("AccessDenied"))
    for error in (ours, KeyError("x")):
        with pytest.raises(type(error)) as raised, translate_errors(ErrorType.UNKNOWN_ERROR, "x"):
            raise error
        assert raised.value is error
