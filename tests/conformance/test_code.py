"""The house rules of the code: what imports what, how thin a handler is, how SQL is written."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from botocore import xform_name
from botocore.loaders import Loader
from botocore.model import ServiceModel
from support.project import PACKAGE, ROOT, functions, kept_operations, template
from support.reachable_code import annotated_services

MODULES = sorted(PACKAGE.rglob("*.py"))
HANDLERS = [function.folder / "handler.py" for function in functions().values()]

SERVICE_DRIVERS = {"drivers.cognito", "drivers.appsync", "drivers.s3"}

#: What writes snapshots; no other function does.
UPLOAD_DRIVER = "drivers.s3_upload"

#: What a part of the package must not import: dependencies point one way.
FORBIDDEN = {
    "jobs": {
        *("provisioning", "composition", "api", "api_keys", "drivers.postgresql"),
        *("drivers.database_engine", "drivers.secrets", *SERVICE_DRIVERS, UPLOAD_DRIVER),
    },
    "drivers": {"jobs", "provisioning", "composition", "api", "api_keys"},
    "api_keys": {"jobs", "provisioning", "composition", "api"},
    "provisioning": {"composition", "api", "drivers.postgresql"},
    "runtime": {"jobs", "provisioning", "composition", "api", "api_keys"},
    "composition": {"api"},
}

#: Modules that a function must not load: each would cost its cold start something.
UNWANTED = {
    "dispatcher": {"psycopg", "provisioner.drivers.secrets", "provisioner.drivers.postgresql"},
    "lifecycle": {"psycopg", "provisioner.drivers.postgresql"},
    "database": set[str](),
    "instances": {"psycopg", "pymysql", "provisioner.drivers.postgresql"},
    "services": {"psycopg", "provisioner.drivers.postgresql", "provisioner.provisioning.clusters"},
    "api_keys": {"psycopg", "provisioner.drivers.postgresql", "provisioner.provisioning.clusters"},
    "reconciler": {
        *("psycopg", "provisioner.drivers.secrets", "provisioner.drivers.postgresql"),
        "provisioner.provisioning.clusters",
    },
    "snapshot": set[str](),
    "dead_letters": {"psycopg", "provisioner.drivers.secrets", "provisioner.drivers.postgresql"},
    "events": {
        *("psycopg", "provisioner.drivers.secrets", "provisioner.drivers.postgresql"),
        "provisioner.provisioning",
    },
}


#: The clients that each function makes at its start, one a service.
CLIENTS = {
    "dispatcher": ["dynamodb", "sqs", "stepfunctions"],
    "lifecycle": ["dynamodb", "ssm"],
    "database": ["dynamodb", "secretsmanager", "ssm"],
    "instances": ["dynamodb", "rds", "secretsmanager", "ssm"],
    "services": ["appsync", "cognito-idp", "dynamodb", "s3"],
    "api_keys": ["dynamodb", "secretsmanager"],
    "reconciler": ["dynamodb", "sqs", "stepfunctions"],
    "snapshot": ["dynamodb", "s3", "secretsmanager", "ssm"],
    "dead_letters": ["dynamodb", "sqs"],
    "events": ["dynamodb", "events"],
}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imports(path: Path) -> Iterator[str]:
    """Yield what a module imports of the package, without the package's name."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports stand with their full names"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (n.removeprefix("provisioner.") for n in names if n.startswith("provisioner."))


def is_within(module: str, part: str) -> bool:
    return module == part or module.startswith(f"{part}.")


@pytest.mark.parametrize("part", FORBIDDEN)
def test_dependencies_point_one_way(part: str) -> None:
    found = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in sorted((PACKAGE / part).rglob("*.py"))
        for module in imports(path)
        if any(is_within(module, forbidden) for forbidden in FORBIDDEN[part])
    ]
    assert found == []


