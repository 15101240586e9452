"""Processes that fork workers once they have used the API: gunicorn, Celery, multiprocessing."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from provisioner import api
from provisioner.api_keys.key_format import digest, generate_api_key, key_id, key_prefix
from provisioner.runtime import aws
from support.dynamodb_server import GARBLED, Server, serving

#: Each worker asks for one project and its key, and for a key that nobody has.
WORKERS = 7
PROJECTS = [f"project-{number}" for number in range(WORKERS)]
CREATED_AT = "2026-01-31T10:00:00.000000+00:00"


@dataclass(frozen=True)
class Deployment:
    """What is served, and to whom."""

    server: Server
    #: The keys of the workers' projects.
    stored: list[str]
    #: Well-formed, and nobody's.
    made_up: list[str]

    def environment(self) -> dict[str, str]:
        """Return the variables of a process that asks here."""
        return {
            "PATH": os.environ["PATH"],
            "AWS_ENDPOINT_URL": self.server.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "JOBS_TABLE": "Jobs",
            "PROJECTS_TABLE": "Projects",
            "API_KEYS_TABLE": "Keys",
            "QUOTAS_TABLE": "Quotas",
            "QUEUE_URL": f"{self.server.url}/1/jobs",
            "DEAD_LETTER_QUEUE_URL": f"{self.server.url}/1/dead",
            "CLUSTER_PARAMETER_PREFIX": "/clusters",
            "RESOURCE_PREFIX": "nm",
            "RESOURCE_NAMESPACE": "test-123456789012",
            "DEFAULT_PROJECT_QUOTA": "10",
            "STATE_MACHINE_ARN_PREFIX": "arn:test:stateMachine:",
            "SNAPSHOTS_BUCKET": "snapshots",
        }

    def run(self, program: str, *, rounds: int, folder: Path) -> Any:
        """Run a program after `WORKER`, and return what it prints."""
        file = folder / "program.py"
        file.write_text(WORKER + textwrap.dedent(program))
        done = subprocess.run(
            [sys.executable, file, json.dumps([PROJECTS, self.stored, self.made_up, rounds])],
            env=self.environment(),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def askers(self) -> list[set[int]]:
        """Return which workers have asked on each connection."""
        worker_of = {
            key: number
            for texts in (PROJECTS, map(digest, self.stored), map(digest, self.made_up))
            for number, key in enumerate(texts)
        }
        worker_of[GARBLED] = -1
        return [{worker_of[key] for key in keys} for keys in self.server.asked]


@pytest.fixture
def deployment() -> Iterator[Deployment]:
    stored, made_up = ([generate_api_key("nm") for _ in PROJECTS] for _ in range(2))
    api_keys = {
        digest(text): {
            "digest": digest(text),
            "key_id": key_id(digest(text)),
            "key_prefix": key_prefix(text),
            "project_id": project,
            "job_id": "job-1",
            "created_at": CREATED_AT,
            "status": "ACTIVE",
        }
        for text, project in zip(stored, PROJECTS, strict=True)
    }
    projects = {
        project: {"project_id": project, "status": "ACTIVE", "created_at": CREATED_AT}
        for project in PROJECTS
    }
    with serving({"Keys": api_keys, "Projects": projects}) as server:
        yield Deployment(server, stored, made_up)


#: What every program begins with: how a worker works, and how `fork` hands back what it found.
WORKER = """
import collections, concurrent.futures, ctypes, json, os, sys, threading
from provisioner import api
from provisioner.runtime import aws

# Held across the fork, as an application's modules hold what they have imported or made.
VERIFY, GET = api.verify_api_key, api.get_project
PROJECTS, STORED, MADE_UP, ROUNDS = json.loads(sys.argv[1])
LAST = len(PROJECTS) - 1

def outcome(call, right):
    try:
        found = call()
    except Exception as error:
        return f"raised {type(error).__name__}"
    return "right" if found == right else f"wrong: {found} instead of {right}"

def verified(text):
    key = VERIFY(text)
    return key and key.project_id

