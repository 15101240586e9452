"""What a function's code can call: which AWS actions, and on which tables.

The code is read, not run: from the function's `build` it follows names, imports, and methods by the
annotated types of what they are called on. mypy holds the annotations to be right.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from botocore import xform_name
from botocore.loaders import Loader
from botocore.model import ServiceModel
from provisioner.provisioning.job_types import JOB_TYPES
from support.project import PACKAGE

#: IAM's name of a service, where botocore's differs.
IAM_SERVICES = {"stepfunctions": "states"}

#: Actions of S3 that are not named like their operations.
S3_ACTIONS = {
    "HeadBucket": "ListBucket",
    "HeadObject": "GetObject",
    "ListObjectsV2": "ListBucket",
    "ListBuckets": "ListAllMyBuckets",
    "GetBucketEncryption": "GetEncryptionConfiguration",
    "GetBucketLifecycleConfiguration": "GetLifecycleConfiguration",
    "PutBucketEncryption": "PutEncryptionConfiguration",
    "PutBucketLifecycleConfiguration": "PutLifecycleConfiguration",
    "GetPublicAccessBlock": "GetBucketPublicAccessBlock",
    "PutPublicAccessBlock": "PutBucketPublicAccessBlock",
    "GetObjectLockConfiguration": "GetBucketObjectLockConfiguration",
    "ListObjectVersions": "ListBucketVersions",
    # A batch names versions, and objects of buckets that had no versions.
    "DeleteObjects": "DeleteObjectVersion",
}

#: The actions of boto3's transfer library, by the name that begins one.
_TRANSFERS = {
    "create_transfer_manager": ("s3:PutObject", "s3:AbortMultipartUpload"),
    "download_fileobj": ("s3:GetObject",),
}

#: What builds or sends a request to DynamoDB, with the position of the table's name in its
#: arguments.
_TABLE_HELPERS = {
    "get": ("GetItem", 1),
    "get_all": ("BatchGetItem", 1),
    "build_update": ("UpdateItem", 0),
    "build_put": ("PutItem", 0),
    "build_check": ("ConditionCheckItem", 0),
    "build_delete": ("DeleteItem", 0),
}
_HELPERS = {"drivers.dynamodb", "drivers.dynamodb_lists"}

#: What reads an index: the table's name and then the index's are the second and third argument.
_READS_INDEX = {("dynamodb_lists", "read"), ("dynamodb_lists", "estimate")}

#: Which table a store has under which name.
TABLES = {
    ("JobReader", "table"): "JobsTable",
    ("JobStore", "table"): "JobsTable",
    ("UnitOfWork", "_table"): "JobsTable",
    ("Sweep", "table"): "JobsTable",
    ("ApiKeyStore", "_table"): "ApiKeysTable",
    ("HandOverStore", "_table"): "ApiKeysTable",
    ("ProjectReader", "_projects"): "ProjectsTable",
    ("ProjectStore", "_projects"): "ProjectsTable",
    ("Places", "_projects"): "ProjectsTable",
    ("Quotas", "_table"): "QuotasTable",
    ("LoginLocks", "_table"): "QuotasTable",
}

#: Runs every stage, in a process that is no function: there handlers are registered and not run.
_IN_PROCESS = "composition.in_process"

#: The functions that may end a job badly.
RECORDS_FAILURES = {"lifecycle", "reconciler"}

#: Methods that are called without their names.
_UNNAMED = ("__init__", "__post_init__", "__call__", "__enter__", "__exit__", "__iter__")

#: A function, or a method.
_Function = ast.FunctionDef | ast.AsyncFunctionDef

#: What is at a module's top: functions, and constants, which can hold functions too.
type _Code = _Function | ast.Assign | ast.AnnAssign


def annotated_services(tree: ast.Module) -> set[str]:
    """Return the services whose clients the annotations of a module name."""
    clients = _client_types()
    named = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return {clients[name] for name in named & clients.keys()}


@cache
def _client_types() -> dict[str, str]:
    """Return the services by the names of the types of their clients."""
    found: dict[str, str] = {}
    for path in (PACKAGE / "aws_types.py", *PACKAGE.joinpath("jobs").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match = re.fullmatch(r"mypy_boto3_(\w+)\.client", getattr(node, "module", "") or "")
            if match is not None and isinstance(node, ast.ImportFrom):
                found |= {alias.name: match[1].replace("_", "-") for alias in node.names}
    return found


class Call(NamedTuple):
    """An action of AWS, and the table or index where it is DynamoDB's."""

    action: str
    #: As `JobsTable` or `JobsTable/index/by_project`; empty for other services.
    table: str = ""


