"""Faults at the calls of a stage: what it asks AWS and a database for while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pymysql
import pytest
from botocore.client import BaseClient
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError
from moto.appsync.models import appsync_backends
from moto.cognitoidp.models import CognitoIdpUserPoolClient
from provisioner.provisioning.engine import Engine
from psycopg import sql
from pymysql.cursors import Cursor
from support.core import ACCOUNT, READING

#: Makes the state machine's own calls, beside the stages.
_NOT_OF_STAGES = {"lambda", "stepfunctions"}

#: What changes nothing on a server of an engine; locks by name go with their session.
_READING_STATEMENTS = {
    Engine.POSTGRESQL: ("SELECT", "SHOW"),
    Engine.MYSQL: ("SELECT", "SHOW", "SET SESSION", "USE", "START TRANSACTION"),
}

CONNECT = "Connect"
SQL = "SQL"


@dataclass(frozen=True, slots=True)
class DriverErrors:
    """What an engine's driver raises; each makes one."""

    #: The server has no connection left.
    too_many: Callable[[], Exception]
    #: The platform may not do that.
    forbidden: Callable[[], Exception]
    #: There is no way to the server.
    unreachable: Callable[[], Exception]
    #: The connection has gone while the server was at work.
    lost: Callable[[], Exception]
    #: No answer to a login.
    login_unanswered: Callable[[], Exception]
    #: The server has given up a statement.
    stopped: Callable[[], Exception]
    #: What has answered does not speak as the server does.
    unreadable: Callable[[], Exception]


