"""HTTP/1.1 for one connection: uvicorn's httptools protocol, with bounds on bytes and time.

**Upgrades.** Every offer of an upgrade is ignored, as RFC 9110, section 7.8 allows. llhttp, the parser in httptools,
skips the body of a request that offers one (`Connection: upgrade` with `Upgrade`), and httptools has no switch for
that. It reports the offset at which the head ended. From there a new parser goes on, which has been given a head with
the same framing and no offer. Bytes from the client are never changed: a parser counts them. `CONNECT` is refused,
because its body has no defined meaning.

**Ambiguity.** Behind a proxy, both ends must see the same requests. llhttp refuses bare LF, folded fields, spaces in
names, repeated or signed lengths, and a length beside a transfer coding. This module also refuses every transfer coding
but a single `chunked`, `chunked` in HTTP/1.0, a missing or second `Host`, and `Connection` in a trailer. A refused
request is answered with 400 after the answers to the requests before it. Then the connection is closed.

**Bytes.** The URL, the fields of a head and their number are bounded, and so is what comes between the bytes of a
chunked body (sizes, extensions, trailer fields). Trailer fields are dropped: they never become headers. At most 16
requests wait behind the one that is being answered; then the socket is not read.

**Time.** At every moment the client, or the application, has a limited time. The states of a connection (`State`) are:

- `HEAD`: a head must be complete 30 s after the connection opened, or after the head's own first byte.
- `BODY`: in every 30 s, 15,000 bytes of a body must arrive, unless the server itself is not reading.
- `ANSWER`: the request is complete. The application sets the time; a stream sends heartbeats.
- `DRAIN`: the answer was complete before the body was. The rest is read and dropped: at most 128 MiB and 30 s, and at
  most 5 s of silence. Then the connection is closed as in `LINGER`.
- `IDLE`: all requests are answered. The next one must begin within `POLLCAST_KEEPALIVE`.
- `LINGER`: the connection is being closed, as RFC 9112, section 9.6 recommends. Our side has ended. What the client
  still sends is read and dropped, within the bounds of `DRAIN`. Closing at once would reset the connection, and the
  reset can overtake the answer.

In every state, a client that has more than the transport's buffer to read must read 30,000 bytes of it within 60 s.

**Half-closed clients.** A client may end its own side after its requests and still gets every answer. Such a client
looks like one that has left, until something is written to it. So a stream writes heartbeats soon after.

Requests of HTTP/1.0 are answered in chunks, as uvicorn does, although RFC 9112, section 6.1 forbids it. nginx speaks
HTTP/1.0 by default. It reads chunks, passes each on at once, and detects by them a stream that broke.
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
"""The end of a head, and of a chunked body."""
_URL_LIMIT: Final = 16 << 10
"""Bytes of a path and query: twice what the longest Link needs."""
_HEAD_LIMIT: Final = 64 << 10
"""Bytes of all fields of a head together."""
_FIELD_LIMIT: Final = 256
"""Number of fields in a head: each one costs more memory than its bytes."""
_FRAMING_LIMIT: Final = 16 << 10
"""Bytes of chunk sizes, extensions and trailer fields, beyond `_FRAMING_SHARE` for each byte of the body."""
_FRAMING_SHARE: Final = 8
"""Bytes of framing that a byte of a chunked body may have: a chunk of one byte has five."""
_QUEUE_LIMIT: Final = 16
"""Pipelined requests that wait behind the one that is being answered."""
_DROP_LIMIT: Final = 128 << 20
"""Bytes that are read and dropped after an answer: an upload over the asset limit should get to see its 413."""
_PIECE: Final = 16 << 10
"""Bytes that the parser gets at once where it may gather them."""
_PIECES_PER_TURN: Final = 500
"""Pieces that are parsed in one turn of the event loop: about a millisecond. A body of line ends has a piece in every
four bytes, and would otherwise block all other connections for as long as it arrives."""
_CHUNKED: Final = -1
"""The length of a body that is sent in chunks."""
_PROBES: Final = (0.1, 1.0)
"""Seconds after a client has ended its side at which a stream writes again, to find out whether the client is there."""

_FRAMING: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
_HOST: Final = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%-]*(:[0-9]*)?|\[[0-9A-Fa-f:.]+\](:[0-9]*)?")
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?#@]+)([^#]*)")


class State(Enum):
    """What a connection is waiting for; see the module's documentation."""

    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    DRAIN = "drain"
    IDLE = "idle"
    LINGER = "linger"


