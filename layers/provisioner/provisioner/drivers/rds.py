"""Amazon RDS: one database instance of a project's own.

Nothing here waits. RDS makes, changes and deletes instances in its own time: each function looks,
begins what is missing, and says how far RDS is; who calls it looks again later. That the server
lets one log in is for the driver of the database to see.
Source: Amazon RDS API Reference; Amazon RDS User Guide, "Viewing DB instance status", "Stopping an
Amazon RDS DB instance temporarily", "Modifying an Amazon RDS DB instance", "Deleting a DB
instance".
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from botocore.exceptions import ClientError

from provisioner.aws_types import DBInstanceTypeDef, DBSnapshotTypeDef, RDSClient
from provisioner.drivers.aws_errors import code_of, short_cause, translate, translate_errors
from provisioner.drivers.drift import NOT_TOLD_YET, Drift, Repairs, drifts_of, find_drift
from provisioner.drivers.rds_description import (
    InstanceDescription,
    differences,
    grown_storage,
    name_of,
    settings,
    settings_of_new,
    wanted_settings,
)
from provisioner.errors import ErrorType, ProvisioningError, conflict, failure
from provisioner.ownership import Claim, Ownership, tags_of_list


class RdsState(StrEnum):
    """How far RDS is with an instance or a snapshot."""

    #: RDS is at work, or shows no endpoint yet: look again later.
    PENDING = "pending"
    #: An instance has an endpoint and serves; a snapshot can be restored.
    READY = "ready"
    #: Someone stopped the instance. It can be started.
    STOPPED = "stopped"
    #: It is being deleted, and its name is taken until it is gone.
    DELETING = "deleting"
    #: It stays as it is until someone acts.
    FAILED = "failed"


#: What each status of an instance means. Those that READY stands beside serve all the while; some
#: of them last for hours, such as backing-up after a restore. In the others the server may be away.
_STATES: dict[str, RdsState] = {
    "available": RdsState.READY,
    "backing-up": RdsState.READY,
    "configuring-enhanced-monitoring": RdsState.READY,
    "configuring-iam-database-auth": RdsState.READY,
    "configuring-log-exports": RdsState.READY,
    "storage-config-upgrade": RdsState.READY,
    "storage-initialization": RdsState.READY,
    "storage-optimization": RdsState.READY,
    "converting-to-vpc": RdsState.PENDING,
    "creating": RdsState.PENDING,
    "maintenance": RdsState.PENDING,
    "modifying": RdsState.PENDING,
    "moving-to-vpc": RdsState.PENDING,
    "rebooting": RdsState.PENDING,
    "renaming": RdsState.PENDING,
    "resetting-master-credentials": RdsState.PENDING,
    "starting": RdsState.PENDING,
    "stopping": RdsState.PENDING,
    "upgrading": RdsState.PENDING,
    "stopped": RdsState.STOPPED,
    "delete-precheck": RdsState.DELETING,
    "deleting": RdsState.DELETING,
    "failed": RdsState.FAILED,
    "inaccessible-encryption-credentials": RdsState.FAILED,
    "inaccessible-encryption-credentials-recoverable": RdsState.FAILED,
    "incompatible-create": RdsState.FAILED,
    "incompatible-network": RdsState.FAILED,
    "incompatible-option-group": RdsState.FAILED,
    "incompatible-parameters": RdsState.FAILED,
    "incompatible-restore": RdsState.FAILED,
    "insufficient-capacity": RdsState.FAILED,
    "restore-error": RdsState.FAILED,
    "storage-full": RdsState.FAILED,
}

#: What a status of RDS begins with that no table of ours has, and that stays until someone acts.
_FAILING = ("incompatible-", "inaccessible-")

#: What is wrong in a status that stays, and what to do.
_FAILURES: dict[str, str] = {
    "failed": "has failed for good; restore a backup or a snapshot of it",
    "inaccessible-encryption-credentials": (
        "cannot use its AWS KMS key any more; restore a backup under another key"
    ),
    "inaccessible-encryption-credentials-recoverable": (
        "cannot use its AWS KMS key; enable the key, then start the instance"
    ),
    "incompatible-network": (
        "finds no network: the subnets of its group are full or gone; make room in them"
    ),
    "incompatible-option-group": "does not work with its option group; give it another",
    "incompatible-parameters": (
        "does not start with its parameter group; correct the group, then reboot the instance"
    ),
    "insufficient-capacity": (
        "finds no capacity in its zone; delete it, and ask for another size or try in some hours"
    ),
    "restore-error": "could not be restored; delete it and restore the snapshot again",
    "storage-full": "has no storage left; give it more (rds modify-db-instance)",
}

#: What is used up in a region when RDS refuses by a quota, and the quota's name in Service Quotas.
_QUOTAS: dict[str, tuple[str, str]] = {
    "InstanceQuotaExceeded": ("database instances", "DB instances"),
    "StorageQuotaExceeded": ("storage of database instances", "Total storage for all DB instances"),
    "SnapshotQuotaExceeded": ("snapshots of database instances", "Manual DB instance snapshots"),
}

#: What RDS refuses an instance with whose subnet group is wrong.
_OF_SUBNETS = frozenset(
    {
        "DBSubnetGroupDoesNotCoverEnoughAZs",
        "DBSubnetGroupNotFoundFault",
        "InvalidSubnet",
        "InvalidVPCNetworkStateFault",
    }
)

#: What it refuses a size, version, storage or security group with that it has not, or not together.
_OF_SETTINGS = frozenset(
    {"InvalidParameterCombination", "InvalidParameterValue", "StorageTypeNotSupported"}
)

#: What RDS answers where the zones have no machine of the size left; it passes.
_NO_CAPACITY = "InsufficientDBInstanceCapacity"


@dataclass(frozen=True, slots=True)
class Instance:
    """What RDS says of an instance."""

    identifier: str
    #: Another for each instance that is made, also under the same identifier.
    resource_id: str
    #: RDS's word, such as `backing-up`.
    status: str
    #: What the status means. READY takes an endpoint besides.
    state: RdsState
    #: The endpoint; None where RDS tells of none yet.
    host: str | None
    port: int | None
    #: The whole version, such as `16.4`.
    version: str
    size: str
    storage_gb: int
    #: Whether its deletion protection is on.
    is_protected: bool = False
    #: Whether RDS has yet to set the master user's password that it was asked for.
    is_password_pending: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether it has an endpoint and serves."""
        return self.state is RdsState.READY


