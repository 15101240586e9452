"""API keys in DynamoDB, by digest; and what verifies one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from provisioner.api_keys.key_format import digest, is_well_formed
from provisioner.drivers import dynamodb

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient


class ApiKeyStatus(StrEnum):
    """Whether a key verifies."""

    #: It does.
    ACTIVE = "ACTIVE"


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


class ApiKeyStore:
    """Reads and writes API keys."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        """Bind the store to its table."""
        self._client = client
        self._table = table

    def get(self, key_digest: str) -> ApiKey | None:
        """Find a key by its digest; None where there is none."""
        item = dynamodb.get(self._client, self._table, {"digest": key_digest})
        return None if item is None else _to_key(item)

    def put(self, key: ApiKey) -> None:
        """Store a key; one of the same digest is the same key."""
        self._client.put_item(TableName=self._table, Item=dynamodb.to_item(asdict(key)))

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
        return [_to_key(dynamodb.from_item(item)) for page in pages for item in page["Items"]]

    def verify(self, plaintext: str) -> ApiKey | None:
        """Find the key that a caller presents; None where it is not one of ours.

        The checksum is tried first, so that a made-up key costs no read.
        """
        if not is_well_formed(plaintext):
            return None
        key = self.get(digest(plaintext))
        return key if key is not None and key.status is ApiKeyStatus.ACTIVE else None


def _to_key(item: Mapping[str, Any]) -> ApiKey:
    return ApiKey(
        digest=item["digest"],
        key_id=item["key_id"],
        key_prefix=item["key_prefix"],
        project_id=item["project_id"],
        job_id=item["job_id"],
        created_at=item["created_at"],
        status=ApiKeyStatus(item["status"]),
    )
