"""Every function in its image, with every sample event."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from provision_cli.local.containers import store_job
from provisioner.api_keys.store import ApiKey, ApiKeyStatus, ApiKeyStore
from provisioner.jobs.models import JobStatus, StageStatus
from provisioner.jobs.records import NewJob
from provisioner.jobs.store import JobStore, utc_now
from provisioner.provisioning.job_types import JOB_TYPES, clean_up_project, provision_project
from provisioner.provisioning.projects import ProjectStore
from support.project import ROOT, events, functions
from support.sam import Invocation, SamLocal
from support.stack_events import listening
from support.stack_jobs import eventually

EVENTS = ROOT / "events"


@pytest.fixture
def jobs(sam_local: SamLocal) -> JobStore:
    stack = sam_local.stack
    return JobStore(stack.client("dynamodb"), stack.outputs["JobsTableName"], retention_days=1)


@pytest.fixture
def projects(sam_local: SamLocal) -> ProjectStore:
    stack = sam_local.stack
    return ProjectStore(
        stack.client("dynamodb"),
        stack.outputs["ProjectsTableName"],
        stack.outputs["QuotasTableName"],
    )


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def invoke(sam_local: SamLocal, path: Path, event: Path | None = None) -> Invocation:
    """Run the function that an event's path names; with another event, where one is given."""
    function = functions()[path.relative_to(EVENTS).parts[0]]
    return sam_local.invoke(function.logical_id, event or path)


def log_lines(invocation: Invocation) -> Iterator[dict[str, Any]]:
    """Yield the lines that our logger wrote."""
    for line in invocation.log.splitlines():
        if line.startswith("{"):
            value = json.loads(line)
            if "level" in value:
                yield value


def test_every_event_is_used_here() -> None:
    used = {*stage_events(), *dispatcher_events(), *cleanup_events(), *change_events()}
    used |= set(removal_events())
    used |= {
        EVENTS / "lifecycle" / "record_failure.json",
        EVENTS / "dead_letters" / "batch.json",
        EVENTS / "events" / "history.json",
        EVENTS / "reconciler" / "execution_aborted.json",
        EVENTS / "instances" / "remove_expired_snapshots.json",
        EVENTS / "api_keys" / "expire_unclaimed_keys.json",
    }
    assert used == set(events())


def stage_events() -> list[Path]:
    return [
        path
        for path in of_type("provision_project")
        if read(path)["stage"] in provision_project.JOB_TYPE.stages
    ]


def removal_events() -> list[Path]:
    return of_type("deprovision_project")


def of_type(*job_types: str) -> list[Path]:
    return [path for path in events() if read(path).get("job", {}).get("job_type") in job_types]


def cleanup_events() -> list[Path]:
    """Return the events of a clean-up in its order."""
    order = clean_up_project.JOB_TYPE.stages
    found = {read(path)["stage"]: path for path in of_type("clean_up_project")}
    return [found[stage] for stage in order]


def change_events() -> list[Path]:
    """Return the events of the stages that change a project that is there."""
    return of_type(
        *(JOB_TYPES.keys() - {"clean_up_project", "provision_project", "deprovision_project"})
    )


def dispatcher_events() -> list[Path]:
    return [path for path in events() if path.parent.name == "dispatcher"]


