"""The end of secrets of API keys that nobody claims: AWS keeps them, and charges for each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from provisioner.api_keys.hand_over import (
    API_KEYS_EXPIRED,
    API_KEYS_EXPIRING,
    HandOver,
    HandOverStatus,
    HandOverStore,
)
from provisioner.aws_types import SecretsManagerClient
from provisioner.drivers.aws_errors import AWS_ERRORS, short_cause
from provisioner.drivers.secrets import is_secret_there, remove_secret
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.definition import TASK_MARGIN_SECONDS
from provisioner.jobs.models import NOTICE_SUBJECT
from provisioner.jobs.store import JobStore
from provisioner.ownership import Claim
from provisioner.provisioning.functions import API_KEYS
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader
from provisioner.runtime.observability import logger

#: What the event of the schedule names.
EXPIRE_UNCLAIMED_KEYS = "EXPIRE_UNCLAIMED_KEYS"

_FINAL = ErrorType.REMOVAL_FAILED

#: Seconds that one project may take.
_SECONDS_OF_ONE = 30.0

#: For how long the function that has begun to delete a secret may do so: it has ended by then.
_DELETES_FOR = timedelta(seconds=API_KEYS.seconds + TASK_MARGIN_SECONDS)


@dataclass(frozen=True, slots=True)
class UnclaimedKeys:
    """Gives notice of keys nobody has claimed, and deletes their secrets once their time is over.

    The digests stay: who has read the secret without claiming it has keys that verify.
    """

    hand_overs: HandOverStore
    projects: ProjectReader
    jobs: JobStore
    secrets_manager: SecretsManagerClient
    naming: Naming

    def __call__(self, time_left: Callable[[], float]) -> dict[str, Any]:
        """Do what is due, the longest due first.

        What fails does not keep the others, and is due again at the next run, as is what a job
        holds.

        Args:
            time_left: says for how many seconds it may go on.

        Returns:
            The projects that a notice was given of, those whose keys have expired, and whether it
            has looked at all that was due.

        Raises:
            ProvisioningError, botocore.exceptions.ClientError: the first of what has failed; the
                rest is done.
        """
        done: dict[str, list[str]] = {API_KEYS_EXPIRING: [], API_KEYS_EXPIRED: []}
        errors: list[Exception] = []
        has_seen_all = True
        for project_id in self.hand_overs.list_due(self.jobs.now()):
            if time_left() < _SECONDS_OF_ONE:
                has_seen_all = False
                break
            try:
                said = self._take_next_step(project_id)
            except (ProvisioningError, *AWS_ERRORS) as error:
                logger.error(
                    "unclaimed keys not removed", project_id=project_id, cause=_cause_of(error)
                )
                errors.append(error)
            else:
                if said is not None:
                    logger.info("unclaimed keys", project_id=project_id, says=said)
                    done[said].append(project_id)
        if errors:
            raise errors[0]
        return {
            "notified": done[API_KEYS_EXPIRING],
            "expired": done[API_KEYS_EXPIRED],
            "has_seen_all": has_seen_all,
        }

    def _take_next_step(self, project_id: str) -> str | None:
        """Do what is due for a project; return what its job's history says of it from now on."""
        found = self.hand_overs.get(project_id)
        if found is None or found.due_at is None or found.due_at > self.jobs.now():
            # The index follows later than its item.
            return None
        name = self.naming.names(project_id).api_keys_secret
        claim = self.naming.owner(project_id, found.job_id).claim(only_this_job=False)
        is_there = is_secret_there(self.secrets_manager, name=name, claim=claim, final=_FINAL)
        if not is_there and found.status is HandOverStatus.WAITING:
            # Whoever claimed it could not say so any more. What expires is marked before it goes.
            ended = self.jobs.work()
            ended.also([self.hand_overs.build_end(found, HandOverStatus.CLAIMED)])
            ended.write_if_it_holds()
            return None
        if found.status is HandOverStatus.WAITING and found.due_at < found.claim_before:
            return self._give_notice(found)
        return self._expire(found, name, claim)

    def _give_notice(self, waiting: HandOver) -> str | None:
        work = self.jobs.work()
        work.also([self.hand_overs.build_notice(waiting)])
        work.add_history(
            waiting.job_id,
            NOTICE_SUBJECT,
            API_KEYS_EXPIRING,
            note=f"Nobody has claimed the API keys of project {waiting.project_id} yet; "
            f"their secret is deleted on {waiting.claim_before:%Y-%m-%d}.",
            deadline=waiting.claim_before,
        )
        return API_KEYS_EXPIRING if work.write_if_it_holds() else None

    def _expire(self, due: HandOver, name: str, claim: Claim) -> str | None:
        """Delete the secret of a set, unless a job has the project, or someone claims it.

        A job that has the project may be about to write another set into the secret. One that gets
        it after this has begun waits until it has ended.
        """
        now = self.jobs.now()
        until = now + _DELETES_FOR
        is_free = self.projects.build_free_check(due.project_id)
        begun = self.jobs.work()
        begun.also([self.hand_overs.build_expiry(due, now, until), is_free])
        if not begun.write_if_it_holds():
            return None
        remove_secret(self.secrets_manager, name=name, claim=claim, final=_FINAL)
        ended = self.jobs.work()
        expiring = replace(due, expiring_until=until)
        ended.also([self.hand_overs.build_end(expiring, HandOverStatus.EXPIRED)])
        ended.add_history(
            due.job_id,
            NOTICE_SUBJECT,
            API_KEYS_EXPIRED,
            note=f"Nobody had claimed the API keys of project {due.project_id} before "
            f"{due.claim_before:%Y-%m-%d}, so their secret is deleted; rotate the keys to get "
            "new ones.",
            deadline=due.claim_before,
        )
        return API_KEYS_EXPIRED if ended.write_if_it_holds() else None


def _cause_of(error: Exception) -> str:
    return error.cause if isinstance(error, ProvisioningError) else short_cause(error)
