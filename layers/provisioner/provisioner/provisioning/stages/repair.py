"""What the stages of a repair have in common, and its FINALIZING."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from provisioner.drivers.drift import Repairs, overlay
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.jobs.store import JobStore
from provisioner.provisioning.job_types.repair_project import RepairProjectResult
from provisioner.provisioning.projects import ProjectStore
from provisioner.provisioning.stages.find_project import read_project
from provisioner.provisioning.stages.lifecycle import complete, read_ended_stages


def skip(name: str) -> StageOutcome:
    """End a stage whose service the project does without."""
    return StageOutcome(skipped=True, check=f"the project does without {name}")


def report(repairs: Repairs, now: Mapping[str, Any] | None = None) -> StageOutcome:
    """End a stage with what it has come to.

    Args:
        repairs: what was put right, and what was not.
        now: what the project's result is to tell from now on; all else in it stays.
    """
    return StageOutcome(
        output={
            "repaired": [asdict(drift) for drift in repairs.repaired],
            "remaining": [asdict(drift) for drift in repairs.remaining],
            "changed_result": dict(now or {}),
        },
        check=repairs.checked,
    )


def ensure_repair_ended(job: JobInput, *, jobs: JobStore, projects: ProjectStore) -> StageOutcome:
    """Let go of the project, and end the job with what the stages before have reported.

    What the project's own result tells of what was made again is brought up to date.

    Raises:
        PROJECT_NOT_FOUND: the project is gone.
        UNKNOWN_ERROR: a stage has not reported its check.
    """
    _, *reports = read_ended_stages(job, jobs)
    project = read_project(job, projects)
    lists = {
        name: [drift for record in reports for drift in record.output.get(name, [])]
        for name in ("repaired", "remaining")
    }
    # One that the job does not ask for has no attempt, and has looked at nothing.
    checks = [record.check for record in reports if record.attempt]
    result = RepairProjectResult.model_validate(
        {"project_id": project.project_id, "checked": checks, **lists}
    )
    known = now = project.result or {}
    for record in reports:
        now = overlay(now, record.output.get("changed_result", {}))
    return complete(
        result.model_dump(mode="json"),
        projects.build_release(project.project_id, job.job_id, None if now == known else now),
    )
