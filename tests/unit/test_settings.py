"""Settings: what is missing or wrong is named, whichever function it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from provisioner.runtime.platform import PlatformSettings
from provisioner.runtime.settings import (
    ApiKeysSettings,
    DatabaseSettings,
    DispatcherSettings,
    InstancesSettings,
    LifecycleSettings,
    ReconcilerSettings,
    ServicesSettings,
    Settings,
    SettingsError,
    SnapshotSettings,
)

ENVIRONMENT = {
    "JOBS_TABLE": "jobs",
    "PROJECTS_TABLE": "projects",
    "API_KEYS_TABLE": "keys",
    "QUOTAS_TABLE": "quotas",
    "QUEUE_URL": "https://queue",
    "DEAD_LETTER_QUEUE_URL": "https://dead-letters",
    "STATE_MACHINE_ARN_PREFIX": "arn:",
    "REQUIRED_JOB_TYPES": "provision_project",
    "CLUSTER_PARAMETER_PREFIX": "/clusters",
    "RESOURCE_PREFIX": "nm",
    "RESOURCE_NAMESPACE": "stack-123456789012",
    "BUCKET_NAMESPACE": "global",
    "KMS_KEY_ARN": "arn:aws:kms:eu-central-1:123456789012:key/1234abcd",
    "DEFAULT_PROJECT_QUOTA": "10",
    "JOB_RETENTION_DAYS": "120",
    "MAXIMUM_RUNNING_JOBS": "7",
    "QUEUED_MINUTES": "20",
    "SNAPSHOTS_BUCKET": "snapshots",
    "PGSSLROOTCERT": "/opt/certificates/root.pem",
}
CLASSES: list[type[Settings]] = [
    ApiKeysSettings,
    DatabaseSettings,
    DispatcherSettings,
    InstancesSettings,
    LifecycleSettings,
    ServicesSettings,
    ReconcilerSettings,
    SnapshotSettings,
    PlatformSettings,
]
#: The variables that may be left out.
OPTIONAL = {
    "BUCKET_NAMESPACE",
    "JOB_RETENTION_DAYS",
    "KMS_KEY_ARN",
    "MAXIMUM_RUNNING_JOBS",
    "QUEUED_MINUTES",
    "PGSSLROOTCERT",
}

MISSING = [
    (settings, name)
    for settings in CLASSES
    for name in sorted(field.upper() for field in settings.model_fields)
    if name not in OPTIONAL
]


@pytest.mark.parametrize("settings", CLASSES)
def test_a_complete_environment_is_read(settings: type[Settings]) -> None:
    read = settings.from_environment(ENVIRONMENT).model_dump()

    assert {name.upper(): str(value) for name, value in read.items()} == {
        name: value for name, value in ENVIRONMENT.items() if name.lower() in read
    }


@pytest.mark.parametrize(("settings", "name"), MISSING)
def test_each_variable_that_is_missing_is_named(settings: type[Settings], name: str) -> None:
    environment = {key: value for key, value in ENVIRONMENT.items() if key != name}

    with pytest.raises(SettingsError) as raised:
        settings.from_environment(environment)

    assert str(raised.value) == f"{name}: set these environment variables as the template does."


def test_all_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as raised:
        ApiKeysSettings.from_environment({})

    for name in ("JOBS_TABLE", "API_KEYS_TABLE", "RESOURCE_PREFIX", "RESOURCE_NAMESPACE"):
        assert name in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RESOURCE_PREFIX", "Nm"),
        ("RESOURCE_PREFIX", "n"),
        ("RESOURCE_PREFIX", "abcdefghijk"),
        ("RESOURCE_NAMESPACE", "stack-1"),
        ("BUCKET_NAMESPACE", "regional"),
        ("RESOURCE_PREFIX", "pg"),
        ("RESOURCE_PREFIX", "sthree"),
        ("RESOURCE_PREFIX", "xn"),
        ("RESOURCE_PREFIX", "amzn"),
        ("DEFAULT_PROJECT_QUOTA", "-1"),
        ("DEFAULT_PROJECT_QUOTA", "many"),
        ("JOB_RETENTION_DAYS", "90"),
        ("MAXIMUM_RUNNING_JOBS", "0"),
    ],
)
def test_a_variable_that_is_wrong_is_named_and_its_value_is_not(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as raised:
        PlatformSettings.from_environment(ENVIRONMENT | {name: value})

    assert str(raised.value) == f"{name}: set these environment variables as the template does."


@pytest.mark.parametrize("value", ["", ",", "a,", "a,,b", " "])
def test_job_types_that_are_none_are_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="REQUIRED_JOB_TYPES"):
        DispatcherSettings.from_environment(ENVIRONMENT | {"REQUIRED_JOB_TYPES": value})


def test_spaces_around_job_types_do_not_matter() -> None:
    settings = DispatcherSettings.from_environment(ENVIRONMENT | {"REQUIRED_JOB_TYPES": " a, b "})

    assert settings.required_job_types == "a,b"


def test_a_finished_job_is_kept_longer_than_its_execution_s_name_unless_said_otherwise() -> None:
    environment = {name: value for name, value in ENVIRONMENT.items() if name not in OPTIONAL}

    assert ServicesSettings.from_environment(environment).job_retention_days == 91


@given(st.dictionaries(st.text(), st.text()))
def test_what_a_class_does_not_name_it_does_not_read(others: dict[str, str]) -> None:
    assert ServicesSettings.from_environment(others | ENVIRONMENT) == (
        ServicesSettings.from_environment(ENVIRONMENT)
    )
