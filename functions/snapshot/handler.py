"""AWS Lambda's way into the stage that takes the final snapshot."""

from provisioner.aws_lambda import handler_of
from provisioner.composition import snapshot

handle = handler_of(snapshot.build, takes_context=True)
