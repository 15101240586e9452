"""The driver of Amazon S3."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from provisioner.drivers import s3
from provisioner.drivers.drift import Drift, Repairs
from provisioner.drivers.s3 import Settling
from provisioner.errors import ErrorType
from provisioner.ownership import Ownership
from support.core import (
    REGION,
    Answer,
    Core,
    answer_lost,
    aws_error,
    bucket_pages,
    meanwhile,
    times,
    unsaid,
)
from support.drivers import FOREIGN, LATER, OWNER, each_foreign, errors, refused, tag_list

BUCKET = "nm-shop"

#: What S3 answers where the account has the bucket of a name that is to be made.
TAKEN = aws_error("BucketAlreadyOwnedByYou", 409)

#: What it answers where any account has it.
TAKEN_BY_SOMEONE = aws_error("BucketAlreadyExists", 409)

#: Every operation of a first run.
OPERATIONS = [
    "CreateBucket",
    "PutBucketVersioning",
    "PutBucketPolicy",
    "PutBucketLifecycleConfiguration",
    "GetBucketTagging",
    "GetPublicAccessBlock",
    "GetBucketEncryption",
    "GetBucketVersioning",
    "GetBucketPolicy",
]

#: How a setting of the bucket drifts.
DRIFTS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "opened": (
        "public access block",
        lambda client: client.put_public_access_block(
            Bucket=BUCKET,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": False,
                "RestrictPublicBuckets": True,
            },
        ),
    ),
    "unblocked": (
        "public access block",
        lambda client: client.delete_public_access_block(Bucket=BUCKET),
    ),
    "unencrypted": ("encryption", lambda client: client.delete_bucket_encryption(Bucket=BUCKET)),
    "suspended": (
        "versioning",
        lambda client: client.put_bucket_versioning(
            Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"}
        ),
    ),
    "without_a_lifecycle": (
        "lifecycle",
        lambda client: client.delete_bucket_lifecycle(Bucket=BUCKET),
    ),
    "with_a_longer_lifecycle": (
        "lifecycle",
        lambda client: put_rules(
            client, {**OUR_RULE, "NoncurrentVersionExpiration": {"NoncurrentDays": 3650}}
        ),
    ),
    "with_a_lifecycle_of_few": (
        "lifecycle",
        lambda client: put_rules(client, {**OUR_RULE, "Filter": {"Prefix": "some/"}}),
    ),
    "with_a_lifecycle_that_is_off": (
        "lifecycle",
        lambda client: put_rules(client, {**OUR_RULE, "Status": "Disabled"}),
    ),
    "without_a_policy": ("policy", lambda client: client.delete_bucket_policy(Bucket=BUCKET)),
    "with_a_weaker_policy": (
        "policy",
        lambda client: put_policy(
            client,
            {**TLS_ONLY, "Condition": {**TLS_ONLY["Condition"], "StringEquals": {"aws:x": "y"}}},
        ),
    ),
}

#: The statement of ours in the bucket's policy.
TLS_ONLY: dict[str, Any] = {
    "Sid": "RefusePlainHttp",
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:*",
    "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"],
    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
}

#: The rule of ours in the bucket's lifecycle.
OUR_RULE: dict[str, Any] = {
    "ID": "EndUnfinishedUploadsAndNoncurrentVersions",
    "Status": "Enabled",
    "Filter": {"Prefix": ""},
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
    "NoncurrentVersionExpiration": {"NoncurrentDays": 90},
    "Expiration": {"ExpiredObjectDeleteMarker": True},
}

#: A rule of the customer's.
THEIR_RULE: dict[str, Any] = {
    "ID": "Forget",
    "Status": "Enabled",
    "Filter": {"Prefix": "logs/"},
    "Expiration": {"Days": 3},
}

#: What S3 gives every new bucket.
ALL_BLOCKED: dict[str, Any] = dict.fromkeys(
    ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
)
BY_S3: dict[str, Any] = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}

#: A statement of the customer's.
THEIRS: dict[str, Any] = {
    "Sid": "KeepObjects",
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:DeleteObject",
    "Resource": f"arn:aws:s3:::{BUCKET}/*",
}


def put_policy(client: Any, *statements: dict[str, Any], one: bool = False) -> None:
    """Write the bucket's policy; a statement that stands alone may stand outside of a list."""
    policy = {"Version": "2012-10-17", "Statement": statements[0] if one else statements}
    client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))


