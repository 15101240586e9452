"""What removes a project's resources: whose they must be, and what may happen meanwhile."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import psycopg
import pytest
from botocore.exceptions import ReadTimeoutError
from moto.s3.models import s3_backends
from provisioner.api_keys.hand_over import HandOverStatus
from provisioner.api_keys.key_format import digest
from provisioner.drivers import appsync, cognito, dynamodb, s3
from provisioner.drivers.postgresql.engine import PostgresqlEngine
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.stage import JobInput
from provisioner.ownership import Claim
from provisioner.provisioning.database_access import Servers
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.stages.api_keys import ensure_api_keys, remove_api_keys
from provisioner.provisioning.stages.database import remove_database
from psycopg import sql
from support.core import (
    ACCOUNT,
    REGION,
    Answer,
    Core,
    aws_error,
    bucket_pages,
    cleanup_payload,
    meanwhile,
    new_job,
    unsaid,
)
from support.drivers import LATER, OWNER, each_foreign, errors, refused, tag_list, told_only
from support.tenants import PASSWORD, Tenant, dies, interrupt_drop

NAME = "nm-shop"

type Tags = dict[str, str]

# Services of AWS.


class Service:
    """The project's part of a service."""

    #: The client, and what stands before the operation in the names of calls.
    service: ClassVar[str]
    calls: ClassVar[str]
    #: The operations that look, and the one that removes.
    looks: ClassVar[tuple[str, ...]]
    deletes: ClassVar[str]
    #: All that the first look tells for sure of each thing.
    told: ClassVar[tuple[str, ...]]

    def __init__(self, core: Core) -> None:
        self.core = core
        self.client = core.client(self.service)

    def make(self, tags: Tags) -> str:
        """Make one, and return what it is known by."""
        raise NotImplementedError

    def there(self) -> set[str]:
        """Return what there is."""
        raise NotImplementedError

    def delete(self, one: str) -> None:
        """Remove one, as someone else does."""
        raise NotImplementedError

    def remove(self, claim: Claim = OWNER.made) -> str:
        """Remove what is claimed."""
        raise NotImplementedError


class UserPools(Service):
    service = "cognito-idp"
    calls = "cognito-identity-provider"
    looks = ("ListUserPools", "DescribeUserPool")
    told = ("UserPools", "Id", "Name")
    deletes = "DeleteUserPool"

    def make(self, tags: Tags) -> str:
        made = self.client.create_user_pool(PoolName=NAME, UserPoolTags=tags)
        return str(made["UserPool"]["Id"])

    def there(self) -> set[str]:
        return {pool["Id"] for pool in self.client.list_user_pools(MaxResults=60)["UserPools"]}

    def delete(self, one: str) -> None:
        self.client.delete_user_pool(UserPoolId=one)

    def remove(self, claim: Claim = OWNER.made, known: str | None = None) -> str:
        return cognito.remove_user_pool(self.client, name=NAME, claim=claim, known=known)


class EventApis(Service):
    service = calls = "appsync"
    looks = ("ListApis", "GetApi")
    told = ("apis", "apiId", "name")
    deletes = "DeleteApi"

    def make(self, tags: Tags) -> str:
        iam = [{"authType": "AWS_IAM"}]
        modes = ("connectionAuthModes", "defaultPublishAuthModes", "defaultSubscribeAuthModes")
        config = {"authProviders": iam, **dict.fromkeys(modes, iam)}
        made = self.client.create_api(name=NAME, tags=tags, eventConfig=config)
        return str(made["api"]["apiId"])

    def there(self) -> set[str]:
        return {api["apiId"] for api in self.client.list_apis()["apis"]}

    def delete(self, one: str) -> None:
        self.client.delete_api(apiId=one)

    def remove(self, claim: Claim = OWNER.made, known: str | None = None) -> str:
        return appsync.remove_event_api(self.client, name=NAME, claim=claim, known=known)


