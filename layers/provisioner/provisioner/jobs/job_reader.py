"""Reads jobs from DynamoDB."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from provisioner.arguments import shown
from provisioner.aws_types import DynamoDBClient
from provisioner.drivers import dynamodb
from provisioner.jobs.models import Job, place_in_transaction
from provisioner.jobs.records import (
    HISTORY,
    JOB,
    PAYLOAD,
    STAGE,
    to_history,
    to_job,
    to_stage,
)

#: The attribute, and the sparse index, of jobs that have not ended.
UNFINISHED = "unfinished"


def utc_now() -> datetime:
    """Return the time now."""
    return datetime.now(UTC)


class JobNotFoundError(LookupError):
    """No job of that id is stored."""


@dataclass
class JobReader:
    """Reads jobs."""

    client: DynamoDBClient
    #: The jobs table.
    table: str
    _: KW_ONLY
    #: Where the time comes from.
    clock: Callable[[], datetime] = utc_now

    def now(self) -> datetime:
        """Return the time of the clock."""
        return self.clock()

    def get(self, job_id: str) -> Job:
        """Read a job with its payload, stages and history by one Query.

        A job that was retried late in its life outlives what it was before: such history is gone.

        Raises:
            JobNotFoundError: there is none of that id.
        """
        if not dynamodb.is_key(job_id):
            raise JobNotFoundError(f"job {shown(job_id)}: no such job is stored.")
        items = self._query("job_id", job_id, ConsistentRead=True)
        parts = {item["record"]: item for item in items}
        head = parts.get(JOB)
        if head is None:
            raise JobNotFoundError(f"job {shown(job_id)}: no such job is stored.")
        began = datetime.fromisoformat(head["created_at"])
        left = {r: item for r, item in parts.items() if not _has_expired(item, began)}
        stages = [to_stage(item) for record, item in left.items() if record.startswith(STAGE)]
        history = [to_history(item) for record, item in left.items() if record.startswith(HISTORY)]
        history.sort(
            key=lambda entry: (entry.at, place_in_transaction(entry.subject, entry.status))
        )
        payload = json.loads(parts.get(PAYLOAD, {}).get("payload", "{}"))
        return to_job(head, {stage.stage: stage for stage in stages}, history, payload)

    def get_head(self, job_id: str) -> Job | None:
        """Read a job without its payload, stages and history; None where there is none."""
        item = dynamodb.get(self.client, self.table, {"job_id": job_id, "record": JOB})
        return None if item is None else to_job(item)

    def list_by_project(self, project_id: str) -> list[Job]:
        """Read a project's jobs as `get_head` does, newest first; open ones with their stages."""
        if not dynamodb.is_key(project_id):
            return []
        items = self._query(
            "project_id", project_id, IndexName="by_project", ScanIndexForward=False
        )
        return self._listed(items)

    def list_all(self) -> list[Job]:
        """Read every job as `get_head` does, newest first; the open ones with their stages.

        It is a Scan, for people at a small table.
        """
        pages = self.client.get_paginator("scan").paginate(
            TableName=self.table,
            FilterExpression="#record = :job",
            ExpressionAttributeNames={"#record": "record"},
            ExpressionAttributeValues=dynamodb.to_item({":job": JOB}),
        )
        items = [dynamodb.from_item(item) for page in pages for item in page["Items"]]
        return self._listed(sorted(items, key=lambda item: item["created_at"], reverse=True))

    def _listed(self, items: Iterable[Mapping[str, Any]]) -> list[Job]:
        # What a job waits for is stored with its stages. Few are open: so many as may run.
        return [
            job if job.status.is_terminal else replace(self.get(job.job_id), payload={}, history=())
            for job in map(to_job, items)
        ]

    def list_unfinished(self) -> list[str]:
        """Read the ids of the jobs that have not ended, oldest first.

        What was written a moment ago may be missing.
        """
        return [
            str(item["job_id"]) for item in self._query(UNFINISHED, "yes", IndexName=UNFINISHED)
        ]

    def _query(self, name: str, value: str, **options: Any) -> Iterator[dict[str, Any]]:
        """Read the items of a key, of the table or of an index, page by page.

        Raises:
            NETWORK_ERROR: the answer holds another item.
        """
        pages = self.client.get_paginator("query").paginate(
            TableName=self.table,
            KeyConditionExpression="#key = :key",
            ExpressionAttributeNames={"#key": name},
            ExpressionAttributeValues=dynamodb.to_item({":key": value}),
            **options,
        )
        items = (item for page in pages for item in page["Items"])
        return (dynamodb.from_answer(item, {name: value}) for item in items)


def _has_expired(part: Mapping[str, Any], at: datetime) -> bool:
    """Whether a part of a job counts as absent, though DynamoDB may not have removed it yet."""
    return "expires_at" in part and bool(part["expires_at"] <= int(at.timestamp()))