def ensure_instance(
    client: RDSClient,
    description: InstanceDescription,
    owner: Ownership,
    *,
    snapshot: str | None = None,
    final: ErrorType,
) -> Instance:
    """Return the project's instance; make it where it is missing, and put right what has drifted.

    One that was stopped is started. One that is being deleted is returned; a later call makes it.
    One that is made of a snapshot has its engine, encryption, version and master user with the
    password of that time: `change_master_password` gives it another.

    Args:
        client: RDS in the instance's region.
        description: what the instance is to be; the storage must be the snapshot's at least.
        owner: the marker of what the job makes.
        snapshot: what it is made of, whose it is has been looked at; None for one that is empty.
        final: the error type of causes that stay.

    Raises:
        CONFLICT: an instance of that identifier is not the project's.
        QUOTA_EXCEEDED: a quota of the account, or the instance's storage, is used up.
        NETWORK_ERROR: also where AWS has no capacity for the size now.
        final: also where the project's instance is another than described, or has failed, or the
            snapshot is gone.
        ProvisioningError: as `translate_errors` says.
    """
    verb = "create" if snapshot is None else "restore"
    with translate_rds_errors(final, f"{verb} the database instance"):
        found = _describe(client, description.identifier)
        if found is None:
            made = _make(client, description, owner, snapshot, final)
            if made is not None:
                return made
            # Another run has just made it, or someone else has.
            found = _describe(client, description.identifier)
        if found is None:
            raise failure(
                ErrorType.TIMEOUT,
                "The database instance of the project changed while it was created.",
                f"instance {description.identifier}: is there and is not",
            )
        return _make_right(client, found, description, owner, final)


def _make(
    client: RDSClient,
    description: InstanceDescription,
    owner: Ownership,
    snapshot: str | None,
    final: ErrorType,
) -> Instance | None:
    """Make an instance; None where there is one by now."""
    try:
        made = (
            _create(client, description, owner)
            if snapshot is None
            else _restore(client, description, owner, snapshot, final)
        )
    except client.exceptions.DBInstanceAlreadyExistsFault:
        return None
    except ClientError as error:
        raise _explain(error, description, final) from None
    return _read_changed(made, description.identifier)


def _create(
    client: RDSClient, description: InstanceDescription, owner: Ownership
) -> DBInstanceTypeDef:
    key = {} if description.kms_key_arn is None else {"KmsKeyId": description.kms_key_arn}
    return client.create_db_instance(
        Engine=description.engine,
        EngineVersion=description.version,
        AllocatedStorage=description.storage_gb,
        MasterUsername=description.user,
        MasterUserPassword=description.password,
        StorageEncrypted=True,
        **{**settings_of_new(description, owner), **key},
    )["DBInstance"]


