"""The driver of AWS Secrets Manager."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from provisioner.drivers import secrets
from provisioner.drivers.secrets import Secret
from provisioner.errors import ErrorType
from provisioner.ownership import Ownership
from support.core import Core, answer_lost, aws_error, meanwhile
from support.drivers import FOREIGN, LATER, OWNER, each_foreign, errors, refused, tag_list, text_of

NAME = "nm/nm-shop/database"
PASSWORD = "ThePassword0123456789"
FINAL = ErrorType.DATABASE_CREATION_FAILED

#: Every operation of a first run, in the order in which they are called, and of one that reads.
WRITING = ["CreateSecret"]
READING = ["CreateSecret", "DescribeSecret", "GetSecretValue"]

#: What a run that finds a secret has asked for in vain.
REFUSED = "secrets-manager.CreateSecret"


@dataclass
class Secrets:
    """The project's part of Secrets Manager."""

    core: Core
    #: Values that were made.
    made: list[dict[str, Any]] = field(default_factory=list)

    @property
    def client(self) -> Any:
        return self.core.client("secretsmanager")

    def make(self) -> dict[str, Any]:
        self.made.append({"password": f"{PASSWORD}-{len(self.made)}"})
        return self.made[-1]

    def ensure(self, owner: Ownership = OWNER, kms_key_arn: str | None = None) -> Secret:
        return secrets.ensure_secret(
            self.client,
            name=NAME,
            owner=owner,
            make=self.make,
            kms_key_arn=kms_key_arn,
            final=FINAL,
        )

    def find(self) -> Secret | None:
        return secrets.find_secret(self.client, name=NAME, owner=OWNER, final=FINAL)

    def claimed(self) -> Secret | None:
        return secrets.find_claimed_secret(self.client, name=NAME, claim=OWNER.owns, final=FINAL)

    def remove(self) -> None:
        secrets.remove_secret(self.client, name=NAME, claim=OWNER.owns, final=FINAL)

    def write(self, tags: dict[str, str], value: str = "{}") -> None:
        self.client.create_secret(Name=NAME, SecretString=value, Tags=tag_list(tags))

    def described(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.describe_secret(SecretId=NAME)
        return {key: value for key, value in found.items() if key not in _VARYING}

    def value(self) -> dict[str, Any]:
        value = self.client.get_secret_value(SecretId=NAME)["SecretString"]
        return dict(json.loads(value))


_VARYING = {"ResponseMetadata", "LastAccessedDate"}


@pytest.fixture
def store(core: Core) -> Secrets:
    return Secrets(core)


def test_a_secret_that_is_missing_is_written_with_the_marker(store: Secrets) -> None:
    assert store.find() is None
    secret = store.ensure()
    assert secret.value == store.value() == store.made[0]
    assert secret.is_new
    assert secret.arn == store.described()["ARN"]
    assert store.described()["Tags"] == tag_list(OWNER.tags())


def test_a_new_secret_is_under_the_key_of_the_deployment_and_stays_under_it(store: Secrets) -> None:
    key = store.core.client("kms").create_key()["KeyMetadata"]["Arn"]
    store.ensure(kms_key_arn=key)
    assert store.described()["KmsKeyId"] == key
    before = store.described()
    store.ensure(kms_key_arn=f"{key}-of-later")
    store.ensure()
    assert store.described() == before


@pytest.mark.parametrize("owner", [OWNER, LATER], ids=["again", "of_a_later_job"])
def test_a_second_run_writes_nothing(store: Secrets, owner: Ownership) -> None:
    secret = store.ensure()
    before = store.described()
    store.core.calls.clear()
    assert store.ensure(owner) == secret
    assert store.core.changes() == [REFUSED]
    assert store.described() == before
    assert store.value() == store.made[0]


@each_foreign
def test_a_foreign_secret_of_the_name_is_a_conflict_and_is_not_even_read(
    store: Secrets, tags: dict[str, str]
) -> None:
    store.write(tags)
    before = store.described()
    store.core.calls.clear()
    error = refused(store.ensure)
    assert (error.type, error.message) == (
        ErrorType.CONFLICT,
        f"A secret named {NAME} exists and is not this project's; remove or rename it.",
    )
    assert [name for name, _ in store.core.calls] == [REFUSED, "secrets-manager.DescribeSecret"]
    assert store.described() == before


def test_a_foreign_secret_that_waits_for_its_deletion_is_not_brought_back(store: Secrets) -> None:
    store.write(FOREIGN["of_another_project"])
    store.client.delete_secret(SecretId=NAME, RecoveryWindowInDays=7)
    store.core.calls.clear()
    assert refused(store.ensure).type is ErrorType.CONFLICT
    assert store.core.changes() == [REFUSED]


def test_a_secret_that_waits_for_its_deletion_is_brought_back_with_its_value(
    store: Secrets,
) -> None:
    secret = store.ensure()
    store.client.delete_secret(SecretId=NAME, RecoveryWindowInDays=7)
    store.core.calls.clear()
    assert store.ensure(LATER) == secret
    assert store.core.changes() == [REFUSED, "secrets-manager.RestoreSecret"]
    assert store.value() == secret.value
    assert "DeletedDate" not in store.described()


def test_the_value_that_another_run_writes_meanwhile_is_the_one_truth(store: Secrets) -> None:
    others: list[Secret] = []
    store.core.answers["secrets-manager.CreateSecret"] = meanwhile(
        lambda: others.append(store.ensure(LATER))
    )
    assert [store.ensure()] == others
    assert store.value() == others[0].value == store.made[1]
    assert not store.ensure().is_new


def test_a_foreign_secret_that_is_written_meanwhile_is_a_conflict(store: Secrets) -> None:
    store.core.answers["secrets-manager.CreateSecret"] = meanwhile(
        lambda: store.write(FOREIGN["unmarked"], '{"password": "theirs"}')
    )
    assert refused(store.ensure).type is ErrorType.CONFLICT
    assert store.value() == {"password": "theirs"}


def test_a_secret_that_comes_and_goes_meanwhile_is_contention(store: Secrets) -> None:
    store.core.answers["secrets-manager.CreateSecret"] = aws_error("ResourceExistsException")
    error = refused(store.ensure)
    assert error.type is ErrorType.TIMEOUT
    assert error.cause.startswith(f"{NAME}: ")


def test_a_name_that_a_deletion_has_not_given_free_yet_is_waited_for(store: Secrets) -> None:
    store.core.answers["secrets-manager.CreateSecret"] = aws_error("InvalidRequestException")
    error = refused(store.ensure)
    assert (error.type, error.cause) == (ErrorType.TIMEOUT, f"{NAME}: made by a test")


#: What is answered for a secret that is being deleted in the background.
DELETING = ["ResourceNotFoundException", "InvalidRequestException"]


@pytest.mark.parametrize("code", DELETING)
@pytest.mark.parametrize("operation", ["RestoreSecret", "GetSecretValue"])
def test_a_secret_that_is_described_and_is_being_deleted_is_waited_for(
    store: Secrets, operation: str, code: str
) -> None:
    secret = store.ensure()
    store.client.delete_secret(SecretId=NAME, RecoveryWindowInDays=7)
    store.core.answers[f"secrets-manager.{operation}"] = aws_error(code)
    error = refused(store.ensure)
    assert (error.type, error.cause) == (ErrorType.TIMEOUT, f"{NAME}: made by a test")
    store.core.answers.clear()
    assert store.ensure() == secret


def test_a_secret_that_was_deleted_and_is_still_read_is_waited_for(store: Secrets) -> None:
    store.ensure()
    store.core.answers["secrets-manager.DeleteSecret"] = lambda _: (200, {})
    error = refused(store.remove)
    assert (error.type, error.cause) == (
        ErrorType.TIMEOUT,
        f"secret {NAME}: was deleted and is still there",
    )
    store.core.answers.clear()
    store.remove()
    assert store.find() is None


UNREADABLE = [*DELETING, "AccessDeniedException", "DecryptionFailure"]


@pytest.mark.parametrize("code", UNREADABLE)
def test_a_secret_that_cannot_be_read_is_removed(store: Secrets, code: str) -> None:
    """For its removal nobody has to know the value, nor to use the key that it is under."""
    store.ensure()
    store.core.answers["secrets-manager.GetSecretValue"] = aws_error(code)
    store.remove()
    assert store.find() is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *((code, ErrorType.TIMEOUT) for code in DELETING),
        ("AccessDeniedException", ErrorType.INSUFFICIENT_PERMISSIONS),
        ("DecryptionFailure", FINAL),
    ],
)
def test_a_secret_that_is_there_and_cannot_be_read_is_not_taken_for_gone(
    store: Secrets, code: str, expected: ErrorType
) -> None:
    store.ensure()
    store.core.answers["secrets-manager.GetSecretValue"] = aws_error(code)
    assert refused(store.claimed).type is expected


