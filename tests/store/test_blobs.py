"""Blob storage: in a folder and in an object store."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from proxy.core.errors import TooLarge, Unavailable
from proxy.store.blobs import Blobs
from tests.support.site import Site


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(str(tmp_path / "var" / "assets"))


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def read_range(blobs: Blobs, name: str, start: int, end: int) -> bytes:
    return b"".join([chunk async for chunk in blobs.stream(name, start, end)])


async def test_stored_bytes_are_read_back(blobs: Blobs) -> None:
    await blobs.put("asset_1", b"\0\xff bytes")
    assert await blobs.read("asset_1") == b"\0\xff bytes"
    assert await blobs.size("asset_1") == 8


async def test_put_replaces_the_bytes_stored_before(blobs: Blobs) -> None:
    await blobs.put("asset_1", b"first, and longer")
    await blobs.put("asset_1", b"second")
    assert await blobs.read("asset_1") == b"second"


async def test_a_blob_may_be_empty(blobs: Blobs) -> None:
    await blobs.put("asset_1", b"")
    assert await blobs.read("asset_1") == b""
    assert await blobs.size("asset_1") == 0


async def test_put_accepts_chunks(blobs: Blobs) -> None:
    await blobs.put("asset_1", chunks_of(b"one ", b"", b"two ", b"three"))
    assert await blobs.read("asset_1") == b"one two three"


async def test_put_without_chunks_stores_an_empty_blob(blobs: Blobs) -> None:
    await blobs.put("asset_1", chunks_of())
    assert await blobs.read("asset_1") == b""


async def test_many_megabytes_in_chunks_are_stored_completely(blobs: Blobs) -> None:
    megabyte = bytes(range(256)) * 4096
    await blobs.put("asset_1", chunks_of(*[megabyte] * 12, b"end"))
    assert await blobs.size("asset_1") == 12 * len(megabyte) + 3
    assert await read_range(blobs, "asset_1", 12 * len(megabyte) - 1, 12 * len(megabyte) + 3) == b"\xffend"


async def test_a_failing_iterator_stores_nothing_and_raises_its_error(blobs: Blobs) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"one"
        raise TooLarge("The file is too large.")

    with pytest.raises(TooLarge):
        await blobs.put("asset_1", failing())
    with pytest.raises(FileNotFoundError):
        await blobs.read("asset_1")


async def test_a_failing_iterator_keeps_the_bytes_stored_before(blobs: Blobs) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"one"
        raise TooLarge("The file is too large.")

    await blobs.put("asset_1", b"before")
    with pytest.raises(TooLarge):
        await blobs.put("asset_1", failing())
    assert await blobs.read("asset_1") == b"before"


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 10, b"0123456789"), (0, 1, b"0"), (3, 6, b"345"), (9, 10, b"9"), (4, 4, b""), (6, 3, b"")],
)
async def test_a_range_is_streamed_without_its_end(blobs: Blobs, start: int, end: int, expected: bytes) -> None:
    await blobs.put("asset_1", b"0123456789")
    assert await read_range(blobs, "asset_1", start, end) == expected


async def test_a_long_range_is_streamed_in_chunks(blobs: Blobs) -> None:
    await blobs.put("asset_1", bytes(1 << 20))
    lengths = [len(chunk) async for chunk in blobs.stream("asset_1", 0, 1 << 20)]
    assert len(lengths) > 1
    assert sum(lengths) == 1 << 20


async def test_reading_a_missing_blob_raises_file_not_found(blobs: Blobs) -> None:
    with pytest.raises(FileNotFoundError):
        await blobs.read("asset_1")
    with pytest.raises(FileNotFoundError):
        await blobs.size("asset_1")
    with pytest.raises(FileNotFoundError):
        await read_range(blobs, "asset_1", 0, 1)


async def test_delete_removes_only_the_named_blob(blobs: Blobs) -> None:
    await blobs.put("asset_1", b"bytes")
    await blobs.put("asset_2", b"others")
    await blobs.delete("asset_1")
    with pytest.raises(FileNotFoundError):
        await blobs.read("asset_1")
    assert await blobs.read("asset_2") == b"others"


async def test_deleting_a_missing_blob_does_nothing(blobs: Blobs) -> None:
    await blobs.delete("asset_1")


async def test_another_instance_reads_the_stored_bytes(tmp_path: Path) -> None:
    await Blobs(str(tmp_path)).put("asset_1", b"bytes")
    assert await Blobs(str(tmp_path)).read("asset_1") == b"bytes"


async def test_the_error_of_a_failing_storage_does_not_contain_its_path(tmp_path: Path) -> None:
    place = tmp_path / "secret-place"
    blobs = Blobs(str(place))
    place.rmdir()
    place.write_text("a file where the directory was")
    with pytest.raises(Unavailable) as caught:
        await blobs.put("asset_1", b"bytes")
    assert "secret-place" not in caught.value.message


async def test_the_storage_may_be_the_url_of_an_object_store() -> None:
    blobs = Blobs("memory:///")
    await blobs.put("asset_1", b"bytes")
    assert await blobs.read("asset_1") == b"bytes"


async def test_older_lists_blobs_by_prefix_and_time(blobs: Blobs) -> None:
    await blobs.put("assets/a/1", b"bytes")
    await blobs.put("assets/a/2", b"bytes")
    await blobs.put("outputs/b/1", b"bytes")
    now = time.time()
    assert sorted([name async for name in blobs.list_older("assets", now + 60)]) == ["assets/a/1", "assets/a/2"]
    assert [name async for name in blobs.list_older("assets", now - 60)] == []
    assert [name async for name in blobs.list_older("nothing", now + 60)] == []


async def test_an_empty_folder_is_deleted_with_its_last_file(blobs: Blobs, tmp_path: Path) -> None:
    await blobs.put("outputs/job_1/0", b"bytes")
    await blobs.delete("outputs/job_1/0")
    assert not (tmp_path / "var" / "assets" / "outputs").exists()
    await blobs.put("outputs/job_1/0", b"bytes again")
    assert await blobs.read("outputs/job_1/0") == b"bytes again"


# --- requests to an object store (S3, "Uploading and copying objects using multipart upload") ---


class Bucket:
    """The part of S3 that an upload needs. It records the requests, and the size of each part."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.parts: dict[int, int] = {}

    async def respond(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {sorted(request.query)}")
        if "partNumber" in request.query:
            self.parts[int(request.query["partNumber"])] = len(await request.read())
            return web.Response(headers={"ETag": '"part"'})
        if request.method == "DELETE":
            return web.Response(status=204)
        document = (
            "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
            if "uploads" in request.query
            else '<CompleteMultipartUploadResult><ETag>"whole"</ETag></CompleteMultipartUploadResult>'
        )
        return web.Response(text=document, content_type="application/xml")


def object_store(site: Site, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    settings = {"ENDPOINT": site.url, "ALLOW_HTTP": "true", "REGION": "here", "ACCESS_KEY_ID": "a"}
    for name, value in {**settings, "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return Blobs("s3://bucket/prefix")


async def megabytes(count: int, *, failing: bool = False) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield bytes(1 << 20)
    if failing:
        raise TooLarge("The file is too large.")


async def test_an_upload_to_an_object_store_has_parts_of_five_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket()
    async with Site(bucket.respond) as site:
        await object_store(site, monkeypatch).put("asset_1", megabytes(12))
    assert bucket.parts == {1: 5 << 20, 2: 5 << 20, 3: 2 << 20}
    assert bucket.requests[-1] == "POST ['uploadId']"


async def test_a_failing_upload_to_an_object_store_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket()
    async with Site(bucket.respond) as site:
        with pytest.raises(TooLarge):
            await object_store(site, monkeypatch).put("asset_1", megabytes(12, failing=True))
        while "DELETE ['uploadId']" not in bucket.requests:
            await asyncio.sleep(0.005)
    assert "POST ['uploadId']" not in bucket.requests


async def test_the_log_contains_the_error_document_of_an_object_store(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        document = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>InvalidAccessKeyId</Code></Error>'
        return web.Response(status=403, text=document, content_type="application/xml")

    async with Site(refuse) as site:
        with pytest.raises(Unavailable):
            await object_store(site, monkeypatch).put("asset_1", b"bytes")
    (record,) = caplog.records
    assert "<Code>InvalidAccessKeyId</Code>" in record.getMessage()
    assert "\n" not in record.getMessage()
