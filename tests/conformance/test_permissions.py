"""What is allowed, read from the template that CloudFormation gets: SAM's own roles included.

A function's role allows the actions that its code can call, those that AWS Lambda needs to run it,
and no other; a state machine's role what its definition names.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.encryption import rights_by_key
from support.project import TEMPLATE, all_states, policies_of, state_machines
from support.reachable_code import Call, calls
from support.sam import translated

type Template = dict[str, Any]

#: An action, and the resource as the template writes it.
type Right = tuple[str, str]

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
    "s3:ListAllMyBuckets": set(),
    "appsync:CreateApi": {"aws:RequestTag/provisioner:managed-by"},
    "ec2:CreateNetworkInterface": set(),
    "ec2:DescribeNetworkInterfaces": set(),
    "ec2:DescribeSubnets": set(),
    "ec2:DeleteNetworkInterface": set(),
    "ec2:AssignPrivateIpAddresses": set(),
    "ec2:UnassignPrivateIpAddresses": set(),
}

#: What AWS asks for besides the action of an operation: to make something with tags, to have the
#: role that the service itself works as, and to delete objects of a bucket that had no versions.
#: Sources: Service Authorization Reference; Amazon RDS User Guide, "Using service-linked roles".
BESIDES: dict[str, set[str]] = {
    "cognito-idp:CreateUserPool": {"cognito-idp:TagResource"},
    "appsync:CreateApi": {"appsync:TagResource", "iam:CreateServiceLinkedRole"},
    "appsync:UpdateApi": {"iam:CreateServiceLinkedRole"},
    "secretsmanager:CreateSecret": {"secretsmanager:TagResource"},
    "s3:CreateBucket": {"s3:TagResource"},
    "s3:DeleteObjectVersion": {"s3:DeleteObject"},
    "rds:CreateDBInstance": {"rds:AddTagsToResource", "iam:CreateServiceLinkedRole"},
    "rds:RestoreDBInstanceFromDBSnapshot": {"rds:AddTagsToResource", "iam:CreateServiceLinkedRole"},
}

#: The roles of services, which their functions let AWS make: by the service, the role's name.
SERVICE_LINKED_ROLES = {
    "appsync.amazonaws.com": "AWSServiceRoleForAppSync",
    "rds.amazonaws.com": "AWSServiceRoleForRDS",
}

#: What an event source mapping needs, by the attribute of its source. Source: AWS Lambda Developer
#: Guide, "Using Lambda with Amazon SQS" and "Using AWS Lambda with Amazon DynamoDB".
POLLING = {
    "Arn": {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"},
    "StreamArn": {"dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"},
}
#: Source: AWS Lambda Developer Guide, "Lambda execution role", AWSLambdaVPCAccessExecutionRole.
NETWORK = {action for action in UNSCOPED_ACTIONS if action.startswith("ec2:")}
TRACES = {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}
#: Source: AWS Step Functions Developer Guide, "X-Ray" and "Logging using CloudWatch Logs".
MACHINE_TRACES = {action for action in UNSCOPED_ACTIONS if action.startswith("xray:")}
MACHINE_LOGS = {action for action in UNSCOPED_ACTIONS if action.startswith("logs:")}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def text_of(resource: Any) -> str:
    return resource if isinstance(resource, str) else json.dumps(resource, sort_keys=True)


def arn_of(logical_id: str, attribute: str = "Arn") -> str:
    return text_of({"Fn::GetAtt": [logical_id, attribute]})


def of_type(template: Template, resource_type: str) -> dict[str, dict[str, Any]]:
    return {n: r for n, r in template["Resources"].items() if r["Type"] == resource_type}


def role_of(reference: Any) -> str:
    return str(reference["Fn::GetAtt"][0])


def statements(role: dict[str, Any]) -> Iterator[dict[str, Any]]:
    properties = role["Properties"]
    for policy in policies_of(role) if "Policies" in properties else []:
        yield from policy["PolicyDocument"]["Statement"]


def rights(role: dict[str, Any]) -> set[Right]:
    """Return what a role allows."""
    return {
        (action, text_of(resource))
        for statement in statements(role)
        if statement["Effect"] == "Allow"
        for action in as_list(statement["Action"])
        for resource in as_list(statement["Resource"])
    }


#: The key of AWS KMS that a stack may have.
KEY = text_of({"Ref": "KmsKeyArn"})


def rights_on_key(role: dict[str, Any]) -> set[tuple[str, str]]:
    """Return what a role may do with the stack's key, each with the service that asks for it."""
    return {
        (action, via["Fn::Sub"].partition(".")[0])
        for statement in statements(role)
        if text_of(statement["Resource"]) == KEY
        for action in as_list(statement["Action"])
        for via in statement["Condition"]["StringEquals"]["kms:ViaService"]
        if via["Fn::Sub"].endswith(".${AWS::Region}.${AWS::URLSuffix}")
    }


