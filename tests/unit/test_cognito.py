"""The driver of Amazon Cognito."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from moto.cognitoidp.models import (
    CognitoIdpUserPool,
    CognitoIdpUserPoolClient,
    cognitoidp_backends,
)
from provisioner.drivers import cognito
from provisioner.drivers.cognito import UserPool
from provisioner.drivers.drift import MADE_AGAIN, Drift, Repairs
from provisioner.errors import ErrorType
from provisioner.ownership import Ownership
from support.calls import dated
from support.core import ACCOUNT, REGION, Core, answer_lost, aws_error, meanwhile
from support.drivers import FOREIGN, LATER, OWNER, each_foreign, errors, refused, told_only

IDP = "cognito-identity-provider"

#: Every operation of a first run, in the order in which they are first called.
OPERATIONS = [
    "ListUserPools",
    "CreateUserPool",
    "DescribeUserPool",
    "ListUserPoolClients",
    "CreateUserPoolClient",
    "DescribeUserPoolClient",
]

#: What drifts in a pool, and in its client.
POOL_DRIFTS: dict[str, Any] = {
    "AutoVerifiedAttributes": [],
    "Policies": {
        "PasswordPolicy": {
            **dict.fromkeys(
                ("RequireLowercase", "RequireUppercase", "RequireNumbers", "RequireSymbols"), False
            ),
            "MinimumLength": 6,
            "TemporaryPasswordValidityDays": 90,
        }
    },
    "AccountRecoverySetting": {"RecoveryMechanisms": []},
}
CLIENT_DRIFTS: dict[str, Any] = {
    "ExplicitAuthFlows": ["ALLOW_USER_PASSWORD_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
    "PreventUserExistenceErrors": "LEGACY",
    "EnableTokenRevocation": False,
}

#: What customers set beside it.
POOL_OF_THE_CUSTOMER: dict[str, Any] = {
    "DeletionProtection": "ACTIVE",
    "DeviceConfiguration": {
        "ChallengeRequiredOnNewDevice": True,
        "DeviceOnlyRememberedOnUserPrompt": True,
    },
    "EmailConfiguration": {"EmailSendingAccount": "COGNITO_DEFAULT", "From": "shop@example.com"},
    "LambdaConfig": {"PreSignUp": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:greet"},
    "SmsAuthenticationMessage": "Code {####}",
    "UserPoolTags": {**OWNER.tags(), "cost-centre": "7"},
    "UserPoolTier": "PLUS",
}
#: What customers make stricter, or add.
POOL_STRICTER: dict[str, Any] = {
    "AutoVerifiedAttributes": ["phone_number", "email"],
    "Policies": {
        "PasswordPolicy": {
            **dict.fromkeys(
                ("RequireLowercase", "RequireUppercase", "RequireNumbers", "RequireSymbols"), True
            ),
            "MinimumLength": 20,
            "PasswordHistorySize": 5,
            "TemporaryPasswordValidityDays": 1,
        },
        "SignInPolicy": {"AllowedFirstAuthFactors": ["PASSWORD", "WEB_AUTHN"]},
    },
    "AccountRecoverySetting": {"RecoveryMechanisms": [{"Priority": 1, "Name": "admin_only"}]},
}
CLIENT_OF_THE_CUSTOMER: dict[str, Any] = {
    "AccessTokenValidity": 5,
    "AllowedOAuthFlows": ["code"],
    "AllowedOAuthFlowsUserPoolClient": True,
    "AllowedOAuthScopes": ["openid"],
    "CallbackURLs": ["https://shop.example.com/"],
    "RefreshTokenValidity": 3,
    "TokenValidityUnits": {"AccessToken": "minutes"},
    "WriteAttributes": ["name"],
}


@dataclass
class Auth:
    """The project's part of Cognito."""

    core: Core

    @property
    def client(self) -> Any:
        return self.core.client("cognito-idp")

    def ensure(self, owner: Ownership = OWNER) -> UserPool:
        return cognito.ensure_user_pool(
            self.client, name="nm-shop", client_name="nm-shop-app", owner=owner
        )

    def check(self, pool: UserPool) -> str:
        return cognito.check_user_pool(self.client, pool, OWNER)

    def make_pool(self, tags: dict[str, str], name: str = "nm-shop") -> str:
        pool_id: str = self.client.create_user_pool(PoolName=name, UserPoolTags=tags)["UserPool"][
            "Id"
        ]
        return pool_id

    def make_client(self, pool_id: str, name: str = "nm-shop-app") -> str:
        client_id: str = self.client.create_user_pool_client(UserPoolId=pool_id, ClientName=name)[
            "UserPoolClient"
        ]["ClientId"]
        return client_id

    def pools(self) -> dict[str, dict[str, Any]]:
        listed = self.client.list_user_pools(MaxResults=60)["UserPools"]
        return {
            pool["Id"]: self.client.describe_user_pool(UserPoolId=pool["Id"])["UserPool"]
            for pool in listed
        }

    def clients(self, pool_id: str) -> dict[str, dict[str, Any]]:
        listed = self.client.list_user_pool_clients(UserPoolId=pool_id, MaxResults=60)
        return {
            client["ClientId"]: self.client.describe_user_pool_client(
                UserPoolId=pool_id, ClientId=client["ClientId"]
            )["UserPoolClient"]
            for client in listed["UserPoolClients"]
        }


