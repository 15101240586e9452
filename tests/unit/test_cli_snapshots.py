"""Which snapshots `provision snapshots` shows, and which it takes."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from boto3.dynamodb.conditions import Attr
from provision_cli.main import main
from provisioner import api
from provisioner.drivers import dynamodb
from provisioner.drivers.mysql.snapshot import MysqlDumper
from provisioner.drivers.rds_snapshots import KEPT_UNTIL_TAG
from provisioner.errors import ErrorType, ProvisioningError
from provisioner.ownership import JOB_TAG, PROJECT_TAG
from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectStatus
from provisioner.provisioning.snapshots import Snapshots, list_instance_snapshots
from provisioner.runtime.platform import PlatformSettings
from support.core import REGION, Answer, Core, aws_error, make_stack
from support.drivers import OWNER, tag_list
from support.mysql_tenants import MysqlTenant

BUCKET = "snapshots"

HEADINGS = ["snapshot", "kind", "taken (UTC)", "size", "server", "kept until", "job"]

#: Runs a command against the stack; returns its exit code, what it showed and what it complained.
type Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    core: Core,
    connected: PlatformSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    make_stack(connected)
    # The command sets it, and is not to leave it to other tests.
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    core.client("s3").create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
    )

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--stack", "provisioner", "--region", REGION, "snapshots", *arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err.removeprefix("provision: ").rstrip("\n")

    return run


def put(core: Core, key: str, **metadata: str) -> None:
    contents = b"x" * 1234
    core.client("s3").put_object(Bucket=BUCKET, Key=key, Body=contents, Metadata=metadata)


def one_a_page(objects: Mapping[str, dt.datetime]) -> Answer:
    """Answer ListObjectsV2 with one object a page."""
    listed = [
        {"Key": key, "LastModified": at, "Size": 1234, "ETag": '"1"'} for key, at in objects.items()
    ]

    def answer(parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        number = int(parameters.get("ContinuationToken", "0"))
        more = {"NextContinuationToken": str(number + 1)} if number + 1 < len(listed) else {}
        return 200, {"Contents": [listed[number]], "IsTruncated": bool(more), **more}

    return answer


def test_snapshots_are_listed_newest_first_from_all_pages(core: Core) -> None:
    days = (dt.datetime(2026, 1, day, 10, tzinfo=dt.UTC) for day in (2, 31, 1))
    keys = ("shop/a-1.dump", "shop/b-2.dump", "shop/by-hand.dump")
    core.client("s3").create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    for key in keys:
        put(core, key)
    core.answers["s3.ListObjectsV2"] = one_a_page(dict(zip(keys, days, strict=True)))
    snapshots = Snapshots(core.client("s3"), BUCKET)

    found = snapshots.of_project("shop")

    assert [snapshot.key for snapshot in found] == [keys[1], keys[0], keys[2]]
    assert snapshots.find("shop", None) == found[0]
    assert {call["Prefix"] for call in core.calls_of("s3.ListObjectsV2")} == {"shop/"}


def test_a_bucket_that_may_not_be_read_says_so(core: Core) -> None:
    core.answers["s3.ListObjectsV2"] = aws_error("AccessDenied", 403)

    with pytest.raises(ProvisioningError) as raised:
        Snapshots(core.client("s3"), BUCKET).find("shop", None)

    assert raised.value.type is ErrorType.INSUFFICIENT_PERMISSIONS


def test_a_snapshot_is_shown_with_its_time_size_server_and_job(
    core: Core, command: Command
) -> None:
    put(core, "shop/by-hand.dump", **{"server-version": "18.6", "job-id": "job-1"})
    [stored] = core.client("s3").list_objects_v2(Bucket=BUCKET)["Contents"]

    code, shown, _ = command("list", "shop")

    heading, row = (re.split(r"\s{2,}", line) for line in shown.splitlines())
    assert (code, heading) == (0, HEADINGS)
    at = f"{stored['LastModified']:%Y-%m-%d %H:%M:%S}"
    # Nothing says until when a dump is kept.
    assert row == ["shop/by-hand.dump", "dump", at, "1,234 bytes", "18.6", "job-1"]


def test_the_snapshots_of_a_project_are_no_others(core: Core, command: Command) -> None:
    for key in ("shop-2/a-1.dump", "shopping/b-2.dump", "Shop/c-3.dump"):
        put(core, key)

    assert command("list", "shop")[:2] == (0, "There are no snapshots of project shop.\n")
    put(core, "shop/d-4.dump")
    shown = command("list", "shop")[1]
    assert [line.split()[0] for line in shown.splitlines()] == ["snapshot", "shop/d-4.dump"]


@pytest.fixture
def snapshots(core: Core) -> Snapshots:
    """Return what reads a bucket with snapshots of two projects."""
    s3 = core.client("s3")
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    for key in ("shop/ab-1.dump", "shop/abc.dump", "shop/abcd.dump", "cafe/ef-1.dump"):
        put(core, key)
    return Snapshots(s3, BUCKET)


def test_a_snapshot_is_named_by_a_unique_beginning(snapshots: Snapshots) -> None:
    for wanted, key in {
        "ab-": "shop/ab-1.dump",
        "ab-1": "shop/ab-1.dump",
        "shop/ab-1.dump": "shop/ab-1.dump",
        "shop/ab-": "shop/ab-1.dump",
        # The whole name of one, though another begins so.
        "abc": "shop/abc.dump",
        "abc.dump": "shop/abc.dump",
        "abcd": "shop/abcd.dump",
    }.items():
        assert snapshots.find("shop", wanted).key == key


def test_what_names_no_snapshot_of_the_project_or_several_is_refused(
    snapshots: Snapshots,
) -> None:
    for wanted, said in {
        "ab": "3 of project shop begin so; write more of it.",
        "shop/ab": "3 of project shop begin so; write more of it.",
        "xyz": "project shop has none of that name; list them.",
        "shop/shop/ab-1": "project shop has none of that name; list them.",
        "cafe/ef-1.dump": "project shop has none of that name; list them.",
        "../cafe/ef-1": "project shop has none of that name; list them.",
    }.items():
        with pytest.raises(api.SnapshotNotFoundError) as raised:
            snapshots.find("shop", wanted)
        assert str(raised.value) == f"snapshot {wanted}: {said}"


def test_a_project_without_snapshots_says_so(command: Command) -> None:
    assert command("restore", "shop")[::2] == (1, "project shop: there is no snapshot of it.")


def test_what_is_no_project_id_is_refused(command: Command) -> None:
    for words in (("list", "../shop"), ("restore", "../shop")):
        code, _, complaint = command(*words)

        assert (code, complaint.partition(":")[0]) == (1, "INVALID_PAYLOAD")


def test_the_command_says_what_it_does_not_find(core: Core, command: Command) -> None:
    put(core, "shop/a-1.dump")

    assert command("restore", "shop", "--snapshot", "b")[::2] == (
        *(1, "snapshot b: project shop has none of that name; list them."),
    )
    assert command("restore", "shop")[2].startswith("project shop: there is no such project")


def test_a_project_that_nobody_may_use_is_not_restored_into(core: Core, command: Command) -> None:
    put(core, "shop/a-1.dump")
    core.new_project()

    assert "shop is CREATED; provision it first, or name another" in command("restore", "shop")[2]

    core.client("dynamodb").update_item(
        TableName="ProjectsTable",
        Key={"project_id": {"S": "shop"}},
        UpdateExpression="SET #s = :active, locked_by = :job",
        ExpressionAttributeNames={"#s": "status"},
        ExpressionAttributeValues={":active": {"S": ProjectStatus.ACTIVE}, ":job": {"S": "job-9"}},
    )

    assert "shop is locked by job job-9; wait until" in command("restore", "shop")[2]

    core.client("dynamodb").update_item(
        TableName="ProjectsTable",
        Key={"project_id": {"S": "shop"}},
        UpdateExpression="REMOVE locked_by",
    )

    assert "the secret with the database login of shop is not" in command("restore", "shop")[2]


def test_what_is_no_url_is_refused_without_its_password(core: Core, command: Command) -> None:
    put(core, "shop/a-1.dump")

    url = "postgresql://app:HiddenPassword@host"  # kingfisher:ignore
    code, _, complaint = command("restore", "shop", "--into", url)

    assert (code, complaint.startswith("INVALID_PAYLOAD: into: must be")) == (1, True)
    assert "HiddenPassword" not in complaint


@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("arguments", [{"snapshot": 7}, {"snapshot": ""}, {"into": 7}])
def test_an_argument_that_is_no_text_is_named(core: Core, arguments: dict[str, Any]) -> None:
    with pytest.raises(ProvisioningError) as raised:
        api.restore_snapshot("shop", **arguments)

    assert raised.value.type is ErrorType.INVALID_PAYLOAD
    assert raised.value.message.startswith(f"{next(iter(arguments))}: ")
    assert core.calls == []


def test_a_snapshot_of_mysql_is_restored_by_a_url_of_mysqls(
    core: Core, command: Command, make_mysql_tenant: Callable[[], MysqlTenant]
) -> None:
    source, target = make_mysql_tenant(), make_mysql_tenant()
    for tenant in (source, target):
        tenant.ensure()
    source.as_tenant("CREATE TABLE words (word text)", "INSERT INTO words VALUES ('kept')")
    claim = source.owner.claim(only_this_job=False)
    with MysqlDumper(source.admin).dump(source.names, claim, 60.0) as dump:
        assert dump is not None
        core.client("s3").put_object(
            Bucket=BUCKET, Key="shop/a-1.dump", Body=dump.read(), Metadata={"engine": "mysql"}
        )

    code, shown, complaint = command("restore", "shop", "--into", target.url())

    assert (code, complaint) == (0, "")
    assert f"is restored into database {target.names.database} on {target.server.host}:" in shown
    assert target.as_tenant("SELECT word FROM words") == (("kept",),)


def test_a_snapshot_is_restored_into_its_own_technology_only(core: Core, command: Command) -> None:
    put(core, "shop/a-1.dump", engine="mysql")
    put(core, "cafe/a-1.dump", engine="postgresql")
    for project, url, engines in (
        ("shop", "postgresql://app@host/database", ("mysql", "postgresql")),
        ("cafe", "mysql://app@host/database", ("postgresql", "mysql")),
    ):
        code, _, complaint = command("restore", project, "--into", url)
        assert code == 1
        assert complaint == (
            f"DATABASE_CHANGE_FAILED: The snapshot is of a database of {engines[0]}, and the one "
            f"to restore into is of {engines[1]}; name one of {engines[0]} by its connection URL."
        )


# --- Of instances of the project's own ------------------------------------------------------------

SIZE = "db.t4g.micro"
NAMES = Naming("nm", OWNER.namespace).names("shop")


@dataclass
class Instances:
    """A project whose own instance was removed, and the snapshots of it that Amazon RDS has."""

    core: Core

    def set(self, **values: Any) -> None:
        """Set attributes of the project's item."""
        dynamodb.transact(
            self.core.client("dynamodb"),
            [
                dynamodb.build_update(
                    "ProjectsTable", {"project_id": "shop"}, values, Attr("project_id").exists()
                )
            ],
        )

    def take(self, job_id: str, engine: str = "postgres", **tags: str) -> str:
        """Take a snapshot with these tags besides, and return its name."""
        rds, name = self.core.client("rds"), {"DBInstanceIdentifier": NAMES.instance}
        identifier = f"{NAMES.instance}-{job_id}"
        rds.create_db_instance(
            **name, DBInstanceClass=SIZE, Engine=engine, EngineVersion="17.5", AllocatedStorage=50
        )
        marker = {**OWNER.tags(), JOB_TAG: job_id, **tags}
        rds.create_db_snapshot(**name, DBSnapshotIdentifier=identifier, Tags=tag_list(marker))
        rds.delete_db_instance(**name, SkipFinalSnapshot=True)
        return identifier

    def payloads(self) -> list[Any]:
        """Return the payloads of the jobs that were enqueued."""
        return [
            json.loads(one["Body"])["payload"] for one in self.core.messages(self.core.queue_url)
        ]


