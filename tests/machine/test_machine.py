"""Random sequences of everything that can happen to jobs, against the real code.

Hypothesis draws what is done: jobs enqueued, messages delivered, twice or late or never, executions
that go on by one state or end from outside, functions that die at any effect or hang and go on
later, cancels, retries, removals, the reconciler, and time. After each step the invariants below
hold; at the end everything is let run out, and then nothing may be held, owed or forgotten.

Each of these was broken once by hand and found: the lock is not given back by a failure, a quota is
counted twice, a clean-up leaves the bucket, what is foreign is taken for the project's own, a
password stands in a stage's check, a rotation does not end the old keys.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from provisioner import api
from provisioner.jobs.client import JobStateError
from provisioner.jobs.models import JobStatus, StageStatus
from provisioner.jobs.retries import STAGE_RETRY
from provisioner.ownership import PROJECT_TAG
from provisioner.provisioning.engine import Engine
from provisioner.provisioning.projects import ProjectStatus
from provisioner.runtime import aws
from support import stored_jobs
from support.leaks import leaks
from support.postgresql import PreparedCluster
from support.simulation import Fault, Kind, Resource, Simulation, simulation
from support.stored_jobs import StoredJob, StoredJobs, StoredStage
from support.workflow import ACCOUNT, NO_SERVICES, REGION, FunctionEnded

#: Examples of each of the two machines; two processes share the work.
EXAMPLES = 250

#: What is done in each example, at most, before everything is let run out.
STEPS = 8

#: What each of the two machines is to get to, or it shows nothing.
OUTCOMES = {
    "provision_project COMPLETED",
    "provision_project FAILED",
    "provision_project CANCELLED",
    "deprovision_project COMPLETED",
    "clean_up_project COMPLETED",
    "project ACTIVE",
    "project FAILED",
    "project DEPROVISIONED",
    "repaired",
    "GENERATING_API_KEYS WAITING",
    "FINALIZING WAITING",
}

#: Two of one owner, who may have one; one of an organization.
PROJECTS = ("first", "second", "third")
PARTIES: dict[str, dict[str, str]] = {
    "first": {"owner_id": "ada"},
    "second": {"owner_id": "ada"},
    "third": {"organization_id": "acme"},
}

_STORAGE = {"auth": False, "realtime": False}
SERVICES: tuple[dict[str, bool], ...] = (_STORAGE, _STORAGE, NO_SERVICES, NO_SERVICES, {})

#: What everyone waits for longest before something is done without being asked, in seconds.
LONG = 3700

#: What has happened over all examples: a machine that never gets anywhere shows nothing.
reached: Counter[str] = Counter()

whiches = st.integers(0, 5)
projects = st.sampled_from((*PROJECTS, "first"))
faults = st.one_of(
    st.none(),
    st.none(),
    st.builds(Fault, st.sampled_from(Kind), st.integers(1, 6)),
    st.builds(Fault, st.just(Kind.HANGS), st.integers(1, 3)),
    st.just(Fault(Kind.DIES, 99)),
)
deaths = st.one_of(st.none(), st.none(), st.builds(Fault, st.just(Kind.DIES), st.integers(1, 4)))

_RANK = {status: 2 if status.is_terminal else 1 for status in JobStatus} | {JobStatus.QUEUED: 0}


def act(**drawn: Any) -> Callable[[Callable[..., None]], Any]:
    """Make a rule that counts how often it has run."""

    def decorate(function: Callable[..., None]) -> Any:
        @wraps(function)
        def counted(self: Machine, **values: Any) -> None:
            reached[f"rule {function.__name__}"] += 1
            function(self, **values)

        as_rule: Any = rule(**drawn)
        return as_rule(counted)

    return decorate


class Machine(RuleBasedStateMachine):
    """What can happen, and what must hold whatever happens."""

    #: The deployment; made once, and anew for each example.
    world: Simulation

    def __init__(self) -> None:
        super().__init__()
        self.world.reset()
        self.job_ids: list[str] = []
        self.enqueued: list[tuple[str, dict[str, Any], str]] = []
        self.of_key: dict[str, str] = {}
        self.retries: Counter[str] = Counter()
        self.stored = StoredJobs({}, [], {})
        self.projects: list[dict[str, Any]] = []
        self.resources: list[Resource] = []
        #: The jobs and stages as they were after the step before.
        self.jobs: dict[str, StoredJob] = {}
        self.stages: dict[tuple[str, str], StoredStage] = {}
        self.history: dict[str, dict[str, str]] = {}
        #: Whether what is under way at the end gets lost, instead of being let run out.
        self.is_given_up = False
        self.foreign: str | None = None
        self.foreign_is: Any = None
        for project_id in PROJECTS:
            api.create_project(project_id, **PARTIES[project_id])

    # What happens.

    @initialize(
        foreign=st.sampled_from((None, None, None, None, "bucket", "secret", "role")),
        steps=st.sampled_from((0, 0, 4, 9, 12)),
        services=st.sampled_from(SERVICES),
        is_given_up=st.sampled_from((True, True, False)),
        polls=st.sampled_from((0, 0, 0, 2, 6)),
    )
    def begin(
        self,
        foreign: str | None,
        steps: int,
        services: dict[str, bool],
        is_given_up: bool,  # noqa: FBT001
        polls: int,
    ) -> None:
        """Some begin with a project that is under way, or there, or whose names are taken."""
        self.is_given_up = is_given_up
        self.let_wait(polls=polls, changes=True, lost=1)
        if foreign is not None:
            self.world.make_foreign(foreign, "first")
            self.foreign = foreign
            self.foreign_is = self._read_foreign()
        if steps:
            self._enqueue("provision_project", "first", {"services": services}, None)
            self.deliver(which=0, fault=None)
            self.go_on(which=0, steps=steps, fault=None)

    @act(
        project_id=projects,
        services=st.sampled_from(SERVICES),
        on_failure=st.sampled_from(("rollback", "rollback", "keep")),
        delay=st.sampled_from((0, 0, 0, 600)),
        fault=deaths,
    )
    def provision(
        self,
        project_id: str,
        services: dict[str, bool],
        on_failure: str,
        delay: int,
        fault: Fault | None,
    ) -> None:
        payload = {"services": services, "on_failure": on_failure}
        self._enqueue("provision_project", project_id, payload, fault, delay)

    @act(which=whiches, delete_data=st.booleans(), fault=deaths)
    def deprovision(self, which: int, delete_data: bool, fault: Fault | None) -> None:  # noqa: FBT001
        begun = [p["project_id"] for p in self.projects if p["status"] != ProjectStatus.CREATED]
        project_id = _pick(begun or PROJECTS, which)
        payload = {"confirm": project_id, "delete_data": delete_data, "final_snapshot": False}
        self._enqueue("deprovision_project", project_id, payload, fault)

    @precondition(lambda self: self._are("ACTIVE"))
    @act(which=whiches, hours=st.sampled_from((0, 0, 1)))
    def rotate_keys(self, which: int, hours: int) -> None:
        project_id = _pick(self._are("ACTIVE"), which)
        self._enqueue("rotate_api_keys", project_id, {"overlap_hours": hours, "count": 1}, None)

    @precondition(lambda self: self._are("ACTIVE"))
    @act(which=whiches)
    def rotate_password(self, which: int) -> None:
        self._enqueue("rotate_database_password", _pick(self._are("ACTIVE"), which), {}, None)

    @precondition(lambda self: self.enqueued)
    @act(which=whiches, fault=deaths)
    def enqueue_again(self, which: int, fault: Fault | None) -> None:
        """The same idempotency key with the same payload."""
        job_type, payload, key = _pick(self.enqueued, which)
        self._send(job_type, payload, key, fault, 0)

    @precondition(lambda self: self.world.letters)
    @act(which=whiches, fault=faults)
    def deliver(self, which: int, fault: Fault | None) -> None:
        if self.world.letters:
            self.world.deliver(_pick(self.world.letters, which), fault)
        self._look()

    @precondition(lambda self: self.world.delivered)
    @act(which=whiches)
    def deliver_again(self, which: int) -> None:
        """What was acknowledged long ago comes once more."""
        self.world.deliver(_pick(self.world.delivered, which))
        self._look()

    @precondition(lambda self: self.world.letters)
    @act(which=whiches, is_given_up=st.sampled_from((True, True, False)), fault=deaths)
    def lose(self, which: int, is_given_up: bool, fault: Fault | None) -> None:  # noqa: FBT001
        """A message gets lost, or the queue gives it up."""
        letter = _pick(self.world.letters, which)
        self.world.give_up(letter)
        if is_given_up:
            self.world.record_undelivered(letter, fault)
        else:
            self.world.undelivered.remove(letter)
        self._look()

    @precondition(lambda self: self.world.strands())
    @act(which=whiches, fault=faults)
    def step(self, which: int, fault: Fault | None) -> None:
        """One execution takes one step."""
        self.world.step(*_pick(self.world.strands(), which), fault)
        self._look()

    @precondition(lambda self: self.world.strands())
    @act(which=whiches, steps=st.integers(1, 12), fault=faults)
    def go_on(self, which: int, steps: int, fault: Fault | None) -> None:
        """The executions take some steps, the last of which meets the fault."""
        for left in range(steps, 0, -1):
            strands = self.world.strands()
            if strands:
                self.world.step(*_pick(strands, which), fault if left == 1 else None)
        self._look()

    @precondition(lambda self: self.world.running)
    @act(which=whiches, status=st.sampled_from(("ABORTED", "TIMED_OUT", "FAILED")))
    def end_execution(self, which: int, status: str) -> None:
        """Someone stops an execution, or it takes too long, or what it says gets lost."""
        self.world.end_execution(_pick(list(self.world.running), which), status)
        self._look()

    @precondition(lambda self: self.world.hanging)
    @act(which=whiches)
    def wake(self, which: int) -> None:
        """A function that was given up goes on."""
        self.world.go_on(_pick(self.world.hanging, which))
        reached["hanging function went on"] += 1
        self._look()

    @act(polls=st.integers(1, 6), changes=st.booleans(), lost=st.integers(0, 9))
    def let_wait(self, polls: int, changes: bool, lost: int) -> None:  # noqa: FBT001
        """A stage has to wait, for the same or for another thing each time; a poll gets lost."""
        self.world.waits = [
            None if number == lost else f"Thing {number * changes} is not there."
            for number in range(polls)
        ]

    @act(fault=faults)
    def sweep(self, fault: Fault | None) -> None:
        self.world.sweep(fault)
        self._look()

    @precondition(lambda self: self.world.events)
    @act(which=whiches, fault=faults)
    def hear(self, which: int, fault: Fault | None) -> None:
        """An event about the end of an execution arrives: late, twice, or in another order."""
        self.world.reconcile(_pick(self.world.events, which), fault)
        self._look()

    @act(seconds=st.sampled_from((65, 320, 920, LONG)))
    def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @precondition(lambda self: self.job_ids)
    @act(which=whiches, fault=deaths)
    def cancel(self, which: int, fault: Fault | None) -> None:
        self._ask(api.cancel_job, _latest(self.job_ids, which), fault)

    @precondition(lambda self: self._ended())
    @act(which=whiches, fault=deaths)
    def retry(self, which: int, fault: Fault | None) -> None:
        job_id = _pick(self._ended(), which)
        self.retries[job_id] += 1
        self._ask(api.retry_job, job_id, fault)

    @precondition(lambda self: self._ended())
    @act(which=whiches, fault=deaths)
    def clean_up_again(self, which: int, fault: Fault | None) -> None:
        job = self.stored.jobs[_pick(self._ended(), which)]
        self.retries[job.cleanup_job_id or job.job_id] += 1
        self._ask(api.retry_cleanup, job.job_id, fault)

    @precondition(lambda self: self._buckets())
    @act(which=whiches)
    def use_storage(self, which: int) -> None:
        """The project's users put something into its bucket, which is then not to be lost."""
        self.world.put_object(_pick(self._buckets(), which))

    @precondition(lambda self: self._buckets())
    @act(which=whiches)
    def empty_storage(self, which: int) -> None:
        self.world.empty(_pick(self._buckets(), which))

    @precondition(lambda self: self._are("ACTIVE"))
    @act(which=whiches)
    def claim_keys(self, which: int) -> None:
        project_id = _pick(self._are("ACTIVE"), which)
        claimed: list[str] = []
        with suppress(api.ApiKeysNotClaimableError):
            api.claim_api_keys(project_id, claimed.extend)
            keys = [api.verify_api_key(key) for key in claimed]
            assert all(key is None or key.project_id == project_id for key in keys)
            reached["keys claimed"] += 1

    @precondition(lambda self: self._are("ACTIVE"))
    @act(which=whiches, fault=deaths)
    def revoke_key(self, which: int, fault: Fault | None) -> None:
        """It is a job that runs in the caller's process, which may end."""
        keys = api.list_api_keys(_pick(self._are("ACTIVE"), which))
        if not keys:
            return
        key = _pick(keys, which)
        try:
            self.world.run(lambda: api.revoke_api_key(key.key_id), fault)
        except (FunctionEnded, api.ProvisioningError, api.ApiKeyNotFoundError):
            pass
        else:
            (stored,) = (k for k in api.list_api_keys(key.project_id) if k.key_id == key.key_id)
            assert stored.status is api.ApiKeyStatus.REVOKED
            reached["key revoked"] += 1
        self._look()

    # What must hold after each step.

    @invariant()
    def all_holds(self) -> None:
        """Everything below."""
        self.stored = stored_jobs.read(self.world)
        self.projects = self.world.read("ProjectsTable")
        self.resources = self.world.resources()
        self.statuses_are_monotonic()
        self.history_only_grows()
        self.quotas_count_the_live_projects()
        self.who_holds_a_project_is_at_it()
        self.a_cleanup_follows_a_failure_and_holds_the_project()
        self.every_resource_is_someones()
        self.at_most_one_set_of_keys_verifies()
        self.what_is_active_is_there()
        self.what_is_foreign_stays()

    def statuses_are_monotonic(self) -> None:
        """A job and a stage only go forward; a terminal status is that for as long as it lives."""
        for job in self.stored.jobs.values():
            self._check_job(job, self.jobs.get(job.job_id, job))
        for stage in self.stored.stages:
            self._check_stage(stage, self.stages.get(stage.key))
        self.jobs = self.stored.jobs
        self.stages = {stage.key: stage for stage in self.stored.stages}

    def _check_job(self, job: StoredJob, before: StoredJob) -> None:
        if job.attempt == before.attempt:
            moved = _RANK[job.status] - _RANK[before.status]
            assert moved > 0 or job.status == before.status, f"{before} became {job}"
            return
        assert job.attempt == before.attempt + 1, f"{before} became {job}"
        assert before.status is not JobStatus.COMPLETED, f"{before} was retried"
        assert job.attempt <= 1 + self.retries[job.job_id], f"nobody has retried {job}"

    def _check_stage(self, stage: StoredStage, before: StoredStage | None) -> None:
        if before is not None:
            assert stage.life >= before.life, f"{before} became {stage}: an earlier life speaks"
            if stage.life == before.life and before.status.is_terminal:
                assert stage.status == before.status, f"{before} became {stage}"
        assert stage.attempt <= STAGE_RETRY.attempts_in_all, f"{stage}"
        assert stage.says_what_it_waits_for or stage.status is not StageStatus.WAITING, f"{stage}"

    def history_only_grows(self) -> None:
        """No entry changes or goes, and a new one is later than all before."""
        found = self.stored.history
        for job_id, before in self.history.items():
            now = found.get(job_id, {})
            assert before.items() <= now.items(), f"{job_id}: history was changed"
            new = [record for record in now if record not in before]
            # A function that hung before it wrote says when it meant to.
            if new and not self.world.has_hung:
                assert min(new) > max(before), f"{job_id}: history goes back in time"
        self.history = found

    def quotas_count_the_live_projects(self) -> None:
        wanted: Counter[str] = Counter()
        for project in self.projects:
            party = PARTIES[project["project_id"]]
            ((kind, name),) = party.items()
            status = project["status"]
            is_live = status in {ProjectStatus.PROVISIONING, ProjectStatus.ACTIVE}
            if status == ProjectStatus.DEPROVISIONING:
                is_live = "quota" in project  # it counts where it did before
            assert ("quota" in project) == is_live, f"{project}"
            if is_live:
                wanted[f"{kind.removesuffix('_id')}#{name}"] += 1
            if "cluster_id" in project:
                wanted[
                    f"cluster#{project['region']}/{project['engine']}/{project['cluster_id']}"
                ] += 1
        used = {item["quota"]: int(item["used"]) for item in self.world.read("QuotasTable")}
        assert {quota: count for quota, count in used.items() if count} == dict(wanted)
        # Each owner, and the organization, may have one.
        assert all(count <= 1 for quota, count in used.items() if not quota.startswith("cluster"))

    def who_holds_a_project_is_at_it(self) -> None:
        if self.world.has_hung:
            return  # what goes on unseen may take what is given back later
        for project in self.projects:
            if "locked_by" in project:
                assert self.stored.jobs[project["locked_by"]].is_open, f"{project}"

    def a_cleanup_follows_a_failure_and_holds_the_project(self) -> None:
        """From the end of the job that has failed until its own; a retry from its first stage on.

        A project is locked by one job at a time, so that no two are at one.
        """
        stages = {stage.key: stage for stage in self.stored.stages}
        holders = {p["project_id"]: p.get("locked_by") for p in self.projects}
        for job in self.stored.jobs.values():
            if not job.parent_id:
                continue
            parent = self.stored.jobs[job.parent_id]
            assert not parent.keeps, f"{parent} keeps what it has made, and {job} removes it"
            if not job.is_open:
                continue
            assert parent.status in {JobStatus.FAILED, JobStatus.CANCELLED}, f"{parent} {job}"
            assert parent.cleanup_job_id == job.job_id, f"{parent} {job}"
            first = stages.get((job.job_id, job.stages[0]))
            has_begun = (
                first is not None
                and first.life == job.attempt
                and first.status is StageStatus.SUCCEEDED
            )
            if job.attempt == 1 or has_begun:
                assert holders[job.project_id] == job.job_id, f"{job}"

    def every_resource_is_someones(self) -> None:
        resources = [r for r in self.resources if PROJECT_TAG in r.tags]
        projects = {project["project_id"]: project for project in self.projects}
        for resource in resources:
            project = projects[resource.tags[PROJECT_TAG]]
            is_live = project["status"] in {
                ProjectStatus.ACTIVE,
                ProjectStatus.PROVISIONING,
                ProjectStatus.DEPROVISIONING,
            }
            if is_live or "locked_by" in project:
                continue
            maker = self.stored.jobs.get(resource.job_id)
            assert maker is not None, f"{resource} was made by no job"
            cleanup = self.stored.jobs.get(maker.cleanup_job_id)
            is_named = cleanup is not None and (
                cleanup.is_open or resource.name in cleanup.remaining
            )
            assert maker.is_open or maker.keeps or is_named, (
                f"{resource} belongs to nobody: {project} {maker} {cleanup}"
            )

    def at_most_one_set_of_keys_verifies(self) -> None:
        """Beside the sets that a rotation lets run out, or could not end since it failed."""
        for project in self.projects:
            keys = [
                key
                for key in self.world.read("ApiKeysTable")
                if "key_id" in key
                and key["project_id"] == project["project_id"]
                and key["status"] == "ACTIVE"
                and "expires_at" not in key
            ]
            if project["status"] in {ProjectStatus.DEPROVISIONING, ProjectStatus.DEPROVISIONED}:
                continue  # none does, as `verify_api_key` reads the project
            completed = [
                key["created_at"]
                for key in keys
                if self.stored.jobs[key["job_id"]].status is JobStatus.COMPLETED
            ]
            since = max(completed, default="")
            sets = {key["job_id"] for key in keys if key["created_at"] <= since}
            assert len(sets) <= 1, f"{project['project_id']}: keys of {sets} verify"
            made = {key["job_id"] for key in keys} - sets
            if project["status"] != ProjectStatus.ACTIVE:
                assert len(made) <= 1

    def what_is_active_is_there(self) -> None:
        there = {resource.name for resource in self.resources}
        for project in self.projects:
            if project["status"] != ProjectStatus.ACTIVE:
                continue
            project_id = project["project_id"]
            names = self.world.remaining_names(project_id)
            services = project["result"]["services"]
            assert set(names["REMOVING_DATABASE"]) <= there, f"{project_id}: database"
            assert "auth" not in services or set(names["REMOVING_AUTH"]) <= there
            assert "realtime" not in services or set(names["REMOVING_REALTIME"]) <= there
            assert "storage" not in services or set(names["REMOVING_STORAGE"]) <= there
            assert names["REMOVING_API_KEYS"][0] in there, f"{project_id}: keys"

    def what_is_foreign_stays(self) -> None:
        if self.foreign is not None:
            assert self._read_foreign() == self.foreign_is

    # The end.

    def teardown(self) -> None:
        try:
            if sys.exception() is None:  # else it is known already what does not hold
                reached["examples"] += 1
                if self.is_given_up:
                    self._give_up()
                self._let_run_out()
                self._check_the_end()
        finally:
            for hanging in list(self.world.hanging):
                self.world.go_on(hanging, is_killed=True)
            self.world.remove_tenants()

    def _give_up(self) -> None:
        """Let everything under way get lost: then the reconciler is left alone with it."""
        for letter in list(self.world.letters):
            self.world.give_up(letter)
            self.world.undelivered.remove(letter)
        for arn in list(self.world.running):
            self.world.end_execution(arn, "ABORTED")

    def _let_run_out(self) -> None:
        world = self.world
        for _ in range(8):
            self._look()
            while world.letters:
                world.deliver(world.letters[0])
            for letter in list(world.undelivered):
                world.record_undelivered(letter)
            world.follow()
            while strands := world.strands():
                world.step(*strands[0])
                world.follow()
            world.pass_time(LONG)
            world.sweep()
            self._look()
            is_over = not (world.letters or world.running or world.hanging)
            jobs = stored_jobs.read_jobs(world).values()
            if is_over and not any(job.is_open for job in jobs):
                break
        self.all_holds()

    def _check_the_end(self) -> None:
        for job in self.stored.jobs.values():
            assert not job.is_open, f"{job}"
            reached[f"{job.job_type} {job.status}"] += 1
            if job.attempt > 1:
                reached[f"retried {job.status}"] += 1
            for stage in self._stages_of(job, job.stages):
                assert not (job.parent_id and stage.is_at_work), f"{stage}"
                # One that the job's last attempt has not come to is as the one before left it.
                is_over = stage.life < job.attempt or stage.status is not StageStatus.WAITING
                assert is_over, f"{stage}"
        for project in self.projects:
            assert "locked_by" not in project, f"{project}"
            reached[f"project {project['status']}"] += 1
        for told in self.history.values():
            reached["repaired"] += any(status == "REPAIRED" for status in told.values())
            waits = {tuple(record.split("#")[2:4]) for record in told}
            for subject in ("INITIALIZING", "GENERATING_API_KEYS", "FINALIZING", "JOB"):
                reached[f"{subject} WAITING"] += (subject, "WAITING") in waits
        self._check_secrets()

    def _check_secrets(self) -> None:
        traces = self.world.traces
        text = json.dumps(traces.written, default=str) + traces.log.getvalue()
        assert leaks(traces.secrets, [("all that was written", text)]) == []
        tables = ("JobsTable", "ProjectsTable", "ApiKeysTable", "QuotasTable")
        items = [(table, json.dumps(self.world.read(table), default=str)) for table in tables]
        assert leaks(traces.secrets, items) == []

    # How it is done.

    def _enqueue(
        self,
        job_type: str,
        project_id: str,
        payload: dict[str, Any],
        fault: Fault | None,
        delay: int = 0,
    ) -> None:
        whole = {"project_id": project_id, **payload}
        if job_type == "provision_project":
            whole["region"] = REGION
        key = f"key-{len(self.enqueued)}"
        self.enqueued.append((job_type, whole, key))
        self._send(job_type, whole, key, fault, delay)

    def _send(
        self, job_type: str, payload: dict[str, Any], key: str, fault: Fault | None, delay: int
    ) -> None:
        with suppress(FunctionEnded):
            job = self.world.run(
                lambda: api.enqueue_job(
                    job_type, payload, idempotency_key=key, delay_seconds=delay
                ),
                fault,
            )
            assert self.of_key.setdefault(key, job.job_id) == job.job_id
        self._look()

    def _ask(self, call: Callable[[str], Any], job_id: str, fault: Fault | None) -> None:
        with suppress(FunctionEnded, JobStateError):
            self.world.run(lambda: call(job_id), fault)
        self._look()

    def _look(self) -> None:
        """See what the last step has sent and started."""
        self.world.fetch()
        self.world.follow()
        jobs = stored_jobs.read_jobs(self.world)
        new = [job_id for job_id in jobs if job_id not in self.job_ids]
        self.job_ids += sorted(new, key=lambda job_id: jobs[job_id].created_at)

    def _stages_of(self, job: StoredJob, names: Sequence[str]) -> Iterator[StoredStage]:
        """Yield those stages of a job that have begun."""
        for name in names:
            if (job.job_id, name) in self.stages:
                yield self.stages[job.job_id, name]

    def _are(self, status: str) -> list[str]:
        return [p["project_id"] for p in self.projects if p["status"] == status]

    def _ended(self) -> list[str]:
        return [
            job_id
            for job_id in reversed(self.job_ids)
            if self.stored.jobs[job_id].status in {JobStatus.FAILED, JobStatus.CANCELLED}
        ]

    def _buckets(self) -> list[str]:
        return [
            resource.name.removeprefix("bucket ")
            for resource in self.resources
            if resource.name.startswith("bucket ") and PROJECT_TAG in resource.tags
        ]

    def _read_foreign(self) -> Any:
        match self.foreign:
            case "bucket":
                bucket = self.world.bucket("first")
                return aws.client("s3").get_bucket_tagging(Bucket=bucket)["TagSet"]
            case "secret":
                name = self.world.naming.names("first").api_keys_secret
                return aws.client("secretsmanager").get_secret_value(SecretId=name)["SecretString"]
            case _:
                role = self.world.naming.names("first").tenants[Engine.POSTGRESQL].owner_role
                return [r for r in self.world.tenants() if r.name == f"role {role}"]


def _pick[Item](items: Sequence[Item], which: int) -> Item:
    return items[which % len(items)]


def _latest[Item](items: Sequence[Item], which: int) -> Item:
    """Mostly the last: what was done last is what is not done yet."""
    return items[-1 - which % len(items)]


@pytest.fixture(params=["a", "b"])
def world(
    request: pytest.FixtureRequest, cluster: PreparedCluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Simulation]:
    with simulation(cluster, monkeypatch, f"machine-{request.param}-{ACCOUNT}", PROJECTS) as made:
        yield made


def test_whatever_happens_the_invariants_hold(
    world: Simulation, request: pytest.FixtureRequest
) -> None:
    reached.clear()

    @hypothesis.seed(ord(request.node.callspec.params["world"]))
    class Seeded(Machine):
        pass

    Seeded.world = world
    run_state_machine_as_test(
        Seeded,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=False,
            # What fails is found once more, smaller; not explained, which takes minutes.
            phases=(Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
    print(json.dumps(reached, sort_keys=True))  # noqa: T201  # shown with -s
    assert reached["examples"] >= EXAMPLES
    assert {name for name in OUTCOMES if not reached[name]} == set()
