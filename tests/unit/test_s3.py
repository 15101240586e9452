"""The driver of Amazon S3."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from provisioner.drivers import s3
from provisioner.errors import ErrorType
from provisioner.ownership import Ownership
from support.core import REGION, Answer, Core, answer_lost, aws_error, meanwhile
from support.drivers import FOREIGN, LATER, OWNER, each_foreign, errors, refused, tag_list

BUCKET = "nm-shop"

#: Every operation of a first run.
OPERATIONS = [
    "HeadBucket",
    "CreateBucket",
    "PutBucketTagging",
    "PutPublicAccessBlock",
    "PutBucketEncryption",
    "PutBucketVersioning",
    "PutBucketPolicy",
    "GetBucketTagging",
    "GetPublicAccessBlock",
    "GetBucketEncryption",
    "GetBucketVersioning",
    "GetBucketPolicy",
]

#: How a setting of the bucket is lost.
LOSSES: dict[str, Callable[[Any], object]] = {
    "public access block": lambda client: client.put_public_access_block(
        Bucket=BUCKET,
        PublicAccessBlockConfiguration={
            "BlockPublicAcls": True,
            "IgnorePublicAcls": True,
            "BlockPublicPolicy": False,
            "RestrictPublicBuckets": True,
        },
    ),
    "versioning": lambda client: client.put_bucket_versioning(
        Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"}
    ),
    "policy": lambda client: client.put_bucket_policy(
        Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": []})
    ),
}


@dataclass
class Storage:
    """The project's part of S3."""

    core: Core
    region: str = REGION

    @property
    def client(self) -> Any:
        return self.core.client("s3", self.region)

    def ensure(self, owner: Ownership = OWNER) -> None:
        s3.ensure_bucket(self.client, name=BUCKET, region=self.region, owner=owner)

    def check(self) -> str:
        return s3.check_bucket(self.client, BUCKET, OWNER)

    def make_bucket(self, tags: Mapping[str, str]) -> None:
        self.client.create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        if tags:
            self.client.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": tag_list(tags)})

    def made_with_its_tags(self, parameters: Mapping[str, Any]) -> None:
        """Make a bucket as S3 does, where moto leaves out the tags."""
        tags = parameters["CreateBucketConfiguration"]["Tags"]
        self.make_bucket({tag["Key"]: tag["Value"] for tag in tags})

    def settings(self) -> dict[str, Any]:
        """Return everything that is set on the bucket; what is not set is left out."""
        reads: dict[str, Callable[[], Any]] = {
            "tags": lambda: self.client.get_bucket_tagging(Bucket=BUCKET)["TagSet"],
            "public access block": lambda: self.client.get_public_access_block(Bucket=BUCKET)[
                "PublicAccessBlockConfiguration"
            ],
            "encryption": lambda: self.client.get_bucket_encryption(Bucket=BUCKET)[
                "ServerSideEncryptionConfiguration"
            ]["Rules"],
            "versioning": lambda: self.client.get_bucket_versioning(Bucket=BUCKET).get("Status"),
            "policy": lambda: json.loads(self.client.get_bucket_policy(Bucket=BUCKET)["Policy"]),
        }
        found = {}
        for name, read in reads.items():
            try:
                found[name] = read()
            except self.client.exceptions.ClientError:
                continue
        return found

    def names(self) -> list[str]:
        return [bucket["Name"] for bucket in self.client.list_buckets()["Buckets"]]


@pytest.fixture
def storage(core: Core) -> Storage:
    return Storage(core)


def test_a_project_gets_a_bucket_that_is_private_encrypted_and_versioned(storage: Storage) -> None:
    storage.ensure()
    assert storage.settings() == {
        "tags": tag_list(OWNER.tags()),
        "public access block": dict.fromkeys(
            (
                *("BlockPublicAcls", "IgnorePublicAcls"),
                *("BlockPublicPolicy", "RestrictPublicBuckets"),
            ),
            True,
        ),
        "encryption": [
            {
                "ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"},
                "BucketKeyEnabled": False,
            }
        ],
        "versioning": "Enabled",
        "policy": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "RefusePlainHttp",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "s3:*",
                    "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"],
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                }
            ],
        },
    }
    assert storage.check() == (
        f"bucket {BUCKET} answered: encrypted, private, TLS only, versioned, tagged"
    )


