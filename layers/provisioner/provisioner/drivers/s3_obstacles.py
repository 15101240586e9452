"""What keeps Amazon S3 from deleting a project's bucket with its objects.

An empty bucket goes whatever its Object Lock configuration is; a locked version goes for nobody.
Unfinished multipart uploads go with the bucket.

Sources: Amazon S3 User Guide, "Locking objects with Object Lock", "Configuring MFA delete";
Amazon S3 API Reference, DeleteBucket.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from provisioner.aws_types import S3Client
from provisioner.drivers.aws_errors import code_of, translate, translate_errors
from provisioner.drivers.bucket_policy import Wanted, find_denials
from provisioner.drivers.obstacles import MOST_NAMED, Obstacles, quote, shorten
from provisioner.drivers.s3 import is_claimed
from provisioner.errors import ErrorType

#: Versions and delete markers that are listed: S3's most for one request.
_LISTED = 1000

#: Versions whose locks are looked at: two requests each.
LOCKS_LOOKED_AT = 100

#: What S3 answers of an object that has no lock, or that is gone.
_NO_LOCK = frozenset(
    {
        "InvalidRequest",
        "MethodNotAllowed",
        "NoSuchKey",
        "NoSuchObjectLockConfiguration",
        "NoSuchVersion",
        "ObjectLockConfigurationNotFoundError",
    }
)


@dataclass(frozen=True, slots=True)
class BucketLook:
    """What a bucket holds, and what keeps it."""

    #: Whether it holds a version of an object, or a delete marker.
    holds_objects: bool = False
    obstacles: Obstacles = field(default_factory=Obstacles)
    #: What was not looked at because it is too much; empty where all was.
    beyond: str = ""


def look_at_bucket(client: S3Client, *, name: str, claim: Callable[..., bool]) -> BucketLook:
    """Say what keeps the bucket from going, if it is there and claimed.

    At most 7 requests, and 200 more for the locks of the first 100 versions where the bucket has
    Object Lock.

    Args:
        client: S3 in the bucket's region.
        name: the bucket.
        claim: says whether the bucket is to go.

    Raises:
        ProvisioningError: as `is_claimed` and `translate_errors` say; what is denied of the rest
            is no error, and named in the result.
    """
    if not is_claimed(client, name=name, claim=claim):
        return BucketLook()
    with translate_errors(ErrorType.REMOVAL_FAILED, "look into storage"):
        try:
            return _Look(client, name).look()
        except client.exceptions.NoSuchBucket:
            return BucketLook()  # Another run has just deleted it.


@dataclass
class _Look:
    """One look at a bucket that is to go."""

    _client: S3Client
    _name: str
    _staying: list[str] = field(default_factory=list)
    _locked: list[str] = field(default_factory=list)
    _unseen: list[str] = field(default_factory=list)

    def look(self) -> BucketLook:
        """Look at everything, and say what was found."""
        page = self._read(
            "s3:ListBucketVersions",
            "the objects",
            lambda: self._client.list_object_versions(Bucket=self._name, MaxKeys=_LISTED),
        )
        versions = page.get("Versions", [])
        holds_objects = bool(versions or page.get("DeleteMarkers"))
        self._look_at_policy(page)
        beyond = ""
        if holds_objects:
            self._look_at_mfa_delete()
            if self._has_object_lock():
                self._look_at_locks(versions[:LOCKS_LOOKED_AT])
                if page.get("IsTruncated") or len(versions) > LOCKS_LOOKED_AT:
                    beyond = (
                        f"of bucket {self._name} the locks of the first {LOCKS_LOOKED_AT} versions "
                        "were looked at"
                    )
        staying = (*self._staying, *shorten(self._locked, "objects with a lock"))
        return BucketLook(holds_objects, Obstacles(staying, unseen=tuple(self._unseen)), beyond)

    def _read(
        self,
        permission: str,
        what: str,
        act: Callable[[], Any],
        unset: frozenset[str] = frozenset(),
    ) -> Any:
        """Return S3's answer; {} where there is nothing of it, or it could not be seen.

        Once something is found that stays, an answer that is missing is noted and not waited for.
        """
        try:
            return act()
        except ClientError as error:
            if code_of(error) in unset:
                return {}
            met = translate(error, ErrorType.REMOVAL_FAILED, "look into storage").type
            if met is ErrorType.INSUFFICIENT_PERMISSIONS:
                self._unseen.append(f"{what} of bucket {self._name}: allow {permission}")
            elif self._staying or self._locked:
                self._unseen.append(f"{what} of bucket {self._name}: S3 did not answer")
            else:
                raise
            return {}

    def _look_at_policy(self, page: Any) -> None:
        answer = self._read(
            "s3:GetBucketPolicy",
            "the policy",
            lambda: self._client.get_bucket_policy(Bucket=self._name),
            frozenset({"NoSuchBucketPolicy"}),
        )
        if not answer:
            return
        arn = f"arn:{self._client.meta.partition}:s3:::{self._name}"
        wanted = [Wanted("s3:DeleteBucket", [arn])]
        found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        if found:
            objects = [f"{arn}/{key}" for key in dict.fromkeys(one["Key"] for one in found)]
            others = f"{arn}/" if page.get("IsTruncated") else None
            wanted += [
                Wanted(action, objects, others)
                for action in ("s3:DeleteObject", "s3:DeleteObjectVersion")
            ]
        actions: dict[str, list[str]] = {}
        for statement, action in find_denials(answer["Policy"], wanted):
            actions.setdefault(statement, []).append(action)
        self._staying += shorten(
            [
                f"statement {statement} of the policy of bucket {self._name} denies "
                f"{', '.join(denied)}: take it out of the policy"
                for statement, denied in actions.items()
            ],
            "such statements",
        )

    def _look_at_mfa_delete(self) -> None:
        versioning = self._read(
            "s3:GetBucketVersioning",
            "MFA delete",
            lambda: self._client.get_bucket_versioning(Bucket=self._name),
        )
        if versioning.get("MFADelete") == "Enabled":
            self._staying.append(
                f"MFA delete is on for bucket {self._name}: switch it off, as the account's root "
                "user"
            )

    def _has_object_lock(self) -> bool:
        answer = self._read(
            "s3:GetBucketObjectLockConfiguration",
            "Object Lock",
            lambda: self._client.get_object_lock_configuration(Bucket=self._name),
            frozenset({"ObjectLockConfigurationNotFoundError"}),
        )
        configuration = answer.get("ObjectLockConfiguration", {})
        return bool(configuration.get("ObjectLockEnabled") == "Enabled")

    def _look_at_locks(self, versions: list[Any]) -> None:
        """Look at the locks of versions until enough are found, or one may not be looked at."""
        seen = len(self._unseen)
        for version in versions:
            if len(self._locked) > MOST_NAMED or len(self._unseen) > seen:
                break
            of = (
                f"object {quote(version['Key'])} of bucket {self._name}, version "
                f"{quote(version['VersionId'])},"
            )
            one = {"Bucket": self._name, "Key": version["Key"], "VersionId": version["VersionId"]}
            self._look_at_hold(one, of)
            self._look_at_retention(one, of)

    def _look_at_hold(self, one: Any, of: str) -> None:
        answer = self._read(
            "s3:GetObjectLegalHold",
            "the legal holds of the objects",
            lambda: self._client.get_object_legal_hold(**one),
            _NO_LOCK,
        )
        if answer.get("LegalHold", {}).get("Status") == "ON":
            self._locked.append(f"{of} has a legal hold: take it off (s3api put-object-legal-hold)")

    def _look_at_retention(self, one: Any, of: str) -> None:
        answer = self._read(
            "s3:GetObjectRetention",
            "the retention of the objects",
            lambda: self._client.get_object_retention(**one),
            _NO_LOCK,
        )
        retention = answer.get("Retention", {})
        until = retention.get("RetainUntilDate")
        if until is None or until <= datetime.now(UTC):
            return
        mode = retention.get("Mode")
        advice = (
            "wait until then, for nobody can end it"
            if mode == "COMPLIANCE"
            else "end its retention (s3:BypassGovernanceRetention), or wait until then"
        )
        end = f"{until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        self._locked.append(f"{of} is retained in {mode} mode until {end}: {advice}")
