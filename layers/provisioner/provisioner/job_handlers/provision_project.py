"""Registers provision_project."""

from provisioner.jobs.registry import register_job_handler
from provisioner.provisioning.job import JobType, provision_project_handler

register_job_handler(JobType.PROVISION_PROJECT, provision_project_handler)
