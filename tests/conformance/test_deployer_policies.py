"""The policies of docs/iam for a deployment: what it needs, and no more.

deployer.json is for whoever runs `make deploy`; both of cloudformation-*.json are for what
CloudFormation does then, by that one's own rights or as a service role.
"""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from typing import Any

import pytest
from botocore import xform_name
from botocore.loaders import Loader
from support.cloudformation import ARTIFACTS, HANDLERS, ROLES, Right, Template, needed_rights
from support.iam_policies import (
    MANAGED_POLICY_CHARACTERS,
    PLACEHOLDERS,
    allowed,
    policy,
    size,
    unknown,
)
from support.project import TEMPLATE
from support.sam import run_beside_sam, translated

STACK = "arn:aws:cloudformation:REGION:ACCOUNT:stack/STACK/*"
#: What SAM keeps the bucket of its artifacts in, one for each account and region.
MANAGED_STACK = "arn:aws:cloudformation:REGION:ACCOUNT:stack/aws-sam-cli-managed-default/*"
MANAGED_BUCKET = ARTIFACTS.removesuffix("/*")
#: Whoever has a change set made of a template with a transform needs the right on that, too.
#: Source: AWS CloudFormation User Guide, "Control CloudFormation access with IAM".
TRANSFORM = "arn:aws:cloudformation:REGION:aws:transform/Serverless-2016-10-31"
#: Two, since one would have more characters than a managed policy may.
OF_CLOUDFORMATION = ("cloudformation-code", "cloudformation-data")
#: What comes beside them where the stack has a permissions boundary, or a key of AWS KMS.
BESIDE = ("cloudformation-boundary", "cloudformation-key")
#: Not named like the stack's own roles: it may change those.
SERVICE_ROLE = "arn:aws:iam::ACCOUNT:role/cloudformation-STACK"

#: What `Deployer` calls in `sam sync` alone, and with `--on-failure DELETE`.
NOT_CALLED = {"create_stack", "update_stack", "rollback_stack", "delete_stack"}
#: What the waiters call; None of one that waits for what is not called.
AWAITED = {
    "change_set_create_complete": "describe_change_set",
    "stack_create_complete": "describe_stacks",
    "stack_update_complete": "describe_stacks",
    "stack_delete_complete": None,
}
#: Actions of S3 for the calls of SAM: an upload is in parts, or in one.
UPLOADS = {"head_object": {"s3:GetObject"}, "upload": {"s3:PutObject", "s3:AbortMultipartUpload"}}

#: Runs beside SAM, and prints what its code calls: that of a deployment, that which makes the stack
#: of the bucket, that which puts something there. Also that stack's template.
_LOOK_INTO_SAM = r"""
import inspect, json, re
from samcli.lib.bootstrap import bootstrap
from samcli.lib.deploy.deployer import Deployer
from samcli.lib.package.s3_uploader import S3Uploader
from samcli.lib.utils import managed_cloudformation_stack as managed

def look(*code):
    source = "".join(map(inspect.getsource, code))
    client = r"(?:_client|cloudformation_client|self\.s3|transfer_manager)\."
    called = re.findall(client + r"(?!get_paginator|get_waiter|meta)(\w+)\(", source)
    called += re.findall(client + r'get_paginator\("(\w+)"', source)
    return {"called": called, "awaited": re.findall(client + r'get_waiter\("(\w+)"', source)}

print(json.dumps({
    "deployer": look(Deployer),
    "managed": look(managed._create_or_get_stack, managed._create_stack),
    "uploader": look(S3Uploader.upload, S3Uploader.file_exists),
    "template": bootstrap._get_stack_template(),
}))
"""


@cache
def sam() -> dict[str, Any]:
    """Return what the SAM CLI calls."""
    looked: dict[str, Any] = json.loads(run_beside_sam(_LOOK_INTO_SAM))
    return looked


@pytest.fixture(scope="module")
def template() -> Template:
    """Return the template as SAM translates it."""
    return translated(TEMPLATE.read_text())


def action(operation: str) -> str:
    names = Loader().load_service_model("cloudformation", "service-2")["operations"]
    return next(f"cloudformation:{name}" for name in names if xform_name(name) == operation)


def rights_on_stack(looked: dict[str, list[str]], stack: str) -> set[Right]:
    """Return what SAM needs to do with a stack as it does."""
    called = (set(looked["called"]) - NOT_CALLED) | {AWAITED[name] for name in looked["awaited"]}
    operations = {name for name in called if name is not None}
    # The stacks get tags with the change set. Source: Service Authorization Reference.
    return {(action(name), stack) for name in operations} | {("cloudformation:TagResource", stack)}


def rights_of_cloudformation() -> set[Right]:
    return {right for name in (*OF_CLOUDFORMATION, *BESIDE) for right in allowed(policy(name))}


def rights_of_sam() -> set[Right]:
    """Return what `sam deploy` calls itself, or has CloudFormation call for its artifacts."""
    looked = sam()
    managed = needed_rights(json.loads(looked["template"]))
    return (
        rights_on_stack(looked["deployer"], STACK)
        | rights_on_stack(looked["managed"], MANAGED_STACK)
        | {("cloudformation:CreateChangeSet", TRANSFORM), ("iam:PassRole", SERVICE_ROLE)}
        | {(right, MANAGED_BUCKET) for right, _ in managed}
        | {(right, ARTIFACTS) for name in looked["uploader"]["called"] for right in UPLOADS[name]}
    )


def test_a_deployer_may_do_what_sam_does_and_no_more() -> None:
    assert allowed(policy("deployer")) == rights_of_sam()