class _Definition(NamedTuple):
    module: str
    #: The class that it is in, if any.
    of_class: str
    name: str


@dataclass(frozen=True)
class _Class:
    module: str
    name: str


class _Module:
    """One module: what it defines, and what its names mean."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name = name
        #: What it asks for by boto3's transfer library: an upload is in parts, or in one.
        self.transfers = {
            Call(action)
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute | ast.alias)
            for action in _TRANSFERS.get(
                node.attr if isinstance(node, ast.Attribute) else node.name, ()
            )
        }
        #: The services whose clients its annotations name.
        self.services = annotated_services(tree)
        self.code: dict[str, _Code] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        #: Local names to a module of the package and a name in it, or none for the module itself.
        self.imported: dict[str, tuple[str, str]] = {}
        for node in tree.body:
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    self.code[node.name] = node
                case ast.ClassDef():
                    self.classes[node.name] = node
                case ast.Assign(targets=[ast.Name(id=at_top)]):
                    self.code[at_top] = node
                case ast.AnnAssign(target=ast.Name(id=at_top)):
                    self.code[at_top] = node
        for part in ast.walk(tree):
            if isinstance(part, ast.ImportFrom) and (part.module or "").startswith("provisioner"):
                inside = (part.module or "").removeprefix("provisioner").lstrip(".")
                for alias in part.names:
                    whole = f"{inside}.{alias.name}".lstrip(".")
                    self.imported[alias.asname or alias.name] = (
                        (whole, "") if _path_exists(whole) else (inside, alias.name)
                    )


def _path_exists(module: str) -> bool:
    folder = PACKAGE.joinpath(*module.split("."))
    return folder.with_suffix(".py").exists() or (folder / "__init__.py").exists()


@cache
def _module(name: str) -> _Module:
    folder = PACKAGE.joinpath(*name.split("."))
    path = folder.with_suffix(".py")
    if not path.exists():
        path = folder / "__init__.py"
    return _Module(name, ast.parse(path.read_text()))


def _resolve(module: _Module, name: str) -> tuple[_Module, str] | None:
    """Return where a name of a module is defined; the name is empty where it is a module."""
    if name in module.code or name in module.classes:
        return module, name
    if name not in module.imported:
        return None
    source, inner = module.imported[name]
    if not inner:
        return _module(source), ""
    return _resolve(_module(source), inner)


def _class_of(module: _Module, annotation: ast.expr | None) -> _Class | None:
    """Return the class of the package that an annotation names, with or without None."""
    match annotation:
        case ast.Constant(value=str(text)):
            return _class_of(module, ast.parse(text, mode="eval").body)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _class_of(module, left) or _class_of(module, right)
        case ast.Subscript(value=generic):
            return _class_of(module, generic)
        case ast.Name(id=name):
            found = _resolve(module, name)
            if found is not None and found[1] in found[0].classes:
                return _Class(found[0].name, found[1])
    return None


def _ancestry(cls: _Class) -> Iterator[tuple[_Module, ast.ClassDef]]:
    """Yield a class and those that it inherits from."""
    module = _module(cls.module)
    node = module.classes[cls.name]
    yield module, node
    for base in node.bases:
        above = _class_of(module, base)
        if above is not None:
            yield from _ancestry(above)


@cache
def _attributes(cls: _Class) -> dict[str, _Class]:
    """Return the classes of a class's attributes: its fields, and what `__init__` sets."""
    found: dict[str, _Class] = {}
    for module, node in _ancestry(cls):
        for part in node.body:
            match part:
                case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                    of = _class_of(module, annotation)
                    if of is not None:
                        found.setdefault(name, of)
                case ast.FunctionDef(name="__init__"):
                    known = _locals(module, part, None)
                    for target, value in _assignments(part):
                        match target:
                            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                                of = _type(module, value, known)
                                if of is not None:
                                    found.setdefault(name, of)
    return found