class Buckets(Service):
    service = calls = "s3"
    looks = ("HeadBucket", "GetBucketTagging")
    deletes = "DeleteBucket"

    def make(self, tags: Tags) -> str:
        self.client.create_bucket(
            Bucket=NAME, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        if tags:
            self.client.put_bucket_tagging(Bucket=NAME, Tagging={"TagSet": tag_list(tags)})
        return NAME

    def there(self) -> set[str]:
        return {bucket["Name"] for bucket in self.client.list_buckets()["Buckets"]}

    def delete(self, one: str) -> None:
        self.client.delete_bucket(Bucket=one)

    def remove(self, claim: Claim = OWNER.made) -> str:
        return s3.remove_bucket(self.client, name=NAME, claim=claim)


@pytest.fixture(params=[UserPools, EventApis, Buckets], ids=lambda kind: kind.__name__)
def service(core: Core, request: pytest.FixtureRequest) -> Iterator[Service]:
    made: Service = request.param(core)
    if isinstance(made, Buckets):
        yield made
    else:
        with told_only(made.client, made.looks[0], *made.told):
            yield made


def test_what_the_job_made_is_removed_once(service: Service) -> None:
    service.make(OWNER.tags())

    said = service.remove()
    assert service.there() == set()
    service.core.calls.clear()
    assert service.remove() == said
    assert f"named {NAME} is left to remove" in said
    assert service.core.changes() == []


@each_foreign
def test_what_is_not_the_projects_stays(service: Service, tags: Tags) -> None:
    one = service.make(tags)
    service.core.calls.clear()

    for claim in (OWNER.made, OWNER.owns):
        assert "left to remove" in service.remove(claim)

    assert service.there() == {one}
    assert service.core.changes() == []


def test_what_another_job_made_stays_unless_the_whole_project_goes(service: Service) -> None:
    one = service.make(LATER.tags())

    service.remove(OWNER.claim(only_this_job=True))
    assert service.there() == {one}
    service.remove(OWNER.claim(only_this_job=False))
    assert service.there() == set()


@pytest.mark.parametrize("kind", [UserPools, EventApis])
def test_all_of_one_name_that_the_job_made_are_removed(core: Core, kind: type[Service]) -> None:
    service = kind(core)
    stays = {service.make(LATER.tags()), service.make({})}
    for _ in range(2):
        service.make(OWNER.tags())

    service.remove()

    assert service.there() == stays


@pytest.mark.parametrize("kind", [UserPools, EventApis])
def test_the_only_one_that_there_can_be_is_removed_by_its_id(
    core: Core, kind: type[UserPools | EventApis]
) -> None:
    service = kind(core)
    one, foreign = service.make(OWNER.tags()), service.make({})
    core.calls.clear()

    for known in (one, one, foreign, ""):
        assert "left to remove" in service.remove(known=known)

    look = service.looks[-1]
    names = [name.partition(".")[2] for name, _ in core.calls]
    # It is looked at again once it is gone; of the other, only whose it is; and nothing of none.
    assert [name for name in names if name != "ListTagsForResource"] == [
        *(look, service.deletes, look),
        *(look, look),
        *(look, look),
    ]
    assert service.there() == {foreign}


@pytest.mark.parametrize("when", ["looked_at", "deleted"])
def test_what_another_run_removes_meanwhile_is_as_good_as_removed(
    service: Service, when: str
) -> None:
    one = service.make(OWNER.tags())
    operation = service.looks[-1] if when == "looked_at" else service.deletes

    def come(_parameters: Any) -> tuple[int, dict[str, Any]] | None:
        service.core.answers.clear()
        service.delete(one)
        # moto fails where AWS says that there is none.
        is_unsaid = operation == EventApis.deletes
        return aws_error("NotFoundException", 404)({}) if is_unsaid else None

    service.core.answers[f"{service.calls}.{operation}"] = come

    assert "left to remove" in service.remove()
    assert service.there() == set()


def test_a_lost_answer_is_made_good_by_the_next_attempt(service: Service) -> None:
    one = service.make(OWNER.tags())

    def lose(_parameters: Any) -> None:
        service.core.answers.clear()
        service.delete(one)
        raise ReadTimeoutError(endpoint_url="https://aws.invalid")

    service.core.answers[f"{service.calls}.{service.deletes}"] = lose
    assert refused(service.remove).type is ErrorType.TIMEOUT
    assert "left to remove" in service.remove()


def test_what_was_deleted_and_is_still_there_is_looked_at_again(service: Service) -> None:
    one = service.make(OWNER.tags())
    service.core.answers[f"{service.calls}.{service.deletes}"] = lambda _: (200, {})

    error = refused(service.remove)
    assert error.type is ErrorType.TIMEOUT
    assert one in error.cause
    service.core.answers.clear()
    assert "left to remove" in service.remove()
    assert service.there() == set()


@pytest.mark.parametrize("met", errors(ErrorType.REMOVAL_FAILED))
def test_an_error_of_any_call_is_one_of_the_table(service: Service, met: str) -> None:
    answer, error_type = errors(ErrorType.REMOVAL_FAILED)[met]
    one = service.make(OWNER.tags())
    for operation in (*service.looks, service.deletes):
        service.core.answers = {f"{service.calls}.{operation}": answer}
        assert refused(service.remove).type is error_type, operation
    service.core.answers.clear()
    assert service.there() == {one}


def test_a_bucket_that_holds_anything_stays_and_says_so(core: Core) -> None:
    buckets = Buckets(core)
    buckets.make(OWNER.tags())
    core.client("s3").put_bucket_versioning(
        Bucket=NAME, VersioningConfiguration={"Status": "Enabled"}
    )
    core.client("s3").put_object(Bucket=NAME, Key="theirs", Body=b"theirs")
    core.client("s3").delete_object(Bucket=NAME, Key="theirs")  # leaves its versions

    for _ in range(2):
        error = refused(buckets.remove)
        assert (error.type, error.message) == (
            ErrorType.REMOVAL_FAILED,
            f"The bucket {NAME} holds objects, so it stays; empty it first.",
        )
    s3_backends[ACCOUNT]["aws"].get_bucket(NAME).keys.clear()
    assert "left to remove" in buckets.remove()


#: What looks for the project's bucket before something is removed, or says that there is nothing.
LOOKS: dict[str, Callable[[Any, Claim], object]] = {
    "claims": lambda client, claim: s3.is_claimed(client, name=NAME, claim=claim),
    "holds": lambda client, claim: s3.holds_objects(client, name=NAME, claim=claim),
    "empties": lambda client, claim: s3.empty_bucket(client, name=NAME, claim=claim, seconds=9),
    "removes": lambda client, claim: s3.remove_bucket(client, name=NAME, claim=claim),
}
each_look = pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)

