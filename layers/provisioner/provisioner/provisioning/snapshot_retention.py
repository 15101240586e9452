"""The end of snapshots of projects' own instances: RDS itself keeps them until they are deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any

from provisioner.drivers.rds import RdsState
from provisioner.drivers.rds_snapshots import (
    InstanceSnapshot,
    find_snapshot,
    kept_until_of,
    list_snapshots,
    remove_snapshot,
)
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.ownership import MANAGED_BY_TAG
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.runtime.observability import logger

if TYPE_CHECKING:
    from mypy_boto3_rds.client import RDSClient

#: What the event of the schedule names.
REMOVE_EXPIRED_SNAPSHOTS = "REMOVE_EXPIRED_SNAPSHOTS"

_FINAL = ErrorType.REMOVAL_FAILED

#: Seconds that looking at a snapshot and deleting it may take.
_SECONDS_OF_ONE = 30.0


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
    removal = _Removal(namespace, today)
    has_seen_all = True
    for remove in removal.steps(catalogue.regions_of_instances(), rds):
        if time_left() < _SECONDS_OF_ONE:
            has_seen_all = False
            break
        remove()
    if removal.errors:
        raise removal.errors[0]
    return {"removed": removal.removed, "has_seen_all": has_seen_all}


@dataclass(slots=True)
class _Removal:
    namespace: str
    today: date
    removed: list[str] = field(default_factory=list)
    errors: list[ProvisioningError] = field(default_factory=list)

    def steps(
        self, regions: Iterable[str], rds: Callable[[str], RDSClient]
    ) -> Iterator[Callable[[], None]]:
        """Yield what is to be done, one thing at a time: look at a region, delete a snapshot."""
        for region in regions:
            found: list[InstanceSnapshot] = []
            yield partial(self._look, region, rds(region), found)
            for snapshot in found:
                yield partial(self._remove, region, rds(region), snapshot.identifier)

    def _look(self, region: str, client: RDSClient, found: list[InstanceSnapshot]) -> None:
        with self._noting(region):
            found += list_snapshots(client, claim=self._is_expired, final=_FINAL)

    def _remove(self, region: str, client: RDSClient, identifier: str) -> None:
        with self._noting(region, identifier):
            remove_snapshot(client, identifier, claim=self._is_expired, final=_FINAL)
            # Somebody may have written another day on it meanwhile, or be using it.
            left = find_snapshot(client, identifier, claim=lambda _tags: True, final=_FINAL)
            if left is None or left.state is RdsState.DELETING:
                logger.info("snapshot removed", region=region, snapshot=identifier)
                self.removed.append(identifier)

    def _is_expired(self, tags: Mapping[str, str]) -> bool:
        kept_until = kept_until_of(tags)
        is_ours = tags.get(MANAGED_BY_TAG) == self.namespace
        return is_ours and kept_until is not None and kept_until < self.today

    @contextmanager
    def _noting(self, region: str, snapshot: str = "") -> Iterator[None]:
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
            self.errors.append(error)
