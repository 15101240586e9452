"""Sweeps: each goes on where the one before has stopped, at a pace, within its time."""

from __future__ import annotations

import json
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from provisioner.composition import reconciler as composition
from provisioner.jobs.execution import Execution, ExecutionStatus
from provisioner.jobs.models import Job, JobStatus, StageRecord, StageStatus
from provisioner.jobs.reconciler import MayLook, Reconciled
from provisioner.jobs.slots import SlotUse
from provisioner.jobs.store import JobStore, ListedJob
from provisioner.jobs.sweep import LOOKS_AT_ONCE, LOOKS_PER_SECOND, SWEEP, Pace, Sweep
from provisioner.provisioning.job_types import provision_project
from provisioner.runtime.observability import logger, metrics
from provisioner.runtime.platform import PlatformSettings
from support.core import Core, LogLines, aws_error, times
from support.reconciler import (
    QUEUED_LIMIT,
    executions,
    head,
    reconciler,
    running,
    start_execution,
    sweep,
)

#: Seconds that a sweep on AWS Lambda has: its function's, without the last minute.
SECONDS = 240.0

#: The rounds within which each job has its turn.
ROUNDS = 12


@pytest.fixture(autouse=True)
def _prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "ProjectProvisioner")
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "project-provisioner")


@dataclass
class Listed(JobStore):
    """A store that lists jobs of which nothing is stored; all else goes to the deployment's."""

    ids: list[str] = field(default_factory=list, kw_only=True)
    #: How many it has handed out.
    listed: int = field(default=0, kw_only=True)

    def list_unfinished(self, after: str = "") -> Iterator[ListedJob]:
        for number, job_id in enumerate(self.ids):
            position = f"{number:06}#{job_id}"
            if position > after:
                self.listed += 1
                yield ListedJob(job_id, position)

    def slots(self) -> SlotUse:
        return SlotUse(100, {}, {}, {})


@dataclass
class Seen:
    """Stands in for the reconciler: notes which jobs it was handed."""

    store: JobStore
    #: Is done for each job.
    act: Callable[[str], Reconciled | None] = lambda _job_id: None
    queued_limit: timedelta = QUEUED_LIMIT
    jobs: list[str] = field(default_factory=list)

    def look_after(self, job_id: str, *, slot: int | None, may_look: MayLook) -> Reconciled:
        del slot, may_look
        done = self.act(job_id)
        self.jobs.append(job_id)
        return done or Reconciled()


def many(core: Core, number: int) -> Listed:
    ids = [f"job-{n:05}" for n in range(number)]
    return Listed(core.client("dynamodb"), "JobsTable", now=core.clock, ids=ids)


def sweeps(core: Core, seen: Any, **parts: Any) -> Sweep:
    return sweep(core, **({"reconciler": seen, "holders": list, "workers": 1} | parts))


def enough_for(seen: Seen, number: int) -> Callable[[], float]:
    """Return a time that is over once so many further jobs were reconciled."""
    last = len(seen.jobs) + number
    return lambda: float(last - len(seen.jobs))


def forever() -> float:
    return 1.0


def run(swept: Sweep, time_left: Callable[[], float] = forever) -> dict[str, list[float]]:
    """Sweep once; return what it has counted."""
    metrics.clear_metrics()
    swept(time_left)
    return {name: metric["Value"] for name, metric in metrics.provider.metric_set.items()}


def progress(core: Core) -> dict[str, Any]:
    (item,) = (item for item in core.scan("JobsTable") if item["job_id"] == SWEEP)
    return item


# --- Rounds ---------------------------------------------------------------------------------------


def test_a_sweep_goes_on_where_the_last_has_stopped(core: Core) -> None:
    seen = Seen(many(core, 250))
    swept = sweeps(core, seen)

    assert run(swept, enough_for(seen, 130)) == {"SweepsCompleted": [1.0], "SweepRoundAge": [0.0]}
    core.clock.advance(300)
    counted = run(swept)

    assert seen.jobs == seen.store.ids  # type: ignore[attr-defined]  # each once, oldest first
    assert counted == {"SweepsCompleted": [1.0], "SweepRoundAge": [300.0]}


def test_a_new_round_begins_where_the_last_has_ended(core: Core) -> None:
    seen = Seen(many(core, 3))
    swept = sweeps(core, seen)
    for number in (1, 2):
        core.clock.advance(300)
        assert run(swept) == {"SweepsCompleted": [1.0], "SweepRoundAge": [0.0]}
        assert Counter(seen.jobs) == dict.fromkeys(seen.store.ids, number)  # type: ignore[attr-defined]
        assert progress(core)["round"] == number


