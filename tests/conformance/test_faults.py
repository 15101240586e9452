"""Every stage of every job type is met by the faults of the table."""

from __future__ import annotations

import re

import pytest
from provisioner.provisioning.job_types import JOB_TYPES
from support.places import CHANGES, LASTING, OF_INSTANCES, OF_THEIR_OWN, PASSING, STAGES
from support.project import ROOT

#: The rows of the fault table, which another test compares with the tests, by fault: how many
#: stages of each job type meet it.
_ROWS = {
    fault: {
        job_type: int(count or 1) for job_type, count in re.findall(r"([\w-]+)(?: (\d+))?", where)
    }
    for fault, where in re.findall(
        r"^\| ([^|]+) \| ([^|]+) \| \d+ \|",
        (ROOT / "docs" / "reliability.md").read_text(),
        re.MULTILINE,
    )
}

#: The faults that every stage is to meet. After its effect, the end of the job, the last meets none
#: that lasts.
_OF_ALL_STAGES = {
    **dict.fromkeys([kind.name for kind in PASSING.values()], 0),
    **{f"{kind.name}, lasting": int(kind.has_effect) for kind in LASTING.values()},
    **dict.fromkeys(["wrong answer, lasting", "DynamoDB throttling", "cancel at every stage"], 0),
}


def test_the_tests_that_meet_each_job_type_are_known() -> None:
    unknown = sorted(set(JOB_TYPES) - {*CHANGES, *OF_THEIR_OWN})
    assert unknown == [], (
        f"{', '.join(unknown)}: no test puts a fault in, since the payload has no project_id, or "
        "there is a clean-up, so that those of CHANGES, in tests/support/places.py, cannot run it; "
        "name it in OF_THEIR_OWN there, and write its tests in tests/faults, as those of "
        "deprovision_project or provision_project are."
    )


@pytest.mark.parametrize("job_type", JOB_TYPES)
def test_every_fault_is_put_into_every_stage(job_type: str) -> None:
    count = len(STAGES[job_type]) + len(OF_INSTANCES.get(job_type, ()))
    expected = {fault: count - without for fault, without in _OF_ALL_STAGES.items()}
    met = {fault: _ROWS[fault].get(job_type, 0) for fault in expected}
    missing = {
        fault: (met[fault], count) for fault, count in expected.items() if met[fault] < count
    }
    assert missing == {}, (
        f"these faults meet too few stages of {job_type}: run `make state-machines`; where that "
        "does not help, write tests in tests/faults with the mark `fault` that puts them in."
    )
