"""The project's own database instance, and the secret with its master user.

CREATING_INSTANCE, REPAIRING_INSTANCE, TAKING_INSTANCE_SNAPSHOT, REMOVING_INSTANCE.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial

from provisioner.aws_types import RDSClient, SecretsManagerClient
from provisioner.drivers import rds as driver
from provisioner.drivers.drift import Drift
from provisioner.drivers.rds_description import InstanceDescription
from provisioner.drivers.rds_snapshots import InstanceSnapshot, ensure_snapshot, find_snapshot
from provisioner.drivers.secrets import ensure_secret, read_secret, remove_secret
from provisioner.errors import ErrorType, failure
from provisioner.jobs.stage import JobInput, StageOutcome, Waiting
from provisioner.jobs.store import JobStore
from provisioner.ownership import Ownership
from provisioner.provisioning.clusters import SNAPSHOT_DAYS, ClusterCatalogue
from provisioner.provisioning.engine import Engine, new_password
from provisioner.provisioning.instances import RDS_ENGINES, DedicatedInstance, wanted_instance
from provisioner.provisioning.job_types import repair_project
from provisioner.provisioning.job_types.deprovision_project import (
    DeprovisionProjectPayload,
    InstanceSnapshotResult,
)
from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
from provisioner.provisioning.naming import Naming, instance_snapshot_name
from provisioner.provisioning.projects import (
    ProjectBusyError,
    ProjectReader,
    ProjectStatus,
    ProjectStore,
)
from provisioner.provisioning.quotas import QuotaReachedError
from provisioner.provisioning.stages.find_project import Location, locate, read_project
from provisioner.provisioning.stages.repair import report, skip

#: The master user of every instance. In a tenant's PostgreSQL database a schema of this name is the
#: platform's own, so that no tenant can make one, which the master's sessions would look into.
MASTER_USER = "provisioner"

#: MySQL takes 41. Source: Amazon RDS API Reference, CreateDBInstance, MasterUserPassword.
_PASSWORD_LENGTH = 40

_CREATION = ErrorType.DATABASE_CREATION_FAILED

#: Where the servers of a technology listen.
_PORTS = {Engine.POSTGRESQL: 5432, Engine.MYSQL: 3306}


def ensure_instance(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    kms_key_arn: str | None,
    rds: Callable[[str], RDSClient],
    naming: Naming,
) -> StageOutcome | Waiting:
    """Settle what the instance is to be, write its secret, and wait until AWS tells of an endpoint.

    The project's item keeps what is settled, and the secret is the truth of the master user: the
    next run goes on with both. CREATING_DATABASE finds out whether the server lets one log in.

    Raises:
        INVALID_PAYLOAD: the instance is not allowed any more, or the snapshot is gone or wrong.
        PROJECT_NOT_FOUND: the project is gone.
        QUOTA_EXCEEDED: the region has as many instances as the operator allows, or AWS does.
        CONFLICT: an instance or a secret of that name is not the project's.
        DATABASE_CREATION_FAILED: the instance has failed; and what `translate_errors` raises.
    """
    payload = job.payload_as(ProvisionProjectPayload)
    owner = naming.owner(payload.project_id, job.job_id)
    client = rds(payload.region)
    instance = read_project(job, projects).instance or _settle(
        job, payload, client, projects=projects, catalogue=catalogue, naming=naming
    )
    if isinstance(instance, Waiting):
        return instance
    password = _ensure_password(secrets_manager, instance, owner, kms_key_arn)
    wanted = replace(
        description(instance, password), kms_key_arn=_key_of_region(kms_key_arn, payload.region)
    )
    made = driver.ensure_instance(
        client, wanted, owner, snapshot=instance.snapshot, final=_CREATION
    )
    if not made.is_ready or made.host is None or made.port is None:
        return Waiting(f"the database instance {instance.identifier} is {made.status}")
    keep = partial(projects.places.keep_instance, payload.project_id)
    ask = partial(driver.change_master_password, client, wanted, claim=owner.owns, final=_CREATION)
    waiting = _wait_for_password(instance, made, ask=ask, keep=keep)
    if waiting is not None:
        return waiting
    keep(replace(instance, host=made.host, port=made.port, version=made.version))
    return StageOutcome(
        output={"identifier": made.identifier, "size": made.size, "storage_gb": made.storage_gb},
        check=f"database instance {made.identifier} is {made.status}, at {made.host}:{made.port}",
    )


def _key_of_region(kms_key_arn: str | None, region: str) -> str | None:
    """Return the deployment's key where it can encrypt an instance: in its own region alone."""
    if kms_key_arn is None or kms_key_arn.split(":")[3] != region:
        return None
    return kms_key_arn


