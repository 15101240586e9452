"""What is derived from the job types' definitions, as the text of files."""
