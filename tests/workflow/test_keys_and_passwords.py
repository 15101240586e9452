"""Jobs that change a project that is there: its API keys and its database password."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import boto3
import psycopg
import pymysql
import pytest
from boto3.dynamodb.conditions import Attr
from botocore.exceptions import ClientError
from provisioner import api
from provisioner.api_keys.key_format import digest, generate_api_key, key_id
from provisioner.api_keys.store import ApiKey, ApiKeyStatus, ApiKeyStore
from provisioner.composition.in_process import all_stages
from provisioner.drivers import dynamodb, secrets
from provisioner.errors import ErrorType
from provisioner.jobs.stage import JobInput
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types import JOB_TYPES
from provisioner.provisioning.stages import database
from provisioner.runtime import aws
from support.changes import (
    check_changed,
    claimed,
    each_change,
    logs_in,
    new_change,
    plainly_provisioned,
    verifying,
)
from support.effects import Attempt, Effect, aside, effects
from support.leaks import leaks
from support.tenant_server import each_engine, run_as_tenant
from support.workflow import Fault, FunctionEnded, Point, Run, Workflow, each_way


def let_expire(workflow: Workflow) -> None:
    """Delete the keys that DynamoDB deletes some day, as it does."""
    client, table = aws.client("dynamodb"), workflow.settings.api_keys_table
    for item in client.scan(TableName=table)["Items"]:
        if "delete_after" in item:
            client.delete_item(TableName=table, Key={"digest": item["digest"]})


@each_way
def test_old_keys_verify_until_the_overlap_ends_and_new_ones_are_handed_over_once(
    workflow: Workflow, run: Run
) -> None:
    project_id = plainly_provisioned(workflow)
    old = claimed(project_id)
    job = run(
        workflow,
        workflow.new_change("rotate_api_keys", project_id, count=3, overlap_hours=2),
    )
    check_changed(workflow, job)
    result = api.RotateApiKeysResult.model_validate(job.result)
    new = claimed(project_id)
    assert len(new) == 3
    assert all(key.startswith("nm_") for key in new)
    with pytest.raises(api.ApiKeysNotClaimableError, match="claimed before"):
        claimed(project_id)

    project = api.get_project(project_id)
    assert project.result is not None
    shown = api.ProvisionProjectResult.model_validate(project.result)
    assert (shown.api_keys, shown.api_keys_secret_arn) == (
        result.api_keys,
        result.api_keys_secret_arn,
    )

    assert verifying(workflow, old, hours=1.99) == {True}
    assert verifying(workflow, old, hours=2.01) == {False}
    assert verifying(workflow, new, hours=24 * 365) == {True}
    items = aws.client("dynamodb").scan(TableName=workflow.settings.api_keys_table)["Items"]
    delete_after = {
        item["digest"]: item.get("delete_after") for item in map(dynamodb.from_item, items)
    }
    late = int((result.old_keys_expire_at + timedelta(days=30)).timestamp())
    assert {delete_after[digest(key)] for key in old} == {late}
    assert {delete_after[digest(key)] for key in new} == {None}


def test_secrets_are_under_the_key_of_the_deployment_that_makes_them(workflow: Workflow) -> None:
    def keys_of_secrets(project_id: str) -> list[str | None]:
        names = workflow.names(project_id)
        client = aws.client("secretsmanager")
        return [
            client.describe_secret(SecretId=name).get("KmsKeyId")
            for name in (names.database_secret, names.api_keys_secret)
        ]

    before = plainly_provisioned(workflow)
    assert keys_of_secrets(before) == [None, None]
    key = boto3.client("kms", "us-east-1").create_key()["KeyMetadata"]["Arn"]
    workflow.deploy(kms_key_arn=key)
    after = plainly_provisioned(workflow)
    assert keys_of_secrets(after) == [key, key]
    # What is there stays under the key that it has; keys that are claimed leave no secret.
    for project_id, keys in ((before, [None, key]), (after, [key, key])):
        workflow.execute_in_process(workflow.new_change("rotate_database_password", project_id))
        claimed(project_id)
        job = workflow.execute_in_process(workflow.new_change("rotate_api_keys", project_id))
        check_changed(workflow, job)
        assert keys_of_secrets(project_id) == keys


def test_a_set_that_was_never_claimed_is_replaced_and_expires(workflow: Workflow) -> None:
    project_id = plainly_provisioned(workflow)
    secret = workflow.names(project_id).api_keys_secret
    sets = [workflow.secret(secret)["api_keys"]]
    for _ in range(2):
        job = workflow.execute(
            workflow.new_change("rotate_api_keys", project_id, prefix="live", overlap_hours=1)
        )
        check_changed(workflow, job)
        sets.append(workflow.secret(secret)["api_keys"])
    # The prefix of the newest key is kept, and no overlap means none.
    job = workflow.execute(workflow.new_change("rotate_api_keys", project_id, overlap_hours=0))
    check_changed(workflow, job)
    assert all(verifying(workflow, keys) == {False} for keys in sets)
    new = claimed(project_id)
    assert verifying(workflow, new) == {True}
    assert all(key.startswith("live_") for key in new)


def test_keys_that_the_index_does_not_show_yet_expire_too(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    project_id = plainly_provisioned(workflow)
    old = workflow.secret(workflow.names(project_id).api_keys_secret)["api_keys"]
    with monkeypatch.context() as patch:
        patch.setattr(ApiKeyStore, "list_by_project", lambda _store, _project_id: [])
        job = workflow.execute(workflow.new_change("rotate_api_keys", project_id))
    check_changed(workflow, job)
    assert verifying(workflow, old, hours=25) == {False}


def test_keys_are_not_claimed_while_a_job_changes_them(workflow: Workflow) -> None:
    project_id = plainly_provisioned(workflow)
    refused: list[str] = []

    def claim(_job: JobInput, stage: str) -> None:
        if stage == JOB_TYPES["rotate_api_keys"].last:
            with pytest.raises(api.ApiKeysNotClaimableError, match="works at it"):
                claimed(project_id)
            refused.append(stage)

    workflow.observers.append(claim)
    check_changed(workflow, workflow.execute(workflow.new_change("rotate_api_keys", project_id)))
    assert refused


def test_a_set_that_comes_while_another_is_handed_over_stays_for_the_next_claim(
    workflow: Workflow,
) -> None:
    project_id = plainly_provisioned(workflow)
    handed: list[list[str]] = []

    def rotate(keys: Sequence[str]) -> None:
        handed.append(list(keys))
        workflow.execute(workflow.new_change("rotate_api_keys", project_id))

    api.claim_api_keys(project_id, rotate)
    handed.append(claimed(project_id))
    assert not set(handed[0]) & set(handed[1])
    assert verifying(workflow, handed[0]) == verifying(workflow, handed[1]) == {True}


def test_keys_that_a_failed_job_did_not_store_are_not_handed_over(workflow: Workflow) -> None:
    project_id = plainly_provisioned(workflow)
    old = claimed(project_id)
    workflow.faults["ROTATING_API_KEYS"] = Fault(Point.AFTER, RuntimeError)
    job = workflow.execute(workflow.new_change("rotate_api_keys", project_id))
    assert job.status is api.JobStatus.FAILED
    for key in api.list_api_keys(project_id):
        if key.job_id == job.job_id:
            ApiKeyStore(aws.client("dynamodb"), workflow.settings.api_keys_table).remove(key.digest)
    with pytest.raises(api.ApiKeysNotClaimableError, match="has failed"):
        claimed(project_id)
    assert verifying(workflow, old) == {True}


def refuse_digests(effect: Effect, attempt: Attempt) -> None:
    """Let the write after the secret's be refused: that of the digests."""
    written = {"PutSecretValue", "CreateSecret"} & {before.name for before in attempt.effects}
    if effect.name == "TransactWriteItems" and written:
        raise ClientError({"Error": {"Code": "AccessDeniedException"}}, effect.name)


