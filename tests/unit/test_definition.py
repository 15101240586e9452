"""A job type's definition: what it refuses, and what follows from it."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from provisioner.composition.stage_code import failure_policies_of, stages_of
from provisioner.jobs.definition import (
    DefinitionError,
    FailureHandling,
    Function,
    JobDefinition,
    Parallel,
    Stage,
    bind,
)
from provisioner.provisioning import job_types
from provisioner.provisioning.contract import ProjectReference
from provisioner.provisioning.functions import FUNCTIONS
from provisioner.provisioning.job_types import JOB_TYPES, clean_up_project, provision_project

FUNCTION = Function("archive", seconds=20)
CODE = f"{__name__}:archive"


def archive(job: str, *, bucket: str, prefix: str = "old", days: int) -> tuple[str, str, str, int]:
    """Return what it was called with."""
    return job, bucket, prefix, days


def stage(name: str = "ARCHIVING", **fields: Any) -> Stage:
    given: dict[str, Any] = {
        "name": name,
        "meaning": "It is kept.",
        "function": FUNCTION,
        "code": CODE,
    }
    return Stage(**given | fields)


def job_type(*steps: Stage | Parallel, **fields: Any) -> JobDefinition[ProjectReference]:
    given: dict[str, Any] = {
        "name": "archive_project",
        "meaning": "Archives a project.",
        "payload_model": ProjectReference,
        "example": {"project_id": "shop"},
        "steps": steps,
    }
    return JobDefinition(**given | fields)


def test_a_stage_is_its_name_wherever_a_name_is_kept() -> None:
    archiving = stage()
    assert archiving == "ARCHIVING"
    assert json.dumps({archiving: archiving}) == '{"ARCHIVING": "ARCHIVING"}'
    for kept in (copy.deepcopy(archiving), pickle.loads(pickle.dumps(archiving))):  # nosec B301
        assert kept == "ARCHIVING"
        assert type(kept) is str


def test_a_stage_is_called_in_the_console_as_it_says_or_by_its_name() -> None:
    assert stage("ARCHIVING_OLD_FILES").state == "ArchivingOldFiles"
    assert stage(state="Archive").state == "Archive"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": "Archiving"}, "name"),
        ({"name": "A" * 65}, "name"),
        ({"meaning": " "}, "meaning"),
        ({"code": "archive"}, "code"),
        ({"code": "archive.py:run"}, None),
        ({"code": "archive:"}, "code"),
        ({"state": "Archive it"}, "state"),
        ({"state": "A" * 74}, None),
        ({"state": "A" * 75}, "state: letters and digits, at most 74"),
        ({"state": "AfterAll"}, "state"),
        ({"state": "ArchiveFailed"}, "state"),
        ({"state": "RecordFailure"}, "state"),
        ({"state": "RecordFailures"}, None),
        ({"ends_job_if": "$.x"}, "ends_job_if: name a field"),
        ({"runs_if": "B c"}, "runs_if: name a field"),
        ({"waits_seconds": -1}, "waits_seconds"),
    ],
)
def test_a_stage_that_cannot_run_is_refused_with_the_field(
    fields: dict[str, Any], named: str | None
) -> None:
    if named is None:
        assert {name: getattr(stage(**fields), name) for name in fields} == fields
        return
    with pytest.raises(DefinitionError, match=f"^stage .*{named}"):
        stage(**fields)


@pytest.mark.parametrize(
    ("steps", "fields", "message"),
    [
        ((), {}, "the last must be a stage"),
        ((Parallel("Both", ((stage(),),)),), {}, "the last must be a stage"),
        ((stage(), stage()), {}, "ARCHIVING stands there twice"),
        ((stage("A", state="Same"), stage("B", state="Same")), {}, "Same stands there twice"),
        ((Parallel("Both", ((),)), stage()), {}, "Both has a branch without stages"),
        ((Parallel("Both", ()), stage()), {}, "Both has a branch without stages"),
        ((stage(),), {"name": "Archive-project"}, "a name is 1 to 64 lower-case letters"),
        (
            (stage(),),
            {"on_failure": FailureHandling(release="nowhere")},
            "on_failure: release: name it as",
        ),
        (
            (stage(),),
            {"on_failure": FailureHandling(cleanup_job_type="clean_up_archive")},
            "on_failure: cleanup_job_type and describe_cleanup go together",
        ),
        (
            (stage(),),
            {"on_failure": FailureHandling(describe_cleanup=CODE)},
            "on_failure: cleanup_job_type and describe_cleanup go together",
        ),
    ],
)
def test_a_job_type_that_cannot_run_is_refused_in_a_sentence(
    steps: tuple[Stage | Parallel, ...], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(DefinitionError, match=rf"^job type .*{message}.*\.$"):
        job_type(*steps, **fields)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nothing", "JOB = 1", "^module nothing.py: define its job type as JOB_TYPE.$"),
        (
            "other",
            "from provisioner.provisioning.job_types.revoke_api_key import JOB_TYPE",
            "^module other.py: its job type is named revoke_api_key; name both alike.$",
        ),
    ],
)
def test_a_module_that_is_no_job_type_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, message: str
) -> None:
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(job_types, "__path__", [*job_types.__path__, str(tmp_path)])
    with pytest.raises(DefinitionError, match=message):
        job_types.load(name)
    del sys.modules[f"{job_types.__name__}.{name}"]


def test_the_stages_are_those_of_the_steps_in_order() -> None:
    first, left, right, last = (stage(name) for name in ("FIRST", "LEFT", "RIGHT", "LAST"))
    definition = job_type(first, Parallel("Both", ((left,), (right,))), last)
    assert definition.stages == ("FIRST", "LEFT", "RIGHT", "LAST")
    assert definition.last is last
    assert definition.stage("LEFT") is left
    assert definition.stage("OTHER") is None


def test_code_takes_what_its_parameters_name() -> None:
    run = bind(CODE, {"bucket": "kept", "unused": 1}, days=3)
    assert run("job-1") == ("job-1", "kept", "old", 3)
    run = bind(CODE, {"bucket": "kept", "prefix": "new", "days": 1}, days=3)
    assert run("job-1") == ("job-1", "kept", "new", 3)


def test_code_that_takes_what_the_function_lacks_is_refused_with_what_it_has() -> None:
    with pytest.raises(DefinitionError, match=r"takes bucket, which its function.*has clock, days"):
        bind(CODE, {"days": 1, "clock": None})


@pytest.mark.parametrize("code", ["no_such_module:run", f"{__name__}:no_such_function"])
def test_code_that_is_not_there_is_named(code: str) -> None:
    with pytest.raises(DefinitionError, match=f"^code {code}: cannot be loaded"):
        bind(code, {})


def test_a_stage_runs_in_its_own_function_alone() -> None:
    by_function = {
        name: {stage for d in JOB_TYPES.values() for stage in d.stages if stage.function == f}
        for name, f in FUNCTIONS.items()
    }
    assert provision_project.CREATING_SCHEMA in by_function["database"]
    assert all(by_function.values())
    with pytest.raises(DefinitionError, match="which its function does not have"):
        stages_of(FUNCTIONS["lifecycle"], {})


def test_what_a_failure_does_is_loaded_by_the_definitions() -> None:
    policies = failure_policies_of({"projects": None, "naming": None})
    assert policies.keys() == JOB_TYPES.keys()
    assert policies["provision_project"].cleanup_job_type is clean_up_project.JOB_TYPE
    # A clean-up that fails is run again; no other follows it.
    assert policies["clean_up_project"].cleanup_job_type is None
    # One that makes nothing releases nothing, and leaves nothing to remove.
    none: Any = None
    policy = policies["revoke_api_key"]
    assert policy.release(none) == ()
    assert policy.remaining_of(none, "REVOKING") == ()
    assert policy.describe_cleanup(none, "cleanup-1") is None
    assert policy.cleanup_job_type is None
