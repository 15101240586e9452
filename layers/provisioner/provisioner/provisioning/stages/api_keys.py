"""The API keys: their digests in the table, and the secret that hands them over.

GENERATING_API_KEYS, ROTATING_API_KEYS, REVOKING_API_KEY, REMOVING_API_KEYS.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from provisioner.api_keys.hand_over import (
    HandOver,
    HandOverStatus,
    HandOverStore,
    new_hand_over,
)
from provisioner.api_keys.key_format import (
    digest,
    generate_api_key,
    is_well_formed,
    key_id,
    key_prefix,
)
from provisioner.api_keys.store import ApiKey, ApiKeyStatus, ApiKeyStore
from provisioner.aws_types import SecretsManagerClient
from provisioner.drivers.dynamodb import ConditionFailedError, Write
from provisioner.drivers.secrets import (
    Secret,
    delete_secret,
    ensure_secret,
    ensure_version,
    find_claimed_secret,
    find_secret,
    is_secret_there,
    remove_secret,
    replace_secret_value,
    version_id,
)
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.provisioning.contract import DEFAULT_API_KEY_PREFIX, ProjectReference
from provisioner.provisioning.first_run import may_exist
from provisioner.provisioning.job_types.provision_project import (
    ApiKeysRequest,
    ProvisionProjectPayload,
)
from provisioner.provisioning.job_types.revoke_api_key import RevokeApiKeyPayload
from provisioner.provisioning.job_types.rotate_api_keys import RotateApiKeysPayload
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader
from provisioner.provisioning.stages.find_project import made_by

_FINAL = ErrorType.API_KEY_GENERATION_FAILED
_REMOVAL = ErrorType.REMOVAL_FAILED


# Longer than other functions: what it writes it takes back where it comes too late.
def ensure_api_keys(
    job: JobInput,
    *,
    secrets_manager: SecretsManagerClient,
    kms_key_arn: str | None,
    store: ApiKeyStore,
    hand_overs: HandOverStore,
    projects: ProjectReader,
    naming: Naming,
    clock: Callable[[], datetime],
) -> StageOutcome:
    """Write the keys into their secret, and make the table of digests agree with it.

    The secret comes first and is the truth: a second run makes no other keys. A set that an earlier
    job made for another request is replaced: no one can have claimed it before the project is
    ACTIVE. A set that comes too late, when this job holds the project no more, does not stay. The
    time to claim it begins when this job stores it, whichever job has made it.

    Raises:
        CONFLICT: a secret of that name is not the project's, or the job holds the project no more.
        TIMEOUT: the secret of the project's last keys is being deleted.
        API_KEY_GENERATION_FAILED, and what `translate_errors` raises.
    """
    payload = job.payload_as(ProvisionProjectPayload)
    project_id, request = payload.project_id, payload.api_keys

    def make() -> dict[str, Any]:
        return _make_set(job, project_id, request.prefix, request.count, clock())

    secret = ensure_secret(
        secrets_manager,
        name=naming.names(project_id).api_keys_secret,
        owner=naming.owner(project_id, job.job_id),
        make=make,
        kms_key_arn=kms_key_arn,
        final=_FINAL,
    )
    may_have_keys = may_exist(job) or not secret.is_new
    before = _find_hand_over(project_id, hand_overs, clock()) if may_have_keys else None
    hand_over, begins = _begin_hand_over(job, project_id, before, hand_overs, clock())
    value = secret.value
    if not _answers(value["api_keys"], request):
        value = make()
        replace_secret_value(secrets_manager, secret, value, final=_FINAL)
    keys = [
        new_key(text, value["created_at"], project_id, job.job_id) for text in value["api_keys"]
    ]
    held = projects.build_lock_check(project_id, job.job_id)
    try:
        store.make_only(project_id, keys, held, also=begins, may_have_keys=may_have_keys)
    except ConditionFailedError:
        if not store.get_all([key.digest for key in keys]):
            _take_back(secrets_manager, secret, value)
        raise failure(
            ErrorType.CONFLICT,
            "The project is no longer locked by this job, so its API keys were not stored.",
        ) from None
    return StageOutcome(
        output={
            "api_keys": describe_keys(keys),
            "secret_arn": secret.arn,
            "claim_before": _text(hand_over.claim_before),
        },
        check=f"each of the {len(keys)} API keys is stored by its digest",
    )


def _find_hand_over(project_id: str, hand_overs: HandOverStore, now: datetime) -> HandOver | None:
    """Return the hand-over of the project's last set of keys; None where there is none.

    Raises:
        TIMEOUT: its secret may be deleted any moment, whatever is in it by then.
    """
    found = hand_overs.get(project_id)
    if found is not None and found.is_expiring_at(now):
        raise failure(
            ErrorType.TIMEOUT,
            "The secret of API keys that nobody has claimed is being deleted.",
            f"until {found.expiring_until}",
        )
    return found


def _begin_hand_over(
    job: JobInput,
    project_id: str,
    before: HandOver | None,
    hand_overs: HandOverStore,
    now: datetime,
) -> tuple[HandOver, list[Write]]:
    """Return the hand-over of the job's set, and what begins it if no run has yet."""
    is_waiting = before is not None and before.status is HandOverStatus.WAITING
    if before is not None and is_waiting and before.job_id == job.job_id:
        return before, []
    begun = new_hand_over(project_id, job.job_id, now)
    return begun, [hand_overs.build_put(begun)]


