"""The parts of what runs a clean-up again, in whoever's process asks for it."""

from __future__ import annotations

from provisioner.composition.stage_code import holds_of
from provisioner.jobs.cleanup import CleanupRepeater
from provisioner.jobs.execution import Executions
from provisioner.jobs.store import JobStore
from provisioner.provisioning.projects import ProjectStore
from provisioner.runtime import aws
from provisioner.runtime.platform import PlatformSettings


def repeater(settings: PlatformSettings) -> CleanupRepeater:
    """Bind the repeater to a deployment."""
    tables = aws.client("dynamodb")
    projects = ProjectStore(tables, settings.projects_table, settings.quotas_table)
    return CleanupRepeater(
        JobStore(tables, settings.jobs_table, retention_days=settings.job_retention_days),
        Executions(aws.client("stepfunctions"), settings.state_machine_arn_prefix),
        holds_of({"projects": projects}),
    )
