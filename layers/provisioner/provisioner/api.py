"""The public Python API.

It talks to the deployment that `connect_to_stack` names, or, where that was not called, to the
one that the environment variables of `PlatformSettings` name. Credentials, region and endpoint are
those of the AWS SDK's environment, which is read at the first call and not before. A process that
is forked goes on with the same deployment, by connections of its own; one that is spawned begins
anew.

Every function looks at its arguments before anything is stored, sent or asked. What an argument
cannot be, by its type or its bounds, raises INVALID_PAYLOAD, a `ProvisioningError` and a
`ValueError`, whose sentence begins with the argument's name. Types are exact: True is no number,
and a UUID is no text. An id that is text, and nobody's, is not found.

Settings of the AWS SDK that are missing or wrong, its credentials among them, raise
`AwsSettingsError`, a `SettingsError`, which names the variable or file.

What comes back is looked at too: an answer to another question raises NETWORK_ERROR, and the call
may be made again.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from provisioner.api_keys.hand_over import HandOver, HandOverStore
from provisioner.api_keys.key_format import digest, find_api_keys
from provisioner.api_keys.store import ApiKey, ApiKeyStatus, ApiKeyStore
from provisioner.arguments import (
    check_flag,
    check_function,
    check_one_of,
    check_seconds,
    check_text,
    check_whole_number,
    shown,
)
from provisioner.composition import deployment
from provisioner.composition.deployment import project_store
from provisioner.composition.job_handlers import register_job_types
from provisioner.composition.job_store import job_store
from provisioner.composition.reconciler import reconciler
from provisioner.drivers.rds_snapshots import InstanceSnapshot
from provisioner.drivers.secrets import Secret, delete_secret, find_secret
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs import client
from provisioner.jobs.client import (
    IdempotencyConflictError,
    JobClient,
    JobStateError,
    JobWaitTimeoutError,
)
from provisioner.jobs.messages import JobQueue
from provisioner.jobs.models import (
    HistoryEntry,
    Job,
    JobStatus,
    StageRecord,
    StageStatus,
    StoredError,
    Wait,
)
from provisioner.jobs.redrive import DeadLetter, DeadLetters, Redriven
from provisioner.jobs.registry import (
    REGISTRY,
    DuplicateJobHandlerError,
    JobHandler,
    UnknownJobTypeError,
    get_job_handler,
    get_registered_job_types,
    has_job_handler,
    register_job_handler,
    validate_payload,
    validate_required_handlers,
)
from provisioner.jobs.store import JobNotFoundError, utc_now
from provisioner.pages import Page, read_cursor, write_cursor
from provisioner.provisioning.contract import (
    DumpReference,
    InstanceSnapshotReference,
    NewProject,
    ProjectReference,
    SnapshotReference,
)
from provisioner.provisioning.job_types.deprovision_project import DeprovisionProjectResult
from provisioner.provisioning.job_types.provision_project import ProvisionProjectResult
from provisioner.provisioning.job_types.revoke_api_key import RevokeApiKeyResult
from provisioner.provisioning.job_types.rotate_api_keys import RotateApiKeysResult
from provisioner.provisioning.job_types.rotate_cluster_login import RotateClusterLoginResult
from provisioner.provisioning.job_types.rotate_database_password import RotateDatabasePasswordResult
from provisioner.provisioning.projects import (
    Project,
    ProjectExistsError,
    ProjectRemovedError,
    ProjectStatus,
)
from provisioner.provisioning.snapshots import (
    RestoredSnapshot,
    Snapshot,
    SnapshotNotFoundError,
    Snapshots,
    build_restore_payload,
    choose,
    dump_names,
    list_instance_snapshots,
)
from provisioner.runtime import aws
from provisioner.runtime.answers import NotAwsError
from provisioner.runtime.aws_settings import AwsSettingsError
from provisioner.runtime.platform import (
    PlatformSettings,
    connect,
    connect_to_stack,
    current_settings,
)
from provisioner.runtime.settings import SettingsError

__all__ = [
    "ApiKey",
    "ApiKeyNotFoundError",
    "ApiKeyStatus",
    "ApiKeysNotClaimableError",
    "AwsSettingsError",
    "DeadLetter",
    "DeprovisionProjectResult",
    "DuplicateJobHandlerError",
    "ErrorType",
    "HistoryEntry",
    "IdempotencyConflictError",
    "InstanceSnapshot",
    "Job",
    "JobHandler",
    "JobNotFoundError",
    "JobStateError",
    "JobStatus",
    "JobWaitTimeoutError",
    "NotAwsError",
    "Page",
    "PlatformSettings",
    "Project",
    "ProjectExistsError",
    "ProjectNotFoundError",
    "ProjectRemovedError",
    "ProjectStatus",
    "ProvisionProjectResult",
    "ProvisioningError",
    "Redriven",
    "RestoredSnapshot",
    "RevokeApiKeyResult",
    "RotateApiKeysResult",
    "RotateClusterLoginResult",
    "RotateDatabasePasswordResult",
    "SettingsError",
    "Snapshot",
    "SnapshotNotFoundError",
    "StageRecord",
    "StageStatus",
    "StoredError",
    "UnknownJobTypeError",
    "Wait",
    "cancel_job",
    "claim_api_keys",
    "connect",
    "connect_to_stack",
    "create_project",
    "current_settings",
    "enqueue_job",
    "find_api_keys",
    "find_job_ids",
    "find_snapshot",
    "get_job",
    "get_job_handler",
    "get_project",
    "get_registered_job_types",
    "has_job_handler",
    "list_api_keys",
    "list_dead_letters",
    "list_jobs",
    "list_projects",
    "list_snapshots",
    "protect_project",
    "redrive_dead_letters",
    "register_job_handler",
    "restore_instance",
    "restore_snapshot",
    "retry_cleanup",
    "retry_job",
    "revoke_api_key",
    "validate_required_handlers",
    "verify_api_key",
    "wait_for_job",
]

register_job_types()

#: Jobs and projects of a page: one read of DynamoDB has so many. Source: Amazon DynamoDB API
#: Reference, BatchGetItem.
_LONGEST_PAGE = 100

#: The newest jobs that are looked at for the beginning of an id.
_FOUND_AMONG = 1000

#: Later than any snapshot.
_NEVER = datetime.max.replace(tzinfo=UTC)


class ProjectNotFoundError(LookupError):
    """There is no project of that id."""


class ApiKeyNotFoundError(LookupError):
    """There is no API key of that id."""


class ApiKeysNotClaimableError(RuntimeError):
    """The project's keys cannot be handed over: it is not ready, or they have been."""


