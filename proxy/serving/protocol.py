"""HTTP/1.1 protocol of one connection: uvicorn's httptools protocol, with limits on bytes and time.

**Upgrades.** Every upgrade offer is ignored, as RFC 9110, section 7.8 allows. llhttp, the parser in httptools, skips
the body of a request that offers one (`Connection: upgrade` with `Upgrade`), and httptools has no switch for that. It
reports the offset at which the head ended. From there a second parser continues, which was given a head with the same
framing and no offer. Bytes from the client are never changed, because a parser counts them. `CONNECT` is refused,
because its body has no defined meaning.

**Ambiguity.** A proxy in front and this server must see the same requests. llhttp refuses bare LF, folded fields,
spaces in names, repeated or signed lengths, and a length together with a transfer coding. This module also refuses
every transfer coding except a single `chunked`, `chunked` in HTTP/1.0, a missing or second `Host`, and `Connection` in
a trailer. A refused request is answered with 400 after the answers to the requests before it. Then the connection is
closed.

**Bytes.** The URL, the fields of a head and their number are limited. The framing of a chunked body (sizes,
extensions, trailer fields) is limited as well. Trailer fields are dropped: they never become headers. At most 16
pipelined requests wait for the current one. Then the socket is not read.

**Turns.** One turn of the event loop parses at most `_PIECES_PER_TURN` pieces of a connection's data, so that one
client cannot block all others. The rest is parsed in the next turns, and the socket is not read until then.

**Time.** At every moment the client, or the application, has a limited time. The states of a connection
(`ConnectionState`) are:

- `HEAD`: a head must be complete 30 s after the connection opened, or after the head's own first byte.
- `BODY`: in every 30 s, 15,000 bytes of a body must arrive, unless the server itself is not reading.
- `ANSWER`: the request is complete. The application limits the time; a stream sends heartbeats.
- `DRAIN`: the answer was complete before the body was. The rest is read and dropped: at most 128 MiB and 30 s, with at
  most 5 s of silence. Then the connection is closed as in `LINGER`.
- `IDLE`: all requests are answered. The next one must begin within `POLLCAST_KEEPALIVE`.
- `LINGER`: the connection is being closed, as RFC 9112, section 9.6 recommends. The server has ended its side. Bytes
  that the client still sends are read and dropped, within the limits of `DRAIN`. Closing at once would reset the
  connection, and the reset can overtake the answer.

In every state, a client with more unread bytes than the transport's buffer must read 30,000 of them within 60 s.

**Half-closed clients.** A client may end its own side after its requests and still gets every answer. It looks like a
client that has left, until something is written to it. So a stream writes heartbeats soon after.

Requests of HTTP/1.0 are answered in chunks, as uvicorn does, although RFC 9112, section 6.1 forbids it, because nginx
speaks HTTP/1.0 by default. nginx reads chunks, passes each on at once, and relies on them to detect a broken stream.
"""

import asyncio
import logging
import re
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any, Final

import httptools
import orjson
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl

from proxy.core.errors import BadRequest, HeadersTooLong, RequestError, UrlTooLong

log = logging.getLogger(__name__)

_BLOCK_END: Final = b"\r\n\r\n"
"""The bytes that end a head, and a chunked body."""
_URL_LIMIT: Final = 16 << 10
"""Maximum size, in bytes, of a path and query: twice the size of the longest Link."""
_HEAD_LIMIT: Final = 64 << 10
"""Maximum size, in bytes, of all fields of a head together."""
_FIELD_LIMIT: Final = 256
"""Maximum number of fields in a head. Each one costs more memory than its bytes."""
_FRAMING_LIMIT: Final = 16 << 10
"""Maximum size, in bytes, of chunk sizes, extensions and trailer fields, plus `_FRAMING_SHARE` per byte of the body."""
_FRAMING_SHARE: Final = 8
"""Bytes of framing that are free for each byte of a chunked body. A chunk of one byte has five."""
_QUEUE_LIMIT: Final = 16
"""Maximum number of pipelined requests that wait for the current one."""
_DROP_LIMIT: Final = 128 << 20
"""Maximum size, in bytes, that is read and dropped after an answer. So the client of a large upload sees its 413."""
_PIECE_SIZE: Final = 16 << 10
"""Maximum size, in bytes, of a piece of a head or of a chunked body, which the parser may gather."""
_PIECES_PER_TURN: Final = 500
"""Maximum number of pieces that are parsed in one turn of the event loop, which takes about a millisecond.

A chunked body of line ends has a piece in every four bytes: 4 MB of it would block all other connections for 2 s.
"""
_CHUNKED: Final = -1
"""The value of `_body_left` for a chunked body."""
_PROBE_DELAYS: Final = (0.1, 1.0)
"""Seconds after a client's half-close at which a stream writes again. The write fails if the client has left."""