def _ensure_password(
    secrets_manager: SecretsManagerClient,
    instance: DedicatedInstance,
    owner: Ownership,
    kms_key_arn: str | None,
) -> str:
    """Return the password of the instance's master user; write its secret if there is none."""
    login = ensure_secret(
        secrets_manager,
        name=instance.admin_secret,
        owner=owner,
        make=lambda: {"username": MASTER_USER, "password": new_password(_PASSWORD_LENGTH)},
        kms_key_arn=kms_key_arn,
        final=_CREATION,
    )
    return str(login.value["password"])


def _wait_for_password(
    instance: DedicatedInstance,
    made: driver.Instance,
    *,
    ask: Callable[[], bool],
    keep: Callable[[DedicatedInstance], None],
) -> Waiting | None:
    """Ask AWS to give the master user the secret's password, where a snapshot has brought another.

    To ask for that twice does no harm; the project's item keeps of which instance it was asked, so
    that it is once.
    """
    waiting = Waiting(f"the database instance {instance.identifier} gets its password")
    if instance.snapshot is None or instance.password_asked_of == made.resource_id:
        return waiting if made.is_password_pending else None
    if not ask():
        return Waiting(f"the database instance {instance.identifier} is {made.status}")
    # One that vanishes and is made of the snapshot again is another, and is asked anew.
    keep(replace(instance, password_asked_of=made.resource_id))
    # AWS may not tell yet that it has the password still to set: the next look does.
    return waiting


def description(instance: DedicatedInstance, password: str) -> InstanceDescription:
    """Return what AWS is asked for in an instance, with the password of its master user."""
    return InstanceDescription(
        identifier=instance.identifier,
        engine=RDS_ENGINES[instance.engine],
        version=instance.version,
        size=instance.size,
        storage_gb=instance.storage_gb,
        user=MASTER_USER,
        password=password,
        port=_PORTS[instance.engine],
        subnet_group=instance.subnet_group,
        security_group_ids=instance.security_group_ids,
        backup_days=instance.backup_days,
        deletion_protection=instance.deletion_protection,
    )


def _find_snapshot(
    client: RDSClient, payload: ProvisionProjectPayload, owner: Ownership
) -> InstanceSnapshot | None:
    """Return the snapshot that the instance is to be made of; None where it is made empty."""
    identifier = payload.database.snapshot
    if identifier is None:
        return None
    snapshot = find_snapshot(client, identifier, claim=owner.owns, final=_CREATION)
    if snapshot is None:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"database.snapshot: the project has no snapshot {identifier} in {payload.region}; "
            f"choose one of those that `provision snapshots list {payload.project_id}` shows.",
        )
    if snapshot.state not in {driver.RdsState.READY, driver.RdsState.PENDING}:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"database.snapshot: {identifier} is {snapshot.status}; choose another of those that "
            f"`provision snapshots list {payload.project_id}` shows.",
        )
    return snapshot


