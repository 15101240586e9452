"""PostgreSQL as the engine of tenant databases."""