_FRAMING_FIELDS: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
_HOST_PATTERN: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%-]*(:[0-9]*)?|\[[0-9A-Fa-f:.]+\](:[0-9]*)?")
_ABSOLUTE_URL: Final = re.compile(rb"(?i:https?)://([^/?#@]+)([^#]*)")


class ConnectionState(Enum):
    """ConnectionState of a connection: the thing that it waits for. The module's docstring lists the limits."""

    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    DRAIN = "drain"
    IDLE = "idle"
    LINGER = "linger"


# In Python 3.11 a lookup of a member in its class takes ten times as long as one of these names.
_HEAD, _BODY, _ANSWER, _DRAIN, _IDLE, _LINGER = ConnectionState


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits on the time that a client takes, in seconds."""

    head: float = 30.0
    """From a head's first byte to its end; for the first head, from the opening of the connection."""
    body: float = 30.0
    """Interval in which a body must grow by `rate` bytes for each second."""
    rate: float = 500.0
    """Minimum rate, in bytes per second. The slowest mobile network is faster, so only stalled clients are below it."""
    idle: float = 75.0
    """Between requests. Proxies in front usually close their connections earlier."""
    write: float = 60.0
    """Interval in which an unread answer must shrink by `rate` bytes for each second."""
    silence: float = 5.0
    """Maximum silence while the rest of an answered request is dropped (nginx: lingering_timeout)."""
    linger: float = 30.0
    """Maximum time for which the rest of an answered request is dropped (nginx: lingering_time)."""


class _Flow(FlowControl):
    """uvicorn's flow control. While `full` is True it does not resume reading."""

    full = False

    def resume_reading(self) -> None:
        if not self.full:
            super().resume_reading()


