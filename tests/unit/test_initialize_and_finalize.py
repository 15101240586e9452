"""The first and the last stage of provision_project, on the tables alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from provisioner.drivers import dynamodb
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.jobs.models import JobStatus, StageStatus
from provisioner.jobs.stage import JobInput, StageOutcome
from provisioner.jobs.stage_run import JobStages, StageRunner
from provisioner.provisioning.instances import wanted_instance
from provisioner.provisioning.job_types import JOB_TYPES, provision_project
from provisioner.provisioning.job_types.provision_project import ProvisionProjectResult
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.placement import ensure_placed
from provisioner.provisioning.projects import ProjectStatus
from provisioner.provisioning.stages.initialize import ensure_initialized
from provisioner.provisioning.stages.provision import ensure_active
from provisioner.runtime.observability import metrics
from support.core import ACCOUNT, REGION, Core, provisioned_result, valid_payload

NAMING = Naming("nm", f"test-{ACCOUNT}")

#: What INITIALIZING says of a project that is to share a cluster.
NOT_YET = {"already_provisioned": False, "is_dedicated": False, "is_alone": True}

#: What it says of a project of Ada's besides.
OF_ADA = {"owner_id": "ada"}


def job(job_id: str = "job-1", project_id: str = "shop", **payload: Any) -> JobInput:
    """Return a job as the execution carries it."""
    return JobInput(
        job_id=job_id,
        job_type="provision_project",
        payload=valid_payload(project_id, **payload).model_dump(mode="json"),
    )


def initialize(core: Core, of: JobInput, limit: int = 10) -> StageOutcome:
    """Run INITIALIZING."""
    return ensure_initialized(
        of,
        jobs=core.jobs,
        projects=core.projects,
        catalogue=core.catalogue,
        naming=NAMING,
        default_project_quota=limit,
    )


def refused(core: Core, of: JobInput, limit: int = 10) -> ProvisioningError:
    """Run INITIALIZING, which is to refuse the job and to leave everything as it is."""
    before = core.scan("ProjectsTable"), core.scan("QuotasTable")
    with pytest.raises(ProvisioningError) as raised:
        initialize(core, of, limit)
    assert (core.scan("ProjectsTable"), core.scan("QuotasTable")) == before
    return raised.value


def test_a_project_is_held_by_the_job_and_counted(core: Core) -> None:
    core.new_project(owner_id="ada")

    outcome = initialize(core, job())

    assert (outcome.output, outcome.completion) == (NOT_YET | OF_ADA, None)
    assert outcome.check
    project = core.projects.get("shop")
    assert project is not None
    assert (project.status, project.locked_by, project.quota) == (
        ProjectStatus.PROVISIONING,
        "job-1",
        "owner#ada",
    )
    assert core.projects.quotas.used("owner#ada") == 1


def test_it_may_run_twice(core: Core) -> None:
    core.new_project(owner_id="ada")
    initialize(core, job())
    before = core.scan("ProjectsTable"), core.scan("QuotasTable")

    again = initialize(core, job(), limit=1)

    assert again.output == NOT_YET | OF_ADA
    assert (core.scan("ProjectsTable"), core.scan("QuotasTable")) == before


def test_two_runs_of_it_may_meet(core: Core) -> None:
    core.new_project(owner_id="ada")

    def another_run_locks(_call: Any) -> None:
        core.answers.clear()
        initialize(core, job())

    core.answers["dynamodb.TransactWriteItems"] = another_run_locks

    assert initialize(core, job()).output == NOT_YET | OF_ADA
    assert core.projects.quotas.used("owner#ada") == 1


def test_the_project_s_owner_goes_before_the_payload_s(core: Core) -> None:
    core.new_project(organization_id="acme")

    initialize(core, job(owner_id="ada"))

    assert core.projects.quotas.used("organization#acme") == 1
    assert core.projects.quotas.used("owner#ada") == 0


@pytest.mark.parametrize(
    ("database", "sentence"),
    [
        (
            {"engine": "mysql"},
            (
                "region: eu-central-1 is not served for mysql; "
                "choose a region that has a database cluster."
            ),
        ),
        (
            {"version": "15"},
            (
                "database.version: no postgresql cluster of eu-central-1 is of version 15; "
                "there are 16.4, 18."
            ),
        ),
        (
            {"engine": "mysql", "size": "db.t4g.micro"},
            (
                "database.size: no sizes are allowed for a mysql instance in eu-central-1; "
                "leave it out for a shared cluster."
            ),
        ),
        (
            {"size": "db.r8g.48xlarge"},
            (
                "database.size: db.r8g.48xlarge is not allowed for a postgresql instance in "
                "eu-central-1; choose one of db.t4g.micro, db.t4g.large."
            ),
        ),
        (
            {"size": "db.t4g.micro", "version": "1"},
            (
                "database.version: 1 is not allowed for a postgresql instance in eu-central-1; "
                "choose one of 18.1, 17.7, 16.11, or leave it out."
            ),
        ),
        *(
            (
                {"size": "db.t4g.micro", "storage_gb": storage_gb},
                (
                    f"database.storage_gb: {storage_gb} is not allowed for a postgresql instance "
                    "in eu-central-1; choose 20 to 200."
                ),
            )
            for storage_gb in (19, 201)
        ),
    ],
)
def test_a_database_that_is_not_served_is_refused_with_what_is(
    core: Core, database: dict[str, Any], sentence: str
) -> None:
    core.describe_clusters(
        {"cluster_id": "first"},
        {"cluster_id": "second", "version": "18"},
        {"cluster_id": "third", "version": "16.4"},
    )
    core.allow_instances()
    core.new_project()

    error = refused(core, job(database=database))

    assert (error.type, error.message) == (ErrorType.INVALID_PAYLOAD, sentence)


@pytest.mark.parametrize(
    ("database", "is_dedicated"),
    [
        ({"version": "18"}, False),
        ({"version": "16"}, False),
        ({"version": "16.4"}, False),
        ({"size": "db.t4g.micro"}, True),
        ({"size": "db.t4g.large", "version": "17", "storage_gb": 200}, True),
        ({"size": "db.t4g.large", "version": "16.11", "storage_gb": 20}, True),
    ],
)
def test_a_database_that_is_served_is_taken(
    core: Core, database: dict[str, Any], *, is_dedicated: bool
) -> None:
    core.describe_clusters(
        {"cluster_id": "second", "version": "18.1"}, {"cluster_id": "third", "version": "16.4"}
    )
    core.allow_instances()
    core.new_project()

    assert initialize(core, job(database=database)).output == NOT_YET | {
        "is_dedicated": is_dedicated
    }


def test_a_region_whose_clusters_declare_no_version_serves_none(core: Core) -> None:
    core.new_project()

    error = refused(core, job(database={"version": "18"}))

    assert error.message == (
        "database.version: no postgresql cluster of eu-central-1 is of version 18; "
        "none declares a version; leave it out."
    )


@pytest.mark.parametrize(
    ("database", "field"),
    [
        ({}, "database.size"),
        ({"size": "db.t4g.large"}, "database.size"),
        ({"size": "db.t4g.micro", "storage_gb": 41}, "database.storage_gb"),
        ({"size": "db.t4g.micro", "version": "17"}, "database.version"),
        ({"engine": "mysql", "size": "db.t4g.micro"}, "database.engine"),
        ({"size": "db.t4g.micro", "snapshot": "nm-shop"}, "database.snapshot"),
    ],
)
def test_an_instance_that_was_begun_is_not_left_behind_for_another(
    core: Core, database: dict[str, Any], field: str
) -> None:
    core.allow_instances()
    core.allow_instances("mysql", versions=["8.4.3"])
    core.new_project()
    begun = job(database={"size": "db.t4g.micro"})
    initialize(core, begun)
    place_instance(core, begun)
    fail(core)

    error = refused(core, job("job-2", database=database))

    assert error.type is ErrorType.INVALID_PAYLOAD
    assert error.message.startswith(f"{field}: the project has been begun with ")
    for same in ({}, {"version": "18"}, {"version": "18.1", "storage_gb": 40}):
        initialize(core, job("job-2", database={"size": "db.t4g.micro"} | same))


@pytest.mark.parametrize(
    ("version", "is_taken"),
    [("18", True), ("18.1", True), ("18.2", True), ("18.3", False), ("17", False)],
)
def test_an_instance_that_aws_has_put_a_newer_minor_version_in_is_what_was_asked_for(
    core: Core, version: str, *, is_taken: bool
) -> None:
    core.allow_instances()
    core.new_project()
    begun = job(database={"size": "db.t4g.micro", "version": "18.1"})
    initialize(core, begun)
    place_instance(core, begun)
    project = core.projects.get("shop")
    assert project is not None
    assert project.instance is not None
    upgraded = replace(project.instance, version="18.2", host="instance.example", port=5432)
    core.projects.places.keep_instance("shop", upgraded)
    fail(core)
    again = job("job-2", database={"size": "db.t4g.micro", "version": version})

    if not is_taken:
        assert refused(core, again).message.startswith("database.version: the project has been")
        return
    assert initialize(core, again).output == NOT_YET | {"is_dedicated": True, "is_alone": False}
    cluster = ensure_placed(
        valid_payload(database=again.payload["database"]),
        projects=core.projects,
        catalogue=core.catalogue,
    )
    assert (cluster.host, cluster.version) == ("instance.example", "18.2")


def test_a_place_on_a_shared_cluster_is_not_left_behind_for_an_instance(core: Core) -> None:
    core.allow_instances()
    core.new_project()
    initialize(core, job())
    ensure_placed(valid_payload(), projects=core.projects, catalogue=core.catalogue)
    fail(core)

    error = refused(core, job("job-2", database={"size": "db.t4g.micro"}))

    assert error.message.startswith("database.size: the project has been begun with none;")


def test_a_snapshot_is_no_reason_to_leave_what_a_project_has(core: Core) -> None:
    core.allow_instances()
    core.new_project()
    begun = job(database={"size": "db.t4g.micro", "snapshot": "nm-shop"})
    initialize(core, begun)
    place_instance(core, begun)
    result = provisioned_result()
    dynamodb.transact(
        core.client("dynamodb"), core.projects.build_activation("shop", "job-1", result, {})
    )

    error = refused(core, job("job-2", database={"size": "db.t4g.micro", "snapshot": "another"}))

    assert (error.type, error.message) == (
        ErrorType.INVALID_PAYLOAD,
        (
            "database.snapshot: it becomes a new instance, and shop is provisioned; deprovision "
            "the project first."
        ),
    )
    # The one that it was made of is there, as all else that was asked for.
    completion = initialize(core, begun).completion
    assert completion is not None
    assert completion.result == result


def fail(core: Core) -> None:
    """Let go of the project, with what the job has made of it kept."""
    dynamodb.transact(
        core.client("dynamodb"), core.projects.build_release_as_failed("shop", "job-1")
    )


def place_instance(core: Core, of: JobInput) -> None:
    """Settle the project's own instance as CREATING_INSTANCE does."""
    payload = valid_payload(**{k: v for k, v in of.payload.items() if k == "database"})
    wanted = wanted_instance(
        payload,
        core.catalogue.allowance(REGION, payload.database.engine),
        NAMING.names("shop"),
        job_id="job-1",
    )
    core.projects.places.place("shop", wanted.identifier, wanted.quota, 2, instance=wanted)


