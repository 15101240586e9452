"""Whether anything can be there already of what a stage of provision_project makes."""

from __future__ import annotations

from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.job_types.provision_project import INITIALIZING

#: The field of INITIALIZING's output that says whether no other job has made anything of the
#: project.
IS_ALONE = "is_alone"


def may_exist(job: JobInput) -> bool:
    """Whether an earlier run of the stage, or another job, may have made something already."""
    is_alone = job.outputs.get(INITIALIZING, {}).get(IS_ALONE) is True
    return not (job.is_first and is_alone)
