"""AWS Lambda's way into the stages that register Cognito, AppSync and S3."""

from provisioner.aws_lambda import handler_of
from provisioner.composition import services

handle = handler_of(services.build)
