"""Amazon Cognito: one user pool and one app client a project.

CreateUserPool and CreateUserPoolClient have no client token and names need not be unique; see
`same_named`. Where no pool can be there, none is looked for: that list is of all pools of the
account.
Source: Amazon Cognito User Pools API Reference; Amazon Cognito Developer Guide, "Updating user pool
and app client configuration".
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from provisioner.aws_types import (
    CognitoIdentityProviderClient,
    GetUserPoolMfaConfigResponseTypeDef,
    UserPoolClientTypeTypeDef,
    UserPoolTypeTypeDef,
)
from provisioner.drivers.aws_errors import AWS_ERRORS, short_cause, translate_errors
from provisioner.drivers.drift import (
    MADE_AGAIN,
    NOT_TOLD_YET,
    Drift,
    Remaining,
    Repairs,
    build_update,
    drifts_of,
    find_drift,
)
from provisioner.drivers.obstacles import Obstacles, quote, shorten
from provisioner.drivers.partition import dns_suffix
from provisioner.drivers.same_named import Made, SameNamed, ignore
from provisioner.errors import ErrorType, failure
from provisioner.ownership import Claim, Ownership

#: The most that ListUserPools and ListUserPoolClients return at once.
_PAGE_SIZE = 60

#: What a pool is made with; Cognito never changes it afterwards. An address is the same in any
#: case: with Cognito's default, Ann@example.com and ann@example.com would be two users for ever.
_LASTING_POOL_SETTINGS: dict[str, Any] = {
    "UsernameAttributes": ["email"],
    "UsernameConfiguration": {"CaseSensitive": False},
}

#: What a pool is made with, and its customer may change: the feature plan, the sender of its mail,
#: and whether it can be deleted. docs/decisions.md says why.
_FIRST_POOL_SETTINGS: dict[str, Any] = {
    "UserPoolTier": "ESSENTIALS",
    "EmailConfiguration": {"EmailSendingAccount": "COGNITO_DEFAULT"},
    "DeletionProtection": "INACTIVE",
}

#: The state of a pool that asks nobody for a second factor.
_NO_MFA = "OFF"

#: The attribute that users sign in and recover their accounts with.
_EMAIL = "email"

#: The shortest password, and the longest time in which a temporary one is valid.
_PASSWORD_CHARACTERS = 12
_TEMPORARY_PASSWORD_DAYS = 7

#: What every app client of ours has, and gets back where it has drifted.
_CLIENT_SETTINGS: dict[str, Any] = {
    "ExplicitAuthFlows": ["ALLOW_USER_SRP_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
    "PreventUserExistenceErrors": "ENABLED",
    "EnableTokenRevocation": True,
}


def _pool_settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a pool must have at least, and gets back where it has drifted.

    What its customer has made stricter, or added, is right as it is.

    Args:
        found: the pool as it is; empty for one that is to be made.
    """
    password = found.get("Policies", {}).get("PasswordPolicy", {})
    verified = found.get("AutoVerifiedAttributes", [])
    recovery = found.get("AccountRecoverySetting", {})
    days = password.get("TemporaryPasswordValidityDays") or _TEMPORARY_PASSWORD_DAYS
    return {
        "AutoVerifiedAttributes": verified if _EMAIL in verified else [*verified, _EMAIL],
        "Policies": {
            "PasswordPolicy": {
                "MinimumLength": max(password.get("MinimumLength", 0), _PASSWORD_CHARACTERS),
                "RequireLowercase": True,
                "RequireUppercase": True,
                "RequireNumbers": True,
                "RequireSymbols": password.get("RequireSymbols", False),
                "TemporaryPasswordValidityDays": min(days, _TEMPORARY_PASSWORD_DAYS),
            }
        },
        # Without any Cognito recovers accounts by SMS first.
        "AccountRecoverySetting": (
            recovery
            if recovery.get("RecoveryMechanisms")
            else {"RecoveryMechanisms": [{"Priority": 1, "Name": "verified_email"}]}
        ),
    }