def work(worker):
    found = collections.Counter()
    project = PROJECTS[worker]
    for number in range(ROUNDS):
        found[outcome(lambda: verified(STORED[worker]), project)] += 1
        found[outcome(lambda: verified(MADE_UP[worker]), None)] += 1
        if number % 10 == 0:
            found[outcome(lambda: GET(project).project_id, project)] += 1
    return found

def fork(worker, work=work):
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, json.dumps(work(worker)).encode())
        os._exit(0)
    os.close(writing)
    return reading

def join(readings):
    found = collections.Counter()
    for reading in readings:
        with os.fdopen(reading) as file:
            found.update(json.load(file))
        os.wait()
    return found
"""


def test_workers_read_the_answers_to_their_own_questions(
    deployment: Deployment, tmp_path: Path
) -> None:
    program = """
        GET(PROJECTS[LAST])
        readings = [fork(worker) for worker in range(6)]
        print(json.dumps(join(readings)))
    """

    found = deployment.run(program, rounds=120, folder=tmp_path)

    assert found == {"right": 6 * (120 + 120 + 12)}
    # Of those who share a connection, the first to read takes what the others have asked for.
    assert all(len(askers) <= 1 for askers in deployment.askers())


#: Other ways to come to have workers. Each prints how the reads of four of them went.
WAYS = {
    "of workers": """
        def fork_again(worker):
            return work(worker) + join([fork(worker + 1)])

        GET(PROJECTS[LAST])
        readings = [fork(0, fork_again), fork(2, fork_again)]
        print(json.dumps(join(readings)))
    """,
    "from a thread, while others read": """
        ended = threading.Event()

        def read():
            while not ended.is_set():
                GET(PROJECTS[LAST])

        # OpenSSL's own locks do not survive a fork while its first context is made.
        GET(PROJECTS[LAST])
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            readings = list(pool.map(fork, range(4)))
        print(json.dumps(join(readings)))
        ended.set()
    """,
    # As uWSGI does unless it is told otherwise: Python learns nothing of it.
    "without Python's hooks": """
        GET(PROJECTS[LAST])
        os.fork = ctypes.PyDLL(None).fork
        readings = [fork(worker) for worker in range(4)]
        print(json.dumps(join(readings)))
    """,
    # A lock that a thread holds at the fork is held for ever in the child.
    "while a client is made": """
        with open("settings", "w") as file:
            file.write("[profile slow]\\ncredential_process = sh -c 'touch begun; sleep 30'")
        access_key = os.environ.pop("AWS_ACCESS_KEY_ID")
        os.environ.update(AWS_CONFIG_FILE="settings", AWS_PROFILE="slow")
        threading.Thread(target=aws.client, args=["sqs"], daemon=True).start()
        while not os.path.exists("begun"):
            pass
        del os.environ["AWS_PROFILE"]
        os.environ["AWS_ACCESS_KEY_ID"] = access_key
        readings = [fork(worker) for worker in range(4)]
        print(json.dumps(join(readings)), flush=True)
        os._exit(0)
    """,
}


@pytest.mark.parametrize("way", WAYS)
def test_workers_may_be_made_in_any_way(deployment: Deployment, tmp_path: Path, way: str) -> None:
    found = deployment.run(WAYS[way], rounds=10, folder=tmp_path)

    assert found == {"right": 4 * (10 + 10 + 1)}
    assert all(len(askers) <= 1 for askers in deployment.askers())


@pytest.mark.usefixtures("connected")
def test_what_a_process_holds_may_be_handed_to_one_that_is_spawned() -> None:
    held = [
        *(api.get_job_handler(job_type) for job_type in api.get_registered_job_types()),
        api.verify_api_key,
        aws.client("dynamodb"),
    ]

    assert pickle.loads(pickle.dumps(held)) == held  # our own bytes  # nosec B301


@pytest.mark.usefixtures("connected")
def test_threads_share_one_client_of_a_service() -> None:
    """Making clients in threads at once is what sessions do not bear."""
    barrier = threading.Barrier(8)

    def make(_: int) -> Any:
        barrier.wait()
        return aws.client("dynamodb").meta

    aws.reset()
    with ThreadPoolExecutor(8) as pool:
        assert len({id(meta) for meta in pool.map(make, range(8))}) == 1