def rights_of_runtime(template: Template, name: str) -> set[Right]:
    """Return what AWS Lambda needs to run a function, whatever its code does."""
    properties = template["Resources"][name]["Properties"]
    group = properties["LoggingConfig"]["LogGroup"]["Ref"]
    needed = {(f"logs:{action}", arn_of(group)) for action in ("CreateLogStream", "PutLogEvents")}
    if properties["TracingConfig"]["Mode"] == "Active":
        needed |= {(action, "*") for action in TRACES}
    if "VpcConfig" in properties:
        needed |= {(action, "*") for action in NETWORK}
    for mapping in of_type(template, "AWS::Lambda::EventSourceMapping").values():
        if mapping["Properties"]["FunctionName"] != {"Ref": name}:
            continue
        source, attribute = mapping["Properties"]["EventSourceArn"]["Fn::GetAtt"]
        needed |= {(action, arn_of(source, attribute)) for action in POLLING[attribute]}
        if attribute == "StreamArn":
            # It looks for the stream among the table's.
            streams = text_of({"Fn::Sub": f"${{{source}.Arn}}/stream/*"})
            needed.add(("dynamodb:ListStreams", streams))
        given_up = mapping["Properties"].get("DestinationConfig", {}).get("OnFailure")
        if given_up:
            needed.add(("sqs:SendMessage", text_of(given_up["Destination"])))
    return needed


def right_of_table(call: Call) -> Right:
    table, _, rest = call.table.partition("/")
    return call.action, text_of({"Fn::Sub": f"${{{table}.Arn}}/{rest}"}) if rest else arn_of(table)


def problems_of_function(template: Template, name: str, function: str) -> Iterator[str]:
    """Yield what a function's role allows too much, and what it lacks."""
    role = role_of(template["Resources"][name]["Properties"]["Role"])
    allowed = {right for right in rights(template["Resources"][role]) if right[1] != KEY}
    of_key = rights_on_key(template["Resources"][role])
    for action, service in sorted(of_key ^ rights_by_key(action for action, _ in allowed)):
        what = "allows" if (action, service) in of_key else "does not allow"
        yield f"{role} {what} {action} for {service}"
    of_runtime = rights_of_runtime(template, name)
    called = calls(function)
    of_tables = {right_of_table(call) for call in called if call.table}
    actions = {call.action for call in called if not call.table}
    actions |= {beside for action in actions & BESIDES.keys() for beside in BESIDES[action]}
    rest = allowed - of_runtime - of_tables
    for action, resource in sorted(rest):
        if action not in actions:
            yield f"{role} allows {action} on {resource}, which {function} never calls"
    for action, resource in sorted((of_runtime | of_tables) - allowed):
        yield f"{role} does not allow {action} on {resource}, which {function} needs"
    for action in sorted(actions - {action for action, _ in rest}):
        yield f"{role} does not allow {action}, which {function} calls"


