"""Ids as people type them: whole, or a beginning that no other one has."""

from __future__ import annotations

import re
from collections.abc import Collection

from provisioner import api

from provision_cli.sentences import CommandError

#: Characters of a beginning: fewer may be a slip, such as a variable of the shell that is not set.
FEWEST = 4

_WHOLE = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def find_job_id(given: str) -> str:
    """Return the id of the job that is given by it, or by a beginning; it reads the whole table.

    Raises:
        CommandError: several jobs have this beginning, or it is too short for one.
        JobNotFoundError: none has.
    """
    if not given:
        raise CommandError(
            "job: is empty; give an id, or its beginning, as `provision jobs` shows."
        )
    if is_whole(given):
        return given
    try:
        return api.get_job(given).job_id
    except api.JobNotFoundError:
        # A beginning is no key: DynamoDB finds it by reading everything.
        found = choose_id(given, [job.job_id for job in api.list_jobs()], "job")
        if found is None and len(given) < FEWEST:
            raise CommandError(
                f"job {given}: no such job is stored; a beginning has {FEWEST} characters or more."
            ) from None
        if found is None:
            raise
    return found


def is_whole(given: str) -> bool:
    """Whether it is an id as `enqueue` and SQS give them, and no beginning of one."""
    return _WHOLE.fullmatch(given) is not None


def choose_id(given: str, ids: Collection[str], kind: str) -> str | None:
    """Return the id that is given by it, or by a beginning; None where there is none.

    Raises:
        CommandError: several have this beginning.
    """
    if given in ids:
        return given
    found = [one for one in ids if one.startswith(given)] if len(given) >= FEWEST else []
    if len(found) > 1:
        raise CommandError(
            f"{kind} {given}: {len(found)} {kind}s begin with it; give more of the one you mean."
        )
    return found[0] if found else None
