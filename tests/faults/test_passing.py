"""Faults that pass: each stage of every job meets each, and the end is that of an undisturbed run.

All stages of a job meet a fault in one run of it.
"""

from __future__ import annotations

import itertools
from typing import Any

from provisioner import api
from support.changes import check_changed, ended, new_change, plainly_provisioned
from support.places import (
    CHANGES,
    CLEANUP,
    Passing,
    assert_met,
    each_passing,
    places,
    put_in,
    undisturbed,
)
from support.removal import end_of, provisioned
from support.undoing import OWNER, assert_undone, cleanup_of, fail
from support.workflow import Run, Workflow, each_way


@each_way
@each_passing("provision_project")
def test_a_project_is_provisioned(workflow: Workflow, kind: Passing, run: Run) -> None:
    put_in(workflow, kind, places("provision_project"))
    job = run(workflow, workflow.new_job(workflow.new_project()))
    assert job.error is None
    assert_met(workflow, job.job_type, kind, job.stages)
    assert workflow.snapshot(job) == workflow.reference()


@each_way
@each_passing(CLEANUP)
def test_what_a_failed_job_made_is_removed(workflow: Workflow, kind: Passing, run: Run) -> None:
    put_in(workflow, kind, places(CLEANUP))
    fail(workflow)
    job = run(workflow, workflow.new_job(workflow.new_project(**OWNER)))
    assert_met(workflow, CLEANUP, kind, cleanup_of(job).stages)
    assert_undone(workflow, job)
    if run is Workflow.execute:
        # What may be at work still must not meet what the next job makes.
        is_silent = kind.name in {"time-out", "after the effect, the process killed"}
        assert [pause > 0 for pause in workflow.pauses] == ([True] if is_silent else [])


@each_way
@each_passing("deprovision_project")
def test_a_project_is_deprovisioned(
    workflow: Workflow, removed: dict[str, Any], kind: Passing, run: Run
) -> None:
    project_id = provisioned(workflow).project_id
    put_in(workflow, kind, places("deprovision_project"))
    job = run(workflow, workflow.new_deprovision_job(project_id))
    assert job.error is None
    assert_met(workflow, job.job_type, kind, job.stages)
    assert end_of(workflow, job) == removed


@each_passing(*CHANGES)
def test_a_project_is_changed(workflow: Workflow, kind: Passing) -> None:
    project_id = plainly_provisioned(workflow, keys=4)
    ends = {job_type: undisturbed(workflow, job_type, project_id) for job_type in CHANGES}
    for job_type, run in itertools.product(
        CHANGES, (Workflow.execute, Workflow.execute_in_process)
    ):
        put_in(workflow, kind, places(job_type))
        job = run(workflow, new_change(workflow, job_type, project_id))
        assert job.status is api.JobStatus.COMPLETED, (job_type, job.error)
        assert_met(workflow, job_type, kind, job.stages)
        check_changed(workflow, job)
        assert ended(job) == ends[job_type], job_type
