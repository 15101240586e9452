"""The results of the job types. They hold no secret: secrets are named by their ARNs."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatabaseResult(_Result):
    """The tenant database."""

    host: str
    port: int
    database_name: str
    schema_name: str
    #: Without a password; the secret holds the complete one.
    connection_string: str
    secret_arn: str


class ServiceResult(_Result):
    """One registered service."""

    enabled: bool
    #: The service's own id of what was made for the project.
    tenant_id: str
    endpoint: str


class AuthResult(ServiceResult):
    """The user pool."""

    #: The app client, with which the customer's users sign in. It has no secret.
    client_id: str


class StorageResult(ServiceResult):
    """The bucket."""

    bucket_name: str


class ServicesResult(_Result):
    """The services that the payload asked for; the others are left out."""

    auth: AuthResult | None = None
    realtime: ServiceResult | None = None
    storage: StorageResult | None = None


class ApiKeyResult(_Result):
    """What may be shown of one API key."""

    key_id: str
    key_prefix: str
    created_at: datetime


class ResultMetadata(_Result):
    """When, where and for whom."""

    provisioned_at: datetime
    region: str
    owner_id: str | None = None
    organization_id: str | None = None


class ProvisionProjectResult(_Result):
    """What a project has once it is provisioned."""

    project_id: str
    database: DatabaseResult
    services: ServicesResult
    api_keys: list[ApiKeyResult]
    #: The secret that hands over the keys once; claiming them deletes it.
    api_keys_secret_arn: str
    metadata: ResultMetadata


class SnapshotResult(_Result):
    """The final snapshot: an archive in pg_dump's custom format."""

    bucket: str
    key: str
    size_bytes: int
    #: The version of the server that it was taken of, such as 18.6.
    server_version: str


class DeprovisionProjectResult(_Result):
    """What is left of a project once it is deprovisioned."""

    project_id: str
    #: Left out where none was asked for, or there was no database.
    snapshot: SnapshotResult | None = None
    #: What does not exist any more, one text a resource.
    removed: list[str]
    deprovisioned_at: datetime


class RotateApiKeysResult(_Result):
    """The new API keys of a project."""

    project_id: str
    api_keys: list[ApiKeyResult]
    #: The secret that hands over the keys once; left out where they have been claimed already.
    api_keys_secret_arn: str | None = None
    #: Until when the old keys verify.
    old_keys_expire_at: datetime


class RevokeApiKeyResult(_Result):
    """The API key that does not verify any more."""

    project_id: str
    key_id: str
    revoked_at: datetime


class RotateDatabasePasswordResult(_Result):
    """Where the new password of a project's database login is."""

    project_id: str
    #: The secret with the login.
    secret_arn: str
    #: The version of the secret that holds the new password.
    secret_version_id: str
