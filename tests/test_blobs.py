from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.blobs import Blobs
from proxy.errors import TooLarge, Unavailable


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(str(tmp_path / "var" / "assets"))


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def streamed(blobs: Blobs, name: str, start: int, end: int) -> bytes:
    return b"".join([chunk async for chunk in blobs.stream(name, start, end)])


async def test_what_was_put_is_read(blobs: Blobs) -> None:
    await blobs.put("asset_1", b"\0\xff bytes")
    assert await blobs.read("asset_1") == b"\0\xff bytes"
    assert await blobs.size("asset_1") == 8


async def test_putting_replaces(blobs: Blobs) -> None:
    await blobs.put("asset_1", b"first, and longer")
    await blobs.put("asset_1", b"second")
    assert await blobs.read("asset_1") == b"second"


async def test_no_bytes_are_bytes_too(blobs: Blobs) -> None:
    await blobs.put("asset_1", b"")
    assert await blobs.read("asset_1") == b""
    assert await blobs.size("asset_1") == 0


async def test_bytes_may_come_in_pieces(blobs: Blobs) -> None:
    await blobs.put("asset_1", pieces(b"one ", b"", b"two ", b"three"))
    assert await blobs.read("asset_1") == b"one two three"


async def test_no_pieces_are_no_bytes(blobs: Blobs) -> None:
    await blobs.put("asset_1", pieces())
    assert await blobs.read("asset_1") == b""


async def test_many_megabytes_in_pieces_arrive_whole(blobs: Blobs) -> None:
    megabyte = bytes(range(256)) * 4096
    await blobs.put("asset_1", pieces(*[megabyte] * 12, b"end"))
    assert await blobs.size("asset_1") == 12 * len(megabyte) + 3
    assert await streamed(blobs, "asset_1", 12 * len(megabyte) - 1, 12 * len(megabyte) + 3) == b"\xffend"


async def test_pieces_that_break_off_leave_nothing_and_say_why(blobs: Blobs) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"one"
        raise TooLarge("The file is too large.")

    with pytest.raises(TooLarge):
        await blobs.put("asset_1", breaking())
    with pytest.raises(FileNotFoundError):
        await blobs.read("asset_1")


async def test_pieces_that_break_off_leave_what_was_there(blobs: Blobs) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"one"
        raise TooLarge("The file is too large.")

    await blobs.put("asset_1", b"before")
    with pytest.raises(TooLarge):
        await blobs.put("asset_1", breaking())
    assert await blobs.read("asset_1") == b"before"


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 10, b"0123456789"), (0, 1, b"0"), (3, 6, b"345"), (9, 10, b"9"), (4, 4, b""), (6, 3, b"")],
)
async def test_a_stretch_is_streamed_from_start_up_to_not_including_end(
    blobs: Blobs, start: int, end: int, expected: bytes
) -> None:
    await blobs.put("asset_1", b"0123456789")
    assert await streamed(blobs, "asset_1", start, end) == expected


async def test_a_long_stretch_comes_in_pieces(blobs: Blobs) -> None:
    await blobs.put("asset_1", bytes(1 << 20))
    lengths = [len(chunk) async for chunk in blobs.stream("asset_1", 0, 1 << 20)]
    assert len(lengths) > 1
    assert sum(lengths) == 1 << 20


async def test_what_is_not_there_is_a_file_not_found(blobs: Blobs) -> None:
    with pytest.raises(FileNotFoundError):
        await blobs.read("asset_1")
    with pytest.raises(FileNotFoundError):
        await blobs.size("asset_1")
    with pytest.raises(FileNotFoundError):
        await streamed(blobs, "asset_1", 0, 1)


async def test_what_was_deleted_is_gone(blobs: Blobs) -> None:
    await blobs.put("asset_1", b"bytes")
    await blobs.put("asset_2", b"others")
    await blobs.delete("asset_1")
    with pytest.raises(FileNotFoundError):
        await blobs.read("asset_1")
    assert await blobs.read("asset_2") == b"others"


async def test_deleting_what_is_not_there_is_nothing(blobs: Blobs) -> None:
    await blobs.delete("asset_1")


async def test_bytes_outlive_the_one_who_put_them(tmp_path: Path) -> None:
    await Blobs(str(tmp_path)).put("asset_1", b"bytes")
    assert await Blobs(str(tmp_path)).read("asset_1") == b"bytes"


async def test_a_place_that_cannot_serve_is_unavailable_and_does_not_tell_where_it_is(tmp_path: Path) -> None:
    place = tmp_path / "secret-place"
    blobs = Blobs(str(place))
    place.rmdir()
    place.write_text("a file where the directory was")
    with pytest.raises(Unavailable) as caught:
        await blobs.put("asset_1", b"bytes")
    assert "secret-place" not in caught.value.message


async def test_a_place_may_be_an_object_store_s_url() -> None:
    blobs = Blobs("memory:///")
    await blobs.put("asset_1", b"bytes")
    assert await blobs.read("asset_1") == b"bytes"
