"""Sweeps: the reconciler looks at every job, whether an event reported it or not.

A round is one look at all that there are: the jobs that hold something that only one job may hold,
then the unfinished ones, oldest first. It takes as many sweeps as it needs, since each carries on
where the one before has stopped: how long a round takes grows with the jobs, a sweep does not.
"""

import itertools
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import NamedTuple

from pydantic import TypeAdapter

from provisioner.drivers import dynamodb
from provisioner.errors import ErrorType
from provisioner.jobs.execution import is_look_throttled
from provisioner.jobs.models import Job, JobStatus, StageStatus, lease_wait
from provisioner.jobs.reconciler import Reconciled, Reconciler, count, queued_since
from provisioner.jobs.stage_run import known_error
from provisioner.jobs.store import JobStore
from provisioner.runtime.observability import logger, metrics

#: Where it is stored how far the sweeps have come: no job has such an id.
SWEEP = "#sweep"
_PROGRESS = "PROGRESS"

#: How many executions a sweep looks at in a second, and how many at once where it looked at none
#: for long. It is half of the smallest quota of DescribeExecution, which is 10 a second and a
#: bucket of 250: the rest is left to events, to people, and to what else the account runs. Source:
#: AWS Step Functions Developer Guide, "Quotas", the table of API actions, "All other regions".
LOOKS_PER_SECOND = 5.0
LOOKS_AT_ONCE = 125

#: Jobs after which it is stored how far the sweep has come. No more than these are held at once.
_CHUNK = 100

#: Of the jobs that evidently wait, so many of a round are looked at whatever their number, and of
#: the others one in so many: each has its turn within so many rounds.
_ALWAYS_LOOKED_AT = 250
_ROUNDS_TO_A_LOOK = 12

#: The jobs, at most, that the next sweep begins with, since this one could not reconcile them.
_REMEMBERED = 100

#: The two parts of a round, at the beginning of a place in it.
_HELD = "held#"
_UNFINISHED = "unfinished#"

#: Why a sweep stops before its round has ended.
_OUT_OF_TIME = "out of time"
_THROTTLED = "AWS throttles how often executions are looked at"
_OVERTAKEN = "another sweep goes on"
_DIED = "it failed"


