"""The retry table, the error types, and the markers of ownership."""

from __future__ import annotations

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st
from provisioner.errors import ERROR_RULES, RETRYABLE, ErrorType, ProvisioningError, failure
from provisioner.jobs.retries import FOREIGN_ERRORS, SERVICE_RETRY, STAGE_RETRY, RetryPolicy
from provisioner.ownership import MANAGED_BY_TAG, PROJECT_TAG, Ownership


@pytest.mark.parametrize(("attempt", "longest"), [(1, 300), (2, 600), (3, None), (7, None)])
def test_a_stage_waits_twice_as_long_each_time_and_is_tried_three_times(
    attempt: int, longest: float | None
) -> None:
    assert STAGE_RETRY.longest_delay(attempt) == longest
    assert STAGE_RETRY.attempts_in_all == 3


@given(
    st.builds(
        RetryPolicy,
        error_names=st.just(()),
        interval_seconds=st.integers(1, 1000),
        backoff_rate=st.floats(1, 5),
        max_attempts=st.integers(0, 10),
        max_delay_seconds=st.integers(1, 2000),
    )
)
def test_no_wait_exceeds_the_cap_and_none_is_shorter_than_the_one_before(
    policy: RetryPolicy,
) -> None:
    waits = [policy.longest_delay(attempt) for attempt in range(1, policy.attempts_in_all + 2)]

    assert waits[policy.max_attempts :] == [None, None]
    bounds = [wait for wait in waits if wait is not None]
    assert len(bounds) == policy.max_attempts
    assert bounds == sorted(bounds)
    assert all(bound <= policy.max_delay_seconds for bound in bounds)


def test_what_is_retried_is_what_the_table_of_errors_says_and_the_ends_without_a_word() -> None:
    assert set(RETRYABLE) == {ErrorType.NETWORK_ERROR, ErrorType.TIMEOUT, ErrorType.UNKNOWN_ERROR}
    assert set(STAGE_RETRY.error_names) == {*RETRYABLE, *FOREIGN_ERRORS}
    assert not set(STAGE_RETRY.error_names) & set(SERVICE_RETRY.error_names)


def test_what_a_function_without_its_network_answers_is_waited_out_for_minutes() -> None:
    invoke = boto3.client("lambda", "eu-central-1").meta.service_model.operation_model("Invoke")
    told = {f"Lambda.{error.name}" for error in invoke.error_shapes}
    of_the_sdk = {
        "Lambda.AWSLambdaException",
        "Lambda.SdkClientException",
        "Lambda.ClientExecutionTimeoutException",
    }
    assert set(SERVICE_RETRY.error_names) - told == of_the_sdk
    assert {
        # Idle for weeks, and then called; called again while its interfaces are made.
        "Lambda.ResourceNotReadyException",
        "Lambda.ResourceConflictException",
        "Lambda.ENINotReadyException",
        "Lambda.EC2ThrottledException",
        "Lambda.EC2UnexpectedException",
        "Lambda.SubnetIPAddressLimitReachedException",
    } <= set(SERVICE_RETRY.error_names)
    longest = [SERVICE_RETRY.longest_delay(n) or 0 for n in range(1, SERVICE_RETRY.attempts_in_all)]
    assert sum(longest) / 2 >= 180


@pytest.mark.parametrize("name", FOREIGN_ERRORS)
def test_a_function_that_ends_without_a_word_is_stored_as_a_type_that_is_retried(name: str) -> None:
    assert ERROR_RULES[FOREIGN_ERRORS[name]].retryable


@pytest.mark.parametrize("error_type", ErrorType)
def test_the_class_of_an_error_is_named_like_its_type(error_type: ErrorType) -> None:
    error = failure(error_type, "One sentence.", "a cause")

    assert type(error).__name__ == error_type
    assert isinstance(error, ProvisioningError)
    assert (error.type, error.message, error.cause) == (error_type, "One sentence.", "a cause")
    assert str(error) == "One sentence."
    assert ERROR_RULES[error_type].remedy.endswith(".")


OWNER = Ownership(namespace="stack-1", project_id="shop", job_id="job-1")


def test_a_resource_is_ours_by_deployment_and_project_whichever_job_made_it() -> None:
    later = Ownership(namespace="stack-1", project_id="shop", job_id="job-2")

    assert OWNER.owns(later.tags())
    assert OWNER.owns_comment(later.comment())


@pytest.mark.parametrize(
    ("namespace", "project_id"), [("stack-2", "shop"), ("stack-1", "shop2"), ("stack-1", "Shop")]
)
def test_what_another_deployment_or_project_made_is_not_ours(
    namespace: str, project_id: str
) -> None:
    other = Ownership(namespace=namespace, project_id=project_id, job_id="job-1")

    assert not OWNER.owns(other.tags())
    assert not OWNER.owns_comment(other.comment())


@pytest.mark.parametrize("comment", [None, "", "made by hand", "=", f"{PROJECT_TAG}=shop"])
def test_what_has_no_marker_is_not_ours(comment: str | None) -> None:
    assert not OWNER.owns_comment(comment)


def test_a_marker_without_its_deployment_is_none() -> None:
    assert not OWNER.owns({PROJECT_TAG: "shop"})
    assert not OWNER.owns({MANAGED_BY_TAG: "stack-1"})
