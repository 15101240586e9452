"""MySQL or MariaDB as the engine of tenant databases."""
