"""AWS Lambda's way into the stages that make, change and remove database instances."""

from provisioner.aws_lambda import handler_of
from provisioner.composition import instances

handle = handler_of(instances.build, takes_context=True)