#: How S3 answers for a bucket of another account: it hides it, or lets all look into it.
OF_ANOTHER: dict[str, dict[str, Answer]] = {
    "hidden": {"s3.HeadBucket": unsaid(403)},
    "hidden_in_a_region": {"s3.HeadBucket": unsaid(301)},
    "hidden_beside_ours": {
        "s3.HeadBucket": unsaid(403),
        "s3.ListBuckets": bucket_pages({f"{NAME}-2": REGION}, {f"{NAME}.x": REGION}),
    },
    "open": {
        "s3.HeadBucket": lambda _parameters: (200, {}),
        "s3.GetBucketTagging": aws_error("AccessDenied", 403),
    },
}

#: How S3 answers where it cannot be known whose the bucket is.
UNKNOWN: dict[str, dict[str, Answer]] = {
    "ours": {"s3.HeadBucket": unsaid(403)},
    "listed_late": {
        "s3.HeadBucket": unsaid(403),
        "s3.ListBuckets": bucket_pages({f"{NAME}-2": REGION}, {NAME: REGION}),
    },
    "not_listed": {
        "s3.HeadBucket": unsaid(403),
        "s3.ListBuckets": aws_error("AccessDenied", 403),
    },
    "moved": {"s3.HeadBucket": unsaid(301), "s3.ListBuckets": aws_error("AccessDenied", 403)},
    "expired": {"s3.HeadBucket": unsaid(400), "s3.ListBuckets": aws_error("ExpiredToken")},
    "tags": {"s3.GetBucketTagging": aws_error("AccessDenied", 403)},
}


@each_look
@pytest.mark.parametrize("answers", OF_ANOTHER.values(), ids=OF_ANOTHER)
def test_a_bucket_of_another_account_is_none_of_ours(
    core: Core, answers: dict[str, Answer], look: Callable[[Any, Claim], object]
) -> None:
    core.answers |= answers

    assert look(core.client("s3"), OWNER.owns) in (
        *(False, None),
        f"no bucket named {NAME} is left to remove",
    )
    assert core.changes() == []


