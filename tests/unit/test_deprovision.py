"""deprovision_project: its payload, and its stages on the tables and buckets alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from provisioner import api
from provisioner.api_keys.key_format import digest, generate_api_key, key_id, key_prefix
from provisioner.api_keys.store import ApiKey
from provisioner.drivers import dynamodb
from provisioner.drivers import s3 as s3_module
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.models import Job, JobStatus, StageStatus, StoredError
from provisioner.jobs.records import NewJob
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.jobs.stage_run import StageRunner
from provisioner.provisioning.database_access import Servers
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.job_types import JOB_TYPES, deprovision_project
from provisioner.provisioning.job_types.deprovision_project import (
    REMOVING,
    DeprovisionProjectPayload,
)
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import Project, ProjectStatus
from provisioner.provisioning.stages.check_data import ensure_removal_is_possible
from provisioner.provisioning.stages.check_services import ensure_services_are_looked_at
from provisioner.provisioning.stages.deprovision import (
    ensure_deprovisioned,
    ensure_removal_begun,
    release_after_failed_removal,
)
from provisioner.provisioning.stages.initialize import ensure_initialized
from provisioner.provisioning.stages.storage import remove_storage
from support.core import (
    ACCOUNT,
    REGION,
    Core,
    deprovision_project_handler,
    provision_project_handler,
)

NAMING = Naming("nm", f"test-{ACCOUNT}")
SNAPSHOT = {"bucket": "snapshots", "key": "shop/x.dump", "size_bytes": 7, "server_version": "18.6"}


def payload(**fields: Any) -> dict[str, Any]:
    return {"project_id": "shop", "confirm": "shop"} | fields


def job(job_id: str = "removal", **fields: Any) -> JobInput:
    """Return a job as the execution carries it."""
    valid = deprovision_project_handler.parse(payload(**fields))
    return JobInput(
        job_id=job_id, job_type="deprovision_project", payload=valid.model_dump(mode="json")
    )


def begin(core: Core, of: JobInput) -> StageOutcome:
    """Run INITIALIZING."""
    return ensure_removal_begun(of, projects=core.projects, clock=core.clock)


def project(core: Core) -> Project:
    found = core.projects.get("shop")
    assert found is not None
    return found


def write(core: Core, items: Any) -> None:
    dynamodb.transact(core.client("dynamodb"), items)


def refused(error_type: ErrorType, act: Callable[[], object]) -> ProvisioningError:
    with pytest.raises(ProvisioningError) as raised:
        act()
    assert raised.value.type is error_type
    return raised.value


def lock(core: Core, job_id: str = "job-1") -> None:
    """Give the project to a job that provisions it."""
    core.projects.lock(
        project(core),
        job_id,
        quota="owner#ada",
        default_limit=5,
        region=REGION,
        engine="postgresql",
    )


@pytest.fixture
def active(core: Core) -> Core:
    """Return a deployment with a project that is ACTIVE."""
    core.new_project(owner_id="ada")
    lock(core)
    write(core, core.projects.build_activation("shop", "job-1", {"made": "x"}, {}))
    return core


# --- The payload ----------------------------------------------------------------------------------


def test_what_is_left_out_has_its_default() -> None:
    assert DeprovisionProjectPayload.model_validate(payload()).model_dump() == {
        "project_id": "shop",
        "confirm": "shop",
        "delete_data": False,
        "final_snapshot": True,
    }


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"confirm": "shop "}, "confirm: must be the project_id again."),
        ({"confirm": "Shop"}, "confirm: must be the project_id again."),
        ({"confirm": ""}, "confirm: must be the project_id again."),
        ({"confirm": True}, "confirm: Input should be a valid string."),
        ({"delete_data": "yes"}, "delete_data: Input should be a valid boolean."),
        ({"final_snapshot": 0}, "final_snapshot: Input should be a valid boolean."),
        ({"region": REGION}, "region: Extra inputs are not permitted."),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(fields: dict[str, Any], sentence: str) -> None:
    error = refused(
        ErrorType.INVALID_PAYLOAD, lambda: deprovision_project_handler.parse(payload(**fields))
    )

    assert error.message == sentence


def test_it_cannot_be_confirmed_by_leaving_it_out() -> None:
    error = refused(
        ErrorType.INVALID_PAYLOAD, lambda: deprovision_project_handler.parse({"project_id": "shop"})
    )

    assert error.message.startswith("confirm:")


def test_a_wrong_project_id_is_what_is_said() -> None:
    hostile = {"project_id": "x'; DROP", "confirm": "something else"}

    error = refused(ErrorType.INVALID_PAYLOAD, lambda: deprovision_project_handler.parse(hostile))

    assert error.message.startswith("project_id:")


def test_the_job_type_is_registered() -> None:
    assert api.get_job_handler("deprovision_project") == deprovision_project_handler
    assert deprovision_project_handler.stages == deprovision_project.JOB_TYPE.stages


# --- INITIALIZING ---------------------------------------------------------------------------------


def test_a_project_is_held_and_nobody_may_use_it(active: Core) -> None:
    outcome = begin(active, job())

    assert outcome.output == {"already_deprovisioned": False, "known_ids": {}}
    assert outcome.completion is None
    held = project(active)
    assert (held.status, held.locked_by) == (ProjectStatus.DEPROVISIONING, "removal")
    # It still counts, and it is still known where its resources are.
    assert (held.quota, held.region, held.engine) == ("owner#ada", REGION, "postgresql")
    assert active.projects.quotas.used("owner#ada") == 1


def test_it_may_run_twice(active: Core) -> None:
    begin(active, job())
    before = active.scan("ProjectsTable")

    assert begin(active, job()).output == {"already_deprovisioned": False, "known_ids": {}}
    assert active.scan("ProjectsTable") == before


def test_two_runs_of_it_may_meet(active: Core) -> None:
    def another_run_locks(_call: Any) -> None:
        active.answers.clear()
        begin(active, job())

    active.answers["dynamodb.TransactWriteItems"] = another_run_locks

    assert begin(active, job()).output == {"already_deprovisioned": False, "known_ids": {}}
    assert project(active).locked_by == "removal"


def test_a_project_that_does_not_exist_is_not_found(core: Core) -> None:
    error = refused(ErrorType.PROJECT_NOT_FOUND, lambda: begin(core, job()))

    assert "shop" in error.message


@pytest.mark.parametrize("meets", [False, True], ids=["held_before", "taken_in_this_moment"])
def test_a_project_that_another_job_holds_is_busy(active: Core, meets: bool) -> None:  # noqa: FBT001
    def another_job_locks(_call: Any) -> None:
        active.answers.clear()
        begin(active, job("other"))

    if meets:
        active.answers["dynamodb.TransactWriteItems"] = another_job_locks
    else:
        begin(active, job("other"))

    error = refused(ErrorType.PROJECT_BUSY, lambda: begin(active, job()))

    assert (
        error.message == "project_id: shop is locked by job other; wait until that job has ended."
    )
    assert project(active).locked_by == "other"


def test_a_project_that_is_being_provisioned_is_busy(core: Core) -> None:
    core.new_project()
    lock(core)

    error = refused(ErrorType.PROJECT_BUSY, lambda: begin(core, job()))

    assert "job job-1" in error.message
    assert project(core).status is ProjectStatus.PROVISIONING


@pytest.mark.parametrize("meets", [False, True], ids=["protected_before", "in_this_moment"])
def test_a_project_that_is_protected_is_refused(active: Core, meets: bool) -> None:  # noqa: FBT001
    def someone_protects(_call: Any) -> None:
        active.answers.clear()
        active.projects.protect("shop", enabled=True)

    if meets:
        active.answers["dynamodb.TransactWriteItems"] = someone_protects
    else:
        active.projects.protect("shop", enabled=True)

    error = refused(ErrorType.PROJECT_PROTECTED, lambda: begin(active, job()))

    assert "deletion protection" in error.message
    assert project(active).status is ProjectStatus.ACTIVE
    active.projects.protect("shop", enabled=False)
    assert begin(active, job()).output == {"already_deprovisioned": False, "known_ids": {}}


def run_first_stage(core: Core, of: JobInput) -> Job:
    """Store a job and run its INITIALIZING, as its function does; return it."""
    core.jobs.create(
        NewJob(of.job_id, of.job_type, of.payload, deprovision_project.JOB_TYPE.stages)
    )
    runner = StageRunner(
        core.jobs,
        {of.job_type: {"INITIALIZING": lambda job: begin(core, job)}},
        definitions=JOB_TYPES,
    )
    runner({"job": of.model_dump(), "stage": "INITIALIZING", "retry_count": 0})
    return core.jobs.get(of.job_id)


def test_a_project_that_never_had_anything_is_deprovisioned_at_once(core: Core) -> None:
    core.new_project()

    ended = run_first_stage(core, job())

    assert ended.status is JobStatus.COMPLETED
    assert ended.result is not None
    assert ended.result["removed"] == []
    assert project(core).status is ProjectStatus.DEPROVISIONED
    again = run_first_stage(core, job("second"))
    assert again.result == ended.result


def test_a_project_of_which_a_clean_up_has_left_nothing_is_deprovisioned_at_once(
    core: Core,
) -> None:
    core.new_project(owner_id="ada")
    lock(core)
    write(core, core.projects.build_release_as_failed("shop", "job-1", removed_all_of="job-1"))

    outcome = begin(core, job())

    assert outcome.output == {"already_deprovisioned": True}
    assert outcome.completion is not None
    write(core, outcome.completion.also)
    assert project(core).status is ProjectStatus.DEPROVISIONED


def test_a_project_that_never_had_anything_may_be_protected_too(core: Core) -> None:
    core.new_project()
    core.projects.protect("shop", enabled=True)

    refused(ErrorType.PROJECT_PROTECTED, lambda: begin(core, job()))

    assert project(core).status is ProjectStatus.CREATED


# --- Keys -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("connected")
def test_keys_stop_verifying_with_the_first_stage_and_verify_again_if_it_fails(
    active: Core,
) -> None:
    plaintext = generate_api_key("nm")
    key_digest = digest(plaintext)
    active.api_keys.put_set(
        [ApiKey(key_digest, key_id(key_digest), key_prefix(plaintext), "shop", "job-1", "now")]
    )
    assert api.verify_api_key(plaintext) is not None

    begin(active, job())

    assert api.verify_api_key(plaintext) is None
    give_up(active, "CHECKING_DATA")
    assert api.verify_api_key(plaintext) is not None


# --- A job that fails -----------------------------------------------------------------------------


def stored(core: Core, reached: str, of: JobInput | None = None) -> Job:
    """Return a job that has come to a stage."""
    of = of or job()
    made = core.jobs.create(
        NewJob(of.job_id, of.job_type, of.payload, deprovision_project.JOB_TYPE.stages)
    )
    for stage in deprovision_project.JOB_TYPE.stages:
        core.jobs.start_stage(made, stage, 0)
        if stage == reached:
            break
        output = {"snapshot": SNAPSHOT} if stage == "TAKING_SNAPSHOT" else {}
        core.jobs.end_stage(made.job_id, stage, StageStatus.SUCCEEDED, output=output, check="ok")
        made = core.jobs.get(made.job_id)
    return core.jobs.get(made.job_id)


def give_up(core: Core, reached: str, of: JobInput | None = None) -> None:
    """Let a job fail in a stage."""
    items = release_after_failed_removal(stored(core, reached, of), projects=core.projects)
    if items:
        write(core, items)


@pytest.mark.parametrize("reached", ["INITIALIZING", "CHECKING_DATA", "TAKING_SNAPSHOT"])
def test_a_job_that_has_removed_nothing_leaves_the_project_as_it_was(
    active: Core, reached: str
) -> None:
    before = active.scan("ProjectsTable"), active.scan("QuotasTable")
    begin(active, job())

    give_up(active, reached)

    assert (active.scan("ProjectsTable"), active.scan("QuotasTable")) == before


@pytest.mark.parametrize(
    ("attempts", "status"), [(1, ProjectStatus.ACTIVE), (2, ProjectStatus.DEPROVISIONING)]
)
def test_data_that_the_first_removal_meets_keeps_a_project_of_which_nothing_is_gone(
    active: Core, attempts: int, status: ProjectStatus
) -> None:
    begin(active, job())
    made = stored(active, "REMOVING_REALTIME")
    for retry_count in range(attempts):
        active.jobs.start_stage(made, "REMOVING_REALTIME", retry_count)
        is_last = retry_count == attempts - 1
        error_type = ErrorType.DATA_NOT_EMPTY if is_last else ErrorType.NETWORK_ERROR
        error = StoredError(error_type, "REMOVING_REALTIME", retry_count + 1, "It failed.", "")
        active.jobs.stage_failed(made.job_id, error, retry_count=retry_count, retryable=not is_last)

    failed = active.jobs.get(made.job_id)
    write(active, release_after_failed_removal(failed, projects=active.projects))

    left = project(active)
    assert (left.status, left.locked_by, left.snapshot) == (status, None, SNAPSHOT)


@pytest.mark.parametrize("reached", [*map(str, REMOVING), "FINALIZING"])
def test_a_job_that_may_have_removed_something_leaves_the_rest_to_the_next(
    active: Core, reached: str
) -> None:
    begin(active, job())

    give_up(active, reached)

    left = project(active)
    assert (left.status, left.locked_by, left.quota) == (
        ProjectStatus.DEPROVISIONING,
        None,
        "owner#ada",
    )
    assert left.snapshot == SNAPSHOT
    assert begin(active, job("next")).output == {"already_deprovisioned": False, "known_ids": {}}
    # What it goes on with is no project that anyone may use again, and has its snapshot.
    give_up(active, "CHECKING_DATA", job("next"))
    left = project(active)
    assert (left.status, left.locked_by) == (ProjectStatus.DEPROVISIONING, None)
    assert left.snapshot == SNAPSHOT


def test_a_project_that_failed_before_is_failed_again(core: Core) -> None:
    core.new_project(owner_id="ada")
    lock(core)
    write(core, core.projects.build_release_as_failed("shop", "job-1"))
    begin(core, job())

    give_up(core, "CHECKING_DATA")

    assert project(core).status is ProjectStatus.FAILED


def test_a_job_that_does_not_hold_the_project_lets_go_of_nothing(active: Core) -> None:
    begin(active, job("other"))

    assert not release_after_failed_removal(
        stored(active, "INITIALIZING"), projects=active.projects
    )


# --- FINALIZING -----------------------------------------------------------------------------------


def end(core: Core) -> StageOutcome:
    return ensure_deprovisioned(job(), jobs=core.jobs, projects=core.projects, naming=NAMING)


def test_everything_is_given_back_with_the_end_of_the_job(active: Core) -> None:
    begin(active, job())
    stored(active, "FINALIZING")

    outcome = end(active)

    assert outcome.completion is not None
    write(active, outcome.completion.also)
    left = project(active)
    assert (left.status, left.locked_by, left.quota, left.region, left.result) == (
        ProjectStatus.DEPROVISIONED,
        None,
        None,
        None,
        None,
    )
    assert active.projects.quotas.used("owner#ada") == 0
    result = api.DeprovisionProjectResult.model_validate(outcome.completion.result)
    assert result.snapshot is not None
    assert result.snapshot.model_dump() == left.snapshot == SNAPSHOT
    names = NAMING.names("shop")
    for name in (
        *(names.user_pool, BUCKET, names.database_secret, names.api_keys_secret),
        *(
            names.tenants[Engine.POSTGRESQL].database,
            names.tenants[Engine.POSTGRESQL].app_role,
            names.tenants[Engine.POSTGRESQL].owner_role,
        ),
        # The stage that removes it has run, and not been skipped.
        *(names.instance, names.instance_secret),
    ):
        assert any(removed.endswith(f" {name}") for removed in result.removed), name


@pytest.mark.parametrize("missing", [*map(str, REMOVING), "TAKING_SNAPSHOT", "CHECKING_DATA"])
def test_a_stage_without_a_word_keeps_the_project_from_being_deprovisioned(
    active: Core, missing: str
) -> None:
    begin(active, job())
    stored(active, missing)

    error = refused(ErrorType.UNKNOWN_ERROR, lambda: end(active))

    assert missing in error.message


def test_a_place_on_a_cluster_keeps_the_project_from_being_deprovisioned(active: Core) -> None:
    active.projects.places.place("shop", "first", "cluster#first", 5)
    begin(active, job())
    stored(active, "FINALIZING")

    refused(ErrorType.REMOVAL_FAILED, lambda: end(active))


# --- Provisioning again ---------------------------------------------------------------------------


def provision(core: Core, **fields: Any) -> StageOutcome:
    """Run INITIALIZING of provision_project."""
    valid = provision_project_handler.parse({"project_id": "shop", "region": REGION} | fields)
    return ensure_initialized(
        JobInput(
            job_id="again",
            job_type="provision_project",
            payload=valid.model_dump(mode="json"),
        ),
        jobs=core.jobs,
        projects=core.projects,
        catalogue=core.catalogue,
        naming=NAMING,
        default_project_quota=5,
    )


def deprovisioned(core: Core) -> None:
    begin(core, job())
    stored(core, "FINALIZING")
    completion = end(core).completion
    assert completion is not None
    write(core, completion.also)


@pytest.mark.parametrize("region", [REGION, "eu-west-1"])
def test_a_deprovisioned_project_is_provisioned_like_a_new_one(active: Core, region: str) -> None:
    active.describe_clusters({"cluster_id": "west"}, region="eu-west-1")
    deprovisioned(active)

    assert provision(active, region=region).output == {
        "already_provisioned": False,
        "is_dedicated": False,
        "is_alone": True,
        "owner_id": "ada",
    }

    held = project(active)
    assert (held.status, held.locked_by, held.quota, held.region, held.owner_id) == (
        ProjectStatus.PROVISIONING,
        "again",
        "owner#ada",
        region,
        "ada",
    )
    assert active.projects.quotas.used("owner#ada") == 1


def test_a_project_that_is_being_deprovisioned_is_busy(active: Core) -> None:
    begin(active, job())

    error = refused(ErrorType.PROJECT_BUSY, lambda: provision(active))

    assert "job removal" in error.message


def test_a_project_whose_removal_has_failed_is_removed_first(active: Core) -> None:
    begin(active, job())
    give_up(active, "REMOVING_AUTH")

    error = refused(ErrorType.PROJECT_NOT_FOUND, lambda: provision(active))

    assert "deprovision_project" in error.message


def test_what_is_left_in_a_region_is_not_forgotten_for_another(core: Core) -> None:
    core.describe_clusters({"cluster_id": "west"}, region="eu-west-1")
    core.new_project(owner_id="ada")
    lock(core)
    write(core, core.projects.build_release_as_failed("shop", "job-1"))

    error = refused(ErrorType.INVALID_PAYLOAD, lambda: provision(core, region="eu-west-1"))

    assert error.message.startswith(f"region: the project has been begun with {REGION};")


# --- Protection -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("connected")
def test_a_project_is_protected_and_unprotected(active: Core) -> None:
    assert api.get_project("shop").deletion_protection is False
    for enabled in (True, True, False):
        assert api.protect_project("shop", enabled=enabled).deletion_protection is enabled
        assert project(active).deletion_protection is enabled


@pytest.mark.usefixtures("connected")
def test_protection_comes_too_late_for_a_project_that_is_being_removed(active: Core) -> None:
    begin(active, job())

    with pytest.raises(api.ProjectRemovedError, match="shop: is being removed"):
        api.protect_project("shop", enabled=True)


@pytest.mark.usefixtures("connected")
def test_a_project_that_does_not_exist_cannot_be_protected(core: Core) -> None:
    with pytest.raises(api.ProjectNotFoundError):
        api.protect_project("shop", enabled=True)
    assert core.scan("ProjectsTable") == []


# --- The data -------------------------------------------------------------------------------------

BUCKET = NAMING.bucket("shop", REGION)

_numbers = itertools.count()


@pytest.fixture
def bucket(active: Core) -> Any:
    """Return S3 with the project's bucket."""
    s3 = active.client("s3")
    s3_module.ensure_bucket(
        s3,
        name=BUCKET,
        region=REGION,
        owner=NAMING.owner("shop", "job-1"),
        settling=s3_module.Settling(),
    )
    # moto refuses every request over HTTP by this one, whatever its condition says.
    s3.delete_bucket_policy(Bucket=BUCKET)
    begin(active, job())
    return s3