def put_rules(client: Any, *rules: dict[str, Any]) -> None:
    client.put_bucket_lifecycle_configuration(
        Bucket=BUCKET, LifecycleConfiguration={"Rules": list(rules)}
    )


@cache
def plain_client(region: str) -> Any:
    """Return a client whose calls are not counted and get no answer of a test."""
    return boto3.Session("testing", "testing", region_name=region).client("s3")


@dataclass
class Storage:
    """The project's part of S3."""

    core: Core
    region: str = REGION
    #: Every wait for the next look, in seconds.
    waits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.core.answers["s3.CreateBucket"] = self.make_with_tags

    @property
    def client(self) -> Any:
        return plain_client(self.region)

    def settling(self) -> Settling:
        """Begin the time of one run; only waits take any."""
        began = sum(self.waits)
        return Settling(clock=lambda: sum(self.waits) - began, sleep=self.waits.append)

    def ensure(self, owner: Ownership = OWNER, settling: Settling | None = None) -> None:
        s3.ensure_bucket(
            self.core.client("s3", self.region),
            name=BUCKET,
            region=self.region,
            owner=owner,
            settling=settling or self.settling(),
        )

    def check(self, settling: Settling | None = None) -> str:
        client = self.core.client("s3", self.region)
        return s3.check_bucket(client, BUCKET, OWNER, settling or self.settling())

    def register(self) -> str:
        """Ensure and check, as one run of the stage does."""
        settling = self.settling()
        self.ensure(settling=settling)
        return self.check(settling)

    def make_bucket(self, tags: Mapping[str, str]) -> None:
        configuration = {"LocationConstraint": REGION}
        self.client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=configuration)
        if tags:
            self.client.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": tag_list(tags)})

    def remove_bucket(self) -> None:
        if self.names():
            self.client.delete_bucket(Bucket=BUCKET)

    def make_with_tags(self, parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """Make a bucket as S3 does: with its tags, and with what every bucket is given."""
        if self.names() and self.region != "us-east-1":
            return TAKEN({})
        configuration = dict(parameters["CreateBucketConfiguration"])
        tags = configuration.pop("Tags")
        self.client.create_bucket(
            Bucket=BUCKET, **({"CreateBucketConfiguration": configuration} if configuration else {})
        )
        self.client.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": tags})
        self.client.put_public_access_block(
            Bucket=BUCKET, PublicAccessBlockConfiguration=ALL_BLOCKED
        )
        self.client.put_bucket_encryption(
            Bucket=BUCKET, ServerSideEncryptionConfiguration={"Rules": [BY_S3]}
        )
        return 200, {"Location": f"/{BUCKET}"}

    def changes(self) -> list[str]:
        """Return the calls that have changed something of a bucket that was there before."""
        return [name for name in self.core.changes() if name != "s3.CreateBucket"]

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
            "lifecycle": lambda: self.client.get_bucket_lifecycle_configuration(Bucket=BUCKET)[
                "Rules"
            ],
        }
        found = {}
        for name, read in reads.items():
            try:
                found[name] = read()
            except ClientError:
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
        "public access block": ALL_BLOCKED,
        "encryption": [{**BY_S3, "BucketKeyEnabled": False}],
        "versioning": "Enabled",
        "policy": {"Version": "2012-10-17", "Statement": [TLS_ONLY]},
        "lifecycle": [OUR_RULE],
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


