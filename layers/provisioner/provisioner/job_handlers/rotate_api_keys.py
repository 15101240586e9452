"""Registers rotate_api_keys."""

from provisioner.jobs.registry import register_job_handler
from provisioner.provisioning.job import JobType, rotate_api_keys_handler

register_job_handler(JobType.ROTATE_API_KEYS, rotate_api_keys_handler)
