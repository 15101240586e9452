"""The demonstration: projects from a raw message to their end, on the local stack.

Each act shows what is done, and looks whether it is so. An act that does not show what it should
raises CommandError, whose sentence says what is wrong.
"""

import itertools
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from provisioner import api
from provisioner.composition.deployment import naming
from provisioner.provisioning.engine import Engine
from psycopg import sql
from rich.console import Console

from provision_cli import display
from provision_cli.local.ports import LOOPBACK
from provision_cli.local.stack import INSTANCE_SIZE, RunningStack
from provision_cli.sentences import CommandError

#: The table that a project's owner makes in the new database.
_TABLE = "greetings"

#: Seconds in which the dispatcher has taken a message.
_DISPATCH_SECONDS = 60.0

#: Seconds that a job may take, before the demonstration gives up.
_JOB_SECONDS = 300.0


class Demonstration:
    """The acts, in the order in which they are shown."""

    def __init__(self, console: Console, running: RunningStack) -> None:
        """Talk to the local stack, and create the first project."""
        running.enter()
        settings = api.connect_to_stack(running.stack_name, running.region)
        self._naming = naming(settings)
        self._console = console
        self._running = running
        self._project_id = new_project()

    def run(self) -> None:
        """Show all of it.

        The first project is provisioned and used. A second one fails for good. Then the first is
        removed with a snapshot and provisioned again. A third one gets an instance of its own.
        """
        keys = self._provision()
        self._fail(f"{self._project_id}-taken")
        self._remove(keys)
        self._provision_again(keys)
        self._provision_dedicated(f"{self._project_id}-own")
        self._say_what_to_try_next()

    # The acts.

    def _provision(self) -> list[str]:
        """Send a raw message, use what the project got, and return its API keys."""
        running, project_id = self._running, self._project_id
        self._heading(f"Project {project_id} is created; a plain JSON message asks for the rest")
        payload = {"project_id": project_id, "region": running.region}
        body = json.dumps({"job_type": "provision_project", "payload": payload})
        self._line(body)
        sent = running.client("sqs").send_message(
            QueueUrl=running.outputs["QueueUrl"], MessageBody=body
        )
        # A message that names no job id gives the job its own.
        job_id = str(sent["MessageId"])
        self._heading(f"Job {job_id}")
        job = display.watch(self._console, job_id, appears_within=_DISPATCH_SECONDS)
        self._heading("What the project has now")
        display.show_outcome(self._console, job)
        self._heading("The database takes the login that its secret holds")
        self._use_database((job.result or {})["database"]["secret_arn"])
        self._heading("The API keys are handed over once")
        return self._claim_keys()

    def _fail(self, project_id: str) -> None:
        """Provision a project whose secret's name is taken, and show what has become of it."""
        api.create_project(project_id)
        secret = self._naming.names(project_id).api_keys_secret
        self._heading(
            f"Project {project_id} is to fail: the name of its API keys' secret is taken by hand"
        )
        self._line(f"secret {secret} is made in the account, without the project's marker")
        manager = self._running.client("secretsmanager")
        made = manager.create_secret(Name=secret, SecretString="not the project's")
        try:
            payload = {"project_id": project_id, "region": self._running.region}
            job = api.enqueue_job("provision_project", payload)
            job = display.watch(self._console, job.job_id)
            self._heading("It has failed for good, with its reason, and what it made is removed")
            self._show_failure(job)
            versions = manager.describe_secret(SecretId=secret)["VersionIdsToStages"]
            is_kept = versions == {made["VersionId"]: ["AWSCURRENT"]}
            _expect(is_kept, f"the secret {secret} of someone else was changed.")
            self._line(f"secret {secret} still holds what someone else put there")
        finally:
            manager.delete_secret(SecretId=secret, ForceDeleteWithoutRecovery=True)
        self._heading(
            f"Looked up at the services: what {self._project_id} has, and {project_id} has left"
        )
        there, left = self._look_up(self._project_id), self._look_up(project_id)
        rows = [
            {"": kind, self._project_id: str(count), project_id: str(left[kind] or "none")}
            for kind, count in there.items()
        ]
        display.show_table(self._console, rows)
        _expect_nothing(project_id, left)

    def _show_failure(self, job: api.Job) -> None:
        error, cleanup = job.error, display.cleanup_of(job)
        if error is None or error.type is not api.ErrorType.CONFLICT:
            raise CommandError(f"job {job.job_id} is {job.status}, not FAILED by a CONFLICT.")
        if cleanup is None or cleanup.status is not api.JobStatus.COMPLETED:
            raise CommandError(f"what job {job.job_id} made is not removed.")
        for name, text in {
            "status": job.status,
            "stage": f"{error.stage}, attempt {error.attempt}, not tried again",
            "error": error.type,
            "reason": error.message,
            "clean-up": f"{cleanup.status}, {len(cleanup.stages)} stages",
            "project": api.get_project(job.project_id).status,
        }.items():
            self._line(f"{name:<10}{text}")

    def _remove(self, keys: Sequence[str]) -> None:
        """Deprovision the first project, with a snapshot of its database."""
        project_id = self._project_id
        self._heading(
            f"Project {project_id} is deprovisioned, with a last snapshot of its database"
        )
        result = self._complete("deprovision_project", project_id, confirm=project_id)
        snapshots = [s for s in api.list_snapshots(project_id) if isinstance(s, api.Snapshot)]
        if [one.key for one in snapshots[:1]] != [result["snapshot"]["key"]]:
            raise CommandError(f"the snapshot of {project_id} is not listed.")
        newest = snapshots[0]
        self._line(
            f"snapshot {newest.key}  {newest.size_bytes:,} bytes, "
            f"of a server of version {newest.server_version}"
        )
        left = self._look_up(project_id)
        _expect_nothing(project_id, left)
        self._expect_revoked(keys)
        self._line(f"none left: {', '.join(left)}; its API keys verify no more")

    def _provision_again(self, keys: Sequence[str]) -> None:
        """Provision the first project's id again, and bring its row back from the snapshot."""
        project_id = self._project_id
        self._heading("The same id is provisioned again, from nothing")
        result = self._complete("provision_project", project_id, region=self._running.region)
        secret_arn = str(result["database"]["secret_arn"])
        tables = self._query(secret_arn, "SELECT FROM pg_class WHERE relname = 'greetings'")
        _expect(not tables, f"the new database of {project_id} holds the old one's table.")
        self._line(f"its database is a new one, with no table {_TABLE} in it")
        self._claim_keys()
        self._expect_revoked(keys)
        self._heading(f"`provision snapshots restore {project_id}` brings the row back")
        display.show_restored(self._console, api.restore_snapshot(project_id))
        ((text,),) = self._query(secret_arn, "SELECT text FROM {}")
        self._line(f"the row of {_TABLE} reads: {text!r}")

    def _provision_dedicated(self, project_id: str) -> None:
        """Provision a project that waits for an instance of its own, use it, and remove it."""
        api.create_project(project_id)
        self._heading(
            f"Project {project_id} asks for a database instance of its own, and waits for it"
        )
        payload = {
            "project_id": project_id,
            "region": self._running.region,
            "database": {"size": INSTANCE_SIZE},
            "services": {"auth": False, "realtime": False, "storage": False},
        }
        job = api.enqueue_job("provision_project", payload)
        job = display.watch(self._console, job.job_id)
        display.refuse_failed(job)
        database = (job.result or {})["database"]
        identifier = str(database["instance"]["identifier"])
        instances = self._instances()
        _expect(identifier in instances, f"the instance {identifier} is not there.")
        instance = instances[identifier]
        self._line(
            f"instance {identifier}  {instance['DBInstanceClass']}, "
            f"{instance['AllocatedStorage']} GiB, "
            f"at {instance['Endpoint']['Address']}:{instance['Endpoint']['Port']}"
        )
        self._use_database(database["secret_arn"])
        self._heading(f"Project {project_id} is deprovisioned, and its instance goes with it")
        self._complete("deprovision_project", project_id, confirm=project_id, final_snapshot=False)
        is_gone = identifier not in self._instances()
        _expect(is_gone, f"the instance {identifier} of {project_id} is left.")
        self._line(f"instance {identifier} is gone, with its server and its data")

    def _say_what_to_try_next(self) -> None:
        own = Path(sys.executable).with_name("provision")
        program = shlex.quote(str(own.relative_to(Path.cwd(), walk_up=True)))
        another = f"my-{self._project_id}"
        self._heading("What to try next")
        for command in (
            f"project show {self._project_id}",
            "jobs",
            f"project create {another}",
            f"watch $({program} enqueue --project {another})",
            f"keys claim {another}",
            "down",
        ):
            self._line(f"  {program} {command}")

    # What the acts have in common.

    def _heading(self, text: str) -> None:
        display.line(self._console)
        display.line(self._console, text, style="bold")

    def _line(self, text: str) -> None:
        display.line(self._console, text)

    def _complete(self, job_type: str, project_id: str, **payload: Any) -> dict[str, Any]:
        """Run a job to its end, print one line, and return its result."""
        job = api.enqueue_job(job_type, {"project_id": project_id, **payload})
        job = api.wait_for_job(job.job_id, _JOB_SECONDS)
        display.refuse_failed(job)
        self._line(f"job {job.job_id}  {job_type} {job.status}, {len(job.stages)} stages")
        return job.result or {}

    def _claim_keys(self) -> list[str]:
        """Take over the first project's API keys, show that each verifies, and return them."""
        claimed: list[str] = []
        api.claim_api_keys(self._project_id, claimed.extend)
        for plaintext in claimed:
            key = api.verify_api_key(plaintext)
            if key is None or key.project_id != self._project_id:
                raise CommandError(f"an API key of {self._project_id} does not verify.")
            self._line(f"{key.key_prefix}…  verifies, and belongs to {key.project_id}")
        return claimed

    def _expect_revoked(self, keys: Sequence[str]) -> None:
        verified = [key for key in map(api.verify_api_key, keys) if key is not None]
        _expect(not verified, f"an API key of {self._project_id} still verifies.")

    def _use_database(self, secret_arn: str) -> None:
        """Log in as the project's owner does, make a table, write a row and read it."""
        ((text, role, database),) = self._query(
            secret_arn,
            "CREATE TABLE {} (id int PRIMARY KEY, text text NOT NULL)",
            "INSERT INTO {} VALUES (1, 'Hello from the new project')",
            "SELECT text, session_user, current_database() FROM {}",
        )
        self._line(f"{role} created a table in {database}, wrote a row and read it: {text!r}")

    def _query(self, secret_arn: str, *statements: LiteralString) -> list[tuple[Any, ...]]:
        """Run statements about the table in a project's database; return the rows of the last."""
        login = self._login(secret_arn)
        try:
            with psycopg.connect(login["connection_string"], connect_timeout=10) as connection:
                table = sql.Identifier(login["schema"], _TABLE)
                for statement in statements:
                    cursor = connection.execute(sql.SQL(statement).format(table))
                return cursor.fetchall()
        except psycopg.Error as error:
            # The exception itself holds the connection, and so the password.
            reason = str(error).strip()
            raise CommandError(f"the project's database does not answer: {reason}.") from None

    def _login(self, secret: str) -> dict[str, str]:
        found = self._running.client("secretsmanager").get_secret_value(SecretId=secret)
        return dict(json.loads(found["SecretString"]))

    def _instances(self) -> dict[str, dict[str, Any]]:
        """Return the instances by their identifiers."""
        found = self._list("rds", "describe_db_instances", "DBInstances[]")
        return {one["DBInstanceIdentifier"]: one for one in found}

    def _look_up(self, project_id: str) -> dict[str, int]:
        """Count what there is under a project's names, at the services themselves."""
        names = self._naming.names(project_id)
        bucket = self._naming.bucket(project_id, self._running.region)
        tenant = names.tenants[Engine.POSTGRESQL]
        databases, roles = self._list_databases_and_roles()
        pools = self._list("cognito-idp", "list_user_pools", "UserPools[].Name")
        secrets = self._list("secretsmanager", "list_secrets", "SecretList[].Name")
        return {
            "database": databases.count(tenant.database),
            "database roles": roles.count(tenant.owner_role) + roles.count(tenant.app_role),
            "user pool": pools.count(names.user_pool),
            "Event API": self._list("appsync", "list_apis", "apis[].name").count(names.event_api),
            "secrets": secrets.count(names.database_secret) + secrets.count(names.api_keys_secret),
            "API keys": len(api.list_api_keys(project_id)),
            "bucket": self._list("s3", "list_buckets", "Buckets[].Name").count(bucket),
        }

    def _list(self, service: str, operation: str, path: str) -> list[Any]:
        """Return what a service lists, by its path in the answers."""
        pages = self._running.client(service).get_paginator(operation)
        return list(pages.paginate(PaginationConfig={"PageSize": 25}).search(path))

    def _list_databases_and_roles(self) -> tuple[list[str], list[str]]:
        """Return the names of all databases, and of all roles, of the cluster."""
        login = self._login(self._running.admin_secret_name("postgresql"))
        with psycopg.connect(
            host=LOOPBACK,
            port=self._running.ports["postgresql"],
            dbname="postgres",
            user=login["username"],
            password=login["password"],
            connect_timeout=10,
        ) as connection:
            databases = connection.execute("SELECT datname FROM pg_database").fetchall()
            roles = connection.execute("SELECT rolname FROM pg_roles").fetchall()
        return [name for (name,) in databases], [name for (name,) in roles]


def new_project() -> str:
    """Create the first of demo-1, demo-2, … that does not exist yet."""
    for number in itertools.count(1):
        project_id = f"demo-{number}"
        try:
            api.get_project(project_id)
        except api.ProjectNotFoundError:
            break
    return api.create_project(project_id).project_id


def _expect(holds: object, complaint: str) -> None:
    if not holds:
        raise CommandError(complaint)


def _expect_nothing(project_id: str, left: Mapping[str, int]) -> None:
    kinds = [kind for kind, count in left.items() if count]
    _expect(not kinds, f"of {project_id} there is left: {', '.join(kinds)}.")