@pytest.mark.parametrize(
    ("region", "constraint"), [(REGION, {"LocationConstraint": REGION}), ("us-east-1", {})]
)
def test_a_bucket_is_made_in_the_region_of_the_payload_and_with_the_marker(
    core: Core, region: str, constraint: dict[str, str]
) -> None:
    storage = Storage(core, region)
    storage.ensure()
    (made,) = core.calls_of("s3.CreateBucket")
    assert made["CreateBucketConfiguration"] == {"Tags": tag_list(OWNER.tags()), **constraint}
    assert storage.client.head_bucket(Bucket=BUCKET)["BucketRegion"] == region


@pytest.mark.parametrize("owner", [OWNER, LATER], ids=["again", "of_a_later_job"])
def test_a_second_run_leaves_everything_as_it_is(storage: Storage, owner: Ownership) -> None:
    storage.ensure()
    before = storage.settings()
    storage.ensure(owner)
    assert storage.settings() == before


@each_foreign
def test_a_foreign_bucket_of_the_name_is_a_conflict_and_stays(
    storage: Storage, tags: dict[str, str]
) -> None:
    storage.make_bucket(tags)
    before = storage.settings()
    storage.core.calls.clear()
    error = refused(storage.ensure)
    assert (error.type, error.message) == (
        ErrorType.CONFLICT,
        f"A bucket named {BUCKET} exists and is not this project's; remove or rename it.",
    )
    assert storage.core.changes() == []
    assert storage.settings() == before


def test_a_bucket_of_another_account_is_a_conflict(storage: Storage) -> None:
    storage.core.answers["s3.HeadBucket"] = aws_error("403", 403)
    assert refused(storage.ensure).type is ErrorType.CONFLICT
    assert storage.core.changes() == []


@pytest.mark.parametrize("code", ["BucketAlreadyOwnedByYou", "BucketAlreadyExists"])
@pytest.mark.parametrize(
    ("tags", "is_ours"), [(OWNER.tags(), True), *((tags, False) for tags in FOREIGN.values())]
)
def test_a_bucket_that_comes_into_being_meanwhile_is_taken_only_if_it_is_ours(
    storage: Storage, code: str, tags: dict[str, str], *, is_ours: bool
) -> None:
    def come(_parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        storage.make_bucket(tags)
        storage.core.calls.clear()
        return 409, {"Error": {"Code": code, "Message": "It exists."}}

    storage.core.answers["s3.CreateBucket"] = _once(come)
    if is_ours:
        storage.ensure(LATER)
        storage.check()
    else:
        assert refused(storage.ensure).type is ErrorType.CONFLICT
        assert storage.core.changes() == []
        assert storage.settings().get("tags", []) == tag_list(tags)


def _once(answer: Answer) -> Answer:
    left = [answer]
    return lambda parameters: left.pop()(parameters) if left else None


@pytest.mark.parametrize("setting", LOSSES)
def test_a_setting_that_is_lost_is_seen_and_put_right(storage: Storage, setting: str) -> None:
    storage.ensure()
    before = storage.settings()
    LOSSES[setting](storage.client)
    error = refused(storage.check)
    assert error.type is ErrorType.SERVICE_REGISTRATION_FAILED
    assert error.cause == f"bucket {BUCKET}: {setting}"
    storage.ensure()
    storage.check()
    assert storage.settings() == before


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "PutBucketTagging"])
def test_an_error_of_any_call_is_understood_and_the_next_run_goes_through(
    storage: Storage, operation: str
) -> None:
    """A bucket comes into being with its tags, so that each later run knows it."""
    storage.core.answers["s3.CreateBucket"] = _once(storage.made_with_its_tags)

    def run() -> None:
        storage.ensure()
        storage.check()

    for answer, expected in errors(ErrorType.SERVICE_REGISTRATION_FAILED).values():
        storage.core.answers[f"s3.{operation}"] = answer
        assert refused(run).type is expected
    del storage.core.answers[f"s3.{operation}"]
    run()
    assert storage.names() == [BUCKET]


def test_a_first_run_calls_these_operations(storage: Storage) -> None:
    storage.ensure()
    storage.check()
    called = {name for name, _ in storage.core.calls}
    assert called == {f"s3.{operation}" for operation in OPERATIONS}


def test_a_run_whose_answer_is_lost_takes_the_bucket_up(storage: Storage) -> None:
    storage.core.answers["s3.CreateBucket"] = answer_lost(
        lambda **parameters: storage.made_with_its_tags(parameters)
    )
    assert refused(storage.ensure).type is ErrorType.TIMEOUT
    storage.ensure()
    storage.check()


def test_another_run_may_do_everything_meanwhile(storage: Storage) -> None:
    storage.core.answers["s3.PutPublicAccessBlock"] = meanwhile(storage.ensure)
    storage.ensure()
    storage.check()
    assert storage.names() == [BUCKET]