def check_data(
    core: Core,
    s3: Any,
    **fields: Any,
) -> StageOutcome:
    """Run CHECKING_SERVICES and CHECKING_DATA of a new job."""
    of = job(f"removal-{next(_numbers)}", **fields)
    made = core.jobs.create(
        NewJob(of.job_id, of.job_type, of.payload, deprovision_project.JOB_TYPE.stages)
    )
    core.jobs.start_stage(made, deprovision_project.CHECKING_SERVICES, 0)
    looked = ensure_services_are_looked_at(
        of,
        s3=lambda _region: s3,
        cognito=lambda _region: core.client("cognito-idp"),
        projects=core.projects,
        naming=NAMING,
    )
    core.jobs.end_stage(
        of.job_id,
        deprovision_project.CHECKING_SERVICES,
        StageStatus.SUCCEEDED,
        output=looked.output,
        check=looked.check,
    )
    assert BUCKET in looked.check
    return ensure_removal_is_possible(
        of,
        jobs=core.jobs,
        projects=core.projects,
        catalogue=core.catalogue,
        servers=Servers(core.client("secretsmanager"), {}),
        naming=NAMING,
    )


def remove(core: Core, s3: Any, seconds: float = 60, **fields: Any) -> StageOutcome:
    return remove_storage(
        job(**fields),
        s3=lambda _region: s3,
        projects=core.projects,
        naming=NAMING,
        seconds=seconds,
        only_this_job=False,
    )


