"""Amazon RDS: snapshots of a project's instance, taken when someone asks for one.

RDS keeps such a snapshot until someone deletes it, the instance or not.
Source: Amazon RDS API Reference, CreateDBSnapshot, DescribeDBSnapshots, DeleteDBSnapshot; Amazon
RDS User Guide, "Creating a DB snapshot for a Single-AZ DB instance".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

from provisioner.aws_types import DBSnapshotTypeDef, RDSClient
from provisioner.drivers.rds import (
    RdsState,
    find_instance,
    start_instance,
    tags_of,
    the_one,
    translate_rds_errors,
)
from provisioner.errors import ErrorType, failure
from provisioner.ownership import JOB_TAG, PROJECT_TAG, Claim, Ownership

#: The last day, such as 2026-02-26, on which a snapshot is kept. RDS itself takes no notice of it.
KEPT_UNTIL_TAG = "provisioner:kept-until"

#: The statuses in which RDS takes a snapshot of an instance.
_TAKEN_IN = frozenset({"available", "storage-optimization"})

#: What each status of a snapshot means; in any other RDS is at work.
_STATES = {
    "available": RdsState.READY,
    "deleting": RdsState.DELETING,
    "failed": RdsState.FAILED,
}

#: Snapshots that someone has asked for; RDS takes others by itself and deletes them.
_TYPE = "manual"

_IDENTIFIER = "DBSnapshotIdentifier"

#: The most that DescribeDBSnapshots returns at once.
_PAGE_SIZE = 100


@dataclass(frozen=True, slots=True)
class InstanceSnapshot:
    """One snapshot of Amazon RDS, as RDS tells of it."""

    #: Its name in RDS.
    identifier: str
    region: str
    #: Whose it is, and the job that took it; empty where no tag says.
    project_id: str
    job_id: str
    #: The instance that it was taken of.
    instance: str
    #: RDS's word, such as `creating`.
    status: str
    #: What the status means: PENDING, READY, DELETING or FAILED.
    state: RdsState
    #: RDS's word, such as `postgres`.
    engine: str
    #: The version of the server that it was taken of, such as 18.1.
    server_version: str
    #: Gibibytes of the instance, which one that is made of it needs at least.
    storage_gb: int
    #: When RDS took it; None until it has.
    taken_at: datetime | None
    #: The last day on which it is kept; None where no tag says, and then it stays.
    kept_until: date | None


def ensure_snapshot(
    client: RDSClient,
    identifier: str,
    *,
    instance: str,
    owner: Ownership,
    kept_until: date,
    final: ErrorType,
) -> InstanceSnapshot | None:
    """Return the project's snapshot of that identifier; begin to take it where there is none.

    An instance that was stopped is started. A snapshot that failed is deleted, so that the next
    run of the job can take it.

    Args:
        client: RDS in the instance's region.
        identifier: the snapshot.
        instance: the instance.
        owner: the marker of what the job makes.
        kept_until: the last day on which a snapshot that is begun now is kept.
        final: the error type of causes that stay.

    Returns:
        The snapshot; None where the instance is in a status in which RDS takes none yet.

    Raises:
        CONFLICT: a snapshot of that identifier is not the project's, or of another instance.
        QUOTA_EXCEEDED: a quota of the account is used up.
        final: also where the project's instance is not there, or RDS could not take the snapshot.
        ProvisioningError: as `translate_errors` says.
    """
    with translate_rds_errors(final, "take a snapshot of the database instance"):
        found = _describe(client, identifier)
        if found is None and _can_be_taken(client, instance, owner, final):
            found = _take(client, identifier, instance, owner, kept_until)
        if found is None:
            return None
        _refuse_unusable(client, found, instance, owner, final)
    return _snapshot(client, found)


def _refuse_unusable(
    client: RDSClient,
    found: DBSnapshotTypeDef,
    instance: str,
    owner: Ownership,
    final: ErrorType,
) -> None:
    """Refuse a snapshot that is not ours, and delete one that has failed."""
    identifier = found["DBSnapshotIdentifier"]
    if not owner.owns(tags_of(found)) or found["DBInstanceIdentifier"] != instance:
        raise failure(
            ErrorType.CONFLICT,
            f"A snapshot named {identifier} exists and is not of this project's instance; "
            "delete it.",
        )
    if found["Status"] == "failed":
        client.delete_db_snapshot(DBSnapshotIdentifier=identifier)
        raise failure(
            final,
            f"RDS could not take the snapshot {identifier} of the database instance "
            f"{instance}; look at the instance's events, then run the job again.",
            f"snapshot {identifier}: failed",
        )


def _take(
    client: RDSClient, identifier: str, instance: str, owner: Ownership, kept_until: date
) -> DBSnapshotTypeDef | None:
    try:
        taken = client.create_db_snapshot(
            DBSnapshotIdentifier=identifier,
            DBInstanceIdentifier=instance,
            Tags=[*owner.tag_list(), {"Key": KEPT_UNTIL_TAG, "Value": kept_until.isoformat()}],
        )
    except client.exceptions.InvalidDBInstanceStateFault:
        return None  # Its status has changed meanwhile.
    except client.exceptions.DBSnapshotAlreadyExistsFault:
        # Another run has just begun it, or someone else has.
        return _describe(client, identifier)
    return the_one([taken["DBSnapshot"]], _IDENTIFIER, identifier)


def find_snapshot(
    client: RDSClient, identifier: str, *, claim: Claim, final: ErrorType
) -> InstanceSnapshot | None:
    """Return the snapshot, if it is there and claimed.

    Raises:
        ProvisioningError: as `translate_errors` says.
    """
    with translate_rds_errors(final, "look at a snapshot of the database instance"):
        return _find(client, identifier, claim)


def list_snapshots(client: RDSClient, *, claim: Claim, final: ErrorType) -> list[InstanceSnapshot]:
    """Return the snapshots of the region that are claimed, newest first.

    A request for every 100 snapshots of the region: RDS finds them by their instance only while it
    is there.

    Raises:
        ProvisioningError: as `translate_errors` says.
    """
    with translate_rds_errors(final, "list the snapshots of the database instance"):
        pages = client.get_paginator("describe_db_snapshots").paginate(
            SnapshotType=_TYPE, PaginationConfig={"PageSize": _PAGE_SIZE}
        )
        found = [
            _snapshot(client, snapshot)
            for page in pages
            for snapshot in page["DBSnapshots"]
            if claim(tags_of(snapshot))
        ]
    # One that RDS has not taken yet is the newest.
    return sorted(
        found,
        key=lambda it: (-it.taken_at.timestamp() if it.taken_at else -math.inf, it.identifier),
    )


def remove_snapshot(
    client: RDSClient, identifier: str, *, claim: Claim, final: ErrorType
) -> InstanceSnapshot | None:
    """Delete the snapshot, if it is there and claimed; say what is left of it.

    Returns:
        The snapshot as it is; None where it is gone, or is unclaimed. One that is still being taken
        cannot be deleted: a later call asks again.

    Raises:
        ProvisioningError: as `translate_errors` says.
    """
    with translate_rds_errors(final, "delete a snapshot of the database instance"):
        if _find(client, identifier, claim) is None:
            return None
        try:
            client.delete_db_snapshot(DBSnapshotIdentifier=identifier)
        except client.exceptions.DBSnapshotNotFoundFault:
            return None  # Another run has just deleted it.
        except client.exceptions.InvalidDBSnapshotStateFault:
            pass  # It is being taken, or deleted.
        return _find(client, identifier, claim)


def kept_until_of(tags: Mapping[str, str]) -> date | None:
    """Return the last day on which a snapshot of these tags is kept; None where they do not say."""
    try:
        return date.fromisoformat(tags.get(KEPT_UNTIL_TAG, ""))
    except ValueError:
        return None


def _can_be_taken(client: RDSClient, identifier: str, owner: Ownership, final: ErrorType) -> bool:
    """Whether the instance is in a status in which RDS takes a snapshot of it now."""
    instance = find_instance(client, identifier, claim=owner.owns, final=final)
    if instance is None:
        raise failure(
            final,
            f"The database instance {identifier} of the project is not there, so there is nothing "
            "to take a snapshot of: it was deleted or renamed. Name it so again, or deprovision "
            "the project without a final snapshot.",
            "DescribeDBInstances: DBInstanceNotFound, or another project's tags",
        )
    if instance.state in {RdsState.FAILED, RdsState.DELETING}:
        raise failure(
            final,
            f"RDS takes no snapshot of the database instance {identifier} while its status is "
            f"{instance.status}; change that, or deprovision the project without a final snapshot.",
            f"instance {identifier}: {instance.status}",
        )
    if instance.state is RdsState.STOPPED:
        start_instance(client, identifier)
    return instance.status in _TAKEN_IN


def _find(client: RDSClient, identifier: str, claim: Claim) -> InstanceSnapshot | None:
    found = _describe(client, identifier)
    return _snapshot(client, found) if found is not None and claim(tags_of(found)) else None


def _describe(client: RDSClient, identifier: str) -> DBSnapshotTypeDef | None:
    try:
        answer = client.describe_db_snapshots(DBSnapshotIdentifier=identifier)
    except client.exceptions.DBSnapshotNotFoundFault:
        return None
    return the_one(answer["DBSnapshots"], _IDENTIFIER, identifier)


def _snapshot(client: RDSClient, found: DBSnapshotTypeDef) -> InstanceSnapshot:
    status, tags = found["Status"], tags_of(found)
    return InstanceSnapshot(
        identifier=found["DBSnapshotIdentifier"],
        region=client.meta.region_name,
        project_id=tags.get(PROJECT_TAG, ""),
        job_id=tags.get(JOB_TAG, ""),
        instance=found["DBInstanceIdentifier"],
        status=status,
        state=_STATES.get(status, RdsState.PENDING),
        engine=found["Engine"],
        server_version=found["EngineVersion"],
        storage_gb=found["AllocatedStorage"],
        taken_at=found.get("SnapshotCreateTime"),
        kept_until=kept_until_of(tags),
    )
