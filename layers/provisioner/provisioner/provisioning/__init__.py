"""The job type provision_project: its contract, its stages, and what they share."""
