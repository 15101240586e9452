"""Amazon Cognito: one user pool and one app client a project.

CreateUserPool has no client token and pool names need not be unique, so a pool of ours is looked
for by name and marker before one is made, and afterwards, in case two runs made one each; unless
none can be there: that list is of all pools of the account.
Source: Amazon Cognito User Pools API Reference; Amazon Cognito Developer Guide, "Updating user pool
and app client configuration".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from provisioner.drivers.aws_errors import AWS_ERRORS, is_sent_once, short_cause, translated
from provisioner.drivers.drift import (
    MADE_AGAIN,
    Drift,
    Remaining,
    Repairs,
    drifted,
    put_right,
    still_drifted,
    update_input,
)
from provisioner.drivers.partition import dns_suffix
from provisioner.errors import ErrorType, failure
from provisioner.ownership import Claim, Ownership

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp.client import CognitoIdentityProviderClient
    from mypy_boto3_cognito_idp.type_defs import (
        GetUserPoolMfaConfigResponseTypeDef,
        UserPoolClientTypeTypeDef,
        UserPoolTypeTypeDef,
    )

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
    arn: str
    client_id: str
    #: The issuer of its tokens (OpenID Connect Discovery 1.0, section 3).
    endpoint: str


#: Is called with the id of a pool that was made as soon as it is known, and with the ids of a pool
#: and of the app client that was made in it.
type Made = Callable[..., object]


def _ignored(_pool_id: str, _client_id: str = "") -> None:
    """Do nothing with what was made."""


def ensure_user_pool(
    client: CognitoIdentityProviderClient,
    *,
    name: str,
    client_name: str,
    owner: Ownership,
    may_exist: bool = True,
    made: Made = _ignored,
) -> UserPool:
    """Return the project's user pool and app client; make what is missing, right what has drifted.

    Args:
        client: Cognito in the pool's region.
        name: the pool's name.
        client_name: the app client's name.
        owner: the marker of what the job makes.
        may_exist: whether the pool can be there already. If not, it is made without a look at the
            list of all pools; who says so sees to it that no other run makes one that stays.
        made: is called with what was made.

    Raises:
        CONFLICT: a pool of that name is not the project's.
        ProvisioningError: as `translated` says.
    """
    with translated(ErrorType.SERVICE_REGISTRATION_FAILED, "register auth"):
        pool = _find_pool(client, name, owner) if may_exist else None
        if pool is None:
            pool, is_alone = _make_pool(client, name, owner, made)
            if may_exist or not is_alone:
                pool = _settle(client, name, owner, pool["Id"])
            else:
                app_client = _make_client(client, pool["Id"], client_name, made, is_alone=True)
                return _user_pool(client, pool, app_client)
        _repair_pool(client, pool)
        app_client, _ = _ensure_client(client, pool["Id"], client_name, made=made)
        return _user_pool(client, pool, app_client)


def _make_pool(
    client: CognitoIdentityProviderClient, name: str, owner: Ownership, made: Made
) -> tuple[UserPoolTypeTypeDef, bool]:
    """Make a pool; return it, and whether it is the only one that the request has made."""
    answer = client.create_user_pool(
        PoolName=name,
        UserPoolTags=owner.tags(),
        **_LASTING_POOL_SETTINGS,
        **_FIRST_POOL_SETTINGS,
        **_pool_settings({}),
    )
    pool = answer["UserPool"]
    made(pool["Id"])
    return pool, is_sent_once(answer)


def keep_one_pool(
    client: CognitoIdentityProviderClient, *, name: str, owner: Ownership, made: str, kept: str
) -> None:
    """Delete a pool that this run has made, unless it is the one that is kept.

    Args:
        client: Cognito in the pool's region.
        name: the pool's name.
        owner: the marker of what the job makes.
        made: the pool that this run has made.
        kept: the one that is known to be the project's; empty where none is: then it is the oldest.

    Raises:
        ProvisioningError: as `translated` says.
    """
    with (
        translated(ErrorType.SERVICE_REGISTRATION_FAILED, "keep one user pool"),
        suppress(client.exceptions.ResourceNotFoundException),
    ):
        if not kept:
            _settle(client, name, owner, made)
        elif kept != made:
            client.delete_user_pool(UserPoolId=made)


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
        ProvisioningError: as `translated` says.
    """
    with translated(ErrorType.SERVICE_REGISTRATION_FAILED, "repair auth"):
        try:
            pool = client.describe_user_pool(UserPoolId=pool_id)["UserPool"]
        except client.exceptions.ResourceNotFoundException:
            raise failure(
                ErrorType.SERVICE_REGISTRATION_FAILED,
                f"The user pool {pool_id} of the project is not there, and a new one would be "
                "empty; deprovision the project and provision it again.",
                "DescribeUserPool: ResourceNotFoundException",
            ) from None
        _refuse_unmarked(pool, owner)
        in_pool = _repair_pool(client, pool)
        app_client, in_client = _ensure_client(client, pool_id, client_name, client_id)
        found = _user_pool(client, pool, app_client)
        before = _drifts(found, in_pool, in_client)
        after = _drifts(found, *_wrong(client, found, owner)[:2]) if before else []
    return found, Repairs(
        put_right(before, after),
        (
            *(still_drifted(drift) for drift in after),
            *(
                Remaining(
                    f"user pool {pool_id}",
                    what,
                    "Cognito never changes it once a pool is made: only a new pool can have it.",
                )
                for what in drifted(pool, _LASTING_POOL_SETTINGS, untold=False)
            ),
        ),
        _answered(found),
    )


