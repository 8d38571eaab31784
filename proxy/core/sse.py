"""Server-sent events: encodes events as bytes, and parses bytes into messages.

`frame` encodes every event that clients get. `Parser` reads the streams of providers and, in the command line, of
Pollcast. Both follow the WHATWG standard, section 9.2 (https://html.spec.whatwg.org/multipage/server-sent-events.html).
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
"""Headers of every stream. They keep proxies from caching, changing or buffering it."""

RETRY: Final = b"retry: 2000\n"
"""The first line of every stream: the time, in milliseconds, that a browser waits before it reconnects."""

HEARTBEAT: Final = b": keep-alive\n"
"""The heartbeat of an idle stream. No blank line follows, because some clients take an empty block for a message."""


def frame(data: bytes, n: int) -> bytes:
    """Return one event as a frame. Raises ValueError if `data` contains a line end, which would break the frame.

    `data` comes before `id`, so that a client that is cut off inside the frame has not stored the id yet.
    """
    if b"\n" in data or b"\r" in data:
        raise ValueError("An event's data must be one line: encode line ends, as JSON does.")
    return b"data: %s\nid: %d\n\n" % (data, n)


def chunk(data: bytes) -> bytes:
    """Return bytes as a chunk of HTTP/1.1 (RFC 9112, section 7.1), encoded once for all connections.

    Empty data gives no chunk, because an empty chunk ends the body.
    """
    if not data:
        return b""
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(frozen=True, slots=True)
class Message:
    """A message as a client's `onmessage` gets it."""

    data: str
    event: str = "message"
    id: str = ""


OWN_MESSAGE_LIMIT: Final = 1 << 26
"""Limit, in bytes, for a message of Pollcast's own streams; far above the largest that it writes."""


BOM: Final = b"\xef\xbb\xbf"
"""The byte order mark that may precede a stream."""


class MessageTooLong(ValueError):
    """A message exceeds the parser's limit."""


class Parser:
    """Parses a byte stream in pieces of any size. `limit` is the largest size of a message, in bytes.

    `is_whole` returns whether some data is a complete message. Then the next `data` line starts a new message, even if
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
        self._late_event: str | None = None
        """An `event` field after data: it belongs to the next message if that starts before the blank line."""
        self._id = ""
        self.retry: float | None = None
        """Seconds to wait before reconnecting, from the stream's last `retry` field."""

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Parse the next bytes and yield the messages that they complete. Raises MessageTooLong."""
        for line in self._lines(chunk):
            if line:
                yield from self._field(line)
            else:
                yield from self._dispatch()
        self._check_size()

    def end(self) -> Iterator[Message]:
        """Yield a last message that lacks its blank line. Call this when the stream has ended cleanly.

        The standard drops such a message. The examples on AI-Now's page end with their last frame, and a paid result
        that was read completely must not be lost.
        """
        line, self._rest = self._rest, b""
        if line:
            yield from self._field(line.removeprefix(BOM) if self._first else line)
        yield from self._dispatch()

    def _lines(self, chunk: bytes) -> list[bytes]:
        # A CR ends its line immediately. A LF as the next byte belongs to the same line end.
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
            self._late_event = value
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit() and len(value) < 10:
            self.retry = int(value) / 1000

    def _split(self) -> Iterator[Message]:
        """Finish the message at a line that starts the next one."""
        following, self._late_event = self._late_event or "", None
        yield from self._dispatch()
        self._event = following

    def _dispatch(self) -> Iterator[Message]:
        if self._data:
            event = self._event if self._late_event is None else self._late_event
            yield Message("\n".join(self._data), event or "message", self._id)
        self._data, self._event, self._late_event, self._size = [], "", None, 0


_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
