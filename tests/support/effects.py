"""Acts before each effect of a stage: every call that changes something in AWS or a database.

What happens before one effect is what happens after the one before it, with its answer lost: the
calls in between only read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.client import BaseClient
from moto.cognitoidp.models import CognitoIdpUserPoolClient
from support.calls import SQL, Statement, call_as_aws, dated, let_statements_be_met
from support.core import READING
from support.workflow import Workflow


@dataclass(frozen=True, slots=True)
class Effect:
    """One effect of one attempt."""

    stage: str
    job_type: str
    #: The state machine's count of repetitions.
    retry_count: int
    #: The operation of AWS, or `SQL`.
    name: str
    #: Counted from 1 in each attempt, AWS and SQL apart.
    number: int


@dataclass
class Attempt:
    """One run of a stage, or of the step that records a failure."""

    event: Mapping[str, Any]
    effects: list[Effect] = field(default_factory=list)

    @property
    def stage(self) -> str:
        return str(self.event["stage"])

    @property
    def job_type(self) -> str:
        return str(self.event["job"]["job_type"])

    @property
    def calls(self) -> list[Effect]:
        """The effects in AWS."""
        return [effect for effect in self.effects if effect.name != SQL]


#: Called before an effect; what it raises, the stage meets there.
type Act = Callable[[Effect, Attempt], None]

#: A step of the state machine, from its event to its result.
type _Step = Callable[[Mapping[str, Any]], dict[str, Any]]

_running: ContextVar[Attempt | None] = ContextVar("running", default=None)


@contextmanager
def effects(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch, act: Act, *, reading: bool = False
) -> Iterator[list[Attempt]]:
    """Let `act` be called before each effect; collect the attempts with their effects.

    Args:
        workflow: the deployment.
        monkeypatch: undoes it.
        act: what happens before an effect.
        reading: whether a call of AWS that only reads is taken for an effect too.
    """
    attempts: list[Attempt] = []

    def counted(run: _Step) -> _Step:
        def run_counted(event: Mapping[str, Any]) -> dict[str, Any]:
            attempts.append(Attempt(event))
            token = _running.set(attempts[-1])
            try:
                return run(event)
            finally:
                _running.reset(token)

        return run_counted

    def meet(name: str) -> None:
        attempt = _running.get()
        if attempt is not None:
            before = sum((effect.name == SQL) == (name == SQL) for effect in attempt.effects)
            retry_count = attempt.event.get("retry_count", 0)
            effect = Effect(attempt.stage, attempt.job_type, retry_count, name, before + 1)
            attempt.effects.append(effect)
            act(effect, attempt)

    def call_aws(client: BaseClient, operation: str, parameters: Mapping[str, Any]) -> Any:
        if reading or not operation.startswith(READING):
            meet(operation)
        return call_as_aws(client, operation, parameters)

    def run_statement(statement: Statement, make: Callable[[], Any]) -> Any:
        if statement.is_change:
            meet(SQL)
        return make()

    with monkeypatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", call_aws)
        let_statements_be_met(patch, run_statement)
        patch.setattr(CognitoIdpUserPoolClient, "to_json", dated)
        patch.setattr(workflow, "run_stage", counted(workflow.run_stage))
        patch.setattr(workflow, "record_failure", counted(workflow.record_failure))
        yield attempts


@contextmanager
def aside() -> Iterator[None]:
    """Do something within an effect that is no part of the stage."""
    token = _running.set(None)
    try:
        yield
    finally:
        _running.reset(token)
