"""Amazon S3: one bucket a project.

Source: Amazon S3 API Reference; Amazon S3 User Guide, "Security best practices".
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from provisioner.drivers.aws_errors import translated
from provisioner.errors import ErrorType, failure
from provisioner.ownership import Claim, Ownership

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

#: The region whose buckets are made without naming a region.
_DEFAULT_REGION = "us-east-1"


#: Objects that one request lists or deletes. Source: Amazon S3 API Reference, DeleteObjects.
_BATCH = 1000


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


def holds_objects(client: S3Client, *, name: str, claim: Claim) -> bool:
    """Whether the bucket is there, is claimed, and holds any version of an object.

    A delete marker counts too: it stands for an object that had versions.

    Raises:
        ProvisioningError: as `translated` says.
    """
    with translated(ErrorType.REMOVAL_FAILED, "look into storage"):
        return bool(
            _exists(client, name) and claim(_tags(client, name)) and _versions(client, name, 1)
        )


def empty_bucket(client: S3Client, *, name: str, claim: Claim, seconds: float) -> None:
    """Delete every version of every object, if the bucket is there and claimed.

    Args:
        client: S3 in the bucket's region.
        name: the bucket.
        claim: says whether it may be emptied.
        seconds: after this time no further batch is begun.

    Raises:
        TIMEOUT: there are objects left.
        ProvisioningError: as `translated` says.
    """
    deadline = time.monotonic() + seconds
    with translated(ErrorType.REMOVAL_FAILED, "delete the objects in storage"):
        if not _exists(client, name) or not claim(_tags(client, name)):
            return
        while versions := _versions(client, name, _BATCH):
            if time.monotonic() > deadline:
                raise failure(
                    ErrorType.TIMEOUT,
                    "There was not the time to delete all objects of the bucket.",
                    f"bucket {name}: objects are left after {seconds:g} seconds",
                )
            deleted = client.delete_objects(
                Bucket=name, Delete={"Objects": versions, "Quiet": True}
            )
            for error in deleted.get("Errors", []):
                raise ClientError(
                    {
                        "Error": {
                            "Code": error.get("Code", ""),
                            "Message": error.get("Message", ""),
                        }
                    },
                    "DeleteObjects",
                )


def _versions(client: S3Client, name: str, limit: int) -> list[ObjectIdentifierTypeDef]:
    """Return the first versions and delete markers of a bucket, at most `limit`."""
    page = client.list_object_versions(Bucket=name, MaxKeys=limit)
    return [
        {"Key": found["Key"], "VersionId": found["VersionId"]}
        for found in (*page.get("Versions", []), *page.get("DeleteMarkers", []))
    ]


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
