"""What `sam local` needs beside a local stack that containers reach.

SAM hands a function in a container the variables that the template declares. Their values are the
deployed functions' own, except for the two that say where something is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provisioner import api
from provisioner.jobs.job_reader import utc_now
from provisioner.jobs.records import NewJob
from provisioner.jobs.store import JobStore
from provisioner.provisioning.projects import ProjectStore

from provision_cli.local.errors import LocalStackError

if TYPE_CHECKING:
    from provision_cli.local.stack import RunningStack

#: Below the stack's folder, where samconfig.toml looks for it. SAM says of it only that it does
#: not exist: its name says what writes it.
VARIABLES_FILE = Path("sam") / "variables-from-make-up.json"

#: What the event in the README is about, below the project.
_FIRST_EVENT = Path("events", "lifecycle", "provision_project", "initializing.json")

#: Ends the name of the output that names a function.
_FUNCTION_OUTPUT = "FunctionName"

#: Seconds that nobody is to look after a job that only waits for `sam local invoke`: the reconciler
#: would send its message.
_HELD_SECONDS = 365 * 24 * 3600


def prepare(stack: RunningStack, root: Path) -> None:
    """Write the variables, and store the job of the first event."""
    file = stack.directory / VARIABLES_FILE
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(variables(stack), indent=2) + "\n", encoding="utf-8")
    store_job(stack, root / _FIRST_EVENT)


def variables(stack: RunningStack) -> dict[str, dict[str, str]]:
    """Return every function's variables, by its name in the template.

    Raises:
        LocalStackError: containers do not reach the stack.
    """
    if not stack.container_host:
        raise LocalStackError(
            "containers do not reach the local stack; let them in with `provision up --containers`."
        )
    client = stack.client("lambda")
    changed = {
        "AWS_ENDPOINT_URL": f"http://{stack.container_host}:{stack.aws_port}",
        "CLUSTER_PARAMETER_PREFIX": _describe_cluster(stack),
    }
    found = {}
    for output, name in stack.outputs.items():
        if output.endswith(_FUNCTION_OUTPUT):
            configuration = client.get_function_configuration(FunctionName=name)
            own = configuration["Environment"]["Variables"]
            found[output.removesuffix("Name")] = {**own, **changed}
    return found


def _describe_cluster(stack: RunningStack) -> str:
    """Describe the cluster by an address that a container reaches; returns the prefix of that."""
    own = stack.outputs["ClusterParameterPrefix"]
    below = f"{stack.region}/postgresql/local-1"
    ssm = stack.client("ssm")
    described = json.loads(ssm.get_parameter(Name=f"{own}/{below}")["Parameter"]["Value"])
    prefix = f"{own}-for-containers"
    ssm.put_parameter(
        Name=f"{prefix}/{below}",
        Type="String",
        Value=json.dumps({**described, "host": stack.container_host}),
        Overwrite=True,
    )
    return prefix


def store_job(stack: RunningStack, event: Path) -> str:
    """Store the project and the job that an event is about, where they are not; returns its id.

    It does what the dispatcher does for a message, but nothing is sent and no execution started:
    the stages are run by whoever invokes the functions. The job waits for that, one year.

    Raises:
        LocalStackError: the file cannot be read, or no stage's event is in it.
    """
    job = _job_of(event)
    handler = api.get_job_handler(job["job_type"])
    projects = ProjectStore(
        stack.client("dynamodb"),
        stack.outputs["ProjectsTableName"],
        stack.outputs["QuotasTableName"],
    )
    jobs = JobStore(
        stack.client("dynamodb"),
        stack.outputs["JobsTableName"],
        retention_days=int(stack.outputs["JobRetentionDays"]),
    )
    project_id = str(job["payload"]["project_id"])
    if projects.get(project_id) is None:
        projects.create(project_id, owner_id=None, organization_id=None, created_at=utc_now())
    new = NewJob(str(job["job_id"]), str(job["job_type"]), job["payload"], handler.stages)
    return jobs.create(new, delay_seconds=_HELD_SECONDS).job_id


def _job_of(event: Path) -> Mapping[str, Any]:
    try:
        job: Mapping[str, Any] = json.loads(event.read_text(encoding="utf-8"))["job"]
        _ = job["job_id"], job["job_type"], job["payload"]["project_id"]
    except OSError as error:
        raise LocalStackError(f"{event}: cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError):
        raise LocalStackError(
            f"{event}: is not the event of a stage; name one of events/ that has a job in it."
        ) from None
    return job
