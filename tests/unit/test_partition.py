"""What a project gets in another partition of AWS."""

from __future__ import annotations

import json
from functools import partial

from provisioner.jobs.stage import JobInput
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.stages.storage import ensure_storage
from support.core import ACCOUNT, Core, valid_payload

REGION = "cn-north-1"
NAMING = Naming("nm", f"test-{ACCOUNT}")


def test_endpoint_and_policy_of_storage_have_the_names_of_the_partition(core: Core) -> None:
    payload = valid_payload(region=REGION).model_dump(mode="json")
    job = JobInput(job_id="job-1", job_type="provision_project", payload=payload)
    storage = ensure_storage(job, s3=partial(core.client, "s3"), naming=NAMING).output
    bucket = storage["bucket_name"]
    # In the payload's region, wherever the deployment is.
    assert bucket.endswith(f"-{ACCOUNT}-{REGION}-an")
    policy = core.client("s3", REGION).get_bucket_policy(Bucket=bucket)["Policy"]
    (statement,) = json.loads(policy)["Statement"]
    assert statement["Resource"] == [f"arn:aws-cn:s3:::{bucket}", f"arn:aws-cn:s3:::{bucket}/*"]
    assert storage["endpoint"] == f"https://{bucket}.s3.{REGION}.amazonaws.com.cn"
