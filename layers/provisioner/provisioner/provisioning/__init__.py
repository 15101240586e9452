"""The job types of projects: their contracts, their stages, and what they share."""
