"""The house rules of the template, which no linter knows."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # as in support.project
from provision_cli.local.containers import VARIABLES_FILE
from provision_cli.local.stack import _DIRECTORY, REGION
from provision_cli.stack_name import longest_stack_name
from provisioner.jobs.dispatch import Dispatcher, UndeliveredReceiver
from provisioner.jobs.events import HEARTBEAT
from provisioner.jobs.execution import MAX_INPUT_BYTES, ExecutionStatus
from provisioner.jobs.failure import metric_of
from provisioner.jobs.models import Job, JobStatus
from provisioner.provisioning.job_types import JOB_TYPES
from provisioner.runtime import settings
from support.cloudwatch import AWS_METRICS, STACK, Alarm, alarms
from support.project import (
    LOCAL_VARIABLE,
    PACKAGE,
    ROOT,
    TEMPLATE,
    LambdaFunction,
    functions,
    policies_of,
    resolved,
    resources,
    state_machines,
    template,
)

FUNCTIONS = functions()
ROLES = resources("AWS::IAM::Role")
TABLES = resources("AWS::DynamoDB::Table")
MACHINES = resources("AWS::Serverless::StateMachine")
QUEUES = {n: r["Properties"] for n, r in resources("AWS::SQS::Queue").items()}

#: The key of AWS KMS that a stack may have.
KEY = {"Ref": "KmsKeyArn"}

#: Variables that are Powertools' own and no setting of ours.
POWERTOOLS = {"POWERTOOLS_SERVICE_NAME", "POWERTOOLS_METRICS_NAMESPACE", "POWERTOOLS_LOG_LEVEL"}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements() -> list[tuple[str, dict[str, Any]]]:
    """Return every statement of every policy, with where it stands."""
    found = [
        (f"{role}.{policy['PolicyName']}", statement)
        for role, resource in ROLES.items()
        for policy in policies_of(resource)
        for statement in policy["PolicyDocument"]["Statement"]
    ]
    found += [
        (f"{role}.trust", statement)
        for role, resource in ROLES.items()
        for statement in resource["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    ]
    found += [
        (name, statement)
        for kind in ("AWS::SQS::QueuePolicy", "AWS::S3::BucketPolicy")
        for name, resource in resources(kind).items()
        for statement in resource["Properties"]["PolicyDocument"]["Statement"]
    ]
    return found


STATEMENTS = statements()
each_statement = pytest.mark.parametrize(
    ("where", "statement"), STATEMENTS, ids=[f"{w}.{s.get('Sid')}" for w, s in STATEMENTS]
)
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
each_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)


# --- Functions ------------------------------------------------------------------------------------


def test_functions_are_cut_by_privilege() -> None:
    stages = {"lifecycle", "database", "instances", "services", "api_keys", "snapshot"}
    assert set(FUNCTIONS) == stages | {"dispatcher", "dead_letters", "events", "reconciler"}


@each_function
def test_function_runs_python_3_13_on_the_architecture_of_the_parameter(
    function: LambdaFunction,
) -> None:
    assert function.properties["Runtime"] == "python3.13"
    assert function.properties["Architectures"] == [{"Ref": "Architecture"}]
    assert function.properties["Handler"] == "handler.handle"


def test_deployments_run_on_arm64() -> None:
    production = tomllib.loads((ROOT / "samconfig.toml").read_text())["production"]
    assert "Architecture=arm64" in production["deploy"]["parameters"]["parameter_overrides"]
    assert "deploy: ARCHITECTURE = arm64\n" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("layer", resources("AWS::Serverless::LayerVersion"))
def test_a_layer_is_named_like_its_stack_and_like_no_other(layer: str) -> None:
    properties = resources("AWS::Serverless::LayerVersion")[layer]["Properties"]
    folder = properties["ContentUri"].removeprefix("layers/")
    assert properties["LayerName"] == {"Fn::Sub": f"${{AWS::StackName}}-{folder}"}


def test_plain_sam_build_builds_layers_for_the_processor_of_the_functions() -> None:
    default = template()["Parameters"]["Architecture"]["Default"]
    layers = resources("AWS::Serverless::LayerVersion").values()
    (folder,) = {layer["Metadata"]["ContextPath"] for layer in layers}
    makefile = (ROOT / folder / "Makefile").read_text()
    assert f"\nLAMBDA_ARCHITECTURE ?= {default}\n" in makefile


@each_function
def test_no_deployment_leads_a_function_away_from_aws(function: LambdaFunction) -> None:
    parameter = template()["Parameters"]["LocalEndpointUrl"]
    assert parameter["Default"] == ""
    assert function.properties["Environment"]["Variables"][LOCAL_VARIABLE] == {
        "Fn::If": ["HasLocalEndpoint", {"Ref": "LocalEndpointUrl"}, {"Ref": "AWS::NoValue"}]
    }
    assert "LocalEndpointUrl" not in (ROOT / "samconfig.toml").read_text()


@pytest.mark.parametrize("command", ["local_invoke", "local_start_lambda"])
def test_sam_local_takes_what_up_has_written(command: str) -> None:
    default = tomllib.loads((ROOT / "samconfig.toml").read_text())["default"]
    assert default[command]["parameters"] == {
        "region": REGION,
        "env_vars": str(_DIRECTORY.relative_to(ROOT) / VARIABLES_FILE),
    }


@each_function
def test_function_has_a_role_of_its_own(function: LambdaFunction) -> None:
    role = function.properties["Role"]["Fn::GetAtt"][0]
    users = [f for f in FUNCTIONS.values() if f.properties["Role"]["Fn::GetAtt"][0] == role]
    assert users == [function]
    assert "Policies" not in function.properties


@each_function
def test_function_logs_json_into_a_group_of_its_own_that_forgets(function: LambdaFunction) -> None:
    logging = function.properties["LoggingConfig"]
    assert logging["LogFormat"] == "JSON"
    group = resources("AWS::Logs::LogGroup")[logging["LogGroup"]["Ref"]]
    assert group["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}
    others = [f for f in FUNCTIONS.values() if f is not function]
    assert all(f.properties["LoggingConfig"]["LogGroup"] != logging["LogGroup"] for f in others)


@each_function
def test_function_is_traced(function: LambdaFunction) -> None:
    assert function.properties["Tracing"] == "Active"


@each_function
def test_function_has_exactly_the_variables_that_it_reads(function: LambdaFunction) -> None:
    name = function.logical_id.removesuffix("Function") + "Settings"
    fields = {field.upper() for field in getattr(settings, name).model_fields}
    assert set(function.environment) - POWERTOOLS == fields
    # libpq reads it too.
    reaches = {"Ref": "PostgresqlLayer"} in function.properties["Layers"]
    assert ("PGSSLROOTCERT" in fields) is reaches


@each_function
def test_only_what_reaches_the_clusters_has_the_driver_and_the_network(
    function: LambdaFunction,
) -> None:
    reaches_clusters = function.folder.name in {"database", "snapshot"}
    assert ({"Ref": "PostgresqlLayer"} in function.properties["Layers"]) == reaches_clusters
    assert ("VpcConfig" in function.properties) == reaches_clusters
    has_programs = {"Ref": "PostgresqlProgramsLayer"} in function.properties["Layers"]
    assert has_programs == (function.folder.name == "snapshot")


def test_a_dump_has_the_longest_time_that_a_function_can_have() -> None:
    assert FUNCTIONS["snapshot"].properties["Timeout"] == 900


# --- Intake ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "function"), [("JobsQueue", "dispatcher"), ("UndeliveredQueue", "dead_letters")]
)
def test_queue_hides_a_message_for_six_times_its_functions_time(queue: str, function: str) -> None:
    timeout = FUNCTIONS[function].properties["Timeout"]
    assert QUEUES[queue]["VisibilityTimeout"] >= 6 * timeout


@pytest.mark.parametrize(
    ("queue", "deliveries", "next_queue"),
    [("JobsQueue", 5, "UndeliveredQueue"), ("UndeliveredQueue", 5 + 5, "DeadLetterQueue")],
)
def test_message_is_delivered_five_times_and_then_kept_longer_than_in_the_queue(
    queue: str, deliveries: int, next_queue: str
) -> None:
    redrive = QUEUES[queue]["RedrivePolicy"]
    assert redrive["maxReceiveCount"] == deliveries
    assert redrive["deadLetterTargetArn"] == {"Fn::GetAtt": [next_queue, "Arn"]}
    # A message keeps the age that it had in the queue before.
    assert (
        QUEUES[next_queue]["MessageRetentionPeriod"] > QUEUES["JobsQueue"]["MessageRetentionPeriod"]
    )


def test_a_message_that_the_queue_takes_fits_an_execution_and_its_dead_letter_the_next_queue() -> (
    None
):
    assert QUEUES["JobsQueue"]["MaximumMessageSize"] == MAX_INPUT_BYTES
    # Source: Amazon SQS Developer Guide, "Quotas": 1 MiB, attributes included.
    assert QUEUES["UndeliveredQueue"]["MaximumMessageSize"] == 1_048_576
    assert QUEUES["DeadLetterQueue"]["MaximumMessageSize"] == 1_048_576


def test_nothing_takes_dead_letters_from_people() -> None:
    assert "RedrivePolicy" not in QUEUES["DeadLetterQueue"]
    taken = [
        event["Properties"]["Queue"]
        for function in FUNCTIONS.values()
        for event in function.properties.get("Events", {}).values()
        if event["Type"] == "SQS"
    ]
    assert taken == [
        {"Fn::GetAtt": ["JobsQueue", "Arn"]},
        {"Fn::GetAtt": ["UndeliveredQueue", "Arn"]},
    ]


@pytest.mark.parametrize("queue", QUEUES.values(), ids=QUEUES)
def test_queue_is_encrypted(queue: dict[str, Any]) -> None:
    own, given = resolved(queue), resolved(queue, {"HasKmsKey"})
    assert (own["SqsManagedSseEnabled"], own.get("KmsMasterKeyId")) == (True, None)
    # A queue that has both is refused.
    assert (given.get("SqsManagedSseEnabled"), given["KmsMasterKeyId"]) == (None, KEY)


def test_each_queue_has_a_policy_of_its_own_that_names_no_other() -> None:
    """SQS refuses a policy with another resource than the queue that it is set on."""
    policies = resources("AWS::SQS::QueuePolicy").values()
    queues = [policy["Properties"]["Queues"] for policy in policies]
    assert sorted(queue["Ref"] for named in queues for queue in named) == sorted(QUEUES)
    for policy in policies:
        (queue,) = policy["Properties"]["Queues"]
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            assert statement["Resource"] == {"Fn::GetAtt": [queue["Ref"], "Arn"]}
            assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
            assert statement["Action"] == "sqs:SendMessage"
            assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


@pytest.mark.parametrize("function", ["dispatcher", "dead_letters", "events"])
def test_function_of_batches_reports_what_failed(function: str) -> None:
    given = FUNCTIONS[function].properties["Events"].values()
    (mapping,) = [event for event in given if event["Type"] in {"SQS", "DynamoDB"}]
    assert mapping["Properties"]["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


def test_dispatcher_takes_as_many_messages_at_once_as_it_works_on() -> None:
    (event,) = FUNCTIONS["dispatcher"].properties["Events"].values()
    assert event["Type"] == "SQS"
    assert event["Properties"]["BatchSize"] == 10
    assert event["Properties"]["ScalingConfig"]["MaximumConcurrency"] == {
        "Ref": "DispatcherMaximumConcurrency"
    }


# --- Reconciler ---------------------------------------------------------------------------------


def test_reconciler_hears_of_every_end_of_the_stacks_executions_and_sweeps() -> None:
    events = FUNCTIONS["reconciler"].properties["Events"]
    detail = events["ExecutionEnded"]["Properties"]["Pattern"]["detail"]
    assert set(detail["status"]) == set(ExecutionStatus) - {ExecutionStatus.RUNNING}
    assert sorted(arn["Ref"] for arn in detail["stateMachineArn"]) == sorted(MACHINES)
    assert events["Sweep"]["Properties"]["Schedule"] == "rate(5 minutes)"


# --- Tables ---------------------------------------------------------------------------------------


@each_table
def test_table_is_encrypted_recoverable_and_protected(table: dict[str, Any]) -> None:
    properties = table["Properties"]
    assert properties["BillingMode"] == "PAY_PER_REQUEST"
    encrypted = {"SSEEnabled": True, "SSEType": "KMS"}
    assert resolved(properties["SSESpecification"]) == encrypted
    given = resolved(properties["SSESpecification"], {"HasKmsKey"})
    assert given == encrypted | {"KMSMasterKeyId": KEY}
    assert properties["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
    assert properties["DeletionProtectionEnabled"] == {"Ref": "DeletionProtection"}
    assert table["UpdateReplacePolicy"] == "Retain"


def test_what_can_refuse_to_be_deleted_is_retained_when_a_creation_rolls_back_too() -> None:
    """Else the rollback fails with it, and the stack has to be taken apart by hand."""
    protected = {
        name: resource
        for name, resource in template()["Resources"].items()
        if any("DeletionProtection" in key for key in resource.get("Properties", {}))
    }
    assert set(TABLES) <= set(protected)
    assert {resource["DeletionPolicy"] for resource in protected.values()} == {"Retain"}


def test_tables_are_protected_unless_someone_says_otherwise() -> None:
    assert template()["Parameters"]["DeletionProtection"]["Default"] == "true"


def test_finished_jobs_expire() -> None:
    assert TABLES["JobsTable"]["Properties"]["TimeToLiveSpecification"] == {
        "AttributeName": "expires_at",
        "Enabled": True,
    }


def test_api_keys_are_deleted_some_time_after_they_have_ended() -> None:
    """Not when they expire: DynamoDB deletes late, and the code itself looks at the time."""
    assert TABLES["ApiKeysTable"]["Properties"]["TimeToLiveSpecification"] == {
        "AttributeName": "delete_after",
        "Enabled": True,
    }


# --- Snapshots ------------------------------------------------------------------------------------


def test_snapshots_are_private_encrypted_versioned_and_stay() -> None:
    (bucket,) = resources("AWS::S3::Bucket").values()
    properties = bucket["Properties"]
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    assert properties["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    (rule,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert resolved(rule) == {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    assert resolved(rule, {"HasKmsKey"}) == {
        "ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY},
        "BucketKeyEnabled": True,
    }
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["DeletionPolicy"] == "RetainExceptOnCreate"
    assert bucket["UpdateReplacePolicy"] == "Retain"


def test_an_upload_that_was_left_half_way_is_given_up_and_no_snapshot_expires() -> None:
    (bucket,) = resources("AWS::S3::Bucket").values()
    rules = bucket["Properties"]["LifecycleConfiguration"]["Rules"]
    assert {"DaysAfterInitiation": 1} in [r.get("AbortIncompleteMultipartUpload") for r in rules]
    assert {rule["Status"] for rule in rules} == {"Enabled"}
    assert not any("ExpirationInDays" in rule or "ExpirationDate" in rule for rule in rules)


def test_snapshots_travel_encrypted_only() -> None:
    (policy,) = resources("AWS::S3::BucketPolicy").values()
    (statement,) = policy["Properties"]["PolicyDocument"]["Statement"]
    assert policy["Properties"]["Bucket"] == {"Ref": "SnapshotsBucket"}
    assert (statement["Effect"], statement["Principal"]) == ("Deny", "*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


def test_the_snapshot_function_reads_no_snapshot_and_no_tenants_secret() -> None:
    policy = policies_of(ROLES["SnapshotRole"])[0]
    by_sid = {s["Sid"]: s for s in policy["PolicyDocument"]["Statement"]}
    actions = {action for s in by_sid.values() for action in as_list(s["Action"])}
    assert {a for a in actions if a.startswith("s3:")} == {
        "s3:PutObject",
        "s3:AbortMultipartUpload",
    }
    assert {a for a in actions if a.startswith("secretsmanager:")} == {
        "secretsmanager:GetSecretValue"
    }
    assert by_sid["ReadAdminLogins"]["Resource"]["Fn::Sub"].endswith("/clusters/*")


# --- Events ---------------------------------------------------------------------------------------


def test_history_reaches_the_bus_in_order_and_is_not_given_up_silently() -> None:
    stream = TABLES["JobsTable"]["Properties"]["StreamSpecification"]
    assert stream["StreamViewType"] == "NEW_IMAGE"
    event = FUNCTIONS["events"].properties["Events"]["History"]
    properties = event["Properties"]
    assert event["Type"] == "DynamoDB"
    assert properties["Stream"] == {"Fn::GetAtt": ["JobsTable", "StreamArn"]}
    # From the first record on, one batch of a shard at a time.
    assert properties["StartingPosition"] == "TRIM_HORIZON"
    assert properties["ParallelizationFactor"] == 1
    history, heartbeat = properties["FilterCriteria"]["Filters"]
    assert json.loads(history["Pattern"]) == {
        "eventName": ["INSERT"],
        "dynamodb": {"Keys": {"record": {"S": [{"prefix": "HISTORY#"}]}}},
    }
    # Written anew again and again, and so inserted once only.
    assert json.loads(heartbeat["Pattern"]) == {
        "dynamodb": {"Keys": {"record": {"S": [HEARTBEAT]}}}
    }
    assert properties["BisectBatchOnFunctionError"] is True
    # A DynamoDB stream keeps its records for 24 hours.
    assert 3600 <= properties["MaximumRecordAgeInSeconds"] < 24 * 3600
    assert properties["DestinationConfig"]["OnFailure"]["Destination"] == {
        "Fn::GetAtt": ["UnpublishedEventsQueue", "Arn"]
    }


# --- Alarms and the dashboard ---------------------------------------------------------------------

ALARMS = alarms()

#: The alarms that miss what is done on schedule, with the function and the schedule.
MISSING = {
    "SweepsMissingAlarm": (ALARMS["SweepsMissingAlarm"], "reconciler", "Sweep"),
    "HeartbeatsMissingAlarm": (ALARMS["HeartbeatsMissingAlarm"], "events", "Heartbeat"),
}
each_alarm = pytest.mark.parametrize("alarm", ALARMS.values(), ids=ALARMS)


def own_metrics() -> set[str]:
    """Return the names of the metrics that the code emits."""
    receivers = Dispatcher, UndeliveredReceiver
    return (
        {receiver.metric for receiver in receivers}
        | {
            str(name.value)
            for path in PACKAGE.rglob("*.py")
            for call in ast.walk(ast.parse(path.read_text()))
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "add_metric"
            for name in ast.walk(call.args[0])
            if isinstance(name, ast.Constant)
        }
        | metrics_of_ends()
    )


def metrics_of_ends() -> set[str]:
    """Return the names of the metrics that count the bad ends of jobs and of clean-ups."""
    now = datetime.now(UTC)
    job = Job("job-1", "any", JobStatus.FAILED, {}, "shop", now, now)
    cancelled = replace(job, status=JobStatus.CANCELLED)
    return set(map(metric_of, (job, cancelled, replace(job, parent_id="job-0"))))


def assert_metric_exists(namespace: str, name: str, *dimensions: str) -> None:
    """Fail where neither the code nor AWS emits a metric."""
    function = template()["Globals"]["Function"]["Environment"]["Variables"]
    if namespace == function["POWERTOOLS_METRICS_NAMESPACE"]:
        assert name in own_metrics()
        assert dimensions == ("service",)
    else:
        assert frozenset(dimensions) in AWS_METRICS[namespace, name]


@each_alarm
def test_alarm_says_what_it_means_and_tells_the_topic(alarm: Alarm) -> None:
    properties = alarm.properties
    assert len(properties["AlarmDescription"].split()) >= 8
    assert properties["AlarmDescription"].endswith(".")
    topic = {"Fn::If": ["HasAlarmTopic", {"Ref": "AlarmTopicArn"}, {"Ref": "AWS::NoValue"}]}
    assert properties["AlarmActions"] == properties["OKActions"] == [topic]
    # Nothing is counted while nothing happens; what is on schedule happens always.
    is_counted_always = alarm.logical_id in MISSING
    assert properties["TreatMissingData"] == ("breaching" if is_counted_always else "notBreaching")


@each_alarm
def test_alarm_watches_metrics_that_are_emitted(alarm: Alarm) -> None:
    variables = template()["Globals"]["Function"]["Environment"]["Variables"]
    # What Powertools puts there: the metrics of another stack are not this one's.
    assert variables["POWERTOOLS_SERVICE_NAME"] == {"Ref": "AWS::StackName"}
    for metric in (statistic.metric for statistic in alarm.statistics):
        dimensions = dict(metric.dimensions)
        assert_metric_exists(metric.namespace, metric.name, *dimensions)
        assert dimensions.get("service", STACK) == STACK


@pytest.mark.parametrize("metric", ["ExecutionsTimedOut", "ExecutionsFailed"])
def test_every_state_machine_has_its_alarms(metric: str) -> None:
    watched = [
        dict(statistic.metric.dimensions)["StateMachineArn"]
        for alarm in ALARMS.values()
        for statistic in alarm.statistics
        if statistic.metric.name == metric
    ]
    assert sorted(watched) == sorted(MACHINES)


@pytest.mark.parametrize(("alarm", "function", "schedule"), MISSING.values(), ids=MISSING)
def test_what_is_done_on_schedule_is_missed_after_three(
    alarm: Alarm, function: str, schedule: str
) -> None:
    """Nobody else would: no job, message or event waits for a sweep, or where nothing reads."""
    (statistic,) = alarm.statistics
    assert (statistic.name, alarm.properties["ComparisonOperator"]) == ("Sum", "LessThanThreshold")
    assert alarm.properties["Threshold"] == 1
    scheduled = FUNCTIONS[function].properties["Events"][schedule]["Properties"]["Schedule"]
    assert scheduled == f"rate({statistic.period // 60} minutes)"
    assert alarm.properties["EvaluationPeriods"] == 3


def dashboard_metrics() -> list[list[Any]]:
    """Return the metrics of every widget of the dashboard."""
    (dashboard,) = resources("AWS::CloudWatch::Dashboard").values()
    body = json.loads(dashboard["Properties"]["DashboardBody"]["Fn::Sub"])
    for widget in body["widgets"]:
        assert widget["properties"]["title"]
        assert widget["properties"]["region"] == "${AWS::Region}"
    return [metric for widget in body["widgets"] for metric in widget["properties"]["metrics"]]


def test_dashboard_names_what_the_template_makes() -> None:
    (dashboard,) = resources("AWS::CloudWatch::Dashboard").values()
    names = re.findall(r"\$\{([\w:]+)[.}]", dashboard["Properties"]["DashboardBody"]["Fn::Sub"])
    made = {*template()["Resources"], "AWS::StackName", "AWS::Region"}
    assert names
    assert set(names) <= made


def test_dashboard_shows_metrics_that_are_emitted() -> None:
    shown = dashboard_metrics()
    for metric in shown:
        match metric:
            case [{"expression": expression}]:
                found = re.fullmatch(
                    r"SEARCH\('\{(\w+),service,(stage|error_type)\} MetricName=\"(\w+)\" "
                    r"service=\"\$\{AWS::StackName\}\"', '(Sum|p50|p95)', 300\)",
                    expression,
                )
                assert found is not None, expression
                assert_metric_exists(found[1], found[3], "service")
            case [namespace, name, dimension, _, *_]:
                assert_metric_exists(namespace, name, dimension)
            case _:
                pytest.fail(f"{metric} is no metric")
    durations = {metric[3] for metric in shown if metric[:2] == ["AWS/Lambda", "Duration"]}
    assert durations == {f"${{{function.logical_id}}}" for function in FUNCTIONS.values()}


# --- Permissions ----------------------------------------------------------------------------------


@each_statement
def test_statement_names_exact_actions(where: str, statement: dict[str, Any]) -> None:
    assert "NotAction" not in statement, where
    for action in as_list(statement["Action"]):
        assert re.fullmatch(r"[a-z0-9-]+:[A-Za-z]+", action), f"{where}: {action}"


def written() -> list[tuple[yaml.MappingNode, dict[str, Any]]]:
    """Return each mapping of the template where it is written out, with the texts that it has.

    What an alias names is there once; what is merged into a mapping is none of its own.
    """
    waiting = [yaml.compose(TEMPLATE.read_text(), Loader=yaml.CSafeLoader)]
    found: dict[int, tuple[yaml.MappingNode, dict[str, Any]]] = {}
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            found[id(node)] = node, {key.value: value.value for key, value in node.value}
            waiting += [value for _, value in node.value]
        else:
            waiting += node.value
    return list(found.values())


def first_line(node: yaml.MappingNode) -> int:
    """Return the line of a mapping's first key, from 0: its anchor may stand above."""
    return int(node.value[0][0].start_mark.line)