def _settle(
    job: JobInput,
    payload: ProvisionProjectPayload,
    client: RDSClient,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    naming: Naming,
) -> DedicatedInstance | Waiting:
    """Settle what the instance is to be, and count it; return what another run has settled."""
    snapshot = _find_snapshot(client, payload, naming.owner(payload.project_id, job.job_id))
    if snapshot is not None and snapshot.state is driver.RdsState.PENDING:
        return Waiting(f"the snapshot {snapshot.identifier} is {snapshot.status}")
    allowance = catalogue.allowance(payload.region, payload.database.engine)
    names = naming.names(payload.project_id)
    wanted = wanted_instance(payload, allowance, names, job_id=job.job_id, snapshot=snapshot)
    maximum = 0 if allowance is None else allowance.maximum
    try:
        projects.places.place(
            payload.project_id, wanted.identifier, wanted.quota, maximum, instance=wanted
        )
    except QuotaReachedError as error:
        raise failure(
            ErrorType.QUOTA_EXCEEDED,
            f"region: {payload.region} has reached its limit of {error.limit} "
            f"{payload.database.engine} instances; remove one or raise the limit.",
        ) from None
    except ProjectBusyError:
        # Another run of this stage has just settled it.
        settled = read_project(job, projects).instance
        if settled is None:
            raise failure(
                ErrorType.DATABASE_CREATION_FAILED,
                "The project has a place on a shared cluster, and is to have an instance; "
                "deprovision it first.",
            ) from None
        return settled
    return wanted


def ensure_instance_repaired(
    job: JobInput,
    *,
    jobs: JobStore,
    projects: ProjectReader,
    secrets_manager: SecretsManagerClient,
    rds: Callable[[str], RDSClient],
    naming: Naming,
) -> StageOutcome | Waiting:
    """Put right what has drifted of the instance; one that was stopped is started and waited for.

    Raises:
        PROJECT_NOT_FOUND: the project is gone.
        CONFLICT: the instance does not have the project's tags.
        DATABASE_CHANGE_FAILED: the instance or its secret is not there, or it has failed; and what
            `translate_errors` raises.
    """
    project = read_project(job, projects)
    instance = project.instance
    if instance is None:
        return skip("an instance of its own")
    login = read_secret(
        secrets_manager, instance.admin_secret, final=ErrorType.DATABASE_CHANGE_FAILED
    )
    found, repairs = driver.repair_instance(
        rds(instance.region),
        description(instance, str(login["password"])),
        naming.owner(project.project_id, job.job_id),
        final=ErrorType.DATABASE_CHANGE_FAILED,
    )
    started = f"the database instance {instance.identifier}, which was stopped, starts"
    record = jobs.get(job.job_id).stage(repair_project.REPAIRING_INSTANCE)
    was_stopped = record is not None and record.waiting_for == started
    if not found.is_ready:
        is_started = was_stopped or found.state is driver.RdsState.STOPPED or bool(repairs.repaired)
        pending = f"the database instance {instance.identifier} is {found.status}"
        return Waiting(started if is_started else pending)
    if was_stopped:
        # What was done before the wait is reported with the rest.
        drift = Drift(f"database instance {instance.identifier}", "was stopped")
        repairs = replace(repairs, repaired=(drift, *repairs.repaired))
    return report(repairs)


def ensure_instance_snapshot(
    job: JobInput,
    *,
    jobs: JobStore,
    projects: ProjectReader,
    catalogue: ClusterCatalogue,
    rds: Callable[[str], RDSClient],
    naming: Naming,
) -> StageOutcome | Waiting:
    """Have AWS take a snapshot of the instance, and wait until it can be restored.

    Run again, the stage finds the snapshot that it has begun. There is none of an instance that AWS
    never made, or that an earlier job has removed or begun to: that one has seen to it.

    Raises:
        DATABASE_CREATION_FAILED: the operator's parameter is wrong; the message names it.
        SNAPSHOT_FAILED: it has failed, or AWS takes none; and what `translate_errors` raises.
    """
    if not job.payload_as(DeprovisionProjectPayload).final_snapshot:
        return StageOutcome(skipped=True, check="the payload does without a snapshot")
    location = locate(job, projects, naming)
    instance = None if location.project is None else location.project.instance
    if instance is None:
        return StageOutcome(skipped=True, check="the project has no instance of its own")
    name, client = location.names.instance, rds(location.region)
    identifier = instance_snapshot_name(location.names, job.job_id)
    if _has_no_instance(client, location, identifier):
        check = f"the database instance {name} is gone, or goes, or was never made"
        return StageOutcome(skipped=True, check=check)
    snapshot = ensure_snapshot(
        client,
        identifier,
        instance=name,
        owner=location.owner,
        kept_until=jobs.now().date() + timedelta(days=_days(instance, catalogue)),
        final=ErrorType.SNAPSHOT_FAILED,
    )
    if snapshot is None:
        return Waiting(f"the database instance {name} takes no snapshot yet")
    if snapshot.state is not driver.RdsState.READY:
        return Waiting(f"the snapshot {identifier} is {snapshot.status}")
    return StageOutcome(
        output={"snapshot": _result(instance, snapshot).model_dump(mode="json")},
        check=f"the snapshot {identifier} can be restored",
    )


