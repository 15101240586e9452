"""Amazon S3: one object, written from a stream whose length nobody knows.

Source: Amazon S3 User Guide, "Uploading an object using multipart upload"; boto3 documentation,
"boto3.s3.transfer".
"""

from collections.abc import Mapping
from typing import Protocol

from boto3.s3.transfer import TransferConfig, create_transfer_manager
from s3transfer.futures import TransferFuture

from provisioner.aws_types import S3Client
from provisioner.drivers.aws_errors import translate_errors
from provisioner.errors import ErrorType

#: Bytes of a part; with the 10,000 parts that an object may have, 160 GiB: more than a Lambda
#: function can read in its time. The transfer keeps at most ten parts in memory.
_PART_SIZE = 16 * 1024 * 1024

_CONFIG = TransferConfig(
    multipart_threshold=_PART_SIZE, multipart_chunksize=_PART_SIZE, max_concurrency=4
)


class Readable(Protocol):
    """What can be read once, from its beginning to its end."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, fewer than `size` only at the end, and none after it."""


def upload(
    client: S3Client,
    source: Readable,
    *,
    bucket: str,
    key: str,
    metadata: Mapping[str, str],
    final: ErrorType,
) -> None:
    """Write an object; it is there only once all of the source has been read without an error.

    What the source raises is raised on; what has been written until then is given up, so that
    neither an object nor a part of one is left.

    Args:
        client: S3 in the bucket's region.
        source: the object's contents.
        bucket: where to.
        key: the object's name; one that is there is replaced.
        metadata: kept with the object.
        final: the error type of causes that stay.

    Raises:
        ProvisioningError: as `translate_errors` says.
    """
    stream = _UntilItFails(source)
    with (
        translate_errors(final, "store the snapshot"),
        create_transfer_manager(client, _CONFIG) as manager,
    ):
        stream.transfer = manager.upload(
            stream,  # type: ignore[arg-type]  # the stubs ask for more than `read`, the only use
            bucket,
            key,
            extra_args={"Metadata": dict(metadata)},
        )
        stream.transfer.result()


class _UntilItFails:
    """Ends a source where its transfer has failed, which reads on to the end by itself."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self.transfer: TransferFuture | None = None

    def read(self, size: int = -1, /) -> bytes:
        if self.transfer is not None and self.transfer.done():
            return b""
        return self._source.read(size)
