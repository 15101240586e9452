"""Projects in DynamoDB: where each stands, which job holds it, and where its database is."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from boto3.dynamodb.conditions import Attr, ConditionBase

from provisioner.aws_types import DynamoDBClient
from provisioner.drivers import dynamodb, dynamodb_lists
from provisioner.drivers.dynamodb import ConditionFailedError, Write
from provisioner.drivers.dynamodb_lists import LISTED_AT, LISTED_UNDER
from provisioner.provisioning.instances import DedicatedInstance
from provisioner.provisioning.quotas import Quotas


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
    #: The ids of its user pool and its Event API, by service, as `known_ids` returns them.
    known_ids: dict[str, str] = field(default_factory=dict)
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


#: From each status of a project, the statuses that may follow. FAILED follows CREATED where a
#: clean-up is run again of a project that was made anew.
PROJECT_TRANSITIONS: dict[ProjectStatus, frozenset[ProjectStatus]] = {
    ProjectStatus.CREATED: frozenset(
        {ProjectStatus.PROVISIONING, ProjectStatus.FAILED, ProjectStatus.DEPROVISIONED}
    ),
    ProjectStatus.PROVISIONING: frozenset({ProjectStatus.ACTIVE, ProjectStatus.FAILED}),
    ProjectStatus.ACTIVE: frozenset({ProjectStatus.DEPROVISIONING}),
    ProjectStatus.FAILED: frozenset(
        {
            ProjectStatus.PROVISIONING,
            ProjectStatus.FAILED,
            ProjectStatus.DEPROVISIONING,
            ProjectStatus.DEPROVISIONED,
        }
    ),
    # Back to what it was, where its removal has failed and nothing is removed.
    ProjectStatus.DEPROVISIONING: frozenset(
        {
            ProjectStatus.ACTIVE,
            ProjectStatus.FAILED,
            ProjectStatus.DEPROVISIONING,
            ProjectStatus.DEPROVISIONED,
        }
    ),
    ProjectStatus.DEPROVISIONED: frozenset({ProjectStatus.PROVISIONING}),
}


def project_sources(target: ProjectStatus) -> tuple[ProjectStatus, ...]:
    """Return the statuses from which a project may become `target`."""
    return tuple(source for source, targets in PROJECT_TRANSITIONS.items() if target in targets)


#: What a project does not say any more of which nothing is left: where it is, and who began it.
_NO_PLACE = dict.fromkeys(("region", "engine", "begun_by"))

#: What only a project has that a job holds: with `locked_by` the key of the sparse index `held`.
#: The partition follows from the job's id.
_HELD_UNDER = "held_under"
_HELD = "held"

_IS_FREE = Attr("locked_by").not_exists()
_IS_UNPROTECTED = Attr("deletion_protection").not_exists() | Attr("deletion_protection").eq(
    value=False
)


def _is_held_by(job_id: str) -> ConditionBase:
    """Return the condition that a job holds a project."""
    return Attr("locked_by").eq(job_id)


def _is(*statuses: ProjectStatus) -> ConditionBase:
    return Attr("status").is_in(statuses)


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

    def find_held(self, project_id: str, job_id: str) -> Project | None:
        """Read a project that a job holds; None where another does, or none."""
        project = self.get(project_id)
        return project if project is not None and project.locked_by == job_id else None

    def list_newest(
        self, limit: int, *, status: ProjectStatus | None = None, after: str = ""
    ) -> tuple[list[Project], str]:
        """Read the newest projects, each as it is now.

        One that has another status by now than was asked for is left out. What was written a moment
        ago may be missing.

        Args:
            limit: how many at most, 1 to 100.
            status: only those of this status.
            after: a position; only those behind it, from the newest when empty.

        Returns:
            the projects, and the position behind which there are more; empty where there are none.
        """
        listed = dynamodb_lists.read(
            self._client,
            self._projects,
            "by_status",
            (LISTED_UNDER, LISTED_AT),
            dynamodb_lists.partitions_of(*(ProjectStatus if status is None else [status])),
            after=after,
            newest_first=True,
            at_once=limit + 1,
        )
        keys, position = dynamodb_lists.take(listed, limit, looks_at=limit)
        ids = [key["project_id"] for key in keys]
        found = dynamodb.get_all(self._client, self._projects, "project_id", ids)
        projects = (_to_project(found[one]) for one in ids if one in found)
        return [project for project in projects if status in {None, project.status}], position

    def build_lock_check(self, project_id: str, job_id: str) -> Write:
        """Return the condition that a job holds a project, for a write beside it."""
        return dynamodb.build_check(self._projects, {"project_id": project_id}, _is_held_by(job_id))

    def build_free_check(self, project_id: str) -> Write:
        """Return the condition that no job holds a project, for a write beside it."""
        return dynamodb.build_check(self._projects, {"project_id": project_id}, _IS_FREE)


class Places:
    """Settles on which clusters the databases of projects are, and counts them there."""

    def __init__(self, client: DynamoDBClient, projects_table: str, quotas: Quotas) -> None:
        """Bind to the table of projects, and to what counts them."""
        self._client = client
        self._projects = projects_table
        self._quotas = quotas

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
        values: dict[str, Any] = {"cluster_id": cluster_id}
        if instance is not None:
            last = {"region": instance.region, "size": instance.size}
            values |= {"instance": instance.to_item(), "last_instance": last}
        is_unplaced = Attr("project_id").exists() & Attr("cluster_id").not_exists()
        change = dynamodb.build_update(
            self._projects, {"project_id": project_id}, values, is_unplaced
        )
        self._quotas.count(quota, limit, change, ProjectBusyError())

    def keep_instance(self, project_id: str, instance: DedicatedInstance) -> None:
        """Store what has become known of the project's own instance; nothing where it has another.

        Args:
            project_id: the project.
            instance: the instance, with all that is known of it.
        """
        is_its_own = Attr("cluster_id").eq(instance.identifier) & Attr("instance").exists()
        if instance.host is None:
            # What is known is not forgotten for a run that began before.
            is_its_own &= Attr("instance.host").not_exists()
        self._change(project_id, {"instance": instance.to_item()}, is_its_own)

    def unplace(self, project_id: str, cluster_id: str, quota: str, job_id: str) -> None:
        """Give back the place on a cluster of a project that a job holds, once.

        Nothing is given back where the job does not hold it any more: the place may be another's.
        """
        is_there = Attr("cluster_id").eq(cluster_id) & _is_held_by(job_id)
        nothing = dict.fromkeys(("cluster_id", "instance"))
        self._change(project_id, nothing, is_there, *self._quotas.uncount(quota))

    def _change(
        self, project_id: str, values: Mapping[str, Any], must: ConditionBase, *also: Write
    ) -> None:
        """Change a project, unless another run, or a removal, has come before."""
        change = dynamodb.build_update(self._projects, {"project_id": project_id}, values, must)
        with suppress(ConditionFailedError):
            dynamodb.transact(self._client, [change, *also])


class ProjectStore(ProjectReader):
    """Writes where projects stand, and which jobs hold them.

    A quota is counted by the transaction that changes the project, so that no crash can leave one
    without the other. What belongs to the end of a job is returned, to be written with that.
    """

    def __init__(self, client: DynamoDBClient, projects_table: str, quotas_table: str) -> None:
        """Bind the store to its tables."""
        super().__init__(client, projects_table)
        self.quotas = Quotas(client, quotas_table)
        self.places = Places(client, projects_table, self.quotas)

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
        created = created_at.isoformat(timespec="microseconds")
        item = {
            "project_id": project_id,
            "status": ProjectStatus.CREATED,
            "created_at": created,
            LISTED_UNDER: dynamodb_lists.partition_of(ProjectStatus.CREATED, project_id),
            LISTED_AT: dynamodb_lists.position_of(created, project_id),
            "owner_id": owner_id,
            "organization_id": organization_id,
        }
        self._write(
            dynamodb.build_put(self._projects, {"project_id": project_id}, item, is_new=True),
            ProjectExistsError(
                f"project {project_id}: exists already, for another owner or organization; "
                "choose another id."
            ),
        )
        return _to_project(item)

    def protect(self, project_id: str, *, enabled: bool) -> None:
        """Protect the project against being deprovisioned, or end that.

        Raises:
            ProjectRemovedError: it is being removed, so that protection comes too late, or there
                is no such project.
        """
        may_change = Attr("project_id").exists() & ~_is(ProjectStatus.DEPROVISIONING)
        self._write(
            self._change(project_id, may_change, deletion_protection=enabled),
            ProjectRemovedError(
                f"project {project_id}: is being removed, so it cannot be protected any more."
            ),
        )

    # How a job acquires a project.

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
        change = self._change(
            project.project_id,
            # Where it was begun meanwhile, another job's region stands.
            _IS_FREE & Attr("region").not_exists() if is_first else _IS_FREE,
            status=ProjectStatus.PROVISIONING,
            locked_by=job_id,
            quota=quota,
            region=region or project.region,
            engine=engine or project.engine,
            begun_by=job_id if is_first or project.begun_by == job_id else None,
            deprovisioned_at=None,
        )
        self.quotas.count(quota, default_limit, change, ProjectBusyError())

    def acquire(self, project: Project, job_id: str) -> None:
        """Give an ACTIVE project to a job that changes it; its status and quota stay.

        Raises:
            ProjectBusyError: the project is not ACTIVE any more, or another job holds it.
        """
        may_acquire = _IS_FREE & _is(ProjectStatus.ACTIVE)
        change = self._change(project.project_id, may_acquire, locked_by=job_id)
        self._write(change, ProjectBusyError())

    def acquire_to_clean_up(self, project_id: str, job_id: str) -> None:
        """Give the lock of a project that has failed to a clean-up that is run again.

        Raises:
            ProjectBusyError: another job has it, or has made use of the project.
        """
        may_acquire = _IS_FREE & _is(ProjectStatus.CREATED, ProjectStatus.FAILED)
        self._write(self._change(project_id, may_acquire, locked_by=job_id), ProjectBusyError())

    def begin_removal(self, project: Project, job_id: str) -> None:
        """Give the project to a job that removes it; its API keys do not verify from then on.

        Raises:
            ProjectBusyError: the project has changed, is protected, or another job holds it.
        """
        goes_on = project.status is ProjectStatus.DEPROVISIONING
        change = self._change(
            project.project_id,
            _IS_FREE & _is(project.status) & _IS_UNPROTECTED,
            status=ProjectStatus.DEPROVISIONING,
            status_before=project.status,
            locked_by=job_id,
            # A removal that goes on keeps the snapshot that it began with.
            snapshot=project.snapshot if goes_on else None,
        )
        self._write(change, ProjectBusyError())

    # How a job releases it.

    def build_activation(
        self, project_id: str, job_id: str, result: dict[str, Any], known_ids: Mapping[str, str]
    ) -> Sequence[Write]:
        """Return the change that makes a project usable and releases it."""
        values = {"status": ProjectStatus.ACTIVE, "result": result, "known_ids": known_ids}
        return [self._release(project_id, job_id, **values)]

    def build_release(
        self, project_id: str, job_id: str, result: dict[str, Any] | None = None
    ) -> Sequence[Write]:
        """Return the change that releases a project that a job has held to change it.

        Args:
            project_id: the project.
            job_id: the job.
            result: the project's from now on; it stays as it is when left out.
        """
        return [self._release(project_id, job_id, **({"result": result} if result else {}))]

    def build_release_as_failed(
        self, project_id: str, job_id: str, *, removed_all_of: str = ""
    ) -> Sequence[Write]:
        """Return the changes that release what a job has acquired: a project's lock and its quota.

        Nothing is released where another job has the lock, or none has.

        Args:
            project_id: the project.
            job_id: the job that has the lock.
            removed_all_of: a job of whose resources nothing is left. Where no other job has made
                anything of the project, its region is then released too.
        """
        project = self.find_held(project_id, job_id)
        if project is None:
            return []
        is_empty = project.begun_by == removed_all_of and project.cluster_id is None
        values = {"status": ProjectStatus.FAILED, "quota": None, **(_NO_PLACE if is_empty else {})}
        return [
            self._release(project_id, job_id, **values),
            *self.quotas.uncount(project.quota),
        ]

    def build_hand_over(self, project_id: str, job_id: str, cleanup_job_id: str) -> Sequence[Write]:
        """Return the change that hands a project's lock over from a failed job to its clean-up."""
        return [self._change(project_id, _is_held_by(job_id), locked_by=cleanup_job_id)]

    def build_release_from_removal(
        self,
        project_id: str,
        job_id: str,
        *,
        has_removed: bool,
        snapshot: Mapping[str, Any] | None,
    ) -> Sequence[Write]:
        """Return the change that releases a project whose removal has failed.

        Nothing is written where another job holds the project, or none does.

        Args:
            project_id: the project.
            job_id: the job that failed.
            has_removed: whether anything may be gone; if not, the project is again what it was.
            snapshot: where the snapshot is that the job has taken, if it has.
        """
        project = self.find_held(project_id, job_id)
        if project is None:
            return []
        values: dict[str, Any] = {"snapshot": snapshot or project.snapshot}
        if project.status_before is not None and not has_removed:
            values |= {"status": project.status_before, "status_before": None}
        return [self._release(project_id, job_id, **values)]

    def build_end_of_removal(
        self, project: Project, job_id: str, at: datetime, snapshot: Mapping[str, Any] | None
    ) -> Sequence[Write]:
        """Return the changes that make a project DEPROVISIONED and give back its quota."""
        change = self._change(
            project.project_id,
            _is_held_by(job_id) & _is(ProjectStatus.DEPROVISIONING),
            locked_by=None,
            status=ProjectStatus.DEPROVISIONED,
            deprovisioned_at=at.isoformat(timespec="microseconds"),
            snapshot=snapshot or project.snapshot,
            **dict.fromkeys(("quota", "status_before", "result", "known_ids")),
            **_NO_PLACE,
        )
        return [change, *self.quotas.uncount(project.quota)]

    def build_retirement(self, project: Project, at: datetime) -> Sequence[Write]:
        """Return the change that makes a project DEPROVISIONED that has nothing."""
        is_empty = _IS_FREE & Attr("region").not_exists() & _is(project.status)
        return [
            self._change(
                project.project_id,
                is_empty & _IS_UNPROTECTED,
                status=ProjectStatus.DEPROVISIONED,
                deprovisioned_at=at.isoformat(timespec="microseconds"),
            )
        ]

    # Who holds projects.

    def lock_holders(self) -> list[str]:
        """Read the ids of the jobs that hold a project, each once.

        They are as few as the slots of the jobs that run at once. What was written a moment ago may
        be missing.
        """
        held = self._held(dynamodb_lists.partitions_of(_HELD))
        return list(dict.fromkeys(job_id for job_id, _ in held))

    def release_abandoned(self, job_id: str) -> Sequence[str]:
        """Give back the projects that a job holds which is stored no more, and their quotas.

        Such a job had ended. One that provisioned has left a project that has failed; any other
        project stays what it is, one that is being removed included.

        Returns:
            the projects that were given back.
        """
        released: list[str] = []
        partition = dynamodb_lists.partition_of(_HELD, job_id)
        held = [project_id for job, project_id in self._held([partition]) if job == job_id]
        for project in filter(None, (self.find_held(project_id, job_id) for project_id in held)):
            has_failed = project.status is ProjectStatus.PROVISIONING
            release = self.build_release_as_failed if has_failed else self.build_release
            # Refused where another sweep has just released it.
            with suppress(ConditionFailedError):
                dynamodb.transact(self._client, release(project.project_id, job_id))
                released.append(project.project_id)
        return released

    def _held(self, partitions: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield which job holds which project, by the index that holds no others."""
        keys = (_HELD_UNDER, "locked_by")
        items = dynamodb_lists.read(self._client, self._projects, "held", keys, partitions)
        return ((item["locked_by"], item["project_id"]) for item in items)

    def _change(self, project_id: str, must: ConditionBase, **values: Any) -> Write:
        """Return a change of a project, whose status follows only what the table lets it follow.

        Where the project is listed follows from what is written.
        """
        if "status" in values:
            must &= _is(*project_sources(values["status"]))
            values[LISTED_UNDER] = dynamodb_lists.partition_of(values["status"], project_id)
        if "locked_by" in values:
            holder = values["locked_by"]
            values[_HELD_UNDER] = holder and dynamodb_lists.partition_of(_HELD, holder)
        return dynamodb.build_update(self._projects, {"project_id": project_id}, values, must)

    def _release(self, project_id: str, job_id: str, **values: Any) -> Write:
        """Return a change of a project with which the job that holds it releases it."""
        return self._change(project_id, _is_held_by(job_id), locked_by=None, **values)

    def _write(self, write: Write, refused: Exception) -> None:
        try:
            dynamodb.transact(self._client, [write])
        except ConditionFailedError:
            raise refused from None


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
        known_ids=item.get("known_ids", {}),
        deletion_protection=item.get("deletion_protection", False),
        status_before=(ProjectStatus(item["status_before"]) if "status_before" in item else None),
        snapshot=item.get("snapshot"),
        deprovisioned_at=item.get("deprovisioned_at"),
        last_instance=item.get("last_instance"),
    )
