"""FAILED of deprovision_project: what becomes of a project whose removal has failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from provisioner.errors import ErrorType
from provisioner.jobs.models import Job, StageRecord
from provisioner.provisioning.job_types.deprovision_project import REMOVING
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.stages.end_removal import snapshot_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef


def release_after_failed_removal(
    job: Job, *, projects: ProjectStore
) -> Sequence[TransactWriteItemTypeDef]:
    """Build the writes that release the project.

    Where no stage that removes has begun, or the first has only met data that is to stay, the
    project is again what it was, and its API keys verify. Where one may have removed something, it
    stays DEPROVISIONING, for the next deprovision_project job to go on.
    """
    if not job.project_id or not job.stages:
        return []
    return projects.release_removal_items(
        job.project_id,
        job.job_id,
        has_removed=any(
            _may_have_removed(record) for record in job.stages if record.stage in REMOVING
        ),
        snapshot=snapshot_of(job),
    )


def _may_have_removed(record: StageRecord) -> bool:
    # It looks for data before it removes; an attempt before that one may have got further.
    has_refused = record.error is not None and record.error.type is ErrorType.DATA_NOT_EMPTY
    if has_refused and record.attempt == 1:
        return False
    return record.attempt > 0 or record.status.is_terminal
