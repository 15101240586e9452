"""API keys in DynamoDB, by digest; and what verifies one."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from boto3.dynamodb.conditions import Attr, ConditionBase

from provisioner.api_keys.key_format import digest, is_well_formed
from provisioner.aws_types import DynamoDBClient
from provisioner.drivers import dynamodb


class ApiKeyStatus(StrEnum):
    """Whether a key verifies."""

    #: It does, until it expires.
    ACTIVE = "ACTIVE"
    #: It does not any more: someone has revoked it.
    REVOKED = "REVOKED"


#: From each status of a key, the statuses that may follow.
API_KEY_TRANSITIONS: dict[ApiKeyStatus, frozenset[ApiKeyStatus]] = {
    ApiKeyStatus.ACTIVE: frozenset({ApiKeyStatus.REVOKED}),
    ApiKeyStatus.REVOKED: frozenset(),
}

#: A key may change as long as it may be revoked.
_MAY_CHANGE = Attr("status").is_in(
    [status for status, may_follow in API_KEY_TRANSITIONS.items() if may_follow]
)

#: How long a key that has expired can still be looked up.
_RETENTION = timedelta(days=30)


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is stored of a key."""

    #: SHA-256 of the key, in hexadecimal.
    digest: str
    key_id: str
    #: The start of the key that may be shown.
    key_prefix: str
    project_id: str
    #: The job that made it.
    job_id: str
    created_at: str
    status: ApiKeyStatus = ApiKeyStatus.ACTIVE
    #: When it stops verifying; None where nothing ends it.
    expires_at: str | None = None
    #: When it was revoked.
    revoked_at: str | None = None

    def verifies_at(self, moment: datetime) -> bool:
        """Whether the key verifies at a moment."""
        return self.status is ApiKeyStatus.ACTIVE and (
            self.expires_at is None or moment < datetime.fromisoformat(self.expires_at)
        )


