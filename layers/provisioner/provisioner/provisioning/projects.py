"""Projects and quotas in DynamoDB: who holds a project, whose quota it counts against, where it is.

A quota is counted by the same transaction that changes the project, so that no crash can leave
one without the other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from provisioner.drivers import dynamodb
from provisioner.provisioning.instances import DedicatedInstance

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
    #: A job removes its resources, or one that failed has begun to; its API keys do not verify.
    DEPROVISIONING = "DEPROVISIONING"
    #: All that it had is removed; it can be provisioned again from nothing.
    DEPROVISIONED = "DEPROVISIONED"

    @property
    def is_being_removed(self) -> bool:
        """Whether nobody may use the project any more."""
        return self in {ProjectStatus.DEPROVISIONING, ProjectStatus.DEPROVISIONED}


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
    #: The region of its resources, from the first job that held it until they are removed.
    region: str | None = None
    #: The job that began the project there, as long as no other has.
    begun_by: str | None = None
    #: The technology of its database, likewise.
    engine: str | None = None
    #: The cluster that holds its database, once chosen, or the identifier of its own instance.
    cluster_id: str | None = None
    #: Its own instance, where it has one.
    instance: DedicatedInstance | None = None
    #: The result of the job that made it ACTIVE, with the API keys that came last.
    result: dict[str, Any] | None = None
    #: Whether it is refused to be deprovisioned.
    deletion_protection: bool = False
    #: While it is DEPROVISIONING: what it becomes again where nothing has been removed.
    status_before: ProjectStatus | None = None
    #: Where the last final snapshot of its database is.
    snapshot: dict[str, Any] | None = None
    #: When it became DEPROVISIONED.
    deprovisioned_at: str | None = None
    #: The `region` and `size` of the last instance of its own that it had, or has: what there is of
    #: snapshots stays there.
    last_instance: dict[str, str] | None = None

    @property
    def has_nothing(self) -> bool:
        """Whether no job has made anything of it, or all that one made is removed."""
        return self.region is None and self.status in {ProjectStatus.CREATED, ProjectStatus.FAILED}


class ProjectExistsError(ValueError):
    """A project of that id exists."""


class ProjectRemovedError(ValueError):
    """The project is being removed, or is not there."""


class ProjectBusyError(Exception):
    """Another job holds the project, or has just taken or finished it."""


class QuotaReachedError(Exception):
    """The count has reached its limit."""

    def __init__(self, limit: int) -> None:
        """Keep the limit."""
        super().__init__(f"the limit of {limit} is reached")
        self.limit = limit


#: The attributes that say where a project's resources are, and who made them first.
_PLACE = ("region", "engine", "begun_by")

#: Of an update: the project is not protected.
_UNPROTECTED = "(attribute_not_exists(deletion_protection) OR deletion_protection = :unprotected)"


def quota_of(owner_id: str | None, organization_id: str | None) -> str | None:
    """Name the quota that a project counts against: its organization's, else its owner's."""
    if organization_id is not None:
        return f"organization#{organization_id}"
    if owner_id is not None:
        return f"owner#{owner_id}"
    return None


class ProjectReader:
    """Reads projects."""

    def __init__(self, client: DynamoDBClient, projects_table: str) -> None:
        """Bind the reader to its table."""
        self._client = client
        self._projects = projects_table

    def get(self, project_id: str) -> Project | None:
        """Read a project; None where there is none."""
        item = dynamodb.get(self._client, self._projects, {"project_id": project_id})
        return None if item is None else _to_project(item)

    def lock_held_item(self, project_id: str, job_id: str) -> TransactWriteItemTypeDef:
        """Build the condition that a job holds a project, for a write beside it."""
        return dynamodb.check(
            self._projects,
            {"project_id": project_id},
            condition="#locked_by = :job",
            condition_values={"job": job_id},
            names={"locked_by": "locked_by"},
        )


class ProjectStore(ProjectReader):
    """Reads and writes projects and the quotas that they count against."""

    def __init__(self, client: DynamoDBClient, projects_table: str, quotas_table: str) -> None:
        """Bind the store to its tables."""
        super().__init__(client, projects_table)
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
                f"project {project_id}: exists already, for another owner or organization; "
                "choose another id."
            ) from None
        return _to_project(item)

    def lock_holders(self) -> list[str]:
        """Read the ids of the jobs that hold a project.

        The index holds no other projects. What was written a moment ago may be missing.
        """
        pages = self._client.get_paginator("scan").paginate(
            TableName=self._projects, IndexName="held"
        )
        return [str(item["locked_by"]["S"]) for page in pages for item in page["Items"]]

    def lock(
        self,
        project: Project,
        job_id: str,
        *,
        quota: str | None,
        default_limit: int,
        region: str | None = None,
        engine: str | None = None,
    ) -> None:
        """Give the project to a job and count it against a quota, both or neither.

        Args:
            project: the project.
            job_id: the job.
            quota: what it counts against; None where it counts against nothing.
            default_limit: the limit of a quota that has none of its own.
            region: where the job makes the project's resources; left out, it stays as it is.
            engine: the technology of the project's database; likewise.

        Raises:
            ProjectBusyError: the project has changed, or another job holds it.
            QuotaReachedError: the quota has no room.
        """
        is_first = project.region is None
        is_alone = is_first or project.begun_by == job_id
        items = [
            dynamodb.update(
                self._projects,
                {"project_id": project.project_id},
                set_values={
                    "status": ProjectStatus.PROVISIONING,
                    "locked_by": job_id,
                    "quota": quota,
                    "region": region,
                    "engine": engine,
                    "begun_by": job_id if is_alone else None,
                },
                remove=("deprovisioned_at", *(() if is_alone else ("begun_by",))),
                condition="attribute_not_exists(locked_by)"
                " AND #status IN (:created, :failed, :deprovisioned)"
                # Where it was begun meanwhile, another job's region stands.
                + (" AND attribute_not_exists(#region)" if is_first else ""),
                condition_values={
                    "created": ProjectStatus.CREATED,
                    "failed": ProjectStatus.FAILED,
                    "deprovisioned": ProjectStatus.DEPROVISIONED,
                },
                names={"status": "status"} | ({"region": "region"} if is_first else {}),
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
        """Build the writes that make a project usable and release it."""
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

    def release_items(
        self, project_id: str, job_id: str, *, removed_all_of: str = ""
    ) -> Sequence[TransactWriteItemTypeDef]:
        """Build the writes that release what a job has acquired: the project's lock and its quota.

        Nothing is released where another job has the lock, or none has.

        Args:
            project_id: the project.
            job_id: the job that has the lock.
            removed_all_of: a job of whose resources nothing is left. Where no other job has made
                anything of the project, its region is then released too.
        """
        project = self.get(project_id)
        if project is None or project.locked_by != job_id:
            return []
        is_empty = project.begun_by == removed_all_of and project.cluster_id is None
        items = [
            dynamodb.update(
                self._projects,
                {"project_id": project_id},
                set_values={"status": ProjectStatus.FAILED},
                remove=("locked_by", "quota", *(_PLACE if is_empty else ())),
                condition="locked_by = :job",
                condition_values={"job": job_id},
            )
        ]
        return items + self._uncount(project.quota)

    def release_abandoned(self, job_id: str) -> Sequence[str]:
        """Give back the projects that a job holds which is stored no more, and their quotas.

        Such a job had ended. One that provisioned has left a project that has failed; any other
        project stays what it is, one that is being removed included.

        Returns:
            the projects that were given back.
        """
        pages = self._client.get_paginator("scan").paginate(
            TableName=self._projects,
            IndexName="held",
            FilterExpression="locked_by = :job",
            ExpressionAttributeValues=dynamodb.to_item({":job": job_id}),
        )
        items = [item for page in pages for item in page["Items"]]
        found = [dynamodb.from_answer(item, {"locked_by": job_id}) for item in items]
        held = [self.get(item["project_id"]) for item in found]
        return [p.project_id for p in held if p is not None and self._release(p, job_id)]

    def _release(self, project: Project, job_id: str) -> bool:
        has_failed = project.status is ProjectStatus.PROVISIONING
        item = dynamodb.update(
            self._projects,
            {"project_id": project.project_id},
            set_values={"status": ProjectStatus.FAILED if has_failed else None},
            remove=("locked_by", "quota") if has_failed else ("locked_by",),
            condition="locked_by = :job AND #status = :status",
            condition_values={"job": job_id, "status": project.status},
            names={"status": "status"},
        )
        try:
            dynamodb.transact(
                self._client, [item, *(self._uncount(project.quota) if has_failed else ())]
            )
        except dynamodb.ConditionFailedError:
            return False
        return True

    def hand_over_items(
        self, project_id: str, job_id: str, cleanup_job_id: str
    ) -> Sequence[TransactWriteItemTypeDef]:
        """Build the write that hands a project's lock over from a failed job to its clean-up."""
        return [
            dynamodb.update(
                self._projects,
                {"project_id": project_id},
                set_values={"locked_by": cleanup_job_id},
                condition="locked_by = :job",
                condition_values={"job": job_id},
            )
        ]

    def acquire_to_clean_up(self, project_id: str, job_id: str) -> None:
        """Give the lock of a project that has failed to a clean-up that is run again.

        Raises:
            ProjectBusyError: another job has it, or has made use of the project.
        """
        item = dynamodb.update(
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
        try:
            dynamodb.transact(self._client, [item])
        except dynamodb.ConditionFailedError:
            raise ProjectBusyError from None

    def acquire(self, project: Project, job_id: str) -> None:
        """Give an ACTIVE project to a job that changes it; its status and quota stay.

        Raises:
            ProjectBusyError: the project is not ACTIVE any more, or another job holds it.
        """
        item = dynamodb.update(
            self._projects,
            {"project_id": project.project_id},
            set_values={"locked_by": job_id},
            condition="attribute_not_exists(locked_by) AND #status = :active",
            condition_values={"active": ProjectStatus.ACTIVE},
            names={"status": "status"},
        )
        try:
            dynamodb.transact(self._client, [item])
        except dynamodb.ConditionFailedError:
            raise ProjectBusyError from None

    def release_active_items(
        self, project_id: str, job_id: str, result: dict[str, Any] | None = None
    ) -> Sequence[TransactWriteItemTypeDef]:
        """Build the write that releases a project that a job has held to change it.

        Args:
            project_id: the project.
            job_id: the job.
            result: the project's from now on; it stays as it is when left out.
        """
        return [
            dynamodb.update(
                self._projects,
                {"project_id": project_id},
                set_values={"result": result},
                remove=("locked_by",),
                condition="locked_by = :job",
                condition_values={"job": job_id},
            )
        ]

    # Deprovisioning.

    def protect(self, project_id: str, *, enabled: bool) -> None:
        """Protect the project against being deprovisioned, or end that.

        Raises:
            ProjectRemovedError: it is being removed, so that protection comes too late, or there
                is no such project.
        """
        item = dynamodb.update(
            self._projects,
            {"project_id": project_id},
            set_values={"deletion_protection": enabled},
            condition="attribute_exists(project_id) AND #status <> :deprovisioning",
            condition_values={"deprovisioning": ProjectStatus.DEPROVISIONING},
            names={"status": "status"},
        )
        try:
            dynamodb.transact(self._client, [item])
        except dynamodb.ConditionFailedError:
            raise ProjectRemovedError(
                f"project {project_id}: is being removed, so it cannot be protected any more."
            ) from None

    def begin_removal(self, project: Project, job_id: str) -> None:
        """Give the project to a job that removes it; its API keys do not verify from then on.

        Raises:
            ProjectBusyError: the project has changed, is protected, or another job holds it.
        """
        goes_on = project.status is ProjectStatus.DEPROVISIONING
        item = dynamodb.update(
            self._projects,
            {"project_id": project.project_id},
            set_values={
                "status": ProjectStatus.DEPROVISIONING,
                "status_before": project.status,
                "locked_by": job_id,
            },
            # A removal that goes on keeps the snapshot that it began with.
            remove=() if goes_on else ("snapshot",),
            condition=f"attribute_not_exists(locked_by) AND #status = :status AND {_UNPROTECTED}",
            condition_values={"status": project.status, "unprotected": False},
            names={"status": "status"},
        )
        try:
            dynamodb.transact(self._client, [item])
        except dynamodb.ConditionFailedError:
            raise ProjectBusyError from None

    def end_removal_items(
        self, project: Project, job_id: str, at: datetime, snapshot: Mapping[str, Any] | None
    ) -> Sequence[TransactWriteItemTypeDef]:
        """Build the writes that make a project DEPROVISIONED and give back its quota."""
        item = dynamodb.update(
            self._projects,
            {"project_id": project.project_id},
            set_values={
                "status": ProjectStatus.DEPROVISIONED,
                "deprovisioned_at": at.isoformat(timespec="microseconds"),
                "snapshot": snapshot,
            },
            remove=("locked_by", "quota", "status_before", "result", *_PLACE),
            condition="locked_by = :job",
            condition_values={"job": job_id},
        )
        return [item, *self._uncount(project.quota)]

    def retire_items(self, project: Project, at: datetime) -> Sequence[TransactWriteItemTypeDef]:
        """Build the write that makes a project DEPROVISIONED that has nothing."""
        return [
            dynamodb.update(
                self._projects,
                {"project_id": project.project_id},
                set_values={
                    "status": ProjectStatus.DEPROVISIONED,
                    "deprovisioned_at": at.isoformat(timespec="microseconds"),
                },
                condition="attribute_not_exists(locked_by) AND attribute_not_exists(#region)"
                f" AND #status = :status AND {_UNPROTECTED}",
                condition_values={"status": project.status, "unprotected": False},
                names={"status": "status", "region": "region"},
            )
        ]

    def release_removal_items(
        self,
        project_id: str,
        job_id: str,
        *,
        has_removed: bool,
        snapshot: Mapping[str, Any] | None,
    ) -> Sequence[TransactWriteItemTypeDef]:
        """Build the write that releases a project whose removal has failed.

        Nothing is written where another job holds the project, or none does.

        Args:
            project_id: the project.
            job_id: the job that failed.
            has_removed: whether anything may be gone; if not, the project is again what it was.
            snapshot: where the snapshot is that the job has taken, if it has.
        """
        project = self.get(project_id)
        if project is None or project.locked_by != job_id:
            return []
        return [
            dynamodb.update(
                self._projects,
                {"project_id": project_id},
                set_values={
                    "status": None if has_removed else project.status_before,
                    "snapshot": snapshot,
                },
                remove=("locked_by",) if has_removed else ("locked_by", "status_before"),
                condition="locked_by = :job",
                condition_values={"job": job_id},
            )
        ]

    def place(
        self,
        project_id: str,
        cluster_id: str,
        quota: str,
        limit: int,
        *,
        instance: DedicatedInstance | None = None,
    ) -> None:
        """Settle which cluster holds the project's database, and count it there, both or neither.

        Args:
            project_id: the project.
            cluster_id: the cluster, or the identifier of the project's own instance.
            quota: what it is counted under.
            limit: how many may be, where the quota has no limit of its own.
            instance: the project's own instance, if it gets one.

        Raises:
            ProjectBusyError: it is placed already.
            QuotaReachedError: there is no room.
        """
        try:
            dynamodb.transact(
                self._client,
                [
                    dynamodb.update(
                        self._projects,
                        {"project_id": project_id},
                        set_values={
                            "cluster_id": cluster_id,
                            "instance": None if instance is None else instance.to_item(),
                            "last_instance": None
                            if instance is None
                            else {"region": instance.region, "size": instance.size},
                        },
                        condition="attribute_exists(project_id)"
                        " AND attribute_not_exists(cluster_id)",
                    ),
                    self._count(quota, limit),
                ],
            )
        except dynamodb.ConditionFailedError as error:
            if 0 in error.positions:
                raise ProjectBusyError from None
            raise QuotaReachedError(self._limit(quota, limit)) from None

    def keep_instance(self, project_id: str, instance: DedicatedInstance) -> None:
        """Store what has become known of the project's own instance; nothing where it has another.

        Args:
            project_id: the project.
            instance: the instance, with all that is known of it.
        """
        item = dynamodb.update(
            self._projects,
            {"project_id": project_id},
            set_values={"instance": instance.to_item()},
            condition="cluster_id = :cluster AND attribute_exists(#instance)"
            # What is known is not forgotten for a run that began before.
            + (" AND attribute_not_exists(#instance.#host)" if instance.host is None else ""),
            condition_values={"cluster": instance.identifier},
            names={"instance": "instance"} | ({"host": "host"} if instance.host is None else {}),
        )
        # The condition fails where a removal, or a later run, has come before.
        with contextlib.suppress(dynamodb.ConditionFailedError):
            dynamodb.transact(self._client, [item])

    def unplace(self, project_id: str, cluster_id: str, quota: str, job_id: str) -> None:
        """Give back the place on a cluster of a project that a job holds, once.

        Nothing is given back where the job does not hold it any more: the place may be another's.
        """
        items = [
            dynamodb.update(
                self._projects,
                {"project_id": project_id},
                set_values={},
                remove=("cluster_id", "instance"),
                condition="cluster_id = :cluster AND locked_by = :job",
                condition_values={"cluster": cluster_id, "job": job_id},
            ),
            *self._uncount(quota),
        ]
        # The condition fails where another run has done it.
        with contextlib.suppress(dynamodb.ConditionFailedError):
            dynamodb.transact(self._client, items)

    def used(self, quota: str) -> int:
        """Return how many projects count against a quota."""
        item = dynamodb.get(self._client, self._quotas, {"quota": quota})
        return int(item["used"]) if item and "used" in item else 0

    def used_of(self, quotas: Iterable[str]) -> dict[str, int]:
        """Return how many projects count against each of some quotas."""
        wanted = list(quotas)
        items = dynamodb.get_all(self._client, self._quotas, "quota", wanted)
        return {quota: int(items.get(quota, {}).get("used", 0)) for quota in wanted}

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
        region=item.get("region"),
        engine=item.get("engine"),
        begun_by=item.get("begun_by"),
        cluster_id=item.get("cluster_id"),
        instance=(DedicatedInstance.from_item(item["instance"]) if "instance" in item else None),
        result=item.get("result"),
        deletion_protection=item.get("deletion_protection", False),
        status_before=(ProjectStatus(item["status_before"]) if "status_before" in item else None),
        snapshot=item.get("snapshot"),
        deprovisioned_at=item.get("deprovisioned_at"),
        last_instance=item.get("last_instance"),
    )
