"""All that README.md says is typed, as it stands, in this folder: `.ci/run` does so in a new clone.

It takes minutes and the developer's own local stack, so it is run only where it is named:
`pytest tests/readme`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from provision_cli.local.containers import find_network
from provision_cli.local.stack import LocalStack
from provisioner import api
from support.local_stack import connect
from support.project import ROOT
from support.readme import blocks, commands, plain, script

#: The AWS CLI, as its package is run without an installation; version 2 is none. This one wants the
#: endpoint for SQS to be named.
AWS_CLI = """#!/bin/sh
exec {uv} tool run --quiet --python 3.13 --from awscli==1.46.2 \\
  aws --endpoint-url "$AWS_ENDPOINT_URL" "$@"
"""

#: Of a step that asks for a file of one's own.
ADMIN = {"username": "provisioner", "password": "made up, and opens nothing"}

SECONDS = 1500


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return what a shell has on a desk with an AWS CLI; take the local stack away afterwards."""
    aws = tmp_path / "bin" / "aws"
    aws.parent.mkdir()
    aws.write_text(AWS_CLI.format(uv=ROOT / ".tools" / "bin" / "uv"))
    aws.chmod(0o755)
    own = ROOT / "admin.json"
    own.write_text(json.dumps(ADMIN))
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "PROVISION_", "PYTEST_", "MAKE", "MFLAGS"))
    }
    yield kept | {"PATH": f"{aws.parent}:{kept['PATH']}"}
    own.unlink()
    LocalStack.of_developer().down()


def test_all_of_the_readme_is_run(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_network() is None:
        if os.environ.get("CI") == "true":
            pytest.fail("no Docker engine answers, and in CI nothing is skipped")
        pytest.skip("no Docker engine answers: the README runs functions in containers")
    bash = shutil.which("bash")
    assert bash is not None
    typed = tmp_path / "typed.sh"
    typed.write_text(script())
    with (tmp_path / "shown.txt").open("w+") as output:
        done = subprocess.run(
            [bash, str(typed)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        )
        output.seek(0)
        shown = output.read()
    assert done.returncode == 0, shown[-6000:]

    # What was typed did what the page says that it does.
    for command in (c for block in blocks("sh") for c in commands(block)):
        if plain(command).startswith("sam local invoke"):
            assert re.search(r'"status": ?"SUCCEEDED"', shown)
    assert len(re.findall(r"^COMPLETED \{", shown, re.MULTILINE)) == 2
    stack = LocalStack.of_developer().running()
    connect(stack, monkeypatch)
    jobs = api.list_jobs("my-project")
    assert len(jobs) >= 2
    assert {job.status for job in jobs} == {api.JobStatus.COMPLETED}
    assert api.get_project("my-project").status is api.ProjectStatus.ACTIVE
    secret = stack.client("secretsmanager").get_secret_value(SecretId="nm/clusters/eu-1")
    assert json.loads(secret["SecretString"]) == ADMIN
