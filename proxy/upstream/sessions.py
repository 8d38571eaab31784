"""aiohttp sessions for all outgoing requests: user agent, header limits, connections, request bodies.

By default aiohttp rejects some answers that are readable. `session` raises its header limits. `Connector` keeps the
bytes before an error in an answer's framing. `Body` limits the time without progress while a request is sent, not the
total time.
"""

import asyncio
import socket
from collections.abc import Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, cast

from aiohttp import (
    AddrInfoType,
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientHttpProxyError,
    ClientPayloadError,
    ClientProxyConnectionError,
    ClientRequest,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    FormData,
    TCPConnector,
)
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.payload import Payload
from aiohttp.streams import StreamReader


def _user_agent() -> str:
    try:
        return f"Pollcast/{version('pollcast')}"
    except PackageNotFoundError:
        return "Pollcast"  # a checkout without an installed distribution


USER_AGENT: Final = _user_agent()
"""User-Agent of every outgoing request."""
_FIELD_LIMIT: Final = 65 << 10
"""Maximum size of a header line, in bytes: a value of 64 KiB and its name."""
_FIELD_COUNT_LIMIT: Final = 1000
"""Maximum number of header fields of an answer."""
HEADER_LIMITS: Final[Mapping[str, Any]] = {
    "max_line_size": _FIELD_LIMIT,
    "max_field_size": _FIELD_LIMIT,
    "max_headers": _FIELD_COUNT_LIMIT,
}
"""Session options for large headers, because gateways and CDNs add more than aiohttp accepts by default."""
_CHUNK_SIZE: Final = 16 << 10
"""Bytes of a request body that are written at once, and the maximum buffered in this process."""
_UNSENT_LIMIT: Final = 64 << 10
"""Maximum unsent bytes in the kernel. With a larger buffer, a slow line would look like no progress."""
_KEEP_ALIVE_SECONDS: Final = 60
"""Idle seconds before the first TCP keep-alive probe, because gateways drop idle connections."""


def session(connector: TCPConnector, timeout: ClientTimeout, **options: Any) -> ClientSession:
    """Create a session without cookies and without a proxy from the environment.

    Never put a credential into its default headers, because they are also sent to a proxy.
    """
    return ClientSession(
        connector=connector,
        timeout=timeout,
        cookie_jar=DummyCookieJar(),
        **HEADER_LIMITS,
        **{**options, "headers": {"User-Agent": USER_AGENT, **options.get("headers", {})}},
    )


class Connector(TCPConnector):
    """Opens connections within `timeout` seconds, and accepts answers with broken framing."""

    def __init__(self, timeout: float, **options: Any) -> None:
        super().__init__(socket_factory=_open_socket, **options)
        self._connect_timeout = timeout
        handler: type[ResponseHandler] = _Protocol
        self._factory = partial(handler, loop=self._loop)

    async def _create_connection(self, req: ClientRequest, traces: Any, timeout: ClientTimeout) -> ResponseHandler:  # noqa: ASYNC109
        # aiohttp has no timeout for a DNS lookup, nor for a silent proxy.
        async with asyncio.timeout(self._connect_timeout):
            return await super()._create_connection(req, traces, timeout)


class _Protocol(ResponseHandler):
    """Delivers the bytes before an error in an answer's framing. aiohttp drops them or waits forever.

    Seen in aiohttp 3.14: the parser returns a header block only if the rest of its packet is valid, and it does not
    report an error in a later packet to the reader of the body.
    """

    def data_received(self, data: bytes) -> None:
        """Parse a header block by itself, then the bytes after it."""
        end = data.find(b"\r\n\r\n") + 4 if self._begins() else 0
        if 4 <= end < len(data):
            super().data_received(data[:end])
            self.data_received(data[end:])
            return
        super().data_received(data)
        if self._exception is not None:
            self._break_off(data)

    def _begins(self) -> bool:
        """Return whether the next bytes belong to a header block."""
        return self._payload is None or self._payload.is_eof()

    def _break_off(self, data: bytes) -> None:
        body = self._payload
        if not isinstance(body, StreamReader) or body.is_eof() or body.exception() is not None:
            return
        if not body.total_bytes:  # declared as chunked, but it is not: these bytes are the body
            body.feed_data(data)
        body.set_exception(ClientPayloadError("The answer's framing is broken."))


def _open_socket(address: AddrInfoType) -> socket.socket:
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE_SECONDS)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_LIMIT)
    return made


class Body(Payload):
    """A request body without a total timeout. The request fails after `silence` seconds without progress.

    aiohttp has timeouts for reading only. The TimeoutError raised here ends the request.
    """

    def __init__(self, content: bytes | FormData | Payload, silence: float) -> None:
        value = content() if isinstance(content, FormData) else content
        super().__init__(value, headers=value.headers if isinstance(value, Payload) else None)
        self._size = value.size if isinstance(value, Payload) else len(value)
        self._silence = silence

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        text: str = self._value.decode(encoding, errors)
        return text

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the whole body."""
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write the body in small chunks, each within `silence` seconds."""
        if writer.transport is not None:
            writer.transport.set_write_buffer_limits(high=_CHUNK_SIZE)
        pieces = _ChunkWriter(writer, self._silence)
        if isinstance(self._value, Payload):
            await self._value.write_with_length(cast("AbstractStreamWriter", pieces), content_length)
        else:
            await pieces.write(self._value)


class _ChunkWriter:
    """A writer that waits after each chunk until the buffer has room for the next one."""

    def __init__(self, writer: Any, silence: float) -> None:
        self._writer = writer
        self._silence = silence

    async def write(self, chunk: bytes, **_: Any) -> None:
        for begin in range(0, len(chunk), _CHUNK_SIZE):
            async with asyncio.timeout(self._silence):
                await self._writer.write(memoryview(chunk)[begin : begin + _CHUNK_SIZE], LIMIT=0)


def failure_reason(error: Exception) -> str:
    """Return why a request failed or its answer broke off, as a clause about the peer, `it`."""
    match error:
        case ClientConnectorDNSError():
            return "its name cannot be looked up"
        case ClientConnectorCertificateError():
            return "its certificate cannot be trusted"
        case ClientProxyConnectionError():
            return "its proxy takes no connection"
        case ClientHttpProxyError():
            return f"its proxy refuses to connect to it (HTTP {error.status})"
        case TimeoutError():
            return "it does not answer in time"
        case ClientConnectorError():
            return "it takes no connection"
        case ClientResponseError():
            return "its answer cannot be read"
        case _:
            return "the connection ended too early"