def _restore(
    client: RDSClient,
    description: InstanceDescription,
    owner: Ownership,
    snapshot: str,
    final: ErrorType,
) -> DBInstanceTypeDef:
    try:
        restored = client.restore_db_instance_from_db_snapshot(
            DBSnapshotIdentifier=snapshot,
            AllocatedStorage=description.storage_gb,
            **settings_of_new(description, owner),
        )["DBInstance"]
    except client.exceptions.DBSnapshotNotFoundFault as error:
        raise failure(
            final,
            f"The snapshot {snapshot} is gone; choose another of those that `provision snapshots "
            "list` shows.",
            short_cause(error),
        ) from None
    _read_changed(restored, description.identifier)
    if not owner.owns(tags_of(restored)):
        # It comes into being with its tags; an emulator may leave them out.
        client.add_tags_to_resource(ResourceName=restored["DBInstanceArn"], Tags=owner.tag_list())
    return restored


def _make_right(
    client: RDSClient,
    found: DBInstanceTypeDef,
    description: InstanceDescription,
    owner: Ownership,
    final: ErrorType,
) -> Instance:
    """Start what was stopped, put right what has drifted, and refuse what is not as described."""
    identifier = description.identifier
    if not owner.owns(tags_of(found)):
        raise conflict("database instance", identifier)
    instance = _usable(found, final)
    if instance.state is RdsState.DELETING:
        return instance
    difference = next(differences(found, description), None)
    if difference is not None:
        raise failure(
            final,
            f"The database instance {identifier} of the project is another than asked for. "
            f"{difference.why}",
            f"instance {identifier}: {difference.what}",
        )
    if instance.state is RdsState.STOPPED:
        return start_instance(client, identifier)
    # In no other status it can be modified, and a project can be made all the same.
    if instance.status == "available" and _put_right(client, found, description):
        return _instance(_describe(client, identifier) or found)
    return instance


def find_instance(
    client: RDSClient, identifier: str, *, claim: Claim, final: ErrorType
) -> Instance | None:
    """Return the instance, if it is there and claimed.

    An instance that someone has renamed is not there.

    Raises:
        ProvisioningError: as `translate_errors` says.
    """
    with translate_rds_errors(final, "look at the database instance"):
        return _find(client, identifier, claim)


def remove_instance(
    client: RDSClient, identifier: str, *, claim: Claim, final: ErrorType
) -> Instance | None:
    """Begin to delete the instance, if it is there and claimed; say what is left of it.

    No final snapshot is taken, and the automated backups go with the instance. Its deletion
    protection is switched off first: it is there for people, not for the platform. Where RDS does
    not take the request in the instance's status, such as creating, a later call asks again.

    Returns:
        The instance as it is; None where it is gone, or is unclaimed.

    Raises:
        ProvisioningError: as `translate_errors` says.
    """
    with translate_rds_errors(final, "remove the database instance"):
        instance = _find(client, identifier, claim)
        if instance is None or instance.state is RdsState.DELETING:
            return instance
        if instance.is_protected and instance.state is RdsState.STOPPED:
            # A stopped instance cannot be modified.
            return start_instance(client, identifier)
        try:
            # While it is being switched off, RDS refuses to delete the instance for good.
            if not instance.is_protected or _unprotect(client, identifier):
                client.delete_db_instance(
                    DBInstanceIdentifier=identifier,
                    SkipFinalSnapshot=True,
                    DeleteAutomatedBackups=True,
                )
        except client.exceptions.DBInstanceNotFoundFault:
            return None  # Another run has just deleted it.
        except client.exceptions.InvalidDBInstanceStateFault:
            pass  # It is being made, changed, or deleted by another run.
        return _find(client, identifier, claim)


def _unprotect(client: RDSClient, identifier: str) -> bool:
    """Switch an instance's deletion protection off; return whether it is off at once."""
    modified = client.modify_db_instance(DBInstanceIdentifier=identifier, DeletionProtection=False)
    return not modified["DBInstance"].get("DeletionProtection", False)


