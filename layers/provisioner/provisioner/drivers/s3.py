"""Amazon S3: one bucket a project.

Source: Amazon S3 API Reference; Amazon S3 User Guide, "Security best practices", "Managing the
lifecycle of objects".
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from http import HTTPStatus
from typing import Any

from botocore.exceptions import ClientError

from provisioner.aws_types import (
    CreateBucketConfigurationTypeDef,
    CreateBucketRequestTypeDef,
    ObjectIdentifierTypeDef,
    S3Client,
)
from provisioner.drivers.aws_errors import code_of, short_cause, translate_errors
from provisioner.drivers.drift import NOT_TOLD_YET, Drift, Repairs
from provisioner.drivers.obstacles import quote
from provisioner.errors import ErrorType, conflict, failure
from provisioner.ownership import Claim, Ownership, tags_of_list

#: The region whose buckets are made without naming a region.
_DEFAULT_REGION = "us-east-1"

#: What the name of a bucket ends with that is made in the namespace of the account and region: S3
#: takes such a name with that namespace alone, and no other name with it. Source: Amazon S3 User
#: Guide, "General purpose bucket naming rules", "Namespaces for general purpose buckets".
_OF_ACCOUNT_AND_REGION = "-an"

#: How a bucket's tags, which say whose it is, are named among what has been seen or is wrong.
_TAGS = "tags"

#: Days after which S3 removes the parts of an upload that was never finished. No list of objects
#: shows them, and they cost; a client that goes on with one does so within hours.
UNFINISHED_UPLOAD_DAYS = 7

#: Days that S3 keeps a version of an object after another has taken its place, or it was deleted. A
#: loss that shows at the end of a month or a quarter can still be made good.
NONCURRENT_VERSION_DAYS = 90

#: Seconds in which S3 may not show yet what was written, and between two looks at it. What takes
#: longer is left to the stage's next attempt.
_SETTLING_SECONDS = 20.0
_LOOK_SECONDS = 1.0

#: What S3 answers where it has not heard of a new bucket yet, or still works at it.
_UNSETTLED = frozenset({"NoSuchBucket", "OperationAborted"})

#: HeadBucket's answers that do not say what they mean, for they have no body: a bucket of another
#: region, a bucket that may not be looked at, a request that was refused. With a body, a bad
#: request has a code of its own.
_UNSAID = frozenset({HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.FORBIDDEN})
_BAD_REQUEST = "400"

#: Characters that no XML document has, escaped or not, and so no list of keys to be deleted.
#: Source: Extensible Markup Language (XML) 1.0, section 2.2.
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

#: Objects that one request lists or deletes. Source: Amazon S3 API Reference, DeleteObjects.
_BATCH = 1000


class Settling:
    """The time in which S3 may not show yet what one run of a stage has written.

    Which buckets there are, and how they are set, is eventually consistent. Source: Amazon S3 User
    Guide, "Amazon S3 data consistency model".
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin the time; nothing is written yet.

        Args:
            clock: tells the time, in seconds.
            sleep: waits between two looks, in seconds.
        """
        #: Whether the bucket was made or changed just now, by this run or beside it.
        self.just_written = False
        #: What this run has seen to be as it must be, by name: it is looked at once.
        self.seen: set[str] = set()
        self._clock = clock
        self._sleep = sleep
        self._end = clock() + _SETTLING_SECONDS

    def wait(self) -> bool:
        """Wait for the next look; False where the time is over."""
        if self._clock() >= self._end:
            return False
        self._sleep(_LOOK_SECONDS)
        return True

    def at_bucket[Result](self, act: Callable[[], Result]) -> Result:
        """Do something with a bucket that is there, again where it is too new for that.

        Raises:
            TIMEOUT: S3 has not heard of it, though HeadBucket says that it is there, or works at
                it; where this run has just written it, all the time.
        """
        while True:
            try:
                return act()
            except ClientError as error:
                if code_of(error) not in _UNSETTLED:
                    raise
                cause = short_cause(error)
            if not self.just_written or not self.wait():
                raise _unsettled(cause)


class _Holder(Enum):
    """Whose the bucket of a name is.

    A name in the namespace of an account and region is never another account's. All others are in
    one that all accounts share.
    """

    #: There is none.
    NOBODY = auto()
    #: This account's, whoever made it.
    US = auto()
    #: Another account's.
    ANOTHER = auto()


@dataclass(frozen=True, slots=True)
class _Setting:
    """One setting of a bucket."""

    #: Reads it from the bucket of that name.
    read: Callable[[S3Client, str], Any]
    #: What it is to be, from the bucket's ARN and what it is: the same where it is right.
    wanted: Callable[[str, Any], Any]
    write: Callable[[S3Client, str, Any], object]
    #: S3's error code where it is not set; it then is read as {}.
    unset: str | None = None
    #: Whether S3 gives it to every new bucket, so that it is only looked at there. Source: Amazon
    #: S3 User Guide, "Default encryption FAQ" and "Blocking public access to your Amazon S3
    #: storage".
    is_given: bool = False
    #: Whether it is read again where it was just written to a new bucket.
    is_read_back: bool = True


def _with_tls_only(arn: str, policy: dict[str, Any]) -> dict[str, Any]:
    """Add our statement to a policy; the statements of others stay."""
    ours = {
        "Sid": "RefusePlainHttp",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    there = policy.get("Statement", [])
    statements = [there] if isinstance(there, dict) else there
    if any(_canonical(statement) == _canonical(ours) for statement in statements):
        return policy
    others = [statement for statement in statements if statement.get("Sid") != ours["Sid"]]
    return {"Version": "2012-10-17", **policy, "Statement": [*others, ours]}


def _canonical(part: Any) -> Any:
    """Write a part of a policy in one way: S3 reorders lists, and unpacks those of one entry."""
    match part:
        case dict():
            return {name: _canonical(value) for name, value in part.items()}
        case [only]:
            return _canonical(only)
        case list():
            return sorted(map(_canonical, part), key=str)
        case _:
            return part


#: Ends what costs in a bucket, and shows in no list of its objects. A delete marker goes once no
#: version is left below it. It has no tag and no size for a filter, which S3 takes with neither
#: uploads nor markers. Source: Amazon S3 User Guide, "Lifecycle configuration elements".
_OUR_RULE: dict[str, Any] = {
    "ID": "EndUnfinishedUploadsAndNoncurrentVersions",
    "Status": "Enabled",
    "Filter": {"Prefix": ""},
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": UNFINISHED_UPLOAD_DAYS},
    "NoncurrentVersionExpiration": {"NoncurrentDays": NONCURRENT_VERSION_DAYS},
    "Expiration": {"ExpiredObjectDeleteMarker": True},
}


def _with_our_rule(_arn: str, found: dict[str, Any]) -> dict[str, Any]:
    """Add our rule to a lifecycle configuration; the rules of others stay."""
    rules = found.get("LifecycleConfiguration", {}).get("Rules", [])
    if any(_does_as_ours(rule) for rule in rules):
        return found
    others = [rule for rule in rules if rule.get("ID") != _OUR_RULE["ID"]]
    return {**found, "LifecycleConfiguration": {"Rules": [*others, _OUR_RULE]}}


def _does_as_ours(rule: dict[str, Any]) -> bool:
    """Whether a rule is ours, for every object; an empty filter may be written in any way."""
    is_for_all = not any(rule.get("Filter", {}).values()) and not rule.get("Prefix")
    return is_for_all and all(
        rule.get(name) == value for name, value in _OUR_RULE.items() if name != "Filter"
    )


def _read_lifecycle(client: S3Client, bucket: str) -> dict[str, Any]:
    """Return what a write would have to say to leave the configuration as it is."""
    found = client.get_bucket_lifecycle_configuration(Bucket=bucket)
    # A write without it would set it back to its default.
    size = found.get("TransitionDefaultMinimumObjectSize")
    return {
        "LifecycleConfiguration": {"Rules": found["Rules"]},
        **({"TransitionDefaultMinimumObjectSize": size} if size else {}),
    }


#: What every bucket of ours has, and gets back where it has drifted. All else is the customer's,
#: the key of its encryption too.
_SETTINGS: dict[str, _Setting] = {
    "public access block": _Setting(
        read=lambda client, bucket: client.get_public_access_block(Bucket=bucket)[
            "PublicAccessBlockConfiguration"
        ],
        unset="NoSuchPublicAccessBlockConfiguration",
        is_given=True,
        wanted=lambda _arn, _found: {
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": True,
            "RestrictPublicBuckets": True,
        },
        write=lambda client, bucket, value: client.put_public_access_block(
            Bucket=bucket, PublicAccessBlockConfiguration=value
        ),
    ),
    "encryption": _Setting(
        read=lambda client, bucket: client.get_bucket_encryption(Bucket=bucket)[
            "ServerSideEncryptionConfiguration"
        ],
        unset="ServerSideEncryptionConfigurationNotFoundError",
        is_given=True,
        wanted=lambda _arn, found: (
            found or {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
        ),
        write=lambda client, bucket, value: client.put_bucket_encryption(
            Bucket=bucket, ServerSideEncryptionConfiguration=value
        ),
    ),
    "versioning": _Setting(
        read=lambda client, bucket: client.get_bucket_versioning(Bucket=bucket).get("Status"),
        wanted=lambda _arn, _found: "Enabled",
        write=lambda client, bucket, value: client.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": value}
        ),
    ),
    "policy": _Setting(
        read=lambda client, bucket: json.loads(client.get_bucket_policy(Bucket=bucket)["Policy"]),
        unset="NoSuchBucketPolicy",
        wanted=_with_tls_only,
        write=lambda client, bucket, value: client.put_bucket_policy(
            Bucket=bucket, Policy=json.dumps(value)
        ),
    ),
    "lifecycle": _Setting(
        read=_read_lifecycle,
        unset="NoSuchLifecycleConfiguration",
        # It keeps nobody out, and does nothing for days: a repair is soon enough.
        is_read_back=False,
        wanted=_with_our_rule,
        write=lambda client, bucket, value: client.put_bucket_lifecycle_configuration(
            Bucket=bucket, **value
        ),
    ),
}


@translate_errors(ErrorType.SERVICE_REGISTRATION_FAILED, "register storage")
def ensure_bucket(
    client: S3Client, *, name: str, region: str, owner: Ownership, settling: Settling
) -> None:
    """Make the project's bucket where it is missing, and put right what has drifted.

    A bucket that this run has made has nothing yet but what S3 gives to each: the rest is written
    without a look.

    Raises:
        CONFLICT: a bucket of that name is not the project's, or is in another region.
        INSUFFICIENT_PERMISSIONS: also where it cannot be known whose it is.
        TIMEOUT: S3 does not show the bucket yet.
        ProvisioningError: as `translate_errors` says.
    """
    is_new = _ensure_exists(client, name, region, owner, settling)
    _put_right(client, name, settling, is_new=is_new)


@translate_errors(ErrorType.SERVICE_REGISTRATION_FAILED, "repair storage")
def repair_bucket(
    client: S3Client, *, name: str, region: str, owner: Ownership, settling: Settling
) -> Repairs:
    """Put right what has drifted of the project's bucket.

    Raises:
        SERVICE_REGISTRATION_FAILED: there is no such bucket.
        CONFLICT, INSUFFICIENT_PERMISSIONS, and what else: as of `ensure_bucket`.
    """
    if not _exists(client, name, region):
        raise failure(
            ErrorType.SERVICE_REGISTRATION_FAILED,
            f"The bucket {name} of the project is not there, and a new one would be empty; "
            "deprovision the project and provision it again.",
            "HeadBucket: 404",
        )
    if not owner.owns(_read_tags(client, name, settling)):
        raise failure(
            ErrorType.CONFLICT,
            f"The bucket {name} does not have the project's tags; give them back to it.",
        )
    before = _put_right(client, name, settling)
    after = _wait_for_repair(client, name, settling) if before else []
    return Repairs.of(before, dict.fromkeys(after, NOT_TOLD_YET), f"bucket {name} answered")


def _put_right(
    client: S3Client, name: str, settling: Settling, *, is_new: bool = False
) -> list[Drift]:
    """Put right what has drifted, and return it."""
    wrong = []
    for setting, value in _find_drift(client, name, settling, is_new=is_new):
        settling.at_bucket(partial(_SETTINGS[setting].write, client, name, value))
        settling.just_written = True
        if is_new and not _SETTINGS[setting].is_read_back:
            settling.seen.add(setting)
        wrong.append(Drift(f"bucket {name}", setting))
    return wrong


def _wait_for_repair(client: S3Client, name: str, settling: Settling) -> list[Drift]:
    """Return what S3 still shows as it was when the time in which it may do so is over."""
    while True:
        wrong = [
            Drift(f"bucket {name}", setting) for setting, _ in _find_drift(client, name, settling)
        ]
        if not wrong or not settling.wait():
            return wrong


@translate_errors(ErrorType.SERVICE_REGISTRATION_FAILED, "check storage")
def check_bucket(client: S3Client, name: str, owner: Ownership, settling: Settling) -> str:
    """Read what this run has not seen yet of the bucket's settings, and say what answered.

    Raises:
        SERVICE_REGISTRATION_FAILED: a setting is not what it must be, and this run wrote none.
        TIMEOUT: S3 does not show yet what this run has written.
        ProvisioningError: as `translate_errors` says.
    """
    while wrong := _wrong(client, name, owner, settling):
        cause = f"bucket {name}: {', '.join(wrong)}"
        if not settling.just_written:
            raise failure(
                ErrorType.SERVICE_REGISTRATION_FAILED,
                "The bucket of the project does not have the settings that it must have.",
                cause,
            )
        if not settling.wait():
            raise _unsettled(cause)
    return f"bucket {name} answered: encrypted, private, TLS only, versioned, tagged"


@translate_errors(ErrorType.REMOVAL_FAILED, "remove storage")
def remove_bucket(client: S3Client, *, name: str, claim: Claim) -> str:
    """Delete the bucket, if it is claimed and empty; say what is there.

    A bucket that another account has under that name is none of ours.

    Raises:
        REMOVAL_FAILED: it holds objects.
        INSUFFICIENT_PERMISSIONS: also where it cannot be known whose it is.
        TIMEOUT: it was deleted and still answers.
        ProvisioningError: as `translate_errors` says.
    """
    try:
        if is_claimed(client, name=name, claim=claim):
            client.delete_bucket(Bucket=name)
            if _look(client, name)[0] is _Holder.US:
                raise failure(
                    ErrorType.TIMEOUT,
                    "The bucket of the project is still there.",
                    f"bucket {name}: was deleted and still answers",
                )
    except client.exceptions.NoSuchBucket:
        pass  # Another run has just deleted it.
    except ClientError as error:
        if code_of(error) != "BucketNotEmpty":
            raise
        raise failure(
            ErrorType.REMOVAL_FAILED,
            f"The bucket {name} holds objects, so it stays; empty it first.",
        ) from None
    return f"no bucket named {name} is left to remove"


def _wrong(client: S3Client, name: str, owner: Ownership, settling: Settling) -> list[str]:
    """Name what is not as it must be."""
    wrong = [setting for setting, _ in _find_drift(client, name, settling)]
    if _TAGS not in settling.seen and not owner.owns(
        settling.at_bucket(partial(_tags, client, name))
    ):
        wrong.append(_TAGS)
    return wrong


def _find_drift(
    client: S3Client, bucket: str, settling: Settling, *, is_new: bool = False
) -> Iterator[tuple[str, Any]]:
    """Yield the settings that are not what they must be, each with what it must be.

    Args:
        client: S3 in the bucket's region.
        bucket: its name.
        settling: knows which need no look any more.
        is_new: whether this run has made the bucket, so that it has only what S3 gives to each.
    """
    arn = f"arn:{client.meta.partition}:s3:::{bucket}"
    for name, setting in _SETTINGS.items():
        if name in settling.seen:
            continue
        if is_new and not setting.is_given:
            yield name, setting.wanted(arn, {})
            continue
        try:
            found = settling.at_bucket(partial(setting.read, client, bucket))
        except ClientError as error:
            if code_of(error) != setting.unset:
                raise
            found = {}
        wanted = setting.wanted(arn, found)
        if found == wanted:
            settling.seen.add(name)
        else:
            yield name, wanted


def holds_objects(client: S3Client, *, name: str, claim: Claim) -> bool:
    """Whether the bucket is there, is claimed, and holds any version of an object.

    A delete marker counts too: it stands for an object that had versions.

    Raises:
        ProvisioningError: as `is_claimed` says.
    """
    try:
        return is_claimed(client, name=name, claim=claim) and bool(_versions(client, name, 1))
    except client.exceptions.NoSuchBucket:
        return False  # Another run has just deleted it.


def empty_bucket(client: S3Client, *, name: str, claim: Claim, seconds: float) -> None:
    """Delete every version of every object, if the bucket is there and claimed.

    Args:
        client: S3 in the bucket's region.
        name: the bucket.
        claim: says whether it may be emptied.
        seconds: after this time no further batch is begun.

    Raises:
        TIMEOUT: there are objects left.
        ProvisioningError: as `is_claimed` says.
    """
    deadline = time.monotonic() + seconds
    with (
        translate_errors(ErrorType.REMOVAL_FAILED, "delete the objects in storage"),
        suppress(client.exceptions.NoSuchBucket),  # Another run has just deleted it.
    ):
        if not is_claimed(client, name=name, claim=claim):
            return
        while versions := _versions(client, name, _BATCH):
            if time.monotonic() > deadline:
                raise failure(
                    ErrorType.TIMEOUT,
                    "There was not the time to delete all objects of the bucket.",
                    f"bucket {name}: objects are left after {seconds:g} seconds",
                )
            _delete_versions(client, name, versions)


def _delete_versions(
    client: S3Client, name: str, versions: Sequence[ObjectIdentifierTypeDef]
) -> None:
    """Delete versions in one request; those whose keys that cannot carry, in one each."""
    alone = [version for version in versions if _NOT_IN_XML.search(version["Key"])]
    for version in alone:
        client.delete_object(Bucket=name, Key=version["Key"], VersionId=version["VersionId"])
    batch = [version for version in versions if version not in alone]
    if not batch:
        return
    deleted = client.delete_objects(Bucket=name, Delete={"Objects": batch, "Quiet": True})
    for error in deleted.get("Errors", []):
        message = f"object {quote(error.get('Key', ''))}: {error.get('Message', '')}"
        raise ClientError(
            {"Error": {"Code": error.get("Code", ""), "Message": message}}, "DeleteObjects"
        )


def _versions(client: S3Client, name: str, limit: int) -> list[ObjectIdentifierTypeDef]:
    """Return the first versions and delete markers of a bucket, at most `limit`."""
    page = client.list_object_versions(Bucket=name, MaxKeys=limit)
    return [
        {"Key": found["Key"], "VersionId": found["VersionId"]}
        for found in (*page.get("Versions", []), *page.get("DeleteMarkers", []))
    ]


def _ensure_exists(
    client: S3Client, name: str, region: str, owner: Ownership, settling: Settling
) -> bool:
    """Make the bucket where there is none; return whether this run has.

    Its name is taken once, so S3 itself says whether there is one; in us-east-1 it does not say so
    of one that the account has. Source: Amazon S3 API Reference, CreateBucket.
    """
    is_there = region == _DEFAULT_REGION and _exists(client, name, region)
    is_new = not is_there and _make(client, name, region, owner, settling)
    tags = _read_tags(client, name, settling)
    if is_new and not tags:
        # A bucket comes into being with its tags; an emulator may leave them out.
        settling.at_bucket(
            lambda: client.put_bucket_tagging(Bucket=name, Tagging={"TagSet": owner.tag_list()})
        )
        return True
    if not owner.owns(tags):
        raise conflict("bucket", name)
    settling.seen.add(_TAGS)
    return is_new and owner.made(tags)


def _read_tags(client: S3Client, name: str, settling: Settling) -> dict[str, str]:
    """Return the tags of a bucket that is there.

    Raises:
        CONFLICT: it is another account's.
    """
    try:
        return settling.at_bucket(partial(_tags, client, name))
    except ClientError as error:
        if not settling.just_written and _is_of_another(client, name, error):
            raise _taken(name, "another account") from None
        raise


def _make(client: S3Client, name: str, region: str, owner: Ownership, settling: Settling) -> bool:
    """Make the bucket in the namespace of its name; False where one has come meanwhile."""
    configuration: CreateBucketConfigurationTypeDef = {"Tags": owner.tag_list()}
    if region != _DEFAULT_REGION:
        configuration["LocationConstraint"] = region  # type: ignore[typeddict-item]  # its stubs list literal names
    request: CreateBucketRequestTypeDef = {
        "Bucket": name,
        "CreateBucketConfiguration": configuration,
    }
    if name.endswith(_OF_ACCOUNT_AND_REGION):
        request["BucketNamespace"] = "account-regional"
    try:
        made = client.create_bucket(**request)
    except client.exceptions.BucketAlreadyExists:
        if not _exists(client, name, region):
            raise _taken(name, "another account") from None
        return False
    except client.exceptions.BucketAlreadyOwnedByYou:
        while not _exists(client, name, region):
            settling.just_written = True
            if not settling.wait():
                raise _unsettled("CreateBucket: BucketAlreadyOwnedByYou") from None
        return False
    settling.just_written = True
    # An answer that does not say where it is says nothing.
    return bool(made["Location"])


def _exists(client: S3Client, name: str, region: str) -> bool:
    """Whether the account has the bucket in that region.

    Raises:
        CONFLICT: another account has it, or it is in another region.
    """
    holder, found_in = _look(client, name)
    if holder is _Holder.ANOTHER:
        raise _taken(name, "another account")
    if holder is _Holder.US and found_in not in ("", region):
        raise _taken(name, f"region {found_in}")
    return holder is _Holder.US


@translate_errors(ErrorType.REMOVAL_FAILED, "look for storage")
def is_claimed(client: S3Client, *, name: str, claim: Claim) -> bool:
    """Whether this account has the bucket, and it is claimed.

    Raises:
        INSUFFICIENT_PERMISSIONS: also where it cannot be known whose it is.
        TIMEOUT: S3 says that it is there, and does not tell its tags.
        ProvisioningError: as `translate_errors` says.
    """
    if _look(client, name)[0] is not _Holder.US:
        return False
    try:
        return claim(_tags(client, name))
    except ClientError as error:
        if code_of(error) == "NoSuchBucket":
            if _look(client, name)[0] is _Holder.US:
                raise _unsettled(short_cause(error)) from None
            return False  # Another run has just deleted it.
        if _is_of_another(client, name, error):
            return False
        raise


def _is_of_another(client: S3Client, name: str, error: ClientError) -> bool:
    """Whether a bucket whose tags may not be read is another account's, which lets all look."""
    return _status(error) == HTTPStatus.FORBIDDEN and name not in _own_buckets(client, name)


