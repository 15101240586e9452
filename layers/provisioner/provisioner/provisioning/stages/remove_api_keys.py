"""REMOVING_API_KEYS: the digests of the API keys, and the secret that hands the keys over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provisioner.api_keys.key_format import digest
from provisioner.api_keys.store import ApiKeyStore
from provisioner.drivers.secrets import claimed_secret, remove_secret
from provisioner.errors import ErrorType, failure
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput, StageOutcome
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
    yet. Keys that are not there are as good as removed.

    Raises:
        REMOVAL_FAILED: something is still there; and what `translated` raises.
    """
    payload = validate_payload(ProjectReference, job.payload)
    name = naming.names(payload.project_id).api_keys_secret
    claim = naming.owner(payload.project_id, job.job_id).claim(only_this_job=only_this_job)
    secret = claimed_secret(secrets_manager, name=name, claim=claim, final=ErrorType.REMOVAL_FAILED)
    listed = [
        key.digest
        for key in store.list_by_project(payload.project_id)
        if not only_this_job or key.job_id == job.job_id
    ]
    handed_over = [] if secret is None else [digest(text) for text in secret.value["api_keys"]]
    digests = dict.fromkeys([*listed, *handed_over])
    for key_digest in digests:
        store.remove(key_digest)
    remove_secret(secrets_manager, name=name, claim=claim, final=ErrorType.REMOVAL_FAILED)
    if any(store.get(key_digest) is not None for key_digest in digests):
        raise failure(
            ErrorType.REMOVAL_FAILED, "An API key of the project is still there.", "digest found"
        )
    return StageOutcome(check="no API key is left to remove")
