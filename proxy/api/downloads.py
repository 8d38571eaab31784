"""Bytes out: a job's content, a client's assets, with ranges, and with headers that let nothing run."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from proxy.core.errors import NotFound, RangeNotSatisfiable, Unavailable, UpstreamFailed, UpstreamUnreachable
from proxy.core.job import Kind
from proxy.core.media_types import UNKNOWN, extension, kind_of, served_type
from proxy.providers.base import Provider, Source
from proxy.store.blobs import Blobs
from proxy.upstream.fetch import Fetcher, FetchFailed, Remote
from proxy.upstream.ssrf import NotPublic

log = logging.getLogger(__name__)

_SANDBOX: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Referrer-Policy": "no-referrer",
}
_CACHED: Final = "private, no-transform"
_UNTOLD: Final = frozenset({"", UNKNOWN, "binary/octet-stream"})
"""What servers say of a type that they do not know; the last is Amazon's."""
_WORDS: Final = frozenset({"application/json", "text/html"})
"""What a provider, or a gateway before it, answers in when it has only words; with HTTP 200, too."""
_SEEN_OR_HEARD: Final = frozenset({Kind.VIDEO, Kind.IMAGE, Kind.AUDIO})
_WRITE: Final = 60.0
"""Seconds that one write may wait for a client that reads nothing."""
_SPAN: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
_GONE: Final = frozenset({401, 403, 404, 410})


class SourceGone(UpstreamFailed):
    """A provider's URL that no longer opens: it may have expired, and be made anew."""


def _headers(name: str, media_type: str) -> dict[str, str]:
    shown = served_type(media_type)
    disposition = "attachment" if shown == UNKNOWN else "inline"
    return _SANDBOX | {
        "Content-Type": shown,
        "Content-Disposition": f'{disposition}; filename="{name}{extension(shown)}"',
        "Cache-Control": _CACHED,
    }


def redirect(url: str) -> Response:
    """Send the client to a provider's public URL, afresh each time."""
    return RedirectResponse(
        url, status_code=302, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    )


# --- our own bytes ---


async def stored(request: Request, blobs: Blobs, blob: str, name: str, media_type: str) -> Response:
    """Bytes of our own storage, whole or the one range that was asked for. Raises RangeNotSatisfiable."""
    try:
        size = await blobs.size(blob)
    except FileNotFoundError:
        raise NotFound("These bytes are gone.") from None
    etag = f'"{name}-{size}"'
    if _has_it(request, etag):
        return Response(status_code=304, headers={"ETag": etag, "Cache-Control": _CACHED})
    headers = _headers(name, media_type) | {"ETag": etag, "Accept-Ranges": "bytes"}
    start, end, status = 0, size, 200
    if _wants_range(request, etag):
        span = byte_range(request.headers["Range"], size)
        if span is not None:
            start, end = span
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    return _Bytes(status, headers, blobs.stream(blob, start, end), AsyncExitStack())


