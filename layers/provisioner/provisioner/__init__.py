"""Provisions a customer project on AWS as a job. The public names are in `provisioner.api`."""
