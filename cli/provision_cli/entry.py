"""The way into the program: what is imported takes a second, in which Ctrl-C may come too."""

import logging
import sys

#: What a shell reports of a program that Ctrl-C ended: 128 and the number of SIGINT.
_INTERRUPTED = 130


def run() -> None:
    """Run the program as a process."""
    try:
        from provisioner.runtime.observability import logger  # noqa: PLC0415  # see above

        from provision_cli.main import main  # noqa: PLC0415  # see above
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except ValueError as error:
        from provisioner.jobs.definition import DefinitionError  # noqa: PLC0415  # see above

        if not isinstance(error, DefinitionError):
            raise
        sys.exit(f"provision: {error}")
    # What a job logs that runs in this process is for operators of functions, and not the answer.
    logger.setLevel(logging.CRITICAL)
    sys.exit(main(sys.argv[1:]))
