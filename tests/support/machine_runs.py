"""Runs a state machine to its end with made-up answers, and keeps all that it has asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from provisioner.jobs.definition import JobDefinition, Stage
from provisioner.jobs.stage_run import RECORD_FAILURE
from support.asl import Execution, Invoke, Pause, Start, StateError

#: What the machines hand to every function.
JOB = {"job_id": "JOB", "job_type": "any", "payload": {"project_id": "shop"}, "attempt": 1}


@dataclass
class Answers:
    """What the functions of a job answer, by stage or step."""

    #: The errors of the first attempts, in order; what comes after them goes well.
    errors: dict[str, list[str]] = field(default_factory=dict)
    #: What a stage puts out.
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: The name of the execution of the clean-up that is to follow; empty for none.
    cleanup: str = ""

    def __call__(self, call: Invoke) -> dict[str, Any]:
        """Answer a call as its function does.

        Raises:
            StateError: it is to fail.
        """
        name = call.payload["stage"]
        left = self.errors.get(name, [])
        if left:
            raise StateError(left.pop(0), f"{name} went wrong.")
        match name:
            case str() if name == RECORD_FAILURE:
                ended = {"error_type": "CONFLICT", "message": "It failed."}
                cleanup = {"name": self.cleanup, "input": {"job": JOB}} if self.cleanup else {}
                payload = {
                    "ok": False,
                    **ended,
                    "has_cleanup": bool(self.cleanup),
                    "cleanup": cleanup,
                }
            case _:
                output = self.outputs.get(name, {})
                payload = {"ok": True, "stage": name, "status": "SUCCEEDED", "output": output}
        return {"Payload": payload, "StatusCode": 200}


def asking_for_all(definition: JobDefinition[Any]) -> dict[str, dict[str, Any]]:
    """Return what the stages put out where each optional one after them is to run."""
    return {
        str(stage): {optional.runs_if: True}
        for stage in definition.stages
        if (optional := definition.optional_after(stage)) is not None
    }


def unasked(definition: JobDefinition[Any]) -> list[Stage]:
    """Return the stages that run though nothing asks for an optional one, in order."""
    return [stage for stage in definition.stages if not stage.runs_if]


@dataclass
class Run:
    """An execution that has ended, and all that it has asked for, in order."""

    execution: Execution
    calls: list[Invoke] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    #: By the stage or step before whose next attempt, or after which, it has waited.
    pauses: list[tuple[str, Pause]] = field(default_factory=list)
    #: What has waited for an answer beside one another, each time.
    beside: set[tuple[str, ...]] = field(default_factory=set)

    @property
    def stages(self) -> list[str]:
        """The stages and steps that were called, in order."""
        return [call.payload["stage"] for call in self.calls]

    @property
    def end(self) -> tuple[str | None, str]:
        """How it has ended: its status, and its error."""
        return self.execution.status, self.execution.error

    def payloads(self, name: str) -> list[Mapping[str, Any]]:
        """Return what a stage or step was called with."""
        return [call.payload for call in self.calls if call.payload["stage"] == name]


def run(document: Mapping[str, Any], answer: Callable[[Invoke], dict[str, Any]]) -> Run:
    """Run a state machine; what waits longest in the first branch is answered first."""
    done = Run(Execution(document, {"job": JOB}))
    while done.execution.status is None:
        waiting = done.execution.waiting
        done.beside.add(
            tuple(
                strand.request.payload["stage"]
                for strand in waiting
                if isinstance(strand.request, Invoke)
            )
        )
        strand = waiting[0]
        match strand.request:
            case Invoke() as call:
                done.calls.append(call)
                try:
                    done.execution.answer(strand, answer(call))
                except StateError as error:
                    done.execution.answer(strand, error)
            case Start() as start:
                done.starts.append(start)
                done.execution.answer(strand, {"ExecutionArn": "arn", "StartDate": "now"})
            case Pause() as pause:
                done.pauses.append((done.stages[-1], pause))
                done.execution.answer(strand, None)
    return done
