"""The projects and the names of a deployment; apart from its clusters, which few functions know."""

from typing import TypedDict

from provisioner.provisioning.naming import Naming
from provisioner.provisioning.projects import ProjectReader, ProjectStore
from provisioner.runtime import aws
from provisioner.runtime.settings import NamingSettings, ProjectReaderSettings, ProjectSettings


class ReaderResources(TypedDict):
    """What every function has whose stages read projects, by the names of their parameters."""

    projects: ProjectReader
    naming: Naming


class StoreResources(TypedDict):
    """What every function has whose code writes projects too, likewise."""

    projects: ProjectStore
    naming: Naming


def project_reader(settings: ProjectReaderSettings) -> ProjectReader:
    """Bind the reader of projects to a deployment."""
    return ProjectReader(aws.client("dynamodb"), settings.projects_table)


def project_store(settings: ProjectSettings) -> ProjectStore:
    """Bind the store of projects and quotas to a deployment."""
    return ProjectStore(aws.client("dynamodb"), settings.projects_table, settings.quotas_table)


def naming(settings: NamingSettings) -> Naming:
    """Return the names and markers of a deployment's resources."""
    return Naming(settings.resource_prefix, settings.resource_namespace)
