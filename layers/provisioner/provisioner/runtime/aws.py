"""Every session, client and connection to AWS of this process: made here, at the first call.

A process that is forked shares the open connections of the one before: each would read answers to
the other's questions. So what is made here belongs to the process that made it, and what a module
holds is a handle, which finds this process's own client at each use. Source: boto3 documentation,
"Multithreading or multiprocessing with clients".
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import boto3
from botocore.config import Config

from provisioner.runtime import answers, aws_settings

#: Within the time-outs of the functions: a call that hangs is given up and repeated in time.
#: Source: botocore documentation, "Retries", mode standard.
_CONFIG = Config(
    connect_timeout=3,
    read_timeout=20,
    retries={"mode": "standard", "total_max_attempts": 4},
    user_agent_extra="project-provisioner",
)


class _Provider:
    """The session of a process, and its clients, each made once however many threads ask."""

    def __init__(self) -> None:
        # A thread that makes a client asks for the session meanwhile.
        self._lock = threading.RLock()
        self._session: boto3.Session | None = None
        self._clients: dict[tuple[str, str | None], Any] = {}

    def session(self) -> boto3.Session:
        with self._lock:
            if self._session is None:
                with aws_settings.read():
                    made = boto3.Session()
                answers.watch_logins(made)
                self._session = made
            return self._session

    def client(self, service: str, region: str | None) -> Any:
        key = service, region
        # Sessions are not safe in threads, clients are. Source: boto3 documentation, as above.
        if key not in self._clients:
            with self._lock:
                if key not in self._clients:
                    with aws_settings.read():
                        made = self._make(service, region)
                    answers.watch(made)
                    self._clients[key] = made
        return self._clients[key]

    def _make(self, service: str, region: str | None) -> Any:
        session = self.session()
        make: Any = session.client  # its stubs list the literal name of each
        made = make(service, region_name=region, config=_CONFIG)
        aws_settings.check_addresses(made.meta.endpoint_url, session)
        credentials = session.get_credentials()
        if credentials is None:
            made.meta.events.register("before-call", aws_settings.refuse_without_credentials)
        else:
            # Now, and not within a call, they are fetched by whatever gives them.
            credentials.get_frozen_credentials()
        return made


#: By the process that made it. A parent's stays here, unused: were it closed, that would wait for
#: ever for locks that threads of the parent held.
_providers: dict[int, _Provider] = {}


def _provider() -> _Provider:
    # By its number too, since not all that fork call Python's hooks: uWSGI does where it is told to
    # (`py-call-osafterfork`).
    process = os.getpid()
    return _providers.get(process) or _providers.setdefault(process, _Provider())


@dataclass(frozen=True, slots=True)
class _Client:
    """A client of a service, of whichever process uses it."""

    _service: str
    _region: str | None

    def __getattr__(self, name: str) -> Any:
        return getattr(_provider().client(self._service, self._region), name)


def session() -> boto3.Session:
    """Return the session that every client of this process shares."""
    return _provider().session()


def client(service: str, region: str | None = None) -> Any:
    """Return the client of a service, which may be held across a fork.

    Args:
        service: botocore's name of the service.
        region: where it is called; the session's region when left out.

    Raises:
        AwsSettingsError: a setting of the AWS SDK is missing or wrong.
    """
    _provider().client(service, region)
    return _Client(service, region)


def client_of_region(service: str) -> Callable[[str], Any]:
    """Return what gives the client of a service in a region; that of our own is made at once.

    Raises:
        AwsSettingsError: a setting of the AWS SDK is missing or wrong.
    """
    client(service, session().region_name)
    return partial(client, service)


def reset() -> None:
    """Forget the session and its clients, so that the next call reads the environment anew."""
    _providers.pop(os.getpid(), None)


# The number of a process is given to another once it has ended, and in a new namespace at once.
os.register_at_fork(after_in_child=reset)
