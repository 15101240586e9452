"""From the message to COMPLETED on the local stack, as a ratio to the same calls made straight.

The floor is a script that runs the stages' own code one after another, without queue, state machine
or stored progress. Both are measured in turn in the same run, warm. What was made is removed again,
outside the measured time. A ratio is reported, and nothing fails on it.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from provision_cli.local.stack import LocalStack, LocalStackSettings
from provisioner import api
from provisioner.composition.in_process import all_stages
from provisioner.jobs.stage_run import JobInput
from provisioner.jobs.store import JobStore
from provisioner.provisioning.job_types import provision_project
from provisioner.runtime import aws
from provisioner.runtime.platform import PlatformSettings

ROUNDS = 5
AT_ONCE = 8


class Straight:
    """Makes what a job makes, by the same stages and nothing else; remembers it, to remove it."""

    def __init__(self, settings: PlatformSettings, region: str) -> None:
        """Bind the stages to a deployment."""
        jobs = JobStore(
            aws.client("dynamodb"), settings.jobs_table, retention_days=settings.job_retention_days
        )
        self._stages = all_stages(settings, jobs)["provision_project"]
        self._region = region
        self._made: list[JobInput] = []

    def run(self) -> float:
        """Make one project's things; return when they were there."""
        project_id = f"floor-{uuid.uuid4().hex[:12]}"
        api.create_project(project_id)
        job = JobInput(
            job_id=project_id,
            job_type="provision_project",
            payload={"project_id": project_id, "region": self._region},
        )
        self._made.append(job)
        # The last stage completes a stored job, and there is none. What runs only for a project
        # with an instance of its own is left out, as the job leaves it out.
        for stage in provision_project.JOB_TYPE.stages[:-1]:
            if not stage.runs_if:
                self._stages[stage](job)
        return time.time()

    def remove(self) -> None:
        """Remove what was made."""
        for job in self._made:
            for stage in provision_project.JOB_TYPE.on_failure.cleanup:
                self._stages[stage](job)


class ByMessage:
    """Sends jobs; remembers their projects, to remove them."""

    def __init__(self, region: str) -> None:
        """Name the region of the projects."""
        self._region = region
        self._made: list[str] = []

    def run(self) -> float:
        """Send a job, wait for its end and return when that was."""
        project_id = f"bench-{uuid.uuid4().hex[:12]}"
        api.create_project(project_id)
        self._made.append(project_id)
        sent = api.enqueue_job(
            "provision_project", {"project_id": project_id, "region": self._region}
        )
        job = api.wait_for_job(sent.job_id, 300)
        if job.error is not None or job.finished_at is None:
            raise SystemExit(f"job {job.job_id}: {job.error}")
        return job.finished_at.timestamp()

    def remove(self) -> None:
        """Deprovision every project."""
        remove = api.get_job_handler("deprovision_project")
        for project_id in self._made:
            remove({"project_id": project_id, "confirm": project_id, "final_snapshot": False})


def seconds(run: Callable[[], float], at_once: int) -> float:
    """Time so many runs at once, from the start of the first to the end of the last."""
    began = time.time()
    with ThreadPoolExecutor(at_once) as pool:
        return max(done.result() for done in [pool.submit(run) for _ in range(at_once)]) - began


def report(settings: PlatformSettings, region: str, at_once: int, rounds: int) -> str:
    """Measure so many jobs at once, and return the medians and their ratio in one line."""
    by_message, straight = ByMessage(region), Straight(settings, region)
    measure = partial(seconds, at_once=at_once)
    try:
        measure(by_message.run)  # functions and connections get warm
        pairs = [(measure(by_message.run), measure(straight.run)) for _ in range(rounds)]
    finally:
        by_message.remove()
        straight.remove()
    whole, floor = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    return f"{at_once} at once: {whole:.2f} s, floor {floor:.2f} s, ratio {ratio:.1f}x"


def main() -> None:
    """Bring the local stack up and print the table."""
    stack = LocalStack(LocalStackSettings.from_environment()).up()
    stack.enter()
    settings = api.connect_to_stack(stack.stack_name, stack.region)
    print(f"floor: the same calls straight, median of {ROUNDS}")
    for at_once in (1, AT_ONCE):
        print(report(settings, stack.region, at_once, ROUNDS))


if __name__ == "__main__":
    main()
