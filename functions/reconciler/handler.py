"""AWS Lambda's way into the reconciler: jobs that went silent, and cancels that need not wait."""

from provisioner.aws_lambda import handler_of
from provisioner.composition import reconciler

handle = handler_of(reconciler.build, takes_context=True)