def keep_one_client(
    client: CognitoIdentityProviderClient, *, pool_id: str, name: str, made: str, kept: str
) -> None:
    """Delete an app client that this run has made, as `keep_one_pool` does a pool.

    Raises:
        ProvisioningError: as `translated` says.
    """
    with (
        translated(ErrorType.SERVICE_REGISTRATION_FAILED, "keep one app client"),
        # Its pool may have gone, too.
        suppress(client.exceptions.ResourceNotFoundException),
    ):
        if not kept:
            _settle_client(client, pool_id, name, made)
        elif kept != made:
            client.delete_user_pool_client(UserPoolId=pool_id, ClientId=made)


def _refuse_unmarked(pool: UserPoolTypeTypeDef, owner: Ownership) -> None:
    if not owner.owns(pool.get("UserPoolTags", {})):
        raise failure(
            ErrorType.CONFLICT,
            f"The user pool {pool['Id']} does not have the project's tags; give them back to it.",
        )


def _drifts(pool: UserPool, in_pool: list[str], in_client: list[str]) -> list[Drift]:
    return [
        *(Drift(f"user pool {pool.pool_id}", what) for what in in_pool),
        *(Drift(f"app client {pool.client_id}", what) for what in in_client),
    ]


def _answered(pool: UserPool) -> str:
    return f"user pool {pool.pool_id} and its app client answered"


def _user_pool(
    client: CognitoIdentityProviderClient,
    pool: UserPoolTypeTypeDef,
    app_client: UserPoolClientTypeTypeDef,
) -> UserPool:
    pool_id = pool["Id"]
    return UserPool(
        pool_id=pool_id,
        arn=pool["Arn"],
        client_id=app_client["ClientId"],
        endpoint=f"https://cognito-idp.{pool_id.partition('_')[0]}.{dns_suffix(client)}/{pool_id}",
    )


def check_user_pool(client: CognitoIdentityProviderClient, pool: UserPool, owner: Ownership) -> str:
    """Describe the pool and its client, and say what answered.

    Raises:
        CONFLICT: the pool is described without the project's marker.
        SERVICE_REGISTRATION_FAILED: a setting is not what it must be.
        ProvisioningError: as `translated` says.
    """
    with translated(ErrorType.SERVICE_REGISTRATION_FAILED, "check auth"):
        in_pool, in_client, lasting = _wrong(client, pool, owner)
    wrong = [*lasting, *in_pool, *in_client]
    if wrong:
        raise failure(
            ErrorType.SERVICE_REGISTRATION_FAILED,
            "The user pool of the project does not have the settings that it must have.",
            f"user pool {pool.pool_id}: {', '.join(wrong)}",
        )
    return _answered(pool)