@pytest.mark.parametrize("force", [True, False], ids=["at_once", "with_a_wait"])
def test_a_secret_that_is_deleted_while_it_is_read_is_gone(store: Secrets, *, force: bool) -> None:
    store.ensure()
    how = {"ForceDeleteWithoutRecovery": True} if force else {"RecoveryWindowInDays": 7}
    store.core.answers["secrets-manager.GetSecretValue"] = meanwhile(
        lambda: store.client.delete_secret(SecretId=NAME, **how)
    )
    assert store.claimed() is None


@pytest.mark.parametrize("operation", ["DescribeSecret", "DeleteSecret"])
def test_a_secret_that_may_not_be_looked_at_or_deleted_is_not_taken_for_gone(
    store: Secrets, operation: str
) -> None:
    store.ensure()
    store.core.answers[f"secrets-manager.{operation}"] = aws_error("AccessDeniedException")
    assert refused(store.remove).type is ErrorType.INSUFFICIENT_PERMISSIONS


def test_a_write_whose_answer_is_lost_is_the_truth(store: Secrets) -> None:
    store.core.answers["secrets-manager.CreateSecret"] = answer_lost(store.client.create_secret)
    assert refused(store.ensure).type is ErrorType.TIMEOUT
    assert store.ensure().value == store.value() == store.made[0]


