"""A provider's HTTP API as its adapter sees it: one origin, its key, time-outs, limits, JSON, and errors by meaning.

Reads (`get`) may be repeated and say which way they failed: `Transient`, `CredentialRefused` or `UnknownToProvider`.
Submits (`submit`, `open_stream`) cost money: they use a fresh connection (a pooled one that the provider has just
closed would look like a lost answer), follow no redirect, and distinguish what surely was not taken (`NotTaken`: may
be sent again) from what may have been (a `JobError`: never again).
"""

import asyncio
import re
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace, TracebackType
from typing import Any, Final, Literal, Self

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, FormData, TraceConfig
from yarl import URL

from proxy.core import errors, sse
from proxy.core.clock import Clock
from proxy.telemetry import trace
from proxy.upstream.answers import (
    Answer,
    LastAnswers,
    NotTaken,
    Resting,
    Transient,
    UnreadableAnswer,
    is_whole,
    loads,
)
from proxy.upstream.breaker import Breaker
from proxy.upstream.classify import NOT_SENT_AGAIN, Dialect, is_transient
from proxy.upstream.fetch import ProviderOrigin
from proxy.upstream.packing import GZIP, TooLarge, Unpacker, unpacked
from proxy.upstream.rate_limit import RateLimiter
from proxy.upstream.requests import File, Request, as_text, dump_json, encode_form, encode_json
from proxy.upstream.sessions import Body, Connector, session, why
from proxy.upstream.ssrf import as_spelled
from proxy.upstream.times import DEFAULT_TIMES, UpstreamTimes

_ANSWER_LIMIT: Final = 96 << 20
"""Bytes of one answer that are read: the largest holds ten images of 7 MB, as base64."""
_HOPS: Final = 5
"""Redirects that one read follows."""
_EVENTS: Final = "text/event-stream"
_FIELD: Final = re.compile(rb":|(?:data|event|id|retry)[:\r\n]")
"""How a stream begins, behind blank lines."""
_FIELDS: Final = (b"data", b"event", b"id", b"retry")
_END: Final = "[DONE]"
"""The message that ends a stream of OpenAI's kind, which is not JSON."""
_RESTING: Final = "The provider has failed several times in a row; no request is sent to it for some seconds."
_BROKEN: Final = (ClientError, TimeoutError, OSError)
"""What is raised where a connection breaks, or an answer's framing is wrong."""
_PROXY_REFUSES: Final = "The proxy demands other credentials (HTTP 407)."


