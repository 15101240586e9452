"""The database clusters that serve a region: one SSM parameter a region and engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from provisioner.errors import ErrorType, failure

if TYPE_CHECKING:
    from mypy_boto3_ssm.client import SSMClient


class Cluster(BaseModel):
    """One cluster, as an operator describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Counts its tenants in the quotas table; never given to another cluster.
    cluster_id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    #: Where both the functions and the customers reach it; not a pooler.
    host: Annotated[str, Field(min_length=1, max_length=255)]
    port: Annotated[int, Field(ge=1, le=65_535)]
    #: The secret with the platform role's `username` and `password`.
    admin_secret_arn: str
    #: Tenant databases that it may hold.
    max_tenants: Annotated[int, Field(ge=0)]
    #: libpq's sslmode. Source: PostgreSQL documentation, "SSL Support".
    sslmode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "require"


_CLUSTERS = TypeAdapter(Annotated[list[Cluster], Field(min_length=1)])


class ClusterCatalogue:
    """Reads which clusters serve a region."""

    def __init__(self, client: SSMClient, parameter_prefix: str) -> None:
        """Bind to the parameters below a prefix."""
        self._client = client
        self._prefix = parameter_prefix

    def clusters(self, region: str, engine: str) -> list[Cluster]:
        """Return the clusters of a region; none where it is not served.

        Raises:
            NETWORK_ERROR: the answer is of another parameter.
            DATABASE_CREATION_FAILED: the parameter is not what it must be; the message names it.
        """
        name = f"{self._prefix}/{region}/{engine}"
        try:
            parameter = self._client.get_parameter(Name=name)["Parameter"]
        except self._client.exceptions.ParameterNotFound:
            return []
        if parameter["Name"] != name:
            raise failure(
                ErrorType.NETWORK_ERROR,
                "AWS answered another question while we tried to read the database clusters.",
                "Systems Manager: a parameter of another name",
            )
        try:
            return _CLUSTERS.validate_json(parameter["Value"])
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise failure(
                ErrorType.DATABASE_CREATION_FAILED,
                "The description of the database clusters of this region is wrong.",
                f"SSM parameter {name}: {field}: {first['msg']}",
            ) from None
