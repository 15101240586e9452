"""Amazon S3: one bucket a project.

Source: Amazon S3 API Reference; Amazon S3 User Guide, "Security best practices".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from provisioner.drivers.aws_errors import translated
from provisioner.errors import ErrorType, failure
from provisioner.ownership import Claim, Ownership

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

#: The region whose buckets are made without naming a region.
_DEFAULT_REGION = "us-east-1"


def ensure_bucket(client: S3Client, *, name: str, region: str, owner: Ownership) -> None:
    """Make the project's bucket, and every setting that it must have.

    Raises:
        CONFLICT: a bucket of that name is not the project's.
        ProvisioningError: as `translated` says.
    """
    with translated(ErrorType.SERVICE_REGISTRATION_FAILED, "register storage"):
        _ensure_exists(client, name, region, owner)
        client.put_public_access_block(
            Bucket=name,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )
        client.put_bucket_encryption(
            Bucket=name,
            ServerSideEncryptionConfiguration={
                "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
            },
        )
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        client.put_bucket_policy(Bucket=name, Policy=_tls_only(name))


def check_bucket(client: S3Client, name: str, owner: Ownership) -> str:
    """Read the bucket's settings, and say what answered.

    Raises:
        SERVICE_REGISTRATION_FAILED: a setting is not what it must be.
        ProvisioningError: as `translated` says.
    """
    with translated(ErrorType.SERVICE_REGISTRATION_FAILED, "check storage"):
        right = {
            "tags": owner.owns(_tags(client, name)),
            "public access block": all(
                client.get_public_access_block(Bucket=name)[
                    "PublicAccessBlockConfiguration"
                ].values()
            ),
            "encryption": bool(
                client.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]
            ),
            "versioning": client.get_bucket_versioning(Bucket=name).get("Status") == "Enabled",
            "policy": "aws:SecureTransport" in client.get_bucket_policy(Bucket=name)["Policy"],
        }
    wrong = [setting for setting, is_right in right.items() if not is_right]
    if wrong:
        raise failure(
            ErrorType.SERVICE_REGISTRATION_FAILED,
            "The bucket of the project does not have the settings that it must have.",
            f"bucket {name}: {', '.join(wrong)}",
        )
    return f"bucket {name} answered: encrypted, private, TLS only, versioned, tagged"


def remove_bucket(client: S3Client, *, name: str, claim: Claim) -> str:
    """Delete the bucket, if it is claimed and empty; say what is there.

    Raises:
        REMOVAL_FAILED: it holds objects, or is still there.
        ProvisioningError: as `translated` says.
    """
    with translated(ErrorType.REMOVAL_FAILED, "remove storage"):
        if not _exists(client, name) or not claim(_tags(client, name)):
            return f"no bucket named {name} is left to remove"
        try:
            client.delete_bucket(Bucket=name)
        except client.exceptions.NoSuchBucket:
            pass
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "BucketNotEmpty":
                raise
            raise failure(
                ErrorType.REMOVAL_FAILED,
                f"The bucket {name} holds objects, so it stays; empty it first.",
            ) from None
        if _exists(client, name):
            raise failure(
                ErrorType.REMOVAL_FAILED,
                "The bucket of the project is still there.",
                f"bucket {name}: was deleted and still answers",
            )
    return f"no bucket named {name} is left to remove"


def _ensure_exists(client: S3Client, name: str, region: str, owner: Ownership) -> None:
    if _exists(client, name):
        if not owner.owns(_tags(client, name)):
            raise _conflict(name)
        return
    tags = [{"Key": key, "Value": value} for key, value in owner.tags().items()]
    configuration: dict[str, object] = {"Tags": tags}
    if region != _DEFAULT_REGION:
        configuration["LocationConstraint"] = region
    try:
        client.create_bucket(Bucket=name, CreateBucketConfiguration=configuration)  # type: ignore[arg-type]  # built by parts
    except (client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
        if not _exists(client, name) or not owner.owns(_tags(client, name)):
            raise _conflict(name) from None
    client.put_bucket_tagging(Bucket=name, Tagging={"TagSet": tags})  # type: ignore[typeddict-item]  # as above


def _exists(client: S3Client, name: str) -> bool:
    try:
        client.head_bucket(Bucket=name)
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status == 404:  # noqa: PLR2004  # HTTP: not found
            return False
        if status == 403:  # noqa: PLR2004  # HTTP: another account's
            raise _conflict(name) from None
        raise
    return True


def _tags(client: S3Client, name: str) -> dict[str, str]:
    try:
        tags = client.get_bucket_tagging(Bucket=name)["TagSet"]
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") == "NoSuchTagSet":
            return {}
        raise
    return {tag["Key"]: tag["Value"] for tag in tags}


def _conflict(name: str) -> Exception:
    return failure(
        ErrorType.CONFLICT,
        f"A bucket named {name} exists and is not this project's; remove or rename it.",
    )


def _tls_only(name: str) -> str:
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "RefusePlainHttp",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "s3:*",
                    "Resource": [f"arn:aws:s3:::{name}", f"arn:aws:s3:::{name}/*"],
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                }
            ],
        }
    )