class Upstream:
    """HTTP client of one provider. The credential of its `dialect` is sent to its origin only.

    `rate` is the number of requests per second, evenly spaced; requests above it wait. Every request to the origin goes
    through `proxy`, if there is one.
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
    ) -> None:
        self.base_url = base_url
        self.dialect = dialect
        self.origin = ProviderOrigin(URL(base_url), dialect.credential, proxy)
        """The origin with its credential, for reading results that require the key."""
        self._clock = clock
        self._times = times
        self.breaker = Breaker(clock, times)
        self.rate_limiter = RateLimiter(clock, rate, times)
        self._stack = AsyncExitStack()
        self.observe: Callable[[str, float], None] = _ignore
        """Called with what was waited for and the seconds: an answer's headers (`read`, `submit`, `stream`) or a
        `turn` of the rate limiter."""

    async def __aenter__(self) -> Self:
        options: dict[str, Any] = {
            "auto_decompress": False,  # aiohttp drops a body whose compression is not as it says
            "headers": {"Accept-Encoding": "gzip, deflate"},
            "proxy": self.origin.proxy,
        }
        # No limit of connections: the rate limiter does the pacing.
        self._reads = await self._stack.enter_async_context(
            session(Connector(self._times.connect_in_all, limit=0), self._timeout(self._times.read_silence), **options)
        )
        paid = Connector(self._times.connect_in_all, force_close=True, limit=0)
        self._paid = await self._stack.enter_async_context(
            session(paid, self._timeout(self._times.submit_silence), trace_configs=[_sent_trace()], **options)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def _timeout(self, silence: float | None) -> ClientTimeout:
        return ClientTimeout(total=None, sock_connect=self._times.connect, sock_read=silence)

    async def wait_for_rate(self) -> None:
        """Wait until the rate limit allows another request."""
        if (waited := await self.rate_limiter.acquire()) > 0:
            self.observe("turn", waited)

    # --- reads: free, repeatable ---

    async def get(self, path: str, query: Mapping[str, str] | None = None, seen: LastAnswers | None = None) -> Answer:
        """Read a path; returns a success, or raises a ReadFailed of the kind that fits.

        With `seen`, raises Unchanged for an answer that is the same as before.
        """
        answer = await self._followed(path, query)
        if not answer.ok:
            raise self.dialect.read_error(answer)
        if seen is not None:
            seen.compare(path, answer)
        return answer

    async def check_key(self, path: str, query: Mapping[str, str] | None = None) -> None:
        """Read a path that only a working key is answered; that nothing is there is an answer. Raises a ReadFailed."""
        answer = await self._followed(path, query)
        error = self.dialect.key_error(answer)
        if error is not None:
            raise error

    async def upload(self, path: str, name: str, file: File) -> Answer:
        """Post one file as multipart: unpaid, so that it may be repeated.

        Raises Transient where repeating may help, else the JobError that the refusal means.
        """
        answer = await self._read("POST", path, data=encode_form(((name, file),)))
        if self.dialect.blames_file(answer):  # the file, most likely; it may have been itself, for a moment
            answer = await self._read("POST", path, data=encode_form(((name, file),)))
        if is_transient(answer) and not self.dialect.blames_file(answer):
            raise Transient(self.dialect.explain(answer), answer.wait)
        if not answer.ok:
            error = self.dialect.submit_error(answer)
            # Nothing is ordered by an upload: there is no outcome to be unknown, and no work that could fail.
            unpaid = isinstance(error, errors.OutcomeUnknown | errors.UpstreamFailed)
            raise errors.UpstreamRejected(str(error)) if unpaid else error
        return answer

    async def _read(
        self, method: str, path: str, query: Mapping[str, str] | None = None, data: FormData | None = None
    ) -> Answer:
        if wait := await self.breaker.hold():
            raise Resting(_RESTING, wait)
        await self.wait_for_rate()
        began = time.monotonic()
        try:
            async with self._reads.request(
                method,
                URL(self.url(path)),
                params=query,
                headers=self.origin.credential,  # to the own origin alone: no redirect is followed
                data=None if data is None else Body(data, self._times.send_silence),
                timeout=self._timeout(self._times.read_silence if data is None else self._times.upload_silence),
                allow_redirects=False,
            ) as response:
                self.observe("read", time.monotonic() - began)
                if response.status == 407:
                    raise Transient(_PROXY_REFUSES)
                answer = self._answer(response, await _body(response, self._times.body_tail), uploaded=data is not None)
                if trace.recorder.get() is not None:
                    self._trace(method, Request(path, query=query or {}), began, answer)
                return answer
        except (ClientError, TimeoutError, OSError) as error:
            self._trace(method, Request(path, query=query or {}), began, error=error)
            self.breaker.failed()
            raise Transient(f"The provider cannot be reached: {why(error)}.") from None

    async def _followed(self, path: str, query: Mapping[str, str] | None = None) -> Answer:
        """Read a path; redirects are followed within the provider's origin, which alone gets the credential."""
        answer, place = await self._read("GET", path, query=query), path
        for _ in range(_HOPS):
            target = self._redirected(answer, place)
            if target is None:
                break
            answer, place = await self._read("GET", target), target
        return answer

    def _redirected(self, answer: Answer, path: str) -> str | None:
        """The URL on the provider's own origin to which an answer redirects; None: nowhere, or elsewhere."""
        location = answer.headers.get("location")
        if answer.status not in {301, 302, 303, 307, 308} or not location:
            return None
        try:
            target = URL(self.url(path)).join(as_spelled(location))
            own = self.origin.covers(target) and target.user is None
        except ValueError:
            return None
        return str(target.with_fragment(None)) if own else None

    # --- submits: paid, sent once; who sends has waited for its turn before it noted that it would ---

    async def submit(self, request: Request) -> Answer:
        """Send a paid request once; returns a success, or raises NotTaken or the JobError that its fate is."""
        async with self._send(request, "submit") as response:
            answer = await self._whole(response, request)
        if not answer.ok:
            raise self.dialect.submit_error(answer)
        return answer

    @asynccontextmanager
    async def open_stream(self, request: Request) -> AsyncIterator[AsyncIterator[sse.Message] | Answer]:
        """Send a paid request once whose answer is a stream; yields its messages, or the Answer if it is not one.

        Raises as `submit` does. While the messages are read: Interrupted when the stream breaks.
        """
        async with self._send(request, "stream") as response, aclosing(_pieces(response)) as pieces:
            begun = await self._beginning(response, request, pieces)
            if begun is None or _kind(begun) == "stream":
                self.breaker.succeeded()
                yield self._messages(response, request, pieces, begun or b"")
                return
            answer = await self._whole(
                response, request, _collected(pieces, self._times.body_tail, begun, streamed=True)
            )
            if not answer.ok:
                raise self.dialect.submit_error(answer)
            documents = [] if isinstance(loads(answer.body), dict) else _documents(answer.body)
            yield _listed(documents) if documents else answer

    async def _beginning(
        self, response: ClientResponse, request: Request, pieces: AsyncIterator[bytes]
    ) -> bytes | None:
        """The first bytes of an answer that may be a stream; None where it says that it is one."""
        if not 200 <= response.status < 300:
            return b""
        if response.content_type == _EVENTS:
            return None
        began = time.monotonic()
        try:
            return await _first(pieces)
        except (*_BROKEN, UnreadableAnswer) as error:
            raise self._unknown(response, request, began, error) from None

    @asynccontextmanager
    async def _send(self, request: Request, call: Literal["submit", "stream"]) -> AsyncIterator[ClientResponse]:
        body = Body(encode_form(request.form) if request.form else encode_json(request.json), self._times.send_silence)
        progress = SimpleNamespace(sent=False)
        if wait := await self.breaker.hold(paid=True):
            raise NotTaken(errors.UpstreamUnreachable(_RESTING), wait)
        began = time.monotonic()
        try:
            response = await self._paid.post(
                URL(self.url(request.path)),
                params=request.query,
                headers=self.origin.credential,
                data=body,
                allow_redirects=False,
                timeout=self._timeout(self._times.submit_silence if call == "submit" else self._times.stream_silence),
                trace_request_ctx=progress,
            )
        except (ClientError, TimeoutError, OSError) as error:
            self._trace("POST", request, began, error=error)
            self.breaker.failed()
            raise _lost(error, sent=progress.sent) from None
        self.observe(call, time.monotonic() - began)
        async with response:
            if response.status == 407:  # a proxy's word, never the provider's (RFC 9110, section 15.5.8)
                raise NotTaken(errors.UpstreamUnreachable(f"{_PROXY_REFUSES} Nothing was sent."))
            yield response

    async def _whole(
        self, response: ClientResponse, request: Request, reading: Awaitable[bytes] | None = None
    ) -> Answer:
        began = time.monotonic()
        try:
            answer = self._answer(response, await (reading or _body(response, self._times.body_tail)))
        except (*_BROKEN, UnreadableAnswer) as error:
            raise self._unknown(response, request, began, error) from None
        self._trace("POST", request, began, answer)
        return answer

    def _unknown(self, response: ClientResponse, request: Request, began: float, error: Exception) -> Exception:
        """What an answer to a submit means that cannot be read to its end."""
        self._trace("POST", request, began, self._begun(response), error)
        return errors.OutcomeUnknown(
            f"The provider's answer ({response.status}) broke off: {_why_broken(error)}. {NOT_SENT_AGAIN}."
        )

    async def _messages(
        self, response: ClientResponse, request: Request, pieces: AsyncIterator[bytes], begun: bytes
    ) -> AsyncIterator[sse.Message]:
        parser = sse.Parser(is_whole=_is_frame)
        began, heard, broke = time.monotonic(), bytearray(), None
        recorded = trace.recorder.get() is not None
        try:
            async with aclosing(_streamed(pieces, begun)) as streamed:
                async for piece in streamed:
                    if recorded and len(heard) <= trace.MOST_ANSWERED:
                        heard += piece
                    for frame in _frames(parser.feed(piece)):
                        yield frame
            for frame in _frames(parser.end()):
                yield frame
        except (*_BROKEN, UnreadableAnswer, sse.MessageTooLong) as error:
            broke = error
            for frame in () if isinstance(error, sse.MessageTooLong) else _frames(parser.end()):
                if _is_frame(frame.data):  # it is complete, although the stream is not
                    yield frame
            raise errors.Interrupted(
                f"The provider's stream broke: {_why_broken(error)}. It cannot be resumed."
            ) from None
        finally:
            self._trace("POST", request, began, self._begun(response, bytes(heard)), broke)

    # --- content ---

    @property
    def without_credential(self) -> ProviderOrigin:
        """The provider's origin without its credential, for reading what it serves to everyone."""
        return replace(self.origin, credential={})

    def absolute(self, path: str) -> str:
        """A result's URL, which providers also give relative to their origin, as an absolute one.

        Raises UnreadableAnswer for what is no http(s) URL: nobody could open it, and some browsers would run it.
        """
        try:
            url = URL(self.base_url + "/").join(as_spelled(path))
            usable = bool(path) and url.scheme in {"http", "https"} and bool(url.host) and url.port is not None
        except ValueError:
            usable = False
        if not usable:
            raise UnreadableAnswer(
                f"The provider gives a result's URL that nobody can open: {self.dialect.safe_text(path)[:100]}"
            )
        return str(url)

    def url_or_none(self, url: object) -> str | None:
        """A URL that comes beside a result, as an absolute one; None when it is none that can be opened."""
        try:
            return self.absolute(url) if isinstance(url, str) else None
        except UnreadableAnswer:
            return None

    def url(self, path: str) -> str:
        """The URL of one of the API's own paths; a URL stays as it is."""
        return self.base_url + path if path.startswith("/") else path

    def is_own(self, url: str) -> bool:
        """Whether a URL is on the provider's configured origin."""
        return self.origin.covers(URL(url))

    # --- shared ---

    def _begun(self, response: ClientResponse, heard: bytes = b"") -> Answer:
        return Answer(response.status, response.headers, heard, self._clock.now())

    def _trace(
        self,
        method: str,
        request: Request,
        began: float,
        answer: Answer | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Hand an exchange to the job's flight recorder, where it has one."""
        recorder = trace.recorder.get()
        if recorder is None:
            return
        exchange = trace.Exchange(
            self._clock.now(),
            time.monotonic() - began,
            method,
            request.path,
            request.query,
            as_text(request),
            answer.status if answer else None,
            answer.headers if answer else {},
            answer.body if answer else b"",
            type(error).__name__ if error else None,
        )
        recorder.record(exchange, list(self.dialect.secrets))

    def _answer(self, response: ClientResponse, body: bytes, *, uploaded: bool = False) -> Answer:
        answer = Answer(response.status, response.headers, body, self._clock.now())
        if answer.status < 500:
            self.breaker.succeeded()
        elif not (
            uploaded and self.dialect.blames_file(answer)
        ):  # one account's bad file must not close the provider to all
            self.breaker.failed()
        return answer


# --- bodies ---


async def _body(response: ClientResponse, tail: float) -> bytes:
    """The whole body; raises as `_collected`."""
    begun = b""
    if response.content.exception() is None:
        begun = await response.content.readany()
        if response.content.at_eof():  # nearly every answer comes in one piece
            return _unpacked(response, begun)
    async with aclosing(_pieces(response, begun)) as pieces:
        return await _collected(pieces, tail)


def _unpacked(response: ClientResponse, body: bytes) -> bytes:
    encoding = response.headers.get("Content-Encoding", "")
    if not encoding and not body.startswith(GZIP):
        return body
    try:
        return unpacked(body, encoding, _ANSWER_LIMIT)
    except TooLarge as error:
        raise UnreadableAnswer(str(error)) from None


async def _pieces(response: ClientResponse, begun: bytes = b"") -> AsyncGenerator[bytes]:
    """The body as it comes; where it breaks, first what had come before: the end of paid work may be in it."""
    unpacker = Unpacker(response.headers.get("Content-Encoding", ""), _ANSWER_LIMIT)
    try:
        if begun:
            yield unpacker.feed(begun)
        async for piece in response.content.iter_any():
            yield unpacker.feed(piece)
    except _BROKEN:
        rest = b"".join(response.content._buffer)  # noqa: SLF001 -- aiohttp has no other way to what was not read
        yield unpacker.feed(rest) + unpacker.end()
        raise
    except TooLarge as error:
        raise UnreadableAnswer(str(error)) from None
    yield unpacker.end()


async def _collected(pieces: AsyncIterator[bytes], tail: float, begun: bytes = b"", *, streamed: bool = False) -> bytes:
    """A whole body from its pieces. If its framing is broken, but its JSON is complete, nothing of it is missing.

    Where a stream was ordered (`streamed`), a line of JSON may be followed by others, at any time. Raises
    UnreadableAnswer when it is too large, and what broke it.
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
    except _BROKEN:
        if not is_whole(bytes(body)):
            raise
        return bytes(body)


def _seems_whole(body: bytearray, *, streamed: bool = False) -> bool:
    """Whether a body is complete JSON already; most that are not can be told by their last byte."""
    ends = (b"}", b"]") if streamed else (b"}", b"]", b"}\n", b"]\n")
    return body.endswith(ends) and is_whole(bytes(body))


# --- streams, and what comes in their place ---


async def _first(pieces: AsyncIterator[bytes]) -> bytes:
    """The first bytes of an answer, until they show its kind."""
    begun = b""
    while not _kind(begun) and (piece := await anext(pieces, None)) is not None:
        begun += piece
    return begun


def _kind(begun: bytes) -> Literal["stream", "json", "text", ""]:
    """What an answer is by its first bytes, whatever it is called; empty while they do not show it."""
    bare = begun.removeprefix(sse.BOM).lstrip()
    if _FIELD.match(bare):
        return "stream"
    if sse.BOM.startswith(bare) or any(name.startswith(bare) for name in _FIELDS):
        return ""
    return "json" if bare[:1] in {b"{", b"["} else "text"


def _documents(body: bytes) -> Sequence[bytes]:
    """The JSON objects in a body, which is one, or an array of them, or has one in each line."""
    value = loads(body)
    values = value if isinstance(value, list) else [value] if value else map(loads, body.splitlines())
    return [dump_json(value) for value in values if isinstance(value, dict)]


async def _listed(documents: Sequence[bytes]) -> AsyncGenerator[sse.Message]:
    for document in documents:
        yield sse.Message(document.decode())


async def _streamed(pieces: AsyncIterator[bytes], begun: bytes) -> AsyncGenerator[bytes]:
    """A stream as it comes; JSON that comes in its place as a stream's frames."""
    begun = begun or await _first(pieces)
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
            yield _framed(body)
            body.clear()
        following = await anext(pieces, None)
    yield _framed(body)


def _framed(body: bytes | bytearray) -> bytes:
    """The JSON objects in a body as a stream's frames."""
    return b"".join(b"data: %b\n\n" % document for document in _documents(bytes(body)))


def _frames(messages: Iterable[sse.Message]) -> Iterator[sse.Message]:
    """The frames in messages: each line that is JSON, where the blank lines between them are missing."""
    for message in messages:
        lines: list[str] = []
        if "\n" in message.data and not is_whole(message.data.encode()):
            lines = [line for line in message.data.split("\n") if line.strip() == _END or is_whole(line.encode())]
        yield from [replace(message, data=line) for line in lines] or [message]


def _is_frame(data: str) -> bool:
    return data.rstrip()[-1:] in {"}", "]"} and is_whole(data.encode())


def _ignore(_: str, __: float) -> None:
    """Observe nothing: the default of `Upstream.observe`."""


def _sent_trace() -> TraceConfig:
    """Note on each request's own context that its headers left: from then on the provider may have it."""
    trace = TraceConfig()

    async def sent(_: ClientSession, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.sent = True

    trace.on_request_headers_sent.append(sent)
    return trace


def _lost(error: Exception, *, sent: bool) -> Exception:
    if not sent:
        return NotTaken(errors.UpstreamUnreachable(f"The provider cannot be reached: {why(error)}. Nothing was sent."))
    return errors.OutcomeUnknown(
        f"The order was sent, but no answer came back: {why(error)}. It may have been taken, so it is not sent again."
    )


def _why_broken(error: Exception) -> str:
    too_much = isinstance(error, UnreadableAnswer | sse.MessageTooLong)
    return "it says more at once than is read" if too_much else why(error)