class ApiKeyStore:
    """Reads and writes API keys."""

    def __init__(
        self, client: DynamoDBClient, table: str, *, clock: Callable[[], datetime] = _utc_now
    ) -> None:
        """Bind the store to its table, and to where the time comes from."""
        self._client = client
        self._table = table
        self._clock = clock

    def get(self, key_digest: str) -> ApiKey | None:
        """Find a key by its digest; None where there is none."""
        item = dynamodb.get(self._client, self._table, {"digest": key_digest})
        return None if item is None else _to_key(item)

    def get_all(self, key_digests: Sequence[str]) -> dict[str, ApiKey]:
        """Find keys; return those that there are, by their digests."""
        items = dynamodb.get_all(self._client, self._table, "digest", key_digests)
        return {key_digest: _to_key(item) for key_digest, item in items.items()}

    def find(self, key_id: str) -> ApiKey | None:
        """Find a key by its id; the index may lag behind the table by moments."""
        if not dynamodb.is_key(key_id):
            return None
        items = self._client.query(
            TableName=self._table,
            IndexName="by_key_id",
            KeyConditionExpression="key_id = :key_id",
            ExpressionAttributeValues=dynamodb.to_item({":key_id": key_id}),
        )["Items"]
        if not items:
            return None
        key = self.get(dynamodb.from_answer(items[0], {"key_id": key_id})["digest"])
        if key is not None and key.key_id != key_id:
            raise dynamodb.other_answer("key_id")
        return key

    def make_only(
        self,
        project_id: str,
        keys: Sequence[ApiKey],
        condition: dynamodb.Write,
        *,
        also: Sequence[dynamodb.Write] = (),
        may_have_keys: bool = True,
    ) -> None:
        """Make a set the only keys of its project, in one transaction, where a condition holds.

        A key that is stored already stays as it is. Where that leaves nothing to write, nothing is
        asked. Afterwards each key of the set is stored.

        Args:
            project_id: the project.
            keys: the set; with those that it replaces and what else is written, at most 99.
            condition: a check of another item.
            also: what else is written.
            may_have_keys: whether the project can have keys already. If not, the set is written
                without a look at what there is, as long as that goes well.

        Raises:
            ConditionFailedError: the condition does not hold.
        """
        current = [key.digest for key in keys]
        stored = self.get_all(current) if may_have_keys else {}
        others = self.list_by_project(project_id) if may_have_keys else []
        changes = [self._put(key) for key in keys if key.digest not in stored] + [
            dynamodb.build_delete(self._table, {"digest": key.digest})
            for key in others
            if key.digest not in current
        ]
        changes += also
        try:
            if changes:
                dynamodb.transact(self._client, [condition, *changes])
        except dynamodb.ConditionFailedError as error:
            if 0 in error.positions:
                raise
            # Another run has just stored a key of the set.
            self.make_only(project_id, keys, condition, also=also)

    def _put(self, key: ApiKey) -> dynamodb.Write:
        return dynamodb.build_put(self._table, {"digest": key.digest}, asdict(key), is_new=True)

    def put_set(self, keys: Sequence[ApiKey], also: Sequence[dynamodb.Write] = ()) -> None:
        """Store a set of keys, all or none; one that is stored already stays as it is.

        Args:
            keys: the keys.
            also: what is written with them; with the keys at most 100, the items of a transaction.
        """
        # The condition fails where another run has just stored the set.
        with suppress(dynamodb.ConditionFailedError):
            dynamodb.transact(self._client, [*map(self._put, keys), *also])

    def expire(self, key_digest: str, at: datetime) -> None:
        """Let a key verify until then and no longer; one that ends earlier stays as it is."""
        ends_later = Attr("expires_at").not_exists() | Attr("expires_at").gt(_text(at))
        self._change(
            key_digest,
            # DynamoDB deletes the item some time after this second.
            {"expires_at": _text(at), "delete_after": int((at + _RETENTION).timestamp())},
            _MAY_CHANGE & ends_later,
        )

    def revoke(self, key_digest: str) -> None:
        """Let a key stop verifying at once; one that was revoked before stays as it is.

        Its item stays as long as its project has keys: as long as a secret may still hold the key,
        a job that takes it up from there finds that it is revoked.
        """
        self._change(
            key_digest,
            {
                "status": ApiKeyStatus.REVOKED,
                "revoked_at": _text(self._clock()),
                "delete_after": None,
            },
            _MAY_CHANGE,
        )

    def _change(self, key_digest: str, values: Mapping[str, Any], must: ConditionBase) -> None:
        """Change a key where something is true of it."""
        change = dynamodb.build_update(self._table, {"digest": key_digest}, values, must)
        with suppress(dynamodb.ConditionFailedError):
            dynamodb.transact(self._client, [change])

    def remove(self, key_digest: str) -> None:
        """Remove a key; one that is not there is as good as removed."""
        self._client.delete_item(
            TableName=self._table, Key=dynamodb.to_item({"digest": key_digest})
        )

    def list_by_project(self, project_id: str) -> list[ApiKey]:
        """Read a project's keys; the index may lag behind the table by moments."""
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table,
            IndexName="by_project",
            KeyConditionExpression="project_id = :project_id",
            ExpressionAttributeValues=dynamodb.to_item({":project_id": project_id}),
        )
        return [
            _to_key(dynamodb.from_answer(item, {"project_id": project_id}))
            for page in pages
            for item in page["Items"]
        ]

    def verify(self, plaintext: str) -> ApiKey | None:
        """Find the key that a caller presents; None where it is not one of ours.

        The checksum is tried first, so that a made-up key costs no read.
        """
        key = self.get(digest(plaintext)) if is_well_formed(plaintext) else None
        return key if key is not None and key.verifies_at(self._clock()) else None


def _text(moment: datetime) -> str:
    """dynamodb.Write a time so that texts compare as times do."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _to_key(item: Mapping[str, Any]) -> ApiKey:
    return ApiKey(
        digest=item["digest"],
        key_id=item["key_id"],
        key_prefix=item["key_prefix"],
        project_id=item["project_id"],
        job_id=item["job_id"],
        created_at=item["created_at"],
        status=ApiKeyStatus(item["status"]),
        expires_at=item.get("expires_at"),
        revoked_at=item.get("revoked_at"),
    )
