"""HTTP client of one provider's API: reads, uploads, paid submits and streams.

Reads (`get`) may be repeated. Their errors say why they failed: `Transient`, `CredentialRefused`, `UnknownToProvider`
or `UnreadableAnswer`. Submits (`submit`, `open_stream`) cost money and are never repeated here. `NotTaken` means that
the provider certainly did not take the order, so the caller may send it again. A `JobError` means that it may have.
A submit follows no redirect and uses a new connection: on a pooled one that the provider has just closed, it would look
as if the answer was lost.
"""

import asyncio
import re
import socket
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace, TracebackType
from typing import Any, Final, Literal, Self

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, FormData, TraceConfig
from aiohttp.abc import ResolveResult
from yarl import URL

from proxy.core import errors, sse
from proxy.core.clock import Clock
from proxy.telemetry import trace
from proxy.upstream.answers import (
    Answer,
    BreakerOpen,
    LastAnswers,
    NotTaken,
    ReadFailed,
    Transient,
    UnreadableAnswer,
    is_whole,
    loads,
)
from proxy.upstream.breaker import Breaker
from proxy.upstream.classify import NOT_SENT_AGAIN, Dialect, is_transient
from proxy.upstream.decompression import GZIP, Decompressor, TooLarge, decompress
from proxy.upstream.fetch import ProviderOrigin
from proxy.upstream.rate_limit import RateLimiter, ReserveSlots
from proxy.upstream.requests import File, Request, describe_body, dump_json, encode_form, encode_json
from proxy.upstream.sessions import Body, Connector, failure_reason, session
from proxy.upstream.ssrf import NotPublic, PublicResolver, parse_verbatim
from proxy.upstream.times import DEFAULT_TIMES, UpstreamTimes

_ANSWER_LIMIT: Final = 96 << 20
"""Maximum size of an answer, in bytes. The largest known one holds ten images of 7 MB as base64."""
_MAX_REDIRECTS: Final = 5
"""Maximum number of redirects that one read follows."""
_EVENT_STREAM: Final = "text/event-stream"
_FIELD: Final = re.compile(rb":|(?:data|event|id|retry)[:\r\n]")
"""First field of an event stream, after blank lines."""
_FIELD_NAMES: Final = (b"data", b"event", b"id", b"retry")
_DONE: Final = "[DONE]"
"""Last message of an OpenAI stream. It is not JSON."""
_BREAKER_OPEN: Final = "The provider has failed several times in a row; no request is sent to it for some seconds."
_CONNECTION_ERRORS: Final = (ClientError, TimeoutError, OSError)
"""Exceptions of a broken connection or of an answer with broken framing."""
_PROXY_UNAUTHORIZED: Final = "The proxy refuses the credentials (HTTP 407)."


Observe = Callable[[str, float], None]
"""Takes the name and the seconds of a wait: for headers (`read`, `submit`, `stream`) or the rate limit (`turn`)."""


