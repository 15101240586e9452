"""What the run has left that no live project owns: a pytest plugin.

Each deployment is looked through when its test has ended, and the server when the run ends. A test
that leaves something fails and names it; one that has failed already only tells of it. The run ends
with one line of counts, and fails where one is not zero.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import pymysql
import pytest
from moto.appsync.models import appsync_backends
from moto.cognitoidp.models import cognitoidp_backends
from moto.dynamodb.models import dynamodb_backends
from moto.rds.models import rds_backends
from moto.s3.models import s3_backends
from moto.secretsmanager.models import secretsmanager_backends
from provision_cli.local import mariadb_server
from provision_cli.local.database_servers import PLATFORM_ROLE
from provision_cli.local.postgresql_server import SUPERUSER
from provision_cli.local.stack import RunningStack
from provisioner import api
from provisioner.drivers.dynamodb import from_item
from provisioner.drivers.mysql import ledger
from provisioner.drivers.mysql.errors import number_of
from provisioner.ownership import JOB_TAG, MANAGED_BY_TAG, PROJECT_TAG, tags_of_comment
from provisioner.provisioning.instances import DedicatedInstance
from provisioner.provisioning.naming import Naming, ResourceNames
from provisioner.runtime import platform
from support.local_stack import running_stack
from support.mysql import ADMIN_USER, Connection, PreparedMysql, running_mysql
from support.postgresql import PreparedCluster, running_cluster

if TYPE_CHECKING:
    from support.workflow import Workflow

#: What is counted, and what several of it are called.
KINDS = {
    "database": "databases",
    "role": "roles",
    "user pool": "user pools",
    "Event API": "Event APIs",
    "bucket": "buckets",
    "secret": "secrets",
    "database instance": "database instances",
    "database snapshot": "database snapshots",
    "quota place": "quota places",
}

#: Statuses in which a project has what it has: a job of it is at work, or it is in use.
_LIVE = {api.ProjectStatus.PROVISIONING, api.ProjectStatus.ACTIVE, api.ProjectStatus.DEPROVISIONING}

#: ER_BAD_DB_ERROR and ER_NO_SUCH_TABLE: the server has had no tenant.
_NO_RECORDS = {1049, 1146}

type Item = Mapping[str, Any]


@dataclass(frozen=True)
class Resource:
    """Something that a job can make."""

    kind: str
    name: str
    tags: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Deployment:
    """What there is of a deployment."""

    naming: Naming
    resources: list[Resource]
    projects: list[Item]
    jobs: list[Item]
    quotas: list[Item]
    #: Places that someone has set, by their quota.
    set_places: Mapping[str, int] = field(default_factory=dict)


def left_in(found: Deployment) -> list[str]:
    """Return what no live project owns: our resources, and places that are counted."""
    projects = {str(item["project_id"]): item for item in found.projects}
    left = [
        str(resource)
        for resource in found.resources
        if resource.tags.get(MANAGED_BY_TAG) == found.naming.namespace
        and not _is_owned(resource, projects, found)
    ]
    seen = Counter(
        (resource.kind, resource.name, resource.tags.get(PROJECT_TAG))
        for resource in found.resources
        if resource.tags.get(MANAGED_BY_TAG) == found.naming.namespace
    )
    left += [f"{kind} {name}, a second one" for (kind, name, _), n in seen.items() if n > 1]
    return [*left, *_places(found)]


def _jobs(items: Iterable[Item]) -> list[Item]:
    """Return the jobs that a table holds, each with its payload."""
    of: dict[str, dict[str, Item]] = {}
    for item in items:
        of.setdefault(item["record"], {})[item["job_id"]] = item
    payloads = of.get("PAYLOAD", {})
    return [
        {**payloads.get(job_id, {"payload": "{}"}), **job}
        for job_id, job in of.get("JOB", {}).items()
    ]


def _is_owned(resource: Resource, projects: Mapping[str, Item], found: Deployment) -> bool:
    project_id = resource.tags.get(PROJECT_TAG, "")
    project = projects.get(project_id)
    jobs = [job for job in found.jobs if job.get("project_id") == project_id]
    # A job that could not remove it says so.
    if any(str(resource) in job.get("remaining", ()) for job in jobs):
        return True
    if resource.kind == "database snapshot":
        # It outlives its project on purpose, whatever becomes of the job that takes it.
        taken_by = (resource.tags.get(JOB_TAG), "deprovision_project")
        return taken_by in {(job["job_id"], job["job_type"]) for job in jobs}
    if project is None:
        return False
    bucket = found.naming.bucket(project_id, str(project.get("region")))
    if resource.name not in {bucket, *_names(found.naming.names(project_id))}:
        return False
    if project["status"] in _LIVE:
        return True
    # A job that was told to keep what it made, and failed.
    return project["status"] == api.ProjectStatus.FAILED and any(
        json.loads(job["payload"]).get("on_failure") == "keep" for job in jobs
    )


def _names(names: ResourceNames) -> set[str]:
    return {
        *(names.user_pool, names.event_api, names.instance),
        *(names.database_secret, names.api_keys_secret, names.instance_secret),
        # A name that an engine has no use for is empty.
        *(
            name
            for tenant in names.tenants.values()
            for name in (tenant.database, tenant.app_role, tenant.owner_role)
        ),
    }


def _places(found: Deployment) -> Iterator[str]:
    """Yield the quotas that count more projects than hold a place of them."""
    held = Counter(found.set_places)
    for item in found.projects:
        place = "/".join(str(item.get(name)) for name in ("region", "engine", "cluster_id"))
        of_cluster = f"cluster#{place}"
        if "instance" in item:
            of_cluster = DedicatedInstance.from_item(item["instance"]).quota
        held.update([str(item.get("quota")), of_cluster])
    for item in found.quotas:
        for _ in range(int(item.get("used", 0)) - held[item["quota"]]):
            yield f"quota place of {item['quota']}"


# --- Deployments on moto --------------------------------------------------------------------------


def deployment_of(workflow: Workflow, account: str, region: str) -> Deployment:
    """Return what there is of a deployment in one process; moto itself is asked, which is quick."""
    settings = workflow.settings
    tables = dynamodb_backends[account][region].tables

    def items(table: str) -> list[Item]:
        return [from_item(i.to_json()["Attributes"]) for i in tables[table].all_items()]

    # The server is the run's: other deployments have theirs there too.
    on_server = [
        resource
        for resource in workflow.server.resources()
        if workflow.has_made(resource.tags.get(PROJECT_TAG, ""))
    ]
    return Deployment(
        Naming(settings.resource_prefix, settings.resource_namespace),
        [
            resource
            for resource in (*_in_moto(account, region), *on_server)
            if resource.tags.get(PROJECT_TAG) not in workflow.others
        ],
        items(settings.projects_table),
        _jobs(items(settings.jobs_table)),
        items(settings.quotas_table),
        workflow.set_places,
    )


def _in_moto(account: str, region: str) -> Iterator[Resource]:
    for pool in cognitoidp_backends[account][region].user_pools.values():
        yield Resource("user pool", pool.name, pool.extended_config.get("UserPoolTags", {}))
    realtime = appsync_backends[account][region]
    for made in realtime.events_apis.values():
        tags = realtime.tagger.get_tag_dict_for_resource(made.api_arn)
        yield Resource("Event API", made.name, tags)
    storage = s3_backends[account]["aws"]
    for bucket in storage.buckets.values():
        tags = storage.tagger.get_tag_dict_for_resource(bucket.arn)
        yield Resource("bucket", bucket.name, tags)
    for secret in dict.values(secretsmanager_backends[account][region].secrets):
        yield Resource("secret", secret.name, _as_mapping(secret.tags or []))
    databases = rds_backends[account][region]
    for instance in databases.databases.values():
        name, tags = instance.db_instance_identifier, _as_mapping(instance.tags)
        yield Resource("database instance", name, tags)
    for snapshot in databases.database_snapshots.values():
        if snapshot.snapshot_type != "manual":
            continue  # RDS has taken it by itself.
        name, tags = snapshot.db_snapshot_identifier, _as_mapping(snapshot.tags)
        yield Resource("database snapshot", name, tags)


def in_postgresql(connection: psycopg.Connection[Any]) -> Iterator[Resource]:
    """Yield the databases and roles of a server, with the tags in their comments."""
    for kind, name, comment in connection.execute(
        "SELECT 'database', datname::text, shobj_description(oid, 'pg_database') FROM pg_database"
        " UNION ALL"
        " SELECT 'role', rolname::text, shobj_description(oid, 'pg_authid') FROM pg_roles"
    ):
        yield Resource(kind, name, tags_of_comment(comment))


def in_mysql(connection: Connection) -> Iterator[Resource]:
    """Yield what the platform's records name, with its tags; one of nothing is to be gone too."""
    kinds = {ledger.Kind.DATABASE: "database", ledger.Kind.USER: "role"}
    with connection.cursor() as cursor:
        try:
            cursor.execute("SELECT kind, name, marker FROM provisioner.resource")
        except pymysql.Error as error:
            if number_of(error) not in _NO_RECORDS:
                raise
            return
        for kind, name, marker in cursor.fetchall():
            yield Resource(kinds[kind], name, tags_of_comment(marker))


