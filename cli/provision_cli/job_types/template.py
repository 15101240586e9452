"""The parts of template.yaml that follow from the job types: between the lines `begin` and `end`.

A job type has a state machine with its log group, its role and its two alarms. The dispatcher may
start them, the reconciler hears of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from string import Template
from textwrap import fill, indent
from typing import Any

from provisioner.jobs.definition import JobDefinitions
from provisioner.provisioning.functions import FUNCTIONS, LIFECYCLE

#: Of a description in the template.
_LINE_LENGTH = 100

_STATE_MACHINE = Template("""\
${id}StateMachine:
  Type: AWS::Serverless::StateMachine
  Properties:
    # It is found by this name.
    Name: !Sub "$${AWS::StackName}-${name}"
    Type: STANDARD
    DefinitionUri: state_machines/${name}.asl.json
    DefinitionSubstitutions:
${substitutions}
    Role: !GetAtt ${id}StateMachineRole.Arn
    Tracing:
      Enabled: true
    Logging:
      Level: ERROR
      IncludeExecutionData: false
      Destinations:
        - CloudWatchLogsLogGroup:
            LogGroupArn: !GetAtt ${id}StateMachineLogGroup.Arn

${id}StateMachineLogGroup:
  Type: AWS::Logs::LogGroup
  DeletionPolicy: Delete
  UpdateReplacePolicy: Delete
  Properties:
    # Groups of this prefix need no policy of their own for the delivery of logs.
    LogGroupName: !Sub "/aws/vendedlogs/states/$${AWS::StackName}-${name}"
    RetentionInDays: !Ref LogRetentionDays

${id}StateMachineRole:
  Type: AWS::IAM::Role
  Properties:
    AssumeRolePolicyDocument:
      Version: "2012-10-17"
      Statement:
        # Step Functions runs the state machine as this role, for this account's machines only.
        - Sid: AssumedByStepFunctions
          Effect: Allow
          Principal: { Service: states.amazonaws.com }
          Action: sts:AssumeRole
          Condition:
            StringEquals:
              aws:SourceAccount: !Ref AWS::AccountId
    Policies:
      - PolicyName: ${name}
        PolicyDocument:
          Version: "2012-10-17"
          Statement:
            # The functions of the stages, and no other; not the dispatcher.
            - Sid: RunStages
              Effect: Allow
              Action: lambda:InvokeFunction
              Resource:
${functions}
${start_cleanup}\
            # Resource "*": the delivery of logs has no resources for these actions.
            - Sid: DeliverLogs
              Effect: Allow
              Action:
                - logs:CreateLogDelivery
                - logs:GetLogDelivery
                - logs:UpdateLogDelivery
                - logs:DeleteLogDelivery
                - logs:ListLogDeliveries
                - logs:PutResourcePolicy
                - logs:DescribeResourcePolicies
                - logs:DescribeLogGroups
              Resource: "*"
            # Resource "*": X-Ray has no resources for these actions.
            - Sid: WriteTraces
              Effect: Allow
              Action:
                - xray:PutTraceSegments
                - xray:PutTelemetryRecords
                - xray:GetSamplingRules
                - xray:GetSamplingTargets
              Resource: "*"
""")

_START_CLEANUP = Template("""\
            # The removal of what a failed job made is a job of its own.
            - Sid: StartCleanup
              Effect: Allow
              Action: states:StartExecution
              Resource: !Ref ${id}StateMachine
""")

_ALARM = Template("""\
${id}${kind}Alarm:
  Type: AWS::CloudWatch::Alarm
  Properties:
    AlarmDescription: >-
${description}
    Namespace: AWS/States
    MetricName: Executions${kind}
    Dimensions:
      - { Name: StateMachineArn, Value: !Ref ${id}StateMachine }
    Statistic: Sum
    Period: 300
    EvaluationPeriods: 1
    ComparisonOperator: GreaterThanThreshold
    Threshold: 0
    TreatMissingData: notBreaching
    AlarmActions: *alarm_actions
    OKActions: *alarm_actions