def change_master_password(
    client: RDSClient, description: InstanceDescription, *, claim: Claim, final: ErrorType
) -> bool:
    """Ask for the password for the instance's master user; RDS sets it within some minutes.

    Until it has, `is_password_pending` says so of the instance. Source: Amazon RDS API Reference,
    ModifyDBInstance, MasterUserPassword.

    Args:
        client: RDS in the instance's region.
        description: the instance, with the password.
        claim: says whether it may be changed.
        final: the error type of causes that stay.

    Returns:
        Whether RDS takes the request in the instance's status; if not, a later call asks again.

    Raises:
        final: also where there is no such instance that is claimed.
        ProvisioningError: as `translate_errors` says.
    """
    identifier = description.identifier
    with translate_rds_errors(final, "change the password of the database instance"):
        if _find(client, identifier, claim) is None:
            raise _missing(identifier, final)
        try:
            modified = client.modify_db_instance(
                DBInstanceIdentifier=identifier, MasterUserPassword=description.password
            )["DBInstance"]
        except client.exceptions.InvalidDBInstanceStateFault:
            return False
        _read_changed(modified, identifier)
    return True


def repair_instance(
    client: RDSClient, description: InstanceDescription, owner: Ownership, *, final: ErrorType
) -> tuple[Instance, Repairs]:
    """Put right what has drifted of the project's instance; start it where it was stopped.

    Its class and storage stay: to change them back would interrupt the customer, or cannot be done.
    Where the instance that is returned is not ready, RDS is still at work, and what else has
    drifted is for a later call: the repairs of all calls together are what was done.

    Raises:
        CONFLICT: the instance does not have the project's tags.
        TIMEOUT: also where the instance cannot be modified in its present status.
        final: also where it is not there, or has failed.
        ProvisioningError: as `translate_errors` says.
    """
    identifier, name = description.identifier, name_of(description.identifier)
    with translate_rds_errors(final, "repair the database instance"):
        found = _describe(client, identifier)
        if found is None:
            raise _missing(identifier, final)
        if not owner.owns(tags_of(found)):
            raise failure(
                ErrorType.CONFLICT,
                f"The {name} does not have the project's tags; give them back to it.",
            )
        instance = _usable(found, final)
        if instance.state is RdsState.STOPPED:
            return start_instance(client, identifier), Repairs(
                (Drift(name, "was stopped and was started"),), checked=f"{name} is starting"
            )
        if not instance.is_ready:
            return instance, Repairs(checked=_say_answered(instance))
        before = _put_right(client, found, description)
        found = (_describe(client, identifier) if before else None) or found
        after = find_drift(settings(found), wanted_settings(found, description), untold=False)
    return _instance(found), Repairs.of(
        drifts_of(name, before),
        dict.fromkeys(drifts_of(name, after), NOT_TOLD_YET),
        _say_answered(_instance(found)),
        (*differences(found, description), *grown_storage(found, description)),
    )


@contextmanager
def translate_rds_errors(final: ErrorType, doing: str) -> Iterator[None]:
    """Raise what RDS raises in the body as an error of the table, with what to do where we know it.

    Args:
        final: the type of causes that stay.
        doing: as of `translate_errors`.
    """
    with translate_errors(final, doing):
        try:
            yield
        except ClientError as error:
            code = code_of(error)
            if code in _QUOTAS:
                used_up, quota = _QUOTAS[code]
                raise failure(
                    ErrorType.QUOTA_EXCEEDED,
                    f"The AWS account may have no more {used_up} in this region; raise its quota "
                    f'"{quota}" of Amazon RDS, or delete some.',
                    short_cause(error),
                ) from None
            if code == _NO_CAPACITY:
                raise failure(
                    ErrorType.NETWORK_ERROR,
                    "AWS has no capacity now for a database instance of this size in the zones of "
                    "its subnet group.",
                    short_cause(error),
                ) from None
            raise


def start_instance(client: RDSClient, identifier: str) -> Instance:
    """Start an instance that was stopped, and return it as it is then.

    Raises:
        botocore.exceptions.ClientError: it cannot be started.
    """
    try:
        return _read_changed(
            client.start_db_instance(DBInstanceIdentifier=identifier)["DBInstance"], identifier
        )
    except client.exceptions.InvalidDBInstanceStateFault:
        # Another run has just started it, or it is not quite stopped.
        found = _describe(client, identifier)
        if found is None:
            raise
        return _instance(found)


def _explain(error: ClientError, description: InstanceDescription, final: ErrorType) -> Exception:
    """Say what is to be corrected where RDS refuses to make an instance; else return the error."""
    code = code_of(error)
    if code in _OF_SUBNETS:
        wrong = (
            f"RDS makes no instance in the subnet group {description.subnet_group}; correct it, or "
            "the description of what instances may be."
        )
    elif code in _OF_SETTINGS:
        wrong = (
            f"RDS makes no instance {description.size} of {description.engine} "
            f"{description.version} with {description.storage_gb} GB and the operator's settings; "
            "ask for another, or correct the description of what instances may be."
        )
    else:
        return error
    return failure(final, wrong, translate(error, final, "").cause)