def test_cloudformation_may_make_change_and_remove_what_the_template_has_and_no_more(
    template: Template,
) -> None:
    assert rights_of_cloudformation() == needed_rights(template)


def test_what_is_kept_with_its_data_can_not_be_removed(template: Template) -> None:
    actions = {name for name, _ in rights_of_cloudformation()}
    assert "dynamodb:CreateTable" in actions
    assert not actions & {"dynamodb:DeleteTable", "dynamodb:GetItem", "dynamodb:Scan"}
    template = copy.deepcopy(template)
    del template["Resources"]["JobsTable"]["UpdateReplacePolicy"]
    assert "dynamodb:DeleteTable" in {name for name, _ in needed_rights(template)}


def test_a_property_of_the_template_asks_for_its_rights(template: Template) -> None:
    template = copy.deepcopy(template)
    function = template["Resources"]["DispatcherFunction"]["Properties"]
    function["ReservedConcurrentExecutions"] = 5
    more = needed_rights(template) - rights_of_cloudformation()
    assert {name for name, _ in more} == {
        "lambda:PutFunctionConcurrency",
        "lambda:DeleteFunctionConcurrency",
    }


@pytest.mark.parametrize("name", ["deployer", *OF_CLOUDFORMATION, *BESIDE])
def test_a_deployers_policy_is_one_that_aws_takes(name: str) -> None:
    document = policy(name)
    for statement in document["Statement"]:
        assert set(statement) <= {"Sid", "Effect", "Action", "Resource", "Condition"}
        assert statement["Effect"] in {"Allow", "Deny"}
        for resource in statement["Resource"]:
            assert set(re.findall(r"[A-Z][A-Z_]+[A-Z]", resource)) <= PLACEHOLDERS.keys(), resource
    assert unknown(document) == []
    assert size(document) <= MANAGED_POLICY_CHARACTERS


def conditions(name: str, actions: set[str]) -> list[dict[str, Any] | None]:
    return [
        statement.get("Condition")
        for statement in policy(name)["Statement"]
        if actions & set(statement["Action"])
    ]


def test_roles_are_passed_to_the_services_that_run_as_them_alone() -> None:
    passed = {"iam:PassRole"}
    (deployer,) = conditions("deployer", passed)
    assert deployer == {"StringEquals": {"iam:PassedToService": ["cloudformation.amazonaws.com"]}}
    (cloudformation,) = conditions("cloudformation-code", passed)
    services = ["lambda.amazonaws.com", "states.amazonaws.com"]
    assert cloudformation == {"StringEquals": {"iam:PassedToService": services}}


def test_a_role_gets_rights_only_within_the_boundary() -> None:
    bind, refuse_unbound, refuse_to_free = policy("cloudformation-boundary")["Statement"]
    assert bind["Action"] == ["iam:PutRolePermissionsBoundary"]
    assert bind["Condition"] == {"ArnEquals": {"iam:PermissionsBoundary": "BOUNDARY"}}
    # A role that is made has no boundary yet but in the request: what is not there is not equal.
    assert refuse_unbound["Effect"] == refuse_to_free["Effect"] == "Deny"
    assert refuse_unbound["Condition"] == {"ArnNotEquals": {"iam:PermissionsBoundary": "BOUNDARY"}}
    # Source: Service Authorization Reference: what gives a role rights, or says who has it.
    assert set(refuse_unbound["Action"]) == {
        "iam:CreateRole",
        "iam:PutRolePermissionsBoundary",
        "iam:PutRolePolicy",
        "iam:UpdateAssumeRolePolicy",
    }
    assert refuse_to_free["Action"] == ["iam:DeleteRolePermissionsBoundary"]
    assert "Condition" not in refuse_to_free
    assert {r for s in (refuse_unbound, refuse_to_free) for r in s["Resource"]} == {ROLES}


def test_the_key_is_used_for_tables_alone_when_they_are_made() -> None:
    (only,) = policy("cloudformation-key")["Statement"]
    assert only["Condition"] == {
        "StringEquals": {"kms:ViaService": "dynamodb.REGION.amazonaws.com"}
    }


def test_the_policy_of_the_key_lets_the_stacks_logs_be_encrypted_and_no_other() -> None:
    account, logs = policy("key-policy")["Statement"]
    assert account["Principal"] == {"AWS": "arn:aws:iam::ACCOUNT:root"}
    assert logs["Principal"] == {"Service": "logs.REGION.amazonaws.com"}
    groups = {"kms:EncryptionContext:aws:logs:arn": list(HANDLERS["AWS::Logs::LogGroup"].on)}
    assert logs["Condition"] == {"ArnLike": groups}


def test_event_source_mappings_are_of_the_stacks_functions() -> None:
    mappings = {
        f"lambda:{verb}EventSourceMapping" for verb in ("Create", "Get", "Update", "Delete")
    }
    for condition in conditions("cloudformation-code", mappings):
        assert condition == {
            "ArnLike": {"lambda:FunctionArn": "arn:aws:lambda:REGION:ACCOUNT:function:STACK-*"}
        }


def test_only_what_has_no_resources_is_allowed_on_all() -> None:
    everywhere = {
        name
        for document in ("deployer", *OF_CLOUDFORMATION, *BESIDE)
        for name, resource in allowed(policy(document))
        if resource == "*"
    }
    assert everywhere == {
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSubnets",
        "ec2:DescribeVpcs",
        "lambda:CreateEventSourceMapping",
        "logs:DescribeLogGroups",
    }