def test_a_payload_that_is_wrong_is_refused_before_anything_is_called(core: Core) -> None:
    of = JobInput(job_id="job-1", job_type="x", payload={"project_id": "../x", "region": "a"})

    with pytest.raises(ProvisioningError) as raised:
        initialize(core, of)

    assert raised.value.type is ErrorType.INVALID_PAYLOAD
    assert core.calls == []


def test_a_project_that_does_not_exist_is_not_found(core: Core) -> None:
    error = refused(core, job())

    assert (error.type, error.message) == (
        ErrorType.PROJECT_NOT_FOUND,
        "project_id: there is no project shop; create it first.",
    )


@pytest.mark.parametrize("field", ["owner_id", "organization_id"])
def test_another_s_project_is_refused(core: Core, field: str) -> None:
    core.new_project(**{field: "ada"})

    error = refused(core, job(**{field: "eve"}))

    assert (error.type, error.message) == (
        ErrorType.INVALID_PAYLOAD,
        f"{field}: is not the project's; leave it out or correct it.",
    )


def test_a_region_that_is_not_served_is_refused(core: Core) -> None:
    core.new_project()

    error = refused(core, job(region="us-east-1"))

    assert (error.type, error.message) == (
        ErrorType.INVALID_PAYLOAD,
        (
            "region: us-east-1 is not served for postgresql; "
            "choose a region that has a database cluster."
        ),
    )


