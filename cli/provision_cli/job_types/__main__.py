"""Writes all that is derived from the job types' definitions, as `make state-machines` runs it."""

import sys
from pathlib import Path

import typer
from provisioner.jobs.definition import DefinitionError

from provision_cli.job_types.template import TemplateError

_ROOT = Path(__file__).resolve().parents[3]


def main() -> int:
    """Write the files of this project, and name those that have changed."""
    try:
        # A definition that cannot be loaded, or run, is refused when it is imported.
        from provision_cli.job_types.derived import write  # noqa: PLC0415  # see above

        for line in write(_ROOT):
            typer.echo(line)
    except (DefinitionError, TemplateError) as error:
        typer.echo(error, err=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
