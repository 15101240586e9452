"""CREATING_INSTANCE: the project's own database instance, and the secret with its master user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from provisioner.drivers import rds as driver
from provisioner.drivers.rds import RdsState
from provisioner.drivers.rds_description import InstanceDescription
from provisioner.drivers.rds_snapshots import InstanceSnapshot, find_snapshot
from provisioner.drivers.secrets import ensure_secret
from provisioner.errors import ErrorType, failure
from provisioner.jobs.outcome import StageOutcome, Waiting
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.ownership import Ownership
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.engine import Engine, new_password
from provisioner.provisioning.instances import RDS_ENGINES, DedicatedInstance, wanted_instance
from provisioner.provisioning.job_types.provision_project import ProvisionProjectPayload
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectBusyError, ProjectStore, QuotaReachedError
from provisioner.provisioning.stages.find_project import found

if TYPE_CHECKING:
    from mypy_boto3_rds.client import RDSClient
    from mypy_boto3_secretsmanager.client import SecretsManagerClient

_FINAL = ErrorType.DATABASE_CREATION_FAILED

#: The master user of every instance. In a tenant's PostgreSQL database a schema of this name is the
#: platform's own, so that no tenant can make one, which the master's sessions would look into.
MASTER_USER = "provisioner"

#: MySQL takes 41. Source: Amazon RDS API Reference, CreateDBInstance, MasterUserPassword.
_PASSWORD_LENGTH = 40

#: Where the servers of a technology listen.
_PORTS = {Engine.POSTGRESQL: 5432, Engine.MYSQL: 3306}


def ensure_instance(
    job: JobInput,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    secrets_manager: SecretsManagerClient,
    rds: Callable[[str], RDSClient],
    naming: Naming,
) -> StageOutcome | Waiting:
    """Settle what the instance is to be, write its secret, and wait until AWS tells of an endpoint.

    What is settled stands in the project's item from then on, and the secret is the truth of the
    master user: whatever a crash leaves, the next run goes on with both. That the server lets one
    log in, CREATING_DATABASE finds out, which can reach it.

    An instance that is made of a snapshot comes with the password that its master user had then. It
    is given the secret's once it serves, and the stage waits until AWS has set it. To ask for that
    twice does no harm; the project's item keeps of which instance it was asked, so that it is once.

    Raises:
        INVALID_PAYLOAD: the operator does not allow the instance any more, or the project has no
            such snapshot, or the snapshot does not fit what is asked for.
        PROJECT_NOT_FOUND: the project is gone.
        QUOTA_EXCEEDED: the region has as many instances as the operator allows, or AWS does.
        CONFLICT: an instance or a secret of that name is not the project's.
        DATABASE_CREATION_FAILED: the instance has failed; and what `translated` raises.
    """
    payload = validate_payload(ProvisionProjectPayload, job.payload)
    owner = naming.owner(payload.project_id, job.job_id)
    client = rds(payload.region)
    instance = found(payload.project_id, projects).instance
    if instance is None:
        snapshot = _find_snapshot(client, payload, owner)
        if snapshot is not None and snapshot.state is RdsState.PENDING:
            return Waiting(f"the snapshot {snapshot.identifier} is {snapshot.status}")
        instance = _settle(
            job, payload, snapshot, projects=projects, catalogue=catalogue, naming=naming
        )
    login = ensure_secret(
        secrets_manager,
        name=instance.admin_secret,
        owner=owner,
        make=lambda: {"username": MASTER_USER, "password": new_password(_PASSWORD_LENGTH)},
        final=_FINAL,
    )
    password = str(login.value["password"])
    wanted = description(instance, password)
    if instance.snapshot is None:
        made = driver.ensure_instance(client, wanted, owner, final=_FINAL)
    else:
        made = driver.restore_instance(
            client, wanted, owner, snapshot=instance.snapshot, final=_FINAL
        )
    if not made.is_ready or made.host is None or made.port is None:
        return Waiting(f"the database instance {instance.identifier} is {made.status}")
    if instance.snapshot is not None and instance.password_asked_of != made.resource_id:
        if not driver.change_master_password(
            client, instance.identifier, password=password, claim=owner.owns, final=_FINAL
        ):
            return Waiting(f"the database instance {instance.identifier} is {made.status}")
        # One that vanishes and is made of the snapshot again is another, and is asked anew.
        instance = replace(instance, password_asked_of=made.resource_id)
        projects.keep_instance(payload.project_id, instance)
        # AWS may not tell yet that it has the password still to set: the next look does.
        return Waiting(f"the database instance {instance.identifier} gets its password")
    if made.is_password_pending:
        return Waiting(f"the database instance {instance.identifier} gets its password")
    projects.keep_instance(
        payload.project_id,
        replace(instance, host=made.host, port=made.port, version=made.version),
    )
    return StageOutcome(
        output={
            "identifier": made.identifier,
            "size": made.size,
            "storage_gb": made.storage_gb,
        },
        check=f"database instance {made.identifier} is {made.status}, at {made.host}:{made.port}",
    )


def description(instance: DedicatedInstance, password: str) -> InstanceDescription:
    """Return what AWS is told of an instance, with the password of its master user."""
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
    snapshot = find_snapshot(client, identifier, claim=owner.owns, final=_FINAL)
    if snapshot is None:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"database.snapshot: the project has no snapshot {identifier} in {payload.region}; "
            f"choose one of those that `provision snapshots list {payload.project_id}` shows.",
        )
    if snapshot.state not in {RdsState.READY, RdsState.PENDING}:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"database.snapshot: {identifier} is {snapshot.status}; choose another of those that "
            f"`provision snapshots list {payload.project_id}` shows.",
        )
    return snapshot


def _settle(
    job: JobInput,
    payload: ProvisionProjectPayload,
    snapshot: InstanceSnapshot | None,
    *,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    naming: Naming,
) -> DedicatedInstance:
    """Settle what the instance is to be, and count it; return what another run has settled."""
    allowance = catalogue.allowance(payload.region, payload.database.engine)
    wanted = wanted_instance(
        payload,
        allowance,
        naming.names(payload.project_id),
        job_id=job.job_id,
        snapshot=snapshot,
    )
    maximum = 0 if allowance is None else allowance.maximum
    try:
        projects.place(
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
        settled = found(payload.project_id, projects).instance
        if settled is None:
            raise failure(
                _FINAL,
                "The project has a place on a shared cluster, and is to have an instance; "
                "deprovision it first.",
            ) from None
        return settled
    return wanted