def test_what_comes_meanwhile_is_met_in_the_same_round(core: Core) -> None:
    seen = Seen(store := many(core, 3))
    swept = sweeps(core, seen)
    run(swept, enough_for(seen, 2))
    store.ids += ["job-new"]
    run(swept)

    assert seen.jobs == store.ids


def test_what_is_held_comes_first_and_once(core: Core) -> None:
    seen = Seen(many(core, 4))
    swept = sweeps(core, seen, holders=lambda: ["job-00002", "holder"])
    run(swept, enough_for(seen, 1))
    run(swept)

    assert seen.jobs == ["holder", "job-00002", "job-00000", "job-00001", "job-00003"]


def test_a_round_in_the_middle_of_what_is_held_goes_on_there(core: Core) -> None:
    held = [f"holder-{n:03}" for n in range(150)]
    seen = Seen(many(core, 2))
    swept = sweeps(core, seen, holders=lambda: held)
    run(swept, enough_for(seen, 120))
    run(swept)

    assert seen.jobs == [*held, "job-00000", "job-00001"]


def test_no_more_jobs_are_held_at_once_than_a_hundred(core: Core) -> None:
    store = many(core, 1000)
    ahead: list[int] = []
    seen = Seen(store)
    seen.act = lambda _job_id: ahead.append(store.listed - len(seen.jobs))
    run(sweeps(core, seen))

    assert max(ahead) == 100


# --- Time, and what stops a sweep -----------------------------------------------------------------


def test_a_sweep_that_has_no_time_for_any_job_is_not_counted(core: Core, logged: LogLines) -> None:
    seen = Seen(many(core, 3))

    assert run(sweeps(core, seen), lambda: 0.0) == {"SweepRoundAge": [0.0]}
    assert seen.jobs == []
    assert logged()[0]["cause"] == "out of time"
    # Nor is the age of its round forgotten.
    core.clock.advance(900)
    assert run(sweeps(core, seen)) == {"SweepsCompleted": [1.0], "SweepRoundAge": [900.0]}


def test_a_sweep_that_dies_loses_a_hundred_jobs_at_most(core: Core) -> None:
    def die(job_id: str) -> None:
        if job_id == "job-00150":
            raise KeyboardInterrupt

    seen = Seen(many(core, 300), die)
    with pytest.raises(KeyboardInterrupt):
        run(sweeps(core, seen))
    assert seen.jobs[-1] == "job-00149"
    seen.act = lambda _job_id: None
    run(sweeps(core, seen))

    assert seen.jobs[150] == "job-00100"
    assert seen.jobs[-1] == "job-00299"


def throttle(core: Core, number: int) -> None:
    core.answers["sfn.DescribeExecution"] = times(number, aws_error("ThrottlingException"))


def test_a_sweep_that_is_throttled_stops_and_the_next_goes_on(core: Core, logged: LogLines) -> None:
    for name in ("first", "second", "third"):
        core.new_job(name)
        core.clock.advance()
    core.clock.advance(QUEUED_LIMIT.total_seconds())
    throttle(core, 1)
    core.calls.clear()

    assert run(sweep(core, workers=1)) == {"SweepRoundAge": [0.0]}
    assert len(core.calls_of("sfn.DescribeExecution")) == 1
    (line,) = logged()
    assert (line["level"], line["message"]) == ("WARNING", "sweep stopped early")
    # It is no job's error.
    assert "unreconciled" not in progress(core)

    assert run(sweep(core))["Repairs"] == [1.0, 1.0, 1.0]
    assert len(core.messages(core.queue_url)) == 3


def test_another_throttled_call_is_an_error_of_its_job(core: Core) -> None:
    for name in ("first", "second"):
        core.new_job(name)
        core.clock.advance()
    core.clock.advance(QUEUED_LIMIT.total_seconds())
    core.answers["sqs.SendMessage"] = times(1, aws_error("ThrottlingException"))

    assert run(sweep(core, workers=1)) == {"Repairs": [1.0], "SweepRoundAge": [0.0]}
    assert progress(core)["unreconciled"] == ["first"]


