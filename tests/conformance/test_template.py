"""The house rules of the template, which no linter knows."""

from __future__ import annotations

import re
from typing import Any

import boto3
import pytest
from provisioner.runtime import settings
from support.project import (
    PACKAGE,
    TEMPLATE,
    LambdaFunction,
    allowed_actions,
    functions,
    policies_of,
    resources,
    state_machines,
    template,
)

FUNCTIONS = functions()
ROLES = resources("AWS::IAM::Role")
TABLES = resources("AWS::DynamoDB::Table")
QUEUES = {n: r["Properties"] for n, r in resources("AWS::SQS::Queue").items()}

#: Variables that are Powertools' own and no setting of ours.
POWERTOOLS = {"POWERTOOLS_SERVICE_NAME", "POWERTOOLS_METRICS_NAMESPACE", "POWERTOOLS_LOG_LEVEL"}

#: The only actions that may stand beside `Resource: "*"`, and the conditions that they must have.
#: Source: Service Authorization Reference: none of them has a resource that could be named.
UNSCOPED_ACTIONS: dict[str, set[str]] = {
    "xray:PutTraceSegments": set(),
    "xray:PutTelemetryRecords": set(),
    "xray:GetSamplingRules": set(),
    "xray:GetSamplingTargets": set(),
    "logs:CreateLogDelivery": set(),
    "logs:GetLogDelivery": set(),
    "logs:UpdateLogDelivery": set(),
    "logs:DeleteLogDelivery": set(),
    "logs:ListLogDeliveries": set(),
    "logs:PutResourcePolicy": set(),
    "logs:DescribeResourcePolicies": set(),
    "logs:DescribeLogGroups": set(),
    "cognito-idp:ListUserPools": set(),
    "cognito-idp:CreateUserPool": {"aws:RequestTag/provisioner:managed-by"},
    "appsync:ListApis": set(),
    "appsync:CreateApi": {"aws:RequestTag/provisioner:managed-by"},
    "ec2:CreateNetworkInterface": set(),
    "ec2:DescribeNetworkInterfaces": set(),
    "ec2:DescribeSubnets": set(),
    "ec2:DeleteNetworkInterface": set(),
    "ec2:AssignPrivateIpAddresses": set(),
    "ec2:UnassignPrivateIpAddresses": set(),
}


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
        for name, resource in resources("AWS::SQS::QueuePolicy").items()
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
    assert set(FUNCTIONS) == {"dispatcher", "lifecycle", "database", "services", "api_keys"}


@each_function
def test_function_runs_python_3_13_on_the_architecture_of_the_parameter(
    function: LambdaFunction,
) -> None:
    assert function.properties["Runtime"] == "python3.13"
    assert function.properties["Architectures"] == [{"Ref": "Architecture"}]
    assert function.properties["Handler"] == "handler.handle"


def test_deployments_run_on_arm64() -> None:
    assert template()["Parameters"]["Architecture"]["Default"] == "arm64"


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


@each_function
def test_only_the_database_function_has_the_driver_and_the_network(
    function: LambdaFunction,
) -> None:
    is_database = function.folder.name == "database"
    assert ({"Ref": "PostgresqlLayer"} in function.properties["Layers"]) == is_database
    assert ("VpcConfig" in function.properties) == is_database


# --- Intake ---------------------------------------------------------------------------------------


def test_queue_hides_a_message_for_six_times_the_dispatchers_time() -> None:
    timeout = FUNCTIONS["dispatcher"].properties["Timeout"]
    assert QUEUES["JobsQueue"]["VisibilityTimeout"] >= 6 * timeout


def test_message_is_delivered_five_times_and_then_kept_longer_than_in_the_queue() -> None:
    redrive = QUEUES["JobsQueue"]["RedrivePolicy"]
    assert redrive["maxReceiveCount"] == 5
    assert redrive["deadLetterTargetArn"] == {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}
    assert (
        QUEUES["DeadLetterQueue"]["MessageRetentionPeriod"]
        > QUEUES["JobsQueue"]["MessageRetentionPeriod"]
    )


@pytest.mark.parametrize("queue", QUEUES.values(), ids=QUEUES)
def test_queue_is_encrypted(queue: dict[str, Any]) -> None:
    assert queue["SqsManagedSseEnabled"] is True


