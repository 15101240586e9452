"""REVOKING_API_KEY: one API key stops verifying at once."""

from __future__ import annotations

from provisioner.api_keys.store import ApiKeyStatus, ApiKeyStore
from provisioner.errors import ErrorType, failure
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.job_types.revoke_api_key import RevokeApiKeyPayload


def ensure_api_key_revoked(job: JobInput, *, store: ApiKeyStore) -> StageOutcome:
    """Revoke the key; one that was revoked before keeps its time.

    It is one conditional write, so that it takes no lock and nothing has to end before. Whatever
    else writes to the item then, leaves a key that is revoked as it is, or removes it.

    Raises:
        INVALID_PAYLOAD: the project has no key of that id, or no more.
        API_KEY_GENERATION_FAILED: the key is not found as revoked.
    """
    payload = validate_payload(RevokeApiKeyPayload, job.payload)
    key = store.find(payload.key_id)
    if key is not None and key.project_id == payload.project_id:
        store.revoke(key.digest)
        key = store.get(key.digest)
    if key is None or key.project_id != payload.project_id:
        raise failure(
            ErrorType.INVALID_PAYLOAD,
            f"key_id: project {payload.project_id} has no API key {payload.key_id}; "
            "list its keys and correct it.",
        )
    if key.status is not ApiKeyStatus.REVOKED:
        raise failure(
            ErrorType.API_KEY_GENERATION_FAILED,
            "The API key was not found as revoked after it had been.",
            f"{payload.key_id}: {key.status}",
        )
    return StageOutcome(
        output={"key_id": key.key_id, "revoked_at": key.revoked_at},
        check=f"{payload.key_id} does not verify",
    )
