"""Container tracks: finds out whether an MP4 or WebM file contains video or only audio.

Phones and browsers record audio into video containers. Android writes an MP4 of brand `mp42` or `isom` whose index
(`moov`) often comes last; Chrome writes a WebM. Only the index is read, in a bounded number of reads.
MP4: ISO/IEC 14496-12, sections 8.2, 8.3 and 8.4.3. WebM: RFC 8794 (EBML) and RFC 9559 (Matroska).
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

Read = Callable[[int, int], Awaitable[bytes]]
"""A function that reads the bytes of a file from `start` up to, but not including, `end`."""

_READ_LIMIT: Final = 200
"""Largest number of reads of one file, so that a hostile index cannot keep the server busy."""
_EBML_HEAD_SIZE: Final = 1 << 16
"""Number of first bytes of a WebM file that are searched for its tracks; they precede the first frame."""


def in_memory(data: bytes) -> Read:
    """Return a reader of bytes in memory."""

    async def read(start: int, end: int) -> bytes:
        return data[start:end]

    return read


async def with_tracks(media_type: str, size: int, read: Read) -> str:
    """Return the media type of a file from its tracks: `audio/mp4` or `audio/webm` if all of them are audio."""
    if media_type in {"video/mp4", "video/quicktime"}:
        return "audio/mp4" if await _handlers(size, read) == {b"soun"} else media_type
    if media_type == "video/webm":
        return "audio/webm" if _track_types(await read(0, min(size, _EBML_HEAD_SIZE))) == {2} else media_type
    return media_type


# --- MP4 ---


class _Box(NamedTuple):
    type: bytes
    start: int
    """Offset of its content."""
    end: int


@dataclass(slots=True)
class _Budget:
    read: Read
    left: int = _READ_LIMIT

    async def bytes(self, start: int, end: int) -> bytes:
        """Read the bytes from `start` to `end`. Return nothing if the budget is spent."""
        self.left -= 1
        return await self.read(start, end) if self.left >= 0 else b""


async def _handlers(size: int, read: Read) -> set[bytes]:
    """Return the handlers of a file's audio and video tracks; empty if its index is not found."""
    budget, found = _Budget(read), set()
    async for moov in _boxes(budget, 0, size, b"moov"):
        async for track in _boxes(budget, moov.start, moov.end, b"trak"):
            found.add(await _handler(budget, track))
        break
    return set() if budget.left < 0 else found & {b"vide", b"soun", b"pict", b"auxv"}


async def _handler(budget: _Budget, track: _Box) -> bytes:
    async for media in _boxes(budget, track.start, track.end, b"mdia"):
        async for handler in _boxes(budget, media.start, media.end, b"hdlr"):
            return (await budget.bytes(handler.start, handler.start + 12))[8:12]
    return b""


async def _boxes(budget: _Budget, start: int, end: int, wanted: bytes) -> AsyncIterator[_Box]:
    """Yield the boxes of one type between two offsets."""
    while start + 8 <= end:
        head = await budget.bytes(start, min(start + 16, end))
        if len(head) < 8:
            return
        length, content = int.from_bytes(head[:4]), start + 8
        if length == 1:
            length, content = int.from_bytes(head[8:16]), start + 16
        length = length or end - start
        if start + length < content:
            return
        if head[4:8] == wanted:
            yield _Box(wanted, content, min(start + length, end))
        start += length


# --- WebM ---

_SEGMENT, _TRACKS, _TRACK_ENTRY, _TRACK_TYPE, _CLUSTER = 0x18538067, 0x1654AE6B, 0xAE, 0x83, 0x1F43B675


def _track_types(head: bytes) -> set[int]:
    """Return the types of a file's tracks (1 is video, 2 is audio); empty if they are not found."""
    found: set[int] = set()
    place = 0
    while (element := _element(head, place)) is not None:
        name, start, end = element
        if name == _CLUSTER or (name == _TRACKS and end > len(head)):
            return found
        if name == _TRACK_TYPE:
            found.add(int.from_bytes(head[start:end]))
        # The parser enters these three elements and skips all others.
        place = start if name in {_SEGMENT, _TRACKS, _TRACK_ENTRY} else end
    return found


def _element(head: bytes, place: int) -> tuple[int, int, int] | None:
    """Return the id of the element at an offset, and the start and end of its content. None at the end."""
    name, start = _number(head, place, keep_marker=True)
    size, content = _number(head, start, keep_marker=False)
    if not name or content > len(head) or content == start:
        return None
    unknown = size == (1 << 7 * (content - start)) - 1
    return name, content, len(head) if unknown else content + size


def _number(head: bytes, place: int, *, keep_marker: bool) -> tuple[int, int]:
    """Return a number of variable length and its end. The zeros before its first 1 bit give its length."""
    if place >= len(head) or not head[place]:
        return 0, place
    length = 9 - head[place].bit_length()
    value = int.from_bytes(head[place : place + length])
    return value if keep_marker else value & ~(1 << 7 * length), place + length
