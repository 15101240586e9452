"""The jobs of a deployment; apart from its projects, which not every function knows."""

from provisioner.jobs.store import JobStore
from provisioner.runtime import aws
from provisioner.runtime.settings import JobSettings


def job_store(settings: JobSettings) -> JobStore:
    """Bind the store of jobs to a deployment."""
    return JobStore(
        aws.client("dynamodb"),
        settings.jobs_table,
        retention_days=settings.job_retention_days,
        maximum_running_jobs=settings.maximum_running_jobs,
    )
