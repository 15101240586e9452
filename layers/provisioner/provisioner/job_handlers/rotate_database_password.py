"""Registers rotate_database_password."""

from provisioner.jobs.registry import register_job_handler
from provisioner.provisioning.job import JobType, rotate_database_password_handler

register_job_handler(JobType.ROTATE_DATABASE_PASSWORD, rotate_database_password_handler)
