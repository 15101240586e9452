"""Secrets Manager: secrets that are written once, and read by every later run.

Source: AWS Secrets Manager API Reference, CreateSecret, DescribeSecret, GetSecretValue.
"""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from provisioner.aws_types import (
    CreateSecretRequestTypeDef,
    DescribeSecretResponseTypeDef,
    SecretsManagerClient,
)
from provisioner.drivers.aws_errors import AWS_ERRORS, translate_errors
from provisioner.errors import ErrorType, ProvisioningError, conflict, failure
from provisioner.ownership import Claim, Ownership, tags_of_list

#: Makes the token of a secret's first version: the same for every run of the same job.
_TOKEN_NAMESPACE = uuid.UUID("0f0c9ad5-30f1-4f0c-a3f1-5ac7a2f1b9f4")


#: The staging label of the version that everyone reads. Source: AWS Secrets Manager User Guide,
#: "What's in a secret".
CURRENT = "AWSCURRENT"

#: That of the version which is to follow it. When it has, it may have this label still. Source: AWS
#: Secrets Manager User Guide, "Rotate AWS Secrets Manager secrets", "Lambda rotation functions".
PENDING = "AWSPENDING"


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret with its value; the value is left out of its text form."""

    arn: str
    value: dict[str, Any] = field(repr=False)
    #: Whether it has just been written, so that nobody can have changed it.
    is_new: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """A secret that operators keep, without its value."""

    arn: str
    name: str
    #: The AWS service that manages it, such as rds; empty where none does.
    managed_by: str
    #: Whether Secrets Manager rotates it on schedule.
    is_rotated: bool

    @property
    def ids(self) -> frozenset[str]:
        """What it may be asked for by."""
        return _ids(self.name, self.arn)


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a secret; its value is left out of its text form."""

    version_id: str
    value: dict[str, Any] = field(repr=False)


def ensure_secret(
    client: SecretsManagerClient,
    *,
    name: str,
    owner: Ownership,
    make: Callable[[], Mapping[str, Any]],
    kms_key_arn: str | None,
    final: ErrorType,
) -> Secret:
    """Return the project's secret of that name; write it if there is none.

    It is written first, and read only where Secrets Manager says that there is one: its name is
    taken once, whoever asks.

    Args:
        client: Secrets Manager.
        name: the secret's name.
        owner: the marker of what the job makes.
        make: makes the value of a secret that does not exist; called once.
        kms_key_arn: the key of AWS KMS that encrypts a new secret; None for Secrets Manager's own.
            One that is there stays under the key that it has.
        final: the error type of causes that stay.

    Raises:
        CONFLICT: a secret of that name is not the project's.
        ProvisioningError: as `translate_errors` says.
    """
    value = json.dumps(dict(make()))
    request: CreateSecretRequestTypeDef = {
        "Name": name,
        "SecretString": value,
        "ClientRequestToken": version_id(name, owner.job_id),
        "Tags": owner.tag_list(),
    }
    if kms_key_arn is not None:
        request["KmsKeyId"] = kms_key_arn
    with translate_errors(final, "write a secret of the project"):
        try:
            created = client.create_secret(**request)
            _check_answer(created, name)
            return Secret(created["ARN"], json.loads(value), is_new=True)
        except (
            client.exceptions.ResourceExistsException,
            client.exceptions.InvalidRequestException,  # It waits for its deletion, or goes.
        ) as error:
            refused = error
    # What has been written before is the one truth.
    found = find_secret(client, name=name, owner=owner, final=final)
    if found is None:
        raise _being_deleted(name, refused)
    return found


def version_id(name: str, writer: str) -> str:
    """Return the id of the version of a secret that a job writes: every run of it, the same.

    Args:
        name: the secret's name.
        writer: the job, or the attempt of it.
    """
    return str(uuid.uuid5(_TOKEN_NAMESPACE, f"{name}/{writer}"))


def find_secret(
    client: SecretsManagerClient, *, name: str, owner: Ownership, final: ErrorType
) -> Secret | None:
    """Return the project's secret of that name with its value; None where there is none.

    A secret that waits for its deletion is brought back first, since its name is taken and its
    value may be in use.

    Raises:
        CONFLICT: a secret of that name is not the project's.
        TIMEOUT: it is being deleted.
        ProvisioningError: as `translate_errors` says.
    """
    with translate_errors(final, "read a secret of the project"):
        described = _describe(client, name)
        if described is None:
            return None
        if not owner.owns(tags_of_list(described.get("Tags", []))):
            raise conflict("secret", name)
        try:
            if described.get("DeletedDate") is not None:
                client.restore_secret(SecretId=name)
            return Secret(described["ARN"], _value(client, name))
        except (
            client.exceptions.ResourceNotFoundException,
            client.exceptions.InvalidRequestException,
        ) as error:
            raise _being_deleted(name, error) from None


