"""Bytes out and in: a job's content, a client's assets, with ranges, and with headers that let nothing run."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from proxy.blobs import Blobs
from proxy.errors import NotFound, RangeNotSatisfiable, UpstreamFailed, UpstreamUnreachable
from proxy.fetch import Fetcher, FetchFailed, NotPublic
from proxy.media_types import UNKNOWN, extension, served
from proxy.providers.base import Provider, Source

_SANDBOX: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Referrer-Policy": "no-referrer",
}
_RELAYED: Final = ("Content-Length", "Content-Range", "ETag", "Last-Modified")
_ASKED: Final = ("Range", "If-Range")


def _headers(name: str, media_type: str) -> dict[str, str]:
    shown = served(media_type)
    disposition = "attachment" if shown == UNKNOWN else "inline"
    return _SANDBOX | {
        "Content-Type": shown,
        "Content-Disposition": f'{disposition}; filename="{name}{extension(shown)}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-transform",
    }


def redirect(url: str) -> Response:
    """Send the client to a provider's public URL, afresh each time."""
    return RedirectResponse(
        url, status_code=302, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    )


async def stored(request: Request, blobs: Blobs, blob: str, name: str, media_type: str) -> Response:
    """Bytes of our own storage, whole or the one range that was asked for. Raises RangeNotSatisfiable."""
    try:
        size = await blobs.size(blob)
    except FileNotFoundError:
        raise NotFound("These bytes are gone.") from None
    etag = f'"{name}-{size}"'
    headers = _headers(name, media_type) | {"ETag": etag}
    start, end, status = 0, size, 200
    if _wants_range(request, etag):
        span = byte_range(request.headers["Range"], size)
        if span is not None:
            start, end = span
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(blobs.stream(blob, start, end), status, headers)


def _wants_range(request: Request, etag: str) -> bool:
    # RFC 9110, section 14.2: a range is for GET alone.
    return request.method == "GET" and "Range" in request.headers and request.headers.get("If-Range", etag) == etag


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """The span (start, end) of a single byte range; None for what RFC 9110 lets a server ignore.

    Raises RangeNotSatisfiable when it lies outside.
    """
    match = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", header.replace(" ", ""))
    if match is None or match[0] == "bytes=-":
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


async def relayed(
    request: Request, fetcher: Fetcher, provider: Provider, source: Source, *, name: str, media_type: str = UNKNOWN
) -> Response:
    """A provider's bytes, through us: with its key where that is demanded, and the client's range passed on.

    `media_type` is what they are served as where the provider does not tell. Raises UpstreamFailed and
    UpstreamUnreachable (502), and RangeNotSatisfiable.
    """
    asked = {name: request.headers[name] for name in _ASKED if name in request.headers and request.method == "GET"}
    own = provider.upstream.own if source.keyed else provider.upstream.own_address
    held = AsyncExitStack()
    try:
        answer = await held.enter_async_context(fetcher.open(source.url, method=request.method, headers=asked, own=own))
    except FetchFailed as error:
        raise UpstreamUnreachable(f"The provider's file cannot be read now: {error}") from None
    except NotPublic:
        raise UpstreamFailed("The provider's file is at an address that is not public; it is not fetched.") from None
    if answer.status not in {200, 206}:
        await held.aclose()
        _refuse(answer.status, answer.headers)
    told = answer.headers.get("Content-Type", UNKNOWN)
    headers = _headers(name, media_type if told == UNKNOWN else told)
    # Compressed unasked, the body is read unpacked: the length of the packed one would be wrong.
    passed = [name for name in _RELAYED if "Content-Encoding" not in answer.headers or name != "Content-Length"]
    headers |= {name: answer.headers[name] for name in passed if name in answer.headers}
    return _Relay(answer.status, headers, answer.content.iter_chunked(1 << 16), held)


def _refuse(status: int, headers: Mapping[str, str]) -> None:
    if status == 416:
        span = headers.get("Content-Range", "bytes */*")
        raise RangeNotSatisfiable("The range lies outside the content.", headers={"Content-Range": span})
    raise UpstreamFailed(f"The provider answered {status} when its file was read.")


class _Relay(StreamingResponse):
    """A streaming response that lets go of the provider's answer, whatever becomes of the client."""

    def __init__(
        self, status: int, headers: Mapping[str, str], body: AsyncIterator[bytes], held: AsyncExitStack
    ) -> None:
        super().__init__(body, status, headers)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            if scope["method"] == "HEAD":
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await send({"type": "http.response.body", "body": b""})
            else:
                await super().__call__(scope, receive, send)
