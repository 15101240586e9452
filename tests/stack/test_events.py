"""What the bus tells of the jobs of a deployed stack."""

from __future__ import annotations

import json
from typing import Any

import pytest
from provision_cli.local.stack import RunningStack
from provisioner import api
from provisioner.jobs.events import DETAILS, EventType
from provisioner.provisioning.job_types import provision_project
from support.stack_events import listening
from support.stack_jobs import finished, provisioned, result_of, secret


def _of_stage(events: list[dict[str, Any]], stage: str) -> list[str]:
    return [e["detail"]["stage_status"] for e in events if e["detail"].get("stage") == stage]


def test_the_life_of_a_job_is_told_in_order_and_without_a_secret(deployment: RunningStack) -> None:
    # Queued, started, completed; each stage starts and ends, or is skipped.
    expected = 3 + sum(1 if stage.runs_if else 2 for stage in provision_project.JOB_TYPE.stages)
    with listening(deployment, "told-of") as heard:
        job = provisioned(deployment, "told-of")
        events = heard(expected)

    assert len(events) == expected
    types = [event["detail-type"] for event in events]
    assert types[:2] == ["job.queued", "job.started"]
    assert types[-1] == "job.completed"
    for event in events:
        model = DETAILS[EventType(event["detail-type"])]
        detail = model.model_validate(event["detail"])
        assert (detail.job_id, detail.project_id, detail.job_attempt) == (job.job_id, "told-of", 1)
    for stage in provision_project.JOB_TYPE.stages:
        told_of_stage = ["SKIPPED"] if stage.runs_if else ["RUNNING", "SUCCEEDED"]
        assert _of_stage(events, stage) == told_of_stage
    for branch in provision_project.RESOURCES.branches:
        order = [e["detail"].get("stage") for e in events if e["detail"].get("stage") in branch]
        assert order == [stage for stage in branch for _ in range(2)]
    assert len({event["detail"]["event_id"] for event in events}) == expected
    result = result_of(job)
    login = secret(deployment, result.database.secret_arn)
    told = json.dumps(events)
    for hidden in (
        login["password"],
        *secret(deployment, result.api_keys_secret_arn)["api_keys"],
    ):
        assert hidden not in told


def test_a_job_that_fails_is_told_with_its_real_cause(deployment: RunningStack) -> None:
    with listening(deployment, "told-missing") as heard:
        job = finished(
            api.enqueue_job(
                "provision_project",
                {"project_id": "told-missing", "region": deployment.region},
            ).job_id
        )
        events = heard(5)

    assert job.error is not None
    failed = events[-1]
    assert failed["detail-type"] == "job.failed"
    assert {name: failed["detail"][name] for name in ("error_type", "message", "stage")} == {
        "error_type": "PROJECT_NOT_FOUND",
        "message": job.error.message,
        "stage": "INITIALIZING",
    }


@pytest.mark.parametrize("name", ["DeadLettersAlarm", "JobsFailedAlarm", "StagesThrottledAlarm"])
def test_alarms_are_deployed(deployment: RunningStack, name: str) -> None:
    alarms = deployment.client("cloudwatch").describe_alarms(
        AlarmNamePrefix=f"{deployment.stack_name}-{name}"
    )["MetricAlarms"]

    assert [alarm["AlarmActions"] for alarm in alarms] == [[]]


def test_the_dashboard_is_deployed_and_names_functions_that_are_there(
    deployment: RunningStack,
) -> None:
    dashboard = deployment.client("cloudwatch").get_dashboard(DashboardName=deployment.stack_name)

    body = json.loads(dashboard["DashboardBody"])
    named = {
        metric[3]
        for widget in body["widgets"]
        for metric in widget["properties"]["metrics"]
        if metric[:2] == ["AWS/Lambda", "Duration"]
    }
    functions = deployment.client("lambda").list_functions()["Functions"]
    assert named
    assert named <= {function["FunctionName"] for function in functions}
