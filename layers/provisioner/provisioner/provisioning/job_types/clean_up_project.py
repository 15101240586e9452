"""clean_up_project: removes what a job that has failed made of a project, and nothing else."""

from typing import Annotated

from pydantic import Field

from provisioner.jobs.definition import FailureHandling, JobDefinition, Parallel
from provisioner.jobs.messages import JobId
from provisioner.provisioning.common_stages import first_stage, last_stage, removal_stage
from provisioner.provisioning.contract import Payload, ProjectId, Region, Result
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.functions import LEASE_SECONDS


class CleanUpProjectPayload(Payload):
    """What a clean_up_project job is asked to do: by a failed job, or by a person."""

    project_id: ProjectId
    #: The failed job whose resources are removed.
    job_id: JobId
    #: Where that job made them; a project that is there says so itself.
    region: Region
    engine: Engine
    #: Whether it was to make a database instance of the project's own.
    is_dedicated: Annotated[bool, Field(strict=True)]


class CleanUpProjectResult(Result):
    """What is gone once a project is cleaned up."""

    project_id: str
    #: The job whose resources were removed.
    job_id: str


INITIALIZING = first_stage(
    "Nothing of the failed job is at work any more, and the project is ours to clean up.",
    "clean_up:ensure_cleanup_begun",
    waits_seconds=LEASE_SECONDS,
)

REMOVING_API_KEYS = removal_stage("api_keys", only_this_job=True)
REMOVING_STORAGE = removal_stage("storage", only_this_job=True)
REMOVING_REALTIME = removal_stage("realtime", only_this_job=True)
REMOVING_AUTH = removal_stage("auth", only_this_job=True)
REMOVING_DATABASE = removal_stage("database", only_this_job=True)
REMOVING_INSTANCE = removal_stage("instance", only_this_job=True)

#: What does not depend on one another: what cannot be removed keeps nothing else from it.
RESOURCES = Parallel(
    "RemoveResources",
    (
        (REMOVING_API_KEYS,),
        (REMOVING_STORAGE,),
        (REMOVING_REALTIME,),
        (REMOVING_AUTH,),
        (REMOVING_DATABASE, REMOVING_INSTANCE),
    ),
)

FINALIZING = last_stage(
    "Nothing that the failed job made is left; the project is released.",
    "clean_up:ensure_cleaned_up",
)

JOB_TYPE = JobDefinition(
    name="clean_up_project",
    meaning="Removes what a failed job has made of a project.",
    payload_model=CleanUpProjectPayload,
    result_model=CleanUpProjectResult,
    steps=(INITIALIZING, RESOURCES, FINALIZING),
    on_failure=FailureHandling(
        release="provisioner.provisioning.stages.provision:release_after_failure",
        remaining="provisioner.provisioning.stages.clean_up:remaining",
    ),
    example={
        "project_id": "shop",
        "job_id": "provision-shop",
        "region": "eu-central-1",
        "engine": "postgresql",
        "is_dedicated": False,
    },
)
