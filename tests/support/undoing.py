"""Jobs that fail, and what their clean-up leaves."""

from __future__ import annotations

from typing import Any

from provisioner import api
from provisioner.errors import ErrorType, failure
from provisioner.provisioning.job_types import provision_project
from support.workflow import Fault, Point, Run, Workflow

CLEANUP = "clean_up_project"

#: Who the project of a job that fails counts against.
OWNER = {"owner_id": "ada"}


def fail(workflow: Workflow, stage: str = provision_project.FINALIZING) -> None:
    """Let a stage fail for good after its effect; that of FINALIZING would be the job's end."""
    point = Point.BEFORE if stage is provision_project.FINALIZING else Point.AFTER
    workflow.faults[stage] = Fault(point, lambda: failure(ErrorType.CONFLICT, "Injected."))


def run_failing(
    workflow: Workflow, run: Run = Workflow.execute, project_id: str | None = None, **payload: Any
) -> api.Job:
    """Run a job that has made everything when it fails."""
    fail(workflow)
    return run(workflow, workflow.new_job(project_id or workflow.new_project(**OWNER), **payload))


def cleanup_of(job: api.Job) -> api.Job:
    """Return the clean-up of a job that has failed."""
    assert job.cleanup_job_id
    return api.get_job(job.cleanup_job_id)


def unremoved(cleanup: api.Job) -> list[str]:
    """Return the stages of a clean-up that have not removed what they are for."""
    done = {api.StageStatus.SUCCEEDED, api.StageStatus.SKIPPED}
    return [record.stage for record in cleanup.stages if record.status not in done]


def assert_nothing_is_left(workflow: Workflow, project_id: str) -> None:
    """See that a project has nothing, is not held, and counts against nothing."""
    assert workflow.remains(project_id) == {}
    project = api.get_project(project_id)
    assert (project.locked_by, project.quota, project.cluster_id) == (None, None, None)


def assert_undone(workflow: Workflow, job: api.Job) -> None:
    """See that a job has failed in its last stage, and has left nothing, held or counted."""
    assert job.error is not None
    assert (job.status, job.error.stage, job.error.type, job.other_errors) == (
        api.JobStatus.FAILED,
        provision_project.FINALIZING,
        ErrorType.CONFLICT,
        (),
    )
    cleanup = cleanup_of(job)
    assert (cleanup.status, cleanup.remaining) == (api.JobStatus.COMPLETED, ())
    # Skipped is what the project never had, such as an instance of its own.
    assert unremoved(cleanup) == []
    assert_nothing_is_left(workflow, job.project_id)
    assert api.get_project(job.project_id).status is api.ProjectStatus.FAILED


def repeated_to_its_end(workflow: Workflow, job: api.Job, attempt: int) -> api.Job:
    """Run the clean-up of a job again, and return the clean-up."""
    cleanup = api.retry_cleanup(job.job_id)
    assert (cleanup.status, cleanup.attempt) == (api.JobStatus.QUEUED, attempt)
    workflow.ended(workflow.start(cleanup))
    return workflow.jobs.get(cleanup.job_id)
