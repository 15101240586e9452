"""A job in one process, as a ratio to the straight script: moto's AWS and a real PostgreSQL.

Both talk to the same in turn. A ratio is reported, and nothing fails on it.
"""

from __future__ import annotations

from provisioner import api
from support.workflow import REGION, Workflow

from bench.in_memory import deployment
from bench.interleaved import Times, measure
from bench.straight import Straight

ROUNDS = 15

JOB = "a job"
STRAIGHT = "the straight script"

#: The most that a job is meant to take, as a ratio to the straight script.
AIM = 2.2


def compare(workflow: Workflow, rounds: int) -> Times:
    """Time jobs and straight scripts in turn; what the scripts make is removed."""
    provision = api.get_job_handler("provision_project")
    straight = Straight(workflow.settings, REGION)

    def run_job() -> None:
        provision({"project_id": projects.pop(), "region": REGION})

    # A project is there before its job is sent.
    projects = [workflow.new_project() for _ in range(rounds + 1)]
    try:
        return measure({JOB: run_job, STRAIGHT: straight.run}, rounds)
    finally:
        straight.remove()


def line(times: Times) -> str:
    """Return the medians and their ratio."""
    return (
        f"{JOB}: {times.median(JOB):.2f} s, {STRAIGHT}: {times.median(STRAIGHT):.2f} s, "
        f"ratio {times.ratio(JOB, STRAIGHT):.2f}x, "
        f"of the fastest {times.ratio_of_fastest(JOB, STRAIGHT):.2f}x, aim {AIM}x"
    )


def main() -> None:
    """Print the line."""
    with deployment() as workflow:
        times = compare(workflow, ROUNDS)
    print(f"floor: {STRAIGHT}, in one process, in turn; median of {ROUNDS} rounds")
    print(line(times))


if __name__ == "__main__":
    main()
