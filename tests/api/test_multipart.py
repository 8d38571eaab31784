"""Multipart bodies: chunks of every size, and malformed bodies (RFC 7578, RFC 2046 section 5.1)."""

from collections.abc import AsyncIterator

import pytest

from proxy.api.multipart import file_of
from proxy.core.errors import BadRequest, FieldError, InvalidRequest

TYPE = "multipart/form-data; boundary=edge"
NOTE = b'--edge\r\nContent-Disposition: form-data; name="note"\r\n\r\nnot this\r\n'
FILE = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="cat.png"\r\nContent-Type: image/png\r\n\r\n'
BYTES = b"\x89PNG\r\n--edg\r\n--\r\n\r\nedge--\0\r\n-"
END = b"\r\n--edge--\r\n"
WHOLE = NOTE + FILE + BYTES + END


async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def read(body: bytes, size: int = 1 << 16, content_type: str = TYPE) -> bytes:
    return b"".join([piece async for piece in file_of("file", content_type, pieces(body, size))])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 16])
async def test_the_file_is_read_from_chunks_of_any_size(size: int) -> None:
    assert await read(WHOLE, size) == BYTES


async def test_the_file_is_yielded_before_the_body_ends() -> None:
    read_so_far = 0

    async def count_parts() -> AsyncIterator[bytes]:
        nonlocal read_so_far
        async for piece in pieces(FILE + bytes(1 << 20) + END, 1 << 16):
            read_so_far += len(piece)
            yield piece

    first = await anext(file_of("file", TYPE, count_parts()))
    assert first
    assert read_so_far <= 1 << 17


@pytest.mark.parametrize(
    "body",
    [
        FILE + BYTES + b"\r\n" + NOTE[:-2] + END,
        FILE + BYTES + END + b"an epilogue, which means nothing",
        FILE.replace(b'name="file"', b"name=file") + BYTES + END,
        FILE.replace(b'filename="cat.png"', b"filename*=UTF-8''%E7%8C%AB.png") + BYTES + END,
        FILE.replace(b"Content-Disposition", b"content-disposition") + BYTES + END,
        FILE.replace(b'"cat.png"', b'"../../etc/passwd"') + BYTES + END,
    ],
    ids=["before a field", "before an epilogue", "without quotes", "RFC 5987 name", "lower case", "hostile name"],
)
async def test_the_file_is_found_in_the_forms_of_common_clients(body: bytes) -> None:
    assert await read(body) == BYTES


async def test_the_boundary_may_be_quoted() -> None:
    assert await read(WHOLE, content_type='multipart/form-data; charset=utf-8; boundary="edge"') == BYTES


async def test_an_empty_file_is_accepted() -> None:
    assert await read(FILE + END) == b""


@pytest.mark.parametrize("cut", range(1, len(WHOLE) - 2, 5))
async def test_an_incomplete_body_is_refused(cut: int) -> None:
    with pytest.raises(BadRequest, match="incomplete"):
        await read(WHOLE[:cut])


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", TYPE),
        (b"hello", TYPE),
        (WHOLE, "multipart/form-data"),
        (WHOLE, "multipart/form-data; boundary="),
        (WHOLE, "multipart/form-data; boundary=other"),
        (WHOLE, "multipart/form-data; boundary=" + "x" * 5000),
        (b"--edge\r\nContent-Disposition\r\n\r\nx" + END, TYPE),
        (b"--edge\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\nx" + END, TYPE),
        (b"--edge\r\n" + b"X: y\r\n" * 10_000 + b"\r\nx" + END, TYPE),
        (NOTE * 1000 + FILE + BYTES + END, TYPE),
    ],
    ids=[
        "nothing",
        "text",
        "no boundary",
        "empty boundary",
        "another",
        "a long one",
        "no colon",
        "long",
        "many",
        "parts",
    ],
)
async def test_a_malformed_body_is_refused(body: bytes, content_type: str) -> None:
    with pytest.raises(BadRequest):
        await read(body, content_type=content_type)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (NOTE[:-2] + END, "as the multipart field `file`"),
        (FILE.replace(b'"file"', b'"image"') + BYTES + END, "as the multipart field `file`"),
        (FILE.replace(b'; filename="cat.png"', b"") + BYTES + END, "as the multipart field `file`"),
        (FILE + BYTES + b"\r\n" + FILE + BYTES + END, "one file per request"),
    ],
    ids=["no file", "another field", "a text", "two files"],
)
async def test_a_body_without_exactly_one_file_is_refused_by_field(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        await read(body)
    assert [fault.field for fault in caught.value.errors] == ["file"]
    assert isinstance(caught.value.errors[0], FieldError)