def comment_above(lines: list[str], number: int) -> str:
    """Return the comment that ends right above a line."""
    first = number
    while lines[first - 1].lstrip().startswith("# "):
        first -= 1
    return "\n".join(lines[first:number])


def statement_of(role: str, sid: str) -> dict[str, Any]:
    """Return a statement of a role's own policy."""
    statements_of_role = policies_of(ROLES[role])[0]["PolicyDocument"]["Statement"]
    return next(dict(s) for s in statements_of_role if s["Sid"] == sid)


def test_an_event_api_that_is_not_made_yet_may_be_marked_with_our_marker_only() -> None:
    """AppSync asks for the right to tag it on the account's `*`: it has no id yet."""
    statement = statement_of("ServicesRole", "MarkEventApis")
    asked_for = "arn:${AWS::Partition}:appsync:eu-central-1:${AWS::AccountId}:*"
    assert fnmatchcase(asked_for, statement["Resource"]["Fn::Sub"])
    assert statement["Condition"] == {
        "StringEquals": {
            "aws:RequestTag/provisioner:managed-by": {
                "Fn::Sub": "${AWS::StackName}-${AWS::AccountId}"
            }
        }
    }


def test_the_function_of_projects_buckets_has_no_right_to_the_bucket_of_snapshots() -> None:
    """Its rights go by the first part of a name, which the stack's own name may begin with."""
    document = policies_of(ROLES["ServicesRole"])[0]["PolicyDocument"]
    allowed = {
        action
        for statement in document["Statement"]
        if statement["Effect"] == "Allow"
        for action in as_list(statement["Action"])
        if action.startswith("s3:")
    }
    refusals = [s for s in document["Statement"] if s["Effect"] == "Deny"]
    refused = {action for refusal in refusals for action in as_list(refusal["Action"])}
    # That one lists names, and is of no bucket.
    assert refused == allowed - {"s3:ListAllMyBuckets"}
    for refusal in refusals:
        assert refusal["Resource"] == [
            {"Fn::GetAtt": ["SnapshotsBucket", "Arn"]},
            {"Fn::Sub": "${SnapshotsBucket.Arn}/*"},
        ]
        assert "Condition" not in refusal


