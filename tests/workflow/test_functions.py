"""A job through the functions themselves: from its message to its end.

Each handler is loaded with exactly the environment that the template gives its function, and a
Task reaches the function that the template puts into the state machine.
"""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from moto.awslambda_simple.models import LambdaSimpleBackend
from provisioner import api
from provisioner.jobs.stage_run import RECORD_FAILURE, StageWaiting
from provisioner.runtime import aws
from provisioner.runtime.observability import metrics
from support import project
from support.workflow import REGION, Workflow

_ACCOUNT = "123456789012"
_PSEUDO = {
    "AWS::StackName": "test",
    "AWS::AccountId": _ACCOUNT,
    "AWS::Region": REGION,
    "AWS::Partition": "aws",
}


def _resolved(value: Any, queues: Mapping[str, str]) -> str:
    """Resolve a value of the template; a table is named like its resource here."""
    match value:
        case {"Ref": name}:
            parameter = project.template()["Parameters"].get(name, {})
            return str(parameter.get("Default", queues.get(name, name)))
        case {"Fn::Sub": text}:
            return re.sub(r"\$\{([^}]+)\}", lambda found: _PSEUDO[found[1]], text)
        case _:
            return str(value)


def _context(name: str) -> Any:
    return SimpleNamespace(
        function_name=name,
        memory_limit_in_mb=512,
        invoked_function_arn=f"arn:aws:lambda:{REGION}:{_ACCOUNT}:function:{name}",
        aws_request_id="00000000-0000-4000-8000-000000000000",
        get_remaining_time_in_millis=lambda: 60_000,
    )


@dataclass
class Functions:
    """The functions of the template, each with its handler."""

    workflow: Workflow
    queues: dict[str, str]
    handlers: dict[str, Callable[[Any, Any], Any]] = field(default_factory=dict)
    #: The function of every stage that ran.
    ran: dict[str, str] = field(default_factory=dict)
    #: One after the other, since here they share a logger and metrics.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def load(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, function in project.functions().items():
            with monkeypatch.context() as patch:
                for variable, value in function.environment.items():
                    patch.setenv(variable, _resolved(value, self.queues))
                spec = importlib.util.spec_from_file_location(
                    f"handler_of_{name}", function.folder / "handler.py"
                )
                assert spec is not None
                assert spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                self.handlers[function.logical_id] = module.handle

    def run(self, logical_id: str, event: Any) -> Any:
        with self._lock:
            if "stage" in event:
                self.ran[event["stage"]] = logical_id
            return self.handlers[logical_id](event, _context(logical_id))

    def dispatch(self) -> dict[str, Any]:
        """Hand what is in the queue to the dispatcher, as the event source mapping does."""
        sqs = aws.client("sqs")
        received = sqs.receive_message(
            QueueUrl=self.workflow.settings.queue_url, MaxNumberOfMessages=10
        )["Messages"]
        event = {
            "Records": [
                {
                    "messageId": message["MessageId"],
                    "receiptHandle": message["ReceiptHandle"],
                    "body": message["Body"],
                    "attributes": {"ApproximateReceiveCount": "1"},
                    "messageAttributes": {},
                    "eventSource": "aws:sqs",
                    "eventSourceARN": f"arn:aws:sqs:{REGION}:{_ACCOUNT}:jobs",
                    "awsRegion": REGION,
                }
                for message in received
            ]
        }
        answer: dict[str, Any] = self.run("DispatcherFunction", event)
        return answer

    def ended(self, job_id: str) -> api.Job:
        self.workflow.ended(self.workflow.execution_arn("provision_project", job_id))
        job = self.workflow.jobs.get(job_id)
        if job.cleanup_job_id:
            arn = self.workflow.execution_arn("clean_up_project", job.cleanup_job_id)
            self.workflow.ended(arn)
        return self.workflow.jobs.get(job_id)


@pytest.fixture
def functions(workflow: Workflow, monkeypatch: pytest.MonkeyPatch) -> Functions:
    dead_letters = aws.client("sqs").create_queue(QueueName="dead-letters")["QueueUrl"]
    # They were made with the first import, in no function's environment.
    monkeypatch.setattr(metrics.provider, "namespace", "ProjectProvisioner")
    made = Functions(workflow, {"DeadLetterQueue": dead_letters})
    made.load(monkeypatch)
    machine = project.resources("AWS::Serverless::StateMachine")["ProvisionProjectStateMachine"]
    named = machine["Properties"]["DefinitionSubstitutions"]

    def invoke(
        _backend: LambdaSimpleBackend,
        name: str,
        _qualifier: str | None,
        body: str,
        _headers: Any,
        response_headers: dict[str, Any],
    ) -> bytes:
        logical_id, _ = named[name.rpartition(":")[2]]["Fn::GetAtt"]
        try:
            return json.dumps(made.run(logical_id, json.loads(body))).encode()
        except Exception as error:  # noqa: BLE001  # as AWS Lambda, it makes any an answer
            response_headers["x-amz-function-error"] = "Unhandled"
            answer = {"errorType": type(error).__name__, "errorMessage": str(error)}
            return json.dumps(answer | {"stackTrace": []}).encode()

    monkeypatch.setattr(LambdaSimpleBackend, "invoke", invoke)
    return made


def _shape(value: Any) -> Any:
    """Return the names in a result, and the types of its values."""
    match value:
        case dict():
            return {name: _shape(inner) for name, inner in value.items()}
        case list():
            return [_shape(value[0])]
        case _:
            return type(value)