def _assignments(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    for part in ast.walk(node):
        match part:
            case ast.Assign(targets=[target], value=value):
                yield target, value
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield target, value
            case ast.NamedExpr(target=target, value=value):
                yield target, value


def _locals(module: _Module, node: _Code, cls: _Class | None) -> dict[str, _Class]:
    """Return the classes of a function's names: its parameters, those within it, and variables."""
    known: dict[str, _Class] = {} if cls is None else {"self": cls, "cls": cls}
    for part in ast.walk(node):
        if isinstance(part, ast.arg):
            of = _class_of(module, part.annotation)
            if of is not None:
                known[part.arg] = of
    for target, value in _assignments(node):
        if isinstance(target, ast.Name):
            of = _type(module, value, known)
            if of is not None:
                known[target.id] = of
    return known


def _type(  # noqa: PLR0911  # one return for each kind of expression
    module: _Module, value: ast.expr, known: dict[str, _Class]
) -> _Class | None:
    """Return the class of an expression where it is one of the package."""
    match value:
        case ast.Name(id=name):
            return known.get(name)
        case ast.Attribute(value=inner, attr=name):
            of = _type(module, inner, known)
            return None if of is None else _attributes(of).get(name)
        case ast.Call(func=ast.Name(id=name)):
            found = _resolve(module, name)
            if found is None:
                return None
            source, inner_name = found
            if inner_name in source.classes:
                return _Class(source.name, inner_name)
            function = source.code.get(inner_name)
            if isinstance(function, _Function):
                return _class_of(source, function.returns)
        case ast.Call(func=ast.Attribute(value=inner, attr=name)):
            return _returned(_type(module, inner, known), name)
    return None


def _returned(cls: _Class | None, method: str) -> _Class | None:
    """Return the class of what a method of a class returns."""
    for definition in () if cls is None else _methods(cls, method):
        node = _node(definition)
        if isinstance(node, _Function):
            return _class_of(_module(definition.module), node.returns)
    return None


def _node(definition: _Definition) -> _Code | None:
    module = _module(definition.module)
    if not definition.of_class:
        return module.code.get(definition.name)
    for part in module.classes[definition.of_class].body:
        if isinstance(part, _Function) and part.name == definition.name:
            return part
    return None


def _methods(cls: _Class, *names: str) -> Iterator[_Definition]:
    for name in names:
        for module, node in _ancestry(cls):
            if any(isinstance(p, _Function) and p.name == name for p in node.body):
                yield _Definition(module.name, node.name, name)
                break


def _named(found: tuple[_Module, str] | None) -> Iterator[_Definition]:
    """Yield what using a name of the package can run."""
    if found is None:
        return
    module, name = found
    if name in module.code:
        yield _Definition(module.name, "", name)
    elif name in module.classes:
        yield from _methods(_Class(module.name, name), *_UNNAMED)


def _used(definition: _Definition, node: _Code) -> Iterator[_Definition]:
    """Yield the definitions that a definition can run."""
    module = _module(definition.module)
    cls = _Class(definition.module, definition.of_class) if definition.of_class else None
    known = _locals(module, node, cls)
    for part in ast.walk(node):
        match part:
            case ast.Name(id=name) if name not in known:
                yield from _named(_resolve(module, name))
            case ast.Attribute(value=inner, attr=name):
                of = _type(module, inner, known)
                if of is not None:
                    yield from _methods(of, name)
                elif isinstance(inner, ast.Name):
                    source = _resolve(module, inner.id)
                    if source is not None and not source[1]:
                        yield from _named(_resolve(source[0], name))


def _named_by_job_types(function: str) -> Iterator[_Definition]:
    """Yield the code of a function's stages, and of what it does when a job fails."""
    for definition in JOB_TYPES.values():
        codes = [stage.code for stage in definition.stages if stage.function.name == function]
        if function in RECORDS_FAILURES:
            on_failure = definition.on_failure
            codes += [on_failure.release, on_failure.describe_cleanup, on_failure.remaining]
        yield from map(_code_of, filter(None, codes))


def _reachable(left: list[_Definition]) -> set[_Definition]:
    """Return what code can run, itself included."""
    found: set[_Definition] = set()
    while left:
        definition = left.pop()
        node = _node(definition)
        # The helpers take their table from whoever calls them.
        if definition in found or node is None or definition.module in {*_HELPERS, _IN_PROCESS}:
            continue
        found.add(definition)
        left += _used(definition, node)
    return found


@cache
def _operations(service: str) -> dict[str, str]:
    """Return the operations of a service by the names of botocore's methods."""
    model = ServiceModel(Loader().load_service_model(service, "service-2"))
    return {xform_name(name): name for name in model.operation_names}


@cache
def calls(function: str) -> frozenset[Call]:
    """Return the actions that a function's code can call, of services that it has clients of.

    That is `build` in its module of `composition`, and what the job types name as its code.
    """
    build = _Definition(f"composition.{function}", "", "build")
    return _calls_of([build, *_named_by_job_types(function)])


@cache
def calls_of_api(*functions: str) -> frozenset[Call]:
    """Return the actions that functions of the public Python API can call.

    One runs a job in the process of its caller, whose stages it names no more than a function does.
    """
    roots = [d for name in functions for d in _named(_resolve(_module("api"), name))]
    if "revoke_api_key" in functions:
        stages = JOB_TYPES["revoke_api_key"].stages
        roots += [_code_of(stage.code) for stage in stages]
        roots += [_Definition("composition.in_process", "", "run_job")]
        roots += _methods(_Class("jobs.stage_run", "StageRunner"), *_UNNAMED)
        roots += _methods(_Class("jobs.failure", "FailureRecorder"), *_UNNAMED)
    return _calls_of(roots)


def _code_of(code: str) -> _Definition:
    module, _, name = code.partition(":")
    return _Definition(module.removeprefix("provisioner."), "", name)


def _calls_of(roots: list[_Definition]) -> frozenset[Call]:
    found: set[Call] = set()
    definitions = _reachable(roots)
    services = sorted({name for d in definitions for name in _clients(d)})
    for definition in definitions:
        node = _node(definition)
        assert node is not None
        module = _module(definition.module)
        # Operations of different services may have one name.
        own = sorted(module.services.intersection(services)) or services
        for part in ast.walk(node):
            if not isinstance(part, ast.Call):
                continue
            found |= set(_calls(module, definition.of_class, part, own))
        found |= module.transfers
    return frozenset(found)


def _clients(definition: _Definition) -> Iterator[str]:
    """Yield the services that a definition makes clients of."""
    for part in ast.walk(_node(definition) or ast.Module()):
        match part:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="aws"), attr="client" | "client_of_region"),
                args=[ast.Constant(value=str(service)), *_],
            ):
                yield service
            case ast.Call(
                func=ast.Name(id="partial"),
                args=[
                    ast.Attribute(value=ast.Name(id="aws"), attr="client" | "client_of_region"),
                    ast.Constant(value=str(service)),
                    *_,
                ],
            ):
                yield service