def test_the_function_of_projects_buckets_works_on_none_of_another_account() -> None:
    """Whoever guesses the name of a bucket can have it first, and open it to us."""
    found = []
    for statement in policies_of(ROLES["ServicesRole"])[0]["PolicyDocument"]["Statement"]:
        if statement["Effect"] == "Allow" and "${ResourcePrefix}-*" in str(statement["Resource"]):
            found.append(statement["Sid"])
            assert statement["Condition"]["StringEqualsIfExists"] == {
                "aws:ResourceAccount": {"Ref": "AWS::AccountId"}
            }, statement["Sid"]
    assert {"MakeBuckets", "KeepBuckets", "LookIntoBuckets", "EmptyBuckets"} <= set(found)


def test_buckets_are_made_in_the_namespace_of_the_account_unless_the_stack_says_otherwise() -> None:
    parameter = template()["Parameters"]["BucketNamespace"]
    assert (parameter["Default"], parameter["AllowedValues"]) == (
        "account-regional",
        ["account-regional", "global"],
    )
    made = [
        statement
        for statement in policies_of(ROLES["ServicesRole"])[0]["PolicyDocument"]["Statement"]
        if statement["Effect"] == "Allow" and "s3:CreateBucket" in as_list(statement["Action"])
    ]
    assert [statement["Sid"] for statement in made] == ["MakeBuckets"]
    assert as_list(made[0]["Action"]) == ["s3:CreateBucket"]
    asked = made[0]["Condition"]["StringEquals"]["Fn::If"]
    condition, own, shared = asked
    assert own == {"s3:x-amz-bucket-namespace": "account-regional"}
    assert shared == {"Ref": "AWS::NoValue"}
    assert template()["Conditions"][condition] == {
        "Fn::Equals": [{"Ref": "BucketNamespace"}, "account-regional"]
    }


