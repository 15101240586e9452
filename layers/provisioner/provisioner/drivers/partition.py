"""The partition of AWS that a client calls: the commercial one, GovCloud or China.

Source: AWS IAM User Guide, "Amazon Resource Names (ARNs)"; botocore's partitions.json.
"""

from botocore.client import BaseClient

#: The domain of the endpoints of partitions that have their own.
_DNS_SUFFIXES = {"aws-cn": "amazonaws.com.cn"}


def dns_suffix(client: BaseClient) -> str:
    """Return the domain in which the partition's endpoints are, such as `amazonaws.com`."""
    return _DNS_SUFFIXES.get(client.meta.partition, "amazonaws.com")