def test_dispatcher_reports_the_messages_that_failed() -> None:
    (event,) = FUNCTIONS["dispatcher"].properties["Events"].values()
    assert event["Type"] == "SQS"
    assert event["Properties"]["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert event["Properties"]["BatchSize"] == 10
    assert event["Properties"]["ScalingConfig"]["MaximumConcurrency"] == {
        "Ref": "DispatcherMaximumConcurrency"
    }


# --- Tables ---------------------------------------------------------------------------------------


@each_table
def test_table_is_encrypted_recoverable_and_protected(table: dict[str, Any]) -> None:
    properties = table["Properties"]
    assert properties["BillingMode"] == "PAY_PER_REQUEST"
    assert properties["SSESpecification"]["SSEEnabled"] is True
    assert properties["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True
    assert properties["DeletionProtectionEnabled"] == {"Ref": "DeletionProtection"}
    assert table["DeletionPolicy"] == "RetainExceptOnCreate"
    assert table["UpdateReplacePolicy"] == "Retain"


def test_tables_are_protected_unless_someone_says_otherwise() -> None:
    assert template()["Parameters"]["DeletionProtection"]["Default"] == "true"


def test_finished_jobs_expire() -> None:
    assert TABLES["JobsTable"]["Properties"]["TimeToLiveSpecification"] == {
        "AttributeName": "expires_at",
        "Enabled": True,
    }


# --- Permissions ----------------------------------------------------------------------------------


def test_permissions_stand_in_the_template_alone() -> None:
    assert not any("ManagedPolicyArns" in role["Properties"] for role in ROLES.values())
    assert not resources("AWS::IAM::Policy")
    assert not resources("AWS::IAM::ManagedPolicy")


@each_statement
def test_statement_names_exact_actions(where: str, statement: dict[str, Any]) -> None:
    assert "NotAction" not in statement, where
    for action in as_list(statement["Action"]):
        assert re.fullmatch(r"[a-z0-9-]+:[A-Za-z]+", action), f"{where}: {action}"


@each_statement
def test_statement_names_resources_where_the_service_has_them(
    where: str, statement: dict[str, Any]
) -> None:
    assert "NotResource" not in statement, where
    if "*" not in as_list(statement.get("Resource")):
        return
    conditions = {key for keys in statement.get("Condition", {}).values() for key in keys}
    for action in as_list(statement["Action"]):
        assert action in UNSCOPED_ACTIONS, f"{where}: {action} has a resource that can be named"
        assert conditions >= UNSCOPED_ACTIONS[action], f"{where}: {action}"


#: Actions of S3 that are not named like their operations.
S3_ACTIONS = {
    "HeadBucket": "ListBucket",
    "GetBucketEncryption": "GetEncryptionConfiguration",
    "PutBucketEncryption": "PutEncryptionConfiguration",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
}


@pytest.mark.parametrize(
    ("driver", "service"),
    [
        ("cognito", "cognito-idp"),
        ("appsync", "appsync"),
        ("s3", "s3"),
        ("secrets", "secretsmanager"),
    ],
)
def test_roles_allow_what_the_drivers_call_and_no_more(driver: str, service: str) -> None:
    client: Any = boto3.Session("testing", "testing", region_name="us-east-1").client(service)  # type: ignore[call-overload]  # its stubs list literal names
    source = (PACKAGE / "drivers" / f"{driver}.py").read_text()
    methods = re.findall(r"\bclient\.(?:get_paginator\(\"(\w+)\"|(\w+)\()", source)
    names = client.meta.method_to_api_mapping
    operations = {names[paged or called] for paged, called in methods if paged or called in names}
    called = {f"{service}:{S3_ACTIONS.get(name, name)}" for name in operations}
    allowed = {action for action in allowed_actions() if action.startswith(f"{service}:")}
    # To make something with tags takes the right to tag.
    assert allowed == called | {f"{service}:TagResource"}


def comment_above(lines: list[str], number: int) -> str:
    """Return the comment that ends right above a line."""
    first = number
    while lines[first - 1].lstrip().startswith("# "):
        first -= 1
    return "\n".join(lines[first:number])


def test_statements_say_why_they_are_there() -> None:
    assert all(statement.get("Sid") for _, statement in STATEMENTS)
    lines = TEMPLATE.read_text().splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r"\s*- (Sid|Effect|Action):", line)]
    assert starts
    for start in starts:
        assert comment_above(lines, start), f"line {start + 1} has no comment"


def test_statements_without_a_resource_say_why() -> None:
    lines = TEMPLATE.read_text().splitlines()
    unscoped = [i for i, line in enumerate(lines) if line.strip() == 'Resource: "*"']
    assert unscoped
    for number in unscoped:
        start = next(i for i in range(number, 0, -1) if "- Sid:" in lines[i])
        assert 'Resource "*"' in comment_above(lines, start), f"line {number + 1}"


# --- Parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", template()["Parameters"])
def test_parameter_is_described_and_bounded_and_no_secret(name: str) -> None:
    parameter = template()["Parameters"][name]
    assert parameter["Description"]
    assert {"AllowedPattern", "AllowedValues", "MinValue"} & set(parameter)
    assert not re.search("secret|password|token|key", name, re.IGNORECASE)
    assert not parameter.get("NoEcho")


# --- The state machines' resources ----------------------------------------------------------------

MACHINES = resources("AWS::Serverless::StateMachine")
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
    assert set(required) <= set(state_machines())


@each_machine
def test_every_substitution_of_the_definition_is_made(machine: dict[str, Any]) -> None:
    made = machine["Properties"]["DefinitionSubstitutions"]
    definition = state_machines()[name_of(machine)]
    assert set(re.findall(r"\$\{(\w+)\}", str(definition))) == set(made)


@each_machine
def test_state_machine_may_run_what_it_names_and_nothing_else(machine: dict[str, Any]) -> None:
    role = ROLES[machine["Properties"]["Role"]["Fn::GetAtt"][0]]
    allowed = {
        str(resource)
        for policy in policies_of(role)
        for statement in policy["PolicyDocument"]["Statement"]
        if statement["Sid"] in {"RunStages", "StartCleanup"}
        for resource in as_list(statement["Resource"])
    }
    assert allowed == set(map(str, machine["Properties"]["DefinitionSubstitutions"].values()))