def test_every_run_of_a_job_writes_under_the_same_token_and_another_job_under_its_own(
    store: Secrets,
) -> None:
    store.core.answers["secrets-manager.CreateSecret"] = aws_error("ThrottlingException")
    for owner in (OWNER, OWNER, LATER):
        refused(partial(store.ensure, owner))
    first, again, later = [
        call["ClientRequestToken"] for call in store.core.calls_of("secrets-manager.CreateSecret")
    ]
    assert first == again != later


def test_a_write_that_the_sdk_repeats_is_one_write(store: Secrets) -> None:
    sent: list[Any] = []

    def arrive_twice(parameters: Any) -> None:
        if not sent:
            sent.append(parameters)
            store.client.create_secret(**parameters)

    store.core.answers["secrets-manager.CreateSecret"] = arrive_twice
    assert store.ensure().value == store.value()
    versions = store.client.list_secret_version_ids(SecretId=NAME)["Versions"]
    assert [version["VersionId"] for version in versions] == [sent[0]["ClientRequestToken"]]


def test_a_value_is_replaced_and_a_secret_deleted_at_once(store: Secrets) -> None:
    secret = store.ensure()
    secrets.replace_secret_value(store.client, secret, {"password": "other"}, final=FINAL)
    assert secrets.read_secret(store.client, secret.arn, final=FINAL) == {"password": "other"}
    secrets.delete_secret(store.client, secret, final=FINAL)
    assert store.find() is None


def test_an_answer_that_describes_nothing_is_not_taken_for_a_foreign_secret(
    store: Secrets,
) -> None:
    store.ensure()
    store.core.answers["secrets-manager.DescribeSecret"] = lambda _: (200, {})

    with pytest.raises(KeyError):
        store.remove()

    store.core.answers.clear()
    assert store.value() == store.made[0]


def test_the_text_of_a_secret_does_not_show_its_value(store: Secrets) -> None:
    secret = store.ensure()
    assert secret.value["password"].startswith(PASSWORD)
    assert PASSWORD not in f"{secret}{secret!r}{[secret]}"


@pytest.mark.parametrize("operation", dict.fromkeys([*WRITING, *READING]))
def test_an_error_of_any_call_is_understood_and_tells_no_secret(
    store: Secrets, operation: str
) -> None:
    def run() -> None:
        store.ensure()
        store.ensure()

    for answer, expected in errors(FINAL).values():
        store.core.answers[f"secrets-manager.{operation}"] = answer
        error = refused(run)
        assert error.type is expected
        assert PASSWORD not in text_of(error)
    store.core.answers.clear()
    assert store.ensure().value == store.value()