def read_secret(
    client: SecretsManagerClient, secret_id: str, *, final: ErrorType
) -> dict[str, Any]:
    """Read a secret's value by its name or ARN.

    Raises:
        ProvisioningError: as `translate_errors` says.
    """
    with translate_errors(final, "read a secret"):
        return _value(client, secret_id)


def describe_secret(
    client: SecretsManagerClient, secret_id: str, *, final: ErrorType
) -> SharedSecret:
    """Describe a secret that operators keep, by its name or ARN.

    Raises:
        ProvisioningError: as `translate_errors` says.
    """
    with translate_errors(final, "look at a secret"):
        described = client.describe_secret(SecretId=secret_id)
        _check_answer(described, secret_id)
        return SharedSecret(
            described["ARN"],
            described["Name"],
            described.get("OwningService", ""),
            described.get("RotationEnabled", False),
        )


def find_version(
    client: SecretsManagerClient, secret_id: str, *, label: str, final: ErrorType
) -> Version | None:
    """Return the version of a secret that has a staging label; None where none has it.

    Raises:
        ProvisioningError: as `translate_errors` says.
    """
    with translate_errors(final, "read a secret"):
        try:
            found = client.get_secret_value(SecretId=secret_id, VersionStage=label)
        except client.exceptions.ResourceNotFoundException:
            return None
        value: dict[str, Any] = json.loads(found["SecretString"])
        _check_answer(found, secret_id)
        return Version(found["VersionId"], value)


def replace_secret_value(
    client: SecretsManagerClient, secret: Secret, value: Mapping[str, Any], *, final: ErrorType
) -> None:
    """Write a new current value.

    Raises:
        ProvisioningError: as `translate_errors` says.
    """
    with translate_errors(final, "write a secret of the project"):
        client.put_secret_value(SecretId=secret.arn, SecretString=json.dumps(dict(value)))


def ensure_version(
    client: SecretsManagerClient,
    secret: Secret,
    *,
    version: str,
    stage: str,
    make: Callable[[], Mapping[str, Any]],
    final: ErrorType,
) -> dict[str, Any]:
    """Return the value of a version of a secret; write it if there is none.

    Of two runs that write it at once, the first is the truth for both.

    Args:
        client: Secrets Manager.
        secret: the secret.
        version: the version's id, as `version_id` makes it.
        stage: the staging label that a version gets when it is written: `AWSCURRENT`, or
            `AWSPENDING` for one that is not to be read yet.
        make: makes the value of a version that does not exist; called at most once.
        final: the error type of causes that stay.

    Raises:
        ProvisioningError: as `translate_errors` says.
    """
    with translate_errors(final, "write a secret"):
        try:
            return _value(client, secret.arn, VersionId=version)
        except client.exceptions.ResourceNotFoundException:
            value = dict(make())
        try:
            client.put_secret_value(
                SecretId=secret.arn,
                ClientRequestToken=version,
                SecretString=json.dumps(value),
                VersionStages=[stage],
            )
        except client.exceptions.ResourceExistsException:
            return _value(client, secret.arn, VersionId=version)
        return value


def make_current(
    client: SecretsManagerClient, secret: Secret, *, version: str, final: ErrorType
) -> None:
    """Let everyone read a version of a secret from now on; the one before is `AWSPREVIOUS` then.

    An error whose request has reached its aim all the same is none.

    Raises:
        ProvisioningError: as `translate_errors` says; the version is not current then, as far as
            anyone can tell.
    """
    with translate_errors(final, "put a new version of a secret to use"):
        current = _current_version(client, secret)
        if current == version:
            return
        try:
            client.update_secret_version_stage(
                SecretId=secret.arn,
                VersionStage=CURRENT,
                MoveToVersionId=version,
                RemoveFromVersionId=current,
            )
        except AWS_ERRORS:
            if _current_version(client, secret) != version:
                raise


def delete_secret(client: SecretsManagerClient, secret: Secret, *, final: ErrorType) -> None:
    """Delete a secret at once, so that nobody can bring its value back.

    Raises:
        ProvisioningError: as `translate_errors` says.
    """
    with translate_errors(final, "delete a secret of the project"):
        client.delete_secret(SecretId=secret.arn, ForceDeleteWithoutRecovery=True)