class Http(HttpToolsProtocol):
    """One connection. Its cycles (one for each request) use it as their transport: they write to it and close it."""

    # Slots save 1.3 KiB per connection: Python shares the keys of at most 30 attributes between the dictionaries of
    # objects, and uvicorn has 28. With more, the dictionary of each connection is unshared.
    __slots__ = (
        "_body_left",
        "_current_cycle",
        "_drop_intervals",
        "_dropped",
        "_gathered_size",
        "_has_progressed",
        "_head_size",
        "_held_writes",
        "_host_count",
        "_is_closing",
        "_is_in_head",
        "_is_priming",
        "_is_stopping",
        "_next_turn",
        "_parsing_ended",
        "_received",
        "_received_before",
        "_refusal",
        "_request_complete",
        "_state",
        "_timeouts",
        "_timer",
        "_unparsed",
        "_unsent_size",
        "_write_timer",
        "half_closed",
    )

    flow: _Flow

    def __init__(self, *args: Any, timeouts: Timeouts = Timeouts(), **named: Any) -> None:
        super().__init__(*args, **named)
        self._timeouts = timeouts

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Initialize the connection, and wait for the first request."""
        self.connections.add(self)
        self.transport = transport
        self.flow = _Flow(transport)
        self.server, self.client = get_local_addr(transport), get_remote_addr(transport)
        self.scheme = "https" if is_ssl(transport) else "http"
        self.half_closed = self._is_closing = self._parsing_ended = self._is_stopping = False
        self._current_cycle: RequestResponseCycle | None = None
        self._refusal: RequestError | None = None
        self._held_writes: list[bytes] | None = None
        self._unparsed = b""
        self._is_in_head, self._request_complete, self._has_progressed, self._is_priming = False, True, False, False
        self._body_left = self._gathered_size = self._head_size = self._host_count = 0
        self._received = self._dropped = self._received_before = self._drop_intervals = self._unsent_size = 0
        self._state = _ANSWER
        self._next_turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._enter_state(_HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers, and notify the request that is being answered. uvicorn notifies only the last one."""
        super().connection_lost(exc)
        self._cancel_timer()
        self._cancel_write_timer()
        self._parsing_ended = True
        self._unparsed = b""
        self.pipeline.clear()
        if self._current_cycle is not None:
            _disconnect(self._current_cycle)

    # --- from bytes to requests ---

    def data_received(self, data: bytes) -> None:
        """Parse bytes from the client, or drop them if the connection reads no further requests."""
        if self._is_closing or self._parsing_ended:
            self._drop(len(data))
            return
        if self._unparsed:
            data, self._unparsed = self._unparsed + data, b""
        self._parse(data)
        self._update_state()

    def _parse(self, data: bytes) -> None:
        """Parse piece by piece until the data is used up, the queue is full, or the turn's limit is reached."""
        start, size, pieces = 0, len(data), 0
        while start < size and pieces < _PIECES_PER_TURN and not self._must_wait():
            end = self._piece_end(data, start)
            start += self._feed_parser(data[start:end])  # a slice of all the data is no copy
            pieces += 1
        if start < size or self.pipeline:
            self._wait_for_room(data[start:])
            if self._unparsed and not self._must_wait() and self._next_turn is None:
                self._next_turn = self.loop.call_soon(self._parse_in_next_turn)

    def _must_wait(self) -> bool:
        return self._parsing_ended or self._is_closing or (bool(self.pipeline) and self._is_full())

    def _parse_in_next_turn(self) -> None:
        self._next_turn = None
        if self._parse_rest() and (self.cycle is None or self.cycle.response_complete or not self._is_body_full()):
            self._resume_reading()

    def _parse_rest(self) -> bool:
        """Parse the bytes that were kept. Return False if they must wait for an answer, or are not wanted any more."""
        if self._must_wait():
            return False
        if self.flow.full:
            self.flow.full, rest, self._unparsed = False, self._unparsed, b""
            self._parse(rest)
        return True

    def _resume_reading(self) -> None:
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._update_state()

    def _wait_for_room(self, rest: bytes) -> None:
        """Keep the unparsed bytes. The socket is not read while there are any, or while the queue is full."""
        self._unparsed = b"" if self._parsing_ended or self._is_closing else rest
        self.flow.full = bool(self._unparsed) or (bool(self.pipeline) and self._is_full())
        if self.flow.full:
            self.flow.pause_reading()

    def _is_full(self) -> bool:
        return len(self.pipeline) >= _QUEUE_LIMIT or self._is_body_full()

    def _is_body_full(self) -> bool:
        return len(self.cycle.body) > HIGH_WATER_LIMIT

    def _piece_end(self, data: bytes, start: int) -> int:
        """Return the end of a piece in which at most one request ends, so that parsing can stop behind it."""
        if self._body_left > 0:
            return min(start + self._body_left, len(data))
        found = data.find(_BLOCK_END, start, start + _PIECE_SIZE)
        return min(start + _PIECE_SIZE, len(data)) if found < 0 else found + len(_BLOCK_END)

    def _feed_parser(self, piece: bytes) -> int:
        """Give the parser a piece, and return the number of bytes used."""
        used, received = len(piece), self._received
        self._has_progressed = False
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as offer:
            used = offer.args[0]
            if self._body_left:
                self._ignore_offer()
        except httptools.HttpParserError as error:
            self._refuse(_request_error(error))
            return used
        if self._has_progressed:
            self._gathered_size = 0
        else:
            self._check_gathered(used, self._received - received)
        return used

    def _ignore_offer(self) -> None:
        """Replace the parser by one that has not seen the upgrade offer, and so reads the body."""
        length = (
            b"Transfer-Encoding: chunked" if self._body_left == _CHUNKED else b"Content-Length: %d" % self._body_left
        )
        scope, self.parser = self.scope, httptools.HttpRequestParser(self)
        self._is_priming = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + length + _BLOCK_END)
        self.scope, self._is_priming = scope, False

    def _check_gathered(self, size: int, body: int) -> None:
        """Refuse a head field or a body's framing without an end: the parser gathers it without a callback."""
        self._gathered_size = max(self._gathered_size + size - body - _FRAMING_SHARE * body, 0)
        if self._is_in_head or self._request_complete:
            if self._gathered_size > _HEAD_LIMIT + _URL_LIMIT:
                self._refuse(_headers_too_long())
        elif self._gathered_size > _FRAMING_LIMIT:
            self._refuse(BadRequest("The chunk extensions and trailer fields are too long."))

    def on_message_begin(self) -> None:
        """Begin a request. Its scope contains this connection, for streams."""
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._is_in_head, self._request_complete = True, False
        self._body_left = self._head_size = self._host_count = 0

    def on_url(self, url: bytes) -> None:
        """Append a piece of the URL. Raises UrlTooLong."""
        super().on_url(url)
        if len(self.url) > _URL_LIMIT:
            raise UrlTooLong(f"The URL is longer than {_URL_LIMIT} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Append a field of the head, or drop a field of a trailer. Raises BadRequest and HeadersTooLong."""
        name = name.lower()
        if not self._is_in_head:
            if name == b"connection":  # llhttp would apply it
                raise BadRequest("A trailer must not have the field Connection.")
            return
        value = value.rstrip(b" \t")  # trailing blanks are not part of the value (RFC 9110, section 5.5)
        self._head_size += len(name) + len(value)
        if self._head_size > _HEAD_LIMIT or len(self.headers) >= _FIELD_LIMIT:
            raise _headers_too_long()
        if name in _FRAMING_FIELDS:
            self._read_framing_field(name, value)
        self.headers.append((name, value))

    def _read_framing_field(self, name: bytes, value: bytes) -> None:
        """Check and store a field that determines how the request is read. Raises BadRequest."""
        match name:
            case b"host":
                self._host_count += 1
                if not _HOST_PATTERN.fullmatch(value):
                    raise BadRequest("The header Host is not a host.")
            case b"content-length":
                self._body_left = int(value)  # llhttp has checked it
            case b"transfer-encoding":
                if value.lower() != b"chunked" or self._body_left:
                    raise BadRequest("The only supported transfer coding is a single chunked.")
                self._body_left = _CHUNKED
            case b"expect":
                self.expect_100_continue = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        """Start the application, or queue the request behind the current one."""
        self._has_progressed = True
        if not self._is_priming:
            self._check_head()
            super().on_headers_complete()
            self.cycle.transport = self  # type: ignore[assignment] # the cycle only writes to it and closes it
            self._cancel_timer()
        self._is_in_head = False

    def _check_head(self) -> None:
        """Refuse a request that a proxy in front might read differently. Raises BadRequest."""
        version = self.parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            raise BadRequest("The version of HTTP must be 1.1 or 1.0.")
        if self._host_count > 1 or (self._host_count == 0 and version == "1.1"):
            raise BadRequest("A request must have exactly one header Host.")
        if self._body_left == _CHUNKED and version == "1.0":
            raise BadRequest("HTTP/1.0 has no transfer codings.")
        if self.parser.should_upgrade() and self.parser.get_method() == b"CONNECT":
            raise BadRequest("CONNECT is not supported.")
        if not self.url.startswith(b"/"):
            self._read_absolute_url()

    def _read_absolute_url(self) -> None:
        """Replace a URL such as `http://host/path` by its path, and the header Host by its host."""
        found = _ABSOLUTE_URL.fullmatch(self.url)
        if found is None or not _HOST_PATTERN.fullmatch(found[1]):
            raise BadRequest("The URL must be a path, or an absolute URL of http or https.")
        host, path = found.groups()
        self.url = path if path.startswith(b"/") else b"/" + path
        # The received header Host is ignored (RFC 9112, section 3.2.2).
        self.headers[:] = [(name, host if name == b"host" else value) for name, value in self.headers]

    def on_body(self, body: bytes) -> None:
        """Append a piece of a body, or drop it if the request is already answered."""
        if self._body_left > 0:
            self._body_left -= len(body)
        cycle = self.cycle
        if cycle.response_complete:
            self._drop(len(body))
            return
        self._received += len(body)
        cycle.body += body
        if self._is_body_full():
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Notify the application that its request is complete."""
        if self._body_left and self.parser.should_upgrade():
            return  # the end of the head only: see `_ignore_offer`
        self._request_complete, self._body_left, self._has_progressed, self._dropped = True, 0, True, 0
        cycle = self.cycle
        if not cycle.keep_alive:
            self._parsing_ended = True
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def _should_upgrade(self) -> bool:
        return False

    def _refuse(self, error: RequestError | None) -> None:
        """Stop parsing. After the answers to the requests before this one, send the error (if any) and close."""
        self._parsing_ended, self._refusal = True, error
        if not (self._is_in_head or self._request_complete):
            self._discard_request(self.cycle)
        if not self._is_answering() or (self._current_cycle and self._current_cycle.disconnected):
            self._finish()

    def _discard_request(self, cycle: RequestResponseCycle) -> None:
        """Remove a request whose body will not be complete, from the queue or from its application."""
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
            return
        if cycle.response_started:
            self._refusal = None
        _disconnect(cycle)

    def _finish(self) -> None:
        if self._refusal is not None and not self.is_closing():
            self.transport.write(_error_response(self._refusal))
        self.close()

    # --- answers ---

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._current_cycle = cycle
        super()._start_asgi_task(cycle, app)

    def _is_answering(self) -> bool:
        return self._current_cycle is not None and not self._current_cycle.response_complete

    def on_response_complete(self) -> None:
        """Start the next request, and continue parsing and reading."""
        self.server_state.total_requests += 1
        if self.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._parsing_ended or self.half_closed:
            self._finish()
            return
        elif self.expect_100_continue and not self._request_complete:
            # Without a 100 the client may omit the body, and its next request would be read as the body.
            self.close()
            return
        self._parse_rest()
        self._resume_reading()

    def write(self, data: bytes) -> None:
        """Write a part of the current response."""
        if self._held_writes is not None:
            self._held_writes.append(data)
        elif not (self._is_closing or self.transport.is_closing()):  # uvloop would raise, as in `push`
            self.transport.write(data)

    def is_closing(self) -> bool:
        """Return True if nothing can be written any more."""
        return self._is_closing or self.transport.is_closing()

    def push(self, chunk: bytes, /) -> bool:
        """Write a chunk of the current response. Return False if the client has enough to read, or has left."""
        # After a reset, uvloop raises on a write, even before the stream's task is notified of the reset.
        if self.flow.write_paused or self._is_closing or self.transport.is_closing():
            return False
        self.transport.write(chunk)
        return True

    def hold(self) -> None:
        """Buffer the current response until `release`, so that its head and first event are one write."""
        self._held_writes = []

    def release(self) -> None:
        """Write the buffered bytes, and stop buffering."""
        held, self._held_writes = self._held_writes, None
        if held and not self.is_closing():
            self.transport.write(b"".join(held))

    def abort(self) -> None:
        """Drop the connection and all unwritten bytes."""
        self.transport.abort()

    # --- the end ---

    def close(self) -> None:
        """End the server's side. Read and drop further bytes until the client ends its side or takes too long."""
        if self.is_closing():
            return
        self._is_closing, self._unparsed = True, b""
        self.pipeline.clear()
        if self.half_closed or (self._is_stopping and self._request_complete) or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()
            self.flow.full = False
            self.flow.resume_reading()
        self._start_write_timer()
        self._enter_state(_LINGER)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer the complete requests after the client has ended its side, then close."""
        self.half_closed = True
        if self._is_closing:
            self.transport.close()
        elif not self._is_answering():
            self.close()
        else:
            self._answer_pending()
        return True

    def _answer_pending(self) -> None:
        if not self._request_complete:
            self._refuse(None)
        self._parsing_ended = True
        self._update_state()
        self._probe()
        for seconds in _PROBE_DELAYS:
            self.loop.call_later(seconds, self._probe)

    def _probe(self) -> None:
        """Wake the current response. A stream then writes, and a client that has left resets the connection."""
        if self._current_cycle is not None:
            self._current_cycle.message_event.set()

    def shutdown(self) -> None:
        """Close at the server's shutdown: at once, or after the current response."""
        self._is_stopping = True
        if self._current_cycle is not None and self._is_answering():
            self._current_cycle.keep_alive = False
        else:
            self.close()

    def _drop(self, size: int) -> None:
        self._received += size
        self._dropped += size
        if self._dropped > _DROP_LIMIT:
            self.abort()

    # --- time ---

    def _update_state(self) -> None:
        """Enter the state that the connection is in now, and start its timer."""
        if self._is_closing:
            return
        if self._is_in_head and not self._parsing_ended:
            state = _HEAD
        elif not self._request_complete and not self._parsing_ended:
            state = _DRAIN if self.cycle.response_complete else _BODY
        elif self._current_cycle is None:
            state = _HEAD
        else:
            state = _IDLE if self._current_cycle.response_complete else _ANSWER
        if state is not self._state:
            self._enter_state(state)

    def _enter_state(self, state: ConnectionState) -> None:
        self._cancel_timer()
        if state is not _ANSWER:
            self._state, self._received_before, self._drop_intervals = state, self._received, 0
            self._set_timer()

    def _set_timer(self) -> None:
        times, state = self._timeouts, self._state
        if state is _IDLE:
            seconds = times.idle
        elif state is _HEAD:
            seconds = times.head
        else:
            seconds = times.body if state is _BODY else times.silence
        self._timer = self.loop.call_later(seconds, self._expire)

    def _cancel_timer(self) -> None:
        self._state = _ANSWER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        match self._state:
            case ConnectionState.HEAD:
                self._refuse(None)
                self._update_state()
            case ConnectionState.BODY:
                self._check_body()
            case ConnectionState.IDLE:
                self.close()
            case _:
                self._check_dropped()

    def _check_body(self) -> None:
        """Refuse a body that has stalled. It has not stalled while the server itself is not reading."""
        if self.flow.read_paused or self._received - self._received_before >= self._timeouts.rate * self._timeouts.body:
            self._enter_state(_BODY)
        else:
            self._refuse(None)
            self._update_state()

    def _check_dropped(self) -> None:
        """End a connection if its client was silent, or has sent dropped bytes for too long."""
        unread = self._is_closing and self.transport.get_write_buffer_size() > 0
        self._drop_intervals += not unread  # unread bytes are limited by `_check_unread`
        silent = self._received == self._received_before and not unread
        if not silent and self._drop_intervals * self._timeouts.silence < self._timeouts.linger:
            self._received_before = self._received
            self._set_timer()
        elif self._is_closing:
            self.abort()
        else:
            self.close()

    def pause_writing(self) -> None:
        """Start the write timer, because the client has much to read."""
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        """Continue writing, and cancel the write timer."""
        super().resume_writing()
        if not self._is_closing:
            self._cancel_write_timer()

    def _start_write_timer(self) -> None:
        self._unsent_size = self.transport.get_write_buffer_size()
        if self._unsent_size and self._write_timer is None:
            self._write_timer = self.loop.call_later(self._timeouts.write, self._check_unread)

    def _cancel_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _check_unread(self) -> None:
        self._write_timer = None
        read = self._unsent_size - self.transport.get_write_buffer_size()
        if read < min(self._unsent_size, self._timeouts.rate * self._timeouts.write):
            log.info("A client read too slowly for %g seconds. Its connection is dropped.", self._timeouts.write)
            self.abort()
        else:
            self._start_write_timer()


def _disconnect(cycle: RequestResponseCycle) -> None:
    cycle.disconnected = True
    cycle.message_event.set()


def _request_error(error: httptools.HttpParserError) -> RequestError:
    """Return the error that a callback raised, or a BadRequest for an error of the parser."""
    raised = error.__context__
    return raised if isinstance(raised, RequestError) else BadRequest("Invalid HTTP request received.")


def _error_response(error: RequestError) -> bytes:
    """Return the response to a request that the application has not seen, with the usual body of an error."""
    body = orjson.dumps({"status": "Error", "message": error.message, "code": error.code})
    line = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"
    # The allowed origins are a setting of the application. Any origin may read this body, which has no secrets.
    fields = "content-type: application/json\r\naccess-control-allow-origin: *"
    return f"{line}\r\n{fields}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _headers_too_long() -> RequestError:
    return HeadersTooLong(
        f"There are more than {_FIELD_LIMIT} headers, or they are longer than {_HEAD_LIMIT} bytes together."
    )
