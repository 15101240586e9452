"""AWS Lambda's way into the dispatcher: a batch of messages, each to one execution."""

from provisioner.aws_lambda import handler_of
from provisioner.composition import dispatcher

handle = handler_of(dispatcher.build, takes_context=True)
