"""What is stored of jobs, in the words of the invariants.

Nothing else in the machine knows how jobs are stored: where that changes, what must hold does not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from provisioner.jobs.models import JobStatus, StageStatus
from support.simulation import Simulation

_TABLE = "JobsTable"


@dataclass(frozen=True, slots=True)
class StoredStage:
    """A stage of a job."""

    #: The job and the stage.
    key: tuple[str, str]
    #: Which life of the stage it is: a retry of the job begins another.
    life: int
    #: How often it was begun in this life; 0 where it was not.
    attempt: int
    status: StageStatus
    #: Whether it says what it waits for, since when, and until when at the latest.
    says_what_it_waits_for: bool

    @property
    def is_at_work(self) -> bool:
        """Whether it is begun, and nobody has to wait for anything."""
        return self.status in {StageStatus.RUNNING, StageStatus.RETRYING}


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job."""

    job_id: str
    job_type: str
    status: JobStatus
    #: The project that it is about; empty where it names none.
    project_id: str
    #: 1, and 1 more for each retry.
    attempt: int
    created_at: str
    #: Whether a failure of it keeps what it has made.
    keeps: bool
    #: The failed job that it cleans up after; empty where it is no clean-up.
    parent_id: str
    #: Its clean-up; empty where it has none.
    cleanup_job_id: str
    #: What it names as remaining.
    remaining: frozenset[str]
    stages: tuple[str, ...]

    @property
    def is_open(self) -> bool:
        """Whether something is still to be done for it."""
        return not self.status.is_terminal


@dataclass(frozen=True, slots=True)
class StoredJobs:
    """All that the table of jobs holds at one time."""

    jobs: dict[str, StoredJob]
    stages: list[StoredStage]
    #: The entries of each job's history with the status that each tells of; sorted, they are in the
    #: order of time.
    history: dict[str, dict[str, str]]


def read(world: Simulation) -> StoredJobs:
    """Read the whole table."""
    stages: list[StoredStage] = []
    history: dict[str, dict[str, str]] = {}
    for item in world.items(_TABLE):
        job_id, record = item["job_id"].value, item["record"].value
        if record.startswith("STAGE#"):
            stages.append(_stage((job_id, record.removeprefix("STAGE#")), item))
        elif record.startswith("HISTORY#"):
            history.setdefault(job_id, {})[record] = item["status"].value
    return StoredJobs(read_jobs(world), stages, history)


def read_jobs(world: Simulation) -> dict[str, StoredJob]:
    """Read the jobs by their ids."""
    payloads = {i["job_id"]: json.loads(i["payload"]) for i in world.read(_TABLE, "PAYLOAD")}
    return {i["job_id"]: _job(i, payloads[i["job_id"]]) for i in world.read(_TABLE, "JOB")}


def _job(item: dict[str, Any], payload: dict[str, Any]) -> StoredJob:
    return StoredJob(
        job_id=item["job_id"],
        job_type=item["job_type"],
        status=JobStatus(item["status"]),
        project_id=item.get("project_id", ""),
        attempt=int(item["attempt"]),
        created_at=str(item["created_at"]),
        keeps=payload.get("on_failure") == "keep",
        parent_id=item.get("parent_id", ""),
        cleanup_job_id=item.get("cleanup_job_id", ""),
        remaining=frozenset(item.get("remaining", ())),
        stages=tuple(item["stages"]),
    )


def _stage(key: tuple[str, str], item: dict[str, Any]) -> StoredStage:
    return StoredStage(
        key=key,
        life=int(item["job_attempt"].value),
        attempt=int(item["attempt"].value) if "attempt" in item else 0,
        status=StageStatus(item["status"].value),
        says_what_it_waits_for={"waiting_for", "waiting_since", "waits_until"} <= item.keys(),
    )