def _ignore(_: str, __: float) -> None:
    """Observe nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamOptions:
    """The arguments of an `Upstream` that the application chooses. An adapter hands them on."""

    times: UpstreamTimes = DEFAULT_TIMES
    observe: Observe = _ignore
    reserve: ReserveSlots | None = None
    """Reserves slots of the rate limit for this node, where several nodes share it."""


DEFAULT_OPTIONS: Final = UpstreamOptions()


class Upstream:
    """HTTP client of one provider. The credential of its `dialect` is sent to its origin (and to `others`) only.

    `rate` is the number of requests per second, evenly spaced; requests above it wait. With `reserve`, several nodes
    share it. Every request to the origin goes through `proxy`, if there is one. `observe` is called after each wait.
    With `public`, names that resolve to a private address are refused.
    """

    def __init__(
        self,
        base_url: str,
        dialect: Dialect,
        clock: Clock,
        *,
        rate: float,
        proxy: URL | None = None,
        times: UpstreamTimes = DEFAULT_TIMES,
        observe: Observe = _ignore,
        reserve: ReserveSlots | None = None,
        others: Sequence[URL] = (),
        public: bool = False,
    ) -> None:
        self.base_url = base_url
        self.dialect = dialect
        self.origin = ProviderOrigin(URL(base_url), dialect.credential, proxy, dialect.query_credential, others)
        """The origin with its credential, for reading results that require the key."""
        self._public = public and proxy is None  # a proxy looks names up itself
        self._clock = clock
        self._times = times
        self.breaker = Breaker(clock, times)
        self.rate_limiter = RateLimiter(clock, rate, times, reserve=reserve)
        self._stack = AsyncExitStack()
        self._observe = observe

    async def __aenter__(self) -> Self:
        options: dict[str, Any] = {
            "auto_decompress": False,  # aiohttp drops a body with a wrong Content-Encoding
            "headers": {"Accept-Encoding": "gzip, deflate"},
            "proxy": self.origin.proxy,
        }
        reads, paid = self._connector(), self._connector(force_close=True)
        self._reads = await self._stack.enter_async_context(
            session(reads, self._timeout(self._times.read_silence), **options)
        )
        self._paid = await self._stack.enter_async_context(
            session(paid, self._timeout(self._times.submit_silence), trace_configs=[_header_trace()], **options)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _connector(self, **options: Any) -> Connector:
        """Return a connector without a limit of connections, because the rate limiter paces the requests."""
        if self._public:
            options["resolver"] = _PublicNames(self._times.lookup_to_connect)
        return Connector(self._times.connect_in_all, limit=0, **options)

    def _timeout(self, silence: float | None) -> ClientTimeout:
        return ClientTimeout(total=None, sock_connect=self._times.connect, sock_read=silence)

    async def wait_for_rate(self) -> None:
        """Wait until the rate limit allows another request."""
        if (waited := await self.rate_limiter.acquire()) > 0:
            self._observe("turn", waited)

    # --- reads: free, repeatable ---

    async def get(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        last_answers: LastAnswers | None = None,
        accepted: Collection[int] = (),
    ) -> Answer:
        """Read a path. Raises the ReadFailed that a failed answer means, unless its status is `accepted`.

        With `last_answers`, raises Unchanged for the same answer as before.
        """
        answer = await self._follow(path, query, accepted)
        if not answer.ok and answer.status not in accepted:
            raise self.dialect.read_error(answer)
        if last_answers is not None:
            last_answers.compare(path, answer)
        return answer

    def accept_part(
        self, path: str, query: Mapping[str, str], part: Answer, last_answers: LastAnswers | None = None
    ) -> None:
        """Treat a part of an answer that several jobs share as the answer to this job's own read of `path`.

        It counts as this job's success and is in its trace. With `last_answers`, raises Unchanged for the same part as
        before.
        """
        self.breaker.record_success()
        self._trace("GET", Request(path, query=query), time.monotonic(), part)
        if last_answers is not None:
            last_answers.compare(path, part)

    def trace_failed_batch(self, error: ReadFailed) -> None:
        """Record in the job's trace that a read which it shares with other jobs has failed."""
        self._trace("GET", Request("(a batch of polls)"), time.monotonic(), error=error)

    async def check_key(self, path: str, query: Mapping[str, str] | None = None) -> None:
        """Prove the key by reading a path that requires one. "Not found" also proves it. Raises a ReadFailed."""
        answer = await self._follow(path, query)
        error = self.dialect.key_error(answer)
        if error is not None:
            raise error

    async def delete(self, path: str) -> None:
        """Delete a path's object, which may be gone already. It is free and may be repeated. Raises a ReadFailed."""
        await self.call("DELETE", path)

    async def call(self, method: str, path: str) -> None:
        """Send a free request without a body that may be repeated, such as a cancel. Raises a ReadFailed.

        Its object may be gone already.
        """
        answer = await self._read(method, path)
        if not answer.ok and answer.status not in {404, 410}:
            raise self.dialect.read_error(answer)

    async def upload(self, path: str, name: str, file: File, form: Mapping[str, str] | None = None) -> Answer:
        """Post one file as multipart, after the texts of `form`. It is free and may be repeated.

        Raises Transient if a repeat may help, else the JobError that the refusal means.
        """
        parts: tuple[tuple[str, str | File], ...] = (*(form or {}).items(), (name, file))
        answer = await self._read("POST", path, data=encode_form(parts))
        if self.dialect.blames_file(answer):  # probably the file, possibly the provider, for a moment
            answer = await self._read("POST", path, data=encode_form(parts))
        if is_transient(answer) and not self.dialect.blames_file(answer):
            raise Transient(self.dialect.explain(answer), answer.wait)
        if not answer.ok:
            error = self.dialect.submit_error(answer)
            if isinstance(error, NotTaken):
                raise Transient(str(error), error.wait)
            # An upload orders nothing, so its outcome cannot be unknown and no work can fail.
            unpaid = isinstance(error, errors.OutcomeUnknown | errors.UpstreamFailed)
            raise errors.UpstreamRejected(str(error)) if unpaid else error
        return answer

    async def _read(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        data: FormData | None = None,
        accepted: Collection[int] = (),
    ) -> Answer:
        if wait := await self.breaker.hold():
            raise BreakerOpen(_BREAKER_OPEN, wait)
        await self.wait_for_rate()
        began = time.monotonic()
        try:
            async with self._reads.request(
                method,
                URL(self.url(path)),
                params=self._with_key(query),
                headers=self._headers,  # to the provider's origin only: redirects are not followed here
                data=None if data is None else Body(data, self._times.send_silence),
                timeout=self._timeout(self._times.read_silence if data is None else self._times.upload_silence),
                allow_redirects=False,
            ) as response:
                self._observe("read", time.monotonic() - began)
                if response.status == 407:
                    raise Transient(_PROXY_UNAUTHORIZED)
                body = await _body(response, self._times.body_tail)
                answer = self._answer(response, body, uploaded=data is not None, accepted=accepted)
                if trace.recorder.get() is not None:
                    self._trace(method, Request(path, query=query or {}), began, answer)
                return answer
        except _CONNECTION_ERRORS as error:
            self._trace(method, Request(path, query=query or {}), began, error=error)
            self.breaker.record_failure()
            raise Transient(f"The provider cannot be reached: {failure_reason(error)}.") from None

    @property
    def _headers(self) -> dict[str, str]:
        return {**self.dialect.headers, **self.origin.credential}

    def _with_key(self, query: Mapping[str, str] | None) -> Mapping[str, str] | None:
        return {**(query or {}), **self.origin.query} if self.origin.query else query

    async def _follow(
        self, path: str, query: Mapping[str, str] | None = None, accepted: Collection[int] = ()
    ) -> Answer:
        """Read a path. Follow redirects within the provider's origin, because only it may get the credential."""
        answer, place = await self._read("GET", path, query=query, accepted=accepted), path
        for _ in range(_MAX_REDIRECTS):
            target = self._redirect_target(answer, place)
            if target is None:
                break
            answer, place = await self._read("GET", target, accepted=accepted), target
        return answer

    def _redirect_target(self, answer: Answer, path: str) -> str | None:
        """Return the URL to which an answer redirects.

        None without a redirect, or if it leaves the provider's origin.
        """
        if answer.status not in {301, 302, 303, 307, 308} or not (location := answer.headers.get("location")):
            return None
        try:
            target = URL(self.url(path)).join(parse_verbatim(location))
            own = self.origin.covers(target) and target.user is None
        except ValueError:
            return None
        return str(target.with_fragment(None)) if own else None

    # --- submits: paid, sent once; the caller waits for the rate limit before it records the intent ---

    async def submit(self, request: Request, dialect: Dialect | None = None) -> Answer:
        """Send a paid request once. Raises NotTaken, or the JobError with which the order ends.

        `dialect` (None: the client's own) says what a failed answer means.
        """
        async with self._send(request, "submit") as response:
            answer = await self._read_answer(response, request)
        if not answer.ok:
            raise (dialect or self.dialect).submit_error(answer)
        return answer

    @asynccontextmanager
    async def open_stream(self, request: Request) -> AsyncIterator[AsyncIterator[sse.Message] | Answer]:
        """Send a paid request for a stream once. Yield its messages, or the Answer if it is not a stream.

        Raises the errors of `submit`, and Interrupted from the messages if the stream breaks.
        """
        async with self._send(request, "stream") as response, aclosing(_pieces(response)) as pieces:
            begun = await self._first_bytes(response, request, pieces)
            if begun is None or _kind(begun) == "stream":
                self.breaker.record_success()
                yield self._read_messages(response, request, pieces, begun or b"")
                return
            answer = await self._read_answer(
                response, request, _collect(pieces, self._times.body_tail, begun, streamed=True)
            )
            if not answer.ok:
                raise self.dialect.submit_error(answer)
            documents = [] if isinstance(loads(answer.body), dict) else _documents(answer.body)
            yield _as_messages(documents) if documents else answer

    async def _first_bytes(
        self, response: ClientResponse, request: Request, pieces: AsyncIterator[bytes]
    ) -> bytes | None:
        """Return the first bytes of an answer that may be a stream. None if its content type says so."""
        if not 200 <= response.status < 300:
            return b""
        if response.content_type == _EVENT_STREAM:
            return None
        began = time.monotonic()
        try:
            return await _read_first(pieces)
        except (*_CONNECTION_ERRORS, UnreadableAnswer) as error:
            raise self._broken_error(response, request, began, error) from None

    @asynccontextmanager
    async def _send(self, request: Request, call: Literal["submit", "stream"]) -> AsyncIterator[ClientResponse]:
        body = Body(encode_form(request.form) if request.form else encode_json(request.json), self._times.send_silence)
        progress = SimpleNamespace(sent=False)
        if wait := await self.breaker.hold(paid=True):
            raise NotTaken(errors.UpstreamUnreachable(_BREAKER_OPEN), wait)
        began = time.monotonic()
        try:
            response = await self._paid.post(
                URL(self.url(request.path)),
                params=self._with_key(request.query),
                headers={**request.headers, **self._headers},
                data=body,
                allow_redirects=False,
                timeout=self._timeout(self._times.submit_silence if call == "submit" else self._times.stream_silence),
                trace_request_ctx=progress,
            )
        except _CONNECTION_ERRORS as error:
            self._trace("POST", request, began, error=error)
            self.breaker.record_failure()
            raise _lost_error(error, sent=progress.sent) from None
        self._observe(call, time.monotonic() - began)
        async with response:
            if response.status == 407:  # from a proxy, never from the provider (RFC 9110, section 15.5.8)
                raise NotTaken(errors.UpstreamUnreachable(f"{_PROXY_UNAUTHORIZED} Nothing was sent."))
            yield response

    async def _read_answer(
        self, response: ClientResponse, request: Request, reading: Awaitable[bytes] | None = None
    ) -> Answer:
        began = time.monotonic()
        try:
            answer = self._answer(response, await (reading or _body(response, self._times.body_tail)))
        except (*_CONNECTION_ERRORS, UnreadableAnswer) as error:
            raise self._broken_error(response, request, began, error) from None
        self._trace("POST", request, began, answer)
        return answer

    def _broken_error(self, response: ClientResponse, request: Request, began: float, error: Exception) -> Exception:
        """Return the error of a submit whose answer breaks off."""
        self._trace("POST", request, began, self._partial_answer(response), error)
        return errors.OutcomeUnknown(
            f"The provider's answer ({response.status}) broke off: {_broken_reason(error)}. {NOT_SENT_AGAIN}."
        )

    async def _read_messages(
        self, response: ClientResponse, request: Request, pieces: AsyncIterator[bytes], begun: bytes
    ) -> AsyncIterator[sse.Message]:
        parser = sse.Parser(is_whole=_is_frame)
        began, heard, broke = time.monotonic(), bytearray(), None
        recorded = trace.recorder.get() is not None
        try:
            async with aclosing(_stream_pieces(pieces, begun)) as streamed:
                async for piece in streamed:
                    if recorded and len(heard) <= trace.ANSWER_LIMIT:
                        heard += piece
                    for frame in _split_frames(parser.feed(piece)):
                        yield frame
            for frame in _split_frames(parser.end()):
                yield frame
        except (*_CONNECTION_ERRORS, UnreadableAnswer, sse.MessageTooLong) as error:
            broke = error
            for frame in () if isinstance(error, sse.MessageTooLong) else _split_frames(parser.end()):
                if _is_frame(frame.data):  # a complete frame of a broken stream
                    yield frame
            raise errors.Interrupted(
                f"The provider's stream broke: {_broken_reason(error)}. It cannot be resumed."
            ) from None
        finally:
            self._trace("POST", request, began, self._partial_answer(response, bytes(heard)), broke)

    # --- content ---

    @property
    def without_credential(self) -> ProviderOrigin:
        """The provider's origin without the credential, for reading public results."""
        return replace(self.origin, credential={}, query={})

    def absolute(self, path: str) -> str:
        """Return a result's URL as an absolute one. Providers also send paths relative to their origin.

        Raises UnreadableAnswer unless it is an http(s) URL, because some browsers would run other schemes as code.
        """
        try:
            url = URL(self.base_url + "/").join(parse_verbatim(path))
            usable = bool(path) and url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
        except ValueError:
            usable = False
        if not usable:
            raise UnreadableAnswer(
                f"The provider sent a result URL that cannot be opened: {self.dialect.safe_text(path)[:100]}"
            )
        return str(url)

    def url_or_none(self, url: object) -> str | None:
        """Return an optional URL of a result as an absolute one. None if it cannot be opened."""
        try:
            return self.absolute(url) if isinstance(url, str) else None
        except UnreadableAnswer:
            return None

    def url(self, path: str) -> str:
        """Return the URL of an API path. A URL is returned unchanged."""
        return self.base_url + path if path.startswith("/") else path

    def is_own(self, url: str) -> bool:
        """Return whether a URL is on one of the provider's origins, which get the key."""
        return self.origin.covers(URL(url))

    # --- shared ---

    def _partial_answer(self, response: ClientResponse, heard: bytes = b"") -> Answer:
        return Answer(response.status, response.headers, heard, self._clock.now())

    def _trace(
        self,
        method: str,
        request: Request,
        began: float,
        answer: Answer | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Record an exchange in the job's flight recorder, if it has one."""
        recorder = trace.recorder.get()
        if recorder is None:
            return
        exchange = trace.Exchange(
            self._clock.now(),
            time.monotonic() - began,
            method,
            request.path,
            request.query,
            describe_body(request),
            answer.status if answer else None,
            answer.headers if answer else {},
            answer.body if answer else b"",
            type(error).__name__ if error else None,
        )
        recorder.record(exchange, list(self.dialect.secrets))

    def _answer(
        self, response: ClientResponse, body: bytes, *, uploaded: bool = False, accepted: Collection[int] = ()
    ) -> Answer:
        answer = Answer(response.status, response.headers, body, self._clock.now())
        if answer.status < 500 or answer.status in accepted:
            self.breaker.record_success()
        elif not (
            uploaded and self.dialect.blames_file(answer)
        ):  # one account's bad file must not close the provider to all
            self.breaker.record_failure()
        return answer


class _PublicNames(PublicResolver):
    """The resolver of public names, whose refusal is a failed lookup to aiohttp."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve a name. Raises OSError if any of its addresses is private."""
        try:
            return await super().resolve(host, port, family)
        except NotPublic as error:
            raise OSError(str(error)) from None


# --- bodies ---


async def _body(response: ClientResponse, tail: float) -> bytes:
    """Return the whole body. Raises the errors of `_collect`."""
    begun = b""
    if response.content.exception() is None:
        begun = await response.content.readany()
        if response.content.at_eof():  # nearly every answer arrives in one piece
            return _decompress(response, begun)
    async with aclosing(_pieces(response, begun)) as pieces:
        return await _collect(pieces, tail)


def _decompress(response: ClientResponse, body: bytes) -> bytes:
    encoding = response.headers.get("Content-Encoding", "")
    if not encoding and not body.startswith(GZIP):
        return body
    try:
        return decompress(body, encoding, _ANSWER_LIMIT)
    except TooLarge as error:
        raise UnreadableAnswer(str(error)) from None


async def _pieces(response: ClientResponse, begun: bytes = b"") -> AsyncGenerator[bytes]:
    """Yield the body piece by piece.

    Before a broken connection raises, yield the bytes that arrived: they may be paid for.
    """
    decompressor = Decompressor(response.headers.get("Content-Encoding", ""), _ANSWER_LIMIT)
    try:
        if begun:
            yield decompressor.feed(begun)
        async for piece in response.content.iter_any():
            yield decompressor.feed(piece)
    except _CONNECTION_ERRORS:
        rest = b"".join(response.content._buffer)  # noqa: SLF001 -- aiohttp has no public access to unread bytes
        yield decompressor.feed(rest) + decompressor.end()
        raise
    except TooLarge as error:
        raise UnreadableAnswer(str(error)) from None
    yield decompressor.end()


async def _collect(pieces: AsyncIterator[bytes], tail: float, begun: bytes = b"", *, streamed: bool = False) -> bytes:
    """Join the pieces of a body. Broken framing is accepted if the JSON is complete.

    `tail` is the time, in seconds, to wait for more once the JSON is complete. In place of a stream (`streamed`), more
    lines of JSON may follow at any time. Raises UnreadableAnswer if the body is too large, and `_CONNECTION_ERRORS`.
    """
    body = bytearray(begun)
    try:
        while True:
            async with asyncio.timeout(tail if _seems_whole(body, streamed=streamed) else None):
                piece = await anext(pieces, None)
            if piece is None:
                return bytes(body)
            body += piece
            if len(body) > _ANSWER_LIMIT:
                raise UnreadableAnswer(f"The provider's answer is larger than {_ANSWER_LIMIT} bytes.")
    except _CONNECTION_ERRORS:
        if not is_whole(bytes(body)):
            raise
        return bytes(body)


def _seems_whole(body: bytearray, *, streamed: bool = False) -> bool:
    """Return whether a body is already complete JSON. The last byte rules most incomplete bodies out quickly."""
    ends = (b"}", b"]") if streamed else (b"}", b"]", b"}\n", b"]\n")
    return body.endswith(ends) and is_whole(bytes(body))


# --- streams, and JSON in place of a stream ---


async def _read_first(pieces: AsyncIterator[bytes]) -> bytes:
    """Read the first bytes of an answer, until they show its kind."""
    begun = b""
    while not _kind(begun) and (piece := await anext(pieces, None)) is not None:
        begun += piece
    return begun


def _kind(begun: bytes) -> Literal["stream", "json", "text", ""]:
    """Return the kind of an answer by its first bytes, ignoring its content type. Empty while it is undecided."""
    bare = begun.removeprefix(sse.BOM).lstrip()
    if _FIELD.match(bare):
        return "stream"
    if sse.BOM.startswith(bare) or any(name.startswith(bare) for name in _FIELD_NAMES):
        return ""
    return "json" if bare[:1] in {b"{", b"["} else "text"


def _documents(body: bytes) -> Sequence[bytes]:
    """Return the JSON objects of a body: one object, an array of objects, or one object per line."""
    value = loads(body)
    values = value if isinstance(value, list) else [value] if value else map(loads, body.splitlines())
    return [dump_json(value) for value in values if isinstance(value, dict)]


async def _as_messages(documents: Sequence[bytes]) -> AsyncGenerator[sse.Message]:
    for document in documents:
        yield sse.Message(document.decode())


async def _stream_pieces(pieces: AsyncIterator[bytes], begun: bytes) -> AsyncGenerator[bytes]:
    """Yield a stream piece by piece. Yield JSON in place of a stream as frames."""
    begun = begun or await _read_first(pieces)
    if _kind(begun) != "json":
        yield begun
        async for piece in pieces:
            yield piece
        return
    body = bytearray()
    following: bytes | None = begun
    while following is not None:
        body += following
        if len(body) > _ANSWER_LIMIT:
            raise UnreadableAnswer(f"The provider's answer is larger than {_ANSWER_LIMIT} bytes.")
        if _seems_whole(body) or (body.endswith(b"}\n") and all(map(is_whole, bytes(body).splitlines()))):
            yield _as_frames(body)
            body.clear()
        following = await anext(pieces, None)
    yield _as_frames(body)


def _as_frames(body: bytes | bytearray) -> bytes:
    """Return the JSON objects of a body as frames of a stream."""
    return b"".join(b"data: %b\n\n" % document for document in _documents(bytes(body)))


def _split_frames(messages: Iterable[sse.Message]) -> Iterator[sse.Message]:
    """Yield the frames of messages. Without blank lines between them, each line of JSON is a frame."""
    for message in messages:
        lines: list[str] = []
        if "\n" in message.data and not is_whole(message.data.encode()):
            lines = [line for line in message.data.split("\n") if line.strip() == _DONE or is_whole(line.encode())]
        yield from [replace(message, data=line) for line in lines] or [message]


def _is_frame(data: str) -> bool:
    return data.rstrip()[-1:] in {"}", "]"} and is_whole(data.encode())


def _header_trace() -> TraceConfig:
    """Record in a request's context that its headers were sent. From then on the provider may have the request."""
    trace = TraceConfig()

    async def record_sent(_: ClientSession, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.sent = True

    trace.on_request_headers_sent.append(record_sent)
    return trace


def _lost_error(error: Exception, *, sent: bool) -> Exception:
    if not sent:
        return NotTaken(
            errors.UpstreamUnreachable(f"The provider cannot be reached: {failure_reason(error)}. Nothing was sent.")
        )
    lost = f"The order was sent, but no answer came back: {failure_reason(error)}."
    return errors.OutcomeUnknown(f"{lost} It may have been taken, so it is not sent again.")


def _broken_reason(error: Exception) -> str:
    too_much = isinstance(error, UnreadableAnswer | sse.MessageTooLong)
    return "it is larger than the limit" if too_much else failure_reason(error)
