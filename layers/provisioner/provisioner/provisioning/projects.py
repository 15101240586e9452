"""Projects and quotas in DynamoDB: who holds a project, whose quota it counts against, where it is.

A quota is counted by the same transaction that changes the project, so that no crash can leave
one without the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from provisioner.drivers import dynamodb

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef


class ProjectStatus(StrEnum):
    """Where a project stands."""

    #: It exists and has no resources that anyone may use.
    CREATED = "CREATED"
    #: A job holds it and makes its resources, or has failed and removes them.
    PROVISIONING = "PROVISIONING"
    #: It is usable.
    ACTIVE = "ACTIVE"
    #: The last job failed; what it has kept or left, the next takes up.
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Project:
    """One project."""

    project_id: str
    status: ProjectStatus
    created_at: str
    owner_id: str | None = None
    organization_id: str | None = None
    #: The job that holds the project.
    locked_by: str | None = None
    #: The quota that the project counts against, while it does.
    quota: str | None = None
    #: The cluster that holds its database, once chosen.
    cluster_id: str | None = None
    #: The result of the job that made it ACTIVE.
    result: dict[str, Any] | None = None


class ProjectExistsError(ValueError):
    """A project of that id exists."""


class ProjectBusyError(Exception):
    """Another job holds the project, or has just taken or finished it."""


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


class ProjectStore:
    """Reads and writes projects and the quotas that they count against."""

    def __init__(self, client: DynamoDBClient, projects_table: str, quotas_table: str) -> None:
        """Bind the store to its tables."""
        self._client = client
        self._projects = projects_table
        self._quotas = quotas_table

    def create(
        self,
        project_id: str,
        *,
        owner_id: str | None,
        organization_id: str | None,
        created_at: datetime,
    ) -> Project:
        """Store a new project.

        Raises:
            ProjectExistsError: one of that id exists.
        """
        item = {
            "project_id": project_id,
            "status": ProjectStatus.CREATED,
            "created_at": created_at.isoformat(timespec="microseconds"),
            "owner_id": owner_id,
            "organization_id": organization_id,
        }
        try:
            dynamodb.transact(self._client, [dynamodb.put_new(self._projects, item, "project_id")])
        except dynamodb.ConditionFailedError:
            raise ProjectExistsError(
                f"project {project_id}: exists already; choose another id."
            ) from None
        return _to_project(item)

    def get(self, project_id: str) -> Project | None:
        """Read a project; None where there is none."""
        item = dynamodb.get(self._client, self._projects, {"project_id": project_id})
        return None if item is None else _to_project(item)

    def lock(self, project: Project, job_id: str, *, quota: str | None, default_limit: int) -> None:
        """Give the project to a job and count it against a quota, both or neither.

        Raises:
            ProjectBusyError: the project has changed, or another job holds it.
            QuotaReachedError: the quota has no room.
        """
        items = [
            dynamodb.update(
                self._projects,
                {"project_id": project.project_id},
                set_values={
                    "status": ProjectStatus.PROVISIONING,
                    "locked_by": job_id,
                    "quota": quota,
                },
                condition="attribute_not_exists(locked_by) AND #status IN (:created, :failed)",
                condition_values={
                    "created": ProjectStatus.CREATED,
                    "failed": ProjectStatus.FAILED,
                },
                names={"status": "status"},
            )
        ]
        if quota is not None:
            items.append(self._count(quota, default_limit))
        try:
            dynamodb.transact(self._client, items)
        except dynamodb.ConditionFailedError as error:
            if 0 in error.positions or quota is None:
                raise ProjectBusyError from None
            raise QuotaReachedError(self._limit(quota, default_limit)) from None

    def activate_items(
        self, project_id: str, job_id: str, result: dict[str, Any]
    ) -> Sequence[TransactWriteItemTypeDef]:
        """Build the writes that make a project usable and let go of it."""
        return [
            dynamodb.update(
                self._projects,
                {"project_id": project_id},
                set_values={"status": ProjectStatus.ACTIVE, "result": result},
                remove=("locked_by",),
                condition="locked_by = :job",
                condition_values={"job": job_id},
            )
        ]

    def release_items(self, project_id: str, job_id: str) -> Sequence[TransactWriteItemTypeDef]:
        """Build the writes that give back what a failed job holds: the project and its quota.

        Nothing is given back where another job holds the project, or none does.
        """
        project = self.get(project_id)
        if project is None or project.locked_by != job_id:
            return []
        items = [
            dynamodb.update(
                self._projects,
                {"project_id": project_id},
                set_values={"status": ProjectStatus.FAILED},
                remove=("locked_by", "quota"),
                condition="locked_by = :job",
                condition_values={"job": job_id},
            )
        ]
        return items + self._uncount(project.quota)

    def hold_items(self, project_id: str, job_id: str) -> Sequence[TransactWriteItemTypeDef]:
        """Build the write that gives a project that has failed to the clean-up of a job again.

        It counts against no quota: none of it is usable, and none of it is to be.
        """
        return [
            dynamodb.update(
                self._projects,
                {"project_id": project_id},
                set_values={"locked_by": job_id},
                condition="attribute_not_exists(locked_by) AND #status IN (:created, :failed)",
                condition_values={
                    "created": ProjectStatus.CREATED,
                    "failed": ProjectStatus.FAILED,
                },
                names={"status": "status"},
            )
        ]

    def place(self, project_id: str, cluster_id: str, max_tenants: int) -> None:
        """Settle which cluster holds the project's database, and count it there, both or neither.

        Raises:
            ProjectBusyError: it is placed already.
            QuotaReachedError: the cluster has no room.
        """
        try:
            dynamodb.transact(
                self._client,
                [
                    dynamodb.update(
                        self._projects,
                        {"project_id": project_id},
                        set_values={"cluster_id": cluster_id},
                        condition="attribute_exists(project_id)"
                        " AND attribute_not_exists(cluster_id)",
                    ),
                    self._count(f"cluster#{cluster_id}", max_tenants),
                ],
            )
        except dynamodb.ConditionFailedError as error:
            if 0 in error.positions:
                raise ProjectBusyError from None
            raise QuotaReachedError(max_tenants) from None

    def unplace(self, project_id: str, cluster_id: str, job_id: str) -> None:
        """Give back the place on a cluster of a project that a job holds, once.

        Nothing is given back where the job does not hold it any more: the place may be another's.
        """
        items = [
            dynamodb.update(
                self._projects,
                {"project_id": project_id},
                set_values={},
                remove=("cluster_id",),
                condition="cluster_id = :cluster AND locked_by = :job",
                condition_values={"cluster": cluster_id, "job": job_id},
            ),
            *self._uncount(f"cluster#{cluster_id}"),
        ]
        # The condition fails where another run has done it.
        with contextlib.suppress(dynamodb.ConditionFailedError):
            dynamodb.transact(self._client, items)

    def used(self, quota: str) -> int:
        """Return how many projects count against a quota."""
        item = dynamodb.get(self._client, self._quotas, {"quota": quota})
        return int(item["used"]) if item and "used" in item else 0

    def _count(self, quota: str, default_limit: int) -> TransactWriteItemTypeDef:
        """Count one more, where the limit (the quota's own, else the default) leaves room."""
        first = "attribute_not_exists(#limit) AND attribute_not_exists(used)"
        return dynamodb.update(
            self._quotas,
            {"quota": quota},
            set_values={},
            extra_set=("used = if_not_exists(used, :zero) + :one",),
            condition=(
                (f"({first}) OR " if default_limit > 0 else "")
                + "(attribute_not_exists(#limit) AND used < :default)"
                " OR (attribute_not_exists(used) AND #limit > :zero)"
                " OR used < #limit"
            ),
            condition_values={"zero": 0, "one": 1, "default": default_limit},
            names={"limit": "limit"},
        )

    def _uncount(self, quota: str | None) -> list[TransactWriteItemTypeDef]:
        """Count one less; a count that someone has set to zero keeps no job from ending."""
        if quota is None or self.used(quota) == 0:
            return []
        return [
            dynamodb.update(
                self._quotas,
                {"quota": quota},
                set_values={},
                extra_set=("used = used - :one",),
                condition="used >= :one",
                condition_values={"one": 1},
            )
        ]

    def _limit(self, quota: str, default_limit: int) -> int:
        item = dynamodb.get(self._client, self._quotas, {"quota": quota})
        return int(item["limit"]) if item and "limit" in item else default_limit


def _to_project(item: dict[str, Any]) -> Project:
    return Project(
        project_id=item["project_id"],
        status=ProjectStatus(item["status"]),
        created_at=item["created_at"],
        owner_id=item.get("owner_id"),
        organization_id=item.get("organization_id"),
        locked_by=item.get("locked_by"),
        quota=item.get("quota"),
        cluster_id=item.get("cluster_id"),
        result=item.get("result"),
    )
