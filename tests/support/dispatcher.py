"""A dispatcher of the deployment on moto."""

from __future__ import annotations

from typing import Any

from provisioner.jobs.admission import AdmissionControl
from provisioner.jobs.dispatch import Dispatcher
from provisioner.jobs.execution import Executions
from provisioner.jobs.messages import DeadLetterQueue, JobQueue
from provisioner.jobs.registry import JobRegistry
from support.core import STATE_MACHINE_ARN_PREFIX, Core


def dispatcher(core: Core, registry: JobRegistry, **parts: Any) -> Dispatcher:
    """Return the dispatcher of the deployment; `parts` take the place of its own."""
    own: dict[str, Any] = {
        "registry": registry,
        "store": core.jobs,
        "dead_letters": DeadLetterQueue(core.client("sqs"), core.dead_letter_url),
        "executions": Executions(core.client("stepfunctions"), STATE_MACHINE_ARN_PREFIX),
        "admission": AdmissionControl(core.jobs),
        "queue": JobQueue(core.client("sqs"), core.queue_url),
    }
    return Dispatcher(**(own | parts))
