"""Gives each instance of the local AWS's RDS a database server.

ministack knows instances without a server: they are `available` at once, at the port that they were
asked for. This stands before it, as an ASGI application around it, and speaks RDS's own protocol.
An instance gets a free port and is held back as `creating`, without an endpoint, until its server
lets its master user in, and for some seconds at least: what waits for an instance waits here, too.
A snapshot holds a copy of the data, and an instance that is restored from it has them.

It runs in the environment of ministack, and needs nothing but Python. What starts and stops the
servers is a program of its own. Sources: Amazon RDS API Reference; ASGI specification, "HTTP".
"""

from __future__ import annotations

import asyncio
import re
import xml.etree.ElementTree as ET  # what is parsed is ministack's own  # nosec B405
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

from provision_cli.local.ports import LOOPBACK, choose_port

#: Seconds for which an instance is at least `creating`, or is at least `deleting`.
CREATING_SECONDS = 5.0
DELETING_SECONDS = 2.0

#: The engines that have a server here.
ENGINES = frozenset({"postgres", "mysql", "mariadb"})

_NAMESPACE = "http://rds.amazonaws.com/doc/2014-10-31/"
_OK = 200

#: Settings that RDS takes when it restores an instance, and ministack does not.
_NOT_RESTORED = (
    "AllocatedStorage",
    "BackupRetentionPeriod",
    "CopyTagsToSnapshot",
    "DeletionProtection",
)

#: The region of a signed request to RDS. Source: AWS Signature Version 4, "Credential scope".
_SCOPE = re.compile(rb"Credential=[^/]+/\d+/([^/]+)/rds/aws4_request")