def test_job_completes_stage_by_stage(sam_local: SamLocal, jobs: JobStore) -> None:
    # Its job is there: the stack that lets containers in has stored it.
    job_id = "sample-provision-project"
    for path in stage_events():
        invocation = invoke(sam_local, path)
        assert invocation.result.get("ok"), invocation
        is_skipped = read(path)["stage"] == provision_project.CREATING_INSTANCE
        ended = StageStatus.SKIPPED if is_skipped else StageStatus.SUCCEEDED
        assert invocation.result["status"] == ended
        lines = list(log_lines(invocation))
        assert lines
        assert {line.get("job_id") for line in lines} == {job_id}, lines
        assert {line.get("project_id") for line in lines} == {"sample-shop"}, lines
    job = jobs.get(job_id)
    assert job.status is JobStatus.COMPLETED
    assert job.result is not None
    assert job.result["database"]["database_name"]
    assert len(job.result["api_keys"]) == 2
    # The key that an event revokes.
    keys = ApiKeyStore(
        sam_local.stack.client("dynamodb"), sam_local.stack.outputs["ApiKeysTableName"]
    )
    revoked = "key_0123456789abcdef0123"
    keys.put_set(
        [ApiKey("d" * 64, revoked, "nm_Sample", "sample-shop", job_id, utc_now().isoformat())]
    )
    for path in change_events():
        store_job(sam_local.stack, path)
        assert invoke(sam_local, path).result.get("ok"), path
    assert len(keys.list_by_project("sample-shop")) == 5
    found = keys.find(revoked)
    assert found is not None
    assert found.status is ApiKeyStatus.REVOKED
    removal_id = store_job(sam_local.stack, removal_events()[0])
    for path in removal_events():
        assert invoke(sam_local, path).result.get("ok"), path
    removed = jobs.get(removal_id)
    assert removed.status is JobStatus.COMPLETED
    assert removed.result is not None
    assert removed.result["snapshot"]["size_bytes"] > 0


def test_failure_is_recorded_and_what_the_job_made_is_removed(
    sam_local: SamLocal, jobs: JobStore, projects: ProjectStore, tmp_path: Path
) -> None:
    path = EVENTS / "lifecycle" / "record_failure.json"
    job_id = store_job(sam_local.stack, path)
    project = projects.get("sample-failing-shop")
    assert project is not None
    projects.lock(
        project,
        job_id,
        quota=None,
        default_limit=1,
        region="eu-central-1",
        engine="postgresql",
    )
    invocation = invoke(sam_local, path)
    cleanup_id = jobs.get(job_id).cleanup_job_id
    result = invocation.result
    assert (result["error_type"], result["has_cleanup"]) == ("TIMEOUT", True)
    assert result["cleanup"]["name"] == cleanup_id
    for cleanup_path in cleanup_events():
        # The events are of a clean-up; this one has an id of its own.
        event = tmp_path / cleanup_path.name
        event.write_text(json.dumps(read(cleanup_path) | result["cleanup"]["input"]))
        assert invoke(sam_local, cleanup_path, event).result.get("ok"), cleanup_path
    assert jobs.get(cleanup_id).status is JobStatus.COMPLETED
    project = projects.get("sample-failing-shop")
    assert project is not None
    assert project.locked_by is None
    job = jobs.get(job_id)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert job.error.stage == provision_project.CREATING_DATABASE
    assert [error.type for error in job.other_errors] == ["CONFLICT"]


@pytest.mark.parametrize("path", dispatcher_events(), ids=lambda p: p.stem)
def test_batch_starts_jobs_and_rejects_what_can_never_work(
    sam_local: SamLocal, jobs: JobStore, path: Path
) -> None:
    invocation = invoke(sam_local, path)
    assert invocation.result == {"batchItemFailures": []}
    records = {record["messageId"]: record["body"] for record in read(path)["Records"]}
    good = {m for m, body in records.items() if '"project_id": "sample-' in body}
    good -= {m for m, body in records.items() if "unheard_of" in body}
    executions = sam_local.stack.client("stepfunctions").list_executions(
        stateMachineArn=sam_local.stack.outputs["StateMachineArn"]
    )["executions"]
    assert {e["name"] for e in executions} & set(records) == good
    for message_id in records.keys() - good:
        head = jobs.get_head(message_id)
        is_json = records[message_id].startswith("{")
        assert (head is not None and head.status is JobStatus.FAILED) == is_json
    assert dead_letters(sam_local, set(records)) == records.keys() - good


