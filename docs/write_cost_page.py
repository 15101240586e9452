"""Writes the parts of cost.md anew that follow from the code, from AWS's quotas and prices.

Run `make cost-docs` after changing one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from bench import fleet, monthly, quotas
from bench.fleet_inputs import Fleet, Outcome
from bench.quotas import COUNTS, Region
from bench.stage_calls import DISPATCH, POLL, PUBLISH

PAGE = Path(__file__).with_name("cost.md")

#: Projects whose months are shown.
_PROJECTS = (1, 1_000, 100_000)

#: The burst that is drawn, and minutes between two points of the picture, of which there are so
#: many.
_DRAWN, _MINUTES, _POINTS = 100_000, 10, 14

_NAMES = {
    DISPATCH: "from the queue to the execution",
    PUBLISH: "from the stream to the bus, in one batch",
    POLL: "a poll for a slot, which a good job has none of",
}

_SERVICES = {
    "appsync": "AppSync",
    "cognito-identity-provider": "Cognito",
    "dynamodb": "DynamoDB",
    "eventbridge": "EventBridge",
    "s3": "S3",
    "secrets-manager": "Secrets Manager",
    "sfn": "Step Functions",
}


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [tuple(headings), *map(tuple, rows)]
    lines.insert(1, ("---",) * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def calls() -> str:
    """Return what a job asks of AWS, stage by stage."""
    of = Fleet(1)
    parts = [DISPATCH, *of.shape.stages, PUBLISH, POLL]
    rows = []
    for part in parts:
        services: Counter[str] = Counter()
        for call in of.calls(part):
            services[_SERVICES[call.service]] += call.times
        used = of.use(part)
        rows.append(
            (
                _NAMES.get(part, part),
                ", ".join(f"{name} {times}" for name, times in sorted(services.items())),
                f"{used.write_units:g}",
                f"{used.read_units:g}",
            )
        )
    total = of.use_of_a_job
    every = sum(of.counted.operations().values())
    rows.append(
        (
            f"**a job: {of.shape.transitions} transitions, {of.counted.events} events**",
            f"**{every}** without the events",
            f"**{total.write_units:g}**",
            f"**{total.read_units:g}**",
        )
    )
    return _table(("", "calls", "write units", "read units"), rows)


def job() -> str:
    """Return what a job costs."""
    costs = Fleet(1).dollars_of_a_job
    total = sum(costs.values())
    ordered = sorted(costs.items(), key=lambda item: -item[1])
    rows = [(name, f"{cost * 1e6:.1f}", f"{cost / total:.0%}") for name, cost in ordered]
    rows.append(("**a job**", f"**{total * 1e6:.0f}**", ""))
    return _table(("service", "millionths of a dollar", "share"), rows)


def month() -> str:
    """Return what projects cost, once and each month."""
    of = Fleet(1)
    standing = [monthly.projects(number, of) for number in _PROJECTS]
    fixed = monthly.deployment()
    once = sum(of.dollars_of_a_job.values())
    rows = [
        ("once: their jobs", *(_dollars(number * once) for number in _PROJECTS)),
        ("the deployment itself", *(_dollars(fixed) for _ in _PROJECTS)),
        *((name, *(_dollars(of[name]) for of in standing)) for name in standing[0]),
        ("**a month**", *(f"**{_dollars(fixed + sum(of.values()))}**" for of in standing)),
        (
            "once more, if nobody claims the keys: 30 days of their secrets",
            *(_dollars(monthly.unclaimed_keys(number)) for number in _PROJECTS),
        ),
    ]
    return _table(("dollars", *(f"{n:,} project{'s' * (n > 1)}" for n in _PROJECTS)), rows)


def _dollars(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 0.005 or amount == 0 else "below 0.01"  # noqa: PLR2004


def counts() -> str:
    """Return which quota ends after how many projects."""
    ordered = sorted(COUNTS, key=lambda count: count.default / count.per_project)
    rows = [
        (
            f"[{count.name}]({count.source})",
            f"{count.default:,}",
            f"{count.default // count.per_project:,}",
            "on request" if count.most is None else f"{count.most // count.per_project:,}",
        )
        for count in ordered
    ]
    return _table(("quota", "default", "ends after projects", "raised, after"), rows)


def rates() -> str:
    """Return the rates that jobs meet, by region class."""
    large, other = (quotas.rates(region) for region in (Region.LARGE, Region.OTHER))
    rows = [
        (
            f"[{name}]({rate.source})",
            f"{rate.refill:,g}, {rate.capacity:,g} at once",
            f"{other[name].refill:,g}, {other[name].capacity:,g} at once",
            "yes" if rate.is_adjustable else "no",
        )
        for name, rate in sorted(large.items())
    ]
    regions = ("us-east-1, us-west-2, eu-west-1", "eu-central-1 and others")
    return _table(("a second", *regions, "adjustable"), rows)


def bursts() -> str:
    """Return what becomes of bursts."""
    return _table(fleet.HEADINGS, fleet.rows())


def picture() -> str:
    """Return the picture of a burst: how many jobs have completed by when."""
    line = _completed(fleet.play(_DRAWN))
    minutes = ", ".join(str(n * _MINUTES) for n in range(_POINTS))
    return (
        "```mermaid\nxychart-beta\n"
        f'  title "{_DRAWN:,} jobs at once"\n'
        f'  x-axis "minutes" [{minutes}]\n'
        f'  y-axis "thousand jobs completed" 0 --> {_DRAWN // 1000}\n'
        f"  line [{', '.join(line)}]\n"
        "```\n"
    )


def _completed(outcome: Outcome) -> list[str]:
    by = dict(outcome.curve)
    last = outcome.curve[-1][1]
    points = (by.get(60.0 * _MINUTES * n, last) for n in range(_POINTS))
    return [f"{jobs / 1000:.1f}" for jobs in points]


#: What stands between the marks of its name.
PARTS: Mapping[str, Callable[[], str]] = {
    "calls": calls,
    "job": job,
    "month": month,
    "counts": counts,
    "rates": rates,
    "bursts": bursts,
    "picture": picture,
}


def written(page: str) -> str:
    """Return a page with each part in its place."""
    for name, part in PARTS.items():
        before, mark, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not (mark and end):
            raise LookupError(f"{PAGE.name}: the part {name} has no place")
        page = f"{before}{mark}{part()}{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
