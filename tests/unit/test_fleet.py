"""A burst of jobs, simulated: what must hold of it, and what the two ways to play it agree on."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from botocore.session import get_session
from provisioner.jobs.retries import SLOT_ERROR, SLOT_RETRY, STAGE_RETRY
from support.project import ROOT, template

from bench import fleet, fleet_inputs, job_shape, quotas, stage_calls
from bench.fleet_events import Bucket, Simulation
from bench.fleet_flow import Flow
from bench.fleet_inputs import STAGE_FAILED, WAITED, Fleet, Outcome
from bench.job_shape import State
from bench.prices import Use, dollars

AS_IT_IS = Fleet(0)


@pytest.fixture(scope="module")
def played() -> Simulation:
    """Play a burst of fifty jobs that have five slots."""
    simulation = Simulation(replace(AS_IT_IS, jobs=50, maximum_running_jobs=5))
    simulation.run()
    return simulation


def test_every_job_ends_once_and_no_more_run_at_once_than_there_are_slots(
    played: Simulation,
) -> None:
    outcome = played.outcome
    assert (outcome.completed, outcome.failed, outcome.most_at_work) == (50, {}, 5)
    assert len(played.ended) == 50
    assert set(played.ended.values()) == {1}
    assert (played.holders, played.at_work, played.waiting) == ({}, 0, 0)
    times = [seconds for seconds, _ in outcome.curve]
    assert times == sorted(times)
    assert [completed for _, completed in outcome.curve] == list(range(1, 51))
    # A slot that is taken is taken by one job, for as long as it takes at least.
    assert outcome.slot_seconds >= 50 * outcome.fleet.slot_seconds
    assert outcome.slot_seconds <= 5 * outcome.seconds


def test_no_bucket_gives_more_than_it_holds() -> None:
    played = Simulation(replace(AS_IT_IS, jobs=200))
    outcome = played.run()
    for name, bucket in played.buckets.items():
        assert 0 <= bucket.least <= bucket.rate.capacity, name
        given = outcome.taken.get(name, 0)
        assert given <= bucket.rate.capacity + bucket.rate.refill * outcome.seconds, name
    assert played.buckets[quotas.POOL_UPDATE].least < 1
    assert outcome.taken[quotas.POOL_UPDATE] == 200


def test_dollars_are_those_of_the_jobs_and_their_polls(played: Simulation) -> None:
    outcome, of = played.outcome, played.fleet
    expected = Use()
    expected.add(of.use_of_a_job, 50)
    assert outcome.use.transitions == expected.transitions + outcome.polls
    # A batch of the queue is one run, however few messages it holds.
    assert outcome.use.runs == pytest.approx(expected.runs + outcome.polls, abs=5)
    assert outcome.use.events == expected.events == 50 * of.counted.events
    for service in ("Secrets Manager calls", "S3 requests", "EventBridge"):
        assert outcome.dollars[service] == pytest.approx(dollars(expected)[service]), service
    assert sum(outcome.dollars.values()) > sum(dollars(expected).values())


def test_the_same_burst_is_the_same_each_time() -> None:
    burst = replace(AS_IT_IS, jobs=50, maximum_running_jobs=5)
    first, again = (Simulation(burst).run() for _ in range(2))
    assert first.curve == again.curve
    assert Simulation(replace(burst, seed=2)).run().curve != first.curve


def test_a_burst_beside_two_slots_is_what_the_local_stack_shows() -> None:
    """tests/stack/test_own_stack.py runs such a burst: all complete, two at once."""
    outcome = Simulation(replace(AS_IT_IS, jobs=7, maximum_running_jobs=2)).run()
    assert (outcome.completed, outcome.most_at_work) == (7, 2)
    assert outcome.most_waiting > 0
    # moto's interpreter enters as many states; see tests/workflow/test_job_costs.py.
    counted = stage_calls.read()
    assert counted.transitions == outcome.fleet.shape.transitions
    assert outcome.use.transitions == 7 * counted.transitions + outcome.polls


@pytest.mark.parametrize(
    "burst", [Fleet(1_000), Fleet(2_000, most_waiting=200)], ids=["as it is", "held back"]
)
def test_both_ways_to_play_a_burst_agree(burst: Fleet) -> None:
    by_event, as_flow = Simulation(burst).run(), Flow(burst).run()
    assert by_event.all_failed == 0
    assert as_flow.all_failed < 0.5
    # Then come the few attempts that chance had throttled, up to five minutes later; in a flow all
    # do what most do.
    assert _most(as_flow) == pytest.approx(_most(by_event), rel=0.25)
    assert as_flow.use.events == pytest.approx(by_event.use.events, rel=0.01)
    # Owners that take turns poll more often: that is not in the flow.
    total, of_flow = (sum(o.dollars.values()) for o in (by_event, as_flow))
    assert of_flow == pytest.approx(total, rel=0.15)


def _most(outcome: Outcome) -> float:
    """Return when nine tenths of the jobs had completed."""
    return next(time for time, completed in outcome.curve if completed >= 0.9 * outcome.fleet.jobs)


def _starving(monkeypatch: pytest.MonkeyPatch, name: str, share: float) -> None:
    """Let a rate be a share of itself."""
    every = quotas.rates

    def rates(region: quotas.Region) -> dict[str, quotas.Rate]:
        found = every(region)
        few = replace(
            found[name], capacity=found[name].capacity * share, refill=found[name].refill * share
        )
        return found | {name: few}

    monkeypatch.setattr(quotas, "rates", rates)


def test_a_poll_that_is_throttled_fails_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    _starving(monkeypatch, quotas.SLOTS_READ, 0.01)
    burst = replace(AS_IT_IS, jobs=1_000, maximum_running_jobs=4)
    by_event, as_flow = Simulation(burst).run(), Flow(burst).run()
    assert by_event.load()[quotas.SLOTS_READ] > 0.7
    assert by_event.all_failed == 0
    assert as_flow.all_failed == pytest.approx(0, abs=0.5)
    assert as_flow.seconds == pytest.approx(by_event.seconds, rel=0.2)


@pytest.mark.parametrize("play", [Simulation, Flow])
def test_a_stage_that_is_throttled_fails_its_job_after_three_attempts(
    play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _starving(monkeypatch, quotas.POOL_UPDATE, 0.0001)
    outcome = play(replace(AS_IT_IS, jobs=20)).run()
    assert outcome.failed.keys() == {STAGE_FAILED}
    assert outcome.all_failed == pytest.approx(20, abs=2)


@pytest.mark.parametrize("play", [Simulation, Flow])
def test_a_job_that_waits_for_too_long_fails(play: Any) -> None:
    burst = replace(AS_IT_IS, jobs=300, maximum_running_jobs=2, slot_wait_seconds=60)
    outcome = play(burst).run()
    assert set(outcome.failed) == {WAITED}
    assert 30 < outcome.completed < 270
    assert outcome.completed + outcome.all_failed == pytest.approx(300, abs=0.6)


def test_what_is_held_back_does_not_wait_as_an_execution() -> None:
    burst = Fleet(500, most_waiting=30, maximum_running_jobs=5)
    played = Simulation(burst)
    outcome = played.run()
    # What was let in is counted once it waits.
    assert 30 <= outcome.most_waiting <= 90
    assert played.held > 0
    assert (outcome.completed, outcome.all_failed) == (500, 0)
    assert set(played.ended.values()) == {1}
    as_flow = Flow(burst).run()
    assert as_flow.most_waiting <= 30
    assert as_flow.all_failed == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize("jobs", fleet.SIZES)
def test_no_job_of_a_burst_fails(jobs: int) -> None:
    outcome = fleet.play(jobs)
    assert outcome.all_failed < 0.5
    assert outcome.completed == pytest.approx(jobs, abs=0.6)


def test_a_slower_cluster_takes_longer_and_fails_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database takes fifteen times as long, as docs/cost.md says."""
    quick = Flow(Fleet(20_000)).run()
    slow = {stage: 15 * seconds for stage, seconds in fleet_inputs.DATABASE_SECONDS.items()}
    monkeypatch.setattr(fleet_inputs, "DATABASE_SECONDS", slow)
    outcome = Flow(Fleet(20_000)).run()
    assert outcome.all_failed < 0.5
    assert outcome.seconds > 3 * quick.seconds