def test_a_project_that_another_job_holds_is_busy(core: Core) -> None:
    core.new_project(owner_id="ada")
    initialize(core, job())

    error = refused(core, job("job-2"))

    assert (error.type, error.message) == (
        ErrorType.PROJECT_BUSY,
        "project_id: shop is locked by job job-1; wait until that job has ended.",
    )


@pytest.mark.parametrize(
    ("party", "sentence"),
    [
        ({"owner_id": "ada"}, "owner_id: owner ada has reached its limit of 1 projects; "),
        (
            {"owner_id": "ada", "organization_id": "acme"},
            "organization_id: organization acme has reached its limit of 1 projects; ",
        ),
    ],
)
def test_a_quota_that_is_reached_is_named_with_its_limit(
    core: Core, party: dict[str, str], sentence: str
) -> None:
    core.new_project("first", **party)
    initialize(core, job(project_id="first"), limit=1)
    core.new_project(**party)

    error = refused(core, job("job-2"), limit=1)

    assert error.type is ErrorType.QUOTA_EXCEEDED
    assert error.message.startswith(sentence)


RESULT = {"project_id": "shop", "made": "before"}


def test_a_project_that_is_provisioned_already_ends_the_job_with_its_result(core: Core) -> None:
    core.new_project()
    initialize(core, job())
    items = core.projects.build_activation("shop", "job-1", RESULT, {})
    dynamodb.transact(core.client("dynamodb"), items)
    before = core.scan("ProjectsTable"), core.scan("QuotasTable")

    outcome = initialize(core, job("job-2", region="us-east-1"))

    assert outcome.output == {"already_provisioned": True}
    assert outcome.completion is not None
    assert (outcome.completion.result, outcome.completion.also) == (RESULT, ())
    assert (core.scan("ProjectsTable"), core.scan("QuotasTable")) == before