@pytest.mark.parametrize("role", ROLES)
def test_each_role_has_the_boundary_that_the_stack_is_given_and_no_other(role: str) -> None:
    properties = ROLES[role]["Properties"]
    given = resolved(properties, {"HasPermissionsBoundary"})
    assert given["PermissionsBoundary"] == {"Ref": "PermissionsBoundaryArn"}
    assert "PermissionsBoundary" not in resolved(properties, {"HasKmsKey"})


@pytest.mark.parametrize("role", ROLES)
def test_no_role_has_a_right_on_a_key_where_the_stack_has_none(role: str) -> None:
    assert "kms:" not in json.dumps(resolved(ROLES[role]))
    assert ("kms:" in json.dumps(resolved(ROLES[role], {"HasKmsKey"}))) == (
        "StateMachine" not in role
    )


def test_a_right_on_the_key_is_passed_on_to_services_alone() -> None:
    granting = [s for _, s in STATEMENTS if "kms:CreateGrant" in as_list(s["Action"])]
    assert granting
    for statement in granting:
        assert statement["Condition"]["BoolIfExists"] == {"kms:GrantIsForAWSResource": "true"}


@pytest.mark.parametrize("group", resources("AWS::Logs::LogGroup"))
def test_logs_are_under_the_key_that_the_stack_is_given(group: str) -> None:
    properties = resources("AWS::Logs::LogGroup")[group]["Properties"]
    assert resolved(properties, {"HasKmsKey"})["KmsKeyId"] == KEY
    assert "KmsKeyId" not in resolved(properties)