def _calls(module: _Module, cls: str, call: ast.Call, services: list[str]) -> Iterator[Call]:
    match call.func:
        case ast.Attribute(value=ast.Name(id="dynamodb"), attr=name) if name in _TABLE_HELPERS:
            action, position = _TABLE_HELPERS[name]
            yield Call(f"dynamodb:{action}", _table(cls, call.args[position]))
            return
        case ast.Attribute(value=ast.Name(id=driver), attr=name) if (driver, name) in _READS_INDEX:
            _, of_table, of_index, *_ = call.args
            index = f"{_table(cls, of_table)}/index/{_text(module, of_index)}"
            yield Call("dynamodb:Query", index)
            return
    name = _method(call)
    if name.startswith("_") and any(keyword.arg == "IndexName" for keyword in call.keywords):
        yield from _call_of_index(module, cls, call)
    for service in services:
        operation = _operations(service).get(name)
        # What a transaction asks for are the actions of its items.
        if operation is None or operation == "TransactWriteItems":
            continue
        if service != "dynamodb":
            action = S3_ACTIONS.get(operation, operation) if service == "s3" else operation
            yield Call(f"{IAM_SERVICES.get(service, service)}:{action}")
            continue
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        # A paginator is told of which table when its pages are asked for.
        if "TableName" in keywords:
            table = _table(cls, keywords["TableName"])
            if "IndexName" in keywords:
                table += f"/index/{_text(module, keywords['IndexName'])}"
            yield Call(f"dynamodb:{operation}", table)


def _call_of_index(module: _Module, cls: str, call: ast.Call) -> Iterator[Call]:
    """Yield what a method of one's own asks of an index, that it hands on among its options."""
    index = next(keyword.value for keyword in call.keywords if keyword.arg == "IndexName")
    for definition in _methods(_Class(module.name, cls), _method(call)):
        for part in ast.walk(_node(definition) or ast.Module()):
            match part:
                case ast.Call(keywords=[ast.keyword(arg="TableName", value=table), *rest]) if any(
                    keyword.arg is None for keyword in rest
                ):
                    of_table = f"{_table(definition.of_class, table)}/index/{_text(module, index)}"
                    yield Call(f"dynamodb:{_operations('dynamodb')[_method(part)]}", of_table)


def _method(call: ast.Call) -> str:
    """Return the method of a client that is called, or that is read in pages."""
    match call:
        case ast.Call(
            func=ast.Attribute(attr="get_paginator"), args=[ast.Constant(value=str(name))]
        ):
            return name
        case ast.Call(func=ast.Attribute(attr="paginate", value=ast.Call() as made)):
            return _method(made)
        case ast.Call(func=ast.Attribute(attr=name)):
            return name
        case _:
            return ""


def _table(cls: str, value: ast.expr) -> str:
    assert isinstance(value, ast.Attribute), ast.unparse(value)
    return TABLES[cls, value.attr]


def _text(module: _Module, value: ast.expr) -> str:
    match value:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name):
            match module.code[name]:
                case ast.Assign(value=ast.Constant(value=str(text))):
                    return text
    raise AssertionError(ast.unparse(value))
