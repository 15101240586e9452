"""AWS Lambda's way from the messages that were never dispatched to the dead letters."""

from provisioner.aws_lambda import handler_of
from provisioner.composition import dead_letters

handle = handler_of(dead_letters.build, takes_context=True)
