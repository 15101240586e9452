"""Jobs that fail, and what their clean-up leaves."""

from __future__ import annotations

from typing import Any

from provisioner import api
from provisioner.errors import ErrorType, failure
from provisioner.jobs.execution import cleanup_execution_name
from provisioner.provisioning.job_types import provision_project
from support.workflow import Fault, Point, Run, Workflow

CLEANUP = "provision_project_cleanup"

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


def cleanup_of(job: api.Job) -> api.Cleanup:
    assert job.cleanup is not None
    return job.cleanup


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
    assert (cleanup.status, cleanup.remaining) == (api.CleanupStatus.DONE, ())
    # Skipped is what the project never had, such as an instance of its own.
    assert cleanup.unremoved == ()
    assert_nothing_is_left(workflow, job.project_id)
    assert api.get_project(job.project_id).status is api.ProjectStatus.FAILED


def repeated_to_its_end(workflow: Workflow, job: api.Job, run: int) -> api.Job:
    """Run the clean-up of a job again, by two calls, and return the job."""
    assert cleanup_of(api.repeat_cleanup(job.job_id)).run == run
    name = cleanup_execution_name(job.job_id, run)
    workflow.ended(workflow.execution_arn(CLEANUP, name))
    return workflow.jobs.get(job.job_id)
