"""Registers revoke_api_key."""

from provisioner.jobs.registry import register_job_handler
from provisioner.provisioning.job import JobType, revoke_api_key_handler

register_job_handler(JobType.REVOKE_API_KEY, revoke_api_key_handler)
