"""Amazon S3: one object, read into a file and held against what S3 knows of it.

Sources: Amazon S3 User Guide, "Checking object integrity"; Amazon S3 API Reference, HeadObject;
boto3 documentation, "boto3.s3.transfer".
"""

import base64
import os
import zlib
from typing import IO

from boto3.exceptions import RetriesExceededError
from boto3.s3.transfer import TransferConfig

from provisioner.aws_types import HeadObjectOutputTypeDef, S3Client
from provisioner.drivers.aws_errors import translate_errors
from provisioner.errors import ErrorType, failure

_CONFIG = TransferConfig(max_concurrency=4)

#: Bytes that are read at once.
_CHUNK = 1024 * 1024


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
        ProvisioningError: as `translate_errors` says.
    """
    with translate_errors(final, "read the snapshot"):
        try:
            # It answers for one version of the object: a change meanwhile ends it.
            client.download_fileobj(bucket, key, target, Config=_CONFIG)
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