@each_look
@pytest.mark.parametrize("answers", UNKNOWN.values(), ids=UNKNOWN)
def test_a_bucket_that_may_not_be_looked_at_is_not_taken_for_gone(
    core: Core, answers: dict[str, Answer], look: Callable[[Any, Claim], object]
) -> None:
    Buckets(core).make(OWNER.tags())
    core.calls.clear()
    core.answers |= answers

    error = refused(lambda: look(core.client("s3"), OWNER.owns))

    assert error.type is ErrorType.INSUFFICIENT_PERMISSIONS
    assert core.changes() == []


@each_look
def test_a_bucket_that_is_there_and_unheard_of_is_looked_at_again(
    core: Core, look: Callable[[Any, Claim], object]
) -> None:
    Buckets(core).make(OWNER.tags())
    core.answers["s3.GetBucketTagging"] = aws_error("NoSuchBucket", 404)

    error = refused(lambda: look(core.client("s3"), OWNER.owns))

    assert (error.type, error.cause) == (ErrorType.TIMEOUT, "GetBucketTagging: NoSuchBucket")


@each_look
def test_a_bucket_that_goes_while_it_is_looked_at_is_gone(
    core: Core, look: Callable[[Any, Claim], object]
) -> None:
    for operation in ("GetBucketTagging", "ListObjectVersions", "DeleteBucket"):
        buckets = Buckets(core)
        if not buckets.there():
            buckets.make(OWNER.tags())
        core.answers[f"s3.{operation}"] = meanwhile(partial(buckets.delete, NAME))

        look(core.client("s3"), OWNER.owns)

        core.answers.clear()


def test_a_bucket_in_another_region_is_removed_there(core: Core) -> None:
    core.answers["s3.HeadBucket"] = unsaid(301)
    core.answers["s3.ListBuckets"] = bucket_pages({NAME: "us-west-2"})
    Buckets(core).make(OWNER.tags())

    # The SDK sends each request on; HeadBucket here says for ever that it has moved.
    error = refused(lambda: s3.remove_bucket(core.client("s3"), name=NAME, claim=OWNER.owns))

    assert error.type is ErrorType.TIMEOUT
    assert core.changes()[-1] == "s3.DeleteBucket"


# Databases.


def remove(tenant: Tenant, *, only_this_job: bool = True) -> bool:
    """Remove the tenant's database and roles; returns whether something of the project stays."""
    return tenant.engine.remove_database(tenant.names, tenant.owner, only_this_job=only_this_job)


def later(tenant: Tenant) -> Tenant:
    """Return the tenant as a later job of the project sees it."""
    return replace(tenant, owner=replace(tenant.owner, job_id="job-2"))


def is_gone(tenant: Tenant) -> bool:
    return not any(tenant.snapshot().values())


