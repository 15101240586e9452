"""API keys of projects: their format, the table of their digests, their verification."""