def test_the_next_sweep_begins_with_what_could_not_be_reconciled(core: Core) -> None:
    def refuse(job_id: str) -> None:
        if job_id in refused:
            raise ValueError(job_id)

    seen = Seen(many(core, 300), refuse)
    swept = sweeps(core, seen)
    refused = {"job-00001"}
    assert run(swept, enough_for(seen, 100)) == {"SweepRoundAge": [0.0]}
    # As long as it cannot be reconciled no sweep counts, though each gets on.
    assert run(swept, enough_for(seen, 100)) == {"SweepRoundAge": [0.0]}
    assert len(seen.jobs) == 200
    refused.clear()
    del seen.jobs[:]

    assert run(swept, enough_for(seen, 50)) == {"SweepsCompleted": [1.0], "SweepRoundAge": [0.0]}
    assert seen.jobs[0] == "job-00001"
    assert "unreconciled" not in progress(core)


def test_however_many_jobs_fail_all_others_are_reconciled(core: Core) -> None:
    def refuse(job_id: str) -> None:
        if int(job_id[-5:]) % 2 == 0:
            raise ValueError(job_id)

    seen = Seen(many(core, 500), refuse)
    run(sweeps(core, seen))
    assert len(seen.jobs) == 250
    # The item stays small.
    assert len(progress(core)["unreconciled"]) == 100
    assert "SweepsCompleted" not in run(sweeps(core, seen))


def test_two_sweeps_at_once_do_no_harm(core: Core, logged: LogLines) -> None:
    def interrupt(job_id: str) -> None:
        if job_id == "job-00120" and not interrupted:
            interrupted.append(True)
            run(swept, enough_for(seen, 150))

    interrupted: list[bool] = []
    seen = Seen(many(core, 400), interrupt)
    swept = sweeps(core, seen)
    # What the other one has counted stays in the same metrics: it is one that has gone on.
    swept(forever)
    assert logged()[-1]["cause"] == "another sweep goes on"
    del seen.jobs[:]
    run(swept)

    # From where the other one had stopped.
    assert seen.jobs[0] == "job-00250"
    assert seen.jobs[-1] == "job-00399"
    assert progress(core)["round"] == 1


# --- Threads --------------------------------------------------------------------------------------


def test_jobs_are_reconciled_side_by_side_and_each_line_of_the_log_names_its_own(
    core: Core, logged: LogLines
) -> None:
    together = threading.Barrier(4, timeout=30)

    def speak(job_id: str) -> None:
        together.wait()
        logger.warning("looked at", of=job_id)
        together.wait()

    seen = Seen(many(core, 40), speak)
    logger.warning("before")
    run(sweeps(core, seen, workers=4))
    logger.warning("after")

    assert len(seen.jobs) == 40
    before, *lines, after = logged()
    assert all(line["job_id"] == line["of"] for line in lines)
    # Nor does a key stay behind.
    assert after.get("job_id") == before.get("job_id")


def test_every_repair_is_counted_whatever_the_threads(
    core: Core, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics.provider, "namespace", "ProjectProvisioner")
    seen = Seen(many(core, 450), lambda _job_id: Reconciled("put right"))
    left = run(sweeps(core, seen, workers=8))

    emitted = [json.loads(line)["Repairs"] for line in capsys.readouterr().out.splitlines()]
    # No more values than CloudWatch takes in one metric.
    assert [len(values) for values in emitted] == [100] * 4
    assert len(left["Repairs"]) == 50


def test_a_job_that_was_left_is_not_passed_over_for_one_beside_it(core: Core) -> None:
    together = threading.Barrier(2, timeout=30)

    def throttle_one(job_id: str) -> None:
        if job_id in {"job-00001", "job-00002"}:
            together.wait()
        if job_id == "job-00001":
            raise ClientError({"Error": {"Code": "ThrottlingException"}}, "DescribeExecution")

    seen = Seen(many(core, 10), throttle_one)
    run(sweeps(core, seen, workers=2))
    assert "job-00002" in seen.jobs
    seen.act = lambda _job_id: None
    seen.jobs.clear()
    run(sweeps(core, seen))

    assert seen.jobs == [f"job-{n:05}" for n in range(1, 10)]


# --- Which executions are looked at ---------------------------------------------------------------


def looked_at(core: Core, **parts: Any) -> bool:
    core.calls.clear()
    run(sweep(core, **parts))
    return bool(core.calls_of("sfn.DescribeExecution"))


