"""What is wrong with the settings of the AWS SDK: one table, each row naming what to set.

The SDK reads them where a client is made: variables, files, and programs that give credentials. Its
own texts may repeat a line of a credentials file, or what a program has printed, so none is told.
Sources: botocore.exceptions; boto3 documentation, "Configuration" and "Credentials".
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from boto3 import Session
from botocore import exceptions as sdk

from provisioner.runtime.settings import SettingsError


class AwsSettingsError(SettingsError):
    """A setting of the AWS SDK is missing or wrong: a variable, a file, or the credentials."""


#: Said where an endpoint is not a URL.
NO_URL = (
    "AWS_ENDPOINT_URL: must be a URL that begins with http:// or https://; correct it, or the one "
    "of a service (AWS_ENDPOINT_URL_…), or endpoint_url in the AWS config file."
)

NO_CREDENTIALS = "AWS credentials: none were found; log in, or set AWS_PROFILE."

_LOG_IN = "AWS credentials: there is no login, or it has ended; log in again (`aws sso login`)."
_PROCESS = "AWS credentials: credential_process gave none that can be read; run it yourself."

#: Variables that hold a whole number.
_NUMBERS = (
    *("AWS_MAX_ATTEMPTS", "AWS_METADATA_SERVICE_TIMEOUT", "AWS_METADATA_SERVICE_NUM_ATTEMPTS"),
    "AWS_CSM_PORT",
)


def _no_number() -> str:
    wrong = [name for name in _NUMBERS if not os.environ.get(name, "0").isdecimal()]
    names = ", ".join(wrong) or "a setting in the AWS config file"
    return f"{names}: must be a whole number."


def _value_error(error: Any) -> str:
    text = str(error)
    if text.startswith("Unsupported host"):
        return "AWS_CONTAINER_CREDENTIALS_FULL_URI: must lead to this machine or to AWS."
    return _no_number() if "int()" in text else NO_URL


def _no_profile(error: Any) -> str:
    name = "AWS_DEFAULT_PROFILE" if "AWS_DEFAULT_PROFILE" in os.environ else "AWS_PROFILE"
    return (
        f"{name}: there is no profile {error.kwargs['profile']} in your AWS settings; name one "
        "that there is, or unset it."
    )


#: By class, the first that fits.
_TABLE: tuple[tuple[type[BaseException], str | Callable[[Any], str]], ...] = (
    (sdk.ProfileNotFound, _no_profile),
    (
        sdk.ConfigParseError,
        lambda error: (
            f"{error.kwargs['path']}: is no AWS settings file; correct it, or name another with "
            "AWS_CONFIG_FILE or AWS_SHARED_CREDENTIALS_FILE."
        ),
    ),
    (sdk.NoRegionError, "AWS_DEFAULT_REGION: no region is set; set it, or give the region."),
    (sdk.InvalidRegionError, "AWS_DEFAULT_REGION: is no region's name, such as eu-central-1."),
    (
        sdk.InvalidRetryConfigurationError,
        "AWS_RETRY_MODE, AWS_MAX_ATTEMPTS: must be a retry mode, and a whole number.",
    ),
    (sdk.InvalidDefaultsMode, "AWS_DEFAULTS_MODE: is not one of the SDK's modes; unset it."),
    (
        sdk.InvalidSTSRegionalEndpointsConfigError,
        "AWS_STS_REGIONAL_ENDPOINTS: must be legacy or regional.",
    ),
    (
        sdk.InvalidS3UsEast1RegionalEndpointConfigError,
        "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT: must be legacy or regional.",
    ),
    (
        sdk.InvalidS3AddressingStyleError,
        "addressing_style in the AWS config file: must be auto, virtual or path.",
    ),
    (
        sdk.InvalidChecksumConfigError,
        lambda error: (
            f"AWS_{error.kwargs['config_key'].upper()}: must be when_supported or when_required."
        ),
    ),
    (sdk.InvalidIMDSEndpointError, "AWS_EC2_METADATA_SERVICE_ENDPOINT: must be a URL."),
    (sdk.InvalidIMDSEndpointModeError, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE: must be ipv4."),
    (
        sdk.PartialCredentialsError,
        lambda error: (
            f"AWS credentials: {error.kwargs['cred_var']} is missing ({error.kwargs['provider']}); "
            "set it too."
        ),
    ),
    (
        sdk.CredentialRetrievalError,
        lambda error: (
            f"AWS credentials: {error.kwargs['provider']} gave none; log in again, or run what "
            "credential_process names yourself."
        ),
    ),
    (sdk.NoCredentialsError, NO_CREDENTIALS),
    (sdk.TokenRetrievalError, _LOG_IN),
    (sdk.SSOError, _LOG_IN),
    (sdk.LoginError, _LOG_IN),
    # Names of profiles and settings, and what they must be.
    (sdk.InvalidConfigError, lambda error: f"AWS settings: {str(error).rstrip('.')}."),
    (
        sdk.MissingDependencyException,
        "login_session in the AWS config file: is not supported here; use another profile.",
    ),
    (json.JSONDecodeError, _PROCESS),
    (ValueError, _value_error),
    (
        OSError,
        lambda error: f"{error.filename}: your AWS settings name it, and it cannot be read.",
    ),
    (EOFError, "mfa_serial in the AWS config file: no code can be asked for; log in before."),
)


def problem(error: BaseException) -> str | None:
    """Say in one sentence which setting is wrong; None where the error is not of the settings."""
    for of, text in _TABLE:
        if isinstance(error, of):
            return text if isinstance(text, str) else text(error)
    return None


@contextmanager
def read() -> Iterator[None]:
    """Raise what reading the settings raises as a sentence that names the setting.

    Raises:
        AwsSettingsError: one is missing or wrong.
    """
    try:
        yield
    except (sdk.BotoCoreError, ValueError, OSError, EOFError) as error:
        # What fails on the way to AWS says nothing of a setting.
        said = None if isinstance(error, sdk.HTTPClientError) else problem(error)
        if said is None or isinstance(error, sdk.ConnectionError):
            raise
        raise AwsSettingsError(said) from None


def check_addresses(endpoint_url: str, session: Session) -> None:
    """See what the SDK reads only once it connects: the endpoint, and the file of certificates.

    Raises:
        AwsSettingsError: one is missing or wrong.
    """
    try:
        parts = urlsplit(endpoint_url)
        is_url = parts.scheme in {"http", "https"} and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        raise AwsSettingsError(NO_URL)
    certificates = session._session.get_config_variable("ca_bundle")  # noqa: SLF001  # not offered otherwise
    if certificates is not None and not Path(certificates).exists():
        raise AwsSettingsError(
            f"AWS_CA_BUNDLE: there is no file {certificates}; name the certificates that there "
            "are, or unset it, and ca_bundle in the AWS config file."
        )


def refuse_without_credentials(**_: object) -> None:
    """Refuse a call of AWS, as a handler of the SDK's event before it.

    Raises:
        AwsSettingsError: always.
    """
    raise AwsSettingsError(NO_CREDENTIALS)
