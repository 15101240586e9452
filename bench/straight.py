"""The floor of a job: a script that makes what a job makes, call after call, and nothing else.

It is plain boto3 and psycopg: it does not look at what is there, stores no progress and checks
nothing at the end. What it made it remembers, to remove it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import uuid
from dataclasses import dataclass
from typing import Any

import boto3
import psycopg
from provisioner.runtime.platform import PlatformSettings
from psycopg import sql

_TLS_ONLY = {
    "Sid": "RefusePlainHttp",
    "Effect": "Deny",
    "Principal": "*",
    "Action": "s3:*",
    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
}

_ENDS_WHAT_IS_UNSEEN = {
    "ID": "EndUnfinishedUploadsAndNoncurrentVersions",
    "Status": "Enabled",
    "Filter": {"Prefix": ""},
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
    "NoncurrentVersionExpiration": {"NoncurrentDays": 90},
    "Expiration": {"ExpiredObjectDeleteMarker": True},
}

#: API keys of a project, as many as a job makes by default.
_KEYS = 2

_DATABASE = """
CREATE ROLE {owner} NOLOGIN
CREATE ROLE {app} LOGIN CONNECTION LIMIT 20 PASSWORD {password}
COMMENT ON ROLE {owner} IS {marker}
COMMENT ON ROLE {app} IS {marker}
CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8' STRATEGY WAL_LOG CONNECTION LIMIT 25
REVOKE ALL ON DATABASE {database} FROM PUBLIC
GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {app}
GRANT CREATE, TEMPORARY ON DATABASE {database} TO {owner}
GRANT {owner} TO {app}
ALTER DATABASE {database} SET statement_timeout = '60s'
ALTER DATABASE {database} SET lock_timeout = '30s'
ALTER DATABASE {database} SET idle_in_transaction_session_timeout = '60s'
COMMENT ON DATABASE {database} IS {marker}
GRANT {owner} TO CURRENT_USER WITH SET TRUE, INHERIT FALSE
GRANT {app} TO CURRENT_USER WITH SET TRUE, INHERIT FALSE
"""

_SCHEMA = """
CREATE SCHEMA app AUTHORIZATION {owner}
REVOKE ALL ON SCHEMA public FROM PUBLIC
GRANT ALL ON SCHEMA public TO {owner}, {app}
SET LOCAL ROLE {owner}
GRANT ALL ON SCHEMA app TO {owner}, {app}
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {app}
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {app}
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO {app}
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO {app}
SET LOCAL ROLE {app}
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {owner}
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {owner}
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO {owner}
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO {owner}
RESET ROLE
CREATE SCHEMA provisioner
CREATE TABLE provisioner.schema_version (version int PRIMARY KEY, marker text NOT NULL)
GRANT USAGE ON SCHEMA provisioner TO {owner}, {app}
GRANT SELECT ON provisioner.schema_version TO {owner}, {app}
INSERT INTO provisioner.schema_version VALUES (1, {marker})
ALTER ROLE {app} IN DATABASE {database} SET role = {owner}
ALTER ROLE {app} IN DATABASE {database} SET search_path = app
REVOKE {owner} FROM CURRENT_USER GRANTED BY CURRENT_USER
REVOKE {app} FROM CURRENT_USER GRANTED BY CURRENT_USER
"""

_REMOVAL = """
DROP DATABASE {database} WITH (FORCE)
DROP ROLE {app}
DROP ROLE {owner}
"""


@dataclass(frozen=True, slots=True)
class _Made:
    """What one run has made."""

    name: str
    pool_id: str
    api_id: str
    digests: list[str]


class Straight:
    """Makes what a job makes; remembers it, to remove it."""

    def __init__(self, settings: PlatformSettings, region: str) -> None:
        """Make the clients, as a function does once.

        Args:
            settings: the deployment, whose tables, cluster and prefix of names it uses.
            region: where everything is made.
        """
        session: Any = boto3.Session(region_name=region)
        self._settings = settings
        self._region = region
        services = ("cognito-idp", "appsync", "s3", "secretsmanager", "ssm", "dynamodb")
        self._aws: dict[str, Any] = {service: session.client(service) for service in services}
        self._made: list[_Made] = []

    def run(self) -> None:
        """Make one project's things."""
        name = f"{self._settings.resource_prefix}-straight-{uuid.uuid4().hex[:12]}"
        pool_id, client_id = self._make_pool(name)
        api_id = self._make_api(name)
        self._make_bucket(name)
        password = secrets.token_urlsafe(32)
        login = json.dumps({"username": f"{name}_app", "password": password})
        self._make_secret(f"{self._settings.resource_prefix}/{name}/database", login)
        self._make_database(name, password)
        keys = [secrets.token_urlsafe(32) for _ in range(_KEYS)]
        digests = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
        self._make_secret(
            f"{self._settings.resource_prefix}/{name}/api-keys", json.dumps({"api_keys": keys})
        )
        self._store(name, digests, {"pool": pool_id, "client": client_id, "api": api_id})
        self._made.append(_Made(name, pool_id, api_id, digests))

    def _make_pool(self, name: str) -> tuple[str, str]:
        cognito = self._aws["cognito-idp"]
        password = {
            "MinimumLength": 12,
            "RequireLowercase": True,
            "RequireUppercase": True,
            "RequireNumbers": True,
            "RequireSymbols": False,
            "TemporaryPasswordValidityDays": 7,
        }
        pool_id: str = cognito.create_user_pool(
            PoolName=name,
            UserPoolTags={"project": name},
            UsernameAttributes=["email"],
            UsernameConfiguration={"CaseSensitive": False},
            UserPoolTier="ESSENTIALS",
            EmailConfiguration={"EmailSendingAccount": "COGNITO_DEFAULT"},
            AutoVerifiedAttributes=["email"],
            Policies={"PasswordPolicy": password},
            AccountRecoverySetting={
                "RecoveryMechanisms": [{"Priority": 1, "Name": "verified_email"}]
            },
        )["UserPool"]["Id"]
        client_id: str = cognito.create_user_pool_client(
            UserPoolId=pool_id,
            ClientName=f"{name}-app",
            ExplicitAuthFlows=["ALLOW_USER_SRP_AUTH", "ALLOW_REFRESH_TOKEN_AUTH"],
            PreventUserExistenceErrors="ENABLED",
            EnableTokenRevocation=True,
        )["UserPoolClient"]["ClientId"]
        return pool_id, client_id

    def _make_api(self, name: str) -> str:
        signed = [{"authType": "AWS_IAM"}]
        api_id: str = self._aws["appsync"].create_api(
            name=name,
            tags={"project": name},
            eventConfig={
                "authProviders": signed,
                "connectionAuthModes": signed,
                "defaultPublishAuthModes": signed,
                "defaultSubscribeAuthModes": signed,
            },
        )["api"]["apiId"]
        self._aws["appsync"].create_channel_namespace(apiId=api_id, name="default")
        return api_id

    def _make_bucket(self, name: str) -> None:
        s3 = self._aws["s3"]
        s3.create_bucket(
            Bucket=name,
            CreateBucketConfiguration={
                "LocationConstraint": self._region,
                "Tags": [{"Key": "project", "Value": name}],
            },
        )
        s3.put_public_access_block(
            Bucket=name,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )
        encrypted = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
        s3.put_bucket_encryption(
            Bucket=name, ServerSideEncryptionConfiguration={"Rules": [encrypted]}
        )
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        arn = f"arn:aws:s3:::{name}"
        policy = {
            "Version": "2012-10-17",
            "Statement": [{**_TLS_ONLY, "Resource": [arn, f"{arn}/*"]}],
        }
        s3.put_bucket_policy(Bucket=name, Policy=json.dumps(policy))
        s3.put_bucket_lifecycle_configuration(
            Bucket=name, LifecycleConfiguration={"Rules": [_ENDS_WHAT_IS_UNSEEN]}
        )

    def _make_secret(self, name: str, value: str) -> None:
        self._aws["secretsmanager"].create_secret(
            Name=name, SecretString=value, Tags=[{"Key": "project", "Value": name}]
        )

    def _make_database(self, name: str, password: str) -> None:
        parts = _names(name) | {"marker": sql.Literal(name), "password": sql.Literal(password)}
        login = self._login()
        with psycopg.connect(**login, dbname="postgres", autocommit=True) as connection:
            for statement in _DATABASE.strip().splitlines():
                _execute(connection, statement, parts)
        with psycopg.connect(**login, dbname=_database(name)) as connection:
            for statement in _SCHEMA.strip().splitlines():
                _execute(connection, statement, parts)

    def _login(self) -> dict[str, Any]:
        """Read where the cluster is, and the platform's login on it."""
        path = f"{self._settings.cluster_parameter_prefix}/{self._region}/postgresql"
        (found, *_) = self._aws["ssm"].get_parameters_by_path(Path=path)["Parameters"]
        cluster = json.loads(found["Value"])
        secret = self._aws["secretsmanager"].get_secret_value(SecretId=cluster["admin_secret_arn"])
        login = json.loads(secret["SecretString"])
        return {
            "host": cluster["host"],
            "port": cluster["port"],
            "user": login["username"],
            "password": login["password"],
            "sslmode": cluster["sslmode"],
        }

    def _store(self, name: str, digests: list[str], made: dict[str, str]) -> None:
        keys = [
            {
                "Put": {
                    "TableName": self._settings.api_keys_table,
                    "Item": {
                        "digest": {"S": digest},
                        "key_id": {"S": f"key_{digest[:20]}"},
                        "project_id": {"S": name},
                    },
                }
            }
            for digest in digests
        ]
        self._aws["dynamodb"].transact_write_items(TransactItems=keys)
        self._aws["dynamodb"].put_item(
            TableName=self._settings.projects_table,
            Item={"project_id": {"S": name}, "result": {"S": json.dumps(made)}},
        )

    def remove(self) -> None:
        """Remove what was made."""
        while self._made:
            self._remove(self._made.pop())

    def _remove(self, made: _Made) -> None:
        prefix = self._settings.resource_prefix
        self._aws["cognito-idp"].delete_user_pool(UserPoolId=made.pool_id)
        self._aws["appsync"].delete_api(apiId=made.api_id)
        self._aws["s3"].delete_bucket(Bucket=made.name)
        for secret in ("database", "api-keys"):
            self._aws["secretsmanager"].delete_secret(
                SecretId=f"{prefix}/{made.name}/{secret}", ForceDeleteWithoutRecovery=True
            )
        for digest in made.digests:
            self._aws["dynamodb"].delete_item(
                TableName=self._settings.api_keys_table, Key={"digest": {"S": digest}}
            )
        self._aws["dynamodb"].delete_item(
            TableName=self._settings.projects_table, Key={"project_id": {"S": made.name}}
        )
        with psycopg.connect(**self._login(), dbname="postgres", autocommit=True) as connection:
            for statement in _REMOVAL.strip().splitlines():
                _execute(connection, statement, _names(made.name))


def _database(name: str) -> str:
    return name.replace("-", "_")


def _names(name: str) -> dict[str, sql.Composable]:
    database = _database(name)
    return {
        "database": sql.Identifier(database),
        "owner": sql.Identifier(f"{database}_owner"),
        "app": sql.Identifier(f"{database}_app"),
    }


def _execute(
    connection: psycopg.Connection[Any], statement: Any, parts: dict[str, sql.Composable]
) -> None:
    connection.execute(sql.SQL(statement).format(**parts))
