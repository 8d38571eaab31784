"""Delivers bytes to clients: outputs and assets, with byte ranges, and headers that stop browsers from running them."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
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
"""Headers of all delivered bytes: a page or script among them must not run with this server's origin."""
_CACHE_CONTROL: Final = "private, no-transform"
_UNKNOWN_TYPES: Final = frozenset({"", UNKNOWN, "binary/octet-stream"})
"""Content types that servers send when they do not know the type. The last one is Amazon S3's."""
_TEXT_TYPES: Final = frozenset({"application/json", "text/html"})
"""Content types of an error message from a provider or a gateway. Some send it with status 200."""
_MEDIA_KINDS: Final = frozenset({Kind.VIDEO, Kind.IMAGE, Kind.AUDIO})
_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)
_EXPIRED_STATUSES: Final = frozenset({401, 403, 404, 410})
"""Statuses with which providers answer for an expired URL."""


class SourceGone(UpstreamFailed):
    """A provider's URL that cannot be opened. It may have expired, so the provider can be asked for a new one."""


def redirect(url: str) -> Response:
    """Return a redirect to a provider's public URL, which must not be cached."""
    return RedirectResponse(
        url, status_code=302, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    )


@dataclass(frozen=True, slots=True)
class StoredFiles:
    """Delivers stored blobs.

    `write_timeout` is the maximum time that one write waits for a client that does not read, in seconds.
    """

    blobs: Blobs
    write_timeout: float

    async def deliver(self, request: Request, blob: str, name: str, media_type: str) -> Response:
        """Return a response with a blob, or with the one range that was requested.

        Raises NotFound and RangeNotSatisfiable.
        """
        try:
            size = await self.blobs.size(blob)
        except FileNotFoundError:
            raise NotFound("The content no longer exists.") from None
        etag = f'"{name}-{size}"'
        if _is_current(request, etag):
            return Response(status_code=304, headers={"ETag": etag, "Cache-Control": _CACHE_CONTROL})
        headers = _headers(name, media_type) | {"ETag": etag, "Accept-Ranges": "bytes"}
        start, end, status = 0, size, 200
        if _wants_range(request, etag):
            span = byte_range(request.headers["Range"], size)
            if span is not None:
                start, end = span
                status = 206
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        headers["Content-Length"] = str(end - start)
        body = self.blobs.stream(blob, start, end)
        return _BytesResponse(status, headers, body, AsyncExitStack(), self.write_timeout)


@dataclass(frozen=True, slots=True)
class RelayedFiles:
    """Delivers providers' files through this server.

    `write_timeout` is the maximum time that one write waits for a client that does not read, in seconds.
    """

    fetcher: Fetcher
    write_timeout: float

    async def deliver(
        self, request: Request, provider: Provider, source: Source, *, name: str, media_type: str = UNKNOWN
    ) -> Response:
        """Return a response with the bytes of the source.

        The provider's key is sent if the source needs it, and the client's range is passed on. `media_type` is used
        if the provider does not name a type. Raises UpstreamFailed (SourceGone if the URL may have expired),
        UpstreamUnreachable and RangeNotSatisfiable.
        """
        async with AsyncExitStack() as stack:
            try:
                remote = await _open(stack, request, self.fetcher, provider, source)
            except FetchFailed as error:
                raise UpstreamUnreachable(f"The provider's file cannot be read now: {error}") from None
            except NotPublic:
                message = "The provider's file is at an address that is not public, so it is not read."
                raise UpstreamFailed(message) from None
            _check(remote, request, media_type)
            if remote.status == 304:
                headers = _headers_of(remote, "ETag", "Last-Modified") | {"Cache-Control": _CACHE_CONTROL}
                return Response(status_code=304, headers=headers)
            headers = _relayed_headers(remote, name, media_type)
            return _BytesResponse(remote.status, headers, remote.pieces(), stack.pop_all(), self.write_timeout)
        raise AssertionError("an exit stack suppresses no exception")


def _headers(name: str, media_type: str) -> dict[str, str]:
    shown = served_type(media_type)
    disposition = "attachment" if shown == UNKNOWN else "inline"
    return _SANDBOX | {
        "Content-Type": shown,
        "Content-Disposition": f'{disposition}; filename="{name}{extension(shown)}"',
        "Cache-Control": _CACHE_CONTROL,
    }


# --- conditions and ranges ---


