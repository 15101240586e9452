"""What can go wrong with the local stack."""


class LocalStackError(RuntimeError):
    """Something of the local stack could not be started, built or found; one sentence says what."""
