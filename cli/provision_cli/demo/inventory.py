"""Looks up what there is under a project's names, at the services themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
from botocore.exceptions import ClientError
from provisioner import api
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.naming import ResourceNames

from provision_cli.demo.scene import Scene
from provision_cli.local.ports import LOOPBACK
from provision_cli.local.stack import RunningStack

#: How many there are of each kind.
type Inventory = Mapping[str, int]

#: Buckets under the project's name, with its marker and without.
OWN_BUCKET = "bucket of the project"
OTHER_BUCKET = "bucket of someone else"


def look_up(scene: Scene, project_id: str) -> Inventory:
    """Count what there is under a project's names."""
    running, names = scene.running, scene.naming.names(project_id)
    databases, roles = _in_the_cluster(running, names)
    buckets = _buckets(scene, project_id, names.bucket)
    return {
        "database": databases,
        "database roles": roles,
        "user pool": sum(
            pool["Name"] == names.user_pool
            for pool in _list(running, "cognito-idp", "list_user_pools", "UserPools", MaxResults=60)
        ),
        "Event API": sum(
            found["name"] == names.event_api
            for found in _list(running, "appsync", "list_apis", "apis")
        ),
        "secrets": sum(
            _secret_exists(running, name) for name in (names.database_secret, names.api_keys_secret)
        ),
        "API keys": len(api.list_api_keys(project_id)),
        OWN_BUCKET: buckets.count(True),
        OTHER_BUCKET: buckets.count(False),
    }


def list_left(inventory: Inventory) -> list[str]:
    """Name the kinds of which the project has any."""
    return [kind for kind, count in inventory.items() if count and kind != OTHER_BUCKET]


def _in_the_cluster(running: RunningStack, names: ResourceNames) -> tuple[int, int]:
    """Count the project's databases and roles."""
    text = running.client("secretsmanager").get_secret_value(SecretId=running.admin_secret_name)
    login: dict[str, str] = json.loads(text["SecretString"])
    with psycopg.connect(
        host=LOOPBACK,
        port=running.postgresql_port,
        dbname="postgres",
        user=login["username"],
        password=login["password"],
        connect_timeout=10,
    ) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM pg_database WHERE datname = %s),"
            " (SELECT count(*) FROM pg_roles WHERE rolname = ANY(%s))",
            (
                names.tenants[Engine.POSTGRESQL].database,
                [
                    names.tenants[Engine.POSTGRESQL].owner_role,
                    names.tenants[Engine.POSTGRESQL].app_role,
                ],
            ),
        ).fetchone()
    return (0, 0) if row is None else (int(row[0]), int(row[1]))


def _list(
    running: RunningStack, service: str, operation: str, items: str, **parameters: int
) -> Iterator[dict[str, Any]]:
    pages = running.client(service).get_paginator(operation).paginate(**parameters)
    return (item for page in pages for item in page[items])


def _secret_exists(running: RunningStack, name: str) -> bool:
    manager = running.client("secretsmanager")
    try:
        manager.describe_secret(SecretId=name)
    except manager.exceptions.ResourceNotFoundException:
        return False
    return True


def _buckets(scene: Scene, project_id: str, name: str) -> list[bool]:
    """Say of the bucket of that name, if there is one, whether it has the project's marker."""
    s3 = scene.running.client("s3")
    if name not in {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        return []
    try:
        tags = s3.get_bucket_tagging(Bucket=name)["TagSet"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchTagSet":
            raise
        tags = []
    owner = scene.naming.owner(project_id, job_id="")
    return [owner.owns({tag["Key"]: tag["Value"] for tag in tags})]