@pytest.mark.parametrize(
    ("name", "namespace"),
    [("nm-shop-123456789012-eu-central-1-an", "account-regional"), ("nm-shop", None)],
)
@pytest.mark.usefixtures("core")
def test_a_bucket_is_asked_for_in_the_namespace_of_its_name(
    name: str, namespace: str | None
) -> None:
    """It is looked at on the wire: no emulator looks at the header."""
    client = boto3.Session("testing", "testing", region_name=REGION).client("s3")
    headers = []
    client.meta.events.register_first(
        "before-send.s3.CreateBucket", lambda request, **_: headers.append(request.headers)
    )
    s3.ensure_bucket(client, name=name, region=REGION, owner=OWNER, settling=Settling())
    asked = headers[0].get("x-amz-bucket-namespace")
    assert (asked.decode() if isinstance(asked, bytes) else asked) == namespace
    assert len(headers) == 1


@pytest.mark.parametrize("owner", [OWNER, LATER], ids=["again", "of_a_later_job"])
def test_a_second_run_only_looks(storage: Storage, owner: Ownership) -> None:
    storage.ensure()
    before = storage.settings()
    storage.core.calls.clear()
    storage.ensure(owner)
    storage.check()
    assert storage.changes() == []
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
    assert storage.changes() == []
    assert storage.settings() == before


@pytest.mark.parametrize("status", [301, 400, 403])
def test_a_bucket_of_another_account_is_a_conflict(storage: Storage, status: int) -> None:
    """S3 does not say whose it is; the list of the account's own does, page by page."""
    storage.core.answers["s3.CreateBucket"] = TAKEN_BY_SOMEONE
    storage.core.answers["s3.HeadBucket"] = unsaid(status)
    storage.core.answers["s3.ListBuckets"] = bucket_pages(
        {}, {f"{BUCKET}-2": REGION, f"other-{BUCKET}": REGION}
    )
    error = refused(storage.ensure)
    assert error.type is ErrorType.CONFLICT
    assert error.message == (
        f"The bucket name {BUCKET} is taken by a bucket of another account; "
        "free it, or use another project."
    )
    assert storage.changes() == []
    asked = storage.core.calls_of("s3.ListBuckets")
    assert [call["Prefix"] for call in asked] == [BUCKET, BUCKET]


def test_a_bucket_of_another_account_that_lets_all_look_is_a_conflict(storage: Storage) -> None:
    storage.core.answers["s3.CreateBucket"] = TAKEN_BY_SOMEONE
    storage.core.answers["s3.HeadBucket"] = lambda _parameters: (200, {"BucketRegion": REGION})
    storage.core.answers["s3.GetBucketTagging"] = aws_error("AccessDenied", 403)
    assert refused(storage.ensure).type is ErrorType.CONFLICT
    assert storage.changes() == []


@pytest.mark.parametrize(
    "unseen",
    [
        {"s3.HeadBucket": unsaid(403)},
        {
            "s3.HeadBucket": unsaid(403),
            "s3.ListBuckets": bucket_pages({f"{BUCKET}-2": REGION}, {BUCKET: REGION}),
        },
        {"s3.HeadBucket": unsaid(403), "s3.ListBuckets": aws_error("AccessDenied", 403)},
        {"s3.HeadBucket": unsaid(301), "s3.ListBuckets": aws_error("AccessDenied", 403)},
        # The same status stands for credentials that have expired; the list says so.
        {"s3.HeadBucket": unsaid(400), "s3.ListBuckets": aws_error("ExpiredToken")},
        {"s3.GetBucketTagging": aws_error("AccessDenied", 403)},
    ],
    ids=["head", "second_page", "list_too", "moved", "expired", "tags"],
)
def test_a_bucket_that_may_not_be_looked_at_is_told_of_as_such(
    storage: Storage, unseen: dict[str, Answer]
) -> None:
    storage.ensure()
    storage.core.calls.clear()
    storage.core.answers |= unseen
    assert refused(storage.ensure).type is ErrorType.INSUFFICIENT_PERMISSIONS
    assert storage.changes() == []


