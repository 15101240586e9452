"""AWS Lambda's way into the stage that generates API keys."""

from provisioner.aws_lambda import handler_of
from provisioner.composition import api_keys

handle = handler_of(api_keys.build)