OUTPUTS: dict[str, dict[str, Any]] = {
    provision_project.INITIALIZING: {"already_provisioned": False, "owner_id": "ada"},
    provision_project.CREATING_INSTANCE: {},
    provision_project.CREATING_DATABASE: {
        "cluster_id": "first",
        "host": "db.example",
        "port": 5432,
        "database_name": "nm_shop",
        "schema_name": "app",
        "engine": "postgresql",
        "version": "18.1",
        "connection_string": "postgresql://nm_shop_app@db.example:5432/nm_shop",
        "secret_arn": "arn:of:login",
    },
    provision_project.CREATING_SCHEMA: {"schema_name": "app"},
    provision_project.REGISTERING_AUTH: {
        "enabled": True,
        "tenant_id": "pool",
        "endpoint": "https://auth",
        "client_id": "client",
    },
    provision_project.REGISTERING_REALTIME: {
        "enabled": True,
        "tenant_id": "api",
        "endpoint": "https://rt",
    },
    provision_project.REGISTERING_STORAGE: {},
    provision_project.GENERATING_API_KEYS: {
        "api_keys": [
            {"key_id": "key_1", "key_prefix": "nm_abc", "created_at": "2026-01-31T10:00:00+00:00"}
        ],
        "secret_arn": "arn:of:keys",
        "claim_before": "2026-03-02T10:00:00.000000+00:00",
    },
}


def run_to_finalizing(core: Core, *, leave_out: str = "", without_check: str = "") -> None:
    """Run every stage but the last, as far as the tables show."""
    core.new_project(owner_id="ada")
    stored = core.new_job()
    initialize(core, job())
    for stage, output in OUTPUTS.items():
        if stage == leave_out:
            continue
        core.jobs.start_stage(stored, stage, 0)
        status = StageStatus.SUCCEEDED if output else StageStatus.SKIPPED
        check = "" if stage == without_check else "it answers"
        core.jobs.end_stage("job-1", stage, status, output=output, check=check)
        stored = core.jobs.get("job-1")


