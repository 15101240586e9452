"""The project's own files, as the tests read them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package that nothing else needs
from provision_cli.job_types.events import events as stage_events
from provisioner.jobs.definition import LONGEST_RUN_SECONDS
from provisioner.provisioning.job_types import JOB_TYPES

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "template.yaml"
STATE_MACHINES = ROOT / "state_machines"

#: The names of the state machines within a stack.
STATE_MACHINE_NAMES = tuple(
    path.name.removesuffix(".asl.json") for path in sorted(STATE_MACHINES.glob("*.asl.json"))
)

PACKAGE = ROOT / "layers" / "provisioner" / "provisioner"


class _TemplateLoader(yaml.CSafeLoader):  # type: ignore[misc]  # untyped, as above
    """Reads CloudFormation's short forms (`!Ref X`) as its long ones (`{"Ref": "X"}`)."""


def _long_form(loader: _TemplateLoader, name: str, node: yaml.Node) -> dict[str, Any]:
    match node:
        case yaml.ScalarNode():
            value: Any = loader.construct_scalar(node)
        case yaml.SequenceNode():
            value = loader.construct_sequence(node, deep=True)
        case _:
            value = loader.construct_mapping(node, deep=True)
    if name == "GetAtt":
        value = value.split(".", 1)
    return {name if name in {"Ref", "Condition"} else f"Fn::{name}": value}


_TemplateLoader.add_multi_constructor("!", _long_form)


#: Declared for `sam local` alone, and left out of every deployment.
LOCAL_VARIABLE = "AWS_ENDPOINT_URL"


@dataclass(frozen=True)
class LambdaFunction:
    """A function as the template declares it, with the globals applied."""

    logical_id: str
    properties: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where its handler is."""
        return ROOT / str(self.properties["CodeUri"])

    @property
    def environment(self) -> dict[str, Any]:
        """Its variables in a deployment, as the template writes their values."""
        variables = self.properties["Environment"]["Variables"]
        return {name: value for name, value in variables.items() if name != LOCAL_VARIABLE}


@cache
def template() -> dict[str, Any]:
    """Return the template."""
    text = TEMPLATE.read_text()
    loaded: dict[str, Any] = yaml.load(text, Loader=_TemplateLoader)  # a SafeLoader  # nosec B506
    return loaded


def resources(resource_type: str) -> dict[str, dict[str, Any]]:
    """Return the resources of a type by logical id."""
    return {
        name: resource
        for name, resource in template()["Resources"].items()
        if resource["Type"] == resource_type
    }


def resolved(value: Any, conditions: Collection[str] = ()) -> Any:
    """Return a part of the template as CloudFormation takes it, where some conditions hold."""
    match value:
        case {"Fn::If": [str(condition), yes, no]}:
            return resolved(yes if condition in conditions else no, conditions)
        case dict():
            parts = {name: resolved(part, conditions) for name, part in value.items()}
            return {name: part for name, part in parts.items() if part != _NO_VALUE}
        case list():
            return [p for part in value if (p := resolved(part, conditions)) != _NO_VALUE]
        case _:
            return value


_NO_VALUE = {"Ref": "AWS::NoValue"}


def policies_of(role: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a role's own policies, those with a condition included."""
    return [p["Fn::If"][1] if "Fn::If" in p else p for p in role["Properties"]["Policies"]]


def functions() -> dict[str, LambdaFunction]:
    """Return the functions by the name of their folder."""
    made = [
        LambdaFunction(
            name, _merged(template()["Globals"]["Function"], resource.get("Properties", {}))
        )
        for name, resource in resources("AWS::Serverless::Function").items()
    ]
    return {function.folder.name: function for function in made}


def state_machines() -> dict[str, dict[str, Any]]:
    """Return the definitions of the state machines by their names within a stack."""
    return {name: state_machine(name) for name in STATE_MACHINE_NAMES}


def state_machine(name: str = "provision_project") -> dict[str, Any]:
    """Return the definition of a state machine."""
    return dict(json.loads((STATE_MACHINES / f"{name}.asl.json").read_text()))


def all_states(states: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every state by name, those of branches included."""
    for name, state in states.items():
        yield name, state
        for branch in state.get("Branches", []):
            yield from all_states(branch["States"])


def substituted_state_machine(name: str, placeholder: str) -> str:
    """Return which state machine the template puts in a placeholder of another's definition."""
    machines = resources("AWS::Serverless::StateMachine")
    user = next(m for m in machines.values() if _name_of(m) == name)
    reference = user["Properties"]["DefinitionSubstitutions"][placeholder]
    return _name_of(machines[reference["Ref"]])


def _name_of(state_machine_resource: dict[str, Any]) -> str:
    """Return a state machine's name within the stack."""
    name: str = state_machine_resource["Properties"]["Name"]["Fn::Sub"]
    return name.removeprefix("${AWS::StackName}-")


def events() -> list[Path]:
    """Return the sample events; those of stages in the order of their job, after all others."""
    by_hand = [
        "dispatcher/batch",
        "dispatcher/poison_message",
        "lifecycle/record_failure",
        "reconciler/execution_aborted",
        "instances/remove_expired_snapshots",
        "api_keys/expire_unclaimed_keys",
        "dead_letters/batch",
        "events/history",
    ]
    order = [ROOT / "events" / f"{name}.json" for name in by_hand]
    order += [ROOT / path for path in stage_events(JOB_TYPES)]
    assert set((ROOT / "events").rglob("*.json")) == set(order), "run `make state-machines`"
    return order


def kept_operations() -> dict[str, list[str]]:
    """Return the AWS operations that the layer keeps, by botocore's name of their service."""
    return dict(json.loads((ROOT / "layers" / "provisioner" / "aws_operations.json").read_text()))


def makefile_variable(makefile: Path, name: str) -> str:
    """Return what a makefile sets a variable to, as it is written there."""
    match = re.search(rf"^{name} *[:?]?= *(.*)$", makefile.read_text(), re.MULTILINE)
    assert match is not None, f"{makefile} sets no {name}"
    return match[1]


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(name), dict)
        result[name] = _merged(base[name], value) if both else value
    return result


def longest_run(job_type: str, stage: str) -> int:
    """Return for how many seconds a run of a stage may be at work; of one unknown, the longest."""
    definition = JOB_TYPES.get(job_type)
    found = None if definition is None else definition.stage(stage)
    return LONGEST_RUN_SECONDS if found is None else found.seconds
