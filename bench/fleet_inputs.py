"""What a fleet of jobs is made of: the project's own numbers, AWS's, and assumptions.

The assumptions are the tables of seconds. They stand here alone, and nothing of them was measured
on AWS.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from provisioner.jobs.admission import MOST_WAITING
from provisioner.jobs.retries import SLOT_WAIT_SECONDS
from provisioner.jobs.slots import FURTHER_PLACES, PLACES_OF_A_SHARE

from bench import quotas
from bench.job_shape import (
    JobShape,
    Parallel,
    Parameters,
    State,
    read_job_shape,
    read_parameters,
)
from bench.prices import Use, dollars
from bench.quotas import CALL_BACKOFFS, RATE_OF_CALL, Rate, Region
from bench.stage_calls import DISPATCH, POLL, PUBLISH, StageCall, StageCalls
from bench.stage_calls import read as read_stage_calls

#: Seconds that AWS takes for a call, by botocore's id of the service. An assumption.
CALL_SECONDS = {
    "appsync": 0.15,
    "cognito-identity-provider": 0.15,
    "dynamodb": 0.01,
    "s3": 0.08,
    "secrets-manager": 0.05,
    "sfn": 0.05,
    "ssm": 0.05,
}
#: Seconds of a stage at the database, beside its calls. An assumption.
DATABASE_SECONDS = {"CREATING_DATABASE": 1.0, "CREATING_SCHEMA": 0.3}
#: Seconds that a run of a warm function takes beside its calls, and Step Functions for a
#: transition. Assumptions.
RUN_SECONDS = 0.02
TRANSITION_SECONDS = 0.03

#: The transitions in which a job ends that fails, and the seconds for which its clean-up has its
#: slot. The latter is an assumption.
FAILURE_TRANSITIONS = 4
CLEANUP_SECONDS = 10.0

#: Why jobs fail.
WAITED = "waited for a slot for too long (TIMEOUT)"
STAGE_FAILED = "a stage was throttled in three attempts (NETWORK_ERROR)"
NOT_DISPATCHED = "StartExecution was throttled at each delivery"


@dataclass(frozen=True)
class Fleet:
    """So many jobs, whose messages come at once, and where they run."""

    jobs: int
    region: Region = Region.OTHER
    #: Instead of the template's default.
    maximum_running_jobs: int = 0
    #: How many jobs may wait for a slot as executions; the others are held back in the queue.
    most_waiting: int = MOST_WAITING
    seed: int = 1
    shape: JobShape = field(default_factory=read_job_shape)
    parameters: Parameters = field(default_factory=read_parameters)
    counted: StageCalls = field(default_factory=read_stage_calls)
    #: For how long a job waits for a slot at the most, in seconds.
    slot_wait_seconds: float = SLOT_WAIT_SECONDS

    @cached_property
    def rates(self) -> dict[str, Rate]:
        """The rates of the region."""
        return quotas.rates(self.region)

    @cached_property
    def slots(self) -> int:
        """Jobs that run at once."""
        return self.maximum_running_jobs or self.parameters.maximum_running_jobs

    @property
    def shares(self) -> int:
        """Owners, each of which has as many jobs as projects by default."""
        return max(1, self.jobs // max(1, self.parameters.default_project_quota))

    @property
    def gigabytes(self) -> float:
        """Memory of a function."""
        return self.parameters.memory_megabytes / 1024

    def calls(self, part: str) -> list[StageCall]:
        """Return what a stage, or what else calls, asks of AWS."""
        return self.counted.calls.get(part, [])

    def rated(self, part: str) -> Counter[str]:
        """Return how often it calls what a rate bounds, by rate."""
        found: Counter[str] = Counter()
        for call in self.calls(part):
            rate = RATE_OF_CALL.get((call.service, call.operation))
            if rate is not None:
                found[rate] += call.times
        return found

    def seconds(self, part: str) -> float:
        """Return the seconds that it takes where nothing is throttled."""
        of_calls = sum(call.times * CALL_SECONDS.get(call.service, 0) for call in self.calls(part))
        return RUN_SECONDS + of_calls + DATABASE_SECONDS.get(part, 0)

    @cached_property
    def slot_seconds(self) -> float:
        """For how long a job has its slot, where nothing is throttled or repeated."""
        # It takes it in the first state, not on the way to it.
        return sum(map(self._step_seconds, self.shape.steps)) - TRANSITION_SECONDS

    def _step_seconds(self, step: State | Parallel) -> float:
        if isinstance(step, State):
            return TRANSITION_SECONDS + (self.seconds(step.stage) if step.stage else 0)
        return TRANSITION_SECONDS + max(map(self._branch_seconds, step.branches))

    def _branch_seconds(self, branch: Iterable[State]) -> float:
        return sum(map(self._step_seconds, branch))

    @cached_property
    def transitions_in_a_row(self) -> int:
        """Transitions of a job with a slot that follow one another; the first had none yet."""
        rows = (
            1 + max(len(branch) for branch in step.branches) if isinstance(step, Parallel) else 1
            for step in self.shape.steps
        )
        return sum(rows) - 1

    def place_items(self, waiting: float) -> float:
        """Return the places in the line that are taken, of so many jobs that wait at once."""
        first = min(self.shares, self.slots + 2)
        return min(waiting, PLACES_OF_A_SHARE * first, first + FURTHER_PLACES)

    def slots_read_units(self, places: float) -> float:
        """Return what a look at the slots reads, with so many places beside them."""
        size = self.slots * self.counted.slot_bytes + places * self.counted.place_bytes
        return max(1.0, math.ceil(size / quotas.READ_BYTES))

    def use(self, part: str) -> Use:
        """Return what one run of a stage, or of what else calls, uses."""
        calls = self.calls(part)
        named = Counter({(call.service, call.operation): call.times for call in calls})
        s3 = {operation: n for (service, operation), n in named.items() if service == "s3"}
        writes = sum(n for op, n in s3.items() if op.startswith(("Create", "Put", "List")))
        return Use(
            runs=1,
            gigabyte_seconds=self.gigabytes * self.seconds(part),
            write_units=sum(call.write_units for call in calls),
            read_units=sum(call.read_units for call in calls),
            secret_calls=sum(n for (of, _), n in named.items() if of == "secrets-manager"),
            s3_writes=writes,
            s3_reads=sum(s3.values()) - writes,
        )

    @cached_property
    def use_of_a_job(self) -> Use:
        """What a good job that waits for nothing uses, from its message to its last event."""
        used = Use(transitions=self.shape.transitions, events=self.counted.events, traces=1)
        for stage in self.shape.stages:
            used.add(self.use(stage))
        used.add(self.use(PUBLISH))
        # A batch is one run, one receipt and one deletion.
        batch = self.parameters.batch_size
        dispatch = self.use(DISPATCH)
        dispatch.runs /= batch
        dispatch.gigabyte_seconds /= batch
        used.add(dispatch)
        used.add(Use(queue_requests=1 + 2 / batch, fair_messages=1))
        return used

    @property
    def dollars_of_a_job(self) -> Mapping[str, float]:
        """What a good job that waits for nothing costs, by service."""
        return dollars(self.use_of_a_job)

    @cached_property
    def _poll(self) -> Use:
        return self.use(POLL)

    def use_of_a_poll(self, places: float, has_place: float) -> Use:
        """Return what a look for a slot uses.

        Args:
            places: in the line.
            has_place: how likely the job has one, which it writes.
        """
        return replace(
            self._poll,
            transitions=1,
            read_units=self._poll.read_units + self.slots_read_units(places) - 1,
            write_units=self._poll.write_units * has_place,
        )


def mean_backoff(throttled: float) -> float:
    """Return the seconds that a call waits between its attempts on average.

    Args:
        throttled: how likely an attempt of it is throttled.
    """
    return sum(bound / 2 * throttled ** (n + 1) for n, bound in enumerate(CALL_BACKOFFS))


@dataclass
class Outcome:
    """What became of a fleet."""

    fleet: Fleet
    completed: float = 0
    #: Jobs that failed, by why.
    failed: dict[str, float] = field(default_factory=dict)
    #: When the last job ended, in seconds.
    seconds: float = 0
    most_at_work: float = 0
    most_waiting: float = 0
    #: Looks for a slot after the first one of each job.
    polls: float = 0
    use: Use = field(default_factory=Use)
    #: Tokens taken, by rate.
    taken: dict[str, float] = field(default_factory=dict)
    #: Seconds, and the jobs that had completed by then, in order.
    curve: list[tuple[float, float]] = field(default_factory=list)
    #: Seconds of all slots together in which they were taken.
    slot_seconds: float = 0

    @property
    def all_failed(self) -> float:
        """Jobs that failed."""
        return sum(self.failed.values())

    @property
    def dollars(self) -> Mapping[str, float]:
        """What it cost, by service."""
        return dollars(self.use)

    def load(self) -> dict[str, float]:
        """Return how much of each rate was used until the end, and of the slots: 1 is all."""
        time = max(self.seconds, 1e-9)
        rates = self.fleet.rates
        of = {
            name: taken / (rates[name].refill * time)
            for name, taken in self.taken.items()
            if taken > 0
        }
        return of | {"MaximumRunningJobs": self.slot_seconds / (self.fleet.slots * time)}

    def fail(self, why: str, jobs: float = 1) -> None:
        """Count jobs that failed."""
        if jobs > 0:
            self.failed[why] = self.failed.get(why, 0) + jobs

    def take(self, rate: str, tokens: float) -> None:
        """Count tokens that were taken."""
        self.taken[rate] = self.taken.get(rate, 0) + tokens
