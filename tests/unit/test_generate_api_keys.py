"""GENERATING_API_KEYS: the table changes only while the job holds the project."""

from __future__ import annotations

import json

import pytest
from provisioner.api_keys.key_format import digest
from provisioner.drivers import dynamodb
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.stage import JobInput
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.stages.api_keys import ensure_api_keys
from support.core import Core, meanwhile, new_job

NAMING = Naming("nm", "test-123456789012")
SECRET = NAMING.names("shop").api_keys_secret


def hold(core: Core, job_id: str | None) -> None:
    """Let a job hold the project, or none."""
    held = {"project_id": "shop"} | ({"locked_by": job_id} if job_id else {})
    core.client("dynamodb").put_item(TableName="ProjectsTable", Item=dynamodb.to_item(held))


def generate(core: Core, job_id: str, count: int = 2) -> None:
    """Run the stage of a job."""
    job = new_job(job_id, api_keys={"count": count})
    ensure_api_keys(
        JobInput(job_id=job_id, job_type=job.job_type, payload=dict(job.payload)),
        secrets_manager=core.client("secretsmanager"),
        kms_key_arn=None,
        store=core.api_keys,
        hand_overs=core.hand_overs,
        projects=core.projects,
        naming=NAMING,
        clock=core.clock,
    )


def generate_late(core: Core, job_id: str, count: int = 2) -> None:
    """Run the stage of a job that holds the project no more."""
    with pytest.raises(ProvisioningError) as raised:
        generate(core, job_id, count)
    assert raised.value.type is ErrorType.CONFLICT


def handed_over(core: Core) -> list[str] | None:
    """Return the keys that the secret hands over; None where there is no secret."""
    manager = core.client("secretsmanager")
    try:
        value = manager.get_secret_value(SecretId=SECRET)["SecretString"]
    except manager.exceptions.ResourceNotFoundException:
        return None
    return list(json.loads(value)["api_keys"])


def stored(core: Core) -> set[str]:
    return {key["digest"] for key in core.stored_keys()}


@pytest.fixture
def keys(core: Core) -> list[str]:
    """Return the keys that a job has made, which holds the project no more."""
    hold(core, "job-1")
    generate(core, "job-1")
    hold(core, None)
    made = handed_over(core)
    assert made
    return made


@pytest.mark.parametrize("holder", [None, "job-2"])
def test_a_run_that_comes_after_the_keys_were_claimed_leaves_them_alone(
    core: Core, keys: list[str], holder: str | None
) -> None:
    core.client("secretsmanager").delete_secret(SecretId=SECRET, ForceDeleteWithoutRecovery=True)
    hold(core, holder)

    generate_late(core, "job-1")

    assert stored(core) == set(map(digest, keys))
    assert handed_over(core) is None


def test_a_set_that_a_late_run_replaced_comes_back(core: Core, keys: list[str]) -> None:
    generate_late(core, "job-0", count=3)

    assert stored(core) == set(map(digest, keys))
    assert handed_over(core) == keys


def test_a_set_that_another_job_has_taken_up_meanwhile_stays(core: Core) -> None:
    """The late run makes the secret; the job that holds the project finds it and stores its set."""
    hold(core, "job-2")
    core.answers["dynamodb.TransactWriteItems"] = meanwhile(lambda: generate(core, "job-2"))

    generate_late(core, "job-1")

    made = handed_over(core)
    assert made
    assert stored(core) == set(map(digest, made))


def test_a_run_beside_another_of_its_job_ends_well(core: Core) -> None:
    hold(core, "job-1")
    core.answers["dynamodb.TransactWriteItems"] = meanwhile(lambda: generate(core, "job-1"))

    generate(core, "job-1")

    made = handed_over(core)
    assert made
    assert stored(core) == set(map(digest, made))


def test_a_set_takes_the_place_of_another_in_one_transaction(core: Core, keys: list[str]) -> None:
    hold(core, "job-2")
    core.calls.clear()

    generate(core, "job-2", count=3)

    made = handed_over(core)
    assert made
    assert stored(core) == set(map(digest, made))
    assert not stored(core) & set(map(digest, keys))
    assert core.changes() == [
        "secrets-manager.CreateSecret",
        "secrets-manager.PutSecretValue",
        "dynamodb.TransactWriteItems",
    ]
