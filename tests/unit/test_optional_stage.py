"""A stage that runs only where the one before it says so: what is stored where it does not."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.definition import JobDefinition, Parallel, Stage
from provisioner.jobs.execution import job_input
from provisioner.jobs.failure import FailurePolicy, FailureRecorder
from provisioner.jobs.in_process import InProcessRun
from provisioner.jobs.models import Job, JobStatus, StageRecord, StageStatus
from provisioner.jobs.records import NewJob
from provisioner.jobs.stage import StageOutcome
from provisioner.jobs.stage_run import RECORD_FAILURE, StageRunner
from provisioner.jobs.stage_store import StageStore
from provisioner.provisioning.contract import ProjectReference
from provisioner.provisioning.functions import LIFECYCLE
from support.core import Core

#: Stands in for the job type whose name the deployment of the tests knows.
NAME = "provision_project"


def _stage(name: str, **more: Any) -> Stage:
    return Stage(name, "It is there.", function=LIFECYCLE, code="nowhere:at_all", **more)


FIRST, OPTIONAL = _stage("FIRST"), _stage("OPTIONAL", runs_if="is_wanted")
LEFT, LAST = _stage("LEFT"), _stage("LAST")

DEFINITION = JobDefinition(
    name=NAME,
    meaning="May leave a stage out.",
    payload_model=ProjectReference,
    steps=(FIRST, OPTIONAL, Parallel("Both", ((LEFT,),)), LAST),
    example={},
)

WANTED, UNWANTED = StageOutcome({"is_wanted": True}), StageOutcome({"is_wanted": False})


@dataclass
class World:
    """A job of that type, of which a test runs the stages itself."""

    core: Core
    #: How FIRST ends.
    end: StageOutcome | Exception = WANTED
    ran: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.core.jobs.create(NewJob("job-1", NAME, {"project_id": "shop"}, DEFINITION.stages))
        self.policies = {NAME: FailurePolicy()}

    def job(self) -> Job:
        return self.core.jobs.get("job-1")

    def record(self, stage: str) -> StageRecord:
        return next(record for record in self.job().stages if record.stage == stage)

    def run(self, stage: str, retry_count: int = 0) -> dict[str, Any]:
        """Run a stage of the job's attempt as its function does."""
        job = self.job()
        of_job = {
            "job_id": job.job_id,
            "job_type": NAME,
            "payload": job.payload,
            "attempt": job.attempt,
        }
        return self.step({"job": of_job, "stage": stage, "retry_count": retry_count})

    def step(self, event: Any) -> dict[str, Any]:
        self.core.clock.advance()

        def code(_job: Any) -> StageOutcome:
            self.ran.append(event["stage"])
            end = self.end if event["stage"] == FIRST else StageOutcome()
            if isinstance(end, Exception):
                raise end
            return end

        stages = {NAME: dict.fromkeys(map(str, DEFINITION.stages), code)}
        runner = StageRunner(self.core.jobs, stages, definitions={NAME: DEFINITION})
        return runner(event)

    def fail(self, stage: str) -> None:
        """Record that the job has failed in a stage."""
        branch = {"ok": False, "stage": stage, "error": {"Error": "CONFLICT", "Cause": ""}}
        event = {
            "job": {"job_id": "job-1", "job_type": NAME, "payload": {}, "attempt": 1},
            "stage": RECORD_FAILURE,
            "branches": [branch],
        }
        FailureRecorder(self.core.jobs, self.policies, is_process=True)(event)


@pytest.fixture
def world(core: Core) -> World:
    return World(core)


@pytest.mark.parametrize("output", [{"is_wanted": False}, {}, {"is_wanted": "true"}])
def test_a_stage_that_is_not_asked_for_is_skipped_with_the_end_of_the_one_before(
    world: World, output: dict[str, Any]
) -> None:
    world.end = StageOutcome(output)
    world.core.calls.clear()

    assert world.run(FIRST)["status"] == "SUCCEEDED"

    skipped = world.record(OPTIONAL)
    assert skipped == StageRecord(
        stage="OPTIONAL",
        status=StageStatus.SKIPPED,
        finished_at=world.record(FIRST).finished_at,
        check="the job does not ask for it",
    )
    # The start, and the end with all that belongs to it.
    assert len(world.core.changes()) == 2
    changes = [(e.subject, e.status, e.note) for e in world.job().history]
    assert changes[-2:] == [("FIRST", "SUCCEEDED", ""), ("OPTIONAL", "SKIPPED", skipped.check)]
    assert world.job().percent_done == 50


