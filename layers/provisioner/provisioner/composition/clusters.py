"""The clusters of a deployment, as its operators describe them."""

from provisioner.provisioning.clusters import ClusterCatalogue
from provisioner.runtime import aws
from provisioner.runtime.settings import ClusterSettings


def cluster_catalogue(settings: ClusterSettings) -> ClusterCatalogue:
    """Bind the description of the clusters to a deployment."""
    return ClusterCatalogue(aws.client("ssm"), settings.cluster_parameter_prefix)
