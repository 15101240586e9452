"""Gives each instance of the local AWS's RDS a database server.

ministack knows instances without a server: they are `available` at once, at the port that they were
asked for. Here its answers to some actions are followed by what they are about. An instance gets a
free port, and is `creating` and without an endpoint until its server lets its master user in, and
for some seconds at least: what waits for an instance waits here, too. A snapshot holds a copy of
the data, and an instance that is restored from it has them.

It runs in the environment of ministack, of the version that the Makefile names, and uses what its
module of RDS does not export. What starts and stops the servers is a program of its own. Source:
Amazon RDS API Reference.
"""

from __future__ import annotations

import contextvars
import re
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from provision_cli.local.ports import LOOPBACK, choose_port

#: Seconds for which an instance is at least `creating`, or is at least `deleting`.
CREATING_SECONDS = 5.0
DELETING_SECONDS = 2.0

#: The engines that have a server here.
ENGINES = frozenset({"postgres", "mysql", "mariadb"})

#: Settings that RDS takes when it restores an instance, and ministack does not.
_NOT_RESTORED = (
    "AllocatedStorage",
    "BackupRetentionPeriod",
    "CopyTagsToSnapshot",
    "DeletionProtection",
)

_OK = 200

#: In what ministack knows of an instance, what an operation on its server is told of it.
_SERVER = "_Server"

#: The parameters of a request, by their names in the Query protocol.
type Parameters = Mapping[str, list[str]]

#: A status of HTTP, headers and a body.
type Answer = tuple[int, dict[str, str], bytes]

#: ministack's own answer to an action.
type Handler = Callable[[Parameters], Answer]

#: Runs an operation on the server of an instance, and says whether it went well.
type Operate = Callable[[str, Mapping[str, Any]], bool]


