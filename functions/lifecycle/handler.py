"""AWS Lambda's way into the beginning and the end of a job."""

from provisioner.aws_lambda import handler_of
from provisioner.composition import lifecycle

handle = handler_of(lifecycle.build)
