"""What stands in the way of a removal: what the looks find, and how it is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from provisioner.drivers import s3 as s3_module
from provisioner.drivers.bucket_policy import Wanted, find_denials
from provisioner.drivers.cognito import look_at_pools
from provisioner.drivers.obstacles import MOST_NAMED, Obstacles, quote
from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.drivers.s3_obstacles import LOCKS_LOOKED_AT, BucketLook, look_at_bucket
from provisioner.errors import ErrorType, failure
from provisioner.jobs.stage import JobInput
from provisioner.provisioning.removal import refusal, remove_or_explain
from psycopg import sql
from support.core import REGION, Core, aws_error
from support.drivers import OWNER, refused, tag_list
from support.tenants import Tenant

BUCKET = "nm-shop"
ARN = f"arn:aws:s3:::{BUCKET}"


# The names in the sentences.


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("photo", '"photo"'),
        ('a"b\\', r'"a\"b\\"'),
        ("a\nb\x1b[31m\u202e\udc80", r'"a\nb\x1b[31m\u202e\udc80"'),
        ("ünï/😀", '"ünï/😀"'),
        ("x" * 81, f'"{"x" * 80}…"'),
    ],
)
def test_a_name_is_shown_on_one_line_and_not_at_any_length(name: str, shown: str) -> None:
    assert quote(name) == shown


# Policies of buckets.


def deny(action: Any = "s3:*", resource: Any = f"{ARN}/*", **more: Any) -> dict[str, Any]:
    return {"Sid": "Keep", "Effect": "Deny", "Principal": "*"} | {
        "Action": action,
        "Resource": resource,
        **more,
    }


DELETE = Wanted("s3:DeleteObject", [f"{ARN}/photos/a", f"{ARN}/x[1]"])
DELETE_BUCKET = Wanted("s3:DeleteBucket", [ARN])
DELETE_MORE = Wanted("s3:DeleteObject", [f"{ARN}/photos/a"], others=f"{ARN}/")
CONDITION = {"StringNotEquals": {"aws:PrincipalOrgID": "o-1"}}


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        (deny(), DELETE),
        (deny("S3:delete*"), DELETE),
        (deny(["s3:GetObject", "s3:DeleteObjec?"]), DELETE),
        (deny("s3:DeleteObject", [f"{ARN}/other", f"{ARN}/x[1]"]), DELETE),
        (deny("s3:DeleteObject", "*"), DELETE),
        (deny("s3:DeleteObject", f"{ARN}/photos/${{aws:username}}"), DELETE),
        (deny("s3:DeleteObject", f"{ARN}/later/*"), DELETE_MORE),
        (deny("s3:DeleteBucket", ARN), DELETE_BUCKET),
        (deny("s3:*", ["*"]), DELETE_BUCKET),
        (deny(Principal={"AWS": "*"}), DELETE),
        (deny(Principal={"AWS": "arn:aws:iam::123456789012:role/any"}), DELETE),
        (deny(Condition=CONDITION), DELETE),
        (deny(Condition={"Bool": {"aws:MultiFactorAuthPresent": "false"}}), DELETE),
        (deny(Condition={"Bool": {"aws:SecureTransport": ["true", "false"]}}), DELETE),
        (
            {"Effect": "Deny", "NotPrincipal": {"AWS": "x"}}
            | {"Sid": "Keep", "NotAction": "s3:Get*", "NotResource": f"{ARN}/x*"},
            DELETE,
        ),
    ],
)
def test_a_statement_that_may_deny_a_removal_is_seen(
    statement: dict[str, Any], wanted: Wanted
) -> None:
    others = [deny("s3:PutObject", Sid="Other"), {**deny(), "Effect": "Allow"}]
    policy = json.dumps({"Statement": [*others, statement]})
    assert list(find_denials(policy, [wanted])) == [('"Keep"', wanted.action)]
    alone = json.dumps({"Statement": {k: v for k, v in statement.items() if k != "Sid"}})
    assert list(find_denials(alone, [wanted])) == [("number 1", wanted.action)]


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        ({**deny(), "Effect": "Allow"}, DELETE),
        (deny("s3:DeleteObjectTagging"), DELETE),
        (deny("s3:DeleteObject", f"{ARN}/other/*"), DELETE),
        (deny("s3:DeleteObject", f"{ARN}-2/*"), DELETE_MORE),
        (deny("s3:DeleteObject", f"{ARN}/x1"), DELETE),
        (deny("s3:*", f"{ARN}/*"), DELETE_BUCKET),
        (deny(Principal={"Service": "cloudtrail.amazonaws.com"}), DELETE),
        (deny(Condition={"Bool": {"aws:SecureTransport": "false"}}), DELETE),
        (deny(Condition={"BoolIfExists": {"aws:securetransport": [False]}}), DELETE),
        (deny(Condition={"NumericLessThan": {"s3:TlsVersion": 1.2}, **CONDITION}), DELETE),
        ({**deny(), "NotAction": "s3:Del*"} | {"Action": []}, DELETE),
        (
            {"Effect": "Deny", "Principal": "*", "Action": "*", "NotResource": f"{ARN}/*"},
            DELETE,
        ),
    ],
)
def test_a_statement_that_denies_no_removal_is_none(
    statement: dict[str, Any], wanted: Wanted
) -> None:
    assert not list(find_denials(json.dumps({"Statement": [statement]}), [wanted]))


def test_a_pattern_that_is_made_to_take_long_takes_no_time() -> None:
    wanted = Wanted("s3:DeleteObject", [f"{ARN}/" + "a" * 1000])
    statement = deny("s3:DeleteObject", f"{ARN}/" + "*a" * 400 + "b")
    assert not list(find_denials(json.dumps({"Statement": statement}), [wanted]))


# Buckets.


@pytest.fixture
def s3(core: Core) -> Any:
    """Return S3 with the project's bucket, which has Object Lock."""
    client = core.client("s3")
    client.create_bucket(
        Bucket=BUCKET,
        CreateBucketConfiguration={"LocationConstraint": REGION},
        ObjectLockEnabledForBucket=True,
    )
    client.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": tag_list(OWNER.tags())})
    # moto answers with an error of its own for an object without retention.
    core.answers["s3.GetObjectRetention"] = aws_error("NoSuchObjectLockConfiguration", 404)
    core.calls.clear()
    return client


