"""One attempt of one stage: what is recorded, what is raised, what is logged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

import pytest
from boto3.dynamodb.conditions import Attr, ConditionBase
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError
from provisioner.drivers import dynamodb
from provisioner.errors import FINAL_ERROR, ErrorType, ProvisioningError, failure
from provisioner.jobs.models import JobStatus, StageRecord, StageStatus, StoredError
from provisioner.jobs.stage import Completion, JobInput, StageOutcome
from provisioner.jobs.stage_run import StageFunction, StageRunner
from provisioner.jobs.store import BadEnd
from provisioner.provisioning.job_types import JOB_TYPES, provision_project
from provisioner.runtime.observability import metrics
from pydantic import BaseModel, field_validator, model_validator
from support.core import Core, LogLines, aws_error, meanwhile, provisioned_result

STAGE = "CREATING_DATABASE"
SECRET = "correct-horse-battery-staple"
#: The project is stored.
IS_THERE = Attr("project_id").exists()
OWN_ERRORS = {STAGE: ErrorType.DATABASE_CREATION_FAILED}


def event(stage: str = STAGE, retry_count: int = 0, job_id: str = "job-1") -> dict[str, Any]:
    """Return what the state machine hands over."""
    return {
        "job": {
            "job_id": job_id,
            "job_type": "provision_project",
            "payload": {"project_id": "shop"},
        },
        "stage": stage,
        "retry_count": retry_count,
    }


def run(core: Core, function: StageFunction, **of_event: Any) -> dict[str, Any]:
    """Run an attempt."""
    metrics.clear_metrics()  # as at the end of a function
    if not core.answers:
        core.jobs.begin(of_event.get("job_id", "job-1"))
    names = ("INITIALIZING", STAGE, "FINALIZING")
    stages = {"provision_project": dict.fromkeys(names, function)}
    runner = StageRunner(core.jobs, stages, definitions=JOB_TYPES)
    return runner(event(**of_event))


def test_the_last_stage_completes_the_job_with_its_output_where_it_says_nothing_else(
    core: Core,
) -> None:
    core.new_job()
    result = provisioned_result()
    run(core, lambda _: StageOutcome(output=result, check="done"), stage="FINALIZING")
    job = core.jobs.get("job-1")
    assert (job.status, job.result) == (JobStatus.COMPLETED, result)


def first_runs(core: Core, **of_event: Any) -> list[bool]:
    """Run an attempt, and return whether its stage was told that it is the first."""
    told: list[bool] = []

    def stage(job: JobInput) -> StageOutcome:
        told.append(job.is_first)
        raise failure(ErrorType.TIMEOUT, "Too slow.")

    raised_by(core, stage, **of_event)
    return told


def test_a_stage_is_told_whether_its_start_is_the_first_that_is_stored(core: Core) -> None:
    core.new_job()
    assert first_runs(core) == [True]
    assert first_runs(core, retry_count=1) == [False]


def test_a_second_delivery_of_a_start_is_not_the_first(core: Core) -> None:
    core.new_job()
    start(core, 0)
    assert first_runs(core) == [False]


def test_a_stage_of_a_job_that_is_run_again_is_not_the_first(core: Core) -> None:
    core.new_job()
    raised_by(core, raising(failure(ErrorType.CONFLICT, "Not ours.")))
    error = StoredError(ErrorType.CONFLICT, STAGE, 1, "Not ours.", "")
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([error]))
    core.clock.advance()
    core.jobs.retry(core.jobs.get("job-1"))
    again = event()
    again["job"]["attempt"] = 2
    told: list[bool] = []

    def stage(job: JobInput) -> StageOutcome:
        told.append(job.is_first)
        return ends_well(job)

    StageRunner(core.jobs, {"provision_project": {STAGE: stage}}, definitions=JOB_TYPES)(again)

    assert told == [False]


def test_a_stage_is_told_the_outputs_of_those_before(core: Core) -> None:
    core.new_job()
    outputs = {"INITIALIZING": {"is_alone": True}}
    told: list[Mapping[str, Any]] = []

    def stage(job: JobInput) -> StageOutcome:
        told.append(job.outputs)
        return ends_well(job)

    runner = StageRunner(core.jobs, {"provision_project": {STAGE: stage}}, definitions=JOB_TYPES)
    runner(event() | {"outputs": outputs})

    assert told == [outputs]


def settling(told: list[Mapping[str, Any]], then: Callable[[], object]) -> StageFunction:
    """Return a stage that makes something, and has it told if another run ends the stage."""

    def stage(job: JobInput) -> StageOutcome:
        job.if_superseded(told.append)
        then()
        return StageOutcome(output={"host": "of this run"}, check="it answers")

    return stage


def nothing() -> None:
    """Let nothing happen."""


def test_a_run_that_ends_its_stage_settles_nothing(core: Core) -> None:
    core.new_job()
    told: list[Mapping[str, Any]] = []
    run(core, settling(told, nothing))
    assert told == []


@pytest.mark.parametrize("retry_count", [0, 1], ids=["delivered_twice", "repeated"])
@pytest.mark.parametrize("is_error", [False, True])
def test_a_run_whose_stage_another_has_ended_settles_by_the_output_of_that(
    core: Core, retry_count: int, *, is_error: bool
) -> None:
    core.new_job()
    told: list[Mapping[str, Any]] = []

    def be_overtaken() -> None:
        run(core, ends_well, retry_count=retry_count)
        if is_error:
            raise failure(ErrorType.TIMEOUT, "Too slow.")

    if is_error:
        raised_by(core, settling(told, be_overtaken))
    else:
        assert run(core, settling(told, be_overtaken))["output"] == {"host": "db"}
    assert told == [{"host": "db"}]


def test_a_run_that_fails_beside_its_repetition_settles_without_an_output(core: Core) -> None:
    core.new_job()
    told: list[Mapping[str, Any]] = []

    def be_repeated() -> None:
        start(core, 1)
        raise failure(ErrorType.TIMEOUT, "Too slow.")

    raised_by(core, settling(told, be_repeated))
    assert told == [{}]


def test_a_run_that_fails_alone_leaves_what_it_made_to_its_repetition(core: Core) -> None:
    core.new_job()
    told: list[Mapping[str, Any]] = []

    def fail() -> None:
        raise failure(ErrorType.TIMEOUT, "Too slow.")

    raised_by(core, settling(told, fail))
    assert told == []


def test_a_run_that_cannot_settle_ends_as_it_would(core: Core) -> None:
    core.new_job()

    def stage(job: JobInput) -> StageOutcome:
        job.if_superseded(lambda _output: raising(failure(ErrorType.TIMEOUT, "Slow."))(job))
        run(core, ends_well, retry_count=1)
        return StageOutcome(output={"host": "of this run"}, check="it answers")

    assert run(core, stage)["output"] == {"host": "db"}


def raised_by(core: Core, function: StageFunction, **of_event: Any) -> ProvisioningError:
    """Run an attempt that fails, and return what it raises."""
    with pytest.raises(ProvisioningError) as raised:
        run(core, function, **of_event)
    return raised.value


def ends_well(_job: JobInput) -> StageOutcome:
    """Make something."""
    return StageOutcome(output={"host": "db"}, check="the database answers")


def raising(error: Exception) -> StageFunction:
    """Return a stage that raises."""

    def stage(_job: JobInput) -> StageOutcome:
        raise error

    return stage


def start(core: Core, retry_count: int) -> None:
    """Record that an attempt starts."""
    head = core.jobs.get_head("job-1")
    assert head is not None
    core.jobs.start_stage(head, STAGE, retry_count)


def stored(core: Core, stage: str = STAGE) -> StageRecord:
    """Return the stage as it is stored."""
    record = core.jobs.get("job-1").stage(stage)
    assert record is not None
    return record


def test_a_stage_is_running_while_it_runs_and_succeeded_once_it_has(core: Core) -> None:
    core.new_job()
    seen: list[tuple[StageStatus, JobStatus]] = []

    def stage(job: JobInput) -> StageOutcome:
        seen.append((stored(core).status, core.jobs.get(job.job_id).status))
        core.clock.advance()
        return ends_well(job)

    began = core.clock.at
    result = run(core, stage)

    assert seen == [(StageStatus.RUNNING, JobStatus.RUNNING)]
    assert result == {
        "ok": True,
        "stage": STAGE,
        "status": "SUCCEEDED",
        "output": {"host": "db"},
    }
    record = stored(core)
    assert (record.attempt, record.started_at, record.finished_at, record.check) == (
        1,
        began,
        core.clock.at,
        "the database answers",
    )


def test_a_stage_that_is_not_asked_for_is_skipped(core: Core) -> None:
    core.new_job()

    result = run(core, lambda _job: StageOutcome(skipped=True, check="not asked for"))

    assert (result["status"], result["output"]) == ("SKIPPED", {})
    assert stored(core).status is StageStatus.SKIPPED


def test_a_stage_that_has_ended_is_not_run_again(core: Core) -> None:
    core.new_job()
    first = run(core, ends_well)
    before = core.jobs.get("job-1")

    again = run(core, raising(AssertionError()), retry_count=1)

    assert again == first
    assert core.jobs.get("job-1") == before


def test_a_stage_whose_function_died_after_its_effect_is_run_again(core: Core) -> None:
    core.new_job()
    start(core, 0)

    run(core, ends_well, retry_count=1)

    assert (stored(core).status, stored(core).attempt) == (StageStatus.SUCCEEDED, 2)


@pytest.mark.parametrize("has_failed", [False, True], ids=["runs", "has failed"])
def test_an_attempt_that_comes_after_its_repetition_has_begun_does_not_run(
    core: Core, logged: LogLines, *, has_failed: bool
) -> None:
    """No record would tell of it, so that nobody would wait for its end."""
    core.new_job()
    start(core, 1)
    if has_failed:
        error = StoredError(ErrorType.TIMEOUT, STAGE, 1, "No answer.", "")
        core.jobs.stage_failed("job-1", error, retry_count=1, retryable=True)
    before = core.jobs.get("job-1")

    late = [raised_by(core, raising(AssertionError()), retry_count=0)]
    if has_failed:
        late.append(raised_by(core, raising(AssertionError()), retry_count=1))

    assert {error.type for error in late} == {ErrorType.TIMEOUT}
    assert core.jobs.get("job-1") == before
    assert [line["message"] for line in logged()] == [
        "attempt came too late and is not run" for _ in late
    ]


def test_an_attempt_whose_start_meets_an_earlier_one_is_recorded(core: Core) -> None:
    """The earlier one has begun the job, and the stage, between its look and its write."""
    core.new_job()
    core.answers["dynamodb.TransactWriteItems"] = meanwhile(lambda: start(core, 0))

    run(core, ends_well, retry_count=1)

    assert (stored(core).attempt, stored(core).retry_count) == (2, 1)
    changes = [(e.subject, e.status, e.attempt) for e in core.jobs.get("job-1").history]
    assert (STAGE, "RUNNING", 1) in changes
    assert (STAGE, "RUNNING", 2) in changes


def test_a_first_start_that_meets_the_end_of_the_job_is_not_recorded(core: Core) -> None:
    job = core.new_job()
    error = StoredError(ErrorType.TIMEOUT, "", 0, "Too late.", "")
    core.answers["dynamodb.TransactWriteItems"] = meanwhile(
        lambda: core.jobs.fail_queued(job, error)
    )

    error_type = raised_by(core, raising(AssertionError()), stage="INITIALIZING").type

    assert error_type is ErrorType.INVALID_PAYLOAD
    assert (stored(core, "INITIALIZING").status, stored(core, "INITIALIZING").attempt) == (
        StageStatus.PENDING,
        0,
    )


def test_a_stage_that_has_failed_for_good_fails_again_with_the_same_error(core: Core) -> None:
    core.new_job()
    error = failure(ErrorType.CONFLICT, "Not ours.", "comment is empty")
    raised_by(core, raising(error))
    before = core.jobs.get("job-1")

    again = raised_by(core, ends_well, retry_count=1)

    assert (again.type, again.message, again.cause) == (error.type, error.message, error.cause)
    assert core.jobs.get("job-1") == before


def test_a_job_that_is_not_stored_is_not_begun(core: Core) -> None:
    error = raised_by(core, raising(AssertionError()))

    assert (error.type, error.message) == (
        ErrorType.INVALID_PAYLOAD,
        "job_id: no such job is stored; send the job through the queue.",
    )
    assert core.scan("JobsTable") == []


@pytest.mark.parametrize("stage", [STAGE, "FINALIZING"])
def test_no_stage_of_a_job_that_has_ended_is_begun(core: Core, stage: str) -> None:
    core.new_job()
    failed = StoredError(ErrorType.CONFLICT, "INITIALIZING", 1, "Not ours.", "")
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([failed]))
    before = core.jobs.get("job-1")

    error = raised_by(core, raising(AssertionError()), stage=stage)

    assert error.type is ErrorType.INVALID_PAYLOAD
    assert core.jobs.get("job-1") == before


def test_a_stage_that_ended_well_answers_even_after_its_job_has_ended(core: Core) -> None:
    core.new_job()
    first = run(core, ends_well)
    failed = StoredError(ErrorType.CONFLICT, "FINALIZING", 1, "Not ours.", "")
    core.jobs.fail(core.jobs.get("job-1"), BadEnd([failed]))

    assert run(core, raising(AssertionError())) == first


@pytest.mark.parametrize("error_type", ErrorType)
def test_an_error_of_the_table_is_stored_and_raised_as_it_is(
    core: Core, error_type: ErrorType
) -> None:
    core.new_job()

    error = raised_by(core, raising(failure(error_type, "One sentence.", "a cause")))

    retryable = error_type in {
        ErrorType.NETWORK_ERROR,
        ErrorType.TIMEOUT,
        ErrorType.UNKNOWN_ERROR,
    }
    assert (error.type, error.message, error.cause) == (error_type, "One sentence.", "a cause")
    assert stored(core).status is (StageStatus.RETRYING if retryable else StageStatus.FAILED)
    assert stored(core).error == StoredError(error_type, STAGE, 1, "One sentence.", "a cause")
    assert (stored(core).next_attempt_before is not None) == retryable


def _everything(error: BaseException) -> str:
    """Return the texts of an exception and of all that hangs on it."""
    hanging = (error.__cause__, error.__context__)
    return repr((error, vars(error))) + "".join(_everything(e) for e in hanging if e is not None)


class _DriverError(Exception):
    """Holds a secret, as the errors of a database driver do."""

    password = SECRET

    def __repr__(self) -> str:
        return f"_DriverError({self.args}, {self.password})"


def _drivers_own(_job: JobInput) -> StageOutcome:
    raise _DriverError(f"cannot log in with {SECRET}")


def _drivers_own_translated(_job: JobInput) -> StageOutcome:
    try:
        _drivers_own(_job)
    except _DriverError:
        raise failure(ErrorType.NETWORK_ERROR, "It did not answer.") from None
    raise AssertionError


@pytest.mark.parametrize(
    ("stage", "error_type"),
    [
        (_drivers_own, ErrorType.DATABASE_CREATION_FAILED),
        (_drivers_own_translated, ErrorType.NETWORK_ERROR),
    ],
)
def test_no_text_of_a_foreign_exception_goes_further(
    core: Core, logged: LogLines, stage: StageFunction, error_type: ErrorType
) -> None:
    core.new_job()

    error = raised_by(core, stage)

    assert error.type is error_type
    assert SECRET not in _everything(error)
    assert SECRET not in str(core.scan("JobsTable"))
    assert SECRET not in str(logged())
    assert error.__context__ is None


def test_a_stage_that_the_function_does_not_have_is_a_sentence(core: Core) -> None:
    core.new_job()
    runner = StageRunner(core.jobs, {}, definitions=JOB_TYPES)

    with pytest.raises(ProvisioningError) as raised:
        runner(event())

    assert (raised.value.type, raised.value.message, raised.value.cause) == (
        ErrorType.UNKNOWN_ERROR,
        (
            "The function has no stage CREATING_DATABASE of job type provision_project: its code "
            "and the state machine are of different versions; deploy both."
        ),
        "",
    )


def test_an_unexpected_exception_is_the_stages_own_type_and_says_where_it_was(core: Core) -> None:
    core.new_job()

    error = raised_by(core, _drivers_own)

    assert (error.type, error.message) == (
        ErrorType.DATABASE_CREATION_FAILED,
        "The stage met an error of its own code.",
    )
    assert error.cause.startswith("_DriverError at ")
    assert "test_stage_run.py:" in error.cause
    assert stored(core).error == StoredError(error.type, STAGE, 1, error.message, error.cause)


def test_a_stage_without_a_type_of_its_own_meets_an_unknown_error(core: Core) -> None:
    core.new_job()

    assert raised_by(core, raising(KeyError("x")), stage="FINALIZING").type is (
        ErrorType.UNKNOWN_ERROR
    )


def _database_is_down(core: Core) -> None:
    core.answers["dynamodb.TransactWriteItems"] = aws_error("InternalServerError", 500)


def test_an_error_is_raised_even_when_it_cannot_be_recorded(core: Core, logged: LogLines) -> None:
    core.new_job()

    def stage(_job: JobInput) -> StageOutcome:
        _database_is_down(core)
        raise failure(ErrorType.CONFLICT, "Not ours.")

    error = raised_by(core, stage)

    assert error.type is ErrorType.CONFLICT
    assert stored(core).status is StageStatus.RUNNING
    assert "failure not recorded" in {line["message"] for line in logged()}


def test_a_stage_whose_start_cannot_be_recorded_is_to_be_tried_again(core: Core) -> None:
    core.new_job()
    core.jobs.begin("job-1")
    core.calls.clear()
    core.answers["dynamodb.TransactWriteItems"] = aws_error("InternalServerError", 500)

    error = raised_by(core, raising(AssertionError()))

    assert error.type is ErrorType.NETWORK_ERROR
    assert error.__context__ is None
    # What has no start has no failure to be recorded.
    assert [name for name, _ in core.calls] == ["dynamodb.TransactWriteItems"]


@pytest.mark.parametrize(
    ("make", "error_type"),
    [
        (lambda: EndpointConnectionError(endpoint_url="x"), ErrorType.NETWORK_ERROR),
        (lambda: ConnectTimeoutError(endpoint_url="x"), ErrorType.TIMEOUT),
    ],
)
def test_an_exception_of_the_sdk_is_the_type_that_its_cause_has(
    core: Core, make: Callable[[], Exception], error_type: ErrorType
) -> None:
    core.new_job()

    assert raised_by(core, raising(make())).type is error_type


def completes(core: Core, *, must: ConditionBase = IS_THERE) -> Callable[[JobInput], StageOutcome]:
    """Return a stage that ends the job."""

    def stage(_job: JobInput) -> StageOutcome:
        also = dynamodb.build_update(
            "ProjectsTable", {"project_id": "shop"}, {"status": "ACTIVE"}, must
        )
        return StageOutcome(
            output={"made": 1},
            check="all answered",
            completion=Completion(result=provisioned_result(), also=[also]),
        )

    core.new_job()
    core.new_project()
    return stage


def test_the_stage_that_ends_the_job_ends_it_with_all_that_belongs_to_it(core: Core) -> None:
    result = run(core, completes(core), stage="FINALIZING")

    assert (result["status"], result["output"]) == ("SUCCEEDED", {"made": 1})
    job = core.jobs.get("job-1")
    assert (job.status, job.result) == (JobStatus.COMPLETED, provisioned_result())
    project = core.projects.get("shop")
    assert project is not None
    assert project.status == "ACTIVE"


def test_the_stage_that_ends_the_job_may_run_twice(core: Core) -> None:
    stage = completes(core)
    first = run(core, stage, stage="FINALIZING")
    before = core.jobs.get("job-1")

    assert run(core, stage, stage="FINALIZING", retry_count=1) == first
    assert core.jobs.get("job-1") == before


def test_the_stage_that_ends_the_job_may_meet_one_that_has_just_ended_it(core: Core) -> None:
    stage = completes(core)

    def superseded(job: JobInput) -> StageOutcome:
        run(core, stage, stage="FINALIZING")
        return stage_again(job)

    def stage_again(_job: JobInput) -> StageOutcome:
        other = Completion(result=provisioned_result(project_id="other"))
        return StageOutcome(output={"made": 2}, check="x", completion=other)

    result = run(core, superseded, stage="FINALIZING")

    assert result["output"] == {"made": 1}
    assert core.jobs.get("job-1").result == provisioned_result()


def test_a_job_that_lost_its_project_is_not_completed(core: Core) -> None:
    stage = completes(core, must=Attr("locked_by").eq(Attr("project_id")))

    error = raised_by(core, stage, stage="FINALIZING")

    assert error.type is ErrorType.CONFLICT
    assert core.jobs.get("job-1").status is JobStatus.RUNNING


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"database": {"host": SECRET}}, "database.engine (missing)"),
        ({"services": {"auth": SECRET}}, "services.auth (model_type)"),
        ({"password": SECRET}, "password (extra_forbidden)"),
        # It is told apart from a number by whoever reads it as JSON.
        ({"api_keys": [{"key_id": 1}]}, "api_keys.0.key_id (string_type)"),
        ({"metadata": {"provisioned_at": SECRET}}, "metadata.provisioned_at (datetime"),
    ],
)
@pytest.mark.parametrize("is_said", [True, False], ids=["said", "its output"])
def test_a_job_whose_result_is_not_what_its_model_says_fails_at_once(
    core: Core, logged: LogLines, wrong: dict[str, Any], field: str, *, is_said: bool
) -> None:
    core.new_job()
    result = provisioned_result(**wrong)
    completion = Completion(result) if is_said else None

    error = raised_by(
        core,
        lambda _: StageOutcome(
            output={} if is_said else result, check="done", completion=completion
        ),
        stage="FINALIZING",
    )

    assert (error.type, type(error).__name__) == (ErrorType.UNKNOWN_ERROR, FINAL_ERROR)
    assert error.message.startswith(
        "The result is not what its result model ProvisionProjectResult says; the first field that "
        f"is wrong is {field}"
    )
    assert error.message.endswith(
        "correct the stage's code, or the model, deploy it, and run the job again."
    )
    assert stored(core, "FINALIZING").status is StageStatus.FAILED
    job = core.jobs.get("job-1")
    assert (job.status, job.result) == (JobStatus.RUNNING, None)
    assert SECRET not in _everything(error)
    assert SECRET not in str(core.scan("JobsTable"))
    assert SECRET not in str(logged())


def test_digits_in_a_text_are_no_number_of_a_result(core: Core) -> None:
    core.new_job()
    result = provisioned_result()
    result["database"]["port"] = "5432"

    error = raised_by(core, lambda _: StageOutcome(output=result), stage="FINALIZING")

    assert "database.port (int_type)" in error.message


class _Refusing(BaseModel):
    """A result that nobody can put out, and that says more of it than it should."""

    place: str

    @field_validator("place")
    @classmethod
    def _refuse(cls, place: str) -> str:
        raise ValueError(f"{place} is no place")


class _RefusingAll(BaseModel):
    """A result of which no single field is wrong."""

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        raise ValueError("it is none")


class _Any(BaseModel):
    """A result that may be anything."""


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (_Refusing, "place (value_error)"),
        (_RefusingAll, "result (value_error)"),
        (_Any, None),
        (None, None),
    ],
)
def test_the_result_model_of_the_job_s_own_type_is_asked(
    core: Core, model: type[BaseModel] | None, said: str | None
) -> None:
    """What a validator says of the value is not repeated."""
    core.new_job()
    definitions = {"provision_project": replace(provision_project.JOB_TYPE, result_model=model)}
    outcome = StageOutcome(output={"place": SECRET}, check="done")
    stages: dict[str, StageFunction] = {STAGE: ends_well, "FINALIZING": lambda _: outcome}
    runner = StageRunner(core.jobs, {"provision_project": stages}, definitions=definitions)
    core.jobs.begin("job-1")

    if said is None:
        runner(event("FINALIZING"))
        assert core.jobs.get("job-1").result == outcome.output
    else:
        with pytest.raises(ProvisioningError) as raised:
            runner(event("FINALIZING"))
        assert f"the first field that is wrong is {said};" in str(raised.value)
        assert SECRET not in _everything(raised.value)
    # No other stage ends the job.
    core.new_job("job-2")
    assert runner(event(job_id="job-2"))["ok"]


def test_a_wrong_result_is_an_error_of_its_stage_s_own_type(core: Core) -> None:
    """A stage before the last may end the job too."""
    core.new_job()

    error = raised_by(core, lambda _: StageOutcome(completion=Completion({})))

    assert error.type is ErrorType.DATABASE_CREATION_FAILED
    assert "project_id (missing)" in error.message


def test_a_job_that_has_ended_is_not_failed_by_a_late_wrong_result(core: Core) -> None:
    stage = completes(core)

    def superseded(_job: JobInput) -> StageOutcome:
        run(core, stage, stage="FINALIZING")
        return StageOutcome(completion=Completion({}))

    raised_by(core, superseded, stage="FINALIZING")

    job = core.jobs.get("job-1")
    assert (job.status, job.error, job.result) == (JobStatus.COMPLETED, None, provisioned_result())
    assert stored(core, "FINALIZING").status is StageStatus.SUCCEEDED


def test_a_stage_that_was_closed_while_it_ran_does_not_end_well(core: Core) -> None:
    core.new_job()
    closed = StoredError(ErrorType.TIMEOUT, STAGE, 1, "It did not end in time.", "")

    def stage(job: JobInput) -> StageOutcome:
        core.jobs.fail(core.jobs.get(job.job_id), BadEnd([closed]))
        return ends_well(job)

    assert raised_by(core, stage).type is ErrorType.TIMEOUT
    assert stored(core).status is StageStatus.FAILED


def test_every_line_holds_the_job_the_project_and_the_stage(core: Core, logged: LogLines) -> None:
    core.new_job()
    run(core, ends_well)
    core.new_job("job-2")
    raised_by(core, raising(failure(ErrorType.CONFLICT, "Not ours.", "a cause")), job_id="job-2")

    ended, failed = logged()

    assert (ended["job_id"], ended["project_id"], ended["stage"], ended["message"]) == (
        "job-1",
        "shop",
        STAGE,
        "stage ended",
    )
    assert (failed["job_id"], failed["error_type"], failed["cause"], failed["attempt"]) == (
        "job-2",
        "CONFLICT",
        "a cause",
        1,
    )


def measured_by() -> list[set[str]]:
    """Return the dimensions by which the metrics can be found."""
    emitted = metrics.provider.serialize_metric_set()
    (directive,) = emitted["_aws"]["CloudWatchMetrics"]
    return [set(dimensions) for dimensions in directive["Dimensions"]]


def test_how_long_a_stage_took_and_why_it_failed_is_measured(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics.provider, "namespace", "ProjectProvisioner")
    monkeypatch.setattr(metrics.provider, "service", "project-provisioner")
    core.new_job()
    run(core, ends_well)
    assert set(metrics.metric_set) == {"StageDuration"}
    # Over all for the alarms, and by stage for the dashboard.
    assert measured_by() == [{"service"}, {"service", "stage"}]
    core.new_job("job-2")

    raised_by(core, raising(failure(ErrorType.CONFLICT, "Not ours.")), job_id="job-2")

    assert set(metrics.metric_set) == {"StageFailures"}
    assert measured_by() == [{"service"}, {"service", "stage"}, {"service", "error_type"}]
    core.new_job("job-3")

    raised_by(core, raising(failure(ErrorType.TIMEOUT, "Too slow.")), job_id="job-3")

    assert set(metrics.metric_set) == {"StageFailures", "StageRetries"}
