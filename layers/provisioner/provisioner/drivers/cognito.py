"""Amazon Cognito: one user pool and one app client a project.

CreateUserPool has no client token and pool names need not be unique, so a pool of ours is looked
for by name and marker before one is made, and afterwards, in case two runs made one each.
Source: Amazon Cognito User Pools API Reference; Amazon Cognito Developer Guide, "Updating user pool
and app client configuration".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from provisioner.drivers.aws_errors import translated
from provisioner.drivers.drift import drifted, update_input
from provisioner.drivers.partition import dns_suffix
from provisioner.errors import ErrorType, failure
from provisioner.ownership import Claim, Ownership

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp.client import CognitoIdentityProviderClient
    from mypy_boto3_cognito_idp.type_defs import UserPoolClientTypeTypeDef, UserPoolTypeTypeDef

#: The most that ListUserPools and ListUserPoolClients return at once.
_PAGE_SIZE = 60

#: What a pool is made with; Cognito never changes it afterwards.
_LASTING_POOL_SETTINGS: dict[str, Any] = {"UsernameAttributes": ["email"]}

#: What every pool of ours has, and gets back where it has drifted.
_POOL_SETTINGS: dict[str, Any] = {
    "AutoVerifiedAttributes": ["email"],
    "Policies": {
        "PasswordPolicy": {
            "MinimumLength": 12,
            "RequireLowercase": True,
            "RequireUppercase": True,
            "RequireNumbers": True,
            "RequireSymbols": False,
            "TemporaryPasswordValidityDays": 7,
        }
    },
    "AccountRecoverySetting": {"RecoveryMechanisms": [{"Priority": 1, "Name": "verified_email"}]},
}

#: What every app client of ours has, and gets back where it has drifted.
_CLIENT_SETTINGS: dict[str, Any] = {
    "ExplicitAuthFlows": ["ALLOW_USER_SRP_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
    "PreventUserExistenceErrors": "ENABLED",
    "EnableTokenRevocation": True,
}


@dataclass(frozen=True, slots=True)
class UserPool:
    """A user pool with its app client."""

    pool_id: str
    arn: str
    client_id: str
    #: The issuer of its tokens (OpenID Connect Discovery 1.0, section 3).
    endpoint: str


def ensure_user_pool(
    client: CognitoIdentityProviderClient, *, name: str, client_name: str, owner: Ownership
) -> UserPool:
    """Return the project's user pool and app client; make what is missing, right what has drifted.

    Raises:
        CONFLICT: a pool of that name is not the project's.
        ProvisioningError: as `translated` says.
    """
    with translated(ErrorType.SERVICE_REGISTRATION_FAILED, "register auth"):
        pool = _find_pool(client, name, owner)
        if pool is None:
            made = client.create_user_pool(
                PoolName=name,
                UserPoolTags=owner.tags(),
                **_LASTING_POOL_SETTINGS,
                **_POOL_SETTINGS,
            )["UserPool"]["Id"]
            pool = _settle(client, name, owner, made)
        _repair_pool(client, pool)
        pool_id = pool["Id"]
        return UserPool(
            pool_id=pool_id,
            arn=pool["Arn"],
            client_id=_ensure_client(client, pool_id, client_name),
            endpoint=(
                f"https://cognito-idp.{pool_id.partition('_')[0]}.{dns_suffix(client)}/{pool_id}"
            ),
        )


def check_user_pool(client: CognitoIdentityProviderClient, pool: UserPool) -> str:
    """Describe the pool and its client, and say what answered.

    Raises:
        SERVICE_REGISTRATION_FAILED: a setting is not what it must be.
        ProvisioningError: as `translated` says.
    """
    with translated(ErrorType.SERVICE_REGISTRATION_FAILED, "check auth"):
        found_pool = client.describe_user_pool(UserPoolId=pool.pool_id)["UserPool"]
        found_client = client.describe_user_pool_client(
            UserPoolId=pool.pool_id, ClientId=pool.client_id
        )["UserPoolClient"]
    wrong = [
        *drifted(found_pool, _LASTING_POOL_SETTINGS | _POOL_SETTINGS, untold=False),
        *drifted(found_client, _CLIENT_SETTINGS, untold=False),
    ]
    if wrong:
        raise failure(
            ErrorType.SERVICE_REGISTRATION_FAILED,
            "The user pool of the project does not have the settings that it must have.",
            f"user pool {pool.pool_id}: {', '.join(wrong)}",
        )
    return f"user pool {pool.pool_id} and its app client answered"


def remove_user_pool(client: CognitoIdentityProviderClient, *, name: str, claim: Claim) -> str:
    """Delete the pools of that name that are claimed, with their app clients; say what is there.

    Raises:
        TIMEOUT: one was deleted and is still listed.
        ProvisioningError: as `translated` says.
    """
    with translated(ErrorType.REMOVAL_FAILED, "remove auth"):
        for pool in _claimed_pools(client, name, claim):
            with suppress(client.exceptions.ResourceNotFoundException):
                client.delete_user_pool(UserPoolId=pool["Id"])
        left = [pool["Id"] for pool in _claimed_pools(client, name, claim)]
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


def _claimed_pools(
    client: CognitoIdentityProviderClient, name: str, claim: Claim
) -> list[UserPoolTypeTypeDef]:
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


def _repair_pool(client: CognitoIdentityProviderClient, pool: UserPoolTypeTypeDef) -> None:
    if not drifted(pool, _POOL_SETTINGS, untold=True):
        return
    update = update_input(client, "UpdateUserPool", pool, _POOL_SETTINGS)
    # It is told by every pool, and refused beside the password policy's own number of days.
    update.get("AdminCreateUserConfig", {}).pop("UnusedAccountValidityDays", None)
    client.update_user_pool(UserPoolId=pool["Id"], PoolName=pool["Name"], **update)


def _ensure_client(client: CognitoIdentityProviderClient, pool_id: str, name: str) -> str:
    found = _find_client(client, pool_id, name)
    if found is None:
        made = client.create_user_pool_client(
            UserPoolId=pool_id, ClientName=name, GenerateSecret=False, **_CLIENT_SETTINGS
        )["UserPoolClient"]
        found = _find_client(client, pool_id, name) or made
        if found["ClientId"] != made["ClientId"]:
            # Another run made one too: every run keeps the oldest and removes only its own.
            client.delete_user_pool_client(UserPoolId=pool_id, ClientId=made["ClientId"])
    if drifted(found, _CLIENT_SETTINGS, untold=True):
        client.update_user_pool_client(
            **update_input(client, "UpdateUserPoolClient", found, _CLIENT_SETTINGS)
        )
    return found["ClientId"]


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
    """Sort clients as they came; equally old ones, and those that no date is told of, by id."""
    created = client.get("CreationDate")
    return (0.0 if created is None else created.timestamp(), client["ClientId"])
