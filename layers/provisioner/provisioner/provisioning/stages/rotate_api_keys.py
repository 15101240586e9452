"""ROTATING_API_KEYS: new keys in their secret and in the table; the old ones get an end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from provisioner.api_keys.key_format import digest, generate_api_key
from provisioner.api_keys.store import ApiKey, ApiKeyStore
from provisioner.drivers.secrets import (
    Secret,
    ensure_secret,
    ensure_version,
    find_secret,
    version_id,
)
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.job_types.rotate_api_keys import RotateApiKeysPayload
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.payload import DEFAULT_API_KEY_PREFIX
from provisioner.provisioning.stages.generate_api_keys import found_again, new_key, shown

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient


def ensure_api_keys_rotated(
    job: JobInput,
    *,
    secrets_manager: SecretsManagerClient,
    store: ApiKeyStore,
    naming: Naming,
    clock: Callable[[], datetime],
) -> StageOutcome:
    """Write a new set of keys into the secret, store its digests, and let the old keys expire.

    The secret says which job its keys are of and is the truth: a second run finds its set there and
    makes no other, nor does one that finds the set stored and claimed, since an attempt of the job
    has failed after that. It also says which keys it replaces, since the index of the project's
    keys may not show the newest yet. The overlap begins when the new keys verify, however long ago
    they came into the secret.

    Raises:
        CONFLICT: a secret of that name is not the project's, or holds another job's keys by now.
        API_KEY_GENERATION_FAILED: a digest is not found again, and what `translated` raises.
    """
    payload = validate_payload(RotateApiKeysPayload, job.payload)
    listed = store.list_by_project(payload.project_id)
    keys = [key for key in listed if key.job_id == job.job_id]
    secret = _ensure_secret(
        job, payload, listed, secrets_manager=secrets_manager, naming=naming, now=clock()
    )
    replaced: list[str] = []
    if secret is not None:
        replaced = secret.value["replaces"]
        made_at = clock().isoformat(timespec="microseconds")
        made = [
            new_key(text, made_at, payload.project_id, job.job_id)
            for text in secret.value["api_keys"]
        ]
        # Whole, so that what the table shows of a set is the set.
        store.put_set(made)
        keys = found_again(made, store)
    since = max(key.created_at for key in keys)
    expire_at = datetime.fromisoformat(since) + timedelta(hours=payload.overlap_hours)
    current = {key.digest for key in keys}
    # What is newer was made by a later job, beside which this run goes on after it was given up.
    old = [key.digest for key in listed if key.created_at <= since and key.verifies_at(expire_at)]
    for key_digest in dict.fromkeys([*old, *replaced]):
        if key_digest not in current:
            store.expire(key_digest, expire_at)
    return StageOutcome(
        output={
            "api_keys": shown(keys),
            "old_keys_expire_at": expire_at.isoformat(timespec="microseconds"),
        }
        | ({} if secret is None else {"api_keys_secret_arn": secret.arn}),
        check=f"each of the {len(keys)} API keys was found by its digest",
    )


def _ensure_secret(
    job: JobInput,
    payload: RotateApiKeysPayload,
    listed: list[ApiKey],
    *,
    secrets_manager: SecretsManagerClient,
    naming: Naming,
    now: datetime,
) -> Secret | None:
    """Return the secret with the set of keys that this job makes; None where it was claimed.

    Raises:
        CONFLICT: another job has replaced that set, or replaces it now.
    """
    name = naming.names(payload.project_id).api_keys_secret

    def make(replaced: list[str]) -> dict[str, Any]:
        prefix = payload.prefix or _newest_prefix(listed, now)
        return {
            "project_id": payload.project_id,
            "job_id": job.job_id,
            "created_at": now.isoformat(timespec="microseconds"),
            "api_keys": [generate_api_key(prefix) for _ in range(payload.count)],
            "replaces": [digest(text) for text in replaced],
        }

    owner = naming.owner(payload.project_id, job.job_id)
    own = [key for key in listed if key.job_id == job.job_id]
    if own:
        kept = find_secret(
            secrets_manager, name=name, owner=owner, final=ErrorType.API_KEY_GENERATION_FAILED
        )
        if kept is None or kept.value.get("job_id") != job.job_id:
            if any(key.expires_at is not None for key in own):
                raise _replaced()
            return None

    def ensure() -> Secret:
        return ensure_secret(
            secrets_manager,
            name=name,
            owner=owner,
            make=lambda: make([]),
            final=ErrorType.API_KEY_GENERATION_FAILED,
        )

    secret = ensure()
    if secret.value.get("job_id") == job.job_id:
        return secret
    ensure_version(
        secrets_manager,
        secret,
        # Another attempt of the job makes a set of its own where another job's is there by then.
        version=version_id(name, f"{job.job_id}/{job.attempt}"),
        stage="AWSCURRENT",
        make=lambda: make(secret.value["api_keys"]),
        final=ErrorType.API_KEY_GENERATION_FAILED,
    )
    replaced = ensure()
    if replaced.value.get("job_id") != job.job_id:
        raise _replaced()
    return replaced


def _replaced() -> ProvisioningError:
    return failure(
        ErrorType.CONFLICT,
        "Another job has replaced the API keys of the project meanwhile; send a new job.",
    )


def _newest_prefix(listed: list[ApiKey], now: datetime) -> str:
    """Return the prefix of the newest key that verifies."""
    active = [key for key in listed if key.verifies_at(now)]
    if not active:
        return DEFAULT_API_KEY_PREFIX
    return max(active, key=lambda key: key.created_at).key_prefix.partition("_")[0]