def test_a_database_and_its_roles_are_removed_once(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant.ensure()
    assert remove(tenant) is False
    assert is_gone(tenant)

    executed: list[str] = []
    run = psycopg.Connection.execute

    def execute(self: Any, query: Any, *arguments: Any) -> Any:
        executed.append(query if isinstance(query, str) else query.as_string())
        return run(self, query, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", execute)
        assert remove(tenant) is False
    assert executed
    assert [text for text in executed if not text.lstrip().startswith("SELECT")] == []


def test_sessions_in_the_database_are_ended(tenant: Tenant) -> None:
    tenant.ensure()
    with tenant.login() as session:
        session.execute("CREATE TABLE note (id integer)")
        session.execute("BEGIN")
        session.execute("LOCK TABLE note")
        assert remove(tenant) is False
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert is_gone(tenant)


def test_an_interrupted_drop_is_finished(tenant: Tenant) -> None:
    tenant.ensure()
    interrupt_drop(tenant)
    assert remove(tenant) is False
    assert is_gone(tenant)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_statement_of_the_removal_is_made_good_by_the_next_run(
    make_tenant: Callable[[], Tenant], monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    for at in itertools.count():
        tenant = make_tenant()
        tenant.ensure()
        if not dies(monkeypatch, partial(remove, tenant), at, after=after):
            break
        remove(tenant)
        assert is_gone(tenant), f"statement {at}"
    assert at > 6


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_what_a_crash_at_any_statement_of_the_making_left_is_removed(
    make_tenant: Callable[[], Tenant], monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    """The half-made database, which has no marker yet, included."""
    for at in itertools.count():
        tenant = make_tenant()
        if not dies(monkeypatch, tenant.ensure_database, at, after=after):
            break
        assert remove(tenant) is False
        assert is_gone(tenant), f"statement {at}"
    assert at > 10


def test_many_removals_at_once_are_one(tenant: Tenant) -> None:
    tenant.ensure()
    with ThreadPoolExecutor(6) as pool:
        runs = [pool.submit(remove, tenant) for _ in range(6)]
        assert [run.result() for run in runs] == [False] * 6
    assert is_gone(tenant)


def test_a_removal_beside_a_run_that_makes_leaves_all_or_nothing(tenant: Tenant) -> None:
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            made, gone = pool.submit(tenant.ensure_database), pool.submit(remove, tenant)
            made.result()
            gone.result()
        if not is_gone(tenant):
            tenant.engine.check_database(tenant.names, PASSWORD)
    remove(tenant)
    assert is_gone(tenant)


def test_what_another_job_made_is_still_there_and_said_so(tenant: Tenant) -> None:
    tenant.ensure()
    before = tenant.snapshot()
    assert remove(later(tenant)) is True
    assert tenant.snapshot() == before
    assert remove(later(tenant), only_this_job=False) is False
    assert is_gone(tenant)


def test_roles_that_another_job_made_are_said_to_be_there(tenant: Tenant) -> None:
    """The next job is to find them, so the project keeps its place on the cluster."""
    tenant.ensure_database()
    with tenant.cluster.connect() as c:
        c.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(tenant.names.database)))
    later(tenant).ensure_database()

    assert remove(later(tenant)) is True
    left = tenant.snapshot()
    assert left["databases"] == []
    assert [role[0] for role in left["roles"]] == [tenant.names.app_role, tenant.names.owner_role]
    tenant.ensure()
    tenant.check()


@pytest.mark.parametrize("marker", [None, "provisioner:project-id=someone-else"])
def test_a_database_and_a_role_that_are_not_ours_stay(tenant: Tenant, marker: str | None) -> None:
    database, role = (sql.Identifier(n) for n in (tenant.names.database, tenant.names.app_role))
    with tenant.cluster.connect() as c:
        c.execute(sql.SQL("CREATE DATABASE {}").format(database))
        c.execute(sql.SQL("CREATE ROLE {}").format(role))
        c.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(database, sql.Literal(marker)))
        c.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(role, sql.Literal(marker)))
    before = tenant.snapshot()
    for only_this_job in (True, False):
        assert remove(tenant, only_this_job=only_this_job) is False
        assert tenant.snapshot() == before


@pytest.mark.parametrize("how", ["open", "of_someone_else", "without_a_role"])
def test_a_database_without_a_marker_that_no_crash_left_stays(tenant: Tenant, how: str) -> None:
    tenant.ensure_database()
    database = sql.Identifier(tenant.names.database)
    with tenant.cluster.connect() as c:
        c.execute(sql.SQL("COMMENT ON DATABASE {} IS NULL").format(database))
        if how != "open":
            c.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(database))
        if how == "of_someone_else":
            c.execute(sql.SQL("ALTER DATABASE {} OWNER TO CURRENT_USER").format(database))
        if how == "without_a_role":
            owner_role = sql.Identifier(tenant.names.owner_role)
            c.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(database, owner_role))
            c.execute(sql.SQL("DROP ROLE {}").format(owner_role))

    # Its app role has a privilege on it, and stays with it.
    error = refused(partial(remove, tenant))

    assert error.type is ErrorType.REMOVAL_FAILED
    assert "2BP01" in error.cause
    assert [row[0] for row in tenant.snapshot()["databases"]] == [tenant.names.database]