def enqueue_job(
    job_type: str,
    payload: Mapping[str, Any],
    *,
    idempotency_key: str | None = None,
    delay_seconds: int = 0,
) -> Job:
    """Validate a payload, store its job as QUEUED and send its message.

    Args:
        job_type: a registered job type.
        payload: what the job type's payload model accepts.
        idempotency_key: the same key gives the same job, however often it is enqueued. One
            character or more. A number in the payload is the same whether it is written 1 or 1.0.
        delay_seconds: 0 to 900, how long the message is held back.

    Raises:
        UnknownJobTypeError: the job type has no handler.
        INVALID_PAYLOAD: the payload is wrong, or too large, or another argument is; nothing was
            stored or sent.
        IdempotencyConflictError: the key was used for another payload.
    """
    return _job_client(current_settings()).enqueue(
        job_type, payload, idempotency_key=idempotency_key, delay_seconds=delay_seconds
    )


def cancel_job(job_id: str) -> Job:
    """Cancel a job; doing it twice is as good as once.

    One that is QUEUED never starts. Of one that is RUNNING no further stage starts: it is CANCELLED
    at once where it only waits, for the next attempt of a stage or another thing, else when the
    stages that run have ended, and what it made is removed as after a failure.

    Returns:
        the job: CANCELLED, or RUNNING with `cancel_requested_at`.

    Raises:
        JobNotFoundError: there is no such job.
        JobStateError: it has completed or failed, or is a clean-up.
    """
    check_text("job_id", job_id)
    settings = current_settings()
    job = _job_client(settings).cancel(job_id)
    if job.status.is_terminal:
        return job
    # Where it kept changing under this look, the cancel is stored all the same: whoever changed the
    # job, or the reconciler, ends it.
    with suppress(ProvisioningError):
        reconciler(settings).reconcile(job_id)
    return job_store(settings).get(job_id)


