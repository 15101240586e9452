"""Which job may change the platform's login of a cluster: one at a time.

The lock stands in the table of quotas, as an item for each admin secret: two parameters may name
one. It names a job and its attempt, and is theirs until that attempt has ended. So nothing gives it
back, and none is left behind: whoever comes next asks what has become of that job.
"""

from boto3.dynamodb.conditions import Attr

from provisioner.aws_types import DynamoDBClient
from provisioner.drivers import dynamodb
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.stage import JobInput
from provisioner.jobs.store import JobNotFoundError, JobStore


class LoginLocks:
    """Gives locks of admin secrets to jobs."""

    def __init__(self, client: DynamoDBClient, table: str) -> None:
        """Bind to the table of quotas."""
        self._client = client
        self._table = table

    def acquire(self, secret_arn: str, job: JobInput, jobs: JobStore) -> None:
        """Give the lock of a secret to an attempt of a job; every run of that has it then.

        Args:
            secret_arn: the secret.
            job: the job that asks.
            jobs: tells what has become of the job that has the lock.

        Raises:
            PROJECT_BUSY: another job has it, and has not ended.
        """
        key = {"quota": f"login#{secret_arn}"}
        item = dynamodb.get(self._client, self._table, key) or {}
        holder, attempt = item.get("locked_by"), item.get("locked_in_attempt")
        if (holder, attempt) == (job.job_id, job.attempt):
            return
        if holder is not None and not _has_ended(holder, attempt, jobs):
            raise _busy(f"job {holder} changes it; wait until that job has ended.")
        as_read = (
            Attr("locked_by").not_exists()
            if holder is None
            else Attr("locked_by").eq(holder) & Attr("locked_in_attempt").eq(attempt)
        )
        values = {"locked_by": job.job_id, "locked_in_attempt": job.attempt}
        try:
            dynamodb.transact(
                self._client, [dynamodb.build_update(self._table, key, values, as_read)]
            )
        except dynamodb.ConditionFailedError as error:
            # Another run of this attempt may have been first.
            now = error.items.get(0, {})
            if (now.get("locked_by"), now.get("locked_in_attempt")) != tuple(values.values()):
                raise _busy(
                    "another job has just begun to change it; send the job again."
                ) from None


def _has_ended(job_id: str, attempt: int | None, jobs: JobStore) -> bool:
    """Whether an attempt of a job has ended, after which no run of it is at work."""
    try:
        job = jobs.get(job_id)
    except JobNotFoundError:
        return True
    return job.status.is_terminal or job.attempt != attempt


def _busy(why: str) -> ProvisioningError:
    return failure(
        ErrorType.PROJECT_BUSY, f"cluster_id: the platform's login of this cluster is locked: {why}"
    )
