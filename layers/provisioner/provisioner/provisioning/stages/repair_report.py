"""What the stages of a repair have in common: what the project has, and what they report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from provisioner.drivers.drift import Repairs
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.payload import ProjectReference
from provisioner.provisioning.projects import Project, ProjectReader
from provisioner.provisioning.stages.find_project import found


def repaired_project(job: JobInput, projects: ProjectReader) -> Project:
    """Return the project that the job repairs.

    Raises:
        PROJECT_NOT_FOUND: it is gone.
    """
    return found(validate_payload(ProjectReference, job.payload).project_id, projects)


def service(project: Project, name: str) -> Mapping[str, Any] | None:
    """Return what the project's result tells of a service; None where it does without."""
    services: Mapping[str, Mapping[str, Any]] = (project.result or {}).get("services", {})
    return services.get(name)


def region_of(project: Project) -> str:
    """Return the region of the project's services."""
    return str(project.region)


def skipped(name: str) -> StageOutcome:
    """End a stage whose service the project does without."""
    return StageOutcome(skipped=True, check=f"the project does without {name}")


def outcome(repairs: Repairs, now: Mapping[str, Any] | None = None) -> StageOutcome:
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