def look(s3: Any) -> BucketLook:
    return look_at_bucket(s3, name=BUCKET, claim=OWNER.owns)


def put(s3: Any, *keys: str) -> list[str]:
    return [s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")["VersionId"] for key in keys]


def hold(s3: Any, key: str) -> str:
    (version,) = put(s3, key)
    s3.put_object_legal_hold(Bucket=BUCKET, Key=key, VersionId=version, LegalHold={"Status": "ON"})
    return version


def retain(core: Core, mode: str, until: datetime) -> None:
    """Let S3 say of every object that it is retained."""
    retention = {"Mode": mode, "RetainUntilDate": until}
    core.answers["s3.GetObjectRetention"] = lambda _: (200, {"Retention": retention})


def test_nothing_keeps_a_bucket_that_is_empty_or_full_or_not_there(core: Core, s3: Any) -> None:
    assert look(s3) == BucketLook()
    # An empty bucket's locks are not asked for.
    assert len(core.calls) == 4
    put(s3, "photo")
    s3.create_multipart_upload(Bucket=BUCKET, Key="unfinished")
    core.calls.clear()
    assert look(s3) == BucketLook(holds_objects=True)
    assert len(core.calls) == 8
    s3.delete_object(Bucket=BUCKET, Key="photo")
    core.answers["s3.GetObjectLockConfiguration"] = aws_error(
        "ObjectLockConfigurationNotFoundError", 404
    )
    assert look(s3) == BucketLook(holds_objects=True)
    s3.put_bucket_tagging(Bucket=BUCKET, Tagging={"TagSet": []})
    assert look(s3) == BucketLook()
    core.answers["s3.HeadBucket"] = aws_error("404", 404)
    assert look(s3) == BucketLook()


def test_a_legal_hold_is_named_with_its_object_and_version(s3: Any) -> None:
    put(s3, "a", "b\n")
    version = hold(s3, "b\n")
    (clause,) = look(s3).obstacles.staying
    assert clause.startswith(
        f'object "b\\n" of bucket {BUCKET}, version "{version}", has a legal hold: '
    )


@pytest.mark.parametrize(
    ("mode", "advice"), [("GOVERNANCE", "s3:BypassGovernanceRetention"), ("COMPLIANCE", "wait")]
)
def test_an_object_that_is_retained_is_named_with_the_end(
    core: Core, s3: Any, mode: str, advice: str
) -> None:
    put(s3, "photo")
    retain(core, mode, datetime(2999, 12, 31, 23, 59, tzinfo=UTC))
    (clause,) = look(s3).obstacles.staying
    assert f"is retained in {mode} mode until 2999-12-31 23:59 UTC: " in clause
    assert advice in clause
    retain(core, mode, datetime.now(UTC) - timedelta(seconds=1))
    assert look(s3).obstacles == Obstacles()


def test_a_bucket_with_many_locks_is_looked_at_in_a_bounded_number_of_calls(
    core: Core, s3: Any
) -> None:
    versions = [{"Key": f"photo-{n:04}", "VersionId": f"v{n}"} for n in range(1000)]
    listed = {"Versions": versions, "IsTruncated": True}
    core.answers["s3.ListObjectVersions"] = lambda _: (200, listed)
    core.answers["s3.GetObjectLegalHold"] = lambda _: (200, {"LegalHold": {"Status": "OFF"}})

    found = look(s3)

    assert found.obstacles == Obstacles()
    assert f"the first {LOCKS_LOOKED_AT} versions" in found.beyond
    assert len(core.calls) == 6 + 2 * LOCKS_LOOKED_AT
    core.calls.clear()
    core.answers["s3.GetObjectLegalHold"] = lambda _: (200, {"LegalHold": {"Status": "ON"}})
    staying = look(s3).obstacles.staying
    assert len(staying) == MOST_NAMED + 1
    assert staying[-1] == "there are more objects with a lock"
    assert len(core.calls) == 6 + 2 * (MOST_NAMED + 1)


def test_mfa_delete_keeps_objects_and_no_empty_bucket(core: Core, s3: Any) -> None:
    core.answers["s3.GetBucketVersioning"] = lambda _: (
        200,
        {"Status": "Enabled", "MFADelete": "Enabled"},
    )
    assert look(s3).obstacles == Obstacles()
    put(s3, "photo")
    (clause,) = look(s3).obstacles.staying
    assert clause.startswith(f"MFA delete is on for bucket {BUCKET}: ")


def policy(core: Core, *statements: Mapping[str, Any]) -> None:
    """Let the bucket have a policy; moto would refuse the test by it too."""
    text = json.dumps({"Version": "2012-10-17", "Statement": statements})
    core.answers["s3.GetBucketPolicy"] = lambda _: (200, {"Policy": text})


def test_a_policy_that_denies_the_removal_is_named_by_its_statement(core: Core, s3: Any) -> None:
    policy(core, deny(["s3:DeleteObject*", "s3:DeleteBucket"], [ARN, f"{ARN}/photo"]))
    of = f'statement "Keep" of the policy of bucket {BUCKET} denies'
    advice = "take it out of the policy"
    assert look(s3).obstacles.staying == (f"{of} s3:DeleteBucket: {advice}",)
    put(s3, "photo")
    all_ = "s3:DeleteBucket, s3:DeleteObject, s3:DeleteObjectVersion"
    assert look(s3).obstacles.staying == (f"{of} {all_}: {advice}",)
    # The platform's own statement refuses who comes without TLS.
    tls = s3_module._with_tls_only(ARN, {})["Statement"][0]
    policy(core, tls)
    assert look(s3).obstacles == Obstacles()


LOOKS = {
    "ListObjectVersions": "s3:ListBucketVersions",
    "GetBucketPolicy": "s3:GetBucketPolicy",
    "GetBucketVersioning": "s3:GetBucketVersioning",
    "GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration",
    "GetObjectLegalHold": "s3:GetObjectLegalHold",
    "GetObjectRetention": "s3:GetObjectRetention",
}


@pytest.mark.parametrize("operation", LOOKS)
def test_a_look_that_is_denied_is_named_with_its_permission(
    core: Core, s3: Any, operation: str
) -> None:
    put(s3, "photo", "video")
    core.answers[f"s3.{operation}"] = aws_error("AccessDenied", 403)
    found = look(s3).obstacles
    assert (found.staying, found.passing) == ((), ())
    (clause,) = found.unseen
    assert clause.endswith(f"of bucket {BUCKET}: allow {LOOKS[operation]}")


@pytest.mark.parametrize("operation", LOOKS)
def test_a_look_that_is_not_answered_is_made_again_unless_something_stays_anyhow(
    core: Core, s3: Any, operation: str
) -> None:
    put(s3, "photo")
    core.answers[f"s3.{operation}"] = aws_error("SlowDown", 503)
    assert refused(lambda: look(s3)).type is ErrorType.NETWORK_ERROR
    if operation in {"GetObjectRetention", "GetObjectLockConfiguration"}:
        hold(s3, "photo")
        policy(core, deny("s3:DeleteObject"))
        found = look(s3).obstacles
        assert found.staying
        assert [clause.partition(": ")[2] for clause in found.unseen] == ["S3 did not answer"]


#: Keys that make trouble in a document, a path or a line.
ODD_KEYS = (
    *("a b", "ünï/😀", "a&b<c>", "x\ty", "..", "a//b", "%2F", "\x7f", "+", "./a", " ", "a ", "]]>"),
    *("&#1;", "a+b%20c", "'\"", "a/../b", "\u2028"),
)
#: Keys that no XML document can carry.
NOT_IN_XML = ("\x01", "../x\x02", "日本/\x1f", "\x0b", "\ufffe", "\uffff", "a\x00b")


def test_objects_of_any_key_are_deleted(core: Core, s3: Any) -> None:
    put(s3, *ODD_KEYS)
    s3_module.empty_bucket(s3, name=BUCKET, claim=OWNER.owns, seconds=60)
    assert look(s3) == BucketLook()
    assert len(core.calls_of("s3.DeleteObjects")) == 1
    assert not core.calls_of("s3.DeleteObject")


def test_a_key_that_no_list_can_carry_is_deleted_by_itself(core: Core, s3: Any) -> None:
    left = [{"Key": key, "VersionId": "v"} for key in (*NOT_IN_XML, "photo", "a\r\nb")]
    # moto cannot list such keys.
    core.answers["s3.ListObjectVersions"] = lambda _: (200, {"Versions": list(left)})

    def delete(*gone: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        for one in gone:
            left.remove({"Key": one["Key"], "VersionId": one["VersionId"]})
        return 200, {}

    core.answers["s3.DeleteObject"] = delete
    core.answers["s3.DeleteObjects"] = lambda parameters: delete(*parameters["Delete"]["Objects"])

    s3_module.empty_bucket(s3, name=BUCKET, claim=OWNER.owns, seconds=60)

    assert left == []
    assert [call["Key"] for call in core.calls_of("s3.DeleteObject")] == list(NOT_IN_XML)
    (batch,) = core.calls_of("s3.DeleteObjects")
    assert [one["Key"] for one in batch["Delete"]["Objects"]] == ["photo", "a\r\nb"]


def test_an_object_that_stays_is_named_to_operators(s3: Any) -> None:
    hold(s3, "photo")
    error = refused(lambda: s3_module.empty_bucket(s3, name=BUCKET, claim=OWNER.owns, seconds=60))
    assert error.type is ErrorType.INSUFFICIENT_PERMISSIONS
    assert 'object "photo"' in error.cause


# User pools.


def test_what_keeps_a_user_pool_is_named(core: Core) -> None:
    cognito = core.client("cognito-idp")
    made = cognito.create_user_pool(PoolName="nm-shop", UserPoolTags=OWNER.tags())
    pool_id = made["UserPool"]["Id"]
    assert look_at_pools(cognito, name="nm-shop", claim=OWNER.owns) == Obstacles()
    pool = {"Id": pool_id, "UserPoolTags": OWNER.tags(), "DeletionProtection": "ACTIVE"}
    pool |= {"Domain": "shop", "CustomDomain": "auth.example.com"}
    core.answers["cognito-identity-provider.DescribeUserPool"] = lambda _: (200, {"UserPool": pool})

    protection = "deletion protection is active"
    delete = "delete it (cognito-idp delete-user-pool-domain)"
    assert look_at_pools(cognito, name="nm-shop", claim=OWNER.owns).staying == (
        f"{protection} on user pool {pool_id}: switch it off (cognito-idp update-user-pool)",
        f'user pool {pool_id} has the domain "shop": {delete}',
        f'user pool {pool_id} has the domain "auth.example.com": {delete}',
    )
    assert look_at_pools(cognito, name="nm-shop", claim=lambda _: False) == Obstacles()


# How it is said.

JOB = JobInput(job_id="job-2", job_type="deprovision_project", payload={})


def test_all_that_is_in_the_way_is_named_at_once() -> None:
    found = Obstacles(("a stays",), ("no dump",), ("b passes",), ("c: allow s3:GetC",))
    error = refusal(JOB, "delete_data: not empty.", found)
    assert error is not None
    assert error.type is ErrorType.REMOVAL_FAILED
    assert error.message == (
        "This job has removed nothing. In the way: (1) delete_data: not empty; (2) a stays; "
        "(3) no dump; (4) b passes. Not seen: c: allow s3:GetC. "
        "Then `provision retry job-2` runs the job again."
    )
    many = refusal(JOB, "", Obstacles(tuple(f"n{n}" for n in range(50))))
    assert many is not None
    assert "(20) n19; (21) 30 more." in many.message


@pytest.mark.parametrize(
    ("data", "found", "expected"),
    [
        ("", Obstacles(), None),
        ("Data.", Obstacles(), ErrorType.DATA_NOT_EMPTY),
        ("Data.", Obstacles(passing=("b",)), ErrorType.DATA_NOT_EMPTY),
        ("Data.", Obstacles(unseen=("c",)), ErrorType.DATA_NOT_EMPTY),
        ("Data.", Obstacles(snapshot=("s",)), ErrorType.REMOVAL_FAILED),
        ("", Obstacles(("a",), ("s",), ("b",), ("c",)), ErrorType.REMOVAL_FAILED),
        ("", Obstacles((), ("s",), ("b",), ("c",)), ErrorType.SNAPSHOT_FAILED),
        ("", Obstacles(passing=("b",), unseen=("c",)), ErrorType.INSUFFICIENT_PERMISSIONS),
        ("", Obstacles(passing=("b",)), ErrorType.TIMEOUT),
    ],
)
def test_what_stays_makes_a_refusal_final_and_what_passes_is_looked_at_again(
    data: str, found: Obstacles, expected: ErrorType | None
) -> None:
    error = refusal(JOB, data, found)
    assert (error and error.type) == expected
    if data and found == Obstacles():
        assert error is not None
        assert error.message == data


def explain(
    remove: Callable[[], str], look: Callable[[], Obstacles], *, is_cleanup: bool = False
) -> str:
    return remove_or_explain(JOB, remove, look, is_cleanup=is_cleanup)


def fails(error_type: ErrorType) -> Callable[[], str]:
    def fail() -> str:
        raise failure(error_type, "It failed.", "the cause")

    return fail


@pytest.mark.parametrize(
    ("met", "found", "expected"),
    [
        (ErrorType.TIMEOUT, Obstacles(("a",), passing=("b",)), ErrorType.REMOVAL_FAILED),
        (ErrorType.INSUFFICIENT_PERMISSIONS, Obstacles(passing=("b",)), ErrorType.TIMEOUT),
        (ErrorType.UNKNOWN_ERROR, Obstacles(("a",)), ErrorType.REMOVAL_FAILED),
    ],
)
def test_a_removal_that_fails_says_what_is_in_the_way(
    met: ErrorType, found: Obstacles, expected: ErrorType
) -> None:
    for is_cleanup, command in ((False, "retry"), (True, "cleanup")):
        error = refused(lambda: explain(fails(met), lambda: found, is_cleanup=is_cleanup))  # noqa: B023
        assert (error.type, error.cause) == (expected, "the cause")
        assert error.message.startswith("In the way of the removal: ")
        assert error.message.endswith(f" Then `provision {command} job-2` goes on.")


def test_a_removal_that_fails_for_no_reason_that_is_seen_says_its_own() -> None:
    def look_in_vain() -> Obstacles:
        raise failure(ErrorType.NETWORK_ERROR, "No answer.")

    for look in (Obstacles, look_in_vain):
        error = refused(lambda: explain(fails(ErrorType.REMOVAL_FAILED), look))  # noqa: B023
        assert (error.type, error.message) == (ErrorType.REMOVAL_FAILED, "It failed.")
    away = refused(lambda: explain(fails(ErrorType.NETWORK_ERROR), lambda: Obstacles(("a",))))
    assert away.type is ErrorType.NETWORK_ERROR
    assert explain(lambda: "done", look_in_vain) == "done"


# Databases.


def look_at(tenant: Tenant, *, with_dump: bool = True) -> Obstacles:
    admin = tenant.cluster.admin
    return PostgresqlEngine(admin).find_obstacles(
        tenant.names, tenant.owner.owns, with_dump=with_dump
    )


def test_nothing_keeps_a_database_of_the_project_or_one_that_is_not_its(tenant: Tenant) -> None:
    assert look_at(tenant) == Obstacles()
    tenant.ensure()
    with tenant.login() as session:
        session.execute("SELECT 1")
        assert look_at(tenant) == Obstacles()
    with tenant.cluster.connect(tenant.names.database):
        assert look_at(tenant).passing
        admin, names = tenant.cluster.admin, tenant.names
        other = PostgresqlEngine(admin).find_obstacles(names, lambda _: False, with_dump=True)
        assert other == Obstacles()


def test_a_session_that_the_platform_may_not_end_is_named_and_can_pass(tenant: Tenant) -> None:
    tenant.ensure()
    with tenant.cluster.connect(tenant.names.database) as session:
        session.execute("SET application_name = 'psql\"x'")
        found = look_at(tenant)
        assert found.staying == ()
        (clause,) = found.passing
        pid, user = session.info.backend_pid, session.info.user
        assert f'session {pid} of role {user} ("psql\\"x") in database' in clause
        assert f"pg_terminate_backend({pid})" in clause

        error = refused(lambda: remove(tenant))
        assert error.type is ErrorType.TIMEOUT
        assert "42501" in error.cause
    assert look_at(tenant) == Obstacles()
    remove(tenant)


def remove(tenant: Tenant) -> bool:
    return PostgresqlEngine(tenant.cluster.admin).remove_database(
        tenant.names, tenant.owner, only_this_job=False
    )


def test_what_the_roles_have_elsewhere_is_named(tenant: Tenant) -> None:
    tenant.ensure()
    role = sql.Identifier(tenant.names.app_role)
    with tenant.cluster.connect() as c:
        c.execute(sql.SQL("GRANT CONNECT ON DATABASE postgres TO {}").format(role))
        (clause,) = look_at(tenant).staying
        assert refused(lambda: remove(tenant)).type is ErrorType.REMOVAL_FAILED
        # The database is gone by now.
        assert look_at(tenant).staying == (clause,)
        c.execute(sql.SQL("REVOKE CONNECT ON DATABASE postgres FROM {}").format(role))
    assert clause.startswith(
        f"role {tenant.names.app_role} has objects or privileges in database postgres: "
    )
    assert look_at(tenant) == Obstacles()


def test_a_database_that_is_another_roles_or_a_template_is_named(tenant: Tenant) -> None:
    tenant.ensure()
    database = sql.Identifier(tenant.names.database)
    with tenant.cluster.connect() as c:
        c.execute(sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(database))
        c.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE true").format(database))
        found = look_at(tenant)
        owned, template = found.staying
        # Nobody but its owner and the app role may connect to it.
        (unseen,) = found.unseen
        assert unseen.endswith(f"let {tenant.cluster.admin.user} connect to it")
        assert f"belongs to role {c.info.user}: type " in owned
        for clause in (owned, template):
            c.execute(clause.partition(": type ")[2])
    assert look_at(tenant) == Obstacles()


def test_what_uses_a_database_and_stays_is_named_with_what_to_type(tenant: Tenant) -> None:
    tenant.ensure()
    database, role = tenant.names.database, tenant.names.owner_role
    with tenant.cluster.connect(database) as c, tenant.login() as session:
        c.execute(
            "CREATE SUBSCRIPTION feed CONNECTION 'dbname=none' PUBLICATION none"
            " WITH (connect = false)"
        )
        c.execute("SELECT pg_create_logical_replication_slot('unused', 'pgoutput')")
        # One that is temporary is in use as long as its session.
        c.execute("SELECT pg_create_logical_replication_slot('reader', 'pgoutput', true)")
        # After the slots, which would wait for its end.
        session.execute("BEGIN")
        session.execute("CREATE TABLE note (id integer)")
        session.execute("PREPARE TRANSACTION 'it''s mine'")
        found = look_at(tenant)
        assert len(found.passing) == 1
        prepared, slot, subscription = found.staying
        assert prepared.startswith(f"transaction 'it''s mine' of role {role} is prepared in")
        assert "slot 'reader'" in slot
        # While it is there, nothing can be removed, whichever of them is met first.
        assert refused(lambda: remove(tenant)).type is ErrorType.TIMEOUT
        assert database in str(tenant.snapshot()["databases"])
        c.execute("ALTER SUBSCRIPTION feed SET (slot_name = NONE)")
        c.execute(subscription.partition(": type ")[2].removesuffix(" there"))
    with tenant.cluster.connect(database) as c:
        assert [clause for clause in look_at(tenant).staying if "slot" in clause] == []
        c.execute(prepared.rpartition(" or ")[2].removesuffix(" there"))
    assert look_at(tenant) == Obstacles()
    remove(tenant)
    assert tenant.snapshot()["databases"] == []


def test_what_keeps_the_final_snapshot_is_named_where_one_is_taken(tenant: Tenant) -> None:
    tenant.ensure()
    with tenant.login() as session:
        session.execute("CREATE TABLE note (id integer)")
        session.execute("ALTER TABLE note ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    (clause,) = look_at(tenant).snapshot
    assert clause.endswith("type ALTER TABLE app.note NO FORCE ROW LEVEL SECURITY")
    assert look_at(tenant, with_dump=False) == Obstacles()
    database = sql.Identifier(tenant.names.database)
    with tenant.cluster.connect() as c:
        # As a job leaves it that failed on its way: nobody has put anything in.
        c.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(database))
    assert look_at(tenant) == Obstacles()


def test_no_more_of_a_kind_is_named_than_can_be_read(tenant: Tenant) -> None:
    tenant.ensure()
    with tenant.cluster.connect(tenant.names.database) as c:
        names = [f"feed_{number}" for number in range(MOST_NAMED + 2)]
        for name in names:
            c.execute(
                sql.SQL(
                    "CREATE SUBSCRIPTION {} CONNECTION 'dbname=none' PUBLICATION none"
                    " WITH (connect = false, slot_name = NONE, enabled = false)"
                ).format(sql.Identifier(name))
            )
        staying = look_at(tenant).staying
        for name in names:
            c.execute(sql.SQL("DROP SUBSCRIPTION {}").format(sql.Identifier(name)))
    assert len(staying) == MOST_NAMED + 1
    assert staying[-1] == "there are more subscriptions"


def test_a_server_that_is_away_is_looked_at_again(tenant: Tenant) -> None:
    away = replace(tenant.cluster.admin, port=1)
    error = refused(
        lambda: PostgresqlEngine(away).find_obstacles(
            tenant.names, tenant.owner.owns, with_dump=True
        )
    )
    assert error.type is ErrorType.NETWORK_ERROR
