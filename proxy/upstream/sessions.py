"""HTTP client sessions for every outgoing request: user agent, header limits, connections, request bodies.

aiohttp gives up on answers that can still be read. `session` raises its limits for headers, and `Connector` keeps what
came before a fault in an answer's framing. `Body` bounds the silence of a request that is being sent, not its time.
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
        return "Pollcast"  # a checkout that was not installed


USER_AGENT: Final = _user_agent()
"""What every outgoing request calls itself."""
_FIELD_LIMIT: Final = 65 << 10
"""Bytes of one header line that are read: a value of 64 KiB, and its name."""
_FIELD_COUNT_LIMIT: Final = 1000
"""Header fields of one answer that are read."""
HEADER_LIMITS: Final[Mapping[str, Any]] = {
    "max_line_size": _FIELD_LIMIT,
    "max_field_size": _FIELD_LIMIT,
    "max_headers": _FIELD_COUNT_LIMIT,
}
"""The options of a session that reads large heads: gateways and CDNs add what aiohttp refuses by default."""
_PIECE_SIZE: Final = 16 << 10
"""Bytes of a request body that are written at once, and the most that waits in this process."""
_UNSENT_LIMIT: Final = 64 << 10
"""Bytes that wait in the kernel to be sent. With more of them, a slow line would look like no progress at all."""
_KEEP_ALIVE: Final = 60
"""Seconds of silence after which a connection is shown to be in use: gateways forget those that are not."""


def session(connector: TCPConnector, timeout: ClientTimeout, **options: Any) -> ClientSession:
    """Make a session without cookies, and without a proxy from the environment.

    Its default headers are sent to a proxy as well, so that a credential must not be one of them.
    """
    return ClientSession(
        connector=connector,
        timeout=timeout,
        cookie_jar=DummyCookieJar(),
        **HEADER_LIMITS,
        **{**options, "headers": {"User-Agent": USER_AGENT, **options.get("headers", {})}},
    )


class Connector(TCPConnector):
    """Makes connections whose answers may be badly framed; each is made within a time, however it is made."""

    def __init__(self, timeout: float, **options: Any) -> None:
        super().__init__(socket_factory=_made_socket, **options)
        self._connect_timeout = timeout
        handler: type[ResponseHandler] = _Protocol
        self._factory = partial(handler, loop=self._loop)

    async def _create_connection(self, req: ClientRequest, traces: Any, timeout: ClientTimeout) -> ResponseHandler:  # noqa: ASYNC109
        # aiohttp has no limit of its own for a look-up, nor for a proxy that is silent.
        async with asyncio.timeout(self._connect_timeout):
            return await super()._create_connection(req, traces, timeout)


class _Protocol(ResponseHandler):
    """Delivers what an answer held before its framing broke; aiohttp drops it, or waits for the rest forever.

    Seen in aiohttp 3.14: its parser returns a head only together with the rest of the same packet, if that is sound,
    and a fault in a later packet is not reported to the reader of the body.
    """

    def data_received(self, data: bytes) -> None:
        """Parse a head by itself, then what follows it."""
        end = data.find(b"\r\n\r\n") + 4 if self._begins() else 0
        if 4 <= end < len(data):
            super().data_received(data[:end])
            self.data_received(data[end:])
            return
        super().data_received(data)
        if self._exception is not None:
            self._break_off(data)

    def _begins(self) -> bool:
        """Whether the next bytes belong to a head."""
        return self._payload is None or self._payload.is_eof()

    def _break_off(self, data: bytes) -> None:
        body = self._payload
        if not isinstance(body, StreamReader) or body.is_eof() or body.exception() is not None:
            return
        if not body.total_bytes:  # said to be chunked, but it is not: these bytes are the body
            body.feed_data(data)
        body.set_exception(ClientPayloadError("The answer's framing is broken."))


def _made_socket(address: AddrInfoType) -> socket.socket:
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_LIMIT)
    return made


class Body(Payload):
    """A request body that may take any time to send; the request fails once nothing of it leaves for `silence` seconds.

    aiohttp bounds only the reading. What is raised here ends the request with a TimeoutError.
    """

    def __init__(self, content: bytes | FormData | Payload, silence: float) -> None:
        value = content() if isinstance(content, FormData) else content
        super().__init__(value, headers=value.headers if isinstance(value, Payload) else None)
        self._size = value.size if isinstance(value, Payload) else len(value)
        self._silence = silence

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        text: str = self._value.decode(encoding, errors)
        return text

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send it all."""
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Send it in small pieces, each within the time."""
        if writer.transport is not None:
            writer.transport.set_write_buffer_limits(high=_PIECE_SIZE)
        pieces = _Pieces(writer, self._silence)
        if isinstance(self._value, Payload):
            await self._value.write_with_length(cast("AbstractStreamWriter", pieces), content_length)
        else:
            await pieces.write(self._value)


class _Pieces:
    """A writer that waits after each small piece until there is room for the next one."""

    def __init__(self, writer: Any, silence: float) -> None:
        self._writer = writer
        self._silence = silence

    async def write(self, chunk: bytes, **_: Any) -> None:
        for begin in range(0, len(chunk), _PIECE_SIZE):
            async with asyncio.timeout(self._silence):
                await self._writer.write(memoryview(chunk)[begin : begin + _PIECE_SIZE], LIMIT=0)


def why(error: Exception) -> str:
    """Why a request failed or its answer broke off, for people: a clause about the other side, `it`."""
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
