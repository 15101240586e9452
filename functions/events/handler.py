"""AWS Lambda's way from the history of jobs, as the table's stream hands it over, to the bus."""

from provisioner.aws_lambda import handler_of
from provisioner.composition import events

handle = handler_of(events.build)
