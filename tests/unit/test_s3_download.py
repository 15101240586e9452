"""Objects of S3 that are read into a file, and held against what S3 knows of them."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from provisioner.drivers.s3_download import download
from provisioner.errors import ErrorType, ProvisioningError
from support.core import REGION, Answer, Core

BUCKET, KEY = "snapshots", "shop/a-1.dump"

#: S3's smallest part.
PART = 5 * 1024 * 1024


@pytest.fixture
def s3(core: Core) -> Any:
    client = core.client("s3")
    client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    return client


def put(s3: Any, contents: bytes) -> None:
    config = TransferConfig(multipart_threshold=PART + 1, multipart_chunksize=PART)
    s3.upload_fileobj(io.BytesIO(contents), BUCKET, KEY, Config=config)


def read(s3: Any) -> bytes:
    with tempfile.TemporaryFile() as file:
        download(s3, file, bucket=BUCKET, key=KEY, final=ErrorType.DATABASE_CHANGE_FAILED)
        file.seek(0)
        return file.read()


@pytest.mark.parametrize(
    "contents",
    [b"", b"small", b"x" * PART, b"in parts" * (PART // 5), b"y" * 2 * PART],
    ids=["empty", "small", "one_part", "parts", "whole_parts"],
)
def test_what_was_written_is_read(s3: Any, contents: bytes) -> None:
    put(s3, contents)

    assert read(s3) == contents


def changed(s3: Any, **fields: Any) -> Answer:
    """Answer HeadObject with other fields."""
    head = s3.head_object(Bucket=BUCKET, Key=KEY, ChecksumMode="ENABLED")

    def answer(parameters: Mapping[str, Any]) -> tuple[int, dict[str, Any]] | None:
        return (200, head | fields) if "ChecksumMode" in parameters else None

    return answer


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"ContentLength": 12}, "GetObject: 8 bytes of 12"),
        ({"ChecksumCRC32": "AAAAAA=="}, "GetObject: its CRC-32 is another"),
        ({"ChecksumCRC32": "AAAAAA==-2", "ETag": '"1-2"'}, "GetObject: its CRC-32 is another"),
    ],
)
def test_what_is_not_what_was_written_is_refused(
    core: Core, s3: Any, fields: dict[str, Any], cause: str
) -> None:
    put(s3, b"contents")
    core.answers["s3.HeadObject"] = changed(s3, **fields)

    with pytest.raises(ProvisioningError) as raised:
        read(s3)

    assert (raised.value.type, raised.value.cause) == (ErrorType.NETWORK_ERROR, cause)
    assert raised.value.message == "The snapshot did not arrive whole; try again."


def test_an_object_without_a_checksum_is_read(core: Core, s3: Any) -> None:
    put(s3, b"contents")
    core.answers["s3.HeadObject"] = changed(s3, ChecksumCRC32="")

    assert read(s3) == b"contents"


def test_an_object_that_is_not_there_is_named(s3: Any) -> None:
    with pytest.raises(ProvisioningError) as raised:
        read(s3)

    assert "HeadObject: 404" in raised.value.cause