def test_a_bucket_gives_at_once_or_in_turn() -> None:
    bucket = Bucket(quotas.Rate("tokens", 2, 1, ""))
    assert [bucket.take(0.0), bucket.take(0.0), bucket.take(0.0)] == [True, True, False]
    assert not bucket.take(0.5)
    assert bucket.take(1.0)
    assert bucket.take(9.0, 2)
    assert [bucket.reserve(9.5) for _ in range(3)] == [0.5, 1.5, 2.5]
    # What is promised is not given to another.
    assert not bucket.take(11.0)
    assert bucket.reserve(20.0) == 0.0


def test_states_and_retriers_are_read_from_the_state_machine() -> None:
    shape = job_shape.read_job_shape()
    document = json.loads((ROOT / "state_machines" / "provision_project.asl.json").read_text())
    assert shape.first.name == document["StartAt"]
    assert shape.states[-1].name == "Completed"
    assert "CREATING_INSTANCE" not in shape.stages
    assert len(shape.stages) == 8
    for error, policy in ((SLOT_ERROR, SLOT_RETRY), ("NETWORK_ERROR", STAGE_RETRY)):
        retrier = shape.first.retrier(error)
        assert retrier is not None
        assert retrier.max_attempts == policy.max_attempts
        assert retrier.is_jittered
        for repetition in (1, 2, 5, 1600):
            if repetition <= policy.max_attempts:
                assert retrier.longest_delay(repetition) == policy.longest_delay(repetition)
    assert all(state.retriers for state in shape.states if isinstance(state, State) and state.stage)


def test_parameters_are_the_templates() -> None:
    parameters = job_shape.read_parameters()
    defaults = template()["Parameters"]
    assert parameters.maximum_running_jobs == defaults["MaximumRunningJobs"]["Default"]
    assert parameters.queued_minutes == defaults["QueuedMinutes"]["Default"]
    assert parameters.visibility_timeout_seconds == 360
    assert parameters.max_receive_count == 5


def test_rates_are_of_operations_that_there_are() -> None:
    session = get_session()
    names = ("stepfunctions", "cognito-idp", "secretsmanager", "ssm", "events")
    models = [session.get_service_model(name) for name in names]
    operations = {model.service_id.hyphenize(): model.operation_names for model in models}
    for service, operation in quotas.RATE_OF_CALL:
        assert operation in operations[service]
    rated = {rate for stage in Fleet(1).shape.stages for rate in Fleet(1).rated(stage)}
    assert {quotas.POOL_READ, quotas.POOL_UPDATE, quotas.CREATE_SECRET} <= rated
    assert set(quotas.RATE_OF_CALL.values()) <= set(quotas.rates(quotas.Region.OTHER))


def test_the_calls_of_a_job_are_those_of_its_stages() -> None:
    counted = stage_calls.read()
    operations: Counter[tuple[str, str]] = counted.operations()
    assert operations["sfn", "StartExecution"] == 1
    assert set(counted.calls) == {
        *Fleet(1).shape.stages,
        stage_calls.DISPATCH,
        stage_calls.PUBLISH,
        stage_calls.POLL,
    }