def test_the_overlap_begins_when_the_new_keys_verify_however_late_a_retry_stores_them(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    project_id = plainly_provisioned(workflow)
    old = claimed(project_id)
    with effects(workflow, monkeypatch, refuse_digests):
        failed = workflow.execute(
            workflow.new_change("rotate_api_keys", project_id, overlap_hours=1)
        )
    assert failed.status is api.JobStatus.FAILED
    assert {key.job_id for key in api.list_api_keys(project_id)} != {failed.job_id}

    # The first attempt was two hours ago, and the old keys are older.
    secret = workflow.names(project_id).api_keys_secret
    for key in api.list_api_keys(project_id):
        _made_hours_ago(workflow, key, 3)
    value = workflow.secret(secret)
    made_at = datetime.fromisoformat(value["created_at"]) - timedelta(hours=2)
    aws.client("secretsmanager").put_secret_value(
        SecretId=secret,
        SecretString=json.dumps(value | {"created_at": made_at.isoformat()}),
    )
    workflow.jobs.retry(failed)
    check_changed(workflow, workflow.execute(workflow.jobs.get(failed.job_id)))
    assert verifying(workflow, claimed(project_id)) == {True}
    assert verifying(workflow, old, hours=0.99) == {True}
    assert verifying(workflow, old, hours=1.01) == {False}


def _made_hours_ago(workflow: Workflow, key: ApiKey, hours: float) -> None:
    made_at = datetime.fromisoformat(key.created_at) - timedelta(hours=hours)
    aws.client("dynamodb").update_item(
        TableName=workflow.settings.api_keys_table,
        Key={"digest": {"S": key.digest}},
        UpdateExpression="SET created_at = :made_at",
        ExpressionAttributeValues={":made_at": {"S": made_at.isoformat(timespec="microseconds")}},
    )


def test_a_retry_makes_no_second_set_where_the_first_has_been_claimed(workflow: Workflow) -> None:
    project_id = plainly_provisioned(workflow)
    claimed(project_id)
    workflow.faults["FINALIZING"] = Fault(Point.BEFORE, RuntimeError, times=3)
    failed = workflow.execute(workflow.new_change("rotate_api_keys", project_id, overlap_hours=0))
    assert failed.status is api.JobStatus.FAILED
    new = claimed(project_id)
    workflow.jobs.retry(failed)
    job = workflow.execute(workflow.jobs.get(failed.job_id))
    assert job.status is api.JobStatus.COMPLETED
    result = api.RotateApiKeysResult.model_validate(job.result)
    assert {key.key_id for key in result.api_keys} == {key_id(digest(text)) for text in new}
    assert result.api_keys_secret_arn is None
    assert verifying(workflow, new) == {True}
    with pytest.raises(api.ApiKeysNotClaimableError, match="claimed before"):
        claimed(project_id)


def test_a_retry_does_not_take_up_keys_that_a_later_job_has_replaced(workflow: Workflow) -> None:
    project_id = plainly_provisioned(workflow)
    workflow.faults["FINALIZING"] = Fault(Point.BEFORE, RuntimeError, times=3)
    failed = workflow.execute(workflow.new_change("rotate_api_keys", project_id))
    check_changed(workflow, workflow.execute(workflow.new_change("rotate_api_keys", project_id)))
    before = api.list_api_keys(project_id)
    workflow.jobs.retry(failed)
    job = workflow.execute(workflow.jobs.get(failed.job_id))
    assert job.error is not None
    assert job.error.type is ErrorType.CONFLICT
    assert api.list_api_keys(project_id) == before


#: The change of a password is another thing on each engine.
each_change_of_an_engine = pytest.mark.parametrize(
    ("engine", "job_type"),
    [
        (Engine.POSTGRESQL, "rotate_api_keys"),
        (Engine.POSTGRESQL, "revoke_api_key"),
        *((engine, "rotate_database_password") for engine in Engine),
    ],
)


@each_change_of_an_engine
def test_it_may_die_before_any_effect_and_no_more_is_made(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, job_type: str
) -> None:
    project_id = plainly_provisioned(workflow, keys=4)
    open_session = workflow.server.connect_as_tenant(workflow.login(project_id))
    logged_in: list[bool] = []
    workflow.on_wait = lambda: logged_in.append(logs_in(workflow, project_id))
    met: list[Effect] = []
    number = 0

    def die(effect: Effect, attempt: Attempt) -> None:
        if effect.retry_count == 0 and len(attempt.effects) == number:
            met.append(effect)
            raise FunctionEnded("Runtime.ExitError")

    while number < 50:
        number += 1
        before = len(met)
        with effects(workflow, monkeypatch, die):
            job = workflow.execute(new_change(workflow, job_type, project_id))
        if len(met) == before:
            break
        check_changed(workflow, job)
        open_session.cursor().execute("SELECT 1")
        if job_type == "revoke_api_key":
            workflow.execute(workflow.new_change("rotate_api_keys", project_id))
    open_session.close()
    # What makes the change is among the effects, and before it the secret was never wrong; but
    # between its label and the statement of MySQL's that sets the password, which no transaction
    # holds together.
    assert logged_in
    assert logged_in.count(False) == {Engine.POSTGRESQL: 0, Engine.MYSQL: 1}[workflow.engine]
    assert {effect.name for effect in met} >= {
        "rotate_api_keys": {"PutSecretValue", "TransactWriteItems"},
        "revoke_api_key": {"TransactWriteItems"},
        "rotate_database_password": {"PutSecretValue", "SQL", "UpdateSecretVersionStage"},
    }[job_type]


@each_change_of_an_engine
def test_a_run_that_was_given_up_may_go_on_beside_the_next(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, job_type: str
) -> None:
    project_id = plainly_provisioned(workflow, keys=20)
    number = 0
    superseded: list[Effect] = []

    def be_superseded(effect: Effect, attempt: Attempt) -> None:
        here = effect.retry_count == 0 and len(attempt.effects) == number
        if here and (not superseded or superseded[-1].stage != effect.stage):
            superseded.append(effect)
            with aside():
                workflow.run_stage({**attempt.event, "retry_count": 1})

    # From its third effect on, the run that changes a password holds the lock that keeps the other
    # out.
    most = 2 if job_type == "rotate_database_password" else 50
    while number < most:
        number += 1
        superseded.clear()
        with effects(workflow, monkeypatch, be_superseded):
            job = workflow.execute(new_change(workflow, job_type, project_id))
        if not superseded:
            break
        check_changed(workflow, job)
    assert number >= 2


@each_way
def test_a_job_whose_result_is_not_what_its_model_says_fails_at_once_and_lets_go(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    project_id = plainly_provisioned(workflow, keys=1)
    before = api.get_project(project_id)
    job_type = "rotate_database_password"
    another = replace(JOB_TYPES[job_type], result_model=api.RevokeApiKeyResult)
    monkeypatch.setitem(JOB_TYPES, job_type, another)

    job = run(workflow, workflow.new_change(job_type, project_id))

    assert (job.status, job.result) == (api.JobStatus.FAILED, None)
    assert job.error is not None
    assert (job.error.type, job.error.stage, job.error.attempt) == (
        ErrorType.UNKNOWN_ERROR,
        "FINALIZING",
        1,
    )
    assert "its result model RevokeApiKeyResult says; the first field" in job.error.message
    assert "key_id (missing)" in job.error.message
    assert workflow.waits == []
    assert api.get_project(project_id) == before
    assert logs_in(workflow, project_id)


@each_engine
def test_a_password_is_changed_in_secret_and_database_and_open_sessions_go_on(
    workflow: Workflow,
) -> None:
    project_id = plainly_provisioned(workflow)
    secret = workflow.names(project_id).database_secret
    old = workflow.secret(secret)
    session = workflow.server.connect_as_tenant(old)
    job = workflow.execute(workflow.new_change("rotate_database_password", project_id))
    check_changed(workflow, job)
    session.cursor().execute("CREATE TABLE kept (id integer)")
    session.close()
    new = workflow.secret(secret)
    assert new["password"] != old["password"]
    assert new == old | {
        "password": new["password"],
        "connection_string": old["connection_string"].replace(old["password"], new["password"]),
    }
    assert not workflow.server.takes(old)
    assert run_as_tenant(workflow.server, new, "SELECT COUNT(*) FROM kept") == [(0,)]
    result = api.RotateDatabasePasswordResult.model_validate(job.result)
    described = aws.client("secretsmanager").describe_secret(SecretId=secret)
    assert "AWSCURRENT" in described["VersionIdsToStages"][result.secret_version_id]
    assert result.secret_arn == described["ARN"]
    told = [("execution", json.dumps(event, default=str)) for event in workflow.history(job)]
    told += [
        ("table", json.dumps(item))
        for table in aws.client("dynamodb").list_tables()["TableNames"]
        for item in aws.client("dynamodb").scan(TableName=table)["Items"]
    ]
    told.append(("server log", workflow.server.log.read_text()))
    assert leaks([new["password"], old["password"]], told) == []


def test_a_function_that_dies_at_the_commit_is_repeated_with_the_same_password(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one moment in which the secret holds what the server does not take yet."""
    project_id = plainly_provisioned(workflow)
    secret = workflow.names(project_id).database_secret
    passwords: list[str] = []
    logged_in: list[bool] = []

    def move_and_die(*arguments: Any, **options: Any) -> None:
        secrets.make_current(*arguments, **options)
        passwords.append(workflow.secret(secret)["password"])
        if len(passwords) == 1:
            raise FunctionEnded("Runtime.ExitError")

    monkeypatch.setattr(database, "make_current", move_and_die)
    workflow.on_wait = lambda: logged_in.append(logs_in(workflow, project_id))
    job = workflow.execute(workflow.new_change("rotate_database_password", project_id))
    check_changed(workflow, job)
    assert logged_in == [False]
    assert len(passwords) == 2
    assert len(set(passwords)) == 1


def opening(workflow: Workflow, secret: str) -> set[str]:
    """Say which labels of a secret lead to a login that is taken."""
    client = aws.client("secretsmanager")
    found = set()
    for label in ("AWSCURRENT", "AWSPREVIOUS"):
        with suppress(client.exceptions.ResourceNotFoundException):
            value = client.get_secret_value(SecretId=secret, VersionStage=label)["SecretString"]
            if workflow.server.takes(json.loads(value)):
                found.add(label)
    return found


@each_engine
def test_two_attempts_may_die_anywhere_and_no_password_is_lost(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    project_id = plainly_provisioned(workflow)
    secret = workflow.names(project_id).database_secret
    stages = all_stages(workflow.settings, workflow.jobs)["rotate_database_password"]
    job = workflow.new_change("rotate_database_password", project_id)
    attempts = itertools.count(1)
    # The number of moments that the attempt has left to live.
    left = 0

    def meet(moment: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise FunctionEnded(moment)

    def move(*arguments: Any, **options: Any) -> None:
        secrets.make_current(*arguments, **options)
        meet("COMMIT")

    def run(event: Mapping[str, Any]) -> Any:
        return stages[event["stage"]](JobInput.model_validate(event["job"]))

    def died_at(number: int) -> str:
        """Run the next attempt up to its n-th moment; say which that was."""
        nonlocal left
        left = number
        said = {"job_id": job.job_id, "job_type": job.job_type, "payload": job.payload}
        try:
            workflow.run_stage(
                {
                    "job": said | {"attempt": next(attempts)},
                    "stage": "ROTATING_DATABASE_PASSWORD",
                }
            )
        except FunctionEnded as end:
            return end.name
        return ""

    monkeypatch.setattr(database, "make_current", move)
    monkeypatch.setattr(workflow, "run_stage", run)
    deaths: set[tuple[str, str]] = set()
    with effects(workflow, monkeypatch, lambda effect, _attempt: meet(effect.name)):
        for first, second in itertools.product(range(1, 5), range(1, 6)):
            death = died_at(first)
            assert opening(workflow, secret), death
            deaths.add((death, died_at(second)))
            assert opening(workflow, secret), deaths
            assert died_at(0) == ""
            assert opening(workflow, secret) == {"AWSCURRENT"}
    moments = ("PutSecretValue", "SQL", "UpdateSecretVersionStage", "COMMIT")
    assert deaths >= set(itertools.product(moments, moments))


def test_a_secret_that_someone_has_emptied_is_written_anew(workflow: Workflow) -> None:
    project_id = plainly_provisioned(workflow)
    aws.client("secretsmanager").put_secret_value(
        SecretId=workflow.names(project_id).database_secret, SecretString="{}"
    )
    job = workflow.execute(workflow.new_change("rotate_database_password", project_id))
    check_changed(workflow, job)


@each_engine
def test_a_tenant_who_uses_all_connections_gets_a_new_password(workflow: Workflow) -> None:
    project_id = plainly_provisioned(workflow)
    login = workflow.secret(workflow.names(project_id).database_secret)
    # Both engines give a new tenant as many.
    sessions = [workflow.server.connect_as_tenant(login) for _ in range(20)]
    with pytest.raises(
        (psycopg.OperationalError, pymysql.OperationalError),
        match=r"too many connections|max_user_connections",
    ):
        workflow.server.connect_as_tenant(login)
    job = workflow.execute(workflow.new_change("rotate_database_password", project_id))
    for session in sessions:
        session.cursor().execute("SELECT 1")
        session.close()
    check_changed(workflow, job)


@each_change
def test_a_job_that_fails_releases_the_project_and_can_be_retried(
    workflow: Workflow, job_type: str
) -> None:
    project_id = plainly_provisioned(workflow)
    before = api.get_project(project_id)
    work = JOB_TYPES[job_type].stages[1]
    workflow.faults[work] = Fault(Point.AFTER, RuntimeError)
    job = workflow.execute(new_change(workflow, job_type, project_id))
    assert job.error is not None
    assert (job.status, job.error.stage, job.cleanup_job_id) == (api.JobStatus.FAILED, work, "")
    assert api.get_project(project_id) == before
    assert logs_in(workflow, project_id)

    workflow.jobs.retry(job)
    check_changed(workflow, workflow.execute(workflow.jobs.get(job.job_id)))


@pytest.mark.parametrize("job_type", ["rotate_api_keys", "rotate_database_password"], ids=str)
def test_a_project_that_is_not_there_or_not_active_or_held_is_refused(
    workflow: Workflow, job_type: str
) -> None:
    created = workflow.new_project()
    held = plainly_provisioned(workflow)
    holder = workflow.new_job(held)
    workflow.projects.acquire(api.get_project(held), holder.job_id)
    before = api.get_project(held)
    for project_id, error_type, said in (
        ("none-such", ErrorType.PROJECT_NOT_FOUND, "create it first"),
        (created, ErrorType.INVALID_PAYLOAD, "is CREATED; only a project that is ACTIVE"),
        (held, ErrorType.PROJECT_BUSY, f"is locked by job {holder.job_id}"),
    ):
        job = workflow.execute(workflow.new_change(job_type, project_id))
        assert job.error is not None
        assert (job.error.type, job.error.stage) == (error_type, "INITIALIZING")
        assert said in job.error.message
    assert api.get_project(held) == before
    assert api.get_project(created).locked_by is None


def test_a_key_is_revoked_at_once_by_a_job_of_its_own(workflow: Workflow) -> None:
    project_id = plainly_provisioned(workflow)
    first, second = claimed(project_id)
    revoked = api.revoke_api_key(key_id(digest(first)))
    assert api.verify_api_key(first) is None
    assert api.verify_api_key(second) is not None
    assert api.revoke_api_key(revoked.key_id) == revoked
    jobs = [job for job in api.list_jobs(project_id) if job.job_type == "revoke_api_key"]
    assert [job.status for job in jobs] == [api.JobStatus.COMPLETED] * 2
    assert api.get_job(jobs[0].job_id).history
    listed = {key.key_id: key.status for key in api.list_api_keys(project_id)}
    assert listed == {
        key_id(digest(first)): ApiKeyStatus.REVOKED,
        key_id(digest(second)): ApiKeyStatus.ACTIVE,
    }
    # A run that was given up does not bring it back.
    found = ApiKeyStore(aws.client("dynamodb"), workflow.settings.api_keys_table)
    key = found.find(revoked.key_id)
    assert key is not None
    again = ApiKey(key.digest, key.key_id, key.key_prefix, project_id, "job", key.created_at)
    found.put_set([again])
    assert api.verify_api_key(first) is None


@each_way
def test_a_key_is_revoked_whatever_the_project_s_status_is_and_whoever_holds_it(
    workflow: Workflow, run: Run
) -> None:
    project_id = plainly_provisioned(workflow, keys=len(api.ProjectStatus))
    # It is ACTIVE in the end, as it was.
    statuses = sorted(api.ProjectStatus, key=api.ProjectStatus.ACTIVE.__eq__)
    for status, key in zip(statuses, claimed(project_id), strict=True):
        dynamodb.transact(
            aws.client("dynamodb"),
            [
                dynamodb.build_update(
                    workflow.settings.projects_table,
                    {"project_id": project_id},
                    {"status": status, "locked_by": "another-job"},
                    Attr("project_id").exists(),
                )
            ],
        )
        before = api.get_project(project_id)
        change = workflow.new_change("revoke_api_key", project_id, key_id=key_id(digest(key)))
        job = run(workflow, change)
        assert (job.status, job.error) == (api.JobStatus.COMPLETED, None)
        assert [record.status for record in job.stages] == [api.StageStatus.SUCCEEDED] * 3
        assert verifying(workflow, [key]) == {False}
        assert api.get_project(project_id) == before


def test_a_key_of_a_project_that_is_not_there_is_not_revoked(workflow: Workflow) -> None:
    job = workflow.execute(
        workflow.new_change("revoke_api_key", "none-such", key_id="key_" + "0" * 20)
    )
    assert job.error is not None
    assert (job.error.type, job.error.stage) == (ErrorType.PROJECT_NOT_FOUND, "INITIALIZING")


def test_no_rotation_makes_a_key_valid_again_that_is_revoked_beside_it(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    project_id = plainly_provisioned(workflow)
    number, effects_of_stage = 0, 1
    revoked: set[str] = set()
    made_here: list[str] = []

    def revoke(effect: Effect, attempt: Attempt) -> None:
        if effect.stage != "ROTATING_API_KEYS" or len(attempt.effects) != number:
            return
        with aside():
            # One that was there before, and one that the rotation has just made.
            in_force = {
                key.job_id == attempt.event["job"]["job_id"]: key.key_id
                for key in api.list_api_keys(project_id)
                if key.status is ApiKeyStatus.ACTIVE
            }
            made_here.extend(name for of_this_job, name in in_force.items() if of_this_job)
            revoked.update(api.revoke_api_key(name).key_id for name in in_force.values())

    while number < effects_of_stage:
        number += 1
        with effects(workflow, monkeypatch, revoke) as attempts:
            job = workflow.execute(workflow.new_change("rotate_api_keys", project_id))
        assert job.status is api.JobStatus.COMPLETED
        (attempt,) = (a for a in attempts if a.stage == "ROTATING_API_KEYS")
        effects_of_stage = len(attempt.effects)
        listed = {key.key_id: key.status for key in api.list_api_keys(project_id)}
        assert {listed[name] for name in revoked} <= {ApiKeyStatus.REVOKED}
        handed_over = {key_id(digest(text)) for text in claimed(project_id)}
        assert handed_over
        assert not handed_over & revoked
    assert made_here


def test_a_retried_rotation_does_not_bring_back_a_key_that_nobody_had_claimed(
    workflow: Workflow,
) -> None:
    project_id = plainly_provisioned(workflow)
    workflow.faults["ROTATING_API_KEYS"] = Fault(Point.AFTER, RuntimeError)
    failed = workflow.execute(workflow.new_change("rotate_api_keys", project_id, count=1))
    (made,) = (key for key in api.list_api_keys(project_id) if key.job_id == failed.job_id)
    api.revoke_api_key(made.key_id)
    let_expire(workflow)

    workflow.jobs.retry(failed)
    workflow.execute(workflow.jobs.get(failed.job_id))
    assert [key.status for key in api.list_api_keys(project_id) if key.job_id == failed.job_id] == [
        ApiKeyStatus.REVOKED
    ]
    with pytest.raises(api.ApiKeysNotClaimableError, match="were all revoked"):
        claimed(project_id)
    workflow.execute(workflow.new_change("rotate_api_keys", project_id))
    assert verifying(workflow, claimed(project_id)) == {True}


@pytest.mark.parametrize("is_gone", [False, True], ids=["is_listed", "is_gone"])
def test_a_claim_leaves_out_a_key_that_was_revoked(workflow: Workflow, *, is_gone: bool) -> None:
    project_id = plainly_provisioned(workflow)
    first, second = api.list_api_keys(project_id)
    api.revoke_api_key(first.key_id)
    if is_gone:
        ApiKeyStore(aws.client("dynamodb"), workflow.settings.api_keys_table).remove(first.digest)
    assert [digest(text) for text in claimed(project_id)] == [second.digest]
    with pytest.raises(api.ApiKeysNotClaimableError, match="claimed before"):
        claimed(project_id)


def test_a_key_that_the_project_does_not_have_is_not_revoked(workflow: Workflow) -> None:
    one, other = plainly_provisioned(workflow), plainly_provisioned(workflow)
    key = claimed(one)[0]
    job = workflow.execute(workflow.new_change("revoke_api_key", other, key_id=key_id(digest(key))))
    assert job.error is not None
    assert job.error.type is ErrorType.INVALID_PAYLOAD
    assert job.error.message.startswith("key_id: ")
    assert api.verify_api_key(key) is not None
    with pytest.raises(api.ApiKeyNotFoundError):
        api.revoke_api_key(key_id(digest(generate_api_key("nm"))))
