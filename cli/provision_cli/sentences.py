"""One sentence for everything that can go wrong."""

import re

from botocore import exceptions as aws
from provisioner import api
from provisioner.jobs.definition import DefinitionError
from provisioner.runtime.aws_settings import problem

from provision_cli.job_types.template import TemplateError
from provision_cli.local.errors import LocalStackError


class CommandError(Exception):
    """A command cannot do what it was asked; its text is the sentence that the user sees."""


#: What says by itself, in one sentence, what is wrong and what to do.
_SELF_EXPLAINING = (
    CommandError,
    DefinitionError,
    LocalStackError,
    TemplateError,
    api.ApiKeyNotFoundError,
    api.ApiKeysNotClaimableError,
    api.AwsSettingsError,
    api.DuplicateJobHandlerError,
    api.IdempotencyConflictError,
    api.JobNotFoundError,
    api.JobStateError,
    api.JobWaitTimeoutError,
    api.ProjectExistsError,
    api.ProjectNotFoundError,
    api.ProjectRemovedError,
    api.SnapshotNotFoundError,
    api.UnknownJobTypeError,
)

#: What an AWS SDK raises before AWS answers; the first class that fits.
_AWS_SENTENCES: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (aws.NoRegionError,),
        "--region: is needed with --stack, for your AWS settings name none.",
    ),
    ((api.NotAwsError,), "{}."),
    # A proxy that wants a login, or is none; a portal, or a proxy, that opens what is encrypted.
    ((aws.ProxyConnectionError,), "That was not AWS: {}; check HTTPS_PROXY, and its login."),
    (
        (aws.SSLError,),
        (
            "That was not AWS: {}; check the proxy, the endpoint, whether the network wants a "
            "login in a browser first, and where it opens encrypted connections, AWS_CA_BUNDLE."
        ),
    ),
    ((aws.ConnectionError, aws.HTTPClientError), "AWS cannot be reached: {}."),
)


def sentence(error: Exception) -> str:
    """Say what is wrong; never with a traceback, never with a secret."""
    if isinstance(error, api.ProvisioningError):
        return describe(error)
    if isinstance(error, _SELF_EXPLAINING):
        return str(error)
    if isinstance(error, aws.ClientError):
        details = error.response["Error"]
        reason = details.get("Message", "").rstrip(".")
        return f"AWS refused {error.operation_name} with {details['Code']}: {reason}."
    said = [text for classes, text in _AWS_SENTENCES if isinstance(error, classes)]
    if said:
        # Without the logins of the URLs in it, such as a proxy's.
        return said[0].format(re.sub(r"//[^/@\s]*@", "//", str(error)).rstrip("."))
    if isinstance(error, aws.BotoCoreError):
        return problem(error) or f"AWS cannot be asked: {type(error).__name__}."
    # The text of anything else is not ours, and may hold anything.
    return (
        f"unexpected {type(error).__name__}; set PROVISION_TRACEBACK=1 to see where, and report it."
    )


def describe(error: api.ProvisioningError | api.StoredError) -> str:
    """Say what has failed, with its type and its technical cause."""
    cause = f" Technical cause: {error.cause.rstrip('.: ')}." if error.cause else ""
    return f"{error.type}: {error.message}{cause}"