# --- The local stack ------------------------------------------------------------------------------


def deployment_on(stack: RunningStack) -> Deployment:
    """Return what there is of the deployment on a local stack."""
    settings = platform.settings_of(stack.outputs)
    tables = stack.client("dynamodb").get_paginator("scan")

    def items(table: str) -> list[Item]:
        pages = tables.paginate(TableName=table)
        return [from_item(item) for page in pages for item in page["Items"]]

    return Deployment(
        Naming(settings.resource_prefix, settings.resource_namespace),
        [*_in_aws(stack, settings.resource_prefix), *_on_clusters(stack)],
        items(settings.projects_table),
        _jobs(items(settings.jobs_table)),
        items(settings.quotas_table),
    )


def _on_clusters(stack: RunningStack) -> Iterator[Resource]:
    def login(secret_name: str) -> dict[str, Any]:
        manager = stack.client("secretsmanager")
        found = json.loads(manager.get_secret_value(SecretId=secret_name)["SecretString"])
        return {"host": "127.0.0.1", "user": found["username"], "password": found["password"]}

    with psycopg.connect(
        **login(stack.admin_secret_name("postgresql")),
        port=stack.ports["postgresql"],
        dbname="postgres",
    ) as connection:
        yield from in_postgresql(connection)
    if "mysql" in stack.ports:
        with pymysql.connect(
            **login(stack.admin_secret_name("mysql")), port=stack.ports["mysql"], ssl_disabled=True
        ) as mysql:
            yield from in_mysql(mysql)


