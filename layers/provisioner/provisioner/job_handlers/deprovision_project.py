"""Registers deprovision_project."""

from provisioner.jobs.registry import register_job_handler
from provisioner.provisioning.job import JobType, deprovision_project_handler

register_job_handler(JobType.DEPROVISION_PROJECT, deprovision_project_handler)