def test_a_role_that_others_depend_on_is_a_failure_that_stays(tenant: Tenant) -> None:
    tenant.ensure()
    role = sql.Identifier(tenant.names.app_role)
    with tenant.cluster.connect() as c:
        c.execute(sql.SQL("GRANT CONNECT ON DATABASE postgres TO {}").format(role))
        error = refused(partial(remove, tenant))
        c.execute(sql.SQL("REVOKE CONNECT ON DATABASE postgres FROM {}").format(role))
    assert (error.type, error.message) == (
        ErrorType.REMOVAL_FAILED,
        "The database server refused to remove the database.",
    )
    assert remove(tenant) is False
    assert is_gone(tenant)


def test_a_server_that_is_away_is_worth_another_attempt(tenant: Tenant) -> None:
    away = replace(tenant, engine=PostgresqlEngine(replace(tenant.cluster.admin, port=1)))
    assert refused(partial(remove, away)).type is ErrorType.NETWORK_ERROR


# The stages.

NAMING = Naming("nm", "test-123456789012")


def job_input(job_id: str = "job-1", **payload: Any) -> JobInput:
    job = new_job(job_id, **payload)
    return JobInput(job_id=job_id, job_type=job.job_type, payload=dict(job.payload))


def cleanup_input(job: JobInput) -> JobInput:
    """Return the clean-up of a job that has failed: its own id is on nothing that it removes."""
    payload = cleanup_payload(job.job_id, job.payload["project_id"])
    return JobInput(job_id="cleanup-1", job_type="clean_up_project", payload=payload)


def make_keys(core: Core, job: JobInput) -> list[str]:
    """Run GENERATING_API_KEYS of the job that holds the project, and return the keys."""
    held = {"project_id": "shop", "locked_by": job.job_id}
    core.client("dynamodb").put_item(TableName="ProjectsTable", Item=dynamodb.to_item(held))
    ensure_api_keys(
        job,
        secrets_manager=core.client("secretsmanager"),
        kms_key_arn=None,
        store=core.api_keys,
        hand_overs=core.hand_overs,
        projects=core.projects,
        naming=NAMING,
        clock=core.clock,
    )
    return keys_in_secret(core)


def keys_in_secret(core: Core) -> list[str]:
    value = core.client("secretsmanager").get_secret_value(
        SecretId=NAMING.names("shop").api_keys_secret
    )["SecretString"]
    return list(json.loads(value)["api_keys"])


def remove_keys(core: Core, job: JobInput, *, only_this_job: bool = True) -> None:
    remove_api_keys(
        cleanup_input(job) if only_this_job else job,
        secrets_manager=core.client("secretsmanager"),
        store=core.api_keys,
        hand_overs=core.hand_overs,
        naming=NAMING,
        clock=core.clock,
        only_this_job=only_this_job,
    )


def verifying(core: Core, keys: list[str]) -> list[bool]:
    """Say of each key whether it verifies."""
    found = [core.api_keys.get(digest(key)) for key in keys]
    return [key is not None for key in found]


def secrets_of(core: Core) -> list[str]:
    return [s["Name"] for s in core.client("secretsmanager").list_secrets()["SecretList"]]


def index_lags(core: Core) -> None:
    """Let the index of the keys not show what was written a moment ago."""
    core.answers["dynamodb.Query"] = lambda _: (200, {"Items": [], "Count": 0})


def test_keys_go_before_the_secret_that_says_which_there_are(core: Core) -> None:
    keys = make_keys(core, job_input())
    core.calls.clear()

    remove_keys(core, job_input())

    assert core.changes() == [
        *["dynamodb.DeleteItem"] * 2,
        "secrets-manager.DeleteSecret",
        # Until when it could be claimed.
        "dynamodb.DeleteItem",
    ]
    assert verifying(core, keys) == [False, False]
    assert secrets_of(core) == []
    core.calls.clear()
    remove_keys(core, job_input())
    assert core.changes() == []


def test_keys_that_the_index_does_not_show_yet_are_removed(core: Core) -> None:
    make_keys(core, job_input())
    index_lags(core)

    remove_keys(core, job_input())

    assert core.scan("ApiKeysTable") == []


def test_keys_that_lost_their_secret_are_removed(core: Core) -> None:
    make_keys(core, job_input())
    core.client("secretsmanager").delete_secret(
        SecretId=NAMING.names("shop").api_keys_secret, ForceDeleteWithoutRecovery=True
    )

    remove_keys(core, job_input())

    assert core.scan("ApiKeysTable") == []


