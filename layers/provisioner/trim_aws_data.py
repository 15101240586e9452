"""Leaves out of botocore's data what no function needs: a step of the layer's build.

botocore parses a service's whole description when its client is made, and the endpoints of every
service with the first client. What is kept here is said as before. What goes are services and
operations that no function calls, the shapes that only those use, the documentation of what stays,
and the compression.

Usage: trim_aws_data.py OPERATIONS DATA. OPERATIONS is a JSON file: by service, the operations to
keep. DATA is botocore's folder `data`, which is changed in place.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any


def trim(data: Path, kept: Mapping[str, Collection[str]]) -> None:
    """Trim the data.

    Args:
        data: botocore's folder.
        kept: the operations to keep by service, by botocore's names.

    Raises:
        SystemExit: botocore knows no such service or operation.
    """
    for folder in data.iterdir():
        if folder.is_dir() and folder.name not in kept:
            shutil.rmtree(folder)
    for path in list(data.rglob("*.json.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    prefixes = {_trim_service(data, service, names) for service, names in kept.items()}
    endpoints = json.loads((data / "endpoints.json").read_bytes())
    for partition in endpoints["partitions"]:
        partition["services"] = _only(partition["services"], prefixes)
    (data / "endpoints.json").write_text(json.dumps(endpoints))
    for path in data.rglob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_bytes()), separators=(",", ":")))


def _trim_service(data: Path, service: str, kept: Collection[str]) -> str:
    """Trim one service's description, and return its name in the file of endpoints."""
    found = sorted(data.glob(f"{service}/*/service-2.json"))
    if not found:
        raise SystemExit(f"{service}: botocore knows no such service; correct its name.")
    *older, path = found
    for outdated in older:
        # A client is made of the newest description.
        shutil.rmtree(outdated.parent)
    model = json.loads(path.read_bytes())
    if unknown := set(kept) - set(model["operations"]):
        raise SystemExit(f"{service}: botocore knows no {', '.join(sorted(unknown))}; correct it.")
    model["operations"] = _without_documentation(_only(model["operations"], kept))
    model["shapes"] = _without_documentation(_only(model["shapes"], _used_shapes(model)))
    path.write_text(json.dumps(model))
    _trim_additions(path.with_name("service-2.sdk-extras.json"), model["shapes"])
    return str(model["metadata"]["endpointPrefix"])


def _trim_additions(path: Path, shapes: Collection[str]) -> None:
    """Trim what botocore adds to a service's shapes: a part of one that is gone is no shape."""
    if not path.exists():
        return
    additions = json.loads(path.read_bytes())
    merged = additions["merge"]
    if "shapes" in merged:
        merged["shapes"] = _only(merged["shapes"], shapes)
    path.write_text(json.dumps(additions))


def _used_shapes(model: Mapping[str, Any]) -> set[str]:
    """Return the shapes of the operations, and those that they are made of."""
    used: set[str] = set()
    left = set(_shape_names(model["operations"]))
    while left:
        name = left.pop()
        used.add(name)
        left |= set(_shape_names(model["shapes"][name])) - used
    return used


def _shape_names(part: Any) -> Iterator[str]:
    match part:
        case {"shape": str(name)}:
            yield name
        case dict():
            for inner in part.values():
                yield from _shape_names(inner)
        case list():
            for inner in part:
                yield from _shape_names(inner)


def _without_documentation(part: Any) -> Any:
    match part:
        case dict():
            # A member of that name is an object, not a text.
            return {
                name: _without_documentation(inner)
                for name, inner in part.items()
                if not (name == "documentation" and isinstance(inner, str))
            }
        case list():
            return [_without_documentation(inner) for inner in part]
        case _:
            return part


def _only(mapping: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name in names}


if __name__ == "__main__":
    trim(Path(sys.argv[2]), json.loads(Path(sys.argv[1]).read_text()))
