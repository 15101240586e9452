"""The projects and the names of a deployment; apart from its clusters, which few functions know."""

from collections.abc import Callable, Mapping
from typing import Any

from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader, ProjectStore
from provisioner.runtime import aws
from provisioner.runtime.settings import ProjectReaderSettings, ProjectSettings

#: What code may take, by the names of its parameters: each is made from a function's settings.
type Makers[Settings] = Mapping[str, Callable[[Settings], Any]]


def project_reader(settings: ProjectReaderSettings) -> ProjectReader:
    """Bind the reader of projects to a deployment."""
    return ProjectReader(aws.client("dynamodb"), settings.projects_table)


def project_store(settings: ProjectSettings) -> ProjectStore:
    """Bind the store of projects and quotas to a deployment."""
    return ProjectStore(aws.client("dynamodb"), settings.projects_table, settings.quotas_table)


def naming(settings: ProjectReaderSettings) -> Naming:
    """Return the names and markers of a deployment's resources."""
    return Naming(
        settings.resource_prefix,
        settings.resource_namespace,
        has_own_buckets=settings.bucket_namespace == "account-regional",
    )


#: What the stages of every function that only reads projects may take.
READER: Makers[ProjectReaderSettings] = {"projects": project_reader, "naming": naming}

#: What those may take of every function that writes projects too, and what follows a failure.
WRITER: Makers[ProjectSettings] = {"projects": project_store, "naming": naming}