def test_a_stage_that_is_asked_for_is_left_to_run(world: World) -> None:
    world.run(FIRST)
    assert world.record(OPTIONAL).status is StageStatus.PENDING
    assert world.run(OPTIONAL)["status"] == "SUCCEEDED"


def test_a_stage_that_ends_after_its_job_was_cancelled_skips_the_next_all_the_same(
    world: World,
) -> None:
    held = world.core.jobs.start_stage(world.job(), FIRST, 0)
    world.core.jobs.request_cancel(world.job())

    said = StageStore(world.core.jobs).end("job-1", held, UNWANTED, skips=OPTIONAL)

    assert said.is_written
    assert world.record(FIRST).status is StageStatus.SUCCEEDED
    assert world.record(OPTIONAL).status is StageStatus.SKIPPED


@pytest.mark.parametrize("wanted", [True, False])
def test_a_late_or_second_run_of_the_one_before_changes_nothing(
    world: World, *, wanted: bool
) -> None:
    world.end = WANTED if wanted else UNWANTED

    def superseded(stage: str) -> None:
        """Let an attempt of FIRST, which says otherwise, end only after the next one has."""
        world.core.jobs.start_stage(world.job(), stage, 0)
        world.run(stage, 1)
        if wanted:
            world.run(OPTIONAL)

    superseded(FIRST)
    before = world.job()

    ended = world.core.jobs.end_stage(
        "job-1",
        FIRST,
        StageStatus.SUCCEEDED,
        output={"is_wanted": not wanted},
        check="",
        skipped=OPTIONAL if wanted else None,
    )
    world.end = UNWANTED if wanted else WANTED
    again = world.run(FIRST, 2)

    assert ended.output == again["output"] == {"is_wanted": wanted}
    assert world.job() == before


@pytest.mark.parametrize("first", [True, False])
def test_a_retry_decides_anew(world: World, *, first: bool) -> None:
    world.end = WANTED if first else UNWANTED
    world.run(FIRST)
    if first:
        world.run(OPTIONAL)
    world.core.jobs.start_stage(world.job(), LEFT, 0)
    world.fail(LEFT)
    world.core.jobs.retry(world.job())
    assert world.record(OPTIONAL).status is StageStatus.PENDING

    world.end = UNWANTED if first else WANTED
    world.run(FIRST)

    record = world.record(OPTIONAL)
    if first:
        # Nothing of the attempt before is left.
        assert (record.status, record.job_attempt, record.attempt) == (StageStatus.SKIPPED, 2, 0)
        assert (record.started_at, record.output) == (None, {})
    else:
        assert record.status is StageStatus.PENDING
        assert world.run(OPTIONAL)["status"] == "SUCCEEDED"
        assert (world.record(OPTIONAL).attempt, world.record(OPTIONAL).job_attempt) == (1, 2)


def test_a_stage_before_it_that_fails_skips_nothing(world: World) -> None:
    world.end = failure(ErrorType.CONFLICT, "Not ours.")
    with pytest.raises(ProvisioningError):
        world.run(FIRST)
    world.fail(FIRST)
    assert world.job().status is JobStatus.FAILED
    assert world.record(OPTIONAL).status is StageStatus.PENDING


@pytest.mark.parametrize(
    ("end", "ran"),
    [
        (WANTED, ["FIRST", "OPTIONAL", "LEFT", "LAST"]),
        (UNWANTED, ["FIRST", "LEFT", "LAST"]),
        (StageOutcome({"is_wanted": "true"}), ["FIRST", "LEFT", "LAST"]),
        (failure(ErrorType.CONFLICT, "Not ours."), ["FIRST"]),
    ],
)
def test_it_runs_in_ones_own_process_where_it_would_on_the_state_machine(
    world: World, end: StageOutcome | Exception, ran: list[str]
) -> None:
    world.end = end
    recorder = FailureRecorder(world.core.jobs, world.policies)
    with suppress(ProvisioningError):
        run = InProcessRun({NAME: DEFINITION}, world.step, recorder, sleep=lambda _: None)
        run(job_input(world.job(), 1))
    assert world.ran == ran
    expected = JobStatus.FAILED if isinstance(end, Exception) else JobStatus.COMPLETED
    assert world.job().status is expected