def _has_it(request: Request, etag: str) -> bool:
    """Whether the client has these bytes already (RFC 9110, section 13.1.2: weakly compared)."""
    held = [tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")]
    return etag in held or held == ["*"]


def _wants_range(request: Request, etag: str) -> bool:
    # RFC 9110, section 14.2: a range is for GET alone.
    return request.method == "GET" and "Range" in request.headers and request.headers.get("If-Range", etag) == etag


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """The span (start, end) of a single byte range; None for what RFC 9110 lets a server ignore.

    Raises RangeNotSatisfiable when it lies outside.
    """
    match = _span(header)
    if match is None:
        return None
    first, last = match[1], match[2]
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= size or end <= start:
        raise RangeNotSatisfiable(
            f"The content has {size} bytes; {header!r} lies outside.", headers={"Content-Range": f"bytes */{size}"}
        )
    return start, end


def _span(header: str) -> re.Match[str] | None:
    """A single byte range's first and last, one of which may be empty."""
    match = _SPAN.fullmatch(header.replace(" ", ""))
    return match if match and (match[1] or match[2]) else None


# --- a provider's bytes ---


async def relayed(
    request: Request, fetcher: Fetcher, provider: Provider, source: Source, *, name: str, media_type: str = UNKNOWN
) -> Response:
    """A provider's bytes, through us: with its key where that is demanded, and the client's range passed on.

    `media_type` is what they are served as where the provider does not tell. Raises UpstreamFailed (SourceGone where
    the URL may have expired) and UpstreamUnreachable (502), and RangeNotSatisfiable.
    """
    async with AsyncExitStack() as stack:
        try:
            answer = await _opened(stack, request, fetcher, provider, source)
        except FetchFailed as error:
            raise UpstreamUnreachable(f"The provider's file cannot be read now: {error}") from None
        except NotPublic:
            raise UpstreamFailed("The provider's file is at an address that is not public; it is not read.") from None
        _check(answer, request, media_type)
        if answer.status == 304:
            return Response(status_code=304, headers=_of(answer, "ETag", "Last-Modified") | {"Cache-Control": _CACHED})
        headers = _relayed_headers(answer, name, media_type)
        return _Bytes(answer.status, headers, answer.pieces(), stack.pop_all())
    raise AssertionError("a stack suppresses nothing")


async def _opened(
    stack: AsyncExitStack, request: Request, fetcher: Fetcher, provider: Provider, source: Source
) -> Remote:
    own = provider.upstream.origin if source.keyed else provider.upstream.without_credential

    async def ask(method: str, headers: Mapping[str, str]) -> Remote:
        await stack.aclose()
        return await stack.enter_async_context(fetcher.open(source.url, method=method, headers=headers, own=own))

    asked = _asked(request)
    answer = await ask(request.method, asked)
    if request.method == "HEAD" and answer.status >= 400:
        # A signed URL is often one for GET alone.
        answer = await ask("GET", asked)
    if answer.status == 206 and answer.is_compressed:
        # A part of what is compressed cannot be unpacked; the whole can.
        answer = await ask(request.method, {})
    return answer


def _asked(request: Request) -> dict[str, str]:
    """What of the client's request is the provider's affair: one range at most, and what it has already."""
    names = ["If-None-Match", "If-Modified-Since"]
    # Several ranges would come back as a multipart of them, of which this server knows nothing.
    if request.method == "GET" and _span(request.headers.get("Range", "")):
        names += ["Range", "If-Range"]
    return {name: request.headers[name] for name in names if name in request.headers}


def _check(answer: Remote, request: Request, media_type: str) -> None:
    """Raises unless this is an answer to what was asked, which should be of about that type."""
    status = answer.status
    if status == 416 and "Range" in request.headers:
        raise RangeNotSatisfiable("The range lies outside the content.", headers=_of(answer, "Content-Range"))
    conditional = "If-None-Match" in request.headers or "If-Modified-Since" in request.headers
    partial = "Range" in request.headers and bool(_of(answer, "Content-Range"))
    if status == 200 or (status == 206 and partial) or (status == 304 and conditional):
        if status != 304 and _told(answer) in _WORDS and kind_of(media_type) in _SEEN_OR_HEARD:
            raise UpstreamFailed(f"The provider answered {_told(answer)} in place of its file.")
        return
    kind = SourceGone if status in _GONE else UpstreamFailed
    raise kind(f"The provider answered {status} when its file was read.")


def _relayed_headers(answer: Remote, name: str, media_type: str) -> dict[str, str]:
    told = _told(answer)
    headers = _headers(name, media_type if told in _UNTOLD else told) | _of(answer, "Last-Modified")
    # Compressed unasked, it is unpacked here: its length, tag and ranges are those of other bytes.
    if not answer.is_compressed:
        headers |= _of(answer, "Content-Length", "ETag", "Accept-Ranges")
    return headers | (_of(answer, "Content-Range") if answer.status == 206 else {})


def _told(answer: Remote) -> str:
    """The type that the provider tells, in lower case and bare."""
    return answer.headers.get("Content-Type", "").split(";")[0].strip().lower()


def _of(answer: Remote, *names: str) -> dict[str, str]:
    """The answer's headers of these names, if they are plain ASCII.

    HTTP allows other bytes in an ETag alone, and their encoding is not defined: a client could not send them back.
    """
    found = {name: answer.headers.get(name, "") for name in names}
    return {name: value for name, value in found.items() if value and value.isascii() and value.isprintable()}


class _Bytes(StreamingResponse):
    """A body that lets go of where it comes from, whatever becomes of the client.

    One that cannot be had to its end is broken off, so that what the client has does not look whole.
    """

    def __init__(
        self, status: int, headers: Mapping[str, str], body: AsyncGenerator[bytes], held: AsyncExitStack
    ) -> None:
        super().__init__(body, status, headers)
        held.push_async_exit(aclosing(body))
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            if scope["method"] == "HEAD":
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": b""})
                return
            try:
                await super().__call__(scope, *_attentive(receive, send))
            except ClientDisconnect:
                pass
            except TimeoutError:
                # A close would wait for the client to read what is still to be written.
                if (connection := scope.get("state", {}).get("connection")) is not None:
                    connection.abort()
                log.info("A client of %s read nothing for %d seconds; it is dropped.", scope["path"], _WRITE)
            except (FetchFailed, Unavailable, FileNotFoundError) as error:
                log.warning("The bytes of %s break off: %s", scope["path"], error)


def _attentive(receive: Receive, send: Send) -> tuple[Receive, Send]:
    """The same two, with an end to sending for a client that has left, or has stopped reading for long.

    The response is cancelled when its client leaves, but anyio spares a task whose wait is just over, and where bytes
    come without a pause that is so whenever it looks; and what is sent to nobody is taken without a word.
    """
    left = False

    async def receiving() -> Message:
        nonlocal left
        message = await receive()
        left = message["type"] == "http.disconnect"
        return message

    async def sending(message: Message) -> None:
        if left:
            raise ClientDisconnect
        async with asyncio.timeout(_WRITE):
            await send(message)

    return receiving, sending