@pytest.mark.parametrize("function", ["api_keys", "database", "instances"])
def test_functions_that_make_secrets_know_the_key_that_the_stack_is_given(function: str) -> None:
    assert resolved(FUNCTIONS[function].environment, {"HasKmsKey"})["KMS_KEY_ARN"] == KEY
    assert "KMS_KEY_ARN" not in resolved(FUNCTIONS[function].environment)


def test_statements_say_why_they_are_there() -> None:
    assert all(statement.get("Sid") for _, statement in STATEMENTS)
    lines = TEMPLATE.read_text().splitlines()
    starts = [first_line(node) for node, keys in written() if "Effect" in keys]
    assert starts
    for start in starts:
        assert comment_above(lines, start), f"line {start + 1} has no comment"


def test_statements_without_a_resource_say_why() -> None:
    lines = TEMPLATE.read_text().splitlines()
    unscoped = [first_line(node) for node, keys in written() if keys.get("Resource") == "*"]
    assert unscoped
    for start in unscoped:
        assert 'Resource "*"' in comment_above(lines, start), f"line {start + 1}"


# --- What is said once ----------------------------------------------------------------------------


def test_what_is_named_is_said_again() -> None:
    events = list(yaml.parse(TEMPLATE.read_text(), Loader=yaml.CSafeLoader))
    again = {event.anchor for event in events if isinstance(event, yaml.AliasEvent)}
    named = [
        event.anchor
        for event in events
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.anchor
    ]
    assert again
    assert sorted(named) == sorted(again)


