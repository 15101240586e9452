"""From the message to COMPLETED on the local stack, as a ratio to the same calls made straight.

The floor is a script that calls the drivers one after another, without queue, state machine or
stored progress. Both are measured in turn in the same run, warm. A ratio is reported, and nothing
fails on it.
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
from provisioner.composition import api_keys, database, services
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.plan import BRANCHES
from provisioner.runtime.platform import PlatformSettings

ROUNDS = 5
AT_ONCE = 8


def job_straight(settings: PlatformSettings, region: str) -> float:
    """Make what a job makes, by the same calls and nothing else; return when it ended."""
    project_id = f"floor-{uuid.uuid4().hex[:12]}"
    api.create_project(project_id)
    job = JobInput(
        job_id=project_id,
        job_type=api.JobType.PROVISION_PROJECT,
        payload={"project_id": project_id, "region": region},
    )
    stages = {
        **database.stages(settings),
        **services.stages(settings),
        **api_keys.stages(settings),
    }
    for stage in (stage for branch in BRANCHES for stage in branch):
        stages[stage](job)
    return time.time()


def job_by_message(region: str) -> float:
    """Send a job, wait for its end and return when that was."""
    project_id = f"bench-{uuid.uuid4().hex[:12]}"
    api.create_project(project_id)
    sent = api.enqueue_job(
        api.JobType.PROVISION_PROJECT, {"project_id": project_id, "region": region}
    )
    job = api.wait_for_job(sent.job_id, 300)
    if job.error is not None or job.finished_at is None:
        raise SystemExit(f"job {job.job_id}: {job.error}")
    return job.finished_at.timestamp()


def seconds(run: Callable[[], float], at_once: int) -> float:
    """Time so many runs at once, from the start of the first to the end of the last."""
    began = time.time()
    with ThreadPoolExecutor(at_once) as pool:
        return max(done.result() for done in [pool.submit(run) for _ in range(at_once)]) - began


def report(settings: PlatformSettings, region: str, at_once: int) -> None:
    """Print the medians and the ratio for so many jobs at once."""
    by_message, straight = partial(job_by_message, region), partial(job_straight, settings, region)
    seconds(by_message, at_once)  # functions and connections get warm
    pairs = [(seconds(by_message, at_once), seconds(straight, at_once)) for _ in range(ROUNDS)]
    whole, floor = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    print(f"{at_once} at once: {whole:.2f} s, floor {floor:.2f} s, ratio {ratio:.1f}x")


def main() -> None:
    """Bring the local stack up and print the table."""
    stack = LocalStack(LocalStackSettings.from_environment()).up()
    stack.enter()
    settings = api.connect_to_stack(stack.stack_name, stack.region)
    print(f"floor: the same calls straight, median of {ROUNDS}")
    for at_once in (1, AT_ONCE):
        report(settings, stack.region, at_once)


if __name__ == "__main__":
    main()