#: By engine.
DRIVER_ERRORS = {
    Engine.POSTGRESQL: DriverErrors(
        too_many=lambda: psycopg.errors.TooManyConnections("sorry, too many clients already"),
        forbidden=lambda: psycopg.errors.InsufficientPrivilege("permission denied"),
        unreachable=lambda: psycopg.OperationalError("connection failed: Connection refused"),
        lost=lambda: psycopg.OperationalError("server closed the connection unexpectedly"),
        login_unanswered=lambda: psycopg.errors.ConnectionTimeout("connection timeout expired"),
        stopped=lambda: psycopg.errors.QueryCanceled(
            "canceling statement due to statement timeout"
        ),
        unreadable=lambda: psycopg.OperationalError(
            "lost synchronization with server: got message type H"
        ),
    ),
    # PyMySQL's classes by the numbers, as `pymysql.err.raise_mysql_exception` has them.
    Engine.MYSQL: DriverErrors(
        too_many=lambda: pymysql.OperationalError(1040, "Too many connections"),
        forbidden=lambda: pymysql.OperationalError(1142, "CREATE command denied to user"),
        unreachable=lambda: pymysql.OperationalError(
            2003, "Can't connect to MySQL server ([Errno 111] Connection refused)"
        ),
        lost=lambda: pymysql.OperationalError(2013, "Lost connection to MySQL server during query"),
        login_unanswered=lambda: pymysql.OperationalError(
            2003, "Can't connect to MySQL server (timed out)"
        ),
        stopped=lambda: pymysql.OperationalError(
            1969, "Query execution was interrupted (max_statement_time exceeded)"
        ),
        unreadable=lambda: pymysql.err.InternalError(
            "Packet sequence number wrong - got 72 expected 1"
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call that a stage makes."""

    #: Counted from 1 in each run of the stage.
    number: int
    #: The operation of AWS, `Connect`, or `SQL`.
    operation: str
    #: The statement, or the parameters as text.
    text: str
    #: Whether it changes something.
    is_change: bool
    #: Makes the call and returns its answer.
    make: Callable[[], Any]
    #: Of the database that is asked; None where AWS is.
    engine: Engine | None = None

    @property
    def errors(self) -> DriverErrors | None:
        """What the driver of the database raises; None where AWS is asked."""
        return DRIVER_ERRORS[self.engine] if self.engine is not None else None


#: Says at which call a fault happens.
type At = Callable[[Call], bool]

#: Answers in place of the call, or raises.
type Act = Callable[[Call], Any]


@dataclass(frozen=True, slots=True)
class Within:
    """A fault at the first call of a stage that `at` is true of."""

    at: At
    act: Act


def first_call(call: Call) -> bool:
    return call.number == 1


def first_change(call: Call) -> bool:
    return call.is_change


def first_statement(call: Call) -> bool:
    """The first statement that changes something on the database's server."""
    return call.is_change and call.engine is not None


def operation(name: str, containing: str = "") -> At:
    return lambda call: call.operation == name and containing in call.text


def nth_call(number: int) -> At:
    return lambda call: call.number == number


def unwell(call: Call) -> Any:
    """Answer that the service is not well, and do nothing."""
    raise ClientError({"Error": {"Code": "InternalServerError"}}, call.operation)


def _make(call: Call) -> None:
    """Make a call whose answer gets lost, whatever AWS answers."""
    with suppress(ClientError):
        call.make()


def unwell_after_all(call: Call) -> Any:
    """Answer so although the call has had its effect."""
    _make(call)
    unwell(call)


def throttled(call: Call) -> Any:
    if call.errors is not None:
        raise call.errors.too_many()
    raise ClientError(
        {"Error": {"Code": "ThrottlingException"}, "ResponseMetadata": {"HTTPStatusCode": 400}},  # type: ignore[typeddict-item]  # its stubs ask for more
        call.operation,
    )


def forbidden(call: Call) -> Any:
    if call.errors is not None:
        raise call.errors.forbidden()
    raise ClientError({"Error": {"Code": "AccessDeniedException"}}, call.operation)


def dropped(call: Call) -> Any:
    """Lose the connection: on the way there, or, where the call changes something, on the way back.

    What stands in a transaction of PostgreSQL is undone with the session, as there.
    """
    if not call.is_change and call.errors is not None:
        raise call.errors.unreachable()
    if not call.is_change:
        raise EndpointConnectionError(endpoint_url="https://aws.invalid")
    _make(call)
    if call.errors is not None:
        raise call.errors.lost()
    raise ConnectionClosedError(endpoint_url="https://aws.invalid")


def unanswered(call: Call) -> Any:
    """Wait in vain for the answer to a call that has had its effect."""
    if call.errors is not None and call.operation == CONNECT:
        raise call.errors.login_unanswered()
    _make(call)
    if call.errors is not None:
        raise call.errors.stopped()
    raise ReadTimeoutError(endpoint_url="https://aws.invalid")


def unreadable(call: Call) -> Any:
    """Answer a call that has had its effect with what is none, such as a proxy's page."""
    _make(call)
    if call.errors is not None:
        raise call.errors.unreadable()
    raise ResponseParserError("Unable to parse response, invalid received: b'<html>'")


def empty(call: Call) -> Any:
    """Answer with a body that says nothing; a database: with no row."""
    if call.operation == SQL:
        call.make()
        return _Rows([])
    return {"ResponseMetadata": {"HTTPStatusCode": 200}}


def emptied(call: Call) -> Any:
    """Let the call have its effect, and answer with a body that says nothing."""
    call.make()
    return {"ResponseMetadata": {"HTTPStatusCode": 200}}


def row(*values: Any) -> Act:
    """Answer a statement with one row."""

    def answer(call: Call) -> Any:
        call.make()
        return _Rows([values])

    return answer


def changed(change: Callable[[Any], Any]) -> Act:
    """Answer with what AWS has answered, changed."""

    def answer(call: Call) -> Any:
        answered = call.make()
        return answered | change(answered)

    return answer


class _Rows:
    """What a statement has found."""

    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self._rows = rows

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows[0] if self._rows else None


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that is about to be run."""

    engine: Engine
    text: str

    @property
    def is_change(self) -> bool:
        """Whether it changes something on the server."""
        return not self.text.lstrip().upper().startswith(_READING_STATEMENTS[self.engine])


def let_statements_be_met(
    patch: pytest.MonkeyPatch, meet: Callable[[Statement, Callable[[], Any]], Any]
) -> None:
    """Let something answer each statement of every driver.

    Args:
        patch: undoes it.
        meet: gets the statement and what runs it; it answers, or raises.
    """
    execute_postgresql, execute_mysql = psycopg.Connection.execute, Cursor.execute

    def on_postgresql(
        connection: psycopg.Connection[Any], query: Any, *more: Any, **options: Any
    ) -> Any:
        text = query.as_string(connection) if isinstance(query, sql.Composable) else str(query)
        return meet(
            Statement(Engine.POSTGRESQL, text),
            lambda: execute_postgresql(connection, query, *more, **options),
        )

    def on_mysql(cursor: Cursor, query: str | bytes, values: Any = None) -> Any:
        text = query.decode(errors="replace") if isinstance(query, bytes) else query
        answer = meet(
            Statement(Engine.MYSQL, text),
            lambda: execute_mysql(cursor, query, values),  # type: ignore[arg-type]  # its stubs know no bytes
        )
        if isinstance(answer, _Rows):
            vars(cursor)["_rows"] = answer.fetchall()
            return len(answer.fetchall())
        return answer

    patch.setattr(psycopg.Connection, "execute", on_postgresql)
    patch.setattr(Cursor, "execute", on_mysql)


@contextmanager
def met(fault: Within, *, ignored: Collection[str] = _NOT_OF_STAGES) -> Iterator[list[Call]]:
    """Let the calls of a stage, or of a function, meet a fault; the call that did is listed.

    Args:
        fault: the fault.
        ignored: services whose calls meet nothing.
    """
    happened: list[Call] = []
    number = 0
    entered = threading.current_thread()

    def is_of_the_test() -> bool:
        """Whether the test itself calls, while a state machine runs the stage beside it."""
        main = threading.main_thread()
        return threading.current_thread() is main and entered is not main

    def meet(
        name: str,
        text: str,
        make: Callable[[], Any],
        *,
        is_change: bool,
        engine: Engine | None = None,
    ) -> Any:
        nonlocal number
        number += 1
        call = Call(number, name, text, is_change, make, engine)
        if happened or not fault.at(call):
            return make()
        happened.append(call)
        return fault.act(call)

    def call_aws_or_meet(client: BaseClient, name: str, parameters: Mapping[str, Any]) -> Any:
        def make() -> Any:
            return call_as_aws(client, name, parameters)

        if client.meta.service_model.service_name in ignored or is_of_the_test():
            return make()
        is_change = not name.startswith(READING)
        return meet(name, str(parameters), make, is_change=is_change)

    def run_or_meet(statement: Statement, make: Callable[[], Any]) -> Any:
        return meet(
            SQL, statement.text, make, is_change=statement.is_change, engine=statement.engine
        )

    def connecting(engine: Engine, connect: Callable[..., Any]) -> Callable[..., Any]:
        def connect_or_meet(*arguments: Any, **options: Any) -> Any:
            return meet(
                CONNECT,
                "",
                lambda: connect(*arguments, **options),
                is_change=False,
                engine=engine,
            )

        return connect_or_meet

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", call_aws_or_meet)
        let_statements_be_met(patch, run_or_meet)
        patch.setattr(psycopg, "connect", connecting(Engine.POSTGRESQL, psycopg.connect))
        patch.setattr(pymysql, "connect", connecting(Engine.MYSQL, pymysql.connect))
        patch.setattr(CognitoIdpUserPoolClient, "to_json", dated)
        yield happened


# What moto leaves out and AWS does, where a crash or a race shows it.

#: Makes a call as moto answers it.
call_moto: Callable[[BaseClient, str, Mapping[str, Any]], Any] = vars(BaseClient)["_make_api_call"]
_client_to_json = CognitoIdpUserPoolClient.to_json


def call_as_aws(client: Any, operation: str, parameters: Mapping[str, Any]) -> Any:
    """Make a call as AWS would answer it."""
    if operation == "CreateChannelNamespace":
        # A name is there only once in an API.
        api = {"apiId": parameters["apiId"]}
        there = call_moto(client, "ListChannelNamespaces", api)["channelNamespaces"]
        if parameters["name"] in {namespace["name"] for namespace in there}:
            error = {"Error": {"Code": "ConflictException", "Message": "It exists."}}
            raise client.exceptions.ConflictException(error, operation)
    if operation == "PutSecretValue" and "ClientRequestToken" in parameters:
        # A version is not written again with another value, whatever its label.
        secret, version = {"SecretId": parameters["SecretId"]}, parameters["ClientRequestToken"]
        if version in call_moto(client, "DescribeSecret", secret)["VersionIdsToStages"]:
            error = {"Error": {"Code": "ResourceExistsException", "Message": "It exists."}}
            raise client.exceptions.ResourceExistsException(error, operation)
    if operation == "UpdateApi":
        # The configuration is replaced whole.
        found = _apis(client)[parameters["apiId"]]
        found.name, found.event_config = parameters["name"], dict(parameters["eventConfig"])
        return call_moto(client, "GetApi", {"apiId": parameters["apiId"]})
    if operation == "DeleteApi" and parameters["apiId"] not in _apis(client):
        error = {"Error": {"Code": "NotFoundException", "Message": "It is gone."}}
        raise client.exceptions.NotFoundException(error, operation)
    answer = call_moto(client, operation, parameters)
    if operation == "CreateBucket":
        _give_what_every_bucket_has(client, parameters)
    return answer


def _give_what_every_bucket_has(client: Any, parameters: Mapping[str, Any]) -> None:
    """Let a bucket come into being with its tags, private and encrypted."""
    blocked = dict.fromkeys(
        ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
    )
    encrypted = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    for setting, members in {
        "BucketTagging": {
            "Tagging": {"TagSet": parameters["CreateBucketConfiguration"].get("Tags", [])}
        },
        "PublicAccessBlock": {"PublicAccessBlockConfiguration": blocked},
        "BucketEncryption": {"ServerSideEncryptionConfiguration": {"Rules": [encrypted]}},
    }.items():
        call_moto(client, f"Put{setting}", {"Bucket": parameters["Bucket"], **members})


def _apis(client: Any) -> dict[str, Any]:
    apis: dict[str, Any] = appsync_backends[ACCOUNT][client.meta.region_name].events_apis
    return apis


def dated(client: CognitoIdpUserPoolClient, **options: Any) -> dict[str, Any]:
    """Give an app client a date, in what is told of it."""
    date = client.extended_config.setdefault("CreationDate", time.time())
    return _client_to_json(client, **options) | {"CreationDate": date}
