"""The local AWS as it is served: ministack, whose RDS instances get a database server each.

ministack knows instances without a server: they are `available` at once, at the port that they were
asked for. Here its answers to some actions are followed by what they are about. An instance gets a
free port, and is `creating` and without an endpoint until its server lets its master user in, and
for some seconds at least: what waits for an instance waits here, too. A snapshot holds a copy of
the data, and an instance that is restored from it has them.

It runs in the environment of ministack, which has nothing that this project depends on, of the
version that the Makefile names, and uses what its modules do not export. What starts and stops the
servers is a program of its own. Source: Amazon RDS API Reference.

ministack refuses alarms of several metrics: here each is an alarm of its first one.
"""

import contextlib
import contextvars
import json
import os
import re
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ministack.app import app  # type: ignore[import-not-found]  # it is served there
from ministack.services import rds  # type: ignore[import-not-found]  # likewise
from ministack.services.cloudformation import (  # type: ignore[import-not-found]  # likewise
    provisioners,
)

from provision_cli.local.ports import LOOPBACK, choose_port

__all__ = ["app"]

#: Seconds for which an instance is at least `creating`, or is at least `deleting`.
_CREATING_SECONDS = 5.0
_DELETING_SECONDS = 2.0

#: The engines that have a server here.
_ENGINES = frozenset({"postgres", "mysql", "mariadb"})

#: Settings that RDS takes when it restores an instance, and ministack does not.
_NOT_RESTORED = (
    "AllocatedStorage",
    "BackupRetentionPeriod",
    "CopyTagsToSnapshot",
    "DeletionProtection",
)

_OK = 200

#: In what ministack knows of an instance, what an operation on its server is handed.
_SERVER = "_Server"

#: The parameters of a request, by their names in the Query protocol.
type Parameters = Mapping[str, list[str]]

#: A status of HTTP, headers and a body.
type Answer = tuple[int, dict[str, str], bytes]

#: ministack's own answer to an action.
type Handler = Callable[[Parameters], Answer]

# A job keeps several connections and pipes open; the usual limit of 1,024 files is low.
_, _MOST_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)
# macOS refuses one without bounds.
with contextlib.suppress(ValueError):
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST_FILES, _MOST_FILES))

# The functions inherit the environment, and these are not theirs.
os.environ.pop("PYTHONPATH", None)
#: The interpreter that has what this project depends on.
_PYTHON = os.environ.pop("PROVISION_INSTANCE_PYTHON")
#: The folder of the local stack.
_DIRECTORY = Path(os.environ.pop("PROVISION_INSTANCE_DIRECTORY"))

_LOG = _DIRECTORY / "instances.log"
_LOG.write_bytes(b"")

#: The last that is being done on the server of an instance, by its resource id.
_AT_WORK: dict[str, threading.Thread] = {}


def _takes_the_place_of(action: str) -> Callable[[Callable[[Handler, Parameters], Answer]], None]:
    """Let a function answer an action; it is given ministack's own answer to it."""

    def take(answer: Callable[[Handler, Parameters], Answer]) -> None:
        rds._ACTION_MAP[action] = partial(answer, rds._ACTION_MAP[action])

    return take


@_takes_the_place_of("CreateDBInstance")
def _create(handler: Handler, parameters: Parameters) -> Answer:
    if _get(parameters, "Engine") not in _ENGINES:
        return handler(parameters)
    # On AWS each has a host of its own, and the port that it was asked for.
    port = choose_port()
    return _change(
        handler({**parameters, "Port": [str(port)]}),
        parameters,
        "start",
        "creating",
        _CREATING_SECONDS,
        user=_get(parameters, "MasterUsername"),
        password=_get(parameters, "MasterUserPassword"),
    )


@_takes_the_place_of("RestoreDBInstanceFromDBSnapshot")
def _restore(handler: Handler, parameters: Parameters) -> Answer:
    name = _get(parameters, "DBSnapshotIdentifier")
    snapshot = rds._snapshots.get(name)
    if snapshot is not None and snapshot["Status"] != "available":
        return _refuse("InvalidDBSnapshotState", f"Snapshot {name} is not available.")
    answer = handler(parameters)
    if answer[0] != _OK:
        return answer
    instance = _find(parameters)
    # ministack restores without tags, and without some of the settings.
    instance["TagList"] = rds._parse_tags(parameters)
    rds._tags[instance["DBInstanceArn"]] = instance["TagList"]
    rds._modify_db_instance(
        {
            "DBInstanceIdentifier": parameters["DBInstanceIdentifier"],
            "ApplyImmediately": ["true"],
            **{name: parameters[name] for name in _NOT_RESTORED if name in parameters},
        }
    )
    return _change(answer, parameters, "start", "creating", _CREATING_SECONDS, snapshot=name)


@_takes_the_place_of("DeleteDBInstance")
def _delete(handler: Handler, parameters: Parameters) -> Answer:
    instance = _find(parameters)
    if instance is None or instance["DeletionProtection"]:
        return handler(parameters)
    if instance["DBInstanceStatus"] == "deleting":
        return _refuse("InvalidDBInstanceState", "The instance is already being deleted.")
    if snapshot := _get(parameters, "FinalDBSnapshotIdentifier"):
        answer: Answer = rds._ACTION_MAP["CreateDBSnapshot"](
            {**parameters, "DBSnapshotIdentifier": [snapshot]}
        )
        if answer[0] != _OK:
            return answer
    instance["DBInstanceStatus"] = "deleting"

    def forget(_: object) -> None:
        handler({**parameters, "SkipFinalSnapshot": ["true"]})

    _do(instance, "remove", {}, forget, _DELETING_SECONDS)
    return _show("DeleteDBInstance", instance)


