"""What of a project can be there already, and whether a stage has made all that there is of it.

User pools and Event APIs are found by their names only in lists of all that the account has, which
grow with the number of projects. Where nothing, or one known id, can be there, nobody asks for one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from provisioner.jobs.models import StageRecord, StageStatus
from provisioner.jobs.stage import JobInput
from provisioner.provisioning.job_types.provision_project import (
    INITIALIZING,
    REGISTERING_AUTH,
    REGISTERING_REALTIME,
)

if TYPE_CHECKING:
    from provisioner.drivers.same_named import Made

#: The field of INITIALIZING's output that says whether no other job has made anything of the
#: project.
IS_ALONE = "is_alone"

#: The field of a stage's output that says whether its run, the first, made the thing by one request
#: where none could be there.
IS_ONLY = "is_only"

#: The field of the output of a removal's INITIALIZING that holds what `known_ids` returns.
KNOWN_IDS = "known_ids"

#: The stages of which only a list tells what they have made, by the service.
_LISTED = {"auth": REGISTERING_AUTH, "realtime": REGISTERING_REALTIME}


def may_exist(job: JobInput) -> bool:
    """Whether an earlier run of the stage, or another job, may have made something already."""
    is_alone = job.outputs.get(INITIALIZING, {}).get(IS_ALONE) is True
    return not (job.is_first and is_alone)


def keep_one(job: JobInput, field: str) -> Made:
    """Return what lets a superseded run delete what it made, unless the stage has ended with it.

    Args:
        job: the job.
        field: where the stage's output has the id of the one that is kept.
    """
    return lambda keep: job.if_superseded(lambda output: keep(output.get(field, "")))


def known_ids(stages: Iterable[StageRecord]) -> dict[str, str]:
    """Return the ids of all that a provision_project job can have made, by service.

    A service is left out where a run may have made something that no record names. An id is empty
    where the job has made nothing.

    Args:
        stages: the stages of the job, of which none is at work.
    """
    records = {record.stage: record for record in stages}
    found = {name: _known_id(records.get(stage)) for name, stage in _LISTED.items()}
    return {name: known for name, known in found.items() if known is not None}


def _known_id(record: StageRecord | None) -> str | None:
    if record is None:
        return None
    has_begun = record.attempt > 0
    is_skipped = has_begun and record.status is StageStatus.SKIPPED
    # It was closed with the job before it began, in the job's first attempt.
    never_begins = not has_begun and record.closed is not None and record.job_attempt == 1
    if is_skipped or never_begins:
        return ""
    is_only = record.status is StageStatus.SUCCEEDED and record.output.get(IS_ONLY) is True
    # Another run of the same start may have made one meanwhile.
    return record.output["tenant_id"] if is_only and record.superseded_until is None else None


def known_id(job: JobInput, service: str) -> str | None:
    """Return the id of all that a removal can find of a service; None where nobody knows.

    It is empty where there is nothing to find.
    """
    known: dict[str, str] = job.outputs.get(INITIALIZING, {}).get(KNOWN_IDS, {})
    return known.get(service)