def set_age(pool_id: str, year: int, client_id: str | None = None) -> None:
    """Give a pool, or a client in it, the date at which it was made."""
    pool = cognitoidp_backends[ACCOUNT][REGION].user_pools[pool_id]
    date = datetime(year, 1, 1, tzinfo=UTC)
    if client_id is None:
        pool.creation_date = date
    else:
        pool.clients[client_id].extended_config["CreationDate"] = date.timestamp()


def settings(pool: UserPool, of_client: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002
    """Return where moto keeps the settings of a pool, or of its client."""
    kept = cognitoidp_backends[ACCOUNT][REGION].user_pools[pool.pool_id]
    found: dict[str, Any] = (
        kept.clients[pool.client_id].extended_config if of_client else kept.extended_config
    )
    return found


@pytest.fixture
def auth(core: Core, monkeypatch: pytest.MonkeyPatch) -> Iterator[Auth]:
    """Return the project's part; a list tells only the ids and names for sure."""
    monkeypatch.setattr(CognitoIdpUserPoolClient, "to_json", dated)
    client = core.client("cognito-idp")
    with (
        told_only(client, "ListUserPools", "UserPools", "Id", "Name"),
        told_only(client, "ListUserPoolClients", "UserPoolClients", "ClientId", "ClientName"),
    ):
        yield Auth(core)


def test_a_project_gets_a_pool_and_an_app_client(auth: Auth) -> None:
    pool = auth.ensure()
    (made,) = auth.pools().values()
    assert pool.pool_id == made["Id"]
    assert pool.endpoint == f"https://cognito-idp.{REGION}.amazonaws.com/{pool.pool_id}"
    assert made["UserPoolTags"] == OWNER.tags()
    assert made["UsernameAttributes"] == made["AutoVerifiedAttributes"] == ["email"]
    assert made["UsernameConfiguration"] == {"CaseSensitive": False}
    assert (made["UserPoolTier"], made["DeletionProtection"]) == ("ESSENTIALS", "INACTIVE")
    assert made["EmailConfiguration"] == {"EmailSendingAccount": "COGNITO_DEFAULT"}
    assert made["Policies"]["PasswordPolicy"]["MinimumLength"] == 12
    assert made["AccountRecoverySetting"]["RecoveryMechanisms"] == [
        {"Priority": 1, "Name": "verified_email"}
    ]
    assert list(auth.clients(pool.pool_id)) == [pool.client_id]
    client = auth.clients(pool.pool_id)[pool.client_id]
    assert client["ExplicitAuthFlows"] == ["ALLOW_USER_SRP_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"]
    assert client["PreventUserExistenceErrors"] == "ENABLED"
    assert client["EnableTokenRevocation"] is True
    assert "ClientSecret" not in client
    assert auth.check(pool) == f"user pool {pool.pool_id} and its app client answered"


@pytest.mark.parametrize("owner", [OWNER, LATER], ids=["again", "of_a_later_job"])
def test_a_second_run_only_looks(auth: Auth, owner: Ownership) -> None:
    pool = auth.ensure()
    before = auth.pools()
    auth.core.calls.clear()
    assert auth.ensure(owner) == pool
    auth.check(pool)
    assert auth.core.changes() == []
    assert auth.pools() == before


def ensure_first(auth: Auth, made: list[Any] | None = None) -> UserPool:
    """Ensure as the first run of a project's first job does: nothing can be there."""
    return cognito.ensure_user_pool(
        auth.client,
        name="nm-shop",
        client_name="nm-shop-app",
        owner=OWNER,
        may_exist=False,
        made=[].append if made is None else made.append,
        made_client=[].append if made is None else made.append,
    )


def test_where_none_can_be_there_a_pool_is_made_without_a_look_at_the_others(auth: Auth) -> None:
    auth.make_pool({}, name="of-another")
    auth.core.calls.clear()
    made: list[Any] = []
    pool = ensure_first(auth, made)
    auth.check(pool)
    assert [name for name, _ in auth.core.calls] == [
        f"{IDP}.CreateUserPool",
        f"{IDP}.CreateUserPoolClient",
        f"{IDP}.DescribeUserPool",
        f"{IDP}.DescribeUserPoolClient",
    ]
    assert len(made) == 2
    again = auth.ensure()
    assert again == pool
    assert (pool.is_only, again.is_only) == (True, False)


@pytest.mark.parametrize("operation", ["create_user_pool", "create_user_pool_client"])
def test_what_a_repeated_request_may_have_made_twice_is_there_once(
    auth: Auth, operation: str
) -> None:
    """The SDK has sent it again: its answer does not say that it was sent once."""

    def arrive_twice(parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        auth.core.answers.clear()
        create = getattr(auth.client, operation)
        create(**parameters)
        return 200, create(**parameters)

    name = operation.title().replace("_", "")
    auth.core.answers[f"{IDP}.{name}"] = arrive_twice
    pool = ensure_first(auth)
    assert list(auth.pools()) == [pool.pool_id]
    assert list(auth.clients(pool.pool_id)) == [pool.client_id]


@pytest.mark.parametrize("is_kept_known", [True, False])
@pytest.mark.parametrize("is_ours_kept", [True, False])
def test_of_two_runs_pools_the_one_that_is_the_project_s_stays(
    auth: Auth, *, is_kept_known: bool, is_ours_kept: bool
) -> None:
    made: list[Any] = []
    ours = ensure_first(auth, made).pool_id
    theirs = auth.make_pool(OWNER.tags())
    set_age(ours, 2025 if is_ours_kept else 2027)
    set_age(theirs, 2026)
    kept = ours if is_ours_kept else theirs
    keep_one, _ = made
    for _ in range(2):
        keep_one(kept if is_kept_known else "")
    assert set(auth.pools()) == ({ours, theirs} if is_ours_kept else {theirs})


@pytest.mark.parametrize("is_kept_known", [True, False])
@pytest.mark.parametrize("is_ours_kept", [True, False])
def test_of_two_runs_clients_the_one_that_is_the_project_s_stays(
    auth: Auth, *, is_kept_known: bool, is_ours_kept: bool
) -> None:
    made: list[Any] = []
    pool = ensure_first(auth, made)
    ours, theirs = pool.client_id, auth.make_client(pool.pool_id)
    set_age(pool.pool_id, 2025 if is_ours_kept else 2027, ours)
    set_age(pool.pool_id, 2026, theirs)
    kept = ours if is_ours_kept else theirs
    _, keep_one = made
    for _ in range(2):
        keep_one(kept if is_kept_known else "")
    assert set(auth.clients(pool.pool_id)) == ({ours, theirs} if is_ours_kept else {theirs})


def test_a_pool_that_is_told_of_without_the_marker_is_a_conflict(auth: Auth) -> None:
    pool = auth.ensure()
    settings_of_pool = cognitoidp_backends[ACCOUNT][REGION].user_pools[pool.pool_id]
    settings_of_pool.extended_config["UserPoolTags"] = {}
    assert refused(lambda: auth.check(pool)).type is ErrorType.CONFLICT


def test_a_client_that_is_missing_is_made_in_the_pool_that_is_there(auth: Auth) -> None:
    first = auth.ensure()
    auth.client.delete_user_pool_client(UserPoolId=first.pool_id, ClientId=first.client_id)
    other = auth.make_client(first.pool_id, name="of-the-customer")
    auth.core.calls.clear()
    second = auth.ensure()
    assert auth.core.changes() == [f"{IDP}.CreateUserPoolClient"]
    assert second.pool_id == first.pool_id
    assert set(auth.clients(first.pool_id)) == {second.client_id, other}


@each_foreign
def test_a_foreign_pool_of_the_name_is_a_conflict_and_stays(
    auth: Auth, tags: dict[str, str]
) -> None:
    auth.make_pool(tags)
    before = auth.pools()
    auth.core.calls.clear()
    error = refused(auth.ensure)
    assert (error.type, error.message) == (
        ErrorType.CONFLICT,
        "A user pool named nm-shop exists and is not this project's; remove or rename it.",
    )
    assert auth.core.changes() == []
    assert auth.pools() == before


def test_pools_that_are_not_the_project_s_are_left_beside_its_own(auth: Auth) -> None:
    pool = auth.ensure()
    auth.make_pool(FOREIGN["of_another_project"])
    auth.make_pool(OWNER.tags(), name="nm-shop-2")
    auth.core.calls.clear()
    assert auth.ensure() == pool
    assert auth.core.changes() == []


def test_every_page_is_read(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cognito, "_PAGE_SIZE", 1)
    for number in range(3):
        auth.make_pool({}, name=f"of-another-{number}")
    pool = auth.ensure()
    for number in range(3):
        auth.make_client(pool.pool_id, name=f"of-the-customer-{number}")
    auth.core.calls.clear()
    assert auth.ensure() == pool
    assert auth.core.changes() == []


def test_another_run_s_pool_is_kept_if_it_is_older_and_only_ours_goes(auth: Auth) -> None:
    others: list[UserPool] = []
    auth.core.answers[f"{IDP}.CreateUserPool"] = meanwhile(lambda: others.append(auth.ensure()))
    pool = auth.ensure()
    assert [pool] == others
    assert list(auth.pools()) == [pool.pool_id]
    (deleted,) = auth.core.calls_of(f"{IDP}.DeleteUserPool")
    assert deleted["UserPoolId"] != pool.pool_id


def test_our_pool_is_kept_if_it_is_older_and_another_run_s_is_left_to_it(auth: Auth) -> None:
    others: list[str] = []
    auth.core.answers[f"{IDP}.ListUserPools"] = meanwhile(
        lambda: others.append(auth.make_pool(OWNER.tags())), before=2
    )
    pool = auth.ensure()
    assert set(auth.pools()) == {pool.pool_id, *others}
    assert auth.core.calls_of(f"{IDP}.DeleteUserPool") == []
    assert auth.ensure() == pool


def test_of_pools_of_one_age_every_run_takes_the_same(auth: Auth) -> None:
    made = [auth.make_pool(OWNER.tags()) for _ in range(3)]
    for pool_id in made:
        set_age(pool_id, 2026)
    assert auth.ensure().pool_id == min(made)
    set_age(max(made), 2025)
    assert auth.ensure().pool_id == max(made)


def test_another_run_s_client_is_kept_if_it_is_older_and_only_ours_goes(auth: Auth) -> None:
    others: list[UserPool] = []
    auth.core.answers[f"{IDP}.CreateUserPoolClient"] = meanwhile(
        lambda: others.append(auth.ensure())
    )
    pool = auth.ensure()
    assert [pool] == others
    assert list(auth.clients(pool.pool_id)) == [pool.client_id]
    (deleted,) = auth.core.calls_of(f"{IDP}.DeleteUserPoolClient")
    assert deleted["ClientId"] != pool.client_id
    assert auth.core.calls_of(f"{IDP}.DeleteUserPool") == []


def test_our_client_is_kept_if_it_is_older_and_another_run_s_is_left_to_it(auth: Auth) -> None:
    others: list[str] = []
    auth.core.answers[f"{IDP}.ListUserPoolClients"] = meanwhile(
        lambda: others.append(auth.make_client(next(iter(auth.pools())))), before=2
    )
    pool = auth.ensure()
    assert set(auth.clients(pool.pool_id)) == {pool.client_id, *others}
    assert auth.core.calls_of(f"{IDP}.DeleteUserPoolClient") == []
    assert auth.ensure() == pool


def test_of_clients_of_one_age_every_run_takes_the_same(auth: Auth) -> None:
    pool_id = auth.make_pool(OWNER.tags())
    made = [auth.make_client(pool_id) for _ in range(3)]
    for client_id in made:
        set_age(pool_id, 2026, client_id)
    assert auth.ensure().client_id == min(made)
    set_age(pool_id, 2025, max(made))
    assert auth.ensure().client_id == max(made)


def test_what_another_run_removes_while_we_look_is_not_there(auth: Auth) -> None:
    """The other run lost: it removes its own pool, and its own client."""
    pool = auth.ensure()
    lost_pool, lost_client = auth.make_pool(OWNER.tags()), auth.make_client(pool.pool_id)

    def before_describing(operation: str, remove: Callable[[], object]) -> None:
        auth.core.answers[f"{IDP}.{operation}"] = meanwhile(remove)

    before_describing(
        "DescribeUserPool", lambda: auth.client.delete_user_pool(UserPoolId=lost_pool)
    )
    before_describing(
        "DescribeUserPoolClient",
        lambda: auth.client.delete_user_pool_client(UserPoolId=pool.pool_id, ClientId=lost_client),
    )
    assert auth.ensure() == pool


@pytest.mark.parametrize("setting", POOL_DRIFTS)
def test_a_setting_of_a_pool_that_has_drifted_is_seen_and_put_right(
    auth: Auth, setting: str
) -> None:
    pool = auth.ensure()
    settings(pool).update(copy.deepcopy(POOL_OF_THE_CUSTOMER))
    before = auth.pools()[pool.pool_id]
    settings(pool)[setting] = POOL_DRIFTS[setting]
    error = refused(lambda: auth.check(pool))
    assert (error.type, error.cause) == (
        ErrorType.SERVICE_REGISTRATION_FAILED,
        f"user pool {pool.pool_id}: {setting}",
    )
    auth.core.calls.clear()
    assert auth.ensure(LATER) == pool
    assert auth.core.changes() == [f"{IDP}.UpdateUserPool"]
    auth.check(pool)
    after = auth.pools()[pool.pool_id]
    # Cognito refuses this one beside the password policy; moto forgets that one.
    del before["AdminCreateUserConfig"]["UnusedAccountValidityDays"]
    del before["UsernameAttributes"], before["UsernameConfiguration"]
    assert {k: after[k] for k in before if k not in DATES} == {
        k: v for k, v in before.items() if k not in DATES
    }
    auth.core.calls.clear()
    auth.ensure()
    assert auth.core.changes() == []


DATES = {"LastModifiedDate", "CreationDate"}


@pytest.mark.parametrize("setting", CLIENT_DRIFTS)
def test_a_setting_of_a_client_that_has_drifted_is_seen_and_put_right(
    auth: Auth, setting: str
) -> None:
    pool = auth.ensure()
    settings(pool, of_client=True).update(copy.deepcopy(CLIENT_OF_THE_CUSTOMER))
    before = auth.clients(pool.pool_id)
    settings(pool, of_client=True)[setting] = CLIENT_DRIFTS[setting]
    error = refused(lambda: auth.check(pool))
    assert error.type is ErrorType.SERVICE_REGISTRATION_FAILED
    assert error.cause == f"user pool {pool.pool_id}: {setting}"
    auth.core.calls.clear()
    assert auth.ensure(LATER) == pool
    assert auth.core.changes() == [f"{IDP}.UpdateUserPoolClient"]
    auth.check(pool)
    assert auth.clients(pool.pool_id) == before
    auth.core.calls.clear()
    auth.ensure()
    assert auth.core.changes() == []


def test_members_beside_ours_and_another_order_are_no_drift(auth: Auth) -> None:
    pool = auth.ensure()
    settings(pool)["Policies"]["SignInPolicy"] = {"AllowedFirstAuthFactors": ["PASSWORD"]}
    settings(pool)["Policies"]["PasswordPolicy"]["PasswordHistorySize"] = 3
    settings(pool, of_client=True)["ExplicitAuthFlows"].reverse()
    auth.core.calls.clear()
    assert auth.ensure() == pool
    auth.check(pool)
    assert auth.core.changes() == []


def test_what_the_customer_has_made_stricter_is_no_drift_and_survives_a_repair(auth: Auth) -> None:
    pool = auth.ensure()
    settings(pool).update(copy.deepcopy(POOL_STRICTER))
    auth.core.calls.clear()
    assert auth.ensure() == pool
    auth.check(pool)
    assert auth.core.changes() == []
    settings(pool)["Policies"]["PasswordPolicy"]["RequireNumbers"] = False
    auth.ensure()
    assert auth.core.changes() == [f"{IDP}.UpdateUserPool"]
    found = auth.pools()[pool.pool_id]
    assert {name: found[name] for name in POOL_STRICTER} == POOL_STRICTER


#: Second factors that a customer has set up, as GetUserPoolMfaConfig tells of them.
FACTORS: dict[str, dict[str, Any]] = {
    "totp_only": {"SoftwareTokenMfaConfiguration": {"Enabled": True}},
    "totp_and_sms": {
        "SoftwareTokenMfaConfiguration": {"Enabled": True},
        "SmsMfaConfiguration": {
            "SmsAuthenticationMessage": "Code {####}",
            "SmsConfiguration": {"SnsCallerArn": f"arn:aws:iam::{ACCOUNT}:role/of-the-customer"},
        },
    },
}


@dataclass
class SecondFactors:
    """Second factors of a pool as Cognito keeps them, which moto's update leaves alone."""

    pool_id: str
    #: Whether UpdateUserPool asks for SMS where there is to be a second factor.
    asks_for_sms: bool
    config: dict[str, Any]

    def get(self, _parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, copy.deepcopy(self.config)

    def set(self, parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        self.config = {n: value for n, value in parameters.items() if n != "UserPoolId"}
        return 200, self.config

    def update(self, parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Set what is named, and all else to its default."""
        state = parameters.get("MfaConfiguration", "OFF")
        if state != "OFF" and self.asks_for_sms and "SmsConfiguration" not in parameters:
            text = "SMS configuration and Auto verification for phone_number are required"
            return 400, {"Error": {"Code": "InvalidParameterException", "Message": text}}
        if state == "OFF":
            self.config = {"MfaConfiguration": "OFF"}
        pool = cognitoidp_backends[ACCOUNT][REGION].user_pools[self.pool_id]
        pool.update_extended_config({n: v for n, v in parameters.items() if n != "UserPoolId"})
        return 200, {}


def second_factors(auth: Auth, pool: UserPool, asks_for_sms: bool, factors: str) -> SecondFactors:  # noqa: FBT001  # of tests alone
    """Let the customer of a pool set up second factors, and let Cognito keep them."""
    kept = SecondFactors(pool.pool_id, asks_for_sms, {"MfaConfiguration": "ON", **FACTORS[factors]})
    settings(pool)["MfaConfiguration"] = "ON"
    if sms := FACTORS[factors].get("SmsMfaConfiguration"):
        settings(pool)["SmsConfiguration"] = sms["SmsConfiguration"]
    auth.core.answers |= {
        f"{IDP}.GetUserPoolMfaConfig": kept.get,
        f"{IDP}.SetUserPoolMfaConfig": kept.set,
        f"{IDP}.UpdateUserPool": kept.update,
    }
    return kept


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("asks_for_sms", [True, False])
def test_second_factors_survive_a_repair(auth: Auth, factors: str, *, asks_for_sms: bool) -> None:
    pool = auth.ensure()
    kept = second_factors(auth, pool, asks_for_sms, factors)
    before = copy.deepcopy(kept.config)
    settings(pool)["AutoVerifiedAttributes"] = []
    auth.ensure()
    auth.check(pool)
    assert kept.config == before
    auth.core.calls.clear()
    auth.ensure()
    assert auth.core.changes() == []


def test_second_factors_that_cannot_be_set_again_are_told_of(auth: Auth) -> None:
    pool = auth.ensure()
    second_factors(auth, pool, asks_for_sms=True, factors="totp_only")
    settings(pool)["AutoVerifiedAttributes"] = []
    auth.core.answers[f"{IDP}.SetUserPoolMfaConfig"] = aws_error("TooManyRequestsException")
    error = refused(auth.ensure)
    assert (error.type, error.message) == (
        ErrorType.SERVICE_REGISTRATION_FAILED,
        "The user pool's multi-factor authentication may have been reset; set it again.",
    )
    assert error.cause == (
        f"user pool {pool.pool_id}: was ON, with SoftwareTokenMfaConfiguration; "
        "SetUserPoolMfaConfig: TooManyRequestsException"
    )


def test_a_client_whose_refresh_tokens_rotate_keeps_that(auth: Auth) -> None:
    """Cognito refuses the flow that does not rotate them beside it."""
    pool = auth.ensure()
    rotating = {
        "ExplicitAuthFlows": ["ALLOW_USER_SRP_AUTH"],
        "RefreshTokenRotation": {"Feature": "ENABLED", "RetryGracePeriodSeconds": 10},
    }
    settings(pool, of_client=True).update(copy.deepcopy(rotating))
    auth.core.calls.clear()
    auth.ensure()
    auth.check(pool)
    assert auth.core.changes() == []
    settings(pool, of_client=True)["EnableTokenRevocation"] = False
    auth.ensure()
    found = auth.clients(pool.pool_id)[pool.client_id]
    assert {name: found[name] for name in rotating} == rotating


def test_what_cannot_be_changed_is_seen_and_not_tried(auth: Auth) -> None:
    pool = auth.ensure()
    settings(pool)["UsernameAttributes"] = ["phone_number"]
    auth.core.calls.clear()
    assert auth.ensure() == pool
    assert auth.core.changes() == []
    error = refused(lambda: auth.check(pool))
    assert error.cause == f"user pool {pool.pool_id}: UsernameAttributes"
    settings(pool)["UsernameConfiguration"] = {"CaseSensitive": True}
    error = refused(lambda: auth.check(pool))
    assert error.cause == f"user pool {pool.pool_id}: UsernameAttributes, UsernameConfiguration"


def test_a_setting_that_is_never_told_of_is_set_once_a_run_and_fails_no_check(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = CognitoIdpUserPool.to_json

    def untold(pool: CognitoIdpUserPool, **options: Any) -> dict[str, Any]:
        return {k: v for k, v in told(pool, **options).items() if k != "AccountRecoverySetting"}

    monkeypatch.setattr(CognitoIdpUserPool, "to_json", untold)
    pool = auth.ensure()
    auth.core.calls.clear()
    assert auth.ensure() == pool
    assert auth.core.changes() == [f"{IDP}.UpdateUserPool"]
    auth.check(pool)


@pytest.mark.parametrize("operation", ["UpdateUserPool", "UpdateUserPoolClient"])
def test_an_error_of_a_repair_is_understood_and_the_next_run_goes_through(
    auth: Auth, operation: str
) -> None:
    pool = auth.ensure()
    settings(pool)["AutoVerifiedAttributes"] = []
    settings(pool, of_client=True)["EnableTokenRevocation"] = False
    for answer, expected in errors(ErrorType.SERVICE_REGISTRATION_FAILED).values():
        auth.core.answers[f"{IDP}.{operation}"] = answer
        assert refused(auth.ensure).type is expected
    auth.core.answers.clear()
    assert auth.ensure() == pool
    auth.check(pool)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_error_of_any_call_is_understood_and_the_next_run_goes_through(
    auth: Auth, operation: str
) -> None:
    def run() -> UserPool:
        pool = auth.ensure()
        auth.check(pool)
        return pool

    for answer, expected in errors(ErrorType.SERVICE_REGISTRATION_FAILED).values():
        auth.core.answers[f"{IDP}.{operation}"] = answer
        error = refused(run)
        assert error.type is expected
        assert "made by a test" not in error.message
    auth.core.answers.clear()
    pool = run()
    assert list(auth.clients(pool.pool_id)) == [pool.client_id]


def test_a_first_run_calls_these_operations(auth: Auth) -> None:
    auth.check(auth.ensure())
    called = list(dict.fromkeys(name for name, _ in auth.core.calls))
    assert called == [f"{IDP}.{operation}" for operation in OPERATIONS]


@pytest.mark.parametrize("operation", ["CreateUserPool", "CreateUserPoolClient"])
def test_a_run_whose_answer_is_lost_makes_no_second_one(auth: Auth, operation: str) -> None:
    method = {
        "CreateUserPool": auth.client.create_user_pool,
        "CreateUserPoolClient": auth.client.create_user_pool_client,
    }[operation]
    auth.core.answers[f"{IDP}.{operation}"] = answer_lost(method)
    assert refused(auth.ensure).type is ErrorType.TIMEOUT
    pool = auth.ensure()
    assert list(auth.pools()) == [pool.pool_id]
    assert list(auth.clients(pool.pool_id)) == [pool.client_id]


def repair(auth: Auth, pool: UserPool, owner: Ownership = LATER) -> tuple[UserPool, Repairs]:
    return cognito.repair_user_pool(
        auth.client,
        pool_id=pool.pool_id,
        client_id=pool.client_id,
        client_name="nm-shop-app",
        owner=owner,
    )


def test_a_repair_of_what_is_right_only_looks(auth: Auth) -> None:
    pool = auth.ensure()
    auth.core.calls.clear()
    checked = f"user pool {pool.pool_id} and its app client answered"
    assert repair(auth, pool) == (pool, Repairs((), (), checked))
    assert [name for name, _ in auth.core.calls] == [
        f"{IDP}.DescribeUserPool",
        f"{IDP}.DescribeUserPoolClient",
    ]


def test_a_repair_puts_right_what_has_drifted_and_says_what_it_was(auth: Auth) -> None:
    pool = auth.ensure()
    settings(pool).update(copy.deepcopy(POOL_DRIFTS))
    settings(pool, of_client=True).update(copy.deepcopy(CLIENT_DRIFTS))
    found, repairs = repair(auth, pool)
    assert found == pool
    assert set(repairs.repaired) == {
        *(Drift(f"user pool {pool.pool_id}", name) for name in POOL_DRIFTS),
        *(Drift(f"app client {pool.client_id}", name) for name in CLIENT_DRIFTS),
    }
    assert repairs.remaining == ()
    auth.check(pool)
    auth.core.calls.clear()
    assert repair(auth, pool)[1].repaired == ()
    assert auth.core.changes() == []


def test_a_repair_does_not_claim_what_the_service_does_not_show(auth: Auth) -> None:
    pool = auth.ensure()
    settings(pool)["AutoVerifiedAttributes"] = []
    auth.core.answers[f"{IDP}.UpdateUserPool"] = lambda _parameters: (200, {})
    _, repairs = repair(auth, pool)
    assert repairs.repaired == ()
    assert [(r.resource, r.what) for r in repairs.remaining] == [
        (f"user pool {pool.pool_id}", "AutoVerifiedAttributes")
    ]


def test_a_repair_tells_of_what_cognito_never_changes(auth: Auth) -> None:
    pool = auth.ensure()
    settings(pool)["UsernameConfiguration"] = {"CaseSensitive": True}
    auth.core.calls.clear()
    _, repairs = repair(auth, pool)
    (remaining,) = repairs.remaining
    assert (remaining.resource, remaining.what) == (
        f"user pool {pool.pool_id}",
        "UsernameConfiguration",
    )
    assert "only a new pool" in remaining.why
    assert (repairs.repaired, auth.core.changes()) == ((), [])


def test_a_repair_makes_a_missing_client_again_and_no_missing_pool(auth: Auth) -> None:
    pool = auth.ensure()
    auth.client.delete_user_pool_client(UserPoolId=pool.pool_id, ClientId=pool.client_id)
    made, repairs = repair(auth, pool)
    assert made.client_id != pool.client_id
    again = (Drift(f"app client {made.client_id}", MADE_AGAIN),)
    assert repairs.repaired == again
    # Who does not know the new id yet is told of it again.
    assert repair(auth, pool)[1].repaired == again
    assert list(auth.clients(pool.pool_id)) == [made.client_id]
    assert repair(auth, made) == (made, Repairs((), (), repairs.checked))
    auth.client.delete_user_pool(UserPoolId=pool.pool_id)
    auth.make_pool(OWNER.tags())
    auth.core.calls.clear()
    error = refused(lambda: repair(auth, made))
    assert error.type is ErrorType.SERVICE_REGISTRATION_FAILED
    assert pool.pool_id in error.message
    assert auth.core.changes() == []


def test_a_client_that_the_customer_has_renamed_is_repaired_and_not_made_again(auth: Auth) -> None:
    pool = auth.ensure()
    auth.client.update_user_pool_client(
        UserPoolId=pool.pool_id, ClientId=pool.client_id, ClientName="mobile", **CLIENT_DRIFTS
    )
    found, repairs = repair(auth, pool)
    assert found == pool
    assert {drift.what for drift in repairs.repaired} == set(CLIENT_DRIFTS)
    assert list(auth.clients(pool.pool_id)) == [pool.client_id]


@each_foreign
def test_a_repair_leaves_a_pool_that_is_not_the_project_s(auth: Auth, tags: dict[str, str]) -> None:
    pool = auth.ensure()
    settings(pool).update(copy.deepcopy(POOL_DRIFTS), UserPoolTags=tags)
    auth.core.calls.clear()
    error = refused(lambda: repair(auth, pool))
    assert (error.type, auth.core.changes()) == (ErrorType.CONFLICT, [])


def test_an_error_of_a_repair_is_understood(auth: Auth) -> None:
    pool = auth.ensure()
    settings(pool).update(copy.deepcopy(POOL_DRIFTS))
    for operation in ("DescribeUserPool", "UpdateUserPool"):
        for answer, expected in errors(ErrorType.SERVICE_REGISTRATION_FAILED).values():
            auth.core.answers[f"{IDP}.{operation}"] = answer
            assert refused(lambda: repair(auth, pool)).type is expected
        del auth.core.answers[f"{IDP}.{operation}"]
    assert {drift.what for drift in repair(auth, pool)[1].repaired} == set(POOL_DRIFTS)