def _make_set(
    job: JobInput, project_id: str, prefix: str, count: int, now: datetime
) -> dict[str, Any]:
    """Make keys, and return them as the secret holds them."""
    return {
        "project_id": project_id,
        "job_id": job.job_id,
        "created_at": _text(now),
        "api_keys": [generate_api_key(prefix) for _ in range(count)],
    }


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
    """Leave the secret as it was before this run, if it wrote a value that nobody is to have."""
    if secret.is_new:
        delete_secret(client, secret, final=_FINAL)
    elif value is not secret.value:
        replace_secret_value(client, secret, secret.value, final=_FINAL)


def describe_keys(keys: list[ApiKey]) -> list[dict[str, str]]:
    """Return what is no secret of keys."""
    return [
        {"key_id": key.key_id, "key_prefix": key.key_prefix, "created_at": key.created_at}
        for key in keys
    ]


def find_again(keys: list[ApiKey], store: ApiKeyStore) -> list[ApiKey]:
    """Return the keys as they are stored.

    Raises:
        API_KEY_GENERATION_FAILED: one is not found by its digest.
    """
    found = store.get_all([key.digest for key in keys])
    for key in keys:
        if key.digest not in found:
            raise failure(
                _FINAL,
                "An API key was not found again after it was stored.",
                f"{key.key_id}: no item of its digest",
            )
    return [found[key.digest] for key in keys]