def problems_of_machine(template: Template, machine: dict[str, Any]) -> Iterator[str]:
    """Yield what a state machine's role allows too much, and what it lacks."""
    properties = machine["Properties"]
    name = properties["StateMachineName"]["Fn::Sub"].removeprefix("${AWS::StackName}-")
    needed = {(action, "*") for action in MACHINE_TRACES | MACHINE_LOGS}
    for _, state in all_states(state_machines()[name]["States"]):
        match state:
            case {"Resource": "arn:aws:states:::lambda:invoke", "Parameters": parameters}:
                action, target = "lambda:InvokeFunction", parameters["FunctionName"]
            case {"Resource": "arn:aws:states:::states:startExecution", "Parameters": parameters}:
                action, target = "states:StartExecution", parameters["StateMachineArn"]
            case {"Type": "Task"}:
                yield f"{name} has a Task that this test does not know: {state['Resource']}"
                continue
            case _:
                continue
        placeholder = target.removeprefix("${").removesuffix("}")
        needed.add((action, text_of(properties["DefinitionSubstitutions"][placeholder])))
    role = role_of(properties["RoleArn"])
    allowed = rights(template["Resources"][role])
    yield from (f"{role} allows {a} on {r}, which {name} has not" for a, r in allowed - needed)
    yield from (f"{role} does not allow {a} on {r} of {name}" for a, r in needed - allowed)


def is_of_one_service(statement: dict[str, Any]) -> bool:
    """Whether a statement lets one service of ours have its role, and allows nothing else."""
    service = statement.get("Condition", {}).get("StringEquals", {}).get("iam:AWSServiceName", "")
    return service in SERVICE_LINKED_ROLES and (statement["Action"], statement["Resource"]) == (
        "iam:CreateServiceLinkedRole",
        {
            "Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:role/aws-service-role/"
            f"{service}/{SERVICE_LINKED_ROLES[service]}"
        },
    )


def problems_of_statements(template: Template) -> Iterator[str]:
    """Yield what no statement may say."""
    for name, role in of_type(template, "AWS::IAM::Role").items():
        for statement in statements(role):
            where = f"{name}.{statement.get('Sid')}"
            if {"NotAction", "NotResource"} & statement.keys():
                yield f"{where} says what it does not mean"
            everything = "*" in as_list(statement.get("Resource"))
            conditions = {key for keys in statement.get("Condition", {}).values() for key in keys}
            for action in as_list(statement.get("Action", [])):
                if not re.fullmatch(r"[a-z0-9-]+:[A-Za-z]+", action):
                    yield f"{where}: {action} is no exact action"
                elif action == "iam:PassRole":
                    yield f"{where} passes roles on"
                elif action == "iam:CreateServiceLinkedRole" and not is_of_one_service(statement):
                    yield f"{where} makes roles of other services"
                elif everything and action not in UNSCOPED_ACTIONS:
                    yield f"{where}: {action} has a resource that can be named"
                elif everything and not conditions >= UNSCOPED_ACTIONS[action]:
                    yield f"{where}: {action} lacks its condition"


def problems_of_roles(template: Template) -> Iterator[str]:
    """Yield rights that stand elsewhere than in a role of its own for each function and machine."""
    for kind in (
        "AWS::IAM::Policy",
        "AWS::IAM::ManagedPolicy",
        "AWS::IAM::User",
        "AWS::IAM::Group",
    ):
        yield from (f"{name} is a {kind}" for name in of_type(template, kind))
    users = {
        name: role_of(r["Properties"]["Role"])
        for name, r in of_type(template, "AWS::Lambda::Function").items()
    } | {
        name: role_of(r["Properties"]["RoleArn"])
        for name, r in of_type(template, "AWS::StepFunctions::StateMachine").items()
    }
    for name, role in of_type(template, "AWS::IAM::Role").items():
        used = [user for user, its in users.items() if its == name]
        if len(used) != 1:
            yield f"{name} is the role of {used}"
        if role["Properties"].get("ManagedPolicyArns"):
            yield f"{name} has {role['Properties']['ManagedPolicyArns']}"
        kind = template["Resources"][used[0]]["Type"] if used else ""
        (trust,) = role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        service = "lambda" if kind == "AWS::Lambda::Function" else "states"
        if trust["Principal"] != {"Service": f"{service}.amazonaws.com"}:
            yield f"{name} is assumed by {trust['Principal']}"


