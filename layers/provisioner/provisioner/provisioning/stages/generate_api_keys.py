"""GENERATING_API_KEYS: the keys in their secret, and their digests in the table."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from provisioner.api_keys.key_format import (
    digest,
    generate_api_key,
    is_well_formed,
    key_id,
    key_prefix,
)
from provisioner.api_keys.store import ApiKey, ApiKeyStore
from provisioner.drivers.dynamodb import ConditionFailedError
from provisioner.drivers.secrets import (
    Secret,
    delete_secret,
    ensure_secret,
    replace_secret_value,
)
from provisioner.errors import ErrorType, failure
from provisioner.jobs.outcome import StageOutcome
from provisioner.jobs.registry import validate_payload
from provisioner.jobs.stage_run import JobInput
from provisioner.provisioning.first_run import may_exist
from provisioner.provisioning.job_types.provision_project import (
    ApiKeysRequest,
    ProvisionProjectPayload,
)
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.client import SecretsManagerClient


def ensure_api_keys(
    job: JobInput,
    *,
    secrets_manager: SecretsManagerClient,
    store: ApiKeyStore,
    projects: ProjectReader,
    naming: Naming,
    clock: Callable[[], datetime],
) -> StageOutcome:
    """Write the keys into their secret, and make the table of digests agree with it.

    The secret comes first and is the truth: a second run reads the keys from it and makes no
    others. A set that an earlier job made for another request is replaced, since no one can have
    claimed it: keys are handed over only once the project is ACTIVE. So the table changes only
    while this job holds the project, and a set that comes too late does not stay in the secret.

    Raises:
        CONFLICT: a secret of that name is not the project's, or the job holds the project no more.
        API_KEY_GENERATION_FAILED, and what `translated` raises.
    """
    payload = validate_payload(ProvisionProjectPayload, job.payload)
    project_id, request = payload.project_id, payload.api_keys

    made: list[dict[str, Any]] = []

    def make() -> dict[str, Any]:
        value = {
            "project_id": project_id,
            "created_at": clock().isoformat(timespec="microseconds"),
            "api_keys": [generate_api_key(request.prefix) for _ in range(request.count)],
        }
        made.append(value)
        return value

    secret = ensure_secret(
        secrets_manager,
        name=naming.names(project_id).api_keys_secret,
        owner=naming.owner(project_id, job.job_id),
        make=make,
        final=ErrorType.API_KEY_GENERATION_FAILED,
    )
    value = secret.value
    if not _answers(value["api_keys"], request):
        value = make()
        replace_secret_value(
            secrets_manager, secret, value, final=ErrorType.API_KEY_GENERATION_FAILED
        )
    keys = [
        new_key(text, value["created_at"], project_id, job.job_id) for text in value["api_keys"]
    ]
    try:
        store.make_only(
            project_id,
            keys,
            projects.lock_held_item(project_id, job.job_id),
            may_have_keys=may_exist(job) or not secret.is_new,
        )
    except ConditionFailedError:
        if value in made and not store.get_all([key.digest for key in keys]):
            _take_back(secrets_manager, secret, value)
        raise failure(
            ErrorType.CONFLICT,
            "The project is no longer held by this job, so its API keys were not stored.",
        ) from None
    return StageOutcome(
        output={
            "api_keys": shown(keys),
            "secret_arn": secret.arn,
        },
        check=f"each of the {len(keys)} API keys is stored by its digest",
    )


def _answers(api_keys: list[str], request: ApiKeysRequest) -> bool:
    return len(api_keys) == request.count and all(
        is_well_formed(text) and text.startswith(f"{request.prefix}_") for text in api_keys
    )


def new_key(plaintext: str, created_at: str, project_id: str, job_id: str) -> ApiKey:
    """Return what is stored of a key that a job has made."""
    key_digest = digest(plaintext)
    return ApiKey(
        digest=key_digest,
        key_id=key_id(key_digest),
        key_prefix=key_prefix(plaintext),
        project_id=project_id,
        job_id=job_id,
        created_at=created_at,
    )


def _take_back(client: SecretsManagerClient, secret: Secret, value: dict[str, Any]) -> None:
    """Leave the secret as it was before this run wrote a value that nobody is to have."""
    final = ErrorType.API_KEY_GENERATION_FAILED
    if secret.value == value:
        delete_secret(client, secret, final=final)
    else:
        replace_secret_value(client, secret, secret.value, final=final)


def shown(keys: list[ApiKey]) -> list[dict[str, str]]:
    """Return what may be shown of keys."""
    return [
        {"key_id": key.key_id, "key_prefix": key.key_prefix, "created_at": key.created_at}
        for key in keys
    ]


def found_again(keys: list[ApiKey], store: ApiKeyStore) -> list[ApiKey]:
    """Return the keys as they are stored.

    Raises:
        API_KEY_GENERATION_FAILED: one is not found by its digest.
    """
    found = store.get_all([key.digest for key in keys])
    missing = [key.key_id for key in keys if key.digest not in found]
    if missing:
        raise failure(
            ErrorType.API_KEY_GENERATION_FAILED,
            "An API key was not found again after it was stored.",
            f"{missing[0]}: no item of its digest",
        )
    return [found[key.digest] for key in keys]
