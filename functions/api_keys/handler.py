"""AWS Lambda's way into the stages that make, rotate and revoke API keys."""

from provisioner.aws_lambda import handler_of
from provisioner.composition import api_keys

handle = handler_of(api_keys.build, takes_context=True)
