"""The database clusters of a region, and what instances it allows, as operators describe them.

Each is an SSM parameter of its own below a prefix: `<region>/<engine>/<cluster id>` is a cluster
that projects share, `<region>/dedicated/<engine>` what a project may ask for as its own instance.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from provisioner.aws_types import SSMClient
from provisioner.errors import ErrorType, ProvisioningError, failure
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.minute_cache import MinuteCache
from provisioner.runtime.observability import logger, metrics

#: libpq's sslmode, for MySQL too. Source: PostgreSQL documentation, "SSL Support".
SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]

_Host = Annotated[str, Field(min_length=1, max_length=255)]
_Port = Annotated[int, Field(ge=1, le=65_535)]
_Version = Annotated[str, Field(pattern=r"^[0-9]{1,2}(\.[0-9]{1,2}){0,2}$")]

#: Days that the final snapshot of an instance is kept, where the operator does not say.
SNAPSHOT_DAYS = 90


class Description(BaseModel):
    """What an operator writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Endpoint(Description):
    """Where something listens."""

    host: _Host
    port: _Port


class ClusterDescription(Description):
    """A cluster that projects share, as its parameter holds it."""

    #: Where the functions reach the server itself; not a pooler.
    host: _Host
    port: _Port
    #: Where customers reach it, such as a pooler, or an alias that survives a move; where the
    #: functions do without it.
    customers: Endpoint | None = None
    #: The secret with the platform role's `username` and `password`.
    admin_secret_arn: str
    #: Tenant databases that it may hold.
    max_tenants: Annotated[int, Field(ge=0)]
    sslmode: SslMode = "require"
    #: The server's version, such as 18 or 8.4.3; without it no project that asks for a version
    #: comes here.
    version: _Version | None = None


class Cluster(ClusterDescription):
    """Where a project's database is: a cluster that projects share, or the project's own."""

    region: str
    engine: Engine
    #: The last part of the parameter's name, or the identifier of the project's own instance.
    cluster_id: str
    #: Whether it is the project's own.
    is_dedicated: bool = False

    @property
    def quota(self) -> str:
        """What its tenants are counted under."""
        return f"cluster#{self.region}/{self.engine}/{self.cluster_id}"

    @property
    def endpoint(self) -> Endpoint:
        """Where customers reach it."""
        return self.customers or Endpoint(host=self.host, port=self.port)


@dataclass(frozen=True, slots=True)
class Clusters:
    """The clusters that projects of a region share."""

    described: Sequence[Cluster]
    #: What is wrong with each that is left out.
    wrong: Sequence[ProvisioningError]


class StorageAllowance(Description):
    """Gibibytes that an instance may have. Source: Amazon RDS User Guide, "Storage types"."""

    minimum: Annotated[int, Field(ge=20, le=65_536)] = 20
    maximum: Annotated[int, Field(ge=20, le=65_536)]
    #: Where the payload names none.
    default: Annotated[int, Field(ge=20, le=65_536)]

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if not self.minimum <= self.default <= self.maximum:
            raise ValueError("default must be at least minimum and at most maximum")
        return self


class InstanceAllowance(Description):
    """What a project may ask for as its own instance, in one region and of one engine."""

    #: Instance classes, such as db.t4g.micro.
    sizes: Annotated[list[str], Field(min_length=1)]
    #: Versions as Amazon RDS names them, such as 18.1; the first is what a payload gets that names
    #: none.
    versions: Annotated[list[_Version], Field(min_length=1)]
    storage_gb: StorageAllowance
    subnet_group: Annotated[str, Field(min_length=1, max_length=255)]
    security_group_ids: Annotated[list[str], Field(min_length=1, max_length=5)]
    #: Days that automated backups are kept. Source: Amazon RDS API Reference, CreateDBInstance.
    backup_days: Annotated[int, Field(ge=0, le=35)] = 7
    #: Days that the final snapshot of an instance is kept.
    snapshot_days: Annotated[int, Field(ge=1, le=3650)] = SNAPSHOT_DAYS
    #: Whether AWS refuses to delete an instance before a job has lifted that.
    deletion_protection: bool = True
    #: Instances that the region may have in all.
    maximum: Annotated[int, Field(ge=0)]
    sslmode: SslMode = "require"


