"""The end of snapshots of projects' own instances: RDS itself keeps them until they are deleted."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from functools import partial
from typing import Any

from provisioner.aws_types import RDSClient
from provisioner.drivers.rds import RdsState
from provisioner.drivers.rds_snapshots import (
    InstanceSnapshot,
    find_snapshot,
    kept_until_of,
    list_snapshots,
    remove_snapshot,
)
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.ownership import MANAGED_BY_TAG, Claim
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.runtime.observability import logger

#: What the event of the schedule names.
REMOVE_EXPIRED_SNAPSHOTS = "REMOVE_EXPIRED_SNAPSHOTS"

_FINAL = ErrorType.REMOVAL_FAILED

#: Seconds that looking at a region, or at a snapshot and deleting it, may take.
_SECONDS_OF_ONE = 30.0


# Longer than other functions by its description: it is one loop that each step may end.
def remove_expired_snapshots(
    *,
    catalogue: ClusterCatalogue,
    rds: Callable[[str], RDSClient],
    namespace: str,
    today: date,
    time_left: Callable[[], float],
) -> dict[str, Any]:
    """Delete the deployment's snapshots whose last day has passed, wherever it allows instances.

    One without the tag that says its last day is never deleted: someone has taken it, or has taken
    the tag from it. What cannot be deleted now does not keep the others; the next day's run meets
    it again.

    Args:
        catalogue: says where instances are allowed.
        rds: makes the client of a region.
        namespace: the deployment.
        today: the day, in UTC.
        time_left: says for how many seconds it may go on.

    Returns:
        The names of what was deleted, and whether it has looked at all there is.

    Raises:
        ProvisioningError: a region could not be read, or a snapshot not deleted; the rest was.
    """
    removed: list[str] = []
    errors: list[ProvisioningError] = []
    is_expired = partial(_is_expired, namespace=namespace, today=today)
    has_seen_all = True
    for region in catalogue.regions_of_instances():
        if time_left() < _SECONDS_OF_ONE:
            has_seen_all = False
            break
        client = rds(region)
        found: list[InstanceSnapshot] = []
        with _note_errors(errors, region):
            found = list_snapshots(client, claim=is_expired, final=_FINAL)
        for snapshot in found:
            if time_left() < _SECONDS_OF_ONE:
                has_seen_all = False
                break
            with _note_errors(errors, region, snapshot.identifier):
                if _is_removed(client, snapshot.identifier, is_expired):
                    logger.info("snapshot removed", region=region, snapshot=snapshot.identifier)
                    removed.append(snapshot.identifier)
    if errors:
        raise errors[0]
    return {"removed": removed, "has_seen_all": has_seen_all}


def _is_expired(tags: Mapping[str, str], *, namespace: str, today: date) -> bool:
    kept_until = kept_until_of(tags)
    is_ours = tags.get(MANAGED_BY_TAG) == namespace
    return is_ours and kept_until is not None and kept_until < today


def _is_removed(client: RDSClient, identifier: str, is_expired: Claim) -> bool:
    """Delete a snapshot, and say whether it goes.

    It stays where somebody has written another day on it meanwhile, or uses it.
    """
    remove_snapshot(client, identifier, claim=is_expired, final=_FINAL)
    left = find_snapshot(client, identifier, claim=lambda _tags: True, final=_FINAL)
    return left is None or left.state is RdsState.DELETING


@contextmanager
def _note_errors(
    errors: list[ProvisioningError], region: str, snapshot: str = ""
) -> Iterator[None]:
    """Log what cannot be read or deleted, and keep it, so that the rest is gone through."""
    try:
        yield
    except ProvisioningError as error:
        logger.error(
            "snapshots not removed",
            region=region,
            snapshot=snapshot,
            error=error.message,
            cause=error.cause,
        )
        errors.append(error)
