"""rotate_cluster_login: gives the platform's own login on a cluster a new password."""

from typing import Annotated

from pydantic import Field, WithJsonSchema

from provisioner.errors import ErrorType
from provisioner.jobs.definition import JobDefinition, Stage
from provisioner.provisioning.contract import ClusterId, Payload, Region, Result
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.functions import DATABASE


class RotateClusterLoginPayload(Payload):
    """What a rotate_cluster_login job is asked to do."""

    region: Region
    cluster_id: ClusterId
    engine: Annotated[
        Engine,
        WithJsonSchema({"type": "string", "enum": list(Engine)}),
        Field(description="What the cluster speaks: postgresql or mysql."),
    ] = Engine.POSTGRESQL


class RotateClusterLoginResult(Result):
    """Where the new password of the platform's login is."""

    region: str
    cluster_id: str
    engine: str
    #: The cluster's admin secret.
    secret_arn: str
    #: The version of it that holds the new password.
    secret_version_id: str


ROTATING_LOGIN = Stage(
    "ROTATING_LOGIN",
    "The new password of the platform's login, on the server and in the admin secret.",
    function=DATABASE,
    code="provisioner.provisioning.stages.cluster_login:ensure_login_rotated",
    own_error=ErrorType.DATABASE_CHANGE_FAILED,
    state="RotateLogin",
)

JOB_TYPE = JobDefinition(
    name="rotate_cluster_login",
    meaning="Gives the platform's own login on a cluster a new password.",
    payload_model=RotateClusterLoginPayload,
    result_model=RotateClusterLoginResult,
    steps=(ROTATING_LOGIN,),
    example={"region": "eu-central-1", "cluster_id": "local-1"},
    command=("cluster", "rotate-login"),
)