_SERVICE = {"enabled": bool, "tenant_id": str, "endpoint": str}


def test_a_message_becomes_a_project(functions: Functions) -> None:
    workflow = functions.workflow
    project_id = workflow.new_project(organization_id="acme")
    with workflow.logged() as log:
        job = api.enqueue_job("provision_project", {"project_id": project_id, "region": REGION})
        assert functions.dispatch() == {"batchItemFailures": []}
        job = functions.ended(job.job_id)
    assert job.status is api.JobStatus.COMPLETED
    assert {record.stage for record in job.stages if record.status != "SUCCEEDED"} == {
        "CREATING_INSTANCE"
    }
    assert functions.ran == {
        "INITIALIZING": "LifecycleFunction",
        "CREATING_DATABASE": "DatabaseFunction",
        "CREATING_SCHEMA": "DatabaseFunction",
        "REGISTERING_AUTH": "ServicesFunction",
        "REGISTERING_REALTIME": "ServicesFunction",
        "REGISTERING_STORAGE": "ServicesFunction",
        "GENERATING_API_KEYS": "ApiKeysFunction",
        "FINALIZING": "LifecycleFunction",
    }
    assert _shape(job.result) == {
        "project_id": str,
        "database": {
            "engine": str,
            "version": str,
            "host": str,
            "port": int,
            "database_name": str,
            "schema_name": str,
            "connection_string": str,
            "secret_arn": str,
        },
        "services": {
            "auth": {**_SERVICE, "client_id": str},
            "realtime": _SERVICE,
            "storage": _SERVICE | {"bucket_name": str},
        },
        "api_keys": [{"key_id": str, "key_prefix": str, "created_at": str}],
        "api_keys_secret_arn": str,
        "api_keys_claim_before": str,
        "metadata": {"provisioned_at": str, "region": str, "organization_id": str},
    }
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert {(line.get("job_id"), line.get("project_id")) for line in lines} == {
        (job.job_id, project_id)
    }
    # Who has nothing but the result signs up with it.
    auth = (job.result or {})["services"]["auth"]
    cognito = aws.client("cognito-idp", REGION)
    signed_up = cognito.sign_up(
        ClientId=auth["client_id"], Username="ada@example.com", Password="An0ther-Password"
    )
    users = cognito.list_users(UserPoolId=auth["tenant_id"])["Users"]
    assert signed_up["UserSub"] in {user["Username"] for user in users}


@pytest.mark.fault("a poison message in a batch", where="dispatcher/refusing")
def test_a_raw_message_that_cannot_work_does_not_stop_the_others(functions: Functions) -> None:
    workflow = functions.workflow
    project_id = workflow.new_project()
    bodies = [
        {"job_type": "provision_project", "payload": {"project_id": project_id, "region": REGION}},
        {"job_type": "provision_project", "payload": {"project_id": "x'; DROP", "region": REGION}},
    ]
    sent = [
        aws.client("sqs").send_message(
            QueueUrl=workflow.settings.queue_url, MessageBody=json.dumps(body)
        )["MessageId"]
        for body in bodies
    ]
    assert functions.dispatch() == {"batchItemFailures": []}
    assert functions.ended(sent[0]).status is api.JobStatus.COMPLETED
    refused = workflow.jobs.get(sent[1])
    assert refused.error is not None
    assert refused.error.message.startswith("project_id:")
    dead = aws.client("sqs").receive_message(
        QueueUrl=functions.queues["DeadLetterQueue"], MessageAttributeNames=["All"]
    )["Messages"]
    assert [message["MessageAttributes"]["job_id"]["StringValue"] for message in dead] == [sent[1]]


def test_a_job_that_fails_says_so_in_its_function_too(functions: Functions) -> None:
    workflow = functions.workflow
    project_id = workflow.new_project()
    bucket = workflow.bucket(project_id)
    aws.client("s3", REGION).create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    job = api.enqueue_job("provision_project", {"project_id": project_id, "region": REGION})
    functions.dispatch()
    job = functions.ended(job.job_id)
    assert functions.ran["RECORD_FAILURE"] == "LifecycleFunction"
    assert job.error is not None
    assert (job.error.type, job.error.stage) == (
        api.ErrorType.CONFLICT,
        "REGISTERING_STORAGE",
    )
    assert api.get_project(project_id).locked_by is None
    # A bucket that is not ours stays as it is.
    s3 = aws.client("s3", REGION)
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)


@pytest.mark.filterwarnings("ignore:No application metrics to publish")
def test_the_lifecycle_function_ends_no_job_of_which_a_stage_may_be_at_work(
    functions: Functions,
) -> None:
    workflow = functions.workflow
    job = workflow.new_job(workflow.new_project(), on_failure="keep")
    workflow.jobs.start_stage(job, "GENERATING_API_KEYS", 0)
    branch = {"ok": False, "stage": "GENERATING_API_KEYS", "error": {"Error": "Lambda.Unknown"}}
    event = {
        "job": {"job_id": job.job_id, "job_type": job.job_type, "payload": job.payload},
        "stage": RECORD_FAILURE,
        "retry_count": 0,
        "branches": [branch],
    }
    with pytest.raises(StageWaiting):
        functions.run("LifecycleFunction", event)
    (wait,) = workflow.jobs.get(job.job_id).waits
    assert wait.waiting_for == "An earlier attempt of GENERATING_API_KEYS may still be at work."
