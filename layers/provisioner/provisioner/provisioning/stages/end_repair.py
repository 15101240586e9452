"""FINALIZING of a repair: what was put right, what was not, and what answered."""

from __future__ import annotations

from typing import Any

from provisioner.drivers.drift import overlaid
from provisioner.jobs.models import StageRecord
from provisioner.jobs.outcome import Completion, StageOutcome
from provisioner.jobs.stage_run import JobInput
from provisioner.jobs.store import JobStore
from provisioner.provisioning.job_types.repair_project import RepairProjectResult
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.stages.provision import checked
from provisioner.provisioning.stages.repair_report import repaired_project


def ensure_repair_ended(job: JobInput, *, jobs: JobStore, projects: ProjectStore) -> StageOutcome:
    """Let go of the project, and end the job with what the stages before have reported.

    What the project's own result tells of what was made again is brought up to date.

    Raises:
        PROJECT_NOT_FOUND: the project is gone.
        UNKNOWN_ERROR: a stage has not reported its check.
    """
    _, *repairs, _ = jobs.get(job.job_id).stages
    reports = [checked(record) for record in repairs]
    project = repaired_project(job, projects)
    result = RepairProjectResult.model_validate(
        {
            "project_id": project.project_id,
            "repaired": _listed(reports, "repaired"),
            "remaining": _listed(reports, "remaining"),
            # One that the job does not ask for has no attempt, and has looked at nothing.
            "checked": [record.check for record in reports if record.attempt],
        }
    ).model_dump(mode="json")
    known = project.result or {}
    now = known
    for record in reports:
        now = overlaid(now, record.output.get("changed_result", {}))
    return StageOutcome(
        output={"result": result},
        check="every stage has reported its check",
        completion=Completion(
            result,
            projects.release_active_items(
                project.project_id, job.job_id, None if now == known else now
            ),
        ),
    )


def _listed(reports: list[StageRecord], name: str) -> list[Any]:
    return [drift for record in reports for drift in record.output.get(name, [])]
