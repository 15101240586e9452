"""The demonstration: projects from a raw message to their end, on the local stack."""
