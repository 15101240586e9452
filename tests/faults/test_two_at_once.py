"""Jobs that come while another is at work at the same project, and jobs that are cancelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.jobs.definition import JobDefinition, Parallel
from provisioner.jobs.models import StageStatus
from provisioner.jobs.stage import JobInput
from provisioner.provisioning.job_types import JOB_TYPES
from provisioner.provisioning.job_types.deprovision_project import REMOVING
from support.changes import check_changed, new_change, plainly_provisioned
from support.cluster_login import ROTATION, OwnLogin
from support.places import CHANGES, CLEANUP, HOLDING, STAGES, places
from support.removal import end_of, provisioned, statuses
from support.undoing import OWNER, assert_undone, cleanup_of, fail
from support.workflow import Workflow


def at_every_stage(workflow: Workflow, job: api.Job, act: Callable[[str], object]) -> list[str]:
    """Let something happen before each stage of a job; list where it has."""
    happened: list[str] = []

    def observe(running: JobInput, stage: str) -> None:
        if running.job_id == job.job_id and stage not in happened:
            happened.append(stage)
            act(stage)

    workflow.observers.append(observe)
    return happened


def is_busy(job: api.Job, holder: api.Job) -> bool:
    """Whether a job has failed since another holds the project."""
    return (
        job.error is not None
        and job.error.type is ErrorType.PROJECT_BUSY
        and f"job {holder.job_id}" in job.error.message
    )


@pytest.mark.fault(
    "deprovision during provision",
    where=places("provision_project", without=["INITIALIZING"]),
)
def test_a_project_that_is_being_provisioned_is_not_deprovisioned(workflow: Workflow) -> None:
    first = workflow.new_job(workflow.new_project())
    second: dict[str, api.Job] = {}

    def deprovision(stage: str) -> None:
        # Before INITIALIZING has begun, nothing is being provisioned.
        if stage != "INITIALIZING":
            job = workflow.new_deprovision_job(first.project_id)
            second[stage] = workflow.execute_in_process(job)

    at_every_stage(workflow, first, deprovision)
    completed = workflow.execute(first)
    assert set(second) == set(STAGES["provision_project"]) - {"INITIALIZING"}
    assert [stage for stage, job in second.items() if not is_busy(job, first)] == []
    assert workflow.snapshot(completed) == workflow.reference()


@pytest.mark.fault("deprovision during provision", where=places(CLEANUP))
def test_a_project_that_is_being_cleaned_up_is_not_deprovisioned(workflow: Workflow) -> None:
    fail(workflow)
    first = workflow.new_job(workflow.new_project(**OWNER))
    second: dict[str, api.Job] = {}

    def deprovision(running: JobInput, stage: str) -> None:
        if running.job_type == CLEANUP:
            job = workflow.new_deprovision_job(first.project_id)
            second[stage] = workflow.execute_in_process(job)

    workflow.observers.append(deprovision)
    failed = workflow.execute(first)
    assert_undone(workflow, failed)
    cleanup = cleanup_of(failed)
    assert set(second) == set(STAGES[CLEANUP])
    assert [stage for stage, job in second.items() if not is_busy(job, cleanup)] == []


@pytest.mark.fault(
    "two jobs at once for one project",
    where=places("deprovision_project", without=["INITIALIZING"]),
)
def test_a_project_that_is_being_deprovisioned_is_neither_provisioned_nor_removed_twice(
    workflow: Workflow, removed: dict[str, Any]
) -> None:
    project_id = provisioned(workflow).project_id
    first = workflow.new_deprovision_job(project_id)
    others: dict[str, list[api.Job]] = {}

    def come(stage: str) -> None:
        if stage != "INITIALIZING":
            jobs = [workflow.new_job(project_id), workflow.new_deprovision_job(project_id)]
            others[stage] = [workflow.execute_in_process(job) for job in jobs]

    at_every_stage(workflow, first, come)
    completed = workflow.execute(first)
    assert set(others) == set(STAGES["deprovision_project"]) - {"INITIALIZING"}
    assert [s for s, jobs in others.items() if not all(is_busy(j, first) for j in jobs)] == []
    assert end_of(workflow, completed) == removed


@pytest.mark.fault(
    "two jobs at once for one project",
    where=[place for change in HOLDING for place in places(change, without=["INITIALIZING"])],
)
def test_a_project_that_is_being_changed_is_neither_changed_by_another_nor_removed(
    workflow: Workflow,
) -> None:
    project_id = plainly_provisioned(workflow, keys=4)
    for change in HOLDING:
        first = new_change(workflow, change, project_id)
        others: dict[str, list[api.Job]] = {}

        def come(stage: str, others: dict[str, list[api.Job]] = others) -> None:
            if stage != "INITIALIZING":
                jobs = [
                    *(workflow.new_change(other, project_id) for other in HOLDING),
                    workflow.new_deprovision_job(project_id),
                ]
                others[stage] = [workflow.execute_in_process(job) for job in jobs]

        at_every_stage(workflow, first, come)
        completed = workflow.execute(first)
        assert set(others) == set(STAGES[change]) - {"INITIALIZING"}
        assert [s for s, jobs in others.items() if not all(is_busy(j, first) for j in jobs)] == []
        check_changed(workflow, completed)


# Cancelling; of provision_project, see tests/workflow/test_cancel.py.


def cancel_at(workflow: Workflow, job: api.Job, stage: str) -> api.Job:
    """Run a job that is cancelled while a stage of it runs."""
    workflow.observers.clear()
    at_every_stage(
        workflow, job, lambda running: api.cancel_job(job.job_id) if running == stage else None
    )
    ended = workflow.execute(job)
    workflow.observers.clear()
    assert ended.status is api.JobStatus.CANCELLED, stage
    assert ended.error is not None
    assert ended.error.type is ErrorType.JOB_CANCELLED, stage
    # It was allowed to finish; what completes the job alone is not.
    plan = JOB_TYPES[job.job_type]
    well = {StageStatus.SUCCEEDED, StageStatus.SKIPPED}
    end = {StageStatus.FAILED} if stage == plan.last else well
    assert statuses(ended)[stage] in end, stage
    later = {statuses(ended)[s] for s in later_than(plan, stage) if s in STAGES[job.job_type]}
    assert later <= {StageStatus.PENDING}, stage
    return ended


def later_than(plan: JobDefinition[Any], stage: str) -> Iterator[str]:
    """Yield the stages that wait for the end of one; those beside it do not."""
    steps = [step.branches if isinstance(step, Parallel) else ((step,),) for step in plan.steps]
    at = next(n for n, branches in enumerate(steps) if any(stage in b for b in branches))
    for branch in steps[at]:
        if stage in branch:
            yield from branch[branch.index(stage) + 1 :]
    for branches in steps[at + 1 :]:
        for branch in branches:
            yield from branch


@pytest.mark.fault("cancel at every stage", where=places("deprovision_project"))
def test_a_removal_is_cancelled_at_the_end_of_the_stage_that_runs(
    workflow: Workflow, removed: dict[str, Any]
) -> None:
    first = provisioned(workflow)
    project_id = first.project_id
    before = workflow.snapshot(first)
    for stage in STAGES["deprovision_project"]:
        ended = cancel_at(workflow, workflow.new_deprovision_job(project_id), stage)
        assert not ended.cleanup_job_id
        project = api.get_project(project_id)
        assert (project.locked_by, project.quota) == (None, "owner#ada"), stage
        if stage in {*REMOVING, "FINALIZING"}:
            assert project.status is api.ProjectStatus.DEPROVISIONING, stage
        else:
            assert project.status is api.ProjectStatus.ACTIVE, stage
            after = workflow.snapshot(first)
            # It may tell of a snapshot by now.
            assert after | {"project": before["project"]} == before, stage
    end = end_of(workflow, workflow.execute(workflow.new_deprovision_job(project_id)))
    for name in ("quotas", "tenant", "services", "secrets", "api_keys"):
        assert end[name] == removed[name], name


@pytest.mark.fault("cancel at every stage", where=places(*CHANGES))
def test_a_change_is_cancelled_at_the_end_of_the_stage_that_runs(workflow: Workflow) -> None:
    project_id = plainly_provisioned(workflow, keys=8)
    before = api.get_project(project_id)
    for change in CHANGES:
        for stage in STAGES[change]:
            ended = cancel_at(workflow, new_change(workflow, change, project_id), stage)
            assert not ended.cleanup_job_id
            assert api.get_project(project_id) == before, (change, stage)
            # What it began, a retry ends.
            workflow.jobs.retry(ended)
            completed = workflow.execute(workflow.jobs.get(ended.job_id))
            check_changed(workflow, completed)
            before = api.get_project(project_id)


@pytest.mark.fault("cancel at every stage", where=places(ROTATION))
def test_a_rotation_of_a_login_is_cancelled_once_it_is_done(
    workflow: Workflow, login: OwnLogin
) -> None:
    (stage,) = STAGES[ROTATION]
    ended = cancel_at(workflow, login.new_job(), stage)
    # Its one stage was allowed to finish.
    assert login.opening() & {"AWSCURRENT", "AWSPREVIOUS"} == {"AWSCURRENT"}
    workflow.jobs.retry(ended)
    login.check_rotated(workflow.execute(workflow.jobs.get(ended.job_id)))


@pytest.mark.fault("cancel at every stage", where=places(CLEANUP))
def test_a_cleanup_is_not_cancelled(workflow: Workflow) -> None:
    fail(workflow)
    job = workflow.new_job(workflow.new_project(**OWNER))
    refused: list[str] = []

    def cancel(running: JobInput, stage: str) -> None:
        if running.job_type == CLEANUP:
            with pytest.raises(api.JobStateError, match="is FAILED"):
                api.cancel_job(job.job_id)
            with pytest.raises(api.JobStateError, match="is a clean-up, which is not cancelled"):
                api.cancel_job(running.job_id)
            refused.append(stage)

    workflow.observers.append(cancel)
    assert_undone(workflow, workflow.execute(job))
    assert sorted(refused) == sorted(STAGES[CLEANUP])