def retry_job(job_id: str) -> Job:
    """Run a job that has failed, or was cancelled, again; doing it twice is as good as once.

    It is the job's next attempt, a new execution; its history is kept.

    Returns:
        the job: QUEUED, or RUNNING where its next attempt has begun meanwhile, or before.

    Raises:
        JobNotFoundError: there is no such job.
        JobStateError: it has neither failed nor been cancelled, its clean-up is under way, or it
            was refused and keeps no payload.
        UnknownJobTypeError: its job type has no handler any more; the job stays as it is.
        INVALID_PAYLOAD: its payload is not valid any more; the job stays as it is.
    """
    check_text("job_id", job_id)
    return _job_client(current_settings()).retry(job_id)


def retry_cleanup(job_id: str) -> Job:
    """Run the clean-up of a job again that has left something; doing it twice is as good as once.

    Args:
        job_id: the job, or its clean-up, which is a job itself.

    Returns:
        the clean-up: QUEUED or RUNNING; `get_job` tells how it ends.

    Raises:
        JobNotFoundError: there is no such job.
        JobStateError: it has no clean-up, or one that has left nothing.
    """
    check_text("job_id", job_id)
    return _job_client(current_settings()).retry_cleanup(job_id)


def get_job(job_id: str) -> Job:
    """Read a job with its stages and history.

    Raises:
        JobNotFoundError: there is no such job.
    """
    check_text("job_id", job_id)
    return job_store(current_settings()).get(job_id)


