"""Faults that last through all attempts, or are final at once: the job fails, and says where.

Stages of a job that can fail beside one another fail in one run of it.
"""

from __future__ import annotations

from typing import Any

import pytest
from provisioner import api
from provisioner.jobs.models import StageStatus
from provisioner.provisioning.job_types import deprovision_project
from provisioner.provisioning.job_types.deprovision_project import REMOVING
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.stages.clean_up import remaining
from support.changes import logs_in, new_change, plainly_provisioned
from support.places import (
    AT_DATABASES,
    CHANGES,
    CLEANUP,
    FORBIDDEN_AT_MYSQL,
    Lasting,
    assert_fails_so,
    each_lasting,
    places,
    put_in,
    together,
    undisturbed,
)
from support.removal import end_of, keys_of, provisioned, snapshots, statuses, verifying
from support.tenant_server import on_mysql
from support.undoing import (
    OWNER,
    assert_nothing_is_left,
    assert_undone,
    cleanup_of,
    fail,
    repeated_to_its_end,
    unremoved,
)
from support.workflow import FAILING_TOGETHER, NO_SERVICES, Deploy, Run, Workflow

#: Faults that are put in both ways: they end a job in one process as on the state machine.
_BOTH_WAYS = {"throttle", "permission denied"}


@each_lasting(
    *([f"{'provision_project'}/{stage}" for stage in group] for group in FAILING_TOGETHER)
)
def test_a_project_is_not_provisioned_and_nothing_is_left(
    deploy: Deploy, kind: Lasting, where: list[str]
) -> None:
    ways: list[Run] = [Workflow.execute]
    ways += [Workflow.execute_in_process] if kind.name in _BOTH_WAYS else []
    ends: list[dict[str, Any]] = []
    for run in ways:
        with deploy() as workflow:
            put_in(workflow, kind, where)
            job = run(workflow, workflow.new_job(workflow.new_project(**OWNER)))
            assert job.status is api.JobStatus.FAILED
            assert job.error is not None
            met = {f"{job.job_type}/{e.stage}": e for e in (job.error, *job.other_errors)}
            # The job's own error is the first in the order of the stages.
            assert list(met) == where
            for place, error in met.items():
                assert_fails_so(kind, place, error)
            cleanup = cleanup_of(job) if job.cleanup_job_id else None
            assert cleanup is None or cleanup.status is api.JobStatus.COMPLETED
            assert_nothing_is_left(workflow, job.project_id)
            ends.append(workflow.snapshot(job, attempts=True))
    assert all(end == ends[0] for end in ends)


#: What of a clean-up runs beside the rest; what is before or after another settles alone.
_REMOVING = places(CLEANUP, without=["INITIALIZING", "REMOVING_INSTANCE", "FINALIZING"])


@each_lasting(
    _REMOVING, *([f"{CLEANUP}/{s}"] for s in ("INITIALIZING", "REMOVING_INSTANCE", "FINALIZING"))
)
def test_what_could_not_be_removed_is_named_and_goes_once_it_can(
    workflow: Workflow, kind: Lasting, where: list[str]
) -> None:
    put_in(workflow, kind, where)
    fail(workflow)
    job = workflow.execute(workflow.new_job(workflow.new_project(**OWNER)))
    cleanup = cleanup_of(job)
    assert cleanup.status is api.JobStatus.FAILED
    assert cleanup.error is not None
    met = {f"{CLEANUP}/{e.stage}": e for e in (cleanup.error, *cleanup.other_errors)}
    assert list(met) == list(where)
    for place, error in met.items():
        assert_fails_so(kind, place, error)
    naming = Naming(workflow.settings.resource_prefix, workflow.settings.resource_namespace)
    assert set(cleanup.remaining) == {
        name for stage in unremoved(cleanup) for name in remaining(cleanup, stage, naming=naming)
    }
    assert api.get_project(job.project_id).locked_by is None

    repeated_to_its_end(workflow, job, 2)
    assert_undone(workflow, job)


