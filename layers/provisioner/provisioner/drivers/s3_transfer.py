"""Amazon S3: one object, written from a stream whose length nobody knows, and read into a file.

Sources: Amazon S3 User Guide, "Uploading an object using multipart upload", "Checking object
integrity"; Amazon S3 API Reference, HeadObject; boto3 documentation, "boto3.s3.transfer".
"""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Protocol

from boto3.exceptions import RetriesExceededError
from boto3.s3.transfer import TransferConfig, create_transfer_manager

from provisioner.drivers.aws_errors import translated
from provisioner.errors import ErrorType, failure

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef
    from s3transfer.futures import TransferFuture

#: Bytes of a part; with the 10,000 parts that an object may have, 160 GiB: more than a Lambda
#: function can read in its time. The transfer keeps at most ten parts in memory.
_PART_SIZE = 16 * 1024 * 1024

_UPLOAD = TransferConfig(
    multipart_threshold=_PART_SIZE, multipart_chunksize=_PART_SIZE, max_concurrency=4
)

_DOWNLOAD = TransferConfig(max_concurrency=4)

#: Bytes that are read at once.
_CHUNK = 1024 * 1024


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
        ProvisioningError: as `translated` says.
    """
    stream = _UntilItFails(source)
    with (
        translated(final, "store the snapshot"),
        create_transfer_manager(client, _UPLOAD) as manager,
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


def download(
    client: S3Client, target: IO[bytes], *, bucket: str, key: str, final: ErrorType
) -> None:
    """Read an object into a file, and see that it is what was written.

    Its size is compared, and its CRC-32, which the SDKs give an object when they write it.

    Args:
        client: S3 in the bucket's region.
        target: an empty file that can be read too.
        bucket: where from.
        key: the object's name.
        final: the error type of causes that stay.

    Raises:
        NETWORK_ERROR: it broke off, or what arrived is not what was written.
        ProvisioningError: as `translated` says.
    """
    with translated(final, "read the snapshot"):
        try:
            # It answers for one version of the object: a change meanwhile ends it.
            client.download_fileobj(bucket, key, target, Config=_DOWNLOAD)
        except RetriesExceededError:
            raise _incomplete("the connection broke off each time") from None
        head = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        size = target.seek(0, os.SEEK_END)
        if size != head["ContentLength"]:
            raise _incomplete(f"{size} bytes of {head['ContentLength']}")
        expected = head.get("ChecksumCRC32", "").partition("-")[0]
        if expected and expected != _crc32(target, _part_size(client, bucket, key, head)):
            raise _incomplete("its CRC-32 is another")


def _part_size(
    client: S3Client, bucket: str, key: str, head: HeadObjectOutputTypeDef
) -> int | None:
    """Return the bytes of a part, where the object's checksum is of its parts' checksums."""
    if head.get("ChecksumType") == "FULL_OBJECT" or "-" not in head["ETag"]:
        return None
    return client.head_object(Bucket=bucket, Key=key, PartNumber=1)["ContentLength"]


def _crc32(file: IO[bytes], part_size: int | None) -> str:
    """Return a file's CRC-32, or that of the CRC-32s of its parts, as S3 writes it."""
    file.seek(0)
    parts: list[bytes] = []
    crc, size = 0, 0
    while chunk := file.read(min(_CHUNK, (part_size or _CHUNK + size) - size)):
        crc, size = zlib.crc32(chunk, crc), size + len(chunk)
        if size == part_size:
            parts.append(crc.to_bytes(4))
            crc, size = 0, 0
    if part_size is not None:
        if size:
            parts.append(crc.to_bytes(4))
        crc = zlib.crc32(b"".join(parts))
    return base64.b64encode(crc.to_bytes(4)).decode()


def _incomplete(cause: str) -> Exception:
    return failure(
        ErrorType.NETWORK_ERROR,
        "The snapshot did not arrive whole; try again.",
        f"GetObject: {cause}",
    )