@pytest.fixture
def instances(core: Core, command: Command) -> Instances:
    del command
    core.new_project()
    made = Instances(core)
    made.set(status=ProjectStatus.DEPROVISIONED, last_instance={"region": REGION, "size": SIZE})
    return made


def test_both_kinds_of_snapshots_are_in_one_table(instances: Instances, command: Command) -> None:
    put(instances.core, "shop/a-1.dump", **{"server-version": "18.6", "job-id": "a-1"})
    identifier = instances.take("b-2", **{KEPT_UNTIL_TAG: "2026-02-26"})
    instances.take("c-3", **{PROJECT_TAG: "another"})
    (taken,) = instances.core.client("rds").describe_db_snapshots(DBSnapshotIdentifier=identifier)[
        "DBSnapshots"
    ]

    code, shown, _ = command("list", "shop")

    heading, *rows = (re.split(r"\s{2,}", line) for line in shown.splitlines())
    assert (code, heading) == (0, HEADINGS)
    at = f"{taken['SnapshotCreateTime']:%Y-%m-%d %H:%M:%S}"
    newest, oldest = rows
    assert newest == [identifier, f"RDS, {REGION}", at, "50 GiB", "17.5", "2026-02-26", "b-2"]
    assert oldest[:2] == ["shop/a-1.dump", "dump"]