def test_batch_that_the_queue_gave_up_on_fails_its_jobs_and_is_kept(
    sam_local: SamLocal, jobs: JobStore
) -> None:
    path = EVENTS / "dead_letters" / "batch.json"
    invocation = invoke(sam_local, path)
    assert invocation.result == {"batchItemFailures": []}
    first, second = (record["messageId"] for record in read(path)["Records"])
    job = jobs.get(first)
    assert (job.status, job.error and job.error.type) == (JobStatus.FAILED, "UNKNOWN_ERROR")
    assert jobs.get_head(second) is None
    assert dead_letters(sam_local, {first, second}) == {first, second}


def test_history_is_published(sam_local: SamLocal, jobs: JobStore) -> None:
    path = EVENTS / "events" / "history.json"
    job_id = read(path)["Records"][0]["dynamodb"]["Keys"]["job_id"]["S"]
    new = NewJob(
        job_id,
        "provision_project",
        {"project_id": "sample-told"},
        provision_project.JOB_TYPE.stages,
    )
    with listening(sam_local.stack, job_id) as heard:
        jobs.create(new)
        invocation = invoke(sam_local, path)
        assert invocation.result == {"batchItemFailures": []}
        told = [event["detail-type"] for event in heard(5)]
    # The stack's own function tells of the stored job too, under the id of its own entry.
    assert [one for one in told if one != "job.queued"] == [
        "job.started",
        "job.stage_changed",
        "job.retrying",
    ]


def dead_letters(sam_local: SamLocal, job_ids: set[str]) -> set[str]:
    """Return the jobs of the dead letters among these; each says its reason."""
    received = sam_local.stack.client("sqs").receive_message(
        QueueUrl=sam_local.stack.outputs["DeadLetterQueueUrl"],
        MaxNumberOfMessages=10,
        VisibilityTimeout=0,
        MessageAttributeNames=["All"],
    )
    attributes = [message["MessageAttributes"] for message in received.get("Messages", [])]
    assert all(a["reason"]["StringValue"] for a in attributes)
    return {a["job_id"]["StringValue"] for a in attributes} & job_ids


def test_schedule_looks_for_snapshots_in_the_regions_of_instances(sam_local: SamLocal) -> None:
    path = EVENTS / "instances" / "remove_expired_snapshots.json"

    invocation = invoke(sam_local, path)

    assert invocation.result == {"removed": [], "has_seen_all": True}


def test_schedule_looks_for_keys_that_nobody_has_claimed(sam_local: SamLocal) -> None:
    path = EVENTS / "api_keys" / "expire_unclaimed_keys.json"

    invocation = invoke(sam_local, path)

    assert invocation.result == {"notified": [], "expired": [], "has_seen_all": True}


def test_reconciler_ends_a_job_whose_execution_was_stopped(
    sam_local: SamLocal, jobs: JobStore, projects: ProjectStore
) -> None:
    path = EVENTS / "reconciler" / "execution_aborted.json"
    job = json.loads(read(path)["detail"]["input"])["job"]
    project_id = job["payload"]["project_id"]
    project = projects.create(project_id, owner_id=None, organization_id=None, created_at=utc_now())
    jobs.create(
        NewJob(job["job_id"], job["job_type"], job["payload"], provision_project.JOB_TYPE.stages)
    )
    projects.lock(
        project,
        job["job_id"],
        quota=None,
        default_limit=1,
        region="eu-central-1",
        engine="postgresql",
    )

    invocation = invoke(sam_local, path)

    assert invocation.result == {"reconciled": 1, "repaired": 1}, invocation
    assert {line.get("job_id") for line in log_lines(invocation)} == {job["job_id"]}
    ended = jobs.get(job["job_id"])
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert ended.error.type == "UNKNOWN_ERROR"

    def is_cleaned_up() -> bool:
        cleanup = jobs.get_head(jobs.get(job["job_id"]).cleanup_job_id)
        return cleanup is not None and cleanup.status is JobStatus.COMPLETED

    # The clean-up whose message it has sent runs on the stack.
    eventually(is_cleaned_up, within=120)