""")

_TIMED_OUT = "have run out of time, so that none of their states could say how the job ended."
_FAILED = (
    "have failed. As many failed jobs are counted by JobsFailed; any more ended without a word."
)


class TemplateError(ValueError):
    """The template lacks a line `begin` or `end`; the message names it."""


@dataclass(frozen=True, slots=True)
class StateMachine:
    """A state machine as the template needs it."""

    #: Its name within the stack.
    name: str
    #: The names of the functions that its Tasks call.
    functions: tuple[str, ...]
    #: The name of the state machine that removes what a failed job made; empty where none does.
    cleanup: str

    @property
    def logical_id(self) -> str:
        """What its resources' logical ids begin with."""
        return pascal_case(self.name)


def pascal_case(name: str) -> str:
    """Return a name of lower-case words as logical ids have it."""
    return "".join(word.capitalize() for word in name.split("_"))


def state_machines(definitions: JobDefinitions) -> tuple[StateMachine, ...]:
    """Return the state machines of the job types."""
    return tuple(
        StateMachine(d.name, _functions(d.stages), d.on_failure.cleanup_job_type)
        for d in definitions.values()
    )


def _functions(stages: Iterable[Any]) -> tuple[str, ...]:
    """Name the functions of stages; that of the lifecycle records how all has ended."""
    used = {LIFECYCLE.name, *(stage.function.name for stage in stages)}
    return tuple(name for name in FUNCTIONS if name in used)


def generate(template: str, definitions: JobDefinitions) -> str:
    """Return a template's text with all that follows from the job types written anew.

    Args:
        template: the text, with the lines `begin` and `end` of each part.
        definitions: the job types.

    Raises:
        TemplateError: a line is missing.
    """
    for name, text in _parts(definitions).items():
        template = replace_part("template.yaml", template, name, text)
    return template


def replace_part(file: str, text: str, name: str, part: str) -> str:
    """Return a text with another part between its lines `begin` and `end`, which are comments.

    Args:
        file: the name of what holds the text, for the error.
        text: the whole of it.
        name: the part's name, which both lines hold.
        part: what is to stand between them, without their margin.

    Raises:
        TemplateError: a line is missing.
    """
    lines = re.compile(
        rf"^(?P<margin> *)(#|<!--) begin {name}: .*\n(?P<part>(?:.*\n)*?) *(#|<!--) end {name}\b",
        re.MULTILINE,
    )
    found = lines.search(text)
    if found is None:
        raise TemplateError(f"{file}: the lines `begin {name}` and `end {name}` miss.")
    return text[: found.start("part")] + indent(part, found["margin"]) + text[found.end("part") :]


def _parts(definitions: JobDefinitions) -> dict[str, str]:
    """Return each part's text by its name, without its margin."""
    machines = state_machines(definitions)
    return {
        "required job types": f"REQUIRED_JOB_TYPES: {','.join(definitions)}\n",
        "state machines of jobs": _references(machines),
        "all state machines": _references(machines),
        "executions": "".join(
            '- !Sub "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:execution:'
            f'${{{machine.logical_id}StateMachine.Name}}:*"\n'
            for machine in machines
        ),
        "state machines": "\n".join(map(_state_machine, machines)),
        "alarms of state machines": "\n".join(
            alarm for machine in machines for alarm in _alarms(machine)
        ),
    }


def _references(machines: Iterable[StateMachine]) -> str:
    return "".join(f"- !Ref {machine.logical_id}StateMachine\n" for machine in machines)


def _state_machine(machine: StateMachine) -> str:
    functions = [pascal_case(name) + "Function" for name in machine.functions]
    substitutions = [f"{function}Arn: !GetAtt {function}.Arn" for function in functions]
    cleanup = pascal_case(machine.cleanup)
    if cleanup:
        substitutions.append(f"CleanupStateMachineArn: !Ref {cleanup}StateMachine")
    return _STATE_MACHINE.substitute(
        id=machine.logical_id,
        name=machine.name,
        substitutions=indent("\n".join(substitutions), 6 * " "),
        functions=indent("\n".join(f"- !GetAtt {name}.Arn" for name in functions), 16 * " "),
        start_cleanup=_START_CLEANUP.substitute(id=cleanup) if cleanup else "",
    )


def _alarms(machine: StateMachine) -> Iterator[str]:
    for kind, what in (("TimedOut", _TIMED_OUT), ("Failed", _FAILED)):
        description = fill(
            f"Executions of {machine.name} {what} See docs/operations.md#{kind.lower()}alarm.",
            width=_LINE_LENGTH,
            initial_indent=6 * " ",
            subsequent_indent=6 * " ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        yield _ALARM.substitute(id=machine.logical_id, kind=kind, description=description)