def _wrong(
    client: CognitoIdentityProviderClient, pool: UserPool, owner: Ownership
) -> tuple[list[str], list[str], list[str]]:
    """Name what is not as it must be: of the pool, of its client, and what stays so."""
    found_pool = client.describe_user_pool(UserPoolId=pool.pool_id)["UserPool"]
    _refuse_unmarked(found_pool, owner)
    found_client = client.describe_user_pool_client(
        UserPoolId=pool.pool_id, ClientId=pool.client_id
    )["UserPoolClient"]
    return (
        drifted(found_pool, _pool_settings(found_pool), untold=False),
        drifted(found_client, _client_settings(found_client), untold=False),
        drifted(found_pool, _LASTING_POOL_SETTINGS, untold=False),
    )


def remove_user_pool(client: CognitoIdentityProviderClient, *, name: str, claim: Claim) -> str:
    """Delete the pools of that name that are claimed, with their app clients; say what is there.

    Raises:
        TIMEOUT: one was deleted and is still listed.
        ProvisioningError: as `translated` says.
    """
    with translated(ErrorType.REMOVAL_FAILED, "remove auth"):
        for pool in claimed_pools(client, name, claim):
            with suppress(client.exceptions.ResourceNotFoundException):
                client.delete_user_pool(UserPoolId=pool["Id"])
        left = [pool["Id"] for pool in claimed_pools(client, name, claim)]
    if left:
        raise failure(
            ErrorType.TIMEOUT,
            "The user pool of the project is still there.",
            f"user pools {', '.join(left)}: were deleted and are still listed",
        )
    return f"no user pool named {name} is left to remove"


def _pools_of_name(
    client: CognitoIdentityProviderClient, name: str
) -> Iterator[UserPoolTypeTypeDef]:
    pages = client.get_paginator("list_user_pools").paginate(
        PaginationConfig={"PageSize": _PAGE_SIZE}
    )
    for page in pages:
        for listed in page["UserPools"]:
            if listed.get("Name") == name:
                # One that is deleted in this moment is listed and cannot be described.
                with suppress(client.exceptions.ResourceNotFoundException):
                    yield client.describe_user_pool(UserPoolId=listed["Id"])["UserPool"]


def claimed_pools(
    client: CognitoIdentityProviderClient, name: str, claim: Claim
) -> list[UserPoolTypeTypeDef]:
    """Describe the pools of that name that are claimed.

    Raises:
        botocore.exceptions.ClientError: they could not be listed or described.
    """
    return [pool for pool in _pools_of_name(client, name) if claim(pool.get("UserPoolTags", {}))]


def _find_pool(
    client: CognitoIdentityProviderClient, name: str, owner: Ownership
) -> UserPoolTypeTypeDef | None:
    """Return the oldest pool of that name that is ours."""
    pools = list(_pools_of_name(client, name))
    ours = [pool for pool in pools if owner.owns(pool.get("UserPoolTags", {}))]
    if pools and not ours:
        raise failure(
            ErrorType.CONFLICT,
            f"A user pool named {name} exists and is not this project's; remove or rename it.",
        )
    return min(ours, key=lambda pool: (pool["CreationDate"], pool["Id"]), default=None)


def _settle(
    client: CognitoIdentityProviderClient, name: str, owner: Ownership, made: str
) -> UserPoolTypeTypeDef:
    """Keep the oldest of our pools: every run comes to the same one and removes only its own."""
    pool = _find_pool(client, name, owner)
    if pool is None:
        return client.describe_user_pool(UserPoolId=made)["UserPool"]
    if pool["Id"] != made:
        client.delete_user_pool(UserPoolId=made)
    return pool


