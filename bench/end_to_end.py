"""From the message to COMPLETED on the local stack, beside three floors in the same run.

The straight script makes what a job makes and nothing else. The bare machine is the same state
machine with stages that do nothing: what queueing, storing and doing the work add to it shows. The
bare stages are the stages' own code, one after another, without queue, state machine or stored
progress. All are measured in turn, warm; what was made is removed again, outside the measured time.
Ratios are reported, and nothing fails on them.
"""

from __future__ import annotations

import uuid

from provision_cli.local.stack import LocalStack
from provisioner import api
from provisioner.composition.in_process import all_stages
from provisioner.jobs.stage import JobInput
from provisioner.jobs.store import JobStore
from provisioner.provisioning.job_types import clean_up_project, provision_project
from provisioner.runtime import aws
from provisioner.runtime.observability import logger
from provisioner.runtime.platform import PlatformSettings

from bench import bare_machine
from bench.interleaved import Times, measure
from bench.straight import Straight

ROUNDS = 5
AT_ONCE = 8

JOB = "a job, from its message"
STRAIGHT = "the straight script"
BARE_MACHINE = "the bare machine"
BARE_STAGES = "the bare stages"
#: What the work and the machine take at least, one after the other.
SUM = "script and machine in sum"

#: The most that one job is meant to take, as a ratio to the bare machine.
MACHINE_AIM = 1.3
#: The least that jobs at once are meant to reach of the bare stages' rate.
RATE_AIM = 0.6


class BareStages:
    """Makes what a job makes, by the same stages and nothing else; remembers it, to remove it."""

    def __init__(self, settings: PlatformSettings, region: str) -> None:
        """Bind the stages to a deployment."""
        jobs = JobStore(
            aws.client("dynamodb"), settings.jobs_table, retention_days=settings.job_retention_days
        )
        stages = all_stages(settings, jobs)
        self._stages, self._removal = stages["provision_project"], stages["clean_up_project"]
        self._region = region
        self._made: list[JobInput] = []

    def run(self) -> None:
        """Make one project's things."""
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

    def remove(self) -> None:
        """Remove what was made, as a clean-up does."""
        for job in self._made:
            payload = {
                **job.payload,
                "job_id": job.job_id,
                "engine": "postgresql",
                "is_dedicated": False,
            }
            clean_up = JobInput(
                job_id=f"{job.job_id}-cleanup", job_type="clean_up_project", payload=payload
            )
            for branch in clean_up_project.RESOURCES.branches:
                self._removal[branch[0]](clean_up)


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
            raise RuntimeError(f"job {job.job_id}: {job.error}")
        return job.finished_at.timestamp()

    def remove(self) -> None:
        """Deprovision every project."""
        remove = api.get_job_handler("deprovision_project")
        for project_id in self._made:
            remove({"project_id": project_id, "confirm": project_id, "final_snapshot": False})


def compare(settings: PlatformSettings, region: str, at_once: int, rounds: int) -> Times:
    """Time so many at once of a job and of its floors, in turn."""
    by_message = ByMessage(region)
    bare_stages = BareStages(settings, region)
    straight = Straight(settings, region)
    try:
        with bare_machine.deploy(region) as machine:
            ways = {
                JOB: by_message.run,
                STRAIGHT: straight.run,
                BARE_MACHINE: machine.run,
                BARE_STAGES: bare_stages.run,
            }
            return measure(ways, rounds, at_once)
    finally:
        by_message.remove()
        straight.remove()
        bare_stages.remove()


def table(times: Times, at_once: int) -> str:
    """Return the medians, and the ratios of the job to each floor."""
    aims = {
        BARE_MACHINE: f"aim {MACHINE_AIM}x for one",
        BARE_STAGES: f"aim {1 / RATE_AIM:.2f}x for {AT_ONCE}: {RATE_AIM:.0%} of their rate",
    }
    both = zip(times.of[STRAIGHT], times.of[BARE_MACHINE], strict=True)
    times = Times({**times.of, SUM: [one + other for one, other in both]})
    lines = [f"{at_once} at once{'':<20} median  a second  job to it    fastest"]
    for way in times.of:
        seconds = times.median(way)
        line = f"  {way:<26} {seconds:>5.2f} s {at_once / seconds:>8.1f}"
        if way != JOB:
            ratios = times.ratio(JOB, way), times.ratio_of_fastest(JOB, way)
            line += "".join(f" {ratio:>9.2f}x" for ratio in ratios) + f"  {aims.get(way, '')}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def main() -> None:
    """Bring the local stack up and print the tables."""
    logger.setLevel("WARNING")
    stack = LocalStack.of_developer().up()
    stack.enter()
    settings = api.connect_to_stack(stack.stack_name, stack.region)
    print(f"on the local stack, in turn; medians of {ROUNDS} rounds")
    for at_once in (1, AT_ONCE):
        print(table(compare(settings, stack.region, at_once, ROUNDS), at_once))


if __name__ == "__main__":
    main()