def _client_settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an app client must have.

    Where its customer has switched on that refresh tokens rotate, Cognito refuses the flow that
    leaves them as they are. Source: Amazon Cognito Developer Guide, "Refresh tokens".

    Args:
        found: the client as it is.
    """
    if found.get("RefreshTokenRotation", {}).get("Feature") != "ENABLED":
        return _CLIENT_SETTINGS
    return {**_CLIENT_SETTINGS, "ExplicitAuthFlows": ["ALLOW_USER_SRP_AUTH"]}


@dataclass(frozen=True, slots=True)
class UserPool:
    """A user pool with its app client."""

    pool_id: str
    client_id: str
    #: The issuer of its tokens (OpenID Connect Discovery 1.0, section 3).
    endpoint: str
    #: Whether it was made in this call, by one request, where none could be there.
    is_only: bool = field(default=False, compare=False)


@translate_errors(ErrorType.SERVICE_REGISTRATION_FAILED, "register auth")
def ensure_user_pool(
    client: CognitoIdentityProviderClient,
    *,
    name: str,
    client_name: str,
    owner: Ownership,
    may_exist: bool = True,
    made: Made = ignore,
    made_client: Made = ignore,
) -> UserPool:
    """Return the project's user pool and app client; make what is missing, right what has drifted.

    Args:
        client: Cognito in the pool's region.
        name: the pool's name.
        client_name: the app client's name.
        owner: the marker of what the job makes.
        may_exist: as of `SameNamed.ensure`, of the pool.
        made: likewise.
        made_client: likewise, of the app client.

    Raises:
        CONFLICT: a pool of that name is not the project's.
        ProvisioningError: as `translate_errors` says.
    """
    pool, is_only = _pools(client, name, owner.owns).ensure(
        lambda: client.create_user_pool(
            PoolName=name,
            UserPoolTags=owner.tags(),
            **_LASTING_POOL_SETTINGS,
            **_FIRST_POOL_SETTINGS,
            **_pool_settings({}),
        ),
        may_exist=may_exist,
        made=made,
    )
    if is_only:
        app_client, _ = _find_or_make_client(
            client, pool["Id"], client_name, made_client, may_exist=False
        )
    else:
        _repair_pool(client, pool)
        app_client, _ = _ensure_client(client, pool["Id"], client_name, made=made_client)
    return replace(_user_pool(client, pool, app_client), is_only=is_only)


@translate_errors(ErrorType.SERVICE_REGISTRATION_FAILED, "repair auth")
def repair_user_pool(
    client: CognitoIdentityProviderClient,
    *,
    pool_id: str,
    client_id: str,
    client_name: str,
    owner: Ownership,
) -> tuple[UserPool, Repairs]:
    """Put right what has drifted of the project's user pool and app client.

    An app client that is missing is made again: nothing is lost with it but its id.

    Args:
        client: Cognito in the pool's region.
        pool_id: the pool.
        client_id: the app client, as it is known.
        client_name: the name of one that is made again.
        owner: whose the pool must be.

    Raises:
        SERVICE_REGISTRATION_FAILED: the pool is not there.
        CONFLICT: it is not the project's.
        ProvisioningError: as `translate_errors` says.
    """
    pool = _pools(client, "", owner.owns).require(pool_id)
    in_pool = _repair_pool(client, pool)
    app_client, in_client = _ensure_client(client, pool_id, client_name, client_id)
    found = _user_pool(client, pool, app_client)
    before = _list_drift(found, in_pool, in_client)
    after = _list_drift(found, *_wrong(client, found, owner)[:2]) if before else []
    why = "Cognito never changes it once a pool is made: only a new pool can have it."
    lasting = find_drift(pool, _LASTING_POOL_SETTINGS, untold=False)
    return found, Repairs.of(
        before,
        dict.fromkeys(after, NOT_TOLD_YET),
        _say_answered(found),
        (Remaining(f"user pool {pool_id}", what, why) for what in lasting),
    )


def _list_drift(pool: UserPool, in_pool: list[str], in_client: list[str]) -> list[Drift]:
    return [
        *drifts_of(f"user pool {pool.pool_id}", in_pool),
        *drifts_of(f"app client {pool.client_id}", in_client),
    ]


def _say_answered(pool: UserPool) -> str:
    return f"user pool {pool.pool_id} and its app client answered"


def _user_pool(
    client: CognitoIdentityProviderClient,
    pool: UserPoolTypeTypeDef,
    app_client: UserPoolClientTypeTypeDef,
) -> UserPool:
    pool_id = pool["Id"]
    return UserPool(
        pool_id=pool_id,
        client_id=app_client["ClientId"],
        endpoint=f"https://cognito-idp.{pool_id.partition('_')[0]}.{dns_suffix(client)}/{pool_id}",
    )


@translate_errors(ErrorType.SERVICE_REGISTRATION_FAILED, "check auth")
def check_user_pool(client: CognitoIdentityProviderClient, pool: UserPool, owner: Ownership) -> str:
    """Describe the pool and its client, and say what answered.

    Raises:
        CONFLICT: the pool is described without the project's marker.
        SERVICE_REGISTRATION_FAILED: a setting is not what it must be.
        ProvisioningError: as `translate_errors` says.
    """
    in_pool, in_client, lasting = _wrong(client, pool, owner)
    wrong = [*lasting, *in_pool, *in_client]
    if wrong:
        raise failure(
            ErrorType.SERVICE_REGISTRATION_FAILED,
            "The user pool of the project does not have the settings that it must have.",
            f"user pool {pool.pool_id}: {', '.join(wrong)}",
        )
    return _say_answered(pool)


def _wrong(
    client: CognitoIdentityProviderClient, pool: UserPool, owner: Ownership
) -> tuple[list[str], list[str], list[str]]:
    """Name what is not as it must be: of the pool, of its client, and what stays so."""
    found_pool = _pools(client, "", owner.owns).require(pool.pool_id)
    found_client = client.describe_user_pool_client(
        UserPoolId=pool.pool_id, ClientId=pool.client_id
    )["UserPoolClient"]
    return (
        find_drift(found_pool, _pool_settings(found_pool), untold=False),
        find_drift(found_client, _client_settings(found_client), untold=False),
        find_drift(found_pool, _LASTING_POOL_SETTINGS, untold=False),
    )


@translate_errors(ErrorType.REMOVAL_FAILED, "remove auth")
def remove_user_pool(
    client: CognitoIdentityProviderClient, *, name: str, claim: Claim, known: str | None = None
) -> str:
    """Delete the pools of that name that are claimed, with their app clients; say what is there.

    Args:
        client: Cognito in the pool's region.
        name: the pool's name.
        claim: says which are to go.
        known: as of `SameNamed.find`.

    Raises:
        TIMEOUT: one was deleted and is still there.
        ProvisioningError: as `translate_errors` says.
    """
    return _pools(client, name, claim).remove(known)


@translate_errors(ErrorType.REMOVAL_FAILED, "look at auth")
def look_at_pools(
    client: CognitoIdentityProviderClient, *, name: str, claim: Claim, known: str | None = None
) -> Obstacles:
    """Say what keeps the pools of that name that are claimed from going.

    A domain is the customer's: it stands in links and certificates, so nobody but he takes it away.
    Where none is known, a request for every 60 pools of the region, and one for each of that name.

    Args:
        client: Cognito in the pools' region.
        name: their name.
        claim: says which of them.
        known: as of `SameNamed.find`.

    Source: Amazon Cognito Developer Guide, "User pool deletion protection", "Configuring a domain".

    Raises:
        ProvisioningError: as `translate_errors` says.
    """
    pools = _pools(client, name, claim).find(known)
    clauses = [clause for pool in pools for clause in _obstacles(pool)]
    return Obstacles(shorten(clauses, "of these"))


def _obstacles(pool: UserPoolTypeTypeDef) -> Iterator[str]:
    if pool.get("DeletionProtection") == "ACTIVE":
        yield (
            f"deletion protection is active on user pool {pool['Id']}: switch it off "
            "(cognito-idp update-user-pool)"
        )
    for domain in filter(None, (pool.get("Domain"), pool.get("CustomDomain"))):
        yield (
            f"user pool {pool['Id']} has the domain {quote(domain)}: delete it "
            "(cognito-idp delete-user-pool-domain)"
        )


def _pools(
    client: CognitoIdentityProviderClient, name: str, claim: Claim
) -> SameNamed[UserPoolTypeTypeDef]:
    """Return what finds the pools of a name that are claimed, and deletes them."""
    return SameNamed(
        "user pool",
        name,
        "UserPool",
        list_ids=lambda: (
            pool["Id"]
            for page in client.get_paginator("list_user_pools").paginate(
                PaginationConfig={"PageSize": _PAGE_SIZE}
            )
            for pool in page["UserPools"]
            if pool.get("Name") == name
        ),
        get=lambda pool_id: client.describe_user_pool(UserPoolId=pool_id),
        delete=lambda pool_id: client.delete_user_pool(UserPoolId=pool_id),
        missing=client.exceptions.ResourceNotFoundException,
        id_of=lambda pool: pool["Id"],
        age_of=lambda pool: pool["CreationDate"],
        is_ours=lambda pool: claim(pool.get("UserPoolTags", {})),
        loss="be empty",
    )


def _clients(
    client: CognitoIdentityProviderClient, pool_id: str, name: str
) -> SameNamed[UserPoolClientTypeTypeDef]:
    """Return what finds the app clients of a name in a pool, which are whose the pool is."""
    return SameNamed(
        "app client",
        name,
        "UserPoolClient",
        list_ids=lambda: (
            found["ClientId"]
            for page in client.get_paginator("list_user_pool_clients").paginate(
                UserPoolId=pool_id, PaginationConfig={"PageSize": _PAGE_SIZE}
            )
            for found in page["UserPoolClients"]
            if found["ClientName"] == name
        ),
        get=lambda client_id: client.describe_user_pool_client(
            UserPoolId=pool_id, ClientId=client_id
        ),
        delete=lambda client_id: client.delete_user_pool_client(
            UserPoolId=pool_id, ClientId=client_id
        ),
        missing=client.exceptions.ResourceNotFoundException,
        id_of=lambda found: found["ClientId"],
        # Those without a date come first.
        age_of=lambda found: found["CreationDate"].timestamp() if "CreationDate" in found else 0,
        is_ours=lambda _found: True,
    )


def _repair_pool(client: CognitoIdentityProviderClient, pool: UserPoolTypeTypeDef) -> list[str]:
    """Put right what has drifted; all else, multi-factor authentication too, stays as it is.

    Returns:
        What had drifted.
    """
    wanted = _pool_settings(pool)
    wrong = find_drift(pool, wanted, untold=True)
    if not wrong:
        return []
    before = client.get_user_pool_mfa_config(UserPoolId=pool["Id"])
    update = build_update(client, "UpdateUserPool", pool, wanted)
    update |= {"UserPoolId": pool["Id"], "PoolName": pool["Name"]}
    # Every pool has it, and Cognito refuses it beside the password policy's own number of days.
    update.get("AdminCreateUserConfig", {}).pop("UnusedAccountValidityDays", None)
    try:
        client.update_user_pool(**update)
    except client.exceptions.InvalidParameterException:
        if update.get("MfaConfiguration", _NO_MFA) == _NO_MFA or "SmsConfiguration" in update:
            raise
        # UpdateUserPool knows of one second factor, SMS, and asks for what that needs. Left out, it
        # is switched off, for as long as the next request takes.
        del update["MfaConfiguration"]
        client.update_user_pool(**update)
    _restore_mfa(client, pool["Id"], before)
    return wrong


def _restore_mfa(
    client: CognitoIdentityProviderClient,
    pool_id: str,
    before: GetUserPoolMfaConfigResponseTypeDef,
) -> None:
    """Set the pool's multi-factor authentication again where an update has reset it.

    Raises:
        SERVICE_REGISTRATION_FAILED: it was reset and cannot be set, so that someone must.
    """
    wanted = build_update(client, "SetUserPoolMfaConfig", before, {})
    if wanted.get("MfaConfiguration", _NO_MFA) == _NO_MFA:
        return  # An update has nothing to reset.
    try:
        after = client.get_user_pool_mfa_config(UserPoolId=pool_id)
        if find_drift(after, wanted, untold=True):
            client.set_user_pool_mfa_config(UserPoolId=pool_id, **wanted)
    except AWS_ERRORS as error:
        raise failure(
            ErrorType.SERVICE_REGISTRATION_FAILED,
            "The user pool's multi-factor authentication may have been reset; set it again.",
            f"user pool {pool_id}: was {wanted.pop('MfaConfiguration')}, "
            f"with {', '.join(sorted(wanted))}; {short_cause(error)}",
        ) from None


def _ensure_client(
    client: CognitoIdentityProviderClient,
    pool_id: str,
    name: str,
    known: str = "",
    made: Made = ignore,
) -> tuple[UserPoolClientTypeTypeDef, list[str]]:
    """Return the app client as it was found or made, and what of it was not as it must be.

    Args:
        client: Cognito in the pool's region.
        pool_id: the pool, which is ours.
        name: the client's name.
        known: the client's id, where one has been made before.
        made: as of `SameNamed.ensure`.
    """
    found = None
    if known:
        with suppress(client.exceptions.ResourceNotFoundException):
            found = _clients(client, pool_id, name).describe(known)
    if found is None:
        found, _ = _find_or_make_client(client, pool_id, name, made, may_exist=True)
    wanted = _client_settings(found)
    wrong = find_drift(found, wanted, untold=True)
    if wrong:
        client.update_user_pool_client(
            **build_update(client, "UpdateUserPoolClient", found, wanted)
        )
    return found, wrong if found["ClientId"] == known else [MADE_AGAIN]


def _find_or_make_client(
    client: CognitoIdentityProviderClient, pool_id: str, name: str, made: Made, *, may_exist: bool
) -> tuple[UserPoolClientTypeTypeDef, bool]:
    return _clients(client, pool_id, name).ensure(
        lambda: client.create_user_pool_client(
            UserPoolId=pool_id, ClientName=name, GenerateSecret=False, **_CLIENT_SETTINGS
        ),
        may_exist=may_exist,
        made=made,
    )
