"""A project is removed on the deployed template, and its id provisioned again."""

from __future__ import annotations

import psycopg
import pytest
from provision_cli.local.stack import RunningStack
from provisioner import api
from provisioner.provisioning.job_types.deprovision_project import SnapshotResult
from support.stack_jobs import finished, provisioned, result_of, secret


def test_a_project_goes_with_a_snapshot_and_its_id_comes_again(deployment: RunningStack) -> None:
    first = result_of(provisioned(deployment, "short-lived"))
    login = secret(deployment, first.database.secret_arn)["connection_string"]
    with psycopg.connect(login) as connection:
        connection.execute("CREATE TABLE note AS SELECT 'kept' AS text")
    keys: list[str] = []
    api.claim_api_keys("short-lived", keys.extend)
    assert all(api.verify_api_key(key) for key in keys)

    job = finished(
        api.enqueue_job(
            "deprovision_project",
            {"project_id": "short-lived", "confirm": "short-lived"},
        ).job_id
    )

    assert (job.status, job.error) == (api.JobStatus.COMPLETED, None)
    assert {record.stage for record in job.stages if record.status != "SUCCEEDED"} == {
        "TAKING_INSTANCE_SNAPSHOT",
        "REMOVING_INSTANCE",
    }
    result = api.DeprovisionProjectResult.model_validate(job.result)
    assert isinstance(result.snapshot, SnapshotResult)
    assert result.snapshot.bucket == deployment.outputs["SnapshotsBucketName"]
    archive = (
        deployment.client("s3")
        .get_object(Bucket=result.snapshot.bucket, Key=result.snapshot.key)["Body"]
        .read()
    )
    assert archive.startswith(b"PGDMP")
    assert len(archive) == result.snapshot.size_bytes
    assert not any(api.verify_api_key(key) for key in keys)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(login)
    assert api.get_project("short-lived").status is api.ProjectStatus.DEPROVISIONED

    again = finished(
        api.enqueue_job(
            "provision_project",
            {"project_id": "short-lived", "region": deployment.region},
        ).job_id
    )

    assert (again.status, again.error) == (api.JobStatus.COMPLETED, None)
    login = secret(deployment, result_of(again).database.secret_arn)["connection_string"]
    with psycopg.connect(login) as connection:
        assert connection.execute("SELECT to_regclass('app.note')").fetchone() == (None,)
    assert not any(api.verify_api_key(key) for key in keys)