class ClusterCatalogue:
    """Reads what operators have described."""

    def __init__(
        self,
        client: SSMClient,
        parameter_prefix: str,
        *,
        kept: MinuteCache[Clusters] | None = None,
    ) -> None:
        """Bind to the parameters below a prefix, and to what keeps the shared clusters."""
        self._client = client
        self._prefix = parameter_prefix
        self._kept = kept or MinuteCache()

    def clusters(self, region: str, engine: Engine, *, may_be_kept: bool = False) -> Clusters:
        """Return the clusters that projects of a region share.

        One whose parameter is wrong is left out, with a line in the log: it keeps no project from
        the others.

        Args:
            region: the region.
            engine: the technology.
            may_be_kept: whether they may be as they were in the last minute.

        Raises:
            NETWORK_ERROR: the answer is of other parameters.
        """
        kept = self._kept.get((region, engine)) if may_be_kept else None
        if kept is not None:
            return kept
        described: list[Cluster] = []
        wrong: list[ProvisioningError] = []
        for name, value in self._parameters(f"{self._prefix}/{region}/{engine}"):
            try:
                one = _read(ClusterDescription, name, value)
            except ProvisioningError as error:
                logger.warning("cluster left out", cause=error.cause)
                metrics.add_metric("ClustersLeftOut", "Count", 1)
                wrong.append(error)
            else:
                described.append(_cluster(region, engine, name.rpartition("/")[2], one))
        found = Clusters(described, wrong)
        # Who has corrected one has not to wait.
        return found if wrong else self._kept.keep((region, engine), found)

    def kept_cluster(self, region: str, engine: Engine, cluster_id: str) -> Cluster | None:
        """Return one cluster as it was read in the last minute; None where it was not."""
        kept = self._kept.get((region, engine))
        return (
            next((c for c in kept.described if c.cluster_id == cluster_id), None) if kept else None
        )

    def cluster(self, region: str, engine: Engine, cluster_id: str) -> Cluster | None:
        """Return one cluster; None where none of that id is described.

        Raises:
            NETWORK_ERROR: the answer is of another parameter.
            DATABASE_CREATION_FAILED: the parameter is not what it must be; the message names it.
        """
        described = self._find(ClusterDescription, f"{region}/{engine}/{cluster_id}")
        return None if described is None else _cluster(region, engine, cluster_id, described)

    def all_clusters(self) -> list[Cluster]:
        """Return the clusters that projects share, of every region; wrong ones are left out.

        Raises:
            NETWORK_ERROR: the answer is of other parameters.
        """
        found: list[Cluster] = []
        for name, value in self._parameters(self._prefix, recursive=True):
            region, _, rest = name.removeprefix(f"{self._prefix}/").partition("/")
            engine, _, cluster_id = rest.partition("/")
            if engine in set(Engine) and cluster_id:
                with suppress(ProvisioningError):
                    one = _read(ClusterDescription, name, value)
                    found.append(_cluster(region, Engine(engine), cluster_id, one))
        return found

    def allowance(self, region: str, engine: Engine) -> InstanceAllowance | None:
        """Return what a project may ask for as its own instance; None where it may not.

        Raises:
            NETWORK_ERROR, DATABASE_CREATION_FAILED: as `cluster` says.
        """
        return self._find(InstanceAllowance, f"{region}/dedicated/{engine}")

    def regions_of_instances(self) -> list[str]:
        """Return the regions in which a project may have its own instance, of any engine.

        Raises:
            NETWORK_ERROR: the answer is of other parameters.
        """
        parameters = self._parameters(self._prefix, recursive=True)
        names = (name.removeprefix(f"{self._prefix}/") for name, _ in parameters)
        allowances = (re.fullmatch("([^/]+)/dedicated/[^/]+", name) for name in names)
        return sorted({allowance[1] for allowance in allowances if allowance is not None})

    def _parameters(self, path: str, *, recursive: bool = False) -> list[tuple[str, str]]:
        """Return the names and values of the parameters below a path."""
        pages = self._client.get_paginator("get_parameters_by_path").paginate(
            Path=path, Recursive=recursive
        )
        found = [(one["Name"], one["Value"]) for page in pages for one in page["Parameters"]]
        if not all(name.startswith(f"{path}/") for name, _ in found):
            raise _other_parameter()
        return found

    def _find[Read: Description](self, model: type[Read], path: str) -> Read | None:
        name = f"{self._prefix}/{path}"
        try:
            parameter = self._client.get_parameter(Name=name)["Parameter"]
        except self._client.exceptions.ParameterNotFound:
            return None
        if parameter["Name"] != name:
            raise _other_parameter()
        return _read(model, name, parameter["Value"])


def _cluster(
    region: str, engine: Engine, cluster_id: str, described: ClusterDescription
) -> Cluster:
    # Nothing of it is left to be checked but the name, which SSM has.
    return Cluster.model_construct(
        **dict(described), region=region, engine=engine, cluster_id=cluster_id
    )


def _read[Read: Description](model: type[Read], name: str, value: str) -> Read:
    try:
        return model.model_validate_json(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise failure(
            ErrorType.DATABASE_CREATION_FAILED,
            f"The SSM parameter {name}, which describes a database cluster or what instances may "
            "be, is wrong; correct it.",
            f"SSM parameter {name}: {field}: {first['msg']}",
        ) from None


def _other_parameter() -> ProvisioningError:
    return failure(
        ErrorType.NETWORK_ERROR,
        "AWS answered another question while we tried to read the database clusters.",
        "Systems Manager: a parameter of another name",
    )