def test_no_execution_is_looked_at_whose_job_has_a_run_at_work(core: Core) -> None:
    running(core)
    core.client("stepfunctions").stop_execution(executionArn=executions(core).arn(head(core)))
    assert not looked_at(core)
    # Nothing would be done for it: a run of it may be at work.
    core.clock.advance(provision_project.INITIALIZING.seconds)
    assert looked_at(core)
    assert head(core).status is JobStatus.FAILED


def wait_in_vain(core: Core) -> datetime:
    """Let a job wait for an hour, behind so many others that not all are looked at; stop it."""
    job = running(core)
    until = core.clock() + timedelta(hours=1)
    held = job.stages[0]
    core.jobs.stage_waits(job, held, "It is made.", until, retry_count=0)
    core.client("stepfunctions").stop_execution(executionArn=executions(core).arn(head(core)))
    return until


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be too many jobs for a look at each that waits."""
    monkeypatch.setattr("provisioner.jobs.sweep._ALWAYS_LOOKED_AT", 0)


def test_a_job_that_waits_is_looked_at_in_each_round_while_there_are_few(core: Core) -> None:
    wait_in_vain(core)
    assert looked_at(core)
    assert head(core).status is JobStatus.FAILED


@pytest.mark.usefixtures("crowded")
def test_a_job_that_waits_among_many_has_its_turn_in_every_twelfth_round(core: Core) -> None:
    wait_in_vain(core)
    its_round = zlib.crc32(b"job-1") % ROUNDS or ROUNDS
    assert [looked_at(core) for _ in range(its_round)] == [False] * (its_round - 1) + [True]
    assert head(core).status is JobStatus.FAILED


@pytest.mark.usefixtures("crowded")
def test_a_job_whose_wait_is_over_is_looked_at_in_each_round(core: Core) -> None:
    until = wait_in_vain(core)
    assert not looked_at(core)
    core.clock.advance((until - core.clock()).total_seconds())
    assert looked_at(core)
    assert head(core).status is JobStatus.FAILED


@pytest.mark.usefixtures("crowded")
def test_a_cancelled_job_that_waits_is_looked_at_in_each_round(core: Core) -> None:
    wait_in_vain(core)
    core.jobs.request_cancel(head(core))
    assert looked_at(core)
    assert head(core).status is JobStatus.CANCELLED


@pytest.mark.usefixtures("crowded")
def test_a_job_that_was_sent_a_moment_ago_is_taken_to_be_on_its_way(core: Core) -> None:
    core.new_project()
    core.new_job()
    start_execution(core)
    assert not looked_at(core)
    core.clock.advance(QUEUED_LIMIT.total_seconds())
    assert looked_at(core)


# --- Pace -----------------------------------------------------------------------------------------


class Time:
    """Time that passes only where something is done."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def pass_by(self, seconds: float) -> None:
        self.seconds += seconds


def test_a_pace_lets_through_what_was_saved_and_then_so_many_a_second() -> None:
    time = Time()
    pace = Pace(5, 10, time, time.pass_by)
    through: list[float] = []
    for _ in range(21):
        pace()
        through.append(round(time.seconds, 6))
    assert through[:11] == [0.0] * 11
    assert through[11:] == [round(n / 5, 6) for n in range(1, 11)]
    # No more is saved up than ten, however long nobody comes.
    time.pass_by(3600)
    began = time.seconds
    for _ in range(12):
        pace()
    assert time.seconds - began == pytest.approx(0.2)


def test_the_threads_of_a_sweep_share_its_pace() -> None:
    time = Time()
    waits: list[float] = []
    pace = Pace(5, 0, time, waits.append)
    threads = [threading.Thread(target=pace) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waits) == pytest.approx([n / 5 for n in range(1, 8)])


# --- Ten thousand jobs ----------------------------------------------------------------------------


@dataclass
class Crowd(Listed):
    """Jobs of which the first hundred are between two attempts; the others wait for a slot."""

    time: Time = field(default_factory=Time, kw_only=True)
    reads: Counter[str] = field(default_factory=Counter, kw_only=True)
    #: Whether the others are between two attempts, too.
    all_run: bool = field(default=False, kw_only=True)

    def get(self, job_id: str) -> Job:
        # One after the other, as if nothing were done side by side.
        self.time.pass_by(0.01)
        self.reads[job_id] += 1
        now = self.now()
        if self.all_run or job_id < "job-00100":
            status, stage = JobStatus.RUNNING, StageRecord("INITIALIZING", StageStatus.RETRYING)
        else:
            until = now + timedelta(hours=12)
            wait = {"waiting_for": "a slot", "waiting_since": now, "waits_until": until}
            status = JobStatus.QUEUED
            stage = StageRecord("INITIALIZING", StageStatus.WAITING, **wait)  # type: ignore[arg-type]
        return Job(job_id, "provision_project", status, {}, "shop", now, now, stages=(stage,))