def problems_of_rules(template: Template) -> Iterator[str]:
    """Yield who may invoke a function besides the rules that target it."""
    targets = {
        (arn_of(rule), text_of(target["Arn"]))
        for rule, resource in of_type(template, "AWS::Events::Rule").items()
        for target in resource["Properties"]["Targets"]
        if "RoleArn" not in target
    }
    permitted = {
        (text_of(p["SourceArn"]), arn_of(p["FunctionName"]["Ref"]))
        for resource in of_type(template, "AWS::Lambda::Permission").values()
        for p in [resource["Properties"]]
        if (p["Action"], p["Principal"]) == ("lambda:InvokeFunction", "events.amazonaws.com")
    }
    if len(permitted) != len(of_type(template, "AWS::Lambda::Permission")):
        yield "someone else than a rule may invoke a function"
    yield from (f"{rule} and {function} differ" for rule, function in targets ^ permitted)


def problems(template: Template) -> list[str]:
    """Return everything that is wrong with a translated template's permissions."""
    functions = of_type(template, "AWS::Lambda::Function")
    machines = of_type(template, "AWS::StepFunctions::StateMachine")
    assert len(functions) == 10
    assert len(machines) == len(state_machines())
    found = [*problems_of_roles(template), *problems_of_statements(template)]
    found += problems_of_rules(template)
    for name in functions:
        snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Function")).lower()
        found += problems_of_function(template, name, snake)
    for machine in machines.values():
        found += problems_of_machine(template, machine)
    return found


@pytest.fixture(scope="module")
def template() -> Template:
    """Return the template as SAM translates it."""
    return translated(TEMPLATE.read_text())


def test_each_role_allows_what_is_called_and_no_more(template: Template) -> None:
    assert problems(template) == []


def statement_of(template: Template, role: str, sid: str) -> dict[str, Any]:
    found = [s for s in statements(template["Resources"][role]) if s["Sid"] == sid]
    return found[0]


def add_action(template: Template) -> None:
    statement_of(template, "ServicesRole", "KeepUserPools")["Action"].append(
        "cognito-idp:AdminDeleteUser"
    )


def take_action(template: Template) -> None:
    statement_of(template, "LifecycleRole", "StoreProgress")["Action"].remove("dynamodb:Query")


def widen_table(template: Template) -> None:
    statement_of(template, "ServicesRole", "ReadProjects")["Resource"] = [
        {"Fn::GetAtt": ["ProjectsTable", "Arn"]},
        {"Fn::GetAtt": ["QuotasTable", "Arn"]},
    ]


def take_index(template: Template) -> None:
    statement_of(template, "ApiKeysRole", "FindDigests")["Resource"].pop()


def take_polling(template: Template) -> None:
    statement_of(template, "DeadLettersRole", "TakeMessages")["Action"].pop()


def take_decryption(template: Template) -> None:
    services = statement_of(template, "DispatcherRole", "ReadByKey")["Condition"]["StringEquals"]
    services["kms:ViaService"].pop()


def encrypt_by_hand(template: Template) -> None:
    statement_of(template, "LifecycleRole", "ReadByKey")["Action"] = ["kms:Decrypt", "kms:Encrypt"]


def use_wildcard(template: Template) -> None:
    statement_of(template, "EventsRole", "PublishEvents")["Action"] = "events:*"


def use_every_resource(template: Template) -> None:
    statement_of(template, "EventsRole", "PublishEvents")["Resource"] = "*"


def pass_role(template: Template) -> None:
    statement_of(template, "ServicesRole", "KeepUserPools")["Action"].append("iam:PassRole")


def make_any_role_of_a_service(template: Template) -> None:
    del statement_of(template, "InstancesRole", "LetServiceHaveItsRole")["Condition"]