def is_there(s3: Any) -> bool:
    return BUCKET in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]


def test_a_bucket_that_the_project_tells_of_goes_whatever_a_new_one_would_be_called(
    core: Core,
) -> None:
    """It was made when the deployment named its buckets in another way."""
    core.new_project(owner_id="ada")
    lock(core)
    told = Naming(NAMING.prefix, NAMING.namespace, has_own_buckets=False).bucket("shop", REGION)
    services = {"storage": {"bucket_name": told}}
    write(core, core.projects.build_activation("shop", "job-1", {"services": services}, {}))
    s3 = core.client("s3")
    owner = NAMING.owner("shop", "job-1")
    for name in (told, BUCKET):
        s3_module.ensure_bucket(
            s3, name=name, region=REGION, owner=owner, settling=s3_module.Settling()
        )
    begin(core, job())

    assert f"named {told} is left" in (remove(core, s3).check or "")
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == [BUCKET]

    stored(core, "FINALIZING")
    completion = end(core).completion
    assert completion is not None
    assert f"bucket {told}" in completion.result["removed"]


def test_an_empty_bucket_may_go(active: Core, bucket: Any) -> None:
    assert check_data(active, bucket).check
    remove(active, bucket)
    assert not is_there(bucket)
    # What is not there holds nothing, and is removed.
    assert check_data(active, bucket).check
    assert remove(active, bucket).check


