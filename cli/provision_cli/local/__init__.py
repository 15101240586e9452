"""The local stack: PostgreSQL, the local AWS and the project's own template deployed to it."""
