"""The job types that a deployment accepts: every module here registers its handlers on import."""