@pytest.mark.parametrize("kind", ["object", "version", "delete_marker"])
def test_whatever_is_in_a_bucket_keeps_it(active: Core, bucket: Any, kind: str) -> None:
    version = bucket.put_object(Bucket=BUCKET, Key="photo", Body=b"x")["VersionId"]
    if kind != "object":
        bucket.delete_object(Bucket=BUCKET, Key="photo")
    if kind == "delete_marker":
        bucket.delete_object(Bucket=BUCKET, Key="photo", VersionId=version)

    error = refused(ErrorType.DATA_NOT_EMPTY, lambda: check_data(active, bucket))

    assert error.message.startswith(f"delete_data: the bucket {BUCKET} is not empty;")
    refused(ErrorType.REMOVAL_FAILED, lambda: remove(active, bucket))
    assert is_there(bucket)


def test_data_goes_with_all_its_versions_where_the_payload_asks_for_it(
    active: Core, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "_BATCH", 3)
    for number in range(5):
        for _ in range(2):
            bucket.put_object(Bucket=BUCKET, Key=f"photo-{number}", Body=b"x")
    bucket.delete_object(Bucket=BUCKET, Key="photo-0")

    assert check_data(active, bucket, delete_data=True).check
    remove(active, bucket, delete_data=True)

    assert not is_there(bucket)
    batches = [len(call["Delete"]["Objects"]) for call in active.calls_of("s3.DeleteObjects")]
    assert (sum(batches), max(batches)) == (11, 3)


