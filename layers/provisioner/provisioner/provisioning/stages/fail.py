"""FAILED: what a failed job gives back. Its resources stay; their markers say whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from provisioner.jobs.models import Job
from provisioner.provisioning.projects import ProjectStore

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef


def released_by_failure(job: Job, *, projects: ProjectStore) -> Sequence[TransactWriteItemTypeDef]:
    """Build the writes that give back the project's lock and the quota that it counts against."""
    project_id = job.payload.get("project_id")
    return projects.release_items(str(project_id), job.job_id) if project_id else []