def _in_aws(stack: RunningStack, prefix: str) -> Iterator[Resource]:
    auth, realtime, storage, secrets = (
        stack.client(service) for service in ("cognito-idp", "appsync", "s3", "secretsmanager")
    )
    for page in auth.get_paginator("list_user_pools").paginate(MaxResults=60):
        for pool in page["UserPools"]:
            described = auth.describe_user_pool(UserPoolId=pool["Id"])["UserPool"]
            yield Resource("user pool", pool["Name"], described.get("UserPoolTags", {}))
    for page in realtime.get_paginator("list_apis").paginate():
        for made in page["apis"]:
            yield Resource("Event API", made["name"], made.get("tags", {}))
    for bucket in storage.list_buckets()["Buckets"]:
        if bucket["Name"].startswith(f"{prefix}-"):
            tags = storage.get_bucket_tagging(Bucket=bucket["Name"])["TagSet"]
            yield Resource("bucket", bucket["Name"], _as_mapping(tags))
    for page in secrets.get_paginator("list_secrets").paginate():
        for secret in page["SecretList"]:
            yield Resource("secret", secret["Name"], _as_mapping(secret.get("Tags", [])))
    yield from _in_rds(stack)


def _in_rds(stack: RunningStack) -> Iterator[Resource]:
    databases = stack.client("rds")
    for page in databases.get_paginator("describe_db_instances").paginate():
        for instance in page["DBInstances"]:
            tags = _as_mapping(instance.get("TagList", []))
            yield Resource("database instance", instance["DBInstanceIdentifier"], tags)
    for page in databases.get_paginator("describe_db_snapshots").paginate(SnapshotType="manual"):
        for snapshot in page["DBSnapshots"]:
            tags = _as_mapping(snapshot.get("TagList", []))
            yield Resource("database snapshot", snapshot["DBSnapshotIdentifier"], tags)