type Message = dict[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type Application = Callable[[Message, Receive, Send], Awaitable[None]]

#: Runs an operation on the server of an instance, and says whether it went well.
type Operate = Callable[[str, Mapping[str, str | int]], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes

    @property
    def is_well(self) -> bool:
        return self.status == _OK

    def root(self) -> ET.Element:
        return ET.fromstring(self.body)  # noqa: S314  # ministack's own  # nosec B314

    def found(self, kind: str) -> ET.Element:
        """Return the one instance, or snapshot, that it is about."""
        return deepcopy(next(self.root().iter(f"{{{_NAMESPACE}}}{kind}")))

    def with_root(self, root: ET.Element) -> _Answer:
        ET.register_namespace("", _NAMESPACE)
        return _Answer(self.status, self.headers, ET.tostring(root))


def _refusal(code: str, message: str) -> _Answer:
    root = ET.Element("ErrorResponse", {"xmlns": _NAMESPACE})
    error = ET.SubElement(root, "Error")
    for name, text in (("Type", "Sender"), ("Code", code), ("Message", message)):
        ET.SubElement(error, name).text = text
    ET.SubElement(root, "RequestId").text = "local"
    return _Answer(400, [(b"content-type", b"text/xml")], ET.tostring(root))


@dataclass(slots=True)
class _Request:
    """A request of the Query protocol."""

    scope: Message
    region: str
    parameters: dict[str, str]

    def get(self, name: str) -> str:
        return self.parameters.get(name, "")

    @property
    def instance(self) -> tuple[str, str]:
        """Where the instance is, and what it is called: RDS does not tell cases apart."""
        return self.region, self.get("DBInstanceIdentifier").lower()

    def with_parameters(self, parameters: Mapping[str, str]) -> _Request:
        return _Request(self.scope, self.region, {**self.parameters, **parameters})

    def other(self, action: str, parameters: Mapping[str, str]) -> _Request:
        same = {"Action": action, "Version": self.get("Version")}
        return _Request(self.scope, self.region, {**same, **parameters})


@dataclass(slots=True)
class InstancesWithServers:
    """ministack, with a server for each instance of its RDS."""

    inner: Application
    operate: Operate
    creating_seconds: float = CREATING_SECONDS
    deleting_seconds: float = DELETING_SECONDS
    #: What an instance or a snapshot is other than ministack says, by its ARN.
    _statuses: dict[str, str] = field(default_factory=dict)
    #: Instances that ministack has forgotten, and whose servers are being removed.
    _deleting: dict[tuple[str, str], ET.Element] = field(default_factory=dict)
    #: The last that is being done on the server of an instance, by its resource id.
    _at_work: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request as an ASGI application does."""
        region = _region(scope)
        if region is None:
            await self.inner(scope, receive, send)
            return
        parameters = dict(parse_qsl((await _body(receive)).decode(), keep_blank_values=True))
        answer = await self._answer(_Request(scope, region, parameters))
        headers = [(n, v) for n, v in answer.headers if n.lower() != b"content-length"]
        headers.append((b"content-length", str(len(answer.body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, request: _Request) -> _Answer:
        match request.get("Action"):
            case "CreateDBInstance" if request.get("Engine") in ENGINES:
                answer = await self._create(request)
            case "RestoreDBInstanceFromDBSnapshot":
                answer = await self._restore(request)
            case "DeleteDBInstance":
                answer = await self._delete(request)
            case "ModifyDBInstance":
                answer = await self._modify(request)
            case "StopDBInstance" | "StartDBInstance":
                answer = await self._stop_or_start(request)
            case "CreateDBSnapshot":
                answer = await self._create_snapshot(request)
            case "DeleteDBSnapshot":
                answer = await self._delete_snapshot(request)
            case "DescribeDBInstances":
                answer = await self._describe(request)
            case _:
                answer = await self._forward(request)
        return self._told(answer)

    # Instances.

    async def _create(self, request: _Request) -> _Answer:
        if request.instance in self._deleting:
            return _refusal("DBInstanceAlreadyExists", "DB instance already exists")
        # On AWS each has a host of its own, and the port that it was asked for.
        port = choose_port(None, None, what="an instance", variable="")
        answer = await self._forward(request.with_parameters({"Port": str(port)}))
        if answer.is_well:
            self._make(
                answer.found("DBInstance"),
                "start",
                user=request.get("MasterUsername"),
                password=request.get("MasterUserPassword"),
            )
        return answer

    async def _restore(self, request: _Request) -> _Answer:
        if request.instance in self._deleting:
            return _refusal("DBInstanceAlreadyExists", "DB instance already exists")
        name = request.get("DBSnapshotIdentifier")
        snapshot = await self._forward(
            request.other("DescribeDBSnapshots", {"DBSnapshotIdentifier": name})
        )
        if snapshot.is_well and _text(snapshot.found("DBSnapshot"), _ARN["DBSnapshot"]) in (
            self._statuses
        ):
            return _refusal("InvalidDBSnapshotState", f"Snapshot {name} is not available.")
        answer = await self._forward(request)
        if not answer.is_well:
            return answer
        instance = answer.found("DBInstance")
        # ministack restores without tags, and without some of the settings.
        tags = {name: v for name, v in request.parameters.items() if name.startswith("Tags.")}
        if tags:
            arn = {"ResourceName": _text(instance, _ARN["DBInstance"])}
            await self._forward(request.other("AddTagsToResource", arn | tags))
        settings = {name: request.get(name) for name in _NOT_RESTORED if request.get(name)}
        if settings:
            at_once = {"DBInstanceIdentifier": request.get("DBInstanceIdentifier")}
            at_once["ApplyImmediately"] = "true"
            await self._forward(request.other("ModifyDBInstance", at_once | settings))
        self._make(instance, "restore", snapshot=name)
        return answer

    def _make(
        self,
        instance: ET.Element,
        operation: str,
        *,
        status: str = "creating",
        seconds: float | None = None,
        **more: str,
    ) -> None:
        """Let something be done with the server of an instance, and hold it back meanwhile.

        Args:
            instance: the instance.
            operation: what is done.
            status: what the instance is meanwhile.
            seconds: for how long at least; that of one that is made where left out.
            more: what the operation needs besides.
        """
        least = self.creating_seconds if seconds is None else seconds
        arn, asked = _text(instance, _ARN["DBInstance"]), _asked(instance) | more
        self._statuses[arn] = status

        async def make() -> None:
            is_well, _ = await asyncio.gather(self.operate(operation, asked), asyncio.sleep(least))
            if self._statuses.get(arn) != status:
                return  # it is being deleted
            if is_well:
                del self._statuses[arn]
            else:
                self._statuses[arn] = "failed"

        self._after_the_one_before(instance, make())

    async def _delete(self, request: _Request) -> _Answer:
        key, snapshot = request.instance, request.get("FinalDBSnapshotIdentifier")
        if key in self._deleting:
            return _refusal("InvalidDBInstanceState", "The instance is already being deleted.")
        if snapshot and (refusal := await self._unless_available(request)) is not None:
            return refusal
        answer = await self._forward(request)
        if not answer.is_well:
            return answer
        instance = answer.found("DBInstance")
        arn = _text(instance, _ARN["DBInstance"])
        self._deleting[key], self._statuses[arn] = instance, "deleting"
        if snapshot:
            found = await self._forward(
                request.other("DescribeDBSnapshots", {"DBSnapshotIdentifier": snapshot})
            )
            self._copy(instance, found.found("DBSnapshot"))
        held = asyncio.create_task(asyncio.sleep(self.deleting_seconds))

        async def remove() -> None:
            await asyncio.gather(self.operate("remove", _asked(instance)), held)
            del self._deleting[key], self._statuses[arn]

        self._after_the_one_before(instance, remove())
        return answer

    async def _modify(self, request: _Request) -> _Answer:
        answer = await self._forward(request)
        if answer.is_well and request.get("MasterUserPassword"):
            instance = answer.found("DBInstance")
            login = {
                "user": _text(instance, "MasterUsername"),
                "password": request.get("MasterUserPassword"),
            }
            self._make(
                instance, "set-password", status="resetting-master-credentials", seconds=0, **login
            )
        return answer

    async def _stop_or_start(self, request: _Request) -> _Answer:
        answer = await self._forward(request)
        if answer.is_well:
            instance = answer.found("DBInstance")
            if request.get("Action") == "StartDBInstance":
                self._make(instance, "resume", status="starting")
            else:
                await self.operate("halt", _asked(instance))
        return answer

    async def _describe(self, request: _Request) -> _Answer:
        region, name = request.instance
        if (region, name) in self._deleting:
            # ministack knows it no more; its answer about all has the right form.
            answer, gone = await self._forward(request.other("DescribeDBInstances", {})), [name]
        elif name:
            return await self._forward(request)
        else:
            answer = await self._forward(request)
            gone = [one for where, one in self._deleting if where == region]
        root = answer.root()
        listed = next(root.iter(f"{{{_NAMESPACE}}}DBInstances"), None)
        if listed is None:
            return answer
        if name:
            listed.clear()
        listed.extend(self._deleting[region, one] for one in gone)
        return answer.with_root(root)

    # Snapshots.

    async def _create_snapshot(self, request: _Request) -> _Answer:
        if (refusal := await self._unless_available(request)) is not None:
            return refusal
        identifier = {"DBInstanceIdentifier": request.get("DBInstanceIdentifier")}
        described = await self._forward(request.other("DescribeDBInstances", identifier))
        answer = await self._forward(request)
        if answer.is_well:
            self._copy(described.found("DBInstance"), answer.found("DBSnapshot"))
        return answer

    async def _delete_snapshot(self, request: _Request) -> _Answer:
        answer = await self._forward(request)
        if answer.is_well:
            snapshot = {"snapshot": request.get("DBSnapshotIdentifier")}
            await self.operate("forget", snapshot)
        return answer

    async def _unless_available(self, request: _Request) -> _Answer | None:
        """Refuse what only an instance that is available allows."""
        name = request.get("DBInstanceIdentifier")
        described = await self._describe(
            request.other("DescribeDBInstances", {"DBInstanceIdentifier": name})
        )
        if not described.is_well:
            return None
        status = _text(self._told(described).found("DBInstance"), "DBInstanceStatus")
        if status == "available":
            return None
        return _refusal(
            "InvalidDBInstanceState",
            f"Cannot create a snapshot because the database instance {name} is not currently in "
            "the available state.",
        )

    def _copy(self, instance: ET.Element, snapshot: ET.Element) -> None:
        """Let the data of an instance be copied, and hold the snapshot back meanwhile."""
        arn = _text(snapshot, _ARN["DBSnapshot"])
        asked = _asked(instance) | {"snapshot": _text(snapshot, "DBSnapshotIdentifier")}
        self._statuses[arn] = "creating"

        async def copy() -> None:
            if await self.operate("copy", asked):
                del self._statuses[arn]
            else:
                self._statuses[arn] = "failed"

        self._after_the_one_before(instance, copy())

    # What all have in common.

    def _after_the_one_before(self, instance: ET.Element, work: Coroutine[Any, Any, None]) -> None:
        """Do something with the server of an instance once all that was asked before is done."""
        resource = _text(instance, "DbiResourceId")
        before = self._at_work.get(resource)

        async def wait_and_work() -> None:
            if before is not None:
                await asyncio.wait([before])
            await work

        task = self._at_work[resource] = asyncio.create_task(wait_and_work())

        def forget(_: object) -> None:
            if self._at_work.get(resource) is task:
                del self._at_work[resource]

        task.add_done_callback(forget)

    def _told(self, answer: _Answer) -> _Answer:
        """Return an answer with the addresses, and the statuses, that hold here."""
        if not answer.is_well:
            return answer
        root = answer.root()
        for endpoint in root.iter(f"{{{_NAMESPACE}}}Endpoint"):
            address = endpoint.find(f"{{{_NAMESPACE}}}Address")
            if address is not None:
                address.text = LOOPBACK
        for kind, of_arn in _ARN.items():
            for element in root.iter(f"{{{_NAMESPACE}}}{kind}"):
                status = self._statuses.get(_text(element, of_arn))
                if status is not None:
                    _tell(element, kind, status)
        return answer.with_root(root)

    async def _forward(self, request: _Request) -> _Answer:
        """Let ministack answer a request."""
        body = urlencode(request.parameters).encode()
        headers = [
            (name, str(len(body)).encode() if name.lower() == b"content-length" else value)
            for name, value in request.scope["headers"]
        ]
        asked = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Message] = []

        async def receive() -> Message:
            return asked.pop() if asked else {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.inner({**request.scope, "headers": headers}, receive, send)
        start = next(message for message in sent if message["type"] == "http.response.start")
        return _Answer(
            start["status"],
            list(start.get("headers", ())),
            b"".join(message.get("body", b"") for message in sent),
        )


#: What holds the ARN of an instance, and of a snapshot.
_ARN = {"DBInstance": "DBInstanceArn", "DBSnapshot": "DBSnapshotArn"}


def _tell(element: ET.Element, kind: str, status: str) -> None:
    """Let an instance, or a snapshot, say that it has another status."""
    name = "DBInstanceStatus" if kind == "DBInstance" else "Status"
    found = element.find(f"{{{_NAMESPACE}}}{name}")
    if found is not None:
        found.text = status
    endpoint = element.find(f"{{{_NAMESPACE}}}Endpoint")
    if endpoint is not None and status in {"creating", "failed"}:
        element.remove(endpoint)


def _text(element: ET.Element, name: str) -> str:
    return element.findtext(f"{{{_NAMESPACE}}}{name}", "")


def _asked(instance: ET.Element) -> dict[str, str | int]:
    """Return what an operation says of an instance."""
    return {
        "resource": _text(instance, "DbiResourceId"),
        "identifier": _text(instance, "DBInstanceIdentifier"),
        "engine": _text(instance, "Engine"),
        "port": int(_text_within(instance, "Endpoint", "Port")),
    }


def _text_within(element: ET.Element, *names: str) -> str:
    return element.findtext("/".join(f"{{{_NAMESPACE}}}{name}" for name in names), "0")


def _region(scope: Message) -> str | None:
    """Return the region that a request to RDS is for; None for any other request."""
    if scope["type"] != "http":
        return None
    for name, value in scope["headers"]:
        if name.lower() == b"authorization" and (found := _SCOPE.search(value)) is not None:
            return found[1].decode()
    return None


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)
