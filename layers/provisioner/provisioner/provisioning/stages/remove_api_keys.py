"""REMOVING_API_KEYS: the digests of the API keys, and the secret that hands the keys over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.api_keys.key_format import digest
from provisioner.api_keys.store import ApiKeyStore
from provisioner.drivers.secrets import claimed_secret, remove_secret
from provisioner.errors import ErrorType, failure
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.location import made_by
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.payload import ProjectReference

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient


def remove_api_keys(
    job: JobInput,
    *,
    secrets_manager: SecretsManagerClient,
    store: ApiKeyStore,
    naming: Naming,
    only_this_job: bool,
) -> StageOutcome:
    """Remove the digests first, so that no key verifies, then the secret.

    The secret says which digests there are, so that none is missed that the index does not show
    yet; it says so too where another job of the project made it, and then stays itself. Keys that
    are not there are as good as removed.

    Raises:
        REMOVAL_FAILED: something is still there; and what `translated` raises.
    """
    payload = validate_payload(ProjectReference, job.payload)
    job_id = made_by(job)
    owner = naming.owner(payload.project_id, job_id)
    name = naming.names(payload.project_id).api_keys_secret
    secret = claimed_secret(
        secrets_manager, name=name, claim=owner.owns, final=ErrorType.REMOVAL_FAILED
    )
    handed_over = [] if secret is None else [digest(text) for text in secret.value["api_keys"]]
    listed = [key.digest for key in store.list_by_project(payload.project_id)]
    digests = dict.fromkeys([*listed, *handed_over])

    def is_to_go(key_digest: str) -> bool:
        key = store.get(key_digest)
        return key is not None and (not only_this_job or key.job_id == job_id)

    for key_digest in digests:
        if is_to_go(key_digest):
            store.remove(key_digest)
    claim = owner.claim(only_this_job=only_this_job)
    remove_secret(secrets_manager, name=name, claim=claim, final=ErrorType.REMOVAL_FAILED)
    if any(map(is_to_go, digests)):
        raise failure(
            ErrorType.REMOVAL_FAILED, "An API key of the project is still there.", "digest found"
        )
    return StageOutcome(check="no API key is left to remove")
