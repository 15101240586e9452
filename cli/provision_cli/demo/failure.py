"""The second act: a project that fails for good, and is cleaned up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from provisioner import api

from provision_cli import display
from provision_cli.demo.inventory import OTHER_BUCKET, list_left, look_up
from provision_cli.demo.scene import Scene
from provision_cli.sentences import CommandError

_THEIR_OBJECT = "theirs.txt"


def show(scene: Scene, *, beside: str) -> None:
    """Provision a project whose bucket's name is taken, and show what has become of it.

    Args:
        scene: where.
        beside: a project that is provisioned, to look up the same of.

    Raises:
        CommandError: it did not fail, or something of it is left, or what is not its own is gone.
    """
    project_id = api.create_project(f"{beside}-taken").project_id
    bucket = scene.naming.names(project_id).bucket
    scene.heading(f"Project {project_id} is to fail: its bucket's name is taken by someone else")
    scene.line(f"bucket {bucket} is made with an object in it, and without the project's marker")
    with _bucket_of_someone_else(scene, bucket):
        job = api.enqueue_job(
            "provision_project",
            {"project_id": project_id, "region": scene.running.region},
        )
        job = display.watch(scene.console, job.job_id)
        scene.heading("It has failed for good, with its reason, and what it made is removed")
        _show_reason(scene, job)
        _show_what_is_there(scene, beside, project_id)


@contextmanager
def _bucket_of_someone_else(scene: Scene, bucket: str) -> Iterator[None]:
    s3 = scene.running.client("s3")
    s3.create_bucket(
        Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": scene.running.region}
    )
    try:
        s3.put_object(Bucket=bucket, Key=_THEIR_OBJECT, Body=b"not the project's")
        yield
        if s3.list_objects_v2(Bucket=bucket)["KeyCount"] != 1:
            raise CommandError(f"the bucket {bucket} of someone else has lost its object.")
    finally:
        s3.delete_object(Bucket=bucket, Key=_THEIR_OBJECT)
        s3.delete_bucket(Bucket=bucket)


def _show_reason(scene: Scene, job: api.Job) -> None:
    error, cleanup = job.error, display.cleanup_of(job)
    if job.status is not api.JobStatus.FAILED or error is None:
        raise CommandError(f"job {job.job_id} is {job.status} and should have failed.")
    if error.type is not api.ErrorType.CONFLICT:
        raise CommandError(f"job {job.job_id} failed for another reason: {error.message}")
    if cleanup is None or cleanup.status is not api.JobStatus.COMPLETED:
        left = ", ".join(cleanup.remaining) if cleanup is not None else "everything"
        raise CommandError(f"what job {job.job_id} made is not removed; remaining: {left}.")
    words = {
        "status": str(job.status),
        "stage": f"{error.stage}, attempt {error.attempt}, not tried again",
        "error": str(error.type),
        "reason": error.message,
        "cause": error.cause,
        "clean-up": f"{cleanup.status}, {len(cleanup.stages)} stages",
        "project": str(api.get_project(job.project_id).status),
    }
    for name, text in words.items():
        if text:
            scene.line(f"{name:<10}{text}")


def _show_what_is_there(scene: Scene, provisioned: str, failed: str) -> None:
    scene.heading(f"Looked up at the services: what {provisioned} has, and what {failed} has left")
    there, left = look_up(scene, provisioned), look_up(scene, failed)
    display.show_table(
        scene.console,
        ["", provisioned, failed],
        [[kind, str(there[kind] or "none"), str(left[kind] or "none")] for kind in there],
    )
    if list_left(left):
        raise CommandError(f"the failed job of {failed} has left: {', '.join(list_left(left))}.")
    if left[OTHER_BUCKET] != 1:
        raise CommandError(f"the bucket of someone else is gone with what {failed} had.")
