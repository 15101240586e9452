"""Faults that pass: each stage of every job meets each, and the end is that of an undisturbed run.

All stages of a job meet a fault in one run of it. What an engine's driver tells of one is its own,
and so the stages at a database meet those of MySQL too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from provisioner import api
from support.changes import check_changed, ended, new_change, plainly_provisioned
from support.places import (
    AT_DATABASES,
    CHANGES,
    CLEANUP,
    Passing,
    assert_met,
    each_passing,
    each_passing_at_mysql,
    places,
    put_in,
    undisturbed,
)
from support.removal import end_of, provisioned
from support.tenant_server import on_mysql, run_as_tenant
from support.undoing import (
    OWNER,
    assert_nothing_is_left,
    assert_undone,
    cleanup_of,
    fail,
    run_failing,
)
from support.workflow import NO_SERVICES, Run, Workflow, each_way


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
        # Its lease may have ended while the next attempt was waited for.
        assert is_silent or not workflow.pauses


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


@on_mysql
@each_passing_at_mysql
def test_each_stage_at_a_database_of_mysql_is_done(workflow: Workflow, kind: Passing) -> None:
    def put_in_at(job: str) -> list[str]:
        where = [place for place in AT_DATABASES if place.startswith(f"{job}/")]
        put_in(workflow, kind, where)
        return where

    def assert_all_met(where: list[str], records: Sequence[api.StageRecord]) -> None:
        assert not workflow.faults
        tried = {record.stage: record.attempt for record in records}
        stages = [place.partition("/")[2] for place in where]
        assert {stage: tried[stage] for stage in stages} == dict.fromkeys(stages, kind.attempts)

    where = put_in_at(CLEANUP)
    failed = run_failing(workflow, Workflow.execute_in_process, services=NO_SERVICES)
    assert_all_met(where, cleanup_of(failed).stages)
    assert_undone(workflow, failed)

    project_id = failed.project_id
    where = put_in_at("provision_project")
    job = workflow.execute_in_process(workflow.new_job(project_id, services=NO_SERVICES))
    assert job.status is api.JobStatus.COMPLETED, job.error
    assert_all_met(where, job.stages)
    assert workflow.snapshot(job)["tenant"] == workflow.reference()["tenant"]

    for change in CHANGES:
        where = put_in_at(change)
        if where:
            job = workflow.execute_in_process(new_change(workflow, change, project_id))
            assert job.status is api.JobStatus.COMPLETED, (change, job.error)
            assert_all_met(where, job.stages)
            check_changed(workflow, job)

    run_as_tenant(workflow.server, workflow.login(project_id), "CREATE TABLE note (id int)")
    where = put_in_at("deprovision_project")
    job = workflow.execute_in_process(workflow.new_deprovision_job(project_id))
    assert job.status is api.JobStatus.COMPLETED, job.error
    assert_all_met(where, job.stages)
    assert_nothing_is_left(workflow, project_id)