def test_what_there_was_no_time_for_is_deleted_by_the_next_attempt(
    active: Core, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "_BATCH", 1)
    # Every look at the clock takes a second.
    clock = SimpleNamespace(monotonic=itertools.count().__next__)
    monkeypatch.setattr("provisioner.drivers.s3.time", clock)
    for number in range(5):
        bucket.put_object(Bucket=BUCKET, Key=f"photo-{number}", Body=b"x")

    for left in (3, 1):
        refused(ErrorType.TIMEOUT, lambda: remove(active, bucket, seconds=2, delete_data=True))
        assert len(bucket.list_object_versions(Bucket=BUCKET)["Versions"]) == left
    remove(active, bucket, seconds=2, delete_data=True)

    assert not is_there(bucket)


def test_an_object_that_may_not_be_deleted_is_told(active: Core, bucket: Any) -> None:
    bucket.put_object(Bucket=BUCKET, Key="photo", Body=b"x")
    active.answers["s3.DeleteObjects"] = lambda _: (
        200,
        {"Errors": [{"Key": "photo", "Code": "AccessDenied", "Message": "no"}]},
    )

    refused(ErrorType.INSUFFICIENT_PERMISSIONS, lambda: remove(active, bucket, delete_data=True))

    assert is_there(bucket)


def test_a_bucket_that_is_not_the_projects_is_neither_emptied_nor_removed(active: Core) -> None:
    s3 = active.client("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket=BUCKET, Key="photo", Body=b"x")
    begin(active, job())

    assert check_data(active, s3).check
    assert remove(active, s3, delete_data=True).check

    assert s3.get_object(Bucket=BUCKET, Key="photo")["Body"].read() == b"x"