@_takes_the_place_of("ModifyDBInstance")
def _modify(handler: Handler, parameters: Parameters) -> Answer:
    answer, instance = handler(parameters), _find(parameters)
    password = _get(parameters, "MasterUserPassword")
    if answer[0] != _OK or not password:
        return answer
    login = {"user": instance["MasterUsername"], "password": password}
    return _change(answer, parameters, "set_password", "resetting-master-credentials", **login)


@_takes_the_place_of("StopDBInstance")
def _stop(handler: Handler, parameters: Parameters) -> Answer:
    return _change(handler(parameters), parameters, "halt", "stopping", well="stopped")


@_takes_the_place_of("StartDBInstance")
def _start(handler: Handler, parameters: Parameters) -> Answer:
    return _change(handler(parameters), parameters, "start", "starting", _CREATING_SECONDS)


def _change(
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
    instance = _find(parameters)
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

    _do(instance, operation, more, tell, seconds)
    return _show(_get(parameters, "Action"), instance)


@_takes_the_place_of("CreateDBSnapshot")
def _create_snapshot(handler: Handler, parameters: Parameters) -> Answer:
    instance = _find(parameters)
    if instance is not None and instance["DBInstanceStatus"] != "available":
        return _refuse(
            "InvalidDBInstanceState",
            "Cannot create a snapshot because the database instance "
            f"{instance['DBInstanceIdentifier']} is not currently in the available state.",
        )
    status, headers, body = handler(parameters)
    if status != _OK:
        return status, headers, body
    name = _get(parameters, "DBSnapshotIdentifier")
    snapshot = rds._snapshots[name]
    snapshot["Status"] = "creating"

    def tell(is_well: bool) -> None:  # noqa: FBT001  # it takes one argument
        snapshot["Status"] = "available" if is_well else "failed"

    _do(instance, "copy", {"snapshot": name}, tell)
    return status, headers, body.replace(b">available</Status>", b">creating</Status>")


@_takes_the_place_of("DeleteDBSnapshot")
def _delete_snapshot(handler: Handler, parameters: Parameters) -> Answer:
    answer = handler(parameters)
    if answer[0] == _OK:
        _operate("forget", {"snapshot": _get(parameters, "DBSnapshotIdentifier")})
    return answer


def _find(parameters: Parameters) -> Any:
    """Return what ministack knows of an instance; None where there is none."""
    return rds._resolve_instance(_get(parameters, "DBInstanceIdentifier"))


def _show(action: str, instance: Any) -> Answer:
    answer: Answer = rds._single_instance_response(f"{action}Response", f"{action}Result", instance)
    return answer


def _refuse(code: str, message: str) -> Answer:
    answer: Answer = rds._error(code, message, 400)
    return answer


def _do(
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
        then: called with whether it went well.
        seconds: from now, before which it is not called.
    """
    before = _AT_WORK.get(instance["DbiResourceId"])
    earliest = time.monotonic() + seconds

    def work() -> None:
        if before is not None:
            before.join()
        is_well = _operate(operation, {"instance": instance[_SERVER], **more})
        time.sleep(max(0.0, earliest - time.monotonic()))
        then(is_well)

    # ministack finds the request's account and region in the context.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), daemon=True)
    _AT_WORK[instance["DbiResourceId"]] = thread
    thread.start()


def _operate(operation: str, asked: Mapping[str, Any]) -> bool:
    """Run an operation on a server as a program of its own; return whether it went well."""
    command = [_PYTHON, "-m", "provision_cli.local.instance_servers", str(_DIRECTORY), operation]
    with _LOG.open("ab") as log:
        process = subprocess.run(  # noqa: S603  # our own program  # nosec B603
            command, input=json.dumps(asked).encode(), stdout=log, stderr=log, check=False
        )
    return process.returncode == 0


def _get(parameters: Parameters, name: str) -> str:
    return next(iter(parameters.get(name, ())), "")


def _instance_xml(write: Callable[[Any], str], instance: Any) -> str:
    """Write an instance as ministack does; one that is not there yet has no endpoint."""
    text = write(instance)
    if instance["DBInstanceStatus"] in {"creating", "failed"}:
        return re.sub(r"<Endpoint>.*?</Endpoint>", "", text, flags=re.DOTALL)
    return text


def _alarm_record(
    record: Callable[[str, Mapping[str, Any]], Any], name: str, properties: Mapping[str, Any]
) -> Any:
    """Describe an alarm as ministack does; it measures nothing that an alarm could go off for."""
    queries = properties.get("Metrics", ())
    first = next((query["MetricStat"] for query in queries if "MetricStat" in query), None)
    if first is None:
        return record(name, properties)
    of_one = {"Metrics": (), **first["Metric"]}
    of_period = {"Period": first["Period"], "Statistic": first["Stat"]}
    return record(name, {**properties, **of_one, **of_period})


provisioners._cw_metric_alarm_record = partial(_alarm_record, provisioners._cw_metric_alarm_record)
rds._MINISTACK_HOST = LOOPBACK
rds._instance_xml = partial(_instance_xml, rds._instance_xml)