def find_claimed_secret(
    client: SecretsManagerClient, *, name: str, claim: Claim, final: ErrorType
) -> Secret | None:
    """Return the secret of that name with its value, if it is there and claimed.

    Raises:
        TIMEOUT: it is there, and is being deleted or cannot be read for another reason that passes.
        ProvisioningError: as `translate_errors` says.
    """
    with translate_errors(final, "read a secret of the project"):
        arn = _find_claimed(client, name, claim)
        if arn is None:
            return None
        try:
            return Secret(arn, _value(client, name))
        except (
            client.exceptions.ResourceNotFoundException,
            client.exceptions.InvalidRequestException,
        ) as error:
            # Both are said of one that was deleted meanwhile, and of others.
            if _find_claimed(client, name, claim) is None:
                return None
            raise _being_deleted(name, error) from None


def is_secret_there(
    client: SecretsManagerClient, *, name: str, claim: Claim, final: ErrorType
) -> bool:
    """Whether there is a secret of that name, claimed and not being deleted. It is not read.

    Raises:
        ProvisioningError: as `translate_errors` says.
    """
    with translate_errors(final, "look for a secret of the project"):
        return _find_claimed(client, name, claim) is not None


def remove_secret(
    client: SecretsManagerClient, *, name: str, claim: Claim, final: ErrorType
) -> None:
    """Delete the secret of that name, if it is there and claimed, and see that it is gone.

    Its value is not read: it may be under a key of AWS KMS that may not be used any more.

    Raises:
        TIMEOUT: it was deleted and is still there.
        ProvisioningError: as `translate_errors` says.
    """
    with translate_errors(final, "delete a secret of the project"):
        arn = _find_claimed(client, name, claim)
        if arn is None:
            return
        client.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
        if _find_claimed(client, name, claim) is None:
            return
    raise failure(
        ErrorType.TIMEOUT,
        "A secret of the project is still there.",
        f"secret {name}: was deleted and is still there",
    )


def _describe(client: SecretsManagerClient, name: str) -> DescribeSecretResponseTypeDef | None:
    try:
        described = client.describe_secret(SecretId=name)
    except client.exceptions.ResourceNotFoundException:
        return None
    # Before its tags: an answer that describes nothing is not a secret of someone else.
    _check_answer(described, name)
    return described


def _find_claimed(client: SecretsManagerClient, name: str, claim: Claim) -> str | None:
    """Return the ARN of the secret of that name; None where it is gone, goes, or is unclaimed."""
    found = _describe(client, name)
    if found is None or found.get("DeletedDate") is not None:
        return None
    return found["ARN"] if claim(tags_of_list(found.get("Tags", []))) else None


def _being_deleted(name: str, error: ClientError) -> ProvisioningError:
    """Say that a secret was deleted at once a moment ago, which AWS does in the background.

    Source: AWS Secrets Manager API Reference, DeleteSecret, ForceDeleteWithoutRecovery.
    """
    return failure(
        ErrorType.TIMEOUT,
        "A secret of the project is still being deleted.",
        f"{name}: {error.response['Error'].get('Message', '')}",
    )


def _value(client: SecretsManagerClient, secret_id: str, **version: str) -> dict[str, Any]:
    which = version or {"VersionStage": CURRENT}
    found = client.get_secret_value(SecretId=secret_id, **which)
    value: dict[str, Any] = json.loads(found["SecretString"])
    _check_answer(found, secret_id)
    if found["VersionId"] != version.get("VersionId", found["VersionId"]):
        raise _other_answer("version")
    return value


def _check_answer(answer: Mapping[str, Any], secret_id: str) -> None:
    """Refuse an answer that tells of another secret.

    A secret is asked for by its name, or its ARN, or its ARN without a hyphen and the six
    characters that AWS adds to the name. Source: AWS Secrets Manager User Guide, "What's in a
    secret".
    """
    if secret_id not in _ids(answer["Name"], answer["ARN"]):
        raise _other_answer("secret")


def _ids(name: str, arn: str) -> frozenset[str]:
    """Return what a secret may be asked for by."""
    return frozenset({name, arn, arn[:-7]})


def _other_answer(of: str) -> ProvisioningError:
    return failure(
        ErrorType.NETWORK_ERROR,
        "AWS answered another question while we tried to read a secret.",
        f"Secrets Manager: an answer of another {of}",
    )


def _current_version(client: SecretsManagerClient, secret: Secret) -> str:
    described = client.describe_secret(SecretId=secret.arn)
    versions = described["VersionIdsToStages"]
    _check_answer(described, secret.arn)
    return next(version for version, stages in versions.items() if CURRENT in stages)
