"""The registry of job types."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provisioner import api
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.registry import (
    DuplicateJobHandlerError,
    JobHandler,
    JobRegistry,
    UnknownJobTypeError,
    validate_payload,
)
from provisioner.provisioning.job_types import provision_project
from pydantic import BaseModel, ConfigDict, field_validator


class Report(BaseModel):
    """A payload."""

    model_config = ConfigDict(extra="forbid")

    title: str
    pages: int = 1

    @field_validator("title")
    @classmethod
    def _must_be_short(cls, title: str) -> str:
        if len(title) > 10:
            raise ValueError("must be short.")
        return title


HANDLER = JobHandler(payload_model=Report, stages=("WRITING",), run=lambda report: report.title)


@pytest.fixture
def registry() -> JobRegistry:
    made = JobRegistry()
    made.register("write_report", HANDLER)
    return made


def test_a_handler_is_found_by_its_job_type(registry: JobRegistry) -> None:
    assert registry.get("write_report") is HANDLER
    assert registry.has("write_report")
    assert registry.types() == ("write_report",)


def test_a_second_registration_is_refused_and_the_first_stays(registry: JobRegistry) -> None:
    other: JobHandler[Report, str] = JobHandler(
        payload_model=Report, stages=(), run=lambda report: report.title
    )

    with pytest.raises(DuplicateJobHandlerError, match="write_report"):
        registry.register("write_report", other)

    assert registry.get("write_report") is HANDLER


def test_an_unknown_job_type_is_answered_with_those_that_are_known(registry: JobRegistry) -> None:
    assert not registry.has("send_mail")
    with pytest.raises(UnknownJobTypeError, match="write_report"):
        registry.get("send_mail")


def test_every_required_job_type_that_has_no_handler_is_named(registry: JobRegistry) -> None:
    registry.validate_required(["write_report"])
    with pytest.raises(UnknownJobTypeError, match=r"^draw_chart, send_mail: "):
        registry.validate_required(["send_mail", "write_report", "draw_chart"])


def test_the_public_functions_are_about_the_handlers_of_this_process() -> None:
    job_type = "provision_project"

    assert api.has_job_handler(job_type)
    handler = api.get_job_handler("provision_project")
    assert handler.stages == provision_project.JOB_TYPE.stages
    assert job_type in api.get_registered_job_types()
    api.validate_required_handlers([job_type])
    with pytest.raises(DuplicateJobHandlerError):
        api.register_job_handler(job_type, HANDLER)
    with pytest.raises(UnknownJobTypeError):
        api.validate_required_handlers(["send_mail"])


def test_a_handler_is_called_with_a_payload_or_what_makes_one() -> None:
    assert HANDLER({"title": "sales"}) == "sales"
    assert HANDLER(Report(title="sales")) == "sales"
    with pytest.raises(ProvisioningError, match="title"):
        HANDLER({})


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        ({}, "title: Field required."),
        ({"title": "secret-title"}, "title: must be short."),
        ({"title": "a", "secret": 1}, "secret: Extra inputs are not permitted."),
        (
            {"title": "a", "pages": "secret"},
            "pages: Input should be a valid integer, unable to parse string as an integer.",
        ),
    ],
)
def test_a_sentence_names_the_first_field_that_is_wrong(
    payload: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ProvisioningError) as raised:
        validate_payload(Report, payload)

    assert raised.value.type is ErrorType.INVALID_PAYLOAD
    assert raised.value.message == sentence


def test_what_is_no_object_is_named_as_the_payload() -> None:
    with pytest.raises(ProvisioningError, match=r"^payload: "):
        validate_payload(Report, [])


@given(st.text(min_size=1).filter(lambda name: name not in {"title", "pages"}))
def test_an_unknown_field_of_any_name_gives_one_short_printable_sentence(name: str) -> None:
    with pytest.raises(ProvisioningError) as raised:
        validate_payload(Report, {"title": "a", name * 100: 1})

    assert raised.value.message.isprintable()
    assert len(raised.value.message) < 300