@each_lasting(places("deprovision_project"))
def test_a_project_is_as_it_was_until_something_is_removed_and_then_goes_only_on(
    workflow: Workflow, removed: dict[str, Any], kind: Lasting, where: list[str]
) -> None:
    first = provisioned(workflow)
    project_id = first.project_id
    keys = keys_of(workflow, project_id)
    before = workflow.snapshot(first)
    for place in where:
        put_in(workflow, kind, [place])
        failed = workflow.execute(workflow.new_deprovision_job(project_id))

        assert not workflow.faults, place
        assert failed.status is api.JobStatus.FAILED, place
        assert failed.error is not None
        assert f"{failed.job_type}/{failed.error.stage}" == place
        assert_fails_so(kind, place, failed.error)
        assert not failed.cleanup_job_id
        project = api.get_project(project_id)
        assert (project.locked_by, project.quota) == (None, "owner#ada"), place
        if failed.error.stage in set(deprovision_project.JOB_TYPE.stages) - {
            *REMOVING,
            "FINALIZING",
        }:
            assert project.status is api.ProjectStatus.ACTIVE, place
            assert verifying(keys) == [True, True], place
            assert workflow.snapshot(first) == before, place
        else:
            assert failed.error.stage in {*REMOVING, "FINALIZING"}
            assert project.status is api.ProjectStatus.DEPROVISIONING, place
            assert verifying(keys) == [False, False], place

    completed = workflow.execute(workflow.new_deprovision_job(project_id))

    # The database was gone before it came: its snapshot is the one that a job before took.
    assert statuses(completed)["TAKING_SNAPSHOT"] is StageStatus.SKIPPED
    assert completed.result is not None
    assert completed.result["snapshot"]["key"] in snapshots()
    end = end_of(workflow, completed)
    for name in ("quotas", "tenant", "services", "secrets", "api_keys"):
        assert end[name] == removed[name], name


@each_lasting(places(*CHANGES))
def test_a_project_is_released_and_its_login_is_right(
    workflow: Workflow, kind: Lasting, where: list[str]
) -> None:
    project_id = plainly_provisioned(workflow, keys=8)
    for job_type in CHANGES:
        undisturbed(workflow, job_type, project_id)
    before = api.get_project(project_id)
    met: list[str] = []
    for group in together(where):
        put_in(workflow, kind, group)
        job_type = group[0].partition("/")[0]
        job = workflow.execute(new_change(workflow, job_type, project_id))
        assert not workflow.faults, group
        assert (job.status, job.cleanup_job_id) == (api.JobStatus.FAILED, ""), group
        assert job.error is not None
        errors = {f"{job_type}/{e.stage}": e for e in (job.error, *job.other_errors)}
        assert list(errors) == group
        for place, error in errors.items():
            assert_fails_so(kind, place, error)
        assert api.get_project(project_id) == before, group
        assert logs_in(workflow, project_id), group
        met += group
    assert sorted(met) == sorted(where)


@on_mysql
@pytest.mark.fault(FORBIDDEN_AT_MYSQL.name, where=AT_DATABASES, lasting=True)
def test_each_stage_at_a_database_of_mysql_fails_and_says_where(workflow: Workflow) -> None:
    kind = FORBIDDEN_AT_MYSQL

    def meet(place: str, job: api.Job) -> api.Job:
        put_in(workflow, kind, [place])
        failed = workflow.execute_in_process(job)
        assert not workflow.faults, place
        assert failed.status is api.JobStatus.FAILED, place
        return failed

    def assert_failed_at(place: str, job: api.Job) -> None:
        assert job.error is not None
        assert f"{job.job_type}/{job.error.stage}" == place
        assert_fails_so(kind, place, job.error)

    def new_project_job() -> api.Job:
        return workflow.new_job(workflow.new_project(**OWNER), services=NO_SERVICES)

    def places_of(*jobs: str) -> list[str]:
        return [place for place in AT_DATABASES if place.partition("/")[0] in jobs]

    for place in places_of("provision_project"):
        failed = meet(place, new_project_job())
        assert_failed_at(place, failed)
        assert cleanup_of(failed).status is api.JobStatus.COMPLETED
        assert_nothing_is_left(workflow, failed.project_id)

    for place in places_of(CLEANUP):
        fail(workflow)
        failed = meet(place, new_project_job())
        assert_failed_at(place, cleanup_of(failed))
        tenant = workflow.tenant(failed.project_id)
        assert {f"database {tenant.database}", f"role {tenant.app_role}"} <= set(
            cleanup_of(failed).remaining
        )
        repeated_to_its_end(workflow, failed, 2)
        assert_undone(workflow, failed)

    project_id = plainly_provisioned(workflow)
    before = api.get_project(project_id)
    for place in places_of(*CHANGES):
        failed = meet(place, new_change(workflow, place.partition("/")[0], project_id))
        assert_failed_at(place, failed)
        assert api.get_project(project_id) == before, place
        # What was to be repaired is that the tenant has dropped the database.
        assert failed.job_type == "repair_project" or logs_in(workflow, project_id), place

    for place in places_of("deprovision_project"):
        assert_failed_at(place, meet(place, workflow.new_deprovision_job(project_id)))
    assert workflow.execute_in_process(workflow.new_deprovision_job(project_id)).error is None
    assert_nothing_is_left(workflow, project_id)
