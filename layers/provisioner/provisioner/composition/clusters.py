"""The clusters of a deployment: how they are described, and whose certificates are believed."""

from dataclasses import replace

from provisioner.drivers.database_engine import AdminConnection
from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.runtime import aws
from provisioner.runtime.settings import ClusterSettings, ServerSettings


def cluster_catalogue(settings: ClusterSettings) -> ClusterCatalogue:
    """Bind the description of the clusters to a deployment."""
    return ClusterCatalogue(aws.client("ssm"), settings.cluster_parameter_prefix)


def with_certificates(admin: AdminConnection, settings: ServerSettings) -> AdminConnection:
    """Return a connection that believes the authorities of the layer's file.

    It is for the drivers that do not read libpq's variable themselves.
    """
    return replace(admin, root_certificates=settings.pgsslrootcert)