# In Python 3.11, to look up a member in its class takes as long as ten of these.
_HEAD, _BODY, _ANSWER, _DRAIN, _IDLE, _LINGER = State


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a client may take, in seconds."""

    head: float = 30.0
    """From a head's first byte (of the first one: from the opening of the connection) to its end."""
    body: float = 30.0
    """Interval in which a body must have grown by `rate` bytes for each second."""
    rate: float = 500.0
    """Bytes per second: less than the slowest mobile network offers, so that only a stalled client is below it."""
    idle: float = 75.0
    """Between requests: longer than the proxies in front usually keep a connection."""
    write: float = 60.0
    """Interval in which an unread answer must have shrunk by `rate` bytes for each second."""
    silence: float = 5.0
    """Longest silence while the rest of an answered request is dropped (nginx: lingering_timeout)."""
    linger: float = 30.0
    """Time in all for which the rest of an answered request is dropped (nginx: lingering_time)."""


class _Flow(FlowControl):
    """uvicorn's flow control, which does not read while enough requests wait."""

    full = False

    def resume_reading(self) -> None:
        if not self.full:
            super().resume_reading()


class Http(HttpToolsProtocol):
    """One connection. Its cycles (one for each request) write to it, and close it, as to a transport."""

    # In slots: Python shares the keys of at most 30 attributes between objects, and uvicorn has 28. More of them
    # in the dictionary would give each connection a whole one of its own, of 1.3 KiB.
    __slots__ = (
        "_answering",
        "_closing",
        "_dropped",
        "_ended",
        "_gathered",
        "_head",
        "_held",
        "_hosts",
        "_in_head",
        "_left",
        "_mark",
        "_next_turn",
        "_priming",
        "_progress",
        "_received",
        "_refusal",
        "_state",
        "_stopping",
        "_ticks",
        "_timeouts",
        "_timer",
        "_unparsed",
        "_unsent",
        "_whole",
        "_write_timer",
        "half_closed",
    )

    flow: _Flow

    def __init__(self, *args: Any, timeouts: Timeouts = Timeouts(), **named: Any) -> None:
        super().__init__(*args, **named)
        self._timeouts = timeouts

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        self.connections.add(self)
        self.transport = transport
        self.flow = _Flow(transport)
        self.server, self.client = get_local_addr(transport), get_remote_addr(transport)
        self.scheme = "https" if is_ssl(transport) else "http"
        self.half_closed = self._closing = self._ended = self._stopping = False
        self._answering: RequestResponseCycle | None = None
        self._refusal: RequestError | None = None
        self._held: list[bytes] | None = None
        self._unparsed = b""
        self._in_head, self._whole, self._progress, self._priming = False, True, False, False
        self._left = self._gathered = self._head = self._hosts = 0
        self._received = self._dropped = self._mark = self._ticks = self._unsent = 0
        self._state = _ANSWER
        self._next_turn: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._enter(_HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and notify the request that is being answered: uvicorn notifies only the last one."""
        super().connection_lost(exc)
        self._cancel_timer()
        self._forget_unread()
        self._ended = True
        self._unparsed = b""
        self.pipeline.clear()
        if self._answering is not None:
            _disconnect(self._answering)

    # --- from bytes to requests ---

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._closing or self._ended:
            self._drop(len(data))
            return
        if self._unparsed:
            data, self._unparsed = self._unparsed + data, b""
        self._parse(data)
        self._watch()

    def _parse(self, data: bytes) -> None:
        """Parse piece by piece, until the data is used up, enough requests wait, or the turn is over."""
        start, size, pieces = 0, len(data), 0
        while start < size and pieces < _PIECES_PER_TURN and not self._must_wait():
            end = self._piece_end(data, start)
            start += self._feed(data[start:end])  # which copies nothing where it is all
            pieces += 1
        if start < size or self.pipeline:
            self._wait_for_room(data[start:])
            if self._unparsed and not self._must_wait() and self._next_turn is None:
                self._next_turn = self.loop.call_soon(self._parse_in_next_turn)

    def _must_wait(self) -> bool:
        return self._ended or self._closing or (bool(self.pipeline) and self._full())

    def _parse_in_next_turn(self) -> None:
        self._next_turn = None
        if self._parse_rest() and (self.cycle is None or self.cycle.response_complete or not self._body_is_full()):
            self._resume_reading()

    def _parse_rest(self) -> bool:
        """Continue with the bytes that were kept. Return True if no request has to wait for another's answer."""
        if self._must_wait():
            return False
        if self.flow.full:
            self.flow.full, rest, self._unparsed = False, self._unparsed, b""
            self._parse(rest)
        return True

    def _resume_reading(self) -> None:
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._watch()

    def _wait_for_room(self, rest: bytes) -> None:
        """Keep what is not parsed yet; the socket is not read while there is some, or while enough requests wait."""
        self._unparsed = b"" if self._ended or self._closing else rest
        self.flow.full = bool(self._unparsed) or (bool(self.pipeline) and self._full())
        if self.flow.full:
            self.flow.pause_reading()

    def _full(self) -> bool:
        return len(self.pipeline) >= _QUEUE_LIMIT or self._body_is_full()

    def _body_is_full(self) -> bool:
        return len(self.cycle.body) > HIGH_WATER_LIMIT

    def _piece_end(self, data: bytes, start: int) -> int:
        """The end of a piece in which at most one request ends, so that the parser can be stopped behind it."""
        if self._left > 0:
            return min(start + self._left, len(data))
        found = data.find(_BLOCK_END, start, start + _PIECE)
        return min(start + _PIECE, len(data)) if found < 0 else found + len(_BLOCK_END)

    def _feed(self, piece: bytes) -> int:
        """Give the parser a piece, and return how much of it was used."""
        used, received = len(piece), self._received
        self._progress = False
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as offer:
            used = offer.args[0]
            if self._left:
                self._ignore_offer()
        except httptools.HttpParserError as error:
            self._refuse(_reason(error))
            return used
        if self._progress:
            self._gathered = 0
        else:
            self._bound(used, self._received - received)
        return used

    def _ignore_offer(self) -> None:
        """Read the body behind a head that offers an upgrade with a parser that has not seen the offer."""
        length = b"Transfer-Encoding: chunked" if self._left == _CHUNKED else b"Content-Length: %d" % self._left
        scope, self.parser = self.scope, httptools.HttpRequestParser(self)
        self._priming = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + length + _BLOCK_END)
        self.scope, self._priming = scope, False

    def _bound(self, size: int, body: int) -> None:
        """Count what the parser gathers without a callback: a field of a head, or a body's framing, may have no end."""
        self._gathered = max(self._gathered + size - body - _FRAMING_SHARE * body, 0)
        if self._in_head or self._whole:
            if self._gathered > _HEAD_LIMIT + _URL_LIMIT:
                self._refuse(_headers_too_long())
        elif self._gathered > _FRAMING_LIMIT:
            self._refuse(BadRequest("The chunk extensions and trailer fields are too long."))

    def on_message_begin(self) -> None:
        """Begin a request; its scope carries this connection, for streams."""
        super().on_message_begin()
        self.scope["state"]["connection"] = self
        self._in_head, self._whole = True, False
        self._left = self._head = self._hosts = 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the URL."""
        super().on_url(url)
        if len(self.url) > _URL_LIMIT:
            raise UrlTooLong(f"The URL is longer than {_URL_LIMIT} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head; those of a trailer are dropped."""
        name = name.lower()
        if not self._in_head:
            if name == b"connection":  # llhttp would act on it
                raise BadRequest("A trailer must not have the field Connection.")
            return
        value = value.rstrip(b" \t")  # which is not part of the value (RFC 9110, section 5.5)
        self._head += len(name) + len(value)
        if self._head > _HEAD_LIMIT or len(self.headers) >= _FIELD_LIMIT:
            raise _headers_too_long()
        if name in _FRAMING:
            self._frame(name, value)
        self.headers.append((name, value))

    def _frame(self, name: bytes, value: bytes) -> None:
        """Note a field on which the way depends in which the request is read."""
        match name:
            case b"host":
                self._hosts += 1
                if not _HOST.fullmatch(value):
                    raise BadRequest("The header Host is not a host.")
            case b"content-length":
                self._left = int(value)  # llhttp has checked it
            case b"transfer-encoding":
                if value.lower() != b"chunked" or self._left:
                    raise BadRequest("The only transfer coding that is read is a single chunked.")
                self._left = _CHUNKED
            case b"expect":
                self.expect_100_continue = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        """Begin to answer, or put the request in line."""
        self._progress = True
        if not self._priming:
            self._check_head()
            super().on_headers_complete()
            self.cycle.transport = self  # type: ignore[assignment] # it is written to, and closed
            self._cancel_timer()
        self._in_head = False

    def _check_head(self) -> None:
        """Refuse a request that a proxy in front might read in another way. Raises BadRequest."""
        version = self.parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            raise BadRequest("The version of HTTP must be 1.1 or 1.0.")
        if self._hosts > 1 or (self._hosts == 0 and version == "1.1"):
            raise BadRequest("A request must have one header Host.")
        if self._left == _CHUNKED and version == "1.0":
            raise BadRequest("HTTP/1.0 has no transfer codings.")
        if self.parser.should_upgrade() and self.parser.get_method() == b"CONNECT":
            raise BadRequest("CONNECT is not for this server.")
        if not self.url.startswith(b"/"):
            self._read_absolute_url()

    def _read_absolute_url(self) -> None:
        """Take the path from a URL such as `http://host/path`, and its host for that of the header."""
        found = _ABSOLUTE.fullmatch(self.url)
        if found is None or not _HOST.fullmatch(found[1]):
            raise BadRequest("The URL must be a path, or an absolute URL of http or https.")
        host, path = found.groups()
        self.url = path if path.startswith(b"/") else b"/" + path
        # RFC 9112, section 3.2.2: the header Host is ignored.
        self.headers[:] = [(name, host if name == b"host" else value) for name, value in self.headers]

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body; behind an answer it is dropped."""
        if self._left > 0:
            self._left -= len(body)
        cycle = self.cycle
        if cycle.response_complete:
            self._drop(len(body))
            return
        self._received += len(body)
        cycle.body += body
        if self._body_is_full():
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Let the application know that it has the whole request."""
        if self._left and self.parser.should_upgrade():
            return  # only its head: see `_ignore_offer`
        self._whole, self._left, self._progress, self._dropped = True, 0, True, 0
        cycle = self.cycle
        if not cycle.keep_alive:
            self._ended = True
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def _should_upgrade(self) -> bool:
        return False

    def _refuse(self, error: RequestError | None) -> None:
        """Parse no more. When the requests before this one are answered, send the error, if any, and close."""
        self._ended, self._refusal = True, error
        if not (self._in_head or self._whole):
            self._leave_out(self.cycle)
        if not self._under_way() or (self._answering and self._answering.disconnected):
            self._finish()

    def _leave_out(self, cycle: RequestResponseCycle) -> None:
        """Give up a request whose body will not be complete."""
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()
            return
        if cycle.response_started:
            self._refusal = None
        _disconnect(cycle)

    def _finish(self) -> None:
        if self._refusal is not None and not self.is_closing():
            self.transport.write(_answer(self._refusal))
        self.close()

    # --- answers ---

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _under_way(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        self.server_state.total_requests += 1
        if self.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._ended or self.half_closed:
            self._finish()
            return
        elif self.expect_100_continue and not self._whole:
            # Without a 100 the client may leave the body out, and what it sends next would be read as the body.
            self.close()
            return
        self._parse_rest()
        self._resume_reading()

    def write(self, data: bytes) -> None:
        """Write a part of the response that is under way."""
        if self._held is not None:
            self._held.append(data)
        elif not (self._closing or self.transport.is_closing()):  # uvloop raises, as in `push`
            self.transport.write(data)

    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self._closing or self.transport.is_closing()

    def push(self, chunk: bytes, /) -> bool:
        """Write a chunk of the response that is under way; False while the client has enough to read, or has gone."""
        # uvloop raises on a write to a connection that was reset, before its stream's task has heard of that.
        if self.flow.write_paused or self._closing or self.transport.is_closing():
            return False
        self.transport.write(chunk)
        return True

    def hold(self) -> None:
        """Keep what the response under way writes until `release`, so that its head and first event are one write."""
        self._held = []

    def release(self) -> None:
        """Write what was kept, and keep no more."""
        held, self._held = self._held, None
        if held and not self.is_closing():
            self.transport.write(b"".join(held))

    def abort(self) -> None:
        """Drop the connection with all that is still to be written."""
        self.transport.abort()

    # --- the end ---

    def close(self) -> None:
        """End our side; read and drop what the client still sends, until it ends its own or has taken too long."""
        if self.is_closing():
            return
        self._closing, self._unparsed = True, b""
        self.pipeline.clear()
        if self.half_closed or (self._stopping and self._whole) or not self.transport.can_write_eof():
            self.transport.close()
        else:
            self.transport.write_eof()
            self.flow.full = False
            self.flow.resume_reading()
        self._watch_unread()
        self._enter(_LINGER)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has ended its side: answer the requests that are complete, then close."""
        self.half_closed = True
        if self._closing:
            self.transport.close()
        elif not self._under_way():
            self.close()
        else:
            self._answer_the_rest()
        return True

    def _answer_the_rest(self) -> None:
        if not self._whole:
            self._refuse(None)
        self._ended = True
        self._watch()
        self._probe()
        for seconds in _PROBES:
            self.loop.call_later(seconds, self._probe)

    def _probe(self) -> None:
        """Wake the answer under way: a stream then writes, and a client that has gone resets the connection."""
        if self._answering is not None:
            self._answering.message_event.set()

    def shutdown(self) -> None:
        """End with the server: at once, or after the answer that is under way."""
        self._stopping = True
        if self._answering is not None and self._under_way():
            self._answering.keep_alive = False
        else:
            self.close()

    def _drop(self, size: int) -> None:
        self._received += size
        self._dropped += size
        if self._dropped > _DROP_LIMIT:
            self.abort()

    # --- time ---

    def _watch(self) -> None:
        """Set the timer for what the connection waits for now."""
        if self._closing:
            return
        if self._in_head and not self._ended:
            state = _HEAD
        elif not self._whole and not self._ended:
            state = _DRAIN if self.cycle.response_complete else _BODY
        elif self._answering is None:
            state = _HEAD
        else:
            state = _IDLE if self._answering.response_complete else _ANSWER
        if state is not self._state:
            self._enter(state)

    def _enter(self, state: State) -> None:
        self._cancel_timer()
        if state is not _ANSWER:
            self._state, self._mark, self._ticks = state, self._received, 0
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
            case State.HEAD:
                self._refuse(None)
                self._watch()
            case State.BODY:
                self._check_body()
            case State.IDLE:
                self.close()
            case _:
                self._check_rest()

    def _check_body(self) -> None:
        """Give up a body that has stalled; while the server itself does not read, it has not."""
        if self.flow.read_paused or self._received - self._mark >= self._timeouts.rate * self._timeouts.body:
            self._enter(_BODY)
        else:
            self._refuse(None)
            self._watch()

    def _check_rest(self) -> None:
        """End a connection whose client has sent what is dropped for too long, or nothing more."""
        unread = self._closing and self.transport.get_write_buffer_size() > 0
        self._ticks += not unread  # see `_check_unread`
        silent = self._received == self._mark and not unread
        if not silent and self._ticks * self._timeouts.silence < self._timeouts.linger:
            self._mark = self._received
            self._set_timer()
        elif self._closing:
            self.abort()
        else:
            self.close()

    def pause_writing(self) -> None:
        """Begin to wait for a client that has much to read."""
        super().pause_writing()
        self._watch_unread()

    def resume_writing(self) -> None:
        """Go on writing."""
        super().resume_writing()
        if not self._closing:
            self._forget_unread()

    def _watch_unread(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        if self._unsent and self._write_timer is None:
            self._write_timer = self.loop.call_later(self._timeouts.write, self._check_unread)

    def _forget_unread(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _check_unread(self) -> None:
        self._write_timer = None
        read = self._unsent - self.transport.get_write_buffer_size()
        if read < min(self._unsent, self._timeouts.rate * self._timeouts.write):
            log.info("A client read next to nothing for %g seconds; it is dropped.", self._timeouts.write)
            self.abort()
        else:
            self._watch_unread()


def _disconnect(cycle: RequestResponseCycle) -> None:
    cycle.disconnected = True
    cycle.message_event.set()


def _reason(error: httptools.HttpParserError) -> RequestError:
    """What a callback raised, or what the parser found."""
    raised = error.__context__
    return raised if isinstance(raised, RequestError) else BadRequest("Invalid HTTP request received.")


def _answer(error: RequestError) -> bytes:
    """An error for a request that no application has seen, in the form that all errors have."""
    body = orjson.dumps({"status": "Error", "message": error.message, "code": error.code})
    line = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"
    # Without an application it is not known which origins may read the answer; these few words any may.
    own = "content-type: application/json\r\naccess-control-allow-origin: *"
    return f"{line}\r\n{own}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _headers_too_long() -> RequestError:
    return HeadersTooLong(f"The headers are more than {_FIELD_LIMIT}, or longer than {_HEAD_LIMIT} bytes together.")