def run_another_function(template: Template) -> None:
    statement_of(template, "RotateApiKeysStateMachineRole", "RunStages")["Resource"].append(
        {"Fn::GetAtt": ["DatabaseFunction", "Arn"]}
    )


def start_no_cleanup(template: Template) -> None:
    policy = policies_of(template["Resources"]["ProvisionProjectStateMachineRole"])[0][
        "PolicyDocument"
    ]
    policy["Statement"] = [s for s in policy["Statement"] if s["Sid"] != "StartCleanup"]


def let_everyone_invoke(template: Template) -> None:
    permission = template["Resources"]["ReconcilerFunctionSweepPermission"]["Properties"]
    permission["Principal"] = "*"


def share_role(template: Template) -> None:
    template["Resources"]["EventsFunction"]["Properties"]["Role"] = {
        "Fn::GetAtt": ["DispatcherRole", "Arn"]
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (add_action, "allows cognito-idp:AdminDeleteUser"),
        (take_action, "does not allow dynamodb:Query"),
        (widen_table, "QuotasTable"),
        (take_index, "by_key_id"),
        (take_polling, "does not allow sqs:GetQueueAttributes"),
        (take_decryption, "DispatcherRole does not allow kms:Decrypt for sqs"),
        (encrypt_by_hand, "LifecycleRole allows kms:Encrypt for dynamodb"),
        (use_wildcard, "events:* is no exact action"),
        (use_every_resource, "events:PutEvents has a resource that can be named"),
        (pass_role, "passes roles on"),
        (make_any_role_of_a_service, "InstancesRole.LetServiceHaveItsRole makes roles of other"),
        (run_another_function, "RotateApiKeysStateMachineRole allows lambda:InvokeFunction"),
        (start_no_cleanup, "does not allow states:StartExecution"),
        (let_everyone_invoke, "someone else than a rule"),
        (share_role, "DispatcherRole is the role of"),
    ],
)
def test_wrong_permission_is_found(
    template: Template, change: Callable[[Template], None], said: str
) -> None:
    changed = copy.deepcopy(template)
    change(changed)
    assert any(said in problem for problem in problems(changed))


def test_role_that_sam_makes_is_found() -> None:
    """SAM gives a function without a role one of its own, with policies of AWS."""
    source = TEMPLATE.read_text()
    without = source.replace("      Role: !GetAtt DeadLettersRole.Arn\n", "")
    assert without != source
    found = problems(translated(without))
    assert any("AWSLambdaBasicExecutionRole" in problem for problem in found)
    assert any("DeadLettersRole is the role of []" in problem for problem in found)


#: Statements of RDS's that change nothing, or let an instance be made in a group of the account's.
WITHOUT_MARKER = {"LookAtInstances", "LookAtSnapshots", "UseGroups"}


def test_the_function_of_instances_alone_has_rights_of_rds_and_for_what_is_marked(
    template: Template,
) -> None:
    marker = {"Fn::Sub": "${AWS::StackName}-${AWS::AccountId}"}
    of_rds = [
        (name, statement)
        for name, role in of_type(template, "AWS::IAM::Role").items()
        for statement in statements(role)
        if any(action.startswith("rds:") for action in as_list(statement["Action"]))
    ]
    assert {name for name, _ in of_rds} == {"InstancesRole"}
    for _, statement in of_rds:
        if statement["Sid"] not in WITHOUT_MARKER:
            texts = statement["Condition"]["StringEquals"]
            markers = [texts[key] for key in texts if key.endswith("Tag/provisioner:managed-by")]
            assert markers == [marker], statement["Sid"]


def test_an_instance_is_made_within_the_bounds_of_the_deployer_and_hidden(
    template: Template,
) -> None:
    made = statement_of(template, "InstancesRole", "MakeInstances")["Condition"]
    assert made["StringEquals"]["rds:DatabaseClass"] == {"Ref": "DedicatedInstanceSizes"}
    assert made["NumericLessThanEquals"] == {"rds:StorageSize": {"Ref": "DedicatedInstanceStorage"}}
    assert made["Bool"] == {"rds:PubliclyAccessible": "false"}