def keys_of(node: yaml.MappingNode) -> list[str]:
    """Return the keys of a mapping, those of what is merged into it included."""
    keys = []
    for key, value in node.value:
        if key.value != "<<":
            keys.append(str(key.value))
            continue
        for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            keys += keys_of(merged)
    return keys


def test_what_is_merged_is_as_it_was_said() -> None:
    """Who reads a name need not look whether a line beside it says something else."""
    merging = [node for node, keys in written() if "<<" in keys]
    assert merging
    for node in merging:
        keys = keys_of(node)
        assert len(keys) == len(set(keys)), f"line {first_line(node) + 1} changes what it merges"


# --- Parameters -----------------------------------------------------------------------------------


def test_a_job_is_kept_longer_than_step_functions_keeps_the_name_of_its_execution() -> None:
    assert template()["Parameters"]["JobRetentionDays"]["MinValue"] > 90  # days


@pytest.mark.parametrize("name", template()["Parameters"])
def test_parameter_is_described_and_bounded_and_no_secret(name: str) -> None:
    parameter = template()["Parameters"][name]
    assert parameter["Description"]
    assert {"AllowedPattern", "AllowedValues", "MinValue"} & set(parameter)
    # The name of a key is no secret.
    assert name == "KmsKeyArn" or not re.search("secret|password|token|key", name, re.IGNORECASE)
    assert not parameter.get("NoEcho")


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        (
            "PermissionsBoundaryArn",
            [
                "",
                "arn:aws:iam::111122223333:policy/team/boundary_1",
                "arn:aws-cn:iam::aws:policy/PowerUserAccess",
            ],
            ["boundary", "arn:aws:iam::111122223333:role/boundary", "arn:aws:iam::1:policy/b"],
        ),
        (
            "KmsKeyArn",
            [
                "",
                "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
                "arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-1234abcd12ab34cd",
            ],
            ["alias/shop", "1234abcd", "arn:aws:kms:eu-central-1:111122223333:alias/shop"],
        ),
    ],
)
def test_an_arn_that_a_stack_is_given_is_of_the_right_kind(
    name: str, taken: list[str], refused: list[str]
) -> None:
    pattern = template()["Parameters"][name]["AllowedPattern"]
    assert template()["Parameters"][name]["Default"] == ""
    assert all(re.fullmatch(pattern, arn) for arn in taken)
    assert not any(re.fullmatch(pattern, arn) for arn in refused)


