"""Settings of the AWS SDK that are wrong: one sentence each, which names the variable or file."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from provision_cli.main import main
from provisioner import api
from provisioner.runtime import aws

#: In a value that must never be told again.
SECRET = "wJalrXUtnFEMI"

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(autouse=True)
def _desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        **dict.fromkeys(KEYS, "test"),
        "AWS_DEFAULT_REGION": "eu-central-1",
        # Nobody is there: what is found wrong is found before anything is asked.
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    aws.reset()
    yield
    aws.reset()


def refusal() -> str:
    """Return what connecting says, to the Python API and at the program alike."""
    with pytest.raises(api.AwsSettingsError) as raised:
        api.connect_to_stack("stack")
    said = str(raised.value)
    assert said.endswith(".")
    assert "\n" not in said
    assert SECRET not in said
    return said


VARIABLES = {
    "AWS_PROFILE": ["nobody", ""],
    "AWS_DEFAULT_PROFILE": ["nobody"],
    "AWS_ENDPOINT_URL": [
        "127.0.0.1:4566",
        "not a url",
        "ftp://127.0.0.1",
        "http://127.0.0.1:99999",
    ],
    "AWS_CA_BUNDLE": ["/none/such"],
    "AWS_DEFAULT_REGION": ["two words"],
    "AWS_DEFAULTS_MODE": ["x"],
    "AWS_STS_REGIONAL_ENDPOINTS": ["x"],
    "AWS_REQUEST_CHECKSUM_CALCULATION": ["x"],
    "AWS_RESPONSE_CHECKSUM_VALIDATION": ["x"],
    "AWS_CSM_PORT": ["x"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in VARIABLES.items() for value in values]
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    if name == "AWS_CSM_PORT":
        monkeypatch.setenv("AWS_CSM_ENABLED", "true")
    monkeypatch.setenv(name, value)

    assert refusal().startswith(f"{name}: ")


def test_the_endpoint_of_one_service_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", "127.0.0.1:4566")

    assert "AWS_ENDPOINT_URL_…" in refusal()


@pytest.mark.parametrize("file", ["config", "credentials"])
@pytest.mark.parametrize(
    "text",
    [
        f"[default\naws_secret_access_key = {SECRET}".encode(),
        f"aws_secret_access_key = {SECRET}\n".encode(),
        f"[default]\naws_secret_access_key = {SECRET}\naws_secret_access_key = x\n".encode(),
        b"[default]\n# \xe9",
    ],
    ids=["no end", "no section", "twice", "not UTF-8"],
)
def test_a_broken_file_is_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: str, text: bytes
) -> None:
    for name in KEYS:
        monkeypatch.delenv(name)
    (tmp_path / file).write_bytes(text)

    assert refusal().startswith(f"{tmp_path / file}: ")


SSO = "sso_account_id = 1\nsso_role_name = r"
ROLE = "role_arn = arn:aws:iam::1:role/x"

#: What a profile holds, and what is said of it.
PROFILES = {
    "endpoint_url = 127.0.0.1": "AWS_ENDPOINT_URL",
    "credential_process = /bin/false": "AWS credentials: ",
    f"credential_process = /bin/echo {SECRET}": "AWS credentials: ",
    "credential_process = /none/such": "/none/such: ",
    "aws_access_key_id = x": "AWS credentials: aws_secret_access_key is missing",
    f"sso_start_url = x\nsso_region = eu-west-1\n{SSO}": "log in again",
    f"sso_session = none\n{SSO}": "sso-session does not exist",
    f"{ROLE}\nsource_profile = default\n[profile b]\n{ROLE}\nsource_profile = b": "Infinite loop",
    f"{ROLE}\nsource_profile = none": "source_profile",
    f"{ROLE}\nweb_identity_token_file = /none/such": "/none/such: ",
    "services = none": "services",
    "": "AWS credentials: none were found",
}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_wrong_profile_is_told_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: str
) -> None:
    for name in (*KEYS, "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(f"[default]\n{profile}\n")

    assert PROFILES[profile] in refusal()


def test_no_region_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    assert refusal().startswith("AWS_DEFAULT_REGION: ")


def test_the_program_says_it_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")

    assert main(["--stack", "stack", "jobs"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("provision: AWS_PROFILE: there is no profile nobody")
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_nothing_is_read_before_the_first_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[default")
    for name in ("AWS_PROFILE", "AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "x")
    program = "from provision_cli.main import main; raise SystemExit(main(['--help']))"

    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Usage" in ended.stdout
