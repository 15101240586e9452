"""What keeps Amazon RDS from taking the final snapshot of a project's instance.

Nothing keeps an instance from being deleted: the platform switches its deletion protection off.
Source: Amazon RDS API Reference, CreateDBSnapshot and DeleteDBInstance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.drivers.obstacles import Obstacles
from provisioner.drivers.rds import RdsState, find_instance
from provisioner.drivers.rds_snapshots import takes_snapshot
from provisioner.errors import ErrorType
from provisioner.ownership import Claim

if TYPE_CHECKING:
    from mypy_boto3_rds.client import RDSClient


def look_at_instance(client: RDSClient, identifier: str, *, claim: Claim) -> Obstacles:
    """Say what keeps a snapshot of the instance from being taken, if it is there and claimed.

    Raises:
        ProvisioningError: as `translated` says.
    """
    instance = find_instance(client, identifier, claim=claim, final=ErrorType.REMOVAL_FAILED)
    if instance is None or takes_snapshot(instance):
        return Obstacles()
    clause = f"the database instance {identifier} is in the status {instance.status}"
    match instance.state:
        case RdsState.FAILED:
            return Obstacles(snapshot=(f"{clause}: bring it back, or do without a snapshot",))
        case RdsState.DELETING:
            return Obstacles(snapshot=(f"{clause}: do without a snapshot",))
        case RdsState.STOPPED:
            return Obstacles()  # It is started for the snapshot.
        case _:
            return Obstacles(passing=(f"{clause}: RDS takes a snapshot when it is available",))