@pytest.mark.parametrize(
    "answers",
    [
        {"s3.HeadBucket": lambda _parameters: (200, {"BucketRegion": "us-west-2"})},
        *(
            {
                "s3.HeadBucket": unsaid(status),
                "s3.ListBuckets": bucket_pages({BUCKET: "us-west-2"}),
            }
            for status in (301, 400)
        ),
    ],
    ids=["followed", "moved", "bad_request"],
)
def test_a_bucket_of_ours_in_another_region_is_a_conflict(
    storage: Storage, answers: dict[str, Answer]
) -> None:
    """The project's storage would be told of in a region in which it is not."""
    storage.core.answers |= {"s3.CreateBucket": TAKEN, **answers}
    error = refused(storage.ensure)
    assert error.type is ErrorType.CONFLICT
    assert "a bucket of region us-west-2" in error.message
    assert storage.changes() == []


@pytest.mark.parametrize("status", [301, 400])
def test_a_request_that_s3_refuses_without_a_reason_is_not_repeated(
    storage: Storage, status: int
) -> None:
    storage.ensure()
    storage.core.answers["s3.HeadBucket"] = unsaid(status)
    error = refused(storage.ensure)
    assert error.type is ErrorType.SERVICE_REGISTRATION_FAILED
    assert f"HeadBucket: {status}" in error.cause