def test_rds_is_asked_for_snapshots_of_a_project_that_has_had_an_instance(
    instances: Instances,
) -> None:
    core, naming = instances.core, Naming("nm", OWNER.namespace)
    asked: list[str] = []

    def rds(region: str) -> Any:
        asked.append(region)
        return core.client("rds", region)

    for project_id, regions in {"shop": [REGION], "other": []}.items():
        project = core.projects.get(project_id) or core.new_project(project_id)
        asked.clear()
        assert list_instance_snapshots(project, rds=rds, naming=naming) == []
        assert asked == regions


def test_a_snapshot_of_rds_is_restored_by_a_job(instances: Instances, command: Command) -> None:
    put(instances.core, "shop/a-1.dump")
    older, newest = instances.take("b-2"), instances.take("c-3")

    code, shown, hint = command("restore", "shop")
    assert code == 0
    job_id = shown.strip()
    assert hint == f"QUEUED; `provision watch {job_id}` follows it."
    large = ("--size", "db.t4g.large", "--storage-gb", "60")
    assert command("restore", "shop", "--snapshot", "b-2", *large)[0] == 0

    first, second = instances.payloads()
    assert (first["project_id"], first["region"]) == ("shop", REGION)
    asked = {"engine": "postgresql", "version": None}
    assert first["database"] == asked | {"size": SIZE, "storage_gb": None, "snapshot": newest}
    other = {"size": "db.t4g.large", "storage_gb": 60, "snapshot": older}
    assert second["database"] == asked | other


