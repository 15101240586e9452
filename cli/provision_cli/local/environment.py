"""The environments of everything that the local stack is made of, each made on purpose.

A developer's desk has settings for other things: AWS profiles and endpoints, proxies, PostgreSQL's
own variables, Python's. None of them is to lead the local stack elsewhere, or to lead a program
that is meant for an account into the local stack. So the programs that are started inherit nothing
by chance, and a process that talks to the local stack leaves those settings behind.
"""

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

#: Stands in the environment of everything that a local stack has started, with its folder.
MARK_VARIABLE = "PROVISION_LOCAL_STACK"

#: The interpreter behind this environment: SAM and uv look for `python3.13` on PATH, where a
#: version manager's shim of another default does not count.
INTERPRETER = Path(sys.executable).resolve()

#: What programs that download packages need of the desk. Sources: uv's documentation,
#: "Environment variables"; XDG Base Directory Specification.
_DOWNLOAD_VARIABLES = frozenset(
    {
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSL_CLIENT_CERT", "NETRC"),
        *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "XDG_DATA_HOME"),
        *("UV_CACHE_DIR", "UV_CONFIG_FILE", "UV_KEYRING_PROVIDER", "UV_OFFLINE"),
        *("UV_HTTP_TIMEOUT", "UV_INSECURE_HOST", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS"),
        *("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"),
        *("UV_INDEX", "UV_INDEX_STRATEGY", "UV_NO_INDEX"),
    }
)

#: An index of a name of its own has its login in UV_INDEX_<NAME>_USERNAME and _PASSWORD.
_DOWNLOAD_PREFIX = "UV_INDEX_"

#: Beginnings of the variables that lead an AWS SDK or libpq. Sources: AWS SDKs and Tools Reference
#: Guide, "Settings reference"; PostgreSQL, "Environment Variables" of libpq.
_LIBPQ_PREFIX = "PG"
_LEADING_PREFIXES = ("AWS_", _LIBPQ_PREFIX)

#: What of libpq's leads nowhere: a login for a server that is named elsewhere, as the one that a
#: snapshot is restored into, and how its certificates are checked.
_LOGIN_PREFIXES = ("PGPASS", "PGSSL")

_PROXY_VARIABLES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"})

#: Names of this machine, and of its metadata service: no proxy is asked for them.
_LOCAL_NAMES = ("127.0.0.1", "localhost", "169.254.169.254")


def for_programs(directory: Path, *, path: Iterable[Path] = (), **variables: str) -> dict[str, str]:
    """Return the whole environment of a program that the local stack is made of.

    Args:
        directory: the local stack's folder, which marks all that it has started.
        path: folders in which programs are looked for first.
        variables: what else stands in its environment.
    """
    inherited = os.environ.get("PATH") or os.defpath
    folders = [*path, INTERPRETER.parent]
    kept = {name: os.environ[name] for name in ("USER", "LOGNAME") if name in os.environ}
    return {
        **kept,
        "PATH": os.pathsep.join([*map(str, folders), inherited]),
        "HOME": str(directory),
        # Where TMPDIR names no folder that can be written to, Python knows another one.
        "TMPDIR": tempfile.gettempdir(),
        "LC_ALL": "C",
        "PYTHONUTF8": "1",
        "TZ": "UTC",
        MARK_VARIABLE: str(directory),
        **variables,
    }


def for_downloads(
    directory: Path, *, path: Iterable[Path] = (), **variables: str
) -> dict[str, str]:
    """Return the environment of a program that may download packages, as this desk does."""
    network = {
        name: value
        for name, value in os.environ.items()
        if name.upper() in _DOWNLOAD_VARIABLES or name.startswith(_DOWNLOAD_PREFIX)
    }
    home = Path("~").expanduser()
    # Where uv and pip look from HOME, which is another one here.
    defaults = {
        "NETRC": home / ".netrc",
        "XDG_CACHE_HOME": home / ".cache",
        "XDG_CONFIG_HOME": home / ".config",
        "XDG_DATA_HOME": home / ".local" / "share",
    }
    made = {
        **for_programs(directory, path=path),
        **{name: str(place) for name, place in defaults.items()},
        **network,
    }
    cache = Path(made.get("UV_CACHE_DIR") or Path(made["XDG_CACHE_HOME"]) / "uv").absolute()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        cache = directory / "uv-cache"
    return {**made, "UV_CACHE_DIR": str(cache), **variables}


def leave_desk(variables: Mapping[str, str]) -> None:
    """Let this process forget what would lead it elsewhere, and take these variables instead."""
    for name in desk_variables(os.environ):
        del os.environ[name]
    os.environ.update(variables)


def desk_variables(environment: Mapping[str, str]) -> list[str]:
    """Return the variables of an environment that would lead AWS SDKs or libpq elsewhere."""
    return [
        name
        for name in environment
        if name.upper() in _PROXY_VARIABLES
        or (name.startswith(_LEADING_PREFIXES) and not name.startswith(_LOGIN_PREFIXES))
    ]


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which no proxy is asked for this machine, beside what they say."""
    # Python takes the lower-case one first, and other programs know only one of the two.
    said = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [name.strip() for name in said.split(",") if name.strip()]
    names += [name for name in _LOCAL_NAMES if name not in names]
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(names))


@contextmanager
def without_libpq_settings() -> Iterator[None]:
    """Let libpq take nothing from this process's environment meanwhile."""
    taken = {n: os.environ.pop(n) for n in list(os.environ) if n.startswith(_LIBPQ_PREFIX)}
    try:
        yield
    finally:
        os.environ.update(taken)
