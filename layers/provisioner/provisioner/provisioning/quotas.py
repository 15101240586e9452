"""Quotas in DynamoDB: how many projects count against each, of how many that may.

A quota is counted by the transaction that changes the project.
"""

from collections.abc import Iterable

from boto3.dynamodb.conditions import Attr, ConditionBase

from provisioner.aws_types import DynamoDBClient
from provisioner.drivers import dynamodb


class QuotaReachedError(Exception):
    """The count has reached its limit."""

    def __init__(self, limit: int) -> None:
        """Keep the limit."""
        super().__init__(f"the limit of {limit} is reached")
        self.limit = limit


def quota_of(owner_id: str | None, organization_id: str | None) -> str | None:
    """Name the quota that a project counts against: its organization's, else its owner's."""
    if organization_id is not None:
        return f"organization#{organization_id}"
    if owner_id is not None:
        return f"owner#{owner_id}"
    return None


class Quotas:
    """Counts projects against quotas."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        """Bind to the table of quotas."""
        self._client = client
        self._table = table

    def used(self, quota: str) -> int:
        """Return how many projects count against a quota."""
        item = dynamodb.get(self._client, self._table, {"quota": quota})
        return int(item["used"]) if item and "used" in item else 0

    def used_of(self, quotas: Iterable[str]) -> dict[str, int]:
        """Return how many projects count against each of some quotas."""
        wanted = list(quotas)
        items = dynamodb.get_all(self._client, self._table, "quota", wanted)
        return {quota: int(items.get(quota, {}).get("used", 0)) for quota in wanted}

    def count(
        self, quota: str | None, default_limit: int, change: dynamodb.Write, refused: Exception
    ) -> None:
        """Count one project more with a change of it, both or neither.

        Args:
            quota: what it counts against; None where it counts against nothing.
            default_limit: the limit of a quota that has none of its own.
            change: the change.
            refused: raised where what the change asks for does not hold.

        Raises:
            QuotaReachedError: the quota has no room.
        """
        counted = () if quota is None else (self._add(quota, 1, _has_room(default_limit)),)
        try:
            dynamodb.transact(self._client, [change, *counted])
        except dynamodb.ConditionFailedError as error:
            if 0 in error.positions:
                raise refused from None
            limit = int(error.items[1].get("limit", default_limit))
            raise QuotaReachedError(limit) from None

    def uncount(self, quota: str | None) -> list[dynamodb.Write]:
        """Return the change that counts one project less, for a write beside it.

        A count that someone has set to zero keeps no job from ending.
        """
        if quota is None or self.used(quota) == 0:
            return []
        return [self._add(quota, -1, Attr("used").gte(1))]

    def _add(self, quota: str, number: int, must: ConditionBase) -> dynamodb.Write:
        return dynamodb.build_update(self._table, {"quota": quota}, {}, must, adds={"used": number})


def _has_room(default_limit: int) -> ConditionBase:
    """Return the condition that the limit (the quota's own, else the default) leaves room."""
    limit, used = Attr("limit"), Attr("used")
    of_its_own = used.lt(limit) | (used.not_exists() & limit.gt(0))
    if default_limit <= 0:
        return of_its_own
    return of_its_own | (limit.not_exists() & (used.not_exists() | used.lt(default_limit)))
