"""A fleet of jobs, event by event: each job's own way, with every wait drawn. For thousands.

Which slot a job takes, and whose turn it is, `jobs/slots.py` itself decides, and which messages are
held back `jobs/admission.py`.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter, deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from random import Random
from typing import Any

from provisioner.drivers.dynamodb_lists import SHARDS, partition_of, partitions_of
from provisioner.errors import FINAL_ERROR, ErrorType
from provisioner.jobs.admission import PAUSE_SECONDS, AdmissionControl
from provisioner.jobs.dispatch import HELD_SECONDS, RESERVE_SECONDS
from provisioner.jobs.records import WAITING_FOR_SLOT
from provisioner.jobs.retries import SLOT_RETRY
from provisioner.jobs.slots import SlotUse, preferred_slot

from bench.fleet_inputs import (
    CLEANUP_SECONDS,
    FAILURE_TRANSITIONS,
    NOT_DISPATCHED,
    STAGE_FAILED,
    TRANSITION_SECONDS,
    WAITED,
    Fleet,
    Outcome,
)
from bench.job_shape import SLOT_WAITING, Retrier, State
from bench.prices import Use
from bench.quotas import (
    CALL_ATTEMPTS,
    CALL_BACKOFFS,
    LAMBDA_CONCURRENCY,
    MAPPING_BATCHES,
    MAPPING_BATCHES_A_MINUTE,
    SLOTS_READ,
    SLOTS_WRITE,
    STATE_TRANSITION,
    Rate,
)
from bench.stage_calls import DISPATCH, POLL, PUBLISH

#: Something that goes on: it yields the seconds that pass, or None until another one wakes it.
type Process = Generator[float | None]

#: A part of it that has a result.
type Step[T] = Generator[float | None, None, T]

#: What a function becomes that may not run yet, and a call that was throttled at each attempt.
_FUNCTION_THROTTLED = "Lambda.TooManyRequestsException"
_CALL_THROTTLED = str(ErrorType.NETWORK_ERROR)

#: For how long a slot has to be free for a first try, and a place is kept; see `jobs/slots.py`.
_KEPT_SECONDS = 2 * SLOT_RETRY.max_delay_seconds


class Bucket:
    """A token bucket. Tokens are taken at once or not at all, or come in their turn."""

    def __init__(self, rate: Rate) -> None:
        """Begin with a full bucket."""
        self.rate = rate
        #: The fewest tokens that it has held.
        self.least = rate.capacity
        self._tokens = rate.capacity
        self._at = 0.0

    def take(self, now: float, tokens: float = 1) -> bool:
        """Take tokens; say whether there were as many."""
        # Before `_at` all that comes is promised.
        if now > self._at:
            gained = (now - self._at) * self.rate.refill
            self._tokens = min(self.rate.capacity, self._tokens + gained)
            self._at = now
        if now < self._at or self._tokens < tokens:
            return False
        self._tokens -= tokens
        self.least = min(self.least, self._tokens)
        return True

    def reserve(self, now: float) -> float:
        """Take a token in its turn; return in how many seconds it comes."""
        if self.take(now):
            return 0.0
        # The rest of a token is a part of the next one.
        self._at += (1 - self._tokens) / self.rate.refill
        self._tokens = 0.0
        return self._at - now


@dataclass(eq=False)
class _Job:
    job_id: str
    share: str
    receives: int = 0
    #: How often it has looked for a slot.
    looks: int = 0
    waits_until: float | None = None
    slot: int | None = None
    began: float = 0.0
    #: Why it failed.
    why: str = ""


def _partition(job: _Job) -> str:
    return partition_of(WAITING_FOR_SLOT, job.job_id)


@dataclass(frozen=True)
class _Store:
    """What admission control asks of the jobs that are stored."""

    of: Simulation

    def estimate_waiting(self, most: int) -> int:
        shard = self.of.random.choice(partitions_of(WAITING_FOR_SLOT))
        return min(math.ceil(most / SHARDS), self.of.listed[shard]) * SHARDS

    def slots(self) -> SlotUse:
        return replace(self.of.slot_use(), held_at=self.now())

    def now(self) -> datetime:
        """Return a time that passes no more: that jobs are held back is stored."""
        return datetime.min.replace(tzinfo=UTC)


@dataclass
class Simulation:
    """A fleet at work."""

    fleet: Fleet
    now: float = 0.0
    outcome: Outcome = field(init=False)
    buckets: dict[str, Bucket] = field(init=False)
    #: Who has a slot, and when each was released.
    holders: dict[int, _Job] = field(default_factory=dict)
    released: dict[int, float] = field(default_factory=dict)
    #: Who has a place in the line, share and job, and until when.
    line: dict[int, tuple[str, str, float]] = field(default_factory=dict)
    #: Functions that run, and jobs that were dispatched and have no slot.
    at_work: int = 0
    waiting: int = 0
    #: Jobs that are listed as waiting for a slot, by partition; and how often one was held back.
    listed: Counter[str] = field(default_factory=Counter)
    held: int = 0
    ended: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Fill the queue."""
        self.random = Random(self.fleet.seed)  # noqa: S311  # it simulates  # nosec B311
        self.outcome = Outcome(self.fleet)
        self.buckets = {name: Bucket(rate) for name, rate in self.fleet.rates.items()}
        self._use_of = cache(self.fleet.use)
        self._heap: list[tuple[float, int, Process]] = []
        self._numbers = itertools.count()
        self._queue = deque(
            _Job(f"{self.random.getrandbits(128):032x}", f"owner#{n % self.fleet.shares}")
            for n in range(self.fleet.jobs)
        )
        self._undispatched = self.fleet.jobs

    def run(self) -> Outcome:
        """Run until every job has ended."""
        for number in range(self.fleet.parameters.dispatcher_concurrency):
            later = max(0, number + 1 - MAPPING_BATCHES)
            self._begin(self._dispatcher(), later * 60 / MAPPING_BATCHES_A_MINUTE)
        while self._heap:
            self.now, _, self._current = heapq.heappop(self._heap)
            delay = next(self._current, None)
            if delay is not None:
                self._begin(self._current, delay)
        sent = Use(queue_requests=self.fleet.jobs, fair_messages=self.fleet.jobs)
        self.outcome.use.add(sent)
        return self.outcome

    def _begin(self, process: Process, delay: float = 0.0) -> None:
        heapq.heappush(self._heap, (self.now + delay, next(self._numbers), process))

    def _all(self, parts: Sequence[Process]) -> Process:
        """Run processes beside one another until all have ended."""
        parent, left = self._current, len(parts)

        def joined(part: Process) -> Process:
            nonlocal left
            yield from part
            left -= 1
            if left == 0:
                self._begin(parent)

        for part in parts:
            self._begin(joined(part))
        yield None

    # From the queue to the execution.

    def _dispatcher(self) -> Process:
        # Each function has looked for itself.
        store: Any = _Store(self)
        admission = AdmissionControl(store, self.fleet.most_waiting, clock=lambda: self.now)
        while self._undispatched:
            room = min(self.fleet.parameters.batch_size, len(self._queue))
            batch = [self._queue.popleft() for _ in range(room)]
            if not batch:
                yield 1.0
                continue
            self.outcome.use.add(Use(queue_requests=2, runs=1))
            began = self.now
            yield from self._all([self._dispatch(job, admission) for job in batch])
            waited = self.now - began - self.fleet.seconds(DISPATCH)
            self.outcome.use.add(Use(gigabyte_seconds=self.fleet.gigabytes * waited))

    def _dispatch(self, job: _Job, admission: AdmissionControl) -> Process:
        job.receives += 1
        self._spend(DISPATCH, runs=0)
        yield self.fleet.seconds(DISPATCH)
        left = self.fleet.parameters.dispatcher_timeout_seconds - RESERVE_SECONDS
        while not admission.has_room(job.share):
            if left < PAUSE_SECONDS:
                # It is sent again, as a message of its own.
                self.outcome.use.add(Use(queue_requests=1, fair_messages=1))
                self.held += 1
                job.receives = 0
                self._begin(self._deliver_again(job), HELD_SECONDS)
                return
            left -= PAUSE_SECONDS
            yield PAUSE_SECONDS
        if not (yield from self._calls(DISPATCH)):
            if job.receives < self.fleet.parameters.max_receive_count:
                self._begin(
                    self._deliver_again(job), self.fleet.parameters.visibility_timeout_seconds
                )
                return
            self._undispatched -= 1
            self._fail(job, NOT_DISPATCHED)
            return
        self._undispatched -= 1
        self.waiting += 1
        self._begin(self._execution(job))

    def _deliver_again(self, job: _Job) -> Process:
        self._queue.append(job)
        yield from ()

    def _spend(self, part: str, runs: float = 1) -> None:
        """Count what one run of a stage, or of what else calls, uses."""
        used = self._use_of(part)
        self.outcome.use.add(used)
        self.outcome.use.runs -= used.runs * (1 - runs)

    def _calls(self, part: str) -> Step[bool]:
        """Make the calls that rates bound; say whether none was throttled at each attempt."""
        for rate, times in self.fleet.rated(part).items():
            for _ in range(times):
                if not (yield from self._call(rate)):
                    return False
        return True

    def _call(self, rate: str, tokens: float = 1) -> Step[bool]:
        for attempt in range(CALL_ATTEMPTS):
            if self.buckets[rate].take(self.now, tokens):
                self.outcome.take(rate, tokens)
                return True
            if attempt < len(CALL_BACKOFFS):
                yield self.random.uniform(0, CALL_BACKOFFS[attempt])
        return False

    # The execution.

    def _execution(self, job: _Job) -> Process:
        for step in self.fleet.shape.steps:
            if isinstance(step, State):
                is_well = yield from self._states(job, [step])
            else:
                yield from self._enter()
                ends: list[bool] = []
                yield from self._all([self._branch(job, of, ends) for of in step.branches])
                is_well = all(ends)
            if not is_well:
                self.outcome.use.add(Use(transitions=FAILURE_TRANSITIONS))
                yield 0.0 if job.slot is None else CLEANUP_SECONDS
                if job.slot is None:
                    self._leave(job)
                self._fail(job, job.why)
                return
        self._spend(PUBLISH)
        self.outcome.use.add(Use(events=self.fleet.counted.events, traces=1))
        self.outcome.completed += 1
        self._end(job)

    def _branch(self, job: _Job, states: Sequence[State], ends: list[bool]) -> Process:
        ends.append((yield from self._states(job, states)))

    def _states(self, job: _Job, states: Iterable[State]) -> Step[bool]:
        """Go through states one after another; say whether all went well."""
        for state in states:
            yield from self._enter()
            repeated: Counter[Retrier] = Counter()
            while state.stage and (error := (yield from self._run(job, state))):
                retrier = state.retrier(error)
                if retrier is None or repeated[retrier] == retrier.max_attempts:
                    job.why = job.why or STAGE_FAILED
                    return False
                repeated[retrier] += 1
                yield retrier.delay(repeated[retrier], self.random)
                yield from self._enter()
        return True

    def _enter(self) -> Process:
        """Enter a state, or a Task once more: a transition that exceeds the rate waits."""
        self.outcome.use.transitions += 1
        self.outcome.take(STATE_TRANSITION, 1)
        yield TRANSITION_SECONDS + self.buckets[STATE_TRANSITION].reserve(self.now)

    def _run(self, job: _Job, state: State) -> Step[str]:
        """Run a stage; return the name of its error."""
        if self.at_work >= LAMBDA_CONCURRENCY:
            return _FUNCTION_THROTTLED
        self.at_work += 1
        self.outcome.use.runs += 1
        error = ""
        if state is self.fleet.shape.first and job.slot is None:
            error = yield from self._take_slot(job)
        if not error:
            self._spend(state.stage, runs=0)
            yield self.fleet.seconds(state.stage)
            error = "" if (yield from self._calls(state.stage)) else _CALL_THROTTLED
        self.at_work -= 1
        return error

    # Slots.

    def _take_slot(self, job: _Job) -> Step[str]:
        preferred = preferred_slot(job.job_id, self.fleet.slots)
        is_first = job.looks == 0
        job.looks += 1
        rested = self.released.get(preferred, -_KEPT_SECONDS) <= self.now - _KEPT_SECONDS
        if is_first and preferred not in self.holders and rested:
            self._begin_job(job, preferred)
            return ""
        self.outcome.polls += not is_first
        self._spend(POLL, runs=0)
        units = self.fleet.slots_read_units(len(self.line))
        self.outcome.use.read_units += units - 1
        yield self.fleet.seconds(POLL)
        is_answered = yield from self._call(SLOTS_READ, units)
        written = self._write_units if self._has_place(job) else 0.0
        self.outcome.use.write_units += written - self._write_units
        if not (is_answered and (yield from self._call(SLOTS_WRITE, written))):
            return self._end_wait_in_time(job)
        return self._look(job)

    def _has_place(self, job: _Job) -> bool:
        return self.slot_use().place_for(job.job_id, job.share) is not None

    @property
    def _write_units(self) -> float:
        return self._use_of(POLL).write_units

    def slot_use(self) -> SlotUse:
        """Return who has the slots, and who waits."""
        return SlotUse(
            self.fleet.slots,
            {slot: holder.job_id for slot, holder in self.holders.items()},
            {slot: holder.share for slot, holder in self.holders.items()},
            {
                place: (share, job_id)
                for place, (share, job_id, until) in self.line.items()
                if until > self.now
            },
        )

    def _look(self, job: _Job) -> str:
        use = self.slot_use()
        place = use.place_for(job.job_id, job.share)
        slot = use.free_for(job.job_id, job.share)
        if slot is not None:
            self._begin_job(job, slot)
            own = use.place_of(job.job_id)
            if own is not None:
                self.line[own] = (job.share, job.job_id, self.now)
            return ""
        if job.waits_until is None:
            job.waits_until = self.now + self.fleet.slot_wait_seconds
            self.listed[_partition(job)] += 1
        elif self._end_wait_in_time(job) == FINAL_ERROR:
            return FINAL_ERROR
        if place is not None:
            self.line[place] = (job.share, job.job_id, self.now + _KEPT_SECONDS)
        self.outcome.most_waiting = max(self.outcome.most_waiting, self.waiting)
        return SLOT_WAITING

    def _end_wait_in_time(self, job: _Job) -> str:
        if job.waits_until is None or self.now < job.waits_until:
            return SLOT_WAITING
        job.why = WAITED
        return FINAL_ERROR

    def _begin_job(self, job: _Job, slot: int) -> None:
        self.holders[slot] = job
        job.slot, job.began = slot, self.now
        self._leave(job)
        self.outcome.most_at_work = max(self.outcome.most_at_work, len(self.holders))

    def _leave(self, job: _Job) -> None:
        """Let a job wait no more."""
        self.waiting -= 1
        self.listed[_partition(job)] -= job.waits_until is not None

    # The end.

    def _fail(self, job: _Job, why: str) -> None:
        self.outcome.fail(why)
        self._end(job)

    def _end(self, job: _Job) -> None:
        if job.slot is not None:
            del self.holders[job.slot]
            self.released[job.slot] = self.now
            self.outcome.slot_seconds += self.now - job.began
        self.ended[job.job_id] += 1
        self.outcome.seconds = self.now
        self.outcome.curve.append((self.now, self.outcome.completed))
