"""What keeps Amazon Cognito from deleting a project's user pool.

A domain is the customer's: it stands in links and certificates, so nobody but he takes it away.
Source: Amazon Cognito Developer Guide, "User pool deletion protection", "Configuring a domain".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from provisioner.drivers.aws_errors import translated
from provisioner.drivers.cognito import claimed_pools
from provisioner.drivers.obstacles import Obstacles, named, quoted
from provisioner.errors import ErrorType
from provisioner.ownership import Claim

if TYPE_CHECKING:
    from mypy_boto3_cognito_idp.client import CognitoIdentityProviderClient
    from mypy_boto3_cognito_idp.type_defs import UserPoolTypeTypeDef


def look_at_pools(client: CognitoIdentityProviderClient, *, name: str, claim: Claim) -> Obstacles:
    """Say what keeps the pools of that name that are claimed from going.

    A request for every 60 pools of the region, and one for each of that name.

    Raises:
        ProvisioningError: as `translated` says.
    """
    with translated(ErrorType.REMOVAL_FAILED, "look at auth"):
        pools = claimed_pools(client, name, claim)
    return Obstacles(named([clause for pool in pools for clause in _of_pool(pool)], "of these"))


def _of_pool(pool: UserPoolTypeTypeDef) -> Iterator[str]:
    if pool.get("DeletionProtection") == "ACTIVE":
        yield (
            f"deletion protection is active on user pool {pool['Id']}: switch it off "
            "(cognito-idp update-user-pool)"
        )
    for domain in filter(None, (pool.get("Domain"), pool.get("CustomDomain"))):
        yield (
            f"user pool {pool['Id']} has the domain {quoted(domain)}: delete it "
            "(cognito-idp delete-user-pool-domain)"
        )