#: Starts a function, and says what that has loaded and made.
START = """
import gc, json, sys
import handler
collects, set_aside = gc.isenabled(), gc.get_freeze_count()
gc.unfreeze()
from botocore.client import BaseClient
# A weak proxy of a client claims to be one.
clients = [o for o in gc.get_objects() if issubclass(type(o), BaseClient)]
print(json.dumps({
    "collects": collects,
    "set_aside": set_aside,
    "modules": sorted(sys.modules),
    "services": sorted(client.meta.service_model.service_name for client in clients),
}))
"""


@cache
def start(function: str) -> dict[str, Any]:
    """Return what a function has loaded and made at its start, and what its collector does then.

    It starts with the variables of the template and no others, in a process of its own.
    """
    environment = {name: _example(v) for name, v in functions()[function].environment.items()}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", START],
        cwd=functions()[function].folder,
        env={
            **environment,
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            # Where it is set, the tracer knows that it runs in AWS Lambda, which samples for it.
            "LAMBDA_TASK_ROOT": str(functions()[function].folder),
            "AWS_DEFAULT_REGION": "us-east-1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _example(value: Any) -> str:
    """Return what a variable of the template could be."""
    match value:
        case {"Ref": name} if name in template()["Parameters"]:
            return str(template()["Parameters"][name]["Default"])
        case {"Ref": name} | {"Fn::Sub": name}:
            return str(name).replace("${AWS::AccountId}", "123456789012")
        case _:
            return str(value)


@pytest.mark.parametrize("function", UNWANTED)
def test_function_starts_with_its_variables_and_loads_only_what_it_uses(function: str) -> None:
    others = {f"provisioner.composition.{name}" for name in {*UNWANTED, "in_process"} - {function}}
    if function != "services":
        others |= {f"provisioner.{driver}" for driver in SERVICE_DRIVERS}
    if function != "snapshot":
        others.add(f"provisioner.{UPLOAD_DRIVER}")
    unwanted = UNWANTED[function] | others | {"provisioner.api", "moto", "IPython"}
    assert not unwanted & set(start(function)["modules"])


@pytest.mark.parametrize("function", UNWANTED)
def test_tracer_patches_no_library(function: str) -> None:
    assert not {m for m in start(function)["modules"] if m.startswith("aws_xray_sdk.ext.")} - {
        "aws_xray_sdk.ext"
    }


def test_types_are_checked_everywhere() -> None:
    checked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["files"]
    folders = [p for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")]
    written = [path for folder in folders for path in folder.rglob("*.py")]
    assert [p for p in written if not any(p.is_relative_to(ROOT / one) for one in checked)] == []


@pytest.mark.parametrize("handler", HANDLERS, ids=lambda path: path.parent.name)
def test_handler_is_thin(handler: Path) -> None:
    tree = parsed(handler)
    code = ast.unparse(tree).splitlines()
    assert len([line for line in code if line.strip()]) <= 25
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.If | ast.For | ast.Try | ast.While)]


def test_handlers_log_neither_event_nor_response() -> None:
    (handle,) = [
        node
        for node in ast.walk(parsed(PACKAGE / "aws_lambda.py"))
        if isinstance(node, ast.FunctionDef) and node.name == "handle"
    ]
    decorators = [ast.unparse(decorator) for decorator in handle.decorator_list]
    assert "tracer.capture_lambda_handler(capture_response=False)" in decorators
    assert "logger.inject_lambda_context(clear_state=True)" in decorators
    assert not any("log_event" in decorator for decorator in decorators)


def sql_modules() -> list[Path]:
    return [
        path
        for path in [*MODULES, *sorted((ROOT / "cli").rglob("*.py"))]
        if any(
            isinstance(node, ast.Import | ast.ImportFrom)
            and "psycopg" in ast.unparse(node).split()[1]
            for node in ast.walk(parsed(path))
        )
    ]


