"""The build, and functions in their images beside a local stack that containers reach."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # as in support.project
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
) -> SamLocal:
    """Return functions in their images, beside a local stack that their containers reach."""
    if not docker.engine_runs():
        if os.environ.get("CI") == "true":
            pytest.fail("no Docker engine answers, and in CI nothing is skipped")
        pytest.skip("no Docker engine answers: `sam local invoke` runs functions in containers")
    stack: RunningStack = request.getfixturevalue("local_stack")
    variables = tmp_path_factory.mktemp("sam") / "variables.json"
    variables.write_text(json.dumps(_variables(stack)))
    template = _template_with_endpoint(built)
    return SamLocal(stack, template, _template_without_layers(template), variables)


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


def _template_without_layers(template: Path) -> Path:
    """Put what its layers hold beside each function's code, in a copy of the build.

    SAM builds the image of a function with layers anew for each call.
    """
    folder = template.parent / "without-layers"
    shutil.rmtree(folder, ignore_errors=True)
    built = yaml.safe_load(template.read_text())
    for resource in built["Resources"].values():
        if resource["Type"] != "AWS::Serverless::Function":
            continue
        properties = resource["Properties"]
        code = properties["CodeUri"]
        layers = [f"{layer['Ref']}/python" for layer in properties.pop("Layers")]
        for part in (code, *layers):
            # Linked: there are thousands of files, and nobody writes to them.
            shutil.copytree(
                template.parent / part,
                folder / code,
                copy_function=os.link,
                dirs_exist_ok=True,
            )
    copy = folder / "template.yaml"
    copy.write_text(yaml.safe_dump(built))
    return copy
