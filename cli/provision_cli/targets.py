"""Which deployment a command talks to: the local stack, or the one that --stack names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import typer
from botocore.exceptions import ClientError, NoRegionError
from provisioner import api
from provisioner.runtime import aws

from provision_cli.local.stack import LocalStack, LocalStackSettings
from provision_cli.sentences import CommandError


@dataclass(frozen=True, slots=True)
class Target:
    """What the global options say."""

    stack: str | None
    region: str | None

    @classmethod
    def of(cls, context: typer.Context) -> Self:
        """Return what the global options of a command say."""
        found = context.find_object(cls)
        if found is None:
            raise TypeError("the program's callback sets it")
        return found

    def connect(self) -> str:
        """Let the public API talk to the deployment; returns its region.

        Raises:
            CommandError: there is no such stack, or it is another project's.
            LocalStackNotRunningError: the local stack does not run.
        """
        if self.stack is None:
            if self.region is not None:
                raise CommandError("--region: goes with --stack; the local stack has its own.")
            running = LocalStack(LocalStackSettings.from_environment()).running()
            running.enter()
            api.connect_to_stack(running.stack_name, running.region)
            return running.region
        region = self.region or aws.session().region_name
        if not region:
            raise NoRegionError
        try:
            api.connect_to_stack(self.stack, region)
        except ClientError as error:
            # Source: AWS CloudFormation API Reference, DescribeStacks, "Errors".
            if error.response["Error"]["Code"] != "ValidationError":
                raise
            raise CommandError(
                f"--stack: there is no stack {self.stack} in {region}; name one that is deployed."
            ) from None
        except api.AwsSettingsError:
            raise
        except api.SettingsError:
            raise CommandError(
                f"--stack: {self.stack} is no deployment of this project; its outputs are missing."
            ) from None
        return region
