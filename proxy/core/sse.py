"""The wire format: events to bytes, and bytes to messages.

`frame` is how every event leaves; `Parser` is how AI-Now-style upstreams and the command-line client are read. Both
follow the WHATWG standard, section 9.2 (https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}
"""What every stream says of itself, so that proxies neither keep, change nor hold it back."""

RETRY: Final = b"retry: 2000\n"
"""The first line of every connection: how long a browser waits before it reconnects, in milliseconds."""

HEARTBEAT: Final = b": keep-alive\n"
"""What an idle stream says. No blank line after it: a block without data is an empty message to some clients."""


def frame(data: bytes, n: int) -> bytes:
    """Write one event as a frame; ValueError when `data` holds a line end, which would break the frame.

    `data` stands before `id`: a client that is cut inside the frame must not have taken the id yet.
    """
    if b"\n" in data or b"\r" in data:
        raise ValueError("An event's data must be one line: encode line ends, as JSON does.")
    return b"data: %s\nid: %d\n\n" % (data, n)


def chunk(data: bytes) -> bytes:
    """Write bytes as a chunk of HTTP/1.1 (RFC 9112, section 7.1), once for all connections that get them.

    No bytes are no chunk: an empty one would end the body.
    """
    if not data:
        return b""
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(frozen=True, slots=True)
class Message:
    """What a client's `onmessage` would see."""

    data: str
    event: str = "message"
    id: str = ""


OWN: Final = 1 << 26
"""Bytes that a message of Pollcast's own may have, far above what it ever writes; for who reads its streams."""


BOM: Final = b"\xef\xbb\xbf"
"""The byte order mark with which a stream may begin."""


class MessageTooLong(ValueError):
    """A message that grew over the parser's limit without ending."""


class Parser:
    """Reads a byte stream in pieces of any size; `limit` bounds one message, in bytes.

    `is_whole` tells whether data is complete by itself. Then the next `data` line begins a message of its own, although
    the blank line between them is missing.
    """

    def __init__(self, limit: int = 1 << 20, is_whole: Callable[[str], bool] | None = None) -> None:
        self._limit = limit
        self._is_whole = is_whole
        self._rest = b""
        self._after_cr = False
        self._first = True
        self._size = 0
        self._data: list[str] = []
        self._event = ""
        self._later: str | None = None
        """An `event` that came behind data: the next message's, if one begins before the blank line."""
        self._id = ""
        self.retry: float | None = None
        """Seconds to wait before coming back, as the stream last said."""

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Take the next bytes and yield the messages that they complete. Raises MessageTooLong."""
        for line in self._lines(chunk):
            if line:
                yield from self._field(line)
            else:
                yield from self._dispatch()
        self._check_size()

    def end(self) -> Iterator[Message]:
        """The stream has ended cleanly: yield a last message that lacks its blank line.

        The standard would drop it. The AI-Now page's examples end with their last frame, and a paid result that was
        read whole is not thrown away.
        """
        line, self._rest = self._rest, b""
        if line:
            yield from self._field(line.removeprefix(BOM) if self._first else line)
        yield from self._dispatch()

    def _lines(self, chunk: bytes) -> list[bytes]:
        # A CR ends its line at once; should a LF be the next byte, it belongs to that same line end.
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if chunk.endswith(b"\r"):
            self._after_cr = True
        *lines, self._rest = _LINE_END.split(self._rest + chunk)
        if lines and self._first:
            lines[0] = lines[0].removeprefix(BOM)
            self._first = False
        return lines

    def _check_size(self) -> None:
        if self._size + len(self._rest) > self._limit:
            raise MessageTooLong(f"A message is longer than {self._limit} bytes.")

    def _field(self, line: bytes) -> Iterator[Message]:
        if line.startswith(b":"):
            return
        if self._data and self._is_whole and line.startswith(b"data") and self._is_whole("\n".join(self._data)):
            yield from self._split()
        self._size += len(line)
        self._check_size()
        name, _, value = line.decode(errors="replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event" and self._data:
            self._later = value
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit() and len(value) < 10:
            self.retry = int(value) / 1000

    def _split(self) -> Iterator[Message]:
        """End the message at a line that begins the next one."""
        following, self._later = self._later or "", None
        yield from self._dispatch()
        self._event = following

    def _dispatch(self) -> Iterator[Message]:
        if self._data:
            event = self._event if self._later is None else self._later
            yield Message("\n".join(self._data), event or "message", self._id)
        self._data, self._event, self._later, self._size = [], "", None, 0


_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