def _is_current(request: Request, etag: str) -> bool:
    """Return whether the client has these bytes already, by weak comparison (RFC 9110, section 13.1.2)."""
    held = [tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")]
    return etag in held or held == ["*"]


def _wants_range(request: Request, etag: str) -> bool:
    # RFC 9110, section 14.2: ranges are defined for GET only.
    return request.method == "GET" and "Range" in request.headers and request.headers.get("If-Range", etag) == etag


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """Return a single byte range as (start, end), or None for a range that RFC 9110 lets a server ignore.

    Raises RangeNotSatisfiable if the range is outside the content.
    """
    match = _match_range(header)
    if match is None:
        return None
    first, last = match[1], match[2]
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= size or end <= start:
        raise RangeNotSatisfiable(
            f"The range {header!r} is outside the content of {size} bytes.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end


def _match_range(header: str) -> re.Match[str] | None:
    """Match a single byte range, of which either the first or the last byte may be missing."""
    match = _RANGE.fullmatch(header.replace(" ", ""))
    return match if match and (match[1] or match[2]) else None


# --- a provider's bytes ---


async def _open(
    stack: AsyncExitStack, request: Request, fetcher: Fetcher, provider: Provider, source: Source
) -> Remote:
    own = provider.upstream.origin if source.needs_key else provider.upstream.without_credential

    async def ask(method: str, headers: Mapping[str, str]) -> Remote:
        await stack.aclose()
        return await stack.enter_async_context(fetcher.open(source.url, method=method, headers=headers, own=own))

    headers = _forwarded_headers(request)
    remote = await ask(request.method, headers)
    if request.method == "HEAD" and remote.status >= 400:
        # Signed URLs are often valid for GET only.
        remote = await ask("GET", headers)
    if remote.status == 206 and remote.is_compressed:
        # Part of a compressed body cannot be decompressed, so request the whole.
        remote = await ask(request.method, {})
    return remote


def _forwarded_headers(request: Request) -> dict[str, str]:
    """Return the client's headers that are sent on to the provider: conditions, and a single range."""
    names = ["If-None-Match", "If-Modified-Since"]
    # Several ranges would return as a multipart body, which this server does not read.
    if request.method == "GET" and _match_range(request.headers.get("Range", "")):
        names += ["Range", "If-Range"]
    return {name: request.headers[name] for name in names if name in request.headers}


def _check(remote: Remote, request: Request, media_type: str) -> None:
    """Raise unless the response answers the client's request and its type is plausible for `media_type`."""
    status = remote.status
    if status == 416 and "Range" in request.headers:
        raise RangeNotSatisfiable("The range is outside the content.", headers=_headers_of(remote, "Content-Range"))
    conditional = "If-None-Match" in request.headers or "If-Modified-Since" in request.headers
    partial = "Range" in request.headers and bool(_headers_of(remote, "Content-Range"))
    if status == 200 or (status == 206 and partial) or (status == 304 and conditional):
        if status != 304 and _type_of(remote) in _TEXT_TYPES and kind_of(media_type) in _MEDIA_KINDS:
            raise UpstreamFailed(f"The provider sent {_type_of(remote)} instead of its file.")
        return
    kind = SourceGone if status in _EXPIRED_STATUSES else UpstreamFailed
    raise kind(f"The provider answered {status} when its file was read.")


def _relayed_headers(remote: Remote, name: str, media_type: str) -> dict[str, str]:
    sent_type = _type_of(remote)
    headers = _headers(name, media_type if sent_type in _UNKNOWN_TYPES else sent_type)
    headers |= _headers_of(remote, "Last-Modified")
    # A compressed body is decompressed here, so its length, tag and ranges do not fit the delivered bytes.
    if not remote.is_compressed:
        headers |= _headers_of(remote, "Content-Length", "ETag", "Accept-Ranges")
    return headers | (_headers_of(remote, "Content-Range") if remote.status == 206 else {})


def _type_of(remote: Remote) -> str:
    """Return the response's content type in lower case, without parameters."""
    return remote.headers.get("Content-Type", "").split(";")[0].strip().lower()


def _headers_of(remote: Remote, *names: str) -> dict[str, str]:
    """Return the response's headers of these names, if they are printable ASCII.

    HTTP allows other bytes only in an ETag, with no defined encoding, so a client could not send them back.
    """
    found = {name: remote.headers.get(name, "") for name in names}
    return {name: value for name, value in found.items() if value and value.isascii() and value.isprintable()}


# --- the response ---


class _BytesResponse(StreamingResponse):
    """A response that always closes the source of its bytes, also when the client disconnects.

    If the source fails, the connection is cut, so that the client does not take its part for the whole.
    """

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: AsyncGenerator[bytes],
        resources: AsyncExitStack,
        write_timeout: float,
    ) -> None:
        super().__init__(body, status, headers)
        resources.push_async_exit(aclosing(body))
        self._resources = resources
        self._write_timeout = write_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._resources:
            if scope["method"] == "HEAD":
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": b""})
                return
            try:
                await super().__call__(scope, *self._watch(receive, send))
            except ClientDisconnect:
                pass
            except TimeoutError:
                # Abort: a close would wait for the client to read the buffered bytes.
                if (connection := scope.get("state", {}).get("connection")) is not None:
                    connection.abort()
                message = "Connection closed: the client of %s did not read for %g seconds."
                log.info(message, scope["path"], self._write_timeout)
            except (FetchFailed, Unavailable, FileNotFoundError) as error:
                log.warning("Response of %s cut off: %s", scope["path"], error)

    def _watch(self, receive: Receive, send: Send) -> tuple[Receive, Send]:
        """Return the two functions with a `send` that raises for a client that disconnected or does not read.

        Starlette cancels the response when its client disconnects. But anyio does not cancel a task whose wait has
        just ended, and with bytes that arrive without a pause that is always so. The server accepts bytes for a
        closed connection without an error.
        """
        has_left = False

        async def watch_receive() -> Message:
            nonlocal has_left
            message = await receive()
            has_left = message["type"] == "http.disconnect"
            return message

        async def watch_send(message: Message) -> None:
            if has_left:
                raise ClientDisconnect
            async with asyncio.timeout(self._write_timeout):
                await send(message)

        return watch_receive, watch_send
