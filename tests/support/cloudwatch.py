"""CloudWatch, as far as the alarms need it: which metrics there are, and when an alarm goes off.

Source, where no other is named: Amazon CloudWatch User Guide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from support.project import resources

#: What the name of the stack is where an alarm is evaluated.
STACK = "watched"

#: The metrics of AWS that alarms and dashboard name, with the sets of dimensions by which each is
#: found.
AWS_METRICS: dict[tuple[str, str], tuple[frozenset[str], ...]] = {
    # Source: Amazon SQS Developer Guide, "Available CloudWatch metrics for Amazon SQS". While a
    # queue has a message, or is polled, there is a value a minute. The age leaves messages out that
    # were received three times or more.
    ("AWS/SQS", "ApproximateNumberOfMessagesVisible"): (frozenset({"QueueName"}),),
    ("AWS/SQS", "ApproximateAgeOfOldestMessage"): (frozenset({"QueueName"}),),
    # Source: AWS Lambda Developer Guide, "Types of metrics for Lambda functions" and "Using
    # CloudWatch metrics with Lambda": duration and age are told by a function that has finished a
    # batch, throttles by every call that is refused.
    ("AWS/Lambda", "Duration"): (frozenset({"FunctionName"}),),
    ("AWS/Lambda", "IteratorAge"): (frozenset({"FunctionName"}),),
    ("AWS/Lambda", "Throttles"): (frozenset({"FunctionName"}),),
    # Source: AWS Step Functions Developer Guide, "Step Functions metrics for CloudWatch". The last
    # two are of the account.
    ("AWS/States", "ExecutionsTimedOut"): (frozenset({"StateMachineArn"}),),
    ("AWS/States", "ExecutionsFailed"): (frozenset({"StateMachineArn"}),),
    ("AWS/States", "ConsumedCapacity"): (frozenset({"ServiceMetric"}),),
    ("AWS/States", "ThrottledEvents"): (frozenset({"ServiceMetric"}),),
    # Source: Amazon DynamoDB Developer Guide, "DynamoDB Metrics and dimensions": the table's do not
    # count those of its indexes.
    ("AWS/DynamoDB", "ReadThrottleEvents"): (
        frozenset({"TableName"}),
        frozenset({"TableName", "GlobalSecondaryIndexName"}),
    ),
    ("AWS/DynamoDB", "WriteThrottleEvents"): (
        frozenset({"TableName"}),
        frozenset({"TableName", "GlobalSecondaryIndexName"}),
    ),
}

#: The only expression that alarms have: a metric without a value counts as 0. Source: "Metric math
#: syntax and functions".
SUM_OF_ALL = "SUM(FILL(METRICS(), 0))"

#: Periods that CloudWatch looks at beyond those that it evaluates, where some have no data. Source:
#: "Configuring how CloudWatch alarms treat missing data", where it looks at 5 for 3.
_FURTHER_BACK = 2


class Metric(NamedTuple):
    """What a value is of; resources are named by their logical ids."""

    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]]


class Sample(NamedTuple):
    """A value that CloudWatch was sent."""

    metric: Metric
    at: datetime
    value: float


class Statistic(NamedTuple):
    """What an alarm makes of the values of a period."""

    metric: Metric
    #: In seconds.
    period: int
    name: str

    def of(self, samples: Iterable[Sample], since: datetime) -> float | None:
        """Return it for the period that begins then; None where it has no values."""
        end = since + timedelta(seconds=self.period)
        values = [s.value for s in samples if s.metric == self.metric and since <= s.at < end]
        made: dict[str, Callable[[list[float]], float]] = {
            "Sum": sum,
            "Maximum": max,
            "Minimum": min,
        }
        return made[self.name](values) if values else None


@dataclass(frozen=True)
class Alarm:
    """An alarm as the template declares it."""

    logical_id: str
    properties: Mapping[str, Any]

    @property
    def statistics(self) -> list[Statistic]:
        """What it looks at: one metric, or those of its expression."""
        if "Metrics" not in self.properties:
            p = self.properties
            return [Statistic(_metric(p), p["Period"], p["Statistic"])]
        asked = [m["MetricStat"] for m in self.properties["Metrics"] if "MetricStat" in m]
        return [Statistic(_metric(stat["Metric"]), stat["Period"], stat["Stat"]) for stat in asked]

    @property
    def expression(self) -> str | None:
        """What it makes of several metrics; None where it has one."""
        asked = self.properties.get("Metrics", ())
        return next((query["Expression"] for query in asked if "Expression" in query), None)

    @property
    def heading(self) -> str:
        """Of its section in the operations page: those of all state machines share theirs."""
        (dimension, value), *_ = self.statistics[0].metric.dimensions
        if dimension != "StateMachineArn":
            return self.logical_id
        return self.logical_id.removeprefix(value.removesuffix("StateMachine"))

    def goes_off(self, samples: Iterable[Sample], now: datetime) -> bool:
        """Whether it is in the state ALARM.

        It looks somewhat further back than the periods that it evaluates: the newest data count.
        Where these are too few, the others are what the alarm says of missing data. Source:
        "Configuring how CloudWatch alarms treat missing data".
        """
        known = tuple(samples)
        wanted = self.properties["EvaluationPeriods"]
        newest_first = [self._value(known, now, back) for back in range(wanted + _FURTHER_BACK)]
        real = [value for value in newest_first if value is not None][:wanted]
        evaluated = [*real, *([None] * (wanted - len(real)))]
        breaching = sum(map(self._breaches, evaluated))
        return bool(breaching >= self.properties.get("DatapointsToAlarm", wanted))

    def _value(self, samples: Iterable[Sample], now: datetime, back: int) -> float | None:
        values = []
        for statistic in self.statistics:
            since = now - timedelta(seconds=statistic.period * (back + 1))
            values.append(statistic.of(samples, since))
        if self.expression is None:
            (value,) = values
            return value
        assert self.expression == SUM_OF_ALL
        return sum(value or 0.0 for value in values)

    def _breaches(self, value: float | None) -> bool:
        if value is None:
            return {"breaching": True, "notBreaching": False}[self.properties["TreatMissingData"]]
        threshold = self.properties["Threshold"]
        compared = {
            "GreaterThanThreshold": value > threshold,
            "GreaterThanOrEqualToThreshold": value >= threshold,
            "LessThanThreshold": value < threshold,
        }
        return bool(compared[self.properties["ComparisonOperator"]])


def alarms() -> dict[str, Alarm]:
    """Return the template's alarms by their logical ids."""
    found = resources("AWS::CloudWatch::Alarm").items()
    return {name: Alarm(name, resource["Properties"]) for name, resource in found}


def of_log_line(line: Mapping[str, Any], at: datetime) -> Iterator[Sample]:
    """Yield the values that CloudWatch reads out of a line of a log.

    Source: "Specification: Embedded metric format".
    """
    for directive in line["_aws"]["CloudWatchMetrics"]:
        for names in directive["Dimensions"]:
            dimensions = frozenset((name, line[name]) for name in names)
            for told in directive["Metrics"]:
                metric = Metric(directive["Namespace"], told["Name"], dimensions)
                value = line[told["Name"]]
                for one in value if isinstance(value, list) else [value]:
                    yield Sample(metric, at, one)


def _metric(given: Mapping[str, Any]) -> Metric:
    dimensions = frozenset((d["Name"], _named(d["Value"])) for d in given["Dimensions"])
    return Metric(given["Namespace"], given["MetricName"], dimensions)


def _named(value: Any) -> str:
    match value:
        case {"Ref": "AWS::StackName"}:
            return STACK
        case {"Ref": name} | {"Fn::GetAtt": [name, _]}:
            return str(name)
        case _:
            return str(value)