@dataclass
class Looks:
    """Executions, all of which run."""

    time: Time
    at: Counter[str] = field(default_factory=Counter)

    def arn(self, job: Job) -> str:
        return job.job_id

    def find(self, arn: str) -> Execution:
        self.time.pass_by(0.02)
        self.at[arn] += 1
        return Execution(arn, ExecutionStatus.RUNNING)


def crowd(core: Core, number: int, *, waiting: bool = True) -> tuple[Crowd, Looks, Sweep]:
    """Return so many jobs, the looks at their executions, and the sweeps of them."""
    time = Time()
    ids = [f"job-{n:05}" for n in range(number)]
    store = Crowd(core.client("dynamodb"), "JobsTable", now=core.clock, ids=ids, time=time)
    store.all_run = not waiting
    looks = Looks(time)
    stands_in: Any = looks
    pace = Pace(LOOKS_PER_SECOND, LOOKS_AT_ONCE, time, time.pass_by)
    looked_after = replace(reconciler(core, store), executions=stands_in)
    return store, looks, sweeps(core, looked_after, pace=pace)


def go_round(core: Core, store: Crowd, swept: Sweep) -> int:
    """Sweep until a round has ended; return in how many sweeps, each of which has done its part."""
    number = 0
    while number == 0 or "began_at" in progress(core):
        # A sweep begins each five minutes.
        number += 1
        store.time.seconds = max(store.time.seconds, (number - 1) * 300)
        ends = store.time.seconds + SECONDS
        counted = run(swept, lambda ends=ends: ends - store.time.seconds)  # type: ignore[misc]
        assert counted["SweepsCompleted"] == [1.0]
        assert store.time.seconds < ends + 1
    return number


def test_a_round_of_ten_thousand_jobs_that_wait_is_one_sweep(core: Core) -> None:
    store, looks, swept = crowd(core, 10_000)
    core.calls.clear()

    assert go_round(core, store, swept) == 1
    assert [job_id for job_id in store.ids if store.reads[job_id] != 1] == []
    assert sum(looks.at.values()) <= 1_200
    # How far it has come is stored after each hundred jobs, and at the end.
    assert len(core.calls_of("dynamodb.TransactWriteItems")) == 101
    # What does not evidently wait was looked at, and the oldest of those that do.
    assert all(looks.at[job_id] == 1 for job_id in store.ids[:250])


def test_a_round_of_ten_thousand_jobs_that_are_all_looked_at_is_eight_sweeps(core: Core) -> None:
    store, looks, swept = crowd(core, 10_000, waiting=False)

    assert go_round(core, store, swept) == 8
    assert sum(store.reads.values()) == sum(looks.at.values()) == 10_000


def test_each_of_many_jobs_that_wait_has_its_turn_within_twelve_rounds(core: Core) -> None:
    store, looks, swept = crowd(core, 800)
    for _ in range(ROUNDS):
        run(swept)

    assert all(looks.at[job_id] == ROUNDS for job_id in store.ids[:250])
    assert all(looks.at[job_id] == 1 for job_id in store.ids[250:])


# --- The function ---------------------------------------------------------------------------------


def test_the_function_sweeps_on_schedule_and_leaves_its_last_minute(
    core: Core, connected: PlatformSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in connected.model_dump().items():
        monkeypatch.setenv(name.upper(), str(value))
    core.new_job()
    function = composition.build()
    scheduled = {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}

    def invoke(milliseconds: int) -> dict[str, Any]:
        context: Any = SimpleNamespace(get_remaining_time_in_millis=lambda: milliseconds)
        return function(scheduled, context)

    assert invoke(60_000) == {"reconciled": 0, "repaired": 0}
    # Its message is sent again: it is old by the clock of the function.
    assert invoke(61_000) == {"reconciled": 1, "repaired": 1}
    context: Any = SimpleNamespace()
    assert function({"detail": {"job_id": "job-1"}}, context) == {"reconciled": 1, "repaired": 0}