def finalize(core: Core, retry_count: int = 0) -> dict[str, Any]:
    """Run FINALIZING as its function does."""

    metrics.clear_metrics()  # as at the end of a function

    def stage(of: JobInput) -> StageOutcome:
        return ensure_active(of, jobs=core.jobs, projects=core.projects)

    stages: JobStages = {"provision_project": {provision_project.FINALIZING: stage}}
    return StageRunner(core.jobs, stages, definitions=JOB_TYPES)(
        {"job": job().model_dump(), "stage": "FINALIZING", "retry_count": retry_count}
    )


def test_project_and_job_end_in_one_transaction_with_the_result(core: Core) -> None:
    run_to_finalizing(core)
    core.clock.advance()
    core.calls.clear()

    finalize(core)

    stored = core.jobs.get("job-1")
    project = core.projects.get("shop")
    assert project is not None
    assert (stored.status, project.status) == (JobStatus.COMPLETED, ProjectStatus.ACTIVE)
    assert (project.locked_by, project.quota) == (None, "owner#ada")
    # The start of the stage, and all of the end.
    assert len(core.calls_of("dynamodb.TransactWriteItems")) == 2
    expected = {
        "project_id": "shop",
        "database": {
            name: value
            for name, value in OUTPUTS[provision_project.CREATING_DATABASE].items()
            if name != "cluster_id"
        },
        "services": {
            "auth": {
                "enabled": True,
                "tenant_id": "pool",
                "endpoint": "https://auth",
                "client_id": "client",
            },
            "realtime": {"enabled": True, "tenant_id": "api", "endpoint": "https://rt"},
        },
        "api_keys": [
            {"key_id": "key_1", "key_prefix": "nm_abc", "created_at": "2026-01-31T10:00:00Z"}
        ],
        "api_keys_secret_arn": "arn:of:keys",
        "api_keys_claim_before": "2026-03-02T10:00:00Z",
        "metadata": {
            "provisioned_at": "2026-01-31T10:00:01Z",
            "region": "eu-central-1",
            "owner_id": "ada",
        },
    }
    assert stored.result == project.result == expected
    assert ProvisionProjectResult.model_validate(stored.result)


def test_the_end_may_come_twice(core: Core) -> None:
    run_to_finalizing(core)
    first = finalize(core)
    before = core.jobs.get("job-1"), core.scan("ProjectsTable")
    core.clock.advance()

    assert finalize(core, retry_count=1) == first
    assert (core.jobs.get("job-1"), core.scan("ProjectsTable")) == before


@pytest.mark.parametrize("stage", OUTPUTS)
@pytest.mark.parametrize("how", ["leave_out", "without_check"])
def test_no_job_completes_before_every_stage_has_reported_its_check(
    core: Core, stage: str, how: str
) -> None:
    run_to_finalizing(core, **{how: stage})

    with pytest.raises(ProvisioningError, match=f"Stage {stage} has not reported"):
        finalize(core)

    project = core.projects.get("shop")
    assert project is not None
    assert project.status is ProjectStatus.PROVISIONING
    assert core.jobs.get("job-1").status is JobStatus.RUNNING


def test_a_job_that_lost_its_project_does_not_end_well(core: Core) -> None:
    run_to_finalizing(core)
    dynamodb.transact(
        core.client("dynamodb"), core.projects.build_release_as_failed("shop", "job-1")
    )

    with pytest.raises(ProvisioningError) as raised:
        finalize(core)

    assert raised.value.type is ErrorType.CONFLICT
    assert core.jobs.get("job-1").status is JobStatus.RUNNING


def test_a_project_that_is_gone_does_not_end_well(core: Core) -> None:
    run_to_finalizing(core)
    core.client("dynamodb").delete_item(
        TableName="ProjectsTable", Key=dynamodb.to_item({"project_id": "shop"})
    )

    with pytest.raises(ProvisioningError) as raised:
        finalize(core)

    assert raised.value.type is ErrorType.CONFLICT
