"""AWS Lambda's way into the stages that reach the database clusters."""

from provisioner.aws_lambda import handler_of
from provisioner.composition import database

handle = handler_of(database.build)