@pytest.mark.parametrize(
    ("code", "tags"),
    [
        (code, tags)
        for code in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists", "")
        for tags in (OWNER.tags(), *FOREIGN.values())
        if code or tags
    ],
)
def test_a_bucket_that_comes_into_being_meanwhile_is_taken_only_if_it_is_ours(
    storage: Storage, code: str, tags: dict[str, str]
) -> None:
    """In us-east-1 S3 says nothing where the account has the bucket already."""

    def come(_parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
        storage.make_bucket(tags)
        storage.core.calls.clear()
        storage.core.answers.clear()
        return aws_error(code, 409)({}) if code else (200, {"Location": f"/{BUCKET}"})

    if not code:
        storage.region = "us-east-1"
    storage.core.answers["s3.CreateBucket"] = come
    if tags == OWNER.tags():
        storage.ensure(LATER)
        storage.check()
    else:
        assert refused(storage.ensure).type is ErrorType.CONFLICT
        assert storage.changes() == []
    assert storage.settings().get("tags", []) == tag_list(tags)


def test_a_bucket_of_another_account_that_comes_meanwhile_is_a_conflict(storage: Storage) -> None:
    def come(_parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        storage.core.answers["s3.HeadBucket"] = unsaid(403)
        return 409, {"Error": {"Code": "BucketAlreadyExists", "Message": "It exists."}}

    storage.core.answers["s3.CreateBucket"] = come
    assert refused(storage.ensure).type is ErrorType.CONFLICT


def test_a_bucket_that_is_made_without_its_tags_gets_them(storage: Storage) -> None:
    """As an emulator makes it, without what S3 gives to every bucket, too."""
    as_s3 = storage.core.answers.pop("s3.CreateBucket")
    storage.register()
    by_emulator = storage.settings()
    storage.remove_bucket()
    storage.core.answers["s3.CreateBucket"] = as_s3
    storage.register()
    assert by_emulator == storage.settings()


@pytest.mark.parametrize(("setting", "drift"), DRIFTS.values(), ids=DRIFTS)
def test_a_setting_that_has_drifted_is_seen_and_put_right_and_no_other_is_touched(
    storage: Storage, setting: str, drift: Callable[[Any], object]
) -> None:
    storage.ensure()
    before = storage.settings()
    drift(storage.client)
    error = refused(storage.check)
    assert error.type is ErrorType.SERVICE_REGISTRATION_FAILED
    assert error.cause == f"bucket {BUCKET}: {setting}"
    assert storage.waits == []
    storage.core.calls.clear()
    storage.ensure(LATER)
    assert len(storage.changes()) == 1
    storage.check()
    assert storage.settings() == before


def test_tags_that_are_lost_are_seen_by_the_check(storage: Storage) -> None:
    storage.ensure()
    storage.client.delete_bucket_tagging(Bucket=BUCKET)
    assert refused(storage.check).cause == f"bucket {BUCKET}: tags"


@pytest.mark.parametrize("one", [False, True], ids=["in_a_list", "alone"])
def test_statements_of_the_customer_stay_beside_ours(storage: Storage, *, one: bool) -> None:
    storage.ensure()
    put_policy(storage.client, THEIRS, one=one)
    storage.ensure()
    assert storage.settings()["policy"]["Statement"] == [THEIRS, TLS_ONLY]


def test_rules_of_the_customer_stay_beside_ours(storage: Storage) -> None:
    storage.ensure()
    put_rules(storage.client, THEIR_RULE)
    storage.ensure()
    assert [rule["ID"] for rule in storage.settings()["lifecycle"]] == ["Forget", OUR_RULE["ID"]]


def test_what_the_customer_set_beside_the_rules_stays(storage: Storage) -> None:
    """A write that does not name it sets it back."""
    storage.ensure()
    kept = {"TransitionDefaultMinimumObjectSize": "varies_by_storage_class"}
    storage.core.answers["s3.GetBucketLifecycleConfiguration"] = lambda _parameters: (
        200,
        {"Rules": [THEIR_RULE], **kept},
    )
    storage.core.calls.clear()
    storage.ensure()
    (written,) = storage.core.calls_of("s3.PutBucketLifecycleConfiguration")
    rules = {"LifecycleConfiguration": {"Rules": [THEIR_RULE, OUR_RULE]}}
    assert {name: written[name] for name in (*rules, *kept)} == rules | kept


@pytest.mark.parametrize(
    "told", [{"Filter": {}}, {"Filter": {"Prefix": ""}}, {"Prefix": ""}], ids=str
)
def test_a_rule_for_all_objects_is_ours_however_s3_tells_that(
    storage: Storage, told: dict[str, Any]
) -> None:
    storage.ensure()
    ours = {name: value for name, value in OUR_RULE.items() if name != "Filter"}
    storage.core.answers["s3.GetBucketLifecycleConfiguration"] = lambda _parameters: (
        200,
        {"Rules": [THEIR_RULE, {**ours, **told}]},
    )
    storage.core.calls.clear()
    storage.ensure()
    storage.check()
    assert storage.changes() == []


def test_a_policy_that_s3_has_written_anew_is_no_drift(storage: Storage) -> None:
    """It reorders lists, and unpacks those of one entry."""
    storage.ensure()
    rewritten = {
        **TLS_ONLY,
        "Action": ["s3:*"],
        "Resource": TLS_ONLY["Resource"][::-1],
        "Condition": {"Bool": {"aws:SecureTransport": ["false"]}},
    }
    put_policy(storage.client, THEIRS, rewritten)
    storage.core.calls.clear()
    storage.ensure()
    storage.check()
    assert storage.changes() == []


def test_the_key_and_the_tags_of_the_customer_stay(storage: Storage) -> None:
    storage.ensure()
    by_key = {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "alias/shop"}
    storage.client.put_bucket_encryption(
        Bucket=BUCKET,
        ServerSideEncryptionConfiguration={
            "Rules": [{"ApplyServerSideEncryptionByDefault": by_key}]
        },
    )
    storage.client.put_bucket_tagging(
        Bucket=BUCKET, Tagging={"TagSet": tag_list({**OWNER.tags(), "cost-centre": "7"})}
    )
    storage.core.calls.clear()
    storage.ensure()
    storage.check()
    assert storage.changes() == []


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_error_of_any_call_is_understood_and_the_next_run_goes_through(
    storage: Storage, operation: str
) -> None:
    def run() -> None:
        storage.ensure()
        storage.check()

    as_s3_does = storage.core.answers.get(f"s3.{operation}", lambda _parameters: None)
    for answer, expected in errors(ErrorType.SERVICE_REGISTRATION_FAILED).values():
        storage.core.answers[f"s3.{operation}"] = answer
        assert refused(run).type is expected
    storage.core.answers[f"s3.{operation}"] = as_s3_does
    run()
    assert storage.names() == [BUCKET]


def test_a_first_run_calls_each_of_these_operations_once(storage: Storage) -> None:
    storage.register()
    called = [name for name, _ in storage.core.calls]
    assert sorted(called) == sorted(f"s3.{operation}" for operation in OPERATIONS)


def test_a_run_that_finds_all_as_it_must_be_looks_at_it_once(storage: Storage) -> None:
    storage.register()
    storage.core.calls.clear()
    storage.register()
    called = [name for name, _ in storage.core.calls]
    assert len(called) == len(set(called))


def test_a_run_whose_answer_is_lost_takes_the_bucket_up(storage: Storage) -> None:
    """A bucket comes into being with its tags, so that the next run knows it."""
    storage.core.answers["s3.CreateBucket"] = answer_lost(
        lambda **parameters: storage.make_with_tags(parameters)
    )
    assert refused(storage.ensure).type is ErrorType.TIMEOUT
    storage.ensure()
    storage.check()


def test_another_run_may_do_everything_meanwhile(storage: Storage) -> None:
    storage.core.answers["s3.PutBucketPolicy"] = meanwhile(storage.ensure)
    storage.ensure()
    storage.check()
    assert storage.names() == [BUCKET]


#: Longer than S3 may be waited for in one run: its function has 120 seconds.
TOO_LONG = 30

each_unready = pytest.mark.parametrize(
    "unready",
    [aws_error("NoSuchBucket", 404), aws_error("OperationAborted", 409)],
    ids=["unheard_of", "at_work"],
)


@each_unready
def test_a_new_bucket_that_s3_is_not_ready_for_is_asked_again(
    storage: Storage, unready: Answer
) -> None:
    asked = OPERATIONS[1:]
    storage.core.answers |= {f"s3.{operation}": times(2, unready) for operation in asked}
    storage.register()
    assert len(storage.waits) == 2 * len(asked)
    assert storage.core.changes().count("s3.CreateBucket") == 1


@each_unready
def test_a_new_bucket_that_s3_stays_unready_for_is_left_to_the_next_attempt(
    storage: Storage, unready: Answer
) -> None:
    for operation in OPERATIONS[1:]:
        storage.core.answers[f"s3.{operation}"] = unready
        storage.waits.clear()
        storage.remove_bucket()
        error = refused(storage.register)
        assert (error.type, error.cause.partition(":")[0]) == (ErrorType.TIMEOUT, operation)
        assert 0 < sum(storage.waits) < TOO_LONG
        del storage.core.answers[f"s3.{operation}"]
    storage.register()


def test_a_bucket_that_is_there_and_unheard_of_is_left_to_the_next_attempt(
    storage: Storage,
) -> None:
    """An attempt before made it, or someone deletes it at this moment: either passes by itself."""
    storage.ensure()
    storage.core.answers["s3.GetBucketTagging"] = aws_error("NoSuchBucket", 404)
    error = refused(storage.register)
    assert (error.type, error.cause) == (ErrorType.TIMEOUT, "GetBucketTagging: NoSuchBucket")
    assert storage.waits == []


#: What a read of a bucket tells that has not heard of what was written.
STALE: dict[str, Answer] = {
    "s3.GetBucketTagging": aws_error("NoSuchTagSet", 404),
    "s3.GetPublicAccessBlock": aws_error("NoSuchPublicAccessBlockConfiguration", 404),
    "s3.GetBucketEncryption": aws_error("ServerSideEncryptionConfigurationNotFoundError", 404),
    "s3.GetBucketVersioning": lambda _parameters: (200, {}),
    "s3.GetBucketPolicy": aws_error("NoSuchBucketPolicy", 404),
}


def test_a_setting_that_was_just_written_and_is_not_seen_yet_is_looked_at_again(
    storage: Storage,
) -> None:
    storage.core.answers |= {name: times(4, answer) for name, answer in STALE.items()}
    assert storage.register().endswith("tagged")
    assert len(storage.waits) == 4
    assert max(Counter(storage.core.changes()).values()) == 1


def test_a_setting_that_was_just_written_and_stays_unseen_is_left_to_the_next_attempt(
    storage: Storage,
) -> None:
    for operation in ("s3.GetBucketTagging", "s3.GetBucketPolicy"):
        storage.core.answers[operation] = STALE[operation]
        storage.waits.clear()
        error = refused(storage.register)
        assert error.type is ErrorType.TIMEOUT
        assert error.cause.startswith(f"bucket {BUCKET}: ")
        assert 0 < sum(storage.waits) < TOO_LONG
        del storage.core.answers[operation]
    storage.register()


def test_a_bucket_of_ours_that_comes_meanwhile_and_is_not_seen_yet_is_looked_for_again(
    storage: Storage,
) -> None:
    storage.make_bucket(OWNER.tags())
    unseen = aws_error("404", 404)
    storage.core.answers["s3.HeadBucket"] = unseen
    storage.core.answers["s3.CreateBucket"] = aws_error("BucketAlreadyOwnedByYou", 409)
    assert refused(storage.register).type is ErrorType.TIMEOUT
    assert 0 < sum(storage.waits) < TOO_LONG
    storage.waits.clear()
    storage.core.answers["s3.HeadBucket"] = times(4, unseen)
    storage.register()
    assert len(storage.waits) == 4


def repair(storage: Storage, owner: Ownership = LATER, settling: Settling | None = None) -> Repairs:
    return s3.repair_bucket(
        storage.core.client("s3", storage.region),
        name=BUCKET,
        region=storage.region,
        owner=owner,
        settling=settling or storage.settling(),
    )


ANSWERED = f"bucket {BUCKET} answered"


def test_a_repair_of_what_is_right_only_looks(storage: Storage) -> None:
    storage.ensure()
    storage.core.calls.clear()
    assert repair(storage) == Repairs((), (), ANSWERED)
    assert storage.changes() == []
    assert len(storage.core.calls) == 7


def test_a_repair_puts_right_what_has_drifted_and_says_what_it_was(storage: Storage) -> None:
    storage.ensure()
    before = storage.settings()
    for _, drift in DRIFTS.values():
        drift(storage.client)
    repairs = repair(storage)
    assert repairs.repaired == tuple(
        Drift(f"bucket {BUCKET}", setting)
        for setting in ("public access block", "encryption", "versioning", "policy", "lifecycle")
    )
    assert (repairs.remaining, repairs.checked) == ((), ANSWERED)
    assert storage.settings() == before
    storage.core.calls.clear()
    assert repair(storage) == Repairs((), (), ANSWERED)
    assert storage.changes() == []


def test_a_repair_does_not_claim_what_s3_does_not_show(storage: Storage) -> None:
    storage.ensure()
    storage.client.delete_bucket_policy(Bucket=BUCKET)
    storage.client.delete_bucket_encryption(Bucket=BUCKET)
    storage.core.answers["s3.PutBucketPolicy"] = lambda _parameters: (200, {})
    repairs = repair(storage)
    assert repairs.repaired == (Drift(f"bucket {BUCKET}", "encryption"),)
    assert [(r.resource, r.what) for r in repairs.remaining] == [(f"bucket {BUCKET}", "policy")]
    assert sum(storage.waits) >= 20


def test_a_repair_waits_until_s3_shows_what_was_put_right(storage: Storage) -> None:
    storage.ensure()
    storage.client.put_bucket_versioning(
        Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"}
    )
    stale = times(3, lambda _parameters: (200, {"Status": "Suspended"}))
    storage.core.answers["s3.GetBucketVersioning"] = stale
    repairs = repair(storage)
    assert repairs.repaired == (Drift(f"bucket {BUCKET}", "versioning"),)
    assert repairs.remaining == ()
    assert storage.waits == [1.0] * 2


def test_a_repair_makes_no_missing_bucket(storage: Storage) -> None:
    error = refused(lambda: repair(storage))
    assert error.type is ErrorType.SERVICE_REGISTRATION_FAILED
    assert f"The bucket {BUCKET} of the project is not there" in error.message
    assert (storage.core.changes(), storage.names()) == ([], [])


@each_foreign
def test_a_repair_leaves_a_bucket_that_is_not_the_project_s(
    storage: Storage, tags: dict[str, str]
) -> None:
    storage.make_bucket(tags)
    storage.core.calls.clear()
    error = refused(lambda: repair(storage))
    assert (error.type, storage.core.changes()) == (ErrorType.CONFLICT, [])
