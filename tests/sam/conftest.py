"""The build, and functions in their images beside a local stack that containers reach."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from provision_cli.local.build import locked
from provision_cli.local.stack import RunningStack
from support import docker
from support.project import functions
from support.sam import ARCHITECTURE, BUILT, SamLocal, run_make


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the build for this machine's processor, made once for all workers."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base
    with locked(shared / "sam-build.lock"):
        done = shared / "sam-build.done"
        if not done.exists():
            run_make("build", f"ARCHITECTURE={ARCHITECTURE}")
            done.touch()
    return BUILT


@pytest.fixture(scope="session")
def sam_local(
    request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SamLocal]:
    """Yield functions in their images, beside a local stack that their containers reach."""
    if not docker.engine_runs():
        if os.environ.get("CI") == "true":
            pytest.fail("no Docker engine answers, and in CI nothing is skipped")
        pytest.skip("no Docker engine answers: `sam local invoke` runs functions in containers")
    stack: RunningStack = request.getfixturevalue("local_stack")
    folder = tmp_path_factory.mktemp("sam")
    variables = folder / "variables.json"
    variables.write_text(json.dumps(_variables(stack)))
    sam = SamLocal(stack, _template_with_endpoint(built), variables, folder / "warm.log")
    yield sam
    sam.stop()


def _describe_cluster_for_containers(stack: RunningStack) -> str:
    """Describe the cluster by an address that a container reaches; returns the prefix of that."""
    ssm = stack.client("ssm")
    own = f"{stack.outputs['ClusterParameterPrefix']}/{stack.region}/postgresql"
    clusters = json.loads(ssm.get_parameter(Name=own)["Parameter"]["Value"])
    prefix = "/sam-local/clusters"
    moved = [{**cluster, "host": docker.bridge_address() or docker.HOST} for cluster in clusters]
    ssm.put_parameter(
        Name=f"{prefix}/{stack.region}/postgresql",
        Value=json.dumps(moved),
        Type="String",
        Overwrite=True,
    )
    return prefix


def _variables(stack: RunningStack) -> dict[str, dict[str, str]]:
    """Return every function's variables: the local stack's, with addresses for containers."""
    client = stack.client("lambda")
    changed = {
        "AWS_ENDPOINT_URL": f"http://{docker.HOST}:{stack.aws_port}",
        "CLUSTER_PARAMETER_PREFIX": _describe_cluster_for_containers(stack),
    }
    return {
        function.logical_id: {
            **client.get_function_configuration(
                FunctionName=stack.outputs[f"{function.logical_id}Name"]
            )["Environment"]["Variables"],
            **changed,
        }
        for function in functions().values()
    }


def _template_with_endpoint(built: Path) -> Path:
    """Declare one variable more in a copy of the built template.

    SAM hands a container only the variables that the template declares, and no deployment needs
    this one.
    """
    text, changed = re.subn(
        r"^( +)(POWERTOOLS_METRICS_NAMESPACE: .*)$",
        r"\1\2\n\1AWS_ENDPOINT_URL: replaced",
        (built / "template.yaml").read_text(),
        count=1,
        flags=re.MULTILINE,
    )
    assert changed == 1
    copy = built / "template-with-endpoint.yaml"
    copy.write_text(text)
    return copy
