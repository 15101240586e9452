"""The commands that enqueue a job: one for each job type whose definition names a command.

The project's id is its argument. Each other field of the payload is an option, with the field's
description for its help, and its bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from annotated_types import Ge, Le
from provisioner import api
from provisioner.jobs.definition import DefinitionError, JobDefinition, JobDefinitions
from pydantic.fields import FieldInfo

from provision_cli import display
from provision_cli.targets import Target

_ARGUMENT = "project_id"

#: What a word of a command line can be read as.
_TYPES = (bool, int, float, str)


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
    for info in app.registered_groups:
        if info.name == name and info.typer_instance is not None:
            return info.typer_instance
    made = typer.Typer(help=f"Enqueue jobs about a project's {name}.")
    app.add_typer(made, name=name)
    return made


def enqueue_change(context: typer.Context, job_type: str, payload: Mapping[str, Any]) -> None:
    """Enqueue a job and print its id; a payload that is wrong is refused before anything else."""
    api.get_job_handler(job_type).parse(payload)
    Target.of(context).connect()
    job = api.enqueue_job(job_type, payload)
    display.show_enqueued(job)


def _command(definition: JobDefinition[Any]) -> Callable[..., None]:
    """Make the function of a command, with a signature that Typer reads as one written by hand."""

    def enqueue(context: typer.Context, **given: Any) -> None:
        # What is left out is the payload model's to fill in.
        payload = {name: value for name, value in given.items() if value is not None}
        enqueue_change(context, definition.name, payload)

    parameters = [Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    parameters += [
        _parameter(definition, name, field)
        for name, field in definition.payload_model.model_fields.items()
    ]
    enqueue.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # as inspect reads it
    enqueue.__annotations__ = {p.name: p.annotation for p in parameters}
    return enqueue


def _parameter(definition: JobDefinition[Any], name: str, field: FieldInfo) -> Parameter:
    if name == _ARGUMENT:
        return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=str)
    described = field.description or ""
    bounds = {
        word: getattr(bound, attribute)
        for bound in field.metadata
        for kind, word, attribute in ((Ge, "min", "ge"), (Le, "max", "le"))
        if isinstance(bound, kind)
    }
    option = typer.Option(
        help=described, show_default=field.default is not None and field.default != "", **bounds
    )
    return Parameter(
        name,
        Parameter.KEYWORD_ONLY,
        default=Parameter.empty if field.is_required() else field.default,
        annotation=Annotated[_type_of(definition, name, field), option],
    )


def _type_of(definition: JobDefinition[Any], name: str, field: FieldInfo) -> Any:
    """Return what an option's word is read as; None is what it is where it is left out."""
    kinds = [field.annotation]
    if get_origin(field.annotation) in {Union, UnionType}:
        kinds = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    kind = kinds[0]
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if len(kinds) > 1 or not isinstance(kind, type) or not issubclass(kind, _TYPES):
        raise DefinitionError(
            f"job type {definition.name}: command: its payload's field {name} is no option, which "
            "is a text, a number or a flag; leave out the command."
        )
    return kind if field.is_required() or field.default is not None else kind | None