def composed_sql(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield text that looks like SQL and is put together otherwise than by psycopg.sql."""
    keywords = tuple(
        f"{word} "
        for word in (
            *("SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP", "TRUNCATE"),
            *("GRANT", "REVOKE", "COMMENT", "SET"),
        )
    )

    def is_sql(node: ast.AST) -> bool:
        return (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.lstrip().startswith(keywords)
        )

    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr(values=[first, _, *_]) if is_sql(first):
                yield node
            case ast.BinOp(left=left, op=ast.Mod() | ast.Add()) if is_sql(left):
                yield node
            case ast.Call(func=ast.Attribute(attr="format" | "join", value=text)) if is_sql(text):
                yield node


def test_sql_is_put_together_by_psycopg_alone() -> None:
    assert sql_modules()
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sql_modules()
        for node in composed_sql(parsed(path))
        if isinstance(node, ast.expr)
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        'f"DROP DATABASE {name}"',
        '"ALTER ROLE %s" % name',
        '"GRANT ALL ON " + name',
        '"CREATE ROLE {}".format(name)',
    ],
)
def test_composed_sql_is_recognized(text: str) -> None:
    assert len(list(composed_sql(ast.parse(text)))) == 1


@pytest.mark.parametrize(("function", "services"), CLIENTS.items(), ids=CLIENTS)
def test_function_makes_one_client_for_each_service_that_it_calls(
    function: str, services: list[str]
) -> None:
    assert start(function)["services"] == services


def called_operations(service: str) -> set[str]:
    """Return the operations of a service that the modules of its functions call."""
    model = ServiceModel(Loader().load_service_model(service, "service-2"))
    operations = {xform_name(name): name for name in model.operation_names}
    modules = {
        PACKAGE.parent / f"{module.replace('.', '/')}.py"
        for function in functions()
        if service in start(function)["services"]
        for module in start(function)["modules"]
        if module.startswith("provisioner.")
    }
    called = {
        name
        for module in modules
        # Operations of different services may have one name.
        if module.exists() and service in (annotated_services(parsed(module)) or {service})
        for node in ast.walk(parsed(module))
        for name in called_names(node)
    }
    if any(calls_by_transfer(module) for module in modules if module.exists()):
        called |= TRANSFER
    return {operations[name] for name in called & operations.keys()}


#: What a transfer of boto3 calls for us to upload.
TRANSFER = {
    "abort_multipart_upload",
    "complete_multipart_upload",
    "create_multipart_upload",
    "put_object",
    "upload_part",
}


def calls_by_transfer(module: Path) -> bool:
    """Whether a module hands an upload to a transfer."""
    return any(
        isinstance(node, ast.ImportFrom) and (node.module or "") == "boto3.s3.transfer"
        for node in ast.walk(parsed(module))
    )


def called_names(node: ast.AST) -> Iterator[str]:
    """Yield what could be an operation: a method that is called, or what is read in pages."""
    match node:
        case ast.Call(
            func=ast.Attribute(attr="get_paginator"), args=[ast.Constant(value=str(name))]
        ):
            yield name
        case ast.Call(func=ast.Attribute(attr=name)):
            yield name


def test_layer_keeps_the_services_that_the_functions_call() -> None:
    called = {service for function in functions() for service in start(function)["services"]}
    assert list(kept_operations()) == sorted(called)


@pytest.mark.parametrize("service", kept_operations())
def test_layer_keeps_the_operations_that_the_functions_call(service: str) -> None:
    assert kept_operations()[service] == sorted(called_operations(service))


@pytest.mark.parametrize("function", UNWANTED)
def test_function_collects_garbage_once_it_has_started(function: str) -> None:
    assert start(function)["collects"]
    # Everything that its imports made; a Python that has only started has made 5,000 objects.
    assert start(function)["set_aside"] > 50_000


@pytest.mark.parametrize("handler", HANDLERS, ids=lambda path: path.parent.name)
def test_handler_switches_the_collector_off_before_it_imports_the_rest(handler: Path) -> None:
    assert next(imports(handler)) == "aws_lambda.handler_of"