def _find(client: RDSClient, identifier: str, claim: Claim) -> Instance | None:
    found = _describe(client, identifier)
    return _instance(found) if found is not None and claim(tags_of(found)) else None


def _describe(client: RDSClient, identifier: str) -> DBInstanceTypeDef | None:
    try:
        answer = client.describe_db_instances(DBInstanceIdentifier=identifier)
    except client.exceptions.DBInstanceNotFoundFault:
        return None
    return the_one(answer["DBInstances"], "DBInstanceIdentifier", identifier)


def the_one[Found: Mapping[str, Any]](answer: Sequence[Found], key: str, identifier: str) -> Found:
    """Return the instance or snapshot that was asked for, or changed, from what RDS has answered.

    RDS says that there is none by an error; a list without it is no answer.

    Raises:
        NETWORK_ERROR: RDS has answered with another thing.
    """
    match answer:
        case [found] if found[key] == identifier:
            return found
        case _:
            raise failure(
                ErrorType.NETWORK_ERROR,
                "AWS answered another question while we tried to look at the database instance.",
                f"RDS: an answer of another {key}",
            )


def _read_changed(described: DBInstanceTypeDef, identifier: str) -> Instance:
    """Return an instance as RDS describes it after a change of it."""
    return _instance(the_one([described], "DBInstanceIdentifier", identifier))


def tags_of(found: DBInstanceTypeDef | DBSnapshotTypeDef) -> dict[str, str]:
    """Return the tags of an instance or a snapshot."""
    return tags_of_list(found.get("TagList", []))


def _instance(found: DBInstanceTypeDef) -> Instance:
    endpoint = found.get("Endpoint", {})
    status = found["DBInstanceStatus"]
    # Of a status that no table has, a login will tell.
    unheard = RdsState.FAILED if status.startswith(_FAILING) else RdsState.READY
    state = _STATES.get(status, unheard)
    if state is RdsState.READY and "Address" not in endpoint:
        state = RdsState.PENDING
    return Instance(
        identifier=found["DBInstanceIdentifier"],
        resource_id=found["DbiResourceId"],
        status=status,
        state=state,
        host=endpoint.get("Address"),
        port=endpoint.get("Port"),
        version=found["EngineVersion"],
        size=found["DBInstanceClass"],
        storage_gb=found["AllocatedStorage"],
        is_protected=found.get("DeletionProtection", False),
        is_password_pending="MasterUserPassword" in found.get("PendingModifiedValues", {}),
    )


def _usable(found: DBInstanceTypeDef, final: ErrorType) -> Instance:
    """Return an instance that serves, or will without anyone acting.

    Raises:
        QUOTA_EXCEEDED: its storage is full.
        final: it has failed.
    """
    instance = _instance(found)
    if instance.state is RdsState.FAILED:
        unheard = f"is in the status {instance.status}; look at its events in Amazon RDS"
        raise failure(
            ErrorType.QUOTA_EXCEEDED if instance.status == "storage-full" else final,
            f"The database instance {instance.identifier} of the project "
            f"{_FAILURES.get(instance.status, unheard)}.",
            f"instance {instance.identifier}: {instance.status}",
        )
    return instance


def _missing(identifier: str, final: ErrorType) -> ProvisioningError:
    return failure(
        final,
        f"The database instance {identifier} of the project is not there: it was deleted or "
        "renamed. Name it so again, or deprovision the project and restore its last snapshot.",
        "DescribeDBInstances: DBInstanceNotFound",
    )


def _say_answered(instance: Instance) -> str:
    return f"database instance {instance.identifier} answered: {instance.status}"


def _put_right(
    client: RDSClient, found: DBInstanceTypeDef, description: InstanceDescription
) -> list[str]:
    """Put right what has drifted, and return it.

    ApplyImmediately is left out: it would bring forward what an operator has put off until the
    maintenance window. RDS applies these changes at once without it, but the switch from no
    backups to some.
    """
    wanted = wanted_settings(found, description)
    wrong = find_drift(settings(found), wanted, untold=False)
    if wrong:
        client.modify_db_instance(
            DBInstanceIdentifier=description.identifier, **{name: wanted[name] for name in wrong}
        )
    return wrong