@pytest.mark.parametrize("prefix", ["pg", "sthree", "xn", "amzn"])
def test_a_prefix_that_a_service_keeps_for_itself_is_refused(prefix: str) -> None:
    parameter = template()["Parameters"]["ResourcePrefix"]
    # CloudFormation matches the whole value, by Java's expressions, which have the same words here.
    assert not re.fullmatch(parameter["AllowedPattern"], prefix)
    assert re.fullmatch(parameter["AllowedPattern"], f"{prefix}1")
    assert prefix in parameter["ConstraintDescription"]


def test_the_functions_refuse_the_prefixes_that_the_template_refuses() -> None:
    pattern = re.compile(template()["Parameters"]["ResourcePrefix"]["AllowedPattern"])
    kept = set(settings.RESERVED_PREFIXES)
    near = {one + other for one in kept for other in ("s", "1", "-")} | {one[:-1] for one in kept}
    for prefix in kept | near | {"nm", "n", "Nm", "1n", "n_m", "abcdefghij", "abcdefghijk", "pg\n"}:
        try:
            settings.check_resource_prefix(prefix)
        except ValueError:
            assert not pattern.fullmatch(prefix), prefix
        else:
            assert pattern.fullmatch(prefix), prefix


def holds(expression: dict[str, Any], parameters: dict[str, list[str]]) -> bool:
    """Evaluate an expression of a rule, as CloudFormation does."""
    match expression:
        case {"Fn::Not": [negated]}:
            return not holds(negated, parameters)
        case {"Fn::EachMemberEquals": [{"Ref": name}, wanted]}:
            return all(member == wanted for member in parameters[name])
    pytest.fail(f"{expression} is no expression that this test knows")


@pytest.mark.parametrize(
    ("subnets", "groups", "said"),
    [
        # A list that is left empty has one member, the empty text.
        ([""], [""], []),
        (["subnet-1", "subnet-2"], ["sg-1"], []),
        (["subnet-1"], [""], ["VpcSubnetIds is given without VpcSecurityGroupIds"]),
        ([""], ["sg-1"], ["VpcSecurityGroupIds is given without VpcSubnetIds"]),
    ],
)
def test_a_network_is_given_whole_or_not_at_all(
    subnets: list[str], groups: list[str], said: list[str]
) -> None:
    parameters = {"VpcSubnetIds": subnets, "VpcSecurityGroupIds": groups}
    assert [
        assertion["AssertDescription"]
        for rule in template()["Rules"].values()
        if holds(rule["RuleCondition"], parameters)
        for assertion in rule["Assertions"]
        if not holds(assertion["Assert"], parameters)
    ] == [f"{sentence}: give both, or neither." for sentence in said]