class Pace:
    """Lets callers through at a rate, whatever their threads; what was left unused is saved up."""

    def __init__(
        self,
        per_second: float,
        at_once: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin with all saved up that can be.

        Args:
            per_second: how many go through in a second.
            at_once: how many may be saved up.
            clock: returns the seconds since some moment.
            sleep: waits for so many seconds.
        """
        self._apart = 1 / per_second
        self._saved = at_once * self._apart
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next = clock() - self._saved

    def __call__(self) -> None:
        """Wait for one's turn."""
        with self._lock:
            now = self._clock()
            turn = max(self._next, now - self._saved)
            self._next = turn + self._apart
        if turn > now:
            self._sleep(turn - now)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the sweeps have come, as an item of the jobs table says it."""

    #: Counts what was stored: so one of two sweeps at once finds that the other was quicker.
    version: int = 0
    #: Counts the rounds.
    round: int = 0
    #: When the round began; None where it has ended.
    began_at: datetime | None = None
    #: The place of the last job of the round that was reconciled; empty where none was yet.
    after: str = ""
    #: How many jobs of the round were reconciled.
    jobs: int = 0
    #: The jobs that could not be: the next sweep begins with them.
    unreconciled: tuple[str, ...] = ()


_TO_PROGRESS = TypeAdapter(Progress).validate_python


class _Turn(NamedTuple):
    """A job whose turn it is."""

    job_id: str
    #: Its place in the round; empty where it is tried once more, out of turn.
    place: str
    #: The slot that names it, if one does.
    slot: int | None
    #: Whether its execution is looked at though it evidently waits.
    is_looked_at: bool


class _Left(Enum):
    """Why a job is not reconciled."""

    #: The sweep had stopped.
    NOT_TRIED = 1
    #: It met an error.
    FAILED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Reconciles all jobs there are, or as many as there is time for."""

    reconciler: Reconciler
    #: Returns the ids of the jobs that hold something that only one job may hold.
    holders: Callable[[], Sequence[str]]
    #: Waits until an execution may be looked at.
    pace: Callable[[], None]
    #: How many jobs are reconciled side by side: as many connections as a client keeps, but two.
    workers: int = 8

    def __call__(self, time_left: Callable[[], float]) -> dict[str, int]:
        """Reconcile jobs from where the last sweep has stopped, to the end of the round at most.

        Args:
            time_left: returns the seconds that are left; where there are none, no job is begun.

        Returns:
            reconciled and repaired, how many jobs that was.
        """
        store = self.reconciler.store
        key = {"job_id": SWEEP, "record": _PROGRESS}
        progress = _TO_PROGRESS(dynamodb.get(store.client, store.table, key) or {})
        run = _Run(self, time_left, progress)
        run.reconcile_all()
        run.tell()
        return {"reconciled": run.reconciled, "repaired": run.repaired}


class _Run:
    """One sweep."""

    def __init__(self, sweep: Sweep, time_left: Callable[[], float], progress: Progress) -> None:
        self.reconciled = self.repaired = 0
        self._sweep = sweep
        self._store: JobStore = sweep.reconciler.store
        self._time_left = time_left
        #: When its round began: now, where the last one has ended.
        self._began_at = progress.began_at or self._store.now()
        if progress.began_at is None:
            progress = replace(progress, round=progress.round + 1, began_at=self._began_at)
        self._progress = progress
        self._unreconciled = dict.fromkeys(progress.unreconciled)
        #: Why it stops before the round has ended; empty where it need not. Any thread says so.
        self._stopped = ""
        #: When the dispatcher had last held messages back.
        self._held_at: datetime | None = None

    def reconcile_all(self) -> None:
        """Reconcile job by job, and store how far that has come."""
        with ThreadPoolExecutor(self._sweep.workers) as pool:
            for turns in itertools.batched(self._turns(), _CHUNK, strict=False):
                # Each in a copy of the context, so that its logging keys are its own.
                tried = [pool.submit(copy_context().run, self._try, turn) for turn in turns]
                self._take(turns, [one.result() for one in tried])
                self._keep()
                if self._stopped:
                    return
        self._progress = replace(self._progress, began_at=None, after="", jobs=0)
        self._keep()

    def tell(self) -> None:
        """Count the sweep where it has done its part, and measure how old its round is.

        Whatever keeps sweeps from that cannot say so itself: an alarm misses the count.
        """
        if self._stopped:
            logger.warning("sweep stopped early", cause=self._stopped)
        has_done_its_part = not self._stopped or (
            # A round may take several sweeps, as long as each gets on.
            self._stopped == _OUT_OF_TIME and self.reconciled > 0
        )
        if has_done_its_part and not self._unreconciled:
            metrics.add_metric("SweepsCompleted", "Count", 1)
        age = self._store.now() - self._began_at
        metrics.add_metric("SweepRoundAge", "Seconds", age.total_seconds())

    def _turns(self) -> Iterator[_Turn]:
        """Yield the jobs that are left of the round, after those that could not be reconciled."""
        use = self._store.slots()
        self._held_at = use.held_at
        slots = {job_id: slot for slot, job_id in use.holders.items()}
        seen = set(self._unreconciled)
        for job_id in self._progress.unreconciled:
            yield _Turn(job_id, "", slots.get(job_id), is_looked_at=True)
        for number, (job_id, place) in enumerate(self._places(slots), self._progress.jobs):
            if job_id not in seen:
                if place.startswith(_HELD):
                    seen.add(job_id)
                turn = zlib.crc32(job_id.encode()) % _ROUNDS_TO_A_LOOK
                is_its_turn = turn == self._progress.round % _ROUNDS_TO_A_LOOK
                is_looked_at = number < _ALWAYS_LOOKED_AT or is_its_turn
                yield _Turn(job_id, place, slots.get(job_id), is_looked_at)

    def _places(self, slots: Collection[str]) -> Iterator[tuple[str, str]]:
        """Yield the jobs of the round that come after the place that it has come to."""
        after = self._progress.after
        if not after.startswith(_UNFINISHED):
            held = ((job_id, f"{_HELD}{job_id}") for job_id in {*self._sweep.holders(), *slots})
            yield from sorted(one for one in held if one[1] > after)
            after = _UNFINISHED
        for job_id, position in self._store.list_unfinished(after.removeprefix(_UNFINISHED)):
            yield job_id, f"{_UNFINISHED}{position}"

    def _try(self, turn: _Turn) -> Reconciled | _Left:
        """Reconcile a job, in a thread beside others; what goes wrong with it stops no other."""
        if not self._stopped and self._time_left() <= 0:
            self._stopped = _OUT_OF_TIME
        if self._stopped:
            return _Left.NOT_TRIED
        logger.thread_safe_append_keys(job_id=turn.job_id)
        try:
            return self._sweep.reconciler.look_after(
                turn.job_id, slot=turn.slot, may_look=partial(self._may_look, turn)
            )
        except Exception as error:  # noqa: BLE001  # each is logged, and an alarm misses the sweep
            if is_look_throttled(error):
                self._stopped = _THROTTLED
                return _Left.NOT_TRIED
            known = known_error(error, ErrorType.UNKNOWN_ERROR)
            logger.warning("job not reconciled", cause=known.cause or known.message)
            return _Left.FAILED
        except BaseException:
            # Nothing begins any more in a process that ends.
            self._stopped = _DIED
            raise

    def _may_look(self, turn: _Turn, job: Job) -> bool:
        """Say whether a job's execution is looked at, once it may be."""
        now = self._store.now()
        if _is_at_work(job, now):
            return False
        limit = self._sweep.reconciler.queued_limit
        if not turn.is_looked_at and _evidently_waits(job, now, limit, self._held_at):
            return False
        self._sweep.pace()
        return True

    def _take(self, turns: Sequence[_Turn], results: Sequence[Reconciled | _Left]) -> None:
        """Count what was done, and go on to the last job before the first that was left.

        The metrics are no thread's but this one's: they are not safe in several.
        """
        is_left = False
        for turn, result in zip(turns, results, strict=True):
            if result is _Left.NOT_TRIED:
                is_left |= bool(turn.place)
                continue
            self.reconciled += 1
            if isinstance(result, Reconciled):
                self._unreconciled.pop(turn.job_id, None)
                count(result)
                self.repaired += bool(result.repair)
            elif len(self._unreconciled) < _REMEMBERED:
                self._unreconciled[turn.job_id] = None
            if turn.place and not is_left:
                jobs = self._progress.jobs + 1
                self._progress = replace(self._progress, after=turn.place, jobs=jobs)

    def _keep(self) -> None:
        """Store how far the sweep has come, unless another one has gone on since."""
        before = self._progress.version
        self._progress = replace(
            self._progress, version=before + 1, unreconciled=tuple(self._unreconciled)
        )
        work = self._store.work()
        work.change(SWEEP, _PROGRESS, asdict(self._progress), {"version": before or None})
        if not work.write_if_it_holds():
            self._stopped = _OVERTAKEN


def _is_at_work(job: Job, now: datetime) -> bool:
    """Whether a run of a stage may be at work, and nothing else is under way.

    Until its lease is over nothing is done for the job, however its execution stands.
    """
    is_polled = StageStatus.WAITING in {record.status for record in job.stages}
    is_running = job.status is JobStatus.RUNNING and job.cancel_requested_at is None
    lease = lease_wait(job, now, last_runs_only=True) if is_running and not is_polled else None
    return lease is not None


def _evidently_waits(
    job: Job, now: datetime, queued_limit: timedelta, held_at: datetime | None
) -> bool:
    """Whether a job waits, by what is stored of it, for what has not come late.

    Should its execution have been stopped, an event says so; if that gets lost, the job's turn
    comes, or its wait ends.
    """
    if job.cancel_requested_at is not None:
        return False
    if job.waits:
        return any(wait.until > now for wait in job.waits)
    is_queued = job.status is JobStatus.QUEUED
    return is_queued and now - queued_since(job, held_at) < queued_limit
