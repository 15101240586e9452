"""Errors of the Lambda service itself, in place of an answer of the function."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from provisioner import api
from provisioner.errors import ErrorType
from provisioner.jobs.retries import SERVICE_RETRY, THROTTLE_RETRY
from provisioner.jobs.stage_run import RECORD_FAILURE
from provisioner.provisioning.job_types import provision_project
from support.workflow import SHARED_STAGES, Fault, FunctionEnded, Point, Workflow

STAGE_NAMES: list[str] = list(provision_project.JOB_TYPE.stages)


@pytest.fixture
def lambda_says(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str, int], str]], Any]:
    """Let AWS Lambda answer an invocation with an error code, or with nothing to say."""
    call = vars(BaseClient)["_make_api_call"]

    def install(code_of: Callable[[str, int], str]) -> Counter[str]:
        asked: Counter[str] = Counter()

        def call_aws(client: BaseClient, operation: str, parameters: Mapping[str, Any]) -> Any:
            if operation == "Invoke":
                stage = json.loads(parameters["Payload"])["stage"]
                asked[stage] += 1
                code = code_of(stage, asked[stage])
                if code:
                    response: Any = {
                        "Error": {"Code": code, "Message": "It is not well."},
                        "ResponseMetadata": {"HTTPStatusCode": 500, "RequestId": "0"},
                    }
                    raise ClientError(response, operation)
            return call(client, operation, parameters)

        monkeypatch.setattr(BaseClient, "_make_api_call", call_aws)
        return asked

    return install


def test_they_are_waited_out_and_are_no_attempts_of_a_stage(
    workflow: Workflow, lambda_says: Callable[..., Counter[str]]
) -> None:
    codes = [name.removeprefix("Lambda.") for name in SERVICE_RETRY.error_names]

    def code_of(stage: str, asked: int) -> str:
        offset = STAGE_NAMES.index(stage)
        return codes[(offset + asked) % len(codes)] if asked <= SERVICE_RETRY.max_attempts else ""

    asked = lambda_says(code_of)
    job = workflow.execute(workflow.new_job(workflow.new_project()))
    assert workflow.snapshot(job) == workflow.reference()
    assert {r.stage: r.attempt for r in job.stages if r.attempt} == dict.fromkeys(SHARED_STAGES, 1)
    assert asked == dict.fromkeys(SHARED_STAGES, 1 + SERVICE_RETRY.max_attempts)
    assert len(workflow.waits) == len(SHARED_STAGES) * SERVICE_RETRY.max_attempts
    assert all(0 <= wait <= SERVICE_RETRY.max_delay_seconds for wait in workflow.waits)


def test_attempts_whose_answers_got_lost_take_no_other_away(workflow: Workflow) -> None:
    project_id = workflow.new_project()
    job = workflow.new_job(project_id)
    seen: list[tuple[api.StageStatus, bool]] = []

    def look() -> None:
        record = workflow.jobs.get(job.job_id).stages[0]
        seen.append((record.status, record.next_attempt_before is not None))

    workflow.on_wait = look
    workflow.faults[provision_project.INITIALIZING] = Fault(
        Point.BEFORE,
        lambda: FunctionEnded("Lambda.SdkClientException"),
        times=2,
        then=Fault(Point.BEFORE, times=2),
    )
    done = workflow.execute(job)
    assert (done.status, done.stages[0].attempt) == (api.JobStatus.COMPLETED, 5)
    silent, waits = (api.StageStatus.RUNNING, False), (api.StageStatus.RETRYING, True)
    assert seen == [silent, silent, waits, waits]


@pytest.mark.parametrize(
    ("code", "asked_in_all"),
    [
        ("ServiceException", 1 + SERVICE_RETRY.max_attempts),
        ("TooManyRequestsException", 1 + THROTTLE_RETRY.max_attempts),
        ("ResourceNotFoundException", 1),
        ("AccessDeniedException", 1),
    ],
)
def test_one_that_stays_fails_the_job(
    workflow: Workflow, lambda_says: Callable[..., Counter[str]], code: str, asked_in_all: int
) -> None:
    asked = lambda_says(
        lambda stage, _: code if stage == provision_project.REGISTERING_AUTH else ""
    )
    job = workflow.execute(workflow.new_job(workflow.new_project()))
    assert asked[provision_project.REGISTERING_AUTH] == asked_in_all
    assert job.error is not None
    assert (job.status, job.error.type, job.error.stage, job.error.attempt) == (
        api.JobStatus.FAILED,
        ErrorType.UNKNOWN_ERROR,
        provision_project.REGISTERING_AUTH,
        0,
    )
    assert job.error.cause.startswith(f"Lambda.{code}: It is not well.")
    assert "not well" not in job.error.message


def test_a_failure_that_cannot_be_recorded_still_ends_the_execution(
    workflow: Workflow, lambda_says: Callable[..., Counter[str]]
) -> None:
    """Both errors then stand in the history of the execution."""
    failing = {
        provision_project.REGISTERING_AUTH: "AccessDeniedException",
        RECORD_FAILURE: "KMSDisabledException",
    }
    lambda_says(lambda stage, _: failing.get(stage, ""))
    job = workflow.new_job(workflow.new_project())
    assert workflow.ended(workflow.start(job)) == "FAILED"
    history = json.dumps(workflow.history(job), default=str)
    assert all(f"Lambda.{code}" in history for code in failing.values())
    assert workflow.history(job)[-1]["executionFailedEventDetails"]["error"] == "UNKNOWN_ERROR"
