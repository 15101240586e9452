"""A job type of one's own takes one file; the dispatcher does not change."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto import mock_aws
from provisioner import job_handlers
from provisioner.composition import dispatcher
from provisioner.jobs import registry
from provisioner.jobs.models import JobStatus
from provisioner.jobs.registry import JobRegistry
from provisioner.jobs.store import JobStore
from provisioner.runtime import aws
from support import project

REGION = "eu-central-1"
ARN_PREFIX = f"arn:aws:states:{REGION}:123456789012:stateMachine:test-"


@pytest.fixture
def shown_in_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the one file that CONTRIBUTING.md shows among the job handlers."""
    text = (project.ROOT / "CONTRIBUTING.md").read_text()
    shown = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    (tmp_path / "archive_project.py").write_text(shown)
    monkeypatch.setattr(job_handlers, "__path__", [*job_handlers.__path__, str(tmp_path)])
    own = JobRegistry()
    monkeypatch.setattr(registry, "REGISTRY", own)
    monkeypatch.setattr(dispatcher, "REGISTRY", own)
    names = [f"{job_handlers.__name__}.{name}" for name in ("archive_project", "provision_project")]
    before = {name: sys.modules.pop(name, None) for name in names}
    yield
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


@pytest.mark.usefixtures("shown_in_the_documentation")
def test_the_documented_file_is_all_that_a_job_type_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": REGION,
        "POWERTOOLS_METRICS_NAMESPACE": "Test",
        "JOBS_TABLE": "JobsTable",
        "STATE_MACHINE_ARN_PREFIX": ARN_PREFIX,
        "REQUIRED_JOB_TYPES": "provision_project,archive_project",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        aws.reset()
        dead_letters = aws.client("sqs").create_queue(QueueName="dead")["QueueUrl"]
        monkeypatch.setenv("DEAD_LETTER_QUEUE_URL", dead_letters)
        properties = project.resources("AWS::DynamoDB::Table")["JobsTable"]["Properties"]
        wanted = ("KeySchema", "AttributeDefinitions", "GlobalSecondaryIndexes", "BillingMode")
        aws.client("dynamodb").create_table(
            TableName="JobsTable", **{key: properties[key] for key in wanted}
        )
        aws.client("stepfunctions").create_state_machine(
            name="test-archive_project",
            definition='{"StartAt": "Done", "States": {"Done": {"Type": "Succeed"}}}',
            roleArn="arn:aws:iam::123456789012:role/test",
        )
        dispatch = dispatcher.build()
        body = json.dumps({"job_type": "archive_project", "payload": {"project_id": "p-1"}})
        record = {
            "messageId": "message-1",
            "body": body,
            "eventSource": "aws:sqs",
            "receiptHandle": "",
        }
        answer = dispatch({"Records": [record]}, None)
        assert answer == {"batchItemFailures": []}
        executions = aws.client("stepfunctions").list_executions(
            stateMachineArn=f"{ARN_PREFIX}archive_project"
        )["executions"]
        assert [execution["name"] for execution in executions] == ["message-1"]
        job = JobStore(aws.client("dynamodb"), "JobsTable").get("message-1")
        assert (job.job_type, job.status, job.project_id) == (
            "archive_project",
            JobStatus.QUEUED,
            "p-1",
        )
        assert [record.stage for record in job.stages] == ["ARCHIVING"]
    aws.reset()
