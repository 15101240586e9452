"""CREATING_INSTANCE: the project's own database instance, and the secret with its master user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from provisioner.drivers.rds import ensure_instance as ensure_rds_instance
from provisioner.drivers.rds_description import InstanceDescription
from provisioner.drivers.secrets import ensure_secret
from provisioner.errors import ErrorType, failure
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput, StageOutcome, Waiting
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.provisioning.engine import Engine, new_password
from provisioner.provisioning.instances import DedicatedInstance, wanted_instance
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

#: What Amazon RDS calls a technology, and where its servers listen.
_RDS_ENGINES = {Engine.POSTGRESQL: ("postgres", 5432), Engine.MYSQL: ("mysql", 3306)}


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

    Raises:
        INVALID_PAYLOAD: the operator does not allow the instance any more.
        PROJECT_NOT_FOUND: the project is gone.
        QUOTA_EXCEEDED: the region has as many instances as the operator allows, or AWS does.
        CONFLICT: an instance or a secret of that name is not the project's.
        DATABASE_CREATION_FAILED: the instance has failed; and what `translated` raises.
    """
    payload = validate_payload(ProvisionProjectPayload, job.payload)
    owner = naming.owner(payload.project_id, job.job_id)
    instance = _ensure_settled(job, payload, projects, catalogue, naming)
    login = ensure_secret(
        secrets_manager,
        name=instance.admin_secret,
        owner=owner,
        make=lambda: {"username": MASTER_USER, "password": new_password(_PASSWORD_LENGTH)},
        final=_FINAL,
    )
    made = ensure_rds_instance(
        rds(instance.region),
        description(instance, str(login.value["password"])),
        owner,
        final=_FINAL,
    )
    if not made.is_ready or made.host is None or made.port is None:
        return Waiting(f"the database instance {instance.identifier} is {made.status}")
    projects.reach(
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
    engine, port = _RDS_ENGINES[instance.engine]
    return InstanceDescription(
        identifier=instance.identifier,
        engine=engine,
        version=instance.version,
        size=instance.size,
        storage_gb=instance.storage_gb,
        user=MASTER_USER,
        password=password,
        port=port,
        subnet_group=instance.subnet_group,
        security_group_ids=instance.security_group_ids,
        backup_days=instance.backup_days,
        deletion_protection=instance.deletion_protection,
    )


def _ensure_settled(
    job: JobInput,
    payload: ProvisionProjectPayload,
    projects: ProjectStore,
    catalogue: ClusterCatalogue,
    naming: Naming,
) -> DedicatedInstance:
    """Return what the instance is to be; settle it if it is not, and count it."""
    project = found(payload.project_id, projects)
    if project.instance is not None:
        return project.instance
    allowance = catalogue.allowance(payload.region, payload.database.engine)
    wanted = wanted_instance(
        payload, allowance, naming.names(payload.project_id), job_id=job.job_id
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
