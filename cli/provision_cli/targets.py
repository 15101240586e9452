"""What a command is about: a deployment, and the ids in it as people type them."""

import re
from collections.abc import Collection
from typing import Any

import typer
from botocore.exceptions import ClientError, NoRegionError
from provisioner import api
from provisioner.runtime import aws
from typer.core import TyperCommand

from provision_cli.local.stack import LocalStack
from provision_cli.sentences import CommandError

#: Characters of a beginning: fewer may be a slip, such as a variable of the shell that is not set.
FEWEST = 4

_WHOLE = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Connected(TyperCommand):
    """A command that talks to the deployment which the program's options name."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command once the public API talks to the deployment; raises as `connect` does."""
        connect(ctx)
        return super().invoke(ctx)


def connect(context: typer.Context) -> str:
    """Let the public API talk to the deployment of a command; returns its region.

    Raises:
        CommandError: there is no such stack, or it is another project's.
        LocalStackNotRunningError: the local stack does not run.
    """
    options = context.find_root().params
    stack, region = options["stack"], options["region"]
    if stack is None:
        if region is not None:
            raise CommandError("--region: goes with --stack; the local stack has its own.")
        running = LocalStack.of_developer().running()
        running.enter()
        stack, region = running.stack_name, running.region
    region = region or aws.session().region_name
    if not region:
        raise NoRegionError
    try:
        api.connect_to_stack(stack, region)
    except ClientError as error:
        # Source: AWS CloudFormation API Reference, DescribeStacks, "Errors".
        if error.response["Error"]["Code"] != "ValidationError":
            raise
        raise CommandError(
            f"--stack: there is no stack {stack} in {region}; name one that is deployed."
        ) from None
    except api.AwsSettingsError:
        raise
    except api.SettingsError:
        raise CommandError(
            f"--stack: {stack} is no deployment of this project; its outputs are missing."
        ) from None
    return str(region)


def find_job_id(given: str) -> str:
    """Return the id of the job that is given by it, or of a recent one by a beginning.

    Raises:
        CommandError: several jobs have this beginning, or it is too short for one.
        JobNotFoundError: none has.
    """
    if is_whole(given):
        return given
    try:
        return api.get_job(given).job_id
    except api.JobNotFoundError:
        if len(given) < FEWEST:
            raise CommandError(
                f"job '{given}': no such job is stored; a beginning has {FEWEST} characters or "
                "more, as `provision jobs` shows."
            ) from None
        # A beginning is no key: it is looked for among the newest jobs, as `provision jobs` shows.
        found = choose_id(given, api.find_job_ids(given), "job")
        if found is None:
            raise
        return found


def is_whole(given: str) -> bool:
    """Whether it is an id as `enqueue` and SQS give them, and no beginning of one."""
    return _WHOLE.fullmatch(given) is not None


def choose_id(given: str, ids: Collection[str], kind: str) -> str | None:
    """Return the id that is given by it, or by a beginning; None where there is none.

    Raises:
        CommandError: several have this beginning.
    """
    if given in ids:
        return given
    found = [one for one in ids if one.startswith(given)] if len(given) >= FEWEST else []
    if len(found) > 1:
        raise CommandError(
            f"{kind} {given}: {len(found)} {kind}s begin with it; give more of the one you mean."
        )
    return found[0] if found else None
