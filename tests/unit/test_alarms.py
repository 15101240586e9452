"""Each alarm goes off for the fault that it is for, and is quiet where that is not.

A fault of ours is put in, and the metrics are read out of the log that the function leaves. Of
AWS's own metrics a test says what AWS tells under the fault, as `AWS_METRICS` has it from the
documentation: nothing, at times.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from provisioner.drivers import dynamodb
from provisioner.errors import ErrorType
from provisioner.jobs.client import MAX_DELAY_SECONDS
from provisioner.jobs.dispatch import UndeliveredReceiver
from provisioner.jobs.events import HEARTBEAT, EventPublisher
from provisioner.jobs.failure import FailureRecorder, cleanup_job_id
from provisioner.jobs.messages import DeadLetterQueue
from provisioner.jobs.models import JobStatus
from provisioner.jobs.registry import JobRegistry
from provisioner.jobs.retries import SLOT_RETRY, SLOT_WAIT_SECONDS, THROTTLE_RETRY
from provisioner.jobs.stage import StageOutcome
from provisioner.jobs.stage_run import RECORD_FAILURE, StageRunner
from provisioner.provisioning.job_types import JOB_TYPES, provision_project
from provisioner.runtime.observability import metrics
from support.cloudwatch import AWS_METRICS, STACK, Alarm, Metric, Sample, alarms, of_log_line
from support.core import REGION, Core, aws_error, provision_project_handler, times
from support.dispatcher import dispatcher
from support.project import functions, resources, state_machines, template
from support.reconciler import (
    QUEUED_LIMIT,
    executions,
    policies,
    running,
    sweep,
    waiting,
)

ALARMS = alarms()
VARIABLES = template()["Globals"]["Function"]["Environment"]["Variables"]
QUEUES = {n: r["Properties"] for n, r in resources("AWS::SQS::Queue").items()}

MINUTE = 60
SWEEP_SECONDS = 5 * MINUTE
SCHEDULED = {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}

#: From the moment at which something is to be seen until CloudWatch has evaluated it. It promises
#: no time; SQS's metrics come each minute. Not run on AWS.
EVALUATION_SECONDS = 5 * MINUTE


class Watched:
    """A deployment, and what CloudWatch is told of it."""

    def __init__(self, core: Core, read_log: Callable[[], str]) -> None:
        self.core = core
        self._read_log = read_log
        self.samples: list[Sample] = []
        self.alarm = next(iter(ALARMS.values()))
        self.began = core.clock.at

    def run(self, function: Callable[[Any], Any], event: Any) -> Any:
        """Run a function as AWS Lambda does, whatever it raises, and read its log."""
        answer = None
        with suppress(Exception):
            answer = function(event)
        if metrics.metric_set:
            metrics.flush_metrics()
        for line in self._read_log().splitlines():
            if line.startswith("{") and '"_aws":' in line:
                self.samples += of_log_line(json.loads(line), self.core.clock.at)
        return answer

    def tell(self, value: float, *, metric: Metric | None = None) -> None:
        """Let AWS tell a value, of the alarm's metric unless another is named."""
        told = metric or self.alarm.statistics[0].metric
        self.samples.append(Sample(told, self.core.clock.at, value))

    def tell_each_minute(self, *values: float) -> None:
        """Let AWS tell a value in each of the next minutes."""
        for value in values:
            self.tell(value)
            self.core.clock.advance(MINUTE)

    def each(self, seconds: float, times: int) -> Iterator[int]:
        """Go on so often, after so many seconds each time."""
        for number in range(times):
            yield number
            self.core.clock.advance(seconds)

    def waiting_in(self, url: str) -> int:
        """Return how many messages of a queue are visible."""
        attribute = "ApproximateNumberOfMessages"
        asked = self.core.client("sqs").get_queue_attributes(
            QueueUrl=url, AttributeNames=[attribute]
        )
        return int(asked["Attributes"][attribute])

    def is_on(self, alarm: str | None = None) -> bool:
        watching = self.alarm if alarm is None else ALARMS[alarm]
        return watching.goes_off(self.samples, self.core.clock.at)


