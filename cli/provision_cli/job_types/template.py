"""The parts of template.yaml that follow from the job types: between the lines `begin` and `end`.

A job type has a state machine with its log group, its role and its two alarms. The dispatcher may
start them, the reconciler hears of them.
"""

import re
from string import Template
from textwrap import fill, indent
from typing import Any

from provisioner.jobs.definition import JobDefinition, JobDefinitions, pascal_case
from provisioner.provisioning.functions import FUNCTIONS, LIFECYCLE

#: What state machines, and their alarms, have in common, by its anchor.
_SHARED = {
    "state_machine": """
      Type: STANDARD
      Tracing: { Enabled: true }""",
    "errors_without_data": """
        Level: ERROR
        IncludeExecutionData: false""",
    "assumed_by_step_functions": """
      Version: "2012-10-17"
      Statement:
        # Step Functions runs the state machine as this role, for this account's machines only.
        - Sid: AssumedByStepFunctions
          Effect: Allow
          Principal: { Service: states.amazonaws.com }
          Action: sts:AssumeRole
          Condition:
            StringEquals:
              aws:SourceAccount: !Ref AWS::AccountId""",
    "run_stages": """
                # The functions of the stages, and no other; not the dispatcher.
                Sid: RunStages
                Effect: Allow
                Action: lambda:InvokeFunction""",
    "deliver_logs": """
              # Resource "*": the delivery of logs has no resources for these actions.
              Sid: DeliverLogs
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
              Resource: "*"\
""",
    "trace_machine": """
              # Resource "*": X-Ray has no resources for these actions.
              Sid: WriteTraces
              Effect: Allow
              Action:
                - xray:PutTraceSegments
                - xray:PutTelemetryRecords
                - xray:GetSamplingRules
                - xray:GetSamplingTargets
              Resource: "*"\
""",
    "executions_timed_out": """
      <<: *first_one
      Namespace: AWS/States
      MetricName: ExecutionsTimedOut""",
    "executions_failed": """
      <<: *first_one
      Namespace: AWS/States
      MetricName: ExecutionsFailed""",
}

_STATE_MACHINE = Template("""\
${id}StateMachine:
  Type: AWS::Serverless::StateMachine
  Properties:
    <<: ${state_machine}
    Name: !Sub "$${AWS::StackName}-${name}"
    DefinitionUri: state_machines/${name}.asl.json
    DefinitionSubstitutions:
${substitutions}
    Role: !GetAtt ${id}StateMachineRole.Arn
    Logging:
      <<: ${errors_without_data}
      Destinations:
        - CloudWatchLogsLogGroup: { LogGroupArn: !GetAtt ${id}StateMachineLogGroup.Arn }

${id}StateMachineLogGroup:
  <<: *log_group
  Properties: { <<: *log_lines, LogGroupName: ${log_group_name} }

${id}StateMachineRole:
  Type: AWS::IAM::Role
  Properties:
    AssumeRolePolicyDocument: ${assumed_by_step_functions}
    PermissionsBoundary: *boundary
    Policies:
      - PolicyName: ${name}
        PolicyDocument:
          Version: "2012-10-17"
          Statement:
            - <<: ${run_stages}
              Resource: [${functions}]
${start_cleanup}\
            - ${deliver_logs}
            - ${trace_machine}
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
    <<: ${executions}
    AlarmDescription: >-
${description}
    Dimensions: [{ Name: StateMachineArn, Value: !Ref ${id}StateMachine }]
""")

_TIMED_OUT = "have run out of time, so that none of their states could say how the job ended."
_FAILED = (
    "have failed. As many failed jobs are counted by JobsFailed; any more ended without a word."
)

#: The alarms of a state machine: their kind, what those of a kind share, and what has happened.
_ALARMS = (
    ("TimedOut", "executions_timed_out", _TIMED_OUT),
    ("Failed", "executions_failed", _FAILED),
)


class TemplateError(ValueError):
    """The template lacks a line `begin` or `end`; the message names it."""


def generate(template: str, definitions: JobDefinitions) -> str:
    """Return a template's text with all that follows from the job types written anew.

    Args:
        template: the text, with the lines `begin` and `end` of each part.
        definitions: the job types.

    Raises:
        TemplateError: a line is missing.
    """
    said: set[str] = set()
    references = "".join(f"- !Ref {pascal_case(name)}StateMachine\n" for name in definitions)
    parts = {
        "required job types": f"REQUIRED_JOB_TYPES: {','.join(definitions)}\n",
        "state machines of jobs": references,
        "executions": "".join(
            '- !Sub "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:execution:'
            f'${{{pascal_case(name)}StateMachine.Name}}:*"\n'
            for name in definitions
        ),
        "state machines": "\n".join(
            _state_machine(definition, said) for definition in definitions.values()
        ),
        "alarms of state machines": "\n".join(
            _alarm(name, *alarm, said) for name in definitions for alarm in _ALARMS
        ),
    }
    for name, text in parts.items():
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
        rf"^(?P<margin> *)(#|<!--) begin {name}: .*\n(?P<part>(?:.*\n)*?)"
        rf" *(#|<!--) end {name}( -->)?$",
        re.MULTILINE,
    )
    found = lines.search(text)
    if found is None:
        raise TemplateError(f"{file}: the lines `begin {name}` and `end {name}` miss.")
    return text[: found.start("part")] + indent(part, found["margin"]) + text[found.end("part") :]


def _say(anchor: str, text: str, said: set[str]) -> str:
    """Return a text with its anchor where it was not said before, and else its anchor alone."""
    if anchor in said:
        return f"*{anchor}"
    said.add(anchor)
    return f"&{anchor}{text}"


def _state_machine(definition: JobDefinition[Any], said: set[str]) -> str:
    # That of the lifecycle records how all has ended.
    used = {LIFECYCLE.name, *(stage.function.name for stage in definition.stages)}
    functions = [name for name in FUNCTIONS if name in used]
    substitutions = [
        f"{pascal_case(name)}FunctionArn: "
        + _say(f"{name}_arn", f" !GetAtt {pascal_case(name)}Function.Arn", said)
        for name in functions
    ]
    cleanup = pascal_case(definition.on_failure.cleanup_job_type)
    if cleanup:
        substitutions.append(f"CleanupStateMachineArn: !Ref {cleanup}StateMachine")
    shared = (anchor for anchor in _SHARED if f"${{{anchor}}}" in _STATE_MACHINE.template)
    return _STATE_MACHINE.substitute(
        {anchor: _say(anchor, _SHARED[anchor], said) for anchor in shared},
        id=pascal_case(definition.name),
        name=definition.name,
        substitutions=indent("\n".join(substitutions), 6 * " "),
        functions=", ".join(f"*{name}_arn" for name in functions),
        start_cleanup=_START_CLEANUP.substitute(id=cleanup) if cleanup else "",
        log_group_name=f'!Sub "/aws/vendedlogs/states/${{AWS::StackName}}-{definition.name}"',
    )


def _alarm(name: str, kind: str, anchor: str, what: str, said: set[str]) -> str:
    description = fill(
        f"Executions of {name} {what} See docs/operations.md#{kind.lower()}alarm.",
        width=100,
        initial_indent=6 * " ",
        subsequent_indent=6 * " ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return _ALARM.substitute(
        id=pascal_case(name),
        kind=kind,
        executions=_say(anchor, _SHARED[anchor], said),
        description=description,
    )