def _as_mapping(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}


# --- The run --------------------------------------------------------------------------------------


class Ledger:
    """What has been found so far, in one process."""

    def __init__(self) -> None:
        #: By kind, over the run.
        self.counts: Counter[str] = Counter()
        self.deployments = 0
        #: What is left on the run's own server and local stack.
        self.at_end: list[str] = []
        #: What the test that runs has left, to be told at its end.
        self.of_test: list[str] = []

    def note(self, left: Iterable[str]) -> None:
        """Take down what a deployment has left."""
        self.deployments += 1
        self.of_test += left

    def count(self, left: Iterable[str]) -> None:
        """Count what is left."""
        for one in left:
            # The longest name: that of a database begins what an instance is called.
            self.counts[max(filter(one.startswith, KINDS), key=len)] += 1

    def line(self) -> str:
        """Return the line that the run ends with."""
        counts = ", ".join(f"{self.counts[kind]} {several}" for kind, several in KINDS.items())
        return f"Left over: {counts} (of {self.deployments} deployments)."


LEDGER = Ledger()

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Remember whether a test has failed."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a test that has left something, unless it has failed already."""
    result = yield
    left, LEDGER.of_test = LEDGER.of_test, []
    if left:
        if item.stash.get(_FAILED, False):
            item.add_report_section("teardown", "left over", "\n".join(left))
        else:
            LEDGER.count(left)
            pytest.fail(f"left over: {'; '.join(left)}", pytrace=False)
    return result


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker has counted."""
    counted = getattr(node, "workeroutput", {}).get("remaining")
    if counted is not None:
        LEDGER.deployments += counted["deployments"]
        LEDGER.counts.update(counted["counts"])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what was counted; the run fails where something is left."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["remaining"] = {
            "deployments": LEDGER.deployments,
            "counts": dict(LEDGER.counts),
        }
        return
    # A run that has failed, or was interrupted, may have been kept from removing what is there.
    if session.exitstatus == pytest.ExitCode.OK:
        LEDGER.at_end = list(_at_end(session.config))
        LEDGER.count(LEDGER.at_end)
    if LEDGER.counts and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _at_end(config: pytest.Config) -> Iterator[str]:
    """Yield what is left on the run's own server and local stack, before they are stopped."""
    cluster = running_cluster(config)
    if cluster is not None:
        yield from _on_server(cluster)
    mysql = running_mysql(config)
    if mysql is not None:
        yield from _on_mysql_server(mysql)
    stack = running_stack(config)
    if stack is not None:
        LEDGER.deployments += 1
        yield from left_in(deployment_on(stack))


def _on_server(cluster: PreparedCluster) -> Iterator[str]:
    """Yield what a server has besides what it is made and prepared with."""
    with cluster.connect() as connection:
        for kind, name in connection.execute(
            "SELECT 'database', datname FROM pg_database"
            " WHERE datname NOT IN ('postgres', 'template0', 'template1') UNION ALL"
            " SELECT 'role', rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> ALL(%s)",
            ([SUPERUSER, PLATFORM_ROLE],),
        ):
            yield f"{kind} {name}"


def _on_mysql_server(mysql: PreparedMysql) -> Iterator[str]:
    """Yield what a server of MySQL's has besides what it is made and prepared with."""
    with mysql.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT 'database', schema_name FROM information_schema.schemata WHERE schema_name"
            " NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys', %s) UNION ALL"
            " SELECT 'role', user FROM mysql.user"
            " WHERE user NOT IN ('mariadb.sys', %s, %s) ORDER BY 1, 2",
            (ledger.SCHEMA, mariadb_server.SUPERUSER, ADMIN_USER),
        )
        for kind, name in cursor.fetchall():
            yield f"{kind} {name} of MySQL"
        for recorded in in_mysql(connection):
            yield f"{recorded} in the platform's records on MySQL"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what is left."""
    for one in LEDGER.at_end:
        terminalreporter.write_line(f"Left over at the end: {one}")
    if LEDGER.deployments or LEDGER.counts:
        terminalreporter.write_line(LEDGER.line())
