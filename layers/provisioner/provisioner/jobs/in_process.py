"""Runs a job in this process, with the retry table of the state machines.

It is for scripts, and the reference that the state machines are tested against: branches run one
after the other, each settles, and only then is it decided how the job ends.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provisioner.errors import ProvisioningError
from provisioner.jobs.definition import JobDefinition, JobDefinitions, Stage
from provisioner.jobs.retries import SLOT_RETRY, STAGE_RETRY, RetryPolicy, waiting_retry
from provisioner.jobs.stage_run import RECORD_FAILURE, StageWaiting, Step


@dataclass(frozen=True)
class InProcessRun:
    """Runs stored jobs to their end; the store says how each ended."""

    #: The job types.
    definitions: JobDefinitions
    #: Runs one attempt of a stage, as `StageRunner` does.
    run_stage: Step
    #: The step that records a failed job, as `FailureRecorder` does.
    record_failure: Step
    #: Waits between attempts, in seconds.
    sleep: Callable[[float], None] = time.sleep

    def __call__(self, job: Mapping[str, Any]) -> None:
        """Run the stages of a job in order, and then its clean-up, if it has failed and has one.

        Args:
            job: the job, as an execution carries it; see `job_input`.

        Raises:
            ProvisioningError: the failure of the job could not be recorded.
        """
        definition: JobDefinition[Any] = self.definitions[job["job_type"]]
        skipped: Stage | None = None
        outputs: dict[str, Any] = {}
        for step in definition.steps:
            if step is skipped:
                continue
            settled = [self._branch(job, stages, outputs) for stages in step.branches]
            if not all(end["ok"] for end in settled):
                failed = self._repeat(self.record_failure, job, RECORD_FAILURE, branches=settled)
                if failed["has_cleanup"]:
                    self(failed["cleanup"]["input"]["job"])
                return
            if isinstance(step, Stage):
                output = settled[0]["output"]
                if step.ends_job_if and output.get(step.ends_job_if):
                    return
                if not step.runs_if:
                    outputs[str(step)] = output
                skipped = definition.skipped_after(step, output)

    def _branch(
        self, job: Mapping[str, Any], stages: Sequence[Stage], outputs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Run the stages of a branch until one fails; its error becomes data, as on the machine."""
        end: dict[str, Any] = {}
        for stage in stages:
            try:
                end = self._repeat(self.run_stage, job, stage, outputs=dict(outputs))
            except (ProvisioningError, StageWaiting) as error:
                return {
                    "ok": False,
                    "stage": str(stage),
                    "error": {
                        "Error": type(error).__name__,
                        "Cause": json.dumps({"errorMessage": str(error)}),
                    },
                }
            outputs = {**outputs, str(stage): end["output"]}
        return end

    def _repeat(
        self, step: Step, job: Mapping[str, Any], stage: str, **more: Any
    ) -> dict[str, Any]:
        """Run a step as often as a Task of the state machine does; raise its last error.

        As there, each retrier counts its own repetitions.
        """
        polls = waiting_retry(stage.waits_seconds if isinstance(stage, Stage) else 0)
        policies = (STAGE_RETRY, SLOT_RETRY, polls)
        repeated: Counter[RetryPolicy] = Counter()
        while True:
            try:
                return step(
                    {"job": job, "stage": str(stage), "retry_count": repeated.total(), **more}
                )
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
                self.sleep(jitter * longest)
