"""The third act: a project with a database instance of its own, which it waits for."""

from __future__ import annotations

from typing import Any

from provisioner import api

from provision_cli import display
from provision_cli.demo.first_use import DISPATCH_SECONDS, use_database
from provision_cli.demo.scene import Scene
from provision_cli.local.stack import INSTANCE_SIZE
from provision_cli.sentences import CommandError


def show(scene: Scene, *, beside: str) -> None:
    """Provision a project that asks for an instance, use its database, and remove it.

    Args:
        scene: where.
        beside: the project that the first two acts are about.

    Raises:
        CommandError: a step did not do what it shows.
    """
    project_id = api.create_project(f"{beside}-own").project_id
    scene.heading(f"Project {project_id} asks for a database instance of its own, and waits for it")
    job = api.enqueue_job(
        "provision_project",
        {
            "project_id": project_id,
            "region": scene.running.region,
            "database": {"size": INSTANCE_SIZE},
            "services": {"auth": False, "realtime": False, "storage": False},
        },
    )
    job = display.watch(scene.console, job.job_id, appears_within=DISPATCH_SECONDS)
    display.refuse_failed(job)
    database = (job.result or {})["database"]
    identifier = str(database["instance"]["identifier"])
    _show_instance(scene, identifier)
    use_database(scene, database["secret_arn"])
    _remove(scene, project_id, identifier)


def _show_instance(scene: Scene, identifier: str) -> None:
    found = _instances(scene, identifier)
    if not found:
        raise CommandError(f"the instance {identifier} is not there.")
    (instance,) = found
    endpoint = instance["Endpoint"]
    size = f"{instance['DBInstanceClass']}, {instance['AllocatedStorage']} GiB"
    scene.line(f"instance {identifier}  {size}, at {endpoint['Address']}:{endpoint['Port']}")


def _remove(scene: Scene, project_id: str, identifier: str) -> None:
    scene.heading(f"Project {project_id} is deprovisioned, and its instance goes with it")
    scene.complete(
        "deprovision_project",
        {"project_id": project_id, "confirm": project_id, "final_snapshot": False},
    )
    if _instances(scene, identifier):
        raise CommandError(f"the instance {identifier} of {project_id} is left.")
    scene.line(f"instance {identifier} is gone, with its server and its data")


def _instances(scene: Scene, identifier: str) -> list[dict[str, Any]]:
    pages = scene.running.client("rds").get_paginator("describe_db_instances").paginate()
    instances = (one for page in pages for one in page["DBInstances"])
    return [one for one in instances if one["DBInstanceIdentifier"] == identifier]