class InstancesWithServers:
    """The actions of ministack's RDS that are about an instance's server, or its data."""

    def __init__(self, rds: Any, operate: Operate) -> None:
        """Take the place of some of ministack's answers.

        Args:
            rds: ministack's module of RDS.
            operate: runs an operation.
        """
        self._rds = rds
        self._operate = operate
        #: The last that is being done on the server of an instance, by its resource id.
        self._at_work: dict[str, threading.Thread] = {}
        rds._MINISTACK_HOST = LOOPBACK
        rds._instance_xml = partial(_instance_xml, rds._instance_xml)
        self._actions: dict[str, Handler] = rds._ACTION_MAP
        for action, handler in (
            ("CreateDBInstance", self._create),
            ("RestoreDBInstanceFromDBSnapshot", self._restore),
            ("DeleteDBInstance", self._delete),
            ("ModifyDBInstance", self._modify),
            ("StopDBInstance", self._stop),
            ("StartDBInstance", self._start),
            ("CreateDBSnapshot", self._create_snapshot),
            ("DeleteDBSnapshot", self._delete_snapshot),
        ):
            self._actions[action] = partial(handler, self._actions[action])

    # Instances.

    def _create(self, handler: Handler, parameters: Parameters) -> Answer:
        if _get(parameters, "Engine") not in ENGINES:
            return handler(parameters)
        # On AWS each has a host of its own, and the port that it was asked for.
        port = choose_port()
        return self._change(
            handler({**parameters, "Port": [str(port)]}),
            parameters,
            "start",
            "creating",
            CREATING_SECONDS,
            user=_get(parameters, "MasterUsername"),
            password=_get(parameters, "MasterUserPassword"),
        )

    def _restore(self, handler: Handler, parameters: Parameters) -> Answer:
        name = _get(parameters, "DBSnapshotIdentifier")
        snapshot = self._rds._snapshots.get(name)
        if snapshot is not None and snapshot["Status"] != "available":
            return self._refuse("InvalidDBSnapshotState", f"Snapshot {name} is not available.")
        answer = handler(parameters)
        if answer[0] != _OK:
            return answer
        instance = self._find(parameters)
        # ministack restores without tags, and without some of the settings.
        instance["TagList"] = self._rds._parse_tags(parameters)
        self._rds._tags[instance["DBInstanceArn"]] = instance["TagList"]
        settings = {name: parameters[name] for name in _NOT_RESTORED if name in parameters}
        self._rds._modify_db_instance(
            {
                "DBInstanceIdentifier": parameters["DBInstanceIdentifier"],
                "ApplyImmediately": ["true"],
                **settings,
            }
        )
        return self._change(
            answer, parameters, "start", "creating", CREATING_SECONDS, snapshot=name
        )

    def _delete(self, handler: Handler, parameters: Parameters) -> Answer:
        instance = self._find(parameters)
        if instance is None or instance["DeletionProtection"]:
            return handler(parameters)
        if instance["DBInstanceStatus"] == "deleting":
            return self._refuse("InvalidDBInstanceState", "The instance is already being deleted.")
        if snapshot := _get(parameters, "FinalDBSnapshotIdentifier"):
            answer = self._actions["CreateDBSnapshot"](
                {**parameters, "DBSnapshotIdentifier": [snapshot]}
            )
            if answer[0] != _OK:
                return answer
        instance["DBInstanceStatus"] = "deleting"

        def forget(_: object) -> None:
            handler({**parameters, "SkipFinalSnapshot": ["true"]})

        self._do(instance, "remove", {}, forget, DELETING_SECONDS)
        return self._show("DeleteDBInstance", instance)

    def _modify(self, handler: Handler, parameters: Parameters) -> Answer:
        answer, instance = handler(parameters), self._find(parameters)
        password = _get(parameters, "MasterUserPassword")
        if answer[0] != _OK or not password:
            return answer
        login = {"user": instance["MasterUsername"], "password": password}
        status = "resetting-master-credentials"
        return self._change(answer, parameters, "set_password", status, **login)

    def _stop(self, handler: Handler, parameters: Parameters) -> Answer:
        return self._change(handler(parameters), parameters, "halt", "stopping", well="stopped")

    def _start(self, handler: Handler, parameters: Parameters) -> Answer:
        return self._change(handler(parameters), parameters, "start", "starting", CREATING_SECONDS)

    def _change(
        self,
        answer: Answer,
        parameters: Parameters,
        operation: str,
        status: str,
        seconds: float = 0.0,
        *,
        well: str = "available",
        **more: str,
    ) -> Answer:
        """Let something be done with the server of an instance, and say so of it meanwhile.

        Args:
            answer: ministack's; one that is an error is all.
            parameters: name the action and the instance.
            operation: what is done.
            status: what the instance is meanwhile.
            seconds: for how long at least.
            well: what it is once that is done.
            more: what the operation needs besides.
        """
        if answer[0] != _OK:
            return answer
        instance = self._find(parameters)
        instance.setdefault(
            _SERVER,
            {
                "resource": instance["DbiResourceId"],
                "identifier": instance["DBInstanceIdentifier"],
                "engine": instance["Engine"],
                "port": int(instance["Endpoint"]["Port"]),
            },
        )
        instance["DBInstanceStatus"] = status

        def tell(is_well: bool) -> None:  # noqa: FBT001  # it takes one argument
            # Else it is being deleted.
            if instance["DBInstanceStatus"] == status:
                instance["DBInstanceStatus"] = well if is_well else "failed"

        self._do(instance, operation, more, tell, seconds)
        return self._show(_get(parameters, "Action"), instance)

    # Snapshots.

    def _create_snapshot(self, handler: Handler, parameters: Parameters) -> Answer:
        instance = self._find(parameters)
        if instance is not None and instance["DBInstanceStatus"] != "available":
            return self._refuse(
                "InvalidDBInstanceState",
                "Cannot create a snapshot because the database instance "
                f"{instance['DBInstanceIdentifier']} is not currently in the available state.",
            )
        status, headers, body = handler(parameters)
        if status != _OK:
            return status, headers, body
        name = _get(parameters, "DBSnapshotIdentifier")
        snapshot = self._rds._snapshots[name]
        snapshot["Status"] = "creating"

        def tell(is_well: bool) -> None:  # noqa: FBT001  # it takes one argument
            snapshot["Status"] = "available" if is_well else "failed"

        self._do(instance, "copy", {"snapshot": name}, tell)
        return status, headers, body.replace(b">available</Status>", b">creating</Status>")

    def _delete_snapshot(self, handler: Handler, parameters: Parameters) -> Answer:
        answer = handler(parameters)
        if answer[0] == _OK:
            self._operate("forget", {"snapshot": _get(parameters, "DBSnapshotIdentifier")})
        return answer

    # What all have in common.

    def _find(self, parameters: Parameters) -> Any:
        """Return what ministack knows of an instance; None where there is none."""
        return self._rds._resolve_instance(_get(parameters, "DBInstanceIdentifier"))

    def _show(self, action: str, instance: Any) -> Answer:
        answer: Answer = self._rds._single_instance_response(
            f"{action}Response", f"{action}Result", instance
        )
        return answer

    def _refuse(self, code: str, message: str) -> Answer:
        answer: Answer = self._rds._error(code, message, 400)
        return answer

    def _do(
        self,
        instance: Any,
        operation: str,
        more: Mapping[str, str],
        then: Callable[[bool], None],
        seconds: float = 0.0,
    ) -> None:
        """Do something with the server of an instance once all that was asked before is done.

        Args:
            instance: what ministack knows of it.
            operation: what is done.
            more: what the operation needs besides.
            then: is told whether it went well.
            seconds: from now, before which it is not told.
        """
        before = self._at_work.get(instance["DbiResourceId"])
        earliest = time.monotonic() + seconds

        def work() -> None:
            if before is not None:
                before.join()
            is_well = self._operate(operation, {"instance": instance[_SERVER], **more})
            time.sleep(max(0.0, earliest - time.monotonic()))
            then(is_well)

        # ministack finds the request's account and region in the context.
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(work,), daemon=True)
        self._at_work[instance["DbiResourceId"]] = thread
        thread.start()


def _get(parameters: Parameters, name: str) -> str:
    return next(iter(parameters.get(name, ())), "")


def _instance_xml(write: Callable[[Any], str], instance: Any) -> str:
    """Write an instance as ministack does; one that is not there yet has no endpoint."""
    text = write(instance)
    if instance["DBInstanceStatus"] in {"creating", "failed"}:
        return re.sub(r"<Endpoint>.*?</Endpoint>", "", text, flags=re.DOTALL)
    return text
