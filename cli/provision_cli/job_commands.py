"""The commands that enqueue a job: one for each job type whose definition names a command.

The project's id is its argument. Each other field of the payload is an option, with the field's
description for its help, and its bounds.
"""

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import Annotated, Any

import typer
from provisioner import api
from provisioner.jobs.definition import DefinitionError, JobDefinition, JobDefinitions

from provision_cli import display, targets

_ARGUMENT = "project_id"

#: What a word of a command line can be read as, by the names of JSON Schema.
_TYPES: dict[str | None, type] = {"boolean": bool, "integer": int, "number": float, "string": str}


def add_job_commands(app: typer.Typer, definitions: JobDefinitions) -> None:
    """Add the commands of the job types to a program, and the groups that it lacks for them.

    Raises:
        DefinitionError: a command is there already, or a field of its payload is no option.
    """
    for definition in definitions.values():
        if definition.command is not None:
            *path, name = definition.command
            group = app
            for word in path:
                group = _group(group, word)
            if any(name == (info.name or "") for info in group.registered_commands):
                raise DefinitionError(
                    f"job type {definition.name}: command: there is a command "
                    f"{' '.join(definition.command)} already."
                )
            group.command(name, help=f"{definition.meaning} Enqueues a job and prints its id.")(
                _command(definition)
            )


def _group(app: typer.Typer, name: str) -> typer.Typer:
    """Return the group of commands of a name; it is made where there is none."""
    for registered in app.registered_groups:
        group = registered.typer_instance
        if group is not None and group.info.name == name:
            return group
    made = typer.Typer(name=name, help=f"Enqueue jobs about a project's {name}.")
    app.add_typer(made)
    return made


def _command(definition: JobDefinition[Any]) -> Callable[..., None]:
    """Make the function of a command, with a signature that Typer reads as one written by hand."""

    def enqueue(context: typer.Context, **given: Any) -> None:
        # What is left out is the payload model's to fill in.
        payload = {name: value for name, value in given.items() if value is not None}
        # A payload that is wrong is refused before anything else.
        api.get_job_handler(definition.name).parse(payload)
        targets.connect(context)
        display.show_enqueued(api.enqueue_job(definition.name, payload))

    schema = definition.payload_model.model_json_schema()
    parameters = [
        Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *(
            _parameter(definition, name, field, is_required=name in schema.get("required", ()))
            for name, field in schema["properties"].items()
        ),
    ]
    enqueue.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # as inspect reads it
    enqueue.__annotations__ = {p.name: p.annotation for p in parameters}
    return enqueue


def _parameter(
    definition: JobDefinition[Any], name: str, field: Mapping[str, Any], *, is_required: bool
) -> Parameter:
    """Make the argument or option of a field, as JSON Schema describes it."""
    if name == _ARGUMENT:
        return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=str)
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    kind = _TYPES.get(kinds[0].get("type"))
    if len(kinds) > 1 or kind is None:
        raise DefinitionError(
            f"job type {definition.name}: command: its payload's field {name} is no option, which "
            "is a text, a number or a flag; leave out the command."
        )
    default = Parameter.empty if is_required else field.get("default")
    option = typer.Option(
        help=field.get("description", ""),
        show_default=default not in {None, ""},
        min=kinds[0].get("minimum"),
        max=kinds[0].get("maximum"),
    )
    # Of an option that may be left out, None is what it is then.
    read_as: Any = kind | None if default is None else kind
    return Parameter(
        name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[read_as, option]
    )