def list_jobs(
    project_id: str | None = None,
    *,
    status: JobStatus | str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[Job]:
    """Read a page of a project's jobs, or of everyone's, newest first, without payload and history.

    A job that has not ended has its stages, and so says what it waits for. Each is as it is now. A
    job that stays as it is comes once, on one page, whatever is enqueued and ends meanwhile. One
    that has changed its status a moment ago may be missing, so that a page may hold fewer jobs than
    its limit: `next_cursor` alone says whether there are more. A page of one project's jobs of one
    status is looked for among the next 1,000 of the project.

    Args:
        project_id: only this project's.
        status: only those of this status.
        limit: 1 to 100, how many at most.
        cursor: the `next_cursor` of the page before; the newest when left out.

    Raises:
        INVALID_PAYLOAD: an argument is not what it must be; a cursor is of the list alone, of its
            project and its status, that it comes from.
    """
    if project_id is not None:
        check_text("project_id", project_id)
    wanted = None if status is None else check_one_of("status", status, JobStatus)
    name = f"jobs/{project_id}/{wanted}"
    after = _begin_page(name, limit, cursor)
    jobs, more = job_store(current_settings()).list_newest(
        limit, project_id=project_id, status=wanted, after=after
    )
    return Page(jobs, write_cursor(name, more))


def find_job_ids(beginning: str) -> list[str]:
    """Return which of the newest 1,000 jobs have an id that begins so."""
    check_text("beginning", beginning)
    return job_store(current_settings()).find_ids(beginning, among=_FOUND_AMONG)


def _begin_page(name: str, limit: object, cursor: object) -> str:
    """Look at the arguments of a page, and return where it begins.

    Raises:
        INVALID_PAYLOAD: one of them is not what it must be.
    """
    check_whole_number("limit", limit, least=1, most=_LONGEST_PAGE)
    return read_cursor(name, cursor)


def wait_for_job(job_id: str, timeout: float) -> Job:
    """Read a job until it has ended.

    Args:
        job_id: the job.
        timeout: seconds, 0 or more; with 0, it is read once.

    Raises:
        JobNotFoundError: there is no such job.
        JobWaitTimeoutError: it has not ended in that time.
    """
    check_text("job_id", job_id)
    check_seconds("timeout", timeout)
    return client.wait_for_job(job_store(current_settings()), job_id, timeout)


def create_project(
    project_id: str, *, owner_id: str | None = None, organization_id: str | None = None
) -> Project:
    """Store a new project, to be provisioned by a job; doing it twice is as good as once.

    Returns:
        the project, as it is by now: also where it was created before, for the same two.

    Raises:
        INVALID_PAYLOAD: an id is not of its pattern.
        ProjectExistsError: there is a project of that id, of another owner or organization.
    """
    new = validate_payload(
        NewProject,
        {"project_id": project_id, "owner_id": owner_id, "organization_id": organization_id},
    )
    projects = project_store(current_settings())
    try:
        return projects.create(
            new.project_id,
            owner_id=new.owner_id,
            organization_id=new.organization_id,
            created_at=utc_now(),
        )
    except ProjectExistsError:
        existing = projects.get(new.project_id)
        asked = (new.owner_id, new.organization_id)
        if existing is None or (existing.owner_id, existing.organization_id) != asked:
            raise
        return existing


def get_project(project_id: str) -> Project:
    """Read a project.

    Raises:
        ProjectNotFoundError: there is none of that id.
    """
    check_text("project_id", project_id)
    project = project_store(current_settings()).get(project_id)
    if project is None:
        raise ProjectNotFoundError(
            f"project {shown(project_id)}: there is no such project; create it."
        )
    return project


def list_projects(
    *,
    status: ProjectStatus | str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[Project]:
    """Read a page of the projects, newest first; see `list_jobs` for what a page may lack.

    Args:
        status: only those of this status.
        limit: 1 to 100, how many at most.
        cursor: the `next_cursor` of the page before; the newest when left out.

    Raises:
        INVALID_PAYLOAD: an argument is not what it must be.
    """
    wanted = None if status is None else check_one_of("status", status, ProjectStatus)
    name = f"projects/{wanted}"
    after = _begin_page(name, limit, cursor)
    projects, more = project_store(current_settings()).list_newest(
        limit, status=wanted, after=after
    )
    return Page(projects, write_cursor(name, more))


def protect_project(project_id: str, *, enabled: bool) -> Project:
    """Protect a project against being deprovisioned, or end that.

    Args:
        project_id: the project.
        enabled: whether it is protected from now on.

    Raises:
        ProjectNotFoundError: there is no such project.
        ProjectRemovedError: it is being removed.
    """
    check_flag("enabled", enabled)
    get_project(project_id)
    project_store(current_settings()).protect(project_id, enabled=enabled)
    return get_project(project_id)


def claim_api_keys(project_id: str, hand_over: Callable[[Sequence[str]], None]) -> None:
    """Hand over the plaintext of a project's newest API keys, then delete the secret that held it.

    Keys that were revoked before anyone claimed them are left out. A set that is replaced while it
    is handed over stays for the next claim. A secret that nobody has claimed for 30 days is
    deleted; a claim that has begun is let be for a day.

    Args:
        project_id: the project; it must be ACTIVE.
        hand_over: takes the keys; the secret is deleted only once it has returned.

    Raises:
        ProjectNotFoundError: there is no such project.
        ApiKeysNotClaimableError: the project is not ACTIVE, a job works at it or has failed to
            store its keys, or its keys have been claimed, or each of them was revoked, or nobody
            has claimed them in time.
    """
    check_text("project_id", project_id)
    check_function("hand_over", hand_over)
    settings = current_settings()
    naming = deployment.naming(settings)
    hand_overs = HandOverStore(aws.client("dynamodb"), settings.api_keys_table)
    manager = aws.client("secretsmanager")

    def find() -> Secret | None:
        return find_secret(
            manager,
            name=naming.names(project_id).api_keys_secret,
            owner=naming.owner(project_id, job_id=""),
            final=ErrorType.API_KEY_GENERATION_FAILED,
        )

    get_project(project_id)
    secret = find()
    # After the secret: a job that writes another set holds the project before it does.
    _refuse_claim(get_project(project_id))
    if secret is None:
        _refuse_late_claim(hand_overs.get(project_id))
        raise ApiKeysNotClaimableError(
            f"project {project_id}: its API keys have been claimed before; "
            "they are handed over only once."
        )
    keys = _claimable_keys(project_id, secret, _api_keys(settings))
    # From here on nobody deletes the secret beside this claim, or it is too late already.
    _refuse_late_claim(hand_overs.begin_claim(project_id, utc_now()))
    hand_over(keys)
    if find() == secret:
        delete_secret(manager, secret, final=ErrorType.API_KEY_GENERATION_FAILED)
        hand_overs.end_claim(project_id, str(secret.value.get("job_id")))


def _refuse_late_claim(hand_over: HandOver | None) -> None:
    if hand_over is not None and hand_over.has_expired:
        raise ApiKeysNotClaimableError(
            f"project {hand_over.project_id}: its API keys expired on "
            f"{hand_over.claim_before:%Y-%m-%d}, since nobody had claimed them; rotate the keys, "
            "and claim the new ones."
        )


def _refuse_claim(project: Project) -> None:
    if project.status is not ProjectStatus.ACTIVE:
        raise ApiKeysNotClaimableError(
            f"project {project.project_id}: is {project.status}; its keys can be claimed once it "
            "is ACTIVE."
        )
    if project.locked_by is not None:
        raise ApiKeysNotClaimableError(
            f"project {project.project_id}: job {project.locked_by} works at it; "
            "claim its keys once that has ended."
        )


def _claimable_keys(project_id: str, secret: Secret, store: ApiKeyStore) -> list[str]:
    """Return the keys of a secret that verify, in plaintext."""
    stored = {str(text): store.get(digest(text)) for text in secret.value["api_keys"]}
    if not any(stored.values()):
        raise ApiKeysNotClaimableError(
            f"project {project_id}: the job that made its newest keys has failed; "
            "retry it, or rotate the keys again."
        )
    now = utc_now()
    keys = [
        text
        for text, key in stored.items()
        if key is not None and key.project_id == project_id and key.verifies_at(now)
    ]
    if not keys:
        raise ApiKeysNotClaimableError(
            f"project {project_id}: its newest keys were all revoked before they were claimed; "
            "rotate the keys."
        )
    return keys


def list_api_keys(project_id: str) -> list[ApiKey]:
    """Read what is stored of a project's API keys, oldest first.

    Keys that have expired are there for another 30 days, keys that were revoked as long as the
    project.

    Raises:
        ProjectNotFoundError: there is no such project.
    """
    get_project(project_id)
    found = _api_keys(current_settings()).list_by_project(project_id)
    return sorted(found, key=lambda key: (key.created_at, key.key_id))


def revoke_api_key(key_id: str) -> RevokeApiKeyResult:
    """Let an API key stop verifying; it does not when this returns.

    It is a job like any other, which runs in this process. It waits for no other job, whatever the
    project's status is.

    Raises:
        ApiKeyNotFoundError: there is no such key.
        ProvisioningError: the error that the job ended with.
    """
    check_text("key_id", key_id)
    key = _api_keys(current_settings()).find(key_id)
    if key is None:
        raise ApiKeyNotFoundError(
            f"API key {shown(key_id)}: there is no such key; list the project's."
        )
    result: RevokeApiKeyResult = get_job_handler("revoke_api_key")(
        {"project_id": key.project_id, "key_id": key_id}
    )
    return result


def verify_api_key(plaintext: str) -> ApiKey | None:
    """Find the API key that a caller presents; None where it is not one of ours, or has ended.

    The checksum is tried first, so that a made-up key costs no read. A key that is found costs a
    second one, of its project: that says at once, and for every key, that it is being removed.
    An answer that is another question's verifies nothing.
    """
    check_text("plaintext", plaintext)
    settings = current_settings()
    try:
        key = _api_keys(settings).verify(plaintext)
        project = None if key is None else project_store(settings).get(key.project_id)
    except ProvisioningError:
        return None
    return None if project is None or project.status.is_being_removed else key


def list_snapshots(project_id: str) -> list[Snapshot | InstanceSnapshot]:
    """Read which snapshots there are of a project's databases, newest first.

    They stay when the project is removed. Those of instances of its own are Amazon RDS's: read in
    the region where the last was, and only of a project that has had one.

    Raises:
        INVALID_PAYLOAD: the id is not of its pattern.
        ProvisioningError: the bucket of snapshots, or Amazon RDS, cannot be read.
    """
    project_id = validate_payload(ProjectReference, {"project_id": project_id}).project_id
    settings = current_settings()
    found: list[Snapshot | InstanceSnapshot] = [
        *_snapshots(settings).of_project(project_id),
        *_of_instances(settings, project_id),
    ]
    # One that is still being taken is the newest.
    return sorted(found, key=lambda one: one.taken_at or _NEVER, reverse=True)


def find_snapshot(project_id: str, snapshot: str | None = None) -> Snapshot | InstanceSnapshot:
    """Find one snapshot of a project: a dump, or one of Amazon RDS.

    Args:
        project_id: the project.
        snapshot: its name or job, or a unique beginning of one; the newest when left out.

    Raises:
        INVALID_PAYLOAD: an argument is not what it must be.
        SnapshotNotFoundError: there is no such snapshot, or more than one begins so.
        ProvisioningError: as of `list_snapshots`.
    """
    asked = validate_payload(SnapshotReference, {"project_id": project_id, "snapshot": snapshot})
    found = [(one, _names_of(one)) for one in list_snapshots(asked.project_id)]
    return choose(asked.project_id, asked.snapshot, found)


def restore_instance(
    project_id: str,
    snapshot: str | None = None,
    *,
    size: str | None = None,
    storage_gb: int | None = None,
) -> Job:
    """Enqueue a job that provisions a project with an instance made of a snapshot of Amazon RDS.

    All else of the project is as of a provision_project job that names nothing; `enqueue_job` takes
    a payload that does.

    Args:
        project_id: the project; it must not be ACTIVE.
        snapshot: the snapshot's name or job, or a unique beginning of one; the newest when left
            out.
        size: the instance class; that of the project's last instance when left out.
        storage_gb: gibibytes, 1 to 65,536; when left out, the larger of what the operator has set
            and what that instance had.

    Raises:
        INVALID_PAYLOAD: an argument is not what it must be.
        ProjectNotFoundError: there is no such project.
        SnapshotNotFoundError: there is no such snapshot, or more than one begins so.
        DATABASE_CHANGE_FAILED: the project is ACTIVE.
        ProvisioningError: Amazon RDS cannot be read.
    """
    asked = validate_payload(
        InstanceSnapshotReference,
        {
            "project_id": project_id,
            "snapshot": snapshot,
            "size": size,
            "storage_gb": storage_gb,
        },
    )
    settings = current_settings()
    project = get_project(asked.project_id)
    named = [(one, _names_of(one)) for one in _of_instances(settings, asked.project_id)]
    chosen = choose(asked.project_id, asked.snapshot, named)
    payload = build_restore_payload(project, chosen, size=asked.size, storage_gb=asked.storage_gb)
    return _job_client(settings).enqueue("provision_project", payload)


def restore_snapshot(
    project_id: str, snapshot: str | None = None, *, into: str | None = None
) -> RestoredSnapshot:
    """Restore a snapshot of a project's database into an empty one: all of it, or nothing.

    A snapshot is the tenant's own code. It is restored with the login of the target, which may be
    no superuser, nor create roles or databases.

    Args:
        project_id: whose snapshot.
        snapshot: its key or job, or a unique beginning of one; the newest when left out.
        into: a connection URL of PostgreSQL or MySQL; the project's own database and login when
            left out.

    Raises:
        INVALID_PAYLOAD: an argument is not what it must be; the message names it, and repeats none.
        SnapshotNotFoundError: there is no such dump, or more than one begins so. A snapshot of
            Amazon RDS is for `restore_instance`.
        ProjectNotFoundError: `into` is left out, and there is no such project.
        PROJECT_BUSY: `into` is left out, and a job works at the project.
        DATABASE_CHANGE_FAILED: the target is not empty, or its login may do more than a tenant, or
            it refuses the snapshot; nothing has been restored.
        ProvisioningError: the snapshot, or the target, cannot be reached.
    """
    asked = validate_payload(
        DumpReference, {"project_id": project_id, "snapshot": snapshot, "into": into}
    )
    # Its parts are the databases' drivers, which nothing else here needs.
    from provisioner.composition.restore import own_url, restore  # noqa: PLC0415

    settings = current_settings()
    found = _snapshots(settings).find(asked.project_id, asked.snapshot)
    if asked.into is None:
        return restore(settings, found, own_url(settings, get_project(asked.project_id)))
    return restore(settings, found, asked.into)


def list_dead_letters() -> list[DeadLetter]:
    """Read the messages that can never work, or that were never dispatched, oldest first.

    They stay where they are.
    """
    return _dead_letters(current_settings()).read()


def redrive_dead_letters(
    job_id: str | None = None,
    *,
    again: bool = False,
    on_redriven: Callable[[Redriven], None] | None = None,
) -> list[Redriven]:
    """Send dead letters back to the queue of jobs, each with its job's id.

    Args:
        job_id: only the letters of this job; all of them when left out.
        again: run a job again that has failed or was cancelled, as its next attempt. Without it
            the letter of such a job stays where it is.
        on_redriven: called with what became of each letter, before the next is looked at.

    Returns:
        what became of each letter; one that names another job's id stays where it is.
    """
    if job_id is not None:
        check_text("job_id", job_id)
    check_flag("again", again)
    if on_redriven is not None:
        check_function("on_redriven", on_redriven)
    return _dead_letters(current_settings()).redrive(job_id, again=again, on_redriven=on_redriven)


def _job_client(settings: PlatformSettings) -> JobClient:
    return JobClient(
        registry=REGISTRY,
        store=job_store(settings),
        queue=JobQueue(aws.client("sqs"), settings.queue_url),
    )


def _dead_letters(settings: PlatformSettings) -> DeadLetters:
    return DeadLetters(aws.client("sqs"), settings.dead_letter_queue_url, _job_client(settings))


def _api_keys(settings: PlatformSettings) -> ApiKeyStore:
    return ApiKeyStore(aws.client("dynamodb"), settings.api_keys_table)


def _snapshots(settings: PlatformSettings) -> Snapshots:
    return Snapshots(aws.client("s3"), settings.snapshots_bucket)


def _of_instances(settings: PlatformSettings, project_id: str) -> list[InstanceSnapshot]:
    project = project_store(settings).get(project_id)
    if project is None:
        return []
    naming = deployment.naming(settings)
    return list_instance_snapshots(project, rds=partial(aws.client, "rds"), naming=naming)


def _names_of(snapshot: Snapshot | InstanceSnapshot) -> Collection[str]:
    if isinstance(snapshot, Snapshot):
        return dump_names(snapshot.key)
    return snapshot.identifier, snapshot.job_id
