"""A fleet of jobs as a flow: how many are where, second by second. For millions.

Waits are means, and a rate that is exceeded turns away what is beyond it. Transitions that exceed
theirs come in their turn, those of waiting jobs among those of jobs that run: AWS says that they
are delayed, not in which order. A test compares it with `fleet_events` where both can be run.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from functools import cache

from bench.fleet_inputs import (
    CLEANUP_SECONDS,
    FAILURE_TRANSITIONS,
    NOT_DISPATCHED,
    STAGE_FAILED,
    WAITED,
    Fleet,
    Outcome,
    mean_backoff,
)
from bench.job_shape import SLOT_WAITING, Retrier
from bench.prices import Use
from bench.quotas import (
    CALL_ATTEMPTS,
    LAMBDA_CONCURRENCY,
    MAPPING_BATCHES,
    MAPPING_BATCHES_A_MINUTE,
    SLOTS_READ,
    SLOTS_WRITE,
    START_EXECUTION,
    STATE_TRANSITION,
)
from bench.stage_calls import DISPATCH, POLL

#: Seconds of a step.
STEP = 1.0

#: Seconds between two points of the curve.
_POINT = 10

#: Less than any number of jobs.
_LITTLE = 1e-9

_HALVINGS = 40


class _Asleep:
    """Jobs that sleep for a time that is drawn, evenly up to a bound: some wake in each step."""

    def __init__(self, bound: float) -> None:
        """Begin with none.

        Args:
            bound: the longest that one sleeps, in seconds.
        """
        self.jobs = 0.0
        #: How many wake in a step, and how many fewer after each of the next steps.
        self._waking = 0.0
        self._fewer = deque([0.0] * max(1, round(bound / STEP)))
        #: What is left of all that stands in these.
        self._scale = 1.0

    def add(self, jobs: float) -> None:
        """Let jobs fall asleep."""
        each = jobs / len(self._fewer) / self._scale
        self._waking += each
        self._fewer[-1] += each
        self.jobs += jobs

    def wake(self) -> float:
        """Pass a step, and return how many wake in it."""
        woken = min(self.jobs, self._waking * self._scale)
        self._waking = max(0.0, self._waking - self._fewer.popleft())
        self._fewer.append(0.0)
        self.jobs -= woken
        return woken

    def keep(self, share: float) -> None:
        """Let a share stay, and the others go."""
        self.jobs *= share
        self._scale *= max(share, _LITTLE)


@dataclass
class _Running:
    """Jobs that have a slot, by the attempts of a stage that have failed."""

    #: Those that wait for the next attempt.
    asleep: _Asleep
    at_work: float = 0.0


@dataclass
class Flow:
    """A fleet at work."""

    fleet: Fleet
    now: float = 0.0
    outcome: Outcome = field(init=False)

    def __post_init__(self) -> None:
        """Fill the queue and the buckets."""
        fleet, shape = self.fleet, self.fleet.shape
        self.outcome = Outcome(fleet)
        self.tokens = {name: rate.capacity for name, rate in fleet.rates.items()}
        #: Messages by the receives before; those that are hidden, with when they appear.
        self.queue = [float(fleet.jobs), *[0.0] * (fleet.parameters.max_receive_count - 1)]
        self.hidden: deque[tuple[float, int, float]] = deque()
        slots, again = (
            shape.first.retrier(error) or _missing(error)
            for error in (SLOT_WAITING, "NETWORK_ERROR")
        )
        delays = _longest_delays(slots)
        attempts = [0.0, *(again.longest_delay(n + 1) for n in range(again.max_attempts))]
        self.running = [_Running(_Asleep(retry)) for retry in attempts]
        #: Jobs that have no slot: those that sleep, and those whose poll is due, by how often they
        #: have polled.
        self.asleep = [_Asleep(delay) for delay in delays]
        self.due = [0.0] * len(delays)
        self.cleanups = 0.0
        self.places = 0.0
        #: What is left of jobs that began to wait, as the logarithm of a share; when which of them
        #: reach their deadline, how many began, and that logarithm then.
        self.left = 0.0
        self.deadlines: deque[tuple[float, float, float]] = deque()
        self.throttled = 0.0
        self.delay = 0.0
        self.rated = {
            rate: sum(fleet.rated(stage)[rate] for stage in shape.stages)
            for stage in shape.stages
            for rate in fleet.rated(stage)
        }
        self.function_seconds = sum(map(fleet.seconds, shape.stages))
        self.poll_seconds = fleet.seconds(POLL)
        self.place_units = fleet.use(POLL).write_units

    @property
    def waiting_jobs(self) -> float:
        """Jobs that were dispatched and have no slot."""
        return sum(of.jobs for of in self.asleep) + sum(self.due)

    @property
    def slots_taken(self) -> float:
        """Slots that are taken, by jobs and their clean-ups."""
        return sum(of.at_work + of.asleep.jobs for of in self.running) + self.cleanups

    @property
    def ended(self) -> float:
        """Jobs that have ended."""
        return self.outcome.completed + self.outcome.all_failed

    def run(self) -> Outcome:
        """Run until every job has ended."""
        while self.fleet.jobs - self.ended > 0.5:  # noqa: PLR2004  # half a job is none
            if self.now % _POINT == 0:
                self.outcome.curve.append((self.now, self.outcome.completed))
            self._step()
            self.now += STEP
        self.outcome.seconds = self.now
        self.outcome.curve.append((self.now, self.outcome.completed))
        self._settle()
        return self.outcome

    def _step(self) -> None:
        for name, rate in self.fleet.rates.items():
            self.tokens[name] = min(rate.capacity, self.tokens[name]) + rate.refill * STEP
        self._dispatch()
        self._wake()
        leaving = self._leave()
        left = self._take(STATE_TRANSITION, leaving)
        # What ends makes room within the step.
        self._work()
        self.running[0].at_work += self._poll(left)
        self._expire()
        out = self.outcome
        out.most_at_work = max(out.most_at_work, self.slots_taken)
        out.most_waiting = max(out.most_waiting, self.waiting_jobs)
        out.slot_seconds += self.slots_taken * STEP

    def _take(self, rate: str, tokens: float) -> float:
        """Take tokens, as many as there are; return how many are left."""
        taken = min(tokens, self.tokens[rate])
        self.tokens[rate] -= taken
        self.outcome.take(rate, taken)
        return self.tokens[rate]

    # From the queue to the execution.

    def _dispatch(self) -> None:
        while self.hidden and self.hidden[0][0] <= self.now:
            _, receives, messages = self.hidden.popleft()
            self.queue[receives] += messages
        there = sum(self.queue)
        if there <= 0:
            return
        parameters = self.fleet.parameters
        mapping = MAPPING_BATCHES + self.now * MAPPING_BATCHES_A_MINUTE / 60
        threads = min(parameters.dispatcher_concurrency, mapping) * parameters.batch_size
        wanted = min(there, threads / self.fleet.seconds(DISPATCH) * STEP)
        room = max(0.0, self.fleet.most_waiting - self.waiting_jobs)
        if room < wanted:
            # The functions wait for it.
            waits = parameters.dispatcher_concurrency * STEP
            self.outcome.use.add(Use(gigabyte_seconds=self.fleet.gigabytes * waits))
            wanted = room
        started = min(wanted, self.tokens[START_EXECUTION])
        self._take(START_EXECUTION, started)
        refused = 0.0
        if started < wanted:
            # A thread waits with its call, so that few messages come back.
            share = _throttled_share(threads, self.fleet.seconds(DISPATCH), started / STEP)
            refused = started * share**CALL_ATTEMPTS / (1 - share**CALL_ATTEMPTS)
        self._move(min(1.0, (started + refused) / there), refused / max(started + refused, 1e-9))

    def _move(self, received: float, refused: float) -> None:
        """Take a share of the messages; a share of those comes back."""
        again = self.now + self.fleet.parameters.visibility_timeout_seconds
        begun = 0.0
        for receives, messages in enumerate(self.queue):
            taken = messages * received
            self.queue[receives] -= taken
            begun += taken * (1 - refused)
            if receives + 1 < len(self.queue):
                if taken * refused > 0:
                    self.hidden.append((again, receives + 1, taken * refused))
            else:
                self.outcome.fail(NOT_DISPATCHED, taken * refused)
        self.due[0] += begun
        self.deadlines.append((self.now + self.fleet.slot_wait_seconds, begun, self.left))

    # Slots.

    def _wake(self) -> None:
        """Let polls become due, and attempts begin again."""
        last = len(self.asleep) - 1
        for level, asleep in enumerate(self.asleep):
            self.due[min(level + 1, last)] += asleep.wake()
        for running in self.running:
            running.at_work += running.asleep.wake()
        self.cleanups -= self.cleanups * STEP / CLEANUP_SECONDS

    def _leave(self) -> float:
        """Return the transitions of jobs that run, at the pace that the delays leave them."""
        return (
            sum(of.at_work for of in self.running) * self._pace * (self.fleet.shape.transitions - 1)
        )

    @property
    def _pace(self) -> float:
        """The share of the jobs at work that end in a step."""
        fleet = self.fleet
        backoff = mean_backoff(self.throttled ** (1 / CALL_ATTEMPTS))
        seconds = fleet.slot_seconds + backoff + fleet.transitions_in_a_row * self.delay
        return min(1.0, STEP / seconds)

    def _poll(self, tokens: float) -> float:
        """Poll for slots with so many transitions; return how many jobs begin."""
        due = sum(self.due)
        # All that is due comes in its turn.
        self.delay = max(0.0, due - tokens) / self.fleet.rates[STATE_TRANSITION].refill
        at_work = sum(of.at_work for of in self.running) * self._pace * self.function_seconds
        runs = max(0.0, LAMBDA_CONCURRENCY - at_work) / self.poll_seconds * STEP
        polled = min(due, tokens, runs)
        if polled <= 0:
            return 0.0
        self._take(STATE_TRANSITION, polled)
        self.outcome.polls += polled
        answered = self._look(polled)
        starts = min(max(0.0, self.fleet.slots - self.slots_taken), answered)
        before = self.waiting_jobs
        self._divide(polled / due, answered / polled, starts / max(answered, _LITTLE))
        self.left += math.log(max(self.waiting_jobs, _LITTLE) / before)
        return starts

    def _look(self, polled: float) -> float:
        """Read the slots so often; return how often that was not throttled."""
        waiting = self.waiting_jobs
        self.places = max(self.places, self.fleet.place_items(waiting))
        units = self.fleet.slots_read_units(self.places)
        writes = min(1.0, self.fleet.place_items(waiting) / max(waiting, 1.0))
        written = writes * self.place_units
        answered = min(
            polled,
            self.tokens[SLOTS_READ] / units,
            self.tokens[SLOTS_WRITE] / max(written, _LITTLE),
        )
        self._take(SLOTS_READ, answered * units)
        self._take(SLOTS_WRITE, answered * written)
        self.outcome.use.add(self.fleet.use_of_a_poll(self.places, writes), polled)
        return answered

    def _divide(self, polled: float, answered: float, started: float) -> None:
        """Move on what was polled, by the shares that were polled, answered and started."""
        for level, due in enumerate(self.due):
            moved = due * polled
            self.due[level] -= moved
            # A poll that is throttled is a poll.
            self.asleep[level].add(moved * (1 - answered * started))

    def _expire(self) -> None:
        """Fail the jobs that have waited for too long."""
        while self.deadlines and self.deadlines[0][0] <= self.now:
            _, begun, left_then = self.deadlines.popleft()
            waiting = self.waiting_jobs
            expired = min(waiting, begun * math.exp(self.left - left_then))
            kept = 1 - expired / max(waiting, _LITTLE)
            for asleep in self.asleep:
                asleep.keep(kept)
            self.due = [jobs * kept for jobs in self.due]
            self.outcome.fail(WAITED, expired)

    # Jobs that run.

    def _work(self) -> None:
        pace, passed = self._pace, 1.0
        moving = [of.at_work * pace for of in self.running]
        for rate, times in self.rated.items():
            wanted = sum(moving) * times
            got = min(wanted, self.tokens[rate])
            self._take(rate, got)
            passed *= got / wanted if wanted > got else 1
        self.throttled = 1 - passed
        for failures, moved in enumerate(moving):
            failed = moved * (1 - passed)
            self.running[failures].at_work -= moved
            self.outcome.completed += moved * passed
            self.outcome.use.transitions += failed
            if failures + 1 < len(self.running):
                self.running[failures + 1].asleep.add(failed)
            else:
                self.outcome.fail(STAGE_FAILED, failed)
                self.cleanups += failed

    def _settle(self) -> None:
        """Count what the jobs used beside their polls."""
        batch = self.fleet.parameters.batch_size
        failed = Use(transitions=1 + FAILURE_TRANSITIONS, queue_requests=1 + 2 / batch)
        self.outcome.use.add(self.fleet.use_of_a_job, self.outcome.completed)
        self.outcome.use.add(failed, self.outcome.all_failed)
        # The first look of each is no repetition, and the last one a part of the stage's run.
        self.outcome.use.add(Use(transitions=-1, runs=-1), self.ended)
        self.outcome.polls -= self.ended


def _missing(error: str) -> Retrier:
    raise LookupError(f"the first stage has no retrier of {error}")


def _longest_delays(retrier: Retrier) -> list[float]:
    """Return the bounds of the waits of a retrier, up to the first that is the longest."""
    bounds = [retrier.longest_delay(1)]
    while bounds[-1] < retrier.max_delay_seconds:
        bounds.append(retrier.longest_delay(len(bounds) + 1))
    return bounds


@cache
def _throttled_share(threads: float, seconds: float, rate: float) -> float:
    """Return how likely an attempt of a call is throttled that so many threads make at once.

    Args:
        threads: each makes one call after another.
        seconds: what a call takes beside its waits.
        rate: the calls a second that succeed.
    """
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        succeed = threads * (1 - share**CALL_ATTEMPTS) / (seconds + mean_backoff(share))
        low, high = (share, high) if succeed > rate else (low, share)
    return low
