"""One job at a time changes the login of an admin secret, whatever became of the one before."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError
from provisioner.drivers import dynamodb
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.failure import FailurePolicy, end_badly
from provisioner.jobs.models import StoredError
from provisioner.jobs.stage import JobInput
from provisioner.provisioning.login_locks import LoginLocks
from support.core import Core, answer_lost, meanwhile

SECRET = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:nm/clusters/eu-1-AbCdEf"
TRANSACTION = "dynamodb.TransactWriteItems"


def acquire(core: Core, job_id: str, secret: str = SECRET) -> None:
    job = core.jobs.get(job_id)
    LoginLocks(core.client("dynamodb"), "QuotasTable").acquire(
        secret,
        JobInput(job_id=job_id, job_type=job.job_type, payload={}, attempt=job.attempt),
        core.jobs,
    )


def refused(core: Core, job_id: str) -> str:
    with pytest.raises(ProvisioningError) as raised:
        acquire(core, job_id)
    assert raised.value.type is ErrorType.PROJECT_BUSY
    return raised.value.message


def end(core: Core, job_id: str) -> None:
    error = StoredError(ErrorType.NETWORK_ERROR, "", 0, "It failed.", "")
    job = core.jobs.get(job_id)
    end_badly(core.jobs, {job.job_type: FailurePolicy()}, job, [error])


@pytest.fixture
def jobs(core: Core) -> Core:
    for job_id in ("one", "two"):
        core.new_job(job_id)
    return core


def holder(core: Core) -> tuple[Any, ...]:
    (item,) = core.scan("QuotasTable")
    assert item["quota"] == f"login#{SECRET}"
    return item["locked_by"], item["locked_in_attempt"]


def test_a_lock_is_its_jobs_until_that_has_ended(jobs: Core) -> None:
    acquire(jobs, "one")
    acquire(jobs, "one")
    assert "job one changes it" in refused(jobs, "two")
    acquire(jobs, "two", f"{SECRET}-of-another-cluster")
    end(jobs, "one")
    acquire(jobs, "two")
    assert ("login#" + SECRET, "two") in {
        (item["quota"], item["locked_by"]) for item in jobs.scan("QuotasTable")
    }


def test_a_retried_job_has_the_lock_only_where_no_other_has_taken_it(jobs: Core) -> None:
    acquire(jobs, "one")
    end(jobs, "one")
    jobs.jobs.retry(jobs.jobs.get("one"))
    # It has not run again yet, so that it has nothing to lose.
    acquire(jobs, "two")
    assert holder(jobs) == ("two", 1)
    assert "job two changes it" in refused(jobs, "one")
    end(jobs, "two")
    acquire(jobs, "one")
    assert holder(jobs) == ("one", 2)


def test_of_two_that_find_it_free_at_once_one_has_it(jobs: Core) -> None:
    jobs.answers[TRANSACTION] = meanwhile(lambda: acquire(jobs, "two"))
    assert "another job has just begun" in refused(jobs, "one")
    assert holder(jobs) == ("two", 1)


def test_of_two_that_find_the_same_job_ended_one_has_it(jobs: Core) -> None:
    """The second is the next attempt of the very job that has ended."""
    acquire(jobs, "one")
    end(jobs, "one")

    def retry() -> None:
        jobs.jobs.retry(jobs.jobs.get("one"))
        acquire(jobs, "one")

    jobs.answers[TRANSACTION] = meanwhile(retry)
    assert "another job has just begun" in refused(jobs, "two")
    assert holder(jobs) == ("one", 2)


def test_another_run_of_the_same_attempt_may_be_first(jobs: Core) -> None:
    jobs.answers[TRANSACTION] = meanwhile(lambda: acquire(jobs, "one"))
    acquire(jobs, "one")
    assert holder(jobs) == ("one", 1)


def test_an_answer_that_was_lost_is_found_by_the_next_run(jobs: Core) -> None:
    jobs.answers[TRANSACTION] = answer_lost(jobs.client("dynamodb").transact_write_items)
    with pytest.raises(ReadTimeoutError):
        acquire(jobs, "one")
    acquire(jobs, "one")
    assert holder(jobs) == ("one", 1)


def test_a_lock_of_a_job_that_is_stored_no_more_is_free(jobs: Core) -> None:
    acquire(jobs, "one")
    client = jobs.client("dynamodb")
    for item in jobs.scan("JobsTable"):
        if item["job_id"] == "one":
            key = {name: item[name] for name in ("job_id", "record")}
            client.delete_item(TableName="JobsTable", Key=dynamodb.to_item(key))
    acquire(jobs, "two")
    assert holder(jobs) == ("two", 1)
