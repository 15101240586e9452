"""The parts of what runs a clean-up again, in whoever's process asks for it."""

from __future__ import annotations

from provisioner.composition.failure import failure_resources
from provisioner.composition.stage_code import holds_of
from provisioner.jobs.cleanup import CleanupRepeater
from provisioner.jobs.execution import Executions
from provisioner.jobs.store import JobStore
from provisioner.runtime import aws
from provisioner.runtime.platform import PlatformSettings


def repeater(settings: PlatformSettings) -> CleanupRepeater:
    """Bind the repeater to a deployment."""
    tables = aws.client("dynamodb")
    return CleanupRepeater(
        JobStore(tables, settings.jobs_table, retention_days=settings.job_retention_days),
        Executions(aws.client("stepfunctions"), settings.state_machine_arn_prefix),
        holds_of(failure_resources(settings)),
    )
