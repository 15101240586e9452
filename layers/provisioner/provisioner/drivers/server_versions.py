"""Versions of database servers, compared as their makers count them."""

import re


def is_of_version(version: str | None, wanted: str) -> bool:
    """Whether a version is the wanted one, or one of it: 18.1 is of 18, and not of 18.10 or 1."""
    parts = wanted.split(".")
    return version is not None and version.split(".")[: len(parts)] == parts


def keeps_version(engine: str, version: str, wanted: str) -> bool:
    """Whether a version is of the wanted major version, and is not older.

    RDS puts newer minor versions in by itself.

    Args:
        engine: RDS's name of the engine, or the project's.
        version: what there is, such as 18.2.
        wanted: what was asked for, such as 18 or 18.1.
    """
    return is_of_major_version(engine, version, wanted) and _numbers(version) >= _numbers(wanted)


def is_of_major_version(engine: str, version: str, wanted: str) -> bool:
    """Whether a version is of the wanted major version; the arguments are as of `keeps_version`.

    Of PostgreSQL the first number is the major version, of MySQL and MariaDB the first two.
    """
    found, least = _numbers(version), _numbers(wanted)
    major = min(1 if engine.startswith("postgres") else 2, len(least))
    return found[:major] == least[:major]


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall("[0-9]+", version)]
