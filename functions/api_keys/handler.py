"""AWS Lambda's way into the stages of API keys, and the end of those that nobody claims."""

from provisioner.aws_lambda import handler_of
from provisioner.composition import api_keys

handle = handler_of(api_keys.build, takes_context=True)