def _repair_pool(client: CognitoIdentityProviderClient, pool: UserPoolTypeTypeDef) -> list[str]:
    """Put right what has drifted; all else, multi-factor authentication too, stays as it is.

    Returns:
        What had drifted.
    """
    wanted = _pool_settings(pool)
    wrong = drifted(pool, wanted, untold=True)
    if not wrong:
        return []
    before = client.get_user_pool_mfa_config(UserPoolId=pool["Id"])
    update = update_input(client, "UpdateUserPool", pool, wanted)
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
    wanted = update_input(client, "SetUserPoolMfaConfig", before, {})
    if wanted.get("MfaConfiguration", _NO_MFA) == _NO_MFA:
        return  # An update has nothing to reset.
    try:
        after = client.get_user_pool_mfa_config(UserPoolId=pool_id)
        if drifted(after, wanted, untold=True):
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
    made: Made = _ignored,
) -> tuple[UserPoolClientTypeTypeDef, list[str]]:
    """Return the app client as it was found or made, and what of it was not as it must be.

    Args:
        client: Cognito in the pool's region.
        pool_id: the pool, which is ours.
        name: the client's name.
        known: the client's id, where one has been made before.
        made: is called with one that was made.
    """
    found = _known_client(client, pool_id, known) or _find_client(client, pool_id, name)
    if found is None:
        found = _make_client(client, pool_id, name, made, is_alone=False)
    wanted = _client_settings(found)
    wrong = drifted(found, wanted, untold=True)
    if wrong:
        client.update_user_pool_client(
            **update_input(client, "UpdateUserPoolClient", found, wanted)
        )
    return found, wrong if found["ClientId"] == known else [MADE_AGAIN]


def _make_client(
    client: CognitoIdentityProviderClient, pool_id: str, name: str, made: Made, *, is_alone: bool
) -> UserPoolClientTypeTypeDef:
    """Make an app client; return the oldest of that name.

    Args:
        client: Cognito in the pool's region.
        pool_id: the pool, which is ours.
        name: the client's name.
        made: is called with it.
        is_alone: whether the pool was just made, so that nobody has made one in it before.
    """
    answer = client.create_user_pool_client(
        UserPoolId=pool_id, ClientName=name, GenerateSecret=False, **_CLIENT_SETTINGS
    )
    ours = answer["UserPoolClient"]
    made(pool_id, ours["ClientId"])
    if is_alone and is_sent_once(answer):
        return ours
    return _settle_client(client, pool_id, name, ours["ClientId"]) or ours


def _settle_client(
    client: CognitoIdentityProviderClient, pool_id: str, name: str, made: str
) -> UserPoolClientTypeTypeDef | None:
    """Return the oldest app client: every run keeps it, and removes only its own."""
    found = _find_client(client, pool_id, name)
    if found is not None and found["ClientId"] != made:
        client.delete_user_pool_client(UserPoolId=pool_id, ClientId=made)
    return found


def _known_client(
    client: CognitoIdentityProviderClient, pool_id: str, client_id: str
) -> UserPoolClientTypeTypeDef | None:
    if not client_id:
        return None
    try:
        described = client.describe_user_pool_client(UserPoolId=pool_id, ClientId=client_id)
    except client.exceptions.ResourceNotFoundException:
        return None
    return described["UserPoolClient"]


def _find_client(
    client: CognitoIdentityProviderClient, pool_id: str, name: str
) -> UserPoolClientTypeTypeDef | None:
    """Return the oldest app client of that name; the pool is ours, so its clients are."""
    found: list[UserPoolClientTypeTypeDef] = []
    pages = client.get_paginator("list_user_pool_clients").paginate(
        UserPoolId=pool_id, PaginationConfig={"PageSize": _PAGE_SIZE}
    )
    for page in pages:
        for listed in page["UserPoolClients"]:
            if listed["ClientName"] != name:
                continue
            try:
                described = client.describe_user_pool_client(
                    UserPoolId=pool_id, ClientId=listed["ClientId"]
                )
            except client.exceptions.ResourceNotFoundException:
                continue  # another run made one too, and has just removed it
            found.append(described["UserPoolClient"])
    return min(found, key=_age, default=None)


def _age(client: UserPoolClientTypeTypeDef) -> tuple[float, str]:
    """Sort clients as they came; equally old ones, and those without a date, by id."""
    created = client.get("CreationDate")
    return (0.0 if created is None else created.timestamp(), client["ClientId"])
