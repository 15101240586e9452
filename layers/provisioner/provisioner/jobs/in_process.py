"""Runs a job in this process, with the retry table of the state machines.

It is for scripts, and the reference that the state machines are tested against: branches run one
after the other, each settles, and only then is it decided how the job ends.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from provisioner.errors import ProvisioningError
from provisioner.jobs.definition import JobDefinition, JobDefinitions, Stage
from provisioner.jobs.execution import job_input
from provisioner.jobs.models import Job
from provisioner.jobs.retries import SLOT_RETRY, STAGE_RETRY, RetryPolicy, waiting_retry
from provisioner.jobs.stage_run import RECORD_FAILURE, StageWaiting, Step


class InProcessRun:
    """Runs stored jobs to their end; the store says how each ended."""

    def __init__(
        self,
        definitions: JobDefinitions,
        run_stage: Step,
        record_failure: Step,
        read_job: Callable[[str], Job],
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Bind the run.

        Args:
            definitions: the job types.
            run_stage: runs one attempt of a stage, as `StageRunner` does.
            record_failure: the step that records a failed job, as `FailureRecorder` does.
            read_job: reads a stored job by its id.
            sleep: waits between attempts, in seconds.
        """
        self._definitions = definitions
        self._run_stage = run_stage
        self._record_failure = record_failure
        self._read_job = read_job
        self._sleep = sleep

    def __call__(self, job: Job) -> None:
        """Run the stages of a job in order, and then its clean-up, if it has failed and has one.

        Raises:
            ProvisioningError: the failure of the job could not be recorded.
        """
        definition: JobDefinition[Any] = self._definitions[job.job_type]
        skipped: Stage | None = None
        outputs: dict[str, Any] = {}
        for step in definition.steps:
            if step is skipped:
                continue
            settled = [self._branch(job, stages, outputs) for stages in step.branches]
            if not all(end["ok"] for end in settled):
                self._fail(job, settled)
                return
            if isinstance(step, Stage):
                output = settled[0]["output"]
                if step.ends_job_if and output.get(step.ends_job_if):
                    return
                if not step.runs_if:
                    outputs[str(step)] = output
                skipped = definition.skipped_after(step, output)

    def _branch(
        self, job: Job, stages: Sequence[Stage], outputs: Mapping[str, Any]
    ) -> dict[str, Any]:
        end: dict[str, Any] = {}
        for stage in stages:
            end = self._attempts(job, stage, outputs)
            if not end["ok"]:
                break
            outputs = {**outputs, str(stage): end["output"]}
        return end

    def _attempts(self, job: Job, stage: str, outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run a stage until it ends well or for good; an error becomes data, as in the branches."""
        try:
            return self._repeat(self._run_stage, job, stage, outputs=dict(outputs))
        except (ProvisioningError, StageWaiting) as error:
            cause = json.dumps({"errorMessage": str(error)})
            return {
                "ok": False,
                "stage": str(stage),
                "error": {"Error": type(error).__name__, "Cause": cause},
            }

    def _fail(self, job: Job, branches: Sequence[Mapping[str, Any]]) -> None:
        failed = self._repeat(self._record_failure, job, RECORD_FAILURE, branches=list(branches))
        if failed["has_cleanup"]:
            self(self._read_job(failed["cleanup"]["input"]["job"]["job_id"]))

    def _repeat(self, step: Step, job: Job, stage: str, **more: Any) -> dict[str, Any]:
        """Run a step as often as a Task of the state machine does; raise its last error."""
        polls = waiting_retry(stage.waits_seconds if isinstance(stage, Stage) else 0)
        policies = (STAGE_RETRY, SLOT_RETRY, polls)
        given = {"job": job_input(job, job.attempt), "stage": str(stage), **more}
        repeated: Counter[RetryPolicy] = Counter()
        while True:
            try:
                return step({**given, "retry_count": repeated.total()})
            except (ProvisioningError, StageWaiting) as error:
                # As a retrier, by the error's name.
                name = type(error).__name__
                policy = next((each for each in policies if name in each.error_names), None)
                if policy is None:
                    raise
                repeated[policy] += 1
                longest = policy.longest_delay(repeated[policy])
                if longest is None:
                    raise
                jitter = random.random() if policy.is_jittered else 1  # noqa: S311  # no secret  # nosec B311
                self._sleep(jitter * longest)