def _look(client: S3Client, name: str) -> tuple[_Holder, str]:
    """Say whose the bucket of a name is, and in which region, where S3 tells that.

    That the bucket may not be looked at, is in another region, or that the request was refused for
    any other reason, is one answer: a status without a body. The list of the account's own buckets
    says which it is, since no other account's is in it, or why nothing may be known.
    Source: Amazon S3 API Reference, HeadBucket and ListBuckets.

    Raises:
        botocore.exceptions.ClientError: it cannot be known, or the account's bucket may not be
            looked at.
    """
    try:
        return _Holder.US, client.head_bucket(Bucket=name).get("BucketRegion", "")
    except ClientError as error:
        status = _status(error)
        if status == HTTPStatus.NOT_FOUND:
            return _Holder.NOBODY, ""
        if status not in _UNSAID and code_of(error) != _BAD_REQUEST:
            raise
        listed = _own_buckets(client, name)
        if name not in listed:
            return _Holder.ANOTHER, ""
        if status == HTTPStatus.FORBIDDEN or listed[name] in ("", client.meta.region_name):
            raise
        return _Holder.US, listed[name]


def _own_buckets(client: S3Client, prefix: str) -> dict[str, str]:
    """Return the regions of the account's buckets whose names begin so, where S3 tells them."""
    return {
        bucket["Name"]: bucket.get("BucketRegion", "")
        for page in client.get_paginator("list_buckets").paginate(Prefix=prefix)
        for bucket in page.get("Buckets", [])
    }


def _tags(client: S3Client, name: str) -> dict[str, str]:
    try:
        tags = client.get_bucket_tagging(Bucket=name)["TagSet"]
    except ClientError as error:
        if code_of(error) == "NoSuchTagSet":
            return {}
        raise
    return tags_of_list(tags)


def _status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _unsettled(cause: str) -> Exception:
    return failure(
        ErrorType.TIMEOUT, "S3 does not show the bucket of the project as it is yet.", cause
    )


def _taken(name: str, of: str) -> Exception:
    """Say that the name is taken by a bucket of another account or region."""
    return failure(
        ErrorType.CONFLICT,
        f"The bucket name {name} is taken by a bucket of {of}; free it, or use another project.",
    )