def _result(instance: DedicatedInstance, snapshot: InstanceSnapshot) -> InstanceSnapshotResult:
    return InstanceSnapshotResult(
        region=snapshot.region,
        identifier=snapshot.identifier,
        engine=instance.engine,
        size=instance.size,
        storage_gb=snapshot.storage_gb,
        server_version=snapshot.server_version,
        kept_until=snapshot.kept_until,
    )


def _days(instance: DedicatedInstance, catalogue: ClusterCatalogue) -> int:
    """Return for how long a snapshot is kept; the default where no instance is allowed any more."""
    allowance = catalogue.allowance(instance.region, instance.engine)
    return SNAPSHOT_DAYS if allowance is None else allowance.snapshot_days


def _has_no_instance(client: RDSClient, location: Location, identifier: str) -> bool:
    """Whether there is nothing to take a snapshot of, and no run before has begun to.

    Of an instance that a job has seen serve, and that none has begun to remove, nothing is asked.
    """
    project, claim, final = location.project, location.owner.owns, ErrorType.SNAPSHOT_FAILED
    if (
        project is not None
        and project.status_before is not ProjectStatus.DEPROVISIONING
        and project.instance is not None
        and project.instance.host is not None
    ):
        return False
    if find_snapshot(client, identifier, claim=claim, final=final) is not None:
        return False
    found = driver.find_instance(client, location.names.instance, claim=claim, final=final)
    return found is None or found.state is driver.RdsState.DELETING


def remove_instance(
    job: JobInput,
    *,
    projects: ProjectStore,
    secrets_manager: SecretsManagerClient,
    rds: Callable[[str], RDSClient],
    naming: Naming,
    only_this_job: bool,
) -> StageOutcome | Waiting:
    """Have the instance deleted, wait until it is gone, then remove its secret and its place.

    One that AWS is still creating cannot be deleted yet: the stage waits for that too. The secret
    goes after what it opens, and the place last: a crash in between leaves nothing that nobody
    finds. A project whose item is gone says by its payload whether it may have an instance.

    Raises:
        PROJECT_NOT_FOUND: nobody knows in which region it is.
        REMOVAL_FAILED: AWS refuses, for a reason that stays; and what `translate_errors` raises.
    """
    location = locate(job, projects, naming)
    project, project_id = location.project, location.project_id
    instance = None if project is None else project.instance
    is_asked_for = bool(job.payload.get("is_dedicated"))
    if instance is None and (project is not None or not is_asked_for):
        return StageOutcome(skipped=True, check="the project has no instance of its own")
    names, owner = location.names, location.owner
    claim = owner.claim(only_this_job=only_this_job)
    client = rds(location.region)
    left = driver.remove_instance(
        client, names.instance, claim=claim, final=ErrorType.REMOVAL_FAILED
    )
    if left is not None:
        return Waiting(f"the database instance {left.identifier} is {left.status}")
    remove_secret(
        secrets_manager, name=names.instance_secret, claim=claim, final=ErrorType.REMOVAL_FAILED
    )
    is_another_s = driver.find_instance(
        client, names.instance, claim=owner.owns, final=ErrorType.REMOVAL_FAILED
    )
    if instance is not None and is_another_s is None:
        projects.places.unplace(project_id, instance.identifier, instance.quota, job.job_id)
    return StageOutcome(check=f"no database instance named {names.instance} is left to remove")