def test_keys_of_another_job_stay_unless_the_whole_project_goes(core: Core) -> None:
    keys = make_keys(core, job_input())

    remove_keys(core, job_input("job-2"))
    assert keys_in_secret(core) == keys
    assert verifying(core, keys) == [True, True]

    remove_keys(core, job_input("job-2"), only_this_job=False)
    assert (core.scan("ApiKeysTable"), secrets_of(core)) == ([], [])


def test_keys_that_replaced_those_of_another_job_go_and_its_secret_stays(core: Core) -> None:
    make_keys(core, job_input())
    of_later = job_input("job-2", api_keys={"count": 3})
    replaced = make_keys(core, of_later)
    # What the secret says is all that is known of them.
    index_lags(core)

    remove_keys(core, of_later)

    assert core.stored_keys() == []
    assert keys_in_secret(core) == replaced
    # Its time goes on, so that the secret goes in the end.
    waiting = core.hand_overs.get("shop")
    assert waiting is not None
    assert waiting.status is HandOverStatus.WAITING
    core.answers.clear()
    # The next job stores what the secret says, so that what it hands over verifies.
    assert verifying(core, make_keys(core, of_later)) == [True] * 3


def test_keys_of_another_project_stay(core: Core) -> None:
    keys = make_keys(core, job_input())
    name, manager = NAMING.names("shop").api_keys_secret, core.client("secretsmanager")
    manager.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)
    manager.create_secret(
        Name=name,
        SecretString=json.dumps({"api_keys": keys}),
        Tags=tag_list(NAMING.owner("other", "job-1").tags()),
    )
    for key in core.api_keys.list_by_project("shop"):
        core.api_keys.remove(key.digest)
        core.api_keys.put_set([replace(key, project_id="other")])

    remove_keys(core, job_input())

    assert verifying(core, keys) == [True, True]
    assert secrets_of(core) == [name]


def test_a_secret_that_waits_for_its_deletion_is_not_brought_back(core: Core) -> None:
    make_keys(core, job_input())
    manager = core.client("secretsmanager")
    name = NAMING.names("shop").api_keys_secret
    manager.delete_secret(SecretId=name, RecoveryWindowInDays=7)

    remove_keys(core, job_input())

    assert core.scan("ApiKeysTable") == []
    assert manager.describe_secret(SecretId=name)["DeletedDate"]


def remove_tenant(core: Core) -> None:
    """Run REMOVING_DATABASE of a job whose cluster cannot be reached."""
    remove_database(
        cleanup_input(job_input()),
        projects=core.projects,
        catalogue=core.catalogue,
        secrets_manager=core.client("secretsmanager"),
        servers=Servers(core.client("secretsmanager"), {Engine.POSTGRESQL: PostgresqlEngine}),
        naming=NAMING,
        only_this_job=True,
    )


def hold_with_login(core: Core) -> str:
    """Give a project to the job, and write the secret with its login; returns its name."""
    core.projects.lock(
        core.new_project(),
        "job-1",
        quota=None,
        default_limit=1,
        region=REGION,
        engine="postgresql",
    )
    name = NAMING.names("shop").database_secret
    core.client("secretsmanager").create_secret(
        Name=name,
        SecretString="{}",
        Tags=tag_list(NAMING.owner("shop", "job-1").tags()),
    )
    return name


def test_the_login_of_a_project_without_a_place_is_removed(core: Core) -> None:
    hold_with_login(core)

    remove_tenant(core)

    assert secrets_of(core) == []


@pytest.mark.parametrize("what", ["project", "cluster"])
def test_a_login_stays_while_nobody_knows_where_its_database_is(core: Core, what: str) -> None:
    name = hold_with_login(core)
    if what == "cluster":
        core.projects.places.place("shop", "first", "cluster#first", 5)
        core.describe_clusters({"cluster_id": "another"})
    else:
        core.client("dynamodb").delete_item(
            TableName="ProjectsTable", Key={"project_id": {"S": "shop"}}
        )

    with pytest.raises(ProvisioningError) as raised:
        remove_tenant(core)

    assert raised.value.type is ErrorType.REMOVAL_FAILED
    assert what in raised.value.message
    assert secrets_of(core) == [name]