def test_a_snapshot_of_rds_is_no_dump(instances: Instances, command: Command) -> None:
    put(instances.core, "shop/a-1.dump")
    identifier = instances.take("b-2")
    url = "postgresql://app@host/database"

    assert command("restore", "shop", "--snapshot", "b-2", "--into", url)[::2] == (
        1,
        (
            f"--into: the snapshot {identifier} is one of Amazon RDS, which becomes an instance of "
            "the project's own; leave --into out, once the project is deprovisioned."
        ),
    )
    # What no job makes needs no size.
    for words in (("--snapshot", "a-1", "--size", SIZE), ("--into", url, "--storage-gb", "60")):
        assert command("restore", "shop", *words)[2].startswith("--size, --storage-gb: go with")
    # Without a name, a dump is what goes into a database.
    assert "host" in command("restore", "shop", "--into", url)[2]
    with pytest.raises(api.SnapshotNotFoundError):
        api.restore_instance("shop", "a-1", size=SIZE)
    assert instances.payloads() == []


def test_what_cannot_become_an_instance_is_refused(instances: Instances, command: Command) -> None:
    identifier = instances.take("b-2")
    into = ("--into", "postgresql://app@host/database")
    assert command("restore", "shop", *into)[2] == "project shop: there is no dump of it."
    instances.set(status=ProjectStatus.ACTIVE)

    assert command("restore", "shop")[2] == (
        f"DATABASE_CHANGE_FAILED: project_id: shop is ACTIVE, and the snapshot {identifier} "
        "becomes an instance of its own; deprovision the project first."
    )

    instances.set(status=ProjectStatus.DEPROVISIONED)
    other = instances.take("c-3", engine="oracle-ee")
    assert f"{other} is of a technology that projects cannot have" in command("restore", "shop")[2]
    for one in (identifier, other):
        instances.core.client("rds").delete_db_snapshot(DBSnapshotIdentifier=one)
    assert command("restore", "shop")[2] == "project shop: there is no snapshot of it."
    assert instances.payloads() == []