def test_no_log_level_silences_the_metrics() -> None:
    """They are lines without a level. Source: AWS Lambda Developer Guide, "Log-level filtering"."""
    level = template()["Parameters"]["LogLevel"]
    assert set(level["AllowedValues"]) <= {"TRACE", "DEBUG", "INFO"}
    assert template()["Globals"]["Function"]["LoggingConfig"]["ApplicationLogLevel"] == {
        "Ref": "LogLevel"
    }


#: Characters of each name that the template derives from the stack's; CloudFormation makes what it
#: names itself short enough. Sources: AWS Step Functions API Reference, CreateStateMachine; Amazon
#: CloudWatch Logs API Reference, CreateLogGroup; Amazon EventBridge API Reference, CreateEventBus;
#: Amazon CloudWatch API Reference, PutDashboard; AWS Lambda API Reference, PublishLayerVersion.
CHARACTERS = {
    ("AWS::Serverless::StateMachine", "Name"): 80,
    ("AWS::Logs::LogGroup", "LogGroupName"): 512,
    ("AWS::Events::EventBus", "Name"): 256,
    ("AWS::CloudWatch::Dashboard", "DashboardName"): 255,
    ("AWS::Serverless::LayerVersion", "LayerName"): 140,
}


def derived_names() -> Iterator[tuple[tuple[str, str], str]]:
    """Yield every name that holds the stack's, with what has it, and the stack's left out."""
    for resource in template()["Resources"].values():
        for name, value in resource["Properties"].items():
            match value:
                case {"Fn::Sub": str(text)} if name.endswith("Name"):
                    yield (resource["Type"], name), text.replace("${AWS::StackName}", "")
                case {"Ref": "AWS::StackName"}:
                    yield (resource["Type"], name), ""


def test_a_stack_s_name_may_be_as_long_as_every_derived_name_allows() -> None:
    names = list(derived_names())
    assert {kind for kind, _ in names} == set(CHARACTERS)
    assert not any("${" in rest for _, rest in names)
    assert min(CHARACTERS[kind] - len(rest) for kind, rest in names) == longest_stack_name() == 55


# --- The state machines' resources ----------------------------------------------------------------

each_machine = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)


def name_of(machine: dict[str, Any]) -> str:
    """Return a state machine's name within the stack."""
    return str(machine["Properties"]["Name"]["Fn::Sub"]).removeprefix("${AWS::StackName}-")


def test_every_definition_has_a_state_machine_of_its_name() -> None:
    assert {name_of(machine) for machine in MACHINES.values()} == set(state_machines())


@each_machine
def test_state_machine_is_traced_and_logs_no_data(machine: dict[str, Any]) -> None:
    properties = machine["Properties"]
    assert properties["Type"] == "STANDARD"
    assert properties["Tracing"] == {"Enabled": True}
    assert properties["Logging"]["Level"] in {"ERROR", "ALL"}
    assert properties["Logging"]["IncludeExecutionData"] is False
    assert properties["DefinitionUri"] == f"state_machines/{name_of(machine)}.asl.json"


def test_dispatcher_finds_the_state_machine_by_the_job_type() -> None:
    prefix = FUNCTIONS["dispatcher"].environment["STATE_MACHINE_ARN_PREFIX"]["Fn::Sub"]
    assert prefix.endswith(":stateMachine:${AWS::StackName}-")
    required = FUNCTIONS["dispatcher"].environment["REQUIRED_JOB_TYPES"].split(",")
    assert required == list(JOB_TYPES)
    assert set(required) <= set(state_machines())


def test_each_state_machine_may_be_started_and_its_executions_looked_at() -> None:
    started = statement_of("DispatcherRole", "StartJobs")["Resource"]
    assert sorted(arn["Ref"] for arn in started) == sorted(MACHINES)
    # The reconciler sends a clean-up through the queue, as any job.
    assert "states:StartExecution" not in json.dumps(ROLES["ReconcilerRole"])
    looked_at = statement_of("ReconcilerRole", "LookAtExecutions")["Resource"]
    names = [re.findall(r":execution:\$\{(\w+)\.Name\}:\*$", arn["Fn::Sub"]) for arn in looked_at]
    assert sorted(names) == [[name] for name in sorted(MACHINES)]


def test_no_pattern_matches_the_names_of_a_stack_whose_name_goes_on_with_a_hyphen() -> None:
    """As `prod` and `prod-eu` in one account and region."""
    text = json.dumps(template())
    assert re.findall(r'[^"]*\$\{AWS::StackName\}-[^"/]*\*[^"]*', text) == []
    assert re.findall(r'"prefix": \{"Fn::Sub": "[^"]*\$\{AWS::StackName\}-[^"/]*"', text) == []


@each_machine
def test_every_substitution_of_the_definition_is_made(machine: dict[str, Any]) -> None:
    made = machine["Properties"]["DefinitionSubstitutions"]
    definition = state_machines()[name_of(machine)]
    assert set(re.findall(r"\$\{(\w+)\}", str(definition))) == set(made)