def ensure_api_keys_rotated(
    job: JobInput,
    *,
    secrets_manager: SecretsManagerClient,
    kms_key_arn: str | None,
    store: ApiKeyStore,
    hand_overs: HandOverStore,
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
        TIMEOUT: the secret of the project's last keys is being deleted.
        API_KEY_GENERATION_FAILED: a digest is not found again, and what `translate_errors` raises.
    """
    payload = job.payload_as(RotateApiKeysPayload)
    _find_hand_over(payload.project_id, hand_overs, clock())
    listed = store.list_by_project(payload.project_id)
    secret = _ensure_secret(
        job,
        payload,
        listed,
        secrets_manager=secrets_manager,
        kms_key_arn=kms_key_arn,
        naming=naming,
        now=clock(),
    )
    if secret is None:
        keys, replaced, of_secret = [key for key in listed if key.job_id == job.job_id], [], {}
    else:
        hand_over = new_hand_over(payload.project_id, job.job_id, clock())
        keys = _store_set(secret.value["api_keys"], store, hand_overs, hand_over, clock())
        # An earlier run of the job may have stored the set, and counted the time from then on.
        stored = hand_overs.get(payload.project_id) or hand_over
        replaced, of_secret = secret.value["replaces"], {"api_keys_secret_arn": secret.arn}
        of_secret |= {"api_keys_claim_before": _text(stored.claim_before)}
    since = max(key.created_at for key in keys)
    expire_at = datetime.fromisoformat(since) + timedelta(hours=payload.overlap_hours)
    current = {key.digest for key in keys}
    # What is newer was made by a later job, beside which this run goes on after it was given up.
    old = [key.digest for key in listed if key.created_at <= since and key.verifies_at(expire_at)]
    for key_digest in dict.fromkeys([*old, *replaced]):
        if key_digest not in current:
            store.expire(key_digest, expire_at)
    expires = {"old_keys_expire_at": _text(expire_at)}
    return StageOutcome(
        output={"api_keys": describe_keys(keys), **expires, **of_secret},
        check=f"each of the {len(keys)} API keys was found by its digest",
    )


def _store_set(
    plaintexts: Sequence[str],
    store: ApiKeyStore,
    hand_overs: HandOverStore,
    hand_over: HandOver,
    now: datetime,
) -> list[ApiKey]:
    """Store a set of keys whole, so that what the table shows of a set is the set."""
    project_id, job_id = hand_over.project_id, hand_over.job_id
    made = [new_key(text, _text(now), project_id, job_id) for text in plaintexts]
    store.put_set(made, also=[hand_overs.build_put(hand_over)])
    return find_again(made, store)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


def _ensure_secret(
    job: JobInput,
    payload: RotateApiKeysPayload,
    listed: list[ApiKey],
    *,
    secrets_manager: SecretsManagerClient,
    kms_key_arn: str | None,
    naming: Naming,
    now: datetime,
) -> Secret | None:
    """Return the secret with the set of keys that this job makes; None where it was claimed."""
    name = naming.names(payload.project_id).api_keys_secret
    owner = naming.owner(payload.project_id, job.job_id)
    own = [key for key in listed if key.job_id == job.job_id]
    if own:
        kept = find_secret(secrets_manager, name=name, owner=owner, final=_FINAL)
        if kept is None or kept.value.get("job_id") != job.job_id:
            if any(key.expires_at is not None for key in own):
                # Another job has replaced the set since it was claimed.
                raise _conflict()
            return None

    def make(replaced: Sequence[str] = ()) -> dict[str, Any]:
        prefix = payload.prefix or _newest_prefix(listed, now)
        made = _make_set(job, payload.project_id, prefix, payload.count, now)
        return made | {"replaces": [digest(text) for text in replaced]}

    ensure = partial(
        ensure_secret,
        secrets_manager,
        name=name,
        owner=owner,
        make=make,
        kms_key_arn=kms_key_arn,
        final=_FINAL,
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
        final=_FINAL,
    )
    replaced = ensure()
    if replaced.value.get("job_id") != job.job_id:
        raise _conflict()
    return replaced


def _conflict() -> ProvisioningError:
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


def ensure_api_key_revoked(job: JobInput, *, store: ApiKeyStore) -> StageOutcome:
    """Revoke the key; one that was revoked before keeps its time.

    It is one conditional write, so that it takes no lock and nothing has to end before. Whatever
    else writes to the item then, leaves a key that is revoked as it is, or removes it.

    Raises:
        INVALID_PAYLOAD: the project has no key of that id, or no more.
        API_KEY_GENERATION_FAILED: the key is not found as revoked.
    """
    payload = job.payload_as(RevokeApiKeyPayload)
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
            _FINAL,
            "The API key was not found as revoked after it had been.",
            f"{payload.key_id}: {key.status}",
        )
    return StageOutcome(
        output={"key_id": key.key_id, "revoked_at": key.revoked_at},
        check=f"{payload.key_id} does not verify",
    )


def remove_api_keys(
    job: JobInput,
    *,
    secrets_manager: SecretsManagerClient,
    store: ApiKeyStore,
    hand_overs: HandOverStore,
    naming: Naming,
    clock: Callable[[], datetime],
    only_this_job: bool,
) -> StageOutcome:
    """Remove the digests first, so that no key verifies, then the secret.

    The secret says which digests there are, so that none is missed that the index does not show
    yet; it says so too where another job of the project made it, and then stays itself, and goes
    when its time to be claimed is over. Keys that are not there are as good as removed.

    Raises:
        TIMEOUT: the secret of the project's last keys is being deleted.
        REMOVAL_FAILED: something is still there; and what `translate_errors` raises.
    """
    payload = job.payload_as(ProjectReference)
    job_id = made_by(job)
    owner = naming.owner(payload.project_id, job_id)
    name = naming.names(payload.project_id).api_keys_secret
    hand_over = _find_hand_over(payload.project_id, hand_overs, clock())
    secret = find_claimed_secret(secrets_manager, name=name, claim=owner.owns, final=_REMOVAL)
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
    remove_secret(secrets_manager, name=name, claim=claim, final=_REMOVAL)
    if hand_over is not None and not is_secret_there(
        secrets_manager, name=name, claim=owner.owns, final=_REMOVAL
    ):
        hand_overs.remove(payload.project_id)
    if any(map(is_to_go, digests)):
        raise failure(_REMOVAL, "An API key of the project is still there.", "digest found")
    return StageOutcome(check="no API key is left to remove")