@pytest.fixture
def watched(
    core: Core, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Watched:
    """Return a deployment whose functions have the template's names of metrics."""
    namespace = VARIABLES["POWERTOOLS_METRICS_NAMESPACE"]
    assert VARIABLES["POWERTOOLS_SERVICE_NAME"] == {"Ref": "AWS::StackName"}
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", namespace)
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", STACK)
    monkeypatch.setattr(metrics.provider, "namespace", namespace)
    monkeypatch.setattr(metrics.provider, "service", STACK)
    core.make_state_machine("clean_up_project")
    return Watched(core, lambda: capsys.readouterr().out)


# --- What is run ----------------------------------------------------------------------------------


def _registry() -> JobRegistry:
    registry = JobRegistry()
    registry.register("provision_project", provision_project_handler)
    return registry


def _dispatch(watched: Watched, body: Mapping[str, Any] | str) -> None:
    """Deliver a message to the dispatcher."""
    core = watched.core
    dispatch = dispatcher(core, _registry())
    watched.run(lambda event: dispatch(event, None), {"Records": [_message(body)]})


def _message(body: Mapping[str, Any] | str) -> dict[str, Any]:
    return {
        "messageId": "message-1",
        "body": body if isinstance(body, str) else json.dumps(body),
        "attributes": {},
        "messageAttributes": {},
        "eventSource": "aws:sqs",
    }


GOOD = {"job_type": "provision_project", "payload": {"project_id": "shop", "region": REGION}}


def _record_failure(watched: Watched, job_id: str, stage: str) -> None:
    """Let the state machine's step record that a stage of a job has failed."""
    core = watched.core
    job = core.jobs.get(job_id)
    given = {"job_id": job_id, "job_type": job.job_type, "payload": job.payload, "attempt": 1}
    cause = {"errorType": ErrorType.CONFLICT, "errorMessage": "Not ours.", "stackTrace": []}
    error = {"Error": ErrorType.CONFLICT, "Cause": json.dumps(cause)}
    event = {
        "job": given,
        "stage": RECORD_FAILURE,
        "branches": [{"ok": False, "stage": stage, "error": error}],
    }
    watched.run(FailureRecorder(core.jobs, policies(core)), event)


def _run_first_stage(watched: Watched, job_id: str, retry_count: int = 0) -> None:
    """Run the first stage of a job, whose code does nothing."""
    core = watched.core
    job = core.jobs.get(job_id)
    given = {"job_id": job_id, "job_type": job.job_type, "payload": job.payload, "attempt": 1}
    stage = str(provision_project.INITIALIZING)
    code = {stage: lambda _job: StageOutcome(check="it holds")}
    runner = StageRunner(core.jobs, {"provision_project": code}, definitions=JOB_TYPES)
    watched.run(runner, {"job": given, "stage": stage, "retry_count": retry_count})


def _sweep(watched: Watched, time_left: Callable[[], float] = lambda: 1.0) -> None:
    watched.run(sweep(watched.core), time_left)


def _publisher(core: Core) -> EventPublisher:
    return EventPublisher(core.jobs, core.client("events"), "jobs", completions={}, notices={})


def _stream(core: Core, record: str) -> list[dict[str, Any]]:
    """Return the items of a kind as the table's stream hands them over."""
    return [
        {
            "dynamodb": {
                "SequenceNumber": str(number),
                "Keys": dynamodb.to_item({"job_id": item["job_id"], "record": item["record"]}),
                "NewImage": dynamodb.to_item(item),
            }
        }
        for number, item in enumerate(core.scan("JobsTable"), 100)
        if item["record"].startswith(record)
    ]


# --- Faults, and how it is without ----------------------------------------------------------------


def _messages_that_can_never_work(watched: Watched) -> None:
    _dispatch(watched, "{not json")
    url = watched.core.dead_letter_url
    watched.tell_each_minute(*[watched.waiting_in(url)] * 5)


def _a_message_that_works(watched: Watched) -> None:
    _dispatch(watched, GOOD)
    url = watched.core.dead_letter_url
    watched.tell_each_minute(*[watched.waiting_in(url)] * 5)


def _a_job_that_fails(watched: Watched) -> None:
    running(watched.core)
    _record_failure(watched, "job-1", provision_project.INITIALIZING)
    watched.core.clock.advance()


def _a_job_that_begins(watched: Watched) -> None:
    watched.core.new_job()
    _run_first_stage(watched, "job-1")
    assert watched.core.jobs.get("job-1").status is JobStatus.RUNNING
    watched.core.clock.advance()


def _a_cleanup_that_fails(watched: Watched) -> None:
    _a_job_that_fails(watched)
    _record_failure(watched, cleanup_job_id("job-1", 1), "REMOVING_STORAGE")
    watched.core.clock.advance()


def _a_dispatcher_that_takes_nothing(watched: Watched) -> None:
    """Its mapping is off, say; the reconciler looks every five minutes."""
    core = watched.core
    core.new_job()
    for minute in watched.each(MINUTE, 60):
        if minute * MINUTE % SWEEP_SECONDS == 0:
            _sweep(watched)
        age = (core.clock.at - watched.began).total_seconds()
        watched.tell(age)
        if watched.is_on():
            break
    # Then people have time left.
    for _ in watched.each(MINUTE, EVALUATION_SECONDS // MINUTE):
        _sweep(watched)
        watched.tell((core.clock.at - watched.began).total_seconds())
        assert core.jobs.get("job-1").status is JobStatus.QUEUED


def _a_message_that_was_held_back_and_failed_once(watched: Watched) -> None:
    """SQS does not say whether its age counts the time in which it was held back: at worst."""
    seconds = MAX_DELAY_SECONDS + QUEUES["JobsQueue"]["VisibilityTimeout"] // 2
    for _ in watched.each(MINUTE, math.ceil(seconds / MINUTE)):
        watched.tell((watched.core.clock.at - watched.began).total_seconds())


def _deliver(watched: Watched, deliveries: int) -> None:
    for _ in watched.each(QUEUES["JobsQueue"]["VisibilityTimeout"], deliveries):
        _dispatch(watched, GOOD)


def _executions_that_cannot_be_started(watched: Watched) -> None:
    watched.core.answers["sfn.StartExecution"] = aws_error("AccessDeniedException")
    left_when_told = 2
    _deliver(watched, QUEUES["JobsQueue"]["RedrivePolicy"]["maxReceiveCount"] - left_when_told)


def _an_execution_that_is_started_at_the_second_try(watched: Watched) -> None:
    watched.core.answers["sfn.StartExecution"] = times(1, aws_error("ThrottlingException"))
    _deliver(watched, 3)
    assert len(watched.core.executions()) == 1


def _undelivered_queue(watched: Watched) -> str:
    url: str = watched.core.client("sqs").create_queue(QueueName="undelivered")["QueueUrl"]
    return url


def _dead_letters_that_takes_nothing(watched: Watched) -> None:
    url = _undelivered_queue(watched)
    watched.core.client("sqs").send_message(QueueUrl=url, MessageBody=json.dumps(GOOD))
    watched.tell_each_minute(*[watched.waiting_in(url)] * 12)


def _dead_letters_that_takes_what_comes(watched: Watched) -> None:
    """A look at the queue, which there is each minute, sees one every five minutes."""
    core, queue, url = watched.core, watched.core.client("sqs"), _undelivered_queue(watched)
    receiver = UndeliveredReceiver(
        registry=_registry(),
        store=core.jobs,
        dead_letters=DeadLetterQueue(queue, core.dead_letter_url),
    )
    for _ in range(3):
        queue.send_message(QueueUrl=url, MessageBody=json.dumps(GOOD))
        watched.tell_each_minute(watched.waiting_in(url))
        watched.run(lambda event: receiver(event, None), {"Records": [_message(GOOD)]})
        (message,) = core.messages(url)
        queue.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        watched.tell_each_minute(*[watched.waiting_in(url)] * 4)


def _a_job_waits_for_a_slot(watched: Watched, seconds: float) -> None:
    core = watched.core
    core.jobs.maximum_running_jobs = 1
    core.new_job("job-1")
    _run_first_stage(watched, "job-1")
    core.new_job("job-2")
    _run_first_stage(watched, "job-2")
    polls = math.ceil(seconds / SLOT_RETRY.max_delay_seconds)
    for number in watched.each(SLOT_RETRY.max_delay_seconds, polls):
        _run_first_stage(watched, "job-2", number + 1)
    assert core.jobs.get("job-2").status is JobStatus.QUEUED


def _more_jobs_than_slots_for_an_hour(watched: Watched) -> None:
    _a_job_waits_for_a_slot(watched, 62 * MINUTE)
    waited = (watched.core.clock.at - watched.began).total_seconds()
    assert waited < SLOT_WAIT_SECONDS / 10


def _more_jobs_than_slots_for_half_an_hour(watched: Watched) -> None:
    _a_job_waits_for_a_slot(watched, 30 * MINUTE)


def _one_execution(watched: Watched) -> None:
    watched.tell(1)
    watched.core.clock.advance(MINUTE)


def _nothing(watched: Watched) -> None:
    watched.core.clock.advance(30 * MINUTE)


def _an_execution_that_was_stopped_by_hand(watched: Watched) -> None:
    core = watched.core
    job = running(core)
    core.client("stepfunctions").stop_execution(executionArn=executions(core).arn(job))
    core.clock.advance(SWEEP_SECONDS)
    _sweep(watched)
    core.clock.advance()


def _a_sweep_that_finds_nothing(watched: Watched) -> None:
    running(watched.core)
    _sweep(watched)
    watched.core.clock.advance()


def _a_job_that_cannot_be_reconciled(watched: Watched) -> None:
    _sweep(watched)
    watched.core.clock.advance(SWEEP_SECONDS)
    waiting(watched.core)
    watched.core.answers["sfn.DescribeExecution"] = aws_error("AccessDeniedException")
    for _ in watched.each(SWEEP_SECONDS, 5):
        _sweep(watched)


def _a_sweep_that_fails_once(watched: Watched) -> None:
    waiting(watched.core)
    answer = aws_error("ThrottlingException")
    watched.core.answers["sfn.DescribeExecution"] = times(1, answer)
    for _ in watched.each(SWEEP_SECONDS, 5):
        _sweep(watched)


def _publish(watched: Watched, times: int) -> None:
    """Hand the history over again and again; AWS tells the age of the last record of each batch."""
    core = watched.core
    core.client("events").create_event_bus(Name="jobs")
    core.new_job()
    records = _stream(core, "HISTORY#")
    for _ in watched.each(MINUTE, times):
        answer = watched.run(_publisher(core), {"Records": records})
        watched.tell((core.clock.at - watched.began).total_seconds() * 1000)
        if not answer["batchItemFailures"]:
            break


def _a_bus_that_refuses(watched: Watched) -> None:
    watched.core.answers["eventbridge.PutEvents"] = aws_error("AccessDeniedException")
    _publish(watched, 8)


def _a_bus_that_refuses_twice(watched: Watched) -> None:
    watched.core.answers["eventbridge.PutEvents"] = times(2, aws_error("ThrottlingException"))
    _publish(watched, 8)
    watched.core.clock.advance(MINUTE)


def _beat(watched: Watched, *, is_read: Callable[[int], bool]) -> None:
    """Write heartbeats on schedule, and hand them over where something reads the stream."""
    core = watched.core
    for number in watched.each(SWEEP_SECONDS, 9):
        watched.run(_publisher(core), SCHEDULED)
        if is_read(number):
            records = _stream(core, HEARTBEAT)
            assert len(records) == 1
            watched.run(_publisher(core), {"Records": records})


def _a_stream_that_nothing_reads(watched: Watched) -> None:
    """Its mapping is off or may not read it: no call of the function, and no IteratorAge."""
    _beat(watched, is_read=lambda number: number < 3)
    assert not watched.is_on("EventsLateAlarm")


def _a_stream_that_is_read(watched: Watched) -> None:
    _beat(watched, is_read=lambda number: number != 7)


def _a_batch_that_was_given_up(watched: Watched) -> None:
    core = watched.core
    url = core.client("sqs").create_queue(QueueName="unpublished")["QueueUrl"]
    # AWS Lambda does.
    core.client("sqs").send_message(QueueUrl=url, MessageBody="{}")
    watched.tell_each_minute(*[watched.waiting_in(url)] * 5)


def _each_alone(watched: Watched, tell: Callable[[Metric], None]) -> None:
    """Let each metric of an alarm tell, alone; all but the last are looked at here."""
    *others, last = [statistic.metric for statistic in watched.alarm.statistics]
    for metric in others:
        tell(metric)
        assert watched.is_on(), metric
        watched.samples.clear()
    tell(last)


def _repeats(count: int) -> list[float]:
    """Return the seconds from a refused call to the next, as late as they may be."""
    longest = [THROTTLE_RETRY.longest_delay(attempt) for attempt in range(1, count + 1)]
    return [seconds for seconds in longest if seconds is not None]


def _calls_refused(watched: Watched, metric: Metric, count: int) -> None:
    """One job's function is refused: what Step Functions repeats is refused again."""
    for seconds in _repeats(count):
        watched.tell(1, metric=metric)
        watched.core.clock.advance(seconds)


def _a_function_that_is_refused(watched: Watched) -> None:
    # In half of the time after which a job fails that way.
    half = THROTTLE_RETRY.max_attempts // 2
    _each_alone(watched, lambda metric: _calls_refused(watched, metric, half))


def _a_burst_of_refused_calls(watched: Watched) -> None:
    for statistic in watched.alarm.statistics:
        _calls_refused(watched, statistic.metric, 5)
    watched.core.clock.advance(5 * MINUTE)


def _throttled_for(watched: Watched, minutes: int, *throttled: Metric) -> None:
    for _ in watched.each(MINUTE, minutes):
        for metric in throttled:
            watched.tell(3, metric=metric)


def _throttled_for_a_quarter_of_an_hour(watched: Watched) -> None:
    _each_alone(watched, lambda metric: _throttled_for(watched, 15, metric))


def _throttled_for_five_minutes(watched: Watched) -> None:
    _throttled_for(watched, 5, *(statistic.metric for statistic in watched.alarm.statistics))
    watched.core.clock.advance(5 * MINUTE)


# --- The table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What an alarm is for, and what it is not for."""

    fault: Callable[[Watched], None]
    without: Callable[[Watched], None]


#: By the alarm's section of the operations page: those of all state machines share one.
CASES = {
    "DeadLettersAlarm": Case(_messages_that_can_never_work, _a_message_that_works),
    "JobsFailedAlarm": Case(_a_job_that_fails, _a_job_that_begins),
    "CleanupsFailedAlarm": Case(_a_cleanup_that_fails, _a_job_that_fails),
    "OldestMessageAlarm": Case(
        _a_dispatcher_that_takes_nothing, _a_message_that_was_held_back_and_failed_once
    ),
    "DispatchFailuresAlarm": Case(
        _executions_that_cannot_be_started, _an_execution_that_is_started_at_the_second_try
    ),
    "UndeliveredAlarm": Case(_dead_letters_that_takes_nothing, _dead_letters_that_takes_what_comes),
    "SlotWaitAlarm": Case(
        _more_jobs_than_slots_for_an_hour, _more_jobs_than_slots_for_half_an_hour
    ),
    "StagesThrottledAlarm": Case(_a_function_that_is_refused, _a_burst_of_refused_calls),
    "TransitionsThrottledAlarm": Case(
        _throttled_for_a_quarter_of_an_hour, _throttled_for_five_minutes
    ),
    "TablesThrottledAlarm": Case(_throttled_for_a_quarter_of_an_hour, _throttled_for_five_minutes),
    "ApiKeysThrottledAlarm": Case(_throttled_for_a_quarter_of_an_hour, _throttled_for_five_minutes),
    "JobsReadThrottledAlarm": Case(
        _throttled_for_a_quarter_of_an_hour, _throttled_for_five_minutes
    ),
    "TimedOutAlarm": Case(_one_execution, _nothing),
    "FailedAlarm": Case(_one_execution, _nothing),
    "RepairsAlarm": Case(_an_execution_that_was_stopped_by_hand, _a_sweep_that_finds_nothing),
    "SweepsMissingAlarm": Case(_a_job_that_cannot_be_reconciled, _a_sweep_that_fails_once),
    "EventsLateAlarm": Case(_a_bus_that_refuses, _a_bus_that_refuses_twice),
    "HeartbeatsMissingAlarm": Case(_a_stream_that_nothing_reads, _a_stream_that_is_read),
    "EventsNotPublishedAlarm": Case(_a_batch_that_was_given_up, _nothing),
}

each_alarm = pytest.mark.parametrize("alarm", ALARMS.values(), ids=ALARMS)


def test_every_alarm_has_its_fault() -> None:
    assert {alarm.heading for alarm in ALARMS.values()} == set(CASES)


@each_alarm
def test_alarm_goes_off_for_its_fault(watched: Watched, alarm: Alarm) -> None:
    watched.alarm = alarm
    CASES[alarm.heading].fault(watched)

    told = {sample.metric for sample in watched.samples}
    # An alarm that misses something is told nothing.
    is_missing_something = alarm.properties["TreatMissingData"] == "breaching"
    assert is_missing_something or told & {s.metric for s in alarm.statistics}
    assert watched.is_on()


@each_alarm
def test_alarm_is_quiet_without_its_fault(watched: Watched, alarm: Alarm) -> None:
    watched.alarm = alarm
    CASES[alarm.heading].without(watched)

    assert not watched.is_on()


def _has_no_time() -> float:
    return 0.0


def _is_throttled(watched: Watched) -> None:
    watched.core.answers["sfn.DescribeExecution"] = aws_error("ThrottlingException")


@pytest.mark.parametrize(
    ("disturb", "time_left"), [(_is_throttled, lambda: 1.0), (lambda _: None, _has_no_time)]
)
def test_sweeps_that_get_nowhere_are_missed(
    watched: Watched, disturb: Callable[[Watched], None], time_left: Callable[[], float]
) -> None:
    watched.alarm = ALARMS["SweepsMissingAlarm"]
    waiting(watched.core)
    disturb(watched)
    for _ in watched.each(SWEEP_SECONDS, 5):
        _sweep(watched, time_left)

    assert watched.is_on()


def test_a_round_that_takes_several_sweeps_is_not_missed(watched: Watched) -> None:
    watched.alarm = ALARMS["SweepsMissingAlarm"]
    for number in range(12):
        watched.core.new_job(f"job-{number}")
        watched.core.clock.advance()
    for _ in watched.each(SWEEP_SECONDS, 5):
        # Each has time for two jobs.
        left = iter((1.0, 1.0))
        _sweep(watched, lambda left=left: next(left, 0.0))  # type: ignore[misc]

    assert not watched.is_on()
    ages = {s.value for s in watched.samples if s.metric.name == "SweepRoundAge"}
    assert ages == {0.0, 300.0, 600.0, 900.0, 1200.0}


@each_alarm
def test_what_aws_tells_is_what_it_documents(alarm: Alarm) -> None:
    own = VARIABLES["POWERTOOLS_METRICS_NAMESPACE"]
    for metric in [statistic.metric for statistic in alarm.statistics]:
        names = frozenset(name for name, _ in metric.dimensions)
        if metric.namespace == own:
            assert names == {"service"}
        else:
            assert names in AWS_METRICS[metric.namespace, metric.name]


# --- What follows from the rest of the template ---------------------------------------------------


def _metrics_of(alarm: str, name: str) -> set[frozenset[tuple[str, str]]]:
    metrics_of_it = [statistic.metric for statistic in ALARMS[alarm].statistics]
    return {metric.dimensions for metric in metrics_of_it if metric.name == name}


def test_the_alarm_on_the_queue_comes_before_the_reconciler_fails_a_job() -> None:
    """Whatever `QueuedMinutes` is: the least is the soonest."""
    alarm, parameter = ALARMS["OldestMessageAlarm"], template()["Parameters"]["QueuedMinutes"]
    (statistic,) = alarm.statistics
    seen = alarm.properties["Threshold"] + alarm.properties["EvaluationPeriods"] * statistic.period
    least = timedelta(minutes=parameter["MinValue"])
    assert least == QUEUED_LIMIT
    assert seen + EVALUATION_SECONDS < 2 * least.total_seconds()
    # Nor for what is only held back, or delivered again.
    assert alarm.properties["Threshold"] > MAX_DELAY_SECONDS
    assert alarm.properties["Threshold"] > QUEUES["JobsQueue"]["VisibilityTimeout"]


def test_every_function_of_stages_is_watched_for_throttles() -> None:
    used = {
        name
        for machine in state_machines().values()
        for name in (f.logical_id for f in functions().values())
        if f"${{{name.removesuffix('Function')}FunctionArn}}" in json.dumps(machine)
    }
    watched_for = _metrics_of("StagesThrottledAlarm", "Throttles")
    assert watched_for == {frozenset({("FunctionName", name)}) for name in used}


def test_every_table_and_index_is_watched_for_throttled_writes() -> None:
    written = set()
    for table, resource in resources("AWS::DynamoDB::Table").items():
        written.add(frozenset({("TableName", table)}))
        for index in resource["Properties"].get("GlobalSecondaryIndexes", ()):
            of_index = {("TableName", table), ("GlobalSecondaryIndexName", index["IndexName"])}
            written.add(frozenset(of_index))
    watched = [
        _metrics_of(alarm, "WriteThrottleEvents")
        for alarm in ("TablesThrottledAlarm", "ApiKeysThrottledAlarm")
    ]
    assert watched[0] | watched[1] == written
    read = _metrics_of("JobsReadThrottledAlarm", "ReadThrottleEvents")
    assert read == {frozenset({("TableName", "JobsTable")})}


@each_alarm
def test_alarm_of_several_metrics_is_one_that_cloudwatch_takes(alarm: Alarm) -> None:
    """Source: Amazon CloudWatch API Reference, PutMetricAlarm; User Guide, "Limits"."""
    queries = alarm.properties.get("Metrics", [])
    if not queries:
        return
    assert len(alarm.statistics) <= 10
    assert len({query["Id"] for query in queries}) == len(queries)
    assert all(query["Id"][0].islower() for query in queries)
    (returned,) = [query for query in queries if query.get("ReturnData", True)]
    assert returned["Expression"] == alarm.expression
    assert len({statistic.period for statistic in alarm.statistics}) == 1
    assert not {"MetricName", "Namespace", "Statistic", "Period", "Dimensions"} & set(
        alarm.properties
    )


# --- CloudWatch's rules ---------------------------------------------------------------------------

_OF_TEST = Metric("Test", "Value", frozenset({("of", "test")}))
_AT = datetime(2026, 1, 31, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "missing", "is_on"),
    [
        # Source: Amazon CloudWatch User Guide, "Configuring how CloudWatch alarms treat missing
        # data", for 3 of 3, oldest first: X breaches, 0 does not, - is missing.
        ("0-X-X", "notBreaching", False),
        ("0-X-X", "breaching", False),
        ("-----", "notBreaching", False),
        ("-----", "breaching", True),
        ("---X-", "notBreaching", False),
        ("---X-", "breaching", True),
        ("0XX-X", "notBreaching", True),
        ("0XX-X", "breaching", True),
        ("0----", "notBreaching", False),
        ("0----", "breaching", False),
        ("XXXXX", "notBreaching", True),
        ("XX0XX", "breaching", False),
    ],
)
def test_missing_data_are_what_cloudwatch_takes_them_for(
    values: str,
    missing: str,
    is_on: bool,  # noqa: FBT001  # pytest hands it over by its name
) -> None:
    alarm = Alarm(
        "TestAlarm",
        {
            "Namespace": "Test",
            "MetricName": "Value",
            "Dimensions": [{"Name": "of", "Value": "test"}],
            "Statistic": "Sum",
            "Period": MINUTE,
            "EvaluationPeriods": 3,
            "ComparisonOperator": "GreaterThanThreshold",
            "Threshold": 0,
            "TreatMissingData": missing,
        },
    )
    samples = [
        Sample(_OF_TEST, _AT + timedelta(minutes=number), float(value == "X"))
        for number, value in enumerate(values)
        if value != "-"
    ]

    assert alarm.goes_off(samples, _AT + timedelta(minutes=len(values))) is is_on


def test_some_of_the_periods_are_enough_where_the_alarm_says_so() -> None:
    alarm = ALARMS["DispatchFailuresAlarm"]
    (statistic,) = alarm.statistics
    for counts, is_on in (((1, 0, 1, 1), True), ((0, 0, 1, 1), False), ((1, 1, 1, 1), True)):
        samples = [
            Sample(statistic.metric, _AT + timedelta(seconds=number * statistic.period), count)
            for number, count in enumerate(counts)
        ]
        now = _AT + timedelta(seconds=len(counts) * statistic.period)
        assert alarm.goes_off(samples, now) is is_on