@pytest.mark.parametrize("operation", ["PutSecretValue", "GetSecretValue", "DeleteSecret"])
def test_an_error_of_a_later_call_is_understood_and_tells_no_secret(
    store: Secrets, operation: str
) -> None:
    secret = store.ensure()
    act = {
        "PutSecretValue": lambda: secrets.replace_secret_value(
            store.client, secret, {"password": PASSWORD}, final=FINAL
        ),
        "GetSecretValue": lambda: secrets.read_secret(store.client, NAME, final=FINAL),
        "DeleteSecret": lambda: secrets.delete_secret(store.client, secret, final=FINAL),
    }[operation]
    for answer, expected in errors(FINAL).values():
        store.core.answers[f"secrets-manager.{operation}"] = answer
        error = refused(act)
        assert error.type is expected
        assert PASSWORD not in text_of(error)
    store.core.answers.clear()
    assert store.value() == secret.value


def test_a_secret_that_is_not_there_cannot_be_read(store: Secrets) -> None:
    error = refused(lambda: secrets.read_secret(store.client, "no/such", final=FINAL))
    assert error.type is FINAL
    assert error.cause.startswith("GetSecretValue: ResourceNotFoundException: ")


def test_a_request_that_botocore_refuses_does_not_show_what_it_held(store: Secrets) -> None:
    """The text of its error quotes the value."""
    secret = Secret(arn="", value={})
    error = refused(
        lambda: secrets.replace_secret_value(
            store.client, secret, {"password": PASSWORD}, final=FINAL
        )
    )
    assert (error.type, error.cause) == (FINAL, "ParamValidationError")
    assert PASSWORD not in text_of(error)


def test_operations_are_called_in_this_order(store: Secrets) -> None:
    store.ensure()
    store.ensure()
    called = [name.removeprefix("secrets-manager.") for name, _ in store.core.calls]
    assert called == [*WRITING, *READING]


def pending(store: Secrets, secret: Secret, stage: str = "AWSPENDING") -> dict[str, Any]:
    return secrets.ensure_version(
        store.client, secret, version="v" * 32, stage=stage, make=store.make, final=FINAL
    )


def current(store: Secrets) -> dict[str, Any]:
    return secrets.read_secret(store.client, NAME, final=FINAL)


def test_a_version_is_written_once_and_not_read_until_it_is_current(store: Secrets) -> None:
    secret = store.ensure()
    value = pending(store, secret)
    assert pending(store, secret) == value
    assert len(store.made) == 2
    assert current(store) == secret.value
    store.core.calls.clear()
    for _ in range(2):
        secrets.make_current(store.client, secret, version="v" * 32, final=FINAL)
        assert current(store) == value
    assert store.core.changes() == ["secrets-manager.UpdateSecretVersionStage"]
    assert store.described()["VersionIdsToStages"][secrets.version_id(NAME, "job-1")] == [
        "AWSPREVIOUS"
    ]


def test_of_two_runs_that_write_a_version_at_once_the_first_is_the_truth(store: Secrets) -> None:
    secret = store.ensure()
    others: list[dict[str, Any]] = []
    store.core.answers["secrets-manager.PutSecretValue"] = meanwhile(
        lambda: others.append(pending(store, secret, "AWSCURRENT"))
    )
    assert [pending(store, secret, "AWSCURRENT")] == others == [current(store)]


def test_a_label_that_has_moved_without_an_answer_has_moved(store: Secrets) -> None:
    secret = store.ensure()
    value = pending(store, secret)
    operation = "secrets-manager.UpdateSecretVersionStage"
    store.core.answers[operation] = aws_error("ThrottlingException")
    error = refused(
        lambda: secrets.make_current(store.client, secret, version="v" * 32, final=FINAL)
    )
    assert error.type is ErrorType.NETWORK_ERROR
    assert current(store) == secret.value
    store.core.answers[operation] = answer_lost(store.client.update_secret_version_stage)
    secrets.make_current(store.client, secret, version="v" * 32, final=FINAL)
    assert current(store) == value
