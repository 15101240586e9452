"""The runbook of docs/operations.md is about this template, this program and these log lines."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import botocore.session
import pytest
import typer
from botocore import xform_name
from provision_cli.main import app
from support.cloudwatch import alarms
from support.project import PACKAGE, ROOT, resources, state_machines, template

PAGE = (ROOT / "docs" / "operations.md").read_text()

#: What else shows commands to operators.
INSTANCES = (ROOT / "docs" / "dedicated-instances.md").read_text()
HEADINGS = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
ALARMS = alarms()

#: The stack that the page was written with.
STACK = "provisioner-local"

#: Stands for what a reader puts there himself.
_PLACEHOLDER = "1"

#: Of every command of the AWS CLI. Source: AWS CLI Command Reference, "Global options", "s3 cp".
_AWS_CLI = {"query", "output", "endpoint-url", "region", "profile"}


def commands() -> Iterator[str]:
    """Yield each command that the pages show, those in a line of text too."""
    for block in re.findall(r"```(?:console|sh)\n(.*?)```", PAGE, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield line.removeprefix("$ ").strip()
    for block in re.findall(r"```sh\n(.*?)```", INSTANCES, re.DOTALL):
        yield from filter(None, map(str.strip, block.replace("\\\n", " ").splitlines()))
    yield from re.findall(r"`(provision [a-z][^`]*)`", PAGE.replace("\n", " "))


def words_of(program: str) -> list[list[str]]:
    """Return the command lines of a program, without what a pipe or a file does with its output."""
    found = []
    for command in dict.fromkeys(commands()):
        words = shlex.split(re.split(r" [|>] ", command)[0])
        if words[0] == program:
            found.append(words[1:])
    return found


@cache
def logged_messages() -> frozenset[str]:
    """Return every message that the code logs."""
    return frozenset(
        str(text.value)
        for path in PACKAGE.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and getattr(call.func.value, "id", "") == "logger"
        and call.args
        for text in ast.walk(call.args[0])
        if isinstance(text, ast.Constant)
    )


def names(resource_type: str, name: str) -> set[str]:
    """Return the names that the resources of a type have in the stack."""
    return {
        resource["Properties"][name]["Fn::Sub"].replace("${AWS::StackName}", STACK)
        for resource in resources(resource_type).values()
    }


@pytest.mark.parametrize("alarm", ALARMS)
def test_each_alarm_has_one_section_and_leads_to_it(alarm: str) -> None:
    heading = ALARMS[alarm].heading
    assert HEADINGS.count(heading) == 1
    description = ALARMS[alarm].properties["AlarmDescription"]
    assert description.endswith(f" See docs/operations.md#{heading.lower()}.")


def test_no_section_is_of_an_alarm_that_is_gone() -> None:
    sections = {heading for heading in HEADINGS if heading.endswith("Alarm")}
    assert sections == {alarm.heading for alarm in ALARMS.values()}


@pytest.mark.parametrize("alarm", ALARMS)
def test_the_section_of_an_alarm_names_its_metric_and_says_what_to_do(alarm: str) -> None:
    after = PAGE.split(f"# {ALARMS[alarm].heading}\n", 1)[1]
    section = re.split(r"^#+ ", after, maxsplit=1, flags=re.MULTILINE)[0]
    for statistic in ALARMS[alarm].statistics:
        assert f"`{statistic.metric.name}`" in section
    for part in ("**Means**", "**Look**", "**Type**", "**Over**", "**Never**"):
        assert section.count(part) == 1, part


@pytest.mark.parametrize("words", words_of("provision"), ids=" ".join)
def test_each_command_of_the_program_is_one(words: list[str]) -> None:
    words = [_PLACEHOLDER if "$" in word or word == "…" else word for word in words]
    parse(typer.main.get_command(app), words)


def parse(command: Any, words: list[str]) -> None:
    """Parse a command line down to its last subcommand, as the program does, and run nothing."""
    context = command.make_context("provision", words)
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, words = command.resolve_command(context, rest)
        context = command.make_context(name, words, parent=context)


@cache
def service_model(service: str) -> Any:
    """Return what botocore, which the AWS CLI is made of, knows of a service."""
    return botocore.session.get_session().get_service_model(service)


@pytest.mark.parametrize("words", words_of("aws"), ids=" ".join)
def test_each_command_of_the_aws_cli_is_one(words: list[str]) -> None:
    service, operation, *arguments = words
    if service == "s3":
        # The AWS CLI's own commands, in no API.
        assert operation in {"ls", "cp", "rm", "rb"}
        return
    model = service_model({"s3api": "s3"}.get(service, service))
    operations = {xform_name(name, "-"): name for name in model.operation_names}
    shape = model.operation_model(operations[operation]).input_shape
    parameters = {xform_name(name, "-") for name in shape.members}
    for argument in arguments:
        if argument.startswith("--"):
            option = argument.removeprefix("--")
            assert option in parameters | _AWS_CLI or option.removeprefix("no-") in parameters


def test_each_link_within_the_page_leads_to_a_section() -> None:
    # As GitHub names the anchor of a heading.
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in HEADINGS}
    linked = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert linked
    assert linked <= anchors


def test_each_log_group_is_the_stacks() -> None:
    named = set(re.findall(r"/aws/(?:lambda|vendedlogs)/[\w/-]+", PAGE))
    assert named
    assert named <= names("AWS::Logs::LogGroup", "LogGroupName")


def test_each_state_machine_is_the_stacks() -> None:
    named = set(re.findall(rf"(?:stateMachine|execution):({STACK}-\w+)", PAGE))
    assert named
    assert named <= names("AWS::Serverless::StateMachine", "Name")
    assert {name.removeprefix(f"{STACK}-") for name in named} <= set(state_machines())


def test_each_resource_and_output_is_the_templates() -> None:
    named = set(re.findall(r"\b[A-Z]\w+(?:Queue|Table|Function|Index|StateMachine)\b", PAGE))
    assert named
    assert named <= set(template()["Resources"])
    outputs = set(re.findall(r"\[?OutputKey==`(\w+)`", PAGE))
    assert outputs <= set(template()["Outputs"])
    assert set(re.findall(r"`(\w+(?:Name|Url|Arn|Prefix))`", PAGE)) <= {
        *template()["Outputs"],
        *template()["Parameters"],
    }


def test_each_query_of_the_logs_asks_for_what_is_logged() -> None:
    asked = re.findall(r'message = "([^"]+)"', PAGE)
    asked += re.findall(r"--filter-pattern '\"([^\"]+)\"'", PAGE)
    assert asked
    assert set(asked) <= logged_messages()
